"""RWKV-6 against fla, against one dense table, and its layer against its equations, written out token by token."""
import numpy as np
import pytest
import torch
from torch import nn

from minimem import check, core, forms
from minimem.layer import Block
from minimem.state import rwkv4, rwkv6

CLOSE = {"rtol": 1e-5, "atol": 1e-5}                             # of float32 code, on outputs of size 1 to 10
EXACT = {"rtol": 1e-9, "atol": 1e-10}
FORMS = pytest.mark.parametrize("form", ["recurrent", "chunked"])


def make(T=128, dtype=torch.float64):
    """(2, 3, T, ·) q, k, v, g and a bonus for each of three heads."""
    u = torch.randn(3, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    return check.inputs("qkvg", T=T, K=16, V=8, dtype=dtype), {"u": u}


@FORMS
@pytest.mark.oracle("rwkv6")
def test_equals_fla(form):
    """Their recurrence, from a state and in its last state too; their chunks, outputs alone. Both want the log-decay; the paper's scale is 1."""
    from fla.ops.rwkv6.chunk_naive import naive_chunk_rwkv6
    from fla.ops.rwkv6.recurrent_naive import naive_recurrent_rwkv6
    xs, learned = make(dtype=torch.float32)
    S0 = torch.randn(2, 3, 16, 8, generator=torch.Generator().manual_seed(1))
    run = getattr(rwkv6, form)
    out, S = run(*xs, learned, state=S0)
    o, last = naive_recurrent_rwkv6(*xs, learned["u"], scale=1.0, initial_state=S0.clone(), output_final_state=True)
    torch.testing.assert_close(out, o, **CLOSE)
    torch.testing.assert_close(S, last, **CLOSE)
    torch.testing.assert_close(run(*xs, learned)[0], naive_chunk_rwkv6(*xs, learned["u"]), **CLOSE)


@FORMS
@pytest.mark.oracle("rwkv6")
def test_gradients_equal_those_fla_wrote_by_hand(form):
    from fla.ops.rwkv6.recurrent_naive import naive_recurrent_rwkv6_bwd
    xs, learned = make(T=40, dtype=torch.float32)
    xs, u = [x.requires_grad_() for x in xs], learned["u"].requires_grad_()
    out, _ = getattr(rwkv6, form)(*xs, learned)
    ask = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    theirs = naive_recurrent_rwkv6_bwd(*xs, u, out, ask)                      # of q, k, v, w, u, and the state
    for name, got, want in zip("qkvgu", torch.autograd.grad(out, (*xs, u), ask), theirs):
        torch.testing.assert_close(got, want, msg=lambda m, name=name: f"{name}: {m}", rtol=1e-4, atol=1e-4)


@FORMS
@pytest.mark.oracle("rwkv6")
def test_is_one_table_of_weights(form):
    """o_t = Σ_{j<t} (Σ_c q_tc k_jc e^{Σ g_c over (j, t)}) v_j + (q_t ⊙ u)·k_t v_t, each decay summed by itself; gradients too."""
    xs, learned = make(T=30)
    q, k, v, g = xs = [x.requires_grad_() for x in xs]
    u = learned["u"].requires_grad_()
    rows = []
    for t in range(30):
        past = [(q[..., t, :] * k[..., j, :] * g[..., j + 1:t, :].sum(-2).exp()).sum(-1, keepdim=True) * v[..., j, :] for j in range(t)]
        rows.append(sum(past, (q[..., t, :] * u * k[..., t, :]).sum(-1, keepdim=True) * v[..., t, :]))
    want, got = torch.stack(rows, -2), getattr(rwkv6, form)(*xs, learned)[0]
    torch.testing.assert_close(got, want, **EXACT)
    ask = torch.randn(want.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for mine, theirs in zip(torch.autograd.grad(got, (*xs, u), ask), torch.autograd.grad(want, (*xs, u), ask)):
        torch.testing.assert_close(mine, theirs, **EXACT)


@FORMS
def test_limits(form):
    """No decay and u = 1: linear attention. u = 0: the token itself is not read. All forgotten at once: two tokens are left."""
    (q, k, v, g), learned = make()
    run, one = getattr(rwkv6, form), {"u": torch.ones(16).double()}
    for got, want in zip(run(q, k, v, 0 * g, one), forms.gated(q, k, v)):
        torch.testing.assert_close(got, want, **EXACT)
    blind = run(q, k, v, g, {"u": torch.zeros(16).double()})[0]
    other = run(q, k, torch.cat([v[..., :9, :], v[..., 9:, :] + 1], -2), g, {"u": torch.zeros(16).double()})[0]
    assert torch.equal(blind[..., :10, :], other[..., :10, :]) and not torch.equal(blind[..., 10, :], other[..., 10, :])
    for never in (-1e3, -torch.inf):
        late = run(q, k, v, torch.full_like(g, never), learned)[0][..., 1:, :]
        before = (q[..., 1:, :] * k[..., :-1, :]).sum(-1, keepdim=True) * v[..., :-1, :]
        now = (q * learned["u"][:, None] * k).sum(-1, keepdim=True) * v
        torch.testing.assert_close(late, before + now[..., 1:, :], **EXACT)


@FORMS
def test_a_bonus_for_each_head_or_for_all(form):
    xs, learned = make(T=20)
    run, same = getattr(rwkv6, form), learned["u"][:1].expand(3, 16)
    torch.testing.assert_close(run(*xs, {"u": same})[0], run(*xs, {"u": same[0]})[0], rtol=0, atol=0)
    for wrong, message in ((torch.ones(2, 16).double(), r"u is torch.float64 of shape \(2, 16\), wanted torch.float64, \(16,\) or \(3, 16\)"),
                           (torch.ones(16), "u is torch.float32"), (torch.ones(8).double(), r"shape \(8,\)")):
        with pytest.raises(ValueError, match=message):
            run(*xs, {"u": wrong})
    with pytest.raises(ValueError, match="state has shape"):
        run(*xs, learned, state=torch.zeros(2, 3, 16, 9).double())


def written_out(layer, x, state):
    """The layer's equations for one token x (D,) in numpy. state: the token before, and S of each head."""
    w = {n: p.detach().numpy() for n, p in layer.named_parameters()}
    before, S = state
    D, H = len(x), layer.H
    K, delta = D // H, before - x
    mixed, rank = {}, w["mix_down"].shape[1] // 5
    low = np.tanh((x + delta * w["mix"][0, 0, 0]) @ w["mix_down"])
    for i, name in enumerate("wkvrg"):
        mixed[name] = x + delta * (w["mix"][1 + i, 0, 0] + low[i * rank:(i + 1) * rank] @ w["mix_up"][i])
    decay = np.exp(-np.exp(w["decay"] + np.tanh(mixed["w"] @ w["decay_down"]) @ w["decay_up"]))
    r, k, v = (w[f"{n}.weight"] @ mixed[n[0]] for n in ("receptance", "key", "value"))
    gate = w["gate.weight"] @ mixed["g"]
    out, after = np.zeros(D), []
    for h in range(H):
        part = slice(h * K, (h + 1) * K)
        kv = np.outer(k[part], v[part])
        o = (S[h] + np.diag(w["bonus"][h]) @ kv).T @ r[part]
        out[part] = (o - o.mean()) / np.sqrt(o.var() + 64e-5) * w["norm.weight"][part] + w["norm.bias"][part]
        after.append(np.diag(decay[part]) @ S[h] + kv)
    return w["output.weight"] @ (out * gate / (1 + np.exp(-gate))), (x, after)


@pytest.mark.parametrize("sizes", [{"D": 24, "K": 8, "lora": 3, "decay_lora": 5}, {"D": 16}])
@pytest.mark.oracle("rwkv6")
def test_the_layer_is_its_equations(sizes):
    """The authors' layer cannot be installed; this one is written out from the paper's equations, token by token, and shares no code."""
    torch.manual_seed(0)
    layer = rwkv6.Layer(**sizes).double()
    with torch.no_grad():
        for p in layer.parameters():
            p += 0.3 * torch.randn_like(p)
    x = torch.randn(2, 40, layer.D, dtype=torch.float64)
    y, last = layer(x)
    for b in range(2):
        state = np.zeros(layer.D), np.zeros((layer.H, layer.D // layer.H, layer.D // layer.H))
        for t in range(40):
            want, state = written_out(layer, x[b, t].numpy(), state)
            np.testing.assert_allclose(y[b, t].detach().numpy(), want, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(last["S"][b].detach().numpy(), state[1], rtol=1e-9, atol=1e-10)


def test_starts_as_the_paper_says():
    """Ramps by channel and depth; the second factors of both low ranks start at 0 ± 0.01, the first at 0, so nothing depends on the data yet."""
    first, last = (rwkv6.Layer(8, K=4, layer=i, layers=3) for i in (0, 2))
    i = torch.arange(8)
    torch.testing.assert_close(first.decay.data, -6 + 5 * (i / 7) ** 0.7)
    torch.testing.assert_close(last.decay.data, -6 + 5 * (i / 7) ** 2.0)
    torch.testing.assert_close(first.bonus.data.flatten(), torch.tensor([0, 0.1, -0.1, 0, 0.1, -0.1, 0, 0.1]))
    torch.testing.assert_close(last.bonus.data.flatten(), 1 - i / 7 + torch.tensor([0, 0.1, -0.1, 0, 0.1, -0.1, 0, 0.1]))
    for layer, power, depth in ((first, 1, 0), (last, 1 / 3, 1)):
        mu = (i / 8) ** power
        want = torch.stack([1 - mu] * 3 + [1 - mu - 0.3 * depth] + [1 - mu.sqrt()] * 2)
        torch.testing.assert_close(layer.mix.data[:, 0, 0], want)
        assert not layer.mix_down.any() and not layer.decay_down.any()
        assert 0 < layer.mix_up.abs().max() <= 0.01 and 0 < layer.decay_up.abs().max() <= 0.01


def test_bytes_of_a_block():
    """64 × 64 floats a head, and two tokens of D for the shifts; its channel mix is that of RWKV-4, 3.5 D wide."""
    block, x = Block(rwkv6.Layer(128), 128, rwkv4.ChannelMix(128, 448), nn.LayerNorm), torch.randn(1, 5, 128)
    assert [core.nbytes(block(x[:, :T])[1]) for T in (1, 5)] == 2 * [4 * (2 * 64 * 64 + 2 * 128)]
    with pytest.raises(ValueError, match="D is 96, wanted a multiple of K = 64"):
        rwkv6.Layer(96)


def test_bytes_of_a_layer_of_4096():
    """The row's 1.03 MiB: 64 heads of 64 × 64, and the two tokens."""
    assert core.nbytes([rwkv6.init(64, 64, (64,)), torch.zeros(2, 4096)]) == pytest.approx(1.03 * 2 ** 20, rel=0.005)
