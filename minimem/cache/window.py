"""Sliding window with attention sinks (StreamingLLM): keep the first few tokens and the last ``window``, drop what lies between.

    𝒱(t) = {j < S₀} ∪ {0 ≤ t − j < W}                             (1)
    o_t  = Σ_{j∈𝒱(t)} softmax_j(q̃_t·k̃_j / √K) v_j                  (2)
    q̃, k̃: q and k rotated by their slot inside the cache

Paper   Xiao et al. 2023, arXiv:2309.17453, section 3.2.
Differs the rotation is any function ``rotate(x, slots)``; without one, q and k are taken as they are. The cache keeps keys unrotated:
        a key's slot moves down each time an older one is dropped, so it is rotated anew at every read.
Shapes  q, k: (..., T, K)   v: (..., T, V)   M: {"k": (..., m, K), "v": (..., m, V)}, m ≤ sinks + window
Units   ``window`` counts the current token (window=1 sees itself and the sinks); ``sinks`` come on top.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import core
from ..forms import attend

Memory = dict[str, Tensor]
Rotate = Callable[[Tensor, Tensor], Tensor]


def bare(x: Tensor, slots: Tensor) -> Tensor:
    """No positions: x as it is."""
    return x


def init(K: int, V: int, lead: tuple[int, ...] = (), **like) -> Memory:
    """The empty cache; it grows to sinks + window entries."""
    return {"k": torch.zeros(*lead, 0, K, **like), "v": torch.zeros(*lead, 0, V, **like)}


def step(M: Memory, q: Tensor, k: Tensor, v: Tensor, window: int = 8, sinks: int = 2, rotate: Rotate = bare) -> tuple[Memory, Tensor]:
    """One token: the definition. Every other form below must agree with it."""
    M = {"k": torch.cat([M["k"], k[..., None, :]], -2), "v": torch.cat([M["v"], v[..., None, :]], -2)}
    if M["k"].shape[-2] > sinks + window:                         # (1) the oldest that is no sink goes
        M = {n: torch.cat([x[..., :sinks, :], x[..., sinks + 1:, :]], -2) for n, x in M.items()}
    slots = torch.arange(M["k"].shape[-2], device=k.device)
    q, keys = rotate(q[..., None, :], slots[-1:]), rotate(M["k"], slots)
    w = (q @ keys.mT / q.shape[-1] ** 0.5).softmax(-1)
    return M, (w @ M["v"])[..., 0, :]                             # (2)


def recurrent(q: Tensor, k: Tensor, v: Tensor, state: Memory | None = None, window: int = 8, sinks: int = 2,
              rotate: Rotate = bare) -> tuple[Tensor, Memory]:
    """Token by token, O(T·(sinks + window)·K). Returns o (..., T, V) and the cache.

    Raises ValueError for shapes that do not fit, mixed types, NaN, window < 1, sinks < 0.
    """
    M = _checked(q, k, v, state, window, sinks)
    return core.run(step, M, q, k, v, window=window, sinks=sinks, rotate=rotate)


def parallel(q: Tensor, k: Tensor, v: Tensor, state: Memory | None = None, window: int = 8, sinks: int = 2,
             rotate: Rotate = bare) -> tuple[Tensor, Memory]:
    """All tokens at once, in blocks of 128, in O(T·(sinks + window + 128)) time and memory. Returns o (..., T, V) and the cache.

    Distances inside the window are true distances, so keys rotate by their position in the call; a query that has outgrown
    the cache rotates by the last slot to read the sinks. Raises ValueError as ``recurrent`` does.
    """
    M = _checked(q, k, v, state, window, sinks)
    k, v = appended(M, k, v).values()
    at = torch.arange(k.shape[-2], device=k.device)
    t = at[-q.shape[-2]:]
    q_sinks = rotate(q, t.clamp(max=sinks + window - 1))
    o, _ = attend(rotate(q, t), rotate(k, at), v, window, sinks, q_sinks)                       # (2)
    kept = torch.cat([at[:sinks], at[sinks:][-window:]])                                        # (1)
    return o, {"k": k.index_select(-2, kept), "v": v.index_select(-2, kept)}


def checked(q: Tensor, k: Tensor, v: Tensor, state: Memory | None) -> Memory:
    """The cache to start from, empty for None, once everything fits. Raises ValueError for shapes that do not, mixed types, NaN."""
    core.expect("q:TK k:TK v:TV", q, k, v, state=state, state_shape={"k": "MK", "v": "MV"})
    return init(k.shape[-1], v.shape[-1], k.shape[:-2], **core.like(k)) if state is None else state


def appended(M: Memory, k: Tensor, v: Tensor) -> Memory:
    """The cache with the keys and values (..., T, D) of more tokens."""
    return {"k": torch.cat([M["k"], k], -2), "v": torch.cat([M["v"], v], -2)}


def _checked(q: Tensor, k: Tensor, v: Tensor, state: Memory | None, window: int, sinks: int) -> Memory:
    M = checked(q, k, v, state)
    if window < 1 or sinks < 0:
        raise ValueError(f"saw window={window} and sinks={sinks}, wanted window >= 1 and sinks >= 0")
    if M["k"].shape[-2] > sinks + window:
        raise ValueError(f"the state holds {M['k'].shape[-2]} tokens, wanted at most sinks + window = {sinks + window}")
    return M
