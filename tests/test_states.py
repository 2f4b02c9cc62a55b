"""Matrix states against code that is not ours, and the identities that tie them together."""
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from minimem import check, core, forms
from minimem.state import delta, gated_delta, linear

CLOSE = {"rtol": 1e-6, "atol": 1e-6}                             # of float32 code, on outputs of size 1 to 4
EXACT = {"rtol": 1e-9, "atol": 1e-10}


def make(letters, T=128, seed=0, dtype=torch.float32):
    """(2, 3, T, D) inputs, q of unit norm too, so that outputs are of size 1."""
    q, *rest = check.inputs(letters, T=T, K=16, V=8, seed=seed)
    return [x.to(dtype) for x in (F.normalize(q, dim=-1), *rest)]


def swapped(*xs):
    """(B, H, T, D) to (B, T, H, D) and back."""
    return [x.transpose(1, 2) for x in xs]


def flat(*xs):
    """(B, T, H, 1) to (B, T, H)."""
    return [x.squeeze(-1) for x in xs]


FORMS = pytest.mark.parametrize("form", ["recurrent", "chunked"])


@FORMS
@pytest.mark.oracle("gated_delta")
def test_gated_delta_equals_fla(form):
    from fla.ops.gated_delta_rule.naive import naive_chunk_gated_delta_rule, naive_recurrent_gated_delta_rule
    xs = make("qkvab")
    xs[3] = xs[3] / 16                                           # as their layers start; their chunks lose digits for strong gates
    S0 = torch.randn(2, 3, 16, 8, generator=torch.Generator().manual_seed(1))
    out, state = getattr(gated_delta, form)(*xs, state=S0)
    q, k, v, a, b = swapped(*xs)
    a, b = flat(a, b)
    for theirs in (naive_recurrent_gated_delta_rule, naive_chunk_gated_delta_rule):      # one takes (beta, g), the other (g, beta)
        o, S = theirs(q, k, v, g=a, beta=b, scale=1.0, initial_state=S0.clone(), output_final_state=True)
        torch.testing.assert_close(out, o.transpose(1, 2), **CLOSE)
        torch.testing.assert_close(state, S, **CLOSE)


@FORMS
@pytest.mark.parametrize("name", ["torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"])
@pytest.mark.oracle("gated_delta")
def test_gated_delta_equals_qwen3_next(form, name):
    from transformers.models.qwen3_next import modeling_qwen3_next
    theirs = getattr(modeling_qwen3_next, name).__wrapped__      # without it the call goes to fla
    xs = make("qkvab", T=100)
    S0 = torch.randn(2, 3, 16, 8, generator=torch.Generator().manual_seed(1))
    out, state = getattr(gated_delta, form)(*xs, state=S0)
    q, k, v, a, b = swapped(*xs)
    a, b = flat(a, b)
    o, S = theirs(q * 16 ** 0.5, k, v, g=a, beta=b, initial_state=S0.clone(), output_final_state=True)   # it scales q by K^-½
    torch.testing.assert_close(out, o.transpose(1, 2), **CLOSE)
    torch.testing.assert_close(state, S, **CLOSE)


@FORMS
@pytest.mark.oracle("delta")
def test_delta_equals_fla(form):
    from fla.ops.delta_rule.naive import delta_rule_chunkwise, delta_rule_recurrence
    q, k, v, b = make("qkvb")
    out, state = getattr(delta, form)(q, k, v, b)
    for theirs in (delta_rule_recurrence, delta_rule_chunkwise):
        o, S = theirs(q * 16 ** 0.5, k, v, b.squeeze(-1))
        torch.testing.assert_close(out, o, **CLOSE)
        torch.testing.assert_close(state, S, **CLOSE)


@FORMS
@pytest.mark.oracle("linear")
def test_linear_equals_fla(form):
    from fla.ops.linear_attn.naive import naive_chunk_linear_attn, naive_recurrent_linear_attn
    q, k, v = make("qkv")
    out, state = getattr(linear, form)(q, k, v)
    mapped = [F.elu(q) + 1, F.elu(k) + 1, v]                     # the map is the caller's there
    o, (S, z) = naive_recurrent_linear_attn(*swapped(*mapped), scale=1.0, normalize=True, output_final_state=True)
    torch.testing.assert_close(out, o.transpose(1, 2), **CLOSE)
    torch.testing.assert_close(state["S"], S, rtol=1e-6, atol=1e-5)       # sums of 128 keys: up to 100
    torch.testing.assert_close(state["z"], z.squeeze(1), rtol=1e-6, atol=1e-5)
    o = naive_chunk_linear_attn(*swapped(*mapped), scale=1.0, normalize=True)
    torch.testing.assert_close(out, o.transpose(1, 2), **CLOSE)


@pytest.mark.oracle("linear")
def test_linear_is_attention_with_another_kernel():
    """o_t = Σ_{j≤t} φ(q_t)·φ(k_j) v_j / Σ_{j≤t} φ(q_t)·φ(k_j), as one masked matrix."""
    q, k, v = make("qkv", dtype=torch.float64)
    w = ((F.elu(q) + 1) @ (F.elu(k) + 1).mT).tril()
    torch.testing.assert_close(linear.chunked(q, k, v)[0], w / w.sum(-1, keepdim=True) @ v, **EXACT)


def test_phi_is_positive_where_elu_plus_one_rounds_to_zero():
    x = torch.tensor([-50.0, -20.0, -1.0, 0.0, 1.0])
    assert (F.elu(x) + 1)[0] == 0 and linear.phi(x).min() > 0
    torch.testing.assert_close(linear.phi(x), F.elu(x) + 1)
    assert torch.autograd.functional.jacobian(linear.phi, torch.zeros(1)).item() == 1


@pytest.mark.oracle("delta")
def test_delta_is_one_step_of_gradient_descent():
    """S − b ∂/∂S ½‖Sᵀk − v‖², by autograd."""
    q, k, v, b = (x[0, 0, 0] for x in make("qkvb", T=1, dtype=torch.float64))
    S = torch.randn(16, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    slope, = torch.autograd.grad(0.5 * (k @ S - v).square().sum(), S)
    torch.testing.assert_close(delta.step(S, q, k, v, b)[0], S - b * slope, **EXACT)


@FORMS
def test_without_decay_gated_delta_is_delta(form):
    q, k, v, b = make("qkvb", dtype=torch.float64)
    got = getattr(gated_delta, form)(q, k, v, torch.zeros_like(b), b)
    for x, y in zip(got, getattr(delta, form)(q, k, v, b)):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-13)


def test_with_orthogonal_keys_nothing_needs_correcting():
    """b = 1 and k_i·k_j = 0: the delta rule only adds, and the gated one is gated linear attention."""
    q, _, v, a, _ = make("qkvab", T=16, dtype=torch.float64)
    k = torch.linalg.qr(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64))[0]
    one = torch.ones_like(a)
    for x, y in zip(delta.chunked(q, k, v, one), forms.gated(q, k, v)):
        torch.testing.assert_close(x, y, **EXACT)
    for x, y in zip(gated_delta.chunked(q, k, v, a, one), forms.gated(q, k, v, a)):
        torch.testing.assert_close(x, y, **EXACT)


def test_full_strength_reads_the_newest_pair_back_exactly():
    q, k, v, a, b = make("qkvab", dtype=torch.float64)
    torch.testing.assert_close(gated_delta.chunked(k, k, v, a, torch.ones_like(b))[0], v, **EXACT)


def test_zero_strength_writes_nothing():
    q, k, v, a, b = make("qkvab", dtype=torch.float64)
    S0 = torch.randn(2, 3, 16, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    state = gated_delta.chunked(q, k, v, a, torch.zeros_like(b), state=S0)[1]
    torch.testing.assert_close(state, S0 * a.sum(-2, keepdim=True).exp(), **EXACT)


def test_a_gate_of_zeros_per_key_is_no_gate():
    q, k, v = make("qkv", dtype=torch.float64)
    for x, y in zip(forms.gated(q, k, v, torch.zeros_like(k)), forms.gated(q, k, v)):
        torch.testing.assert_close(x, y, **EXACT)


def test_equal_gates_per_key_are_one_gate_per_head():
    q, k, v, a = make("qkva", dtype=torch.float64)
    for x, y in zip(forms.gated(q, k, v, a.expand_as(k)), forms.gated(q, k, v, a)):
        torch.testing.assert_close(x, y, **EXACT)


@pytest.mark.parametrize("module, letters, floats", [(linear, "qkv", 16 * 8 + 16), (delta, "qkvb", 16 * 8), (gated_delta, "qkvab", 16 * 8)])
def test_bytes_of_one_head(module, letters, floats):
    """The formula of the row equals the measured size."""
    xs = [x[0, 0] for x in make(letters)]
    assert core.nbytes(module.chunked(*xs)[1]) == 4 * floats


LAYERS = pytest.mark.parametrize("make_layer", [
    partial(linear.Layer, normed=True), partial(linear.Layer, conv=3), partial(delta.Layer, negative=True), partial(delta.Layer, conv=0),
    partial(gated_delta.Layer, negative=True), partial(gated_delta.Layer, conv=0)])


@LAYERS
def test_options_of_a_layer_keep_it_whole(make_layer):
    """Cut anywhere: the defaults are tested with every other layer."""
    torch.manual_seed(0)
    layer, x = make_layer(32, heads=2, K=5, V=7).double(), torch.randn(2, 21, 32, dtype=torch.float64)
    whole, last = layer(x)
    first, state = layer(x[:, :9])
    rest, state = layer(x[:, 9:], state)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole, **EXACT)
    for got, want in zip(core.tensors(state), core.tensors(last), strict=True):
        torch.testing.assert_close(got, want, **EXACT)


@pytest.mark.parametrize("make_layer, memory", [(linear.Layer, 5 * 7 + 5), (partial(linear.Layer, normed=True), 5 * 7),
                                                (delta.Layer, 5 * 7), (gated_delta.Layer, 5 * 7)])
@pytest.mark.parametrize("conv", [0, 4])
def test_bytes_of_a_layer(make_layer, memory, conv):
    """The row's floats per head, and for the three convolutions the last conv − 1 of q, k and v."""
    layer = make_layer(32, heads=2, K=5, V=7, conv=conv)
    assert core.nbytes(layer(torch.randn(1, 9, 32))[1]) == 4 * 2 * (memory + max(0, conv - 1) * (5 + 5 + 7))


def test_sizes_of_the_papers():
    """DeltaNet: as wide as the model. Gated DeltaNet: keys ¾ as wide, values twice the keys, 6 D² weights in all."""
    S = delta.Layer(64, heads=4)(torch.zeros(1, 1, 64))[1]["S"]
    assert S.shape == (1, 4, 16, 16)
    layer = gated_delta.Layer(512)
    assert layer(torch.zeros(1, 1, 512))[1]["S"].shape == (1, 6, 64, 128)
    assert abs(sum(p.numel() for p in layer.parameters()) / 512 ** 2 - 6) < 0.05


def test_layer_of_delta_is_its_formula():
    """Written out; and Gated DeltaNet's with a = 0 is the same but for its output gate."""
    torch.manual_seed(0)
    layer, x = delta.Layer(32, heads=2, conv=0, negative=True).double(), torch.randn(2, 21, 32, dtype=torch.float64)
    q, k, v = (F.silu(x @ w.T).unflatten(-1, (2, 16)).transpose(1, 2) for w in layer.qkv.proj.weight.chunk(3))
    b = 2 * torch.sigmoid(x @ layer.b.weight.T).transpose(1, 2)[..., None]
    q, k = (y / (y.square().sum(-1, keepdim=True) + 1e-6).sqrt() for y in (q, k))
    o = delta.recurrent(q / 4, k, v, b)[0]
    o = o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(layer(x)[0], o.transpose(1, 2).flatten(-2) @ layer.out.weight.T, **EXACT)
    gated = gated_delta.Layer(32, heads=2, K=16, V=16, conv=0, negative=True).double()
    gated.load_state_dict(layer.state_dict(), strict=False)
    with torch.no_grad():
        gated.A_log.fill_(-100.0)                                # a = 0
    z = F.silu(x @ gated.z.weight.T)
    torch.testing.assert_close(gated(x)[0], (o.transpose(1, 2).flatten(-2) * z) @ layer.out.weight.T, **EXACT)


def test_layer_of_linear_is_its_formula():
    torch.manual_seed(0)
    layer, x = linear.Layer(32, heads=2).double(), torch.randn(2, 21, 32, dtype=torch.float64)
    q, k, v = ((x @ w.T).unflatten(-1, (2, 16)).transpose(1, 2) for w in layer.qkv.proj.weight.chunk(3))
    w = ((F.elu(q) + 1) @ (F.elu(k) + 1).mT).tril()
    torch.testing.assert_close(layer(x)[0], (w / w.sum(-1, keepdim=True) @ v).transpose(1, 2).flatten(-2) @ layer.out.weight.T, **EXACT)
    today = linear.Layer(32, heads=2, normed=True).double()
    today.load_state_dict(layer.state_dict(), strict=False)
    q, k, v = F.silu(q), F.silu(k), F.silu(v)
    q, k = (y / (y.square().sum(-1, keepdim=True) + 1e-6).sqrt() for y in (q, k))
    o = (q / 4 @ k.mT).tril() @ v
    o = o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(today(x)[0], o.transpose(1, 2).flatten(-2) @ layer.out.weight.T, **EXACT)


MODULES = pytest.mark.parametrize("module, letters", [(linear, "qkv"), (delta, "qkvb"), (gated_delta, "qkvab")])


@MODULES
@FORMS
def test_the_empty_memory_is_where_a_form_starts(module, letters, form):
    xs = make(letters, T=20, dtype=torch.float64)
    empty = module.init(16, 8, (2, 3), dtype=torch.float64)
    assert all(t.dtype == torch.float64 and not t.any() for t in core.tensors(empty))
    run = getattr(module, form)
    for got, want in zip(core.tensors(run(*xs, state=empty)), core.tensors(run(*xs))):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@MODULES
@FORMS
def test_whole_numbers_are_refused(module, letters, form):
    """Sums in them would be cut to whole numbers without a word."""
    with pytest.raises(ValueError, match="q is torch.int64, wanted a floating type"):
        getattr(module, form)(*(x.long() for x in make(letters)))


@MODULES
@FORMS
def test_a_state_that_does_not_fit_is_refused(module, letters, form):
    xs = make(letters)
    state = module.init(16, 9, (2, 3))
    with pytest.raises(ValueError, match="state(\\['S'\\])? has shape"):
        getattr(module, form)(*xs, state=state)
    if module is linear:
        with pytest.raises(ValueError, match="state\\['z'\\] has shape"):
            linear.chunked(*xs, state={**module.init(16, 8, (2, 3)), "z": torch.zeros(2, 3, 15)})


@FORMS
@pytest.mark.parametrize("state, seen", [(torch.zeros(2, 3, 16, 8), "Tensor"), ({"S": torch.zeros(2, 3, 16, 8)}, r"\['S'\]")])
def test_a_state_of_another_make_is_refused(form, state, seen):
    with pytest.raises(ValueError, match=f"state must be a dict of S and z, got {seen}"):
        getattr(linear, form)(*make("qkv"), state=state)
    with pytest.raises(ValueError, match="state must be a tensor, got dict"):
        getattr(delta, form)(*make("qkvb"), state={})
