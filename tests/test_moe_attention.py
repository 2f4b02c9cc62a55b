"""Heads as experts: MoH and SwitchHead against their authors' numbers, MoA against JetMoE of transformers, spans against a mask."""
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from minimem import check, core
from minimem.cache import full, moe_attention
from minimem.cache.moe_attention import Layer, MoA, Spans, SwitchHead, gates, routed, windows
from minimem.layer import heads
from minimem.lm import fit, small
from minimem.position.rope import angles, rotate_halves
from minimem.tasks.documentation import VOCAB, passages

D, WINDOWS = 16, [3, 30, 7, 3]
LAYERS = {"MoH": partial(Layer, D, 4, 1, 2, rotate_halves), "SwitchHead": partial(SwitchHead, D, 2, 4, 2, 6, rotate_halves),
          "MoA, heads": partial(MoA, D, 4, 2, 2, 6, rotate_halves), "MoA, spans": partial(Spans, D, WINDOWS, rotate_halves)}
EVERY = pytest.mark.parametrize("name", LAYERS)


def golden(name):
    z = np.load(Path(__file__).parent / "golden" / f"{name}.npz")
    return {n: torch.from_numpy(z[n]) for n in z.files}


def made(name, T=21):
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    return layer, torch.randn(2, T, D, dtype=torch.float64)


# ------------------------------------------------------------------ oracles

@pytest.mark.oracle("moe_attention")
def test_moh_is_the_authors():
    """Their attention for images (cosine, temperature, bias, not causal) in this test; which heads count, and how much, by ours."""
    z = golden("moh")
    H, S, k = (int(z[f"opt_{n}"]) for n in ("heads", "shared", "routed_topk"))
    x = z["x"].requires_grad_()
    q, key, v = (heads(y, H) for y in F.linear(x, z["qkv_weight"], z["qkv_bias"]).chunk(3, -1))
    q, key = F.normalize(q, dim=-1) + z["query_embedding"], F.normalize(key, dim=-1)
    head = ((q * F.softplus(z["temperature"]) * z["seq_length_scale"]) @ key.mT + z["rel_bias"]).softmax(-1) @ v
    g, balance = gates(F.linear(x, torch.cat([z["shared_router_weight"], z["routed_router_weight"], z["group_gate_weight"]])), S, k)
    y = F.linear((g.mT[..., None] * head).transpose(1, 2).flatten(-2), z["proj_weight"], z["proj_bias"])
    torch.testing.assert_close(y, z["ref_y"], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(balance, z["ref_aux_loss"], rtol=1e-8, atol=1e-9)
    for out, weight, want in ((y, z["w"], z["grad_x"]), (balance, z["w_aux"], z["grad_aux_x"])):
        got, = torch.autograd.grad((out * weight).sum(), x, retain_graph=True)
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-9)


@pytest.mark.oracle("moe_attention")
def test_switchhead_is_the_authors():
    """Outputs, what is cached, and the gradients of all weights. Theirs divides q and k by K^¼ each, and caches k so."""
    z = golden("switchhead")
    H, E, k = (int(z[f"opt_{n}"]) for n in ("heads", "experts", "topk"))
    K = z["v"].shape[-1]
    layer = SwitchHead(z["x"].shape[-1], H, E, k, K, rotate_halves).double()
    layer.load_state_dict({"qk.weight": torch.cat([z["q_weight"], z["k_weight"]]), "v": z["v"], "o": z["o"],
                           "source.weight": z["sel_v"], "target.weight": z["sel_o"]})
    x = z["x"].requires_grad_()
    y, S = layer(x)
    exact = {"rtol": 1e-7, "atol": 1e-8}
    torch.testing.assert_close(y, z["ref_y"], **exact)
    torch.testing.assert_close(S, {"k": z["ref_k"] * K ** 0.25, "v": z["ref_v"]}, **exact)
    (y * z["w"]).sum().backward()
    for got, want in ((x, "x"), (layer.v, "v"), (layer.o, "o"), (layer.source.weight, "sel_v"), (layer.target.weight, "sel_o")):
        torch.testing.assert_close(got.grad, z[f"grad_{want}"], **exact)
    torch.testing.assert_close(layer.qk.weight.grad, torch.cat([z["grad_q_weight"], z["grad_k_weight"]]), **exact)


@pytest.mark.oracle("moe_attention")
def test_switchhead_is_its_formula():
    """Token by token, head by head, expert by expert."""
    layer, x = made("SwitchHead", T=7)
    y, _ = layer(x)
    H, E, K = 2, 4, 6
    source, target = layer.source(x).sigmoid(), layer.target(x).sigmoid()
    for b in range(2):
        for t in range(7):
            want = torch.zeros(D, dtype=torch.float64)
            for h in range(H):
                q, k = (rotate_halves(F.linear(x[b], layer.qk.weight[n * K:(n + 1) * K]), torch.arange(7)) for n in (h, H + h))
                v = []
                for j in range(t + 1):
                    best = source[b, j, h * E:(h + 1) * E].argsort(descending=True)[:2] + h * E
                    v.append(sum(source[b, j, e] * (x[b, j] @ layer.v[e]) for e in best))
                head = (k[:t + 1] @ q[t] / K ** 0.5).softmax(0) @ torch.stack(v)
                best = target[b, t, h * E:(h + 1) * E].argsort(descending=True)[:2] + h * E
                want += sum(target[b, t, e] * (head @ layer.o[e]) for e in best)
            torch.testing.assert_close(y[b, t], want)


@pytest.mark.oracle("moe_attention")
@pytest.mark.parametrize("kv_heads, k", [(2, 2), (3, 1), (1, 3)])
def test_moa_is_jetmoe(kv_heads, k, monkeypatch):
    """JetMoE's attention in float64: its casts to float32 are turned into casts to float64, its rotation is given."""
    from transformers.models.jetmoe.modeling_jetmoe import JetMoeAttention, JetMoeConfig
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.manual_seed(1)
    config = JetMoeConfig(hidden_size=D, num_key_value_heads=kv_heads, kv_channels=6, num_local_experts=4, num_experts_per_tok=k,
                          attn_implementation="sdpa")
    theirs, ours = JetMoeAttention(config, 0).double(), MoA(D, 4, k, kv_heads, 6, rotate_halves).double()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.4)
    moa = theirs.experts
    q, o, router, kv = moa.input_linear.weight, moa.output_linear.weight, moa.router.layer.weight, theirs.kv_proj.weight
    ours.load_state_dict({"router.weight": router, "kv.weight": kv, "q": q.mT, "o": o.mT})
    x = torch.randn(2, 13, D, dtype=torch.float64, requires_grad=True)
    cos, sin = (torch.cat([a, a], -1)[None] for a in angles(torch.arange(13), 6))
    want, got = theirs(x, None, (cos, sin))[0] - moa.bias, ours(x)[0]
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-9)
    weight = torch.randn_like(want)
    pairs = zip(torch.autograd.grad((got * weight).sum(), [x, ours.q, ours.o, ours.router.weight, ours.kv.weight]),
                torch.autograd.grad((want * weight).sum(), [x, q, o, router, kv]))
    for i, (a, b) in enumerate(pairs):
        torch.testing.assert_close(a, b.mT if i in (1, 2) else b, rtol=1e-8, atol=1e-9)


@pytest.mark.oracle("moe_attention")
def test_spans_are_a_mask():
    layer, x = made("MoA, spans")
    q, k, v = (rotate_halves(heads(y, 4), torch.arange(21)) if i < 2 else heads(y, 4) for i, y in enumerate(layer.qkv.proj(x).chunk(3, -1)))
    back = torch.arange(21)[:, None] - torch.arange(21)
    hidden = (back < 0) | (back >= torch.tensor(WINDOWS)[:, None, None])
    o = F.scaled_dot_product_attention(q, k, v, ~hidden)
    torch.testing.assert_close(layer(x)[0], layer.out(o.transpose(1, 2).flatten(-2)))


# ------------------------------------------------------------------ every layer

@EVERY
@pytest.mark.parametrize("cuts", [[1] * 21, [1, 20], [20, 1], [9, 4, 8], [2] * 10 + [1]], ids=str)
def test_cut_anywhere(name, cuts):
    layer, x = made(name)
    whole, last = layer(x)
    outs, state = [], None
    for part in x.split(cuts, 1):
        y, state = layer(part, state)
        outs.append(y)
    check._same((torch.cat(outs, 1), state), (whole, last), f"cut by {cuts}")


@EVERY
def test_causal_and_alone_in_the_batch(name):
    layer, x = made(name)
    y, _ = layer(x)
    other = torch.cat([x[:, :9], torch.randn(2, 12, D, dtype=torch.float64)], 1)
    torch.testing.assert_close(layer(other)[0][:, :9], y[:, :9], rtol=0, atol=1e-12)
    torch.testing.assert_close(layer(x[1:])[0], y[1:], rtol=0, atol=1e-12)


@EVERY
def test_gradients_reach_every_parameter(name):
    layer, x = made(name)
    (layer(x)[0] * torch.randn_like(x)).sum().backward()
    for n, p in layer.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, f"{n} gets no gradient"


@EVERY
def test_types_and_arguments(name):
    for dtype in (torch.float32, torch.float64):
        layer, x = made(name)
        layer, x = layer.to(dtype), x.to(dtype)
        y, state = layer(x)
        kept = [t.clone() for t in (x, *core.tensors(state))]
        layer(x, state)
        assert {t.dtype for t in (y, *core.tensors(state))} == {dtype}
        assert all(torch.equal(a, b) for a, b in zip(kept, (x, *core.tensors(state))))


@EVERY
def test_what_a_layer_refuses(name):
    layer, x = made(name)
    for wrong in (x[..., :-1], x[:, :0], x.index_fill(1, torch.tensor([2]), torch.nan)):
        with pytest.raises(ValueError, match="^x "):
            layer(wrong)


def test_bytes():
    """MoH saves none, SwitchHead and MoA by having few heads of keys, spans by dropping what is older than the window."""
    full_size = core.nbytes(full.Layer(D, 4).double()(torch.zeros(1, 21, D).double())[1])
    few = 21 * 2 * 2 * 6 * 8
    want = {"MoH": full_size, "SwitchHead": few, "MoA, heads": few, "MoA, spans": sum(min(w, 21) for w in WINDOWS) * 2 * 4 * 8}
    for name in LAYERS:
        layer, _ = made(name)
        assert core.nbytes(layer(torch.zeros(1, 21, D).double())[1]) == want[name], name


# ------------------------------------------------------------------ parts

def test_gates_by_hand():
    g, balance = gates(torch.tensor([[0.0, 0, 1, 3, 2, 0, 0], [0, 0, 9, 1, 2, 0, 0]]).double(), 2, 2)
    p = torch.tensor([[1.0, 3, 2], [9, 1, 2]]).double().softmax(-1)
    torch.testing.assert_close(g[:, :2], torch.ones(2, 2).double())
    torch.testing.assert_close(g[0, 2:], torch.tensor([0, p[0, 1], p[0, 2]]) * 2 / (p[0, 1] + p[0, 2]))
    torch.testing.assert_close(balance, 3 * (p.mean(0) * torch.tensor([0.5, 0.5, 1])).sum())
    g, balance = gates(torch.zeros(5, 3, 10), 3, 5)                       # all of them, alike
    torch.testing.assert_close((g, balance), (torch.ones(5, 3, 8), torch.tensor(5.0)))


def test_all_heads_open_is_attention():
    layer, x = made("MoH")
    plain = full.Layer(D, 4, rotate=rotate_halves).double()
    plain.load_state_dict({n: p for n, p in layer.state_dict().items() if n != "router.weight"})
    everyone = Layer(D, 4, 1, 4, rotate_halves).double()
    everyone.load_state_dict({n: torch.zeros_like(p) if n == "router.weight" else p for n, p in layer.state_dict().items()})
    torch.testing.assert_close(everyone(x), plain(x))


def test_each_expert_sees_only_its_rows():
    weight, chosen = torch.randn(5, 4, 3, dtype=torch.float64), torch.tensor([[4, 0], [0, 4], [2, 4]])
    weight[1], weight[3] = torch.nan, torch.nan                            # chosen by nobody
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(routed(x, weight, chosen), torch.einsum("nki,nkio->nko", x, weight[chosen]))
    torch.testing.assert_close(routed(x[:, :1], weight, chosen), torch.einsum("ni,nkio->nko", x[:, 0], weight[chosen]))


def test_windows_grow_with_the_text():
    assert windows([8, 0, 4.5], [0, 1, 0.25], 100) == [8, 100, 29] and windows([8, 0, -9], [0, 0, 2], 5) == [5, 1, 1]


def test_a_trained_attention_goes_into_spans():
    plain, x = full.Layer(D, 4, rotate=rotate_halves).double(), torch.randn(2, 12, D, dtype=torch.float64)
    wide = Spans(D, [12, 40, 12, 13], rotate_halves).double()
    wide.load_state_dict(plain.state_dict())
    torch.testing.assert_close(wide(x)[0], plain(x)[0])


@pytest.mark.parametrize("shared, active", [(0, 2), (2, 2), (3, 2), (2, 5)])
def test_refuses_heads_that_do_not_add_up(shared, active):
    with pytest.raises(ValueError, match=f"saw {shared} shared and {active} active of 4 heads"):
        Layer(D, 4, shared, active)


def test_refuses_gates_of_another_shape():
    q, k, v, b = check.inputs("qkvb", T=5)
    for form in (moe_attention.recurrent, moe_attention.parallel):
        with pytest.raises(ValueError, match="^b has shape"):
            form(q, k, v, b.expand(2, 3, 5, 4))
        with pytest.raises(ValueError, match=r"^state\['k'\]"):
            form(q, k, v, b, {"k": v, "v": v})


@pytest.mark.parametrize("weight, balanced", [(0.0, False), (1.0, True)])
def test_balance_is_trained_down(weight, balanced):
    """One of three routed heads begins as the favourite: with the balance in the loss all are used alike, without it they are not."""
    torch.manual_seed(0)
    layer = Layer(D, 4, 1, 2)
    layer.router.weight.data[1] += 1.0
    fit(small(VOCAB, D, [layer]), lambda i: passages(16, 8, i), 30, 1e-2, extra=lambda: weight * layer.balance)
    assert (layer.balance < 1.1) == balanced
