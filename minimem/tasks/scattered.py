"""Recall amid noise: pairs of a key and a value lie scattered among noise, and each key comes once more, anywhere later.

    pairs=2, T=12:    n k7 v3 n n k2 v9 k7 n n k2 n        asked: 3 at the eighth token, 9 at the eleventh

The number of pairs and T are independent: a longer sequence holds the same facts farther apart. The mean distance is a third of T.
"""
from __future__ import annotations

import torch
from torch import Tensor


def scattered(pairs: int, T: int, symbols: int = 16, noise: int = 8, batch: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """tokens and targets, both (batch, T) whole numbers; target −100 where nothing is asked.

    Tokens: ``noise`` kinds of noise, then ``symbols`` keys, then ``symbols`` values; all keys of a sequence differ.
    Raises ValueError if the pairs do not fit into T or the keys into the symbols.
    """
    if pairs < 1 or 3 * pairs > T or pairs > symbols or noise < 1:
        raise ValueError(f"{pairs} pairs asked once, of {symbols} keys among {noise} kinds of noise in T = {T} tokens, "
                         "wanted 1 <= pairs <= symbols, 3 pairs <= T, noise >= 1")
    r = torch.Generator().manual_seed(seed)
    keys = torch.rand(batch, symbols, generator=r).argsort(-1)[:, :pairs] + noise
    values = torch.randint(symbols, (batch, pairs), generator=r) + noise + symbols
    events = torch.rand(batch, T - pairs, generator=r).argsort(-1)[:, :2 * pairs]          # two places for each key, a pair being one place
    write, ask = events.unflatten(-1, (pairs, 2)).sort(-1).values.unbind(-1)
    wide = torch.zeros(batch, T - pairs, dtype=torch.long).scatter(1, write, 1)
    first = torch.arange(T - pairs) + wide.cumsum(1) - wide                                # the token at which a place begins
    write, ask = first.gather(1, write), first.gather(1, ask)
    tokens = torch.randint(noise, (batch, T), generator=r).scatter(1, write, keys).scatter(1, write + 1, values).scatter(1, ask, keys)
    return tokens, torch.full((batch, T), -100).scatter(1, ask, values)
