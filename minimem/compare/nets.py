"""Networks trained on their facts, behind write, forget and read."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..tasks import facts
from .numbers import pack, rounded, unpack
from .vectors import rome, scores


@dataclass
class Net:
    """A network that sees its facts many times: one hidden layer of ReLUs, or none (``hidden=0``: a logistic read-out), Adam.

    ``exposures``: how often each fact is seen at the first write, ``later``: at every later write or deletion.
    In 8 and 4 bits the weights are rounded in every forward pass of training; in 16 once at the end.
    """
    d_k: int
    hidden: int
    bits: int = 32
    exposures: int = 1000
    lr: float = 0.02
    later: int = 200
    replay: bool = False                                        # later writes and deletions rehearse all facts, kept in aux
    raw: bool = False                                           # read the 64 bits of the key as they are
    d_v: int = 8
    kept: Any = None
    aux: Any = None
    transient: Any = None

    def empty(self, D: int) -> None:
        r, sizes = torch.Generator().manual_seed(0), [self.d_k, *([self.hidden] if self.hidden else []), 8]
        self.keep([torch.randn(D, n + 1, m, generator=r) * n**-0.5 for n, m in zip(sizes, sizes[1:])])   # the last row: biases

    def keep(self, weights: list[Tensor]) -> None:
        self.kept = [pack(w.detach(), self.bits) for w in weights]

    @property
    def weights(self) -> list[Tensor]:
        return [unpack(p, self.bits, m) for p, m in zip(self.kept, [self.hidden, 8] if self.hidden else [8])]

    def inputs(self, keys: Tensor) -> Tensor:
        return _with_1(facts.signs(keys) if self.raw else facts.encode(keys, self.d_k) * self.d_k**0.5)

    def write(self, keys: Tensor, values: Tensor) -> None:
        self._learn(keys, facts.codebook(8)[values] / 2 + 0.5)

    def forget(self, keys: Tensor) -> None:
        self._learn(keys, torch.full((*keys.shape, 8), 0.5))    # train towards "any value"

    def _learn(self, keys: Tensor, target: Tensor) -> None:
        exposures = self.exposures if self.kept is None else self.later
        if self.kept is None:
            self.empty(len(keys))
        if self.replay:
            keys, target = self.aux = _newest(self.aux, (keys, target))
        self._train(self.inputs(keys), target, exposures)

    def _train(self, x: Tensor, target: Tensor, exposures: int) -> None:
        weights = [w.clone().requires_grad_() for w in self.weights]
        adam = torch.optim.Adam(weights, self.lr, betas=(0.9, 0.99))
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(adam, exposures)
        for _ in range(exposures):
            used = [w + (rounded(w, self.bits) - w).detach() for w in weights] if self.bits < 16 else weights
            adam.zero_grad()
            F.binary_cross_entropy_with_logits(forward(x, used), target, reduction="sum").backward()
            adam.step()
            rate.step()
        self.transient = [[w.grad for w in weights], [list(s.values()) for s in adam.state.values()]]
        self.keep(weights)

    def read(self, keys: Tensor) -> Tensor:
        return scores(fitted(self, keys))

    def cost(self, N: int) -> tuple[float, float]:
        P = sum(w[0].numel() for w in self.weights)
        return 6 * P * self.exposures, 2 * P


def _with_1(x: Tensor) -> Tensor:
    return F.pad(x, (0, 1), value=1.0)


def forward(x: Tensor, weights: list[Tensor]) -> Tensor:
    """Logits of the 8 value bits: (D, n, 8)."""
    for w in weights[:-1]:
        x = _with_1((x @ w).relu())
    return x @ weights[-1]


def fitted(net: Net, keys: Tensor) -> Tensor:
    """The logits of a trained network for these keys."""
    return forward(net.inputs(keys), net.weights)


def _newest(old: Any, new: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """All facts ever written, a rewritten key with its newest target. Draws must agree in how many keys are rewritten."""
    if old is None:
        return new
    again = (old[0][:, :, None] == new[0][:, None]).any(-1)
    stay = [x[~again].unflatten(0, (len(again), -1)) for x in old]
    return torch.cat([stay[0], new[0]], 1), torch.cat([stay[1], new[1]], 1)


@dataclass
class EditedNet(Net):
    """A network whose later writes are ROME's edit of the last layer; the Gram matrix of its hidden units and how sure it is are kept in aux."""
    ridge: float = 1e-2

    def _learn(self, keys: Tensor, target: Tensor) -> None:
        first = self.kept is None
        if first:
            super()._learn(keys, target)
        w = self.weights
        h = _with_1((self.inputs(keys) @ w[0]).relu())
        if first:
            sure = (h @ w[1]).abs().mean((-1, -2), keepdim=True)             # how far from 0 a sure answer is
            self.aux = h.mT @ h + self.ridge * torch.eye(h.shape[-1]), sure
        else:
            gram, sure = self.aux
            self.keep([w[0], rome(w[1], gram, h, (2 * target - 1) * sure)])
