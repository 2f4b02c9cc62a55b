"""Log-linear attention: the past in blocks of 1, 2, 4, 8, … tokens, one matrix for each, read with weights that the token chooses.

    S_t^(l) = Σ e^{a_{j+1} + … + a_t} k_j v_jᵀ over the j ≤ t of level l,   level(t, j) = bit_length(t xor j)        (2)
    o_t = Σ_l w_t^(l) S_t^(l)ᵀ q_t                                                                             (1)

Like a binary counter: two blocks of one size become one of twice the size. Blocks are as many as there are ones among the binary
digits of the number of tokens, the newest the shortest. The token that reads is a block of its own: level 0.

Paper   Guo et al. 2025, arXiv:2506.04761.
Differs blocks are merged at once, not when the next token comes: between tokens one less is kept, and nothing read changes.
        The memory is that of Mamba-2; the paper also has one with the gated delta rule.
Shapes  q, k: (..., T, K)   v: (..., T, V)   a: (..., T, 1)   w: (..., T, L)   state: {level: S}, S (..., K, V), level 1 is one token
Units   a is a natural log-decay ≤ 0. L weights reach 2^(L−1) tokens. All w = 1 is linear attention with a gate.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import core, forms
from ..layer import ShortConv, State, heads, merged, step_bias

States = dict[int, Tensor]


def init(**like) -> States:
    """The empty memory has no matrix at all."""
    return {}


def step(state: States, q: Tensor, k: Tensor, v: Tensor, a: Tensor, w: Tensor) -> tuple[States, Tensor]:
    """One token: the definition."""
    state = {l: a.exp()[..., None] * S for l, S in state.items()}                                    # (2) all fade
    state[0] = k[..., :, None] * v[..., None, :]                                                     # (2) the token itself
    o = sum(w[..., l, None] * (q[..., None, :] @ S)[..., 0, :] for l, S in state.items())            # (1)
    l, S = 1, state.pop(0)
    while l in state:                                                                                # (2) carry, as in 0111 + 1 = 1000
        l, S = l + 1, S + state.pop(l)
    return {**state, l: S}, o


def _start(q: Tensor, k: Tensor, v: Tensor, a: Tensor, w: Tensor, state: States | None) -> States:
    """The state to start from, once everything fits."""
    if not (state is None or isinstance(state, dict) and all(isinstance(l, int) and l > 0 for l in state)):
        saw = sorted(state) if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"state must be a dict of matrices by level, 1 and up, got {saw}")
    core.expect("q:TK k:TK v:TV a:T1 w:TL", q, k, v, a, w, state=state or None, state_shape=dict.fromkeys(state or (), "KV"))
    last = q.shape[-2] + sum(1 << l - 1 for l in state or ()) - 1
    if w.shape[-1] <= last.bit_length():
        raise ValueError(f"w has {w.shape[-1]} weights, wanted {last.bit_length() + 1} for token {last}")
    return init() if state is None else state


def recurrent(q: Tensor, k: Tensor, v: Tensor, a: Tensor, w: Tensor, state: States | None = None) -> tuple[Tensor, States]:
    """(1) and (2) token by token. Returns o (..., T, V) and the state. Raises ValueError naming the argument that does not fit."""
    return core.run(step, _start(q, k, v, a, w, state), q, k, v, a, w)


def chunked(q: Tensor, k: Tensor, v: Tensor, a: Tensor, w: Tensor, state: States | None = None,
            chunk: int = 64) -> tuple[Tensor, States]:
    """The same values level by level: the right half of every block reads the left. Raises as ``recurrent``."""
    return forms.gated(q, k, v, a, _start(q, k, v, a, w, state), levels=w, chunk=chunk)


class Layer(nn.Module):
    """The paper's log-linear Mamba-2: its layer, with weights per level from the input.

        z, (x, B, C), Δ, δ = W_in u,    x, B, C ← SiLU(conv(x, B, C)),    Δ ← softplus(Δ + c),    w = softplus(L ⊙ δ)
        y = W_out RMSNorm((memory(C, B, Δx, −e^{A_log} Δ, w) + D x) ⊙ SiLU(z))

    ``heads`` of width P (None: as many as fill 2D) share B and C, N wide. ``levels`` weights a head reach 2^(levels−1) tokens.
    u, y: (B, T, D)   state: {"S": {level: (B, heads, N, P)}, "conv": (B, conv − 1, heads·P + 2N)}
    Raises ValueError beyond 2^(levels−1) tokens.

    Source: the paper; flash-linear-attention 0.6.0 (LogLinearMamba2), whose parameter names, biases and starting values these are.
    """

    def __init__(self, D: int, heads: int | None = None, N: int = 128, P: int = 64, levels: int = 15, conv: int = 4):
        super().__init__()
        H = heads or max(1, 2 * D // P)
        self.sizes, self.N = [H * P, H * P + 2 * N, H, H * levels], N
        self.in_proj = nn.Linear(D, sum(self.sizes))
        self.conv1d = ShortConv(self.sizes[1], conv)
        self.A_log = nn.Parameter(torch.arange(1.0, H + 1).log())
        self.dt_bias = nn.Parameter(step_bias(H))
        self.L = nn.Parameter(torch.ones(H, levels))
        self.D = nn.Parameter(torch.ones(H))
        self.norm = nn.RMSNorm(H * P, eps=1e-5)
        self.out_proj = nn.Linear(H * P, D)

    def forward(self, u: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", u, D=self.in_proj.in_features)
        state, H = state or {}, len(self.A_log)
        z, xBC, d, w = self.in_proj(u).split(self.sizes, -1)
        xBC, window = self.conv1d(xBC, state.get("conv"))
        x, B, C = F.silu(xBC).split([self.sizes[0], self.N, self.N], -1)
        x, d, w = heads(x, H), heads(F.softplus(d + self.dt_bias), H), F.softplus(self.L[:, None] * heads(w, H))
        B, C = (y[:, None].expand(-1, H, -1, -1) for y in (B, C))
        y, S = chunked(C, B, d * x, -self.A_log.exp()[:, None, None] * d, w, state.get("S"))
        y = merged(y + self.D[:, None, None] * x) * F.silu(z)
        return self.out_proj(self.norm(y)), {"S": S, "conv": window}
