r"""Vector indexes: the nearest of many vectors, exactly, or faster and smaller with some of them missed.

    flat   N_k(q) = the k numbers i with the largest q·x_i                                                    (1)
    SQ8    z_d = ⌊255 (x_d − l_d) / (h_d − l_d)⌋,   x̂_d = l_d + (z_d + ½)(h_d − l_d) / 255                   (2)
    PQ     z_m = argmin_j |x_m − C_mj|²,   q·x̂ = Σ_m q_m·C_m,z_m                                              (3)
    IVF    cell(x) = argmax_j c_j·x;   (1) over those i alone whose cell is one of the p with the largest q·c_j   (4)

x_d is one number of a vector, x_m one of its M pieces, l and h the least and largest seen, c and C centres of clusters found by k-means.
SQ8 keeps a byte a number; PQ a byte a piece, and the exact query meets the 256 codewords of each piece once, in a table (asymmetric);
IVF keeps all vectors, sorted into cells, and looks into p of them. HNSW, a graph, stands in `hnsw.py`.

Paper   Jégou, Douze, Schmid 2011, doi 10.1109/TPAMI.2010.57 (PQ, IVF); Johnson, Douze, Jégou 2017, arXiv:1702.08734.
Differs scores are inner products, meant for vectors of length 1. PQ codes the vector itself, also in cells, not what is left after
        its centre is taken off. Centres of cells have length 1 (spherical k-means), codewords do not. What is learned is learned from the
        first vectors added and stays; k-means sees at most 256 vectors a centre. No index deletes.
Shapes  x: (n, K)   q: (Q, K)   scores, ids: (Q, k)   scanned: (Q,), vectors and centres compared with each query
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from typing import Any

import numpy as np

from .unit import Memory, Unit, expect_count
from .vectors import Form, Found, best, expect, expect_search, kmeans, nearest, stack


class Flat:
    """Every vector kept as it is, every one compared: exact."""
    codes: np.ndarray | None = None
    form: Form = None

    def learn(self, x: np.ndarray) -> None:
        """What the codes need to know of the vectors; here nothing."""

    def encode(self, x: np.ndarray) -> np.ndarray:
        """What is kept of them."""
        return x.copy()

    def compare(self, q: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Scores (Q, n) of queries and codes; for a coded vector q·x̂, without decoding it."""
        return q @ codes.T                                                                                           # (1)

    def add(self, x: np.ndarray) -> None:
        """Keep vectors; they are numbered in the order added. The first lot is also learned from."""
        form = expect("x", x, self.form)
        if self.codes is None:
            self.learn(x)
        codes = self.encode(x)
        self.codes, self.form = codes if self.codes is None else np.concatenate([self.codes, codes]), form

    def search(self, q: np.ndarray, k: int) -> Found:
        """The k best for each query. Raises ValueError if nothing was added, q has another form, or k < 1."""
        expect_search(q, k, self.form)
        found, ids = [], np.arange(len(self.codes))
        for some in np.split(q, range(64, len(q), 64)):
            s = np.concatenate([self.compare(some, c) for c in np.split(self.codes, range(4096, len(self.codes), 4096))], 1)
            found += [best(row, ids, k) for row in s]
        return stack(found, [len(ids)] * len(q))

    def nbytes(self) -> int:
        return sum(a.nbytes for a in vars(self).values() if isinstance(a, np.ndarray))


class SQ8(Flat):
    """A byte for each number: its place between the least and the largest seen in that dimension."""

    def learn(self, x: np.ndarray) -> None:
        self.low, self.span = x.min(0), x.max(0) - x.min(0)

    def encode(self, x: np.ndarray) -> np.ndarray:
        return np.clip((x - self.low) / np.where(self.span > 0, self.span, 1) * 255, 0, 255).astype(np.uint8)        # (2)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return self.low + (codes + self.low.dtype.type(0.5)) / 255 * self.span                                       # (2)

    def compare(self, q: np.ndarray, codes: np.ndarray) -> np.ndarray:
        return (q * self.span / 255) @ codes.T.astype(q.dtype) + (q @ (self.low + self.span / 510))[:, None]


class PQ(Flat):
    """A byte for each of ``parts`` pieces of a vector: the number of the nearest of 2^bits codewords. Raises ValueError unless 1 ≤ bits ≤ 8."""

    def __init__(self, parts: int = 48, bits: int = 8, seed: int = 0) -> None:
        if parts < 1 or not 1 <= bits <= 8:
            raise ValueError(f"wanted parts >= 1 and 1 <= bits <= 8, saw parts={parts}, bits={bits}")
        self.parts, self.bits, self.seed = parts, bits, seed

    def pieces(self, x: np.ndarray) -> np.ndarray:
        """(M, n, K/M). Raises ValueError if the width cannot be cut into that many pieces."""
        if x.shape[1] % self.parts:
            raise ValueError(f"vectors of width {x.shape[1]} cannot be cut into {self.parts} equal parts")
        return x.reshape(len(x), self.parts, -1).transpose(1, 0, 2)

    def learn(self, x: np.ndarray) -> None:
        self.books = np.array([kmeans(piece, 2 ** self.bits, self.seed + m) for m, piece in enumerate(self.pieces(x))])

    def encode(self, x: np.ndarray) -> np.ndarray:
        return np.stack([nearest(piece, book) for piece, book in zip(self.pieces(x), self.books)], 1).astype(np.uint8)      # (3)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return np.concatenate([book[z] for book, z in zip(self.books, codes.T)], 1)

    def compare(self, q: np.ndarray, codes: np.ndarray) -> np.ndarray:
        tables = np.einsum("mqd,mjd->mqj", self.pieces(q), self.books)
        return sum(table[:, z] for table, z in zip(tables, codes.T))                                                 # (3)


class IVF:
    """Vectors sorted into ``cells``; a query looks into the ``probe`` cells whose centres are nearest. Raises ValueError unless 1 ≤ probe ≤ cells.

    ``codes``: what is kept of the vectors, an empty ``Flat``, ``SQ8`` or ``PQ``.
    """
    centres: np.ndarray | None = None
    form: Form = None

    def __init__(self, cells: int = 64, probe: int = 8, codes: Flat | None = None, seed: int = 0) -> None:
        if not 1 <= probe <= cells:
            raise ValueError(f"wanted 1 <= probe <= cells, saw probe={probe}, cells={cells}")
        self.cells, self.probe, self.kept, self.seed = cells, probe, codes or Flat(), seed
        self.ids, self.start = np.zeros(0, np.int64), np.zeros(cells + 1, np.int64)

    def add(self, x: np.ndarray) -> None:
        """Keep vectors, numbered in the order added. The centres are learned from the first lot."""
        form = expect("x", x, self.form)
        centres = kmeans(x, self.cells, self.seed, unit=True) if self.centres is None else self.centres
        self.kept.add(x)
        cell = np.concatenate([np.repeat(np.arange(self.cells), np.diff(self.start)), nearest(x, centres)])
        order = np.argsort(cell, kind="stable")
        self.ids = np.concatenate([self.ids, np.arange(len(self.ids), len(cell))])[order]
        self.kept.codes, self.start = self.kept.codes[order], np.searchsorted(cell[order], np.arange(self.cells + 1))
        self.centres, self.form = centres, form

    def search(self, q: np.ndarray, k: int) -> Found:
        """The k best for each query in the cells it looks into. Raises ValueError if nothing was added, q has another form, or k < 1."""
        expect_search(q, k, self.form)
        found, scanned = [], []
        for one, near in zip(q, np.argsort(-(q @ self.centres.T), kind="stable")[:, : self.probe]):
            rows = [slice(self.start[c], self.start[c + 1]) for c in near]                                           # (4)
            s = np.concatenate([self.kept.compare(one[None], self.kept.codes[r])[0] for r in rows])
            found.append(best(s, np.concatenate([self.ids[r] for r in rows]), k))
            scanned.append(self.cells + len(s))
        return stack(found, scanned)

    def nbytes(self) -> int:
        return self.kept.nbytes() + sum(a.nbytes for a in (self.centres, self.ids, self.start) if a is not None)


class Indexed(Memory):
    """A text memory read through an index: ``embed`` turns texts into vectors of length 1, ``make()`` gives an empty index.

    New units are added at the next read; an embedder with ``fit`` is copied, fitted again to all units and the index built anew.
    ``depth``: units looked for when no number is said. Fusion refuses the −inf of units that were not found: fuse with a depth that finds all.
    """

    def __init__(self, embed: Callable[[list[str]], np.ndarray], make: Callable[[], Any] = Flat, depth: int = 100) -> None:
        self.embed, self.make, self.depth, self.fitted = copy(embed), make, depth, hasattr(embed, "fit")
        super().__init__()

    def _restart(self, units: Iterable[Unit]) -> None:
        self._index, self._new = None, []
        if self.fitted:
            self.embed.fit([])
        super()._restart(units)

    def write(self, record: Unit) -> None:
        super().write(record)
        self._new.append(record.text)

    @property
    def index(self) -> Any:
        """The index of all units, numbered in the order written; None if there is none. Raises ValueError if a text got no vector."""
        if self._new:
            index, new = self._index or self.make(), self._new
            if self.fitted:
                index, new = self.make(), [u.text for u in self.units.values()]
                self.embed.fit(new)
            x = self.embed(new)
            if len(x) != len(new):
                raise ValueError(f"the embedder returned {len(x)} vectors for {len(new)} texts")
            index.add(x)
            self._index, self._new = index, []
        return self._index

    def scores(self, query: str) -> np.ndarray:
        """The inner product with the query of the ``depth`` units found, −inf of all others, in the order written."""
        s = np.full(len(self.units), -np.inf)
        if self.units:
            found = self.index.search(self.embed([query]), self.depth)
            s[found.ids[found.ids >= 0]] = found.scores[found.ids >= 0]
        return s

    def rank(self, query: str, k: int | None = None) -> list[Unit]:
        """The (k) units that the index takes for the best, best first. Raises ValueError if k is negative."""
        expect_count(k)
        units = list(self.units.values())
        k = self.depth if k is None else k
        return [units[i] for i in self.index.search(self.embed([query]), k).ids[0] if i >= 0] if units and k else []

    def sizes(self) -> dict[str, int]:
        """Bytes by part: the text with its ids; the index with its vectors; what an embedder learned from these units."""
        index = self.index.nbytes() if self.units else 0
        return {**super().sizes(), "index": index, **({"embedder": self.embed.nbytes()} if self.fitted else {})}
