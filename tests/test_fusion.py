"""Fusion: the three formulas on lists made by hand, MMR by brute force, and a memory that tells several."""
import itertools
import math
from functools import partial

import numpy as np
import pytest

from minimem.text.bm25 import BM25
from minimem.text.dense import LSA, Dense
from minimem.text.fusion import Fused, minmax, mmr, ranks, rrf
from minimem.text.tfidf import TFIDF
from minimem.text.unit import Memory, Unit, tokens

NAN = float("nan")
TEXTS = ["a cat on the lake", "a dog", "the lake is cold, cold", "my cat and my dog", "rain"]


def filled(m, texts=TEXTS):
    for i, t in enumerate(texts):
        m.write(Unit(f"D1:{i + 1}", t, expires=10.0 if "rain" in t else None))
    return m


def ids(units):
    return [u.id for u in units]


# ------------------------------------------------------------------ the formulas

@pytest.mark.oracle("fusion")
def test_ranks_summed_by_hand():
    first, second = [9.0, 7.0, 1.0, 0.0], [0.1, 0.8, 0.3, 0.2]                            # ranks 1 2 3 4 and 4 1 2 3
    np.testing.assert_allclose(rrf([first, second]), [1 / 61 + 1 / 64, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62, 1 / 64 + 1 / 63], rtol=1e-15)
    np.testing.assert_allclose(rrf([first, second], k=1), [1 / 2 + 1 / 5, 1 / 3 + 1 / 2, 1 / 4 + 1 / 3, 1 / 5 + 1 / 4], rtol=1e-15)
    np.testing.assert_allclose(rrf([first], k=0), [1, 1 / 2, 1 / 3, 1 / 4], rtol=1e-15)
    np.testing.assert_allclose(rrf([first] * 3), 3 * rrf([first]), rtol=1e-15)


def test_equal_scores_have_equal_ranks():
    s = np.random.default_rng(0).integers(5, size=40) / 4
    np.testing.assert_array_equal(ranks(s), [sum(x >= y for x in s) for y in s])
    np.testing.assert_array_equal(ranks([3, 5, 5, 1, 3]), [4, 2, 2, 5, 4])
    np.testing.assert_allclose(rrf([[0, 0, 0], [1, 3, 2]], k=1), [1 / 4 + 1 / 4, 1 / 4 + 1 / 2, 1 / 4 + 1 / 3])


@pytest.mark.oracle("fusion")
def test_stretched_scores_summed_by_hand():
    first, second = [2.0, 6.0, 4.0, 2.0], [-0.5, 0.0, 0.5, 0.25]
    np.testing.assert_allclose(minmax([first, second]), [0, (1 + 0.5) / 2, (0.5 + 1) / 2, 0.75 / 2], atol=1e-15)
    np.testing.assert_allclose(minmax([first, second], alpha=0.25), [0, 0.25 + 0.375, 0.125 + 0.75, 0.75 * 0.75], atol=1e-15)
    np.testing.assert_allclose(minmax([first, second], 0.3), minmax([second, first], 0.7), atol=1e-15)


def test_neither_scale_nor_origin_of_a_list_matters():
    a, b = np.random.default_rng(1).normal(size=(2, 30))
    for fuse in (rrf, minmax, partial(minmax, alpha=0.3)):
        np.testing.assert_allclose(fuse([a, b]), fuse([5 * a - 3, b / 7 + 100]), atol=1e-12)
    np.testing.assert_allclose(rrf([a, b]), rrf([np.exp(a), b**3]), atol=1e-15)            # nor how sure a memory is


@pytest.mark.filterwarnings("error")
def test_a_list_that_prefers_nothing_changes_nothing():
    b = [0.2, 0.9, 0.1]
    np.testing.assert_allclose(minmax([[4, 4, 4], b], 0.4), [0.6 / 8, 0.6, 0], atol=1e-15)
    np.testing.assert_array_equal(minmax([[0, 0, 0], [7, 7, 7]]), [0, 0, 0])
    assert list(np.argsort(-rrf([[0, 0, 0], b]))) == [1, 0, 2]
    assert minmax([[], []]).shape == rrf([[], []]).shape == (0,)
    np.testing.assert_array_equal(minmax([[3], [5]]), [0])


@pytest.mark.oracle("fusion")
@pytest.mark.parametrize("lam", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_mmr_takes_the_best_of_all_that_are_left(seed, lam):
    g = np.random.default_rng(seed)
    s, between = g.normal(size=8), g.normal(size=(8, 8))                                   # not symmetric, some below 0
    got, left = mmr(s, between, lam), set(range(8))
    assert sorted(got) == list(range(8))
    for i, d in enumerate(got):
        worth = {e: lam * s[e] - (1 - lam) * max((between[e, c] for c in got[:i]), default=0) for e in left}
        assert worth[d] == pytest.approx(max(worth.values()), abs=1e-12)
        left.remove(d)
    assert mmr(s, between, lam, 3) == got[:3] and mmr(s, between, lam, 0) == [] and mmr(s, between, lam, 99) == got


@pytest.mark.oracle("fusion")
def test_mmr_by_hand_takes_the_twin_last():
    between = np.array([[1, 0.99, 0.1], [0.99, 1, 0.1], [0.1, 0.1, 1]])
    assert mmr([0.9, 0.89, 0.5], between, 0.5) == [0, 2, 1] and mmr([0.9, 0.89, 0.5], between, 1.0) == [0, 1, 2]
    assert mmr([0.9, 0.89, 0.5], between, 0.9) == [0, 1, 2]                                # 0.702 against 0.44


def test_arguments_are_not_edited():
    a, between = np.random.default_rng(2).normal(size=(2, 9)), np.eye(9)
    kept = a.copy()
    rrf(a), minmax(a), mmr(a[0], between)
    np.testing.assert_array_equal(a, kept)
    np.testing.assert_array_equal(between, np.eye(9))


@pytest.mark.parametrize("wrong, message", [
    (lambda: rrf([[1, NAN]]), "scores must be finite"), (lambda: minmax([[1, 2], [3, math.inf]]), "scores must be finite"),
    (lambda: rrf([1, 2]), "have 2 axes"), (lambda: rrf("ab"), "must be numbers"),
    (lambda: rrf([[1, 2], [1]]), r"equal length, saw \[\[1, 2\], \[1\]\]"),
    (lambda: rrf([[1, 2]], k=-1), "k must be"), (lambda: rrf([[1, 2]], k=NAN), "k must be"),
    (lambda: minmax([[1, 2]]), "2 lists, saw 1"), (lambda: minmax([[1, 2]] * 3), "2 lists, saw 3"),
    (lambda: minmax([[1, 2], [3, 4]], 1.5), "alpha must"), (lambda: minmax([[1, 2], [3, 4]], NAN), "alpha must"),
    (lambda: mmr([1, 2], np.eye(3)), r"between has shape \(3, 3\), wanted \(2, 2\)"), (lambda: mmr([1, NAN], np.eye(2)), "query must be finite"),
    (lambda: mmr([1, 2], np.eye(2), 2), "lam must"), (lambda: mmr([1, 2], np.eye(2), k=-1), "k must be >= 0"),
    (lambda: Fused([]), "at least one"), (lambda: Fused([filled(BM25()), TFIDF()]), r"same units, saw \[5, 0\]"),
])
def test_wrong_input_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


# ------------------------------------------------------------------ the memory

@pytest.mark.parametrize("fuse", [minmax, rrf, partial(rrf, k=1), partial(minmax, alpha=0.3)])
def test_it_ranks_by_the_fused_scores_of_what_it_told(fuse):
    m = filled(Fused([BM25(b=0), Dense(LSA(4))], fuse))
    one, other = filled(BM25(b=0)), filled(Dense(LSA(4)))
    want = fuse([one.scores("cold lake"), other.scores("cold lake")])
    np.testing.assert_array_equal(m.scores("cold lake"), want)
    assert ids(m.rank("cold lake")) == [f"D1:{i + 1}" for i in sorted(range(5), key=lambda i: (-want[i], i))]
    assert m.rank("cold lake", 2) == m.rank("cold lake")[:2] and m.read("cold lake", 5) == m.rank("cold lake", 1)


def test_of_equals_the_older_comes_first():
    m = filled(Fused([BM25(b=0), TFIDF()]), ["a cat", "a dog"] * 50)
    assert ids(m.rank("dog")) == [f"D1:{i}" for i in range(2, 101, 2)]


def test_memories_that_were_told_before_are_taken_as_they_are():
    told = [filled(BM25()), filled(TFIDF())]
    assert Fused(told).rank("my cat") == filled(Fused([BM25(), TFIDF()])).rank("my cat")
    assert Fused([Fused(told), told[0]]).rank("my cat", 1) == Fused(told).rank("my cat", 1)


def test_what_no_memory_finds_is_not_found():
    m = filled(Fused([BM25(), TFIDF()], rrf))
    assert ids(m.rank("my cat")) == ["D1:1", "D1:4"]
    assert m.rank("zebra") == m.read("") == [] == Fused([BM25(), TFIDF()]).rank("cat")
    assert len(filled(Fused([BM25(), Dense(LSA(4))])).rank("zebra")) == 5                  # vectors always find all


def test_replaced_and_expired_units_leave_all_memories():
    m = filled(Fused([BM25(), TFIDF()]))
    m.write(Unit("D1:1", "a parrot"))
    assert ids(m.rank("parrot")) == ["D1:1"] and ids(m.rank("cat")) == ["D1:4"] and list(m.units) == ["D1:2", "D1:3", "D1:4", "D1:5", "D1:1"]
    assert m.forget(9.0) == 0 and m.forget(10.0) == 1 and m.rank("rain") == [] and {len(x.units) for x in m.memories} == {4}
    with pytest.raises(ValueError, match="now must be"):
        m.forget(NAN)


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_a_unit_that_one_memory_refuses_is_told_to_none(order):
    def cut(text):
        if "bad" in text:
            raise RuntimeError("cannot be cut")
        return tokens(text)
    m = filled(Fused([[BM25(), TFIDF(), BM25(tokenize=cut)][i] for i in order], rrf))
    before = m.scores("cat lake")
    for id in ("D1:1", "D1:9"):
        with pytest.raises(RuntimeError, match="cannot be cut"):
            m.write(Unit(id, "bad cat"))
    assert all(list(x.units) == [f"D1:{i}" for i in range(1, 6)] for x in m.memories)
    np.testing.assert_array_equal(m.scores("cat lake"), before)
    with pytest.raises(ValueError, match="must be a Unit, saw str"):
        m.write("a cat")
    m = Fused([filled(Fused([BM25(), TFIDF()])), filled(BM25(tokenize=cut))])              # a fusion of fusions takes it back too
    with pytest.raises(RuntimeError, match="cannot be cut"):
        m.write(Unit("D1:9", "bad cat"))
    assert [len(x.units) for x in (*m.memories, *m.memories[0].memories)] == [5] * 4


def test_bytes_are_those_of_the_memories_with_the_text_once():
    one, other = filled(BM25()), filled(Dense(LSA(4)))
    sizes = Fused([one, other]).sizes()
    assert sizes["text"] == one.sizes()["text"] and sizes["vectors"] == other.sizes()["vectors"] == 5 * 4 * 4
    assert Fused([one, other]).nbytes() == one.nbytes() + other.nbytes() - sizes["text"]
    assert Fused([one, one]).sizes()["index"] == 2 * one.sizes()["index"]


def test_a_memory_of_ones_own_can_be_fused():
    class Newest(Memory):
        def scores(self, query):
            return np.arange(len(self.units), dtype=float)
    m = filled(Fused([BM25(b=0), Newest()], partial(minmax, alpha=0.9)))
    assert ids(m.rank("cat"))[:2] == ["D1:4", "D1:1"]
