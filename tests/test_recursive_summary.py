"""One text written anew after every session: what survives follows a law, what a model fails to sum up is kept, and the state stays small."""
import math
import random
from collections import Counter

import numpy as np
import pytest
from scipy.stats import binom, hypergeom

from minimem.tasks.dialogue import evaluate, make
from minimem.text.llm import Counted, Refused, Rules, Unreachable, quoted
from minimem.text.recursive_summary import RecursiveSummary, extractive
from minimem.text.unit import Unit


def session(i, n=4, **more):
    return [Unit(f"D{i}:{j}", f"turn {i} {j}", time=float(i), meta={"session": i}, **more) for j in range(1, n + 1)]


def told(memory, sessions, n=4):
    for i in sessions:
        for unit in session(i, n):
            memory.write(unit)
    memory.end()
    return memory


def chance(seed):
    r = random.Random(seed)
    return lambda units: [r.random() for _ in units]


def newest(units):
    return range(len(units))


# ------------------------------------------------------------------ the law

@pytest.mark.oracle("recursive_summary")
def test_a_sentence_kept_each_time_with_chance_p_survives_n_times_with_chance_p_to_the_n():
    r, p, s, N = random.Random(1), 0.7, 40, 30
    m = told(RecursiveSummary(Rules(lambda messages: {"memory": [q["text"] for q in quoted(messages) if r.random() < p]}), words=10**6), range(1, N + 1), s)
    alive = Counter(N + 1 - u.meta["session"] for u in m.memory)                         # by the number of writings it came through
    assert m.writings == N and m.failures == 0
    for n in range(1, 13):
        low, high = binom.interval(1 - 1e-4, s, p**n)
        assert low <= alive[n] <= high, n
    for lo, hi in ((1, 4), (5, 9), (10, 30)):                                            # and all together
        mean, var = (sum(f(p**n) for n in range(lo, hi + 1)) for f in (lambda x: s * x, lambda x: s * x * (1 - x)))
        assert abs(sum(alive[n] for n in range(lo, hi + 1)) - mean) < 4 * math.sqrt(var) + 1


@pytest.mark.oracle("recursive_summary")
def test_the_exact_law_when_k_sentences_are_drawn_without_replacement():
    """Of 6 sentences of the second session: how many are left after three writings, against a chain of hypergeometric laws."""
    k, s, runs, writings = 9, 6, 200, 3
    left = np.zeros(s + 1)
    for seed in range(runs):
        m = told(RecursiveSummary(extractive(3 * k, chance(seed)), words=3 * k), range(1, writings + 3), s)
        assert len(m.memory) == k
        left[sum(u.meta["session"] == 2 for u in m.memory)] += 1 / runs
    law = np.eye(s + 1)[s]                                                               # all 6 are there ...
    for _ in range(writings + 1):                                                        # ... at the writing of their own session, and three more
        law = np.array([sum(law[a] * hypergeom.pmf(b, k + s, a, k) for a in range(s + 1)) for b in range(s + 1)])
    p = k / (k + s)
    assert np.arange(s + 1) @ law == pytest.approx(s * p ** (writings + 1), rel=1e-9)    # the mean is the geometric law
    assert np.abs(np.cumsum(left) - np.cumsum(law)).max() < math.sqrt(math.log(2 / 1e-3) / (2 * runs))
    assert abs(np.arange(s + 1) @ left / s - p ** (writings + 1)) < 0.04 < p**writings - p ** (writings + 1)


def test_what_survives_is_as_much_as_fits_whatever_its_age():
    m = told(RecursiveSummary(extractive(30, chance(0)), words=30), range(1, 20))
    assert sum(u.words for u in m.memory) == 30 and len({u.meta["session"] for u in m.memory}) > 2


# ------------------------------------------------------------------ the memory

def test_a_session_is_summed_up_when_the_next_begins():
    llm = Counted(extractive(6, newest))
    m = RecursiveSummary(llm, words=6)
    for unit in session(1):
        m.write(unit)
    assert llm.calls == 0 and [u.id for u in m.rank("")] == ["D1:4", "D1:3", "D1:2", "D1:1"]
    m.write(session(2)[0])
    assert llm.calls == 1 and [u.id for u in m.rank("any")] == ["D1:3", "D1:4", "D2:1"] and m.writings == 1
    m.end()
    m.end()
    assert llm.calls == 2 and [u.id for u in m.read("any", 6)] == ["D1:4", "D2:1"] and m.rank("", 1) == m.rank("")[:1]
    assert [u.id for u in m.read("any", 3)] == ["D1:4"]


def test_the_model_is_given_the_memory_and_the_session_and_nothing_else():
    seen = []
    m = told(RecursiveSummary(Rules(lambda messages: seen.append(messages) or {"memory": ["Ada met Bo."]}), words=5), (1, 2))
    assert [q["text"] for q in quoted(seen[1])] == ["Ada met Bo.", *(u.text for u in session(2))]
    assert "The first 1 notes" in seen[1][1]["content"] and "other 4 are" in seen[1][1]["content"] and "at most 5 words" in seen[1][1]["content"]
    assert [(u.id, u.text, u.kind, u.source_ids, u.time) for u in m.memory] == [("memory 1.1", "Ada met Bo.", "summary", ("memory 1.1",), 1.0)]


def test_what_is_copied_keeps_its_source_and_its_day_and_what_is_written_names_itself():
    m = told(RecursiveSummary(Rules(lambda messages: {"memory": ["turn 1 2", "Something new.", "turn 1 2"]}), words=9), (1,))
    assert [u.id for u in m.memory] == ["D1:2", "memory 1.2"] and m.memory[0] == session(1)[1]


def test_the_state_does_not_grow():
    sizes = [told(RecursiveSummary(extractive(30, newest), words=30), range(i, i + n)).nbytes() for i, n in ((10, 10), (10, 80))]
    assert sizes[0] == sizes[1] == 10 * (len("turn 10 1") + 2 * len("D10:1"))


def test_made_chats_are_evaluated_as_any_memory_is():
    sample = make(1, seed=5)
    found = evaluate(sample, lambda: RecursiveSummary(extractive(600, chance(0)), words=600), ks=(5,), words=(600,))
    assert 0 < np.mean(found["words 600"][0]) < 0.6 and np.mean(found["R@5"][0]) < 0.2


# ------------------------------------------------------------------ failures

def failing(pattern, inner):
    """A model that fails where the pattern says so, call by call."""
    left = list(pattern)

    def rule(messages):
        if left and left.pop(0):
            raise Unreachable("gone")
        return inner.complete(messages).text
    return Rules(rule)


def test_a_failure_drops_nothing_and_is_tried_again_after_the_next_session():
    m = RecursiveSummary(failing([0, 1, 1, 0, 0, 0], extractive(6, newest)), words=6)
    for i in (1, 2, 3, 4):
        for unit in session(i):
            m.write(unit)
    assert (m.failures, m.writings, m.why) == (2, 1, "gone") and [u.id for u in m.memory] == ["D1:3", "D1:4"]
    assert [u.id for u in m.rank("")] == ["D1:3", "D1:4", *(f"D{i}:{j}" for i in (4, 3, 2) for j in (4, 3, 2, 1))]
    m.end()
    assert m.writings == 4 and [u.id for u in m.memory] == ["D4:3", "D4:4"] and m.waiting == []
    whole = told(RecursiveSummary(extractive(6, newest), words=6), (1, 2, 3, 4))
    assert m.memory == whole.memory                                                      # as if it had never failed


@pytest.mark.parametrize("answer", ["no", {"memory": []}, {"memory": [" "]}, {"memory": ["…"]}, {"memory": ["x", "-"]}, {"memory": ["one two three four five six seven"]}, {"memory": "x"}, ["x"], {"memory": ["x"], "more": 1}])
def test_an_answer_that_cannot_be_used_changes_nothing(answer):
    answers = [{"memory": ["kept"]}]
    m = told(RecursiveSummary(Rules(lambda messages: answers.pop() if answers else answer), words=6), (1, 2, 3))
    assert [u.text for u in m.memory] == ["kept"] and m.failures == 2 and m.writings == 1
    assert {u.id for u in m.rank("")} == {"memory 1.1"} | {u.id for i in (2, 3) for u in session(i)}
    assert "7 words, wanted at most 6" in m.why or "seven" not in str(answer)


def test_a_turn_without_a_word_may_be_copied():
    m = RecursiveSummary(extractive(6, newest), words=6)
    m.write(Unit("D1:1", "😀", meta={"session": 1}))
    m.end()
    assert [u.text for u in m.memory] == ["😀"] and m.failures == 0


def test_an_answer_over_budget_is_sent_back_once():
    answers = [{"memory": ["one two three"]}, {"memory": ["one"]}]
    m = told(RecursiveSummary(llm := Counted(Rules(lambda messages: answers.pop(0))), words=2), (1,))
    assert [u.text for u in m.memory] == ["one"] and llm.calls == 2 and m.failures == 0


def test_a_refusal_is_raised_and_the_turn_is_kept():
    def refuse(messages):
        raise Refused("wrong key")
    m = RecursiveSummary(Rules(refuse))
    for unit in session(1):
        m.write(unit)
    with pytest.raises(Refused):
        m.write(session(2)[0])
    assert len(m.rank("")) == 5 and m.memory == []
    m.llm = extractive(100, newest)
    m.end()
    assert len(m.memory) == 5 and m.waiting == []


@pytest.mark.parametrize("seed", range(5))
def test_whatever_a_model_answers_a_turn_is_summed_up_or_waits(seed):
    r = random.Random(seed)

    def rule(messages):
        texts = [q["text"] for q in quoted(messages)]
        good = {"memory": r.sample(texts, min(3, len(texts)))}
        return r.choice([good, good, "?", {"memory": []}, {"memory": texts * 9}, {"memory": [r.choice(texts), "new"]}, {"memory": [3]}, None])
    m, done = RecursiveSummary(Rules(rule), words=12), 0
    for i in range(1, 40):
        for unit in session(i):
            m.write(unit)
        waiting = [u.meta["session"] for s in m.waiting for u in s]
        assert waiting == [j for j in range(m.writings + 1, i + 1) for _ in range(4)] and m.writings >= done
        assert sum(u.words for u in m.memory) <= 12 and len(m.units) == len(m.rank(""))
        done = m.writings
    assert 5 < m.writings < 39 and m.failures > 5


# ------------------------------------------------------------------ forgetting, wrong uses

def test_what_was_summed_up_expires_with_the_first_thing_it_may_be_made_from():
    m = RecursiveSummary(Rules(lambda messages: {"memory": [quoted(messages)[0]["text"], f"Of {len(quoted(messages))} notes."]}), words=9)
    for unit in (*session(1, expires=30.0), session(2, expires=10.0)[0]):
        m.write(unit)
    m.end()
    assert [(u.id, u.text, u.expires) for u in m.memory] == [("D1:1", "turn 1 1", 30.0), ("memory 2.2", "Of 3 notes.", 10.0)]
    assert m.forget(9.0) == 0 and m.forget(10.0) == 1 and [u.id for u in m.rank("")] == ["D1:1"] and m.forget(30.0) == 1 and m.rank("") == []
    m.write(Unit("x", "soon gone", expires=1.0))
    assert m.forget(2.0) == 1 and m.waiting == []
    with pytest.raises(ValueError, match="now must be"):
        m.forget(math.nan)


@pytest.mark.parametrize("first, second", [(10.0, None), (None, 10.0), (10.0, 20.0)])
def test_what_was_said_twice_stays_as_long_as_the_longer_of_the_two(first, second):
    m = RecursiveSummary(extractive(50, newest), words=50)
    for i, end in ((1, first), (2, second)):
        m.write(Unit(f"D{i}:1", "the same words", expires=end, meta={"session": i}))
    m.end()
    assert m.forget(10.0) == 0 and [u.text for u in m.memory] == ["the same words"] and m.memory[0].expires in (None, 20.0)


def test_the_same_id_again_replaces_what_is_still_there():
    m = told(RecursiveSummary(extractive(6, newest), words=6), (1,))
    m.write(Unit("D1:4", "other", meta={"session": 2}))
    m.write(Unit("D2:1", "old", meta={"session": 2}))
    m.write(Unit("D2:1", "new", meta={"session": 2}))
    assert [u.text for u in m.rank("")] == ["turn 1 3", "new", "other"]


def test_wrong_uses():
    with pytest.raises(ValueError, match="words is a budget and must be >= 1, saw 0"):
        RecursiveSummary(extractive(6, newest), words=0)
    m = RecursiveSummary(extractive(6, newest))
    with pytest.raises(ValueError, match="must be a Unit, saw str"):
        m.write("a cat")
    with pytest.raises(ValueError, match="k must be >= 0"):
        m.rank("", -1)
    m.end()
    assert m.rank("") == [] and m.nbytes() == 0 and m.writings == 0
