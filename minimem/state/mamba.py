"""Mamba (S6): every channel keeps N numbers; what is written, read and forgotten depends on the token.

    S_t = e^{a_t} ⊙ S_{t−1} + B_t (Δ_t ⊙ x_t)ᵀ,   a_t[n, c] = Δ_t[c] A[c, n],   A < 0        (1)
    y_t = S_tᵀ C_t + D ⊙ x_t                                                                (2)

Paper   Gu and Dao 2023, arXiv:2312.00752.
Differs Δ is given as ``d`` and must be ≥ 0; the layer makes it, Δ = softplus(W x + c). The paper says that A and B become discrete by
        zero-order hold. Its code does so with A alone and writes ΔB x, Euler's rule, as here: they differ by (e^{ΔA} − 1)/(ΔA), which
        is 0.99 at ΔA = −0.02, and 0.43 at −2.
Shapes  x, d: (..., T, D)   B, C: (..., T, N)   S: (..., N, D)   A: (D, N)   D: (D,)
Units   d is a step of time without a unit; d·A is a natural log-decay ≤ 0.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import core, forms
from ..layer import ShortConv, State, step_bias


def init(N: int, D: int, lead: tuple[int, ...] = (), **like) -> Tensor:
    """The empty memory S_0 = 0, (*lead, N, D)."""
    return torch.zeros(*lead, N, D, **like)


def params(D: int, N: int, **like) -> dict[str, Tensor]:
    """What is learned, as the paper starts it: A[c, n] = −n, counted from 1, and D = 1."""
    return {"A": -torch.ones(D, N, **like).cumsum(-1), "D": torch.ones(D, **like)}


def step(S: Tensor, x: Tensor, d: Tensor, B: Tensor, C: Tensor, params: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """One token: the definition."""
    a = d[..., None, :] * params["A"].mT                                         # (1)
    S = a.exp() * S + B[..., :, None] * (d * x)[..., None, :]                    # (1)
    return S, (C[..., None, :] @ S)[..., 0, :] + params["D"] * x                 # (2)


def _start(x: Tensor, d: Tensor, B: Tensor, C: Tensor, params: dict[str, Tensor], state: Tensor | None) -> Tensor:
    """The state to start from, once everything fits."""
    core.expect("x:TD d:TD B:TN C:TN", x, d, B, C, state=state, state_shape="ND")
    core.expect("A:DN D:D", params["A"], params["D"], D=x.shape[-1], N=B.shape[-1])
    if d.detach().min() < 0 or params["A"].detach().max() > 0:
        raise ValueError(f"d and A are steps and rates of decay, wanted d >= 0 and A <= 0, saw {d.min():.3g} and {params['A'].max():.3g}")
    return init(B.shape[-1], x.shape[-1], x.shape[:-2], **core.like(x)) if state is None else state


def recurrent(x: Tensor, d: Tensor, B: Tensor, C: Tensor, params: dict[str, Tensor], state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(1) and (2) token by token. Returns y (..., T, D) and S_T. Raises ValueError naming the argument that does not fit."""
    return core.run(step, _start(x, d, B, C, params, state), x, d, B, C, params=params)


def chunked(x: Tensor, d: Tensor, B: Tensor, C: Tensor, params: dict[str, Tensor], state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The same values by ``forms.selective``, whose backward pass computes the states again. Raises as ``recurrent``."""
    state = _start(x, d, B, C, params, state)
    y, state = forms.selective(x, d, params["A"], B, C, state)
    return y + params["D"] * x, state


class Layer(nn.Module):
    """Mamba's layer: the memory sits in a gated unit of twice the width, behind a short convolution.

        x, z = W_in u,    x ← SiLU(conv(x)),    δ, B, C = W_x x,    Δ = softplus(W_Δ δ + c),    A = −e^{A_log}
        y = W_out (S6(x, Δ, B, C) ⊙ SiLU(z))

    E = ``expand``·D channels, each with N numbers; δ is ``rank`` wide (None: D/16, rounded up). ``conv``: width of the convolution, 1 for none.
    u, y: (B, T, D)   state: {"S": (B, N, E), "conv": (B, conv − 1, E)}

    Source: the paper's section 3.4 and appendix; parameters are named as in transformers' MambaMixer.
    """

    def __init__(self, D: int, N: int = 16, expand: int = 2, rank: int | None = None, conv: int = 4, bias: bool = False, conv_bias: bool = True):
        super().__init__()
        E, rank = expand * D, rank or math.ceil(D / 16)
        self.sizes = [rank, N, N]
        self.in_proj = nn.Linear(D, 2 * E, bias=bias)
        self.conv1d = ShortConv(E, conv, bias=conv_bias)
        self.x_proj = nn.Linear(E, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(rank, E)
        self.dt_proj.bias = nn.Parameter(step_bias(E))
        self.A_log = nn.Parameter(torch.arange(1.0, N + 1).log().repeat(E, 1))
        self.D = nn.Parameter(torch.ones(E))
        self.out_proj = nn.Linear(E, D, bias=bias)

    def forward(self, u: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", u, D=self.in_proj.in_features)
        state = state or {}
        x, z = self.in_proj(u).chunk(2, -1)
        x, window = self.conv1d(x, state.get("conv"))
        x = F.silu(x)
        d, B, C = self.x_proj(x).split(self.sizes, -1)
        d = F.softplus(self.dt_proj(d))
        y, S = chunked(x, d, B, C, {"A": -self.A_log.exp(), "D": self.D}, state.get("S"))
        return self.out_proj(y * F.silu(z)), {"S": S, "conv": window}
