r"""Every kind of memory behind the same three functions, so that the same facts and questions can be put to all of them.

    write(keys, values)    keys, values: (D, N) integers (minimem.tasks.facts); D independent draws side by side
    forget(keys)           remove these keys
    read(keys) -> z        scores (D, n, 256) for the possible values (minimem.recall turns them into bits)

and five byte accounts of one draw, measured from the tensors that are there (``accounts``):

    kept        delete it between write and read and an answer changes; it depends on the facts. THE axis of every figure
    aux         only the next write or delete needs it: covariances, moments, replayed facts
    index       can be rebuilt from kept without the facts
    reader      the same for every set of facts: the key encoder and the codebook
    transient   the peak while writing: gradients, moments, unpacked copies

Numbers are kept in 32, 16, 8 or 4 bits and really packed: 4-bit numbers two in a byte, the scales beside them.
A state is packed again after every single fact, because it has to survive between tokens; what is solved or trained is packed once.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from . import core, recall
from .tasks import facts
from .text.bm25 import BM25
from .text.tables import Cuckoo, Log, Xor
from .text.unit import Unit

SEEDS, CALIBRATION = (1, 2, 3), 10
Packed = dict[str, Tensor]


# ------------------------------------------------------------------ numbers of few bits

def pack(x: Tensor, bits: int, axis: int = -2) -> Packed:
    """x in 32, 16, 8 or 4 bits. 8 and 4: whole numbers times one float16 scale for each line along ``axis``; 4: two in a byte."""
    if bits == 32:
        return {"x": x}
    if bits == 16:
        return {"x": x.half()}
    top = 2 ** (bits - 1) - 1
    scale = (x.abs().amax(axis, keepdim=True) / top).clamp(min=1e-7).half()
    n = (x / scale.float()).round().clamp(-top, top).to(torch.int8)
    if bits == 4:
        n = F.pad(n, (0, n.shape[-1] % 2)) + 8
        n = n[..., ::2] << 4 | n[..., 1::2]
    return {"x": n, "scale": scale}


def unpack(p: Packed, bits: int, width: int | None = None) -> Tensor:
    """The numbers again, as float32. ``width``: the length of the last axis where it was odd."""
    x = p["x"]
    if bits == 4:
        x = x.to(torch.uint8)
        x = (torch.stack([x >> 4, x & 15], -1).flatten(-2)[..., :width]).float() - 8
    return x.float() * p["scale"].float() if "scale" in p else x.float()


def rounded(x: Tensor, bits: int, axis: int = -2) -> Tensor:
    """x as it comes back from ``bits`` bits."""
    return x if bits == 32 else unpack(pack(x, bits, axis), bits, x.shape[-1])


def accounts(memory: Any) -> dict[str, int]:
    """The five byte counts of one draw, measured."""
    D = getattr(memory, "draws", None) or next(core.tensors(memory.kept)).shape[0]
    return {name: _nbytes(getattr(memory, name, None)) // (1 if name == "reader" else D)
            for name in ("kept", "aux", "index", "reader", "transient")}


def _nbytes(x: Any) -> int:
    if isinstance(x, dict):
        return sum(_nbytes(v) for v in x.values())
    if isinstance(x, (list, tuple)):
        return sum(_nbytes(v) for v in x)
    return x.nbytes if isinstance(x, np.ndarray) else len(x) if isinstance(x, bytes) else core.nbytes(x)


# ------------------------------------------------------------------ tables

@dataclass
class Table:
    """Any of the tables of ``minimem.text.tables``, one for each draw."""
    make: Callable[..., Any]                                    # (keys, values) -> a table that holds them
    static: bool = False                                        # it cannot be changed, only built again
    tables: list[Any] = field(default_factory=list)

    def write(self, keys: Tensor, values: Tensor) -> None:
        if self.tables and not self.static:
            for t, k, v in zip(self.tables, keys.numpy(), values.numpy()):
                t.write(k, v)
        else:
            self.tables = [self.make(k, v) for k, v in zip(keys.numpy(), values.numpy())]

    def forget(self, keys: Tensor) -> None:
        for t, k in zip(self.tables, keys.numpy()):
            t.forget(k)

    def read(self, keys: Tensor) -> Tensor:
        named = zip(*(t.read(k) for t, k in zip(self.tables, keys.numpy())))
        return recall.named(*(torch.from_numpy(np.stack(x)) for x in named))

    def cost(self, N: int) -> tuple[float, float, float]:
        t, kept = self.tables[0], accounts(self)["kept"]
        return (10, 8, 8 * (t.f + 8) / 8) if isinstance(t, Cuckoo) else (30, 3, 3) if isinstance(t, Xor) else (1, N, kept)

    @property
    def kept(self) -> dict[str, Tensor]:
        """What is stored: records, packed slots, or bytes and the seed."""
        held = [t.records.view(np.uint8) if isinstance(t, Log) else t.packed() if isinstance(t, Cuckoo) else np.append(t.slots, np.uint8(t.seed))
                for t in self.tables]
        return {"bytes": torch.from_numpy(np.stack(held))}


def log(capacity: int = 10**9, within: int = 0) -> Table:
    """A log of whole records; ``within``: the nearest key may differ in so many bits."""
    return Table(lambda k, v: _written(Log(capacity, within), k, v))


def cuckoo(nbytes: int, f: int = 12, kicks: int = 500) -> Table:
    """A cuckoo table of at most ``nbytes`` with fingerprints of f bits."""
    return Table(lambda k, v: _written(Cuckoo(nbytes, f, kicks), k, v))


def xor(nbytes: int) -> Table:
    """A static function in ``nbytes``, its seed among them."""
    return Table(lambda k, v: Xor(k, v, nbytes - 1), static=True)


def _written(table: Any, keys: Any, values: Any) -> Any:
    table.write(keys, values)
    return table


# ------------------------------------------------------------------ sentences

@dataclass
class Sentences:
    """One text store a draw, that hands back one sentence; its last word is the answer. ``find``: (store, question) -> sentence or None."""
    open: Callable[[list[str]], Any]                            # sentences -> store
    find: Callable[[Any, str], str | None]
    parts: Callable[[Any], dict[str, Any]] = lambda store: {}   # what it keeps beside the text, and its index
    stores: list[Any] = field(default_factory=list)
    text: bytes = b""                                           # of the first draw, which alone is counted
    draws: int = 1

    def write(self, sentences: list[list[str]]) -> None:
        self.stores, self.text = [self.open(s) for s in sentences], "\n".join(sentences[0]).encode()

    def read(self, questions: list[list[str]]) -> Tensor:
        found = [[self.find(s, q) for q in qs] for s, qs in zip(self.stores, questions)]
        value = [[facts.WORDS.index(f.rstrip(".").split()[-1]) if f else 0 for f in row] for row in found]
        return recall.named(torch.tensor(value), torch.tensor([[f is not None for f in row] for row in found]))

    @property
    def kept(self) -> list[Any]:
        return [self.text, self.parts(self.stores[0]).get("kept", [])]

    @property
    def index(self) -> Any:
        return self.parts(self.stores[0]).get("index", [])


def exact_text() -> Sentences:
    """Finds a sentence only by the very words of the question."""
    return Sentences(lambda s: {x.rsplit(" is ", 1)[0].lower(): x for x in s}, lambda d, q: d.get(q[8:-1].lower()))


def _bm25(sentences: list[str]) -> BM25:
    store = BM25()
    for i, s in enumerate(sentences):
        store.write(Unit(str(i), s))
    return store


def bm25_text() -> Sentences:
    """Finds the sentence with the most rare words of the question."""
    return Sentences(_bm25, lambda m, q: next((u.text for u in m.rank(q, 1)), None),
                     lambda m: {"index": bytes(m.sizes()["index"] + m.sizes()["vocabulary"])})


# what a reader knows about words, whatever the facts: a vector for each attribute and its synonym, equal for the two
def _meaning(text: str) -> Tensor:
    table = {w: i for i, pair in enumerate(facts.ATTRIBUTES.items()) for w in pair}
    return torch.eye(8)[[table[w] for w in text.lower().rstrip(".?").split() if w in table]].sum(0)


def _synonyms(sentences: list[str]) -> dict[str, Any]:
    return {"bm25": _bm25(sentences), "sentences": sentences, "vectors": torch.stack([_meaning(s) for s in sentences])}


def synonym_text() -> Sentences:
    """BM25 plus the likeness of 8-number vectors of a reader that knows which words mean the same."""
    def find(m: dict[str, Any], q: str) -> str:
        s = torch.from_numpy(m["bm25"].scores(q)).float()
        return m["sentences"][int((s / s.max().clamp(min=1e-9) + m["vectors"] @ _meaning(q)).argmax())]
    return Sentences(_synonyms, find, lambda m: {"kept": m["vectors"]})


def _trigrams(sentences: list[str]) -> dict[str, Any]:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    words = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), dtype=np.float32)
    counts = words.fit_transform(sentences)
    svd = TruncatedSVD(min(128, len(sentences) - 1), random_state=0).fit(counts)
    return {"words": words, "svd": svd, "sentences": sentences, "vectors": F.normalize(torch.from_numpy(svd.transform(counts)).float(), dim=-1)}


def trigram_text() -> Sentences:
    """Vectors of runs of 3 and 4 letters, fitted on the facts: their vocabulary and components are kept as well."""
    def find(m: dict[str, Any], q: str) -> str:
        v = torch.from_numpy(m["svd"].transform(m["words"].transform([q]))).float()
        return m["sentences"][int((m["vectors"] @ v[0]).argmax())]
    return Sentences(_trigrams, find, lambda m: {"kept": [m["vectors"], m["svd"].components_, m["words"].idf_, "".join(m["words"].vocabulary_).encode()]})


# ------------------------------------------------------------------ memories of vectors: a cache, a state, a solved matrix, a network

class Vectors:
    """What all of them share: keys are read through one fixed encoder, values are ±1 codewords."""
    d_k: int
    d_v: int
    kept: Any = None

    def pairs(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return facts.encode(keys, self.d_k), facts.codebook(self.d_v)[values]

    def scores(self, out: Tensor) -> Tensor:
        return out @ facts.codebook(self.d_v).T

    def operations(self, N: int) -> tuple[float, float]:
        raise NotImplementedError

    def cost(self, N: int) -> tuple[float, float, float]:
        return (*self.operations(N), accounts(self)["kept"])    # every memory of vectors is read whole

    @property
    def reader(self) -> list[Any]:
        return [facts.projection(self.d_k), facts.codebook(self.d_v)]


@dataclass
class Cache(Vectors):
    """Keys and values side by side; a question is a softmax over all of them. ``recency``: logit added for each step later."""
    d_k: int
    d_v: int
    bits: int = 16
    beta: float = 30.0
    recency: float = 0.0
    capacity: int | None = None

    def write(self, keys: Tensor, values: Tensor) -> None:
        new = [pack(x, self.bits, -1) for x in self.pairs(keys, values)]
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
        return self.scores(p @ unpack(self.kept[1], self.bits, self.d_v))

    def operations(self, N: int) -> tuple[float, float]:
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
class State(Vectors):
    """One matrix S (d_k × d_v), read as q S, whatever the number of facts."""
    d_k: int
    d_v: int
    bits: int = 32
    rule: Rule = additive
    passes: int = 1
    at_end: bool = False                                        # pack only at the end: what no stream can do

    def empty(self, D: int) -> None:
        self.kept = pack(torch.zeros(D, self.d_k, self.d_v), self.bits)

    def write(self, keys: Tensor, values: Tensor, passes: int | None = None) -> None:
        self._run(self.rule, *self.pairs(keys, values), passes or self.passes)

    def _run(self, rule: Rule, k: Tensor, v: Tensor, passes: int) -> None:
        if self.kept is None:
            self.empty(len(k))
        S = unpack(self.kept, self.bits, self.d_v)
        step = k.shape[-2] if self.bits == 32 or self.at_end else 1
        for _ in range(passes):
            for k_, v_ in zip(k.split(step, -2), v.split(step, -2)):
                S = rule(S, k_, v_) if self.at_end else rounded(rule(S, k_, v_), self.bits)
        self.kept = pack(S, self.bits)

    def operations(self, N: int) -> tuple[float, float]:
        size, corrects = self.d_k * self.d_v, getattr(self.rule, "func", self.rule) is delta
        decays = isinstance(self.rule, partial)
        return (2 + 4 * corrects + decays) * size * self.passes, 2 * size

    def forget(self, keys: Tensor, passes: int = 1) -> None:
        k = facts.encode(keys, self.d_k)
        self._run(delta, k, torch.zeros(*k.shape[:-1], self.d_v), passes)         # write 0 over what is there

    def read(self, keys: Tensor) -> Tensor:
        return self.scores(facts.encode(keys, self.d_k) @ unpack(self.kept, self.bits, self.d_v))


@dataclass
class LeastSquares(Vectors):
    """The matrix that endless passes of the delta rule reach, solved at once. The Gram matrix G (aux) makes later writes exact."""
    d_k: int
    d_v: int
    bits: int = 32
    ridge: float = 1e-4
    edits: bool = False                                         # later writes by ROME's edit instead of least squares
    aux: Any = None

    def empty(self, D: int) -> None:
        self.kept = pack(torch.zeros(D, self.d_k, self.d_v), self.bits)
        self.aux = self.ridge * torch.eye(self.d_k).expand(D, -1, -1)

    def write(self, keys: Tensor, values: Tensor) -> None:
        k, v = self.pairs(keys, values)
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
        return self.scores(facts.encode(keys, self.d_k) @ unpack(self.kept, self.bits, self.d_v))

    def operations(self, N: int) -> tuple[float, float]:
        n = min(N, self.d_k)                                    # the smaller of the two linear systems
        return 2 * n * self.d_k + 2 / 3 * n**3 / N, 2 * self.d_k * self.d_v


def rome(W: Tensor, G: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """ROME's edit: make kW = v exactly and disturb the other stored keys least: W + G⁻¹kᵀ (k G⁻¹kᵀ)⁻¹ (v − kW)."""
    k, v, W = k.double(), v.double(), W.double()
    Gk = torch.linalg.solve(G.double(), k.mT)
    return (W + Gk @ torch.linalg.solve(k @ Gk, v - k @ W)).float()


def _solve(A: Tensor, B: Tensor) -> Tensor:
    return torch.linalg.solve(A.double(), B.double()).float()


@dataclass
class Net(Vectors):
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
        return self.scores(fitted(self, keys))

    def operations(self, N: int) -> tuple[float, float]:
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
    """A network whose later writes are ROME's edit of the last layer; the Gram matrix of its hidden units is kept in aux."""
    ridge: float = 1e-2

    def _learn(self, keys: Tensor, target: Tensor) -> None:
        first = self.kept is None
        if first:
            super()._learn(keys, target)
        w = self.weights
        h = _with_1((self.inputs(keys) @ w[0]).relu())
        if first:
            self.aux = h.mT @ h + self.ridge * torch.eye(h.shape[-1])
            self.sure = (h @ w[1]).abs().mean()                 # how far from 0 a sure answer is
        else:
            self.keep([w[0], rome(w[1], self.aux, h, (2 * target - 1) * self.sure)])


# ------------------------------------------------------------------ one trial, and the largest load that is still answered

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


def trial(make: Callable[[], Any], N: int, kind: Callable[..., Any] = facts.random, seeds: tuple[int, ...] = SEEDS, asked: int = 2048) -> Trial:
    """Write N facts, ask about them (at most ``asked``, evenly spaced), score with the law of the calibration draw."""
    keys, values = facts.draws(kind, N, (*seeds, CALIBRATION))
    memory = make()
    memory.write(keys, values)
    at = torch.linspace(0, N - 1, min(N, asked)).long()
    z, v = memory.read(keys[:, at]), values[:, at]
    law = recall.calibrate(z[-1], v[-1])
    got, right = recall.bits(z, v, law, N), recall.accuracy(z, v)
    return Trial(memory, N, got[:-1], right[:-1], (float(got[-1]), float(right[-1])))


def best(trials: Iterable[Trial], floor: float = 0.9) -> Trial | None:
    """The trial with the most bits whose mean accuracy is at least ``floor``."""
    fair = [t for t in trials if t.accuracy.mean() >= floor]
    return max(fair, key=lambda t: float(t.bits.mean()), default=None)


def largest(make: Callable[[int], Any], budget: int, multiple: int = 2) -> int:
    """The largest size whose empty memory keeps at most ``budget`` bytes, measured; sizes are multiples of ``multiple``."""
    def fits(n: int) -> bool:
        memory = make(n * multiple)
        memory.empty(1)
        return accounts(memory)["kept"] <= budget
    n = 1
    while fits(2 * n):
        n *= 2
    for step in (n >> i for i in range(1, n.bit_length())):
        n += step if fits(n + step) else 0
    return n * multiple
