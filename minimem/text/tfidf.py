r"""TF-IDF: a memory of raw text, in which a text is a vector of weighted word counts and the question looks for the smallest angle.

    w_{d,t} = (1 + ln f_{d,t}) (ln((1 + N) / (1 + n_t)) + 1)                               (1)
    s(q, d) = w_qᵀ w_d / (|w_q| |w_d|)                                                     (2)

N texts, n_t of them hold term t, text d holds it f_{d,t} times; w is 0 where f is 0. The question is weighed like a text.

Paper   Spärck Jones 1972, A statistical interpretation of term specificity, doi 10.1108/eb026526: the weight of rare terms.
Differs of the many forms of (1) the one that scikit-learn calls sublinear and smooth; its "+ 1" keeps a term that every text holds.
        A term that no text holds is left out of the question: it would make all scores smaller by the same factor.
Shapes  `score` and `Weights.scores`: one float64 a text, in the order written, from 0 to 1.
Units   budgets in words, times in days, sizes in bytes (text as UTF-8; Python's own overhead per object is not counted).
"""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from .unit import Memory, Unit, expect_unit, tokens


def score(query: Sequence[str], docs: Sequence[Sequence[str]]) -> list[float]:
    """s(q, d) of every text, each a list of terms: the definition."""
    n = Counter(t for d in docs for t in set(d))
    w = [{t: (1 + math.log(f)) * (math.log((1 + len(docs)) / (1 + n[t])) + 1) for t, f in Counter(x).items() if n[t]} for x in (query, *docs)]   # (1)
    length = [math.sqrt(sum(x * x for x in v.values())) or 1 for v in w]
    return [sum(x * v.get(t, 0) for t, x in w[0].items()) / (length[0] * m) for v, m in zip(w[1:], length[1:])]                                # (2)


class Weights:
    """The fast form: w_d / |w_d| of every text in one sparse matrix, a row a term (12 bytes a pair), so that a query adds up a few rows.

    ``docs``: a list of term numbers for each text; ``terms``: how many numbers there are. Needs scipy.
    """

    def __init__(self, docs: Sequence[np.ndarray], terms: int) -> None:
        from scipy.sparse import coo_array
        N, flat = len(docs), np.concatenate([*docs, np.zeros(0, np.int32)])
        text = np.repeat(np.arange(N, dtype=np.int32), [len(d) for d in docs])
        self.w = coo_array((np.ones(len(flat)), (flat, text)), shape=(terms, N)).tocsr()
        n = np.diff(self.w.indptr)
        self.idf = np.log((1 + N) / (1 + n)) + 1
        self.w.data = (1 + np.log(self.w.data)) * np.repeat(self.idf, n)                             # (1)
        self.w.data /= np.sqrt(np.bincount(self.w.indices, self.w.data ** 2, N))[self.w.indices]

    def scores(self, query: Iterable[int]) -> np.ndarray:
        """s(q, d) of every text; the query is a list of term numbers."""
        t, f = np.unique(np.fromiter(query, np.int32), return_counts=True)
        w = (1 + np.log(f)) * self.idf[t]                                                            # (1)
        return w / max(np.linalg.norm(w), 1e-300) @ self.w[t]                                        # (2)


class TFIDF(Memory):
    """A text memory that reads by (2); the matrix is built again at the first read after a write.

    ``tokenize`` cuts texts and questions into terms.
    """
    least = 0.0

    def __init__(self, tokenize: Callable[[str], list[str]] = tokens) -> None:
        self.tokenize = tokenize
        super().__init__()

    def _restart(self, units: Iterable[Unit]) -> None:
        self._terms: list[np.ndarray] = []
        self._number: dict[str, int] = {}
        self._weights: Weights | None = None
        super()._restart(units)

    def write(self, record: Unit) -> None:
        terms = self.tokenize(expect_unit(record).text)         # first: should it fail, nothing has changed
        super().write(record)
        self._terms.append(np.array([self._number.setdefault(t, len(self._number)) for t in terms], np.int32))
        self._weights = None

    @property
    def weights(self) -> Weights:
        """The matrix, built if anything was written since."""
        self._weights = self._weights or Weights(self._terms, len(self._number))
        return self._weights

    def scores(self, query: str) -> np.ndarray:
        """s(q, d) of every unit, in the order written."""
        return self.weights.scores(self._number[t] for t in self.tokenize(query) if t in self._number)

    def sizes(self) -> dict[str, int]:
        """Bytes by part: the text with its ids; the vocabulary; the term lists and weights, which text and vocabulary can give again."""
        w = self.weights.w
        return {**super().sizes(), "vocabulary": sum(len(t.encode(errors="surrogatepass")) + 4 for t in self._number),
                "index": sum(t.nbytes for t in self._terms) + w.data.nbytes + w.indices.nbytes + w.indptr.nbytes + self.weights.idf.nbytes}
