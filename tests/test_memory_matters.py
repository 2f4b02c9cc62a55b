"""Filters by speaker, day and kind: exactly what they name is hidden, the order of the rest stays, and a question in doubt hides nothing."""
import math

import numpy as np
import pytest

from minimem.tasks.dialogue import evaluate, evidence_recall, make, questions, turns
from minimem.text.bm25 import BM25
from minimem.text.memory_matters import Filtered, between, named, of_kind, said_by
from minimem.text.unit import Unit


def unit(id, text, speaker=None, **more):
    return Unit(id, text, meta={"speaker": speaker} if speaker else {}, **more)


@pytest.fixture
def memory():
    m = Filtered(BM25(b=0))
    for u in (unit("a", "Ann: I camped by the lake", "Ann", time=10.0), unit("b", "Bob: I camped in Chile", "Bob", time=20.0),
              unit("c", "Ann: and Bob camped", "Ann", time=30.0), unit("s", "Ann and Bob camped", kind="summary", time=30.0), unit("d", "Ann: camped again", "Ann")):
        m.write(u)
    return m


def ids(units):
    return [u.id for u in units]


def test_one_name_reads_what_that_speaker_said(memory):
    assert set(ids(memory.rank("Where has Ann camped?"))) == {"a", "c", "s", "d"}
    assert set(ids(memory.rank("where has bob camped?"))) == {"b", "s"}            # of Ann's turns not even the one that names Bob


@pytest.mark.parametrize("question", ["Who camped?", "Where have Ann and Bob camped?", "Has Annie camped?", "Where has Carl camped?"])
def test_none_or_two_names_hide_nothing(memory, question):
    assert memory.rank(question) == memory.memory.rank(question) and len(memory.rank(question)) == 5


@pytest.mark.oracle("memory_matters")
def test_a_filter_is_a_hidden_part_of_the_same_ranking():
    """Closed form: the filtered ranking is the plain one without the other speaker's turns; counted on made chats, question by question."""
    for sample in make(2, seed=5):
        m = Filtered(BM25(b=0))
        for u in turns(sample):
            m.write(u)
        people = [sample["conversation"][f"speaker_{x}"] for x in "ab"]
        for q in questions(sample):
            who = [n for n in people if n in q.text]
            want = [u for u in m.memory.rank(q.text) if len(who) != 1 or u.meta["speaker"] == who[0]]
            assert m.rank(q.text) == want and m.rank(q.text, 3) == want[:3]
            left, took = 100, []
            for u in want:
                if u.words <= left:
                    took, left = [*took, u], left - u.words
            assert m.read(q.text, 100) == took


def test_with_the_right_speaker_no_evidence_is_hidden():
    sample = make(1, seed=5)[0]
    m = Filtered(BM25(b=0))
    for u in turns(sample):
        m.write(u)
    for q in questions(sample):
        assert evidence_recall(m.rank(q.text), q.evidence) == evidence_recall(m.memory.rank(q.text), q.evidence)
    plain, kept = (np.mean([x for v in evaluate([sample], f, words=(125,))["words 125"] for x in v]) for f in (lambda: BM25(b=0), lambda: Filtered(BM25(b=0))))
    assert kept >= plain


def test_a_filter_of_ones_own_goes_before_the_question(memory):
    assert ids(memory.read("Where has Ann camped?", where=between(15, 25))) == ["d", "b"]
    assert set(ids(memory.rank("camped", where=of_kind("summary")))) == {"s"}
    assert set(ids(memory.rank("camped", where=said_by("Ann")))) == {"a", "c", "s", "d"}
    assert memory.rank("camped", where=lambda u: False) == []
    assert ids(memory.rank("camped lake", 1, where=lambda u: "turn" == u.kind and u.time == 20)) == ["b"]


def test_days_are_kept_with_both_ends_and_an_unknown_day_is_not_hidden():
    assert [between(10, 20)(unit("x", "y", time=t)) for t in (9.9, 10, 20, 20.1, None)] == [False, True, True, False, True]


def test_names_are_whole_words():
    assert named("What did Jon's wife give JON?", ["Jon", "Jo", "Gina"]) == ["Jon"]
    assert named("Jonathan, joni and x_Jon", ["Jon"]) == [] and named("", ["Jon"]) == [] and named("a.b", ["a.b"]) == ["a.b"] != named("axb", ["a.b"])
    assert named("小李现在住在哪里？", ["小李", "小王"]) == ["小李"] and named("小李和小王", ["小李", "小王"]) == ["小李", "小王"]
    assert named("Where is José?", ["José", "Jos"]) == ["José"] and named("iPhone手机 of Ann的", ["Ann"]) == ["Ann"]


def test_scores_hide_what_may_not_be_read(memory):
    plain, s = memory.memory.scores("Ann camped"), memory.scores("Ann camped")
    assert list(np.isneginf(s)) == [False, True, False, False, False] and (s[[0, 2, 3, 4]] == plain[[0, 2, 3, 4]]).all()
    assert np.isneginf(memory.scores("Ann", where=lambda u: False)).all() and math.isfinite(memory.scores("they").sum())


def test_it_is_a_memory_like_the_one_it_is_put_around(memory):
    assert memory.nbytes() == memory.memory.nbytes() and list(memory.units) == ["a", "b", "c", "s", "d"]
    memory.write(unit("e", "Eve: a zebra", "Eve", expires=1.0))
    assert ids(memory.read("Did Eve see a zebra?")) == ["e"] and memory.forget(1) == 1 and memory.rank("zebra") == []
    assert named("Eve", [u.meta.get("speaker", "") for u in memory.units.values()]) == []
    memory.write(Unit("f", "seven camped", meta={"speaker": 7}))
    memory.write(Unit("g", "somebody camped", meta={"speaker": ""}))
    memory.write(Unit("h", "who camped?", meta={"speaker": None}))
    assert set(ids(memory.rank("Where has Ann camped?"))) == {"a", "c", "s", "d", "g", "h"}             # an unknown speaker hides nothing
    assert len(memory.rank("they camped")) == 8                                                         # what is no name is asked by nobody
    assert Filtered(BM25()).rank("Ann") == [] and Filtered(BM25()).scores("Ann").shape == (0,)
    with pytest.raises(ValueError, match="k must be >= 0"):
        memory.rank("Ann", -1)
    with pytest.raises(ValueError, match="words is a budget"):
        memory.read("Ann", -1)
    with pytest.raises(ValueError, match="must be a Unit"):
        memory.write("Ann")
