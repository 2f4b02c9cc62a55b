"""Long chats of two friends, questions about them, and the ids of the turns that hold the answers: made here, or LoCoMo itself.

    sample = make(n=1, seed=0)[0]            # LoCoMo's schema: conversation, qa, event_summary, observation, session_summary
    memory = BM25()
    for unit in turns(sample): memory.write(unit)
    q = questions(sample)[0]
    evidence_recall(memory.read(q.text, words=250), q.evidence)

A drawn session (seed 0), much shortened, and questions with their answers and evidence:

    3:55 pm on 19 September, 2023
    D11:9   Farah: The day before yesterday I passed my driving test on the third attempt. …
    D11:10  Dilan: The driving test? Tell me more, Farah!                  (an echo: short, many shared words, no evidence)
    D11:17  Dilan: So, I am back from Chile, the mountains there are something else.
    D11:19  Farah: Well, my taste has changed, I now prefer fish pie to anything else. …

    On what date did Farah get a driving licence?       17 September 2023          D11:9
    Which countries has Dilan visited?                  Chile, Morocco, Estonia    D11:17 D5:7 D3:13
    What was Farah's favourite food before fish pie?    mushroom risotto           D10:9 D11:19

Facts change (people move, change jobs), come in several parts, are told as "last Saturday", and are asked in other words than they were told.
Categories as in LoCoMo: 1 several turns needed, 2 time, 3 needs common sense, 4 one turn, 5 asked about the wrong person (no answer).

Paper   Maharana and others 2024, arXiv:2402.17753: the schema and the measure. The words and people here are our own.
Differs answers follow from templates, so recall here is not recall on LoCoMo; only the order of two systems can be compared.
Units   times in days since 1 January 1970, budgets in words, recall as a fraction.
"""
from __future__ import annotations

import json
import math
import os
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..text.unit import Unit, fill, tokens
from .dialogue_people import GOODBYES, GREETINGS, NAMES, OPENINGS, PLANS, REACTIONS, SMALL_TALK, TAILS, Fact, date

ANSWERABLE = (1, 2, 3, 4)
EPOCH = datetime(1970, 1, 1)


class Question(NamedTuple):
    """``evidence``: ids of the turns that answer it; an id that no turn bears stays in and can never be found."""
    text: str
    answer: str
    evidence: tuple[str, ...]
    category: int


# ------------------------------------------------------------------ reading a sample

def sessions(sample: dict[str, Any]) -> list[tuple[float, list[dict[str, Any]]]]:
    """(day, turns) of every session, in order."""
    chat = sample["conversation"]
    numbers = sorted(int(k[8:]) for k in chat if re.fullmatch(r"session_\d+", k))
    return [(_day(chat[f"session_{i}_date_time"]), chat[f"session_{i}"]) for i in numbers]


def _day(text: str) -> float:
    return (datetime.strptime(text, "%I:%M %p on %d %B, %Y") - EPOCH) / timedelta(days=1)


def turns(sample: dict[str, Any]) -> list[Unit]:
    """Every turn as a Unit: who spoke, the words, and the caption of a picture if one was sent."""
    return [Unit(t["dia_id"], f"{t['speaker']}: {t['text']}" + (f" [image: {t['blip_caption']}]" if "blip_caption" in t else ""),
                 time=day, meta={"speaker": t["speaker"], "session": i})
            for i, (day, said) in enumerate(sessions(sample), 1) for t in said]


def facts(sample: dict[str, Any]) -> list[Unit]:
    """What a model noted of each session, sentence by sentence, each with the turns it was made from (LoCoMo's were written by GPT-3.5)."""
    said = turns(sample)
    at = {u.id: u for u in said}
    found = []
    for i in sorted({u.meta["session"] for u in said}):
        told = [f for some in sample["observation"].get(f"session_{i}_observation", {}).values() for f in some]
        for n, (text, ids) in enumerate(told, 1):
            sources = tuple(f"D{int(s)}:{int(t)}" for s, t in re.findall(r"D:?(\d+):(\d+)", str(ids)))
            first = at.get(sources[0]) if sources else None
            found.append(Unit(f"F{i}:{n}", text, "fact", sources, time=next(u.time for u in said if u.meta["session"] == i),
                              meta={"session": i} | ({"speaker": first.meta["speaker"]} if first else {})))
    return found


def summaries(sample: dict[str, Any]) -> list[Unit]:
    """One summary a session, made from all its turns (LoCoMo's were written by GPT-3.5)."""
    return [Unit(f"S{i}", text, "summary", tuple(t["dia_id"] for t in said), time=day, meta={"session": i})
            for i, (day, said) in enumerate(sessions(sample), 1) if (text := sample["session_summary"].get(f"session_{i}_summary"))]


def questions(sample: dict[str, Any], categories: Iterable[int] = ANSWERABLE) -> list[Question]:
    """The questions of these categories that name evidence; ids written as "D8:6; D9:17" or "D:11:26" are read too."""
    found, categories = [], set(categories)
    for q in sample["qa"]:
        ids = dict.fromkeys(f"D{int(s)}:{int(t)}" for e in q.get("evidence", []) for s, t in re.findall(r"D:?(\d+):(\d+)", e))
        if ids and q["category"] in categories:
            found.append(Question(q["question"], str(q.get("answer", q.get("adversarial_answer", ""))), tuple(ids), q["category"]))
    return found


def load(path: str | Path | None = None) -> list[dict[str, Any]]:
    """LoCoMo's ``locomo10.json`` (CC BY-NC 4.0, not ours to ship): the file or its folder, by default what MINIMEM_DATA names.

    Raises ValueError, saying what to do, if nothing is named, nothing is there, or the file is damaged.
    """
    named = path or os.environ.get("MINIMEM_DATA")
    if not named:
        raise ValueError("set MINIMEM_DATA to locomo10.json of github.com/snap-research/locomo, or to its folder; or use make()")
    file = Path(named) / "locomo10.json" if Path(named).is_dir() else Path(named)
    try:
        samples = json.loads(file.read_text(encoding="utf8"))
        if not (samples and all(turns(s) and s["qa"][0]["question"] for s in samples)):
            raise ValueError("an empty list")
        for s in samples:
            questions(s)
    except OSError as e:
        raise ValueError(f"no LoCoMo file at {file} (MINIMEM_DATA or path): {e.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
        raise ValueError(f"{file} is damaged or not locomo10.json: {type(e).__name__}: {e}") from None
    return samples


# ------------------------------------------------------------------ measuring a text memory

def evidence_recall(units: Iterable[Unit], evidence: Iterable[str]) -> float:
    """The share of the evidence turns that the units were made from. Raises ValueError if no evidence is named."""
    wanted = set(evidence)
    if not wanted:
        raise ValueError("evidence is empty, wanted at least one turn id")
    return len(wanted & {i for u in units for i in u.source_ids}) / len(wanted)


def dated(unit: Unit) -> Unit:
    """The unit with its day written before the text, "8 May 2023: …": three words more; unchanged if its time is unknown."""
    return unit if unit.time is None else replace(unit, text=f"{date(EPOCH + timedelta(days=unit.time))}: {unit.text}")


def answer_recall(units: Iterable[Unit], answer: str) -> float:
    """The share of the answer's terms that the units' texts hold: a reader cannot say what is not there. NaN if the answer has no terms."""
    wanted = set(tokens(answer))
    return len(wanted & frozenset().union(*(_terms(u.text) for u in units))) / len(wanted) if wanted else math.nan


@lru_cache(1 << 12)
def _terms(text: str) -> frozenset[str]:
    return frozenset(tokens(text))


def evaluate(samples: list[dict[str, Any]], memory: Callable[[], Any], ks: Iterable[int] = (), words: Iterable[int] = (),
             categories: Iterable[int] = ANSWERABLE, units: Callable[[dict[str, Any]], list[Unit]] = turns, dates: bool = False) -> dict[str, list[list[float]]]:
    """Evidence recall of each question, conversation by conversation: "R@k" by ``rank(query, k)``, "words w" by ``read(query, w)``.

    ``memory()`` makes an empty one for each conversation; all of ``units(sample)`` is written, then the questions are asked.
    ``dates``: every unit is read with its day before it, and the day's words are paid for; beside "words w" then stands
    "answer w", the share of the answer's terms in what was read (NaN where the answer has none).
    """
    ks, words, categories = tuple(ks), tuple(words), tuple(categories)
    out: dict[str, list[list[float]]] = {f"R@{k}": [] for k in ks} | {f"words {w}": [] for w in words} | {f"answer {w}": [] for w in words if dates}
    for sample in samples:
        m, asked = memory(), questions(sample, categories)
        for unit in units(sample):
            m.write(unit)
        for k in ks:
            out[f"R@{k}"].append([evidence_recall(m.rank(q.text, k), q.evidence) for q in asked])
        if dates:
            shown = cache(dated)
            ranked = [[shown(u) for u in m.rank(q.text)] for q in asked]
        for w in words:
            read = [fill(r, w) for r in ranked] if dates else [m.read(q.text, w) for q in asked]
            out[f"words {w}"].append([evidence_recall(r, q.evidence) for r, q in zip(read, asked)])
            if dates:
                out[f"answer {w}"].append([answer_recall(r, q.answer) for r, q in zip(read, asked)])
    return out


class Recent:
    """A text memory that does not listen: the newest units, whatever is asked."""

    def __init__(self) -> None:
        self.units: list[Unit] = []

    def write(self, record: Unit) -> None:
        self.units.append(record)

    def rank(self, query: str, k: int | None = None) -> list[Unit]:
        return self.units[::-1][:k]

    def read(self, query: str, words: float = 500) -> list[Unit]:
        return fill(self.rank(query), words)


class Random(Recent):
    """A text memory that does not listen: any units, the same for the same question and seed."""

    seed = 0

    def rank(self, query: str, k: int | None = None) -> list[Unit]:
        return random.Random(f"{self.seed} {query}").sample(self.units, len(self.units))[:k]


def bootstrap(values: list[list[float]], draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Mean over all questions, and its 95 % interval when whole conversations are drawn again with replacement.

    A conversation without questions has no say, nor has a NaN. Raises ValueError if there is no question at all.
    """
    values = [v for v in ([x for x in v if x == x] for v in values) if v]
    if not values:
        raise ValueError("no conversation has a question, wanted at least one value")
    total, count = np.array([sum(v) for v in values]), np.array([len(v) for v in values])
    pick = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    low, high = np.percentile(total[pick].sum(1) / count[pick].sum(1), [2.5, 97.5])
    return float(total.sum() / count.sum()), float(low), float(high)


# ------------------------------------------------------------------ making a sample

def make(n: int = 10, seed: int = 0, length: int = 12) -> list[dict[str, Any]]:
    """``n`` conversations of ``length`` sessions (about 27 turns each) in LoCoMo's schema, the same for the same seed.

    Raises ValueError if n < 1 or length < 4.
    """
    if n < 1 or length < 4:
        raise ValueError(f"wanted n >= 1 conversations of length >= 4 sessions, saw n={n}, length={length}")
    r = random.Random(seed)
    return [_sample(r, f"made-{seed}-{i}", length) for i in range(n)]


def _sample(r: random.Random, name: str, length: int) -> dict[str, Any]:
    day, days = datetime(2023, r.randint(1, 4), r.randint(1, 28), r.randint(9, 19), r.randint(0, 59)), []
    for _ in range(length):
        days.append(day)
        day += timedelta(days=r.randint(5, 25), minutes=r.randint(-20, 20))
    plan: list[list[Fact]] = [[] for _ in days]                # what is said in each session
    passing: list[str] = []                                     # remarks that share words with it
    people = r.sample(NAMES, 2)
    asks = [ask for plan_some in PLANS for ask in plan_some(r, people, days, plan, passing)]
    r.shuffle(passing)
    chat, events, observations, summaries = {"speaker_a": people[0], "speaker_b": people[1]}, {}, {}, {}
    where: dict[Fact, str] = {}
    for s, (day, facts) in enumerate(zip(days, plan), 1):
        said = _session(r, people, s, facts, passing[s - 1::length], where)
        chat |= {f"session_{s}_date_time": day.strftime("%I:%M %p on ").lstrip("0").lower() + date(day, ", "), f"session_{s}": said}
        told = {n: [[f.told, where[f]] for f in facts if f.who == n] for n in people}
        observations[f"session_{s}_observation"] = told
        events[f"events_session_{s}"] = {**{n: [t for t, _ in told[n]] for n in people}, "date": date(day, ", ")}
        summaries[f"session_{s}_summary"] = " ".join([f"{people[0]} and {people[1]} talked on {date(day)}.", *(t for n in people for t, _ in told[n])])
    qa = [{"question": q, "adversarial_answer" if c == 5 else "answer": a, "evidence": [where[f] for f in facts], "category": c} for q, a, facts, c in asks]
    return {"sample_id": name, "conversation": chat, "qa": qa, "event_summary": events, "observation": observations, "session_summary": summaries}


def _session(r: random.Random, people: list[str], number: int, facts: list[Fact], passing: list[str], where: dict[Fact, str]) -> list[dict[str, Any]]:
    """The turns of one session, facts and remarks in random order; notes in ``where`` the turn of each fact."""
    said: list[dict[str, Any]] = []

    def put(who: str, text: str, **more: Any) -> str:
        said.append({"speaker": who, "dia_id": f"D{number}:{len(said) + 1}", "text": text[0].upper() + text[1:], **more})
        return said[-1]["dia_id"]

    def put_pair(first: str, second: str) -> None:
        n, o = r.sample(people, 2)
        put(n, first.format(n=n, o=o))
        put(o, second.format(n=n, o=o))

    def dress(text: str, o: str) -> str:
        return f"{r.choice(OPENINGS).format(o=o)} {text}. {r.choice(TAILS)}".strip()

    put_pair(*r.choice(GREETINGS))
    mixed = [*facts, *passing, *r.sample(SMALL_TALK, 2)]
    r.shuffle(mixed)
    for item in mixed:
        if isinstance(item, Fact):
            n, o = item.who, people[1 - people.index(item.who)]
            seen = item.echo.startswith(("a ", "the ")) and r.random() < 0.2
            where[item] = put(n, dress(item.text, o), **({"blip_caption": f"a photo of {item.echo}"} if seen else {}))
            put(o, r.choice(REACTIONS).format(n=n, echo=item.echo))
        elif isinstance(item, str):
            n, o = r.sample(people, 2)
            put(n, dress(item, o))
        else:
            put_pair(*item)
    put_pair(*r.choice(GOODBYES))
    return said
