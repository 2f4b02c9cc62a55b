"""S4: every channel drives a linear system that keeps its past as a polynomial; a convolution over a sequence, a recurrence over a stream.

    s_t = Ā s_{t−1} + B̄ x_t,   y_t = Re(C s_t) + D x_t,   Ā = (I − Δ/2 A)⁻¹ (I + Δ/2 A),   B̄ = (I − Δ/2 A)⁻¹ Δ B           (1)
    A = Λ − P P*,   Σ_l z^l C Ā^l B̄ = 2/(1+z) [κ_CB − κ_CP (1 + κ_PP)⁻¹ κ_PB],   κ_ab = Σ_n a_n b_n / (g − λ_n)             (2)
        with g = 2(1 − z) / Δ(1 + z); at the T-th roots of unity z, and with C (I − Ā^T) for C, this is the FFT of the kernel C Ā^l B̄
    S4D: no P, no B,   Ā = e^{ΔA},   B̄ = (Ā − 1)/A,   K_l = Re Σ_n C_n B̄_n e^{lΔA_n}                                      (3)

Paper   S4: Gu, Goel, Ré 2022, arXiv:2111.00396. S4D: Gu, Gupta, Goel, Ré 2022, arXiv:2206.11893.
Differs Ā^T is computed, in the paper C (I − Ā^T) is what is learned. 1 + z is multiplied out of (2), so that nothing is divided by 0 at
        z = −1; (2) is computed in float64, as I − Ā^T cancels. Every channel has its own A, P and B. One learning rate for all.
Shapes  x, y: (..., T, D)   params: log_dt, D (D,), A_log, A_im (D, N/2), C and, for S4, P, B (D, N/2, 2)   state S: (..., D, N/2, 2)
Units   Complex numbers are pairs of reals, (..., 2). N counts reals: of each conjugate pair one is kept, 2 Re stands for both.
        A = −e^{A_log} + i A_im, Δ = e^{log_dt} in time per token.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import core, forms
from . import hippo

Params = dict[str, Tensor]


def start(A: Tensor, D: int, seed: int = 0, P: Tensor | None = None, B: Tensor | None = None, **like) -> Params:
    """Any complex A, (N/2,) or (D, N/2), for D channels: Δ log-uniform in [.001, .1], C and D normal. With P and B: S4; without: S4D."""
    r = torch.Generator().manual_seed(seed)
    wide = {"generator": r, "dtype": torch.float64}
    p = {"log_dt": math.log(1e-3) + torch.rand(D, **wide) * math.log(100), "A_log": (-A.real).log().expand(D, -1),
         "A_im": A.imag.expand(D, -1), "C": torch.randn(D, A.shape[-1], 2, **wide) * 0.5 ** 0.5, "D": torch.randn(D, **wide)}
    p |= {name: torch.view_as_real(x).expand(D, -1, -1) for name, x in (("P", P), ("B", B)) if x is not None}
    return {name: x.clone().to(**{"dtype": torch.get_default_dtype(), **like}) for name, x in p.items()}


def legs(N: int) -> tuple[Tensor, Tensor, Tensor]:
    """(2) of HiPPO's A: −A = V (Λ − P P*) V*, as −A + p pᵀ + ½I is skew, p_n = √(n + ½).

    Returns Λ, P = V*p and V*B, one of each conjugate pair, (N/2,).
    """
    A, B = hippo.params(N, dtype=torch.float64).values()
    p = (torch.arange(N, dtype=torch.float64) + 0.5).sqrt()
    skew = torch.outer(p, p) - A + 0.5 * torch.eye(N, dtype=torch.float64)
    w, V = torch.linalg.eigh(-1j * skew)                         # (2) its eigenvalues are ±iw
    w, V = w[_half(N):], V[:, _half(N):].mH
    return torch.complex(torch.full_like(w, -0.5), w), V @ p.to(V.dtype), V @ B.to(V.dtype)


def params(D: int, N: int = 64, seed: int = 0, **like) -> Params:
    """S4 as it starts: A and B of HiPPO-LegS."""
    A, P, B = legs(N)
    return start(A, D, seed, P, B, **like)


def s4d_legs(D: int, N: int = 64, seed: int = 0, **like) -> Params:
    """S4D with the Λ of HiPPO-LegS."""
    return start(legs(N)[0], D, seed, **like)


def s4d_lin(D: int, N: int = 64, seed: int = 0, **like) -> Params:
    """S4D with A_n = −½ + iπn: all frequencies alike."""
    n = torch.arange(_half(N), dtype=torch.float64)
    return start(torch.complex(torch.full_like(n, -0.5), math.pi * n), D, seed, **like)


def s4d_real(D: int, N: int = 64, seed: int = 0, **like) -> Params:
    """S4D with A_n = −(n + 1): decays alone, nothing turns."""
    n = torch.arange(_half(N), dtype=torch.float64)
    return start(torch.complex(-n - 1, 0 * n), D, seed, **like)


def init(D: int, N: int = 64, lead: tuple[int, ...] = (), **like) -> Tensor:
    """The empty memory s_0 = 0, (*lead, D, N/2, 2)."""
    return torch.zeros(*lead, D, _half(N), 2, **like)


def _half(N: int) -> int:
    if N < 2 or N % 2:
        raise ValueError(f"N is {N}, wanted even, at least 2: complex numbers come in pairs")
    return N // 2


def _system(params: Params) -> tuple[Tensor, ...]:
    """Δ (D, 1), and A, C, P, B, complex, (D, N/2); without P and B for S4D."""
    A = torch.complex(-params["A_log"].exp(), params["A_im"])
    return params["log_dt"].exp()[:, None], A, *(torch.view_as_complex(params[name]) for name in "CPB" if name in params)


def step(S: Tensor, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
    """One token: the definition, S4 with P and S4D without. O(N) for a channel: I − Δ/2 A is diagonal but for one rank (Woodbury)."""
    s, u, (dt, A, C, *PB) = torch.view_as_complex(S), x[..., None], _system(params)
    if PB:
        P, B = PB
        w = s + dt / 2 * (A * s - P * _both(P.conj() * s)) + dt * B * u                           # (1) (I + Δ/2 A) s + Δ B x
        d = 1 / (1 - dt / 2 * A)
        s = d * (w - P * _both(P.conj() * d * w) / (2 / dt + _both(P.conj() * d * P)))            # (1) (I − Δ/2 A)⁻¹
    else:
        s = (dt * A).exp() * s + torch.expm1(dt * A) / A * u                                      # (3)
    return torch.view_as_real(s), _both(C * s)[..., 0] + params["D"] * x                          # (1)


def _both(x: Tensor) -> Tensor:
    """The sum over all N: of each pair one is here, and the two add up to 2 Re."""
    return 2 * x.real.sum(-1, keepdim=True)


def recurrent(x: Tensor, state: Tensor | None = None, *, params: Params) -> tuple[Tensor, Tensor]:
    """Token by token. Returns y (..., T, D) and the state. Raises ValueError naming the argument that does not fit."""
    return core.run(step, _first(x, state, params), x, params=params)


def _first(x: Tensor, state: Tensor | None, params: Params) -> Tensor:
    """The state to start from, once everything fits."""
    D, half = params["A_im"].shape
    core.expect("x:TD", x, state=state, state_shape="DNC", D=D, N=half, C=2)
    return init(D, 2 * half, x.shape[:-2], **core.like(x)) if state is None else state


def parallel(x: Tensor, state: Tensor | None = None, *, params: Params) -> tuple[Tensor, Tensor]:
    """The same values by FFT: the kernel meets the input, and what the state says by itself is added. Raises as ``recurrent``."""
    first = _first(x, state, params)
    K, said, last = (_by_roots if "P" in params else _by_powers)(x.mT, None if state is None else torch.view_as_complex(first), params)
    y = forms.convolve(K.mT.to(x.dtype), x) + params["D"] * x
    return (y if state is None else y + said.mT.to(x.dtype)), torch.view_as_real(last).to(x.dtype)


def _by_powers(x: Tensor, s: Tensor | None, params: Params) -> tuple[Tensor, Tensor | None, Tensor]:
    """S4D; x (..., D, T): the kernel (D, T), what s by itself says (..., D, T), the last state."""
    T, (dt, A, C) = x.shape[-1], _system(params)
    V, drive = _powers(dt * A, torch.arange(T, **core.like(x))), torch.expm1(dt * A) / A
    K = 2 * torch.einsum("dn,dnt->dt", C * drive, V).real                                         # (3)
    last = drive * torch.einsum("...dt,dnt->...dn", x.flip(-1).to(V.dtype), V)
    if s is None:
        return K, None, last
    return K, 2 * torch.einsum("...dn,dnt->...dt", C * (dt * A).exp() * s, V).real, last + (T * dt * A).exp() * s


def _powers(a: Tensor, l: Tensor) -> Tensor:
    """e^{la} for l = 0, 1 … T − 1: (..., T). Complex exponentials are slow; e^{64i a} e^{ja} needs few of them."""
    tens, ones = (a[..., None] * n for n in (l[::64], l[:64]))
    return (tens.exp()[..., None] * ones.exp()[..., None, :]).flatten(-2)[..., : len(l)]


def _by_roots(x: Tensor, s: Tensor | None, params: Params) -> tuple[Tensor, Tensor | None, Tensor]:
    """S4; as ``_by_powers``, all from (I − Ā z)⁻¹ at the roots of unity z, and from Ā^T."""
    T, (dt, A, C, P, B) = x.shape[-1], _system({n: p.double() for n, p in params.items()})
    A, C, P, B = (torch.cat([y, y.conj()], -1) for y in (A, C, P, B))
    half = torch.fft.fftfreq(T, dtype=dt.dtype, device=dt.device)[:, None] * math.pi
    turn, cos = torch.polar(torch.ones_like(half), -half), half.cos()                             # z = turn², 1 + z = 2 cos turn
    c = dt[..., None] / (2j * half.sin() - (dt * A)[:, None] * cos)                               # (2) 2/(1+z) / (g − λ), times turn

    def spread(b: Tensor) -> Tensor:
        """(I − Ā z)⁻¹ (I − Δ/2 A)⁻¹ Δ b, for b (..., D, N): (..., D, T, N)."""
        b, low = b[..., None, :], P[:, None]
        kPb, kPP = ((c * cos * low.conj() * y).sum(-1, keepdim=True) for y in (b, low))
        return c / turn * (b - low * kPb / (1 + kPP))                                             # (2)

    eye = torch.eye(A.shape[-1], **core.like(A))
    M = dt[..., None] / 2 * (torch.diag_embed(A) - P[..., None] * P.conj()[:, None])
    power = torch.linalg.matrix_power(torch.linalg.solve(eye - M, eye + M), T)                    # Ā^T
    C = C[:, None] @ (eye - power)
    reach = spread(B)
    X = torch.fft.fft(x.to(A.dtype)) * (2j * half[:, 0] * (T - 1)).exp() / T                      # the inverse FFT, at T − 1 alone
    last = ((eye - power) @ torch.einsum("...dt,dtn->...dn", X, reach)[..., None])[..., 0]
    K, said = torch.fft.ifft((C * reach).sum(-1)).real, None                                      # (2)
    if s is not None:
        s = torch.cat([s, s.conj()], -1).to(A.dtype)
        w = s / dt + (A * s - P * (P.conj() * s).sum(-1, keepdim=True)) / 2                       # Ā s = (I − Δ/2 A)⁻¹ Δ w
        said, last = torch.fft.ifft((C * spread(w)).sum(-1)).real, last + (power @ s[..., None])[..., 0]
    return K, said, last[..., : A.shape[-1] // 2]


class Layer(nn.Module):
    """The paper's layer: D systems side by side, GELU, and a linear map with a gate that mixes the channels (GLU).

    ``begin``: where A, B, C and Δ start, and with that which: S4D (``s4d_lin``, ``s4d_legs``, ``s4d_real``) or S4 (``params``).
    x, y: (B, T, D)   state: {"S": (B, D, N/2, 2)}
    """

    def __init__(self, D: int, N: int = 64, begin: Callable[..., Params] = s4d_lin):
        super().__init__()
        self.D = D
        self.ssm = nn.ParameterDict(begin(D, N, seed=int(torch.randint(2 ** 31, ()))))
        self.out = nn.Linear(D, 2 * D)

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        core.expect("x:TD", x, D=self.D)
        y, S = parallel(x, state and state["S"], params=self.ssm)
        return F.glu(self.out(F.gelu(y)), -1), {"S": S}
