"""The engineers' tables and the sentences of a text store, behind write, forget and read."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .. import recall
from ..tasks import facts
from ..text.bm25 import BM25
from ..text.tables import Cuckoo, Log, Xor
from ..text.unit import Unit


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

    def cost(self, N: int) -> tuple[float, float]:
        return {Log: (1, N), Cuckoo: (10, 8), Xor: (30, 3)}[type(self.tables[0])]            # counted in hashes and comparisons

    @property
    def touched(self) -> int | None:
        t = self.tables[0]                                       # of a log everything: it keeps no index
        return 3 if isinstance(t, Xor) else t.f + 8 if isinstance(t, Cuckoo) else None

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
    said: list[list[str]] = field(default_factory=list)
    stores: list[Any] = field(default_factory=list)
    draws: int = 1                                              # the first alone is counted in bytes

    def write(self, sentences: list[list[str]]) -> None:
        self.said = [old + new for old, new in zip(self.said or [[] for _ in sentences], sentences)]
        self.stores = [self.open(s) for s in self.said]

    def forget(self, sentences: list[list[str]]) -> None:
        left, self.said = [[s for s in said if s not in set(gone)] for said, gone in zip(self.said, sentences)], []
        self.write(left)

    def read(self, questions: list[list[str]]) -> Tensor:
        found = [[self.find(s, q) for q in qs] for s, qs in zip(self.stores, questions)]
        value = [[facts.WORDS.index(f.rstrip(".").split()[-1]) if f else 0 for f in row] for row in found]
        return recall.named(torch.tensor(value), torch.tensor([[f is not None for f in row] for row in found]))

    @property
    def kept(self) -> list[Any]:
        return ["\n".join(self.said[0]).encode(), self.parts(self.stores[0]).get("kept", [])]

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
    return Sentences(_bm25, lambda m, q: next((u.text for u in m.rank(q, 1)), None), lambda m: {"index": _index(m)})


def _index(store: BM25) -> bytes:
    return bytes(store.sizes()["index"] + store.sizes()["vocabulary"])


def _meaning(text: str) -> Tensor:
    """What a reader knows about words, whatever the facts: 8 numbers for each attribute, and the same for its synonym."""
    table = {w: i for i, pair in enumerate(facts.ATTRIBUTES.items()) for w in pair}
    return torch.eye(8)[[table[w] for w in text.lower().rstrip(".?").split() if w in table]].sum(0)


def _synonyms(sentences: list[str]) -> dict[str, Any]:
    return {"bm25": _bm25(sentences), "sentences": sentences, "vectors": torch.stack([_meaning(s) for s in sentences])}


def synonym_text() -> Sentences:
    """BM25 plus the likeness of 8-number vectors of a reader that knows which words mean the same."""
    def find(m: dict[str, Any], q: str) -> str:
        s = torch.from_numpy(m["bm25"].scores(q)).float()
        return m["sentences"][int((s / s.max().clamp(min=1e-9) + m["vectors"] @ _meaning(q)).argmax())]
    return Sentences(_synonyms, find, lambda m: {"kept": m["vectors"], "index": _index(m["bm25"])})


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
