"""The child of test_store_kill: forks a worker for each line "job number" on stdin; the worker says what was acknowledged until it is killed."""
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402

from minimem.text.store import SQLite  # noqa: E402
from minimem.text.unit import Unit  # noqa: E402


class Lengths:
    """An embedder for a child that must start quickly."""
    name, dim = "lengths", 8

    def __call__(self, texts):
        x = np.array([[len(t) + i for i in range(8)] for t in texts], np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True)


def unit(i):
    """The unit of number i, all of it told by i: every third is long enough for pages of its own, every fifth has more than one source."""
    text = f"cat word{i}x " + f"{'long' * 150}{i}x " * (8 if i % 3 == 0 else 1)
    return Unit(f"D{i}", text, source_ids=(f"D{i}", f"T{i}") if i % 5 == 0 else (), time=float(i), meta={"n": i})


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())                # one write: a line is there whole or not at all


def work(path, job, i):
    store = SQLite(path, "ada", Lengths())
    say("pid", os.getpid())
    while True:
        if job == "write":
            store.write(unit(i))
            say(i)
            store.write_all(unit(i + j) for j in (1, 2, 3))
            say(i + 3)
            i += 4
        if job == "purge":
            store.delete([f"D{i}"])
            say("deleted", i)
            store.purge()
            say("purged", i)
            i += 1


if __name__ == "__main__":
    for line in sys.stdin:
        job, start = line.split()
        if pid := os.fork():
            say("died", os.waitpid(pid, 0)[1])
        else:
            work(sys.argv[1], job, int(start))
