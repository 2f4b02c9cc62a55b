"""Λ-mask: the authors' numbers, torch SDPA with a dense mask and complex numbers; what it shares with StreamingLLM and what not."""
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from minimem import check, core
from minimem.cache import full, lambda_mask, window
from minimem.position.rope import rotate_halves, rotate_pairs

FORMS = pytest.mark.parametrize("form", [lambda_mask.recurrent, lambda_mask.parallel], ids=["recurrent", "parallel"])
GOLDEN = np.load(Path(__file__).parent / "golden/lm_infinite.npz")
CASES = [(8, 2, None), (8, 2, 8), (8, 2, 9), (8, 3, 20), (5, 4, 1000), (13, 1, 13), (6, 0, None), (1, 1, 3), (60, 2, 70)]


def qkv(T=50, **options):
    return check.inputs("qkv", T=T, **options)


# ------------------------------------------------------------------ oracles

@FORMS
@pytest.mark.oracle("lambda_mask")
def test_golden_numbers(form):
    """The authors' Lambda_Attention_Matrix in float64, its ceiling at the window: long, short, one query, gradients."""
    q, k, v = (torch.from_numpy(GOLDEN[n]).requires_grad_() for n in "qkv")
    W = int(GOLDEN["opt_local"])
    run = partial(form, window=W, n_global=int(GOLDEN["opt_global"]), rotate=partial(rotate_halves, base=float(GOLDEN["opt_theta"])))
    out, _ = run(q, k, v)
    torch.testing.assert_close(out, torch.from_numpy(GOLDEN["ref_y"]), **check.EXACT)
    torch.testing.assert_close(run(*(x[..., :W, :] for x in (q, k, v)))[0], torch.from_numpy(GOLDEN["ref_y_short"]), **check.EXACT)
    _, state = run(*(x[..., :-1, :] for x in (q, k, v)))
    torch.testing.assert_close(run(*(x[..., -1:, :] for x in (q, k, v)), state=state)[0], torch.from_numpy(GOLDEN["ref_y_last"]), **check.EXACT)
    for got, n in zip(torch.autograd.grad((out * torch.from_numpy(GOLDEN["w"])).sum(), (q, k, v)), "qkv"):
        torch.testing.assert_close(got, torch.from_numpy(GOLDEN[f"grad_{n}"]), **check.EXACT)


@FORMS
@pytest.mark.oracle("lambda_mask")
@pytest.mark.parametrize("W, G, L", CASES)
def test_sdpa_with_a_dense_mask(form, W, G, L):
    q, k, v = qkv()
    t, j = torch.arange(50)[:, None], torch.arange(50)
    want = sdpa(q, k, v, attn_mask=(j <= t) & ((j < G) | (j > t - W)))
    torch.testing.assert_close(form(q, k, v, window=W, n_global=G, ceiling=L)[0], want, **check.EXACT)


@FORMS
@pytest.mark.parametrize("W, G, L", CASES)
def test_distances_against_complex_numbers(form, W, G, L):
    """Dense, every pair by itself: each pair of coordinates of q is one complex number, turned by the distance of (2)."""
    q, k, v = qkv(40, lead=())
    theta = 300.0 ** (-torch.arange(3, dtype=torch.float64) / 3)
    c = [torch.view_as_complex(x.reshape(40, 3, 2).contiguous()) for x in (q, k)]
    t, j = torch.arange(40)[:, None], torch.arange(40)
    dist = (t - j).clamp(max=L or W)
    score = torch.einsum("ti,tji,ji->tj", c[0], torch.polar(torch.ones(40, 40, 3, dtype=torch.float64), dist[..., None] * theta), c[1].conj()).real
    w = (score / 6 ** 0.5).masked_fill((j > t) | ((j >= G) & (t - j >= W)), -torch.inf).softmax(-1)
    got, _ = form(q, k, v, window=W, n_global=G, ceiling=L, rotate=partial(rotate_pairs, base=300.0))
    torch.testing.assert_close(got, w @ v, **check.EXACT)


# ------------------------------------------------------------------ cut anywhere, with a ceiling that is still to come

@pytest.mark.parametrize("ceiling", [None, 12, 30, 100])
@pytest.mark.parametrize("chunks", [[1] * 40, [3] * 13 + [1], [7] * 5 + [5], [11, 1, 28]], ids=str)
def test_rotated_and_cut_anywhere(chunks, ceiling):
    xs, options = qkv(40), {"window": 8, "n_global": 3, "ceiling": ceiling, "rotate": rotate_pairs}
    want, last = lambda_mask.recurrent(*xs, **options)
    outs, state = [], None
    for part in zip(*(x.split(chunks, -2) for x in xs)):
        o, state = lambda_mask.parallel(*part, state=state, **options)
        outs.append(o)
    check._same((torch.cat(outs, -2), state), (want, last), "cut")


# ------------------------------------------------------------------ beside its neighbours

@FORMS
def test_a_text_within_the_window_is_full_attention(form):
    xs = qkv(12)
    torch.testing.assert_close(form(*xs, window=12, n_global=2, rotate=rotate_pairs)[0], full.parallel(*xs, rotate=rotate_pairs)[0], **check.EXACT)


def test_without_positions_it_is_streaming():
    xs = qkv(40)
    torch.testing.assert_close(lambda_mask.parallel(*xs)[0], window.parallel(*xs)[0], **check.EXACT)


def test_the_sinks_alone_stand_elsewhere_than_in_streaming():
    """Equal with no sinks; equal until the ceiling is reached; with sinks the slots of StreamingLLM are another distance."""
    xs = qkv(40)
    def gap(first, stop=None):
        a = lambda_mask.parallel(*xs, window=8, n_global=first, rotate=rotate_pairs)[0]
        b = window.parallel(*xs, window=8, sinks=first, rotate=rotate_pairs)[0]
        return (a - b)[..., :stop, :].abs().max()
    assert gap(0) < 1e-12 and gap(2, 9) < 1e-12 and gap(2) > 1e-3
    one = [lambda_mask.parallel(*xs, window=8, n_global=1, rotate=rotate_pairs)[0], window.parallel(*xs, window=8, sinks=1, rotate=rotate_pairs)[0]]
    torch.testing.assert_close(*one, **check.EXACT)                   # a single sink: its slot is W tokens back, which is the ceiling


def test_no_distance_beyond_the_ceiling():
    """However long the text, q is never turned by more."""
    turned = set()

    def spy(x, at):
        turned.update(at.flatten().long().tolist())
        return x
    lambda_mask.recurrent(*qkv(60), window=8, n_global=2, rotate=spy)
    assert turned == set(range(9))


def test_bytes_stop_at_global_and_window():
    sizes = [core.nbytes(lambda_mask.parallel(*qkv(T, lead=()), window=8, n_global=2)[1]) for T in (1, 9, 10, 11, 500)]
    assert sizes == [n * (6 + 4) * 8 + 8 for n in (1, 9, 10, 10, 10)]


# ------------------------------------------------------------------ what it refuses

@FORMS
@pytest.mark.parametrize("options, message", [({"window": 0}, "window=0"), ({"n_global": -1}, "n_global=-1"), ({"ceiling": 7}, "ceiling=7, wanted .* ceiling >= window")])
def test_refuses(form, options, message):
    with pytest.raises(ValueError, match=message):
        form(*qkv(5), **options)


@FORMS
def test_refuses_a_state_of_another_size(form):
    state = lambda_mask.parallel(*qkv(20), window=12)[1]
    with pytest.raises(ValueError, match="14 tokens, wanted at most n_global \\+ window = 10"):
        form(*qkv(5), state=state)
    with pytest.raises(ValueError, match="state\\['k'\\]"):
        form(*qkv(5), state=lambda_mask.init(7, 4, (2, 3), dtype=torch.float64))
    with pytest.raises(ValueError, match="state must be a dict of k and v and t"):
        form(*qkv(5), state=window.init(6, 4, (2, 3), dtype=torch.float64))
