"""The Λ-mask (LM-Infinite): see the first few tokens and the last ``window``, the first never from farther than a ceiling.

    𝒱(t) = {j < n_global} ∪ {0 ≤ t − j < W}                        (1)
    dist(t, j) = min(t − j, L_train)                               (2)
    o_t = Σ_{j∈𝒱(t)} softmax_j(⟨rot(q_t, dist(t, j)), k_j⟩ / √K) v_j    (3)

Paper   Han et al. 2023, arXiv:2308.16137, section 4.
Differs the authors' code puts every key outside the window at the ceiling itself, and is run with ceiling = W = L_train: that is the
        default here (``ceiling`` None). With a ceiling above W, the first tokens stand at their true distance until they reach it, as (2)
        says. Left out: the middle tokens that the paper looks up again in some tasks. ``window`` has the same tokens at other distances.
Shapes  q, k: (..., T, K)   v: (..., T, V)   M: {"k": (..., m, K), "v": (..., m, V), "t": (...)}, m ≤ n_global + window, t tokens so far
Units   ``window`` counts the current token; the ``n_global`` come on top. Keys are kept unrotated; ``rotate`` must depend on distances
        alone, as RoPE does. t is counted in the type of the inputs: exact up to 2²⁴ in float32, 256 in bfloat16.
"""
from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from .. import core
from ..forms import attend, merge, softmax_read
from .window import Memory, Rotate, appended, bare


def init(K: int, V: int, lead: tuple[int, ...] = (), **like) -> Memory:
    """The empty cache; it grows to n_global + window entries."""
    return {"k": torch.zeros(*lead, 0, K, **like), "v": torch.zeros(*lead, 0, V, **like), "t": torch.zeros(lead, **like)}


def step(M: Memory, q: Tensor, k: Tensor, v: Tensor, window: int = 8, n_global: int = 2, ceiling: int | None = None,
         rotate: Rotate = bare) -> tuple[Memory, Tensor]:
    """One token: the definition."""
    k, v = torch.cat([M["k"], k[..., None, :]], -2), torch.cat([M["v"], v[..., None, :]], -2)
    if k.shape[-2] > n_global + window:                           # (1) the oldest that is not global goes
        k, v = (torch.cat([x[..., :n_global, :], x[..., n_global + 1:, :]], -2) for x in (k, v))
    j = torch.arange(k.shape[-2], device=k.device)
    dist = torch.where(j < n_global, M["t"][..., None] - j, j[-1] - j).clamp(max=ceiling or window)         # (2)
    w = ((rotate(q[..., None, :].expand_as(k), dist) * k).sum(-1) / q.shape[-1] ** 0.5).softmax(-1)
    return {"k": k, "v": v, "t": M["t"] + 1}, (w[..., None, :] @ v)[..., 0, :]                              # (3)


def recurrent(q: Tensor, k: Tensor, v: Tensor, state: Memory | None = None, window: int = 8, n_global: int = 2,
              ceiling: int | None = None, rotate: Rotate = bare) -> tuple[Tensor, Memory]:
    """Token by token, O(T·(n_global + window)·K). Returns o (..., T, V) and the cache.

    Raises ValueError for shapes that do not fit, mixed types, NaN, window < 1, n_global < 0, a ceiling below the window.
    """
    M = _checked(q, k, v, state, window, n_global, ceiling)
    return core.run(step, M, q, k, v, window=window, n_global=n_global, ceiling=ceiling, rotate=rotate)


def parallel(q: Tensor, k: Tensor, v: Tensor, state: Memory | None = None, window: int = 8, n_global: int = 2,
             ceiling: int | None = None, rotate: Rotate = bare) -> tuple[Tensor, Memory]:
    """All tokens at once: the window in blocks of 128, the first tokens in one read. Returns o (..., T, V) and the cache.

    Time and memory O(T·(n_global + window + 128)). Raises ValueError as ``recurrent`` does.
    """
    M = _checked(q, k, v, state, window, n_global, ceiling)
    T, L = q.shape[-2], ceiling or window
    k, v = appended(M, k, v).values()
    at = torch.arange(k.shape[-2], device=k.device)
    first, t = at[:n_global], M["t"][..., None] + torch.arange(T, **core.like(q))                   # t: places in the text
    reads = [attend(rotate(q, at[-T:]), rotate(k, at), v, window)]
    if n_global:
        dist, outside, keys, values = t[..., None] - first, at[-T:, None] - first >= window, k[..., :n_global, :], v[..., :n_global, :]
        reads += [softmax_read(rotate(q, torch.full_like(t, L)), keys, values, outside & (dist >= L)),            # (2)
                  softmax_read(rotate(q, t), rotate(keys, first), values, outside & (dist < L))]
    kept = torch.cat([first, at[n_global:][-window:]])                                              # (1)
    return reduce(merge, reads)[0].to(q.dtype), {"k": k.index_select(-2, kept), "v": v.index_select(-2, kept), "t": M["t"] + T}


def _checked(q: Tensor, k: Tensor, v: Tensor, state: Memory | None, window: int, n_global: int, ceiling: int | None) -> Memory:
    core.expect("q:TK k:TK v:TV", q, k, v, state=state, state_shape={"k": "MK", "v": "MV", "t": ""})
    if window < 1 or n_global < 0 or (ceiling is not None and ceiling < window):
        raise ValueError(f"saw window={window}, n_global={n_global} and ceiling={ceiling}, wanted window >= 1, n_global >= 0, ceiling >= window")
    if state is None:
        return init(k.shape[-1], v.shape[-1], k.shape[:-2], **core.like(k))
    if state["k"].shape[-2] > n_global + window:
        raise ValueError(f"the state holds {state['k'].shape[-2]} tokens, wanted at most n_global + window = {n_global + window}")
    return state
