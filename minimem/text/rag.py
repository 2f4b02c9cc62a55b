r"""RAG: an answer is read out of the documents found for a question, and the doubt which document is right is summed away.

    p_η(z | x)     = softmax over the k best documents of  s(x, z)/τ,   s the memory's score (the paper: an inner product of two vectors, τ = 1)
    p_seq(y | x)   = Σ_z p_η(z | x) Π_i p_θ(y_i | x, z, y_<i)               (1)
    p_tok(y | x)   = Π_i Σ_z p_η(z | x) p_θ(y_i | x, z, y_<i)               (2)

(1) says: one document wrote the whole answer, we do not know which. (2) draws the document anew for every token. For answers of one token, and where
one document is certain, they are equal. For two tokens  p_seq − p_tok = Cov_z(p_θ(y_1 | x, z), p_θ(y_2 | x, z, y_1)),  taken over p_η: (1) likes
tokens that the same documents know, (2) prefers nothing and so joins halves from two documents, and mixes up two answers.

Paper   Lewis et al. 2020, arXiv:2005.11401: DPR's two BERTs find, BART writes, both are trained on −ln p through the sum over z.
Differs nothing is trained here: the memory is any text memory with scores, the generator any function that returns p_θ. Of the paper's two ways to read out
        (1), ``by_sequence`` is the thorough one: every beam's answer is scored under every document.
Shapes  doc: (..., Z) ln p_η(z | x)   token: (..., Z, T) ln p_θ(y_i | x, z, y_<i)   a step: (Z, V)
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .unit import Around, Memory, Unit

Answer = tuple[int, ...]
Step = Callable[[Answer], Tensor]                               # the tokens said so far → ln p of the next one


def sequence(doc: Tensor, token: Tensor) -> Tensor:
    """ln p_seq(y | x), (...). Raises ValueError if ``token`` does not hold one row a document."""
    _expect(doc, token)
    return torch.logsumexp(doc + token.sum(-1), -1)                                                       # (1)


def per_token(doc: Tensor, token: Tensor) -> Tensor:
    """ln p_tok(y | x), (...). Raises ValueError if ``token`` does not hold one row a document."""
    _expect(doc, token)
    return torch.logsumexp(doc.unsqueeze(-1) + token, -2).sum(-1)                                         # (2)


def _expect(doc: Tensor, token: Tensor) -> None:
    if token.ndim < 2 or doc.shape != token.shape[:-1]:
        raise ValueError(f"token must be (..., Z, T) and doc (..., Z), saw {tuple(token.shape)} and {tuple(doc.shape)}")


def said(step: Step, y: Answer) -> Tensor:
    """ln p_θ(y_i | x, z, y_<i) of an answer under every document, (Z, T). Raises ValueError if the answer is empty."""
    if not y:
        raise ValueError("the answer y is empty, wanted at least one token")
    return torch.stack([step(y[:i])[..., v] for i, v in enumerate(y)], -1)


# ------------------------------------------------------------------ reading an answer out

def search(step: Step, end: int, length: int, beams: int = 1) -> list[tuple[Answer, float]]:
    """The ``beams`` best answers found by beam search, best first, each with its ln p; an answer is over at ``end`` or after ``length`` tokens.

    ``step`` returns one distribution (V,). ``beams=1`` is greedy; as many beams as there are answers find them all. Raises ValueError if length or beams < 1.
    """
    if length < 1 or beams < 1:
        raise ValueError(f"length and beams must be >= 1, saw {length!r} and {beams!r}")
    live, over = [((), 0.0)], []
    for _ in range(length):
        grown = [((*y, v), p + q) for y, p in live for v, q in enumerate(step(y).tolist())]
        best = sorted(grown, key=lambda a: -a[1])[:beams]
        live = [a for a in best if a[0][-1] != end]
        over += [a for a in best if a[0][-1] == end]
    return sorted(live + over, key=lambda a: -a[1])[:beams]


def by_token(doc: Tensor, step: Step, end: int, length: int, beams: int = 1) -> tuple[Answer, float]:
    """An answer with high p_tok, and ln p_tok: (2) is a model of the next token like any other, and is searched like one."""
    return search(lambda y: torch.logsumexp(doc.unsqueeze(-1) + step(y), 0), end, length, beams)[0]


def by_sequence(doc: Tensor, step: Step, end: int, length: int, beams: int = 1) -> tuple[Answer, float]:
    """An answer with high p_seq, and ln p_seq: each document's own best answers, all scored by (1) under all documents."""
    found = {y for z in range(len(doc)) for y, _ in search(lambda y, z=z: step(y)[z], end, length, beams)}
    return max(((y, float(sequence(doc, said(step, y)))) for y in sorted(found)), key=lambda a: a[1])


# ------------------------------------------------------------------ around any memory

class RAG(Around):
    """A text memory that also answers. ``generator(query, units, prefix)`` returns ln p_θ of the next token under each unit, (Z, V).

    It writes, reads and forgets as ``memory`` does. Raises ValueError unless k ≥ 1 and τ > 0.
    """

    def __init__(self, memory: Memory, generator: Callable[[str, Sequence[Unit], Answer], Tensor], k: int = 5, tau: float = 1.0) -> None:
        if k < 1 or not 0 < tau < math.inf:
            raise ValueError(f"k must be >= 1 and tau above 0 and finite, saw {k!r} and {tau!r}")
        super().__init__(memory)
        self.generator, self.k, self.tau = generator, k, tau

    def documents(self, query: str) -> tuple[list[Unit], Tensor]:
        """The k best units z and ln p_η(z | x), float64."""
        units = self.memory.rank(query, self.k)
        score = dict(zip(self.units, self.memory.scores(query).tolist()))
        return units, torch.tensor([score[u.id] / self.tau for u in units], dtype=torch.float64).log_softmax(-1)

    def answer(self, query: str, end: int, length: int, beams: int = 1, decode: Callable[..., tuple[Answer, float]] = by_token) -> tuple[Answer, float]:
        """Tokens and ln p of an answer; ``decode``: ``by_token`` or ``by_sequence``. Raises ValueError if nothing was found for the question."""
        units, doc = self.documents(query)
        if not units:
            raise ValueError(f"no unit was found for {query!r}: there is nothing to answer from")
        return decode(doc, lambda y: self.generator(query, units, y), end, length, beams)
