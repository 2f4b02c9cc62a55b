"""Gated slot attention: m slots hold a key and a value each, all fade and take in a little of every token, and a softmax reads them.

    K̃_t = diag(e^{a_t}) K̃_{t−1} + (1 − e^{a_t}) k_tᵀ,    Ṽ_t = diag(e^{a_t}) Ṽ_{t−1} + (1 − e^{a_t}) v_tᵀ        (1)
    o_t = Ṽ_tᵀ softmax(K̃_t q_t)                                                                              (2)

Paper   Zhang et al. 2024, arXiv:2409.07146.
Differs a is given to the memory; the layer makes it, a_t = logsigmoid(x_t W)/8. A slot starts at 0, so the first read is the mean of the slots.
Shapes  q, k: (..., T, K)   v: (..., T, V)   a: (..., T, M)   K̃: (..., M, K)   Ṽ: (..., M, V); state: {"K": K̃, "V": Ṽ}
Units   a is a natural log-decay ≤ 0 for each slot. q is not scaled.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import core, forms
from ..layer import QKV, State, heads, merged

SHAPES = "q:TK k:TK v:TV a:TM"


def init(M: int, K: int, V: int, lead: tuple[int, ...] = (), **like) -> dict[str, Tensor]:
    """The empty slots: K̃ (*lead, M, K) and Ṽ (*lead, M, V), all 0."""
    return {"K": torch.zeros(*lead, M, K, **like), "V": torch.zeros(*lead, M, V, **like)}


def step(state: dict[str, Tensor], q: Tensor, k: Tensor, v: Tensor, a: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """One token: the definition."""
    write = -a.expm1()[..., None]                                        # (1) a slot moves by 1 − e^a of the way to the token
    K = state["K"] + write * (k[..., None, :] - state["K"])              # (1)
    V = state["V"] + write * (v[..., None, :] - state["V"])              # (1)
    p = (K @ q[..., None]).softmax(-2)                                   # (2)
    return {"K": K, "V": V}, (p.mT @ V)[..., 0, :]                       # (2)


def _start(q: Tensor, k: Tensor, v: Tensor, a: Tensor, state: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """The state to start from, once everything fits."""
    core.expect(SHAPES, q, k, v, a, state=state, state_shape={"K": "MK", "V": "MV"})
    return init(a.shape[-1], k.shape[-1], v.shape[-1], k.shape[:-2], **core.like(k)) if state is None else state


def recurrent(q: Tensor, k: Tensor, v: Tensor, a: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """(1) and (2) token by token. Returns o (..., T, V) and the slots. Raises ValueError naming the argument that does not fit."""
    return core.run(step, _start(q, k, v, a, state), q, k, v, a)


def chunked(q: Tensor, k: Tensor, v: Tensor, a: Tensor, state: dict[str, Tensor] | None = None,
            chunk: int = 64) -> tuple[Tensor, dict[str, Tensor]]:
    """The same values by two passes of gated linear attention: q over k writes how much each slot answers, its softmax reads v.

    The first memory is K̃ᵀ, whose columns fade; the second is Ṽ, whose rows do. Raises as ``recurrent``.
    """
    state, write = _start(q, k, v, a, state), -a.expm1()
    answers, K = forms.gated(q, k, write, a, state["K"].mT, by_value=True, chunk=chunk)
    o, V = forms.gated(answers.softmax(-1), write, v, a, state["V"], chunk=chunk)
    return o, {"K": K.mT, "V": V}


class Layer(nn.Module):
    """q, k, v = SiLU(x W); a = logsigmoid(x W_a)/8; y = W_o RMSNorm(SiLU(o)), the norm over all heads. M slots a head, as many as K if not said.

    x, y: (B, T, D)   state: K (B, H, M, K), V (B, H, M, V), and the window (B, conv − 1, H·(2K + V)) if conv > 0; the paper has no convolution.
    """

    def __init__(self, D: int, heads: int = 4, K: int = 0, V: int = 0, M: int = 0, conv: int = 0):
        super().__init__()
        K, V = K or D // heads, V or D // heads
        self.D, self.H = D, heads
        self.qkv, self.decay = QKV(D, heads, K, V, conv), nn.Linear(D, heads * (M or K), bias=False)
        self.norm, self.out = nn.RMSNorm(heads * V, eps=1e-5), nn.Linear(heads * V, D, bias=False)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.D)
        (q, k, v), kept = self.qkv(x, state or {})
        a = heads(F.logsigmoid(self.decay(x)) / 8, self.H)
        o, slots = chunked(q, k, v, a, {n: state[n] for n in "KV"} if state else None)
        return self.out(self.norm(F.silu(merged(o)))), {**slots, **kept}
