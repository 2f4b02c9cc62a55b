"""Time of the fixed and growing states against their peers on one thread: CPU time, interleaved, medians; and how time and memory grow with T.

python benchmarks/states.py            (about 6 minutes on an idle core)
"""
import json
import math
import os
import random
import statistics
import sys
import time
import warnings
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
warnings.filterwarnings("ignore")

import torch  # noqa: E402
from fla.ops.delta_rule.naive import delta_rule_chunkwise  # noqa: E402
from fla.ops.gated_delta_rule.naive import naive_chunk_gated_delta_rule  # noqa: E402
from fla.ops.gla.naive import naive_recurrent_gla  # noqa: E402
from fla.ops.linear_attn.naive import naive_chunk_linear_attn  # noqa: E402
from fla.ops.log_linear_attn.naive import naive_log_linear_attn  # noqa: E402
from fla.ops.simple_gla.naive import naive_chunk_simple_gla  # noqa: E402
from mambapy.pscan import pscan  # noqa: E402
from mlstm_kernels.torch.chunkwise.native import mlstm_chunkwise__native_autograd, mlstm_chunkwise__native_custbw  # noqa: E402
from record import record  # noqa: E402
from torch._higher_order_ops import associative_scan  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from transformers.models.mamba.modeling_mamba import mamba_selective_scan  # noqa: E402
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan  # noqa: E402
from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule  # noqa: E402
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru  # noqa: E402
from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu  # noqa: E402

from minimem import forms  # noqa: E402
from minimem.state import delta, gated_delta, linear, log_linear, mamba2, mlstm, rwkv4  # noqa: E402

torch.set_num_threads(1)
ROUNDS = 11
HEADS, WIDTH = 4, 64                                   # of the matrix states
CHANNELS, KEYS = 256, 16                               # of the diagonal ones


def inputs(T, letters):
    """One sequence: matrix states 4 heads of width 64, (1, 4, T, 64), gates (1, 4, T, 1); diagonal ones 256 channels, (1, T, 256)."""
    r = torch.Generator().manual_seed(0)
    heads = {**dict.fromkeys("qkvgBCX", WIDTH), **dict.fromkeys("abifd", 1), "w": (T - 1).bit_length() + 1}
    flat = {**dict.fromkeys("xsruh", CHANNELS), **dict.fromkeys("nm", KEYS)}
    shape = {**dict.fromkeys("qk", lambda x: F.normalize(x, dim=-1)), **dict.fromkeys("agr", lambda x: F.logsigmoid(x + 3)), "b": torch.sigmoid,
             **dict.fromkeys("sd", lambda x: F.softplus(x - 3)), "w": F.softplus, "f": lambda x: x + 3}
    sizes = {c: (1, HEADS, T, heads[c]) if c in heads else (1, T, flat[c]) for c in letters}
    return [shape.get(c, lambda x: x)(torch.randn(s, generator=r)).contiguous() for c, s in sizes.items()]


def same(*xs):
    return xs


def swapped(*xs):
    """(1, H, T, D) → (1, T, H, D), gates (1, T, H)."""
    return [x.transpose(1, 2).contiguous().squeeze(-1) if x.shape[-1] == 1 else x.transpose(1, 2).contiguous() for x in xs]


def gates_flat(*xs):
    return [x.squeeze(-1) if x.shape[-1] == 1 else x for x in xs]


def channels_first(*xs):
    return [x.mT.contiguous() for x in xs]


A = -torch.arange(1.0, KEYS + 1).repeat(CHANNELS, 1)   # Mamba's rates, (256, 16); Mamba-2's are 1 to 4
RATES = torch.arange(1.0, HEADS + 1)
W4 = rwkv4.params(CHANNELS)


def loop_of_recurrent_gemma(a, x):
    return RecurrentGemmaRglru._rnn_scan(None, x, a.exp(), torch.zeros(1, x.shape[1], 1, dtype=torch.bool), None)[0]


def associative(a, x):
    return associative_scan(lambda l, r: (l[0] * r[0], r[0] * l[1] + r[1]), (a.exp(), x), dim=1, combine_mode="generic")[1]


def by_pscan(x, d, B, C):
    decay = torch.exp(d[..., None] * A)
    return (pscan(decay, (d * x)[..., None] * B[:, :, None]) @ C[..., None])[..., 0]


def transformers_mamba2(chunk):
    return lambda x, d, B, C: mamba2_chunk_scan.__wrapped__(x, d, -RATES, B, C, chunk)


CASES = {                                              # what: letters, {computed by: (function, the layout it wants)}; the first is ours
    "gated_delta": ("qkvab", {
        "minimem chunked": (lambda *x: gated_delta.chunked(*x)[0], same),
        "transformers Qwen3-Next chunk": (lambda q, k, v, a, b: torch_chunk_gated_delta_rule.__wrapped__(q, k, v, g=a, beta=b)[0], swapped),
        "fla naive chunk": (lambda q, k, v, a, b: naive_chunk_gated_delta_rule(q, k, v, g=a, beta=b, scale=1.0)[0], swapped),
        "minimem recurrent": (lambda *x: gated_delta.recurrent(*x)[0], same)}),
    "delta": ("qkvb", {
        "minimem chunked": (lambda *x: delta.chunked(*x)[0], same),
        "fla naive chunk": (lambda *x: delta_rule_chunkwise(*x)[0], gates_flat)}),
    "linear": ("qkv", {
        "minimem chunked": (lambda *x: linear.chunked(*x)[0], same),
        "fla naive chunk": (lambda q, k, v: naive_chunk_linear_attn(linear.phi(q), linear.phi(k), v, scale=1.0, normalize=True), swapped)}),
    "gate per head": ("qkva", {
        "minimem forms.gated": (lambda *x: forms.gated(*x)[0], same),
        "fla naive chunk": (lambda q, k, v, a: naive_chunk_simple_gla(q, k, v, a, scale=1.0)[0], swapped)}),
    "gate per key": ("qkvg", {
        "minimem forms.gated": (lambda *x: forms.gated(*x)[0], same),
        "fla naive recurrent": (lambda q, k, v, g: naive_recurrent_gla(q, k, v, g)[0], swapped)}),
    "log_linear": ("qkvaw", {
        "minimem chunked": (lambda *x: log_linear.chunked(*x)[0], same),
        "fla naive": (naive_log_linear_attn, swapped)}),
    "mamba2": ("XdBC", {
        "minimem chunked": (lambda *x: mamba2.chunked(*x, {"A": -RATES[:, None], "D": torch.zeros(HEADS, 1)})[0], same),
        "transformers chunk 256 (its default)": (transformers_mamba2(256), swapped),
        **{f"transformers chunk {n}": (transformers_mamba2(n), swapped) for n in (128, 64, 32)}}),
    "mlstm": ("qkvif", {
        "minimem chunked": (lambda *x: mlstm.chunked(*x)[0], same),
        "mlstm_kernels native chunkwise": (mlstm_chunkwise__native_autograd, gates_flat),
        "mlstm_kernels native chunkwise, own backward": (mlstm_chunkwise__native_custbw, gates_flat)}),
    "mamba": ("usnm", {
        "minimem forms.selective": (lambda x, d, B, C: forms.selective(x, d, A, B, C)[0], same),
        "mambapy pscan": (by_pscan, same),
        "transformers loop": (lambda x, d, B, C: mamba_selective_scan.__wrapped__(x, d, A, B, C), channels_first)}),
    "scan of RG-LRU": ("rh", {
        "minimem forms.scan": (lambda *x: forms.scan(*x)[0], same),
        "torch associative_scan": (associative, same),
        "transformers RecurrentGemma loop": (loop_of_recurrent_gemma, same)}),
    "rwkv4": ("xh", {
        "minimem parallel": (lambda k, v: rwkv4.parallel(k, v, W4)[0], same),
        "transformers loop": (lambda k, v: rwkv_linear_attention_cpu((-W4["w"]).log(), W4["u"], k, v)[0], same)}),
}


def call(fn, xs, backward):
    """CPU seconds of one call."""
    start = time.process_time()
    if backward:
        torch.autograd.grad(fn(*xs).sum(), xs)
    else:
        with torch.no_grad():
            fn(*xs)
    return time.process_time() - start


def ready(xs, backward):
    return [x.detach().requires_grad_(backward) for x in xs]


def compare(case, T, backward, rounds=ROUNDS, without=()):
    """Every function once a round, in random order, after a round that does not count. Returns a row: medians in ms, by who computed."""
    letters, fns = CASES[case]
    fns = {who: x for who, x in fns.items() if who not in without}
    xs = {who: ready(layout(*inputs(T, letters)), backward) for who, (_, layout) in fns.items()}
    took, order = {who: [] for who in fns}, random.Random(0)
    for i in range(rounds + 1):
        for who in order.sample(list(fns), len(fns)):                     # a long loop leaves cold memory to whoever is next
            ms = 1e3 * call(fns[who][0], xs[who], backward)
            if i:
                took[who].append(ms)
    row = {who: statistics.median(t) for who, t in took.items()}
    ours = next(iter(row.values()))
    work = "forward + backward" if backward else "forward, no gradient"
    print(f"\n{case}, T = {T}, {work}")
    for who, ms in row.items():
        low, high = statistics.quantiles(took[who], n=4)[::2]
        print(f"  {who:46} {ms:8.1f} ms  ({low:.1f} to {high:.1f})   {ms / ours:5.1f}x", flush=True)
    return {"case": case, "T": T, "work": work, "ms": {w: round(ms, 1) for w, ms in row.items()},
            "times ours": {w: round(ms / ours, 2) for w, ms in row.items()}}


def memory(line):
    """VmRSS or VmHWM (its peak) of this process in MiB."""
    return int(next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(line)).split()[1]) / 1024


def apart(job):
    """What ``job`` returns when run in a child process, whose memory starts without anybody's garbage."""
    there, here = os.pipe()
    child = os.fork()
    if not child:
        os.write(here, json.dumps(job()).encode())
        os._exit(0)
    os.close(here)
    with os.fdopen(there) as answer:
        told = answer.read()
    os.waitpid(child, 0)
    return json.loads(told)


def cost(case, T, backward):
    """The least of three times in ms, and the peak memory above that of the inputs in MiB."""
    letters, fns = CASES[case]
    xs = ready(inputs(T, letters), backward)
    fn = next(iter(fns.values()))[0]
    Path("/proc/self/clear_refs").write_text("5")      # the peak starts anew from here
    before = memory("VmRSS")
    first = call(fn, xs, backward)
    peak = memory("VmHWM") - before
    return min(first, *(call(fn, xs, backward) for _ in range(2))) * 1e3, peak


def growth(case, lengths=(1024, 4096, 16384, 65536)):
    """Slope of log time against log T, by least squares: 1 is linear, 2 is quadratic; and time and peak memory at each length."""
    rows = []
    for backward in (False, True):
        ms, MiB = zip(*(apart(partial(cost, case, T, backward)) for T in lengths))
        slope = statistics.linear_regression([math.log(T) for T in lengths], [math.log(t) for t in ms]).slope
        work = "forward + backward" if backward else "forward, no gradient"
        print(f"{case:15} {work:21} slope {slope:.2f}   ms {[round(t, 1) for t in ms]}   MiB {[round(m) for m in MiB]}", flush=True)
        rows.append({"case": case, "work": work, "slope": round(slope, 2), "T": list(lengths), "ms": [float(f"{t:.3g}") for t in ms],
                     "peak MiB": [round(m) for m in MiB]})
    return rows


if __name__ == "__main__":
    only = sys.argv[1:]                                # names of cases, to try: nothing is recorded
    grown = [row for case in only or CASES for row in growth(case)]
    loop, slow = ("minimem recurrent",), ("transformers loop",)
    runs = [("gated_delta", 1024, True), ("gated_delta", 2048, True), ("gated_delta", 4096, True, 5, loop), ("gated_delta", 4096, False, ROUNDS, loop),
            *((case, 4096, False) for case in ("delta", "linear", "gate per head")), *((case, 2048, True) for case in ("delta", "gate per head")),
            ("gate per key", 1024, True, 5), ("log_linear", 1024, True, 2), ("log_linear", 1024, False, 2), ("mamba2", 1024, True), ("mamba2", 1024, False), ("mlstm", 1024, True),
            ("mlstm", 1024, False), ("mamba", 512, True, 5), ("mamba", 1024, True, ROUNDS, slow), ("mamba", 1024, False, ROUNDS, slow),
            ("scan of RG-LRU", 1024, True), ("rwkv4", 1024, True, 5)]
    rows = [compare(*run) for run in runs if not only or run[0] in only]
    if not only:
        path = record("states", {"size": f"1 sequence, float32, 1 thread, CPU time; {HEADS} heads of width {WIDTH}; mamba, scan and rwkv4: {CHANNELS} channels",
                                 "rounds": ROUNDS, "rows": rows, "time and peak memory against T": grown},
                      seeds=[0], packages=("torch", "numpy", "transformers", "fla-core", "mambapy", "mlstm_kernels"))
        print({k: v for k, v in json.loads(path.read_text()).items() if k != "data"})
