"""RetNet against three codes that are not ours, and what its fixed decay and its rotation are."""
import math
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock, patch

import pytest
import torch

from minimem import check, core, forms
from minimem.state import retnet

EXACT = {"rtol": 1e-9, "atol": 1e-10}
CLOSE = {"rtol": 1e-5, "atol": 2e-6}                             # of float32 code, on outputs of size 1 to 4
FORMS = pytest.mark.parametrize("form", ["recurrent", "chunked"])


def make(T=90, H=8, K=16, V=12, dtype=torch.float32):
    return [x.to(dtype) for x in check.inputs("qkv", T=T, K=K, V=V, lead=(2, H))]


def turned(T, *xs):
    return [retnet.rotate(x, torch.arange(T, dtype=x.dtype)) for x in xs]


@FORMS
@pytest.mark.oracle("retnet")
def test_retention_equals_fla(form):
    from fla.ops.retention.naive import naive_retention
    q, k, v = make()
    out = getattr(retnet, form)(q, k, v, gamma=retnet.gammas(8))[0]
    torch.testing.assert_close(out, naive_retention(*turned(90, q * 4, k), v), rtol=0, atol=2e-5)      # it scales q by K^-½ and leaves rotation to the caller


@FORMS
@pytest.mark.oracle("retnet")
def test_rotation_and_retention_equal_yet_another_retnet(form):
    """With five heads, where its decays, evenly spaced in the logarithm from 1/32 to 1/512, are those of the paper."""
    from yet_another_retnet import retention as theirs
    q, k, v = make(H=5)
    torch.testing.assert_close(retnet.gammas(5).flatten(), theirs._build_decay_gammas(5))
    assert (retnet.gammas(8).flatten() - theirs._build_decay_gammas(8)).abs().max() > 0.005
    turn = torch.arange(90)[:, None] * theirs._build_position_thetas(16)
    q_, k_ = (theirs._theta_shift(x, turn.sin(), turn.cos()) for x in (q, k))
    torch.testing.assert_close(q_, turned(90, q)[0], rtol=0, atol=3e-5)              # 90 rad in float32
    out, state = getattr(retnet, form)(q, k, v, gamma=retnet.gammas(5))
    torch.testing.assert_close(out, theirs.retention_parallel(q_, k_, v, scale=1.0)[0], rtol=0, atol=2e-5)
    first, S = theirs.retention_chunkwise(q_[:, :, :50], k_[:, :, :50], v[:, :, :50], None, scale=1.0)
    rest, S = theirs.retention_chunkwise(q_[:, :, 50:], k_[:, :, 50:], v[:, :, 50:], S, scale=1.0)
    torch.testing.assert_close(out, torch.cat([first, rest], 2), rtol=0, atol=2e-5)
    torch.testing.assert_close(state["S"], S, rtol=0, atol=2e-5)


def torchscale(D, H):
    """Microsoft's layer and its table of angles and decays; the module of the latter wants libraries that are not used here."""
    from torchscale.component.multiscale_retention import MultiScaleRetention
    absent = ("fairscale", "fairscale.nn", "timm", "timm.models", "timm.models.layers")
    with patch.dict(sys.modules, {n: MagicMock() for n in absent}):
        from torchscale.architecture.retnet import RetNetRelPos
    args = SimpleNamespace(decoder_embed_dim=D, decoder_retention_heads=H, recurrent_chunk_size=8, multiway=False, layernorm_eps=1e-12)
    return MultiScaleRetention(args, D, 2 * D, H), RetNetRelPos(args)


@pytest.mark.oracle("retnet")
def test_layer_equals_torchscale_after_the_norm():
    """Its parallel, chunked and token-by-token forms scale their sums differently; the norm of each head takes that out."""
    D, H, T = 32, 4, 40
    torch.manual_seed(0)
    ours, (theirs, places) = retnet.Layer(D, heads=H), torchscale(D, H)
    ours.norm.eps = 1e-12                                        # so that the norm is blind to scale
    q, k, v = ours.qkv.proj.weight.detach().split(ours.qkv.widths)
    theirs.load_state_dict({"q_proj.weight": q, "k_proj.weight": k, "v_proj.weight": v,
                            "g_proj.weight": ours.gate.weight, "out_proj.weight": ours.out.weight})
    x = torch.randn(2, T, D)
    with torch.no_grad():
        y, carried, steps, raw = ours(x)[0], {}, [], []
        theirs.group_norm.register_forward_hook(lambda module, seen, _: raw.append(seen[0]))
        torch.testing.assert_close(theirs(x, places(T)), y, **CLOSE)
        torch.testing.assert_close(theirs(x, places(T, chunkwise_recurrent=True), chunkwise_recurrent=True), y, **CLOSE)
        for t in range(T):
            steps.append(theirs(x[:, t:t + 1], places(t + 1, activate_recurrent=True), incremental_state=carried))
        torch.testing.assert_close(torch.cat(steps, 1), y, **CLOSE)
    assert (raw[0].flatten() / raw[1].flatten() - 1).abs().max() > 0.1               # before the norm they differ


@FORMS
@pytest.mark.oracle("retnet")
def test_a_read_is_a_sum_over_distances(form):
    """o_t = Σ_j γ^(t−j) Re(q_t · conj(k_j) e^(i(t−j)θ)) v_j in complex numbers: only the distance counts."""
    q, k, v = make(T=30, dtype=torch.float64)
    t = torch.arange(30, dtype=torch.float64)
    gap = t[:, None] - t
    theta = 10000.0 ** -torch.linspace(0, 1, 8, dtype=torch.float64)
    turn = torch.exp(1j * gap[..., None] * theta)
    qc, kc = (torch.view_as_complex(x.unflatten(-1, (8, 2))) for x in (q, k))
    w = torch.einsum("bhtc,bhjc,tjc->bhtj", qc, kc.conj(), turn).real * 0.9 ** gap.clamp(min=0) * (gap >= 0)
    torch.testing.assert_close(getattr(retnet, form)(q, k, v, gamma=0.9)[0], w @ v, **EXACT)


@FORMS
def test_it_is_linear_attention_with_a_constant_gate_on_turned_keys(form):
    q, k, v = make(dtype=torch.float64)
    gamma = retnet.gammas(8, dtype=torch.float64)
    out, state = getattr(retnet, form)(q, k, v, gamma=gamma)
    want, S = forms.gated(*turned(90, q, k), v, gamma.log().expand(2, 8, 90, 1))
    torch.testing.assert_close((out, state["S"]), (want, S), **EXACT)
    assert (state["t"] == 90).all()


@FORMS
def test_where_the_count_starts_does_not_matter(form):
    q, k, v = make(T=20, dtype=torch.float64)
    late = {**retnet.init(16, 12, (2, 8), dtype=torch.float64), "t": torch.full((2, 8), 1000.0, dtype=torch.float64)}
    run = getattr(retnet, form)
    torch.testing.assert_close(run(q, k, v, state=late)[0], run(q, k, v)[0], **EXACT)


@FORMS
def test_sequences_of_a_batch_may_stand_at_different_places(form):
    q, k, v = make(T=20, dtype=torch.float64)
    run, state = getattr(retnet, form), {**retnet.init(16, 12, (2, 8), dtype=torch.float64), "t": torch.arange(16.0).double().view(2, 8)}
    state["S"] = torch.randn(2, 8, 16, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    out = run(q, k, v, state=state)[0]
    alone = run(q[1, 3], k[1, 3], v[1, 3], state={n: x[1, 3] for n, x in state.items()})[0]
    torch.testing.assert_close(out[1, 3], alone, **EXACT)


def test_horizons():
    g = retnet.gammas(8, dtype=torch.float64).flatten()
    assert (1 / (1 - g)).tolist() == [32 * 2 ** h for h in range(8)]
    assert retnet.step.__defaults__ == retnet.chunked.__defaults__[1:2] == (g[0].item(),)
    assert math.isclose(g[0] ** 32, math.exp(-1), rel_tol=0.02)             # a horizon later, 1/e is left


def test_bytes_of_the_layer():
    """The formula of the row equals the measured size: H (2 K² + 1) floats, and the window where there is one."""
    x = torch.randn(3, 50, 32)
    assert core.nbytes(retnet.Layer(32)(x)[1]) == 3 * 4 * 4 * (2 * 8 * 8 + 1)
    assert core.nbytes(retnet.Layer(32, heads=2, K=4, V=6, conv=4)(x)[1]) == 3 * 4 * (2 * (4 * 6 + 1) + 3 * 2 * (4 + 4 + 6))


def test_the_layer_starts_as_the_authors_do():
    """Xavier: uniform within gain·√(6/(in + out)), gain 2^-2.5, and 2^-1 for the last."""
    torch.manual_seed(0)
    layer = retnet.Layer(64)
    q, k, v = layer.qkv.proj.weight.split(layer.qkv.widths)
    for w, gain in ((q, 2 ** -2.5), (k, 2 ** -2.5), (v, 2 ** -2.5), (layer.gate.weight, 2 ** -2.5), (layer.out.weight, 0.5)):
        bound = gain * (6 / sum(w.shape)) ** 0.5
        assert 0.95 * bound < w.abs().max() <= bound
    assert [n for n, _ in layer.norm.named_parameters()] == []


@FORMS
def test_what_is_refused(form):
    run, (q, k, v) = getattr(retnet, form), make(T=5)
    for gamma in (0, 1.01, -0.5, math.nan, torch.full((8,), 0.9), retnet.gammas(8) + 1):
        with pytest.raises(ValueError, match=r"^gamma has shape .* wanted a number or \(H, 1, 1\) in \(0, 1\]"):
            run(q, k, v, gamma=gamma)
    with pytest.raises(ValueError, match="^q is torch.float32 of width 15, wanted .* even"):
        run(q[..., 1:], k[..., 1:], v)
    with pytest.raises(ValueError, match="^q is torch.bfloat16 .* wanted float32 or float64"):
        run(*(x.bfloat16() for x in (q, k, v)))
    with pytest.raises(ValueError, match="^state must be a dict of S and t, got Tensor"):
        run(q, k, v, state=torch.zeros(2, 8, 16, 12))
    with pytest.raises(ValueError, match=r"^state\['t'\] has leading axes \(2, 7\)"):
        run(q, k, v, state={**retnet.init(16, 12, (2, 8)), "t": torch.zeros(2, 7)})
