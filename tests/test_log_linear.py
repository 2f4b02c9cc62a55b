"""Log-linear attention against flash-linear-attention, the authors' numbers, and what it is tied to."""
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from minimem import check, core, forms
from minimem.state import log_linear

GOLDEN = Path(__file__).parent / "golden" / "log_linear_attention.npz"
EXACT = {"rtol": 1e-9, "atol": 1e-10}
FORMS = pytest.mark.parametrize("form", ["recurrent", "chunked"])


def make(T=100, K=16, V=8, seed=0, dtype=torch.float64):
    """(2, 3, T, D) inputs, q of unit norm too."""
    q, *rest = check.inputs("qkvaw", T=T, K=K, V=V, seed=seed, dtype=dtype)
    return [F.normalize(q, dim=-1), *rest]


def theirs(q, k, v, a, w):
    from fla.ops.log_linear_attn.naive import naive_log_linear_attn
    swapped = [x.transpose(1, 2) for x in (q, k, v, a, w)]
    return naive_log_linear_attn(*swapped[:3], swapped[3].squeeze(-1), swapped[4]).transpose(1, 2)


@FORMS
@pytest.mark.parametrize("T", [2, 3, 64, 100])                   # theirs finds no level for one token alone
@pytest.mark.oracle("log_linear")
def test_equals_fla(form, T):
    xs = make(T)
    torch.testing.assert_close(getattr(log_linear, form)(*xs)[0], theirs(*xs), **EXACT)


@FORMS
@pytest.mark.oracle("log_linear")
def test_equals_the_authors_numbers(form):
    f = {n: torch.from_numpy(x) for n, x in np.load(GOLDEN).items()}
    leaves = {n: f[n].requires_grad_() for n in ("q", "k", "v", "g", "lam")}
    q, k, v, g, w = leaves.values()
    out, _ = getattr(log_linear, form)(*(x.transpose(1, 2) for x in (q, k, v, g[..., None], w)))
    torch.testing.assert_close(out.transpose(1, 2), f["ref_y"], **EXACT)
    for name, got in zip(leaves, torch.autograd.grad((out.transpose(1, 2) * f["w"]).sum(), list(leaves.values()))):
        torch.testing.assert_close(got, f[f"grad_{name}"], **EXACT)


def test_where_float32_loses_digits():
    """1,024 tokens: ours stays within 5e-7 of float64; fla's naive form subtracts two sums over all the gates before e is taken, and does not."""
    xs = make(1024, dtype=torch.float32)
    exact = log_linear.recurrent(*(x.double() for x in xs))[0]
    ours, fla = ((out.double() - exact).abs().max() / exact.abs().max() for out in (log_linear.chunked(*xs)[0], theirs(*xs)))
    assert ours < 5e-7
    assert 1e-6 < fla < 1e-3
    torch.testing.assert_close(theirs(*(x.double() for x in xs)), exact, **EXACT)


@FORMS
def test_all_weights_one_is_a_gate(form):
    q, k, v, a, w = make()
    out, state = getattr(log_linear, form)(q, k, v, a, torch.ones_like(w))
    plain, S = forms.gated(q, k, v, a)
    torch.testing.assert_close(out, plain, **EXACT)
    torch.testing.assert_close(sum(state.values()), S, **EXACT)


@FORMS
def test_weight_of_the_token_itself_only(form):
    q, k, v, a, w = make()
    out, _ = getattr(log_linear, form)(q, k, v, a, F.one_hot(torch.tensor(0), 12).double().expand_as(w))
    torch.testing.assert_close(out, (q * k).sum(-1, keepdim=True) * v, **EXACT)


def test_as_many_matrices_as_there_are_ones_in_the_number_of_tokens():
    """And while token t reads, its own included, popcount(t) + 1; bytes are the row's formula."""
    xs = [x[0, 0] for x in make(70, K=5, V=3)]
    state = log_linear.init()
    for t, token in enumerate(zip(*(x.unbind() for x in xs))):
        assert len(state) == t.bit_count()                       # and the token itself makes one more
        state, _ = log_linear.step(state, *token)
        T = t + 1
        assert sorted(state) == [i + 1 for i in range(8) if T >> i & 1]
        assert core.nbytes(state) == 8 * T.bit_count() * 5 * 3


def test_a_level_is_a_block_of_tokens():
    """v_j = e_j and q = k: the matrix of a level holds exactly the tokens of its block."""
    T = 13                                                       # 8 + 4 + 1
    one, v = torch.ones(T, 1).double(), torch.eye(T).double()
    _, state = log_linear.chunked(one, one, v, 0 * one, torch.ones(T, 5).double())
    held = {l: S[0].nonzero().flatten().tolist() for l, S in state.items()}
    assert held == {4: list(range(8)), 3: list(range(8, 12)), 1: [12]}


@FORMS
@pytest.mark.parametrize("change, words", [
    (lambda xs: xs.update(w=xs["w"][..., :4]), "^w has 4 weights, wanted 5 for token 9"),
    (lambda xs: xs.update(w=xs["w"][..., :5], state=log_linear.chunked(*make(8))[1]), "^w has 5 weights, wanted 6 for token 17"),
    (lambda xs: xs.update(state=torch.zeros(2, 3, 16, 8)), "^state must be a dict of matrices by level, 1 and up, got Tensor"),
    (lambda xs: xs.update(state={0: torch.zeros(2, 3, 16, 8)}), r"^state must be .* got \[0\]"),
    (lambda xs: xs.update(state={1: torch.zeros(2, 3, 16, 9).double()}), r"^state\[1\] has shape")])
def test_what_a_form_refuses(form, change, words):
    xs = dict(zip("qkvaw", make(10)))
    change(xs)
    with pytest.raises(ValueError, match=words):
        getattr(log_linear, form)(**xs)


def layer(**options):
    torch.manual_seed(0)
    made = log_linear.Layer(32, **{"heads": 2, "N": 5, "P": 7, "levels": 7, **options}).double()
    with torch.no_grad():
        for p in made.parameters():
            p += 0.1 * torch.randn_like(p)
    return made


@pytest.mark.oracle("log_linear")
def test_layer_is_flas():
    """Their layer runs on a GPU only, so its parts are put together here: its projection, convolution and norm, and their naive form."""
    import os
    os.environ["FLA_CONV_BACKEND"] = "triton"
    from fla.layers.log_linear_mamba2 import LogLinearMamba2
    from fla.ops.log_linear_attn.naive import naive_log_linear_attn
    x = torch.randn(2, 21, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = layer(levels=15)
    fla = LogLinearMamba2(num_heads=2, head_dim=7, hidden_size=32, state_size=5, expand=14 / 32).double()
    fla.load_state_dict(made.state_dict())
    z, xBC, d, w = fla.in_proj(x).split([14, 24, 2, 30], -1)
    xBC = F.silu(fla.conv1d(xBC.mT)[..., :21].mT)
    v, k, q = xBC.split([14, 5, 5], -1)
    v, d = v.unflatten(-1, (2, 7)), F.softplus(d + fla.dt_bias)
    w = F.softplus(fla.L * w.unflatten(-1, (2, 15)))
    y = naive_log_linear_attn(q[:, :, None], k[:, :, None], v * d[..., None], -fla.A_log.exp() * d, w) + fla.D[:, None] * v
    y = y.flatten(-2) * F.silu(z)
    y = y / (y.square().mean(-1, keepdim=True) + fla.norm.eps).sqrt() * fla.norm.weight
    torch.testing.assert_close(made(x)[0], fla.out_proj(y), **EXACT)
    assert not fla.norm_before_gate


def test_bytes_of_a_layer():
    """The row's floats per head, and 3 inputs of the convolution."""
    for T in (1, 12, 63, 64):
        _, state = layer()(torch.randn(1, T, 32, dtype=torch.float64))
        assert core.nbytes(state) == 8 * (2 * 5 * 7 * T.bit_count() + 3 * (2 * 7 + 2 * 5))


def test_a_layer_reaches_as_far_as_its_levels():
    made = layer(levels=4)
    _, state = made(torch.randn(1, 8, 32, dtype=torch.float64))
    with pytest.raises(ValueError, match="w has 4 weights, wanted 5 for token 8"):
        made(torch.randn(1, 1, 32, dtype=torch.float64), state)
