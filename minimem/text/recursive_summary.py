r"""Recursive summary: one text of a fixed length, written anew after every session from itself and what was said.

    M_i = LLM(M_{i−1}, session_i)                           (1)
    r   = LLM(M_n, current context)                         (2)

M is a list of sentences of at most ``words`` words; a session is the turns that share ``meta["session"]``. What (2) reads, the memory and
the session that is not over yet, is what ``read`` returns; nothing is searched.

A sentence that comes through each writing with chance p is still there after n of them with chance pⁿ; where k of k + s sentences are kept
by chance, p = k/(k + s). The memory forgets like a decaying state, and the clock ticks in sessions, not in days.

Paper   Wang et al. 2023, arXiv:2308.15022.
Differs the model answers with a list of sentences, so that one it left as it was keeps its sources and its day; a sentence it wrote itself names only itself, for
        the turns behind it would soon be all there ever were, and a list of them does not stay small. Where the model gives no usable answer M stays, and the
        session waits, readable, until the next one is over. What was summed up cannot be taken back: a sentence that the model wrote expires as soon as
        anything it may have been made from does.
Units   budgets in words, times in days, sizes in bytes; the state is O(1) but for the session under way and those that wait.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .llm import LLM, Messages, Rules, Unanswered, ask, prompt, quoted
from .unit import Memory, Unit, expect_count, expect_unit, fill

ANSWER = {"type": "object", "required": ["memory"], "additionalProperties": False,
          "properties": {"memory": {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": r"\S"}}}}
TASK = ("The first {old} notes are your memory of earlier sessions of a conversation, the other {new} are the turns of the session after them. Write the memory anew: "
        "what is worth knowing later of both, in at most {words} words in all. Answer with JSON: {{\"memory\": [\"one sentence\", ...]}}. "
        "A note that should stay as it is, copy exactly.")


class RecursiveSummary(Memory):
    """One memory of ``words`` words for all sessions. ``failures`` counts the writings that the model failed, ``why`` is the last reason.

    Raises ValueError if words is below 1.
    """

    def __init__(self, llm: LLM, words: int = 100) -> None:
        if not words >= 1:
            raise ValueError(f"words is a budget and must be >= 1, saw {words!r}")
        self.llm, self.words = llm, words
        self.memory: list[Unit] = []                            # M
        self.waiting: list[list[Unit]] = []                     # sessions not summed up; the last is under way
        self.writings, self.failures, self.why = 0, 0, ""

    @property
    def units(self) -> dict[str, Unit]:
        """The sentences of the memory, and the turns not summed up yet, by id."""
        return {u.id: u for u in (*self.memory, *(u for s in self.waiting for u in s))}

    def _restart(self, units: Iterable[Unit]) -> None:
        kept = {u.id for u in units}
        self.memory = [u for u in self.memory if u.id in kept]
        self.waiting = [left for s in self.waiting if (left := [u for u in s if u.id in kept])]

    def write(self, record: Unit) -> None:
        """Keep a turn; the first one of another session ends the one before. A turn that is still here word for word is replaced.

        Raises ValueError if the record is no Unit, and whatever the model raises but Unanswered: the turn is kept then, and its session waits.
        """
        unit, units = expect_unit(record), self.units
        if unit.id in units:
            self._restart(u for u in units.values() if u.id != unit.id)
        over = bool(self.waiting) and self.waiting[-1][0].meta.get("session") != unit.meta.get("session")
        if over or not self.waiting:
            self.waiting.append([])
        self.waiting[-1].append(unit)
        if over:
            self._sum_up(1)

    def end(self) -> None:
        """The session under way is over: sum it up, and all that wait."""
        self._sum_up(0)

    def _sum_up(self, under_way: int) -> None:
        while len(self.waiting) > under_way:
            try:
                self.memory = self._written(self.waiting[0])                                    # (1)
            except Unanswered as e:
                self.failures, self.why = self.failures + 1, str(e)
                return
            self.waiting.pop(0)
            self.writings += 1

    def _written(self, session: Sequence[Unit]) -> list[Unit]:
        """The memory after one more session. Raises Unanswered."""
        notes = (*session, *self.memory)
        given = {u.text: u for u in sorted(notes, key=lambda u: math.inf if u.expires is None else u.expires)}     # said twice: what stays longer
        expires = min((u.expires for u in notes if u.expires is not None), default=None)
        task = TASK.format(old=len(self.memory), new=len(session), words=self.words)

        def units(said: dict[str, Any]) -> list[Unit]:
            return [given.get(t) or Unit(f"memory {self.writings + 1}.{n}", t, "summary", time=session[0].time, expires=expires)
                    for n, t in enumerate(dict.fromkeys(said["memory"]), 1)]

        def check(said: dict[str, Any]) -> None:
            found = units(said)
            if wordless := [u.text for u in found if not u.words and u.text not in given]:
                raise ValueError(f"a new sentence must hold a word, saw {wordless[0]!r}")
            if (saw := sum(u.words for u in found)) > self.words:
                raise ValueError(f"the memory has {saw} words, wanted at most {self.words}")

        return units(ask(self.llm, prompt(task, [*self.memory, *session]), ANSWER, check))

    def rank(self, query: str, k: int | None = None) -> list[Unit]:
        """The memory, then the turns not summed up yet, newest first, whatever is asked: what (2) reads. Raises ValueError if k is negative."""
        expect_count(k)
        return [*self.memory, *(u for s in self.waiting[::-1] for u in s[::-1])][:k]            # (2)


def extractive(words: float, score: Callable[[list[Unit]], Sequence[float]]) -> Rules:
    """No model: of the memory and the session the sentences with the highest ``score(units)`` that fit the budget, in order."""
    def rule(messages: Messages) -> dict[str, list[str]]:
        notes = [Unit(str(q["id"]), q["text"]) for q in quoted(messages)]
        kept = {u.id for u in fill((notes[i] for i in np.argsort(-np.asarray(score(notes), float), kind="stable")), words)}
        return {"memory": [u.text for u in notes if u.id in kept]}
    return Rules(rule)
