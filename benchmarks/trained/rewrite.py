"""Facts that change: 8 keys, each written three times with another value, then asked for the newest. Two layers of one mixer and nothing else.

What counts was fixed before the run: share of newest values over five seeds; DeltaNet's smallest less linear attention's largest, wanted >= 0.6.

python benchmarks/trained/rewrite.py [linear delta ...] [--seeds 5]
"""
import argparse
import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from record import record  # noqa: E402

from minimem import core  # noqa: E402
from minimem.cache import full  # noqa: E402
from minimem.lm import accuracy, fit, small  # noqa: E402
from minimem.state import delta, gated_delta, linear, mamba2, retnet  # noqa: E402
from minimem.tasks.mqar import curriculum, mqar  # noqa: E402

torch.set_num_threads(1)
D, KEYS, TIMES, T, VOCAB, BATCH, STEPS, RATE = 64, 8, 3, 64, 64, 32, 400, 0.005         # steps and rate: of a first trial, once more on seed 101
MIXERS = {                                             # four heads of 16 × 16 each, and a convolution of width 4
    "attention": partial(full.Layer, D, 4, conv=4),
    "linear": partial(linear.Layer, D, 4, 16, 16, conv=4, normed=True),
    "mamba2": partial(mamba2.Layer, D, 4, N=16, P=16),
    "retnet": partial(retnet.Layer, D, 4, 16, 16, conv=4),
    "delta": partial(delta.Layer, D, 4, 16, 16),
    "gated_delta": partial(gated_delta.Layer, D, 4, 16, 16),
}


def trained(layer, seed):
    """Of 512 sequences never seen: the share of newest values, and of values that the key had at any time; bytes, CPU seconds."""
    began = time.process_time()
    torch.manual_seed(seed)
    model = small(VOCAB, D, [layer(), layer()])
    fit(model, curriculum(KEYS, T, STEPS, VOCAB, TIMES, BATCH, seed), STEPS, RATE)
    tokens, targets = mqar(KEYS, T, VOCAB, TIMES, 512, seed * 10 ** 6 + STEPS)
    with torch.no_grad():
        said, asked, written = model(tokens)[0].argmax(-1), targets >= 0, 2 * KEYS * TIMES
    pairs = tokens[:, 0:written:2] * VOCAB + tokens[:, 1:written:2]
    ever = (pairs[:, None] == (tokens * VOCAB + said)[..., None]).any(-1)
    spent = time.process_time() - began
    return accuracy(model, tokens, targets), ever[asked].float().mean().item(), core.nbytes(model(tokens[:1])[1]), spent


if __name__ == "__main__":
    args = argparse.ArgumentParser()
    args.add_argument("mixers", nargs="*", default=list(MIXERS))
    args.add_argument("--seeds", type=int, default=5)
    asked = args.parse_args()
    for mixer in asked.mixers:
        newest, ever, held, seconds = zip(*(trained(MIXERS[mixer], seed) for seed in range(asked.seeds)))
        data = {"bytes": held[0], "newest": [round(x, 3) for x in newest], "ever": [round(x, 3) for x in ever],
                "cpu_seconds": round(statistics.mean(seconds))}
        print(mixer, data, flush=True)
        record(f"rewrite_{mixer}", data, seeds=list(range(asked.seeds)))
