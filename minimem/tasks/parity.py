"""State tracking: after every token, say where all tokens so far have led. Leaving one token out may change every answer after it.

    parity     tokens   1 0 1 1 0 1        is the number of ones odd?
               answers  1 1 0 1 1 0

    shuffle    three cups, a token is one way to move them: 0 leaves them, 1, 2 and 3 swap two, 4 and 5 send each cup one place on.
               tokens   1 2 1              the answer is the one token that would have done the same at once, of six
               answers  1 4 3

Parity is the group of two elements, the cups are S₃, the smallest group in which order matters. Chance: 1/2 and 1/6.

Source  Grazzi et al. 2024, arXiv:2411.12537 (parity); Merrill, Petty and Sabharwal 2024, arXiv:2404.08819 (permutations).
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MOVES = torch.tensor([[0, 1, 2], [1, 0, 2], [0, 2, 1], [2, 1, 0], [1, 2, 0], [2, 0, 1]])      # which cup comes to each place
_AFTER = torch.tensor([[MOVES.tolist().index(first[then].tolist()) for then in MOVES] for first in MOVES])


def _asked(answers: Tensor, last: int | None) -> Tensor:
    """Only the ``last`` answers count; None: all."""
    if last is not None:
        answers[:, :answers.shape[1] - last] = -100
    return answers


def parity(T: int, batch: int = 64, seed: int = 0, last: int | None = None) -> tuple[Tensor, Tensor]:
    """tokens 0 and 1, and whether the ones so far are odd; both (batch, T). ``last``: only so many are asked, −100 elsewhere."""
    _fits(T, last)
    bits = torch.randint(2, (batch, T), generator=torch.Generator().manual_seed(seed))
    return bits, _asked(bits.cumsum(1) % 2, last)


def shuffle(T: int, batch: int = 64, seed: int = 0, last: int | None = None, moves: int = 4) -> tuple[Tensor, Tensor]:
    """tokens below ``moves`` (4: at most a swap; 6: all), and the product of those so far, 0 … 5; both (batch, T)."""
    _fits(T, last)
    if moves not in (2, 3, 4, 6):
        raise ValueError(f"moves is {moves}, wanted 2, 3 or 4 (nothing and swaps) or 6 (all)")
    tokens = torch.randint(moves, (batch, T), generator=torch.Generator().manual_seed(seed))
    now, answers = tokens.new_zeros(batch), []
    for t in tokens.unbind(1):
        now = _AFTER[now, t]
        answers.append(now)
    return tokens, _asked(torch.stack(answers, 1), last)


def _fits(T: int, last: int | None) -> None:
    if T < 1 or not 0 < (1 if last is None else last) <= T:
        raise ValueError(f"T is {T} and last is {last}, wanted 1 <= last <= T")


def lessons(task: Callable, seed: int, batch: int = 64, shortest: int = 3,
            longest: int = 24) -> Callable[[int], tuple[Tensor, Tensor]]:
    """What ``lm.fit`` takes: step → a batch of one random length, from a seed of its own (from 10⁶ on; tests use those below)."""
    r = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest + 1, (100_000,), generator=r).tolist()
    return lambda step: task(lengths[step], batch, 10**6 * (1 + seed) + step)
