"""The comparison: adapters against arithmetic and the fast forms, and every claim against the stored sweep."""
import math
from functools import partial
from statistics import mean

import pytest
import torch

from minimem import compare, core, forms, recall
from minimem.catalog import result
from minimem.compare import (
    Cache,
    EditedNet,
    LeastSquares,
    Net,
    State,
    accounts,
    additive,
    cuckoo,
    delta,
    log,
    pack,
    rounded,
    trial,
    unpack,
    xor,
)
from minimem.tasks import facts

DRAWS = (1, 2, 10)


def some(n, kind=facts.random):
    return facts.draws(kind, n, DRAWS)


# ------------------------------------------------------------------ numbers of few bits

@pytest.mark.parametrize("bits, error", [(32, 0), (16, 1e-3), (8, 0.5 / 127 + 1e-3), (4, 0.5 / 7 + 1e-3)])
@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("width", [6, 7])
def test_packed_numbers_come_back_within_half_a_step(bits, error, axis, width):
    x = torch.randn(3, 5, width, generator=torch.Generator().manual_seed(0))
    p = pack(x, bits, axis)
    back = unpack(p, bits, width)
    assert back.shape == x.shape and ((back - x).abs() <= error * x.abs().amax(axis, keepdim=True)).all()
    assert torch.allclose(rounded(rounded(x, bits, axis), bits, axis), rounded(x, bits, axis), atol=1e-6)
    scales = 2 * x.shape[0] * (5 if axis == -1 else width) if bits < 16 else 0
    assert core.nbytes(p) == 3 * 5 * {32: 4 * width, 16: 2 * width, 8: width, 4: -(-width // 2)}[bits] + scales


# ------------------------------------------------------------------ rules, edits

@pytest.mark.parametrize("a", [0.0, -0.05])
@pytest.mark.parametrize("T", [1, 31, 32, 100])
def test_writing_only_equals_the_fast_forms(a, T):
    r = torch.Generator().manual_seed(T)
    k = torch.nn.functional.normalize(torch.randn(2, T, 12, generator=r), dim=-1)
    v, S = torch.randn(2, T, 5, generator=r), torch.randn(2, 12, 5, generator=r)
    g = torch.full((2, T, 1), a)
    torch.testing.assert_close(additive(S, k, v, a), forms.gated(k, k, v, g, S)[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(delta(S, k, v, a), forms.delta(k, k, v, torch.ones_like(g), g, S)[1], rtol=1e-4, atol=1e-4)


def test_endless_passes_of_delta_are_least_squares():
    keys, values = some(20)
    solved, passed = LeastSquares(32, 8), State(32, 8, rule=delta, passes=3000)
    for m in (solved, passed):
        m.write(keys, values)
    torch.testing.assert_close(solved.kept["x"], passed.kept["x"], rtol=0, atol=0.05)


def test_a_second_write_of_least_squares_equals_one_write_of_both():
    keys, values = some(60)
    once, twice = LeastSquares(32, 16), LeastSquares(32, 16)
    once.write(keys, values)
    for at in (slice(0, 25), slice(25, 60)):
        twice.write(keys[:, at], values[:, at])
    torch.testing.assert_close(once.kept["x"], twice.kept["x"], rtol=1e-3, atol=2e-3)


def test_rome_writes_exactly_and_moves_the_others_least():
    """Among all W + D with k D = miss, ROME's D has the least Σ ‖k_j D‖² over the stored keys: its gradient lies in the span of k."""
    r = torch.Generator().manual_seed(0)
    stored, k = torch.randn(40, 12, generator=r).double(), torch.randn(3, 12, generator=r).double()
    W, v, G = torch.randn(12, 5, generator=r).double(), torch.randn(3, 5, generator=r).double(), None
    G = stored.mT @ stored
    D = compare.vectors.rome(W, G, k, v).double() - W
    torch.testing.assert_close(k @ (W + D), v, rtol=0, atol=1e-5)
    null = torch.linalg.svd(k).Vh[3:]                            # directions that leave k alone
    assert (null @ G @ D).abs().max() < 1e-4


# ------------------------------------------------------------------ bytes

def filled(m, n=16):
    m.write(*some(n))
    return accounts(m)


def test_printed_bytes_are_the_arithmetic():
    assert filled(State(128, 8))["kept"] == 4 * 128 * 8
    assert filled(State(128, 8, 8, delta))["kept"] == 128 * 8 + 2 * 8
    assert filled(State(128, 8, 4))["kept"] == 128 * 4 + 2 * 8
    assert filled(Cache(64, 64, 16))["kept"] == 16 * 2 * 128
    assert filled(Cache(16, 8, 4))["kept"] == 16 * (8 + 4 + 2 * 2)
    assert filled(LeastSquares(128, 8)) == {"kept": 4096, "aux": 4 * 128 * 128, "index": 0, "transient": 0, "reader": 4 * (65 * 128 + 256 * 8)}
    net = filled(Net(32, 24, exposures=3))
    P = 33 * 24 + 25 * 8
    assert net["kept"] == 4 * P and 3 * 4 * P <= net["transient"] * 3 + 100       # gradients and two moments, shared by the draws
    assert filled(Net(32, 24, 8, exposures=3))["kept"] == P + 2 * 32
    assert filled(log())["kept"] == 16 * 9
    assert filled(xor(64))["kept"] == 64
    assert 1000 <= filled(cuckoo(1024))["kept"] <= 1024


def test_a_replaying_net_owns_its_replay():
    m = Net(32, 24, exposures=3, replay=True)
    assert filled(m)["aux"] == 16 * (8 + 8 * 4)                  # the key and eight target bits as float32


@pytest.mark.parametrize("budget", [256, 1000, 4096])
@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_largest_is_the_largest_that_fits(budget, bits):
    size = compare.largest(lambda n: State(n, 8, bits), budget)
    assert [accounts_empty(State(n, 8, bits)) <= budget for n in (size, size + 2)] == [True, False]


def accounts_empty(m):
    m.empty(1)
    return accounts(m)["kept"]


# ------------------------------------------------------------------ write, forget, read

MEMORIES = {
    "log": log, "near": partial(log, 10**6, 12), "cuckoo": partial(cuckoo, 4096), "cache": partial(Cache, 32, 32, 8, 20), "state": partial(State, 256, 16, rule=delta),
    "least squares": partial(LeastSquares, 128, 16), "net": partial(Net, 32, 60, exposures=300, lr=0.01, replay=True), "edited": partial(EditedNet, 32, 60, exposures=300, lr=0.01),
}


@pytest.mark.parametrize("make", MEMORIES.values(), ids=MEMORIES)
def test_what_is_written_is_read_and_what_is_forgotten_is_not(make):
    m, (keys, values) = make(), some(24)
    m.write(keys, values)
    assert recall.accuracy(m.read(keys), values).min() >= 0.95
    m.forget(keys[:, :8])
    assert recall.accuracy(m.read(keys[:, :8]), values[:, :8]).max() <= 0.25
    assert recall.accuracy(m.read(keys[:, 8:]), values[:, 8:]).min() >= 0.9


@pytest.mark.parametrize("make", [log, partial(cuckoo, 4096), partial(State, 256, 16, rule=delta), partial(Cache, 32, 32, 8, 20, 0.05),
                                  partial(LeastSquares, 128, 16, edits=True)])
def test_the_newest_value_is_read(make):
    m, (keys, values) = make(), some(24)
    m.write(keys, values)
    m.write(keys[:, :8], values[:, 8:16])
    assert recall.accuracy(m.read(keys[:, :8]), values[:, 8:16]).min() >= 0.85


def test_a_window_keeps_the_newest():
    m, (keys, values) = Cache(32, 32, 16, 30, capacity=10), some(24)
    m.write(keys, values)
    right = (m.read(keys).argmax(-1) == values).float().mean(0)
    assert right[14:].min() == 1 and right[:14].mean() < 0.2


def test_draws_do_not_touch_each_other():
    keys, values = some(24)
    together, alone = State(64, 8, 8, delta), State(64, 8, 8, delta)
    together.write(keys, values)
    alone.write(keys[1:2], values[1:2])
    torch.testing.assert_close(together.read(keys)[1:2], alone.read(keys[1:2]), rtol=0, atol=1e-4)


def test_a_state_cannot_pass_its_information_limit():
    t = trial(State(128, 8), 1024)
    assert t.bits.max() <= 128 * 8 / (2 * math.log(2)) * 1.02 and t.accuracy.mean() < 0.1


def test_best_needs_accuracy():
    crowded, fair = trial(State(128, 8), 512), trial(State(128, 8), 20)
    assert crowded.bits.mean() > fair.bits.mean() and compare.best([crowded, fair]) is fair and compare.best([crowded]) is None


# ------------------------------------------------------------------ the stored sweep

def rows(part, **want):
    return [r for r in result(f"four_memories_{part}")["data"]["rows"] if all(r.get(k) == v for k, v in want.items())]


def per_byte(part, name, budget=2**12, **want):
    (row,) = rows(part, name=name, budget=budget, **want)
    assert row["reached"] and row["accuracy"] >= 0.9
    return mean(row["per_byte"])


def test_no_stored_point_spends_more_than_its_budget():
    for part in ("tables", "sentences", "caches", "states", "solved", "nets_1_kib", "nets_4_kib", "nets_16_kib", "writing"):
        for r in rows(part):
            assert r["kept"] <= r["budget"] and len(r["per_byte"]) >= 3 and max(r["per_byte"]) <= 8


@pytest.mark.parametrize("part, name, bits", [
    ("tables", "XOR static function", 0), ("tables", "cuckoo, 12-bit fingerprint", 0), ("tables", "log, exact key", 0), ("caches", "KV cache 64+64 float16", 16),
    ("caches", "KV cache, tuned width", 4), ("states", "additive", 32), ("states", "delta, one pass", 8), ("states", "gated delta", 32),
    ("solved", "least squares", 8), ("writing", "delta, 16 passes", 32),
])
def test_a_stored_point_can_be_run_again(part, name, bits):
    (row,) = rows(part, name=name, bits=bits, budget=2**12)
    again = trial(compare.remake(row), row["N"])
    assert accounts(again.memory)["kept"] == row["kept"]
    assert again.per_byte.tolist() == pytest.approx(row["per_byte"], rel=0.05)


def test_an_unknown_point_is_refused():
    with pytest.raises(ValueError, match="no memory is called 'abacus'"):
        compare.remake({"name": "abacus", "bits": 0, "budget": 9, "shape": "", "N": 1})
