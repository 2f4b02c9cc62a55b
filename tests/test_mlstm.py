"""mLSTM against the authors' code in its three forms, and what makes its stabiliser safe."""
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from minimem import check, core, forms
from minimem.state import mlstm

EXACT = {"rtol": 1e-9, "atol": 1e-10}
GOLDEN = np.load(Path(__file__).parent / "golden/mlstm.npz")
FORMS = pytest.mark.parametrize("form", ["recurrent", "chunked"])


def make(T=96, seed=0, dtype=torch.float64, K=16, V=8):
    """(2, 3, T, ·) q, k, v, i, f; some gates loud, some shut."""
    *qkv, i, f = check.inputs("qkvif", T=T, K=K, V=V, seed=seed)
    return [x.to(dtype) for x in (*qkv, 3 * i, 2 + 3 * f)]


@FORMS
@pytest.mark.oracle("mlstm")
def test_equals_the_authors_parallel_and_chunk_forms(form):
    from xlstm.blocks.mlstm.backends import chunkwise_simple, parallel_stabilized_simple
    q, k, v, i, f = make(V=16)
    out, state = getattr(mlstm, form)(q, k, v, i, f)
    torch.testing.assert_close(out, parallel_stabilized_simple(q, k, v, i, f, eps=0), **EXACT)
    o, (C, n, m) = chunkwise_simple(q, k, v, i[..., 0], f[..., 0], chunk_size=32, return_last_state=True, eps=0)
    torch.testing.assert_close(out, o, **EXACT)
    for got, want in ((state["S"] * 4, C), (state["n"] * 4, n), (state["m"], m[..., 0])):           # it scales q there, not k: 4 is √K
        torch.testing.assert_close(got, want, **EXACT)


@FORMS
@pytest.mark.oracle("mlstm")
def test_equals_the_authors_step(form):
    from xlstm.blocks.mlstm.backends import recurrent_step_stabilized_simple
    xs = make(V=16)
    C, n, m = (torch.zeros(2, 3, *shape, dtype=torch.float64) for shape in ((16, 16), (16, 1), (1, 1)))
    outs = []
    for t in range(96):
        q, k, v, i, f = (x[..., t:t + 1, :] for x in xs)
        o, (C, n, m) = recurrent_step_stabilized_simple(C, n, m, q, k, v, i, f, eps=0)
        outs.append(o)
    out, state = getattr(mlstm, form)(*xs)
    torch.testing.assert_close(out, torch.cat(outs, -2), **EXACT)
    for got, want in ((state["S"], C), (state["n"], n[..., 0]), (state["m"], m[..., 0])):
        torch.testing.assert_close(got, want, **EXACT)


@FORMS
@pytest.mark.oracle("mlstm")
def test_equals_the_kernels_in_plain_torch(form):
    """mlstm_kernels works in float32. Its own backward pass takes the denominator as given: after the layer's norm that is no difference."""
    from mlstm_kernels.torch.chunkwise import native
    xs = [x.requires_grad_() for x in make(T=128, dtype=torch.float32)]
    w = torch.randn(2, 3, 128, 8, generator=torch.Generator().manual_seed(3))
    options = {"return_last_states": True, "eps": 0, "chunk_size": 64}

    def slopes(o):
        return torch.autograd.grad((o * w).sum(), xs)
    out, state = getattr(mlstm, form)(*xs)
    for theirs, after in ((native.mlstm_chunkwise__native_autograd, torch.clone), (native.mlstm_chunkwise__native_custbw, lambda o: F.layer_norm(o, (8,), eps=0))):
        o, (C, n, m) = theirs(*xs[:3], *(x[..., 0] for x in xs[3:]), **options)
        for got, want in ((out, o), (state["S"] * 4, C), (state["n"] * 4, n), (state["m"], m)):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
        for got, want in zip(slopes(after(getattr(mlstm, form)(*xs)[0])), slopes(after(o))):
            assert (got - want).abs().max() < 1e-4 * want.abs().max()


@FORMS
@pytest.mark.oracle("mlstm")
def test_golden_numbers(form):
    """xlstm 2.0.6 in float64. It adds 1e-6 to the denominator; dividing by 1 in place of e^−m would cost 3."""
    xs = [torch.from_numpy(GOLDEN[name]).requires_grad_() for name in ("q", "k", "v", "i_pre", "f_pre")]
    out, state = getattr(mlstm, form)(*xs)
    for name in ("ref_y", "ref_y_recurrent", "ref_y_chunk"):
        torch.testing.assert_close(out, torch.from_numpy(GOLDEN[name]), rtol=1e-5, atol=1e-5)
    for got, name in ((state["S"], "ref_C"), (state["n"], "ref_n"), (state["m"][..., 0], "ref_m")):
        torch.testing.assert_close(got, torch.from_numpy(GOLDEN[name]), rtol=0, atol=1e-13)
    grads = torch.autograd.grad((out * torch.from_numpy(GOLDEN["w"])).sum(), xs)
    for got, name in zip(grads, ("q", "k", "v", "i_pre", "f_pre")):
        torch.testing.assert_close(got, torch.from_numpy(GOLDEN[f"grad_{name}"]), rtol=2e-5, atol=2e-5)


@pytest.mark.oracle("mlstm")
def test_layer_equals_the_authors():
    """Their layer's weights in ours; in theirs a gain is stored less 1."""
    from xlstm.blocks.mlstm.layer import mLSTMLayer, mLSTMLayerConfig
    torch.manual_seed(0)
    theirs = mLSTMLayer(mLSTMLayerConfig(embedding_dim=32, num_heads=4, context_length=20, _num_blocks=1)).double()
    with torch.no_grad():
        for p in theirs.parameters():
            p += 0.1 * torch.randn_like(p)
    ours, cell = mlstm.Layer(32).double(), theirs.mlstm_cell
    ours.load_state_dict({
        "up.weight": theirs.proj_up.weight, "down.weight": theirs.proj_down.weight, "conv.weight": theirs.conv1d.conv.weight,
        "conv.bias": theirs.conv1d.conv.bias, "q": theirs.q_proj.weight, "k": theirs.k_proj.weight, "v": theirs.v_proj.weight,
        "gates.weight": torch.cat([cell.igate.weight, cell.fgate.weight]), "gates.bias": torch.cat([cell.igate.bias, cell.fgate.bias]),
        "norm": 1 + cell.outnorm.weight, "skip": theirs.learnable_skip})
    x = torch.randn(2, 20, 32, dtype=torch.float64)
    torch.testing.assert_close(ours(x)[0], theirs(x), rtol=1e-4, atol=1e-4)           # 1e-6 in their denominator, then a norm
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@FORMS
@pytest.mark.parametrize("start", [-torch.inf, 0.0, 50.0])
def test_the_first_m_is_only_a_unit(form, start):
    """Outputs, gradients and e^m S do not depend on it."""
    xs = [x.requires_grad_() for x in make(T=40)]
    run = getattr(mlstm, form)
    empty = mlstm.init(16, 8, (2, 3), dtype=torch.float64)
    out, state = run(*xs, state={**empty, "m": torch.full_like(empty["m"], start)})
    want, seen = run(*xs)
    torch.testing.assert_close(out, want, **EXACT)
    torch.testing.assert_close(state["S"] * (state["m"] - seen["m"]).exp()[..., None], seen["S"], **EXACT)
    for got, g in zip(torch.autograd.grad(out.sin().sum(), xs), torch.autograd.grad(want.sin().sum(), xs)):
        torch.testing.assert_close(got, g, **EXACT)


@FORMS
def test_one_in_place_of_e_to_minus_m_is_the_classic_bug(form):
    """At m = 50 with small weights the bug would divide by 1 what is kept divided by e^50."""
    q, k, v, i, f = make(T=1)
    i = torch.full_like(i, -3.0)
    empty = mlstm.init(16, 8, (2, 3), dtype=torch.float64)
    out, _ = getattr(mlstm, form)(q, k, v, i, f, state={**empty, "m": empty["m"] + 50})
    torch.testing.assert_close(out, i.exp() / 4 * (q * k).sum(-1, keepdim=True) * v, **EXACT)


@FORMS
def test_without_its_unit_it_is_gated_linear_attention(form):
    """(1) and (2) as they stand, in float64, with exp ĩ and no m: forms.gated and a column of ones."""
    q, k, v, i, f = make()
    read, S = forms.gated(q, k * i.exp() / 4, F.pad(v, (0, 1), value=1.0), F.logsigmoid(f))
    out, state = getattr(mlstm, form)(q, k, v, i, f)
    torch.testing.assert_close(out, read[..., :-1] / read[..., -1:].abs().clamp(min=1), **EXACT)
    torch.testing.assert_close(state["S"] * state["m"].exp()[..., None], S[..., :-1], **EXACT)
    torch.testing.assert_close(state["n"] * state["m"].exp(), S[..., -1], **EXACT)


GATES = {"loud": (1000, 0, 1, 0), "silent": (1, -300, 1, 0), "shut": (1, 0, 1, -1000), "open": (1, 0, 1, 1000), "all four": (100, 0, 500, 0),
         "no write": (0, -torch.inf, 1, 2)}


@pytest.mark.parametrize("name", GATES)
def test_extreme_gates_stay_finite_and_right(name):
    """i and f scaled and shifted; float32, as exact as the loop in float32, in values and gradients."""
    a, b, c, d = GATES[name]
    q, k, v, i, f = check.inputs("qkvif", T=700, K=16, V=8, lead=(2,))
    xs = [q, k, v, a * i + b if a else torch.full_like(i, b), c * f + d]

    def run(form, dtype):
        ys = [x.to(dtype).requires_grad_() for x in xs]
        out, state = form(*ys)
        return out, state, torch.autograd.grad(out.sin().sum(), ys)
    exact, plain, fast = run(mlstm.recurrent, torch.float64), run(mlstm.recurrent, torch.float32), run(mlstm.chunked, torch.float32)
    assert all(x.isfinite().all() for x in core.tensors(fast))
    assert ((fast[1]["m"] - exact[1]["m"]).abs() <= 3e-7 * exact[1]["m"].abs()).all()
    slope = max(g.abs().max() for g in exact[2])                 # that of a gate is a difference of sums: right to the rounding of these
    for e, p, x, size in zip((exact[0], *exact[2]), (plain[0], *plain[2]), (fast[0], *fast[2]), (exact[0].abs().max(), *[slope] * 5)):
        assert (x - e).abs().max() <= 5 * (p - e).abs().max() + 2e-6 * size


def test_a_query_of_zeros_reads_zeros():
    """0 / e^−m with m = 500 would be 0 / 0."""
    q, k, v, i, f = make(T=5, dtype=torch.float32)
    for form in (mlstm.recurrent, mlstm.chunked):
        assert not form(0 * q, k, v, i + 500, f)[0].any()


def test_long_in_float32():
    """65,536 tokens: a running maximum by a difference of sums over all of them would have lost its digits."""
    xs = check.inputs("qkvif", T=65536, K=4, V=3, lead=())
    xs[4] = xs[4] - 6
    exact, fast = mlstm.chunked(*xs), mlstm.chunked(*(x.float() for x in xs))
    assert (fast[1]["m"] - exact[1]["m"]).abs() < 1e-5
    error = (fast[0] - exact[0]).abs()
    assert error.median() < 1e-7 and error.max() < 1e-3 * exact[0].abs().max()                  # the largest where n·q is nearly 0


def test_a_loud_token_outweighs_what_came_before():
    """The newest of 20 tokens with ĩ = 12 is read back alone, from any query that sees it."""
    q, k, v, i, f = make(T=20)
    i = torch.cat([i[..., :-1, :] / 3, torch.full_like(i[..., -1:, :], 12.0)], -2)
    out = mlstm.chunked(k, k, v, i, f)[0]
    torch.testing.assert_close(out[..., -1, :], v[..., -1, :], rtol=0, atol=2e-3)


def test_bytes_of_one_head_and_of_the_layer():
    """K V + K + 1 floats; the layer of width 32 keeps 4 heads of 16 and three tokens of 64 channels."""
    xs = [x[0, 0] for x in make(dtype=torch.float32)]
    assert core.nbytes(mlstm.chunked(*xs)[1]) == 4 * (16 * 8 + 16 + 1)
    assert core.nbytes(mlstm.Layer(32)(torch.randn(1, 5, 32))[1]) == 4 * (4 * (16 * 16 + 16 + 1) + 3 * 64)


def test_the_layer_starts_with_its_gates_as_published():
    layer = mlstm.Layer(32)
    i, f = layer.gates.bias.chunk(2)
    assert torch.equal(f, torch.linspace(3, 6, 4)) and not layer.gates.weight.any() and i.abs().max() < 1


def test_the_large_layer_can_be_cut_and_caps_its_gates():
    torch.manual_seed(0)
    layer, x = mlstm.Large(32, heads=4).double(), torch.randn(2, 21, 32, dtype=torch.float64)
    whole, last = layer(x)
    first, state = layer(x[:, :9])
    rest, state = layer(x[:, 9:], state)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole, **EXACT)
    for got, want in zip(core.tensors(state), core.tensors(last), strict=True):
        torch.testing.assert_close(got, want, **EXACT)
    assert last["S"].shape == (2, 4, 4, 8) and layer(1e6 * x)[1]["m"].max() <= 15
    with pytest.raises(ValueError, match="^x has shape"):
        layer(x[..., :-1])


@FORMS
def test_a_state_that_does_not_fit_is_refused(form):
    xs, run = make(T=3), partial(getattr(mlstm, form))
    with pytest.raises(ValueError, match=r"state\['n'\] has shape"):
        run(*xs, state={**mlstm.init(16, 8, (2, 3), dtype=torch.float64), "n": torch.zeros(2, 3, 15).double()})
    with pytest.raises(ValueError, match="state must be a dict of S and n and m"):
        run(*xs, state=torch.zeros(2, 3, 16, 8))
