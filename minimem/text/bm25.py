r"""BM25: a memory of raw text, read through the rare words that the question and the text share.

    idf(t)  = ln(1 + (N − n_t + ½) / (n_t + ½))                                            (1)
    s(q, d) = Σ_{t∈q} idf(t) · f_{d,t} (k₁ + 1) / (f_{d,t} + k₁ (1 − b + b |d|/ℓ̄))         (2)

N texts, n_t of them hold term t, text d holds it f_{d,t} times and has |d| terms, ℓ̄ on average; a term repeated in q counts repeatedly.
k₁ says how soon more of the same word stops to matter, b how much a long text is marked down.

Paper   Robertson and Zaragoza 2009, The Probabilistic Relevance Framework, doi 10.1561/1500000019; idf never negative, as in Lucene.
Differs the defaults k₁ = 1.5, b = 0.75 are those of common libraries, not the paper's; on turns of a chat b = 0 reads better.
Shapes  `score` and `Impacts.scores`: one float64 a text, in the order written.
Units   budgets in words, times in days, sizes in bytes (text as UTF-8; Python's own overhead per object is not counted).
"""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from .unit import Memory, Unit, expect_count, expect_unit, tokens


def score(query: Sequence[str], docs: Sequence[Sequence[str]], k1: float = 1.5, b: float = 0.75) -> list[float]:
    """s(q, d) of every text, each a list of terms: the definition."""
    N, mean, bags = len(docs), sum(map(len, docs)) / max(len(docs), 1), [Counter(d) for d in docs]
    s = [0.0] * N
    for t in query:
        n = sum(t in bag for bag in bags)
        idf = math.log(1 + (N - n + 0.5) / (n + 0.5))                                                # (1)
        for d, bag in enumerate(bags):
            if f := bag[t]:
                s[d] += idf * f * (k1 + 1) / (f + k1 * (1 - b + b * len(docs[d]) / mean))            # (2)
    return s


class Impacts:
    """The fast form: every summand of (2) computed once, one sparse row a term (12 bytes a pair), so that a query adds up a few rows.

    ``docs``: a list of term numbers for each text; ``terms``: how many numbers there are. Needs scipy.
    """

    def __init__(self, docs: Sequence[np.ndarray], terms: int, k1: float = 1.5, b: float = 0.75) -> None:
        from scipy.sparse import coo_array
        N, length = len(docs), np.fromiter(map(len, docs), np.int64, len(docs))
        flat = np.concatenate([*docs, np.zeros(0, np.int32)])
        f = coo_array((np.ones(len(flat)), (flat, np.repeat(np.arange(N, dtype=np.int32), length))), shape=(terms, N)).tocsr()
        n = np.diff(f.indptr)
        idf = np.log1p((N - n + 0.5) / (n + 0.5))
        norm = k1 * (1 - b + b * length / max(length.mean(), 1e-9)) if N else length
        self.start, self.doc, self.N = f.indptr, f.indices, N
        self.value = np.repeat(idf, n) * f.data * (k1 + 1) / (f.data + norm[f.indices])

    def scores(self, query: Iterable[int]) -> np.ndarray:
        """s(q, d) of every text; the query is a list of term numbers."""
        s = np.zeros(self.N)
        for t in query:
            row = slice(self.start[t], self.start[t + 1])
            np.add.at(s, self.doc[row], self.value[row])
        return s

    def top(self, query: Iterable[int], k: int | None = None) -> np.ndarray:
        """Numbers of the (k) best texts among those that share a term with the query, best first; of equals the older first."""
        s = self.scores(query)
        block = s[: len(s) // 64 * 64].reshape(-1, 64).max(1)                # the k-th best block is no better than the k-th best text
        least = np.partition(block, -k)[-k] if k and k <= len(block) else 0.0
        found = np.flatnonzero((s >= least) & (s > 0))
        return found[np.argsort(-s[found], kind="stable")][:k]


class BM25(Memory):
    """A text memory that reads by (2); the index is built again at the first read after a write.

    ``tokenize`` cuts texts and questions into terms. Raises ValueError unless k1 ≥ 0 and 0 ≤ b ≤ 1.
    """
    least = 0.0

    def __init__(self, k1: float = 1.5, b: float = 0.75, tokenize: Callable[[str], list[str]] = tokens) -> None:
        if not 0 <= k1 < math.inf:
            raise ValueError(f"k1 must be finite and >= 0, saw {k1!r}")
        if not 0 <= b <= 1:
            raise ValueError(f"b must be between 0 and 1, saw {b!r}")
        self.k1, self.b, self.tokenize = k1, b, tokenize
        super().__init__()

    def _restart(self, units: Iterable[Unit]) -> None:
        self._terms: list[np.ndarray] = []
        self._number: dict[str, int] = {}
        self._impacts: Impacts | None = None
        super()._restart(units)

    def write(self, record: Unit) -> None:
        terms = self.tokenize(expect_unit(record).text)         # first: should it fail, nothing has changed
        super().write(record)
        self._terms.append(np.array([self._number.setdefault(t, len(self._number)) for t in terms], np.int32))
        self._impacts = None

    @property
    def impacts(self) -> Impacts:
        """The index, built if anything was written since."""
        self._impacts = self._impacts or Impacts(self._terms, len(self._number), self.k1, self.b)
        return self._impacts

    def numbers(self, query: str) -> list[int]:
        """The question as term numbers; a term never written is left out."""
        return [self._number[t] for t in self.tokenize(query) if t in self._number]

    def scores(self, query: str) -> np.ndarray:
        """s(q, d) of every unit, in the order written."""
        return self.impacts.scores(self.numbers(query))

    def rank(self, query: str, k: int | None = None) -> list[Unit]:
        """The (k) best units that share a term with the query, best first. Raises ValueError if k is negative."""
        expect_count(k)
        units = list(self.units.values())
        return [units[i] for i in self.impacts.top(self.numbers(query), k)]

    def sizes(self) -> dict[str, int]:
        """Bytes by part: the text with its ids; the vocabulary; the term lists and impacts, which text and vocabulary can give again."""
        i = self.impacts
        return {**super().sizes(), "vocabulary": sum(len(t.encode(errors="surrogatepass")) + 4 for t in self._number),
                "index": sum(t.nbytes for t in self._terms) + i.start.nbytes + i.doc.nbytes + i.value.nbytes}
