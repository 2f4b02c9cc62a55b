"""Look up one key among many: n records of a key, a word of a few letters, and a value; then one of the keys, whose value is wanted.

    n=4:    dab→7  cab→2  acc→7  bab→5        asked: cab → 2

Many records nearly match: among more of them more do. No record but one has the asked key; the others may share a key. Values are as unequal
as words are: value i comes with frequency ∝ 1 / (i + 1) (Zipf), so a reader who looks at all records at once hears the common ones.
"""
from __future__ import annotations

import torch
from torch import Tensor


def lookup(n: int = 128, letters: int = 3, symbols: int = 20, values: int = 16, batch: int = 64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """keys (batch, n, letters), values (batch, n), the key asked (batch, letters) and its value (batch,), all whole numbers.

    Raises ValueError for no record, or fewer than two possible keys.
    """
    size = symbols ** letters
    if n < 1 or size < 2:
        raise ValueError(f"n is {n} with {size} possible keys, wanted n >= 1 and at least two keys")
    r = torch.Generator().manual_seed(seed)
    asked, at = torch.randint(size, (batch, 1), generator=r), torch.randint(n, (batch, 1), generator=r)
    keys = (asked + torch.randint(1, size, (batch, n), generator=r)).remainder(size).scatter(1, at, asked)
    said = torch.multinomial(1 / torch.arange(1.0, values + 1), batch * n, replacement=True, generator=r).view(batch, n)

    def spell(x: Tensor) -> Tensor:
        return x[..., None] // symbols ** torch.arange(letters) % symbols
    return spell(keys), said, spell(asked[:, 0]), said.gather(1, at)[:, 0]
