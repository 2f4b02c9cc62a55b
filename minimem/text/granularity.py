r"""What a unit of memory should be: the turns of a chat as they are, windows of them, whole sessions, or an extract of each session.

    windows(turns, width)     w turns of one session that follow each other, side by side and never overlapping; the last may be shorter
    sessions(turns)           all turns of a session
    lead, at_random, centroid, textrank, informative(turns, words)      the best turns of each session within a budget of words, in order

An extract ranks the turns of a session by their place, by chance, or by one of

    centroid      s = X x̄                                                x̄ the mean of the rows of X
    textrank      s = d Pᵀs + (1 − d)/n · 1,    P_ij = x_i·x_j / Σ_k x_i·x_k,    i ≠ j
    informative   s = (dates, numbers, names, "I went": how many) / words

with X the TF-IDF vectors of length 1 of the session's turns: a session is summed up alone, so that writing on never changes an old extract.

Paper   Pan et al. 2025, arXiv:2502.05589 (turns, sessions and summaries as baselines; windows are what it falls back to);
        Mihalcea and Tarau 2004, TextRank, W04-3252.
Differs no model writes here. **The sources of an extract are the whole session**, as those of a summary: its evidence recall says what it covers, not what
        it still tells; only the recall of answer terms says that. A session of which no turn fits the budget leaves no unit.
Units   budgets in words; the time of a unit is that of its first turn, in days.
"""
from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .unit import Memory, Unit, expect_unit, fill, tokens

MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
WHEN = rf"{MONTHS}|Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday|yesterday|today|tomorrow|tonight|ago|(?:last|next) (?:week|weekend|month|year)"
DID = r"\b(?:I|[Ww]e)(?:['’](?:ve|m|re)| (?:have|am|are|was|were|had|got|went|took|made|bought|met|saw|found|\w+ed))\b"
CLUE = re.compile(rf"\b(?i:{WHEN})\b|\d+|(?<=[a-z,] )[A-Z][a-z]+|{DID}")


def by_session(turns: Iterable[Unit]) -> dict[Any, list[Unit]]:
    """The turns of each session, by its ``meta["session"]``, in the order given. Raises ValueError if a turn names none."""
    found: dict[Any, list[Unit]] = {}
    for unit in turns:
        if "session" not in expect_unit(unit).meta:
            raise ValueError(f"turn {unit.id!r} must name its session in meta, saw {unit.meta!r}")
        found.setdefault(unit.meta["session"], []).append(unit)
    return found


def joined(id: str, kind: str, turns: Sequence[Unit], sources: Sequence[Unit] | None = None) -> Unit:
    """One unit of the texts of several turns of a session, a line each; made from ``sources`` (those turns, if not given)."""
    return Unit(id, "\n".join(u.text for u in turns), kind, tuple(i for u in sources or turns for i in u.source_ids),
                time=turns[0].time, meta={"session": turns[0].meta["session"]})


def windows(turns: Iterable[Unit], width: int = 3) -> list[Unit]:
    """Windows of ``width`` turns that follow each other within a session. Raises ValueError if width < 1 or a turn names no session."""
    if width < 1:
        raise ValueError(f"width must be >= 1, saw {width!r}")
    return [joined(f"W{s!r}:{i // width + 1}", "window", said[i:i + width]) for s, said in by_session(turns).items() for i in range(0, len(said), width)]


def sessions(turns: Iterable[Unit]) -> list[Unit]:
    """Each session as one unit. Raises ValueError if a turn names no session."""
    return [joined(f"D{s!r}", "session", said) for s, said in by_session(turns).items()]


# ------------------------------------------------------------------ extracts

def extracts(turns: Iterable[Unit], words: float, score: Callable[[list[Unit]], Sequence[float]]) -> list[Unit]:
    """Of each session the turns with the highest ``score(turns)`` that fit the budget, in the order said: one unit of kind "summary"."""
    found = []
    for s, said in by_session(turns).items():
        best = np.argsort(-np.asarray(score(said), float), kind="stable")
        kept = {u.id for u in fill((said[i] for i in best), words)}
        if kept:
            found.append(joined(f"X{s!r}", "summary", [u for u in said if u.id in kept], said))
    return found


def lead(turns: Iterable[Unit], words: float = 105) -> list[Unit]:
    """Of each session its first turns."""
    return extracts(turns, words, lambda said: range(0, -len(said), -1))


def at_random(turns: Iterable[Unit], words: float = 105, seed: int = 0) -> list[Unit]:
    """Of each session any turns, the same for the same seed."""
    return extracts(turns, words, lambda said: [random.Random(f"{seed} {u.id}").random() for u in said])


def centroid(turns: Iterable[Unit], words: float = 105) -> list[Unit]:
    """Of each session the turns nearest to their mean."""
    return extracts(turns, words, lambda said: (x := vectors(said)) @ x.mean(0))


def textrank(turns: Iterable[Unit], words: float = 105) -> list[Unit]:
    """Of each session the turns that are most like turns that are most like the others."""
    return extracts(turns, words, lambda said: pagerank((x := vectors(said)) @ x.T))


def informative(turns: Iterable[Unit], words: float = 105) -> list[Unit]:
    """Of each session the turns densest in dates, numbers, names (not the speakers') and things the speaker did. English only."""
    return extracts(turns, words, lambda said: [density(u, {v.meta.get("speaker") for v in said}) for u in said])


def vectors(said: Sequence[Unit]) -> np.ndarray:
    """TF-IDF of the turns among themselves, (turns, terms), rows of length 1 (0 if a turn has no terms)."""
    bags = [Counter(tokens(u.text)) for u in said]
    n = Counter(t for bag in bags for t in bag)
    x = np.array([[(1 + np.log(bag[t])) * (np.log((1 + len(said)) / (1 + n[t])) + 1) if t in bag else 0.0 for t in n] for bag in bags])
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def pagerank(like: np.ndarray, damping: float = 0.85) -> np.ndarray:
    """How often a walker who goes on to a like turn, or now and then to any, is at each turn: the fixed point, solved for."""
    n = len(like)
    out = like * (1 - np.eye(n))
    total = out.sum(1, keepdims=True)
    step = np.where(total > 0, out / np.where(total > 0, total, 1), 1 / n)          # like no other: on to any
    return np.linalg.solve(np.eye(n) - damping * step.T, np.full(n, (1 - damping) / n))


def density(unit: Unit, names: Iterable[str | None] = ()) -> float:
    """Dates, numbers, names and deeds of the speaker, a word; ``names`` do not count."""
    clues = [c for c in CLUE.findall(unit.text) if c not in set(names)]
    return len(clues) / max(unit.words, 1)


# ------------------------------------------------------------------ a memory

class Regrouped(Memory):
    """A text memory that is told turns, cuts them by ``cut(turns of one session)`` and reads the pieces with another, empty memory.

    A session is cut at the first read after it has changed, the others are not. The turns are kept: a cut that fails loses nothing and is tried again.
    """

    def __init__(self, cut: Callable[[list[Unit]], list[Unit]], memory: Memory) -> None:
        self.cut, self.memory, self.least = cut, memory, memory.least
        self.turns: dict[str, Unit] = {}
        self._pieces: dict[Any, set[str]] = {}                   # the ids made of each session
        self._changed: dict[Any, None] = {}                      # sessions, in the order changed

    def write(self, record: Unit) -> None:
        """Keep a turn; one with the same id is replaced in its place. Raises ValueError if it is no Unit or names no session."""
        (session,) = by_session([record])
        if old := self.turns.get(record.id):
            self._changed[old.meta["session"]] = None
        self.turns[record.id] = record
        self._changed[session] = None

    def _current(self) -> Memory:
        """The memory of the pieces, cut again where turns have changed. Raises ValueError if a cut gives two pieces one id."""
        said = by_session(self.turns.values()) if self._changed else {}
        for s in list(self._changed):
            made, old = self.cut(said[s]) if s in said else [], self._pieces.get(s, set())
            ids = {u.id for u in made}
            if len(ids) < len(made) or ids & (self.memory.units.keys() - old):
                raise ValueError(f"cut must give every piece an id of its own, saw {[u.id for u in made]} for session {s!r}")
            if old - ids:
                self.memory._restart([u for u in self.memory.units.values() if u.id not in old - ids])
            self._pieces[s] = ids
            for u in made:
                if self.memory.units.get(u.id) != u:
                    self.memory.write(u)
            del self._changed[s]
        return self.memory

    @property
    def units(self) -> dict[str, Unit]:
        """The pieces by id."""
        return self._current().units

    def scores(self, query: str) -> np.ndarray:
        """How well each piece fits the query, in the order of ``units``."""
        return self._current().scores(query)

    def rank(self, query: str, k: int | None = None) -> list[Unit]:
        """The (k) best pieces, best first. Raises ValueError if k is negative."""
        return self._current().rank(query, k)

    def forget(self, now: float) -> int:
        """Drop the turns whose ``expires`` is not after ``now``, and what was made of them; returns how many turns. Raises ValueError if now is not a number."""
        if not -np.inf <= now <= np.inf:
            raise ValueError(f"now must be a number of days, saw {now!r}")
        dropped = [u for u in self.turns.values() if u.expires is not None and u.expires <= now]
        for u in dropped:
            self._changed[self.turns.pop(u.id).meta["session"]] = None
        return len(dropped)

    def sizes(self) -> dict[str, int]:
        """Bytes by part: the turns with their ids (UTF-8), and what the memory of the pieces holds."""
        text = "".join(x for u in self.turns.values() for x in (u.id, u.text))
        return {"turns": len(text.encode(errors="surrogatepass")), **self._current().sizes()}
