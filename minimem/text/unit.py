"""What every text memory shares: the unit it hands back, the terms of a text, how a budget of words is filled, and a memory around any score.

A term is what two texts must share to meet: lower-cased runs of letters and digits, without the commonest English function
words and without English endings; a run of Chinese characters, which has no spaces, becomes its overlapping pairs (bigrams).

    >>> tokens("Caroline's moving to 北京大学!")
    ['carolin', 'mov', '北京', '京大', '大学']

Differs  `stem` is a rule of ten endings, not Porter's algorithm: it merges what inflection separates and knows no derivations.
Units    a budget counts words as a reader would: blanks separate words, a Chinese character counts as one word.
"""
from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

HAN = "\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"     # Chinese characters, and kana
TERM = re.compile(rf"[{HAN}]+|[^\W_{HAN}]+")
EACH_HAN = re.compile(rf"[{HAN}]")
STOP = frozenset("""
a an the and or but if nor so than then as of at by for from in into on onto to up down out off over under with without within about
i me my mine myself you your yours yourself he him his himself she her hers herself it its itself we us our ours ourselves
they them their theirs themselves this that these those who whom whose which what when where why how there here
am is are was were be been being do does did done doing have has had having can could will would shall should may might must
not no yes too very just also only own same such both each few more most other some any all again once
s t d ll m re ve don didn doesn isn wasn aren couldn wouldn""".split())
ENDINGS = (("sses", "ss"), ("ies", "y"), ("ied", "y"), ("ing", ""), ("edly", ""), ("ed", ""), ("ly", ""), ("ss", "ss"), ("us", "us"), ("s", ""))


@dataclass(frozen=True)
class Unit:
    """What a text memory keeps and returns: a turn, a window, a session, a fact, a summary, a note …

    ``source_ids``: the turns it was made from (its own id if none are given), so that any two memories are compared by the evidence they find.
    ``time`` and ``expires``: days since 1 January 1970, of what it tells and of when it may be dropped; None if unknown or never.
    Raises ValueError if id or text is no string, or source_ids is one.
    """
    id: str
    text: str
    kind: str = "turn"
    source_ids: tuple[str, ...] = ()
    time: float | None = None
    expires: float | None = None
    meta: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, x in (("id", self.id), ("text", self.text)):
            if not isinstance(x, str):
                raise ValueError(f"{name} must be a string, saw {type(x).__name__}")
        if isinstance(self.source_ids, str):
            raise ValueError(f"source_ids must be a tuple of ids, saw the string {self.source_ids!r}")
        object.__setattr__(self, "source_ids", tuple(self.source_ids) or (self.id,))

    @cached_property
    def words(self) -> int:
        """Words of the text, as a budget counts them."""
        return sum(any(map(str.isalnum, w)) for w in EACH_HAN.sub(r" \g<0> ", self.text).split())


def expect_unit(record: object) -> Unit:
    """The record itself. Raises ValueError when it is no Unit."""
    if not isinstance(record, Unit):
        raise ValueError(f"record must be a Unit, saw {type(record).__name__}")
    return record


def expect_count(k: int | None) -> None:
    """Raises ValueError if a number of units is negative."""
    if k is not None and k < 0:
        raise ValueError(f"k must be >= 0, saw {k!r}")


@lru_cache(1 << 16)
def stem(word: str) -> str:
    """One word without its English ending: the first of ENDINGS that leaves three letters, then a doubled consonant, e and y."""
    if len(word) > 3:
        end, put = next(((e, p) for e, p in ENDINGS if word.endswith(e) and len(word) - len(e) >= 3), ("", ""))
        word = word[: len(word) - len(end)] + put
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouslz0123456789":
        word = word[:-1]
    if len(word) > 3 and word[-1] == "e":
        word = word[:-1]
    return word[:-1] + "i" if len(word) > 2 and word[-1] == "y" else word


def tokens(text: str, stop: frozenset[str] = STOP, stem: Callable[[str], str] = stem) -> list[str]:
    """The terms of a text, in order and with repeats. Without stop words and stemming: ``tokens(text, frozenset(), str)``.

    Raises ValueError if text is no string.
    """
    if not isinstance(text, str):
        raise ValueError(f"text must be a string, saw {type(text).__name__}")
    terms = []
    for run in TERM.findall(unicodedata.normalize("NFKC", text).lower()):
        if EACH_HAN.match(run):
            terms += [run[i:i + 2] for i in range(max(len(run) - 1, 1))]
        elif run not in stop:
            terms.append(stem(run))
    return terms


def fill(ranked: Iterable[Unit], words: float) -> list[Unit]:
    """Units in the given order, each taken if it still fits the budget of words and passed over if not.

    Raises ValueError if the budget is negative or not a number.
    """
    if isinstance(words, str) or not words >= 0:
        raise ValueError(f"words is a budget and must be >= 0, saw {words!r}")
    taken = []
    for unit in ranked:
        if unit.words <= words:
            taken.append(unit)
            words -= unit.words
    return taken


class Memory:
    """A text memory that keeps every unit and ranks them by ``scores(query)``, one number a unit in the order written.

    A retriever adds ``scores`` and ``sizes``; ``write`` too, if it learns something from each unit. ``least``: what is not above it is not found.
    """
    least = -math.inf

    def __init__(self) -> None:
        self._restart([])

    def _restart(self, units: Iterable[Unit]) -> None:
        self.units: dict[str, Unit] = {}
        for unit in units:
            self.write(unit)

    def write(self, record: Unit) -> None:
        """Keep a unit; one with the same id is replaced, without a trace. Raises ValueError if the record is no Unit."""
        unit = expect_unit(record)
        if unit.id in self.units:
            self._restart([u for u in self.units.values() if u.id != unit.id])
        self.units[unit.id] = unit

    def scores(self, query: str) -> np.ndarray:
        """How well each unit fits the query, in the order written."""
        raise NotImplementedError

    def rank(self, query: str, k: int | None = None) -> list[Unit]:
        """The (k) best units, best first; of equals the older first. Raises ValueError if k is negative or a score is NaN."""
        expect_count(k)
        units, s = list(self.units.values()), self.scores(query)
        if np.isnan(s).any():
            raise ValueError(f"the scores of {[u.id for u, x in zip(units, s) if x != x][:5]} are not numbers: they could not be found")
        return [units[i] for i in np.argsort(-s, kind="stable")[:k] if s[i] > self.least]

    def read(self, query: str, words: float = 500) -> list[Unit]:
        """The best units that fit a budget of words, best first. Raises ValueError if the budget is negative or not a number."""
        return fill(self.rank(query), words)

    def forget(self, now: float) -> int:
        """Drop the units whose ``expires`` is not after ``now``, and all they left; returns how many. Nothing fades by itself.

        Raises ValueError if now is not a number.
        """
        if not -math.inf <= now <= math.inf:
            raise ValueError(f"now must be a number of days, saw {now!r}")
        kept = [u for u in self.units.values() if u.expires is None or u.expires > now]
        dropped = len(self.units) - len(kept)
        if dropped:
            self._restart(kept)
        return dropped

    def sizes(self) -> dict[str, int]:
        """Bytes by part; here the text with its ids (UTF-8)."""
        return {"text": sum(len("".join((u.text, u.id, *u.source_ids)).encode(errors="surrogatepass")) for u in self.units.values())}

    def nbytes(self) -> int:
        """All bytes held."""
        return sum(self.sizes().values())


class Around(Memory):
    """A text memory that keeps everything in another one, ``memory``, and ranks in its own way."""

    def __init__(self, memory: Memory) -> None:
        self.memory, self.least = memory, memory.least

    def _restart(self, units: Iterable[Unit]) -> None:
        self.memory._restart(units)

    @property
    def units(self) -> dict[str, Unit]:
        """What the other memory keeps."""
        return self.memory.units

    def write(self, record: Unit) -> None:
        """Keep a unit. Raises ValueError if the record is no Unit."""
        self.memory.write(record)

    def scores(self, query: str) -> np.ndarray:
        """How well each unit fits the query, in the order written."""
        return self.memory.scores(query)

    def forget(self, now: float) -> int:
        """Drop what has expired; returns how many units. Raises ValueError if now is not a number."""
        return self.memory.forget(now)

    def sizes(self) -> dict[str, int]:
        """Bytes by part."""
        return self.memory.sizes()
