"""What a unit should be: turns, windows, sessions, facts, summaries, extracts, and mixtures, at equal words on LoCoMo (with MINIMEM_DATA set).

OMP_NUM_THREADS=1 MINIMEM_DATA=... python benchmarks/granularity.py

Fixed before the run. Every unit is read with its day before it, three words, paid for. "sum" is the min-max sum of BM25 (b = 0) and MiniLM, one half each;
the vector of a window or a session is the mean of its turns' vectors, made length 1. b = 0 and the half were the best of a first trial on LoCoMo itself;
nothing else was chosen on it. What holds is decided at 1,000 words, by intervals over conversations that leave out 0:
- granularity: sessions find fewer answer terms and less evidence than turns; summaries find more evidence and fewer answer terms than turns.
- structural_memory: turns and facts in one index find more answer terms than turns alone and than facts alone. Beside it: N searches, each with the ten words
  of Rocchio (top 3), against one search.
- memory_matters: with the filter (one speaker named: only what that one said) more evidence is found than without, for turns.
LoCoMo's facts and summaries were written by GPT-3.5 over the same sessions and came with the questions: who wrote the questions may have seen them.
What they gain over turns is an upper bound. A summary or an extract is credited with all turns of its session, so its evidence says what it covers;
that it still tells it, only the answer's terms can say.
"""
import os

import numpy as np
from embedded import KEPT, _key, minilm
from record import record

from minimem import pretrained
from minimem.tasks import dialogue
from minimem.tasks.dialogue import ANSWERABLE, evidence_recall, facts, questions, summaries, turns
from minimem.text import granularity
from minimem.text.bm25 import BM25
from minimem.text.dense import Dense
from minimem.text.fusion import Fused
from minimem.text.memory_matters import Filtered, named
from minimem.text.structural_memory import Iterative, mixed, rocchio

WORDS, BUDGET, SEEDS = (250, 500, 1000, 2000, 4000), 105, (0, 1, 2)
PACKAGES = ("minimem", "torch", "numpy", "scipy", "tokenizers", "safetensors")
PARTS: dict[str, list[str]] = {}                                # the turns of a piece, by its text
THOUGHTS: dict[str, np.ndarray] = {}


def cut(by, **options):
    def units(sample):
        said = turns(sample)
        text, made = {u.id: u.text for u in said}, by(said, **options)
        PARTS.update((u.text, [text[i] for i in u.source_ids]) for u in made)
        return made
    return units


def means(texts):
    """One row a text: its own vector, or the mean of its turns' vectors, of length 1."""
    parts = [PARTS.get(t, [t]) for t in texts]
    rows = np.split(embed([p for some in parts for p in some]), np.cumsum(list(map(len, parts)))[:-1])
    x = np.array([r.mean(0) for r in rows], np.float32).reshape(len(texts), 384)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def embed(texts):
    """MiniLM, where a single new text (a question with a thought) is kept here and not on disk."""
    if len(texts) > 1 or _key(texts[0]) in KEPT or not KEPT:
        return minilm(texts)
    if texts[0] not in THOUGHTS:
        THOUGHTS[texts[0]] = LIVE(texts)
    return THOUGHTS[texts[0]]


means.name, means.dim = minilm.name, minilm.dim


def both():
    return Fused([BM25(b=0), Dense(means)])


def dense():
    return Dense(means)


def thinking(memory, n):
    def make():
        m = memory()
        return Iterative(m, rocchio(m), turns=n)
    return make


UNITS = {
    "turn": turns, "window of 3": cut(granularity.windows, width=3), "session": cut(granularity.sessions), "fact": facts, "summary": summaries,
    "turn + fact": lambda s: mixed(turns(s), facts(s)), "turn + fact + summary": lambda s: mixed(turns(s), facts(s), summaries(s)),
}
EXTRACTS = {"lead": cut(granularity.lead, words=BUDGET), **{f"random, seed {i}": cut(granularity.at_random, words=BUDGET, seed=i) for i in SEEDS},
            **{name: cut(getattr(granularity, name), words=BUDGET) for name in ("centroid", "textrank", "informative")}}


# ------------------------------------------------------------------ numbers

def percent(values):
    return [round(100 * x, 1) for x in dialogue.bootstrap(values)]


def minus(a, b):
    return [[x - y for x, y in zip(p, q, strict=True)] for p, q in zip(a, b, strict=True)]


def run(samples, systems, ks=()):
    """{name: {"R@k", "words w", "answer w": values of each question, conversation by conversation}}; ``systems``: name -> (units, memory)."""
    found = {}
    for name, (units, memory) in systems.items():
        found[name] = dialogue.evaluate(samples, memory, ks, WORDS, units=units, dates=True)
        print(f"{name:32}", *(f"{k} {percent(found[name][k])}" for k in ("answer 1000", "words 1000")), flush=True)
    return found


def told(samples, found, pairs):
    asked = [[q.category for q in questions(s)] for s in samples]

    def of(values, c):
        return [[x for x, k in zip(v, a, strict=True) if k == c] for v, a in zip(values, asked, strict=True)]

    return {
        "on": "LoCoMo-10, categories 1-4; percent: mean, 95% interval over the 10 conversations; every unit is read with its day, three words, paid for",
        "questions": sum(map(len, asked)), "systems": {name: {k: percent(v) for k, v in r.items()} for name, r in found.items()},
        "answer 1000 by category": {name: {str(c): percent(of(r["answer 1000"], c)) for c in ANSWERABLE} for name, r in found.items()},
        "differences": {f"{a} minus {b}": {k: percent(minus(found[a][k], found[b][k])) for k in found[a]} for a, b in pairs},
    }


def grains(samples):
    systems = {f"{name}, {key}": (units, memory) for name, units in UNITS.items() for key, memory in (("sum", both), ("BM25", BM25))}
    systems |= {f"extract: {name}, BM25": (units, BM25) for name, units in EXTRACTS.items()}
    found = run(samples, systems, ks=(10,))
    chance = {k: [[float(np.mean(x)) for x in zip(*rs, strict=True)] for rs in zip(*(found[f"extract: random, seed {i}, BM25"][k] for i in SEEDS), strict=True)]
              for k in found["turn, sum"]}
    found["extract: random, mean of 3 seeds, BM25"] = chance
    pairs = [(f"{a}, {key}", f"{b}, {key}") for key in ("sum", "BM25") for a, b in (
        ("window of 3", "turn"), ("session", "turn"), ("fact", "turn"), ("summary", "turn"), ("turn + fact", "turn"), ("turn + fact", "fact"),
        ("turn + fact + summary", "turn + fact"))]
    pairs += [(f"extract: {name}, BM25", other) for name in ("lead", "centroid", "textrank", "informative", "random, mean of 3 seeds")
              for other in ("summary, BM25", "extract: random, mean of 3 seeds, BM25") if f"extract: {name}, BM25" != other]
    size = {}
    for name, units in {**UNITS, **EXTRACTS}.items():
        us = [u for s in samples for u in units(s)]
        size[name] = {"units": len(us), "words a unit": round(sum(u.words for u in us) / len(us), 1),
                      "text bytes": sum(len(u.text.encode()) for u in us), "vector bytes, float32": 1536 * len(us)}
    record("granularity", {**told(samples, found, pairs), "sizes": size, "words of an extract, at most": BUDGET,
                           "caution": "facts and summaries by GPT-3.5 came with the questions: an upper bound; summaries and extracts are credited with the whole session"},
           seeds=list(SEEDS), packages=PACKAGES)


def structures(samples):
    systems = {f"{name}, {key}, {n} search{'es' * (n > 1)}": (UNITS[name], thinking(memory, n))
               for name, key, memory in (("turn", "sum", both), ("turn + fact", "sum", both), ("turn", "MiniLM", dense), ("turn", "BM25 b=0", lambda: BM25(b=0)))
               for n in (1, 2, 4)}
    found = run(samples, {"fact, sum, 1 search": (facts, both), **systems})
    pairs = [("turn + fact, sum, 1 search", "turn, sum, 1 search"), ("turn + fact, sum, 1 search", "fact, sum, 1 search")]
    pairs += [(name, name.rsplit(", ", 1)[0] + ", 1 search") for name in systems if not name.endswith("1 search")]
    record("structural_memory", {**told(samples, found, pairs), "thought": "the 10 words of Rocchio's weights in the best 3 units; least distance over the searches",
                                 "thoughts embedded": len(THOUGHTS), "caution": "facts by GPT-3.5 came with the questions: an upper bound"}, packages=PACKAGES)


def filters(samples):
    kinds = {"turn, sum": (turns, both), "turn, BM25": (turns, BM25), "turn, MiniLM": (turns, dense), "fact, sum": (facts, both), "turn + fact, sum": (UNITS["turn + fact"], both)}
    found = {}
    for name, (units, memory) in kinds.items():
        found |= run(samples, {name: (units, memory), f"{name}, filtered": (units, lambda m=memory: Filtered(m()))}, ks=(10,))
    count, kept = {"none": 0, "one": 0, "two": 0}, []
    for s in samples:
        said = turns(s)
        speaker = {u.id: u.meta["speaker"] for u in said}
        kept.append([])
        for q in questions(s):
            who = named(q.text, speaker.values())
            count[("none", "one", "two")[len(who)]] += 1
            if len(who) == 1:
                kept[-1].append(evidence_recall([u for u in said if u.meta["speaker"] == who[0]], q.evidence))
    pairs = [(f"{name}, filtered", name) for name in kinds]
    record("memory_matters", {**told(samples, found, pairs), "questions by how many speakers they name": count,
                              "evidence said by the one named (no filter can find more)": percent(kept)}, packages=PACKAGES)


if __name__ == "__main__":
    if "MINIMEM_DATA" in os.environ:
        LIVE, SAMPLES = pretrained.minilm(), dialogue.load()
        for measure in (grains, filters, structures):
            measure(SAMPLES)
    else:
        print("MINIMEM_DATA is not set: LoCoMo not measured")
