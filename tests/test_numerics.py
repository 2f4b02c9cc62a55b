"""The fast forms in float32 and bfloat16 against float64 loops, for every gate; 65,536 tokens; and what each refuses."""
import pytest
import torch
from torch.nn import functional as F

from minimem import core, forms


def diagonal(a, x):
    return core.run(lambda h, a, x: (a.exp() * h + x,) * 2, torch.zeros_like(x[..., 0, :]), a, x)[0]


def selective(x, a, B, C, A):
    def token(S, x, a, B, C):
        S = (-a[..., None, :] * A.mT).exp() * S - B[..., :, None] * (a * x)[..., None, :]
        return S, (C[..., None, :] @ S)[..., 0, :]
    return core.run(token, x.new_zeros(*x.shape[:-2], A.shape[1], A.shape[0]), x, a, B, C)[0]


def matrix(q, k, v, a, b=None):
    def token(S, q, k, v, a, *b):
        S = a.exp()[..., None] * S
        w = b[0] * (v - (k[..., None, :] @ S)[..., 0, :]) if b else v
        S = S + k[..., :, None] * w[..., None, :]
        return S, (q[..., None, :] @ S)[..., 0, :]
    return core.run(token, q.new_zeros(*q.shape[:-2], q.shape[-1], v.shape[-1]), q, k, v, a, *([] if b is None else [b]))[0]


def levels(q, k, v, a, w):
    """Log-linear attention as one T × T matrix."""
    t = torch.arange(q.shape[-2])
    level = torch.frexp((t[:, None] ^ t).double())[1].long()
    G = a.cumsum(-2)
    D = (G - G.mT).masked_fill(t[:, None] < t, -torch.inf).exp()
    return ((q @ k.mT) * D * w.gather(-1, level.clamp(max=w.shape[-1] - 1).expand(*w.shape[:-2], -1, -1))) @ v


CASES = {                                              # sizes beside (lead, T), the fast form, the loop, the budget
    "scan": ({"a": 32, "x": 32}, lambda a, x: forms.scan(a, x)[0], diagonal, 5e-7),
    "selective": ({"x": 16, "a": 16, "B": 8, "C": 8, "A": None}, lambda x, a, B, C, A: forms.selective(x, -a, A, B, C)[0], selective, 5e-7),
    "gated": ({"q": 32, "k": 32, "v": 32, "a": 1}, lambda *x: forms.gated(*x)[0], matrix, 5e-7),
    "gated per key": ({"q": 32, "k": 32, "v": 32, "a": 32}, lambda *x: forms.gated(*x)[0], matrix, 5e-7),
    "levels": ({"q": 32, "k": 32, "v": 32, "a": 1, "w": 12}, lambda *x: forms.gated(*x[:4], levels=x[4])[0], levels, 5e-7),
    "delta": ({"q": 32, "k": 32, "v": 32, "a": 1, "b": 1}, lambda q, k, v, a, b: forms.delta(q, k, v, b, a)[0], matrix, 2e-6),
}
EVERY = pytest.mark.parametrize("name", CASES)


def decays(shape, kind, r):
    """Log-decays: one number for all, the same for every token of a channel, or random of every size at once."""
    u = torch.rand(shape, generator=r, dtype=torch.float64)
    if kind == "mixed":
        return -10 ** (9 * u - 6)                                         # 10⁻⁶ … 1000, all sizes alike
    if kind == "bursts":
        return torch.where(u < 0.02, -1000.0, -1e-4 * u)
    if kind == "slow channels":
        return (-1e-3 * (0.5 + u[..., :1, :])).expand(shape)              # what a loop in float32 rounds alike at every token
    return torch.full(shape, kind, dtype=torch.float64) if kind < -500 else kind * (0.5 + u)


def make(name, T, decay, lead=(2,), seed=0, dtype=torch.float32):
    r = torch.Generator().manual_seed(seed)
    xs = []
    for letter, size in CASES[name][0].items():
        if name == "selective" and letter in "Aa" and decay == 0:        # decay d A with d = 1 and A = 0
            x = -torch.ones(*lead, T, size) if letter == "a" else torch.zeros(16, 8)
        elif letter == "A":
            x = -torch.ones(16, 8) if decay in (-1000.0, "mixed", "bursts") else -0.5 - 0.5 * torch.rand(16, 8, generator=r)
        elif letter == "a":
            x = decays((*lead, T, size), decay, r)
        else:
            x = torch.randn(*lead, T, size, generator=r, dtype=torch.float64)
            x = F.normalize(x, dim=-1) if letter in "qk" else x.sigmoid() if letter in "bw" else x
        xs.append(x.to(dtype))
    return xs


def error(got, want):
    return ((got.double() - want).abs().max() / want.abs().max()).item()


@EVERY
@pytest.mark.parametrize("decay", [0.0, -1e-6, -1e-5, -1e-4, -1e-3, -1e-2, -0.1, -0.3, -1.0, -3.0, -10.0, -20.0, -100.0, -1000.0, "mixed", "bursts", "slow channels"])
def test_float32_is_right_for_every_decay(name, decay):
    """Within 5e-7 of the largest output, the delta rule (unit keys) within 2e-6, of a float64 loop; 1,024 tokens, two seeds."""
    _, form, loop, budget = CASES[name]
    for seed in (0, 1):
        xs = make(name, 1024, decay, (1,), seed)
        assert error(form(*xs), loop(*(x.double() for x in xs))) < budget


@EVERY
@pytest.mark.parametrize("decay", [-20.0, -1.0, -1e-6, "mixed"])
def test_65536_tokens_stay_finite_with_their_gradients(name, decay):
    xs = [x.requires_grad_() for x in make(name, 65_536, decay, ())]
    if name == "levels":
        xs[-1] = torch.cat([xs[-1], xs[-1]], -1).detach().requires_grad_()
    out = CASES[name][1](*xs)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.square().sum(), xs))


@pytest.mark.parametrize("T", [16_384])
def test_a_long_scan_is_as_right_as_a_short_one(T):
    """Slow decays over 16,384 tokens: a float32 loop is wrong by more than 1e-5."""
    a, x = make("scan", T, "slow channels", (1,))
    want = diagonal(a.double(), x.double())
    assert error(forms.scan(a, x)[0], want) < 5e-7
    assert error(diagonal(a, x), want) > 1e-5


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("decay", [-1.0, -1e-3, "mixed"])
def test_low_precision_keeps_the_budget(name, dtype, decay):
    """Against float64 on the same numbers: no worse than the loop in that dtype, plus rounding; and sums ran in float32."""
    _, form, loop, _ = CASES[name]
    xs = make(name, 512, decay, (1,), dtype=dtype)
    want, mine = loop(*(x.double() for x in xs)), form(*xs)
    assert mine.dtype == dtype
    eps = torch.finfo(dtype).eps
    if name != "levels":                                                  # there the loop is a matrix, its sums of decays worse still
        assert error(mine, want) <= error(loop(*xs), want) + eps
    assert error(mine, want) <= eps


REFUSED = {                                            # a public form called with what does not fit, and what it says
    "scan, other widths": (lambda: forms.scan(torch.zeros(4, 3), torch.zeros(4, 2)), r"^a has shape \(4, 3\) and x \(4, 2\)"),
    "scan, no tokens": (lambda: forms.scan(torch.zeros(0, 3), torch.zeros(0, 3)), "^a has shape .* wanted .* T >= 1"),
    "scan, one axis": (lambda: forms.scan(torch.zeros(3), torch.zeros(3)), r"^a has shape \(3,\)"),
    "scan, state": (lambda: forms.scan(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4)), r"^state has shape \(4,\), wanted \(3,\)"),
    "selective, B": (lambda: forms.selective(*torch.zeros(2, 4, 3), torch.zeros(3, 5), *torch.zeros(2, 4, 6)), r"^B has shape \(4, 6\)"),
    "gated, chunk": (lambda: forms.gated(*torch.zeros(3, 4, 3), chunk=0), "^chunk is 0, wanted >= 1"),
    "gated, levels": (lambda: forms.gated(*torch.zeros(3, 4, 3), levels=torch.ones(4, 2)), "^levels has 2 weights, wanted 3 for token 3"),
    "delta, chunk": (lambda: forms.delta(*torch.zeros(3, 4, 3), torch.zeros(4, 1), chunk=-1), "^chunk is -1, wanted >= 1"),
    "attend, block": (lambda: forms.attend(*torch.zeros(3, 4, 3), block=0), "block=0, wanted .* block >= 1"),
    "attend, window": (lambda: forms.attend(*torch.zeros(3, 4, 3), window=0), "window=0"),
    "attend, too few keys": (lambda: forms.attend(torch.zeros(5, 3), *torch.zeros(2, 4, 3)), "^q has 5 positions and k has 4"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_forms_refuse(what):
    call, words = REFUSED[what]
    with pytest.raises(ValueError, match=words):
        call()


def test_the_forms_have_these_names():
    """A new form must be added to the tests of this file (or, as attend, have its own)."""
    public = {n for n, f in vars(forms).items() if callable(f) and getattr(f, "__module__", "") == forms.__name__ and not n.startswith("_")}
    assert public == {"scan", "selective", "gated", "delta", "attend", "softmax_read", "merge", "by_distance", "convolve"}
