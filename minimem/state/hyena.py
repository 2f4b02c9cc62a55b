"""Hyena: gates between long convolutions, whose filters a small network draws from the position; all that was convolved is kept.

    z¹ = v,   z^{n+1} = x^n ⊙ (h^n * z^n),   y = z^{N+1}                                    (1)
    h(t) = FFN_sin(PosEnc(t)) · (e^{−δ t} + shift)                                          (2)

Paper   Poli et al. 2023, arXiv:2302.10866.
Differs h¹ is 1 at t = 0 and 0 later, as in the authors' code: the short convolution stands for it. So order N has N − 1 long filters. The
        position features are fixed, in their code trained a thousand times more slowly than the rest. The skip δ_d z of the code is h_0 here.
Shapes  x, z: (..., T, D), one gate and what it meets   h: (L, D)   state: all z so far, (..., t, D): it grows with every token
Units   In (2) t is the token's number over the longest length, ``longest`` − 1, so the filter is another one if that changes. It is an
        option of the memory, not of the sequence at hand, else nothing could be continued; a sequence beyond it is refused.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import core, forms
from ..layer import ShortConv

Params = dict[str, Tensor]


def network(D: int, width: int = 64, features: int = 3, seed: int = 0, **like) -> Params:
    """The network of (2) as it starts: three hidden layers, drawn as torch draws linear ones, frequency 1; the decay δ is no weight.

    δ is evenly spaced over the D channels: the fastest is down to 1 % after .3 of the longest length, the slowest after 1.5 of it.
    """
    r, sizes = torch.Generator().manual_seed(seed), [features, width, width, width, D]
    net = {"freq": torch.ones(width, dtype=torch.float64)}
    for i, (m, n) in enumerate(zip(sizes, sizes[1:])):
        W = torch.rand(n, m + (i < 3), generator=r, dtype=torch.float64) * 2 - 1
        net |= {f"W{i}": W[:, :m] / m ** 0.5} | ({f"b{i}": W[:, m] / m ** 0.5} if i < 3 else {})
    return {name: x.clone().to(**{"dtype": torch.get_default_dtype(), **like}) for name, x in net.items()}


def implicit(net: Params, T: int, longest: int, shift: float = 0.0) -> Tensor:
    """(2) at the first T tokens: h (T, D). Raises ValueError for T above ``longest``."""
    if T > longest:
        raise ValueError(f"T is {T}, wanted at most {longest}: the filter is made for that length")
    D, bands = len(net["W3"]), (net["W0"].shape[1] - 1) // 2
    n = torch.arange(T, **core.like(net["W0"]))[:, None]
    turns = torch.linspace(1e-4, bands - 1, bands, **core.like(n)) * 2 * math.pi * n / longest
    t = n / max(longest - 1, 1)
    y = torch.cat([t, turns.cos(), -turns.sin()], -1)                                             # (2) PosEnc
    for i in range(3):
        y = (net["freq"] * (y @ net[f"W{i}"].mT + net[f"b{i}"])).sin()                            # (2) FFN
    decay = torch.linspace(-math.log(0.01) / 1.5, -math.log(0.01) / 0.3, D, **core.like(n))
    return y @ net["W3"].mT * ((-decay * t).exp() + shift)                                        # (2)


def params(D: int, longest: int = 1024, seed: int = 0, **like) -> Params:
    """The filter h (longest, D) of a network as it starts."""
    return {"h": implicit(network(D, seed=seed, dtype=torch.float64), longest, longest).to(**{"dtype": torch.get_default_dtype(), **like})}


def init(D: int, lead: tuple[int, ...] = (), **like) -> Tensor:
    """Nothing seen: (*lead, 0, D)."""
    return torch.zeros(*lead, 0, D, **like)


def step(past: Tensor, x: Tensor, z: Tensor, params: Params) -> tuple[Tensor, Tensor]:
    """One token through one filter and its gate: the definition. Its cost grows with the past: t D."""
    past = torch.cat([past, z[..., None, :]], -2)
    return past, x * (params["h"][: past.shape[-2]].flip(0) * past).sum(-2)                       # (1)


def _first(x: Tensor, z: Tensor, state: Tensor | None, params: Params) -> Tensor:
    """The past to start from, once everything fits."""
    L, D = params["h"].shape
    core.expect("x:TD z:TD", x, z, state=state, state_shape="tD", D=D)
    state = init(D, x.shape[:-2], **core.like(x)) if state is None else state
    if state.shape[-2] + x.shape[-2] > L:
        raise ValueError(f"x reaches token {state.shape[-2] + x.shape[-2]}, wanted at most the filter's length {L}")
    return state


def recurrent(x: Tensor, z: Tensor, state: Tensor | None = None, *, params: Params) -> tuple[Tensor, Tensor]:
    """One line of (1) token by token: y = x ⊙ (h * z), (..., T, D), and all z so far. Raises ValueError naming the argument that does not fit."""
    return core.run(step, _first(x, z, state, params), x, z, params=params)


def parallel(x: Tensor, z: Tensor, state: Tensor | None = None, *, params: Params) -> tuple[Tensor, Tensor]:
    """The same values by FFT over past and present together, O(t log t). Raises as ``recurrent``."""
    past = torch.cat([_first(x, z, state, params), z], -2)
    T = past.shape[-2]
    return x * forms.convolve(params["h"][:T], past)[..., T - x.shape[-2]:, :], past               # (1)


class Layer(nn.Module):
    """The paper's layer: order + 1 projections, each through a convolution of width 3; then (1), gate after filter after gate.

    x, y: (B, T, D)   state: {"conv": (B, 2, (order + 1) D), "z0", "z1" …: (B, t, D), one for each of order − 1 filters}
    Raises ValueError for more than ``longest`` tokens and for an order below 2.
    """

    def __init__(self, D: int, order: int = 2, longest: int = 1024, width: int = 64, features: int = 3):
        super().__init__()
        if order < 2:
            raise ValueError(f"order is {order}, wanted >= 2: a filter stands between two gates")
        self.D, self.order, self.longest = D, order, longest
        self.inp, self.out = nn.Linear(D, (order + 1) * D), nn.Linear(D, D)
        self.conv = ShortConv((order + 1) * D, 3, bias=True)
        self.net = nn.ParameterDict(network((order - 1) * D, width, features, seed=int(torch.randint(2 ** 31, ()))))
        self.skip = nn.Parameter(torch.randn((order - 1) * D))

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        core.expect("x:TD", x, D=self.D)
        state = state or {}
        u, after = self.conv(self.inp(x), state.get("conv"))
        *gates, v = u.chunk(self.order + 1, -1)
        T = x.shape[1] + (state["z0"].shape[1] if state else 0)
        if T > self.longest:
            raise ValueError(f"x reaches token {T}, wanted at most {self.longest}")
        h = implicit(self.net, T, self.longest)
        h = torch.cat([h[:1] + self.skip, h[1:]])
        z, kept = gates.pop() * v, {"conv": after}
        for i, filt in enumerate(h.chunk(self.order - 1, -1)):
            z, kept[f"z{i}"] = parallel(gates.pop(), z, state.get(f"z{i}"), params={"h": filt})
        return self.out(z), kept
