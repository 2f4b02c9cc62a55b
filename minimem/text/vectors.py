"""What the vector indexes share: the answer to a search, checks, the k best of many scores, and k-means.

    near(x) = argmin_j |x − c_j|²,    c_j ← the mean of the vectors nearest to it                   (1)

Differs the first centres are vectors drawn at random (no k-means++); a centre that is nearest to none stays where it is.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Form = tuple[int, np.dtype] | None


class Found(NamedTuple):
    """Scores and ids, best first, −inf and −1 where fewer were found; ``scanned``: how many vectors each query was compared with."""
    scores: np.ndarray
    ids: np.ndarray
    scanned: np.ndarray


def expect(name: str, x: np.ndarray, form: Form = None) -> Form:
    """Width and type of vectors. Raises ValueError unless they are an array (n, K), n ≥ 1, of finite floats, of the ``form`` of those before."""
    if not isinstance(x, np.ndarray) or x.ndim != 2 or x.dtype not in (np.float32, np.float64) or not len(x):
        saw = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise ValueError(f"{name} must be an array (n, K), n >= 1, of float32 or float64, saw {saw}")
    if form and (x.shape[1], x.dtype) != form:
        raise ValueError(f"{name} has width {x.shape[1]} and type {x.dtype}, wanted {form[0]} and {form[1]} as before")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} holds numbers that are not finite")
    return x.shape[1], x.dtype


def expect_search(q: np.ndarray, k: int, form: Form) -> None:
    """Raises ValueError if the index is empty, the queries are of another form, or k < 1."""
    if form is None:
        raise ValueError("the index is empty, wanted vectors added before a search")
    expect("q", q, form)
    if k < 1:
        raise ValueError(f"k must be >= 1, saw {k!r}")


def best(s: np.ndarray, ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest scores and their ids, largest first, of equals the older; filled up with −inf and −1."""
    some = np.flatnonzero(s >= np.partition(s, -k)[-k]) if k < len(s) else np.arange(len(s))
    some = some[np.lexsort((ids[some], -s[some]))[:k]]
    scores, numbers = np.full(k, -np.inf, s.dtype), np.full(k, -1)
    scores[: len(some)], numbers[: len(some)] = s[some], ids[some]
    return scores, numbers


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """The share of the exact ids (Q, k) that were found, whatever their order."""
    wanted = [set(e) - {-1} for e in exact.tolist()]
    return float(np.mean([len(set(f) & e) / len(e) for f, e in zip(found.tolist(), wanted, strict=True)]))


def stack(found: Sequence[tuple[np.ndarray, np.ndarray]], scanned: Sequence[int]) -> Found:
    """One answer of all queries."""
    scores, ids = map(np.array, zip(*found))
    return Found(scores, ids, np.array(scanned))


def nearest(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Number of the centre nearest to each vector (and with centres of length 1 that of the largest inner product)."""
    half = (centres * centres).sum(1) / 2
    return np.concatenate([(some @ centres.T - half).argmax(1) for some in np.split(x, range(4096, len(x), 4096))])


def kmeans(x: np.ndarray, k: int, seed: int = 0, rounds: int = 20, unit: bool = False) -> np.ndarray:
    """k centres (k, K): each is moved to the mean of the vectors nearest to it, ``rounds`` times; ``unit``: and to length 1.

    A centre that no vector is nearest to stays where it is. Raises ValueError for fewer than k vectors.
    """
    if len(x) < k:
        raise ValueError(f"{len(x)} vectors to learn {k} centres from, wanted at least {k}")
    r = np.random.default_rng(seed)
    x = x[r.permutation(len(x))[: 256 * k]]
    centres = x[:k].copy()
    for _ in range(rounds):
        near = nearest(x, centres)
        order, some = np.argsort(near, kind="stable"), np.unique(near)
        means = np.add.reduceat(x[order], np.searchsorted(near[order], some)) / np.bincount(near)[some, None].astype(x.dtype)
        centres[some] = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12) if unit else means
    return centres
