"""Mamba-2: a matrix for each head that fades by one number a token and adds one key-value pair; linear attention with a scalar gate.

    S_t = e^{Δ_t A} S_{t−1} + B_t (Δ_t x_t)ᵀ,   A < 0 for each head        (1)
    y_t = S_tᵀ C_t + D x_t                                                (2)

So C is the query, B the key, Δx the value and ΔA the log-decay: (1) is ``forms.gated``, which the paper calls state space duality (SSD).

Paper   Dao and Gu 2024, arXiv:2405.21060.
Differs Δ is given as ``d`` and must be ≥ 0; the layer makes it, softplus(W x + c), and clamps it in every form (transformers 5.23.0
        clamps whole sequences but not single tokens, so that with a limit its decoding differs from its own reading).
Shapes  x: (..., T, P)   d: (..., T, 1)   B, C: (..., T, N)   S: (..., N, P)   A, D: (heads, 1) or (1,), the last leading axis or none
Units   d is a step of time without a unit; d·A is a natural log-decay ≤ 0.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import core, forms
from ..layer import ShortConv, State, heads, merged, step_bias


def init(N: int, P: int, lead: tuple[int, ...] = (), **like) -> Tensor:
    """The empty memory S_0 = 0, (*lead, N, P)."""
    return torch.zeros(*lead, N, P, **like)


def params(lead: tuple[int, ...] = (), seed: int = 0, **like) -> dict[str, Tensor]:
    """What a head has learned, as the paper starts it: −A uniform in [1, 16], D = 1, both (*lead, 1)."""
    drawn = torch.rand(*lead, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    one = torch.ones(*lead, 1, **like)
    return {"A": -(1 + 15 * drawn).to(one), "D": one}


def step(S: Tensor, x: Tensor, d: Tensor, B: Tensor, C: Tensor, params: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """One token: the definition."""
    S = (d * params["A"]).exp()[..., None] * S + B[..., :, None] * (d * x)[..., None, :]      # (1)
    return S, (C[..., None, :] @ S)[..., 0, :] + params["D"] * x                             # (2)


def _start(x: Tensor, d: Tensor, B: Tensor, C: Tensor, params: dict[str, Tensor], state: Tensor | None) -> Tensor:
    """The state to start from, once everything fits."""
    core.expect("x:TP d:T1 B:TN C:TN", x, d, B, C, state=state, state_shape="NP")
    core.expect("A:1 D:1", params["A"], params["D"])
    if d.detach().min() < 0 or params["A"].detach().max() > 0:
        raise ValueError(f"d and A are steps and rates of decay, wanted d >= 0 and A <= 0, saw {d.min():.3g} and {params['A'].max():.3g}")
    return init(B.shape[-1], x.shape[-1], x.shape[:-2], **core.like(x)) if state is None else state


def recurrent(x: Tensor, d: Tensor, B: Tensor, C: Tensor, params: dict[str, Tensor], state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(1) and (2) token by token. Returns y (..., T, P) and S_T. Raises ValueError naming the argument that does not fit."""
    return core.run(step, _start(x, d, B, C, params, state), x, d, B, C, params=params)


def chunked(x: Tensor, d: Tensor, B: Tensor, C: Tensor, params: dict[str, Tensor], state: Tensor | None = None,
            chunk: int = 64) -> tuple[Tensor, Tensor]:
    """The same values as gated linear attention, chunk by chunk. Raises as ``recurrent``."""
    state = _start(x, d, B, C, params, state)
    y, state = forms.gated(C, B, d * x, d * params["A"][..., None, :], state, chunk=chunk)
    return y + params["D"][..., None, :] * x, state


class Layer(nn.Module):
    """Mamba-2's layer. One projection makes everything, a short convolution mixes x, B and C, and the read is gated, then normed.

        z, (x, B, C), Δ = W_in u,    x, B, C ← SiLU(conv(x, B, C)),    Δ ← softplus(Δ + c),    A = −e^{A_log}
        y = W_out RMSNorm(SSD(x, Δ, B, C) ⊙ SiLU(z))

    ``heads`` of width P (None: as many as fill 2D), each with its own A, c and skip D; the heads of one of ``groups`` share B and C (N wide),
    and a norm runs over one group. ``conv``: width of the convolution, 1 for none. ``limit``: smallest and largest Δ.
    u, y: (B, T, D)   state: {"S": (B, heads, N, P), "conv": (B, conv − 1, heads·P + 2·groups·N)}
    Raises ValueError for heads that the groups do not divide.

    Source: the paper's section 7; parameters are named as in transformers' Mamba2Mixer.
    """

    def __init__(self, D: int, heads: int | None = None, N: int = 128, P: int = 64, groups: int = 1, conv: int = 4, bias: bool = False,
                 conv_bias: bool = True, limit: tuple[float, float] = (0.0, math.inf), eps: float = 1e-5):
        super().__init__()
        H = heads or max(1, 2 * D // P)
        if H % groups:
            raise ValueError(f"heads is {H}, wanted a multiple of groups={groups}")
        self.sizes, self.groups, self.limit, self.eps = [H * P, H * P + 2 * groups * N, H], groups, limit, eps
        self.in_proj = nn.Linear(D, sum(self.sizes), bias=bias)
        self.conv1d = ShortConv(self.sizes[1], conv, bias=conv_bias)
        self.A_log = nn.Parameter(torch.empty(H).uniform_(1, 16).log())
        self.dt_bias = nn.Parameter(step_bias(H))
        self.D = nn.Parameter(torch.ones(H))
        self.norm = nn.RMSNorm(H * P, eps=eps)
        self.out_proj = nn.Linear(H * P, D, bias=bias)

    def forward(self, u: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", u, D=self.in_proj.in_features)
        state, (inner, _, H) = state or {}, self.sizes
        z, xBC, d = self.in_proj(u).split(self.sizes, -1)
        xBC, window = self.conv1d(xBC, state.get("conv"))
        x, B, C = F.silu(xBC).tensor_split([inner, (inner + xBC.shape[-1]) // 2], -1)
        B, C = (heads(y, self.groups).repeat_interleave(H // self.groups, 1) for y in (B, C))
        d = F.softplus(d + self.dt_bias).clamp(*self.limit)
        learned = {"A": -self.A_log.exp()[:, None], "D": self.D[:, None]}
        y, S = chunked(heads(x, H), heads(d, H), B, C, learned, state.get("S"))
        y = (merged(y) * F.silu(z)).unflatten(-1, (self.groups, -1))
        y = F.rms_norm(y, y.shape[-1:], eps=self.eps).flatten(-2) * self.norm.weight
        return self.out_proj(y), {"S": S, "conv": window}
