"""Key-value pairs written one after another, some keys again with a new value; then every key is asked for its newest value.

    overwrite(keys=3, times=2, ...)       writes   a→4  c→1  b→7  a→2  b→5  c→9        (each key ``times`` times, in random order)
                                          asked    a    b    c
                                          answers  2    5    9                          (values are numbers of a codebook)

``times=1`` asks what was written once. ``cosine`` is the similarity of any two keys: 0 for random directions, ½ for keys that share a
part. ``switch`` is another task: a stream of pairs (k, Wk + noise) whose map W changes halfway.
"""
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CODES = 256


def overwrite(keys: int, times: int, width: int = 64, cosine: float = 0.0, lead: tuple[int, ...] = (),
              seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """k, v (*lead, keys·times, width) as written, the keys asked (*lead, keys, width), the answers (*lead, keys) and the codebook.

    Keys and codes have unit norm. Decode a read by ``decode``.
    Raises ValueError for fewer than 1 key or write, or a cosine outside [0, 1).
    """
    if keys < 1 or times < 1 or not 0 <= cosine < 1:
        raise ValueError(f"saw keys={keys}, times={times}, cosine={cosine}, wanted keys >= 1, times >= 1, 0 <= cosine < 1")
    r = torch.Generator().manual_seed(seed)
    codebook = F.normalize(torch.randn(CODES, width, generator=r), dim=-1)
    own, shared = (F.normalize(torch.randn(*lead, n, width, generator=r), dim=-1) for n in (keys, 1))
    asked = F.normalize((1 - cosine) ** 0.5 * own + cosine ** 0.5 * shared, dim=-1)
    which = torch.rand(*lead, times * keys, generator=r).argsort(-1) % keys              # every key ``times`` times, shuffled
    codes = torch.randint(CODES, which.shape, generator=r)
    at = torch.arange(times * keys)
    newest = torch.where(which[..., None, :] == torch.arange(keys)[:, None], at, -1).amax(-1)
    k = asked.gather(-2, which[..., None].expand(*which.shape, width))
    return k, codebook[codes], asked, codes.gather(-1, newest), codebook


def decode(read: Tensor, codebook: Tensor) -> Tensor:
    """The number of the code nearest in direction to each read."""
    return (read @ codebook.mT).argmax(-1)


def switch(T: int, width: int = 16, noise: float = 0.1, lead: tuple[int, ...] = (), seed: int = 0) -> tuple[Tensor, Tensor]:
    """k, v (*lead, T, width): unit keys, v = Wk + noise with W random, and another W from T/2 on. v has mean square near 1."""
    r = torch.Generator().manual_seed(seed)
    k = F.normalize(torch.randn(*lead, T, width, generator=r), dim=-1)
    maps = torch.randn(*lead, 2, width, width, generator=r)
    v = torch.cat([half @ W for half, W in zip(k.split(T // 2 + T % 2, -2), maps.unbind(-3))], -2)
    return k, v + noise * torch.randn(v.shape, generator=r)
