"""Associative recall in a stream of pairs: a key comes again, and its value, always the same, should be known before it is seen.

    k3 v8 k1 v5 k3 · k2 v9 k1 ·        asked: 8 at the fifth token, 5 at the ninth

Source  the task of Fu et al. 2023, arXiv:2212.14052. Differs: every key that comes again is asked, not the last one alone.
"""
from __future__ import annotations

import torch
from torch import Tensor


def associative(T: int = 32, vocab: int = 20, batch: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """tokens and targets, both (batch, T) whole numbers; target −100 where nothing is asked.

    Keys are 0 … vocab/2 − 1, values vocab/2 … vocab − 1; each sequence has its own table. Raises ValueError for an odd T or vocab, or T < 4.
    """
    if T % 2 or T < 4 or vocab % 2:
        raise ValueError(f"T is {T}, vocab is {vocab}, wanted both even and T >= 4: pairs of a key and a value")
    r, half = torch.Generator().manual_seed(seed), vocab // 2
    keys, table = torch.randint(half, (batch, T // 2), generator=r), torch.randint(half, vocab, (batch, half), generator=r)
    values = table.gather(1, keys)
    seen = (keys[:, :, None] == keys[:, None]).tril(-1).any(-1)
    targets = torch.stack([values.where(seen, -100), torch.full_like(keys, -100)], -1)
    return torch.stack([keys, values], -1).flatten(1), targets.flatten(1)
