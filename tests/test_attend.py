"""Softmax attention by blocks: equal to the dense formula, never a T × T matrix, and the traps of the fused kernel."""
import itertools

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa
from torch.utils._python_dispatch import TorchDispatchMode

from minimem import check
from minimem.cache.full import parallel as plain
from minimem.fast import sdpa as fast
from minimem.forms import attend, merge, softmax_read

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


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation made."""
    size = operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        self.size = max([self.size] + [x.numel() for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, torch.Tensor)])
        return out


@pytest.mark.parametrize("window, sinks", [(None, 0), (100, 4)])
def test_memory_is_linear_in_the_length(window, sinks):
    T, block, kept = 2048, 64, []
    xs = [x.requires_grad_() for x in qkv(T, K=16, V=16, lead=(), dtype=torch.float32)]
    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x.numel()), x)[1], lambda x: x):
        o, _ = attend(*xs, window=window, sinks=sinks, block=block)
        forward = largest.operations
        o.sum().backward()
    assert largest.operations > 1.5 * forward, "the backward pass was not seen"
    assert largest.size <= T * (block if window is None else block + window)
    assert sum(kept) <= T * (4 * 16 + 1 if window is None else 9 * 16), "more is kept than q, k, v, o and lse, and of the sinks q, o, lse and what merge keeps"


def test_key_heads_are_shared_by_broadcasting():
    q, k, v = qkv(40, lead=(2, 3))[0], *qkv(40, lead=(2, 1))[1:]
    want = attend(q, k.expand(2, 3, -1, -1), v.expand(2, 3, -1, -1), window=8)
    torch.testing.assert_close(attend(q, k, v, window=8), want, **check.EXACT)


@pytest.mark.parametrize("T, M, options, message", [
    (5, 4, {}, "q has 5 positions and k has 4"),
    (0, 4, {}, "wanted 1 <= T <= M"),
    (4, 4, {"window": 0}, "saw window=0"),
    (4, 4, {"window": 2, "sinks": -1}, "sinks=-1"),
    (4, 4, {"block": 0}, "block=0"),
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
