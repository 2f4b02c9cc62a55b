"""RWKV-4 against transformers and against its formula, where keys are large, and the layers around it."""
import math

import pytest
import torch
from torch import nn

from minimem import core
from minimem.layer import Block
from minimem.state import rwkv4

CLOSE = {"rtol": 1e-5, "atol": 1e-5}                             # of float32 code, on outputs of size 1 to 4
EXACT = {"rtol": 1e-9, "atol": 1e-10}
FORMS = pytest.mark.parametrize("form", ["recurrent", "parallel"])


def make(T=100, D=16, spread=1.0, dtype=torch.float64, lead=(3,)):
    """k and v, and what the channels have learned."""
    r = torch.Generator().manual_seed(0)
    k, v = (torch.randn(*lead, T, D, generator=r, dtype=torch.float64) for _ in "kv")
    return (spread * k).to(dtype), v.to(dtype), rwkv4.params(D, dtype=dtype)


def naive(k, v, w, u):
    """(1) as one (T, T) table of weights for each channel; no stabiliser."""
    t = torch.arange(k.shape[-2])
    gap = (t[:, None] - 1 - t)[..., None]                        # t − 1 − i
    e = torch.where(gap >= 0, gap * w, u.expand(*gap.shape[:2], -1) * (gap == -1)) + k[..., None, :, :]
    weight = e.exp() * (gap >= -1)
    return (weight * v[..., None, :, :]).sum(-2) / weight.sum(-2)


def gauged(state):
    """What a state means, whatever its unit: α / β, and the log of β e^p."""
    return state["alpha"] / state["beta"], state["beta"].log() + state["p"]


@FORMS
@pytest.mark.parametrize("spread", [1.0, 5.0, 100.0])
@pytest.mark.oracle("rwkv4")
def test_equals_transformers(form, spread):
    """In two pieces, the second from a state; gradients too. Their w is the log of minus ours."""
    from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu
    k, v, learned = make(spread=spread, dtype=torch.float32)
    k.requires_grad_(), v.requires_grad_()
    learned = {n: x.requires_grad_() for n, x in learned.items()}
    run, decay = getattr(rwkv4, form), torch.log(-learned["w"])
    o, state = run(k[:, :40], v[:, :40], learned)
    o2, state2 = run(k[:, 40:], v[:, 40:], learned, state=state)
    y, kept = rwkv_linear_attention_cpu(decay, learned["u"], k[:, :40], v[:, :40], return_state=True)
    y2, kept2 = rwkv_linear_attention_cpu(decay, learned["u"], k[:, 40:], v[:, 40:], state=kept, return_state=True)
    close = {"rtol": 1e-5, "atol": 1e-5 * max(1, spread / 10)}   # an exponent of 300 has four digits behind the point
    torch.testing.assert_close(torch.cat([o, o2], 1), torch.cat([y, y2], 1), **close)
    for mine, theirs in ((state, kept), (state2, kept2)):
        for got, want in zip(gauged(mine), gauged(dict(zip(("alpha", "beta", "p"), theirs)))):
            torch.testing.assert_close(got, want, **close)
    ask = torch.randn(3, 100, 16, generator=torch.Generator().manual_seed(1))
    inputs = (k, v, *learned.values())
    mine, theirs = (torch.autograd.grad((torch.cat(out, 1) * ask).sum(), inputs) for out in ((o, o2), (y, y2)))
    for got, want in zip(mine, theirs):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * spread * want.abs().max().item())


@FORMS
@pytest.mark.parametrize("spread", [1.0, 5.0])
@pytest.mark.oracle("rwkv4")
def test_equals_the_formula_where_that_can_be_computed(form, spread):
    """In float64, and its gradients by autograd of the table: no gradient is lost with that of p."""
    k, v, learned = make(spread=spread)
    inputs = [x.requires_grad_() for x in (k, v, learned["w"], learned["u"])]
    mine, table = getattr(rwkv4, form)(k, v, learned)[0], naive(*inputs)
    torch.testing.assert_close(mine, table, **EXACT)
    ask = torch.randn(3, 100, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for got, want in zip(torch.autograd.grad((mine * ask).sum(), inputs), torch.autograd.grad((table * ask).sum(), inputs)):
        torch.testing.assert_close(got, want, **EXACT)


@FORMS
def test_keys_that_overflow_the_formula(form):
    """e^88 is the end of float32: with keys of deviation 30 the formula gives NaN, and the memory is right."""
    k, v, learned = make(spread=30.0, dtype=torch.float32, T=400)
    assert naive(k, v, **learned).isnan().any()
    got = getattr(rwkv4, form)(k, v, learned)[0]
    want = naive(k.double(), v.double(), **{n: x.double() for n, x in learned.items()})
    assert (got - want).abs().max() < {"parallel": 3e-6, "recurrent": 1e-4}[form]       # a loop repeats its rounding at every step


@FORMS
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_a_key_of_an_absurd_size(form, size):
    """It takes all, or it is not there."""
    k, v, learned = make(dtype=torch.float32)
    k[:, 30] = size
    o, state = getattr(rwkv4, form)(k, v, learned)
    assert all(x.isfinite().all() for x in core.tensors((o, state)))
    if size > 0:
        torch.testing.assert_close(o[:, 30:32], v[:, 30:31].expand(-1, 2, -1))
    else:
        rest = getattr(rwkv4, form)(torch.cat([k[:, :30], k[:, 31:]], 1), torch.cat([v[:, :30], v[:, 31:]], 1), learned)[0]
        torch.testing.assert_close(o[:, :30], rest[:, :30])


@FORMS
def test_only_the_product_with_the_unit_counts(form):
    """α e^c, β e^c, p − c is the same memory for any c."""
    k, v, learned = make()
    _, state = getattr(rwkv4, form)(k, v, learned)
    c = torch.linspace(-3, 9, 16, dtype=torch.float64)
    other = {"alpha": state["alpha"] * c.exp(), "beta": state["beta"] * c.exp(), "p": state["p"] - c}
    a, b = (getattr(rwkv4, form)(k, v, learned, state=s) for s in (state, other))
    torch.testing.assert_close(a[0], b[0], **EXACT)
    for got, want in zip(gauged(a[1]), gauged(b[1])):
        torch.testing.assert_close(got, want, **EXACT)


@FORMS
def test_limits(form):
    """No decay, u = 0, equal keys: the plain mean so far. A decay without end: the last two tokens. u without end: the current one."""
    k, v, learned = make()
    run, one, zero = getattr(rwkv4, form), torch.ones(16).double(), torch.zeros(16).double()
    t = torch.arange(1, 101).double()[:, None]
    torch.testing.assert_close(run(0 * k, v, {"w": zero, "u": zero})[0], v.cumsum(-2) / t, **EXACT)
    fast = run(0 * k, v, {"w": -1e4 * one, "u": zero})[0]
    torch.testing.assert_close(fast[:, 1:], (v[:, 1:] + v[:, :-1]) / 2, **EXACT)
    torch.testing.assert_close(run(k, v, {"w": learned["w"], "u": 1e3 * one})[0], v, **EXACT)


@FORMS
def test_a_long_sequence_with_fast_channels(form):
    """Decays of e^−20 a token, where t w is large: no digit is lost to the running maximum."""
    k, v, _ = make(T=3000, dtype=torch.float32, lead=())
    learned = {"w": torch.linspace(-20, 0, 16), "u": torch.zeros(16)}
    got = getattr(rwkv4, form)(k, v, learned)[0]
    want = rwkv4.recurrent(k.double(), v.double(), {n: x.double() for n, x in learned.items()})[0]
    assert (got - want).abs().max() < 2e-6 * want.abs().max()


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.oracle("rwkv4")
def test_starts_as_transformers_does(layer):
    """All but u: theirs is 1 in 5.23.0, where the authors have log 0.3 and a zigzag; and W_k, W_r, W_o, which the authors start at 0."""
    from transformers import RwkvConfig, RwkvForCausalLM
    theirs = RwkvForCausalLM(RwkvConfig(vocab_size=9, hidden_size=12, num_hidden_layers=3)).rwkv.blocks[layer]
    mixer, ffn = rwkv4.Layer(12, layer, 3), rwkv4.ChannelMix(12, layer=layer, layers=3)
    for ours, other in ((mixer, theirs.attention), (ffn, theirs.feed_forward)):
        starts = dict(other.named_parameters())
        assert {n: p.shape for n, p in ours.named_parameters()} == {n: p.shape for n, p in starts.items()}
        for name, p in ours.named_parameters():
            if name.startswith("time") and name != "time_first":
                torch.testing.assert_close(p, starts[name])
    want = torch.tensor([math.log(0.3) + z for z in (0, 0.5, -0.5)] * 4)
    torch.testing.assert_close(mixer.time_first.data, want)
    assert not any(linear.weight.any() for linear in (mixer.key, mixer.receptance, mixer.output, ffn.receptance, ffn.value))
    torch.testing.assert_close(mixer.value.weight @ mixer.value.weight.T, torch.eye(12), **CLOSE)
    torch.testing.assert_close(ffn.key.weight.T @ ffn.key.weight, 4 * torch.eye(12), **CLOSE)
    if layer == 0:
        torch.testing.assert_close(rwkv4.params(12), {"w": -mixer.time_decay.data.exp(), "u": mixer.time_first.data})


def test_bytes_of_a_block_are_five_numbers_a_channel():
    block, x = Block(rwkv4.Layer(32), 32, rwkv4.ChannelMix(32), nn.LayerNorm), torch.randn(1, 9, 32)
    assert [core.nbytes(block(x[:, :T])[1]) for T in (1, 9)] == 2 * [4 * 5 * 32]


def test_channel_mix_streams_and_refuses():
    torch.manual_seed(0)
    mix = rwkv4.ChannelMix(32, 20).double()
    nn.init.normal_(mix.value.weight)
    x = torch.randn(2, 9, 32, dtype=torch.float64)
    whole, last = mix(x)
    first, state = mix(x[:, :4])
    rest, state = mix(x[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole, **EXACT)
    assert torch.equal(state["x"], last["x"]) and torch.equal(last["x"], x[:, -1:]) and whole.abs().max() > 0.1
    with pytest.raises(ValueError, match="^x has shape"):
        mix(x[..., :-1])


@FORMS
@pytest.mark.parametrize("change, message", [
    ({"w": torch.full((16,), 0.5).double()}, "w is a log-decay and must be <= 0, saw 0.5"),
    ({"w": -torch.ones(15).double()}, r"w has shape \(15,\), wanted \(..., D=16\)"),
    ({"u": torch.ones(16)}, "u is torch.float32"),
    ({"u": torch.full((16,), torch.nan).double()}, "u holds NaN"),
])
def test_what_it_refuses_to_have_learned(form, change, message):
    k, v, learned = make()
    with pytest.raises(ValueError, match=message):
        getattr(rwkv4, form)(k, v, {**learned, **change})


@FORMS
def test_a_state_that_does_not_fit_is_refused(form):
    k, v, learned = make()
    for state, message in ((rwkv4.init(15, (3,), dtype=torch.float64), r"state\['alpha'\] has shape"),
                           ({"alpha": k[:, 0]}, "state must be a dict of alpha and beta and p")):
        with pytest.raises(ValueError, match=message):
            getattr(rwkv4, form)(k, v, learned, state=state)
