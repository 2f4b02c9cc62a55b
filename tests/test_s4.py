"""S4 and S4D against the authors' numbers, explicit powers, scipy and s5-pytorch."""
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch

from minimem import check, core, forms
from minimem.state import hippo, s4
from minimem.tasks.delay import delay

EXACT = {"rtol": 1e-9, "atol": 1e-10}
GOLDEN = {"rtol": 1e-8, "atol": 1e-8}
WIDE = {"dtype": torch.float64}
STARTS = pytest.mark.parametrize("start", [s4.params, s4.s4d_lin, s4.s4d_legs, s4.s4d_real])


def golden(name):
    with np.load(Path(__file__).parent / f"golden/{name}.npz") as z:
        return {k: torch.from_numpy(z[k]) for k in z.files}


def pairs(x):
    return torch.view_as_real(x.resolve_conj()).clone()


def impulse(params, T):
    """The kernel: what an impulse gives, without the skip; (D, T)."""
    x = torch.zeros(T, len(params["D"]), dtype=params["D"].dtype)
    x[0] = 1
    return s4.parallel(x, params={**params, "D": 0 * params["D"]})[0].mT


def loaded(start, g, **ssm):
    layer = s4.Layer(4, 8, start).double()
    with torch.no_grad():
        for name, value in {**ssm, "D": g["D"]}.items():
            layer.ssm[name].copy_(value)
        layer.out.weight.copy_(g["out_weight"])
        layer.out.bias.copy_(g["out_bias"])
    x = g["u"].mT.clone().requires_grad_()
    y, _ = layer(x)
    (y * g["w"].mT).sum().backward()
    torch.testing.assert_close(y, g["ref_y"].mT, **GOLDEN)
    torch.testing.assert_close(x.grad, g["grad_u"].mT, **GOLDEN)
    torch.testing.assert_close(impulse(dict(layer.ssm), 15), g["ref_kernel"], **GOLDEN)
    return layer


@pytest.mark.oracle("s4")
def test_s4_equals_the_authors():
    g = golden("s4")
    loaded(s4.params, g, log_dt=g["inv_dt"][:, 0], A_log=g["A_real_raw"], A_im=-g["A_imag_raw"], P=pairs(g["P"]), B=pairs(g["B"]), C=pairs(g["C"]))


@pytest.mark.oracle("s4")
def test_s4d_equals_the_authors():
    g = golden("s4d")
    layer = loaded(s4.s4d_lin, g, log_dt=g["log_dt"], A_log=g["log_A_real"], A_im=g["A_imag"], C=pairs(g["C"]))
    for ours, theirs in (("log_dt", "log_dt"), ("A_log", "log_A_real"), ("A_im", "A_imag"), ("D", "D")):
        torch.testing.assert_close(layer.ssm[ours].grad, g[f"grad_{theirs}"], **GOLDEN)


@pytest.mark.oracle("s4")
def test_the_kernel_of_s4_is_that_of_hippos_real_matrix_by_scipy():
    """With C = B*, y = Bᵀ c for the real c of HiPPO, whatever V is: no complex number, no power but one step at a time."""
    N, T, p = 16, 60, s4.params(3, 16, **WIDE)
    p["C"] = p["B"] * torch.tensor([1.0, -1.0])
    A, B = (x.numpy() for x in hippo.params(N, **WIDE).values())
    for d, K in enumerate(impulse(p, T)):
        Ad, c, *_ = scipy.signal.cont2discrete((-A, B[:, None], B[None], np.zeros((1, 1))), p["log_dt"][d].exp().item(), "bilinear")
        for l in range(T):
            assert abs(K[l].item() - (B @ c).item()) < 1e-9 * K.abs().max()
            c = Ad @ c


@pytest.mark.oracle("s4")
@pytest.mark.parametrize("T", [1, 2, 7, 64])
def test_the_kernel_by_cauchy_sums_is_the_one_by_explicit_powers(T):
    p = s4.params(3, 12, seed=1, **WIDE)
    dt, A, C, P, B = s4._system(p)
    A, C, P, B = (torch.cat([x, x.conj()], -1) for x in (A, C, P, B))
    K, eye = impulse(p, T), torch.eye(12)
    for d in range(3):
        M = dt[d] / 2 * (A[d].diag() - torch.outer(P[d], P[d].conj()))
        step = torch.linalg.inv(eye - M) @ (eye + M)
        b = torch.linalg.inv(eye - M) @ (dt[d] * B[d])
        want = torch.stack([(C[d] @ torch.linalg.matrix_power(step, l) @ b).real for l in range(T)])
        torch.testing.assert_close(K[d], want, **EXACT)


@pytest.mark.oracle("s4")
@pytest.mark.parametrize("N", [2, 8, 64])
def test_normal_plus_low_rank_equals_s5(N):
    from s5.init import make_DPLR_HiPPO
    A, P, B, *_ = (torch.from_numpy(x)[N // 2:] for x in make_DPLR_HiPPO(N))
    ours = s4.legs(N)
    torch.testing.assert_close(ours[0], A, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours[1].abs(), P.abs(), rtol=1e-8, atol=1e-9)                   # V is unique but for a phase of each row
    torch.testing.assert_close(ours[1].conj() * ours[2], P.conj() * B, rtol=1e-8, atol=1e-9)


def test_what_makes_hippo_normal_but_for_one_rank():
    A = -hippo.params(20, **WIDE)["A"]
    p = (torch.arange(20, **WIDE) + 0.5).sqrt()
    skew = A + torch.outer(p, p) + torch.eye(20, **WIDE) / 2
    torch.testing.assert_close(skew, -skew.mT, rtol=0, atol=1e-13)


@pytest.mark.oracle("s4")
def test_s4d_holds_its_input_between_two_tokens():
    """(3) is the exact solution for an input that stays as it is for a time Δ: scipy's zero-order hold, each mode as a real 2 × 2 system."""
    p = s4.s4d_lin(2, 8, seed=3, **WIDE)
    dt, A, C = s4._system(p)
    K, want = impulse(p, 30), np.zeros((2, 30))
    for d in range(2):
        for a, c in zip(A[d].tolist(), C[d].tolist()):
            turn = np.array([[a.real, -a.imag], [a.imag, a.real]])
            Ad, s, *_ = scipy.signal.cont2discrete((turn, np.array([[1.0], [0.0]]), np.eye(2), np.zeros((2, 1))), dt[d].item(), "zoh")
            for l in range(30):
                want[d, l] += 2 * (c.real * s[0, 0] - c.imag * s[1, 0])
                s = Ad @ s
    torch.testing.assert_close(K, torch.from_numpy(want), **EXACT)


@STARTS
@pytest.mark.parametrize("name", check.CHECKS)
def test_battery(start, name):
    def bound(form):
        def run(x, state=None):
            return form(x, state, params=start(4, 6, **core.like(x)))
        return run
    check.CHECKS[name](bound(s4.parallel), bound(s4.recurrent), partial(check.inputs, "x"))


@STARTS
@pytest.mark.parametrize("T", [1, 2, 64, 511, 512])
def test_float32_is_right_at_every_root_of_unity(start, T):
    """z = −1 is among them for even T, z = 1 always; and for T = 1 nearly all of I − Ā^T cancels."""
    x = torch.randn(1, T, 8, generator=torch.Generator().manual_seed(0))
    y, S = s4.parallel(x, params=start(8, 32))
    assert y.dtype == S.dtype == torch.float32
    for got, want in zip((y, S), s4.recurrent(x.double(), params=start(8, 32, **WIDE))):
        assert (got - want).abs().max() < 2e-5 * want.abs().max()


@STARTS
def test_bytes(start):
    """The formula of the row: N numbers for each channel, D N for the layer, after any number of tokens."""
    layer = s4.Layer(6, 10, start)
    for T in (1, 50):
        assert core.nbytes(layer(torch.randn(1, T, 6))[1]) == 4 * 6 * 10 == core.nbytes(s4.init(6, 10))


def test_two_layers_start_differently_and_seeds_repeat():
    torch.manual_seed(0)
    a, b = s4.Layer(4), s4.Layer(4)
    assert not torch.equal(a.ssm["C"], b.ssm["C"])
    torch.manual_seed(0)
    assert torch.equal(s4.Layer(4).ssm["C"], a.ssm["C"])
    steps = s4.s4d_lin(4000)["log_dt"].exp()
    assert 1e-3 <= steps.min() < 1.02e-3 and 9.8e-2 < steps.max() <= 1e-1


def test_refusals():
    p = s4.params(3, 6)
    with pytest.raises(ValueError, match=r"x has shape \(5, 4\), wanted \(..., T, D=3\)"):
        s4.parallel(torch.randn(5, 4), params=p)
    with pytest.raises(ValueError, match=r"state has shape \(3, 4, 2\), wanted \(..., D=3, N=3, C=2\)"):
        s4.recurrent(torch.randn(5, 3), torch.zeros(3, 4, 2), params=p)
    with pytest.raises(ValueError, match="N is 7, wanted even, at least 2"):
        s4.s4d_lin(3, 7)


@pytest.mark.parametrize("T", [1, 2, 3, 8, 33])
def test_convolve_is_its_sum(T):
    r = torch.Generator().manual_seed(T)
    h, x = torch.randn(T, 3, generator=r, **WIDE), torch.randn(2, T, 3, generator=r, **WIDE)
    want = torch.stack([sum(h[j] * x[:, t - j] for j in range(t + 1)) for t in range(T)], 1)
    torch.testing.assert_close(forms.convolve(h, x), want, **EXACT)


def test_the_task_of_delay():
    x, late = delay(T=400, lag=100, band=1 / 16, batch=64, seed=3)
    assert x.shape == late.shape == (64, 400, 1)
    assert torch.equal(late[:, 100:], x[:, :300]) and not late[:, :100].any()
    assert abs(x.square().mean() - 1) < 0.05
    power = torch.fft.rfft(x[..., 0] * torch.hann_window(400), dim=1).abs().square().mean(0)          # turns a token: index / 400
    assert power[28:].sum() < 1e-3 * power.sum() and power[20:25].min() > 0.3 * power[1:20].mean()
    assert torch.equal(delay(seed=3)[0], delay(seed=3)[0]) and not torch.equal(delay(seed=3)[0], delay(seed=4)[0])
    for wrong in ({"lag": 0}, {"lag": 512}, {"band": 0.6}, {"band": 1 / 512}):
        with pytest.raises(ValueError, match="wanted lag in 1 ... 511 and band in"):
            delay(**wrong)
