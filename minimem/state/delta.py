"""DeltaNet: a matrix of fixed size that corrects what it says about one key, and leaves the rest alone.

    S_t = (I − b_t k_t k_tᵀ) S_{t−1} + b_t k_t v_tᵀ        (1)
    o_t = S_tᵀ q_t                                        (2)

One step of gradient descent, of size b_t, on ½‖S_{t−1}ᵀ k_t − v_t‖²: with b_t = 1 the newest pair is read back exactly.

Paper   Schlag, Irie, Schmidhuber 2021, arXiv:2102.11174; in parallel over chunks: Yang et al. 2024, arXiv:2406.06484.
Differs b is given, q and k are not convolved, activated or normed, q is not scaled: that is the layer, not the memory.
Shapes  q, k: (..., T, K)   v: (..., T, V)   b: (..., T, 1)   S: (..., K, V)
Units   b in (0, 1), or (0, 2) to allow negative eigenvalues. Keys have unit norm: with b‖k‖² > 2 the memory grows without bound.
"""
from __future__ import annotations

import torch
from torch import Tensor

from .. import core, forms

SHAPES = "q:TK k:TK v:TV b:T1"


def init(K: int, V: int, lead: tuple[int, ...] = (), **like) -> Tensor:
    """The empty memory S_0 = 0, (*lead, K, V)."""
    return torch.zeros(*lead, K, V, **like)


def step(S: Tensor, q: Tensor, k: Tensor, v: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """One token: the definition."""
    miss = v - (k[..., None, :] @ S)[..., 0, :]                  # (1) what the memory gets wrong about k
    S = S + k[..., :, None] * (b * miss)[..., None, :]           # (1) correct it
    return S, (q[..., None, :] @ S)[..., 0, :]                   # (2)


def recurrent(q: Tensor, k: Tensor, v: Tensor, b: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(1) and (2) token by token. Returns o (..., T, V) and S_T. Raises ValueError naming the argument that does not fit."""
    core.expect(SHAPES, q, k, v, b, state=state, state_shape="KV")
    state = init(k.shape[-1], v.shape[-1], k.shape[:-2], **core.like(k)) if state is None else state
    return core.run(step, state, q, k, v, b)


def chunked(q: Tensor, k: Tensor, v: Tensor, b: Tensor, state: Tensor | None = None, chunk: int = 32) -> tuple[Tensor, Tensor]:
    """The same values chunk by chunk: T/chunk steps, each one triangular solve. Raises as ``recurrent``."""
    core.expect(SHAPES, q, k, v, b, state=state, state_shape="KV")
    return forms.delta(q, k, v, b, state=state, chunk=chunk)
