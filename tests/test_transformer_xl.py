"""Transformer-XL against the authors' numbers, labml-nn, the shift trick, and who sees whom."""
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from minimem import check, core
from minimem.cache import full
from minimem.cache import transformer_xl as xl
from minimem.forms import attend
from minimem.layer import Block, heads, merged
from minimem.lm import small

FORMS = [xl.recurrent, xl.chunked]
EVERY = pytest.mark.parametrize("form", FORMS)


def given(D=8, H=2, T=30, lead=(2,)):
    r = torch.Generator().manual_seed(1)
    return xl.params(D, H, dtype=torch.float64), torch.randn(*lead, T, D, generator=r, dtype=torch.float64)


def dense(x, mem, p):
    """(1) and (2) with every score written out: all of mem, and x up to the token itself."""
    H, M, T = len(p["u"]), mem.shape[-2], x.shape[-2]
    h = torch.cat([mem, x], -2)
    q, k, v = (heads(y @ p[n], H) for n, y in (("q", x), ("k", h), ("v", h)))
    t, j = torch.arange(M, M + T)[:, None], torch.arange(M + T)
    r = heads(xl.sinusoids(M + T, x) @ p["r"], H)[:, (t - j).clamp(min=0)]                            # H, T, M + T, K
    s = (q + p["u"][:, None]) @ k.mT + ((q + p["w"][:, None])[..., None, :] * r).sum(-1)
    return merged((s / q.shape[-1] ** 0.5).masked_fill(j > t, -torch.inf).softmax(-1) @ v) @ p["o"]


@pytest.mark.oracle("transformer_xl")
@EVERY
def test_the_authors_numbers_and_gradients(form):
    with np.load(Path(__file__).parent / "golden/transformer_xl.npz") as z:
        g = {k: torch.from_numpy(z[k]) for k in z.files}
    x, mem, u, w = (g[n].clone().requires_grad_() for n in ("x", "mem", "u", "v"))
    q, k, v = g["qkv_net_weight"].mT.chunk(3, -1)
    p = {"q": q, "k": k, "v": v, "r": g["r_net_weight"].mT, "o": g["o_net_weight"].mT, "u": u, "w": w}
    memory = mem.transpose(0, 1)
    o, _ = form(x.transpose(0, 1), {"memory": memory, "segment": memory[:, :0]}, params=p, memory=4, segment=5)
    y = F.layer_norm(x + o.transpose(0, 1), (16,), g["layer_norm_weight"], g["layer_norm_bias"], 1e-5)        # the norm after it
    torch.testing.assert_close(y, g["ref_y"], **check.EXACT)
    (y * g["w"]).sum().backward()
    for got, name in ((x, "x"), (mem, "mem"), (u, "u"), (w, "v")):
        torch.testing.assert_close(got.grad, g[f"grad_{name}"], **check.EXACT)


@pytest.mark.oracle("transformer_xl")
@pytest.mark.parametrize("M", [0, 3, 11])
def test_labml(M, monkeypatch):
    """Theirs learns a vector and a number for each distance in place of R W_R and w·R W_R of (2): set to these, the two are one."""
    from labml_nn.transformers import mha
    from labml_nn.transformers.xl.relative_mha import RelativeMultiHeadAttention
    monkeypatch.setattr(mha.tracker, "debug", lambda *_: None, raising=False)                        # which the labml of today no longer has
    p, x = given(T=7)
    mem = torch.randn(2, M, 8, dtype=torch.float64)
    theirs, R = RelativeMultiHeadAttention(2, 8, 0.0).double(), heads(xl.sinusoids(M + 7, x) @ p["r"], 2)
    with torch.no_grad():
        for name, module in (("q", theirs.query), ("k", theirs.key), ("v", theirs.value)):
            module.linear.weight.copy_(p[name].mT)
        theirs.output.weight.copy_(p["o"].mT)
        theirs.output.bias.zero_()
        theirs.value.linear.bias.zero_()
        at = theirs.P - torch.arange(M + 7)
        theirs.query_pos_bias.copy_(p["u"])
        theirs.key_pos_embeddings[at] = R.transpose(0, 1)
        theirs.key_pos_bias[at] = (R @ p["w"][..., None])[..., 0].mT
        h = torch.cat([mem, x], 1).transpose(0, 1)
        seen = (torch.arange(M + 7) <= torch.arange(M, M + 7)[:, None])[..., None]
        want = theirs(query=x.transpose(0, 1), key=h, value=h, mask=seen).transpose(0, 1)
    for form in FORMS:
        got, _ = form(x, {"memory": mem, "segment": mem[:, :0]}, params=p, memory=11, segment=8)
        torch.testing.assert_close(got, want, **check.EXACT)


def test_the_shift_trick_is_a_lookup_by_distance():
    """The authors' way: columns by falling distance, a column of zeros, reshaped. Right where j ≤ t; above it stands another row's."""
    n, M = 4, 3
    X = torch.arange(float(n * (M + n))).view(n, M + n)                                               # row t, column: distance
    falling = X.flip(-1)
    shifted = F.pad(falling, (1, 0)).view(M + n + 1, n)[1:].view(n, M + n)
    t, j = torch.arange(M, M + n)[:, None], torch.arange(M + n)
    ours = X.gather(1, (t - j).clamp(min=0))
    assert torch.equal(shifted[j <= t], ours[j <= t]) and not torch.equal(shifted[j > t], ours[j > t])


@pytest.mark.parametrize("M", [0, 5, 9])
def test_with_the_norm_before_it(M):
    """Inside a Block the memory holds what is normed already: LN([m; x]), the authors' option."""
    p, x = given(T=6)
    block = Block(xl.Layer(8, 2, memory=9, segment=6), 8, norm=torch.nn.LayerNorm).double()
    block.mixer.weight.update(torch.nn.ParameterDict(p))
    with torch.no_grad():
        block.norm.weight.normal_()
        block.norm.bias.normal_()
    mem = torch.randn(2, M, 8, dtype=torch.float64)
    y, state = block(x, {"mixer": {"memory": block.norm(mem), "segment": mem[:, :0]}})
    torch.testing.assert_close(y, x + dense(block.norm(x), block.norm(mem), p), **check.EXACT)
    torch.testing.assert_close(state["mixer"]["memory"], block.norm(torch.cat([mem, x], 1))[:, -9:])


@EVERY
@pytest.mark.parametrize("M, n", [(0, 1), (0, 5), (3, 1), (5, 5), (2, 7), (12, 4), (40, 3)])
def test_segment_by_segment_written_out(form, M, n):
    p, x = given()
    want = torch.cat([dense(part, x[:, max(0, i * n - M):i * n], p) for i, part in enumerate(x.split(n, 1))], 1)
    got, state = form(x, params=p, memory=M, segment=n)
    torch.testing.assert_close(got, want, **check.EXACT)
    assert state["memory"].shape[1] == min(M, 30 // n * n) and state["segment"].shape[1] == 30 % n


@EVERY
def test_who_sees_whom(form):
    """By changing one token: t is moved by exactly those from n⌊t/n⌋ − M to t."""
    p, x = given(lead=())
    base, _ = form(x, params=p, memory=6, segment=4)
    for j in range(30):
        changed = x.clone()
        changed[j] += 1
        moved = (form(changed, params=p, memory=6, segment=4)[0] - base).abs().amax(-1) > 1e-9
        assert moved.tolist() == [t // 4 * 4 - 6 <= j <= t for t in range(30)]


def test_a_segment_of_one_token_is_a_window():
    """All see the same M tokens and themselves, the authors' same_length: one window for the whole sequence."""
    p, x = given()
    q, k, v = (heads(x @ p[n], 2) for n in "qkv")
    R = heads(xl.sinusoids(8, x) @ p["r"], 2)
    o, _ = attend(q + p["u"][:, None], k, v, window=8, bias=(q + p["w"][:, None]) @ R.mT / 2)
    torch.testing.assert_close(xl.chunked(x, params=p, memory=7, segment=1)[0], merged(o) @ p["o"], **check.EXACT)


@EVERY
def test_no_gradient_enters_the_memory(form):
    """The second segment reads the first, and changes with it; its loss has no gradient there. Through a state handed over as well."""
    p, x = given(T=16)
    for cut in (16, 8, 3):
        x.requires_grad_()
        first, state = form(x[:, :cut], params=p, memory=8, segment=8)
        both = first if cut == 16 else torch.cat([first, form(x[:, cut:], state, params=p, memory=8, segment=8)[0]], 1)
        grad, = torch.autograd.grad(both[:, 8:].square().sum(), x, retain_graph=True)
        assert (grad[:, :8] == 0).all() and (grad[:, 8:] != 0).any(-1).all()
        assert cut == 3 or not any(y.requires_grad for y in core.tensors(state))                     # nothing of the graph is kept either
    grad, = torch.autograd.grad(both[:, :8].square().sum(), x)
    assert (grad[:, :8] != 0).any(-1).all()                                    # within a segment it does flow


def test_keys_are_those_of_the_weights_of_today():
    """States are kept, not keys: after a change of W_k the memory is read with the new one."""
    p, x = given(T=10)
    _, state = xl.chunked(x[:, :5], params=p, memory=5, segment=5)
    later = {**p, "k": -p["k"]}
    torch.testing.assert_close(xl.chunked(x[:, 5:], state, params=later, memory=5, segment=5)[0], dense(x[:, 5:], x[:, :5], later), **check.EXACT)


def test_the_reach_grows_with_the_layers():
    """Two layers carry token 0 farther than one segment and its memory; a third carries it farther still."""
    reach = []
    for layers in (1, 2, 3):
        torch.manual_seed(0)
        model = small(11, 16, [xl.Layer(16, 2, memory=4, segment=4) for _ in range(layers)]).double()
        tokens = torch.zeros(1, 40).long()
        changed = tokens.clone()
        changed[0, 0] = 1
        moved = (model(tokens)[0] - model(changed)[0]).abs().amax(-1)[0] > 1e-12
        reach.append(int(moved.nonzero().max()))
    assert reach == [7, 11, 15]


def test_half_the_bytes_of_a_cache_of_keys_and_values():
    """D numbers a token against 2 Hk K; with a quarter of the key heads the cache of keys and values is the smaller one."""
    x = torch.randn(1, 64, 32)
    states, cache, few = (core.nbytes(layer(x)[1]) for layer in (xl.Layer(32, 4, memory=64, segment=64), full.Layer(32, 4), full.Layer(32, 4, kv_heads=1)))
    assert states == 64 * 32 * 4 and cache == 2 * states and few == states // 2


def test_memory_and_segment_may_change_after_training():
    torch.manual_seed(0)
    layer, x = xl.Layer(8, 2, memory=4, segment=4).double(), torch.randn(2, 30, 8).double()
    layer.memory, layer.segment = 12, 3
    torch.testing.assert_close(layer(x)[0], xl.recurrent(x, params=dict(layer.weight), memory=12, segment=3)[0], **check.EXACT)


@EVERY
def test_refuses(form):
    p, x = given(T=5)
    for options, words in (({"memory": -1}, "memory=-1"), ({"segment": 0}, "segment=0")):
        with pytest.raises(ValueError, match=words):
            form(x, params=p, **options)
    long = {"memory": x.repeat(1, 3, 1), "segment": x[:, :0]}
    with pytest.raises(ValueError, match="15 tokens of memory and 0 of a segment, wanted at most 12 and less than 4"):
        form(x, long, params=p)
    with pytest.raises(ValueError, match="0 tokens of memory and 4 of a segment"):
        form(x, {"memory": x[:, :0], "segment": x[:, :4]}, params=p)
    with pytest.raises(ValueError, match="x has shape .*D=8"):
        form(x[..., :6], params=p)
    with pytest.raises(ValueError, match="state must be a dict of memory and segment"):
        form(x, {"k": x}, params=p)
    for D, H in ((9, 2), (9, 3)):
        with pytest.raises(ValueError, match=f"D is 9, wanted a multiple of heads, {H}, and of 2"):
            xl.params(D, H)
