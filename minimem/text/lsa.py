r"""Latent semantic analysis: the weighted term counts of a text, squeezed to a few numbers; an embedder that needs no network and no training.

    e(x) = y / |y|,    y = V_kᵀ x,    V_k the first k right singular vectors of the matrix whose rows are the fitted texts     (1)

x is the TF-IDF vector of a text: one number a term. Terms that stand in the same texts come to lie in the same directions.

Paper   Deerwester and others 1990, doi 10.1002/(SICI)1097-4571(199009)41:6<391::AID-ASI1>3.0.CO;2-9.
Differs terms are weighted by TF-IDF, where the paper's example counts them.
Shapes  (n, dim) float32
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .unit import tokens

Floats = NDArray[np.float32]


def expect_texts(texts: Sequence[str]) -> None:
    """Raises ValueError for one string in place of several texts."""
    if isinstance(texts, str):
        raise ValueError(f"texts must be a list of strings, saw the string {texts[:40]!r}")


class LSA:
    """An embedder by (1), fitted on the texts that it shall tell apart. Needs scikit-learn.

    Fewer texts or terms than ``dim`` leave the last numbers 0; a text none of whose terms were seen is all 0. The same texts give the same
    vectors. Raises ValueError if dim < 1.
    """

    def __init__(self, dim: int = 256) -> None:
        if dim < 1:
            raise ValueError(f"dim must be >= 1, saw {dim!r}")
        self.name, self.dim = f"lsa-{dim}", dim
        self.fit([])

    def fit(self, texts: Sequence[str]) -> LSA:
        """Learn terms, their weights and ``dim`` directions from these texts, and nothing of those before; returns itself."""
        expect_texts(texts)
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.utils.extmath import randomized_svd
        terms = list(map(tokens, texts))
        self.directions = np.zeros((0, 0), np.float32)                      # rank × terms
        self._tfidf = TfidfVectorizer(analyzer=list, sublinear_tf=True, dtype=np.float32)
        if any(terms):
            x = self._tfidf.fit_transform(terms)
            self.directions = randomized_svd(x, min(self.dim, *x.shape), n_iter=5, random_state=0)[2]
        return self

    def __call__(self, texts: Sequence[str]) -> Floats:
        expect_texts(texts)
        terms, out = list(map(tokens, texts)), np.zeros((len(texts), self.dim), np.float32)
        if terms and len(self.directions):
            x = self._tfidf.transform(terms) @ self.directions.T                    # (1)
            out[:, : x.shape[1]] = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        return out

    def nbytes(self) -> int:
        """What it learned: the terms with their numbers and weights, and the directions."""
        return sum(len(t.encode(errors="surrogatepass")) + 8 for t in getattr(self._tfidf, "vocabulary_", ())) + self.directions.nbytes
