"""LoRA: one matrix or two give the same answer, nothing changes before the first write, and the bytes are what they are said to be."""
import loralib
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from minimem.catalog import system
from minimem.core import nbytes, tensors
from minimem.params import lora
from minimem.tasks import digits

F64 = {"dtype": torch.float64}
WIDTHS = (12, 9, 7, 5)


def trained(rank=3, alpha=7.0, dtype=torch.float64, writes=3):
    """A state whose A and B are both far from where they began, and a batch."""
    r = torch.Generator().manual_seed(1)
    net = lora.dense(*WIDTHS, seed=2, dtype=dtype)
    net = {n: w + 0.1 * torch.randn(w.shape, generator=r, dtype=dtype) for n, w in net.items()}
    batch = torch.randn(6, 12, generator=r, dtype=dtype), torch.randint(5, (6,), generator=r)
    state = lora.init(net, rank, alpha)
    for _ in range(writes):
        state = lora.write(state, batch, lr=0.05)
    return net, state, batch


class Theirs(nn.Module):
    """The same network out of loralib's layers."""
    def __init__(self, state):
        super().__init__()
        p, L = state["frozen"] | state["trained"], len(WIDTHS) - 1
        self.layers = nn.ModuleList()
        for i in range(1, L + 1):
            r, d = p[f"A{i}"].shape
            layer = loralib.Linear(d, len(p[f"B{i}"]), r=r, lora_alpha=state["alpha"].item(), dtype=p["W1"].dtype)
            for name, w in (("weight", "W"), ("bias", "c"), ("lora_A", "A"), ("lora_B", "B")):
                getattr(layer, name).data.copy_(p[f"{w}{i}"])
            self.layers.append(layer)
        loralib.mark_only_lora_as_trainable(self)

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = F.gelu(layer(x))
        return self.layers[-1](x)


@pytest.mark.oracle("lora")
@pytest.mark.parametrize("dtype, merged", [(torch.float32, 5e-6), (torch.float64, 1e-14)])
def test_loralib_reads_the_same(dtype, merged):
    _, state, (x, _) = trained(dtype=dtype)
    theirs = Theirs(state)
    assert torch.equal(lora.read(state, x), theirs(x))
    theirs.eval()                                            # loralib merges here
    assert all(layer.merged for layer in theirs.layers)
    assert (lora.read(lora.merge(state), x) - theirs(x)).abs().max() < merged
    for i, layer in enumerate(theirs.layers, 1):
        assert (lora.merge(state)["frozen"][f"W{i}"] - layer.weight).abs().max() < merged


@pytest.mark.oracle("lora")
def test_loralib_writes_the_same():
    _, state, (x, y) = trained()
    theirs = Theirs(state)
    F.cross_entropy(theirs(x), y).backward()
    grads = lora._gradients(state, (x, y))
    free = {n: p for n, p in theirs.named_parameters() if p.requires_grad}
    assert len(free) == len(grads) == 6
    for i, layer in enumerate(theirs.layers, 1):
        torch.testing.assert_close(grads[f"A{i}"], layer.lora_A.grad, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(grads[f"B{i}"], layer.lora_B.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("start", [lambda net: lora.init(net, 2), lora.full], ids=["adapters", "full"])
def test_a_write_is_torchs_adam(start):
    net, _, (x, y) = trained()
    state = start(net)
    p = {n: w.clone().requires_grad_(n in state["trained"]) for n, w in (state["frozen"] | state["trained"]).items()}
    adam = torch.optim.Adam([p[n] for n in state["trained"]], lr=0.03)
    for _ in range(4):
        state = lora.write(state, (x, y), lr=0.03)
        h = x
        for i in range(1, 4):
            W = p[f"W{i}"] + (2 * p[f"B{i}"] @ p[f"A{i}"] if f"A{i}" in p else 0)
            h = F.linear(h, W, p[f"c{i}"]) if i == 1 else F.linear(F.gelu(h), W, p[f"c{i}"])
        adam.zero_grad()
        F.cross_entropy(h, y).backward()
        adam.step()
    for n, w in state["trained"].items():
        torch.testing.assert_close(w, p[n].detach(), rtol=1e-9, atol=1e-12)
    assert state["t"] == 4


@pytest.mark.parametrize("rank", [1, 3, 20])
def test_nothing_changes_before_the_first_write(rank):
    net, _, (x, _) = trained(dtype=torch.float32)
    assert torch.equal(lora.read(lora.init(net, rank), x), lora.read(lora.full(net), x))


@pytest.mark.parametrize("rank", [1, 3, 20])
def test_merged_is_unmerged(rank):
    _, state, (x, _) = trained(rank)
    assert (lora.read(state, x) - lora.read({**state, "trained": {}}, x)).abs().max() > 0.05
    torch.testing.assert_close(lora.read(lora.merge(state), x), lora.read(state, x), rtol=1e-12, atol=1e-13)


def test_a_frozen_A_reads_merges_and_writes_alike():
    _, state, batch = trained()
    A = {n: w for n, w in state["trained"].items() if n[0] == "A"}
    B = {n: w for n, w in state["trained"].items() if n[0] == "B"}
    part = {**state, "frozen": state["frozen"] | A, "trained": B, "m": {n: state["m"][n] for n in B}, "v": {n: state["v"][n] for n in B}}
    assert torch.equal(lora.read(part, batch[0]), lora.read(state, batch[0]))
    assert torch.equal(lora.merge(part)["frozen"]["W2"], lora.merge(state)["frozen"]["W2"])
    assert torch.equal(lora.write(part, batch)["trained"]["B2"], lora.write(state, batch)["trained"]["B2"])


def test_the_change_has_the_rank_it_is_given():
    net, state, _ = trained(rank=3)
    change = lora.merge(state)["frozen"]["W1"] - net["W1"]
    assert torch.linalg.matrix_rank(change) == 3


def test_alpha_is_a_factor_over_the_rank():
    net, state, (x, _) = trained(rank=3, alpha=7.0)
    net1 = {n: net[n] for n in ("W1", "c1")}
    one = {**state, "frozen": net1, "trained": {n: state["trained"][n] for n in ("A1", "B1")}}
    moved = lora.read(one, x) - lora.read(lora.full(net1), x)
    torch.testing.assert_close(moved, 7 / 3 * x @ (one["trained"]["B1"] @ one["trained"]["A1"]).mT, rtol=1e-12, atol=1e-13)
    assert lora.init(net, 5)["alpha"] == 10


def test_a_write_leaves_everything_else_alone():
    net, state, batch = trained()
    kept = [t.clone() for t in [*tensors(state), *batch]]
    after = lora.write(state, batch)
    assert all(torch.equal(a, b) for a, b in zip(kept, [*tensors(state), *batch], strict=True))
    assert all(torch.equal(after["frozen"][n], net[n]) for n in net)
    assert all(not torch.equal(after["trained"][n], w) for n, w in state["trained"].items())
    assert not any(t.requires_grad for t in tensors(after))


def test_leading_axes_and_dtypes():
    for dtype in (torch.float32, torch.float64):
        _, state, (x, y) = trained(dtype=dtype)
        assert {t.dtype for t in tensors(lora.write(state, (x, y)))} == {dtype}
        torch.testing.assert_close(lora.read(state, x.reshape(2, 3, 12))[1, 2], lora.read(state, x[5]))
        one, two = lora.write(state, (x, y)), lora.write(state, (x.reshape(2, 3, 12), y.reshape(2, 3)))
        torch.testing.assert_close(one["trained"]["A1"], two["trained"]["A1"])


# ------------------------------------------------------------------ bytes

@pytest.mark.parametrize("rank", [1, 3, 8])
def test_bytes_are_those_of_the_formula(rank):
    net, _, batch = trained(dtype=torch.float32)
    state, pairs = lora.init(net, rank), list(zip(WIDTHS, WIDTHS[1:]))
    adapters = sum(4 * rank * (n + m) for n, m in pairs)
    net_bytes = sum(4 * (n * m + m) for n, m in pairs)
    N = len(batch[0])
    saved = (sum(4 * N * (n + rank) for n, _ in pairs)       # the input of each layer, and A x
             + sum(4 * N * m for _, m in pairs[:-1])         # what GELU needs: its input
             + 4 * N * WIDTHS[-1] + 8 * N + 4)               # log-probabilities, labels, and how many of them count
    assert nbytes(state["trained"]) == adapters
    assert lora.cost(state, batch) == {"resident": net_bytes + adapters, "active": net_bytes + adapters,
                                       "auxiliary": 2 * adapters + 4, "transient": saved + adapters}
    assert system("lora").bytes.startswith("4 r (d_in + d_out) bytes per adapted matrix")


def test_bytes_of_full_training_and_of_a_merged_network():
    net, state, batch = trained(dtype=torch.float32)
    n, N = nbytes(net), len(batch[0])
    full, merged = lora.cost(lora.full(net), batch), lora.cost(lora.merge(state), batch)
    assert full == {"resident": n, "active": n, "auxiliary": 2 * n + 4, "transient": full["transient"]}
    assert full["transient"] == n + 4 * N * (12 + 9 + 7) + 4 * N * (9 + 7) + 4 * N * 5 + 8 * N + 4
    assert merged["resident"] == merged["active"] == n and merged["auxiliary"] == 4


def test_active_counts_only_what_a_read_touches():
    _, state, batch = trained(dtype=torch.float32)
    before = lora.cost(state, batch)
    spare = {**state, "frozen": {**state["frozen"], "spare": torch.ones(3, 4)}}
    assert lora.cost(spare, batch) == {**before, "resident": before["resident"] + 48}


# ------------------------------------------------------------------ wrong use

NET = lora.dense(*WIDTHS)
X, Y = torch.ones(6, 12), torch.zeros(6, dtype=torch.int64)


@pytest.mark.parametrize("call, message", [
    (lambda: lora.init(NET, 0), "rank is 0, wanted a whole number >= 1"),
    (lambda: lora.init(NET, 2.5), "rank is 2.5, wanted a whole number >= 1"),
    (lambda: lora.init(NET, 2, alpha=float("nan")), "alpha is nan, wanted a finite number > 0"),
    (lambda: lora.init(NET, 2, alpha=0), "alpha is 0, wanted"),
    (lambda: lora.init({**NET, "W2": torch.ones(7, 8)}, 2), r"W2 has shape \(7, 8\), wanted \(..., C, B=9\)"),
    (lambda: lora.init({**NET, "c3": torch.ones(6)}, 2), r"c3 has shape \(6,\), wanted \(..., D=5\)"),
    (lambda: lora.full({**NET, "W2": NET["W2"].double()}), "W2 is torch.float64"),
    (lambda: lora.full({**NET, "c2": NET["c2"] * torch.nan}), "c2 holds NaN"),
    (lambda: lora.full({"W": NET["W1"]}), r"net has \['W'\], wanted W1, c1"),
    (lambda: lora.full({}), r"net has \[\], wanted W1, c1"),
    (lambda: lora.read(lora.init(NET, 2), X[:, :11]), r"x has shape \(6, 11\), wanted \(..., 12\)"),
    (lambda: lora.read(lora.init(NET, 2), X.double()), "x is torch.float64 on cpu, wanted torch.float32 on cpu like W1"),
    (lambda: lora.read(lora.init(NET, 2), X * torch.nan), "x holds NaN"),
    (lambda: lora.read(lora.init(NET, 2), X.tolist()), "x must be a tensor, got list"),
    (lambda: lora.write(lora.init(NET, 2), (X, Y.tolist())), "y must be a tensor, got list"),
    (lambda: lora.write(lora.init(NET, 2), (X, Y[:5])), r"y has shape \(5,\), wanted .*\(6,\)"),
    (lambda: lora.write(lora.init(NET, 2), (X[:0], Y[:0])), "and not empty"),
    (lambda: lora.write(lora.init(NET, 2), (X, Y + 5)), "y is torch.int64 from 5 to 5, wanted torch.int64 from 0 to 4"),
    (lambda: lora.write(lora.init(NET, 2), (X, Y.float())), "y is torch.float32 from"),
    (lambda: lora.write(lora.merge(lora.init(NET, 2)), (X, Y)), "nothing in trained"),
    (lambda: digits.permuted(0), "tasks is 0, wanted >= 1"),
])
def test_wrong_use_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ------------------------------------------------------------------ the tasks

def test_digits_are_split_and_shuffled():
    old, new, third = digits.permuted(3, seed=4)
    assert old.x.shape == (1200, 64) and old.x_test.shape == (597, 64)
    assert old.x.min() == 0 and old.x.max() == 1 and set(old.y.tolist()) == set(range(10))
    for other in (new, third):
        assert torch.equal(other.y, old.y) and not torch.equal(other.x, old.x)
        assert torch.equal(other.x.sort(-1)[0], old.x.sort(-1)[0])
    assert not torch.equal(new.x, third.x)
    assert torch.equal(digits.permuted(2, seed=4)[1].x, new.x) and not torch.equal(digits.permuted(2, seed=5)[0].x, old.x)
    (x, y), = digits.batches(new, 1, size=5, seed=3)
    assert all(any(torch.equal(a, b) and c == d for b, d in zip(new.x, new.y)) for a, c in zip(x, y))


def test_the_drawn_example_is_what_is_made():
    old, new = digits.permuted(2, seed=0)
    i = int((old.y == 0).nonzero()[0])
    for a, b in zip(digits.draw(old.x[i]).split("\n"), digits.draw(new.x[i]).split("\n"), strict=True):
        assert f"|{a}|          |{b}|" in digits.__doc__
