"""Sigmoid attention: each key gets a weight of its own between 0 and 1, whatever the other keys get.

    p_tj = σ(q_t·k_j / √K + c),    c = −log n                     (1)
    o_t  = Σ_{j≤t} p_tj v_j                                       (2)

Without c the n weights of a fresh model are near ½ each and their sum near n/2. With it the sum is near 1, as for softmax.

Paper   Ramapuram et al. 2024, arXiv:2409.04431. n there is the length of the training sequences, one number for all rows.
Differs ``n=None`` takes n = t + 1, the keys that a row sees: our addition, for texts of any length. Positions enter by ``rotate`` and
        ``bias``, as in ``full``; there is no QK-norm, no LayerScale and no norm on the output, which the paper adds to large models.
Shapes  q, k: (..., T, K)   v: (..., T, V)   S: {"k": (..., m, K), "v": (..., m, V)}, keys unrotated
"""
from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .. import core
from ..forms import by_distance
from ..layer import QKV, State, merged
from .full import Bias
from .window import Memory, Rotate, appended, bare, checked, init  # noqa: F401  (init: the empty cache is the same)


def step(S: Memory, q: Tensor, k: Tensor, v: Tensor, n: int | None = 256, rotate: Rotate = bare, bias: Bias | None = None) -> tuple[Memory, Tensor]:
    """One token: the definition."""
    S = {"k": torch.cat([S["k"], k[..., None, :]], -2), "v": torch.cat([S["v"], v[..., None, :]], -2)}
    q, at = q[..., None, :], torch.arange(S["k"].shape[-2], device=k.device)
    s = rotate(q, at[-1:]) @ rotate(S["k"], at).mT / q.shape[-1] ** 0.5
    if bias is not None:
        b = bias(q, len(at))
        s = s + b[..., (at[-1] - at).clamp(max=b.shape[-1] - 1)]
    p = (s - math.log(n or len(at))).sigmoid()                                          # (1)
    return S, (p @ S["v"])[..., 0, :]                                                   # (2)


def recurrent(q: Tensor, k: Tensor, v: Tensor, state: Memory | None = None, n: int | None = 256, rotate: Rotate = bare,
              bias: Bias | None = None) -> tuple[Tensor, Memory]:
    """Token by token, O(T²·K). Returns o (..., T, V) and the cache. Raises ValueError for shapes that do not fit, mixed types, NaN, n < 1."""
    return core.run(step, _checked(q, k, v, state, n), q, k, v, n=n, rotate=rotate, bias=bias)


def parallel(q: Tensor, k: Tensor, v: Tensor, state: Memory | None = None, n: int | None = 256, rotate: Rotate = bare,
             bias: Bias | None = None) -> tuple[Tensor, Memory]:
    """All tokens at once, in blocks: O(T²·K) time, no T × T matrix. Returns o (..., T, V) and the cache. Raises ValueError as ``recurrent`` does."""
    S = appended(_checked(q, k, v, state, n), k, v)
    at = torch.arange(S["k"].shape[-2], device=k.device)
    t = at[-q.shape[-2]:]
    c = -(t + 1 if n is None else torch.full_like(t, n))[:, None].double().log()
    return read(rotate(q, t), rotate(S["k"], at), S["v"], c, bias=None if bias is None else bias(q, len(at))), S


def read(q: Tensor, k: Tensor, v: Tensor, c: Tensor, window: int | None = None, bias: Tensor | None = None, block: int = 128) -> Tensor:
    """o_t = Σ_j σ(q_t·k_j/√K + c_t + bias[t − j]) v_j, a block of queries at a time: sums of parts simply add, there is no maximum to keep.

    The T queries are the last of M positions. Query t sees key j ≤ t if t − j < ``window`` (None: all); what it does not see weighs exactly 0.
    q: (..., T, K)   k: (..., M, K)   v: (..., M, V)   c: (T, 1)   bias: (..., T or 1, R), by distance as in ``forms.attend``   ->   o: (..., T, V).
    Sums run in float32 at least. Memory O((T + M)·block), with a window O(T·(window + block)); a backward pass without window computes each block again.
    """
    T, M, wide = q.shape[-2], k.shape[-2], torch.promote_types(q.dtype, torch.float32)
    W, at, scale = window or M, torch.arange(M, device=q.device), q.shape[-1] ** -0.5
    ks, vs = k.to(wide).split(block, -2), v.to(wide).split(block, -2)

    def rows(q: Tensor, c: Tensor, first: int) -> Tensor:
        end = first + q.shape[-2]
        lo, hi = max(0, first - W + 1) // block, (end - 1) // block + 1
        d = at[first:end, None] - at[lo * block:hi * block]
        s = (q * scale) @ torch.cat(ks[lo:hi], -2).mT + c
        if bias is not None:
            s = s + by_distance(bias if bias.shape[-2] == 1 else bias[..., first - M + T:end - M + T, :], d)
        p = s.masked_fill((d < 0) | (d >= W), -torch.inf).sigmoid()                     # (1) σ(−∞) = 0, and so is its slope
        return p @ torch.cat(vs[lo:hi], -2)                                             # (2)

    run = rows if window else partial(checkpoint, rows, use_reentrant=False, preserve_rng_state=False)
    blocks = zip(q.to(wide).split(block, -2), c.to(wide).split(block, -2), range(M - T, M, block))
    return torch.cat([run(*x) for x in blocks], -2).to(q.dtype)


def _checked(q: Tensor, k: Tensor, v: Tensor, state: Memory | None, n: int | None) -> Memory:
    if n is not None and n < 1:
        raise ValueError(f"n is {n}, wanted the length of the training sequences, n >= 1, or None for the keys that a row sees")
    return checked(q, k, v, state)


class Layer(nn.Module):
    """Sigmoid attention over all that came before, ``heads`` heads; ``n``, ``rotate`` and ``bias`` as above.

    state: {"k", "v"}: (B, H, t, D / H), unrotated, grows with every token.
    """

    def __init__(self, D: int, heads: int = 4, n: int | None = 256, rotate: Rotate = bare, bias: Bias | None = None):
        super().__init__()
        self.D, self.n, self.rotate, self.bias = D, n, rotate, bias
        self.qkv = QKV(D, heads, D // heads, D // heads, 0, nn.Identity())
        self.out = nn.Linear(D, D, bias=False)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.D)
        (q, k, v), _ = self.qkv(x, {})
        o, S = parallel(q, k, v, state, self.n, self.rotate, self.bias)
        return self.out(merged(o)), S
