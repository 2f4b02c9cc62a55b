"""sLSTM: the LSTM with exponential gates; what a cell let out at the last token enters its gates at the next.

    (z̃, ĩ, f̃, õ)_t = W x_t + R h_{t−1} + c                                                                         (1)
    c_t = f'_t c_{t−1} + i'_t tanh z̃_t,   n_t = f'_t n_{t−1} + i'_t,   h_t = σ(õ_t) ⊙ c_t / n_t                     (2)

with i' = e^{ĩ_t − m_t} and f' = e^{ln σ(f̃_t) + m_{t−1} − m_t}, where m_t = max(ln σ(f̃_t) + m_{t−1}, ĩ_t) keeps both at most 1.

Paper   Beck et al. 2024, arXiv:2405.04517.
Differs W x_t + c is given: the layer makes it. No gradient flows through m, on which h does not depend. The first token has m = ĩ:
        m starts at −∞. There is no fast form: h_{t−1} stands inside tanh and σ, so token t must wait for token t − 1.
Shapes  z, i, f, o: (..., T, V), one number per cell   R: (..., V, 4V), from h to z, i, f, o   h, c, n, m: (..., V)
Units   z, i, f, o are pre-activations, any numbers. Heads are leading axes: cells of one head see each other's h, and no other's.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import core
from ..layer import ShortConv, State, blockwise, heads, merged

SHAPES, STATE = "z:TV i:TV f:TV o:TV", {"h": "V", "c": "V", "n": "V", "m": "V"}


def params(V: int, seed: int = 0, **like) -> dict[str, Tensor]:
    """R (V, 4V), drawn with a spread of 1/√V."""
    drawn = torch.randn(V, 4 * V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {"R": V ** -0.5 * drawn.to(torch.empty(0, **like))}


def init(V: int, lead: tuple[int, ...] = (), **like) -> dict[str, Tensor]:
    """The cells before the first token: h, c, n are 0, m is −∞, each (*lead, V)."""
    return {**{name: torch.zeros(*lead, V, **like) for name in "hcn"}, "m": torch.full((*lead, V), -torch.inf, **like)}


def step(state: dict[str, Tensor], z: Tensor, i: Tensor, f: Tensor, o: Tensor,
         params: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """One token: the definition."""
    back = (state["h"][..., None, :] @ params["R"])[..., 0, :].chunk(4, -1)        # (1)
    z, i, f, o = (x + r for x, r in zip((z, i, f, o), back))                       # (1)
    stays = F.logsigmoid(f) + state["m"]
    m = torch.maximum(stays, i).detach()
    keep, write = (stays - m).exp(), (i - m).exp()
    c = keep * state["c"] + write * torch.tanh(z)                                 # (2)
    n = keep * state["n"] + write                                                 # (2)
    h = torch.sigmoid(o) * c / n                                                  # (2)
    return {"h": h, "c": c, "n": n, "m": m}, h


def recurrent(z: Tensor, i: Tensor, f: Tensor, o: Tensor, state: dict[str, Tensor] | None = None, *,
              params: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """(1) and (2) token by token. Returns h (..., T, V) and the state. Raises ValueError naming the argument that does not fit."""
    core.expect(SHAPES, z, i, f, o, state=state, state_shape=STATE)
    V = z.shape[-1]
    if params["R"].shape[-2:] != (V, 4 * V):
        raise ValueError(f"params['R'] has shape {tuple(params['R'].shape)}, wanted (..., {V}, {4 * V})")
    state = init(V, z.shape[:-2], **core.like(z)) if state is None else state
    return core.run(step, state, z, i, f, o, params=params)


class Layer(nn.Module):
    """The paper's sLSTM block without its residual and its feed-forward (the ``ffn`` of a Block; theirs is gated by a GELU):
    i and f from SiLU(conv(x)), z and o from x, each by one matrix per head; y = LN(h) ⊙ w, the norm over each head.
    Names are those of (1); in the authors' code the module called fgate feeds ĩ and igate feeds f̃.

    state: {"memory": {h, c, n, m}, "conv": (B, conv − 1, D)}. conv = 0: i and f from x. Source: arXiv:2405.04517.
    """

    def __init__(self, D: int, heads: int = 4, conv: int = 4):
        super().__init__()
        self.D, self.H, V = D, heads, D // heads
        self.conv = ShortConv(D, conv, bias=True) if conv else None
        self.z, self.i, self.f, self.o = (nn.Parameter(torch.randn(heads, V, V) * (0.4 / V) ** 0.5) for _ in range(4))
        self.R, self.norm = nn.Parameter(torch.zeros(heads, V, 4 * V)), nn.Parameter(torch.ones(D))
        self.bias = nn.Parameter(torch.zeros(4, heads, V))
        with torch.no_grad():
            self.bias[2] = 5 - 12 * torch.linspace(0, 1, V) ** 0.3                # f̃ from 5, nearly all kept, to −7

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.D)
        state, u, window = state or {}, x, {}
        if self.conv:
            u, window["conv"] = self.conv(x, state.get("conv"))
            u = F.silu(u)
        made = zip((x, u, u, x), (self.z, self.i, self.f, self.o), self.bias)
        gates = (heads(blockwise(y, w), self.H) + b[:, None] for y, w, b in made)
        h, memory = recurrent(*gates, state.get("memory"), params={"R": self.R})
        return merged(F.layer_norm(h, h.shape[-1:])) * self.norm, {"memory": memory, **window}
