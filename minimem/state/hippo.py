"""HiPPO: the whole past of a signal is kept as the coefficients of a polynomial, and each new value moves them a little.

    dc/dt = −(1/t) A c + (1/t) B f,   A_nk = √((2n+1)(2k+1)) for n > k, n + 1 for n = k, 0 for n < k,   B_n = √(2n+1)     (1)
    c_t = (I + A/2t)⁻¹ [(I − A/2t) c_{t−1} + (1/t) B f_t]                                                                (2)
    f(s) ≈ Σ_n c_n √(2n+1) P_n(2s/t − 1),   P_n the Legendre polynomials                                                 (3)

LegS, (1) and (2), weighs all of the past alike, however long it is. LegT keeps a window of the last θ steps instead; its A and B do not
change with time:  A_nk = (1/θ) √((2n+1)(2k+1)) · {1 for k ≤ n, (−1)^{n−k} for k > n},  B_n = (1/θ) √(2n+1),  dc/dt = −A c + B f.

Paper   Gu, Dao, Ermon, Rudra, Ré 2020, arXiv:2008.07669.
Differs the memory alone: the paper's network, a gated RNN around it, is left out. LegS has no fast form here: its step changes with t, and
        the eigenvectors of A, with which a scan would be cheap, are too ill conditioned to use from N ≈ 30 on. LegT has one, a convolution.
Shapes  x: (..., T, D), D signals f   c: (..., D, N)   out: (..., D, T, N), every c_t   t: (..., 1), the counter
Units   t and θ count tokens.
"""
from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import solve_triangular

from .. import core


def params(N: int = 16, **like) -> dict[str, Tensor]:
    """A (N, N) and B (N,) of LegS, (1)."""
    n = torch.arange(N, dtype=torch.float64)
    root = (2 * n + 1).sqrt()                                    # (1)
    A = torch.outer(root, root).tril(-1) + torch.diag(n + 1)     # (1)
    like = {"dtype": torch.get_default_dtype(), **like}
    return {"A": A.to(**like), "B": root.to(**like)}


def init(D: int, N: int = 16, lead: tuple[int, ...] = (), **like) -> dict[str, Tensor]:
    """Nothing seen: c (*lead, D, N) and t (*lead, 1), all 0."""
    return {"c": torch.zeros(*lead, D, N, **like), "t": torch.zeros(*lead, 1, **like)}


def step(state: dict[str, Tensor], x: Tensor, params: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """One token of LegS: the definition. A is lower triangular, so (2) is one triangular solve."""
    t, (A, B) = state["t"] + 1, params.values()
    half = A / (2 * t[..., None])
    c = state["c"]
    right = c - c @ half.mT + x[..., None] * B / t[..., None]                                    # (2)
    eye = torch.eye(len(B), **core.like(B))
    c = solve_triangular((eye + half).mT, right, upper=True, left=False)                         # (2)
    return {"c": c, "t": t}, c


def recurrent(x: Tensor, state: dict[str, Tensor] | None = None, *, params: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """(2) token by token. Returns every c_t (..., D, T, N) and the state. Raises ValueError naming the argument that does not fit."""
    N = len(params["B"])
    core.expect("x:TD", x, state=state, state_shape={"c": "DN", "t": "1"}, N=N)
    return core.run(step, init(x.shape[-1], N, x.shape[:-2], **core.like(x)) if state is None else state, x, params=params)


def read(c: Tensor, s: Tensor) -> Tensor:
    """(3): the signal at the places s (S,), 0 the oldest and 1 the newest of what c (..., N) covers. Returns (..., S)."""
    P = [torch.ones_like(s), 2 * s - 1]
    for n in range(1, c.shape[-1] - 1):
        P.append(((2 * n + 1) * (2 * s - 1) * P[n] - n * P[n - 1]) / (n + 1))                    # Legendre, by its recurrence
    root = (2 * torch.arange(c.shape[-1], **core.like(s)) + 1).sqrt()
    return c @ (root[:, None] * torch.stack(P[: c.shape[-1]]))                                   # (3)
