"""Speed and memory of ``forms.attend`` against its peers on one thread: CPU time, in random order, medians; and how both grow with T.
Each call that is timed comes right after one of the same that is not, as in a training, where memory is used again.

What each reads is equal (checked before the clock runs). The exact window w of ``local-attention`` sees w + 1 keys: with w = W − 1 it reads the
same, but pads every sequence to a multiple of it; with w = W it reads one key more and is faster. FlexAttention is compiled once (minutes;
left out where there is no g++) and has no backward pass on a CPU.

python benchmarks/attention.py [noflex]            result: attention
"""
import os
import random
import shutil
import statistics
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from local_attention import LocalAttention  # noqa: E402
from record import record  # noqa: E402
from torch.nn.attention.flex_attention import create_block_mask, flex_attention  # noqa: E402
from torch.nn.functional import scaled_dot_product_attention as sdpa  # noqa: E402

from minimem.cache.flash import held  # noqa: E402
from minimem.fast import sdpa as fast  # noqa: E402
from minimem.forms import attend  # noqa: E402

torch.set_num_threads(1)
T, W, ROUNDS = 2048, 128, 15
LENGTHS = [1024, 2048, 4096, 8192, 16384]


def qkv(lead, T, K):
    return [torch.randn(*lead, T, K, generator=torch.Generator().manual_seed(i)) for i in range(3)]


def plain(q, k, v):
    s = (q @ k.mT) * q.shape[-1] ** -0.5
    return (s + s.new_full(s.shape[-2:], -torch.inf).triu(1)).softmax(-1) @ v


def windows(flex):
    """{computed by: function}; the first is what the others are compared with; and one that reads a key more."""
    t = torch.arange(T)
    mask = (t <= t[:, None]) & (t > t[:, None] - W)
    local = {w: LocalAttention(window_size=w, causal=True, look_backward=1, exact_windowsize=True, use_rotary_pos_emb=False, autopad=True) for w in (W - 1, W)}
    fns = {"minimem, window": lambda *x: attend(*x, window=W)[0],
           "torch SDPA, dense mask": lambda *x: sdpa(*x, attn_mask=mask),
           "local-attention, padded": local[W - 1]}
    if flex:
        seen = create_block_mask(lambda b, h, t, j: (j <= t) & (t - j < W), None, None, T, T, device="cpu")
        compiled = torch.compile(flex_attention)
        fns["torch FlexAttention, compiled"] = lambda *x: compiled(*x, block_mask=seen)
    return fns, {"local-attention, 129 keys": local[W]}


def beside():
    """Other things to read at the same size: no peers of the window, but their price beside it."""
    alibi = -(2.0 ** -torch.arange(2, 9, 2))[:, None, None] * torch.arange(W)
    return {"minimem, window and 4 sinks": lambda *x: attend(*x, window=W, sinks=4)[0],
            "minimem, window and ALiBi": lambda *x: attend(*x, window=W, bias=alibi)[0],
            "fast.sdpa, window and 4 sinks": lambda *x: fast.streaming(*x, window=W, sinks=4)[0]}


def everything():
    alibi = -(2.0 ** -torch.arange(2, 9, 2))[:, None, None] * torch.arange(T)
    return {"minimem, all keys": lambda *x: attend(*x)[0],
            "minimem, all keys and ALiBi": lambda *x: attend(*x, bias=alibi)[0],
            "torch SDPA, is_causal": lambda *x: sdpa(*x, is_causal=True)}


def seconds(fn, xs, backward):
    """CPU seconds of one call."""
    start = time.process_time()
    if backward:
        torch.autograd.grad(fn(*xs).sum(), xs)
    else:
        with torch.no_grad():
            fn(*xs)
    return time.process_time() - start


def compare(what, fns, xs, backward):
    """Medians in ms by who computed, over rounds in random order; and as multiples of the first."""
    xs = [x.detach().requires_grad_(backward) for x in xs]
    took, order = {who: [] for who in fns}, random.Random(0)
    for _ in range(ROUNDS):
        for who in order.sample(list(fns), len(fns)):
            seconds(fns[who], xs, backward)
            took[who].append(1e3 * seconds(fns[who], xs, backward))
    first = next(iter(took.values()))
    row = {"what": what, "work": "forward + backward" if backward else "forward, no gradient", "ms": {}, "times the first": {}}
    print(f"\n{what}, {row['work']}")
    for who, ms in took.items():
        row["ms"][who] = round(statistics.median(ms), 1)
        row["times the first"][who] = round(statistics.median(b / a for a, b in zip(first, ms)), 2)        # in the same round
        print(f"  {who:32} {row['ms'][who]:7.1f} ms   {row['times the first'][who]:5.2f}x", flush=True)
    return row


def growth(what, fn, lengths):
    """CPU time of forward and backward, the least of three, the largest tensor made and what is kept between the passes, at each length."""
    rows = {"what": what, "T": lengths, "ms": [], "largest MB": [], "kept MB": []}
    for n in lengths:
        xs = qkv((1, 4), n, 64)
        told = held(fn, *xs)
        xs = [x.requires_grad_() for x in xs]
        rows["ms"].append(float(f"{min(1e3 * seconds(fn, xs, True) for _ in range(3)):.3g}"))
        rows["largest MB"].append(float(f"{told['largest'] / 1e6:.3g}"))
        rows["kept MB"].append(float(f"{told['kept'] / 1e6:.3g}"))
    print(f"\n{what}\n" + "\n".join(f"  {name:10} {x}" for name, x in rows.items() if name != "what"), flush=True)
    return rows


if __name__ == "__main__":
    xs = qkv((1, 4), T, 64)
    (near, nearly), full = windows("noflex" not in sys.argv and shutil.which("g++")), everything()
    for fns in (near, {name: fn for name, fn in full.items() if "ALiBi" not in name}):
        outs = [fn(*xs) for fn in fns.values()]
        assert all((o - outs[0]).abs().max() < 1e-5 for o in outs), "they do not compute the same"
    trained = {who: fn for who, fn in near.items() if "Flex" not in who}
    rows = [compare("a window of 128", {**near, **nearly, **beside(), **full}, xs, False), compare("a window of 128", {**trained, **nearly, **beside(), **full}, xs, True),
            compare("all keys", full, xs, True)]
    short = {"minimem, all keys": full["minimem, all keys"], "softmax(QKᵀ)V": plain, "torch SDPA, is_causal": full["torch SDPA, is_causal"]}
    rows += [compare(f"32 sequences of {n}, width {K}", short, qkv((32, 4), n, K), True) for n, K in ((64, 16), (128, 16), (64, 32), (128, 64))]
    grown = [growth("minimem, window", trained["minimem, window"], LENGTHS), growth("minimem, all keys", full["minimem, all keys"], LENGTHS[:4]),
             growth("softmax(QKᵀ)V", plain, LENGTHS[:3])]
    record("attention", {"size": f"1 sequence of {T} tokens, window {W}, 4 heads of 64, float32, 1 thread, CPU time where nothing else is said",
                         "rounds": ROUNDS, "rows": rows, "forward + backward against T": grown}, seeds=[0, 1, 2], packages=("torch", "local-attention"))
