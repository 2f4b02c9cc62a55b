"""Kill a writer of the SQLite store 100 times for each of 3 seeds, and count what it had acknowledged and is not there.

OMP_NUM_THREADS=1 python benchmarks/store_kills.py

Fixed before the run: writes of one unit and of three, taking turns; SIGKILL 0 to 60 ms after the writer began; after each kill the file is opened
again and checked (pages, full text against the texts, a vector for each unit), every unit is compared with what was written, and writing goes on.
A first run, with 0 to 20 ms, lost nothing either; it was made longer because a busy machine had come to its first write or second by then.
"""
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import record

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from store_child import Lengths, unit  # noqa: E402

from minimem.text.store import SQLite  # noqa: E402

SEEDS, KILLS = (0, 1, 2), 100


def run(seed):
    """Counts over KILLS kills: writes and units acknowledged, units lost, and what became of the write that was under way."""
    r, n = random.Random(seed), 0
    count = dict.fromkeys(("acknowledged writes", "acknowledged units", "acknowledged units lost",
                           "a write under way, there whole", "a write under way, not there"), 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chat.db"
        parent = subprocess.Popen([sys.executable, TESTS / "store_child.py", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(KILLS):
            parent.stdin.write(f"write {n}\n")
            parent.stdin.flush()
            pid = int(parent.stdout.readline().split()[1])
            time.sleep(r.uniform(0, 0.06))
            os.kill(pid, signal.SIGKILL)
            said = []
            while not (line := parent.stdout.readline()).startswith("died"):
                said.append(int(line) + 1)
            kept = max(said, default=n)
            with SQLite(path, "ada", Lengths()) as store:
                store.check()
                there = list(store.units())
            if there != [unit(i) for i in range(len(there))] or len(there) > kept and len(there) != kept + (3 if len(said) % 2 else 1):
                raise SystemExit(f"seed {seed}: what is there is not what was written: {len(there)} units, {kept} acknowledged")
            count["acknowledged writes"] += len(said)
            count["acknowledged units"] += kept - n
            count["acknowledged units lost"] += max(kept - len(there), 0)
            count["a write under way, there whole" if len(there) > kept else "a write under way, not there"] += 1
            n = len(there)
        parent.stdin.close()
        parent.wait()
    print(seed, count, flush=True)
    return count


if __name__ == "__main__":
    counts = [run(seed) for seed in SEEDS]
    record("store_kills", {"on": f"SQLite with full text and vectors, {KILLS} SIGKILLs for each seed, 0 to 60 ms after the writer began",
                           "kills": KILLS * len(SEEDS), **{k: sum(c[k] for c in counts) for k in counts[0]}, "by seed": counts}, seeds=list(SEEDS), packages=("minimem", "numpy"))
