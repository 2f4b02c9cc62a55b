r"""Fusion: several memories are told the same units, and their rankings or scores are merged; MMR then avoids saying the same twice.

    s_RRF(d) = Σᵢ 1 / (k + rankᵢ(d))                                                                       (1)
    s_sum(d) = α (s₁(d) − min s₁) / (max s₁ − min s₁) + (1 − α) (s₂(d) − min s₂) / (max s₂ − min s₂)       (2)
    d*       = argmax_d λ s(q, d) − (1 − λ) max_{d′ chosen} s(d, d′)                                       (3)

rankᵢ(d) is the number of texts that memory i scores at least as high as d: of equals all have the last place, so that being one of three
hundred is worth little. Minimum and maximum are taken over all texts, not over the best few. Of a constant list, which prefers nothing,
(2) adds 0 to every text.

Paper   Cormack, Clarke and Büttcher 2009, doi 10.1145/1571941.1572114: (1), with k = 60; Carbonell and Goldstein 1998,
        doi 10.1145/290941.291025: (3).
Differs the rankings of (1)'s paper have no ties; libraries break them in the order of writing. In (3) the maximum over nothing chosen is 0.
Shapes  scores: M lists of one number a text, (M, N)   fused: (N,) float64, larger is better.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from .unit import Memory, Unit, expect_count, expect_unit


def _expect_scores(scores: ArrayLike, name: str = "scores", ndim: int = 2) -> np.ndarray:
    try:
        s = np.asarray(scores, np.float64)
    except (ValueError, TypeError):
        raise ValueError(f"{name} must be numbers, in lists of equal length, saw {scores!r:.60}") from None
    if s.ndim != ndim or not np.isfinite(s).all():
        raise ValueError(f"{name} must be finite and have {ndim} axes, saw shape {s.shape} with {np.sum(~np.isfinite(s))} not finite")
    return s


def ranks(scores: ArrayLike) -> np.ndarray:
    """How many texts of a list (N,) are scored at least as high as each."""
    s = -_expect_scores(scores, ndim=1)
    return np.searchsorted(np.sort(s), s, side="right")


def rrf(scores: Sequence[ArrayLike], k: float = 60) -> np.ndarray:
    """Reciprocal rank fusion (1) of M lists of scores. Raises ValueError unless k ≥ 0 and all scores are finite, in lists of equal length."""
    if not 0 <= k < math.inf:
        raise ValueError(f"k must be finite and >= 0, saw {k!r}")
    return sum(1 / (k + ranks(s)) for s in _expect_scores(scores))                                       # (1)


def minmax(scores: Sequence[ArrayLike], alpha: float = 0.5) -> np.ndarray:
    """Sum (2) of two lists of scores, each stretched to 0 … 1.

    Raises ValueError unless 0 ≤ α ≤ 1 and there are two finite lists of equal length.
    """
    s = _expect_scores(scores)
    if len(s) != 2:
        raise ValueError(f"scores must be 2 lists, saw {len(s)}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, saw {alpha!r}")
    low, high = s.min(1, keepdims=True, initial=math.inf), s.max(1, keepdims=True, initial=-math.inf)
    first, second = np.divide(s - low, high - low, out=np.zeros_like(s), where=high > low)
    return alpha * first + (1 - alpha) * second                                                          # (2)


def mmr(query: ArrayLike, between: ArrayLike, lam: float = 0.5, k: int | None = None) -> list[int]:
    """Numbers of the (k) texts in the order chosen by (3): maximal marginal relevance.

    ``query``: similarity of each text to the question (N,); ``between``: of any two texts (N, N).
    Raises ValueError unless 0 ≤ λ ≤ 1, k ≥ 0, and all similarities are finite and of these shapes.
    """
    expect_count(k)
    s, between = _expect_scores(query, "query", 1), _expect_scores(between, "between")
    if between.shape != (len(s), len(s)):
        raise ValueError(f"between has shape {between.shape}, wanted {(len(s), len(s))}: the similarity of any two texts")
    if not 0 <= lam <= 1:
        raise ValueError(f"lam must be between 0 and 1, saw {lam!r}")
    chosen: list[int] = []
    nearest, left = np.zeros(len(s)), np.zeros(len(s))                     # to what is chosen; -inf once chosen
    for _ in range(len(s) if k is None else min(k, len(s))):
        d = int(np.argmax(lam * s - (1 - lam) * nearest + left))                                         # (3)
        nearest = np.maximum(nearest, between[:, d]) if chosen else between[:, d]
        left[d] = -math.inf
        chosen.append(d)
    return chosen


class Fused(Memory):
    """A text memory that tells several memories every unit and ranks by their scores fused: ``Fused([BM25(b=0), Dense(embed)])``.

    ``fuse`` makes one list of scores out of theirs: ``minmax``, ``rrf``, ``partial(minmax, alpha=0.3)``. It keeps nothing itself; a unit is found
    if one of them finds it. Memories may hold units already. Raises ValueError if there is none, or they hold different units.
    """

    def __init__(self, memories: Sequence[Memory], fuse: Callable[[list[np.ndarray]], np.ndarray] = minmax) -> None:
        if not memories or any(list(m.units.items()) != list(memories[0].units.items()) for m in memories):
            raise ValueError(f"memories must be at least one, with the same units, saw {[len(m.units) for m in memories]} units")
        self.memories, self.fuse = list(memories), fuse

    def _restart(self, units: Iterable[Unit]) -> None:
        units = list(units)
        for m in self.memories:
            m._restart(units)

    @property
    def units(self) -> dict[str, Unit]:
        """By id, in the order written."""
        return self.memories[0].units

    def write(self, record: Unit) -> None:
        """Tell every memory the unit, or none: where one refuses it, those told before take it back. Raises what it raised."""
        unit = expect_unit(record)
        for i, m in enumerate(self.memories):
            try:
                m.write(unit)
            except BaseException:
                for told in self.memories[:i]:
                    told._restart(m.units.values())
                raise

    def forget(self, now: float) -> int:
        """Let every memory drop what has expired; returns how many units. Raises ValueError if now is not a number."""
        return [m.forget(now) for m in self.memories][0]

    def scores(self, query: str) -> np.ndarray:
        """The fused score of every unit, in the order written."""
        return self.fuse([m.scores(query) for m in self.memories])

    def rank(self, query: str, k: int | None = None) -> list[Unit]:
        """The (k) best of the units that any memory finds, best first; of equals the older first. Raises ValueError if k is negative."""
        expect_count(k)
        told, units = [m.scores(query) for m in self.memories], list(self.units.values())
        s, found = self.fuse(told), np.any([s > m.least for s, m in zip(told, self.memories)], axis=0)
        return [units[i] for i in np.argsort(-s, kind="stable") if found[i]][:k]

    def sizes(self) -> dict[str, int]:
        """Bytes by part: the text once, and what each memory keeps beside it."""
        out = super().sizes()
        for m in self.memories:
            for part, size in m.sizes().items():
                if part != "text":
                    out[part] = out.get(part, 0) + size
        return out
