"""mLSTM: linear attention with a forget gate, an input gate without a limit, and a running sum of the keys to divide by.

    S_t = f_t S_{t−1} + i_t (k_t/√K) v_tᵀ,   n_t = f_t n_{t−1} + i_t k_t/√K,   i_t = exp ĩ_t,   f_t = σ(f̃_t)        (1)
    o_t = S_tᵀ q_t / max(|n_tᵀ q_t|, 1)                                                                            (2)
    m_t = max(ln f_t + m_{t−1}, ĩ_t);   S and n are kept divided by e^{m_t}, and 1 in (2) becomes e^{−m_t}            (3)

Paper   Beck et al. 2024, arXiv:2405.04517; ``Large`` is the layer of xLSTM-7B, Beck et al. 2025, arXiv:2503.13427.
Differs (3) is a unit of measurement: outputs do not depend on it, so no gradient flows through m. f = exp f̃, the paper's other
        choice, is left out, as is the 1e-6 that the authors' code adds to the denominator.
Shapes  q, k: (..., T, K)   v: (..., T, V)   i, f: (..., T, 1)   S: (..., K, V)   n: (..., K)   m: (..., 1)
Units   i and f are pre-activations (ĩ and f̃), any numbers. e^m S is the matrix of (1).
"""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import core, forms
from ..layer import ShortConv, State, blockwise, heads, merged

SHAPES, STATE = "q:TK k:TK v:TV i:T1 f:T1", {"S": "KV", "n": "K", "m": "1"}


def init(K: int, V: int, lead: tuple[int, ...] = (), **like) -> dict[str, Tensor]:
    """The empty memory: S (*lead, K, V), n (*lead, K) and m (*lead, 1), all 0."""
    return {"S": torch.zeros(*lead, K, V, **like), "n": torch.zeros(*lead, K, **like), "m": torch.zeros(*lead, 1, **like)}


def step(state: dict[str, Tensor], q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """One token: the definition."""
    stays = F.logsigmoid(f) + state["m"]
    m = torch.maximum(stays, i).detach()                                          # (3)
    keep, key = (stays - m).exp(), (i - m).exp() * k * k.shape[-1] ** -0.5          # (3)
    S = keep[..., None] * state["S"] + key[..., :, None] * v[..., None, :]          # (1)
    n = keep * state["n"] + key                                                   # (1)
    return {"S": S, "n": n, "m": m}, _read((q[..., None, :] @ S)[..., 0, :], (q * n).sum(-1, keepdim=True), m)


def _read(Sq: Tensor, nq: Tensor, m: Tensor) -> Tensor:
    """(2). e^−80 is 0 beside any |n·q| in float32, but 0/0 would be no number."""
    return Sq / torch.maximum(nq.abs(), (-m).clamp(min=-80).exp())                # (2)


def _start(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """The state to start from, once everything fits."""
    core.expect(SHAPES, q, k, v, i, f, state=state, state_shape=STATE)
    return init(k.shape[-1], v.shape[-1], k.shape[:-2], **core.like(k)) if state is None else state


def recurrent(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor,
              state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """(1) to (3) token by token. Returns o (..., T, V) and the state. Raises ValueError naming the argument that does not fit."""
    return core.run(step, _start(q, k, v, i, f, state), q, k, v, i, f)


def chunked(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: dict[str, Tensor] | None = None,
            chunk: int = 64) -> tuple[Tensor, dict[str, Tensor]]:
    """The same values, m included, by ``forms.gated``, 4,096 tokens at a time; n is one more column of S, written with v = 1. Raises as ``recurrent``."""
    state, outs = _start(q, k, v, i, f, state), []
    both, m = torch.cat([state["S"], state["n"][..., None]], -1), state["m"][..., None, :]
    for qn, kn, vn, i_n, a in zip(*(x.split(4096, -2) for x in (q, k, v, i, F.logsigmoid(f)))):
        m = _highest(i_n.detach(), a.detach(), m)
        before, m = m[..., :-1, :], m[..., 1:, :]
        key = (i_n - m).exp() * kn * k.shape[-1] ** -0.5
        out, both = forms.gated(qn, key, F.pad(vn, (0, 1), value=1.0), a + (before - m), both, chunk=chunk)
        outs.append(_read(out[..., :-1], out[..., -1:], m))
        m = m[..., -1:, :]
    return torch.cat(outs, -2), {"S": both[..., :-1], "n": both[..., -1], "m": m[..., 0, :]}


def _highest(i: Tensor, a: Tensor, m: Tensor) -> Tensor:
    """m and the T maxima of (3) after it, (..., T + 1, 1): windows of 1, 2, 4, … tokens are joined; nothing is subtracted."""
    m, a, n = torch.cat([m, i], -2), F.pad(a, (0, 0, 1, 0)), 1                     # of the n tokens up to t: highest ĩ, Σ ln f
    while n < m.shape[-2]:
        m = torch.cat([m[..., :n, :], torch.maximum(m[..., n:, :], m[..., :-n, :] + a[..., n:, :])], -2)
        a, n = torch.cat([a[..., :n, :], a[..., n:, :] + a[..., :-n, :]], -2), 2 * n
    return m


class Layer(nn.Module):
    """The paper's mLSTM block without its residual: u = W_u x and z = W_z x twice as wide; c = SiLU(conv(u)); q and k from c, v from u,
    by blocks of four channels; y = W_o ((LN(o) ⊙ w + s ⊙ c) ⊙ SiLU(z)), the norm over each head. Gates are linear in [q, k, v].

    state: {"memory": {S, n, m}, "conv": (B, conv − 1, expand·D)}. There is no feed-forward after it. Source: arXiv:2405.04517.
    """

    def __init__(self, D: int, heads: int = 4, expand: int = 2, conv: int = 4, block: int = 4):
        super().__init__()
        self.D, self.H, E = D, heads, expand * D
        self.up, self.down = nn.Linear(D, 2 * E, bias=False), nn.Linear(E, D, bias=False)
        self.conv = ShortConv(E, conv, bias=True)
        self.q, self.k, self.v = (nn.Parameter(torch.randn(E // block, block, block) * (0.4 / D) ** 0.5) for _ in range(3))
        self.gates = nn.Linear(3 * E, 2 * heads)
        self.norm, self.skip = nn.Parameter(torch.ones(E)), nn.Parameter(torch.ones(E))
        nn.init.zeros_(self.gates.weight)
        with torch.no_grad():
            self.gates.bias.copy_(torch.cat([0.1 * torch.randn(heads), torch.linspace(3, 6, heads)]))

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.D)
        state, (u, z) = state or {}, self.up(x).chunk(2, -1)
        c, window = self.conv(u, state.get("conv"))
        c = F.silu(c)
        qkv = [blockwise(c, self.q), blockwise(c, self.k), blockwise(u, self.v)]
        i, f = heads(self.gates(torch.cat(qkv, -1)), 2 * self.H).chunk(2, 1)
        o, memory = chunked(*(heads(y, self.H) for y in qkv), i, f, state.get("memory"))
        o = merged(F.layer_norm(o, o.shape[-1:])) * self.norm + self.skip * c
        return self.down(o * F.silu(z)), {"memory": memory, "conv": window}


class Large(nn.Module):
    """The layer of xLSTM-7B: no convolution and no second branch, K = D/2H, V = D/H, gates softly capped at ±15.

    y = W_o (σ(W_g x) ⊙ LN(o) ⊙ w), the norm over each head.   state: {S, n, m}.   Source: arXiv:2503.13427.
    """

    def __init__(self, D: int, heads: int = 8, K: int | None = None, V: int | None = None, cap: float = 15.0, eps: float = 1e-6):
        super().__init__()
        self.D, self.H, self.cap, self.eps = D, heads, cap, eps
        K, V = heads * (K or D // heads // 2), heads * (V or D // heads)
        self.q, self.k = nn.Linear(D, K, bias=False), nn.Linear(D, K, bias=False)
        self.v, self.gate, self.out = nn.Linear(D, V, bias=False), nn.Linear(D, V, bias=False), nn.Linear(V, D, bias=False)
        self.i, self.f = nn.Linear(D, heads), nn.Linear(D, heads)
        self.norm = nn.Parameter(torch.ones(V))

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.D)
        i, f = (self.cap * torch.tanh(gate(x) / self.cap) for gate in (self.i, self.f))
        o, state = chunked(*(heads(y, self.H) for y in (self.q(x), self.k(x), self.v(x), i, f)), state or None)
        o = merged(F.layer_norm(o, o.shape[-1:], eps=self.eps)) * self.norm
        return self.out(torch.sigmoid(self.gate(x)) * o), state
