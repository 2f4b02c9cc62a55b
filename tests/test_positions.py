"""Positions added to tokens or to scores: waves, tables, none, Shaw, T5, ALiBi; against transformers, x-transformers, SDPA and dense formulas."""
import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from minimem import check
from minimem.cache import full
from minimem.layer import heads, merged
from minimem.lm import small
from minimem.position import alibi, relative, sinusoidal

H = 3                                                              # heads of check.inputs


def qkv(T=50, **options):
    return check.inputs("qkv", T=T, **options)


def distance(T, M):
    return torch.arange(M - T, M)[:, None] - torch.arange(M)


# ------------------------------------------------------------------ waves, tables, nothing

@pytest.mark.oracle("sinusoidal")
def test_x_transformers_waves():
    """Theirs: all sines first, and a learned scale of D^−½ at the start."""
    from x_transformers.x_transformers import ScaledSinusoidalEmbedding
    theirs = ScaledSinusoidalEmbedding(12).double()
    theirs.inv_freq = 10000.0 ** -(torch.arange(6).double() / 6)                # in float32 otherwise
    want = theirs(torch.zeros(1, 300, 12)).detach() / theirs.scale.detach()
    ours = sinusoidal.table(300, 12)
    torch.testing.assert_close(torch.cat([ours[:, 0::2], ours[:, 1::2]], -1), want, **check.EXACT)


@pytest.mark.oracle("sinusoidal")
def test_far_positions_keep_their_fraction():
    ours = sinusoidal.table(100_001, 8)
    for i in range(4):
        turn = 100_000 * 10000 ** (-2 * i / 8)
        assert ours[-1, 2 * i].item() == pytest.approx(math.sin(turn), abs=1e-9)
        assert ours[-1, 2 * i + 1].item() == pytest.approx(math.cos(turn), abs=1e-9)


@pytest.mark.oracle("learned", "sinusoidal")
@pytest.mark.parametrize("made", [sinusoidal.learned, sinusoidal.sinusoidal])
def test_x_transformers_adds_a_row_to_each_token(made):
    """Theirs multiplies the table by D^−½; both refuse to go beyond the last row."""
    from x_transformers.x_transformers import AbsolutePositionalEmbedding
    torch.manual_seed(0)
    model = small(20, 16, [full.Layer(16, 2)], positions=made(30, 16)).double()
    theirs = AbsolutePositionalEmbedding(16, 30).double()
    theirs.emb.weight.data = model.positions.weight.detach() * 4
    tokens = torch.randint(20, (2, 30))
    x = model.embed(tokens)
    want = model.head(model.norm(model.blocks[0](x + theirs(x))[0]))
    torch.testing.assert_close(model(tokens)[0], want, **check.EXACT)
    state = model(tokens[:, :13])[1]
    torch.testing.assert_close(model(tokens[:, 13:], state)[0], want[:, 13:], **check.EXACT)
    longer = torch.cat([tokens, tokens[:, :1]], 1)
    with pytest.raises(AssertionError, match="31"):
        theirs(model.embed(longer))
    with pytest.raises(ValueError, match="tokens reach position 30, wanted at most 29"):
        model(longer)
    with pytest.raises(ValueError, match="tokens reach position 30"):
        model(tokens[:, :18], state)


def test_waves_are_not_trained_and_a_table_is():
    assert not sinusoidal.sinusoidal(10, 4).weight.requires_grad
    torch.manual_seed(0)
    table = sinusoidal.learned(500, 40).weight
    assert table.requires_grad and abs(table.std().item() - 0.02) < 0.001
    with pytest.raises(ValueError, match="D is 5, wanted an even width"):
        sinusoidal.table(10, 5)


@pytest.mark.oracle("nope")
@pytest.mark.parametrize("form", [full.recurrent, full.parallel])
def test_sdpa_with_nothing_but_the_mask(form):
    q, k, v = qkv()
    torch.testing.assert_close(form(q, k, v, rotate=sinusoidal.nope)[0], sdpa(q, k, v, is_causal=True), **check.EXACT)


@pytest.mark.oracle("nope")
def test_without_positions_the_past_has_no_order():
    """The last query reads the same from any order of what came before; with ALiBi it does not."""
    q, k, v = qkv(20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    a, b = full.parallel(q, k, v)[0], full.parallel(q, k[..., order, :], v[..., order, :])[0]
    torch.testing.assert_close(a[..., -1, :], b[..., -1, :], **check.EXACT)
    c = full.parallel(q, k[..., order, :], v[..., order, :], bias=alibi.bias)[0]
    assert (full.parallel(q, k, v, bias=alibi.bias)[0] - c)[..., -1, :].abs().min() > 1e-6


# ------------------------------------------------------------------ ALiBi

@pytest.mark.oracle("alibi")
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 12, 16, 25])
def test_slopes_of_bloom_and_x_transformers(n):
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor
    from x_transformers.x_transformers import AlibiPositionalBias
    ours = alibi.slopes(n)
    torch.testing.assert_close(AlibiPositionalBias(n).slopes.flatten().double(), ours, rtol=1e-6, atol=0)
    bloom = build_alibi_tensor(torch.ones(1, 2), n, torch.float64)[:, 0, 1]     # m_h · 1
    torch.testing.assert_close(bloom, ours, rtol=1e-6, atol=0)


@pytest.mark.oracle("alibi")
@pytest.mark.parametrize("form", [full.recurrent, full.parallel])
@pytest.mark.parametrize("n", [4, 6])
def test_both_alibis_are_one_after_the_softmax(form, n):
    """Bloom adds m·j, x-transformers −m·|t − j|, to a dense matrix; ours is a row."""
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor
    from x_transformers.x_transformers import AlibiPositionalBias
    q, k, v = qkv(40, lead=(2, n))
    got = form(q, k, v, bias=alibi.bias)[0]
    hidden = torch.full((40, 40), -torch.inf, dtype=torch.float64).triu(1)
    bloom = build_alibi_tensor(torch.ones(1, 40), n, torch.float64)
    for added in (bloom, AlibiPositionalBias(n)(40, 40).double()):
        torch.testing.assert_close(got, sdpa(q, k, v, attn_mask=added + hidden), rtol=1e-5, atol=1e-6)     # their slopes are float32


@pytest.mark.oracle("alibi")
def test_a_whole_bloom_attention():
    from transformers import BloomConfig
    from transformers.models.bloom.modeling_bloom import BloomAttention, build_alibi_tensor
    torch.manual_seed(0)
    theirs = BloomAttention(BloomConfig(hidden_size=24, n_head=6), layer_idx=0).eval()
    x, hidden = torch.randn(2, 30, 24), torch.full((30, 30), torch.finfo(torch.float32).min).triu(1)
    want = theirs(x, torch.zeros_like(x), build_alibi_tensor(torch.ones(2, 30), 6, torch.float32), hidden)[0]
    q, k, v = theirs.query_key_value(x).unflatten(-1, (6, 3, 4)).transpose(1, 2).unbind(-2)
    got = theirs.dense(merged(full.parallel(q, k, v, bias=alibi.bias)[0]))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_alibi_is_wide_and_needs_heads():
    q = torch.ones(2, 8, 5, 4, dtype=torch.bfloat16)
    b = alibi.bias(q, 4001)
    assert b.shape == (8, 1, 4001) and b.dtype == torch.float32 and b[0, 0, 4000] == -2000
    with pytest.raises(ValueError, match=r"q has shape \(5, 4\), wanted \(..., H, T, K\)"):
        alibi.bias(q[0, 0], 5)
    with pytest.raises(ValueError, match="H is 0"):
        alibi.slopes(0)


# ------------------------------------------------------------------ T5

@pytest.mark.oracle("relative")
@pytest.mark.parametrize("buckets, farthest", [(32, 128), (32, 256), (8, 20), (32, 20)])
def test_buckets_of_t5(buckets, farthest):
    from transformers.models.t5.modeling_t5 import T5Attention
    d = torch.arange(3000)
    theirs = T5Attention._relative_position_bucket(-d, bidirectional=False, num_buckets=buckets, max_distance=farthest)
    ours = relative.bucket(d, buckets, farthest)
    assert torch.equal(ours, theirs) and ours.max() == buckets - 1
    row = relative.T5(2, buckets, farthest)
    torch.nn.init.normal_(row.table.weight)
    b = row(torch.ones(2, 3000, 4), 3000)
    assert b.shape == (2, 1, farthest + 1)
    at = d.clamp(max=farthest)
    torch.testing.assert_close(b[:, 0, at], row.table(theirs).mT)


@pytest.mark.oracle("relative")
@pytest.mark.parametrize("form", [full.recurrent, full.parallel])
def test_a_whole_t5_attention(form):
    """A layer of its decoder, 160 tokens: farther than its last bucket begins. Gradients too."""
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Attention
    torch.manual_seed(0)
    config = T5Config(d_model=24, d_kv=5, num_heads=4, is_decoder=True, dropout_rate=0.0, attn_implementation="eager")
    theirs = T5Attention(config, has_relative_attention_bias=True, layer_idx=0).double().eval()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x = torch.randn(2, 160, 24, dtype=torch.float64)
    hidden = torch.full((160, 160), torch.finfo(torch.float64).min, dtype=torch.float64).triu(1)[None, None]
    want = theirs(x, mask=hidden)[0]
    q, k, v = (heads(w(x), 4) for w in (theirs.q, theirs.k, theirs.v))
    bias = relative.T5(4).double()
    bias.table.weight.data = theirs.relative_attention_bias.weight.data.clone()
    got = theirs.o(merged(form(q, k, v, bias=bias, rescale=relative.unscaled)[0]))
    torch.testing.assert_close(got, want, **check.EXACT)
    w = torch.randn_like(want)
    ours, = torch.autograd.grad((got * w).sum(), bias.table.weight)
    torch.testing.assert_close(ours, torch.autograd.grad((want * w).sum(), theirs.relative_attention_bias.weight)[0], **check.EXACT)


# ------------------------------------------------------------------ Shaw

@pytest.mark.oracle("relative")
@pytest.mark.parametrize("n", [1, 5, 60])
def test_shaws_keys_in_wav2vec2_bert(n):
    """Theirs looks both ways: a mask hides what is ahead, and of its 2n + 1 vectors the first n + 1 are used, the farthest first."""
    from transformers import Wav2Vec2BertConfig
    from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention
    torch.manual_seed(0)
    config = Wav2Vec2BertConfig(hidden_size=24, num_attention_heads=4, position_embeddings_type="relative_key", left_max_position_embeddings=n,
                                right_max_position_embeddings=n, attention_dropout=0.0, attn_implementation="eager")
    theirs = Wav2Vec2BertSelfAttention(config).double().eval()
    x = torch.randn(2, 40, 24, dtype=torch.float64)
    hidden = torch.full((40, 40), torch.finfo(torch.float64).min, dtype=torch.float64).triu(1)[None, None]
    want = theirs(x, attention_mask=hidden)[0]
    q, k, v = (heads(w(x), 4) for w in (theirs.linear_q, theirs.linear_k, theirs.linear_v))
    bias = relative.Shaw(6, n).double()
    bias.keys.data = theirs.distance_embedding.weight.data[:n + 1].flip(0)
    for form in (full.recurrent, full.parallel):
        torch.testing.assert_close(theirs.linear_out(merged(form(q, k, v, bias=bias)[0])), want, **check.EXACT)


def dense_shaw(q, k, v, keys, values):
    """The equation as it stands, with a vector for each pair: T × M × K."""
    d = distance(q.shape[-2], k.shape[-2])
    c = d.clamp(0, len(keys) - 1)
    s = torch.einsum("...tk,...tjk->...tj", q, k[..., None, :, :] + keys[c]) / q.shape[-1] ** 0.5
    p = s.masked_fill(d < 0, -torch.inf).softmax(-1)
    return torch.einsum("...tj,...tjv->...tv", p, v[..., None, :, :] + values[c])


@pytest.mark.oracle("relative")
@pytest.mark.parametrize("n", [1, 4, 30, 300])
@pytest.mark.parametrize("T, M", [(1, 1), (20, 20), (150, 150), (7, 40), (1, 140)])
def test_shaws_values_against_the_dense_formula(n, T, M):
    q, k, v = qkv(M)
    r = torch.Generator().manual_seed(1)
    keys, values = (torch.randn(n + 1, w, generator=r, dtype=torch.float64) for w in (6, 4))
    xs = [x.requires_grad_() for x in (q[..., M - T:, :], k, v, keys, values)]
    got, want = relative.shaw(*xs), dense_shaw(*xs)
    torch.testing.assert_close(got, want, **check.EXACT)
    w = torch.randn(want.shape, generator=r, dtype=torch.float64)
    for a, b in zip(torch.autograd.grad((got * w).sum(), xs), torch.autograd.grad((want * w).sum(), xs)):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_shaw_with_empty_values_is_its_bias():
    q, k, v = qkv()
    bias = relative.Shaw(6, 8).double()
    torch.nn.init.normal_(bias.keys)
    none = torch.zeros(9, 4, dtype=torch.float64)
    torch.testing.assert_close(relative.shaw(q, k, v, bias.keys, none), full.parallel(q, k, v, bias=bias)[0], **check.EXACT)
    for keys, values in ((bias.keys[:1], none[:1]), (bias.keys, none[:5])):
        with pytest.raises(ValueError, match=r"^keys has \d rows and values \d"):
            relative.shaw(q, k, v, keys, values)


# ------------------------------------------------------------------ all of them

LEARNS = {"Shaw": lambda: relative.Shaw(8, 4), "T5": lambda: relative.T5(4, 8, 20)}


@pytest.mark.parametrize("name", LEARNS)
def test_a_layer_trains_its_positions(name):
    torch.manual_seed(0)
    layer = full.Layer(32, 4, bias=LEARNS[name]()).double()
    for p in layer.bias.parameters():
        torch.nn.init.normal_(p)
    x = torch.randn(2, 30, 32, dtype=torch.float64)
    whole = layer(x)[0]
    (whole * torch.randn_like(whole)).sum().backward()
    assert all(p.grad.abs().min() > 0 for p in layer.bias.parameters())
    a, state = layer(x[:, :11])
    torch.testing.assert_close(torch.cat([a, layer(x[:, 11:], state)[0]], 1), whole, **check.EXACT)
