"""DeltaNet: a matrix of fixed size that corrects what it says about one key, and leaves the rest alone.

    S_t = (I − b_t k_t k_tᵀ) S_{t−1} + b_t k_t v_tᵀ        (1)
    o_t = S_tᵀ q_t                                        (2)

One step of gradient descent, of size b_t, on ½‖S_{t−1}ᵀ k_t − v_t‖²: with b_t = 1 the newest pair is read back exactly.

Paper   Schlag, Irie, Schmidhuber 2021, arXiv:2102.11174; in parallel over chunks: Yang et al. 2024, arXiv:2406.06484.
Differs b is given, q and k are not convolved, activated or normed, q is not scaled: that is ``Layer``, as in the paper of 2024. The
        sum of |k| as norm and the feature map of 2021 are left out.
Shapes  q, k: (..., T, K)   v: (..., T, V)   b: (..., T, 1)   S: (..., K, V)
Units   b in (0, 1), or (0, 2) to allow negative eigenvalues. Keys have unit norm: with b‖k‖² > 2 the memory grows without bound.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import core, forms
from ..layer import QKV, State, merged, unit

SHAPES = "q:TK k:TK v:TV b:T1"


def init(K: int, V: int, lead: tuple[int, ...] = (), **like) -> Tensor:
    """The empty memory S_0 = 0, (*lead, K, V)."""
    return torch.zeros(*lead, K, V, **like)


def step(S: Tensor, q: Tensor, k: Tensor, v: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """One token: the definition."""
    miss = v - (k[..., None, :] @ S)[..., 0, :]                  # (1) what the memory gets wrong about k
    S = S + k[..., :, None] * (b * miss)[..., None, :]           # (1) correct it
    return S, (q[..., None, :] @ S)[..., 0, :]                   # (2)


def recurrent(q: Tensor, k: Tensor, v: Tensor, b: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(1) and (2) token by token. Returns o (..., T, V) and S_T. Raises ValueError naming the argument that does not fit."""
    core.expect(SHAPES, q, k, v, b, state=state, state_shape="KV")
    state = init(k.shape[-1], v.shape[-1], k.shape[:-2], **core.like(k)) if state is None else state
    return core.run(step, state, q, k, v, b)


def chunked(q: Tensor, k: Tensor, v: Tensor, b: Tensor, state: Tensor | None = None, chunk: int = 32) -> tuple[Tensor, Tensor]:
    """The same values chunk by chunk: T/chunk steps, each one triangular solve. Raises as ``recurrent``."""
    core.expect(SHAPES, q, k, v, b, state=state, state_shape="KV")
    return forms.delta(q, k, v, b, state=state, chunk=chunk)


class Layer(nn.Module):
    """q, k, v = SiLU(conv(x W)), q and k of unit norm, b = σ(x W_b) per head, twice that if ``negative``; o → RMSNorm per head → W_o.

    x, y: (B, T, D)   state: S (B, H, K, V) and the window of the convolutions, (B, conv − 1, H·(2K + V)).
    ``negative`` allows eigenvalues of I − b k kᵀ down to −1 (Grazzi et al. 2024, arXiv:2411.12537). conv = 0: no convolution.
    """

    def __init__(self, D: int, heads: int = 4, K: int = 0, V: int = 0, conv: int = 4, negative: bool = False):
        super().__init__()
        K, V = K or D // heads, V or D // heads
        self.D, self.strongest = D, 2.0 if negative else 1.0
        self.qkv, self.b = QKV(D, heads, K, V, conv), nn.Linear(D, heads, bias=False)
        self.norm, self.out = nn.RMSNorm(V, eps=1e-5), nn.Linear(heads * V, D, bias=False)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.D)
        state = state or {}
        (q, k, v), kept = self.qkv(x, state)
        b = self.strongest * self.b(x).sigmoid().mT[..., None]
        o, S = chunked(unit(q) * q.shape[-1] ** -0.5, unit(k), v, b, state.get("S"))
        return self.out(merged(self.norm(o))), {"S": S, **kept}
