"""What one more token costs: bytes kept and CPU time of one decoding step of every layer, after 63 to 16,383 tokens.

python benchmarks/decode.py            (about 2 minutes)
"""
import math
import os
import statistics
import time
from importlib import import_module

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from record import record  # noqa: E402

from minimem import core  # noqa: E402
from minimem.cache import full  # noqa: E402

torch.set_num_threads(1)
D, LENGTHS, ROUNDS = 64, (63, 255, 1023, 4095, 16383), 25
MORE = {"hyena": {"longest": 16384}}
KEYS = ("linear", "retnet", "gla", "gsa", "delta", "gated_delta", "rwkv4", "rwkv6", "s4", "mamba", "mamba2", "mlstm", "slstm", "log_linear", "hyena")
LAYERS = {"attention": full.Layer, **{key: import_module(f"minimem.state.{key}").Layer for key in KEYS}}


def slope(ys):
    """Of log y against log T: 0 is constant, 1 is linear."""
    return round(statistics.linear_regression([math.log(T) for T in LENGTHS], [math.log(y) for y in ys]).slope, 2)


@torch.no_grad()
def decode(key, make):
    """Bytes and medians of ms for one more token, at every length; the lengths take turns."""
    torch.manual_seed(0)
    layer, x, token = make(D, **MORE.get(key, {})), torch.randn(1, LENGTHS[-1], D), torch.randn(1, 1, D)
    states = [layer(x[:, :T])[1] for T in LENGTHS]
    took = [[] for _ in LENGTHS]
    for _ in range(ROUNDS):
        for state, times in zip(states, took):
            start = time.process_time()
            layer(token, state)
            times.append(1e3 * (time.process_time() - start))
    kept, ms = [core.nbytes(s) for s in states], [statistics.median(t) for t in took]
    row = {"bytes": kept, "ms": [float(f"{t:.2g}") for t in ms], "slope of bytes": slope(kept), "slope of ms": slope(ms)}
    print(f"{key:12}", row, flush=True)
    return row


if __name__ == "__main__":
    data = {"size": f"width {D}, one sequence, float32, 1 thread, CPU time, random weights, the paper's defaults", "T": list(LENGTHS), "rounds": ROUNDS}
    record("decode", {**data, "layers": {key: decode(key, make) for key, make in LAYERS.items()}}, seeds=[0])
