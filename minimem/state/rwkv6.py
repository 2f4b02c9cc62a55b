"""RWKV-6 (Finch): a matrix whose rows each fade by what the token says, read before it is written, with a bonus for the current token.

    o_t = (S_{t−1} + diag(u) k_t v_tᵀ)ᵀ q_t                      (1)
    S_t = diag(e^{g_t}) S_{t−1} + k_t v_tᵀ                       (2)

Paper   Peng et al. 2024, arXiv:2404.05892.
Differs g is given (a_t in the catalog's row). The paper's layer, below, makes it of its input: g_t = −exp(w₀ + tanh(x_t A) B).
        q is the paper's r. The other half of a block is ``rwkv4.ChannelMix``, 3.5 D wide (its 1 − μ is called μ there).
Shapes  q, k, g: (..., T, K)   v: (..., T, V)   S: (..., K, V)   u: (K,), or (heads, K) if the last leading axis is heads
Units   g is a natural log-decay ≤ 0 for each key. u is a factor on what the current token writes, for its own read alone.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import core, forms
from ..layer import State, heads, merged, shifted
from .rwkv4 import ramps

Params = dict[str, Tensor]
SHAPES = "q:TK k:TK v:TV g:TK"


def init(K: int, V: int, lead: tuple[int, ...] = (), **like) -> Tensor:
    """The empty memory S_0 = 0, (*lead, K, V)."""
    return torch.zeros(*lead, K, V, **like)


def params(K: int, seed: int = 0, **like) -> dict[str, Tensor]:
    """{"u": (K,)}, drawn from N(0, 1)."""
    return {"u": torch.randn(K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(**like)}


def step(S: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor, params: Params) -> tuple[Tensor, Tensor]:
    """One token: the definition."""
    now = k[..., :, None] * v[..., None, :]
    seen = S + params["u"][..., :, None] * now                   # (1)
    o = (q[..., None, :] @ seen)[..., 0, :]                      # (1)
    return g.exp()[..., :, None] * S + now, o                    # (2)


def _start(q: Tensor, k: Tensor, v: Tensor, g: Tensor, params: Params, state: Tensor | None) -> Tensor:
    """The state to start from, once everything fits."""
    core.expect(SHAPES, q, k, v, g, state=state, state_shape="KV")
    u, wanted = params["u"], k.shape[:-2][-1:] + k.shape[-1:]
    if u.shape not in (wanted, wanted[-1:]) or u.dtype != k.dtype:
        raise ValueError(f"u is {u.dtype} of shape {tuple(u.shape)}, wanted {k.dtype}, {tuple(wanted[-1:])} or {tuple(wanted)}")
    return init(k.shape[-1], v.shape[-1], k.shape[:-2], **core.like(k)) if state is None else state


def recurrent(q: Tensor, k: Tensor, v: Tensor, g: Tensor, params: Params, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(1) and (2) token by token. Returns o (..., T, V) and S_T. Raises ValueError naming the argument that does not fit."""
    return core.run(step, _start(q, k, v, g, params, state), q, k, v, g, params=params)


def chunked(q: Tensor, k: Tensor, v: Tensor, g: Tensor, params: Params, state: Tensor | None = None,
            chunk: int = 64) -> tuple[Tensor, Tensor]:
    """The same values chunk by chunk. Raises as ``recurrent``.

    What reads S_{t−1} reads after a write that comes one token late; the last write is made at the end.
    """
    state = _start(q, k, v, g, params, state)
    late = [F.pad(x[..., :-1, :], (0, 0, 1, 0)) for x in (k, v, g)]
    out, S = forms.gated(q, *late, state=state, chunk=chunk)
    out = out + (q * params["u"][..., None, :] * k).sum(-1, keepdim=True) * v
    return out, g[..., -1, :, None].exp() * S + k[..., -1, :, None] * v[..., -1, None, :]


# ------------------------------------------------------------------ the layer of the paper


class Layer(nn.Module):
    """Time mix: y = W_o (GroupNorm(o) ⊙ SiLU(W_g x_g)), with r, k, v, g and the decay each made of its own mix of two tokens.

    The mix depends on the tokens: x_• = x + (x_{t−1} − x) ⊙ (μ_• + tanh(x_μ A) B_•), x_μ a fixed mix, A and B_• of rank ``lora``.
    ``K``: width of a head, at most D. ``layer`` of ``layers``, counted from 0, sets how it starts: decays slow to fast, A = 0.
    state: {"x": (B, 1, D) the last token, "S": (B, D / K, K, K)}, (1 + K) D floats; ChannelMix keeps one more D.
    Raises ValueError if K does not divide D.
    """

    def __init__(self, D: int, K: int = 64, lora: int = 32, decay_lora: int = 64, layer: int = 0, layers: int = 2):
        super().__init__()
        self.D, K, n = D, min(K, D), torch.arange(D)
        if D % K:
            raise ValueError(f"D is {D}, wanted a multiple of K = {K}")
        self.H = D // K
        mu, depth = ramps(D, layer, layers)
        now = torch.stack([mu, mu, mu, mu + 0.3 * depth, mu ** 0.5, mu ** 0.5])          # x_μ, then w, k, v, r, g
        self.mix = nn.Parameter(1 - now)
        self.mix_down, self.decay_down = nn.Parameter(torch.zeros(D, 5 * lora)), nn.Parameter(torch.zeros(D, decay_lora))
        self.mix_up = nn.Parameter(torch.empty(5, lora, D).uniform_(-0.01, 0.01))
        self.decay_up = nn.Parameter(torch.empty(decay_lora, D).uniform_(-0.01, 0.01))
        self.decay = nn.Parameter(-6 + 5 * (n / max(1, D - 1)) ** (0.7 + 1.3 * depth))
        self.bonus = nn.Parameter((depth * (1 - n / max(1, D - 1)) + 0.1 * ((n + 1) % 3 - 1)).unflatten(0, (self.H, K)))
        self.receptance, self.key, self.value, self.gate, self.output = (nn.Linear(D, D, bias=False) for _ in range(5))
        self.norm = nn.GroupNorm(self.H, D, eps=64e-5)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.D)
        before, last = shifted(x, state and state["x"])
        drift = before - x
        low = torch.tanh((x + drift * self.mix[0]) @ self.mix_down).unflatten(-1, (5, -1)).movedim(-2, 0)
        w, k, v, r, g = x + drift * (self.mix[1:] + low @ self.mix_up[:, None])
        decay = -torch.exp(self.decay + torch.tanh(w @ self.decay_down) @ self.decay_up)
        q, k, v = self.receptance(r), self.key(k), self.value(v)
        o, S = chunked(*(heads(y, self.H) for y in (q, k, v, decay)), {"u": self.bonus}, state and state["S"])
        o = self.norm(merged(o).flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.output(o * F.silu(self.gate(g))), {"x": last, "S": S}
