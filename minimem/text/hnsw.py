"""HNSW: a graph of vectors that a search walks, each step to the neighbour nearest to the query.

    top(i) = ⌊−ln u / ln M⌋,  u uniform in (0, 1]                                                              (1)
    walk:  of all seen, take the best not yet expanded; look at its neighbours; stop when it is worse than the ef best seen    (2)
    link i with c, best first,  if  x_i·c > x_c·x_c'  for every c' already linked,  until M are                 (3)

A vector is a node of the layers 0 … top(i): layer 0 holds all, each layer above about one in M of those below. A search enters at the
top, walks each upper layer with ef = 1, as on motorways, and layer 0 with the ef that it was told: more ef, more nodes seen, fewer missed.
(3) drops a neighbour that is better reached through another one, so links lead in all directions.

Paper   Malkov and Yashunin 2018, arXiv:1603.09320 (algorithms 1, 2, 4 and 5).
Differs inner products, meant for vectors of length 1, where nearer is larger; dropped neighbours are not put back to fill up M; M links a
        node, 2M on layer 0. Written to be read: a query takes milliseconds, building 10,000 vectors minutes.
Shapes  x: (n, K)   q: (Q, K)   scores, ids: (Q, k)   scanned: (Q,), vectors compared with each query
"""
from __future__ import annotations

import heapq

import numpy as np

from .vectors import Form, Found, best, expect, expect_search, stack


class HNSW:
    """``ef``: how many of the best a search keeps, ``build`` while linking. Raises ValueError unless M ≥ 2, ef ≥ 1 and build ≥ 1."""

    def __init__(self, M: int = 16, ef: int = 32, build: int = 80, seed: int = 0) -> None:
        if M < 2 or ef < 1 or build < 1:
            raise ValueError(f"wanted M >= 2, ef >= 1 and build >= 1, saw M={M}, ef={ef}, build={build}")
        self.M, self.ef, self.build, self.seed = M, ef, build, seed
        self.x: np.ndarray | None = None
        self.layers: list[dict[int, np.ndarray]] = []            # of each layer, the links of its nodes

    def add(self, x: np.ndarray) -> None:
        """Keep vectors, numbered in the order added, and link each with its neighbours."""
        expect("x", x, self.form)
        first, self.x = (0, x.copy()) if self.x is None else (len(self.x), np.concatenate([self.x, x]))
        chance = 1 - np.random.default_rng((self.seed, first)).random(len(x))
        for i, top in enumerate((-np.log(chance) / np.log(self.M)).astype(int), first):                                     # (1)
            self._link(i, top)

    @property
    def form(self) -> Form:
        return None if self.x is None else (self.x.shape[1], self.x.dtype)

    def _link(self, i: int, top: int) -> None:
        near = [self._enter(self.x[i])] if self.layers else []
        for level in reversed(range(len(self.layers))):
            near, _ = self._walk(self.x[i], [j for _, j in near], level, self.build if level <= top else 1)
            if level <= top:
                links, most = self.layers[level], self.M if level else 2 * self.M
                links[i] = self._spread(near, self.M)
                for j in links[i].tolist():
                    links[j] = np.append(links[j], np.int32(i))
                    if len(links[j]) > most:
                        s = self.x[links[j]] @ self.x[j]
                        links[j] = self._spread(sorted(zip(s.tolist(), links[j].tolist()), reverse=True), most)
        self.layers += [{i: np.zeros(0, np.int32)} for _ in range(len(self.layers), top + 1)]

    def _enter(self, q: np.ndarray) -> tuple[float, int]:
        i = next(iter(self.layers[-1]))
        return float(self.x[i] @ q), i

    def _walk(self, q: np.ndarray, start: list[int], level: int, ef: int) -> tuple[list[tuple[float, int]], int]:
        """The ef best (score, node) seen on a layer, best first, and how many were seen."""
        found = [(float(s), i) for s, i in zip(self.x[start] @ q, start)]
        ahead, seen, links = [(-s, i) for s, i in found], set(start), self.layers[level]
        heapq.heapify(found)
        heapq.heapify(ahead)
        while ahead and (len(found) < ef or -ahead[0][0] >= found[0][0]):                                                   # (2)
            new = [j for j in links[heapq.heappop(ahead)[1]].tolist() if j not in seen]
            seen.update(new)
            for s, j in zip((self.x[new] @ q).tolist(), new):
                if len(found) < ef or s > found[0][0]:
                    heapq.heappush(ahead, (-s, j))
                    heapq.heappush(found, (s, j))
                    if len(found) > ef:
                        heapq.heappop(found)
        return sorted(found, reverse=True), len(seen)

    def _spread(self, near: list[tuple[float, int]], most: int) -> np.ndarray:
        ids = [j for _, j in near]
        among, kept = (self.x[ids] @ self.x[ids].T).tolist(), []
        for a, (s, _) in enumerate(near):
            if len(kept) < most and all(s > among[a][b] for b in kept):                                                     # (3)
                kept.append(a)
        return np.array([ids[a] for a in kept], np.int32)

    def search(self, q: np.ndarray, k: int) -> Found:
        """The k best for each query that the walk meets; it keeps k if that is more than ef.

        Raises ValueError if nothing was added, q has another form, or k < 1.
        """
        expect_search(q, k, self.form)
        found, scanned = [], []
        for one in q:
            near, total = [self._enter(one)], 1
            for level in reversed(range(len(self.layers))):
                near, seen = self._walk(one, [j for _, j in near], level, 1 if level else max(self.ef, k))
                total += seen - 1
            scores, ids = zip(*near)
            found.append(best(np.array(scores, q.dtype), np.array(ids), k))
            scanned.append(total)
        return stack(found, scanned)

    def nbytes(self) -> int:
        """The vectors, 4 bytes a link, and 4 for each node of a layer."""
        return (0 if self.x is None else self.x.nbytes) + sum(4 + links.nbytes for layer in self.layers for links in layer.values())
