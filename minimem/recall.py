r"""Bits that came back: one score and one calibration for every memory.

A memory answers with a number z_v for each of V possible values (its scores). They become probabilities by

    p_v = (1 − ε) exp(T z_v) / Σ_u exp(T z_u) + ε / V                  (1)

and N questions bring back

    bits = N · max(0, log₂ V − CE),   CE = −1/n Σ_i log₂ p_i(answer)     (2)

T says how far the scores can be trusted, ε how often they are plainly wrong. Both are fitted on another draw of facts than the
one reported. The cut at 0 stands outside the sum: cut inside, lucky guesses would count and unlucky ones would not.

A memory that only names a value, or says that it does not know, has scores too: 1 on the named value and 0 elsewhere, or all 0.
Then (1) is the law "right with probability a, else any other value", and (2) is h N (log₂ V + a log₂ a + (1−a) log₂((1−a)/(V−1))),
h the share of questions that got an answer.

Shapes  z: (..., n, V)   answer: (..., n) integers in 0 … V−1.   Leading axes are independent draws, each with its own score.
Units   bits: all N facts together, not per fact.   accuracy: right answers over all questions; no answer counts as wrong.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Law:
    """How scores become probabilities: T and ε of (1)."""
    T: float
    eps: float


def named(value: Tensor, answered: Tensor, V: int = 256) -> Tensor:
    """The scores of a memory that only names a value: one-hot rows, and rows of 0 where it abstains."""
    z = torch.zeros(*value.shape, V)
    return z.scatter_(-1, value[..., None].long().clamp(0, V - 1), answered[..., None].to(z.dtype))


def _softmax_at(z: Tensor, answer: Tensor, T: float) -> Tensor:
    return (T * z.gather(-1, answer[..., None])[..., 0] - torch.logsumexp(T * z, -1)).exp()


def calibrate(z: Tensor, answer: Tensor) -> Law:
    """(T, ε) with the least cross-entropy on these questions, over a grid; ε ≥ 1/(n+1), the price of having seen only n of them."""
    n, V = answer.numel(), z.shape[-1]
    unit = float(z.float().std()) or 1.0
    best = (math.inf, Law(0.0, 1.0))
    eps = torch.cat([torch.logspace(0, math.log10(n + 1), 40), torch.tensor([n + 1.0])]).reciprocal().to(z.dtype)
    for T in (2.0 ** (i / 2) / unit for i in range(-6, 15)):
        p = _softmax_at(z, answer, T).flatten()
        ce = -((1 - eps) * p[:, None] + eps / V).log2().mean(0)
        i = int(ce.argmin())
        if ce[i] < best[0]:
            best = (float(ce[i]), Law(T, float(eps[i])))
    return best[1]


def bits(z: Tensor, answer: Tensor, law: Law, N: int | None = None) -> Tensor:
    """Bits recalled by each draw: (1), then (2). ``N``: the facts written, when only a sample of n of them is asked.

    Raises ValueError when z and answer do not fit.
    """
    if z.shape[:-1] != answer.shape:
        raise ValueError(f"z has shape {tuple(z.shape)}, wanted {(*answer.shape, 'V')} for answers {tuple(answer.shape)}")
    V = z.shape[-1]
    p = (1 - law.eps) * _softmax_at(z, answer, law.T) + law.eps / V          # (1)
    return (N or answer.shape[-1]) * (math.log2(V) + p.log2().mean(-1)).clamp(min=0)   # (2)


def accuracy(z: Tensor, answer: Tensor) -> Tensor:
    """Share of right answers of each draw. A row whose scores are all equal is no answer."""
    top, best = z.max(-1)
    return ((best == answer) & (top > z.min(-1).values)).double().mean(-1)
