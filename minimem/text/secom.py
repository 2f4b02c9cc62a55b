r"""SeCom: cut each session of a chat where the topic changes, find a segment by its purified text, and read it as it was said.

    g_i = cos(x_{i−1} + x_i, x_{i+1} + x_{i+2})                        how alike the two turns on either side of the gap after turn i are
    δ_i = (max of g climbing left from i − g_i) + (max of g climbing right from i − g_i)
    cut after turn i  ⇔  δ_i > μ_δ + ½ σ_δ                             (1)

x_i the vector of turn i. The deepest gap is cut first, and no segment has fewer than two turns.

    WindowDiff = 1/(N − k) Σ_i [cuts of the reference within i … i + k ≠ cuts of the hypothesis within i … i + k]

Paper   Pan et al. 2025, arXiv:2502.05589; Hearst 1997, TextTiling, J97-1003 (the depth of a gap); Pevzner and Hearst 2002, J02-1002 (WindowDiff).
Differs the paper's segments are cut by a language model: ``asked`` does so through any ``llm``; (1) is what needs none. Hearst cuts at μ − ½ σ or μ − σ,
        between paragraphs; at μ + ½ σ a segment has about four turns of a chat. The paper purifies by LLMLingua-2; ``purified`` drops the words that
        most turns share, and splits at blanks, so Chinese passes through it whole. The paper asks of each new turn whether it goes on with the last
        segment; here a session is cut again at the first read after it has changed.
Units   budgets in words, times in days, sizes in bytes; a cut c stands before turn c, counted from 0.
"""
from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from .bm25 import BM25
from .granularity import by_session, joined
from .llm import LLM, Unanswered, ask, prompt
from .unit import Memory, Unit, fill, tokens

EXCHANGES = {"type": "array", "items": {"type": "object", "required": ["start", "end"],
                                        "properties": {"start": {"type": "integer"}, "end": {"type": "integer"}}}}
TASK = ("The notes are the exchanges of a conversation, n their number. Cut them into segments of one topic each: segments follow each other without "
        "a gap and together hold every exchange. Answer with a JSON list of {\"start\": first number, \"end\": last number}.")


# ------------------------------------------------------------------ where to cut

def likeness(x: np.ndarray, near: int = 2) -> np.ndarray:
    """g: the cosine of what is said just before and just after each gap, (T−1,). x: (T, K), a row a turn."""
    g = [(a.sum(0), b.sum(0)) for a, b in ((x[max(i - near, 0):i], x[i:i + near]) for i in range(1, len(x)))]
    return np.round([a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12) for a, b in g], 9)


def depths(g: np.ndarray) -> np.ndarray:
    """δ: how far the likeness rises on both sides of each gap before it falls again."""
    return np.array([_climb(g[i::-1]) + _climb(g[i:]) for i in range(len(g))])


def _climb(g: np.ndarray) -> float:
    falls = np.flatnonzero(np.diff(g) < 0)
    return (g[falls[0]] if len(falls) else g[-1]) - g[0]


def tiled(x: np.ndarray, least: int = 2) -> list[int]:
    """The cuts by (1) between turns with vectors x (T, K), ascending; no segment shorter than ``least`` turns."""
    d, cuts = depths(likeness(x)), [0, len(x)]
    for i in np.argsort(-d, kind="stable"):
        if d[i] > d.mean() + d.std() / 2 and all(abs(i + 1 - c) >= least for c in cuts):          # (1)
            cuts.append(int(i) + 1)
    return sorted(cuts[2:])


def by_likeness(embed: Callable[[list[str]], np.ndarray]) -> Callable[[list[Unit]], list[int]]:
    """A way to cut a session: ``tiled`` on the vectors of its turns."""
    return lambda said: tiled(embed([u.text for u in said]))


def asked(llm: LLM, group: int = 3) -> Callable[[list[Unit]], list[int]]:
    """A way to cut a session: a language model says which exchanges (two turns each) belong together.

    If its answer is unusable, or does not hold every exchange once and in order, every ``group`` exchanges are a segment.
    """
    def cut(said: list[Unit]) -> list[int]:
        n = math.ceil(len(said) / 2)
        told = [Unit(str(i + 1), "\n".join(u.text for u in said[2 * i:2 * i + 2])) for i in range(n)]
        try:
            found = ask(llm, prompt(TASK, told), EXCHANGES)
        except Unanswered:
            found = []
        starts, ends = [s["start"] for s in found], [s["end"] for s in found]
        if found and starts == [1, *(e + 1 for e in ends[:-1])] and ends[-1] == n and all(s <= e for s, e in zip(starts, ends)):
            return [2 * (int(s) - 1) for s in starts[1:]]
        return list(range(2 * group, len(said), 2 * group))
    return cut


# ------------------------------------------------------------------ what to find it by

def rarity(texts: Iterable[str]) -> dict[str, float]:
    """ln(N/n) of every word, n of the N texts hold it; no word is left out and no ending cut."""
    bags = [set(tokens(t, frozenset(), str)) for t in texts]
    return {w: math.log(len(bags) / n) for w, n in Counter(w for bag in bags for w in bag).items()}


def purified(text: str, rare: Mapping[str, float], keep: float = 0.75) -> str:
    """The share ``keep`` of a text's words, the rarest, in their order; line ends stay, words never seen count as rarest."""
    parts = re.findall(r"\n|\S+", text)
    words = [i for i, w in enumerate(parts) if w != "\n"]
    weight = {i: max((rare.get(t, math.inf) for t in tokens(parts[i], frozenset(), str)), default=-1.0) for i in words}
    kept = set(sorted(words, key=lambda i: -weight[i])[:math.ceil(keep * len(words))])
    return re.sub(" *\n *", "\n", " ".join(w for i, w in enumerate(parts) if w == "\n" or i in kept))


# ------------------------------------------------------------------ how good the cuts are

def window_diff(reference: Iterable[int], hypothesis: Iterable[int], length: int, k: int | None = None) -> float:
    """WindowDiff of two lists of cuts among ``length`` turns; 0 if they are the same. k: half the mean segment of the reference, at least 1.

    Raises ValueError if a cut is not between two turns, or k is not between 1 and length − 1.
    """
    gaps = [np.zeros(length - 1, np.int64) for _ in range(2)]
    for flags, cuts in zip(gaps, (reference, hypothesis)):
        for c in cuts:
            if not 1 <= c < length:
                raise ValueError(f"cuts must be from 1 to {length - 1}, saw {c!r}")
            flags[c - 1] = 1
    k = k or max(round(length / (gaps[0].sum() + 1) / 2), 1)
    if not 1 <= k < length:
        raise ValueError(f"k must be from 1 to {length - 1}, saw {k!r}")
    within = [np.convolve(flags, np.ones(k, np.int64), "valid") for flags in gaps]
    return float((within[0] != within[1]).mean())


# ------------------------------------------------------------------ the memory

class SeCom(Memory):
    """A text memory that is told turns and reads segments: found by their purified text, returned as they were said, in time order.

    ``cut(turns of one session)`` returns cuts (``by_likeness(embed)``, ``asked(llm)``); ``keys()`` makes the memory that finds the purified texts
    (``lambda: Fused([BM25(b=0), Dense(embed)])``); ``keep``: the share of their words that stays. Raises ValueError unless 0 < keep ≤ 1.
    """

    def __init__(self, cut: Callable[[list[Unit]], Sequence[int]], keys: Callable[[], Memory] = BM25, keep: float = 0.75) -> None:
        if not 0 < keep <= 1:
            raise ValueError(f"keep must be above 0 and at most 1, saw {keep!r}")
        self.cut, self.keys, self.keep = cut, keys, keep
        self._cuts: dict[tuple[str, ...], Sequence[int]] = {}               # by what was said, so that only sessions that changed are cut again
        super().__init__()

    def _restart(self, units: Iterable[Unit]) -> None:
        self._found: tuple[Memory, dict[str, Unit]] | None = None
        super()._restart(units)

    def write(self, record: Unit) -> None:
        """Keep a turn; one with the same id is replaced in its place. Raises ValueError if it is no Unit or names no session."""
        (session,) = by_session([record])
        if (old := self.units.get(record.id)) and old.meta["session"] != session:
            del self.units[record.id]
        self.units[record.id] = record
        self._found = None

    def segments(self) -> list[Unit]:
        """Every segment as it was said, in the order written."""
        found, cuts = [], {}
        for session, said in by_session(self.units.values()).items():
            what = tuple(u.text for u in said)
            cuts[what] = self._cuts[what] if what in self._cuts else list(self.cut(said))
            edges = [0, *cuts[what], len(said)]
            found += [joined(f"G{session!r}:{n}", "segment", said[a:b]) for n, (a, b) in enumerate(zip(edges, edges[1:]), 1)]
        self._cuts = cuts
        return found

    @property
    def index(self) -> tuple[Memory, dict[str, Unit]]:
        """The memory of the keys, and the segment behind each; built at the first read after a write."""
        if self._found is None:
            keys, values, rare = self.keys(), {s.id: s for s in self.segments()}, rarity(u.text for u in self.units.values())
            for s in values.values():
                keys.write(Unit(s.id, purified(s.text, rare, self.keep), s.kind, s.source_ids, s.time, meta=s.meta))
            self._found = keys, values
        return self._found

    def rank(self, query: str, k: int | None = None) -> list[Unit]:
        """The (k) best segments, best first. Raises ValueError if k is negative."""
        keys, values = self.index
        return [values[u.id] for u in keys.rank(query, k)]

    def read(self, query: str, words: float = 500) -> list[Unit]:
        """The best segments that fit a budget of words, in the order they were said. Raises ValueError if the budget is none."""
        taken = {u.id for u in fill(self.rank(query), words)}
        return [s for s in self.index[1].values() if s.id in taken]

    def sizes(self) -> dict[str, int]:
        """Bytes by part: the turns with their ids, which are the values; the purified texts with their ids; the index over these."""
        return {**super().sizes(), **{f"keys: {part}": size for part, size in self.index[0].sizes().items()}}
