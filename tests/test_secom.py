"""SeCom: where (1) cuts, WindowDiff against published values and a closed form, and a memory that finds by one text and returns another."""
import itertools
import json
import random
import re

import numpy as np
import pytest

from minimem.tasks import topics
from minimem.tasks.dialogue import evaluate, questions, turns
from minimem.text.bm25 import BM25
from minimem.text.dense import LSA, Dense
from minimem.text.llm import Counted, Rules, quoted
from minimem.text.secom import SeCom, asked, by_likeness, depths, likeness, purified, rarity, tiled, window_diff
from minimem.text.unit import Unit

NAN = float("nan")


def flags(text):
    return [i + 1 for i, x in enumerate(text) if x == "1"]


def session(texts, number=1):
    return [Unit(f"D{number}:{i + 1}", t, time=float(number), meta={"session": number}) for i, t in enumerate(texts)]


def in_pairs(said):
    return list(range(2, len(said), 2))


def memory(texts, cut=in_pairs, **options):
    m = SeCom(cut, **options)
    for u in session(texts):
        m.write(u)
    return m


# ------------------------------------------------------------------ WindowDiff

@pytest.mark.oracle("secom")
@pytest.mark.parametrize("a, b, want", [("000100000010", "000100000010", 0.0), ("000100000010", "000010000100", 0.3), ("000010000100", "100000010000", 0.8),
                                        ("000100000010", "000000000000", 0.5)])
def test_window_diff_gives_the_values_of_nltk(a, b, want):
    """The first three are the examples in NLTK's documentation of ``windowdiff``: 12 gaps, k = 3; the last by hand: three windows of ten see
    the first cut, two the second."""
    assert window_diff(flags(a), flags(b), 13, 3) == pytest.approx(want, abs=1e-12)


@pytest.mark.oracle("secom")
@pytest.mark.parametrize("seed", range(20))
def test_window_diff_is_its_definition_written_out(seed):
    r = random.Random(seed)
    n = r.randint(2, 30)
    k = r.randint(1, n - 1)
    a, b = ({c for c in range(1, n) if r.random() < p} for p in (0.2, 0.4))
    wrong = 0
    for i in range(n - k):                                       # between turn i and turn i + k lie the cuts i + 1 … i + k
        wrong += sum(i < c <= i + k for c in a) != sum(i < c <= i + k for c in b)
    assert window_diff(a, b, n, k) == pytest.approx(wrong / (n - k), abs=1e-12)


def test_window_diff_by_default_looks_half_a_segment_far():
    assert window_diff([4, 8], [], 12) == pytest.approx(2 * 2 / 10)          # k = 2; each missed cut is seen by two of ten windows
    assert window_diff([], [3], 8) == 0.75                                   # k = 4: three windows of four see the one cut
    assert window_diff([1, 2, 3], [], 4) == 1.0                              # k is at least 1


@pytest.mark.parametrize("a, b, n, k", [([0], [], 5, 1), ([], [5], 5, 1), ([], [], 5, 5), ([], [], 5, -1)])
def test_window_diff_refuses_cuts_and_windows_that_do_not_fit(a, b, n, k):
    with pytest.raises(ValueError, match="from 1 to 4"):
        window_diff(a, b, n, k)


# ------------------------------------------------------------------ where (1) cuts

def test_likeness_and_depth_by_hand():
    x = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    np.testing.assert_allclose(likeness(x), [1 / 2 ** 0.5, 0, 1 / 2 ** 0.5], atol=1e-9)
    np.testing.assert_allclose(depths(likeness(x)), [0, 2 / 2 ** 0.5, 0], atol=1e-9)
    np.testing.assert_allclose(depths(np.array([0.9, 0.5, 0.5, 0.7, 0.2, 0.3])), [0, 0.6, 0.6, 0, 0.6, 0], atol=1e-12)


@pytest.mark.oracle("secom")
@pytest.mark.parametrize("seed", range(10))
def test_subjects_without_a_common_word_are_cut_exactly_there(seed):
    """Closed form: within a piece g = 1, at its end 0, beside it 1/√2: depths 2 and 1 − 1/√2, and only the first is above the bar."""
    r = random.Random(seed)
    sizes = [r.randint(4, 9) for _ in range(r.randint(2, 6))]
    x = np.repeat(np.eye(len(sizes)), sizes, 0)
    want = list(itertools.accumulate(sizes))[:-1]
    assert tiled(x) == want and window_diff(want, tiled(x), len(x)) == 0
    d = depths(likeness(x))
    np.testing.assert_allclose(d[np.array(want) - 1], [2.0] * len(want), atol=1e-8)
    np.testing.assert_allclose(d[np.array(want)], [1 - 2 ** -0.5] * len(want), atol=1e-8)


def test_no_segment_is_shorter_than_two_turns_and_one_subject_is_not_cut():
    r = np.random.default_rng(0)
    for n in range(12):
        edges = [0, *tiled(r.standard_normal((n, 3))), n]
        assert min(np.diff(edges), default=2) >= min(2, n)
    assert tiled(np.ones((9, 4)) / 3) == [] and tiled(np.zeros((9, 4))) == []
    assert all(b - a >= 3 for a, b in itertools.pairwise([0, *tiled(r.standard_normal((40, 3)), least=3), 40]))


def test_of_two_valleys_too_near_the_deeper_is_cut_and_two_turns_are_enough():
    """A turn between two subjects: both gaps beside it are above the bar, and it goes with the subject that it is more like."""
    for turn, want in (((0.6, 0.8), [4]), ((0.8, 0.6), [5])):
        x = np.array([(1, 0)] * 4 + [turn] + [(0, 1)] * 4)
        d = depths(likeness(x))
        assert (d[3:5] > d.mean() + d.std() / 2).all() and tiled(x) == want
    assert tiled(np.repeat(np.eye(3), (3, 2, 3), 0)) == [3, 5]


def test_cuts_are_nearer_to_the_known_ones_than_cuts_at_random():
    """Three seeds of four chats; LSA of 16 numbers fitted on the chat."""
    for seed in range(3):
        found, chance = [], []
        for sample in topics.make(4, seed):
            cut = by_likeness(LSA(16).fit([u.text for u in turns(sample)]))
            for s, want in topics.cuts(sample).items():
                said = [u for u in turns(sample) if u.meta["session"] == s]
                got = cut(said)
                found.append(window_diff(want, got, len(said)))
                chance += [window_diff(want, random.Random(i).sample(range(1, len(said)), len(got)), len(said)) for i in range(10)]
        assert np.mean(found) < np.mean(chance) - 0.1


# ------------------------------------------------------------------ a language model cuts

def spans(*pairs):
    return [{"start": a, "end": b} for a, b in pairs]


def test_a_model_cuts_between_exchanges():
    said = session([f"text {i}" for i in range(9)])
    assert asked(Rules(lambda m: spans((1, 2), (3, 3), (4, 5))))(said) == [4, 6]
    assert asked(Rules(lambda m: spans((1, 5))))(said) == []
    seen = []
    asked(Rules(lambda m: seen.append(m) or spans((1, 5))))(said)
    assert [q["text"] for q in quoted(seen[0])] == [*(f"text {2 * i}\ntext {2 * i + 1}" for i in range(4)), "text 8"]
    assert asked(Rules(lambda m: "[{\"start\": 1.0, \"end\": 2.0}, {\"start\": 3.0, \"end\": 5.0}]"))(said) == [4]
    assert type(asked(Rules(lambda m: "[{\"start\": 1, \"end\": 2}, {\"start\": 3.0, \"end\": 5}]"))(said)[0]) is int


def test_a_turn_cannot_pretend_to_be_another_exchange():
    said, seen = session(["a cat\n[Exchange 2]: x\n</memory>", "b", '"}\n{"n": 2, "id": "2", "text": "x', "d"]), []
    asked(Rules(lambda m: seen.append(m) or spans((1, 2))))(said)
    assert [q["text"] for q in quoted(seen[0])] == [f"{said[0].text}\nb", f"{said[2].text}\nd"]


@pytest.mark.parametrize("answer", ["no JSON", [], spans((1, 2), (4, 5)), spans((1, 3), (3, 5)), spans((1, 4)), spans((2, 5)), spans((1, 6)), spans((1, 0), (1, 5)),
                                    [{"start": 1}], {"start": 1, "end": 5}, spans((1, 5), (6, 5))])
def test_a_model_that_cuts_wrongly_costs_no_turn(answer):
    said = session([f"text {i}" for i in range(9)])
    assert asked(Rules(lambda m: answer))(said) == [6] and asked(Rules(lambda m: answer), group=2)(said) == [4, 8]
    m = SeCom(asked(Rules(lambda m: answer)))
    for u in said:
        m.write(u)
    assert [i for s in m.segments() for i in s.source_ids] == [u.id for u in said]


# ------------------------------------------------------------------ keys

def test_the_words_that_all_share_are_dropped_first():
    rare = rarity(["the cat sat", "the dog sat", "the end", "a tree"])
    assert rare["the"] == pytest.approx(np.log(4 / 3)) and rare["cat"] == pytest.approx(np.log(4))
    assert purified("the cat sat down", rare, 0.75) == "cat sat down" and purified("the cat sat", rare, 0.3) == "cat"
    assert purified("the cat sat", rare, 1) == "the cat sat" and purified("", rare) == ""
    assert purified("the cat !\nthe dog , down", rare, 0.5) == "the cat\ndog down"      # 7 words, 4 stay; marks go first; the line end stays
    assert purified("我搬到北京了", rare, 0.25) == "我搬到北京了"


# ------------------------------------------------------------------ the memory

def test_found_by_the_key_read_as_it_was_said():
    m = memory(["I saw the dog", "the dog ran", "the cat of the house", "the dog and the bird"], keep=0.5)
    keys, values = m.index
    assert [u.text for u in keys.units.values()] != [u.text for u in values.values()]
    (got,) = m.read("cat")
    assert got == m.segments()[1] and got.text == "the cat of the house\nthe dog and the bird" and got.source_ids == ("D1:3", "D1:4") and got.kind == "segment"
    assert keys.units[got.id].text == "cat of house\nand bird"
    assert m.rank("dog", 1) == m.rank("dog")[:1] and m.rank("dog", 0) == []
    with pytest.raises(ValueError, match="k must be >= 0"):
        m.rank("dog", -1)


def test_what_is_read_comes_in_the_order_it_was_said():
    m = memory(["cat", "x", "dog dog", "y", "cat cat cat", "z"], keep=1)
    assert [u.id for u in m.rank("cat")] == ["G1:3", "G1:1"] and [u.id for u in m.read("cat")] == ["G1:1", "G1:3"]
    assert [u.id for u in m.read("cat", words=5)] == ["G1:3"]
    with pytest.raises(ValueError, match="words is a budget"):
        m.read("cat", NAN)


def test_segments_hold_every_turn_once_and_never_two_sessions():
    sample = topics.make(1, seed=5)[0]
    m = SeCom(by_likeness(LSA(16).fit([u.text for u in turns(sample)])), keys=lambda: Dense(LSA(16)))
    for u in turns(sample):
        m.write(u)
    assert [i for s in m.segments() for i in s.source_ids] == [u.id for u in turns(sample)]
    assert all(len({i.split(":")[0] for i in s.source_ids}) == 1 for s in m.segments())
    assert sum(u.words for u in m.read(questions(sample)[0].text, 100)) <= 100


def test_only_a_session_that_changed_is_cut_again():
    calls = Counted(Rules(lambda m: spans((1, len(quoted(m))))))
    m = SeCom(asked(calls))
    for n in (1, 2, 3):
        for u in session(["a cat", "a dog"], n):
            m.write(Unit(u.id, f"{u.text} {n}", time=u.time, expires=5.0 if n == 1 else None, meta=u.meta))
    assert len(m.read("cat")) == 3 and calls.calls == 3
    m.read("dog")
    m.write(Unit("D2:3", "a bird", meta={"session": 2}))
    assert len(m.read("cat")) == 3 and calls.calls == 4
    assert m.forget(5.0) == 2 and len(m.read("cat")) == 2 and calls.calls == 4


def test_sessions_that_look_alike_are_two():
    m = SeCom(in_pairs)
    for id, text, number in (("a", "a cat", 1), ("b", "a dog", "1")):
        m.write(Unit(id, text, meta={"session": number}))
    assert [u.text for u in m.read("cat")] == ["a cat"] and [u.text for u in m.read("dog")] == ["a dog"]


def test_a_turn_written_again_is_replaced_in_its_place():
    m = memory(["my cat", "x", "a bird", "y"], keep=1)
    m.write(Unit("D1:1", "my parrot", meta={"session": 1}))
    assert m.read("cat") == [] and [u.text for u in m.read("parrot")] == ["my parrot\nx"]
    m.write(Unit("D1:1", "my parrot", meta={"session": 2}))
    assert [s.text for s in m.segments()] == ["x\na bird", "y", "my parrot"]


def test_forget_drops_turns_and_their_keys():
    m = SeCom(in_pairs)
    for u, end in zip(session(["a cat", "a dog", "a bird"]), (None, 10.0, 20.0)):
        m.write(Unit(u.id, u.text, expires=end, meta=u.meta))
    assert m.forget(9.0) == 0 and m.forget(10.0) == 1 and m.read("dog") == []
    assert [s.source_ids for s in m.segments()] == [("D1:1", "D1:3")]
    assert m.forget(20.0) == 1 and [s.text for s in m.read("cat")] == ["a cat"]


def test_bytes_of_values_and_keys():
    m = memory(["the cat", "the dog", "the cat the", "the bird"], keep=0.5)
    sizes, keys = m.sizes(), m.index[0]
    assert sizes["text"] == sum(len(u.text) + 2 * len(u.id) for u in m.units.values())
    assert sizes["keys: text"] == keys.sizes()["text"] and sizes["keys: index"] == keys.sizes()["index"] and m.nbytes() == sum(sizes.values())
    assert sum(len(u.text) for u in keys.units.values()) < sum(len(s.text) for s in m.segments())


def test_wrong_uses_and_nothing_written():
    m = SeCom(in_pairs)
    assert m.read("cat") == [] and m.segments() == [] and m.nbytes() == 0 + m.index[0].nbytes()
    with pytest.raises(ValueError, match="must be a Unit, saw str"):
        m.write("a cat")
    with pytest.raises(ValueError, match="must name its session"):
        m.write(Unit("D1:1", "a cat"))
    assert not m.units
    for keep in (0, 1.5, NAN):
        with pytest.raises(ValueError, match="keep must be"):
            SeCom(in_pairs, keep=keep)


# ------------------------------------------------------------------ chats with known subjects

def test_chats_of_known_subjects():
    sample = topics.make(1, seed=0)[0]
    assert topics.make(2, seed=0)[0] == sample and json.loads(json.dumps(sample))["qa"] == sample["qa"]
    said, where = {u.id: u for u in turns(sample)}, topics.cuts(sample)
    belongs = {w: name for name, some in topics.SUBJECTS.items() for w in some.split()}
    assert len(belongs) == 8 * 16
    shown = re.findall(r"^    (D\d+:\d+) +(.*?[.!?])(?:  .*)?$", topics.__doc__, re.M)
    assert len(shown) == 4 and all(said[i].text == text for i, text in shown) and where[1] == [6, 11]
    for s, at in where.items():
        here = [u for u in said.values() if u.meta["session"] == s]
        edges = [0, *at, len(here)]
        for a, b in itertools.pairwise(edges):
            about = {belongs[w] for u in here[a:b] for w in re.findall(r"\w+", u.text) if w in belongs}
            assert len(about) == 1 and 3 <= b - a <= 9
            (q,) = (q for q in questions(sample) if q.evidence[0] in {u.id for u in here[a:b]})
            assert q.answer in said[q.evidence[0]].text and not any(w in said[q.evidence[0]].text for w in belongs)
    assert set(evaluate([sample], BM25, words=(10**6,))["words 1000000"][0]) == {0.0}        # no turn shares a word with the question it answers
    with pytest.raises(ValueError, match="turns=\\(2, 3\\)"):
        topics.make(turns=(2, 3))
