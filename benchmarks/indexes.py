"""Vector indexes: how much of the exact top 10 they find, how many vectors they look at, their bytes and CPU time; on real and on made-up vectors.

OMP_NUM_THREADS=1 MINIMEM_DATA=... python benchmarks/indexes.py              5 CPU minutes: `indexes` and `index_speed`
OMP_NUM_THREADS=1 MINIMEM_DATA=... python benchmarks/indexes.py --speed      the second alone, 2 minutes
OMP_NUM_THREADS=1 python benchmarks/indexes.py --large                       HNSW and PQ on 100,000 vectors, 1 minute: `indexes_large`

Real: MiniLM's vectors of LoCoMo's 8,695 turns, facts and summaries in one index, asked with the 1,986 questions of all categories.
Made up: unit vectors around n/100 random centres, noise as long as the centre; queries drawn alike. This noise, the settings of every index (those
usual at this size) and the seeds 0, 1, 2 of clusters, training and graphs were fixed before; seed 10 was looked at first. Other noises stand beside.
"""
import os
import sys
import time
from statistics import median

import numpy as np
from record import record

from minimem import fast
from minimem.tasks import dialogue
from minimem.text.vectors import recall

SEEDS, TOP, PACKAGES = (0, 1, 2), 10, ("minimem", "numpy", "faiss-cpu")
NOISES = {"noise 0.5": 0.5, "noise 1": 1.0, "noise 2": 2.0, "noise 3": 3.0, "no clusters": None}


def clustered(n, queries, noise, seed, K=384):
    """n unit vectors around n/100 random centres, and as many queries as asked, drawn alike; noise None: no centres."""
    r = np.random.default_rng(seed)
    centres = r.standard_normal((n // 100, K), np.float32)
    x = r.standard_normal((n + queries, K), np.float32)
    if noise is not None:
        x = centres[r.integers(len(centres), size=len(x))] + np.float32(noise) * x
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x[:n], x[n:]


def locomo():
    """Vectors of all units, the set of turns each was made from, vectors and evidence of the questions, and each question's conversation."""
    from embedded import minilm
    units, sources, asked, evidence, chat = [], [], [], [], []
    for c, s in enumerate(dialogue.load()):
        some = [u for part in (dialogue.turns, dialogue.facts, dialogue.summaries) for u in part(s)]
        units += [u.text for u in some]
        sources += [{(c, i) for i in u.source_ids} for u in some]
        told = {q.text: q.evidence for q in dialogue.questions(s, range(1, 6))}
        asked += [q["question"] for q in s["qa"]]
        evidence += [{(c, i) for i in told.get(q["question"], ())} for q in s["qa"]]
        chat += [c] * len(s["qa"])
    return minilm(units), sources, minilm(asked), evidence, np.array(chat)


def index(key, want, *args, **options):
    return fast.pick(key, want).fn(*args, **options)


def lines(want, seed, cells=64):
    """(name, an empty index, the settings asked of it): what does not change the build is set afterwards."""
    yield "Flat", index("flat", want), [{}]
    yield "SQ8", index("sq8", want), [{}]
    yield "PQ48", index("pq", want, 48, seed=seed), [{}]
    yield f"IVF{cells}", index("ivf", want, cells, seed=seed), [{"probe": p} for p in (1, 4, 8, 16)]
    yield "HNSW32", index("hnsw", want, 32, build=80, seed=seed), [{"ef": e} for e in (16, 32, 64, 128)]


def named(name, setting):
    return " ".join([name, *(f"{k} {v}" for k, v in setting.items())])


def each_recall(found, exact):
    return [len(set(f) & set(e)) / len(e) for f, e in zip(found.tolist(), exact.tolist(), strict=True)]


def by_chat(values, chat):
    """Per cent: the mean, and its 95 % interval when conversations are drawn again; of several runs, each question's mean."""
    mean = np.mean(values, 0)
    return [round(100 * v, 1) for v in dialogue.bootstrap([mean[chat == c].tolist() for c in range(chat.max() + 1)])]


def spread(values):
    """Per cent: mean, lowest and highest of the seeds."""
    m = [100 * np.mean(v) for v in values]
    return [round(float(f(m)), 1) for f in (np.mean, min, max)]


def run(data, want, skip=()):
    """Of every index and setting: each query's recall for each seed, what was scanned, bytes. ``data(seed)``: vectors and queries."""
    told = {}
    for seed in SEEDS:
        x, q = data(seed)
        exact = None
        for name, made, settings in lines(want, seed):
            if name in skip:
                continue
            made.add(x)
            for setting in settings:
                vars(made).update(setting)
                found = made.search(q, TOP)
                exact = found if exact is None else exact
                row = told.setdefault(named(name, setting), {"recall": [], "ids": [], "scanned": [], "bytes": made.nbytes()})
                row["recall"].append(each_recall(found.ids, exact.ids))
                row["ids"].append(found.ids)
                row["scanned"].append(found.scanned.mean() / len(x))
        print(want, f"seed {seed}:", {n: round(np.mean(r["recall"][-1]), 3) for n, r in told.items()}, flush=True)
    return told


def shown(row, percent):
    return {"recall": percent(row["recall"]), "scanned": round(100 * float(np.mean(row["scanned"])), 1), "bytes": row["bytes"]}


def measure():
    x, sources, q, evidence, chat = locomo()
    has, owner = np.array([bool(e) for e in evidence]), fast.pick("ivf").name
    real = {want: run(lambda seed: (x, q), want) for want in ("faiss", "minimem")}
    made = {want: run(lambda seed: clustered(len(x), len(q), NOISES["noise 1"], seed), want, skip)
            for want, skip in (("faiss", ()), ("minimem", ("PQ48", "HNSW32")))}

    def found_evidence(row):
        return [[len(set().union(*(sources[i] for i in ids if i >= 0)) & e) / len(e) for ids, e in zip(found.tolist(), evidence) if e]
                for found in row["ids"]]

    def held_out(seed):
        order = np.random.default_rng(seed).permutation(len(x))
        return x[order[len(q):]], x[order[:len(q)]]

    kinds = {"real, questions": lambda seed: (x, q), "real, held-out units as queries": held_out}
    kinds |= {name: lambda seed, noise=noise: clustered(len(x), len(q), noise, seed) for name, noise in NOISES.items()}
    sweep = {}
    for name, data in kinds.items():
        rows, cosines = {1: [], 4: [], 16: []}, []
        for seed in SEEDS:
            keys, queries = data(seed)
            exact, cells = index("flat", "faiss"), index("ivf", "faiss", 64, seed=seed)
            exact.add(keys)
            cells.add(keys)
            best = exact.search(queries, TOP)
            cosines.append(best.scores[:, -1].mean())
            for probe in rows:
                cells.probe = probe
                rows[probe].append(recall(cells.search(queries, TOP).ids, best.ids))
        sweep[name] = {**{f"IVF64 probe {p}": spread(r) for p, r in rows.items()}, "cosine of the tenth": round(float(np.mean(cosines)), 2)}
        print(name, sweep[name], flush=True)
    record("indexes", {
        "on": f"{len(x):,} vectors of 384 numbers, {len(q):,} queries, the exact top 10; per cent. real: LoCoMo's turns, facts and summaries by MiniLM, "
              "all questions (mean, 95% interval over the 10 conversations); made: clusters, noise 1 (mean, lowest, highest of 3 seeds). "
              "scanned: share of the vectors compared, centres counted",
        "vectors": len(x), "questions": len(q), "computed by": {"faiss": owner, "minimem": "minimem"},
        "real": {want: {name: shown(row, lambda v: by_chat(v, chat)) | {"over seeds": spread(row["recall"])} for name, row in rows.items()}
                 for want, rows in real.items()},
        "made": {want: {name: shown(row, spread) for name, row in rows.items()} for want, rows in made.items()},
        "evidence in the 10": {name: by_chat(found_evidence(row), chat[has]) for name, row in real["faiss"].items()},
        "how tight the clusters are": sweep,
    }, seeds=SEEDS, packages=PACKAGES)


# ------------------------------------------------------------------ CPU time

def seconds(f):
    start = time.process_time()
    f()
    return time.process_time() - start


def timed(x, q, made, settings, name, rounds=5):
    """Of each setting: building once; a batch of all queries and 100 one by one, the median of the rounds, in ms a query; the ids found."""
    build, rows = seconds(lambda: made.add(x)), []
    for setting in settings:
        vars(made).update(setting)
        batch = median(seconds(lambda: made.search(q, TOP)) for _ in range(rounds)) / len(q)
        single = median(seconds(lambda: [made.search(one[None], TOP) for one in q[:100]]) for _ in range(rounds)) / 100
        rows.append(({"index": named(name, setting), "build s": float(f"{build:.2g}"), "ms a query in a batch": float(f"{1000 * batch:.2g}"),
                      "ms alone": float(f"{1000 * single:.2g}"), "MB": round(made.nbytes() / 1e6, 1)}, made.search(q, TOP).ids))
    return rows


def table(x, q, want, names, cells, rounds):
    """What was timed, with the recall of the exact top 10 by faiss."""
    exact = index("flat", "faiss")
    exact.add(x)
    exact = exact.search(q, TOP).ids
    rows = [r for name, made, settings in lines(want, 0, cells) if name in names for r in timed(x, q, made, settings, name, rounds)]
    return [told | {"recall %": round(100 * recall(ids, exact), 1)} for told, ids in rows]


def speed(x, q):
    every = ("Flat", "SQ8", "PQ48", "IVF64", "HNSW32")
    told = {f"{len(x):,} real vectors, {fast.pick('flat', want).name}": table(x, q[:500], want, every, 64, 5) for want in ("faiss", "minimem")}
    x, q = clustered(100_000, 200, NOISES["noise 1"], 0)
    told |= {f"{len(x):,} made vectors, {fast.pick('flat', want).name}": table(x, q, want, names, 512, 3)
             for want, names in (("faiss", ("Flat", "SQ8", "IVF512")), ("minimem", ("Flat", "SQ8")))}
    on = "384 numbers a vector, float32, one thread, CPU time; top 10; queries: the first 500 questions of LoCoMo, or 200 made ones"
    record("index_speed", {"on": on, **told}, seeds=[0], packages=PACKAGES)


def large():
    x, q = clustered(100_000, 200, NOISES["noise 1"], 0)
    told = {f"{len(x):,} made vectors, {fast.pick('hnsw').name}": table(x, q, "faiss", ("PQ48", "HNSW32"), 512, 3)}
    record("indexes_large", {"on": "384 numbers a vector, float32, one thread, CPU time; top 10", **told}, seeds=[0], packages=PACKAGES)


if __name__ == "__main__":
    if "--large" in sys.argv:
        large()
    elif "MINIMEM_DATA" in os.environ:
        if "--speed" not in sys.argv:
            measure()
        speed(*locomo()[::2][:2])
    else:
        print("MINIMEM_DATA is not set: LoCoMo not measured")
