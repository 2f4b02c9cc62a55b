"""Time of the matrix states against their peers on one thread: CPU time, interleaved, medians; and how it grows with T.

python benchmarks/states.py
"""
import json
import math
import os
import statistics
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
warnings.filterwarnings("ignore")

import torch  # noqa: E402
from fla.ops.delta_rule.naive import delta_rule_chunkwise  # noqa: E402
from fla.ops.gated_delta_rule.naive import naive_chunk_gated_delta_rule  # noqa: E402
from fla.ops.gla.naive import naive_recurrent_gla  # noqa: E402
from fla.ops.linear_attn.naive import naive_chunk_linear_attn  # noqa: E402
from fla.ops.simple_gla.naive import naive_chunk_simple_gla  # noqa: E402
from record import record  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule  # noqa: E402

from minimem import forms  # noqa: E402
from minimem.state import delta, gated_delta, linear  # noqa: E402

torch.set_num_threads(1)
ROUNDS = 11
HEADS, WIDTH = 4, 64


def inputs(T, letters, theirs):
    """One sequence of T tokens, 4 heads of width 64: ours (1, 4, T, 64), theirs (1, T, 4, 64) with gates (1, T, 4)."""
    r = torch.Generator().manual_seed(0)
    width = {"q": WIDTH, "k": WIDTH, "v": WIDTH, "g": WIDTH, "a": 1, "b": 1}
    shape = {"q": lambda x: F.normalize(x, dim=-1), "a": lambda x: F.logsigmoid(x + 3), "b": torch.sigmoid}
    shape |= {"k": shape["q"], "g": shape["a"]}
    xs = [shape.get(c, lambda x: x)(torch.randn(1, HEADS, T, width[c], generator=r)) for c in letters]
    return [(x.transpose(1, 2).contiguous().squeeze(-1) if c in "ab" else x.transpose(1, 2).contiguous()) if theirs else x
            for c, x in zip(letters, xs)]


def theirs_qwen(q, k, v, a, b):
    return torch_chunk_gated_delta_rule.__wrapped__(q, k, v, g=a, beta=b)[0]


def theirs_gated_delta(q, k, v, a, b):
    return naive_chunk_gated_delta_rule(q, k, v, g=a, beta=b, scale=1.0)[0]


def theirs_delta(q, k, v, b):
    return delta_rule_chunkwise(q, k, v, b[..., 0])[0]


CASES = {                                              # what: letters, {computed by: (function, their layout?)}
    "gated_delta": ("qkvab", {
        "minimem chunked": (lambda *x: gated_delta.chunked(*x)[0], False),
        "transformers Qwen3-Next chunk": (theirs_qwen, True),
        "fla naive chunk": (theirs_gated_delta, True),
        "minimem recurrent": (lambda *x: gated_delta.recurrent(*x)[0], False)}),
    "delta": ("qkvb", {
        "minimem chunked": (lambda *x: delta.chunked(*x)[0], False),
        "fla naive chunk": (theirs_delta, False)}),
    "linear": ("qkv", {
        "minimem chunked": (lambda *x: linear.chunked(*x)[0], False),
        "fla naive chunk": (lambda q, k, v: naive_chunk_linear_attn(linear.phi(q), linear.phi(k), v, scale=1.0, normalize=True), True)}),
    "gate per head": ("qkva", {
        "minimem forms.gated": (lambda *x: forms.gated(*x)[0], False),
        "fla naive chunk": (lambda q, k, v, a: naive_chunk_simple_gla(q, k, v, a, scale=1.0)[0], True)}),
    "gate per key": ("qkvg", {
        "minimem forms.gated": (lambda *x: forms.gated(*x)[0], False),
        "fla naive recurrent": (lambda q, k, v, g: naive_recurrent_gla(q, k, v, g)[0], True)}),
}


def call(fn, xs, backward):
    start = time.process_time()
    if backward:
        torch.autograd.grad(fn(*xs).sum(), xs)
    else:
        with torch.no_grad():
            fn(*xs)
    return 1e3 * (time.process_time() - start)


def compare(case, T, backward, rounds=ROUNDS, without=()):
    """Every function once a round, after a round that does not count. Returns a row: medians in ms, by who computed."""
    letters, fns = CASES[case]
    fns = {who: fn for who, fn in fns.items() if who not in without}
    xs = {who: [x.requires_grad_(backward) for x in inputs(T, letters, layout)] for who, (_, layout) in fns.items()}
    took = {who: [] for who in fns}
    for i in range(rounds + 1):
        for who, (fn, _) in fns.items():
            ms = call(fn, xs[who], backward)
            if i:
                took[who].append(ms)
    row = {who: statistics.median(t) for who, t in took.items()}
    ours = next(iter(row.values()))
    work = "forward + backward" if backward else "forward, no gradient"
    print(f"\n{case}, T = {T}, {work}")
    for who, ms in row.items():
        low, high = statistics.quantiles(took[who], n=4)[::2]
        print(f"  {who:32} {ms:8.1f} ms  ({low:.1f} to {high:.1f})   {ms / ours:5.1f}x")
    return {"case": case, "T": T, "work": work, "ms": {w: round(ms, 1) for w, ms in row.items()},
            "times ours": {w: round(ms / ours, 2) for w, ms in row.items()}}


def growth(case, lengths, backward):
    """Slope of log time against log T, by least squares: 1 is linear, 2 is quadratic."""
    letters, fns = CASES[case]
    fn = next(iter(fns.values()))[0]
    runs = {T: [x.requires_grad_(backward) for x in inputs(T, letters, False)] for T in lengths}
    took = {T: min(call(fn, runs[T], backward) for _ in range(5)) for T in lengths}
    x, y = [math.log(T) for T in lengths], [math.log(t) for t in took.values()]
    slope = statistics.linear_regression(x, y).slope
    print(f"{case:14} {'forward + backward' if backward else 'forward':18} T = {lengths[0]} to {lengths[-1]}: slope {slope:.2f}")
    return round(slope, 2)


if __name__ == "__main__":
    loop = ("minimem recurrent",)
    rows = [compare("gated_delta", T, True) for T in (1024, 2048)] + [compare("gated_delta", 4096, True, 5, without=loop)]
    rows += [compare("gated_delta", 4096, False, without=loop)]
    rows += [compare(case, 4096, False) for case in ("delta", "linear", "gate per head")]
    rows += [compare(case, 2048, True) for case in ("delta", "gate per head")]
    rows.append(compare("gate per key", 1024, True, 5))
    print()
    slopes = {case: {work: growth(case, (1024, 2048, 4096, 8192, 16384), work == "forward + backward")
                     for work in ("forward", "forward + backward")} for case in CASES}
    path = record("states", {"size": f"1 sequence, {HEADS} heads, width {WIDTH}, float32, 1 thread, CPU time", "rounds": ROUNDS,
                             "rows": rows, "slope of log time against log T": slopes},
                  seeds=[0], packages=("torch", "numpy", "transformers", "fla-core"))
    print({k: v for k, v in json.loads(path.read_text()).items() if k != "data"})
