"""PI, NTK, YaRN against transformers, x-transformers and rotary-embedding-torch; ReRoPE and Self-Extend against scores built pair by pair."""
import inspect
import math
from functools import partial

import pytest
import torch

from minimem import check, core
from minimem.cache import full
from minimem.position import interpolation as ip
from minimem.position import rope

GRID = [(32, 500.0, 4.0, 128), (64, 100000.0, 8.0, 8192), (128, 10000.0, 32.0, 4096), (8, 10.0, 1.0, 16), (16, 10000.0, 2.5, 100), (8, 10.0, 4.0, 1000)]
FLOAT32 = {"rtol": 1e-6, "atol": 0}                                       # what their frequencies are computed in


def theirs(kind, K, base, s, trained, length=None, **more):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    kept = {"original_max_position_embeddings": trained} if kind == "yarn" else {}
    config = LlamaConfig(hidden_size=2 * K, num_attention_heads=2, max_position_embeddings=trained,
                         rope_parameters={"rope_type": kind, "rope_theta": base, "factor": s, **kept, **more})
    theta, m = ROPE_INIT_FUNCTIONS[kind](config, None, seq_len=length)
    return theta.double(), m


@pytest.mark.oracle("interpolation")
@pytest.mark.parametrize("K, base, s, trained", GRID)
def test_pi_is_linear_scaling_of_transformers(K, base, s, trained):
    torch.testing.assert_close(ip.pi(K, base, s), theirs("linear", K, base, s, trained)[0], **FLOAT32)


@pytest.mark.oracle("interpolation", "ntk")
@pytest.mark.parametrize("s", [1.0, 4.0])
def test_pi_and_ntk_turn_as_two_packages_do(s):
    from rotary_embedding_torch import RotaryEmbedding
    from x_transformers.x_transformers import RotaryEmbedding as Other
    from x_transformers.x_transformers import apply_rotary_pos_emb
    x, at = torch.randn(2, 3, 50, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.arange(50)
    for theta, one, other in ((ip.pi(16, 500.0, s), {"interpolate_factor": s}, {"interpolation_factor": s}),
                              (ip.ntk(16, 500.0, s), {"theta_rescale_factor": s}, {"base_rescale_factor": s})):
        mine = rope.rotate_pairs(x, at, theta=theta)
        torch.testing.assert_close(RotaryEmbedding(16, theta=500.0, **one).rotate_queries_or_keys(x), mine, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(apply_rotary_pos_emb(x, *Other(16, base=500.0, **other)(at)), mine, rtol=1e-5, atol=2e-5)


@pytest.mark.oracle("ntk")
@pytest.mark.parametrize("K, base, s, trained", GRID)
@pytest.mark.parametrize("times", [0.5, 1, 1.3, 4])
def test_dynamic_ntk_is_that_of_transformers(K, base, s, trained, times):
    length = int(times * trained)
    torch.testing.assert_close(ip.ntk_dynamic(K, base, s, trained, length), theirs("dynamic", K, base, s, trained, length)[0], **FLOAT32)


@pytest.mark.oracle("yarn")
@pytest.mark.parametrize("K, base, s, trained", GRID)
@pytest.mark.parametrize("ramp", [{}, {"slow": 0.5, "fast": 4.0}, {"slow": 2.0, "fast": 2.0}], ids=str)
def test_yarn_is_that_of_transformers(K, base, s, trained, ramp):
    theta, m = ip.yarn(K, base, s, trained, **ramp)
    want, factor = theirs("yarn", K, base, s, trained, **{{"slow": "beta_slow", "fast": "beta_fast"}[n]: x for n, x in ramp.items()})
    torch.testing.assert_close(theta, want, rtol=3e-6, atol=0)
    assert m == pytest.approx(factor, rel=1e-12)


@pytest.mark.oracle("interpolation", "ntk", "yarn")
@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn"])
def test_attention_with_the_rotation_of_transformers(kind):
    """Past the trained length, through our cache and their rotation: dynamic NTK in one call, as their prefill."""
    from torch.nn.functional import scaled_dot_product_attention as sdpa
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
    q, k, v = check.inputs("qkv", T=60, K=8)
    kept = {"original_max_position_embeddings": 16} if kind == "yarn" else {}
    config = LlamaConfig(hidden_size=24, num_attention_heads=3, max_position_embeddings=16,
                         rope_parameters={"rope_type": kind, "rope_theta": 50.0, "factor": 4.0, **kept})
    turned = apply_rotary_pos_emb(q, k, *LlamaRotaryEmbedding(config)(q, torch.arange(60)[None]))
    theta, m = ip.yarn(8, 50.0, 4.0, 16)
    rotate = {"linear": partial(rope.rotate_halves, theta=ip.pi(8, 50.0, 4.0)), "yarn": partial(rope.rotate_halves, theta=theta, scale=m),
              "dynamic": partial(ip.rotate_dynamic, base=50.0, s=4.0, trained=16)}[kind]
    torch.testing.assert_close(full.parallel(q, k, v, rotate=rotate)[0], sdpa(*turned, v, is_causal=True), rtol=1e-5, atol=2e-6)


# ------------------------------------------------------------------ slower turns


def test_which_pairs_slow_down():
    K, base, s, trained = 64, 100000.0, 4.0, 8192
    theta = rope.frequencies(K, base)
    turns = trained * theta / (2 * math.pi)
    assert (turns < 1).nonzero().min() == 20                              # pairs 20 to 31 never complete a turn in 8,192 tokens
    slower = theta / ip.ntk(K, base, s)
    torch.testing.assert_close(slower, s ** (torch.arange(32).double() / 31), **check.EXACT)
    assert slower[0] == 1 and slower[-1] == pytest.approx(s)
    parts = theta / ip.ntk_by_parts(K, base, s, trained)
    yarn = theta / ip.yarn(K, base, s, trained)[0]
    for slower in (parts, yarn):
        assert torch.equal(slower[turns > 33], torch.ones_like(slower[turns > 33]))
        torch.testing.assert_close(slower[turns < 1], torch.full_like(slower[turns < 1], s))
        assert (slower.diff() >= 0).all()
    assert (parts - yarn).abs().max() > 0.3                               # the paper's ramp and the code's are two


def test_by_parts_between_two_turns():
    """Half-way between ``slow`` and ``fast`` turns the frequency is the mean of both."""
    theta = ip.ntk_by_parts(2, 10.0, 4.0, trained=2, slow=0.0, fast=2 * 2 / (2 * math.pi))      # one pair, θ = 1
    assert theta.item() == pytest.approx((1 + 1 / 4) / 2)


def test_temperature_of_yarn_multiplies_scores_twice():
    q, k, _ = check.inputs("qkv", T=9)
    theta, m = ip.yarn(6, 50.0, 4.0, 8)
    at = torch.arange(9)
    plain, warm = (rope.rotate_halves(q, at, theta=theta, scale=x) @ rope.rotate_halves(k, at, theta=theta, scale=x).mT for x in (1.0, m))
    torch.testing.assert_close(warm, (0.1 * math.log(4) + 1) ** 2 * plain)
    assert ip.yarn(6, 50.0, 1.0, 8)[1] == 1


def test_dynamic_ntk_needs_unrotated_keys():
    """Token by token each length has its base; a cache of keys rotated when they came would mix them."""
    q, k, v = check.inputs("qkv", T=40, lead=())
    rotate = partial(ip.rotate_dynamic, base=50.0, s=1.0, trained=16)
    o, _ = full.recurrent(q, k, v, rotate=rotate)
    plain, _ = full.parallel(q, k, v, rotate=partial(rope.rotate_halves, base=50.0))
    torch.testing.assert_close(o[:16], plain[:16], **check.EXACT)
    for t in (16, 20, 39):
        theta = rope.frequencies(6, 50.0 * ((t + 1) / 16) ** (6 / 4))
        s = rope.rotate_halves(q[t:t + 1], torch.tensor([t]), theta=theta) @ rope.rotate_halves(k[:t + 1], torch.arange(t + 1), theta=theta).mT
        torch.testing.assert_close(o[t], ((s / 6 ** 0.5).softmax(-1) @ v[:t + 1])[0], **check.EXACT)
    old = torch.cat([rotate(k[t:t + 1], torch.tensor([t])) for t in range(40)])
    s = rotate(q[39:], torch.tensor([39])) @ old.mT
    assert ((s / 6 ** 0.5).softmax(-1) @ v - o[39]).abs().max() > 1e-3


# ------------------------------------------------------------------ other distances

FORMS = {"rerope": (partial(ip.rerope, w=7), partial(ip.capped, w=7)), "leaky": (partial(ip.rerope, w=5, leak=1 / 3), partial(ip.capped, w=5, leak=1 / 3)),
         "self_extend": (partial(ip.self_extend, w=6, G=3), partial(ip.grouped, w=6, G=3)),
         "G does not divide w": (partial(ip.self_extend, w=7, G=4), partial(ip.grouped, w=7, G=4))}
EVERY = pytest.mark.parametrize("name", FORMS)


@EVERY
@pytest.mark.parametrize("test", [n for n in check.CHECKS if n != "chunk_invariant"])
def test_battery(name, test):
    form, distance = FORMS[name]
    definition = partial(ip.recurrent, distance=distance)
    make = partial(check.inputs, "qkv")
    assert list(inspect.signature(definition).parameters)[:3] == ["q", "k", "v"]
    check.CHECKS[test](form, definition, make, **({"kind": "linear"} if test == "growth" else {}))


def rule(name, t, j):
    """The position difference of one pair, from the papers, in whole numbers and fractions."""
    if name == "rerope":
        return min(t - j, 7)
    if name == "leaky":
        return t - j if t - j < 5 else 5 + (t - j - 5) / 3
    w, G = (6, 3) if name == "self_extend" else (7, 4)
    return t - j if t - j < w else (t // G + w - w // G) - j // G


@pytest.mark.oracle("rerope", "self_extend")
@EVERY
@pytest.mark.parametrize("layout", ["pairs", "halves"])
def test_scores_pair_by_pair(name, layout):
    """One score at a time, each pair of coordinates one complex number turned by the distance; one softmax over the row."""
    q, k, v = check.inputs("qkv", T=45, lead=())
    order = torch.arange(6).view(3, 2) if layout == "pairs" else torch.arange(6).view(2, 3).mT
    qc, kc = (torch.view_as_complex(x[:, order].contiguous()) for x in (q, k))
    theta = 50.0 ** (-torch.arange(3).double() / 3)
    want = []
    for t in range(45):
        score = torch.stack([(qc[t] * kc[j].conj() * torch.exp(1j * rule(name, t, j) * theta)).real.sum() for j in range(t + 1)])
        want.append((score / 6 ** 0.5).softmax(-1) @ v[:t + 1])
    rotate = partial({"pairs": rope.rotate_pairs, "halves": rope.rotate_halves}[layout], base=50.0)
    form, distance = FORMS[name]
    torch.testing.assert_close(form(q, k, v, rotate=rotate)[0], torch.stack(want), **check.EXACT)
    torch.testing.assert_close(ip.recurrent(q, k, v, distance=distance, rotate=rotate)[0], torch.stack(want), **check.EXACT)


def test_when_nothing_is_far_it_is_rope():
    q, k, v = check.inputs("qkv", T=40)
    rotate = partial(rope.rotate_halves, base=50.0)
    want, _ = full.parallel(q, k, v, rotate=rotate)
    for form in (partial(ip.rerope, w=40), partial(ip.rerope, w=3, leak=1.0), partial(ip.self_extend, w=40, G=4), partial(ip.self_extend, w=3, G=1)):
        torch.testing.assert_close(form(q, k, v, rotate=rotate)[0], want, **check.EXACT)
    assert (ip.rerope(q, k, v, w=39, rotate=rotate)[0] - want).abs().max() < 1e-9        # distance 39 is 39 either way
    assert (ip.rerope(q, k, v, w=38, rotate=rotate)[0] - want)[..., :39, :].abs().max() < 1e-9 < (ip.rerope(q, k, v, w=38, rotate=rotate)[0] - want).abs().max()


@pytest.mark.parametrize("trained, w, G", [(128, 64, 4), (128, 32, 8), (100, 20, 5), (16, 15, 3), (64, 1, 1)])
def test_no_distance_beyond_the_training(trained, w, G):
    L = ip.reach(trained, w, G)
    d = ip.grouped(torch.arange(L + G)[:, None], torch.arange(L + G), w, G)
    assert d[:L, :L].max() <= trained - 1 < d.max()
    far = ip.capped(torch.arange(L)[:, None], torch.arange(L), w).max()
    assert far == min(w, L - 1)


@EVERY
def test_a_trained_layer_remapped(name):
    """Grouped heads, cut anywhere, one token at a time; bytes as full attention."""
    torch.manual_seed(0)
    layer = full.Layer(24, 4, kv_heads=2, conv=3, rotate=partial(rope.rotate_halves, base=50.0)).double()
    mixer, x = ip.Remapped(layer, FORMS[name][0]), torch.randn(2, 30, 24, dtype=torch.float64)
    whole, last = mixer(x)
    plain, kept = layer(x)
    assert (whole - plain)[:, :5].abs().max() < 1e-9
    assert (whole - plain)[:, 20:].abs().max() > 1e-6 and core.nbytes(last) == core.nbytes(kept)
    state, outs = None, []
    for part in x.split([1, 1, 9, 1, 13, 5], 1):
        y, state = mixer(part, state)
        outs.append(y)
    check._same((torch.cat(outs, 1), state), (whole, last), "cut")
    torch.testing.assert_close(ip.Remapped(layer, partial(ip.rerope, w=30))(x)[0], plain, **check.EXACT)


@pytest.mark.parametrize("call, words", [
    (lambda *x: ip.rerope(*x, w=0), "window=0"), (lambda *x: ip.self_extend(*x, w=4, G=0), "G is 0, wanted at least 1"),
    (lambda *x: ip.ntk(2, 10.0, 4.0), "K is 2, wanted at least 4"), (lambda *x: ip.pi(3, 10.0, 4.0), "width 3, wanted an even one"),
    (lambda *x: ip.rerope(*x, state=torch.zeros(2, 3, 4, 6, dtype=torch.float64), w=4), "state must be a dict of k and v, got Tensor")])
def test_refuses(call, words):
    with pytest.raises(ValueError, match=words):
        call(*check.inputs("qkv", T=5))


def test_in_the_place_of_a_real_models_memory():
    """``pretrained.through``: the query heads that share a key head read the same cache, two pieces as one."""
    from minimem.pretrained import through
    q, k, v = check.inputs("qkv", T=30)
    q, rotate = torch.stack([q, 2 * q], -3), partial(rope.rotate_pairs, base=50.0)
    attention = through(ip.self_extend, w=6, G=3)
    whole, _ = attention(q, k, v, None, rotate)
    first, state = attention(q[..., :11, :], k[..., :11, :], v[..., :11, :], None, rotate)
    rest, _ = attention(q[..., 11:, :], k[..., 11:, :], v[..., 11:, :], state, rotate)
    torch.testing.assert_close(torch.cat([first, rest], -2), whole, **check.EXACT)
    torch.testing.assert_close(whole[..., 1, :, :], ip.self_extend(q[..., 1, :, :], k, v, w=6, G=3, rotate=rotate)[0], **check.EXACT)
