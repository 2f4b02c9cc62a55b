"""Linear attention: every key-value pair is added to one matrix, and a running sum of the keys says how much was added.

    S_t = S_{t−1} + φ(k_t) v_tᵀ,   z_t = z_{t−1} + φ(k_t),   φ(x) = elu(x) + 1        (1)
    o_t = S_tᵀ φ(q_t) / z_tᵀ φ(q_t)                                                  (2)

Paper   Katharopoulos et al. 2020, arXiv:2006.16236.
Differs no ε in the denominator: φ > 0 keeps it positive (φ is computed as x + 1 above 0 and e^x below, which never rounds to 0
        before e^x itself does, near x = −100 in float32).
Shapes  q, k: (..., T, K)   v: (..., T, V)   S: (..., K, V)   z: (..., K)
"""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import core, forms
from ..layer import QKV, State, merged, unit

SHAPES = "q:TK k:TK v:TV"


def init(K: int, V: int, lead: tuple[int, ...] = (), **like) -> dict[str, Tensor]:
    """The empty memory: S (*lead, K, V) and z (*lead, K), all 0."""
    return {"S": torch.zeros(*lead, K, V, **like), "z": torch.zeros(*lead, K, **like)}


def phi(x: Tensor) -> Tensor:
    """elu(x) + 1, positive."""
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())


def step(state: dict[str, Tensor], q: Tensor, k: Tensor, v: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """One token: the definition."""
    q, k = phi(q), phi(k)                                        # (1)
    S = state["S"] + k[..., :, None] * v[..., None, :]           # (1)
    z = state["z"] + k                                           # (1)
    o = (q[..., None, :] @ S)[..., 0, :] / (q * z).sum(-1, keepdim=True)     # (2)
    return {"S": S, "z": z}, o


def _start(q: Tensor, k: Tensor, v: Tensor, state: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """The state to start from, once everything fits."""
    core.expect(SHAPES, q, k, v, state=state, state_shape={"S": "KV", "z": "K"})
    return init(k.shape[-1], v.shape[-1], k.shape[:-2], **core.like(k)) if state is None else state


def recurrent(q: Tensor, k: Tensor, v: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """(1) and (2) token by token. Returns o (..., T, V) and the state. Raises ValueError naming the argument that does not fit."""
    return core.run(step, _start(q, k, v, state), q, k, v)


def chunked(q: Tensor, k: Tensor, v: Tensor, state: dict[str, Tensor] | None = None,
            chunk: int = 64) -> tuple[Tensor, dict[str, Tensor]]:
    """The same values chunk by chunk, 4,096 tokens at a time; z is one more column of S, written with v = 1. Raises as ``recurrent``."""
    state, outs = _start(q, k, v, state), []
    both = torch.cat([state["S"], state["z"][..., None]], -1)
    for qn, kn, vn in zip(*(x.split(4096, -2) for x in (q, k, v))):
        out, both = forms.gated(phi(qn), phi(kn), F.pad(vn, (0, 1), value=1.0), state=both, chunk=chunk)
        outs.append(out[..., :-1] / out[..., -1:])
    return torch.cat(outs, -2), {"S": both[..., :-1], "z": both[..., -1]}


class Layer(nn.Module):
    """q, k, v = conv(x W); o by (1) and (2) → W_o. The paper has no convolution.

    ``normed`` is how it is built today: q, k, v = SiLU(conv(x W)), q and k of unit norm, no φ and no normaliser, o → RMSNorm per head
    → W_o; it is then DeltaNet's layer but for the rule, S = Σ k vᵀ.
    x, y: (B, T, D)   state: S (B, H, K, V), z (B, H, K) unless normed, and the window (B, conv − 1, H·(2K + V)) if conv > 0.
    """

    def __init__(self, D: int, heads: int = 4, K: int = 0, V: int = 0, conv: int = 0, normed: bool = False):
        super().__init__()
        K, V = K or D // heads, V or D // heads
        self.D, self.normed = D, normed
        self.qkv = QKV(D, heads, K, V, conv, F.silu if normed else nn.Identity())
        self.norm, self.out = nn.RMSNorm(V, eps=1e-5) if normed else None, nn.Linear(heads * V, D, bias=False)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.D)
        state = state or {}
        (q, k, v), kept = self.qkv(x, state)
        if self.normed:
            o, S = forms.gated(unit(q) * q.shape[-1] ** -0.5, unit(k), v, state=state.get("S"))
            return self.out(merged(self.norm(o))), {"S": S, **kept}
        o, memory = chunked(q, k, v, {n: state[n] for n in "Sz"} if state else None)
        return self.out(merged(o)), {**memory, **kept}
