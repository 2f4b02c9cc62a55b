"""Windows, sessions and extracts of a chat: nothing lost, nothing twice, every piece says what it was made of."""

import os

import networkx
import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from minimem import catalog
from minimem.tasks import dialogue
from minimem.tasks.dialogue import bootstrap, evaluate, evidence_recall, load, make, questions
from minimem.text.bm25 import BM25
from minimem.text.granularity import (
    Regrouped,
    at_random,
    by_session,
    centroid,
    density,
    informative,
    lead,
    pagerank,
    sessions,
    textrank,
    vectors,
    windows,
)
from minimem.text.memory_matters import Filtered
from minimem.text.unit import Unit, tokens

EXTRACTS = (lead, at_random, centroid, textrank, informative)


@pytest.fixture(scope="module")
def said():
    return dialogue.turns(make(1, seed=2)[0])


def turn(id, text, session=1, **more):
    return Unit(id, text, meta={"session": session}, **more)


def told(m, units):
    for u in units:
        m.write(u)
    return m


@pytest.mark.parametrize("cut", [windows, sessions, lambda t: windows(t, 1), lambda t: windows(t, 10**6)])
def test_a_cut_keeps_every_turn_once_and_its_words(said, cut):
    pieces = cut(said)
    assert [i for p in pieces for i in p.source_ids] == [u.id for u in said]
    assert sum(p.words for p in pieces) == sum(u.words for u in said) and len({p.id for p in pieces}) == len(pieces)
    at = {u.id: u for u in said}
    for p in pieces:
        assert p.text.split("\n") == [at[i].text for i in p.source_ids]
        assert {at[i].meta["session"] for i in p.source_ids} == {p.meta["session"]} and p.time == at[p.source_ids[0]].time


def test_windows_do_not_reach_over_a_session():
    chat = [turn(f"D{s}:{i}", "x", s) for s, n in ((1, 7), (2, 2)) for i in range(1, n + 1)]
    assert [(w.id, len(w.source_ids)) for w in windows(chat)] == [("W1:1", 3), ("W1:2", 3), ("W1:3", 1), ("W2:1", 2)]
    assert [(w.id, w.kind) for w in sessions(chat)] == [("D1", "session"), ("D2", "session")]
    assert windows([turn("a", "x", time=1.0), turn("b", "y", time=2.0)])[0].time == 1.0
    with pytest.raises(ValueError, match="width must be >= 1, saw 0"):
        windows(chat, 0)
    with pytest.raises(ValueError, match="'a' must name its session in meta, saw {}"):
        sessions([Unit("a", "x")])


@pytest.mark.parametrize("extract", EXTRACTS)
def test_an_extract_fits_its_budget_in_the_order_said_and_answers_for_the_whole_session(said, extract):
    for x, s in zip(extract(said, 60), sessions(said), strict=True):
        assert 0 < x.words <= 60 and x.source_ids == s.source_ids and (x.kind, x.id[0]) == ("summary", "X")
        rest = iter(s.text.split("\n"))
        assert all(line in rest for line in x.text.split("\n"))               # each found behind the one before
    assert extract(said, 0) == [] and extract(said, 60) == extract(said, 60)
    assert [x.text for x in extract(said, 10**6)] == [s.text for s in sessions(said)]


def test_what_each_extract_prefers():
    chat = [turn("1", "Ann: Hi there!"), turn("2", "Ann: cats sleep, cats eat, cats play"), turn("3", "Ann: my cats eat and my dogs sleep"),
            turn("4", "Ann: dogs eat, birds sleep too"), turn("5", "Ann: I went to Paris on 3 May.")]
    said = {u.text: u.id for u in chat}
    assert {f.__name__: [said[t] for t in f(chat, 8)[0].text.split("\n")] for f in (lead, centroid, textrank, informative)} == {
        "lead": ["1"], "centroid": ["3"], "textrank": ["3"], "informative": ["5"]}


@pytest.mark.oracle("granularity")
def test_vectors_and_ranks_are_those_of_scikit_learn_and_networkx(said):
    for some in by_session(said).values():
        x = vectors(some)
        theirs = TfidfVectorizer(analyzer=tokens, sublinear_tf=True).fit_transform(u.text for u in some).toarray()
        np.testing.assert_allclose(x @ x.T, theirs @ theirs.T, atol=1e-12)
        like = x @ x.T
        graph = networkx.from_numpy_array(like * (1 - np.eye(len(some))))
        want = networkx.pagerank(graph, alpha=0.85, tol=1e-12, max_iter=1000)
        np.testing.assert_allclose(pagerank(like), [want[i] for i in range(len(some))], atol=1e-9)


def test_the_centroid_is_the_mean_of_the_session(said):
    for some, got in zip(by_session(said).values(), centroid(said, 60), strict=True):
        x = vectors(some)
        best = max(range(len(some)), key=lambda i: sum(x[i] @ y for y in x) / len(x) if some[i].words <= 60 else -1)
        assert some[best].text in got.text.split("\n")


def test_a_turn_like_no_other_is_still_reached():
    like = np.array([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1.0]])
    s = pagerank(like)
    assert s.sum() == pytest.approx(1) and s[0] == pytest.approx(s[1]) and s[0] > s[2] > 0.05
    assert pagerank(np.ones((1, 1))) == pytest.approx([1]) and [x.text for x in textrank([turn("a", "")])] == [""]


def test_density_counts_what_happened_to_whom_and_when():
    assert density(turn("a", "Ann: I went to Paris on 3 May.")) == 4 / 8                     # I went, Paris, 3, May
    assert density(turn("a", "Ann: Thanks, Bob, so sweet!"), {"Ann", "Bob"}) == 0 < density(turn("a", "Ann: Thanks, Bob, so sweet!"))
    assert density(turn("a", "Yesterday we moved")) == 2 / 3 and density(turn("a", "")) == 0


def test_chance_is_drawn_turn_by_turn_so_that_a_new_turn_moves_no_other(said):
    assert at_random(said, 60, seed=1) != at_random(said, 60, seed=2)
    assert at_random(said[:-1], 60)[0] == at_random(said, 60)[0]


# ------------------------------------------------------------------ a memory of pieces

@pytest.mark.parametrize("cut", [windows, sessions, textrank])
def test_regrouping_reads_as_if_the_pieces_had_been_written(said, cut):
    m, want, bits = told(Regrouped(cut, BM25()), said), told(BM25(), cut(said)), Regrouped(cut, BM25())
    for i, u in enumerate(said):
        bits.write(u)
        if i % 7 == 0:
            bits.read("lake")
    for q in questions(make(1, seed=2)[0])[:10]:
        assert m.rank(q.text, 5) == want.rank(q.text, 5) == bits.rank(q.text, 5)
        assert m.read(q.text, 90) == want.read(q.text, 90)
        np.testing.assert_array_equal(m.scores(q.text), want.scores(q.text))
    assert m.units == bits.units == want.units


def test_only_a_session_that_changed_is_cut_again(said):
    cuts = []

    def cut(turns):
        cuts.append(turns[0].meta["session"])
        return windows(turns)
    m = told(Regrouped(cut, BM25()), said)
    assert cuts == []
    m.read("lake")
    assert cuts == list(range(1, 13))
    m.rank("lake")
    m.scores("lake")
    assert len(cuts) == 12
    m.write(turn("D3:99", "A zebra.", 3))
    assert [u.source_ids[-1] for u in m.read("zebra")] == ["D3:99"] and cuts[12:] == [3]


def test_a_turn_told_again_keeps_its_place_and_leaves_no_trace(said):
    m = told(Regrouped(windows, BM25()), [turn("a", "a cat"), turn("b", "a dog"), turn("c", "a bird"), turn("d", "a fish")])
    assert [u.id for u in m.read("cat")] == ["W1:1"]
    m.write(turn("b", "a zebra"))
    assert m.units["W1:1"].text == "a cat\na zebra\na bird" and m.read("dog") == []
    m.write(turn("d", "a fish", 2))                                                          # it was another session's
    assert set(m.units) == {"W1:1", "W2:1"} and [u.id for u in m.read("fish")] == ["W2:1"]


def test_forgetting_a_turn_forgets_it_in_its_piece():
    m = told(Regrouped(windows, BM25()), [turn("a", "my cat Tom", expires=10.0), turn("b", "a dog"), turn("c", "cat", 2, expires=20.0)])
    assert len(m.units) == 2 and m.forget(9) == 0 and m.forget(10) == 1 and m.forget(10) == 0
    assert m.read("Tom") == [] and m.units["W1:1"].source_ids == ("b",)
    assert m.forget(20) == 1 and set(m.units) == {"W1:1"} and m.rank("cat") == []
    assert m.sizes() == {"turns": len("ba dog"), **m.memory.sizes()} and m.nbytes() == sum(m.sizes().values())
    with pytest.raises(ValueError, match="now must be"):
        m.forget(float("nan"))


def test_a_cut_that_fails_loses_nothing():
    broken = [True]

    def cut(turns):
        if broken[0]:
            raise RuntimeError("no answer")
        return windows(turns)
    m = told(Regrouped(cut, BM25()), [turn("a", "a cat")])
    for _ in range(2):
        with pytest.raises(RuntimeError):
            m.read("cat")
    broken[0] = False
    assert [u.id for u in m.read("cat")] == ["W1:1"]


def test_a_memory_that_fails_between_two_pieces_is_told_the_rest_at_the_next_read():
    class Failing(BM25):
        left = [False, True]

        def write(self, record):
            if self.left and self.left.pop(0):
                raise OSError("the disk is full")
            super().write(record)
    m = told(Regrouped(lambda t: windows(t, 1), Failing()), [turn("a", "one cat"), turn("b", "two dogs")])
    with pytest.raises(OSError, match="full"):
        m.rank("dogs")
    assert [u.text for u in m.rank("dogs")] == ["two dogs"] and [u.text for u in m.rank("cat")] == ["one cat"]


def test_pieces_can_be_kept_by_a_memory_around_another():
    m = told(Regrouped(lambda t: windows(t, 1), Filtered(BM25())), [turn("a", "one cat"), turn("b", "two cats", expires=1.0)])
    assert len(m.rank("cat")) == 2 and m.forget(1.0) == 1 and [u.text for u in m.rank("cat")] == ["one cat"]
    m.write(turn("a", "one dog"))
    assert m.rank("cat") == [] and [u.text for u in m.rank("dog")] == ["one dog"]


def test_sessions_that_look_alike_are_two():
    chat = [turn("a", "one cat", 1), turn("b", "two cats", "1")]
    for cut in (windows, sessions, lead):
        assert len({u.id for u in cut(chat)}) == 2 and len(told(Regrouped(cut, BM25()), chat).rank("cat")) == 2


def test_wrong_cuts_and_records():
    for cut in (lambda t: [*windows(t), *windows(t)], lambda t: [Unit("same", "x")]):
        with pytest.raises(ValueError, match="cut must give every piece an id of its own"):
            told(Regrouped(cut, BM25()), [turn("a", "x"), turn("b", "y", 2)]).read("x")
    m = Regrouped(windows, BM25())
    with pytest.raises(ValueError, match="must be a Unit, saw str"):
        m.write("a cat")
    with pytest.raises(ValueError, match="must name its session"):
        m.write(Unit("a", "a cat"))
    assert m.rank("cat") == [] and m.scores("cat").shape == (0,) and m.units == {} and m.forget(0) == 0
    with pytest.raises(ValueError, match="k must be >= 0"):
        m.rank("cat", -1)


def test_the_same_evidence_counted_by_hand(said):
    """Closed form: a budget for all words finds all evidence; a session credits all its turns, a window its own."""
    sample = make(1, seed=2)[0]
    for cut in (windows, sessions):
        m = told(Regrouped(cut, BM25(b=0)), said)
        for q in questions(sample)[:10]:
            best = m.rank(q.text, 1)[0]
            assert evidence_recall([best], q.evidence) == sum(e in best.source_ids for e in q.evidence) / len(q.evidence)
    assert {x for v in evaluate([sample], lambda: Regrouped(sessions, BM25()), words=(10**6,))["words 1000000"] for x in v} == {1.0}


@pytest.mark.skipif("MINIMEM_DATA" not in os.environ, reason="MINIMEM_DATA names no LoCoMo file")
def test_locomo_gives_the_stored_numbers():
    samples, stored = load(), catalog.result("granularity")["data"]
    for name, cut, n in (("window of 3", windows, 2058), ("session", sessions, 272), ("extract: informative", informative, 272)):
        assert sum(len(cut(dialogue.turns(s))) for s in samples) == n
        for k, v in evaluate(samples, BM25, (10,), (1000,), units=lambda s, cut=cut: cut(dialogue.turns(s)), dates=True).items():
            assert [round(100 * x, 1) for x in bootstrap(v)] == stored["systems"][f"{name}, BM25"][k]
