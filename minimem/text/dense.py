r"""Dense retrieval: a text becomes one vector, ahead of time; a question finds the texts whose vectors point its way.

    e(x) = h̄(x) / |h̄(x)|,    h̄(x) = 1/n Σ_i h_i(x)  over the n real tokens                   (1)
    s(q, d) = e(q)ᵀ e(d)                                                                       (2)
    L = −log exp(s(q_i, d_i)/τ) / Σ_j exp(s(q_i, d_j)/τ)                                       (3)

The d_j of (3) are the texts of the other pairs of a batch: what answers one question is taken as wrong for the rest.

An embedder is called with texts and returns (n, dim) float32 rows of length 1; it has a `name` and a `dim`; one that must see the texts
first has `fit(texts)` and `nbytes()` too. Here: `BiEncoder`, trained by `train`. Elsewhere: `lsa.LSA` (the default), `pretrained.minilm()`.

Paper   Karpukhin and others 2020, arXiv:2004.04906 (DPR: (2) and (3)); Reimers and Gurevych 2019, arXiv:1908.10084 (the mean in (1)).
Differs DPR has two BERTs, reads the first token's vector and does not normalise; here one encoder reads both sides, as MiniLM does, and
        the one that is trained here is a bag of term vectors, with the terms of `tokens` and no position.
Shapes  vectors: (n, dim) float32   `scores`: one float64 a unit, in the order written.
"""
from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from itertools import takewhile
from typing import Protocol
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .lsa import LSA, Floats, expect_texts
from .unit import Memory, Unit, tokens


class Embedder(Protocol):
    """Texts in, one row of length 1 each out. ``name`` says which model: vectors of two models must never meet."""
    name: str
    dim: int

    def __call__(self, texts: Sequence[str]) -> Floats: ...


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
        units, known = list(units), dict(zip((u.text for u in self.units.values()), self._rows))
        if self.fitted:
            self.embed.fit([])
            known = {}
        rows = [known[u.text] for u in takewhile(lambda u: u.text in known, units)]
        self._rows = np.array(rows, np.float32).reshape(-1, self.embed.dim)
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


# ------------------------------------------------------------------ an encoder trained from scratch

def pool(h: Tensor, real: Tensor) -> Tensor:
    """e(x) from the vectors h (..., T, K) of its tokens, real (..., T) saying which are; 0 where none is. The definition."""
    h = h.where(real[..., None], 0).sum(-2) / real.sum(-1, keepdim=True).clamp(min=1)
    return F.normalize(h, dim=-1)                                                               # (1)


def in_batch(q: Tensor, d: Tensor, tau: float) -> Tensor:
    """The loss (3), averaged over the questions q (n, K); text i of d (n + m, K) answers question i, the last m answer none (hard negatives)."""
    s = q @ d.T / tau
    return (s.logsumexp(1) - s.diagonal()).mean()                                               # (3)


class BiEncoder:
    """An embedder whose h_i is one learned vector for each term; a term's vector is found by its hash, so no term is unknown.

    Untrained it is a random projection of the text's terms: texts meet where they share terms. Raises ValueError if dim or buckets < 1 or tau ≤ 0.
    """

    def __init__(self, dim: int = 128, buckets: int = 1 << 16, tau: float = 0.05, seed: int = 0) -> None:
        if min(dim, buckets) < 1 or not tau > 0:
            raise ValueError(f"wanted dim >= 1, buckets >= 1 and tau > 0, saw {dim!r}, {buckets!r} and {tau!r}")
        self.dim, self.tau = dim, tau
        self.table = torch.randn(buckets, dim, generator=torch.Generator().manual_seed(seed)).div_(dim**0.5).requires_grad_()

    @property
    def name(self) -> str:
        """A name that changes with the weights."""
        return f"bi-encoder-{hashlib.sha256(self.table.detach().numpy()).hexdigest()[:12]}"

    def buckets(self, text: str) -> list[int]:
        """The row of the table for each term of the text."""
        return [crc32(t.encode(errors="surrogatepass")) % len(self.table) for t in tokens(text)]

    def encode(self, texts: Sequence[str]) -> Tensor:
        """e(x) of each text (n, dim), with gradients: (1) without padding."""
        expect_texts(texts)
        rows = list(map(self.buckets, texts))
        flat = torch.tensor([i for r in rows for i in r], dtype=torch.int64)
        starts = torch.tensor([0, *map(len, rows)]).cumsum(0)[:-1]
        return F.normalize(F.embedding_bag(flat, self.table, starts, mode="mean", sparse=True), dim=-1)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Floats:
        return self.encode(texts).numpy()


def batches(groups: Sequence[Sequence[tuple[str, str]]], size: int, epochs: int, seed: int = 0) -> Iterator[list[tuple[str, str]]]:
    """Pairs (question, text) at random, at most ``size`` of one group (so that wrong texts are of the same chat), no text twice in a batch."""
    r = random.Random(seed)
    for _ in range(epochs):
        mixed = [r.sample(group, len(group)) for group in groups]
        cut = [list({text: (question, text) for question, text in m[i:i + size]}.values()) for m in mixed for i in range(0, len(m), size)]
        yield from r.sample(cut, len(cut))


def train(encoder: BiEncoder, batches: Iterable[Sequence[tuple[str, str]]], rate: float = 0.01,
          hard: Callable[[str, str], str] | None = None) -> list[float]:
    """A step of Adam on (3) for each batch of pairs (question, text that answers it); returns the losses.

    ``hard(question, text)``: one more wrong text for each pair, such as the best that BM25 finds beside the right one;
    not used if it is right for another.
    """
    adam, losses = torch.optim.SparseAdam([encoder.table], rate), []
    for batch in batches:
        texts = [d for _, d in batch]
        wrong = {hard(q, d) for q, d in batch} - set(texts) if hard else ()
        loss = in_batch(encoder.encode([q for q, _ in batch]), encoder.encode([*texts, *sorted(wrong)]), encoder.tau)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return losses
