"""The fast forms: a few algorithms that carry nearly all sequence memories, each checked against the loop it replaces."""
from __future__ import annotations

from functools import partial, reduce

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# ------------------------------------------------------------------ attend: softmax attention by blocks


def softmax_read(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One softmax over one group of keys: what each query reads, and the log of its denominator.

        o_t = Σ_j exp(q_t·k_j/√K − lse_t) v_j,    lse_t = log Σ_j exp(q_t·k_j/√K)

    q: (..., T, K)   k: (..., M, K)   v: (..., M, V)   visible: (..., T, M) bool, None = all   ->   o: (..., T, V), lse: (..., T, 1).
    Leading axes broadcast. Sums run in float32 at least, and the results keep that type.
    A query that sees nothing reads 0, with the lowest finite number as its lse: no NaN, forward or backward.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    low = torch.finfo(wide).min
    s = (q.to(wide) * q.shape[-1] ** -0.5) @ k.to(wide).mT
    if visible is not None:
        s = s.masked_fill(~visible, low)
    p = s.softmax(-1)
    lse = s.amax(-1, keepdim=True) - p.amax(-1, keepdim=True).log()       # of p = e^(s − lse), at the largest s
    return p @ v.to(wide) * (lse > low), lse


def merge(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Two reads (o, lse) of two groups of keys -> the read of both under one softmax; a key in both groups counts twice.

        lse = log(e^lse₁ + e^lse₂),    o = e^(lse₁−lse) o₁ + e^(lse₂−lse) o₂
    """
    lse = torch.logaddexp(a[1], b[1])
    return (a[1] - lse).exp() * a[0] + (b[1] - lse).exp() * b[0], lse


def attend(q: Tensor, k: Tensor, v: Tensor, window: int | None = None, sinks: int = 0, q_sinks: Tensor | None = None,
           block: int = 128) -> tuple[Tensor, Tensor]:
    """Causal softmax attention, a block of queries at a time: never a T × M matrix.

    The T queries are the last T of M positions. Query t sees key j ≤ t if t − j < ``window`` (None: all) or j < ``sinks``.
    ``q_sinks``: queries to use on the sinks, where their distance differs from the true one (None: q).

    q: (..., T, K)   k: (..., M, K)   v: (..., M, V)   ->   o: (..., T, V) in q's dtype, lse: (..., T, 1).
    Leading axes broadcast (one key head may serve several query heads). With a window: time and memory O(T·(window + block)).
    Without: time O(T·M), memory O((T + M)·block), as the backward pass computes each block of queries again.
    Raises ValueError for more queries than keys, window or block < 1, sinks < 0.

    Source: softmax on the fly, Milakov and Gimelshein 2018, arXiv:1805.02867; by blocks, Dao et al. 2022, arXiv:2205.14135.
    """
    T, M = q.shape[-2], k.shape[-2]
    if not 0 < T <= M:
        raise ValueError(f"q has {T} positions and k has {M}, wanted 1 <= T <= M: the queries are the last of the keys")
    if block < 1 or sinks < 0 or (window is not None and window < 1):
        raise ValueError(f"saw window={window}, sinks={sinks}, block={block}, wanted window >= 1, sinks >= 0, block >= 1")
    W, sinks = (M, 0) if window is None else (window, sinks)
    at, k_sinks, v_sinks = torch.arange(M, device=q.device), k[..., :sinks, :], v[..., :sinks, :]
    ks, vs = k.split(block, -2), v.split(block, -2)

    def read(q: Tensor, q_sinks: Tensor, first: int) -> tuple[Tensor, Tensor]:
        end = first + q.shape[-2]
        i, lo, hi = at[first:end, None], max(0, first - W + 1) // block, (end - 1) // block + 1
        parts = [softmax_read(q_sinks, k_sinks, v_sinks, at[:sinks] <= i)] if sinks else []
        size = 1 if window is None else hi - lo                           # a window is one group of keys; all keys are many
        for n in range(lo, hi, size):
            j = at[n * block:(n + size) * block]
            whole = sinks <= n * block and (n + size) * block <= first + 1 and end - n * block <= W
            visible = None if whole else (j <= i) & (i - j < W) & (j >= sinks)
            parts.append(softmax_read(q, torch.cat(ks[n:n + size], -2), torch.cat(vs[n:n + size], -2), visible))
        return reduce(merge, parts)

    run = read if window else partial(checkpoint, read, use_reentrant=False, preserve_rng_state=False)
    blocks = zip(q.split(block, -2), (q if q_sinks is None else q_sinks).split(block, -2), range(M - T, M, block))
    o, lse = zip(*(run(*x) for x in blocks))
    return torch.cat(o, -2).to(q.dtype), torch.cat(lse, -2)
