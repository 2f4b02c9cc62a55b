"""SIGKILL at any moment: what was acknowledged is there, whole and found; the write under way is there whole or not at all."""
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_child import Lengths, unit

from minimem.text.store import SQLite
from minimem.text.unit import tokens

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


@pytest.fixture
def kill(tmp_path):
    """kill(job, start, lines, delay): what a child doing this job had said when it was killed, delay seconds after so many lines."""
    child = [sys.executable, Path(__file__).with_name("store_child.py"), tmp_path / "chat.db"]
    parent = subprocess.Popen(child, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(job, start, lines, delay):
        parent.stdin.write(f"{job} {start}\n")
        parent.stdin.flush()
        pid = int(parent.stdout.readline().split()[1])
        said = [parent.stdout.readline().strip() for _ in range(lines)]
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        while not (line := parent.stdout.readline()).startswith("died"):
            said.append(line.strip())
        assert line.split() == ["died", str(int(signal.SIGKILL))]
        return said

    yield run
    parent.stdin.close()
    assert parent.wait() == 0


def whole(path, first=0):
    """How many units there are: first, first + 1, …; each whole, found by its word, with its vector, and all in step."""
    with SQLite(path, "ada", Lengths()) as store:
        store.check()                                               # pages, full text against the texts, a vector for each
        there = list(store.units())
        assert there == [unit(i) for i in range(first, first + len(there))]
        terms = {t: n for t, n in store._db.execute("SELECT term, doc FROM temp.term")}
        assert all(terms[t] == 1 for u in there for t in tokens(u.text) if t != "cat") and terms.get("cat", 0) == len(there)
        assert all(store._matches([f"word{i}x"])[0] for i in range(first, first + len(there), 7))
        return len(there)


@pytest.mark.parametrize("seed", [0])
def test_fifty_kills_lose_nothing_that_was_acknowledged(tmp_path, kill, seed):
    r, n, under_way = random.Random(seed), 0, 0
    for _ in range(50):
        said = kill("write", n, r.randrange(4), r.uniform(0, 0.02))
        acknowledged = int(said[-1]) + 1 if said else n
        size = 3 if len(said) % 2 else 1                            # of the write that was under way
        start, n = n, whole(tmp_path / "chat.db")
        assert n in (acknowledged, acknowledged + size), f"{start} units, then {acknowledged} acknowledged, now {n}"
        under_way += n > acknowledged
    assert n > 50 and under_way < 50


@pytest.mark.parametrize("seed", [0])
def test_killed_while_it_purges(tmp_path, kill, seed):
    """What was told to be deleted stays deleted, nothing else goes, and the next purge finishes the work."""
    path, r, first, size = tmp_path / "chat.db", random.Random(seed), 0, 150
    with SQLite(path, "ada", Lengths()) as store:
        store.write_all(map(unit, range(size)))
    for _ in range(12):
        said = kill("purge", first, r.randrange(3), r.uniform(0, 0.06))
        deleted = sum(s.startswith("deleted") for s in said)
        left = size - first
        with SQLite(path, "ada", Lengths()) as store:
            there = [u.meta["n"] for u in store.units()]
        gone = left - len(there)
        assert gone in (deleted, deleted + 1)
        first += gone
        assert whole(path, first) == size - first
        with SQLite(path, "ada", Lengths()) as store:
            store.purge()
            assert store.stats()["deleted"] == 0
            bytes_ = b"".join(f.read_bytes() for f in tmp_path.iterdir())
            assert not any(f"{word}{i}x".encode() in bytes_ for i in range(first) for word in ("word", "long"))
    assert first > 5
