"""Topic segments against turns, fixed windows, sessions and cuts at random, at equal words on LoCoMo (with MINIMEM_DATA set).

OMP_NUM_THREADS=1 MINIMEM_DATA=... python benchmarks/segments.py [cuts | keys]

Fixed before the run. Segments: (1) of ``text.secom`` on MiniLM's vectors of the turns. Three retrievers: BM25 (b = 0.75); MiniLM, where a unit's vector is
the mean of its turns' vectors, made length 1; the min-max sum of MiniLM and BM25 with b = 0. Every unit is read with its day before it, three words, paid for.
The claim holds if, at 1,000 words, segments find more evidence AND more answer terms than turns, and than sessions, with BM25 and with the sum,
each interval above 0; and it is the topics that do it if the same is true against windows of 4 turns, which are as long as segments, and against as many
cuts at random. Purified keys keep 75 % (the paper's rate) and 50 % of the words; what is read stays the original.
``keys``, fixed after these had been seen: is it the common words that must go, or any, or only the speakers' names?
No number here was chosen on LoCoMo but the ½ σ, a rule of the first sketch of this project, which gave segments of four turns.
"""
import os
import random
import re
import sys
from functools import partial

import numpy as np
from embedded import minilm
from record import record

from minimem.tasks import dialogue
from minimem.text.bm25 import BM25
from minimem.text.dense import Dense
from minimem.text.fusion import Fused
from minimem.text.granularity import by_session, sessions, windows
from minimem.text.secom import SeCom, by_likeness, purified, rarity
from minimem.text.unit import Unit, tokens

WORDS, SEEDS = (250, 500, 1000, 2000, 4000), (0, 1, 2)
PACKAGES = ("minimem", "torch", "numpy", "scipy")
LINES: dict[str, list[str]] = {}                                # the turns of a unit's text, where a turn has line ends of its own


def means(texts):
    """One row a text: the mean of its turns' vectors, of length 1."""
    parts = [LINES.get(t, t.split("\n")) for t in texts]
    rows = minilm([p for some in parts for p in some])
    x = np.array([some.mean(0) for some in np.split(rows, np.cumsum(list(map(len, parts)))[:-1])]) if parts else np.zeros((0, 384), np.float32)
    return (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)).astype(np.float32)


means.name, means.dim = minilm.name, minilm.dim
topics = by_likeness(minilm)


def at_random(said, seed):
    """As many cuts as (1) makes, anywhere."""
    return sorted(random.Random(f"{seed} {said[0].id} {said[0].text}").sample(range(1, len(said)), len(topics(said))))


KEYS = {"BM25": BM25, "MiniLM": lambda: Dense(means), "sum": lambda: Fused([BM25(b=0), Dense(means)])}
UNITS = {"turn": dialogue.turns, "session": lambda s: sessions(dialogue.turns(s)), **{f"window of {w}": lambda s, w=w: windows(dialogue.turns(s), w) for w in (3, 4, 5)}}
CUTS = {"segment": (topics, 1.0), "segment, 75 % of the words as key": (topics, 0.75), "segment, 50 % of the words as key": (topics, 0.5),
        **{f"cuts at random, seed {s}": (partial(at_random, seed=s), 1.0) for s in SEEDS}}


def percent(values):
    return [round(100 * x, 1) for x in dialogue.bootstrap(values)]


def minus(a, b):
    return [[x - y for x, y in zip(p, q, strict=True)] for p, q in zip(a, b, strict=True)]


def stores(samples, memory):
    made = [memory() for _ in samples]
    for m, s in zip(made, samples):
        for unit in dialogue.turns(s):
            m.write(unit)
    return made


class Rewritten(SeCom):
    """Segments found by ``rewrite(text, rare)``; what is read stays the original."""

    def __init__(self, keys, rewrite):
        self.rewrite = rewrite
        super().__init__(topics, keys)

    @property
    def index(self):
        if self._found is None:
            keys, values, rare = self.keys(), {s.id: s for s in self.segments()}, rarity(u.text for u in self.units.values())
            for s in values.values():
                keys.write(Unit(s.id, self.rewrite(s.text, rare), s.kind, s.source_ids, s.time, meta=s.meta))
            self._found = keys, values
        return self._found


def fewer_at_random(text, rare):
    """Three words of four, any."""
    r = random.Random(text)
    return purified(text, {t: r.random() for t in tokens(text, frozenset(), str)})


REWRITES = {"as said": lambda text, rare: text, "75 %, the rarest": purified, "75 %, any": fewer_at_random,
            "speakers' names dropped": lambda text, rare: re.sub(r"^\w+: ", "", text, flags=re.M)}


def keys(samples):
    """Is it the common words, or any words, or the names before each turn? The same segments, found by other keys."""
    known_lines(samples)
    found = {(r, name): dialogue.evaluate(samples, partial(Rewritten, made, rewrite), (10,), (1000,), dates=True)
             for name, rewrite in REWRITES.items() for r, made in KEYS.items()}
    record("segments_keys", {
        "on": "LoCoMo-10, categories 1-4, segments by (1) found by other keys; percent: mean, 95% interval over the 10 conversations; evidence and answer terms in 1,000 words",
        "systems": {r: {n: {k: percent(v) for k, v in found[r, n].items()} for n in REWRITES} for r in KEYS},
        "minus as said": {r: {n: {k: percent(minus(found[r, n][k], found[r, "as said"][k])) for k in found[r, n]} for n in REWRITES if n != "as said"} for r in KEYS},
    }, packages=PACKAGES)


def known_lines(samples):
    for s in samples:                                           # so that every unit's vector is the mean over turns, not over lines
        said = dialogue.turns(s)
        made = stores([s], lambda: SeCom(topics, keep=1))[0].segments() + [u for f in UNITS.values() for u in f(s)]
        made += [u for seed in SEEDS for u in stores([s], lambda seed=seed: SeCom(partial(at_random, seed=seed), keep=1))[0].segments()]
        at = {u.id: u.text for u in said}
        LINES.update({u.text: [at[i] for i in u.source_ids] for u in made if u.text.count("\n") + 1 != len(u.source_ids)})


def locomo(samples):
    known_lines(samples)
    found = {}
    for retriever, keys in KEYS.items():
        jobs = {name: (keys, units) for name, units in UNITS.items()}
        jobs |= {name: (partial(SeCom, cut, keys, keep), dialogue.turns) for name, (cut, keep) in CUTS.items()}
        for name, (memory, units) in jobs.items():
            found[retriever, name] = dialogue.evaluate(samples, memory, (10,), WORDS, units=units, dates=True)
            print(retriever, name, percent(found[retriever, name]["words 1000"]), percent(found[retriever, name]["answer 1000"]), flush=True)
    undated = {name: percent(dialogue.evaluate(samples, m, (), (1000,), units=u)["words 1000"]) for name, m, u in
               (("turn", BM25, UNITS["turn"]), ("window of 3", BM25, UNITS["window of 3"]), ("segment", lambda: SeCom(topics, keep=1), dialogue.turns))}
    plain, keyed = (stores(samples, lambda keep=keep: SeCom(topics, keep=keep)) for keep in (1, 0.75))
    pieces = [u for m in plain for u in m.segments()]
    sizes = {part: sum(m.sizes()[part] for m in keyed) for part in keyed[0].sizes()}
    against = [*UNITS, *(n for n in CUTS if n != "segment")]
    record("segments", {
        "on": "LoCoMo-10, categories 1-4; percent: mean, 95% interval over the 10 conversations; every unit read with its day before it",
        "conversations": len(samples), "questions": sum(len(dialogue.questions(s)) for s in samples),
        "turns": sum(len(dialogue.turns(s)) for s in samples), "sessions": sum(len(by_session(dialogue.turns(s))) for s in samples), "segments": len(pieces),
        "words in a segment": round(np.mean([u.words for u in pieces]), 1),
        "turns in a segment: mean, shortest, longest": [round(np.mean(n := [len(u.source_ids) for u in pieces]), 2), min(n), max(n)],
        "systems": {r: {n: {k: percent(v) for k, v in found[r, n].items()} for n in [*UNITS, *CUTS]} for r in KEYS},
        "segment minus": {r: {n: {k: percent(minus(found[r, "segment"][k], found[r, n][k])) for k in found[r, n]} for n in against} for r in KEYS},
        "evidence in 1,000 words, days neither shown nor paid for, BM25": undated,
        "bytes, BM25, keys of 75 % of the words": sizes, "bytes of MiniLM's vectors": 1536 * len(pieces),
    }, seeds=SEEDS, packages=PACKAGES)


if __name__ == "__main__":
    if "MINIMEM_DATA" in os.environ:
        for measure in {"keys": [keys], "cuts": [locomo]}.get(" ".join(sys.argv[1:]), [locomo, keys]):
            measure(dialogue.load())
    else:
        print("MINIMEM_DATA is not set: LoCoMo not measured")
