r"""Late interaction: a text keeps a vector for every token; question and text meet token by token, after both were read alone.

    s(q, d) = Σ_i max_j q_iᵀ d_j                                                               (1)

Between one vector a text (`dense`, where a whole text must fit in one direction) and reading question and text together
(a cross-encoder, which cannot work ahead): the token vectors are made ahead of time, and cost hundreds of bytes for each of the text.

Paper   Khattab and Zaharia 2020, arXiv:2004.12832 (ColBERT).
Differs ColBERT trains its encoder for (1), with 128 numbers a token, fills the question up with [MASK] and drops the marks of the text;
        here the last layer of an encoder trained for one mean vector is used as it is, and every real token counts, [CLS] and [SEP] among them.
Shapes  token vectors: (T, K), each of length 1   `scores`: one float64 a unit, in the order written.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .unit import Memory, Unit, expect_unit

Floats = NDArray[np.float32]


def maxsim(q: Tensor, d: Tensor) -> Tensor:
    """s(q, d) of the token vectors q (Tq, K) and d (Td, K): each token of the question counts the token of the text that is most like it."""
    return (q @ d.T).amax(1).sum()                                                              # (1)


class Late(Memory):
    """A text memory that keeps a vector of length 1 for every token and reads by (1): hundreds of times the bytes of the text.

    ``embed_tokens`` gives the vectors (n, T, K) of texts and which are real (n, T): ``pretrained.minilm().tokens``. A text is embedded when written.
    """

    def __init__(self, embed_tokens: Callable[[Sequence[str]], tuple[Tensor, Tensor]]) -> None:
        self.embed_tokens = embed_tokens
        self._of: dict[str, Floats] = {}
        super().__init__()

    def token_vectors(self, text: str) -> Floats:
        """(T, K): the vectors of a text, each of length 1."""
        h, real = self.embed_tokens([text])
        return F.normalize(h[0][real[0]], dim=-1).numpy()

    def _restart(self, units: Iterable[Unit]) -> None:
        units = list(units)
        self._of = {u.text: self._of[u.text] for u in units if u.text in self._of}
        super()._restart(units)

    def write(self, record: Unit) -> None:
        text = expect_unit(record).text
        vectors = self._of[text] if text in self._of else self.token_vectors(text)
        super().write(record)
        self._of[text] = vectors

    def _scores(self, query: str, units: Sequence[Unit]) -> NDArray[np.float64]:
        """s(q, d) of these units: (1) for all at once, one product and a maximum over each text's stretch of it."""
        kept = [self._of[u.text] for u in units]
        starts = np.cumsum([0, *map(len, kept)])[:-1]
        q = self.token_vectors(query)
        return np.maximum.reduceat(np.concatenate(kept) @ q.T, starts).sum(1, dtype=np.float64) if kept else np.zeros(0)

    def scores(self, query: str) -> NDArray[np.float64]:
        return self._scores(query, list(self.units.values()))

    def rerank(self, query: str, units: Sequence[Unit]) -> list[Unit]:
        """These units, all of them kept here too, best first by (1): the second look at what a cheaper memory found."""
        return [units[i] for i in np.argsort(-self._scores(query, units), kind="stable")]

    def sizes(self) -> dict[str, int]:
        """Bytes by part: the text with its ids; the token vectors, once for equal texts."""
        return {**super().sizes(), "vectors": sum(v.nbytes for v in self._of.values())}
