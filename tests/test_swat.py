"""SWAT against its formula, dense: rotated by complex numbers at true positions, every pair of tokens weighed, what is outside the window struck out."""
import pytest
import torch

from minimem import check, core
from minimem.cache import swat

FORMS = [swat.recurrent, swat.parallel]


def qkv(T=50, lead=(2, 4), **options):
    return check.inputs("qkv", T=T, lead=lead, **options)


def dense(q, k, v, window, slopes, first=0):
    """Equation (1), T × T, for tokens that stand at first, first + 1, …"""
    T, K = q.shape[-2:]
    theta = 10000.0 ** (-torch.arange(K // 2, dtype=torch.float64) * 2 / K)
    turn = torch.polar(torch.ones(T, K // 2, dtype=torch.float64), (first + torch.arange(T))[:, None] * theta)
    a, b = (torch.complex(x[..., :K // 2], x[..., K // 2:]) * turn for x in (q, k))
    d = torch.arange(T)[:, None] - torch.arange(T)
    s = (a @ b.mH).real / K ** 0.5 + slopes[:, None, None] * d
    return (1 / (1 + (-s).exp()) * ((d >= 0) & (d < window))) @ v


@pytest.mark.oracle("swat")
@pytest.mark.parametrize("signs", [(2, 2), (4, 0), (0, 4)], ids=["balanced", "negative", "positive"])
@pytest.mark.parametrize("window", [1, 8, 13, 60])
@pytest.mark.parametrize("form", FORMS)
def test_the_dense_formula(form, window, signs):
    xs, slopes = [x.requires_grad_() for x in qkv()], swat.two_sided(*signs)
    got, want = form(*xs, window=window, slopes=slopes)[0], dense(*xs, window, slopes, first=1000)      # where the text begins plays no part
    torch.testing.assert_close(got, want, **check.EXACT)
    weight = torch.randn(want.shape, dtype=torch.float64)
    check._same(torch.autograd.grad((got * weight).sum(), xs), torch.autograd.grad((want * weight).sum(), xs), "gradient", rtol=1e-8, atol=1e-9)


@pytest.mark.oracle("swat")
def test_slopes_are_the_published_ones():
    assert swat.two_sided(3, 3).tolist() == [-1 / 2, -1 / 4, -1 / 8, 1 / 2, 1 / 4, 1 / 8]
    assert swat.Layer(32, 4).slopes.tolist() == [-1 / 2, -1 / 4, 1 / 2, 1 / 4]
    assert swat.two_sided(4, 0).tolist() == [-1 / 2, -1 / 4, -1 / 8, -1 / 16] == (-swat.two_sided(0, 4)).tolist()


@pytest.mark.parametrize("chunks", [[1] * 40, [3] * 13 + [1], [40], [11, 1, 28]], ids=str)
def test_cut_anywhere(chunks):
    xs, options = qkv(40), {"window": 9, "slopes": swat.two_sided(2, 2)}
    want, outs, state = swat.recurrent(*xs, **options), [], None
    for part in zip(*(x.split(chunks, -2) for x in xs)):
        o, state = swat.parallel(*part, state=state, **options)
        outs.append(o)
    check._same((torch.cat(outs, -2), state), want, "cut")


def test_bytes_stop_at_the_window():
    sizes = [core.nbytes(swat.parallel(*qkv(T, lead=()), window=8)[1]) for T in (1, 7, 8, 9, 500)]
    assert sizes == [n * (6 + 4) * 8 for n in (1, 7, 8, 8, 8)]


def test_the_sign_says_which_end_of_the_window_counts():
    """Without scores: a negative slope leaves the near keys, a positive one keeps all and the far ones most."""
    q, k, v = torch.zeros(2, 40, 6), torch.zeros(2, 40, 6), torch.eye(40).expand(2, 40, 40)
    w = swat.parallel(q, k, v, window=16, slopes=torch.tensor([-0.5, 0.5]))[0][:, 39, 24:]
    assert (w[0].diff() > 0).all() and (w[1].diff() < 0).all() and w[:, -1].tolist() == [0.5, 0.5]
    torch.testing.assert_close(w.sum(0), torch.ones(16))


@pytest.mark.parametrize("form", FORMS)
def test_refuses(form):
    with pytest.raises(ValueError, match="window is 0, wanted at least 1"):
        form(*qkv(5), window=0)
    with pytest.raises(ValueError, match="12 tokens, wanted at most window = 8"):
        form(*qkv(5), state=swat.parallel(*qkv(20), window=12)[1])
    with pytest.raises(ValueError, match="slopes are 3, wanted one for each of 4 heads"):
        swat.Layer(32, 4, slopes=swat.two_sided(3, 0))
