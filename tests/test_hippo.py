"""HiPPO against scipy, s5-pytorch and the projections it stands for."""
from functools import partial

import numpy as np
import pytest
import scipy.signal
import scipy.special
import torch

from minimem import check, core
from minimem.state import hippo

EXACT = {"rtol": 1e-9, "atol": 1e-10}
WIDE = {"dtype": torch.float64}


def signal(s, seed=0):
    """A sum of four sines of up to 4 turns, at the places s in [0, 1]."""
    r = torch.Generator().manual_seed(seed)
    size, turns, phase = (torch.rand(4, generator=r, **WIDE) for _ in range(3))
    return (size * (2 * torch.pi * (4 * turns * s[:, None] + phase)).sin()).sum(-1)


def places(T):
    return torch.arange(1, T + 1, **WIDE) / T


@pytest.mark.oracle("hippo")
@pytest.mark.parametrize("N", [1, 2, 16, 64])
def test_the_matrices_are_those_of_s5(N):
    from s5.init import make_NPLR_HiPPO
    A, _, B = make_NPLR_HiPPO(N)
    p = hippo.params(N, **WIDE)
    torch.testing.assert_close(p["A"], torch.from_numpy(-A), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(p["B"], torch.from_numpy(B), rtol=1e-14, atol=1e-14)


@pytest.mark.oracle("hippo")
def test_legs_is_a_bilinear_step_by_scipy_at_every_token():
    N, x = 8, torch.randn(40, 3, generator=torch.Generator().manual_seed(0), **WIDE)
    p = hippo.params(N, **WIDE)
    A, B, c = p["A"].numpy(), p["B"].numpy()[:, None], np.zeros((N, 3))
    out, state = hippo.recurrent(x, params=p)
    for t in range(1, 41):
        Ad, Bd, *_ = scipy.signal.cont2discrete((-A / t, B / t, np.eye(N), 0 * B), 1.0, "bilinear")
        c = Ad @ c + Bd * x[t - 1].numpy()
        torch.testing.assert_close(out[:, t - 1], torch.from_numpy(c.T), **EXACT)
    assert state["t"].item() == 40


@pytest.mark.oracle("hippo")
def test_legt_is_a_bilinear_step_by_scipy():
    N, window = 9, 50
    A = [[((2 * n + 1) * (2 * k + 1)) ** 0.5 * (1 if k <= n else (-1) ** (n - k)) / window for k in range(N)] for n in range(N)]
    B = [[(2 * n + 1) ** 0.5 / window] for n in range(N)]
    Ad, Bd, *_ = scipy.signal.cont2discrete((-np.array(A), np.array(B), np.eye(N), np.zeros((N, 1))), 1.0, "bilinear")
    p = hippo.legt(N, window, **WIDE)
    torch.testing.assert_close(p["A"], torch.from_numpy(Ad), **EXACT)
    torch.testing.assert_close(p["B"], torch.from_numpy(Bd[:, 0]), **EXACT)


@pytest.mark.oracle("hippo")
def test_read_is_a_sum_of_scipys_legendre_polynomials():
    for N in (1, 2, 3, 20):
        c, s = torch.randn(2, N, generator=torch.Generator().manual_seed(N), **WIDE), torch.linspace(-0.2, 1, 57, **WIDE)
        want = sum(c[:, n, None] * (2 * n + 1) ** 0.5 * torch.from_numpy(scipy.special.eval_legendre(n, 2 * s.numpy() - 1)) for n in range(N))
        torch.testing.assert_close(hippo.read(c, s), want, **EXACT)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_kept_are_the_projections_of_the_past(seed):
    """c_n = ∫ f(s) √(2n+1) P_n(2s − 1) ds over all of the past, for LegT over its window."""
    def wanted(f):
        s = np.linspace(0.5 / 8000, 1 - 0.5 / 8000, 8000)
        return torch.tensor([(f(torch.from_numpy(s)).numpy() * (2 * n + 1) ** 0.5 * scipy.special.eval_legendre(n, 2 * s - 1)).mean() for n in range(8)])
    x = signal(places(4000), seed)[:, None]
    c = hippo.recurrent(x, params=hippo.params(8, **WIDE))[1]["c"][0]
    torch.testing.assert_close(c, wanted(lambda s: signal(s, seed)), rtol=0, atol=5e-3)
    c = hippo.legt_parallel(x, params=hippo.legt(24, 1000, **WIDE))[1][0, :8]
    torch.testing.assert_close(c, wanted(lambda s: signal(0.75 + s / 4, seed)), rtol=0, atol=5e-3)


@pytest.mark.parametrize("seed", range(5))
def test_legs_does_not_depend_on_the_timescale(seed):
    """Four times as many samples of the same signal: the same coefficients; LegT's are others."""
    slow, fast = (signal(places(T), seed)[:, None] for T in (500, 2000))
    a, b = (hippo.recurrent(x, params=hippo.params(16, **WIDE))[1]["c"] for x in (slow, fast))
    assert (a - b).norm() < 0.05 * b.norm()
    a, b = (hippo.legt_parallel(x, params=hippo.legt(16, 400, **WIDE))[1] for x in (slow, fast))
    assert (a - b).norm() > 0.5 * b.norm()


@pytest.mark.parametrize("name", check.CHECKS)
@pytest.mark.parametrize("form", [hippo.legt_recurrent, hippo.legt_parallel])
def test_battery_of_legt(form, name):
    def bound(form):
        def run(x, state=None):
            return form(x, state, params=hippo.legt(6, 20, **core.like(x)))
        return run
    check.CHECKS[name](bound(form), bound(hippo.legt_recurrent), partial(check.inputs, "x"))


def test_powers():
    r = torch.Generator().manual_seed(0)
    A, v = torch.randn(4, 4, generator=r, **WIDE) / 2, torch.randn(2, 4, generator=r, **WIDE)
    for T in (1, 2, 7, 8):
        want = torch.stack([v @ torch.linalg.matrix_power(A, l).mT for l in range(T)], -2)
        torch.testing.assert_close(hippo.powers(A, v, T), want, **EXACT)


def test_bytes():
    """The formula of the row: N numbers for a signal, and one counter."""
    x = torch.randn(2, 20, 3)
    assert core.nbytes(hippo.recurrent(x, params=hippo.params(16))[1]) == 4 * 2 * (3 * 16 + 1)
    assert core.nbytes(hippo.legt_parallel(x, params=hippo.legt(16))[1]) == 4 * 2 * 3 * 16
    assert core.nbytes(hippo.init(3, 16, (2,))) == 4 * 2 * (3 * 16 + 1)


def test_refusals():
    x = torch.randn(5, 2)
    with pytest.raises(ValueError, match="window is 0, wanted >= 1"):
        hippo.legt(4, 0)
    with pytest.raises(ValueError, match=r"state\['c'\] has shape \(2, 5\), wanted \(..., D=2, N=4\)"):
        hippo.recurrent(x, {"c": torch.zeros(2, 5), "t": torch.zeros(1)}, params=hippo.params(4))
    with pytest.raises(ValueError, match="state has shape"):
        hippo.legt_parallel(x, torch.zeros(2, 5), params=hippo.legt(4))
    with pytest.raises(ValueError, match="x is torch.int64"):
        hippo.recurrent(x.long(), params=hippo.params(4))
