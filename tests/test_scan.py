"""The fast forms of diagonal memories against the loops they replace."""
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from minimem import core, forms


def step(h, a, x):
    h = a.exp() * h + x
    return h, h


def make(T, lead=(2, 3), D=5, seed=0, dtype=torch.float64, decay=None):
    """a, x and a state; a uniform between decay and 0."""
    r = torch.Generator().manual_seed(seed)
    a, x = (torch.randn(*lead, T, D, generator=r, dtype=torch.float64) for _ in range(2))
    a = F.logsigmoid(a) if decay is None else decay * a.sigmoid()
    return [y.to(dtype) for y in (a, x, torch.randn(*lead, D, generator=r, dtype=torch.float64))]


@pytest.mark.parametrize("T", [1, 2, 3, 7, 8, 19, 32, 33, 64, 128, 150])
@pytest.mark.parametrize("rows", [4096, 1])
def test_scan_equals_the_loop_with_its_gradients(T, rows, monkeypatch):
    monkeypatch.setattr(forms, "ROWS", rows)                         # all in one part, and in parts of 64 tokens
    a, x, state = (y.requires_grad_() for y in make(T))
    grads = []
    for h, last in (forms.scan(a, x, state), core.run(step, state, a, x)):
        assert torch.equal(h[..., -1, :], last)
        grads.append((h, *torch.autograd.grad(h.sin().sum() + last.square().sum(), (a, x, state))))
    for got, want in zip(*grads):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("lead", [(), (0,), (2, 0), (4,)])
def test_scan_with_any_leading_axes(lead):
    a, x, _ = make(40, lead)
    h, last = forms.scan(a, x)
    assert h.shape == (*lead, 40, 5) and last.shape == (*lead, 5)
    torch.testing.assert_close(h, core.run(step, torch.zeros(*lead, 5).double(), a, x)[0], rtol=1e-11, atol=1e-12)


def test_minus_infinity_empties_exactly_and_has_a_slope_of_zero():
    a, x, state = make(40)
    a[..., 21, :] = -torch.inf
    a.requires_grad_()
    h, _ = forms.scan(a, x, state)
    assert torch.equal(h[..., 21, :], x[..., 21, :])
    torch.testing.assert_close(h[..., 21:, :], forms.scan(a[..., 21:, :], x[..., 21:, :])[0], rtol=1e-12, atol=0)
    slope, = torch.autograd.grad(h.sum(), a)
    assert slope.isfinite().all() and (slope[..., 21, :] == 0).all()


@pytest.mark.parametrize("wrong, words", [
    (lambda a, x, s: (a[..., :-1], x, s), r"a has shape .* wanted \(..., T, D\)"),
    (lambda a, x, s: (a[..., :0, :], x[..., :0, :], s), "T >= 1"),
    (lambda a, x, s: (a, x, s[..., :-1]), "state has shape")])
def test_what_scan_refuses(wrong, words):
    with pytest.raises(ValueError, match=words):
        forms.scan(*wrong(*make(5)))


def s6(x, d, A, B, C, state=None):
    """S6 token by token, as it is written."""
    def token(S, x, d, B, C):
        S = (d[..., None, :] * A.mT).exp() * S + B[..., :, None] * (d * x)[..., None, :]
        return S, (C[..., None, :] @ S)[..., 0, :]
    state = x.new_zeros(*x.shape[:-2], A.shape[1], A.shape[0]) if state is None else state
    return core.run(token, state, x, d, B, C)


def s6_inputs(T, lead=(2, 3), D=5, N=4, seed=0, dtype=torch.float64):
    r = torch.Generator().manual_seed(seed)
    x, d, B, C = (torch.randn(*lead, T, n, generator=r, dtype=torch.float64) for n in (D, D, N, N))
    A, state = (torch.randn(*s, generator=r, dtype=torch.float64) for s in ((D, N), (*lead, N, D)))
    return [y.to(dtype) for y in (x, F.softplus(d), -A.exp(), B, C, state)]


@pytest.mark.parametrize("T", [1, 2, 7, 64, 65, 150])
@pytest.mark.parametrize("rows", [4096, 1])
def test_selective_equals_the_loop_with_its_gradients(T, rows, monkeypatch):
    monkeypatch.setattr(forms, "ROWS", rows)                         # segments of 64 and of 8 tokens
    xs = [y.requires_grad_() for y in s6_inputs(T)]
    grads = [(y, S, *torch.autograd.grad(y.sin().sum() + S.square().sum(), xs)) for y, S in (f(*xs) for f in (forms.selective, s6))]
    for got, want in zip(*grads):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("lead", [(), (0,), (2, 0), (4,)])
def test_selective_with_any_leading_axes(lead):
    *xs, _ = s6_inputs(40, lead)
    for got, want in zip(forms.selective(*xs), s6(*xs)):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


def test_selective_keeps_its_arguments_and_can_be_cut():
    x, d, A, B, C, state = xs = s6_inputs(40)
    kept = [y.clone() for y in xs]
    y, S = forms.selective(*xs)
    first, mid = forms.selective(x[..., :17, :], d[..., :17, :], A, B[..., :17, :], C[..., :17, :], state)
    second, last = forms.selective(x[..., 17:, :], d[..., 17:, :], A, B[..., 17:, :], C[..., 17:, :], mid)
    torch.testing.assert_close(torch.cat([first, second], -2), y, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(last, S, rtol=1e-11, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(xs, kept))


@pytest.mark.parametrize("i, name", list(enumerate(["x", "d", "A", "B", "C", "state"])))
def test_what_selective_refuses(i, name):
    xs = s6_inputs(5)
    with pytest.raises(ValueError, match="^[dAB] has shape" if name in "xA" else f"^{name} has shape"):
        forms.selective(*(y[..., :-1] if n == i else y for n, y in enumerate(xs)))
    with pytest.raises(ValueError, match="T >= 1"):
        forms.selective(*(y if n in (2, 5) else y[..., :0, :] for n, y in enumerate(xs)))


def test_scan_carries_the_rg_lru_of_the_authors():
    """recurrentgemma's RGLRU: h_t = e^{a_t} h_{t−1} + √(1 − e^{2a_t}) i_t x_t, a_t = −8 r_t softplus(Λ); at position 0 the factor is 1."""
    f = {n: torch.from_numpy(y) for n, y in np.load(Path(__file__).parent / "golden" / "rglru.npz").items()}
    x, rate = f["x"].requires_grad_(), f["a_param"].requires_grad_()

    def gate(name):
        return torch.sigmoid(torch.einsum("bthi,hij->bthj", x.unflatten(-1, (2, 4)), f[f"{name}_w"]) + f[f"{name}_b"]).flatten(-2)
    a = -8 * gate("a_gate") * F.softplus(rate)
    start = (f["segment_pos"] == 0)[..., None]
    put = gate("input_gate") * x * torch.where(start, 1.0, (1 - (2 * a).exp()).sqrt())
    h, last = forms.scan(a.masked_fill(start, -torch.inf), put)
    torch.testing.assert_close(h, f["ref_y"], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(last, f["ref_state"], rtol=1e-9, atol=1e-10)
    for got, want in zip(torch.autograd.grad((h * f["w"]).sum(), (x, rate)), (f["grad_x"], f["grad_a_param"])):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
