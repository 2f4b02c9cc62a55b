r"""Every kind of memory behind the same three functions, so that the same facts and questions can be put to all of them.

    write(keys, values)    keys, values: (D, N) integers (minimem.tasks.facts); D independent draws side by side
    forget(keys)           remove these keys
    read(keys) -> z        scores (D, n, 256) for the possible values (minimem.recall turns them into bits)

and five byte accounts of one draw, measured from the tensors that are there (``accounts``):

    kept        delete it between write and read and an answer changes; it depends on the facts. THE axis of every figure
    aux         only the next write or delete needs it: covariances, moments, replayed facts
    index       can be rebuilt from kept without the facts
    reader      the same for every set of facts: the key encoder and the codebook
    transient   gradients and moments while training; unpacked copies and the workspace of a solver are not counted

Numbers are kept in 32, 16, 8 or 4 bits and really packed: 4-bit numbers two in a byte, the scales beside them.
A state is packed again after every single fact, because it has to survive between tokens; what is solved or trained is packed once.
"""
from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import recall
from ..tasks import facts
from .nets import EditedNet, Net, fitted
from .numbers import accounts, pack, rounded, unpack
from .tables import Sentences, Table, bm25_text, cuckoo, exact_text, log, synonym_text, trigram_text, xor
from .vectors import Cache, LeastSquares, State, additive, delta

__all__ = ["Cache", "EditedNet", "LeastSquares", "Net", "Sentences", "State", "Table", "Trial", "accounts", "additive", "best", "bm25_text",
           "cuckoo", "delta", "exact_text", "fitted", "largest", "log", "pack", "remake", "rounded", "synonym_text", "trial", "trigram_text", "unpack", "xor"]
SEEDS, CALIBRATION = (1, 2, 3), 10


@dataclass
class Trial:
    """What one memory did with N facts: bits and accuracy of each test draw, and of the calibration draw itself."""
    memory: Any
    N: int
    bits: Tensor
    accuracy: Tensor
    tuning: tuple[float, float]                                 # (bits, accuracy) of the calibration draw under its own law

    @property
    def per_byte(self) -> Tensor:
        return self.bits / accounts(self.memory)["kept"]


def trial(memory: Any, N: int, kind: Callable[..., Any] = facts.random, seeds: tuple[int, ...] = SEEDS, asked: int = 2048) -> Trial:
    """Write N facts into an empty memory, ask about them (at most ``asked``, evenly spaced), score with the law of the calibration draw."""
    keys, values = facts.draws(kind, N, (*seeds, CALIBRATION))
    memory.write(keys, values)
    at = torch.linspace(0, N - 1, min(N, asked)).long()
    z, v = memory.read(keys[:, at]), values[:, at]
    law = recall.calibrate(z[-1], v[-1])
    got, right = recall.bits(z, v, law, N), recall.accuracy(z, v)
    return Trial(memory, N, got[:-1], right[:-1], (float(got[-1]), float(right[-1])))


def remake(row: dict[str, Any]) -> Any:
    """The empty memory behind a stored point (a row of ``benchmarks/results/four_memories_*.json``), to be run again.

    Raises ValueError for a name that it does not know.
    """
    name, bits, B = row["name"], row["bits"], row["budget"]
    n = [float(x) if "." in x else int(x) for x in re.findall(r"\d+(?:\.\d+)?", row["shape"])]
    half_life = -math.log(2) / (n[2] * row["N"]) if "half-life" in row["shape"] else 0.0
    known = {
        "XOR static function": lambda: xor(B), "cuckoo, 12-bit fingerprint": lambda: cuckoo(B, 12), "cuckoo, 6-bit fingerprint": lambda: cuckoo(B, 6),
        "log, exact key": lambda: log(B // 9), "log, nearest key": lambda: log(B // 9, 12),
        "KV cache 64+64 float16": lambda: Cache(n[0], n[1], bits, n[2]), "KV cache, tuned width": lambda: Cache(n[0], n[1], bits, n[2]),
        "additive": lambda: State(n[0], n[1], bits), "delta, one pass": lambda: State(n[0], n[1], bits, delta),
        "decay": lambda: State(n[0], n[1], bits, partial(additive, a=half_life)), "gated delta": lambda: State(n[0], n[1], bits, partial(delta, a=half_life)),
        "least squares": lambda: LeastSquares(n[0], n[1], bits, n[2]), "least squares, N = rows": lambda: LeastSquares(n[0], n[1], bits, n[2]),
        "MLP": lambda: Net(n[0], n[1], bits, n[4], n[3]), "logistic read-out": lambda: Net(n[0], 0, bits, n[3], n[2]),
    }
    if name in known:
        return known[name]()
    if re.fullmatch(r"delta, \d+ passes", name):
        return State(n[0], n[1], bits, delta, passes=int(re.findall(r"\d+", name)[0]))
    raise ValueError(f"no memory is called {name!r}; there are {', '.join(known)} and 'delta, <n> passes'")


def best(trials: Iterable[Trial], floor: float = 0.9) -> Trial | None:
    """The trial with the most bits whose mean accuracy is at least ``floor``."""
    fair = [t for t in trials if t.accuracy.mean() >= floor]
    return max(fair, key=lambda t: float(t.bits.mean()), default=None)


def largest(make: Callable[[int], Any], budget: int, multiple: int = 2) -> int:
    """The largest size whose empty memory keeps at most ``budget`` bytes, measured; sizes are multiples of ``multiple``.

    Raises ValueError if not even the smallest fits.
    """
    def fits(n: int) -> bool:
        memory = make(n * multiple)
        memory.empty(1)
        return accounts(memory)["kept"] <= budget
    n = 1
    if not fits(n):
        raise ValueError(f"size {multiple} keeps more than {budget} bytes, wanted a larger budget")
    while fits(2 * n):
        n *= 2
    for step in [n >> i for i in range(1, n.bit_length())]:      # a list: n changes on the way
        n += step if fits(n + step) else 0
    return n * multiple
