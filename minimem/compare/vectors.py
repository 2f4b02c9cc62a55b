"""A cache, a state, a solved matrix: memories that read a key as a vector, behind write, forget and read."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..tasks import facts
from .numbers import pack, rounded, unpack


def pairs(keys: Tensor, values: Tensor, d_k: int, d_v: int) -> tuple[Tensor, Tensor]:
    """Facts as vectors: keys through the one fixed encoder, values as ±1 codewords."""
    return facts.encode(keys, d_k), facts.codebook(d_v)[values]


def scores(out: Tensor) -> Tensor:
    """How well what came out fits each of the 256 codewords."""
    return out @ facts.codebook(out.shape[-1]).T


@dataclass
class Cache:
    """Keys and values side by side; a question is a softmax over all of them. ``recency``: logit added for each step later."""
    d_k: int
    d_v: int
    bits: int = 16
    beta: float = 30.0
    recency: float = 0.0
    capacity: int | None = None
    kept: Any = None

    def __post_init__(self) -> None:
        if self.capacity is not None and self.capacity < 1:
            raise ValueError(f"capacity must be >= 1 or None, saw {self.capacity}")

    def write(self, keys: Tensor, values: Tensor) -> None:
        new = [pack(x, self.bits, -1) for x in pairs(keys, values, self.d_k, self.d_v)]
        both = new if self.kept is None else [{n: torch.cat([p[n], q[n]], -2) for n in p} for p, q in zip(self.kept, new)]
        self.kept = [{n: x[..., -(self.capacity or x.shape[-2]):, :] for n, x in p.items()} for p in both]

    def match(self, keys: Tensor) -> Tensor:
        return facts.encode(keys, self.d_k) @ unpack(self.kept[0], self.bits, self.d_k).mT

    def forget(self, keys: Tensor) -> None:
        n = self.kept[0]["x"].shape[-2]
        stay = torch.ones(len(keys), n).scatter_(-1, self.match(keys).argmax(-1), 0.0) > 0
        self.kept = [{k: x[stay].unflatten(0, (len(keys), -1)) for k, x in p.items()} for p in self.kept]

    def read(self, keys: Tensor) -> Tensor:
        logits = self.match(keys)
        p = (self.beta * logits + self.recency * torch.arange(logits.shape[-1])).softmax(-1)
        return scores(p @ unpack(self.kept[1], self.bits, self.d_v))

    def cost(self, N: int) -> tuple[float, float]:
        return self.d_k + self.d_v, 2 * N * (self.d_k + self.d_v)           # a write only copies


Rule = Callable[[Tensor, Tensor, Tensor], Tensor]               # (S, k, v) -> S after all tokens of k and v


def additive(S: Tensor, k: Tensor, v: Tensor, a: float = 0.0) -> Tensor:
    """S ← eᵃ S + k vᵀ for every token; a = 0: plain linear attention, a < 0: decay."""
    T = k.shape[-2]
    w = torch.exp(a * torch.arange(T - 1, -1, -1.0))[:, None]
    return torch.exp(torch.tensor(a * T)) * S + (k * w).mT @ v


def delta(S: Tensor, k: Tensor, v: Tensor, a: float = 0.0) -> Tensor:
    """S ← eᵃ S + k (v − eᵃ Sᵀ k)ᵀ for every token: what is wrong about k is corrected; a < 0: the gated delta rule."""
    for k_, v_ in zip(k.split(32, -2), v.split(32, -2)):
        t = torch.arange(1.0, k_.shape[-2] + 1)[:, None]
        A = ((k_ @ k_.mT) * torch.exp(a * (t - t.T).clamp(min=0))).tril(-1)
        u = torch.linalg.solve_triangular(A, v_ - torch.exp(a * t) * (k_ @ S), upper=False, unitriangular=True)
        S = torch.exp(a * t[-1]) * S + (k_ * torch.exp(a * (t[-1] - t))).mT @ u
    return S


@dataclass
class State:
    """One matrix S (d_k × d_v), read as q S, whatever the number of facts."""
    d_k: int
    d_v: int
    bits: int = 32
    rule: Rule = additive
    passes: int = 1
    at_end: bool = False                                        # pack only at the end: what no stream can do
    kept: Any = None

    def empty(self, D: int) -> None:
        self.kept = pack(torch.zeros(D, self.d_k, self.d_v), self.bits)

    def write(self, keys: Tensor, values: Tensor, passes: int | None = None) -> None:
        self._run(self.rule, *pairs(keys, values, self.d_k, self.d_v), passes or self.passes)

    def _run(self, rule: Rule, k: Tensor, v: Tensor, passes: int) -> None:
        if self.kept is None:
            self.empty(len(k))
        S = unpack(self.kept, self.bits, self.d_v)
        step = k.shape[-2] if self.bits == 32 or self.at_end else 1
        for _ in range(passes):
            for k_, v_ in zip(k.split(step, -2), v.split(step, -2)):
                S = rule(S, k_, v_) if self.at_end else rounded(rule(S, k_, v_), self.bits)
        self.kept = pack(S, self.bits)

    def cost(self, N: int) -> tuple[float, float]:
        size, corrects = self.d_k * self.d_v, getattr(self.rule, "func", self.rule) is delta
        decays = isinstance(self.rule, partial)
        return (2 + 4 * corrects + decays) * size * self.passes, 2 * size

    def forget(self, keys: Tensor, passes: int = 1) -> None:
        k = facts.encode(keys, self.d_k)
        self._run(delta, k, torch.zeros(*k.shape[:-1], self.d_v), passes)         # write 0 over what is there

    def read(self, keys: Tensor) -> Tensor:
        return scores(facts.encode(keys, self.d_k) @ unpack(self.kept, self.bits, self.d_v))


@dataclass
class LeastSquares:
    """The matrix that endless passes of the delta rule reach, solved at once. The Gram matrix G (aux) makes later writes exact."""
    d_k: int
    d_v: int
    bits: int = 32
    ridge: float = 1e-4
    edits: bool = False                                         # later writes by ROME's edit instead of least squares
    aux: Any = None
    kept: Any = None

    def empty(self, D: int) -> None:
        self.kept = pack(torch.zeros(D, self.d_k, self.d_v), self.bits)
        self.aux = self.ridge * torch.eye(self.d_k).expand(D, -1, -1)

    def write(self, keys: Tensor, values: Tensor) -> None:
        k, v = pairs(keys, values, self.d_k, self.d_v)
        if self.kept is not None and self.edits:
            return self.edit(k, v)
        if self.kept is None:
            self.empty(len(k))
        W = unpack(self.kept, self.bits, self.d_v)
        self.aux = self.aux + k.mT @ k
        self.kept = pack(W + _solve(self.aux, k.mT @ (v - k @ W)), self.bits)       # minimises Σ ‖v − Wᵀk‖² over all facts so far

    def edit(self, k: Tensor, v: Tensor) -> None:
        self.kept = pack(rome(unpack(self.kept, self.bits, self.d_v), self.aux, k, v), self.bits)

    def forget(self, keys: Tensor) -> None:
        k = facts.encode(keys, self.d_k)
        self.edit(k, torch.zeros(*k.shape[:-1], self.d_v))

    def read(self, keys: Tensor) -> Tensor:
        return scores(facts.encode(keys, self.d_k) @ unpack(self.kept, self.bits, self.d_v))

    def cost(self, N: int) -> tuple[float, float]:
        n = min(N, self.d_k)                                    # the smaller of the two linear systems
        return 2 * n * self.d_k + 2 / 3 * n**3 / N, 2 * self.d_k * self.d_v


def rome(W: Tensor, G: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """ROME's edit: make kW = v exactly and disturb the other stored keys least: W + G⁻¹kᵀ (k G⁻¹kᵀ)⁻¹ (v − kW)."""
    k, v, W = k.double(), v.double(), W.double()
    Gk = torch.linalg.solve(G.double(), k.mT)
    return (W + Gk @ torch.linalg.solve(k @ Gk, v - k @ W)).float()


def _solve(A: Tensor, B: Tensor) -> Tensor:
    return torch.linalg.solve(A.double(), B.double()).float()
