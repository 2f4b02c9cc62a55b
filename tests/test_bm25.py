"""BM25: the fast form, two libraries that are not ours, and what a text memory must do with odd input."""
import math
import random

import bm25s
import numpy as np
import pytest
from rank_bm25 import BM25Okapi

from minimem.text.bm25 import BM25, Impacts, score
from minimem.text.unit import Unit, fill, stem, tokens

NAN = float("nan")


def corpus(seed, n=60, empty=True):
    """Texts of 0 to 30 words from a vocabulary of 40 with a long tail, and queries with repeats and unknown words."""
    r = random.Random(seed)
    words = [f"w{i}" for i in range(40)]
    draw = lambda k: r.choices(words, [1 / (i + 1) for i in range(40)], k=k)   # noqa: E731
    docs = [draw(r.randint(0 if empty else 1, 30)) for _ in range(n)]
    return docs, [[*draw(r.randint(0, 6)), *(["never seen"] if i % 3 == 0 else [])] for i in range(20)]


def memory(texts, **options):
    m = BM25(**options)
    for i, t in enumerate(texts):
        m.write(Unit(f"D1:{i + 1}", t))
    return m


def test_one_score_by_hand():
    docs = ["cat cat dog".split(), "dog".split(), "fish fish".split()]
    want = math.log(1 + 2.5 / 1.5) * 2 * 2.5 / (2 + 1.5 * (0.25 + 0.75 * 3 / 2))
    assert score(["cat"], docs) == pytest.approx([want, 0, 0], abs=1e-12)
    assert score(["cat", "cat"], docs)[0] == pytest.approx(2 * want, abs=1e-12)


@pytest.mark.parametrize("k1, b", [(1.5, 0.75), (1.5, 0.0), (1.2, 1.0), (0.0, 0.5)])
@pytest.mark.parametrize("seed", range(4))
def test_fast_equals_the_definition(seed, k1, b):
    docs, queries = corpus(seed, n=1 + 20 * seed)
    number = {t: i for i, t in enumerate(dict.fromkeys(t for d in docs for t in d))}
    fast = Impacts([np.array([number[t] for t in d], np.int32) for d in docs], len(number), k1, b)
    for q in queries:
        got = fast.scores([number[t] for t in q if t in number])
        np.testing.assert_allclose(got, score(q, docs, k1, b), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_k_best_of_many_blocks_are_those_of_the_whole_order(seed):
    r = np.random.default_rng(seed)
    docs = [r.integers(20, size=r.integers(1, 9)) for _ in range(64 * 12 + 7)]             # the best in many blocks, some behind the last whole one
    fast = Impacts(docs, 20)
    for q in ([0], [1, 2], [3, 4, 5, 5]):
        whole = fast.top(q)
        assert fast.scores(q)[whole].tolist() == sorted(fast.scores(q)[whole], reverse=True) and len(whole) == (fast.scores(q) > 0).sum()
        for k in (1, 2, 5, 10, 12, 13, 1000):
            assert fast.top(q, k).tolist() == whole[:k].tolist()


@pytest.mark.filterwarnings("error")
def test_a_store_of_empty_texts_scores_nothing():
    assert score(["a"], []) == []
    for b in (0.0, 0.75, 1.0):
        assert score(["a"], [[], []], b=b) == [0, 0]
        assert memory(["", "the of"], b=b).rank("a cat") == []


@pytest.mark.oracle("bm25")
@pytest.mark.parametrize("b", [0.75, 0.0])
@pytest.mark.parametrize("seed", range(5))
def test_bm25s_differs_by_the_factor_k1_plus_1(seed, b):
    docs, queries = corpus(seed)
    theirs = bm25s.BM25(method="lucene", k1=1.5, b=b, dtype="float64")
    theirs.index(docs, show_progress=False)
    for q in queries:
        known = [t for t in q if t in theirs.vocab_dict]
        if known:
            np.testing.assert_allclose(score(q, docs, 1.5, b), 2.5 * theirs.get_scores(known), rtol=1e-9, atol=1e-12)


@pytest.mark.oracle("bm25")
@pytest.mark.parametrize("seed", range(5))
def test_rank_bm25_differs_by_its_idf_alone(seed):
    """Term by term: theirs = ours · idf'(t) / idf(t), idf' = ln((N − n + ½)/(n + ½)), and ¼ of the mean idf' where that is negative."""
    docs, queries = corpus(seed, empty=False)
    theirs, N = BM25Okapi(docs, k1=1.5, b=0.75), len(docs)
    n = {t: sum(t in d for d in docs) for t in {t for d in docs for t in d}}
    raw = {t: math.log((N - n[t] + 0.5) / (n[t] + 0.5)) for t in n}
    floor = 0.25 * sum(raw.values()) / len(raw)
    assert any(x < 0 for x in raw.values())
    for q in queries:
        want = np.zeros(N)
        for t in q:
            if t in n:
                swap = (raw[t] if raw[t] >= 0 else floor) / math.log(1 + (N - n[t] + 0.5) / (n[t] + 0.5))
                want += swap * np.array(score([t], docs))
        np.testing.assert_allclose(theirs.get_scores(q), want, rtol=1e-9, atol=1e-12)


def test_writing_bit_by_bit_equals_writing_at_once():
    texts = [" ".join(d) for d in corpus(7)[0]]
    whole, bits = memory(texts), BM25()
    for i, t in enumerate(texts):
        bits.write(Unit(f"D1:{i + 1}", t))
        if i % 5 == 0:
            bits.read("w3 w5")
    np.testing.assert_array_equal(bits.scores("w1 w9 w30"), whole.scores("w1 w9 w30"))


@pytest.mark.parametrize("n", [60, 700])
@pytest.mark.parametrize("k", [1, 3, 10, 60, 1000])
def test_the_k_best_are_the_head_of_all_with_ties_by_age(k, n):
    texts = [" ".join(d[:3]) for d in corpus(3, n)[0]]                  # short texts: many ties
    m = memory(texts)
    for q in ("w0", "w1 w2", "w0 w0 w7", "nothing"):
        s, everything = m.scores(q), m.rank(q)
        order = sorted((i for i in range(len(texts)) if s[i] > 0), key=lambda i: (-s[i], i))
        assert [u.id for u in everything] == [f"D1:{i + 1}" for i in order]
        assert m.rank(q, k) == everything[:k]


def test_read_keeps_to_the_budget_and_passes_over_what_does_not_fit():
    m = memory(["cat " * 5, "cat dog bird fish", "cat"], b=0.0)
    assert [u.id for u in m.read("cat", words=5)] == ["D1:1"]
    assert [u.id for u in m.read("cat", words=4)] == ["D1:2"]
    assert [u.id for u in m.read("cat", words=6)] == ["D1:1", "D1:3"]
    assert m.read("cat", words=0) == []
    assert len(m.read("cat", words=math.inf)) == 3


@pytest.mark.parametrize("words", [-1, NAN, "many"])
def test_a_budget_that_is_none_is_refused(words):
    with pytest.raises(ValueError, match="words is a budget"):
        memory(["a cat"]).read("cat", words=words)


def test_nothing_in_nothing_out():
    assert BM25().read("cat") == [] and BM25().scores("cat").shape == (0,) and BM25().nbytes() >= 0
    assert memory(["a cat"]).read("") == memory(["a cat"]).read("the of") == memory(["a cat"]).read("zebra") == []


@pytest.mark.parametrize("wrong, message", [({"k1": -1}, "k1"), ({"k1": NAN}, "k1"), ({"b": 1.5}, "b must"), ({"b": NAN}, "b must")])
def test_wrong_parameters(wrong, message):
    with pytest.raises(ValueError, match=message):
        BM25(**wrong)


def test_a_negative_number_of_units():
    assert memory(["a cat"]).rank("cat", 0) == []
    with pytest.raises(ValueError, match="k must be >= 0, saw -1"):
        memory(["a cat"]).rank("cat", -1)


def test_wrong_records_and_questions():
    with pytest.raises(ValueError, match="must be a Unit, saw str"):
        BM25().write("a cat")
    with pytest.raises(ValueError, match="text must be a string, saw int"):
        Unit("D1:1", 7)
    with pytest.raises(ValueError, match="text must be a string, saw NoneType"):
        memory(["a cat"]).read(None)


def test_the_same_id_again_replaces_without_a_trace():
    m = memory(["my cat Tom", "a dog"])
    m.write(Unit("D1:1", "my parrot Polly"))
    assert m.read("cat") == [] and m.read("Tom") == [] and [u.id for u in m.read("Polly")] == ["D1:1"]
    assert "tom" not in m._number and len(m.units) == 2
    np.testing.assert_array_equal(m.scores("dog parrot"), memory(["a dog", "my parrot Polly"]).scores("dog parrot"))


def test_forget_drops_what_has_expired_and_nothing_else():
    m = BM25()
    for i, end in enumerate([None, 10.0, 20.0]):
        m.write(Unit(f"D1:{i}", f"cat number{i}", expires=end))
    assert m.forget(9.9) == 0 and m.forget(10.0) == 1 and m.forget(10.0) == 0
    assert [u.id for u in m.read("cat")] == ["D1:0", "D1:2"] and "number1" not in m._number
    with pytest.raises(ValueError, match="now must be"):
        m.forget(NAN)


def test_bytes_are_those_of_what_is_held():
    m = memory(["cat dog", "cat 猫咪"])
    sizes = m.sizes()
    assert sizes["text"] == len("cat dogcat 猫咪".encode()) + 2 * 2 * len("D1:1")         # the id, and once more as its own source
    assert sizes["vocabulary"] == len("catdog猫咪".encode()) + 3 * 4
    assert sizes["index"] == 4 * 4 + 4 * 4 + 4 * 4 + 4 * 8                                # terms, row starts, texts, impacts
    assert m.nbytes() == sum(sizes.values())


def test_chinese_is_read_by_pairs_of_characters():
    assert tokens("我搬到北京了") == ["我搬", "搬到", "到北", "北京", "京了"] and tokens("猫") == ["猫"]
    m = memory(["小李：我上个月搬到北京了，住在大学旁边。", "小王：我养了一只橘猫。", "小李：今天下雨。"])
    assert [u.id for u in m.read("小李现在住在哪里？北京还是上海？")][0] == "D1:1"
    assert [u.id for u in m.read("谁养了橘猫")] == ["D1:2"]
    assert m.units["D1:3"].words == 6                                  # six characters; marks are no words
    assert m.read("北京", words=5) == []


def test_terms():
    assert tokens("Running, runs, RUN!") == ["run"] * 3 and tokens("studies studied study") == ["studi"] * 3
    assert tokens("Caroline’s dogs") == tokens("caroline dog")
    assert tokens("What did the cat do in the hat?") == ["cat", "hat"]
    assert tokens("the cats", frozenset(), str) == ["the", "cats"]
    assert tokens("ｈｅｌｌｏ") == ["hello"] and tokens("iPhone手机") == ["iphon", "手机"] and tokens("") == []
    assert all(stem(stem(w)) == stem(w) for w in ("glasses", "bus", "happily", "hoping", "hopped", "sing"))
    assert tokens("in 2022, not in 2011 or 201") == ["2022", "2011", "201"] and tokens("hopped") == ["hop"]          # letters are doubled by grammar, digits are not


def test_a_unit_is_its_own_source_unless_it_says_so():
    assert Unit("D1:1", "x").source_ids == ("D1:1",) and Unit("S1", "x", "summary", ["D1:1", "D1:2"]).source_ids == ("D1:1", "D1:2")
    assert Unit("a", "- It's 5 o'clock , isn't it ?").words == 5
    assert fill([Unit("a", "one two"), Unit("b", "three")], 1) == [Unit("b", "three")]


def test_a_text_that_cannot_be_cut_changes_nothing():
    def cut(text):
        if "bad" in text:
            raise RuntimeError("cannot be cut")
        return tokens(text)
    m = memory(["an apple", "a cherry"], tokenize=cut)
    for id in ("D1:1", "D1:9"):                                  # in place of a unit, and as a new one
        with pytest.raises(RuntimeError):
            m.write(Unit(id, "bad"))
    m.write(Unit("D1:3", "a pear"))
    assert [u.text for u in m.units.values()] == ["an apple", "a cherry", "a pear"]
    assert [[u.text for u in m.rank(q)] for q in ("apple", "pear")] == [["an apple"], ["a pear"]]


def test_half_a_character_is_counted_like_any_other():
    m = memory(["broken \ud83d emoji"])
    assert m.sizes()["text"] == 7 + 3 + 6 + 2 * len("D1:1") and m.rank("emoji")


def test_one_id_in_place_of_a_tuple_is_refused():
    with pytest.raises(ValueError, match="source_ids must be a tuple of ids, saw the string 'D1:3'"):
        Unit("F1", "a fact", source_ids="D1:3")
