"""RetNet: everything fades by the same fixed factor at each token, and keys and queries turn with their position.

    S_t = γ S_{t−1} + k̃_t v_tᵀ,    γ_h = 1 − 2^(−5−h)                  (1)
    o_t = S_tᵀ q̃_t,    q̃_t, k̃_t = q_t, k_t turned by the angles t·θ    (2)

Paper   Sun et al. 2023, arXiv:2307.08621.
Differs γ is an argument: one head knows nothing of its number (head 0 if nothing is said), the layer gives each head its own.
        The authors' three forms divide by running sums for safety in 16 bit; that cancels in the norm that follows, and is left out.
Shapes  q, k: (..., T, K), K even   v: (..., T, V)   S: (..., K, V)   t: (...), tokens so far   γ: a number, or (H, 1, 1), one for each head
Units   a head's horizon is 1/(1 − γ) tokens: 32 for head 0, 4096 for head 7. θ_i = 10000^(−i/(K/2−1)), as the authors' code has it.
        t is kept in the type of the input: exact to 2²⁴ in float32; shorter types are refused.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import core, forms
from ..layer import QKV, State, merged
from ..position.rope import rotate_pairs

SHAPES = "q:TK k:TK v:TV"


def init(K: int, V: int, lead: tuple[int, ...] = (), **like) -> dict[str, Tensor]:
    """The empty memory: S (*lead, K, V) and t (*lead), all 0."""
    return {"S": torch.zeros(*lead, K, V, **like), "t": torch.zeros(lead, **like)}


def gammas(H: int, **like) -> Tensor:
    """γ_h = 1 − 2^(−5−h) of heads 0 … H−1, (H, 1, 1)."""
    return 1 - torch.exp2(-5.0 - torch.arange(H, **like)[:, None, None])       # (1)


def rotate(x: Tensor, t: Tensor) -> Tensor:
    """x (..., K) turned by the angles t·θ, t: (...). It is RoPE whose slowest pair has frequency 1/10000 itself."""
    K = x.shape[-1]
    return rotate_pairs(x, t, 10000 ** (K / max(K - 2, 1)))


def step(state: dict[str, Tensor], q: Tensor, k: Tensor, v: Tensor, gamma: float | Tensor = 1 - 2 ** -5) -> tuple[dict[str, Tensor], Tensor]:
    """One token: the definition."""
    q, k = rotate(q, state["t"]), rotate(k, state["t"])                  # (2)
    S = gamma * state["S"] + k[..., :, None] * v[..., None, :]           # (1)
    return {"S": S, "t": state["t"] + 1}, (q[..., None, :] @ S)[..., 0, :]       # (2)


def _start(q: Tensor, k: Tensor, v: Tensor, state: dict[str, Tensor] | None, gamma: float | Tensor) -> dict[str, Tensor]:
    """The state to start from, once everything fits."""
    core.expect(SHAPES, q, k, v, state=state, state_shape={"S": "KV", "t": ""})
    g = torch.as_tensor(gamma)
    if (g.dim() and g.shape[-2:] != (1, 1)) or not ((g > 0) & (g <= 1)).all():
        raise ValueError(f"gamma has shape {tuple(g.shape)} and reaches from {g.min():.3g} to {g.max():.3g}, wanted a number or (H, 1, 1) in (0, 1]")
    if q.shape[-1] % 2 or torch.finfo(q.dtype).bits < 32:
        raise ValueError(f"q is {q.dtype} of width {q.shape[-1]}, wanted float32 or float64 (positions are counted in it), and an even width")
    return init(k.shape[-1], v.shape[-1], k.shape[:-2], **core.like(k)) if state is None else state


def recurrent(q: Tensor, k: Tensor, v: Tensor, state: dict[str, Tensor] | None = None,
              gamma: float | Tensor = 1 - 2 ** -5) -> tuple[Tensor, dict[str, Tensor]]:
    """(1) and (2) token by token. Returns o (..., T, V) and the state. Raises ValueError naming the argument that does not fit."""
    return core.run(step, _start(q, k, v, state, gamma), q, k, v, gamma=gamma)


def chunked(q: Tensor, k: Tensor, v: Tensor, state: dict[str, Tensor] | None = None,
            gamma: float | Tensor = 1 - 2 ** -5, chunk: int = 64) -> tuple[Tensor, dict[str, Tensor]]:
    """The same values chunk by chunk. Raises as ``recurrent``."""
    state, T = _start(q, k, v, state, gamma), q.shape[-2]
    t = state["t"][..., None] + torch.arange(T, **core.like(q))
    g = torch.as_tensor(gamma, **core.like(q)).log().expand(*q.shape[:-1], 1)
    out, S = forms.gated(rotate(q, t), rotate(k, t), v, g, state["S"], chunk=chunk)
    return out, {"S": S, "t": state["t"] + T}


class Layer(nn.Module):
    """y = W_o (SiLU(W_g x) ⊙ norm_h(o)): every head its own γ_h, its read scaled to mean square 1, V = 2K. The paper has no convolution.

    x, y: (B, T, D)   state: S (B, H, K, V), t (B, H), and the window (B, conv − 1, H·(2K + V)) if conv > 0.
    """

    def __init__(self, D: int, heads: int = 4, K: int = 0, V: int = 0, conv: int = 0):
        super().__init__()
        K = K or D // heads
        V = V or 2 * K
        self.D, self.H = D, heads
        self.qkv = QKV(D, heads, K, V, conv, F.silu if conv else nn.Identity())
        self.gate, self.out = nn.Linear(D, heads * V, bias=False), nn.Linear(heads * V, D, bias=False)
        self.norm = nn.RMSNorm(V, eps=1e-6, elementwise_affine=False)
        for weight in (*self.qkv.proj.weight.detach().split(self.qkv.widths), self.gate.weight):
            nn.init.xavier_uniform_(weight, gain=2 ** -2.5)
        nn.init.xavier_uniform_(self.out.weight, gain=0.5)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.D)
        (q, k, v), kept = self.qkv(x, state or {})
        o, memory = chunked(q, k * k.shape[-1] ** -0.5, v, {n: state[n] for n in "St"} if state else None, gammas(self.H, **core.like(x)))
        return self.out(F.silu(self.gate(x)) * merged(self.norm(o))), {**memory, **kept}
