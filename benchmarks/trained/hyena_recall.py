"""Associative recall by Hyena, by S4D and by attention: two layers of one of them and nothing else, 16 pairs among 32 tokens, 10 keys and 10 values.

Fixed before the run, from calibration on seed 101: D = 64, batches of 64, AdamW at .004 with a one-cycle rate; 1500 steps for Hyena and S4D,
500 for attention, which needs no more. What counts: share of right values of 512 fresh sequences; Hyena above .9 and S4D below .65 on every seed.

    python benchmarks/trained/hyena_recall.py [--seeds 3]
"""
import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from record import record

from minimem import core
from minimem.cache import full
from minimem.lm import accuracy, fit, small
from minimem.state import hyena, s4
from minimem.tasks.associative import associative

T, VOCAB, D = 32, 20, 64
ARMS = {"Hyena": (lambda: hyena.Layer(D, longest=T), 1500), "S4D": (lambda: s4.Layer(D), 1500), "attention": (lambda: full.Layer(D), 500)}


def trained(arm, seed):
    """Accuracy, and the bytes kept after T tokens."""
    layer, steps = ARMS[arm]
    torch.manual_seed(seed)
    model = small(VOCAB, D, [layer(), layer()])

    def say(step, loss):
        if (step + 1) % 250 == 0:
            print(f"{arm}, seed {seed}, step {step + 1}: loss {loss:.3f}", flush=True)
    fit(model, lambda i: associative(T, VOCAB, seed=10 ** 5 * (seed + 1) + i), steps, 4e-3, say=say)
    tokens, targets = associative(T, VOCAB, batch=512, seed=10 ** 5 * (seed + 1) - 1)
    return round(accuracy(model, tokens, targets), 3), core.nbytes(model(tokens[:1])[1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    seeds = list(range(parser.parse_args().seeds))
    torch.set_num_threads(1)
    rows = {}
    for arm, (_, steps) in ARMS.items():
        right, kept = zip(*(trained(arm, seed) for seed in seeds))
        rows[arm] = {"accuracy": right, "bytes": kept[0], "steps": steps}
        print(arm, rows[arm], flush=True)
    record("hyena_recall", {"arms": rows, "T": T, "vocab": VOCAB, "D": D, "layers": 2}, seeds)


if __name__ == "__main__":
    main()
