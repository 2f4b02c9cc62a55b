"""Sigmoid attention: against x-transformers, and what a weight that nobody shares does."""
import math
from functools import partial

import pytest
import torch
from x_transformers.attend import Attend

from minimem import check
from minimem.cache import sigmoid
from minimem.cache.swat import tilt
from minimem.position.rope import rotate_halves

FORMS = [sigmoid.recurrent, sigmoid.parallel]


def qkv(T=50, **options):
    return check.inputs("qkv", T=T, lead=(2, 3), **options)


@pytest.mark.oracle("sigmoid")
@pytest.mark.parametrize("n", [1, 50, None])
@pytest.mark.parametrize("slope", [None, -0.25, 0.125])
@pytest.mark.parametrize("form", FORMS)
def test_x_transformers(form, slope, n):
    """Theirs has no −log n: it enters by their bias on the scores, with a slope by distance beside it; output and gradients."""
    xs = [x.requires_grad_() for x in qkv()]
    t = torch.arange(50)
    extra = -torch.log((t + 1.0).double())[:, None].expand(50, 50) if n is None else torch.full((50, 50), -math.log(n), dtype=torch.float64)
    extra = extra if slope is None else extra + slope * (t[:, None] - t)
    want = Attend(causal=True, sigmoid=True, scale=6 ** -0.5, heads=3)(*xs, attn_bias=extra)[0]
    got, _ = form(*xs, n=n, bias=None if slope is None else lambda q, M: tilt(slope, M, q))
    torch.testing.assert_close(got, want, **check.EXACT)
    weight = torch.randn(want.shape, dtype=torch.float64)
    check._same(torch.autograd.grad((got * weight).sum(), xs), torch.autograd.grad((want * weight).sum(), xs), "gradient")


@pytest.mark.oracle("sigmoid")
@pytest.mark.parametrize("window", [1, 5, 16, 40])
@pytest.mark.parametrize("block", [1, 7, 16, 128])
def test_blocks_and_windows_against_a_dense_mask(block, window):
    """37 queries at the end of 50 keys, a bias row for each of them."""
    q, k, v = qkv()
    q, bias, c = q[..., 13:, :], torch.randn(3, 37, 20, dtype=torch.float64), torch.randn(37, 1, dtype=torch.float64)
    d = torch.arange(13, 50)[:, None] - torch.arange(50)
    s = q @ k.mT / 6 ** 0.5 + c + bias.gather(-1, d.clamp(0, 19).expand(3, 37, 50))
    want = (s.sigmoid() * ((d >= 0) & (d < window))) @ v
    torch.testing.assert_close(sigmoid.read(q, k, v, c, window, bias, block), want, **check.EXACT)


def test_what_is_not_seen_weighs_exactly_nothing():
    q, k, v = (x.requires_grad_() for x in qkv(9))
    for window in (None, 3):
        o = sigmoid.read(q, k, v, q.new_zeros(9, 1), window, block=4)
        for g in torch.autograd.grad(o[..., 5, :].sum(), (k, v)):
            seen = torch.arange(9) <= 5 if window is None else (torch.arange(9) <= 5) & (torch.arange(9) > 2)
            assert (g[..., ~seen, :] == 0).all() and (g[..., seen, :] != 0).all()


def test_the_bias_keeps_the_sum_of_a_fresh_row_at_one():
    """n scores of 0: σ(−log n) = 1 / (n + 1) each, n / (n + 1) in all; without it n / 2."""
    T = 300
    q, k, v = torch.zeros(T, 6), torch.zeros(T, 6), torch.ones(T, 1)
    t = torch.arange(1.0, T + 1)[:, None]
    for n, want in ((1, t / 2), (T, t / (T + 1)), (None, t / (t + 1))):
        torch.testing.assert_close(sigmoid.parallel(q, k, v, n=n)[0], want)


def test_cut_anywhere_with_positions():
    xs, options = qkv(40), {"n": None, "rotate": rotate_halves, "bias": lambda q, M: tilt(torch.tensor([-0.5, -0.25, 0.1]), M, q)}
    whole = sigmoid.recurrent(*xs, **options)
    for at in (1, 17, 39):
        a, state = sigmoid.parallel(*(x[..., :at, :] for x in xs), **options)
        b, state = sigmoid.parallel(*(x[..., at:, :] for x in xs), state=state, **options)
        check._same((torch.cat([a, b], -2), state), whole, f"cut at {at}")


def test_no_square_matrix(monkeypatch):
    """8,192 tokens: no tensor of more than T × block numbers."""
    sizes, of = [], torch.Tensor.masked_fill
    monkeypatch.setattr(torch.Tensor, "masked_fill", lambda x, *a: (sizes.append(x.numel()), of(x, *a))[1])
    q, k, v = check.inputs("qkv", T=8192, lead=(), dtype=torch.float32)
    sigmoid.parallel(q, k, v)
    assert len(sizes) == 64 and max(sizes) <= 8192 * 128
    sizes.clear()
    sigmoid.read(q, k, v, q.new_zeros(8192, 1), window=32)
    assert max(sizes) <= 2 * 128 * 128


@pytest.mark.parametrize("form", FORMS)
def test_refuses(form):
    with pytest.raises(ValueError, match="n is 0, wanted the length"):
        form(*qkv(5), n=0)


def test_half_precision_sums_in_float32():
    q, k, v = qkv(400, dtype=torch.bfloat16)
    got = sigmoid.parallel(q, k, v)[0]
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), sigmoid.parallel(q.double(), k.double(), v.double())[0], rtol=2 ** -8, atol=1e-6)


def test_layer_uses_what_it_is_given():
    torch.manual_seed(0)
    x = torch.randn(1, 12, 16, dtype=torch.float64)
    layer = sigmoid.Layer(16, 2, n=7, rotate=partial(rotate_halves, base=100.0), bias=lambda q, M: tilt(-0.3, M, q)).double()
    (q, k, v), _ = layer.qkv(x, {})
    o, _ = sigmoid.recurrent(q, k, v, n=7, rotate=partial(rotate_halves, base=100.0), bias=lambda q, M: tilt(-0.3, M, q))
    torch.testing.assert_close(layer(x)[0], layer.out(o.transpose(1, 2).flatten(2)))
