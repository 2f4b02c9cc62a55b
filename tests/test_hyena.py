"""Hyena against the authors' numbers and direct sums."""
from pathlib import Path

import numpy as np
import pytest
import torch

from minimem import core
from minimem.state import hyena
from minimem.tasks.associative import associative

EXACT = {"rtol": 1e-9, "atol": 1e-10}
GOLDEN = {"rtol": 1e-8, "atol": 1e-8}
WIDE = {"dtype": torch.float64}


@pytest.mark.oracle("hyena")
def test_hyena_equals_the_authors():
    with np.load(Path(__file__).parent / "golden/hyena.npz") as z:
        g = {k: torch.from_numpy(z[k]) for k in z.files}
    layer = hyena.Layer(8, order=2, longest=15, width=12, features=3).double()
    ours = {"inp.weight": "in_proj_weight", "inp.bias": "in_proj_bias", "out.weight": "out_proj_weight", "out.bias": "out_proj_bias",
            "conv.weight": "short_filter_weight", "conv.bias": "short_filter_bias", "skip": "skip_D", "net.freq": "filter_freq",
            **{f"net.{n}": f"filter_{n}" for n in ("W0", "W1", "W2", "W3", "b0", "b1", "b2")}}
    layer.load_state_dict({name: g[theirs] for name, theirs in ours.items()})
    torch.testing.assert_close(hyena.implicit(layer.net, 15, 15), g["ref_filter"], **GOLDEN)
    x = g["u"].clone().requires_grad_()
    y, _ = layer(x)
    (y * g["w"]).sum().backward()
    torch.testing.assert_close(y, g["ref_y"], **GOLDEN)
    torch.testing.assert_close(x.grad, g["grad_u"], **GOLDEN)


@pytest.mark.oracle("hyena")
@pytest.mark.parametrize("order", [2, 3, 4])
def test_a_layer_is_gates_and_direct_sums(order):
    torch.manual_seed(order)
    D, T, layer = 3, 12, hyena.Layer(3, order, longest=20, width=8, features=5).double()
    x = torch.randn(2, T, D, **WIDE)
    u = layer.inp(x)
    weight, u = layer.conv.weight[:, 0], torch.cat([torch.zeros(2, 2, u.shape[-1], **WIDE), u], 1)
    u = torch.stack([(weight * u[:, t:t + 3].mT).sum(-1) + layer.conv.bias for t in range(T)], 1)
    *gates, z = u.unflatten(-1, (order + 1, D)).unbind(-2)
    h = hyena.implicit(layer.net, 20, 20).unflatten(-1, (order - 1, D)).unbind(-2)
    z = gates[-1] * z                                                    # the first filter does nothing
    for i, gate in enumerate(reversed(gates[:-1])):
        skip = layer.skip.unflatten(0, (order - 1, D))[i]
        z = gate * torch.stack([sum(h[i][j] * z[:, t - j] for j in range(t + 1)) + skip * z[:, t] for t in range(T)], 1)
    torch.testing.assert_close(layer(x)[0], layer.out(z), **EXACT)


def test_the_filter_by_its_formula():
    """(2) for one number at a time, with five features: two frequencies."""
    net, longest = hyena.network(4, width=6, features=5, seed=1, **WIDE), 30
    h = hyena.implicit(net, 11, longest, shift=0.05)
    for n in (0, 1, 10):
        t, w = n / 29, 2 * np.pi * n / longest
        y = torch.tensor([t, np.cos(1e-4 * w), np.cos(w), -np.sin(1e-4 * w), -np.sin(w)], **WIDE)
        for i in range(3):
            y = torch.sin(net["freq"] * (net[f"W{i}"] @ y + net[f"b{i}"]))
        for d, value in enumerate(net["W3"] @ y):
            delta = np.log(100) * (1 / 1.5 + d / 3 * (1 / 0.3 - 1 / 1.5))
            torch.testing.assert_close(h[n, d], value * (np.exp(-delta * t) + 0.05), **EXACT)


def test_the_filter_does_not_depend_on_the_sequence_but_on_the_longest_length():
    net = hyena.network(4, **WIDE)
    torch.testing.assert_close(hyena.implicit(net, 10, 64), hyena.implicit(net, 64, 64)[:10], rtol=0, atol=0)
    assert not torch.allclose(hyena.implicit(net, 10, 128), hyena.implicit(net, 10, 64))


@pytest.mark.parametrize("order", [2, 3])
def test_bytes(order):
    """The formula of the row: (order − 1) D for every token, and a window of two tokens before the filters."""
    layer = hyena.Layer(6, order)
    for T in (1, 50):
        assert core.nbytes(layer(torch.randn(1, T, 6))[1]) == 4 * ((order - 1) * 6 * T + 2 * (order + 1) * 6)
    assert core.nbytes(hyena.init(6, (2,))) == 0


def test_order_three_can_be_cut():
    layer, x = hyena.Layer(4, 3).double(), torch.randn(2, 9, 4, **WIDE)
    whole, last = layer(x)
    first, state = layer(x[:, :5])
    rest, state = layer(x[:, 5:], state)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole, **EXACT)
    for got, want in zip(core.tensors(state), core.tensors(last), strict=True):
        torch.testing.assert_close(got, want, **EXACT)


def test_refusals():
    p, x = hyena.params(3, longest=8), torch.randn(5, 3)
    for form in (hyena.recurrent, hyena.parallel):
        past = form(x, x, params=p)[1]
        with pytest.raises(ValueError, match="x reaches token 10, wanted at most the filter's length 8"):
            form(x, x, past, params=p)
        with pytest.raises(ValueError, match=r"x has shape \(5, 2\), wanted \(..., T, D=3\)"):
            form(x[:, :2], x[:, :2], params=p)
        with pytest.raises(ValueError, match="state has shape"):
            form(x, x, torch.zeros(2, 4), params=p)
    layer = hyena.Layer(3, longest=8)
    state = layer(x[None])[1]
    with pytest.raises(ValueError, match="^x reaches token 10, wanted at most 8"):
        layer(x[None], state)
    with pytest.raises(ValueError, match="T is 9, wanted at most 8"):
        hyena.implicit(hyena.network(3), 9, 8)
    with pytest.raises(ValueError, match="order is 1, wanted >= 2"):
        hyena.Layer(3, order=1)


def test_the_task_of_associative_recall():
    tokens, targets = associative(32, 20, batch=50, seed=1)
    assert tokens.shape == targets.shape == (50, 32) and not targets[:, 1::2].ne(-100).any()
    for row, wanted in zip(tokens.tolist(), targets.tolist()):
        known = {}
        for t in range(0, 32, 2):
            assert row[t] < 10 <= row[t + 1] < 20 and wanted[t] == known.get(row[t], -100)
            assert known.setdefault(row[t], row[t + 1]) == row[t + 1]
    assert not torch.equal(tokens, associative(32, 20, batch=50, seed=2)[0])
    for wrong in ({"T": 31}, {"T": 2}, {"vocab": 19}):
        with pytest.raises(ValueError, match="wanted both even and T >= 4"):
            associative(**wrong)
