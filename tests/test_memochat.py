"""Memos by topic: found by their topic, and whatever a model answers, every turn stays where it can be reached."""
import json
import math
import random

import numpy as np
import pytest

from minimem.tasks.dialogue import evaluate, make, turns
from minimem.text.dense import LSA, Dense
from minimem.text.llm import Counted, Refused, Rules, Unreachable, quoted
from minimem.text.memochat import MemoChat, by_terms
from minimem.text.unit import Unit

ABOUT = ["cat", "lake", "piano"]


def turn(i, text=None):
    return Unit(f"D1:{i}", text or f"Ada: w{i}x of the {ABOUT[i // 4 % 3]}", time=float(i))


def told(memory, n, start=0):
    for i in range(start, start + n):
        memory.write(turn(i))
    return memory


def halves(messages):
    """A model that cuts in two, each half under a topic of its own words."""
    said = quoted(messages)
    cut = len(said) // 2
    return {"memos": [{"topic": f"topic{said[a]['id'][3:]}", "summary": f"About {said[a]['text'].split()[1]}.", "start": a + 1, "end": b}
                      for a, b in ((0, cut), (cut, len(said)))]}


def reached(memory, n):
    """The turns that some question brings back: the words of each memo, and of each turn."""
    asked = [m.option for m in memory.memos] + [turn(i).text for i in range(n)]
    return {u.id for q in asked for u in memory.rank(q) if u.kind == "turn"}


def everything(n):
    return {f"D1:{i}" for i in range(n)}


# ------------------------------------------------------------------ writing

def test_memos_are_written_at_ten_recent_turns_and_two_stay():
    llm = Counted(Rules(halves))
    m = told(MemoChat(llm), 9)
    assert llm.calls == 0 and len(m.recent) == 9 and m.memos == []
    m.write(turn(9))
    assert llm.calls == 1 and [u.id for u in m.recent] == ["D1:8", "D1:9"]
    assert [[u.id for u in memo.turns] for memo in m.memos] == [[f"D1:{i}" for i in r] for r in (range(4), range(4, 8))]
    assert list(m.topics) == ["topic0", "topic4"] and m.topics["topic4"] == [m.memos[1]]
    told(m, 8, 10)
    assert llm.calls == 2 and len(m.memos) == 4 and set(m.units) == everything(18)


def test_memos_are_written_when_the_recent_turns_fill_half_the_window():
    llm = Counted(Rules(halves))
    m = MemoChat(llm, window=40)
    for i in range(6):
        m.write(turn(i))                                        # 5 words each
    assert llm.calls == 1 and len(m.recent) == 3 and len(m.units) == 6
    m = MemoChat(llm := Counted(Rules(halves)), window=4)
    m.write(turn(0))
    m.write(turn(1))
    assert llm.calls == 0 and len(m.recent) == 2                # two always stay
    m.write(turn(2))
    assert llm.calls == 2 and len(m.recent) == 2 and m.failures == 1 and set(m.units) == everything(3)      # one turn cannot be halved


def test_the_model_is_shown_the_turns_and_how_many():
    seen = []
    told(MemoChat(Rules(lambda messages: seen.append(messages) or halves(messages))), 10)
    assert [q["text"] for q in quoted(seen[0])] == [turn(i).text for i in range(8)] and "the last ends at 8" in seen[0][1]["content"]


# ------------------------------------------------------------------ reading

def test_a_memo_is_found_by_its_topic_and_read_with_summary_and_turns():
    m = told(MemoChat(Rules(halves)), 26)
    for memo in m.memos:
        first, *rest = m.rank(memo.topic)
        assert first.kind == "summary" and first.text == f"{memo.topic}. {memo.summary}" and first.source_ids == tuple(u.id for u in memo.turns) and first.time == memo.turns[0].time
        assert rest[:len(memo.turns)] == list(memo.turns) and rest[-2:] == m.recent[::-1] and len(rest) == len(memo.turns) + 2
    assert m.rank("zebra") == m.recent[::-1] and m.rank("topic4", 3) == m.rank("topic4")[:3]
    assert [u.id for u in m.read("topic4", words=8)] == ["memo of D1:4", "D1:4"]           # three words and five


def test_the_same_topic_again_adds_to_it():
    m = told(MemoChat(Rules(lambda messages: {"memos": [{"topic": " Pets ", "summary": "About pets.", "start": 1, "end": len(quoted(messages))}]})), 18)
    assert list(m.topics) == ["Pets"] and len(m.topics["Pets"]) == 2 and len(m.rank("pets")) == 2 + 16 + 2


def test_a_model_may_choose_by_number():
    seen = []

    def choose(messages):
        seen.append(messages)
        return {"numbers": [3, 1, 3]}
    m = told(MemoChat(Rules(halves), Rules(choose)), 18)
    assert [u.id for u in m.rank("Which?") if u.kind == "summary"] == ["memo of D1:8", "memo of D1:0"]
    assert [q["text"] for q in quoted(seen[0])] == [memo.option for memo in m.memos] and seen[0][1]["content"].endswith("Message: Which?")
    assert told(MemoChat(Rules(halves), Rules(lambda messages: {"numbers": []})), 18).rank("w0x") == told(MemoChat(Rules(halves)), 18).recent[::-1]
    assert MemoChat(Rules(halves), Rules(choose)).rank("Which?") == [] and len(seen) == 1


@pytest.mark.parametrize("answer", [{"numbers": [0]}, {"numbers": [5]}, {"numbers": ["1"]}, {"numbers": [1.5]}, "2#3", {"numbers": [10**30]}, {}])
def test_where_a_choice_cannot_be_used_the_index_chooses(answer):
    m, plain = told(MemoChat(Rules(halves), Rules(lambda messages: answer)), 18), told(MemoChat(Rules(halves)), 18)
    assert m.rank("topic4") == plain.rank("topic4") and m.failures == 1 and m.why


def test_a_number_may_be_written_with_a_point():
    m = told(MemoChat(Rules(lambda messages: json.dumps(halves(messages)).replace("4}", "4.0}")), Rules(lambda messages: '{"numbers": [2.0]}')), 10)
    assert m.failures == 0 and len(m.memos) == 2 and m.rank("x")[0].id == "memo of D1:4"


def test_any_retriever_may_rank_the_options():
    m = told(MemoChat(Rules(halves), index=Dense(LSA(2))), 26)
    assert {u.id for u in m.rank("topic4") if u.kind == "turn"} == everything(26)                                    # vectors rank all
    assert m.rank("topic4")[0].id == "memo of D1:4"


# ------------------------------------------------------------------ failures

BAD = ["", "no", "[]", "null", {"memos": []}, {"memos": [{}]}, {"memos": "x"},
       {"memos": [{"topic": "a1", "summary": "b1", "start": 1, "end": 7}]},                                          # one turn left out at the end,
       {"memos": [{"topic": "a1", "summary": "b1", "start": 2, "end": 8}]},                                          # at the start,
       {"memos": [{"topic": "a1", "summary": "b1", "start": 1, "end": 3}, {"topic": "a2", "summary": "b2", "start": 5, "end": 8}]},      # between,
       {"memos": [{"topic": "a1", "summary": "b1", "start": 1, "end": 5}, {"topic": "a2", "summary": "b2", "start": 5, "end": 8}]},      # twice,
       {"memos": [{"topic": "a1", "summary": "b1", "start": 1, "end": 9}]},                                          # beyond the end,
       {"memos": [{"topic": "a1", "summary": "b1", "start": 1, "end": 0}, {"topic": "a2", "summary": "b2", "start": 1, "end": 8}]},      # end before start
       {"memos": [{"topic": "a1", "summary": "b1", "start": 1, "end": 8.5}]}, {"memos": [{"topic": " ", "summary": "b1", "start": 1, "end": 8}]},
       {"memos": [{"topic": "?", "summary": "It was.", "start": 1, "end": 8}]}]                                      # nothing to be found by


@pytest.mark.parametrize("answer", BAD)
def test_after_a_failure_every_turn_can_be_reached(answer):
    m = told(MemoChat(Rules(lambda messages: answer)), 50)
    assert m.failures == 6 and m.why and set(m.topics) == {""} and set(m.units) == reached(m, 50) == everything(50)
    for i in range(48):
        assert f"D1:{i}" in {u.id for u in m.read(f"w{i}x", words=8 * 5)}             # alone, by a word of its own, within the words of its memo


def test_after_a_failure_a_good_answer_goes_on():
    answers = ["no", "no"]
    m = told(MemoChat(Rules(lambda messages: answers.pop() if answers else halves(messages))), 18)
    assert m.failures == 1 and list(m.topics) == ["", "topic8", "topic12"] and reached(m, 18) == everything(18)


class Released(MemoChat):
    """What the released code does: turns that could not be filed are never chosen."""

    def choose(self, query):
        return [m for m in super().choose(query) if m.topic]


def test_in_the_released_code_a_failure_loses_the_turns():
    m = told(Released(Rules(lambda messages: "no")), 50)
    assert reached(m, 50) == {"D1:48", "D1:49"} and m.failures == 6


@pytest.mark.parametrize("seed", range(6))
def test_whatever_a_model_answers_every_turn_can_be_reached(seed):
    r = random.Random(seed)

    def value(depth=0):
        some = [r.randint(-2, 12), r.random(), "", "word", None, True, {}, []]
        if depth < 3:
            some += [[value(depth + 1) for _ in range(r.randint(0, 3))],
                     {k: value(depth + 1) for k in r.sample(["memos", "topic", "summary", "start", "end", "numbers"], r.randint(0, 5))}]
        return r.choice(some)

    def ranges(messages):
        cuts = sorted(r.sample(range(0, 11), r.randint(1, 4)))
        return {"memos": [{"topic": f"topic {r.randint(0, 3)}", "summary": "Said.", "start": a + r.randint(0, 1), "end": b} for a, b in zip([0, *cuts], [*cuts, 8])]}

    def rule(messages):
        good = json.dumps(halves(messages))
        return r.choice([good, good, good[:r.randint(0, len(good))], value(), {"memos": value()}, ranges(messages), ranges(messages)])
    m = MemoChat(Rules(rule), Rules(lambda messages: r.choice([value(), {"numbers": value()}, {"numbers": [r.randint(-1, 9)]}])))
    for n in range(1, 121):
        m.write(turn(n - 1))
        assert [u.id for u in m.units.values()] == [f"D1:{i}" for i in range(n)] and len(m.recent) < 10              # all there, in order
        m.rank("w3x")
    wrong, m.chooser = m.failures, None
    assert wrong > 10 and any(memo.topic for memo in m.memos) and reached(m, 120) == everything(120)


def test_a_refusal_is_raised_and_the_turn_is_kept():
    def refuse(messages):
        raise Refused("wrong key")
    m = told(MemoChat(Rules(refuse)), 9)
    for i in (9, 10):
        with pytest.raises(Refused):
            m.write(turn(i))
    assert len(m.recent) == 11 and m.memos == []
    m.llm = Rules(halves)
    told(m, 1, 11)
    assert set(m.units) == everything(12) and len(m.recent) == 2 and m.failures == 0


def test_a_server_that_cannot_be_reached_is_a_failure_like_any_other():
    def gone(messages):
        raise Unreachable("gone")
    m = told(MemoChat(Rules(gone), Rules(gone)), 20)
    assert m.failures == 2 and m.why == "gone" and reached(m, 20) == everything(20)


# ------------------------------------------------------------------ changing, forgetting, measuring

def test_a_turn_written_again_leaves_no_trace_in_a_summary():
    m = told(MemoChat(Rules(lambda messages: {"memos": [{"topic": "all", "summary": quoted(messages)[3]["text"], "start": 1, "end": 8}]})), 10)
    assert m.rank("w3x")[0].kind == "summary"
    m.write(turn(3, "Ada: something else"))
    assert all("w3x" not in u.text for q in ("w3x", "w4x", "all") for u in m.rank(q)) and m.failures == 0
    assert [u.id for u in m.recent] == ["D1:8", "D1:9", "D1:3"] and reached(m, 10) == everything(10)


def test_what_expires_goes_with_the_summary_that_may_tell_of_it():
    m = MemoChat(Rules(halves))
    for i in range(10):
        m.write(Unit(f"D1:{i}", turn(i).text, expires=5.0 if i == 1 else 7.0 if i in (4, 5, 6, 7) else None))
    assert m.forget(4.0) == 0 and list(m.topics) == ["topic0", "topic4"]
    assert m.forget(5.0) == 1 and list(m.topics) == ["", "topic4"] and [u.id for u in m.rank("w2x")][:3] == ["D1:0", "D1:2", "D1:3"]
    assert m.forget(7.0) == 4 and [len(memo.turns) for memo in m.memos] == [3] and m.rank("topic4") == m.recent[::-1]
    with pytest.raises(ValueError, match="now must be"):
        m.forget(math.nan)


def test_bytes():
    m = told(MemoChat(Rules(halves)), 10)
    sizes = m.sizes()
    assert sizes["text"] == sum(len(turn(i).text) + 2 * len(f"D1:{i}") for i in range(10))
    assert sizes["memos"] == sum(len(x.topic + x.summary) for x in m.memos) and sizes["index"] == m.index.nbytes() and m.nbytes() == sum(sizes.values())


def test_rules_file_made_chats_and_their_memos_find_evidence():
    sample = make(1, seed=5)[0]
    said = turns(sample)
    m = MemoChat(llm := Counted(by_terms()))
    for unit in said:
        m.write(unit)
    assert m.failures == 0 and llm.calls == (len(said) - 2) // 8 and sum(len(memo.turns) for memo in m.memos) + len(m.recent) == len(said)
    assert all(memo.topic and len(memo.turns) >= 3 for memo in m.memos)
    found = evaluate([sample], lambda: MemoChat(by_terms()), words=(500,))["words 500"][0]
    assert np.mean(found) > 0.2


@pytest.mark.parametrize("text", ["😀", "", "the", "Ada: yes"])
def test_rules_file_turns_without_terms(text):
    m = MemoChat(by_terms())
    for i in range(10):
        m.write(Unit(f"D1:{i}", text))
    assert m.failures == 0 and len(m.memos) == 2 and len(m.units) == 10


def test_wrong_uses():
    m = MemoChat(by_terms())
    with pytest.raises(ValueError, match="must be a Unit, saw str"):
        m.write("a cat")
    with pytest.raises(ValueError, match="k must be >= 0"):
        m.rank("", -1)
    assert m.rank("x") == [] and m.nbytes() == m.index.nbytes()
