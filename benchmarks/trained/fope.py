"""FoPE taken apart: which of its two changes to RoPE does what, longer than trained.

The model, the lessons and the measures are those of ``extrapolation.py``, which trains RoPE, ALiBi and FoPE as released. Here the same with one half
of it at a time: the slow pairs stand still and nothing is mixed; and with coefficients that are trained along with the model. Nothing was tuned:
rate, steps and gain (0.3) are those of the other arms, so there is nothing to calibrate. Fixed before the run, for both scripts: FoPE's loss rises less
than RoPE's from 64 to 256 characters on every seed, and over 90 and 120 of 128 characters it recalls at least as much.

    python benchmarks/trained/fope.py [--seeds 3]
"""
import argparse
from functools import partial

import extrapolation  # before torch: it sets the number of threads
from extrapolation import HEADS, TRAINED, D
from record import record

from minimem.position import fope, rope


def still():
    """RoPE, but the pairs that FoPE drops do not turn: the text of the paper, without mixtures."""
    theta = rope.frequencies(D // HEADS)
    kept = fope.frequencies(D // HEADS, TRAINED)
    return partial(rope.rotate_halves, theta=theta.where(theta >= kept[-1], 0.0))


def learned():
    return fope.FoPE(D // HEADS, TRAINED, HEADS).requires_grad_()


ARMS = {"slow pairs stand still": lambda: (extrapolation.layers(rotate=still), 0),
        "FoPE, trained coefficients": lambda: (extrapolation.layers(rotate=learned), 0)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    seeds = list(range(parser.parse_args().seeds))
    extrapolation.ARMS.update(ARMS)
    rows = {arm: [] for arm in ARMS}
    for seed in seeds:
        for arm in ARMS:
            rows[arm].append(extrapolation.measured(arm, seed))
            print(f"{arm}, seed {seed}: loss {rows[arm][-1]['sliding']}, recall {rows[arm][-1]['recall']}", flush=True)
    record("fope", {"lengths": extrapolation.LENGTHS, "trained on": TRAINED, "steps": extrapolation.STEPS, "rows": rows}, seeds)


if __name__ == "__main__":
    main()
