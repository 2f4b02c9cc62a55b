"""Recall past the trained length: 4 facts amid noise, trained on 64 tokens, asked on 64 to 512.

Fixed before the run, from calibration on seeds 101 and 102: two layers, D = 48, AdamW with a one-cycle rate, batches of 32; 600 steps at .004, and
1500 at .002 for the attention without convolution, which has to build one of its positions and needs an MLP and more steps for it.
Learned positions are drawn with deviation .02, as in GPT-2. The states have one head, 16 by 48, and a short convolution.
What counts: GLA loses at most 5 points of 100 from 64 to 512 tokens on every seed, attention with learned positions at least 15.

    python benchmarks/trained/length.py [--seeds 3]
"""
import argparse
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from record import record

from minimem.cache import full
from minimem.lm import accuracy, fit, small
from minimem.state import gla, linear, retnet
from minimem.tasks.scattered import scattered

D, PAIRS, LENGTHS = 48, 4, (64, 128, 256, 512)
STATE = {"heads": 1, "K": 16, "V": 48, "conv": 4}
ARMS = {                                                           # mixer, width of an MLP, positions, steps, rate
    "GLA: learned forgetting": (lambda: gla.Layer(D, **STATE), 0, 0, 600, 4e-3),
    "RetNet: fixed forgetting": (lambda: retnet.Layer(D, **STATE), 0, 0, 600, 4e-3),
    "linear attention: no forgetting": (lambda: linear.Layer(D, normed=True, **STATE), 0, 0, 600, 4e-3),
    "attention, learned positions": (lambda: full.Layer(D, 4), 96, LENGTHS[-1], 1500, 2e-3),
    "attention, learned positions, convolution": (lambda: full.Layer(D, 4, conv=4), 0, LENGTHS[-1], 600, 4e-3),
}


def trained(arm, seed):
    """Accuracy at every length."""
    mixer, mlp, positions, steps, lr = ARMS[arm]
    torch.manual_seed(seed)
    model = small(8 + 2 * 16, D, [mixer(), mixer()], mlp=mlp, positions=positions)
    if positions:
        nn.init.normal_(model.positions.weight, std=0.02)

    def say(step, loss):
        if (step + 1) % 300 == 0:
            print(f"{arm}, seed {seed}, step {step + 1}: loss {loss:.3f}", flush=True)
    fit(model, lambda i: scattered(PAIRS, LENGTHS[0], seed=10 ** 5 * (seed + 1) + i), steps, lr, say=say)
    return [round(accuracy(model, *scattered(PAIRS, T, batch=128, seed=10 ** 5 * (seed + 1) - 1)), 3) for T in LENGTHS]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    seeds = list(range(parser.parse_args().seeds))
    torch.set_num_threads(1)
    rows = {arm: [trained(arm, seed) for seed in seeds] for arm in ARMS}
    record("length", {"lengths": LENGTHS, "pairs": PAIRS, "accuracy": rows, "steps": {arm: ARMS[arm][3] for arm in ARMS}}, seeds)


if __name__ == "__main__":
    main()
