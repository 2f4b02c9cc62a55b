"""SSMAX: against scalable-softmax row by row, the published picture, and the three ways to get it wrong."""
import math
from functools import partial

import pytest
import torch
from scalable_softmax import ScalableSoftmax

from minimem import check
from minimem.cache import full, ssmax
from minimem.forms import attend
from minimem.position.rope import rotate_halves
from minimem.tasks.lookup import lookup

FORMS = [ssmax.recurrent, ssmax.parallel]
SIZES = (10, 100, 1000, 10000)


def qkv(T=50, **options):
    return check.inputs("qkv", T=T, lead=(2, 3), **options)


@pytest.mark.oracle("ssmax")
@pytest.mark.parametrize("form", FORMS)
def test_scalable_softmax(form):
    """Theirs takes n from the length of the row: it is given the visible keys alone. Output and gradients."""
    xs, s = [x.requires_grad_() for x in qkv()], 0.43
    q, k, v = xs
    theirs = ScalableSoftmax(s, learn_scaling=False).double()
    theirs.s.fill_(s)                                             # they round s to float32 first
    want = torch.stack([(theirs((q[..., t:t + 1, :] @ k[..., :t + 1, :].mT) / 6 ** 0.5) @ v[..., :t + 1, :])[..., 0, :] for t in range(50)], -2)
    got, _ = form(*xs, s=s)
    torch.testing.assert_close(got, want, **check.EXACT)
    weight = torch.randn(want.shape, dtype=torch.float64)
    check._same(torch.autograd.grad((got * weight).sum(), xs), torch.autograd.grad((want * weight).sum(), xs), "gradient")


def largest(n, s=None):
    """The weight of one score 3 among n − 1 scores −2, read off attention with the values 1, 0, 0 …; s: None for softmax."""
    k = torch.full((n, 1), -2.0, dtype=torch.float64).index_fill(0, torch.tensor([0]), 3.0)
    v = (torch.arange(n)[:, None] == 0).double()
    S, one = {"k": k[:-1], "v": v[:-1]}, torch.ones(1, dtype=torch.float64)
    step = full.step if s is None else partial(ssmax.step, s=s)
    return step(S, one, k[-1], v[-1])[1].item()


@pytest.mark.oracle("ssmax")
def test_the_published_picture():
    """Figure 1 of the paper: inputs −2, one of them +3, s = .43. Closed form: 1 / (1 + (n − 1) e^−5), and the same with e^−5 to the power s·ln n."""
    assert [round(largest(n), 3) for n in SIZES] == [0.943, 0.6, 0.129, 0.015]
    assert [round(largest(n, 0.43), 3) for n in SIZES] == [0.94, 0.995, 1, 1]
    for n in SIZES:
        assert largest(n) == pytest.approx(1 / (1 + (n - 1) * math.exp(-5)), rel=1e-12)
        assert largest(n, 0.43) == pytest.approx(1 / (1 + (n - 1) * n ** (-0.43 * 5)), rel=1e-12)


def test_subtracting_does_nothing():
    """softmax(z − s·log n) is softmax(z): found in the wild under this name."""
    z = torch.randn(5, 40, dtype=torch.float64)
    torch.testing.assert_close((z - 0.43 * math.log(40)).softmax(-1), z.softmax(-1), **check.EXACT)
    assert ((0.43 * math.log(40) * z).softmax(-1) - z.softmax(-1)).abs().max() > 0.01


@pytest.mark.parametrize("s", [0.43, torch.tensor([0.2, 0.5, 0.9]).double()[:, None, None]], ids=["one", "per head"])
def test_n_goes_on_when_decoding(s):
    """Each row counts its own keys, also those of a call before: not the length of the call, nor of the longest row."""
    xs = qkv(40)
    whole = ssmax.recurrent(*xs, s=s)
    for at in (1, 17, 39):
        a, state = ssmax.parallel(*(x[..., :at, :] for x in xs), s=s)
        b, state = ssmax.parallel(*(x[..., at:, :] for x in xs), state=state, s=s)
        check._same((torch.cat([a, b], -2), state), whole, f"cut at {at}")


def test_the_window_counts_what_it_shows():
    q, k, v = qkv(40)
    n = torch.arange(1, 41)
    got, _ = attend(ssmax.scaled(q, n.clamp(max=7), 0.43), k, v, window=7)
    for t in (0, 5, 6, 20, 39):
        lo = max(0, t - 6)
        part = [x[..., lo:t + 1, :] for x in (q, k, v)]
        torch.testing.assert_close(got[..., t, :], ssmax.recurrent(*part)[0][..., -1, :], **check.EXACT)


def test_scale_starts_where_a_training_text_is_left_as_it_is():
    assert ssmax.Scale(2).s.flatten().tolist() == pytest.approx([0.1685, 0.1685], abs=1e-4)
    scale, q = ssmax.Scale(3, 128).double(), torch.ones(3, 128, 6, dtype=torch.float64)
    assert scale(q, torch.arange(1, 129)).mean().item() == pytest.approx(1)


def test_composes_with_positions_and_shared_heads():
    torch.manual_seed(0)
    q, k, v = qkv(30)
    q, scale = torch.cat([q, q.flip(-2)], -3), ssmax.Scale(6, 30).double()
    with torch.no_grad():
        scale.s.mul_(torch.linspace(0.5, 2, 6)[:, None, None])
    got, _ = full.parallel(q, k, v, rotate=rotate_halves, rescale=scale)
    for h in range(6):
        want, _ = full.recurrent(q[:, h], k[:, h // 2], v[:, h // 2], rotate=rotate_halves, rescale=partial(ssmax.scaled, s=scale.s[h]))
        torch.testing.assert_close(got[:, h], want, **check.EXACT)


def test_lookup_asks_what_is_there():
    keys, said, asked, answer = lookup(40, letters=2, symbols=5, values=4, batch=300, seed=1)
    hit = (keys == asked[:, None]).all(-1)
    assert (hit.sum(1) == 1).all() and torch.equal(said[hit], answer)                        # the asked key is unique
    assert keys.min() == 0 and keys.max() == 4
    often = torch.bincount(said.flatten(), minlength=4) / said.numel()
    torch.testing.assert_close(often, torch.tensor([12, 6, 4, 3]) / 25, rtol=0, atol=0.02)   # 1, 1/2, 1/3, 1/4
    assert all(torch.equal(a, b) for a, b in zip(lookup(9, seed=3), lookup(9, seed=3)))
    with pytest.raises(ValueError, match="n is 0 with 8000 possible keys"):
        lookup(0)
