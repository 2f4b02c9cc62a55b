"""The trainable parts around a memory: short convolution, token shift, heads, a gated MLP, a residual block.

A *layer* is a memory with its projections, gates and norms. Each mechanism's own is the class ``Layer`` at the end of its module:

    y, state = Layer(D)(x, state=None)            x, y: (B, T, D)

``state`` is a dict of tensors that holds everything needed to go on: the memory, convolution windows, shifted tokens, counters.
A sequence can be cut anywhere; decoding is the same call with T = 1. Raises ValueError for another width than D, NaN, no tokens.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

State = dict[str, Any]


def heads(x: Tensor, H: int) -> Tensor:
    """(..., T, H·K) → (..., H, T, K)."""
    return x.unflatten(-1, (H, -1)).transpose(-3, -2)


def merged(x: Tensor) -> Tensor:
    """(..., H, T, V) → (..., T, H·V)."""
    return x.transpose(-3, -2).flatten(-2)


def blockwise(x: Tensor, weight: Tensor) -> Tensor:
    """Each of n equal parts of x times its own matrix: a block-diagonal map. weight: (n, out, in), x: (..., n·in) → (..., n·out)."""
    return torch.einsum("...ni,noi->...no", x.unflatten(-1, (len(weight), -1)), weight).flatten(-2)


def shifted(x: Tensor, last: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The token before each token, 0 before the first (or ``last``, (B, 1, D)); and the last token, to go on from."""
    last = torch.zeros_like(x[:, :1]) if last is None else last
    return torch.cat([last, x[:, :-1]], 1), x[:, -1:]


def step_bias(n: int, low: float = 1e-3, high: float = 1e-1) -> Tensor:
    """(n,) biases c with softplus(c) = Δ log-uniform in [low, high], never below 1e-4: how Mamba, Mamba-2 and Gated DeltaNet start."""
    step = torch.exp(torch.rand(n) * math.log(high / low) + math.log(low)).clamp(min=1e-4)
    return step + torch.log(-torch.expm1(-step))


class ShortConv(nn.Module):
    """Causal convolution of each channel with itself: y_t = Σ_{j<w} c_j x_{t−w+1+j}; c_{w−1} weighs the token itself.

    x, y: (B, T, D)   state: the last w − 1 inputs, (B, w − 1, D), 0 at the start.
    """

    def __init__(self, D: int, width: int = 4, bias: bool = False):
        super().__init__()
        bound = width ** -0.5
        self.weight = nn.Parameter(torch.empty(D, 1, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(D)) if bias else None

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept = self.weight.shape[-1] - 1
        x = torch.cat([x.new_zeros(len(x), kept, x.shape[-1]) if state is None else state, x], 1)
        y = F.conv1d(x.mT, self.weight, self.bias, groups=x.shape[-1]).mT
        return y, x[:, x.shape[1] - kept:].clone()


def unit(x: Tensor) -> Tensor:
    """x / ‖x‖ over the last axis, ε = 10⁻⁶ inside the root: a zero vector stays one."""
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()


class QKV(nn.Module):
    """q: (B, H, T, K), k: (B, Hk, T, K) and v: (B, Hk, T, V), each act(conv(x W)); conv = 0 is no convolution, kv_heads = None is Hk = H.

    state: the last conv − 1 of all x W, {"window": (B, conv − 1, H·K + Hk·(K + V))}, or nothing.
    """

    def __init__(self, D: int, heads: int, K: int, V: int, conv: int, act: Callable[[Tensor], Tensor] = F.silu, kv_heads: int | None = None):
        super().__init__()
        self.K, self.V, self.act = K, V, act
        self.widths = [heads * K, (kv_heads or heads) * K, (kv_heads or heads) * V]
        self.proj = nn.Linear(D, sum(self.widths), bias=False)
        self.conv = ShortConv(sum(self.widths), conv) if conv else None

    def forward(self, x: Tensor, state: State) -> tuple[list[Tensor], State]:
        y, kept = self.proj(x), {}
        if self.conv is not None:
            y, kept["window"] = self.conv(y, state.get("window"))
        return [heads(z, z.shape[-1] // n) for z, n in zip(self.act(y).split(self.widths, -1), (self.K, self.K, self.V))], kept


class MLP(nn.Module):
    """y = W_d (SiLU(W_g x) ⊙ W_u x), SwiGLU; keeps nothing between tokens (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, D: int, width: int):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(D, width, bias=False), nn.Linear(D, width, bias=False), nn.Linear(width, D, bias=False)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return self.down(F.silu(self.gate(x)) * self.up(x)), {}


class Block(nn.Module):
    """x ← x + mixer(norm(x)), then, with an ``ffn``, x ← x + ffn(norm(x)). RMSNorm where no norm is given.

    ``mixer`` and ``ffn``: (x, state) → (y, state). state: {"mixer": …, "ffn": …}.
    """

    def __init__(self, mixer: nn.Module, D: int, ffn: nn.Module | None = None, norm: type[nn.Module] = nn.RMSNorm, eps: float = 1e-5):
        super().__init__()
        self.norm, self.mixer = norm(D, eps=eps), mixer
        self.ffn_norm, self.ffn = (norm(D, eps=eps), ffn) if ffn is not None else (None, None)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        state = state or {}
        y, mixer = self.mixer(self.norm(x), state.get("mixer"))
        x = x + y
        if self.ffn is None:
            return x, {"mixer": mixer}
        y, ffn = self.ffn(self.ffn_norm(x), state.get("ffn"))
        return x + y, {"mixer": mixer, "ffn": ffn}
