"""Copying: a few symbols lie among blanks, and must be repeated in order once the reading marks come.

    n=3, slots=8:    . c . . a . . b · ? ? ?      asked: c, a, b at the three marks
    scattered=False  c a b . . . . . · ? ? ?      the symbols always first: each is asked exactly ``slots`` tokens after it was shown

With fixed places a delay is enough. Scattered, the delay is another for every sequence: what to keep depends on the token (selective copying).

Source  Gu and Dao 2023, arXiv:2312.00752, after Arjovsky, Shah, Bengio 2016, arXiv:1511.06464. Differs: smaller, one kind of blank.
"""
from __future__ import annotations

import torch
from torch import Tensor


def copying(n: int = 4, slots: int = 24, symbols: int = 8, scattered: bool = True, batch: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """tokens and targets, both (batch, slots + n) whole numbers; target −100 where nothing is asked.

    Token 0 is a blank, 1 the mark, 2 … symbols + 1 a symbol. Guessing is right once in ``symbols``.
    Raises ValueError if the symbols do not fit into the slots.
    """
    if not 1 <= n <= slots or symbols < 2:
        raise ValueError(f"saw n={n}, slots={slots}, symbols={symbols}, wanted 1 <= n <= slots, symbols >= 2")
    r = torch.Generator().manual_seed(seed)
    shown = torch.randint(2, symbols + 2, (batch, n), generator=r)
    at = torch.rand(batch, slots, generator=r).argsort(-1)[:, :n].sort(-1)[0] if scattered else torch.arange(n).expand(batch, n)
    tokens, targets = torch.zeros(batch, slots + n, dtype=torch.long), torch.full((batch, slots + n), -100)
    tokens[:, slots:], targets[:, slots:] = 1, shown
    return tokens.scatter(1, at, shown), targets
