"""FoPE against RoPE and ALiBi past the trained length, and the half of it that only drops slow frequencies.

Model, lessons and measures are those of ``extrapolation.py``, with half of its steps: two layers, D = 64, four heads, so that 5 of 8 frequencies do not turn
once in the 64 characters trained on. "RoPE, slow pairs still" drops these frequencies and mixes nothing. The rate is the one that RoPE was calibrated
with there, the gain, 0.3, that of the released code: nothing was tuned for FoPE.
Fixed before the run: FoPE's sliding loss rises less than RoPE's from 64 to 256 characters on every seed, and over 90 and 120 of 128
characters it recalls at least as much on average.

    python benchmarks/trained/fope.py [--seeds 3]
"""
import argparse
from functools import partial

import extrapolation as harness
import torch
from extrapolation import HEADS, MLP, RATE, TRAINED, D
from record import record

from minimem.lm import fit, small
from minimem.position import alibi, fope, rope
from minimem.tasks import planted

STEPS, LENGTHS = 500, (64, 128, 256)
ASKED = {64: (32, 60), 128: (32, 90, 120), 256: (32, 120, 250)}                # length: distances
theta = rope.frequencies(D // HEADS)
still = partial(rope.rotate_halves, theta=theta.where(theta >= fope.frequencies(D // HEADS, TRAINED)[-1], 0.0))
ARMS = {
    "RoPE": lambda: harness.layers(rotate=lambda: rope.rotate_halves),
    "RoPE, slow pairs still": lambda: harness.layers(rotate=lambda: still),
    "FoPE": lambda: harness.layers(rotate=partial(fope.FoPE, D // HEADS, TRAINED, HEADS)),
    "ALiBi": lambda: harness.layers(bias=lambda: alibi.bias),
}


def trained(arm, seed):
    torch.manual_seed(seed)
    model = small(planted.VOCAB, D, ARMS[arm](), mlp=MLP)
    fit(model, lambda i: planted.lessons(TRAINED, harness.BATCH, 10 ** 6 * seed + i), STEPS, RATE)
    return model


def measured(model):
    return {"sliding": [round(harness.sliding(model, L).mean().item(), 3) for L in LENGTHS],
            "apart": [round(harness.apart(model, L).mean().item(), 3) for L in LENGTHS],
            "recall": {f"{d} of {T}": round(harness.recall(model, T, d), 3) for T, distances in ASKED.items() for d in distances}}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    seeds = list(range(parser.parse_args().seeds))
    rows = {arm: [] for arm in ARMS}
    for seed in seeds:
        for arm in ARMS:
            rows[arm].append(measured(trained(arm, seed)))
            print(f"{arm}, seed {seed}: {rows[arm][-1]}", flush=True)
    record("fope", {"lengths": LENGTHS, "trained on": TRAINED, "steps": STEPS, "rows": rows}, seeds)


if __name__ == "__main__":
    main()
