"""RWKV-4 and RWKV-6, trained: recall of pairs by bytes of state, and forgetting on command with the decay learned or frozen.

python benchmarks/trained/rwkv.py [--seeds 5]          about 11 minutes of one core; the seeds are 0, 1, …

Time mix alone, two blocks for recall and one for the bucket. RWKV-4 has more than three times the steps of RWKV-6 where the width is equal.
"""
import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from record import record  # noqa: E402

from minimem import core  # noqa: E402
from minimem.lm import accuracy, fit, small  # noqa: E402
from minimem.state import rwkv4, rwkv6  # noqa: E402
from minimem.tasks.bucket import bucket  # noqa: E402
from minimem.tasks.mqar import mqar  # noqa: E402

torch.set_num_threads(1)
TESTS = {"recall": [lambda: mqar(8, 32, 64, batch=1000, seed=10 ** 9)],
         "bucket": [lambda: bucket(64, 1000, seed=10 ** 9), lambda: bucket(256, 300, seed=10 ** 9)]}
ARMS = [("recall", "RWKV-4", 48, 0, 1000, 4e-3, 5), ("recall", "RWKV-4, wide", 204, 0, 400, 6e-3, 3),       # task, memory, D, K, steps, rate, seeds
        ("recall", "RWKV-6", 48, 3, 300, 4e-3, 3), ("recall", "RWKV-6", 48, 8, 300, 4e-3, 3), ("recall", "RWKV-6", 48, 16, 300, 4e-3, 5),
        ("recall", "RWKV-6, no bonus", 48, 16, 300, 4e-3, 3),
        ("bucket", "RWKV-6", 32, 16, 400, 1e-2, 5), ("bucket", "RWKV-6, decay frozen", 32, 16, 400, 1e-2, 5),
        ("bucket", "RWKV-6, no bonus", 32, 16, 400, 1e-2, 3), ("bucket", "RWKV-4", 32, 0, 400, 1e-2, 3)]


def made(memory, D, K, task):
    """A model; frozen: the decay is a number per channel, trained but the same for every token; no bonus: u = 0 throughout."""
    blocks = 2 if task == "recall" else 1
    mixers = [rwkv6.Layer(D, K, lora=8, decay_lora=8, layer=i) if K else rwkv4.Layer(D, i) for i in range(blocks)]
    for m in mixers:
        if "frozen" in memory:
            m.decay_down.requires_grad_(False)
        if "no bonus" in memory:
            m.bonus.requires_grad_(False).zero_()
    return small(64 if task == "recall" else 8, D, mixers)


def trained(task, memory, D, K, steps, rate, seed):
    """Accuracy on each test, and bytes of one sequence's state."""
    torch.manual_seed(seed)
    model, started = made(memory, D, K, task), time.process_time()
    def lesson(i):
        return mqar(8, 32, 64, batch=48, seed=10 ** 6 * seed + i) if task == "recall" else bucket(64, 32, seed=10 ** 6 * seed + i)
    losses = fit(model, lesson, steps, rate)
    right = [round(accuracy(model, *test()), 3) for test in TESTS[task]]
    print(f"{task} {memory:22} D {D} K {K} seed {seed}  loss {sum(losses[-20:]) / 20:.3f}  right {right}  "
          f"{time.process_time() - started:.0f} s", flush=True)
    return right, core.nbytes(model(torch.zeros(1, 1, dtype=torch.long))[1])


if __name__ == "__main__":
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("--seeds", type=int, default=5, help="at most so many of each")
    most, rows = read.parse_args().seeds, []
    for task, memory, D, K, steps, rate, seeds in ARMS:
        runs = [trained(task, memory, D, K, steps, rate, s) for s in range(min(most, seeds))]
        rows.append({"task": task, "memory": memory, "D": D, "K": K, "steps": steps, "rate": rate, "bytes": runs[0][1],
                     "right": [r for r, _ in runs]})
    record("rwkv", {"rows": rows, "calibrated on": "seeds 100 to 103, and RWKV-4 on three more rates and with the channel mix"}, range(min(most, 5)))
