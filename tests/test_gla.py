"""Gated linear attention against fla's loop, its limits, and the layer as the paper has it."""
import pytest
import torch
from torch.nn import functional as F

from minimem import check, core, forms
from minimem.layer import heads, merged
from minimem.state import gla, linear

EXACT = {"rtol": 1e-9, "atol": 1e-10}
CLOSE = {"rtol": 1e-5, "atol": 2e-6}                             # of float32 code, on outputs of size 1 to 3
FORMS = pytest.mark.parametrize("form", ["recurrent", "chunked"])


def make(T=100, dtype=torch.float64):
    return [x.to(dtype) for x in check.inputs("qkvg", T=T, K=16, V=12)]


@FORMS
@pytest.mark.oracle("gla")
def test_equals_fla(form):
    from fla.ops.gla.naive import naive_recurrent_gla
    xs = make(dtype=torch.float32)
    S0 = torch.randn(2, 3, 16, 12, generator=torch.Generator().manual_seed(1))
    out, state = getattr(gla, form)(*xs, state=S0)
    o, S = naive_recurrent_gla(*(x.transpose(1, 2) for x in xs), initial_state=S0, output_final_state=True)
    torch.testing.assert_close(out, o.transpose(1, 2), **CLOSE)
    torch.testing.assert_close(state, S, **CLOSE)


@FORMS
@pytest.mark.oracle("gla")
def test_a_read_is_a_sum_over_the_past(form):
    """o_ti = Σ_{j≤t} Σ_c q_tc k_jc e^{a_(j+1)c + … + a_tc} v_ji / √K, every decay written out."""
    q, k, v, a = make(T=20)
    decay = torch.stack([torch.stack([a[..., j + 1:t + 1, :].sum(-2) for j in range(20)], -2) for t in range(20)], -3).exp()
    w = torch.einsum("bhtc,bhjc,bhtjc->bhtj", q, k, decay).tril() / 4
    torch.testing.assert_close(getattr(gla, form)(q, k, v, a)[0], w @ v, **EXACT)


@FORMS
def test_without_decay_it_is_linear_attention_without_its_normaliser(form):
    q, k, v, a = make()
    out, S = getattr(gla, form)(linear.phi(q) * 4, linear.phi(k), v, 0 * a)         # · √K
    want, state = linear.chunked(q, k, v)
    torch.testing.assert_close(S, state["S"], **EXACT)
    z = linear.phi(k).cumsum(-2)
    torch.testing.assert_close(out / (linear.phi(q) * z).sum(-1, keepdim=True), want, **EXACT)


@FORMS
def test_every_row_fades_at_its_own_rate(form):
    """One key entry that never forgets, one that always does: after 50 tokens the first holds the sum, the second the newest."""
    k, v = torch.ones(50, 2).double(), torch.arange(50.0)[:, None].double()
    a = torch.tensor([0.0, -torch.inf]).double().expand(50, 2)
    S = getattr(gla, form)(k, k, v, a)[1]
    assert S.flatten().tolist() == [sum(range(50)), 49]


def test_layer_is_its_formula():
    """y = W_o (SiLU(x W_g) ⊙ RMSNorm(o)) with a = logsigmoid(x W₁W₂ + c)/16, written out from the weights."""
    torch.manual_seed(0)
    layer, x = gla.Layer(32).double(), torch.randn(2, 30, 32, dtype=torch.float64)
    w = {n: p.detach() for n, p in layer.named_parameters()}
    assert [tuple(y.shape) for y in w["qkv.proj.weight"].split((16, 16, 32))] == [(16, 32), (16, 32), (32, 32)]      # keys D/2, values D
    q, k, v = (heads(x @ y.T, 4) for y in w["qkv.proj.weight"].split((16, 16, 32)))
    a = heads(F.logsigmoid(x @ w["decay.0.weight"].T @ w["decay.1.weight"].T + w["decay.1.bias"]) / 16, 4)
    o = gla.recurrent(q, k, v, a)[0]
    o = o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w["norm.weight"]
    y = (merged(o) * F.silu(x @ w["gate.weight"].T)) @ w["out.weight"].T
    torch.testing.assert_close(layer(x)[0], y, **EXACT)
    assert w["decay.0.weight"].shape == (16, 32)


def test_the_layer_starts_by_keeping_most():
    """logsigmoid(0)/16 = −.043: about .96 of a row is left after one token."""
    torch.manual_seed(0)
    layer = gla.Layer(64)
    keep = (F.logsigmoid(layer.decay(torch.randn(500, 64))) / 16).exp()
    assert 0.88 < keep.min() and 0.95 < keep.mean() < 0.965


def test_bytes_of_the_layer():
    """The formula of the row equals the measured size: K V floats a head, and the window where there is one."""
    x = torch.randn(3, 50, 32)
    assert core.nbytes(gla.Layer(32)(x)[1]) == 3 * 4 * 4 * (4 * 8)
    assert core.nbytes(gla.Layer(32, heads=2, K=5, V=6, conv=4)(x)[1]) == 3 * 4 * (2 * 5 * 6 + 3 * 2 * (5 + 5 + 6))


@FORMS
def test_what_is_refused(form):
    run, (q, k, v, a) = getattr(gla, form), make(T=5)
    with pytest.raises(ValueError, match=r"^a has shape \(2, 3, 5, 1\), wanted \(..., T=5, K=16\)"):
        run(q, k, v, a[..., :1])
    with pytest.raises(ValueError, match="^state has shape"):
        run(q, k, v, a, state=gla.init(12, 16, (2, 3), dtype=torch.float64))
    with pytest.raises(ValueError, match="^chunk is 0"):
        gla.chunked(q, k, v, a, chunk=0)


def test_a_gate_of_one_entry_is_a_gate_per_head():
    """K = 1: decay per key and decay per head are the same thing, and the two fast forms agree."""
    q, k, v, a = (x[..., :1] for x in make())
    torch.testing.assert_close(gla.chunked(q, k, v, a), forms.gated(q, k, v, a), **EXACT)
