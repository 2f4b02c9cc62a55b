"""Made dialogues, the measure of evidence, and LoCoMo itself where MINIMEM_DATA names it."""
import json
import os
import random
import re

import pytest

from minimem import catalog
from minimem.tasks import dialogue
from minimem.tasks.dialogue import (
    Random,
    Recent,
    answer_recall,
    bootstrap,
    dated,
    evaluate,
    evidence_recall,
    facts,
    load,
    make,
    questions,
    sessions,
    summaries,
    turns,
)
from minimem.text.bm25 import BM25
from minimem.text.unit import Unit, fill

ALL = (1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def made():
    return make(n=4, seed=3)


def test_the_same_seed_gives_the_same_chats():
    assert make(2, seed=1) == make(2, seed=1) != make(2, seed=2)
    assert make(3, seed=1)[:2] == make(2, seed=1)
    with pytest.raises(ValueError, match="n=0"):
        make(0)
    with pytest.raises(ValueError, match="length=3"):
        make(1, length=3)
    assert len(sessions(make(1, length=4)[0])) == 4


def test_seed_0_is_the_same_everywhere():
    assert make(1, seed=0)[0]["qa"][0] == {"question": "Where does Dilan live now?", "answer": "Lima", "evidence": ["D9:13"], "category": 4}


def test_the_drawn_example_is_what_seed_0_gives():
    sample = make(1, seed=0)[0]
    text = {u.id: u.text for u in turns(sample)}
    asked = {(q.text, q.answer, " ".join(q.evidence)) for q in questions(sample)}
    shown = re.findall(r"^    (D\d+:\d+) +(.*?[.!?])(?: …|  .*)?$", dialogue.__doc__, re.M)
    drawn = re.findall(r"^    (\S.*\?)  +(\S.*?)  +(D[\dD: ]+)$", dialogue.__doc__, re.M)
    assert len(shown) == 4 and len(drawn) == 3
    assert all(text[i].startswith(said) for i, said in shown) and all((*d[:2], d[2].strip()) in asked for d in drawn)


def test_schema(made):
    for sample in made:
        chat, said = sample["conversation"], sessions(sample)
        days = [day for day, _ in said]
        assert days == sorted(days) and len(set(days)) == 12
        for i, (_, turns_) in enumerate(said, 1):
            assert [t["dia_id"] for t in turns_] == [f"D{i}:{j + 1}" for j in range(len(turns_))]
            assert {t["speaker"] for t in turns_} == {chat["speaker_a"], chat["speaker_b"]}
            told = sample["observation"][f"session_{i}_observation"]
            assert all(f in sample["session_summary"][f"session_{i}_summary"] for fs in told.values() for f, _ in fs)
            assert {n: [f for f, _ in fs] for n, fs in told.items()} | {"date": sample["event_summary"][f"events_session_{i}"]["date"]} == \
                sample["event_summary"][f"events_session_{i}"]
        assert any("[image: " in u.text for u in turns(sample))


def test_every_question_can_be_answered_from_its_evidence(made):
    for sample in made:
        said = {u.id: u for u in turns(sample)}
        people = [sample["conversation"][f"speaker_{x}"] for x in "ab"]
        for q in questions(sample, ALL):
            asked = [n for n in people if n in q.text]
            speakers = {said[e].meta["speaker"] for e in q.evidence}
            assert speakers.isdisjoint(asked) if q.category == 5 else speakers == set(asked)
            if q.category == 4 or q.category == 1 and "before" not in q.text:
                assert all(any(v in said[e].text for v in q.answer.split(", ")) for e in q.evidence), q


def test_an_old_value_is_no_evidence_for_now(made):
    for sample in made:
        said = {u.id: u for u in turns(sample)}
        now = {q.text: q for q in questions(sample) if re.search(r"\bnow\b|these days|at the moment", q.text)}
        for before in (q for q in questions(sample) if "living before" in q.text):
            old, new = before.evidence
            assert said[old].time < said[new].time
            assert any(q.evidence == (new,) for q in now.values())


def test_categories_and_size(made):
    asked = [q.category for s in made for q in questions(s, ALL)]
    assert all(asked.count(c) >= 10 for c in ALL)
    assert all(250 <= len(turns(s)) <= 400 for s in made)


def test_retrieval_is_neither_trivial_nor_hopeless(made):
    found, *_ = bootstrap(evaluate(made, BM25, ks=(10,))["R@10"])
    assert 0.35 < found < 0.8


def test_evidence_ids_are_read_as_locomo_writes_them():
    sample = {"qa": [{"question": "q", "answer": 2022, "evidence": e, "category": c} for e, c in
                     [(["D8:6; D9:17"], 1), (["D:11:26", "D"], 1), (["D30:05", "D30:5"], 2), ([], 3), (["D1:1"], 5)]]}
    assert [q.evidence for q in questions(sample)] == [("D8:6", "D9:17"), ("D11:26",), ("D30:5",)]
    assert questions(sample)[0].answer == "2022"


def test_evidence_recall():
    units = [Unit("D1:1", "x"), Unit("S1", "y", "summary", ("D1:2", "D1:3"))]
    assert evidence_recall(units, ["D1:1", "D1:3", "D9:9", "D9:8"]) == 0.5 and evidence_recall([], ["D1:1"]) == 0
    with pytest.raises(ValueError, match="evidence is empty"):
        evidence_recall(units, [])


def test_evaluate_counts_what_was_read(made):
    got = evaluate(made, Recent, ks=(10**6, 0), words=(10**6, 0))
    assert {k: {x for v in r for x in v} for k, r in got.items()} == {"R@1000000": {1}, "R@0": {0}, "words 1000000": {1}, "words 0": {0}}
    few, m = evaluate(made[:1], Recent, words=(300,))["words 300"][0], Recent()
    m.units = turns(made[0])
    assert 0 < sum(few) < len(few) and few == [evidence_recall(m.read(q.text, 300), q.evidence) for q in questions(made[0])]
    assert [len(v) for v in got["R@0"]] == [len(questions(s)) for s in made]


def test_baselines_do_not_listen(made):
    new, any_ = Recent(), Random()
    for unit in turns(made[0]):
        new.write(unit)
        any_.write(unit)
    assert new.rank("x", 2) == [turns(made[0])[-1], turns(made[0])[-2]]
    assert any_.rank("x") == any_.rank("x") != any_.rank("y") and set(map(id, any_.rank("x"))) == set(map(id, any_.units))
    assert sum(u.words for u in any_.read("x", 50)) <= 50


@pytest.mark.filterwarnings("error")
def test_bootstrap_leaves_out_conversations_without_questions():
    assert bootstrap([[], [1.0, 0.0], [0.5], []]) == bootstrap([[1.0, 0.0], [0.5]]) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="no conversation has a question"):
        bootstrap([[], []])


def test_iterators_may_be_used_once(made):
    once = evaluate(made[:2], Recent, ks=iter((1, 5)), words=iter((300,)), categories=iter((1, 4)))
    assert once == evaluate(made[:2], Recent, ks=(1, 5), words=(300,), categories=(1, 4)) and all(map(any, once["words 300"]))


def test_bootstrap_draws_conversations():
    assert bootstrap([[0.5, 0.5], [0.5]]) == (0.5, 0.5, 0.5)
    mean, low, high = bootstrap([[1.0] * 9, [0.0]])
    assert mean == 0.9 and low == 0.0 and high == 1.0                   # over questions: 0.9; over conversations: one may be drawn alone
    r = random.Random(0)
    mean, low, high = bootstrap([[r.random() for _ in range(50)] for _ in range(10)])
    assert low < mean < high and high - low < 0.15
    mean, low, high = bootstrap([[r.gauss(0, 1)] for _ in range(400)])
    assert 0.9 < (high - low) / (2 * 1.96 / 20) < 1.1                   # 95 % of a normal mean


def test_load_needs_a_name(monkeypatch):
    monkeypatch.delenv("MINIMEM_DATA", raising=False)
    with pytest.raises(ValueError, match="set MINIMEM_DATA"):
        load()


def test_load_from_nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIMEM_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no LoCoMo file at .*nowhere"):
        load()
    with pytest.raises(ValueError, match="no LoCoMo file at .*locomo10.json"):
        load(tmp_path)


GOOD = json.dumps(make(1, seed=0, length=4))


@pytest.mark.parametrize("text", ["", GOOD[: len(GOOD) // 2], "[]", "{}", "7", "null", "[[]]", '["x"]', GOOD.replace('"dia_id"', '"id"'), GOOD.replace('"qa"', '"q"'),
                                  re.sub(r"(\d+):(\d\d) (am|pm) on", "noon,", GOOD), GOOD.replace('"evidence": [', '"evidence": [7, ')])
def test_a_damaged_file_is_one_clear_error(tmp_path, text):
    (tmp_path / "locomo10.json").write_text(text)
    with pytest.raises(ValueError, match="is damaged or not locomo10.json"):
        load(tmp_path)


def test_what_is_made_can_be_loaded(tmp_path):
    (tmp_path / "mine.json").write_text(GOOD, encoding="utf8")
    assert load(tmp_path / "mine.json") == make(1, seed=0, length=4)


@pytest.mark.skipif("MINIMEM_DATA" not in os.environ, reason="MINIMEM_DATA names no LoCoMo file")
def test_locomo_gives_the_stored_numbers():
    samples, stored = load(), catalog.result("bm25")["data"]
    assert (len(samples), sum(len(turns(s)) for s in samples), sum(len(questions(s)) for s in samples)) == (10, 5882, 1536)
    for b, least in ((0.75, 57.0), (0.0, 59.5)):
        for name, found in evaluate(samples, lambda b=b: BM25(b=b), ks=(10,), words=(500,)).items():
            got = [round(100 * x, 1) for x in bootstrap(found)]
            assert got == stored["systems"][f"BM25 b={b:g}"][name]
            assert name != "R@10" or got[0] >= least


def test_facts_and_summaries_know_their_turns(made):
    for sample in made:
        said, noted = {u.id: u for u in turns(sample)}, facts(sample)
        assert noted and {u.kind for u in noted} == {"fact"} and len({u.id for u in noted}) == len(noted)
        for u in noted:
            (source,) = u.source_ids
            assert u.meta["speaker"] in u.text and said[source].meta == u.meta and said[source].time == u.time
        short = summaries(sample)
        assert [u.id for u in short] == [f"S{i}" for i in range(1, 13)]
        assert [i for u in short for i in u.source_ids] == list(said) and all(f.text in short[f.meta["session"] - 1].text for f in noted)


def test_facts_are_read_as_locomo_writes_them():
    sample = make(1, seed=0, length=4)[0]
    who = sample["conversation"]["speaker_b"]
    sample["observation"] = {"session_2_observation": {who: [["It rained.", ["D2:2", "D2:3"]], ["It snowed.", "D2:4; D2:05"]]}}
    assert [(u.id, u.text, u.source_ids, u.meta["session"]) for u in facts(sample)] == [("F2:1", "It rained.", ("D2:2", "D2:3"), 2), ("F2:2", "It snowed.", ("D2:4", "D2:5"), 2)]


def test_the_day_is_written_before_and_paid_for(made):
    unit = turns(made[0])[0]
    assert re.match(r"\d+ [A-Z][a-z]+ 20\d\d: ", dated(unit).text) and dated(unit).text.endswith(unit.text) and dated(unit).words == unit.words + 3
    assert dated(unit).id == unit.id and dated(unit).source_ids == unit.source_ids and dated(Unit("x", "y")) == Unit("x", "y")


def test_answer_recall():
    assert answer_recall([Unit("a", "She moved to Porto"), Unit("b", "in spring")], "Porto and Lima") == 0.5
    assert answer_recall([], "Porto") == 0 and answer_recall([], "no") != answer_recall([], "no")          # NaN: no terms, nothing to find


def test_evaluate_with_dates(made):
    found = evaluate(made[:1], BM25, words=(60, 10**6), dates=True)
    assert set(found) == {"words 60", "words 1000000", "answer 60", "answer 1000000"}
    m, asked = BM25(), questions(made[0])
    for unit in turns(made[0]):
        m.write(unit)
    read = [fill(map(dated, m.rank(q.text)), 60) for q in asked]
    assert all(sum(u.words for u in r) <= 60 for r in read) and found["words 60"][0] == [evidence_recall(r, q.evidence) for r, q in zip(read, asked)]
    assert found["answer 60"][0] == [answer_recall(r, q.answer) for r, q in zip(read, asked)]
    assert sum(evaluate(made[:1], BM25, words=(60,))["words 60"][0]) > sum(found["words 60"][0])          # dates cost words
    noted = evaluate(made[:1], BM25, words=(60,), units=facts, dates=True)["answer 60"][0]
    assert sum(noted) > sum(found["answer 60"][0])                                                       # short sentences say more in 60 words


def test_a_nan_has_no_say():
    assert bootstrap([[1.0, float("nan")], [float("nan")], [0.0]])[0] == 0.5
