r"""Dense retrieval: a text becomes one vector, ahead of time; a question finds the texts whose vectors point its way.

    e(x) = h̄(x) / |h̄(x)|,    h̄(x) = 1/n Σ_i h_i(x)  over the n real tokens                   (1)
    s(q, d) = e(q)ᵀ e(d)                                                                       (2)
    L = −log exp(s(q_i, d_i)/τ) / Σ_j exp(s(q_i, d_j)/τ)                                       (3)
    s(q, d) = Σ_i max_j q_iᵀ d_j    late interaction: a vector for every token                 (4)

The d_j of (3) are the texts of the other pairs of a batch: what answers one question is taken as wrong for the rest.

An embedder is called with texts and returns (n, dim) float32 rows of length 1; it has a `name` and a `dim`. One that must see the
texts first has `fit(texts)` and `nbytes()`. Here: `LSA` (no network; the default), `BiEncoder` (trained by `train`); `pretrained.minilm()` is one too.

Paper   Karpukhin and others 2020, arXiv:2004.04906 (DPR: (2) and (3)); Reimers and Gurevych 2019, arXiv:1908.10084 (the mean in (1));
        Khattab and Zaharia 2020, arXiv:2004.12832 (ColBERT: (4)); Deerwester and others 1990 (LSA).
Differs DPR has two BERTs, reads the first token's vector and does not normalise; here one encoder reads both sides, as MiniLM does, and
        the one that is trained here is a bag of term vectors. Late interaction keeps every token, [CLS], [SEP] and marks among them.
Shapes  vectors: (n, dim) float32   token vectors: (T, K)   `scores`: one float64 a unit, in the order written.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .unit import Memory, Unit, tokens

Floats = NDArray[np.float32]


class Embedder(Protocol):
    """Texts in, one row of length 1 each out. ``name`` says which model: vectors of two models must never meet."""
    name: str
    dim: int

    def __call__(self, texts: Sequence[str]) -> Floats: ...


class LSA:
    """Latent semantic analysis, an embedder that needs no network: TF-IDF squeezed to ``dim`` numbers by a singular value decomposition.

    It must be fitted on the texts that it shall tell apart. Fewer texts or terms than ``dim`` leave the last numbers 0; a text none of whose
    terms were seen is all 0. The same texts give the same vectors. Needs scikit-learn. Raises ValueError if dim < 1.
    """

    def __init__(self, dim: int = 256) -> None:
        if dim < 1:
            raise ValueError(f"dim must be >= 1, saw {dim!r}")
        self.name, self.dim = f"lsa-{dim}", dim
        self.fit([])

    def fit(self, texts: Sequence[str]) -> LSA:
        """Learn terms, their weights and ``dim`` directions from these texts, and nothing of those before; returns itself."""
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
        terms = list(map(tokens, texts))
        self.directions = np.zeros((0, 0), np.float32)                      # rank × terms
        self._tfidf = TfidfVectorizer(analyzer=list, sublinear_tf=True, dtype=np.float32)
        if any(terms):
            x = self._tfidf.fit_transform(terms)
            self.directions = TruncatedSVD(min(self.dim, *x.shape), random_state=0).fit(x).components_
        return self

    def __call__(self, texts: Sequence[str]) -> Floats:
        out = np.zeros((len(texts), self.dim), np.float32)
        if len(texts) and len(self.directions):
            x = self._tfidf.transform(map(tokens, texts)) @ self.directions.T
            out[:, : x.shape[1]] = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        return out

    def nbytes(self) -> int:
        """What it learned: the terms with their numbers and weights, and the directions."""
        return sum(len(t.encode(errors="surrogatepass")) + 8 for t in getattr(self._tfidf, "vocabulary_", ())) + self.directions.nbytes


class Dense(Memory):
    """A text memory that reads by (2). A text is embedded once, at the first read after it was written.

    An embedder with ``fit`` is copied, and fitted on all units again at the first read after any change: what it learns is part of the memory.
    """

    def __init__(self, embed: Embedder | None = None) -> None:
        embed = LSA() if embed is None else embed
        self.fitted = hasattr(embed, "fit")
        self.embed = copy(embed) if self.fitted else embed
        self._rows = np.zeros((0, embed.dim), np.float32)
        self.units = {}
        super().__init__()

    def _restart(self, units: Iterable[Unit]) -> None:
        units = list(units)
        kept = {u.id for u in units}
        self._rows = self._rows[np.array([id in kept for id, _ in zip(self.units, self._rows)], bool)]
        if self.fitted:
            self.embed.fit([])
            self._rows = self._rows[:0]
        super()._restart(units)

    @property
    def vectors(self) -> Floats:
        """e(d), one row a unit, in the order written. Raises ValueError if the embedder returns another shape."""
        texts = [u.text for u in self.units.values()]
        old = self._rows
        if len(texts) > len(old):
            if self.fitted:
                self.embed.fit(texts)
                old = old[:0]
            new, wanted = np.asarray(self.embed(texts[len(old):]), np.float32), (len(texts) - len(old), self.embed.dim)
            if new.shape != wanted:
                raise ValueError(f"{self.embed.name} returned vectors of shape {new.shape}, wanted {wanted}")
            self._rows = np.concatenate([old, new])
        return self._rows

    def scores(self, query: str) -> NDArray[np.float64]:
        """s(q, d) of every unit, in the order written. Raises ValueError if the query is no string."""
        if not isinstance(query, str):
            raise ValueError(f"query must be a string, saw {type(query).__name__}")
        return (self.vectors @ self.embed([query])[0]).astype(np.float64)                       # (2)

    def sizes(self) -> dict[str, int]:
        """Bytes by part: the text with its ids; the vectors; what an embedder learned from these units (a ready-made model is not counted)."""
        return {**super().sizes(), "vectors": self.vectors.nbytes, **({"embedder": self.embed.nbytes()} if self.fitted else {})}
