"""faiss: the k nearest keys by inner product, exactly, without forming all scores at once; and the vector indexes of `text/index.py`.

    ids_i = the k numbers j with the largest q_i · k_j, largest first        (`minimem.fast.search` in plain torch)

Paper   Johnson, Douze, Jégou 2017, arXiv:1702.08734.
Differs float32 on the CPU only: anything else is refused, not converted. Keys that tie may come in another order.
        The scores carry no gradient. `HNSW` tells the mean of ``scanned`` over the queries of a search, not each.
Shapes  queries: (Q, K)   keys: (N, K)   scores: (Q, k)   ids: (Q, k), int64
Units   an index's bytes are those of the file that faiss would write.
"""
from __future__ import annotations

import faiss
import numpy as np
import torch
from torch import Tensor

from ..core import expect
from ..text import hnsw, index, vectors


def search(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(scores, ids) of the k keys nearest to each query.

    Raises ValueError for shapes other than (Q, K) and (N, K), for k outside 1..N, and for anything but float32 on the CPU.
    """
    expect("queries:QK keys:NK", queries, keys)
    if queries.dim() != 2:
        raise ValueError(f"queries has shape {tuple(queries.shape)}, wanted (Q, K)")
    if queries.dtype != torch.float32 or queries.device.type != "cpu":
        raise ValueError(f"queries is {queries.dtype} on {queries.device}, wanted torch.float32 on cpu: faiss computes in nothing else")
    if not 1 <= k <= len(keys):
        raise ValueError(f"k must be between 1 and the number of keys, {len(keys)}, saw {k!r}")
    scores, ids = faiss.knn(queries.detach().numpy(), keys.detach().numpy(), k, metric=faiss.METRIC_INNER_PRODUCT)
    return torch.from_numpy(scores), torch.from_numpy(ids)


class Flat:
    """As ``text.index.Flat``: every vector kept and compared."""
    index = None

    def build(self, K: int) -> faiss.Index:
        return faiss.IndexFlatIP(K)

    def listed(self, K: int, cells: int) -> faiss.Index:
        """An index of cells that keeps this of its vectors."""
        return faiss.IndexIVFFlat(faiss.IndexFlatIP(K), K, cells, faiss.METRIC_INNER_PRODUCT)

    def add(self, x: np.ndarray) -> None:
        """Keep vectors, numbered in the order added; the first lot is learned from. Raises ValueError for all but finite float32 of one width."""
        form = vectors.expect("x", x, self.form)
        if x.dtype != np.float32:
            raise ValueError(f"x is {x.dtype}, wanted float32: faiss computes in nothing else")
        try:
            kept = self.index or self.build(form[0])
            if not kept.is_trained:
                kept.train(x)
            kept.add(x)
        except RuntimeError as e:
            raise ValueError(f"faiss refused {x.shape} vectors: {e}") from None
        self.index = kept

    @property
    def form(self) -> vectors.Form:
        return None if self.index is None else (self.index.d, np.dtype(np.float32))

    def search(self, q: np.ndarray, k: int) -> vectors.Found:
        """The k best for each query. Raises ValueError if nothing was added, q has another form, or k < 1."""
        vectors.expect_search(q, k, self.form)
        scores, ids, scanned = self.look(q, k)
        return vectors.Found(np.where(ids < 0, -np.inf, scores), ids, scanned)

    def look(self, q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return *self.index.search(q, k), np.full(len(q), self.index.ntotal)

    def nbytes(self) -> int:
        return 0 if self.index is None else faiss.serialize_index(self.index).nbytes


class SQ8(Flat):
    """As ``text.index.SQ8``: a byte for each number."""

    def build(self, K: int) -> faiss.Index:
        return faiss.IndexScalarQuantizer(K, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)

    def listed(self, K: int, cells: int) -> faiss.Index:
        return faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(K), K, cells, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, False)


class PQ(Flat):
    """As ``text.index.PQ``: the number of a codeword for each piece."""

    def __init__(self, parts: int = 48, bits: int = 8, seed: int = 0) -> None:
        index.PQ(parts, bits)                                    # its checks
        self.parts, self.bits, self.seed = parts, bits, seed

    def build(self, K: int) -> faiss.Index:
        return self._seeded(faiss.IndexPQ(K, self.parts, self.bits, faiss.METRIC_INNER_PRODUCT))

    def listed(self, K: int, cells: int) -> faiss.Index:
        made = faiss.IndexIVFPQ(faiss.IndexFlatIP(K), K, cells, self.parts, self.bits, faiss.METRIC_INNER_PRODUCT)
        made.by_residual = False
        return self._seeded(made)

    def _seeded(self, made: faiss.Index) -> faiss.Index:
        made.pq.cp.seed, made.pq.cp.min_points_per_centroid = self.seed, 1
        return made


class IVF(Flat):
    """As ``text.index.IVF``: vectors in cells; ``codes`` is an empty ``Flat``, ``SQ8`` or ``PQ`` of this module."""

    def __init__(self, cells: int = 64, probe: int = 8, codes: Flat | None = None, seed: int = 0) -> None:
        index.IVF(cells, probe)
        self.cells, self.probe, self.kept, self.seed = cells, probe, codes or Flat(), seed

    def build(self, K: int) -> faiss.Index:
        made = self.kept.listed(K, self.cells)
        made.cp.seed, made.cp.min_points_per_centroid = self.seed, 1
        return made

    def add(self, x: np.ndarray) -> None:
        super().add(x)
        self.sizes = np.array([self.index.invlists.list_size(c) for c in range(self.cells)])

    def look(self, q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.index.nprobe = self.probe
        near, cells = self.index.quantizer.search(q, self.probe)
        return *self.index.search_preassigned(q, k, cells, near), self.cells + self.sizes[cells].sum(1)


class HNSW(Flat):
    """As ``text.hnsw.HNSW``: a graph."""

    def __init__(self, M: int = 16, ef: int = 32, build: int = 80, seed: int = 0) -> None:
        hnsw.HNSW(M, ef, build)
        self.M, self.ef, self.wide, self.seed = M, ef, build, seed

    def build(self, K: int) -> faiss.Index:
        made = faiss.IndexHNSWFlat(K, self.M, faiss.METRIC_INNER_PRODUCT)
        made.hnsw.efConstruction, made.hnsw.rng = self.wide, faiss.RandomGenerator(self.seed)
        return made

    def look(self, q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.index.hnsw.efSearch = self.ef
        faiss.cvar.hnsw_stats.reset()
        found = self.index.search(q, k)
        return *found, np.full(len(q), faiss.cvar.hnsw_stats.ndis / len(q))
