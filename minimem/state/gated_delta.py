"""Gated delta rule: a matrix of fixed size that first forgets a little, then corrects what it says about one key.

    S_t = e^{a_t} (I − b_t k_t k_tᵀ) S_{t−1} + b_t k_t v_tᵀ        (1)
    o_t = S_tᵀ q_t                                                (2)

Paper   Yang, Kautz, Hatamizadeh 2025, arXiv:2412.06464.
Differs a and b are given. The paper's layer makes them from its input x, a_t = −e^A softplus(x_t W_a + c) and b_t = σ(x_t W_b),
        convolves q, k and v, scales q, and norms and gates o: that is the layer, not the memory.
Shapes  q, k: (..., T, K)   v: (..., T, V)   a, b: (..., T, 1)   S: (..., K, V)
Units   a is a natural log-decay ≤ 0. b in (0, 1), or (0, 2) to allow negative eigenvalues. Keys have unit norm: with b‖k‖² > 2 the
        memory grows without bound.
"""
from __future__ import annotations

import torch
from torch import Tensor

from .. import core, forms

SHAPES = "q:TK k:TK v:TV a:T1 b:T1"


def init(K: int, V: int, lead: tuple[int, ...] = (), **like) -> Tensor:
    """The empty memory S_0 = 0, (*lead, K, V)."""
    return torch.zeros(*lead, K, V, **like)


def step(S: Tensor, q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """One token: the definition. (1) in three parts: it is S' + b k (v − S'ᵀ k)ᵀ with S' = e^a S."""
    S = a.exp()[..., None] * S                                   # (1) forget
    miss = v - (k[..., None, :] @ S)[..., 0, :]                  # (1) what the memory gets wrong about k
    S = S + k[..., :, None] * (b * miss)[..., None, :]           # (1) correct it
    return S, (q[..., None, :] @ S)[..., 0, :]                   # (2)


def recurrent(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(1) and (2) token by token. Returns o (..., T, V) and S_T. Raises ValueError naming the argument that does not fit."""
    core.expect(SHAPES, q, k, v, a, b, state=state, state_shape="KV")
    state = init(k.shape[-1], v.shape[-1], k.shape[:-2], **core.like(k)) if state is None else state
    return core.run(step, state, q, k, v, a, b)


def chunked(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor | None = None,
            chunk: int = 32) -> tuple[Tensor, Tensor]:
    """The same values chunk by chunk: T/chunk steps, each one triangular solve. Raises as ``recurrent``."""
    core.expect(SHAPES, q, k, v, a, b, state=state, state_shape="KV")
    return forms.delta(q, k, v, b, a, state, chunk)
