"""The fast forms gated and delta against the loops they replace: exact in float64, inside a budget in lower precision, and linear in T."""
import time
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from minimem import core, forms


def step(S, q, k, v, g, b):
    """Both rules in one: gate, look up what is there, write."""
    S = g.exp()[..., None] * S
    w = v if b is None else b * (v - (k[..., None, :] @ S)[..., 0, :])
    S = S + k[..., :, None] * w[..., None, :]
    return S, (q[..., None, :] @ S)[..., 0, :]


def loop(q, k, v, g=None, b=None, state=None):
    g = torch.zeros_like(q[..., :1]) if g is None else g
    state = q.new_zeros(*q.shape[:-2], k.shape[-1], v.shape[-1]) if state is None else state
    if b is None:
        return core.run(lambda S, *x: step(S, *x, None), state, q, k, v, g)
    return core.run(step, state, q, k, v, g, b)


def fast(q, k, v, g=None, b=None, state=None, **options):
    return forms.gated(q, k, v, g, state, **options) if b is None else forms.delta(q, k, v, b, g, state, **options)


def make(rule, T, lead=(2, 3), K=6, V=5, seed=0, dtype=torch.float64, decay=None):
    """q, k, v and what the rule takes beside them: g (a decay per head), G (per key), b."""
    r = torch.Generator().manual_seed(seed)

    def draw(width):
        return torch.randn(*lead, T, width, generator=r, dtype=torch.float64)
    xs = {"q": draw(K), "k": F.normalize(draw(K), dim=-1), "v": draw(V)}
    if "g" in rule or "G" in rule:
        g = draw(K if "G" in rule else 1)
        xs["g"] = F.logsigmoid(g) if decay is None else decay * g.sigmoid()
    if "b" in rule:
        xs["b"] = 2 * draw(1).sigmoid()                          # negative eigenvalues too
    return {n: x.to(dtype) for n, x in xs.items()}


RULES = ["", "g", "G", "b", "gb"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("T, chunk", [(1, 64), (5, 4), (33, 8), (150, 64), (70, 7), (2, 1)])
def test_equals_the_loop_with_its_gradients(rule, T, chunk):
    xs = make(rule, T)
    xs["state"] = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def run(form, **options):
        leaves = {n: x.clone().requires_grad_() for n, x in xs.items()}
        out, state = form(**leaves, **options)
        return out, state, *torch.autograd.grad(out.sin().sum() + state.square().sum(), list(leaves.values()))
    for got, want in zip(run(fast, chunk=chunk), run(loop), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("rule", RULES)
def test_parts_worked_on_one_after_another(rule, monkeypatch):
    """A long sequence is worked on in parts of ROWS rows; where they are cut must not show."""
    xs = make(rule, 130)
    want = fast(**xs, chunk=16)
    monkeypatch.setattr(forms, "ROWS", 6 * 32)
    for got, w in zip(fast(**xs, chunk=16), want):
        torch.testing.assert_close(got, w, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("lead", [(0,), (2, 0)])
def test_no_sequences_at_all(rule, lead):
    leaves = {n: x.requires_grad_() for n, x in make(rule, 40, lead).items()}
    for x in fast(**leaves):
        assert x.numel() == 0 and x.shape[:-2] == lead
        torch.autograd.grad(x.sum(), list(leaves.values()), retain_graph=True, materialize_grads=True)


@pytest.mark.parametrize("rule", RULES)
def test_chunks_of_nothing_are_refused(rule):
    with pytest.raises(ValueError, match="chunk is 0, wanted >= 1"):
        fast(**make(rule, 5), chunk=0)


def by_levels(q, k, v, g, levels):
    """o_t = Σ_{j≤t} levels[t, bit_length(t xor j)] (q_t·e^{Σ g over (j, t]} k_j) v_j, as one T × T matrix."""
    T = q.shape[-2]
    level = torch.tensor([[(t ^ j).bit_length() for j in range(T)] for t in range(T)])
    G = g.cumsum(-2)
    above = torch.ones(T, T, dtype=torch.bool).triu(1)[..., None]
    D = (G[..., :, None, :] - G[..., None, :, :]).masked_fill(above, -torch.inf).exp()
    A = (q[..., :, None, :] * k[..., None, :, :] * D).sum(-1)
    return (A * levels.gather(-1, level.clamp(max=levels.shape[-1] - 1).expand(*levels.shape[:-2], T, T))) @ v


@pytest.mark.parametrize("rows", [4096, 1])
@pytest.mark.parametrize("T", [1, 2, 7, 16, 33, 70])
def test_levels_equal_one_matrix_with_gradients_and_at_any_cut(rows, T, monkeypatch):
    monkeypatch.setattr(forms, "ROWS", rows)                                 # all in one part, and every chunk by itself
    xs = make("g", T)
    levels = torch.randn(2, 3, T, T.bit_length() + 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (*xs.values(), levels)]
    want = by_levels(*leaves)
    out, state = forms.gated(*leaves[:-1], levels=levels, chunk=8)
    torch.testing.assert_close(out, want, rtol=1e-10, atol=1e-11)
    for got, w in zip(*(torch.autograd.grad(x.sin().sum(), leaves, materialize_grads=True) for x in (out, want))):
        torch.testing.assert_close(got, w, rtol=1e-10, atol=1e-11)
    assert sorted(state) == [i + 1 for i in range(8) if T >> i & 1]              # as many as there are ones in T
    for cut in {1, T // 3, T // 2, T - 1} - {0, T}:
        o1, s1 = forms.gated(*(x[..., :cut, :] for x in leaves[:-1]), levels=levels[..., :cut, :], chunk=8)
        o2, s2 = forms.gated(*(x[..., cut:, :] for x in leaves[:-1]), state=s1, levels=levels[..., cut:, :], chunk=8)
        torch.testing.assert_close(torch.cat([o1, o2], -2), out, rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(s2, state, rtol=1e-10, atol=1e-11)


def test_levels_all_one_are_no_levels():
    xs = make("g", 50)
    out, state = forms.gated(**xs, levels=torch.ones(2, 3, 50, 7, dtype=torch.float64))
    plain, S = forms.gated(**xs)
    torch.testing.assert_close(out, plain, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(sum(state.values()), S, rtol=1e-10, atol=1e-11)


def test_levels_go_with_one_decay():
    with pytest.raises(ValueError, match="g has 6 decays a token, wanted one beside levels"):
        forms.gated(**make("G", 5), levels=torch.ones(2, 3, 5, 4, dtype=torch.float64))


def test_too_few_levels_are_refused():
    with pytest.raises(ValueError, match="levels has 6 weights, wanted 7 for token 49"):
        forms.gated(**make("g", 50), levels=torch.ones(2, 3, 50, 6, dtype=torch.float64))


def error(rule, decay, **change):
    """Of float32 against float64 on the same numbers, as a share of the largest output."""
    xs = {**make(rule, 2048, (2,), 64, 64, decay=decay, dtype=torch.float32), **change}
    want = fast(**{n: x.double() for n, x in xs.items()})[0]
    return ((fast(**xs)[0] - want).abs().max() / want.abs().max()).item()


@pytest.mark.parametrize("decay", [0.0, -1e-4, -1e-2, -1.0, -20.0, -1000.0])
def test_float32_is_right_for_every_decay(decay):
    assert error("g", decay) < 5e-7
    assert error("G", decay) < 5e-7
    assert error("gb", decay, b=torch.rand(2, 2048, 1, generator=torch.Generator().manual_seed(3))) < 2e-6


def test_nearly_equal_keys():
    """The hardest triangular system: every key the same, each write replaces all before it."""
    k = F.normalize(torch.ones(2, 2048, 64) + 1e-3 * torch.randn(2, 2048, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert error("b", None, k=k, b=torch.ones(2, 2048, 1)) < 2e-6


def test_minus_infinity_empties_the_memory():
    for rule in ("g", "G", "gb"):
        xs = make(rule, 40)
        xs["g"][..., 21, :] = -torch.inf
        fresh = {n: x[..., 21:, :] for n, x in xs.items()}
        torch.testing.assert_close(fast(**xs, chunk=16)[0][..., 21:, :], loop(**fresh)[0], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("rule", ["g", "G", "gb"])
def test_minus_infinity_has_a_slope_of_zero(rule):
    xs = make(rule, 40)
    xs["g"][..., 21, :] = -torch.inf
    leaves = [x.requires_grad_() for x in xs.values()]
    got, want = (torch.autograd.grad(f(**xs)[0].sin().sum(), leaves) for f in (partial(fast, chunk=16), loop))
    for x, y in zip(got, want):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-11)
    assert (got[3][..., 21, :] == 0).all()


@pytest.mark.parametrize("rule", ["g", "G", "gb"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_stays_in_the_error_budget(rule, dtype):
    """Against float64 on the same numbers: no worse than the loop in that dtype, plus one rounding of the output."""
    xs = make(rule, 512, (2,), 32, 32, dtype=dtype)
    if "b" in xs:
        xs["b"] = xs["b"] / 2
    exact = loop(**{n: x.double() for n, x in xs.items()})[0]
    mine, eager = (f(**xs)[0] for f in (fast, loop))
    assert mine.dtype == dtype
    budget = (eager.double() - exact).abs().max() + torch.finfo(dtype).eps * exact.abs().max()
    assert (mine.double() - exact).abs().max() <= budget
    assert (mine.double() - exact).abs().max() <= torch.finfo(dtype).eps * exact.abs().max(), "sums did not run in float32"


@pytest.mark.parametrize("rule", RULES)
def test_very_long(rule):
    out, state = fast(**make(rule, 65_536, (), 8, 8, dtype=torch.float32))
    assert out.isfinite().all() and state.isfinite().all()


@pytest.mark.parametrize("rule", ["g", "G", "gb"])
def test_cost_is_linear_forward_and_backward(rule):
    """Eight times the tokens cost about eight times: a loop that indexes x[..., t, :] would cost 64 times backward."""
    def seconds(T):
        xs = {n: x.requires_grad_() for n, x in make(rule, T, (1,), 32, 32, dtype=torch.float32).items()}
        took = []
        for _ in range(3):
            start = time.process_time()
            torch.autograd.grad(fast(**xs)[0].sum(), list(xs.values()))
            took.append(time.process_time() - start)
        return min(took)
    seconds(512)
    assert seconds(16_384) / seconds(2_048) < 20
