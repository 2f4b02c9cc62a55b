"""Softmax attention by blocks: equal to the dense formula, never a T × T matrix, and the traps of the fused kernel."""
import itertools

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from minimem import check, forms
from minimem.cache.flash import held
from minimem.cache.full import parallel as plain
from minimem.fast import sdpa as fast
from minimem.forms import attend, by_distance, merge, softmax_read
from minimem.position import alibi
from minimem.position.rope import rotate_halves

CASES = [(None, 0), (1, 0), (1, 2), (8, 0), (8, 2), (16, 3), (7, 40), (100, 5)]


def qkv(T=45, M=None, K=6, V=4, lead=(2, 3), dtype=torch.float64):
    r = torch.Generator().manual_seed(T)
    shapes = [(*lead, T, K), (*lead, M or T, K), (*lead, M or T, V)]
    return [torch.randn(*s, generator=r, dtype=torch.float64).to(dtype) for s in shapes]


def mask(T, M, window, sinks):
    """Written a second time, key by key."""
    def seen(t, j):
        return j <= t and (window is None or j < sinks or t - j < window)
    return torch.tensor([[seen(t, j) for j in range(M)] for t in range(M - T, M)])


def by_hand(q, k, v, visible):
    e = (q @ k.mT / q.shape[-1] ** 0.5).exp() * visible
    return e @ v / e.sum(-1, keepdim=True), e.sum(-1, keepdim=True).log()


@pytest.mark.parametrize("window, sinks", CASES)
@pytest.mark.parametrize("T, M, block", [(45, 45, 16), (45, 45, 128), (33, 50, 7), (1, 30, 8), (1, 1, 8), (64, 64, 16)])
def test_equals_the_dense_formula(window, sinks, T, M, block):
    xs = [x.requires_grad_() for x in qkv(T, M)]
    got, want = attend(*xs, window=window, sinks=sinks, block=block), by_hand(*xs, mask(T, M, window, sinks))
    torch.testing.assert_close(got, want, **check.EXACT)
    w = torch.randn_like(want[0])
    grads = [torch.autograd.grad((o * w).sum() + lse.sin().sum(), xs) for o, lse in (got, want)]
    torch.testing.assert_close(*grads, **check.EXACT)


@pytest.mark.parametrize("block", [1, 2, 3, 5])
def test_every_small_size(block):
    """Edges of blocks, windows, sinks and caches in every relative position."""
    for M, W, sinks in itertools.product(range(1, 9), (None, *range(1, 8)), (0, 1, 3)):
        q, k, v = qkv(M, lead=())
        for T in {1, M // 2 + 1, M}:
            got = attend(q[-T:], k, v, W, sinks, block=block)
            torch.testing.assert_close(got, by_hand(q[-T:], k, v, mask(T, M, W, sinks)), **check.EXACT)


@pytest.mark.parametrize("window, sinks", CASES)
def test_equals_sdpa_in_float32(window, sinks):
    q, k, v = qkv(300, dtype=torch.float32)
    want = sdpa(q, k, v, attn_mask=mask(300, 300, window, sinks))
    torch.testing.assert_close(attend(q, k, v, window=window, sinks=sinks, block=64)[0], want, rtol=0, atol=1e-6)


def test_a_second_query_reads_the_sinks():
    (q, k, v), other = qkv(40), qkv(41)[0][..., :40, :]
    s = torch.where(torch.arange(40) < 3, other @ k.mT, q @ k.mT) / 6 ** 0.5
    want = s.masked_fill(~mask(40, 40, 8, 3), -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(attend(q, k, v, 8, 3, other, block=16)[0], want, **check.EXACT)


# ------------------------------------------------------------------ bias by distance, far keys, shared heads

def dense(q, k, v, window=None, sinks=0, q_sinks=None, bias=None, beyond=0):
    """The whole T × M matrix, with torch's own gradient; and which queries see anything."""
    T, M = q.shape[-2], k.shape[-2]
    j, s = torch.arange(M), q @ k.mT / q.shape[-1] ** 0.5
    distance = torch.arange(M - T, M)[:, None] - j
    seen = (distance >= beyond) & ((distance < (window or M)) | (j < sinks))
    if q_sinks is not None:
        s = torch.where(j < sinks, q_sinks @ k.mT / q.shape[-1] ** 0.5, s)
    if bias is not None:
        s = s + torch.stack([bias.expand(*bias.shape[:-2], T, -1)[..., t, d] for t, d in enumerate(distance.clamp(0, bias.shape[-1] - 1))], -2)
    e = s.exp() * seen
    total, any_ = e.sum(-1, keepdim=True), seen.any(-1, keepdim=True)
    return e @ v / total.where(any_, 1), total.where(any_, 1).log().where(any_, torch.finfo(q.dtype).min), any_


def same_with_gradients(T, M, heads, key_heads, bias_shape, **options):
    q, k, v = (x[:a, :b] for x, (a, b) in zip(qkv(T, M, lead=(2, 3)), (heads, key_heads, key_heads)))
    xs = {"q": q, "k": k, "v": v}
    if bias_shape:
        xs["bias"] = torch.randn(bias_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if options.get("sinks"):
        xs["q_sinks"] = torch.randn(q.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for x in xs.values():
        x.requires_grad_()
    o, lse, any_ = dense(**xs, **{n: x for n, x in options.items() if n != "block"})
    got = attend(**xs, **options)
    torch.testing.assert_close(got, (o, lse), **check.EXACT)
    w = torch.randn_like(o)
    grads = [torch.autograd.grad((o * w).sum() + lse.masked_select(any_.expand(lse.shape)).sin().sum(), [*xs.values()]) for o, lse in (got, (o, lse))]
    torch.testing.assert_close(*grads, **check.EXACT)


BIASES = [None, (3, 1, 5), (1, 1), (2, 3, 1, 90), (2, 1, 1, 7), (3, 90, 5), (2, 3, 90, 90), (90, 1), (2, 1, 90, 7)]


@pytest.mark.parametrize("part", [1 << 18, 700], ids=["one part", "many parts"])
@pytest.mark.parametrize("options", [{}, {"beyond": 5, "block": 32}, {"beyond": 89}, {"window": 8, "block": 32}, {"window": 40, "sinks": 3, "beyond": 2, "block": 16},
                                     {"window": 9, "sinks": 20, "beyond": 8}], ids=str)
@pytest.mark.parametrize("bias", BIASES, ids=str)
def test_bias_and_far_keys(monkeypatch, part, options, bias):
    monkeypatch.setattr(forms, "PART", part)
    same_with_gradients(90, 90, (2, 3), (2, 3), bias, **options)


@pytest.mark.parametrize("part", [1 << 18, 700], ids=["one part", "many parts"])
@pytest.mark.parametrize("options", [{"block": 32}, {"window": 8, "sinks": 2, "block": 32}], ids=str)
@pytest.mark.parametrize("heads, key_heads", [((2, 3), (2, 1)), ((2, 3), (1, 1)), ((2, 3), (1, 3)), ((1, 3), (2, 1)), ((1, 1), (2, 3))], ids=str)
@pytest.mark.parametrize("bias", [None, (3, 1, 5), (2, 1, 1, 99), (3, 170, 5)], ids=str)
def test_shared_heads(monkeypatch, part, options, heads, key_heads, bias):
    """A head of keys for several heads of queries, and every other broadcast; 170 queries, the last of 177 positions."""
    monkeypatch.setattr(forms, "PART", part)
    same_with_gradients(170, 177, heads, key_heads, bias, **options)


@pytest.mark.parametrize("options", [{}, {"window": 3, "sinks": 1}, {"beyond": 2}], ids=str)
@pytest.mark.parametrize("rows", [1, 7])
def test_gradcheck(options, rows):
    """By finite differences, through lse as well."""
    q, k, v = (x.requires_grad_() for x in qkv(7, 9, K=3, V=2, lead=(2,)))
    bias = torch.randn(2, rows, 4, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda q, k, v, bias: attend(q, k, v, bias=bias, block=3, **options), (q, k, v, bias))


def test_once_differentiable():
    xs = [x.requires_grad_() for x in qkv(7)]
    first = torch.autograd.grad(attend(*xs)[0].square().sum(), xs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first[0].sum().backward()


@pytest.mark.parametrize("w", [1, 7, 39, 40])
def test_near_and_far_keys_merged_are_one_softmax(w):
    xs = [x.requires_grad_() for x in qkv(40)]
    got, want = merge(attend(*xs, window=w, block=16), attend(*xs, beyond=w, block=16)), attend(*xs)
    torch.testing.assert_close(got, want, **check.EXACT)
    grads = [torch.autograd.grad(o.square().sum() + lse.sin().sum(), xs) for o, lse in (got, want)]
    torch.testing.assert_close(*grads, **check.EXACT)


def test_queries_that_see_nothing():
    """The first 5 of 12 queries have no key 5 back: they read 0, nothing is NaN, and no gradient comes from them."""
    xs = [x.requires_grad_() for x in qkv(12, dtype=torch.float32)]
    o, lse = attend(*xs, beyond=5, block=4)
    assert (o[..., :5, :] == 0).all() and (lse[..., :5, :] == torch.finfo(torch.float32).min).all() and lse[..., 5:, :].abs().max() < 100
    grads = torch.autograd.grad(o.sum() + lse[..., 5:, :].sum(), xs, retain_graph=True)
    assert all(g.isfinite().all() for g in grads) and (grads[0][..., :5, :] == 0).all() and (grads[1][..., 7:, :] == 0).all()
    none = torch.autograd.grad((o[..., :5, :] * 3).sum() + lse[..., :5, :].sum() * 1e-38, xs)
    assert all((g == 0).all() for g in none)


def test_keys_far_apart_in_score():
    """e^−200 and less: nothing of the far key is left, and nothing is NaN."""
    q, k, v = (x.requires_grad_() for x in (torch.ones(2, 1), torch.tensor([[300.0], [0.0]]), torch.tensor([[1.0], [2.0]])))
    o, lse = attend(q, k, v)
    assert o.flatten().tolist() == [1, 1] and lse.flatten().tolist() == [300, 300]
    grads = torch.autograd.grad(o.sum() + lse.sum(), (q, k, v))
    assert [g.flatten().tolist() for g in grads] == [[300, 300], [2, 0], [2, 0]]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window, sinks", [(None, 0), (16, 0), (16, 3)])
def test_flex_attention(window, sinks):
    """torch's FlexAttention, not compiled: a window with sinks by its mask, ALiBi's bias by its score; heads in groups."""
    from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention
    r, slopes = torch.Generator().manual_seed(0), torch.tensor([0.5, 0.25, 0.125, 0.0625], dtype=torch.float64)
    q, k, v = (torch.randn(1, h, 96, 8, generator=r, dtype=torch.float64) for h in (4, 2, 2))
    mask = create_block_mask(lambda b, h, t, j: (j <= t) & ((t - j < (window or 96)) | (j < sinks)), None, None, 96, 96, device="cpu")
    want, aux = flex_attention(q, k, v, lambda s, b, h, t, j: s - slopes[h] * (t - j), mask, enable_gqa=True, return_aux=AuxRequest(lse=True))
    bias = -slopes.view(2, 2, 1, 1) * torch.arange(96)
    o, lse = attend(q.unflatten(1, (2, 2)), k.unsqueeze(2), v.unsqueeze(2), window, sinks, bias=bias, block=32)
    torch.testing.assert_close((o.flatten(1, 2), lse.flatten(1, 2)[..., 0]), (want, aux.lse), rtol=1e-6, atol=1e-6)      # theirs sums in float32


def test_by_distance():
    bias = torch.arange(6.0).view(2, 3)
    distance = torch.tensor([[0, -1, -2, -3], [5, 2, 1, 0]])
    assert by_distance(bias, distance).tolist() == [[0, 0, 0, 0], [5, 5, 4, 3]]
    assert by_distance(bias[:1], distance).tolist() == [[0, 0, 0, 0], [2, 2, 1, 0]]


# ------------------------------------------------------------------ merge

def test_merge_is_one_softmax_over_both_groups():
    q, k, v = qkv(9, 20)
    groups = [softmax_read(q, k[..., a:b, :], v[..., a:b, :]) for a, b in [(0, 3), (3, 4), (4, 20)]]
    for a, b, c in itertools.permutations(groups):
        torch.testing.assert_close(merge(a, merge(b, c)), softmax_read(q, k, v), **check.EXACT)


def test_a_key_in_both_groups_counts_twice():
    q, k, v = qkv(9, 20)
    half = softmax_read(q, k[..., :10, :], v[..., :10, :])
    twice = softmax_read(q, *(torch.cat([x, x[..., :10, :]], -2) for x in (k, v)))
    torch.testing.assert_close(merge(softmax_read(q, k, v), half), twice, **check.EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_empty_group_changes_nothing(dtype):
    q, k, v = xs = [x.requires_grad_() for x in qkv(9, 20, dtype=dtype)]
    nothing = softmax_read(q, k, v, torch.zeros(9, 20, dtype=torch.bool))
    assert (nothing[0] == 0).all() and (nothing[1] == torch.finfo(dtype).min).all()
    whole = softmax_read(q, k, v)
    torch.testing.assert_close(merge(nothing, whole), whole)
    assert (merge(nothing, nothing)[0] == 0).all()
    o, lse = merge(merge(nothing, nothing), whole)
    assert all(g.isfinite().all() for g in torch.autograd.grad(o.sum() + lse.sum(), xs))


def test_nearly_equal_scores_have_the_right_slope():
    """Scores nearer than float32 can tell apart around 1: their exponentials are equal, they are not."""
    q, k = torch.full((1, 4), 1e-3), torch.tensor([[1.0], [1 - 1e-5], [-0.5]]) * torch.eye(4)[0]
    slope, = torch.autograd.grad(softmax_read(q, k.requires_grad_(), k)[1].sum(), k)
    torch.testing.assert_close(slope, q / 2 / 3 * torch.ones(3, 1), rtol=1e-3, atol=0)


def test_huge_scores_stay_finite():
    q, k, v = qkv(50, dtype=torch.float32)
    o, lse = attend(1e4 * q, 1e4 * k, v, window=8, sinks=2, block=16)
    want = attend(*(x.double() for x in (1e4 * q, 1e4 * k, v)), window=8, sinks=2)[0]
    assert lse.isfinite().all()
    torch.testing.assert_close(o, want.float())


# ------------------------------------------------------------------ types, memory, errors

@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_types_are_summed_in_float32(dtype):
    xs = qkv(300, lead=(), dtype=dtype)
    o, lse = attend(*xs, window=200, sinks=2)
    o64, lse64 = attend(*(x.double() for x in xs), window=200, sinks=2)
    assert o.dtype == dtype and lse.dtype == torch.float32
    torch.testing.assert_close(lse.double(), lse64, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(o, o64.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("options, kept", [({}, 4 * 16 + 1), ({"window": 100}, 4 * 16 + 1), ({"window": 24}, 8 * 16 + 1), ({"window": 100, "sinks": 4}, 9 * 16)], ids=str)
def test_memory_is_linear_in_the_length(monkeypatch, options, kept):
    """Between the passes q, k, v, o and lse (with sinks q, o and lse twice, and what ``merge`` keeps), and weights where they are fewer; inside, one part
    and no larger tensor."""
    monkeypatch.setattr(forms, "PART", 64 * 1024)
    for T in (1024, 2048):
        told = held(lambda *x: attend(*x, block=64, **options)[0], *qkv(T, K=16, V=16, lead=(), dtype=torch.float32))
        assert told["largest"] <= 4 * (64 * 1024 if options else 64 * T)
        assert told["kept"] <= 4 * (T * kept + 64 * 64)                   # of all keys, the first block alone has few weights a query


@pytest.mark.parametrize("options", [{"window": 24}, {"window": 24, "beyond": 3}, {"window": 40, "sinks": 2}, {}], ids=str)
def test_weights_kept_or_computed_again(monkeypatch, options):
    """The gradient is the same whether weights were few enough to be kept or not."""
    def grads():
        xs = [x.requires_grad_() for x in qkv(150, K=12, V=12)]
        o, lse = attend(*xs, block=32, **options)
        return torch.autograd.grad(o.square().sum() + lse.sin().sum(), xs)
    kept = grads()
    monkeypatch.setattr(forms._Part, "few", lambda self, q, v: False)
    torch.testing.assert_close(grads(), kept, **check.EXACT)


@pytest.mark.parametrize("T, M, options, message", [
    (5, 4, {}, "q has 5 positions and k has 4"),
    (0, 4, {}, "wanted 1 <= T <= M"),
    (4, 4, {"window": 0}, "saw window=0"),
    (4, 4, {"window": 2, "sinks": -1}, "sinks=-1"),
    (4, 4, {"block": 0}, "block=0"),
    (4, 4, {"beyond": -1}, "beyond=-1"),
    (4, 4, {"window": 2, "beyond": 2}, "window=2, .*beyond=2.* wanted window >= 1 and > beyond"),
    (4, 4, {"bias": torch.zeros(3, 5)}, "bias has 3 rows, wanted 1 or one for each of the 4 queries"),
])
def test_refuses(T, M, options, message):
    with pytest.raises(ValueError, match=message):
        attend(*qkv(T, M), **options)


# ------------------------------------------------------------------ torch SDPA behind our signature

@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, check.EXACT), (torch.float32, {"rtol": 0, "atol": 1e-6})])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_fast_full(dtype, tolerance, lead):
    q, k, v = qkv(45, lead=lead, dtype=dtype)
    want = attend(q, k, v)[0]
    for cut in (45, 1, 20, 44):
        (a, state), rest = fast.full(*(x[..., :cut, :] for x in (q, k, v))), [x[..., cut:, :] for x in (q, k, v)]
        b = [fast.full(*rest, state=state)[0]] if cut < 45 else []
        torch.testing.assert_close(torch.cat([a, *b], -2), want, **tolerance)


@pytest.mark.parametrize("options", [{}, {"rotate": rotate_halves}, {"bias": alibi.bias, "rescale": lambda q, n: q * n[:, None]}], ids=["bare", "rotated", "biased"])
def test_fast_full_with_positions_and_shared_heads(options):
    q, k, v = qkv(45, lead=(2, 4))[0], *(x[:, :2] for x in qkv(45, lead=(2, 4))[1:])
    want = plain(q, k, v, **options)
    torch.testing.assert_close(fast.full(q, k, v, **options), want, **check.EXACT)
    _, state = fast.full(*(x[..., :20, :] for x in (q, k, v)), **options)
    torch.testing.assert_close(fast.full(*(x[..., 20:, :] for x in (q, k, v)), state, **options)[0], want[0][..., 20:, :], **check.EXACT)


@pytest.mark.parametrize("full", [fast.full, plain], ids=["sdpa", "minimem"])
@pytest.mark.parametrize("place, change, message", [
    (2, lambda v: torch.cat([v, v], -2), "v has shape"), (1, lambda k: k[..., :3], "k has shape"),
    (0, lambda q: q * torch.nan, "q holds NaN"), (1, lambda k: k.float(), "k is torch.float32")])
def test_full_refuses(full, place, change, message):
    xs = qkv(128)
    xs[place] = change(xs[place])
    with pytest.raises(ValueError, match=message):
        full(*xs)


def test_is_causal_is_aligned_at_the_top_left():
    """Why ``fast.sdpa`` writes a mask: with a cache the kernel's own triangle gives the first query key 0 and no other."""
    q, k, v = qkv(3, 10)
    trap = sdpa(q, k, v, is_causal=True)
    torch.testing.assert_close(trap[..., 0, :], v[..., 0, :], **check.EXACT)
    assert (trap - attend(q, k, v)[0]).abs().max() > 0.1
