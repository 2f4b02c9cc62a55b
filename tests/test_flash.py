"""Online softmax against torch SDPA; pages against a cache in one piece; what pages waste."""
import itertools

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from minimem import check, core
from minimem.cache import flash
from minimem.forms import attend

FORMS = [flash.recurrent, flash.parallel]
K, V = 6, 4


def qkv(T=50, **options):
    return check.inputs("qkv", T=T, **options)


@pytest.mark.oracle("flash")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk", [1, 7, 16, 64])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, {"rtol": 0, "atol": 1e-6}), (torch.float64, check.EXACT)])
def test_sdpa(form, chunk, dtype, tolerance):
    q, k, v = qkv(dtype=dtype)
    torch.testing.assert_close(form(q, k, v, chunk=chunk)[0], sdpa(q, k, v, is_causal=True), **tolerance)


@pytest.mark.oracle("flash")
def test_the_gradient_that_keeps_o_and_lse():
    """By finite differences, with lse used as well; and equal to that of torch."""
    xs = [x.requires_grad_() for x in qkv(9, lead=(2,))]
    torch.autograd.gradcheck(lambda *x: attend(*x, block=4), xs)
    w = torch.randn(2, 9, V, dtype=torch.float64)
    got, want = (torch.autograd.grad((o * w).sum(), xs) for o in (flash.parallel(*xs, chunk=4)[0], sdpa(*xs, is_causal=True)))
    torch.testing.assert_close(got, want, **check.EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_no_exponential_overflows(form):
    q, k, v = qkv(40, dtype=torch.float32)
    o = form(1e3 * q, 1e3 * k, v, chunk=8)[0]
    torch.testing.assert_close(o, sdpa(*(x.double() for x in (1e3 * q, 1e3 * k, v)), is_causal=True).float())


def dense(q, k, v):
    T = q.shape[-2]
    return (q @ k.mT / K ** 0.5).masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf).softmax(-1) @ v


def test_what_is_held_between_the_passes_grows_with_the_length_alone():
    held = [flash.held(lambda *x: flash.parallel(*x)[0], *qkv(T, lead=(), dtype=torch.float32)) for T in (512, 1024, 2048)]
    kept = [h["kept"] for h in held]
    assert kept == [T * 4 * (3 * K - K + 2 * V + 1) for T in (512, 1024, 2048)], "q, k, v, o and lse, no more"
    assert [h["largest"] for h in held[1:]] == [4 * 128 * T for T in (1024, 2048)], "the scores of 128 queries"
    whole = flash.held(dense, *qkv(512, lead=(), dtype=torch.float32))
    assert whole["largest"] == 4 * 512 ** 2 and whole["kept"] > 4 * 512 ** 2


@pytest.mark.parametrize("form", FORMS)
def test_refuses(form):
    with pytest.raises(ValueError, match="chunk is 0, wanted >= 1"):
        form(*qkv(5), chunk=0)
    with pytest.raises(ValueError, match="state must be a dict of k and v"):
        form(*qkv(5), state=torch.zeros(2, 3, 6, 4, dtype=torch.float64))


# ------------------------------------------------------------------ pages

def filled(T=37, size=16, count=8, lead=(2, 3)):
    q, k, v = qkv(T, lead=lead)
    pages = flash.Pages(count, K, V, lead, size, dtype=torch.float64)
    pages.start("a")
    for token in zip(k.unbind(-2), v.unbind(-2)):
        pages.write("a", *token)
    return pages, q, k, v


@pytest.mark.parametrize("T, size", itertools.product((1, 15, 16, 17, 37), (1, 4, 16)))
def test_pages_hold_and_read_what_a_cache_does(T, size):
    pages, q, k, v = filled(T, size, count=40)
    for got, want in zip(pages.gather("a"), (k, v)):
        assert torch.equal(got, want)
    torch.testing.assert_close(pages.read("a", q), sdpa(q, k, v), **check.EXACT)
    assert pages.nbytes() == -(-T // size) * size * 6 * (K + V) * 8
    last = q[..., -1:, :]
    torch.testing.assert_close(pages.read("a", last), flash.recurrent(q, k, v)[0][..., -1:, :], **check.EXACT)


def test_two_sequences_that_grow_in_turns():
    pages, (_, k, v), other = flash.Pages(8, K, V, (2, 3), 4, dtype=torch.float64), qkv(11), qkv(11, seed=1)
    pages.start("a"), pages.start("b")
    for t in range(11):
        pages.write("a", k[..., t, :], v[..., t, :])
        pages.write("b", other[1][..., t, :], other[2][..., t, :])
    assert torch.equal(pages.gather("a")[0], k) and torch.equal(pages.gather("b")[1], other[2])
    assert not set(pages.tables["a"]) & set(pages.tables["b"])


def test_a_shared_prefix_is_kept_once_and_copied_on_the_first_write():
    pages, q, k, v = filled()                                             # 37 tokens: two full pages, one of five
    before = pages.nbytes()
    pages.start("b", like="a")
    pages.start("c", like="b")
    assert pages.nbytes() == before and pages.users[:8].count(3) == 3
    for name in "bac":
        new = qkv(1, seed=ord(name))[1:]
        pages.write(name, *(x[..., 0, :] for x in new))
        for got, old, x in zip(pages.gather(name), (k, v), new):
            assert torch.equal(got, torch.cat([old, x], -2))
    tables = [pages.tables[n] for n in "abc"]
    assert len({t[0] for t in tables}) == len({t[1] for t in tables}) == 1 and len({t[2] for t in tables}) == 3
    assert pages.nbytes() == before // 3 * 5
    pages.free("a")
    assert torch.equal(pages.gather("b")[0][..., :37, :], k)
    pages.free("b"), pages.free("c")
    assert pages.nbytes() == 0 and sorted(pages.empty) == list(range(8))


def test_full_pages_are_shared_without_a_copy():
    pages, _, k, v = filled(32)
    pages.start("b", like="a")
    pages.write("b", k[..., 0, :], v[..., 0, :])
    assert pages.tables["b"][:2] == pages.tables["a"] and len(pages.tables["b"]) == 3


def test_what_pages_refuse():
    pages, q, k, v = filled(size=16, count=3)
    wrong = [(lambda: pages.start("a"), "'a' has 37 tokens already"), (lambda: pages.read("x", q), r"no sequence 'x', wanted one of \['a'\]"),
             (lambda: pages.start("b", like="x"), "no sequence 'x'"), (lambda: flash.Pages(0, K, V), "count=0"),
             (lambda: pages.write("a", k[0, :, 0, :], v[0, :, 0, :]), "k has leading axes"), (lambda: pages.write("a", k[..., 0, :], k[..., 0, :]), "v has shape"),
             (lambda: pages.read("a", v), "q has shape")]
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()
    pages.start("b")
    with pytest.raises(ValueError, match="'b' holds no token"):
        pages.read("b", q)
    with pytest.raises(ValueError, match="no page is free for 'b': all 3 of 16"):
        pages.write("b", k[..., 0, :], v[..., 0, :])
    assert pages.gather("b")[0].shape == (2, 3, 0, K), "a write that was refused left a token"
    pages.free("a")
    with pytest.raises(ValueError, match="no sequence 'a'"):
        pages.free("a")
    pages.write("b", k[..., 0, :], v[..., 0, :])


def test_no_page_is_lost():
    """Start, share, write and free in random order: every page is empty or used by as many tables as its count says."""
    pages, r = flash.Pages(12, 0, 0, size=3), torch.Generator().manual_seed(0)
    for i in range(600):
        names = [*pages.tables]
        kind, one = torch.randint(4, (2,), generator=r).tolist()
        name = names[one % len(names)] if names else None
        try:
            if name is None or kind == 0:
                pages.start(i, like=name if one else None)
            elif kind == 1 and len(names) > 2:
                pages.free(name)
            else:
                pages.grow(name)
        except ValueError as e:
            assert "no page is free" in str(e)
        held = [p for table in pages.tables.values() for p in table]
        assert [held.count(p) for p in range(12)] == pages.users
        assert sorted(pages.empty) == [p for p in range(12) if p not in held]
        assert all(len(pages.tables[n]) == -(-m // 3) for n, m in pages.lengths.items())


# ------------------------------------------------------------------ what pages waste

def test_waste_of_a_request_by_hand():
    """5 + 3 tokens in pages of 4: 6 of 8 places, 7 of 8, 8 of 8."""
    assert flash.serve([(5, 3)], 4, 8) == {"waste": 3 / 24, "running": 1.0, "steps": 3}
    assert flash.serve([(5, 3)], 8, 8) == flash.serve([(5, 3)], 4, 8)
    assert flash.serve([(1, 1), (1, 1)], 2, 2) == {"waste": 0.0, "running": 1.0, "steps": 2}


def test_the_youngest_waits_when_pages_run_out():
    """Two requests of 1 + 3 on four pages of one token: after the first step the second has to start again."""
    told = flash.serve([(1, 3), (1, 3)], 1, 4)
    assert told["waste"] == 0 and told["steps"] == 6 and told["running"] == 7 / 6


def test_pages_waste_less_than_reserving():
    for seed in (100, 101, 102):
        asked = flash.requests(seed)
        assert max(map(sum, asked)) <= 2048 and min(map(min, asked)) >= 1
        paged, reserved = (flash.serve(asked, size) for size in (16, 2048))
        assert paged["waste"] < 0.05 and reserved["waste"] > 0.5
        assert paged["running"] > reserved["running"] and paged["steps"] < reserved["steps"]
    with pytest.raises(ValueError, match="the longest request has 9 tokens, wanted at most 1 pages of 8"):
        flash.serve([(8, 1)], 8, 8)


def test_bytes():
    state = flash.parallel(*qkv(20, lead=()))[1]
    assert core.nbytes(state) == 20 * (K + V) * 8
