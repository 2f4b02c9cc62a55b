"""The engineers' tables against a dict, and their bytes against arithmetic."""
import numpy as np
import pytest

from minimem.tasks import facts
from minimem.text.tables import Cuckoo, Log, Xor, mix


def some(n, seed):
    return tuple(x.numpy() for x in facts.random(n, seed))


K, W = some(1500, 1)
OTHERS, _ = some(20000, 2)


def test_mix_is_a_hash():
    h = mix(np.arange(100000), 1)
    assert len(np.unique(h)) == 100000
    bits = (h[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert abs(bits.mean(0) - 0.5).max() < 0.01
    assert (mix(np.arange(100000), 2) == h).sum() == 0


@pytest.mark.parametrize("make", [lambda: Log(10**6), lambda: Log(10**6, 12), lambda: Cuckoo(2**14, 20)])
def test_behaves_like_a_dict(make):
    """Writes, rewrites and deletions in random order; the fingerprint is wide enough that no two keys meet."""
    table, truth, r = make(), {}, np.random.default_rng(0)
    for _ in range(30):
        k, v = r.choice(K[:400], 40, replace=False), r.integers(0, 256, 40)
        table.write(k, v)
        truth.update(zip(k.tolist(), v.tolist()))
        gone = r.choice(K[:400], 10, replace=False)
        table.forget(gone)
        for g in gone.tolist():
            truth.pop(g, None)
    value, found = table.read(K[:400])
    assert found.tolist() == [k in truth for k in K[:400].tolist()]
    assert [v for v, f in zip(value, found) if f] == [truth[k] for k in K[:400].tolist() if k in truth]


def test_a_log_keeps_nine_bytes_a_fact_and_forgets_the_oldest():
    log = Log(1000)
    log.write(K, W)
    assert log.records.nbytes == 9000
    assert log.read(K)[1].tolist() == [False] * 500 + [True] * 1000
    assert Log(5).read(K)[1].sum() == 0


def test_a_log_finds_damaged_keys_by_distance_only():
    near, exact = Log(10**6, 12), Log(10**6)
    for log in (near, exact):
        log.write(K, W)
    asked = facts.flip(facts.torch.from_numpy(K), 6, 3).numpy()
    value, found = near.read(asked)
    assert found.all() and (value == W).all() and not exact.read(asked)[1].any()
    assert not near.read(OTHERS[:100])[1].any()
    assert not near.read(facts.flip(facts.torch.from_numpy(K), 14, 3).numpy())[1].any()


@pytest.mark.parametrize("slots", [255, 4095])
def test_a_static_function_holds_four_fifths_of_its_slots_and_answers_everybody(slots):
    k, v = some(slots * 4 // 5, 5)
    table = Xor(k, v, slots)
    value, found = table.read(k)
    assert (value == v).all() and found.all() and table.slots.nbytes == slots
    value, found = table.read(OTHERS)
    assert found.all() and np.bincount(value, minlength=256).max() < 6 * len(OTHERS) / 256


def test_a_static_function_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="95 facts do not fit 100 slots"):
        Xor(*some(95, 1), 100)


@pytest.mark.parametrize("f, rate", [(12, 8 / 2**12), (6, 8 / 2**6)])
def test_a_cuckoo_table_is_95_percent_full_and_says_no_as_often_as_its_fingerprint_allows(f, rate):
    n = int(4096 * 8 / (f + 8) * 0.95)
    k, v = some(n, 3)
    table = Cuckoo(4096, f)
    assert table.write(k, v) == 0
    value, found = table.read(k)
    assert found.all() and (value == v).mean() > 1 - 3 * rate
    assert 4096 - 4 * (f + 8) / 8 <= len(table.packed()) <= 4096
    assert table.read(OTHERS)[1].mean() == pytest.approx(1 - (1 - rate / 8) ** 8, rel=0.25)


def test_packed_slots_hold_everything():
    table = Cuckoo(1024)
    table.write(*some(300, 3))
    bits = np.unpackbits(table.packed())[: table.slots.size * 20].reshape(-1, 20)
    assert np.array_equal((bits.astype(np.int64) << np.arange(20)).sum(1), table.slots.ravel())


def test_a_full_cuckoo_table_tells_how_many_it_lost():
    table = Cuckoo(256)
    lost = table.write(K[:200], W[:200])
    assert lost > 0 and table.read(K[:200])[1].sum() == pytest.approx(200 - lost, abs=3)


# ------------------------------------------------------------------ odd input

def written(table, keys, values):
    table.write(keys, values)
    return table


BUILD = {"log": lambda k, v: written(Log(100), k, v), "cuckoo": lambda k, v: written(Cuckoo(1024), k, v), "xor": lambda k, v: Xor(k, v, 64)}


@pytest.mark.parametrize("make", BUILD.values(), ids=BUILD)
def test_a_value_that_is_no_byte_is_refused(make):
    for wrong in (256, -1):
        with pytest.raises(ValueError, match="wanted 0 to 255"):
            make(K[:3], np.array([0, wrong, 255]))
    with pytest.raises(ValueError, match=r"values have shape \(2,\), wanted that of the keys, \(3,\)"):
        make(K[:3], W[:2])
    make(K[:2], np.array([0, 255])).read(K[:0])
    make(K[:0], W[:0])


def test_room_for_nothing_is_refused():
    with pytest.raises(ValueError, match="capacity must be >= 1, saw 0"):
        Log(0)
    for nbytes, f in ((9, 12), (1024, 0), (1024, 23)):
        with pytest.raises(ValueError, match=f"saw {nbytes} bytes and f = {f}"):
            Cuckoo(nbytes, f)
    assert written(Cuckoo(10, 12), K[:1], W[:1]).read(K[:1])[1].all()
    assert written(Cuckoo(1024, 22), K[:9], W[:9]).read(K[:9])[0].tolist() == W[:9].tolist()


def test_a_static_function_refuses_repeated_keys():
    with pytest.raises(ValueError, match="1 of 3 keys are repeated"):
        Xor(K[[0, 1, 0]], W[:3], 64)


@pytest.mark.parametrize("within", [0, 12])
def test_an_empty_log_finds_nothing(within):
    assert not Log(5, within).read(K)[1].any()
