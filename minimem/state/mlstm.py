"""mLSTM: linear attention with a forget gate, an input gate that may grow without bound, and a running sum of the keys to divide by.

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
from torch import Tensor
from torch.nn import functional as F

from .. import core, forms

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


def recurrent(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """(1) to (3) token by token. Returns o (..., T, V) and the state. Raises ValueError naming the argument that does not fit."""
    return core.run(step, _start(q, k, v, i, f, state), q, k, v, i, f)


def chunked(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: dict[str, Tensor] | None = None,
            chunk: int = 64) -> tuple[Tensor, dict[str, Tensor]]:
    """The same values, state and m included, by ``forms.gated``; n is one more column of S, written with v = 1. Raises as ``recurrent``."""
    state, a = _start(q, k, v, i, f, state), F.logsigmoid(f)
    m = _highest(i.detach(), a.detach(), state["m"][..., None, :])
    before, m = m[..., :-1, :], m[..., 1:, :]
    both = torch.cat([state["S"], state["n"][..., None]], -1)
    key = (i - m).exp() * k * k.shape[-1] ** -0.5
    out, both = forms.gated(q, key, F.pad(v, (0, 1), value=1.0), a + (before - m), both, chunk=chunk)
    return _read(out[..., :-1], out[..., -1:], m), {"S": both[..., :-1], "n": both[..., -1], "m": m[..., -1, :]}


def _highest(i: Tensor, a: Tensor, m: Tensor) -> Tensor:
    """m and the T maxima of (3) after it, (..., T + 1, 1): windows of 1, 2, 4, … tokens are joined, so nothing is ever subtracted."""
    m, a, n = torch.cat([m, i], -2), F.pad(a, (0, 0, 1, 0)), 1                     # over the n tokens up to t: the highest ĩ; Σ ln f
    while n < m.shape[-2]:
        m = torch.cat([m[..., :n, :], torch.maximum(m[..., n:, :], m[..., :-n, :] + a[..., n:, :])], -2)
        a, n = torch.cat([a[..., :n, :], a[..., n:, :] + a[..., :-n, :]], -2), 2 * n
    return m
