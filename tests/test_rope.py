"""RoPE: both layouts against transformers, rotary-embedding-torch, x-transformers and complex numbers."""
from functools import partial

import pytest
import torch

from minimem import check
from minimem.cache import full
from minimem.position import rope

BASE = 500.0


def qk(T=40, K=8, seed=0, lead=(2, 3)):
    r = torch.Generator().manual_seed(seed)
    return torch.randn(2, *lead, T, K, generator=r, dtype=torch.float64).unbind()


def llama(K, base):
    from transformers import LlamaConfig
    return LlamaConfig(hidden_size=3 * K, num_attention_heads=3, num_key_value_heads=3, rope_parameters={"rope_type": "default", "rope_theta": base},
                       attn_implementation="eager")


@pytest.mark.oracle("rope")
@pytest.mark.parametrize("K, base", [(8, 500.0), (64, 100000.0), (2, 10.0)])
def test_halves_are_llama(K, base):
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
    q, k = qk(K=K)
    at = torch.arange(7, 47)
    cos, sin = LlamaRotaryEmbedding(llama(K, base))(q, at[None])
    for x, want in zip((q, k), apply_rotary_pos_emb(q, k, cos, sin)):
        torch.testing.assert_close(rope.rotate_halves(x, at, base), want, rtol=1e-5, atol=2e-5)        # their angles are float32


@pytest.mark.oracle("rope")
def test_attention_of_llama():
    """The whole layer of transformers with our projections and rotation: outputs and gradients of every weight."""
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding
    torch.manual_seed(0)
    config = llama(8, BASE)
    theirs, x = LlamaAttention(config, 0).double(), torch.randn(2, 30, 24, dtype=torch.float64)
    mine = full.Layer(24, 3, rotate=partial(rope.rotate_halves, base=BASE)).double()
    with torch.no_grad():
        mine.qkv.proj.weight.copy_(torch.cat([p.weight for p in (theirs.q_proj, theirs.k_proj, theirs.v_proj)]))
        mine.out.weight.copy_(theirs.o_proj.weight)
    hidden = torch.full((30, 30), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    want = theirs(x, LlamaRotaryEmbedding(config)(x, torch.arange(30)[None]), hidden)[0]
    got = mine(x)[0]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    r = torch.randn_like(want)
    gw = torch.autograd.grad((want * r).sum(), [p.weight for p in (theirs.q_proj, theirs.k_proj, theirs.v_proj, theirs.o_proj)])
    gg = torch.autograd.grad((got * r).sum(), [mine.qkv.proj.weight, mine.out.weight])
    torch.testing.assert_close(torch.cat([gg[0], gg[1]]), torch.cat(gw), rtol=1e-4, atol=1e-5)


@pytest.mark.oracle("rope")
@pytest.mark.parametrize("K", [4, 8, 64])
def test_pairs_are_rotary_embedding_torch_and_x_transformers(K):
    from rotary_embedding_torch import RotaryEmbedding
    from x_transformers.x_transformers import RotaryEmbedding as Other
    from x_transformers.x_transformers import apply_rotary_pos_emb
    q, _ = qk(K=K)
    mine = rope.rotate_pairs(q, torch.arange(40), BASE)
    torch.testing.assert_close(RotaryEmbedding(K, theta=BASE).rotate_queries_or_keys(q), mine, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(apply_rotary_pos_emb(q, *Other(K, base=BASE)(torch.arange(40))), mine, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("layout", ["pairs", "halves"])
def test_complex_numbers(layout):
    """(2) as it stands: the score of every query and key from the distance and the complex pairs alone."""
    q, k = qk(lead=())
    order = torch.arange(8).view(4, 2) if layout == "pairs" else torch.arange(8).view(2, 4).mT
    qc, kc = (torch.view_as_complex(x[:, order].contiguous()) for x in (q, k))
    d = torch.arange(40)[:, None] - torch.arange(40)
    turn = torch.exp(1j * d[..., None] * BASE ** (-torch.arange(4).double() / 4))
    want = (qc[:, None] * kc.conj() * turn).real.sum(-1)
    rotate = {"pairs": rope.rotate_pairs, "halves": rope.rotate_halves}[layout]
    at = torch.arange(40)
    torch.testing.assert_close(rotate(q, at, BASE) @ rotate(k, at, BASE).mT, want, **check.EXACT)
    torch.testing.assert_close(rotate(q, at + 1000, BASE) @ rotate(k, at + 1000, BASE).mT, want, **check.EXACT)       # the distance only


def test_two_layouts_are_one_method_up_to_the_order_of_rows():
    """Scores and gradients equal after ``halves_from_pairs``; without it they are not."""
    torch.manual_seed(0)
    x, at = torch.randn(30, 16, dtype=torch.float64), torch.arange(30)
    W = torch.randn(2, 24, 16, dtype=torch.float64)                                  # q and k: 3 heads of 8

    def scores(W, rotate):
        q, k = (rotate((x @ w.mT).unflatten(-1, (3, 8)).movedim(0, 1), at, BASE) for w in W)
        return q @ k.mT
    pairs, halves = scores(W, rope.rotate_pairs), scores([rope.halves_from_pairs(w, 3) for w in W], rope.rotate_halves)
    torch.testing.assert_close(pairs, halves, **check.EXACT)
    assert (scores(W, rope.rotate_halves) - pairs).abs().max() > 1
    diagonal = partial(torch.diagonal, dim1=-2, dim2=-1)
    torch.testing.assert_close(diagonal(scores(W, rope.rotate_halves)), diagonal(pairs), **check.EXACT)          # distance 0 turns nothing


def test_length_kept_and_values_in_their_places():
    q, _ = qk()
    for rotate in (rope.rotate_pairs, rope.rotate_halves):
        y = rotate(q, torch.arange(40), BASE)
        torch.testing.assert_close(y.norm(dim=-1), q.norm(dim=-1))
        assert torch.equal(y[..., 0, :], q[..., 0, :]) and not torch.equal(y[..., 1:, :], q[..., 1:, :])
        torch.testing.assert_close(rotate(q, torch.arange(40), BASE, scale=1.5), 1.5 * y)
        torch.testing.assert_close(rotate(y, -torch.arange(40), BASE), q)
        torch.testing.assert_close(rotate(q, torch.arange(40), theta=rope.frequencies(8, BASE)), y)


def test_sequences_at_places_of_their_own():
    q, _ = qk(lead=(2,))
    at = torch.stack([torch.arange(40), torch.arange(100, 140)])
    want = torch.stack([rope.rotate_halves(x, t, BASE) for x, t in zip(q, at)])
    assert torch.equal(rope.rotate_halves(q, at, BASE), want)


@pytest.mark.parametrize("dtype, far", [(torch.float32, 10 ** 6), (torch.bfloat16, 10 ** 4)])
def test_far_places_keep_their_fractions(dtype, far):
    """In float32 itself an angle of a million radians is wrong by 0.03; the scores here are as good as next to 0."""
    q, k = (x.to(dtype) for x in qk(lead=()))
    at = torch.arange(40)
    near, there = (rope.rotate_halves(q, at + n) @ rope.rotate_halves(k, at + n).mT for n in (0, far))
    eps = torch.finfo(dtype).eps
    assert near.dtype == dtype and (near - there).abs().max() < 40 * eps
    naive = (at + far).to(dtype)[:, None] * rope.frequencies(8).to(dtype)
    assert (naive.double() - (at + far).double()[:, None] * rope.frequencies(8)).abs().max() > 40 * eps


@pytest.mark.parametrize("K", [1, 3, 5])
def test_refuses_an_odd_width(K):
    with pytest.raises(ValueError, match=f"x has width {K}, wanted an even one"):
        rope.frequencies(K)
