"""Mamba-2 against the authors' numbers, fla and transformers, and its identity with linear attention."""
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from minimem import core, forms
from minimem.state import mamba2

GOLDEN = Path(__file__).parent / "golden" / "ssd_minimal.npz"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}                             # of float32 code, on outputs of size 1 to 10
EXACT = {"rtol": 1e-9, "atol": 1e-10}
FORMS = pytest.mark.parametrize("form", ["recurrent", "chunked"])


def make(T=100, heads=3, dtype=torch.float64):
    """x, d, B, C of two sequences, and what the heads have learned."""
    r = torch.Generator().manual_seed(0)
    x, d, B, C = (torch.randn(2, heads, T, n, generator=r, dtype=torch.float64) for n in (8, 1, 16, 16))
    learned = {"A": mamba2.params((heads,), dtype=dtype)["A"], "D": torch.linspace(-1, 2, heads, dtype=dtype)[:, None]}
    return [y.to(dtype) for y in (x, d.sigmoid(), B / 4, C)], learned


@FORMS
@pytest.mark.oracle("mamba2")
def test_equals_the_authors_numbers(form):
    """Their X is Δx and their A is ΔA, so Δ = 1 for x and A moves into d; gradients too."""
    f = {n: torch.from_numpy(a) for n, a in np.load(GOLDEN).items()}
    X, A, B, C = (f[n].requires_grad_() for n in "XABC")
    x, d, k, q = (y.transpose(1, 2) for y in (X / -A[..., None], -A[..., None], B, C))
    learned = {"A": -torch.ones(1).double(), "D": torch.zeros(1).double()}
    y, S = getattr(mamba2, form)(x, d, k, q, learned)
    torch.testing.assert_close(y.transpose(1, 2), f["ref_y"], **EXACT)
    torch.testing.assert_close(S.mT, f["ref_state"], **EXACT)
    grads = torch.autograd.grad((y.transpose(1, 2) * f["w"]).sum(), (X, A, B, C))
    for name, got in zip("XABC", grads):
        torch.testing.assert_close(got, f[f"grad_{name}"], **EXACT)


@FORMS
@pytest.mark.oracle("mamba2")
def test_is_linear_attention_with_a_scalar_gate(form):
    """k = B, q = C, v = Δx, a = ΔA: fla's simple GLA, and ours, to the last digit."""
    from fla.ops.simple_gla.naive import naive_chunk_simple_gla, naive_recurrent_simple_gla
    (x, d, B, C), learned = make(dtype=torch.float32)
    y, S = getattr(mamba2, form)(x, d, B, C, learned)
    q, k, v, g = (z.transpose(1, 2) for z in (C, B, d * x, (d * learned["A"][..., None])))
    skip = (learned["D"][..., None] * x).transpose(1, 2)
    for theirs in (naive_recurrent_simple_gla, naive_chunk_simple_gla):
        o, last = theirs(q, k, v, g.squeeze(-1), scale=1.0, output_final_state=True)
        torch.testing.assert_close(y.transpose(1, 2), o + skip, **CLOSE)
        torch.testing.assert_close(S, last, **CLOSE)
    ours, last = forms.gated(C, B, d * x, d * learned["A"][..., None])
    torch.testing.assert_close(y, ours + learned["D"][..., None] * x, **CLOSE)
    torch.testing.assert_close(S, last, **CLOSE)


@FORMS
@pytest.mark.oracle("mamba2")
def test_equals_transformers_chunk_scan(form):
    """Groups of heads that share B and C, softplus and limits of Δ, a first state."""
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan
    (x, d, B, C), learned = make(dtype=torch.float32, heads=6)
    B, C = B[:, :3], C[:, :3]                                    # two heads to a group
    S0 = torch.randn(2, 6, 16, 8, generator=torch.Generator().manual_seed(1))
    share = [y.repeat_interleave(2, 1) for y in (B, C)]
    y, S = getattr(mamba2, form)(x, F.softplus(d).clamp(0.9, 1.2), *share, learned, S0)
    xs, ds, k, q = (y.transpose(1, 2) for y in (x, d, B, C))
    o, last = mamba2_chunk_scan.__wrapped__(xs, ds.squeeze(-1), learned["A"][:, 0], k, q, 32, D=learned["D"][:, 0], dt_softplus=True,
                                            dt_limit=(0.9, 1.2), initial_states=S0.mT, return_final_states=True)
    torch.testing.assert_close(y.transpose(1, 2), o, **CLOSE)
    torch.testing.assert_close(S.mT, last, **CLOSE)


@FORMS
def test_no_step_is_too_long(form):
    """Δ from 0 to 10⁴: nothing overflows; Δ = 0 writes and forgets nothing, a long one forgets everything."""
    (x, d, B, C), learned = make(T=20)
    d = torch.where(torch.arange(20)[:, None] % 2 == 0, 0.0, 1e4).double().expand_as(d)
    y, S = getattr(mamba2, form)(x, d, B, C, learned)
    torch.testing.assert_close(S, B[..., 19, :, None] * 1e4 * x[..., 19, None, :], **EXACT)
    torch.testing.assert_close(y[..., 0, :], learned["D"] * x[..., 0, :], **EXACT)
    kept = getattr(mamba2, form)(x, 0 * d, B, C, learned, S)[1]
    assert torch.equal(kept, S)


@FORMS
@pytest.mark.parametrize("change, words", [
    (lambda a: a["d"].neg_(), "^d and A .* wanted d >= 0"), (lambda a: a["A"].neg_(), "^d and A .* A <= 0"),
    (lambda a: a.update(A=a["A"].mT), "^A has shape"), (lambda a: a.update(D=torch.zeros(2, 1).double()), "^D has leading axes"),
    (lambda a: a.update(d=a["x"]), "^d has shape"), (lambda a: a.update(state=torch.zeros(2, 3, 8, 16).double()), "^state has shape")])
def test_what_a_form_refuses(form, change, words):
    (x, d, B, C), learned = make(T=5)
    a = {"x": x, "d": d, "B": B, "C": C, **learned}
    change(a)
    with pytest.raises(ValueError, match=words):
        getattr(mamba2, form)(*(a[n] for n in ("x", "d", "B", "C")), {"A": a["A"], "D": a["D"]}, a.get("state"))


@pytest.mark.parametrize("heads, P, N, G, conv", [(None, 64, 128, 1, 4), (6, 5, 7, 3, 4), (4, 8, 16, 1, 1), (2, 8, 4, 2, 2)])
def test_bytes_are_the_formula(heads, P, N, G, conv):
    """d_inner N + (conv − 1)(d_inner + 2 G N) floats."""
    layer = mamba2.Layer(32, heads=heads, N=N, P=P, groups=G, conv=conv)
    _, state = layer(torch.randn(1, 9, 32))
    inner = P * (heads or 1)
    assert core.nbytes(state) == 4 * (inner * N + (conv - 1) * (inner + 2 * G * N))


def test_heads_must_fill_groups():
    with pytest.raises(ValueError, match="heads is 4, wanted a multiple of groups=3"):
        mamba2.Layer(32, heads=4, groups=3)


def test_starts_as_the_paper_does():
    torch.manual_seed(0)
    layer = mamba2.Layer(512, P=8)
    step, A = F.softplus(layer.dt_bias), layer.A_log.exp()
    assert 1e-4 <= step.min() < 2e-3 and 0.05 < step.max() <= 0.1001
    assert 1 <= A.min() < 2 and 15 < A.max() <= 16 and (layer.D == 1).all()
    assert -mamba2.params((64,))["A"].max() >= 1 and mamba2.params((64,))["A"].min() >= -16
