"""StreamingLLM: which tokens are seen, in which slot, against torch SDPA, attention_sinks and complex numbers."""
import importlib.util
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from minimem import check, core
from minimem.cache import window
from minimem.fast import sdpa as fast
from minimem.position.rope import rotate_halves, rotate_pairs

CASES = [(1, 0), (1, 1), (8, 2), (8, 0), (5, 4), (13, 1), (60, 2)]
FORMS = [window.recurrent, window.parallel]


def qkv(T=50, **options):
    return check.inputs("qkv", T=T, **options)


def seen(T, W, sinks):
    t, j = torch.arange(T)[:, None], torch.arange(T)
    return (j <= t) & ((j < sinks) | (j > t - W))


@pytest.mark.oracle("streaming")
@pytest.mark.parametrize("W, sinks", CASES)
@pytest.mark.parametrize("form", [*FORMS, fast.streaming], ids=["recurrent", "parallel", "fast"])
def test_sdpa_with_a_dense_mask(form, W, sinks):
    q, k, v = qkv()
    want = sdpa(q, k, v, attn_mask=seen(50, W, sinks))
    torch.testing.assert_close(form(q, k, v, window=W, sinks=sinks)[0], want, **check.EXACT)


def attention_sinks_cache(W, sinks):
    """The class alone: the package itself imports models that transformers no longer has."""
    path = Path(importlib.util.find_spec("attention_sinks").origin).with_name("attention_sink_kv_cache.py")
    spec = importlib.util.spec_from_file_location("attention_sink_kv_cache", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.AttentionSinkKVCache(sinks, W)


def rotary(x, slots, base):
    """transformers' rotation of its Llama."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
    config = LlamaConfig(hidden_size=x.shape[-1], num_attention_heads=1, rope_parameters={"rope_type": "default", "rope_theta": base})
    cos, sin = LlamaRotaryEmbedding(config)(x, slots[None])
    return apply_rotary_pos_emb(x, x, cos, sin)[0]


@pytest.mark.oracle("streaming")
@pytest.mark.parametrize("W, sinks", [(8, 2), (5, 4), (13, 1), (6, 0)])
def test_attention_sinks(W, sinks):
    """Token by token: theirs evicts to make room, then appends; its keys are rotated by slot with transformers' own code.

    Called after the append instead, as the package's models do, the same class shows W + 1 recent tokens to a query.
    """
    q, k, v = qkv(40, lead=(1, 2))
    theirs, past, want = attention_sinks_cache(W, sinks), [[k[..., :0, :], v[..., :0, :]]], []
    state = window.init(6, 4, (1, 2), dtype=torch.float64)
    for t in range(40):
        past = [[torch.cat([a, b[..., t:t + 1, :]], -2) for a, b in zip(pair, (k, v))] for pair in theirs.evict_for_space(past, 1)]
        state, _ = window.step(state, *(x[..., t, :] for x in (q, k, v)), window=W, sinks=sinks)
        (keys, values), slots = past[0], torch.arange(past[0][0].shape[-2])
        assert torch.equal(keys, state["k"]) and torch.equal(values, state["v"])
        s = rotary(q[..., t:t + 1, :], slots[-1:], 500.0) @ rotary(keys, slots, 500.0).mT / 6 ** 0.5
        want.append(s.softmax(-1) @ values)
    for form in FORMS:
        got, _ = form(q, k, v, window=W, sinks=sinks, rotate=partial(rotate_halves, base=500.0))
        torch.testing.assert_close(got, torch.cat(want, -2), rtol=1e-5, atol=1e-6)      # their angles are float32


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("W, sinks", [(8, 2), (5, 4), (13, 1), (6, 0)])
def test_rotated_by_slot_against_complex_numbers(form, W, sinks):
    """Dense, from the whole history: pick what is seen, number it 0, 1, 2 …, turn each pair as one complex number."""
    q, k, v = qkv(40, lead=())
    theta = 300.0 ** (-torch.arange(3, dtype=torch.float64) / 3)
    c = [torch.view_as_complex(x.reshape(40, 3, 2).contiguous()) for x in (q, k)]
    want = []
    for t in range(40):
        j = seen(40, W, sinks)[t].nonzero()[:, 0]
        slot = torch.arange(len(j))
        turned = [torch.polar(torch.ones(len(s), 3, dtype=torch.float64), s[:, None] * theta) for s in (slot[-1:], slot)]
        score = ((c[0][t] * turned[0]) * (c[1][j] * turned[1]).conj()).real.sum(-1)
        want.append((score / 6 ** 0.5).softmax(-1) @ v[j])
    got, _ = form(q, k, v, window=W, sinks=sinks, rotate=partial(rotate_pairs, base=300.0))
    torch.testing.assert_close(got, torch.stack(want), **check.EXACT)


@pytest.mark.parametrize("chunks", [[1] * 40, [3] * 13 + [1], [7] * 5 + [5], [40], [11, 1, 28]], ids=str)
def test_rotated_and_cut_anywhere(chunks):
    xs, options = qkv(40), {"window": 8, "sinks": 3, "rotate": rotate_pairs}
    want, last = window.recurrent(*xs, **options)
    outs, state = [], None
    for part in zip(*(x.split(chunks, -2) for x in xs)):
        o, state = window.parallel(*part, state=state, **options)
        outs.append(o)
    check._same((torch.cat(outs, -2), state), (want, last), "cut")


@pytest.mark.parametrize("rotate", [rotate_pairs, rotate_halves])
@pytest.mark.parametrize("K", [1, 3, 5])
def test_an_odd_width_has_no_pairs(rotate, K):
    with pytest.raises(ValueError, match=f"x has width {K}, wanted an even one"):
        rotate(torch.ones(4, K), torch.arange(4))


def test_no_slot_beyond_the_cache():
    """However long the text, no angle is used that the model could not have met within sinks + window tokens."""
    slots_seen = set()

    def spy(x, slots):
        slots_seen.update(slots.tolist())
        return x
    window.recurrent(*qkv(100), window=8, sinks=2, rotate=spy)
    assert slots_seen == set(range(10))


def test_bytes_stop_at_sinks_and_window():
    sizes = [core.nbytes(window.parallel(*qkv(T, lead=()), window=8, sinks=2)[1]) for T in (1, 9, 10, 11, 500)]
    assert sizes == [n * (6 + 4) * 8 for n in (1, 9, 10, 10, 10)]


def test_what_is_dropped_is_gone():
    """The cache does not lengthen memory: a changed token outside both groups leaves later outputs bit-equal."""
    q, k, v = qkv(30)
    changed = [x.index_fill(-2, torch.tensor([5]), 9.0) for x in (k, v)]
    a, b = window.parallel(q, k, v)[0], window.parallel(q, *changed)[0]
    assert torch.equal(a[..., 13:, :], b[..., 13:, :]) and not torch.equal(a[..., 12, :], b[..., 12, :])


@pytest.mark.parametrize("form", [*FORMS, fast.streaming], ids=["recurrent", "parallel", "fast"])
@pytest.mark.parametrize("options, message", [({"window": 0}, "window=0"), ({"sinks": -1}, "sinks=-1")])
def test_refuses(form, options, message):
    with pytest.raises(ValueError, match=message):
        form(*qkv(5), **options)


@pytest.mark.parametrize("form", [*FORMS, fast.streaming], ids=["recurrent", "parallel", "fast"])
def test_refuses_a_state_of_another_size(form):
    state = window.parallel(*qkv(20), window=12, sinks=2)[1]
    with pytest.raises(ValueError, match="14 tokens, wanted at most sinks \\+ window = 10"):
        form(*qkv(5), state=state)
    with pytest.raises(ValueError, match="state\\['k'\\]"):
        form(*qkv(5), state=window.init(7, 4, (2, 3), dtype=torch.float64))
    with pytest.raises(ValueError, match="state must be a dict of k and v, got Tensor"):
        form(*qkv(5), state=torch.zeros(2, 3, 6, 4, dtype=torch.float64))


@pytest.mark.parametrize("options", [{}, {"rotate": rotate_pairs}, {"rotate": rotate_pairs, "sinks": 0}], ids=["bare", "rotated", "no sinks"])
@pytest.mark.parametrize("at", [1, 9, 22, 39])
def test_fast_cut_anywhere(at, options):
    xs = qkv(40)
    whole = window.parallel(*xs, **options)
    a, state = fast.streaming(*(x[..., :at, :] for x in xs), **options)
    b, state = fast.streaming(*(x[..., at:, :] for x in xs), state=state, block=16, **options)
    check._same((torch.cat([a, b], -2), state), whole, f"cut at {at}")
