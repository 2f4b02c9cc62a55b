"""Relative positions that are learned: a vector (Shaw) or a number per head (T5) for each distance, shared by all distances beyond a limit.

    s_tj = q_t·(k_j + r^K_c) / √K,   o_t = Σ_j p_tj (v_j + r^V_c),   c = min(t − j, n)          (1)   Shaw
    s_tj = q_t·k_j + β_{h, bucket(t − j)},   logits not scaled                                  (2)   T5

    bucket(d) = d                                                      d < N/2
              = N/2 + ⌊N/2 · ln(d / (N/2)) / ln(F / (N/2))⌋            but at most N − 1: N buckets, the last for all from about F on

A bias by distance is a row, not a T × T table: entry d serves all pairs that are d apart (a Toeplitz matrix), the last all that are farther.

Paper   Shaw et al. 2018, arXiv:1803.02155; Raffel et al. 2020, arXiv:1910.10683.
Differs causal: of Shaw's 2n + 1 vectors the n + 1 that look back; T5's encoder, which looks both ways, gives each side half of the buckets.
        Shaw's vectors are shared by the heads, T5's numbers by all layers: hand the same ``T5`` to each.
Shapes  q: (..., H, T, K) -> Shaw (..., H, T, n + 1), T5 (H, 1, R): what ``full.parallel(..., bias=)`` takes
"""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..forms import attend, merge


class Shaw(nn.Module):
    """The key side of (1) as a bias: q_t·r_d / √K for d = 0 … n. ``keys``: (n + 1, K), zero at first."""

    def __init__(self, K: int, n: int = 16):
        super().__init__()
        self.keys = nn.Parameter(torch.zeros(n + 1, K))

    def forward(self, q: Tensor, M: int) -> Tensor:
        return q @ self.keys.mT / q.shape[-1] ** 0.5                                                # (1)


def shaw(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """All of (1): the T queries are the last of M positions. Never T × T × K: time O(T·(M + n)·K), memory O(T·n·(K + V)) beside that of ``attend``.

    Two groups share a softmax: the n nearest keys, each with vectors of its own; all farther ones, which share the last.
    q: (..., T, K)   k: (..., M, K)   v: (..., M, V)   keys: (n + 1, K)   values: (n + 1, V)   ->   o: (..., T, V).
    Raises ValueError for tables of unequal length, or of one row: n ≥ 1.
    """
    n, T = len(keys) - 1, q.shape[-2]
    if n < 1 or len(values) != n + 1:
        raise ValueError(f"keys has {len(keys)} rows and values {len(values)}, wanted as many, n + 1, with n >= 1")
    b = q @ keys.mT / q.shape[-1] ** 0.5
    back = torch.arange(k.shape[-2], device=k.device)[-T:, None] - torch.arange(n, device=k.device)
    near_k, near_v = (x[..., back.clamp(min=0), :] for x in (k, v))                                 # (..., T, n, ·)
    s = (near_k @ q[..., None])[..., 0] / q.shape[-1] ** 0.5 + b[..., :n]
    s = s.masked_fill(back < 0, torch.finfo(s.dtype).min)
    near = (s.softmax(-1)[..., None, :] @ (near_v + values[:n]))[..., 0, :]                         # (1)
    far, lse = attend(q, k, v, bias=b[..., n:], beyond=n)
    return merge((near, s.logsumexp(-1, keepdim=True)), (far + values[n], lse))[0].to(q.dtype)


def bucket(distance: Tensor, buckets: int = 32, farthest: int = 128) -> Tensor:
    """The bucket of each distance ≥ 0, whole numbers 0 … buckets − 1."""
    exact = buckets // 2
    wide = (distance.clamp(min=1).double() / exact).log() / math.log(farthest / exact) * (buckets - exact)
    return torch.where(distance < exact, distance, (exact + wide.long()).clamp(max=buckets - 1))


class T5(nn.Module):
    """β of (2) as a bias: (heads, 1, min(M, farthest + 1)). ``table``: (buckets, heads), as in T5's files."""

    def __init__(self, heads: int, buckets: int = 32, farthest: int = 128):
        super().__init__()
        self.farthest = farthest
        self.table = nn.Embedding(buckets, heads)
        nn.init.zeros_(self.table.weight)

    def forward(self, q: Tensor, M: int) -> Tensor:
        d = torch.arange(min(M, self.farthest + 1), device=q.device)
        return self.table(bucket(d, self.table.num_embeddings, self.farthest)).mT[:, None]          # (2)


def unscaled(q: Tensor, n: Tensor) -> Tensor:
    """T5's logits have no 1/√K: a ``rescale`` that takes it out again."""
    return q * q.shape[-1] ** 0.5                                                                   # (2)
