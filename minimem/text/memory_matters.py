"""Memory Matters: what is known about a record (who said it, when, of what kind) decides whether it is read at all, before any score.

    memory = Filtered(BM25())
    memory.read("Where did Ann camp?", words=250)                                   # only what Ann said: she alone is named
    memory.read("Where did they camp?", words=250, where=between(19480, 19500))      # only of those days

Paper   Hatalis et al. 2024, Memory Matters, AAAI Symposium Series 2(1), doi 10.1609/aaaiss.v2i1.27688.
Differs a position paper: it asks for metadata and for separate kinds of memory, and gives no algorithm; the filters are ours. A filter hides units from the
        ranking and does not change the scores of the rest. What is not known about a unit never hides it.
Units   times in days since 1 January 1970.
"""
from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable

import numpy as np

from .unit import HAN, Around, Unit, expect_count, fill

Where = Callable[[Unit], bool]


def said_by(name: str) -> Where:
    """Units of this speaker, and those that name none (a window, a summary)."""
    return lambda unit: unit.meta.get("speaker") in (None, "", name)


def between(start: float, end: float) -> Where:
    """Units of the days from start to end, and those of an unknown day."""
    return lambda unit: unit.time is None or start <= unit.time <= end


def of_kind(*kinds: str) -> Where:
    """Units of these kinds: turn, fact, summary …"""
    return lambda unit: unit.kind in kinds


def named(query: str, names: Iterable[str]) -> list[str]:
    """Which of the names the question holds as whole words (Chinese ones anywhere); nicknames are not guessed."""
    return [n for n in sorted(set(names)) if re.search(rf"(?<![^\W{HAN}]){re.escape(n)}(?![^\W{HAN}])", query, re.IGNORECASE)]


class Filtered(Around):
    """Any text memory behind a filter: ``where(unit)`` says which units may be read.

    Without a ``where``, a question that names exactly one of the speakers reads what that one said; one that names none, or several, reads everything.
    """

    def where(self, query: str) -> Where:
        """The filter that a question asks for by itself."""
        speakers = named(query, {s for u in self.units.values() if isinstance(s := u.meta.get("speaker"), str) and s})
        return said_by(speakers[0]) if len(speakers) == 1 else lambda unit: True

    def scores(self, query: str, where: Where | None = None) -> np.ndarray:
        """How well each unit fits the query, in the order written; −∞ for those that may not be read."""
        where = where or self.where(query)
        return np.where([bool(where(u)) for u in self.units.values()], self.memory.scores(query), -math.inf)

    def rank(self, query: str, k: int | None = None, where: Where | None = None) -> list[Unit]:
        """The (k) best units that may be read, best first. Raises ValueError if k is negative."""
        expect_count(k)
        where = where or self.where(query)
        return [u for u in self.memory.rank(query) if where(u)][:k]

    def read(self, query: str, words: float = 500, where: Where | None = None) -> list[Unit]:
        """The best units that may be read and fit a budget of words, best first. Raises ValueError if the budget is negative or not a number."""
        return fill(self.rank(query, where=where), words)
