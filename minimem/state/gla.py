"""Gated linear attention: each row of the memory, one for each entry of the key, fades at a rate that the token chooses.

    S_t = diag(e^{a_t}) S_{t−1} + k_t v_tᵀ        (1)
    o_t = S_tᵀ q_t / √K                          (2)

Paper   Yang et al. 2024, arXiv:2312.06635.
Differs a is given to the memory; the layer makes it, a_t = logsigmoid(x_t W₁W₂ + c)/16. Projections are drawn as ``nn.Linear`` draws them.
Shapes  q, k, a: (..., T, K)   v: (..., T, V)   S: (..., K, V)
Units   a is a natural log-decay ≤ 0 for each entry of the key; (2) scales the query by K^−½.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import core, forms
from ..layer import QKV, State, heads, merged

SHAPES = "q:TK k:TK v:TV a:TK"


def init(K: int, V: int, lead: tuple[int, ...] = (), **like) -> Tensor:
    """The empty memory S_0 = 0, (*lead, K, V)."""
    return torch.zeros(*lead, K, V, **like)


def step(S: Tensor, q: Tensor, k: Tensor, v: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """One token: the definition."""
    S = a.exp()[..., None] * S + k[..., :, None] * v[..., None, :]       # (1)
    return S, (q[..., None, :] @ S)[..., 0, :] * q.shape[-1] ** -0.5     # (2)


def recurrent(q: Tensor, k: Tensor, v: Tensor, a: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(1) and (2) token by token. Returns o (..., T, V) and S_T. Raises ValueError naming the argument that does not fit."""
    core.expect(SHAPES, q, k, v, a, state=state, state_shape="KV")
    state = init(k.shape[-1], v.shape[-1], k.shape[:-2], **core.like(k)) if state is None else state
    return core.run(step, state, q, k, v, a)


def chunked(q: Tensor, k: Tensor, v: Tensor, a: Tensor, state: Tensor | None = None, chunk: int = 64) -> tuple[Tensor, Tensor]:
    """The same values chunk by chunk, each split along a binary tree so that no decay is ever divided. Raises as ``recurrent``."""
    core.expect(SHAPES, q, k, v, a, state=state, state_shape="KV")
    return forms.gated(q * q.shape[-1] ** -0.5, k, v, a, state, chunk=chunk)


class Layer(nn.Module):
    """a = logsigmoid(x W₁W₂ + c)/16, W₁W₂ of rank 16; y = W_o (RMSNorm_h(o) ⊙ SiLU(x W_g)). All heads together hold D/2 by D.

    x, y: (B, T, D)   state: S (B, H, K, V), and the window (B, conv − 1, H·(2K + V)) if conv > 0; the paper has no convolution.
    """

    def __init__(self, D: int, heads: int = 4, K: int = 0, V: int = 0, conv: int = 0):
        super().__init__()
        K, V = K or D // heads // 2, V or D // heads
        self.D, self.H = D, heads
        self.qkv = QKV(D, heads, K, V, conv, F.silu if conv else nn.Identity())
        self.decay = nn.Sequential(nn.Linear(D, 16, bias=False), nn.Linear(16, heads * K))
        self.gate, self.out = nn.Linear(D, heads * V, bias=False), nn.Linear(heads * V, D, bias=False)
        self.norm = nn.RMSNorm(V, eps=1e-5)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.D)
        (q, k, v), kept = self.qkv(x, state or {})
        a = heads(F.logsigmoid(self.decay(x)) / 16, self.H)
        o, S = chunked(q, k, v, a, state and state["S"])
        return self.out(merged(self.norm(o)) * F.silu(self.gate(x))), {"S": S, **kept}
