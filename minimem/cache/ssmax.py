"""Scalable-Softmax (SSMAX): softmax over scores that grow with the logarithm of how many keys compete.

    p_tj = softmax_j(s_h · log n_t · q_t·k_j / √K),    n_t = t + 1 keys that row t sees     (1)

A key whose score is δ above n − 1 others gets 1 / (1 + (n − 1) e^−δ) of a softmax: it fades as n grows. Times s·log n, the gap is n^{sδ}, and
from sδ > 1 on the key keeps all of the weight. Only the queries change, each by a factor of its own row: any attention kernel will do.

Paper   Nakanishi 2025, arXiv:2501.19399. s is learned, one for each layer and head.
Differs s starts so that the factor is 1 on average over a training text, s = 1 / mean(log 1 … log L); for L = 1,024 that is 0.168.
        Under a window of W keys take n = min(t + 1, W): ``scaled(q, n.clamp(max=W), s)``.
Shapes  q, k: (..., T, K)   v: (..., T, V)   s: a number, or (H, 1, 1)   S: {"k": (..., m, K), "v": (..., m, V)}
Units   the logarithm is natural.
"""
from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from .. import core
from . import full
from .window import Memory, Rotate, bare, checked, init  # noqa: F401  (init: the empty cache is the same)


def step(S: Memory, q: Tensor, k: Tensor, v: Tensor, s: Tensor | float = 0.43) -> tuple[Memory, Tensor]:
    """One token: the definition."""
    S = {"k": torch.cat([S["k"], k[..., None, :]], -2), "v": torch.cat([S["v"], v[..., None, :]], -2)}
    n = S["k"].shape[-2]
    z = q[..., None, :] @ S["k"].mT / q.shape[-1] ** 0.5
    p = (s * math.log(n) * z).softmax(-1)                                               # (1)
    return S, (p @ S["v"])[..., 0, :]


def recurrent(q: Tensor, k: Tensor, v: Tensor, state: Memory | None = None, s: Tensor | float = 0.43) -> tuple[Tensor, Memory]:
    """Token by token, O(T²·K). Returns o (..., T, V) and the cache. Raises ValueError for shapes that do not fit, mixed types, NaN."""
    return core.run(step, checked(q, k, v, state), q, k, v, s=s)


def parallel(q: Tensor, k: Tensor, v: Tensor, state: Memory | None = None, s: Tensor | float = 0.43) -> tuple[Tensor, Memory]:
    """All tokens at once: ``full.parallel`` with rescaled queries. Returns o (..., T, V) and the cache. Raises ValueError as ``recurrent`` does."""
    return full.parallel(q, k, v, state, rescale=partial(scaled, s=s))


def scaled(q: Tensor, n: Tensor, s: Tensor | float) -> Tensor:
    """q times s·log n, row by row: all that (1) changes. q: (..., T, K), n: (T,) -> (..., T, K)."""
    return q * (s * n.to(q.dtype).log()[:, None])


class Scale(nn.Module):
    """``scaled`` with a learned s for each head, to be given to an attention layer as its ``rescale``."""

    def __init__(self, heads: int, length: int = 1024):
        super().__init__()
        self.s = nn.Parameter(torch.full((heads, 1, 1), 1 / torch.arange(1.0, length + 1).log().mean().item()))

    def forward(self, q: Tensor, n: Tensor) -> Tensor:
        return scaled(q, n, self.s)


class Layer(full.Layer):
    """``full.Layer`` whose heads rescale their queries; ``length``: of the training texts, it sets where s starts."""

    def __init__(self, D: int, heads: int = 4, length: int = 1024, rotate: Rotate = bare):
        super().__init__(D, heads, rotate=rotate, rescale=Scale(heads, length))
