"""BM25: what it finds on LoCoMo's turns (with MINIMEM_DATA set), and its speed against bm25s and rank_bm25 (always).

OMP_NUM_THREADS=1 python benchmarks/bm25.py
"""
import os
import time
from statistics import median

import bm25s
import numpy as np
from rank_bm25 import BM25Okapi
from record import record
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from minimem.tasks import dialogue
from minimem.text.bm25 import BM25, Impacts
from minimem.text.unit import tokens

KS, WORDS, PACKAGES = (1, 5, 10, 25, 50), (250, 500, 1000, 2000, 4000), ("minimem", "numpy", "scipy", "scikit-learn", "bm25s", "rank-bm25")


def raw(text):
    return tokens(text, frozenset(), str)


def stopped(text):
    return tokens(text, stem=str)


class LSA(dialogue.Recent):
    """256 numbers a turn: TF-IDF and a truncated SVD fitted on the conversation, cosine."""

    def rank(self, query, k=None):
        if len(self.units) != getattr(self, "n", 0):
            self.n, self.tfidf = len(self.units), TfidfVectorizer(analyzer=tokens, sublinear_tf=True)
            x = self.tfidf.fit_transform(u.text for u in self.units)
            self.svd = TruncatedSVD(256, random_state=0).fit(x)
            self.x = self.unit_length(x)
        s = self.unit_length(self.tfidf.transform([query])) @ self.x.T
        return [self.units[i] for i in np.argsort(-s[0], kind="stable")[:k]]

    def unit_length(self, x):
        y = self.svd.transform(x)
        return y / np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-12)


def percent(values):
    return [round(100 * x, 1) for x in dialogue.bootstrap(values)]


def minus(a, b):
    return [[x - y for x, y in zip(p, q, strict=True)] for p, q in zip(a, b, strict=True)]


def locomo(samples):
    made = {f"BM25 b={b:g}": lambda b=b: BM25(b=b) for b in (0.75, 0.0, 0.25, 0.5, 1.0)}
    made |= {f"{name} b={b:g}": lambda b=b, t=t: BM25(b=b, tokenize=t) for name, t in (("raw tokens", raw), ("stop words dropped", stopped)) for b in (0.75, 0.0)}
    made |= {"LSA-256": LSA, "most recent": dialogue.Recent}
    made |= {f"random, seed {s}": type("Random", (dialogue.Random,), {"seed": s}) for s in range(3)}
    found = {}
    for name, memory in made.items():
        found[name] = dialogue.evaluate(samples, memory, KS, WORDS)
        print(name, percent(found[name]["R@10"]), flush=True)
    asked = [[q.category for q in dialogue.questions(s)] for s in samples]

    def category(values, c):
        return [[x for x, k in zip(v, a, strict=True) if k == c] for v, a in zip(values, asked, strict=True)]

    stores = [BM25() for _ in samples]
    for m, s in zip(stores, samples):
        for unit in dialogue.turns(s):
            m.write(unit)
    n = sum(len(m.units) for m in stores)
    sizes = {part: sum(m.sizes()[part] for m in stores) for part in stores[0].sizes()}
    pairs = (("BM25 b=0", "BM25 b=0.75"), ("BM25 b=0.75", "raw tokens b=0.75"), ("BM25 b=0", "LSA-256"))
    record("bm25", {
        "on": "LoCoMo-10, turns with speaker and picture caption, categories 1-4; percent: mean, 95% interval over the 10 conversations",
        "conversations": len(samples), "turns": n, "questions": sum(map(len, asked)),
        "k1": 1.5, "systems": {name: {k: percent(v) for k, v in r.items()} for name, r in found.items()},
        "differences": {f"{a} minus {b}": {k: percent(minus(found[a][k], found[b][k])) for k in found[a]} for a, b in pairs},
        "R@10 by category": {name: {str(c): percent(category(found[name]["R@10"], c))[0] for c in dialogue.ANSWERABLE} for name in ("BM25 b=0.75", "BM25 b=0", "LSA-256")},
        "bytes": {**sizes, "all per turn": round(sum(sizes.values()) / n), "text of the turns alone": sum(len(u.text.encode()) for m in stores for u in m.units.values()),
                  "LSA-256 vectors per turn, float32": 1024, "LSA-256 vectors": 1024 * n},
    }, seeds=[0, 1, 2], packages=PACKAGES)


# ------------------------------------------------------------------ speed

def zipf(n, least, most, seed):
    """n texts of least..most-1 words out of 20,000, the j-th with chance 1/j."""
    g = np.random.default_rng(seed)
    p = 1 / np.arange(1, 20001)
    return [[f"w{j}" for j in g.choice(20000, k, p=p / p.sum())] for k in g.integers(least, most, n)]


def index(docs):
    number = {}
    return number, Impacts([np.array([number.setdefault(t, len(number)) for t in d], np.int32) for d in docs], len(number))


def speed(rounds=15):
    docs, queries = zipf(20000, 5, 60, 0), zipf(200, 3, 10, 1)
    number, ours = index(docs)
    theirs = bm25s.BM25(method="lucene", k1=1.5, b=0.75, backend="numpy")
    theirs.index(docs, show_progress=False)
    old = BM25Okapi(docs)

    def numbers(q):
        return [number[t] for t in q if t in number]

    def index_theirs():
        bm25s.BM25(method="lucene", k1=1.5, b=0.75, backend="numpy").index(docs, show_progress=False)

    def each(f):
        for q in queries:
            f(q)

    jobs = {
        "scores, ours": lambda: each(lambda q: ours.scores(numbers(q))),
        "scores, bm25s numpy": lambda: each(theirs.get_scores),
        "top 10, ours": lambda: each(lambda q: ours.top(numbers(q), 10)),
        "top 10, bm25s numpy": lambda: theirs.retrieve(queries, k=10, show_progress=False, n_threads=0, backend_selection="numpy"),
        "index, ours": lambda: index(docs),
        "index, bm25s numpy": index_theirs,
    }
    took = {name: [] for name in jobs}
    for r in range(rounds):
        for name in list(jobs) if r % 2 else list(jobs)[::-1]:          # taking turns, in both orders
            start = time.process_time()
            jobs[name]()
            took[name].append(time.process_time() - start)
    start = time.process_time()
    for q in queries[:5]:
        np.argsort(-old.get_scores(q))[:10]
    slow = (time.process_time() - start) / 5
    ms = {name: median(t) * 1000 / (1 if name.startswith("index") else len(queries)) for name, t in took.items()} | {"top 10, rank_bm25": slow * 1000}
    ratio = {what: [a / b for a, b in zip(took[f"{what}, bm25s numpy"], took[f"{what}, ours"], strict=True)] for what in ("scores", "top 10", "index")}
    error = max(np.abs(2.5 * theirs.get_scores(q) - ours.scores(numbers(q))).max() for q in queries)
    record("bm25_speed", {
        "on": "20,000 texts of 5 to 59 words (Zipf over 20,000), 200 queries of 3 to 9 words, one thread, CPU time, runs taking turns",
        "ms, median (index: all; else a query)": {k: float(f"{v:.3g}") for k, v in ms.items()},
        "times faster than bm25s numpy: median, lowest, highest of the rounds": {k: [round(f(v), 2) for f in (median, min, max)] for k, v in ratio.items()},
        "times faster than rank_bm25, top 10": round(ms["top 10, rank_bm25"] / ms["top 10, ours"]),
        "largest difference of scores (theirs in float32)": float(f"{error:.1e}"), "rounds": rounds,
        "index bytes": {"ours, float64": int(ours.value.nbytes + ours.doc.nbytes + ours.start.nbytes),
                        "bm25s, float32": int(sum(theirs.scores[k].nbytes for k in ("data", "indices", "indptr")))},
    }, seeds=[0, 1], packages=PACKAGES)


if __name__ == "__main__":
    speed()
    if "MINIMEM_DATA" in os.environ:
        locomo(dialogue.load())
    else:
        print("MINIMEM_DATA is not set: LoCoMo not measured")
