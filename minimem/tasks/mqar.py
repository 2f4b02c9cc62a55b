"""Multi-query associative recall: pairs of a key and a value, later the keys alone; each should call up its value.

    pairs=2, T=8:    k7 v3 k2 v9 · k2 · k7        asked: 9 at the sixth token, 3 at the eighth

With ``times`` > 1 every key is written so often, each time with a new value, in random order, and the newest is asked: the rewrite task.

Source  Arora et al. 2023, arXiv:2312.04927. Differs: queries lie anywhere among the free places, with equal chance.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def mqar(pairs: int, T: int, vocab: int = 64, times: int = 1, batch: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """tokens and targets, both (batch, T) whole numbers; target −100 where nothing is asked.

    Token 0 fills; keys are 1 … vocab/2 − 1, values vocab/2 … vocab − 1. Every key is asked once.
    Raises ValueError if the pairs do not fit into T or the keys into the vocabulary.
    """
    half, written = vocab // 2, 2 * pairs * times
    if pairs < 1 or times < 1 or written + pairs > T:
        raise ValueError(f"{pairs} pairs written {times} times and asked once need {written + pairs} tokens, wanted at most T = {T}, and at least one")
    if pairs >= half:
        raise ValueError(f"{pairs} keys of {half - 1} that a vocabulary of {vocab} has, wanted at most {half - 1}")
    r = torch.Generator().manual_seed(seed)
    keys = torch.rand(batch, half - 1, generator=r).argsort(-1)[:, :pairs] + 1
    order = torch.rand(batch, pairs * times, generator=r).argsort(-1) % pairs             # which key is written when
    values = torch.randint(half, 2 * half, (batch, pairs * times), generator=r)
    tokens, targets = torch.zeros(batch, T, dtype=torch.long), torch.full((batch, T), -100)
    tokens[:, 0:written:2], tokens[:, 1:written:2] = keys.gather(1, order), values
    newest = torch.zeros_like(keys).scatter_reduce(1, order, torch.arange(pairs * times).expand_as(order), "amax")
    at = written + torch.rand(batch, T - written, generator=r).argsort(-1)[:, :pairs]
    return tokens.scatter(1, at, keys), targets.scatter(1, at, values.gather(1, newest))


def curriculum(pairs: int, T: int, steps: int, vocab: int = 64, times: int = 1, batch: int = 32, seed: int = 0) -> Callable[[int], tuple[Tensor, Tensor]]:
    """The batches of a training, for ``lm.fit``: 2 pairs at first, ``pairs`` from 40% of the steps on.

    Fewer pairs make sequences as much shorter, and as many more of them. ``batch(steps)`` is the task itself, with sequences that were never trained on.
    """
    def at(step: int) -> tuple[Tensor, Tensor]:
        n = min(pairs, 2 + int((pairs - 2) * step / (0.4 * steps)))
        return mqar(n, T * n // pairs, vocab, times, batch * pairs // n, seed=seed * 10 ** 6 + step)
    return at
