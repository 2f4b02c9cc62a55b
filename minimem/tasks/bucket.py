"""A bucket under a dripping tap: count the drops since it was last emptied. All before must be forgotten, all after kept.

    . d . d | . d d . d | d .       asked after every token: 0 1 1 2 0 0 1 2 2 3 0 1 1

The time between two emptyings is short or long, so no fixed rate of fading fits both.

Source  ours.
"""
from __future__ import annotations

import torch
from torch import Tensor

FULL = 7                     # a fuller bucket is not asked about


def bucket(T: int = 64, batch: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """tokens and targets, both (batch, T) whole numbers; target −100 above 7 drops.

    Token 0 is nothing, 1 a drop (one token in four), 2 empties the bucket: after 2 to 6 tokens, or, as often, after 16 to 32.
    """
    r = torch.Generator().manual_seed(seed)
    drops, short = torch.rand(batch, T, generator=r) < 0.25, torch.rand(batch, T, generator=r) < 0.5
    gaps = torch.where(short, torch.randint(2, 7, (batch, T), generator=r), torch.randint(16, 33, (batch, T), generator=r))
    emptied = torch.zeros(batch, T + 1, dtype=torch.bool).scatter(1, gaps.cumsum(-1).clamp(max=T), True)[:, :T]
    drops = drops & ~emptied
    so_far = drops.cumsum(-1)
    count = so_far - torch.where(emptied, so_far, 0).cummax(-1)[0]
    return torch.where(emptied, 2, drops.long()), count.masked_fill(count > FULL, -100)
