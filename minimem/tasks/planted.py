"""Facts planted in real text: each is one token, said once; later a question is asked, and the fact of its kind must follow.

    [ t  h  e  F2:5  b  o  d  y   ⋯   i  f ?2 ]        asked: F2:5 at the last token, the next character elsewhere

A fact is a token of its own, its kind and its value in one, so nothing has to be bound to anything: the question is only whether what was
said ``distance`` tokens ago is still within reach.
"""
from __future__ import annotations

import torch
from torch import Tensor

from . import documentation

KINDS, VALUES = 4, 8
FACT = documentation.VOCAB                              # the fact of kind c and value x is FACT + c·VALUES + x
ASK = FACT + KINDS * VALUES                             # the question after kind c is ASK + c
VOCAB = ASK + KINDS


def lessons(T: int, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """To learn from, for ``lm.fit``: tokens and targets, both (batch, T); the first half of the rows is text alone, in the other every kind is
    said once and asked once, anywhere later. Targets are −100 where a token that is no character follows."""
    r = torch.Generator().manual_seed(seed)
    text, follows = documentation.passages(T, batch - batch // 2, 2 * seed)
    more, _ = documentation.passages(T - 2 * KINDS, batch // 2, 2 * seed + 1)
    said = torch.arange(KINDS) * VALUES + torch.randint(VALUES, (batch // 2, KINDS), generator=r) + FACT
    places = torch.rand(batch // 2, T - 1, generator=r).argsort(-1)[:, :2 * KINDS].unflatten(1, (KINDS, 2)).sort(-1).values
    tokens = _plant(more, torch.cat([said, torch.arange(ASK, VOCAB).expand_as(said)], 1), places.mT.flatten(1))
    after = torch.cat([tokens[:, 1:], tokens[:, :1]], 1)
    targets = torch.where(after < FACT, after, -100).scatter(1, places[..., 1], said)
    targets[:, -1] = -100
    return torch.cat([text, tokens]), torch.cat([follows, targets])


def questions(T: int, distance: int, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """To be tested on, in text that was not learned from: tokens (batch, T) that end in a question, and the answers (batch,).

    The fact asked for was said ``distance`` tokens before the question, the others anywhere else. Raises ValueError for a distance without room.
    """
    if not 0 < distance < T or T < 2 * KINDS:
        raise ValueError(f"distance is {distance}, wanted 1 to T - 1 = {T - 1}, and T >= {2 * KINDS}")
    r, (_, text) = torch.Generator().manual_seed(seed), documentation.characters()
    kind = torch.rand(batch, KINDS, generator=r).argsort(-1)                               # the first is asked for
    said = kind * VALUES + torch.randint(VALUES, (batch, KINDS), generator=r) + FACT
    others = torch.rand(batch, T - 2, generator=r).argsort(-1)[:, :KINDS - 1]
    at = T - 1 - distance
    places = torch.cat([torch.full((batch, 1), at), others + (others >= at), torch.full((batch, 1), T - 1)], 1)
    start = torch.randint(len(text) - T, (batch, 1), generator=r)
    return _plant(text[start + torch.arange(T - KINDS - 1)], torch.cat([said, kind[:, :1] + ASK], 1), places), said[:, 0]


def _plant(text: Tensor, extra: Tensor, places: Tensor) -> Tensor:
    """``extra`` at its places, all else filled with the text in its order."""
    T = text.shape[1] + extra.shape[1]
    free = torch.ones(len(text), T, dtype=torch.bool).scatter(1, places, False)
    return torch.zeros(len(text), T, dtype=torch.long).masked_scatter(free, text).scatter(1, places, extra)
