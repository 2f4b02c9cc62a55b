"""HiPPO: the whole past of a signal is kept as the coefficients of a polynomial, and each new value moves them a little.

    dc/dt = −(1/t) A c + (1/t) B f,   A_nk = √((2n+1)(2k+1)) for n > k, n + 1 for n = k, 0 for n < k,   B_n = √(2n+1)     (1)
    c_t = (I + A/2t)⁻¹ [(I − A/2t) c_{t−1} + (1/t) B f_t]                                                                (2)
    f(s) ≈ Σ_n c_n √(2n+1) P_n(2s/t − 1),   P_n the Legendre polynomials                                                 (3)

LegS, (1) and (2), weighs all of its past alike, however long. LegT has a window of θ tokens: θ stands for t, and A_nk = √((2n+1)(2k+1)),
times (−1)^{n−k} for n < k. So its step does not change with time, and over a sequence it is a convolution.

Paper   Gu, Dao, Ermon, Rudra, Ré 2020, arXiv:2008.07669. LegT is the Legendre memory unit of Voelker et al. 2019, scaled.
Differs The memory alone: the paper's network, a gated RNN around it, is left out. LegS runs token by token only: its step changes with t, and
        the basis in which A is diagonal, where a scan would be cheap, loses all digits from N ≈ 30 on.
Shapes  x: (..., T, D), D signals f   c: (..., D, N)   t: (..., 1), the counter of LegS   out: every c_t, (..., D, T, N)
Units   t and θ count tokens.
"""
from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import solve_triangular

from .. import core, forms


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
    """LegS, (2), token by token. Returns every c_t (..., D, T, N) and the state. Raises ValueError naming the argument that does not fit."""
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


# ------------------------------------------------------------------ LegT, a window


def legt(N: int = 16, window: int = 256, **like) -> dict[str, Tensor]:
    """LegT: Ā (N, N) and B̄ (N,) of (2), with the window θ for t. Raises ValueError for a window < 1."""
    if window < 1:
        raise ValueError(f"window is {window}, wanted >= 1")
    n = torch.arange(N, dtype=torch.float64)
    root = (2 * n + 1).sqrt()
    half = torch.outer(root, root) * torch.where(n[:, None] < n, (-1) ** (n[:, None] - n), 1) / (2 * window)
    eye, like = torch.eye(N, dtype=torch.float64), {"dtype": torch.get_default_dtype(), **like}
    return {"A": torch.linalg.solve(eye + half, eye - half).to(**like), "B": torch.linalg.solve(eye + half, root / window).to(**like)}


def legt_step(c: Tensor, x: Tensor, params: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """One token of LegT: the definition. Its state is c (..., D, N) alone."""
    c = c @ params["A"].mT + x[..., None] * params["B"]                                          # (2)
    return c, c


def _first(x: Tensor, state: Tensor | None, N: int) -> Tensor:
    """The c to start from, once everything fits."""
    core.expect("x:TD", x, state=state, state_shape="DN", N=N)
    return x.new_zeros(*x.shape[:-2], x.shape[-1], N) if state is None else state


def legt_recurrent(x: Tensor, state: Tensor | None = None, *, params: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """LegT token by token. Returns every c_t (..., D, T, N) and the last. Raises ValueError naming the argument that does not fit."""
    return core.run(legt_step, _first(x, state, len(params["B"])), x, params=params)


def legt_parallel(x: Tensor, state: Tensor | None = None, *, params: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The same values as N convolutions of each signal, with Ā^l B̄. Raises as ``legt_recurrent``."""
    A, B = params["A"], params["B"]
    c = _first(x, state, len(B))
    out = forms.convolve(powers(A, B, x.shape[-2]), x.mT[..., None]) + powers(A, c @ A.mT, x.shape[-2])
    return out, out[..., -1, :]


def powers(A: Tensor, v: Tensor, T: int) -> Tensor:
    """v, A v, A² v … of v (..., N), T of them: (..., T, N), by doubling."""
    V = v[..., None, :]
    while V.shape[-2] < T:
        V, A = torch.cat([V, V @ A.mT], -2), A @ A
    return V[..., :T, :]
