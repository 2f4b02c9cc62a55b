"""SWAT (sliding window attention training): a window of sigmoid weights, tilted by distance; half of the heads prefer what is near, half what is far.

    o_t = Σ_{j=t−W+1}^{t} σ((R_t q_t)·(R_j k_j) / √K + s_h (t − j)) v_j     (1)
    s_h ∈ {−2^−i} ∪ {+2^−i},    i = 1 … H/2                                 (2)

Paper   Fu et al. 2025, arXiv:2502.18845, equations 2 to 5. There is no −log n and no sum to divide by: with W keys of score 0 the weights sum to W/2.
        Named for the training: texts longer than the window, so that each layer learns to pass on what the next will no longer see.
Differs the cache keeps keys unrotated and R counts slots of the cache: distances inside the window are the true ones, and no angle grows
        with the text. ``slopes`` may be given; the paper's variants with one sign only, SWAT(−) and SWAT(+), are ``two_sided(H, 0)`` and ``two_sided(0, H)``.
Shapes  q, k: (..., H, T, K), K even   v: (..., H, T, V)   slopes: (H,), or one number for all heads; then q may be (..., T, K)
        M: {"k": (..., m, K), "v": (..., m, V)}, m ≤ W
Units   ``window`` counts the current token.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import core
from ..layer import QKV, State, merged
from ..position.rope import rotate_halves
from .sigmoid import read
from .window import Memory, Rotate, appended, checked, init  # noqa: F401  (init: the empty cache is the same)


def two_sided(negative: int, positive: int) -> Tensor:
    """(negative + positive,) in float64: −2^−i for i = 1 … negative, then 2^−i for i = 1 … positive. Balanced: as many of both."""
    return torch.cat([-0.5 ** torch.arange(1.0, negative + 1).double(), 0.5 ** torch.arange(1.0, positive + 1).double()])    # (2)


def tilt(slopes: Tensor | float, M: int, like: Tensor) -> Tensor:
    """What (1) adds by distance, s_h·d for d = 0 … M − 1: (H, 1, M), or (1, M) for one slope."""
    return torch.as_tensor(slopes, **core.like(like))[..., None, None] * torch.arange(M, **core.like(like))


def step(S: Memory, q: Tensor, k: Tensor, v: Tensor, window: int = 8, slopes: Tensor | float = -0.5, rotate: Rotate = rotate_halves) -> tuple[Memory, Tensor]:
    """One token: the definition."""
    S = {"k": torch.cat([S["k"], k[..., None, :]], -2)[..., -window:, :], "v": torch.cat([S["v"], v[..., None, :]], -2)[..., -window:, :]}
    slots = torch.arange(S["k"].shape[-2], device=k.device)
    s = rotate(q[..., None, :], slots[-1:]) @ rotate(S["k"], slots).mT / q.shape[-1] ** 0.5
    p = (s + tilt(slopes, len(slots), q).flip(-1)).sigmoid()
    return S, (p @ S["v"])[..., 0, :]                                                   # (1)


def recurrent(q: Tensor, k: Tensor, v: Tensor, state: Memory | None = None, window: int = 8, slopes: Tensor | float = -0.5,
              rotate: Rotate = rotate_halves) -> tuple[Tensor, Memory]:
    """Token by token, O(T·W·K). Returns o (..., T, V) and the cache. Raises ValueError for shapes that do not fit, mixed types, NaN, window < 1."""
    return core.run(step, _checked(q, k, v, state, window), q, k, v, window=window, slopes=slopes, rotate=rotate)


def parallel(q: Tensor, k: Tensor, v: Tensor, state: Memory | None = None, window: int = 8, slopes: Tensor | float = -0.5,
             rotate: Rotate = rotate_halves) -> tuple[Tensor, Memory]:
    """All tokens at once, in blocks, O(T·(W + 128)·K). Returns o (..., T, V) and the cache. Raises ValueError as ``recurrent`` does."""
    S = _checked(q, k, v, state, window)
    k, v = appended(S, k, v).values()
    at = torch.arange(k.shape[-2], device=k.device)
    t = at[-q.shape[-2]:]
    o = read(rotate(q, t), rotate(k, at), v, q.new_zeros(len(t), 1), window, tilt(slopes, window, q))           # (1)
    return o, {"k": k[..., -window:, :].clone(), "v": v[..., -window:, :].clone()}


def _checked(q: Tensor, k: Tensor, v: Tensor, state: Memory | None, window: int) -> Memory:
    if window < 1:
        raise ValueError(f"window is {window}, wanted at least 1: the token itself")
    S = checked(q, k, v, state)
    if S["k"].shape[-2] > window:
        raise ValueError(f"the state holds {S['k'].shape[-2]} tokens, wanted at most window = {window}")
    return S


class Layer(nn.Module):
    """SWAT with ``heads`` heads, each with one of ``slopes`` (None: balanced, (2)).

    state: {"k", "v"}: (B, H, at most ``window``, D / H). Raises ValueError unless there is a slope for each head.
    """

    def __init__(self, D: int, heads: int = 4, window: int = 32, slopes: Tensor | None = None):
        super().__init__()
        slopes = two_sided(heads - heads // 2, heads // 2) if slopes is None else slopes
        if len(slopes) != heads:
            raise ValueError(f"slopes are {len(slopes)}, wanted one for each of {heads} heads")
        self.D, self.window = D, window
        self.register_buffer("slopes", slopes)
        self.qkv = QKV(D, heads, D // heads, D // heads, 0, nn.Identity())
        self.out = nn.Linear(D, D, bias=False)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.D)
        (q, k, v), _ = self.qkv(x, {})
        o, S = parallel(q, k, v, state, self.window, self.slopes)
        return self.out(merged(o)), S
