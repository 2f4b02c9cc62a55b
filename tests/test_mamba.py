"""Mamba against the authors' numbers, mambapy and transformers."""
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from minimem import check, core
from minimem.state import mamba

GOLDEN = Path(__file__).parent / "golden" / "selective_scan.npz"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}                             # of float32 code, on outputs of size 1 to 10
EXACT = {"rtol": 1e-9, "atol": 1e-10}
FORMS = pytest.mark.parametrize("form", ["recurrent", "chunked"])


def make(T=100, dtype=torch.float64):
    """x, d, B, C of three sequences of 8 channels, and what is learned, with no two numbers alike."""
    x, d, B, C = check.inputs("xdBC", T=T, K=6, V=8, lead=(3,), dtype=dtype)
    r = torch.Generator().manual_seed(1)
    learned = {"A": -torch.rand(8, 6, generator=r, dtype=torch.float64) * 4, "D": torch.randn(8, generator=r, dtype=torch.float64)}
    return [x, d, B, C], {n: y.to(dtype) for n, y in learned.items()}


@FORMS
@pytest.mark.oracle("mamba")
def test_equals_the_authors_numbers(form):
    """Softplus, bias and gate as their layer applies them; and the gradient of everything."""
    f = {n: torch.from_numpy(a) for n, a in np.load(GOLDEN).items()}
    u, delta, A, B, C, D, z, bias = (f[n].requires_grad_() for n in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias"))
    d = F.softplus(delta.mT + bias)
    y, S = getattr(mamba, form)(u.mT, d, B.mT, C.mT, {"A": A, "D": D})
    y = (y * F.silu(z.mT)).mT
    torch.testing.assert_close(y, f["ref_y"], **EXACT)
    torch.testing.assert_close(S.mT, f["ref_state"], **EXACT)
    grads = torch.autograd.grad((y * f["w"]).sum(), (u, delta, A, B, C, D, z, bias))
    for name, got in zip(("u", "delta", "A", "B", "C", "D", "z", "delta_bias"), grads):
        torch.testing.assert_close(got, f[f"grad_{name}"], **EXACT)


@FORMS
@pytest.mark.oracle("mamba")
def test_equals_mambapy(form):
    """Their parallel scan and their loop."""
    from mambapy.mamba import MambaBlock, MambaConfig
    (x, d, B, C), learned = make(dtype=torch.float32)
    y, _ = getattr(mamba, form)(x, d, B, C, learned)
    theirs = MambaBlock(MambaConfig(d_model=4, n_layers=1, d_state=6))
    for name in ("selective_scan", "selective_scan_seq"):
        torch.testing.assert_close(y, getattr(theirs, name)(x, d, learned["A"], B, C, learned["D"]), **CLOSE)


@FORMS
@pytest.mark.oracle("mamba")
def test_equals_transformers_scan(form):
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan
    (x, d, B, C), learned = make(dtype=torch.float32)
    y, S = getattr(mamba, form)(x, F.softplus(d - 1), B, C, learned)
    o, last = mamba_selective_scan.__wrapped__(x.mT, d.mT, learned["A"], B.mT, C.mT, learned["D"], delta_bias=-torch.ones(8),
                                               delta_softplus=True, return_last_state=True)
    torch.testing.assert_close(y.mT, o, **CLOSE)
    torch.testing.assert_close(S.mT, last, **CLOSE)


@FORMS
@pytest.mark.oracle("mamba")
def test_one_rate_for_all_numbers_of_a_channel_is_one_head_of_mamba2(form):
    """With A the same everywhere and one Δ for all channels, the decay is one number a token: linear attention with a scalar gate."""
    from minimem.state import mamba2
    (x, d, B, C), learned = make()
    d, A = d[..., :1], torch.full((8, 6), -0.7, dtype=torch.float64)
    got = getattr(mamba, form)(x, d.expand_as(x), B, C, {"A": A, "D": torch.full((8,), 0.3).double()})
    want = mamba2.chunked(x, d, B, C, {"A": A[0, :1], "D": torch.full((1,), 0.3).double()})
    for g, w in zip(got, want):
        torch.testing.assert_close(g, w, **EXACT)


def test_discrete_steps_of_the_docstring():
    """Euler's rule for B against zero-order hold."""
    assert [round(np.expm1(-a) / -a, 2) for a in (0.02, 0.2, 2)] == [0.99, 0.91, 0.43]


@FORMS
def test_no_step_is_too_long(form):
    """Δ from 0 to 10⁴: nothing overflows; Δ = 0 writes and forgets nothing, a long one forgets everything."""
    (x, d, B, C), learned = make(T=20)
    d = torch.where(torch.arange(20)[:, None] % 2 == 0, 0.0, 1e4).double().expand_as(d)
    y, S = getattr(mamba, form)(x, d, B, C, learned)
    torch.testing.assert_close(S, B[..., 19, :, None] * 1e4 * x[..., 19, None, :], **EXACT)
    torch.testing.assert_close(y[..., 0, :], learned["D"] * x[..., 0, :], **EXACT)
    kept = getattr(mamba, form)(x, 0 * d, B, C, learned, S)[1]
    assert torch.equal(kept, S)


@FORMS
@pytest.mark.parametrize("change, words", [
    (lambda a: a["d"].neg_(), "^d and A .* wanted d >= 0"), (lambda a: a["A"].neg_(), "^d and A .* A <= 0"),
    (lambda a: a.update(A=a["A"].mT), "^A has shape"), (lambda a: a.update(D=torch.zeros(2).double()), "^D has shape"),
    (lambda a: a.update(d=a["B"]), "^d has shape"), (lambda a: a.update(state=torch.zeros(3, 8, 6).double()), "^state has shape")])
def test_what_a_form_refuses(form, change, words):
    (x, d, B, C), learned = make(T=5)
    a = {"x": x, "d": d, "B": B, "C": C, **learned}
    change(a)
    with pytest.raises(ValueError, match=words):
        getattr(mamba, form)(*(a[n] for n in ("x", "d", "B", "C")), {"A": a["A"], "D": a["D"]}, a.get("state"))


@pytest.mark.parametrize("N, expand, conv", [(16, 2, 4), (5, 3, 4), (8, 2, 1)])
def test_bytes_are_the_formula(N, expand, conv):
    """d_inner N + (conv − 1) d_inner floats."""
    _, state = mamba.Layer(20, N, expand, conv=conv)(torch.randn(1, 9, 20))
    assert core.nbytes(state) == 4 * 20 * expand * (N + conv - 1)


def test_starts_as_the_paper_does():
    torch.manual_seed(0)
    layer = mamba.Layer(320)
    step = F.softplus(layer.dt_proj.bias)
    assert 1e-4 <= step.min() < 1.1e-3 and 0.09 < step.max() <= 0.1001 and layer.dt_proj.in_features == 20
    torch.testing.assert_close(-layer.A_log.exp(), mamba.params(640, 16)["A"])
    assert (layer.D == 1).all()
