"""Gated slot attention against fla's loop, as two passes of gated linear attention, and what its slots do."""
import pytest
import torch
from torch.nn import functional as F

from minimem import check, core, forms
from minimem.layer import heads, merged
from minimem.state import gla, gsa

EXACT = {"rtol": 1e-9, "atol": 1e-10}
CLOSE = {"rtol": 1e-5, "atol": 2e-6}                             # of float32 code, on outputs of size 1
FORMS = pytest.mark.parametrize("form", ["recurrent", "chunked"])


def make(T=100, K=16, dtype=torch.float64):
    return [x.to(dtype) for x in check.inputs("qkvs", T=T, K=K, V=12)]


@FORMS
@pytest.mark.oracle("gsa")
def test_equals_fla(form):
    from fla.ops.gsa.naive import naive_recurrent_gsa
    q, k, v, a = make(dtype=torch.float32)
    r = torch.Generator().manual_seed(1)
    start = {"K": torch.randn(2, 3, 5, 16, generator=r), "V": torch.randn(2, 3, 5, 12, generator=r)}
    out, state = getattr(gsa, form)(q, k, v, a, state=start)
    xs = (x.transpose(1, 2) for x in (q, k, v, 1 - a.exp(), a))
    o, (K, V) = naive_recurrent_gsa(*xs, scale=1.0, initial_state=(start["K"].mT, start["V"]), output_final_state=True)
    torch.testing.assert_close(out, o.transpose(1, 2), **CLOSE)
    torch.testing.assert_close(state, {"K": K.mT, "V": V}, **CLOSE)


@FORMS
@pytest.mark.oracle("gsa")
def test_a_slot_is_a_weighted_mean_of_what_it_took_in(form):
    """Σ_{j≤t} (1 − e^{a_j}) e^{a_(j+1) + … + a_t} x_j for keys and values, every decay written out; then plain attention over the slots."""
    q, k, v, a = make(T=20)
    decay = torch.stack([torch.stack([a[..., j + 1:t + 1, :].sum(-2) for j in range(20)], -2) for t in range(20)], -3).exp()
    w = ((1 - a.exp())[..., None, :, :] * decay).movedim(-1, -3).tril()               # (2, 3, M, T, T)
    K, V = ((w @ x[..., None, :, :]).transpose(-3, -2) for x in (k, v))               # (2, 3, T, M, ·)
    o = F.scaled_dot_product_attention(q[..., None, :], K, V, scale=1.0)[..., 0, :]
    torch.testing.assert_close(getattr(gsa, form)(q, k, v, a)[0], o, **EXACT)


@FORMS
def test_it_is_two_passes_of_gla(form):
    """The second pass is GLA as it stands. The first is GLA with one memory for each slot, whose only value is what is written."""
    q, k, v, a = make()
    write, M = 1 - a.exp(), a.shape[-1]
    qs, ks = (x[..., None, :, :].expand(-1, -1, M, -1, -1) for x in (q, k))
    decay = a.mT[..., None].expand_as(ks)
    answers = gla.recurrent(qs * 4, ks, write.mT[..., None], decay)[0].squeeze(-1).mT         # · √K: GLA scales, GSA does not
    o, V = gla.recurrent(answers.softmax(-1) * M ** 0.5, write, v, a)
    out, state = getattr(gsa, form)(q, k, v, a)
    torch.testing.assert_close((out, state["V"]), (o, V), **EXACT)


@pytest.mark.parametrize("T, chunk", [(1, 64), (5, 4), (33, 8), (150, 64)])
def test_a_decay_per_value_is_a_decay_per_key_of_the_transposed_memory(T, chunk):
    """S_t = S_{t−1} diag(e^{g_t}) + k_t v_tᵀ: its transpose takes v for the key; gradients too."""
    q, k, v, a = make(T=T, K=6)
    k = k.expand(2, 3, T, 6)
    g = torch.cat([a, a, a[..., :2]], -1)                        # as wide as v, 12
    S0 = torch.randn(2, 3, 6, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loop(q, k, v, g, S):
        def step(S, q, k, v, g):
            S = g.exp()[..., None] * S + v[..., :, None] * k[..., None, :]
            return S, (S @ q[..., None])[..., 0]
        out, S = core.run(step, S.mT, q, k, v, g)
        return out, S.mT

    def results(run):
        leaves = [x.clone().requires_grad_() for x in (q, k, v, g, S0)]
        out, S = run(*leaves)
        return out, S, *torch.autograd.grad(out.sin().sum() + S.square().sum(), leaves)
    torch.testing.assert_close(results(lambda *xs: forms.gated(*xs, by_value=True, chunk=chunk)), results(loop), **EXACT)


def test_with_one_value_a_decay_per_value_is_a_decay_per_head():
    q, k, v, a = make()
    torch.testing.assert_close(forms.gated(q, k, v[..., :1], a[..., :1], by_value=True), forms.gated(q, k, v[..., :1], a[..., :1]), **EXACT)


@FORMS
def test_the_first_read_is_the_mean_of_equal_slots(form):
    """A query at right angles to every key asks nobody: all slots answer alike."""
    q, k, v, a = make(T=10)
    a = a[..., :1].expand(2, 3, 10, 5)
    out, state = getattr(gsa, form)(0 * q, k, v, a)
    torch.testing.assert_close(out[..., -1, :], state["V"].mean(-2), **EXACT)


@FORMS
def test_a_slot_that_keeps_all_takes_in_nothing(form):
    q, k, v, a = make(T=10)
    start = gsa.chunked(q, k, v, a)[1]
    kept = getattr(gsa, form)(q, k, v, 0 * a, state=start)[1]
    torch.testing.assert_close(kept, start, rtol=0, atol=0)
    K = getattr(gsa, form)(q, k, v, 0 * a - torch.inf, state=start)[1]["K"]
    torch.testing.assert_close(K, k[..., -1:, :].expand_as(K), **EXACT)              # and one that keeps nothing is the newest


def test_layer_is_its_formula():
    """y = W_o RMSNorm(SiLU(o)), the norm over all heads; q, k, v = SiLU(x W); a = logsigmoid(x W_a)/8; written out from the weights."""
    torch.manual_seed(0)
    layer, x = gsa.Layer(32).double(), torch.randn(2, 30, 32, dtype=torch.float64)
    w = {n: p.detach() for n, p in layer.named_parameters()}
    q, k, v = (heads(F.silu(x @ y.T), 4) for y in w["qkv.proj.weight"].chunk(3))
    o = merged(gsa.recurrent(q, k, v, heads(F.logsigmoid(x @ w["decay.weight"].T) / 8, 4))[0])
    o = F.silu(o)
    y = (o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w["norm.weight"]) @ w["out.weight"].T
    torch.testing.assert_close(layer(x)[0], y, **EXACT)
    assert layer(x)[1]["K"].shape == (2, 4, 8, 8)                # as many slots as key entries, if nothing is said


def test_bytes_of_the_layer():
    """The formula of the row equals the measured size: m (K + V) floats a head, and the window where there is one."""
    x = torch.randn(3, 50, 32)
    assert core.nbytes(gsa.Layer(32, M=5)(x)[1]) == 3 * 4 * 4 * 5 * (8 + 8)
    assert core.nbytes(gsa.Layer(32, heads=2, K=5, V=6, M=7, conv=4)(x)[1]) == 3 * 4 * (2 * 7 * (5 + 6) + 3 * 2 * (5 + 5 + 6))


@FORMS
def test_what_is_refused(form):
    run, (q, k, v, a) = getattr(gsa, form), make(T=5)
    with pytest.raises(ValueError, match=r"^state\['K'\] has shape \(2, 3, 6, 16\), wanted \(..., M=5, K=16\)"):
        run(q, k, v, a, state=gsa.init(6, 16, 12, (2, 3), dtype=torch.float64))
    with pytest.raises(ValueError, match="^state must be a dict of K and V, got Tensor"):
        run(q, k, v, a, state=torch.zeros(2, 3, 5, 16))
    with pytest.raises(ValueError, match="^chunk is 0"):
        gsa.chunked(q, k, v, a, chunk=0)
