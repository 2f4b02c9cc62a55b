"""Recall of a trained model against the bytes of its state: 8 pairs among 32 tokens, two layers of one mixer and nothing else.

python benchmarks/trained/mqar.py [linear delta ...] [--seeds 3]
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
from minimem.state import (  # noqa: E402
    delta,
    gated_delta,
    gla,
    gsa,
    hyena,
    linear,
    log_linear,
    mamba,
    mamba2,
    mlstm,
    retnet,
    rwkv4,
    rwkv6,
    s4,
)
from minimem.tasks.mqar import curriculum, mqar  # noqa: E402

torch.set_num_threads(1)
D, PAIRS, T, VOCAB, BATCH, STEPS, RATE = 48, 8, 32, 64, 48, 500, 0.012     # steps and rate: tried on seeds 101 to 103
SIZES = (4, 8, 16, 32)
NO_CONV = "no convolution"
normed = partial(linear.Layer, D, 1, V=D, normed=True)


def matrix(layer, sizes=SIZES, **options):
    """One head whose memory is size × D."""
    return {f"K = {K}": partial(layer, D, 1, K=K, V=D, **options) for K in sizes}


MIXERS = {                                             # mixer: {size: its layer}
    "linear": {**matrix(linear.Layer, conv=4, normed=True), NO_CONV: partial(normed, K=16, conv=0),
               "as published": partial(linear.Layer, D, 1, K=16, V=D, conv=4)},
    "delta": {**matrix(delta.Layer, SIZES[:3]), NO_CONV: partial(delta.Layer, D, 1, K=16, V=D, conv=0)},
    "gated_delta": {**matrix(gated_delta.Layer, SIZES[:3]), NO_CONV: partial(gated_delta.Layer, D, 1, K=16, V=D, conv=0)},
    "mamba2": {**{f"N = {N}": partial(mamba2.Layer, D, 1, N=N, P=D) for N in (8, 16, 32, 64)},
               NO_CONV: partial(mamba2.Layer, D, 1, N=16, P=D, conv=1)},
    "attention": {"all tokens": partial(full.Layer, D, 1, conv=4), NO_CONV: partial(full.Layer, D, 1)},
    "retnet": matrix(retnet.Layer, (4, 16), conv=4),
    "gla": matrix(gla.Layer, (4, 16), conv=4),
    "gsa": {f"M = {M}": partial(gsa.Layer, D, 1, K=16, V=D, M=M, conv=4) for M in (3, 12)},
    "rwkv4": {"D": partial(rwkv4.Layer, D)},
    "rwkv6": {f"K = {K}": partial(rwkv6.Layer, D, K=K) for K in (4, 16)},
    "mamba": {f"N = {N}": partial(mamba.Layer, D, N=N, expand=1) for N in (4, 16)},
    "mlstm": {f"heads of {K}": partial(mlstm.Layer, D, D // K, expand=1) for K in (4, 16)},
    "log_linear": {f"N = {N}": partial(log_linear.Layer, D, 1, N=N, P=D) for N in (4, 16)},
    "s4": {f"N = {N}": partial(s4.Layer, D, N=N) for N in (4, 16)},
    "hyena": {"all tokens": partial(hyena.Layer, D)},
}


def trained(layer, seed):
    """Accuracy on 512 sequences never seen, bytes of the state where it is largest, CPU seconds."""
    began = time.process_time()
    torch.manual_seed(seed)
    model = small(VOCAB, D, [layer(), layer()])
    fit(model, curriculum(PAIRS, T, STEPS, VOCAB, batch=BATCH, seed=seed), STEPS, RATE)
    tokens, targets = mqar(PAIRS, T, VOCAB, batch=512, seed=seed * 10 ** 6 + STEPS)
    held = max(core.nbytes(model(tokens[:1, :t])[1]) for t in range(1, T + 1))
    return accuracy(model, tokens, targets), held, time.process_time() - began


if __name__ == "__main__":
    args = argparse.ArgumentParser()
    args.add_argument("mixers", nargs="*", default=list(MIXERS))
    args.add_argument("--seeds", type=int, default=3)
    asked = args.parse_args()
    for mixer in asked.mixers:
        data = {}
        for size, layer in MIXERS[mixer].items():
            right, held, seconds = zip(*(trained(layer, seed) for seed in range(asked.seeds)))
            data[size] = {"bytes": held[0], "accuracy": [round(x, 3) for x in right], "cpu_seconds": round(statistics.mean(seconds))}
            print(mixer, size, data[size], flush=True)
        record(f"mqar_{mixer}", data, seeds=list(range(asked.seeds)))
