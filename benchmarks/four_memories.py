"""The same facts, the same questions, per byte: every kind of memory, the whole sweep.

    python benchmarks/four_memories.py                 all parts, about 20 CPU minutes on one thread
    python benchmarks/four_memories.py states nets     these parts; each writes results/four_memories_<part>.json

Shapes, rates and temperatures are chosen on facts of seed 10, by the same rule for all; reported are seeds 1, 2 and 3.
"""
import math
import sys
from functools import partial
from statistics import mean

import torch
from record import record

from minimem import recall
from minimem.compare import (
    CALIBRATION,
    SEEDS,
    Cache,
    EditedNet,
    LeastSquares,
    Net,
    State,
    Table,
    accounts,
    additive,
    best,
    bm25_text,
    cuckoo,
    delta,
    exact_text,
    fitted,
    largest,
    log,
    synonym_text,
    trial,
    trigram_text,
    xor,
)
from minimem.tasks import facts

torch.set_num_threads(1)
BUDGETS = [2**8, 2**10, 2**12, 2**14, 2**16]
ALL = (*SEEDS, CALIBRATION)


def told(t, budget, shape=""):
    """One point of a line, rounded to what is stable."""
    (write, read), counts = t.memory.cost(t.N), accounts(t.memory)
    return {"budget": budget, "N": t.N, "shape": shape, "per_byte": [round(x, 4) for x in t.per_byte.tolist()],
            "accuracy": round(float(t.accuracy.mean()), 3), **counts, "write": float(f"{write:.2g}"), "read": float(f"{read:.2g}"),
            "touched": getattr(t.memory, "touched", None) or counts["kept"]}


def steps(lo, hi, factor):
    return sorted({round(lo * factor**i) for i in range(math.ceil(math.log(hi / lo, factor)) + 1)})


def headline(name, kind, bits, configs, budget, fine=1.09):
    """Choose the configuration on the calibration facts, then the largest load that all draws together still answer at .90."""
    def tuned(c):
        tried = [trial(c["make"](n), n, seeds=()) for n in c["loads"]]
        return max(((t.tuning[0], t.N) for t in tried if t.tuning[1] >= 0.9), default=(0, tried[0].N)), max(t.tuning[0] for t in tried)
    tried = [(*tuned(c), c) for c in configs]
    (_, n), _, c = max(tried, key=lambda x: (x[0][0], x[1]))
    around = [round(n * x) for x in fine] if isinstance(fine, tuple) else steps(max(2, n / fine**3), n * fine**5, fine)
    runs = [trial(c["make"](m), m) for m in around]
    chosen = best(runs)
    point = told(chosen or runs[0], budget, c["shape"]) | {"reached": chosen is not None}
    peak = max([*runs, *(trial(c["make"](m), m) for m in c.get("beyond", []))], key=lambda t: float(t.bits.mean()))
    point["at_any_accuracy"] = {"N": peak.N, "per_byte": round(float(peak.per_byte.mean()), 4), "accuracy": round(float(peak.accuracy.mean()), 3)}
    print(f"{name:34} {budget:6} B  {point['shape']:16} N={point['N']:6} accuracy {point['accuracy']:.3f}  {mean(point['per_byte']):.3f} bits/byte", flush=True)
    return {"name": name, "kind": kind, "bits": bits, **point}


def flat(name, kind, make, loads, budget, shape=""):
    """A memory with nothing to tune: the best load."""
    runs = []
    for n in loads:
        try:
            runs.append(trial(make(), n))
        except ValueError:                                       # a static function that cannot be built
            break
    t = best(runs)
    print(f"{name:34} {budget:6} B  N={t.N} {float(t.per_byte.mean()):.3f} bits/byte", flush=True)
    return {"name": name, "kind": kind, "bits": 0, **told(t, budget, shape), "reached": True}


def tables():
    rows = []
    for B in [*BUDGETS, 2**20]:
        rows.append(flat("XOR static function", "text", partial(xor, B), [int(B * x) for x in (0.6, 0.65, 0.7, 0.75, 0.78, 0.8, 0.805, 0.81)], B))
        if B < 2**20:
            for f in (12, 6):
                rows.append(flat(f"cuckoo, {f}-bit fingerprint", "text", partial(cuckoo, B, f), [int(B * 8 / (f + 8) * x) for x in (0.9, 0.95, 0.97)], B))
            rows.append(flat("log, exact key", "text", partial(log, B // 9), [B // 9], B))
            if B <= 2**14:
                rows.append(flat("log, nearest key", "text", partial(log, B // 9, 12), [B // 9], B))
    return rows


def sentences():
    """Sentences of about 34 bytes; the index is not kept."""
    rows = []
    for B in BUDGETS:
        for name, make in (("sentences, exact words", exact_text), ("sentences, BM25", bm25_text)):
            n = B // 35
            made = [facts.sentences(n, s) for s in ALL]
            values, m = torch.stack([v for _, _, v in made]), make()
            m.write([s for s, _, _ in made])
            z = m.read([facts.ask(about) for _, about, _ in made])
            got, counts = recall.bits(z, values, recall.calibrate(z[-1], values[-1]))[:-1], accounts(m)
            rows.append({"name": name, "kind": "text", "bits": 0, "budget": B, "N": n, "shape": "", "per_byte": [round(x, 4) for x in (got / counts["kept"]).tolist()],
                         "accuracy": round(float(recall.accuracy(z, values)[:-1].mean()), 3), **counts, "write": 1, "read": n, "touched": counts["kept"], "reached": True})
            print(rows[-1], flush=True)
    return rows


def cache_of(B, d_k, d_v, bits, beta):
    one = Cache(d_k, d_v, bits)
    one.write(*(x[None] for x in facts.random(2, 0)))
    size = B // (accounts(one)["kept"] // 2)
    return {"make": lambda n: Cache(d_k, d_v, bits, beta), "shape": f"{d_k}+{d_v}, beta {beta}", "loads": [max(2, size)]}


def caches():
    rows = [headline("KV cache 64+64 float16", "cache", 16, [cache_of(B, 64, 64, 16, b) for b in (10, 20, 40)], B, (1,)) for B in BUDGETS[1:]]     # one entry is 256 B
    for bits in (32, 16, 8, 4):
        for B in BUDGETS:
            grid = [cache_of(B, d, w, bits, b) for d in (8, 12, 16, 24, 32) for w in (8, 16) for b in (10, 20, 40, 80)]
            rows.append(headline("KV cache, tuned width", "cache", bits, grid, B, (1,)))
    return rows


def state_of(B, d_v, bits, rule, loads, name=""):
    d_k = largest(lambda n: State(n, d_v, bits), B)
    return {"make": lambda n: State(d_k, d_v, bits, rule(n)), "shape": f"{d_k}x{d_v}{name}", "loads": [max(2, round(d_k * x)) for x in loads],
            "beyond": [2 * d_k, 8 * d_k] if bits == 32 and B <= 2**14 else []}


def lives(rule):
    """Decays whose half-life is 1, 2 or 4 times the number of facts."""
    return [(f", half-life {h} N", lambda n, h=h: partial(rule, a=-math.log(2) / (h * n))) for h in (1, 2, 4)]


def states():
    rows, loads = [], (1 / 16, 1 / 8, 0.177, 1 / 4, 0.354, 1 / 2, 0.707, 1, 2)
    for B in BUDGETS:
        for bits in (32, 16, 8, 4) if B <= 2**14 else (32,):     # narrow numbers are packed again after every fact: minutes at 64 KiB
            widths = (8, 16, 32, 64) if B >= 2**12 else (8, 16, 32)
            for name, rules in (("additive", [("", lambda n: additive)]), ("delta, one pass", [("", lambda n: delta)])):
                grid = [state_of(B, w, bits, r, loads if w >= 32 or bits == 32 else loads[:7], label) for w in widths for label, r in rules]
                rows.append(headline(name, "state", bits, grid, B))
            if bits == 32:
                for name, rule in (("decay", additive), ("gated delta", delta)):
                    rows.append(headline(name, "state", 32, [state_of(B, w, 32, r, loads, label) for w in widths for label, r in lives(rule)], B))
    return rows


def solved_of(B, d_v, bits, ridge, loads):
    d_k = largest(lambda n: LeastSquares(n, d_v, bits), B)
    return {"make": lambda n: LeastSquares(d_k, d_v, bits, ridge), "shape": f"{d_k}x{d_v}, ridge {ridge}", "loads": [round(d_k * x) for x in loads]}


def solved():
    rows = []
    for B in BUDGETS:
        for bits in (32, 16, 8, 4):
            if B * 8 // bits > 2**14:                            # more than 2,048 rows: minutes of solving
                continue
            ridges = (1e-4, 1e-2, 1e-1)
            grid = [solved_of(B, 8, bits, r, (0.5, 0.75, 1, 1.1, 1.2)) for r in ridges]
            rows.append(headline("least squares", "params", bits, grid, B, 1.03 if B * 8 // bits <= 2**13 else (0.94, 1)))
            rows.append(headline("least squares, N = rows", "params", bits, [solved_of(B, 8, bits, 1e-4, (1,))], B, (1,)))
    return rows


def net_of(B, d_k, bits, lr, exposures, offered):
    h = largest(lambda n: Net(d_k, n, bits), B, 1)
    P = (d_k + 1) * h + (h + 1) * 8
    return {"make": lambda n: Net(d_k, h, bits, exposures, lr), "shape": f"{d_k}-{h}-8, rate {lr}, {exposures}x", "loads": [round(P * x / 8) for x in offered]}


def readout_of(B, bits, lr, exposures, offered):
    d_k = largest(lambda n: Net(n, 0, bits), B)
    return {"make": lambda n: Net(d_k, 0, bits, exposures, lr), "shape": f"{d_k}-8, rate {lr}, {exposures}x", "loads": [round(d_k * x) for x in offered]}


NETS = {                                                         # budget: bits of a number -> widths of the encoder, weights' worth of facts offered
    2**10: {b: ((16, 32, 64), (1.4, 1.7, 2.0) if b == 4 else (2.0, 2.4, 2.8)) for b in (32, 16, 8, 4)},
    2**12: {32: ((32, 64), (2.0, 2.4, 2.8)), 16: ((32, 64), (2.0, 2.4)), 8: ((64, 96), (2.2, 2.5)), 4: ((96,), (1.6, 2.0))},
    2**14: {32: ((64,), (2.0, 2.4)), 16: ((96,), (2.2, 2.5)), 8: ((96,), (2.2, 2.5))},
}


def nets(B):
    rows = []
    for bits, (widths, offered) in NETS[B].items():
        grid = [net_of(B, d, bits, 0.03, 1000, offered) for d in widths]
        rows.append(headline("MLP", "params", bits, grid, B, (0.95, 1, 1.05, 1.1) if B * 8 // bits <= 2**12 else (0.94, 1)))
    for bits in (32, 8, 4) if B == 2**10 else ():
        rows.append(headline("logistic read-out", "params", bits, [readout_of(B, bits, 0.06, 1000, (1, 1.2, 1.4, 1.6, 1.8))], B, (0.94, 1, 1.06, 1.12)))
    return rows


def writing():
    """A 4 KiB state of 32-bit numbers, written more and more often (128 rows, 8 columns)."""
    rows, shape, loads = [], "128x8", steps(16, 180, 1.19)
    for p in (1, 2, 4, 16, 64):
        rows.append(headline(f"delta, {p} passes", "state", 32, [{"make": lambda n, p=p: State(128, 8, rule=delta, passes=p), "shape": shape, "loads": loads}], 2**12, 1.06))
    rows.append(headline("additive", "state", 32, [{"make": lambda n: State(128, 8), "shape": shape, "loads": loads}], 2**12, 1.06))
    rows.append(headline("least squares", "params", 32, [solved_of(2**12, 8, 32, 1e-4, (1, 1.1, 1.2))], 2**12, 1.03))
    rows.append(headline("logistic read-out", "params", 32, [readout_of(2**12, 32, r, 3000, (1, 1.2, 1.4, 1.6, 1.8)) for r in (0.03, 0.06)], 2**12, 1.04))
    return rows


def exposures():
    """992 weights of 32 and of 8 bits, bits per weight after so many exposures; the rate is chosen for each on the calibration facts."""
    rows, P = [], 992
    for bits, offered in ((32, 2.0), (32, 2.4), (32, 2.8), (8, 2.0)):
        for e in (10, 30, 100, 300, 1000, 3000, *([6000] if offered == 2.4 else [])):
            n = round(P * offered / 8)
            rates = (0.03, 0.06, 0.12) if e <= 300 else (0.03,)
            tried = {r: trial(Net(32, 24, bits, e, r), n, seeds=()).tuning[0] for r in rates}
            rate = max(tried, key=tried.get)
            t = trial(Net(32, 24, bits, e, rate), n)
            rows.append({"bits": bits, "offered": offered, "exposures": e, "rate": rate, "per_weight": [round(x, 3) for x in (t.bits / P).tolist()],
                         "accuracy": round(float(t.accuracy.mean()), 3)})
            print(rows[-1], flush=True)
    return rows


def precision():
    """4 bits after every write against 4 bits once at the end; 508 rows of 8, 96 facts."""
    rows = []
    for name, rule in (("additive", additive), ("delta", delta)):
        for bits, at_end in ((32, False), (8, False), (4, False), (4, True)):
            t = trial(State(508, 8, bits, rule, at_end=at_end), 96)
            rows.append({"rule": name, "bits": bits, "at_end": at_end, "per_fact": [round(x, 2) for x in (t.bits / 96).tolist()]})
            print(rows[-1], flush=True)
    return rows


def overload():
    """Additive, 512 x 8 numbers of 32 bits: the most bits are a memory that answers nothing."""
    rows = []
    for n in (128, 256, 512, 1024, 2048, 4096, 8192, 16384):
        t = trial(State(512, 8), n, asked=16384)
        rows.append({"N": n, "bits": [round(x) for x in t.bits.tolist()], "accuracy": round(float(t.accuracy.mean()), 3)})
        print(rows[-1], flush=True)
    return rows


# ------------------------------------------------------------------ questions on which the kinds differ: 16 KiB, 128 facts

def per_fact(m, keys, values):
    """Bits a fact of every draw, under the law of the last one (the calibration draw); the scores; the law."""
    z = m.read(keys)
    law = recall.calibrate(z[-1], values[-1])
    return recall.bits(z, values, law) / keys.shape[-1], z, law


def false_answers(m, keys, unseen, law):
    """Share of never-written keys that pass the threshold which 95 % of the written ones pass.

    How sure a memory is: the raw match score of a cache, found or not for a table, the largest probability for states and nets.
    """
    def sure(keys):
        if isinstance(m, Cache):
            return m.match(keys).max(-1).values
        z = m.read(keys)
        return (z.amax(-1) > 0).float() if isinstance(m, Table) else (law.T * z).softmax(-1).amax(-1)
    return torch.stack([(u >= k.quantile(0.05)).float().mean() for k, u in zip(sure(keys), sure(unseen))])


def change(m, keys, values, at, everything):
    """Write keys[at] again; a static table is built again from everything instead."""
    if isinstance(m, Table) and m.static:
        m.write(keys, everything)
    else:
        m.write(keys[:, at], values)


def behaviour(make, seeds, N=128):
    """What one memory does with 128 facts on every question, for each draw."""
    keys, values = facts.draws(facts.random, N, seeds)
    quarter, m = slice(0, N // 4), make()
    m.write(keys, values)
    row = {"accounts": accounts(m)}
    row["fresh"], _, law = per_fact(m, keys, values)
    for f in (2, 6):
        row[f"flip {f}"] = per_fact(m, torch.stack([facts.flip(k, f, s) for k, s in zip(keys, seeds)]), values)[0]
    row["false answers"] = false_answers(m, keys, facts.draws(facts.random, N, tuple(s + 500 for s in seeds))[0], law)

    old, newest = [values[:, quarter]], values.clone()           # a quarter of the keys is written three more times
    for i in range(3):
        newest[:, quarter] = facts.draws(facts.random, N // 4, tuple(s + 900 + i for s in seeds))[1]
        change(m, keys, newest[:, quarter], quarter, newest)
        old.append(newest[:, quarter].clone())
    row["newest"], z, _ = per_fact(m, keys[:, quarter], old[-1])
    answer = z.argmax(-1).masked_fill(z.amax(-1) == z.amin(-1), -1)
    row["stale"] = (torch.stack([answer == o for o in old[:-1]]).any(0) & (answer != old[-1])).float().mean(-1)
    row["untouched"] = per_fact(m, keys[:, N // 4:], values[:, N // 4:])[0]

    m, gone, rest = make(), slice(0, N // 2), slice(N // 2, N)   # half of the facts are deleted
    m.write(keys, values)
    if isinstance(m, Table) and m.static:
        m.write(keys[:, rest], values[:, rest])
    else:
        m.forget(keys[:, gone])
    row["leak"] = per_fact(m, keys[:, gone], values[:, gone])[0]
    row["kept facts"] = per_fact(m, keys[:, rest], values[:, rest])[0]

    keys, values = facts.draws(facts.correlated, N, seeds)
    m = make()
    m.write(keys, values)
    row["correlated"] = per_fact(m, keys, values)[0]
    return row


def merit(candidate):
    """How good a shape is, on the calibration facts: on fresh questions first, among equals after rewriting."""
    r = behaviour(candidate[1], (CALIBRATION,))
    return round(float(r["fresh"]) * 10), float(r["newest"] + r["untouched"])


def net_in(B, cls, d_k, **options):
    h = largest(lambda n: cls(d_k, n), B, 1)
    return f"{d_k}-{h}-8 {options}", lambda: cls(d_k, h, 32, 400, 0.01, **options)


def questions(B=2**14):
    def matrices(cls, dv=(8, 16, 32, 64), **options):
        return [(f"{B // 4 // w}x{w}", lambda w=w: cls(B // 4 // w, w, **options)) for w in dv]
    caches = [(f"{d}+{w} beta {b}", (d, w, b)) for d, w in ((32, 32), (64, 32), (96, 16), (32, 64)) for b in (10, 20, 40)]
    later = (25, 50, 100, 200, 400)
    candidates = {
        "log, exact key": ("text", [("", lambda: log(B // 9))]), "log, nearest key": ("text", [("", lambda: log(B // 9, 12))]),
        "cuckoo, 12-bit fingerprint": ("text", [("", lambda: cuckoo(B))]), "XOR static function": ("text", [("", lambda: xor(B))]),
        "KV int8, content only": ("cache", [(n, lambda c=c: Cache(c[0], c[1], 8, c[2])) for n, c in caches]),
        "KV int8, and recency": ("cache", [(n, lambda c=c: Cache(c[0], c[1], 8, c[2], 0.02)) for n, c in caches]),
        "additive": ("state", matrices(State)), "decay .99": ("state", matrices(State, rule=partial(additive, a=math.log(0.99)))),
        "delta": ("state", matrices(State, rule=delta)), "gated delta .998": ("state", matrices(State, rule=partial(delta, a=math.log(0.998)))),
        "least squares, full": ("params", matrices(LeastSquares, (32,))), "least squares, full, ROME": ("params", matrices(LeastSquares, (32,), edits=True)),
        "least squares, quarter full, ROME": ("params", matrices(LeastSquares, (8,), edits=True)),
        "MLP, change only": ("params", [net_in(B, Net, d, later=n) for d in (16, 32, 64) for n in later]),
        "MLP, replay": ("params", [net_in(B, Net, d, later=n, replay=True) for d in (16, 32, 64) for n in later]),
        "MLP, ROME": ("params", [net_in(B, EditedNet, d) for d in (16, 32, 64)]),
    }
    rows = []
    for name, (kind, grid) in candidates.items():
        shape, make = max(grid, key=merit) if len(grid) > 1 else grid[0]
        row = behaviour(make, ALL)
        rows.append({"name": name, "kind": kind, "shape": shape, **row.pop("accounts"), **{k: [round(x, 2) for x in v[:-1].tolist()] for k, v in row.items()}})
        print(f"{name:34} {shape:24}", {k: round(sum(v) / 3, 2) for k, v in rows[-1].items() if isinstance(v, list)}, flush=True)
    return rows


def leaving():
    """How long must a net be trained towards "any value" before the deleted value is gone? Bits left to whoever rescales its answers."""
    keys, values = facts.draws(facts.random, 128, ALL)
    rows = []
    for replay in (False, True):
        for later in (3, 10, 30, 100, 300, 1000):
            m = net_in(2**14, Net, 32, later=later, replay=replay)[1]()
            m.write(keys, values)
            m.forget(keys[:, :64])
            leak, z, _ = per_fact(m, keys[:, :64], values[:, :64])
            rows.append({"replay": replay, "exposures": later, "leak": [round(x, 2) for x in leak[:-1].tolist()],
                         "still right": round(float(recall.accuracy(z, values[:, :64])[:-1].mean()), 2),
                         "kept facts": [round(x, 2) for x in per_fact(m, keys[:, 64:], values[:, 64:])[0][:-1].tolist()]})
            print(rows[-1], flush=True)
    return rows


def passes_of_forgetting():
    """How clean is a delta state after half of its facts were overwritten with 0, once, twice and four times?"""
    keys, values = facts.draws(facts.random, 128, ALL)
    rows = []
    for p in (1, 2, 4):
        m = State(512, 8, rule=delta)
        m.write(keys, values)
        m.forget(keys[:, :64], p)
        rows.append({"passes": p, "leak": [round(x, 2) for x in per_fact(m, keys[:, :64], values[:, :64])[0][:-1].tolist()],
                     "kept facts": [round(x, 2) for x in per_fact(m, keys[:, 64:], values[:, 64:])[0][:-1].tolist()]})
        print(rows[-1], flush=True)
    return rows


# ------------------------------------------------------------------ a long stream into 4 KiB

AGES = [(0, 32), (32, 128), (128, 512), (512, 2048), (2048, 8192)]


def stream(T=8192, B=2**12):
    keys, values = facts.draws(facts.random, T, ALL)

    def batches(m):
        for k, v in zip(keys.split(32, -1), values.split(32, -1)):
            m.write(k, v)
        return m

    def once(m):
        m.write(keys, values)
        return m
    makes = {
        "log, the oldest go first": ("text", lambda: once(log(B // 9))), "cuckoo, a random one goes": ("text", lambda: once(cuckoo(B, 12, kicks=0))),
        "KV 64+64 float16, window 16": ("cache", lambda: once(Cache(64, 64, 16, 20, capacity=16))),
        "KV 16+8 4 bit, window 256": ("cache", lambda: once(Cache(16, 8, 4, 40, capacity=256))),
        "additive": ("state", lambda: once(State(128, 8))), "decay .98": ("state", lambda: once(State(128, 8, rule=partial(additive, a=math.log(0.98))))),
        "decay .998": ("state", lambda: once(State(128, 8, rule=partial(additive, a=math.log(0.998))))), "delta": ("state", lambda: once(State(128, 8, rule=delta))),
        "gated delta .98": ("state", lambda: once(State(128, 8, rule=partial(delta, a=math.log(0.98))))),
        "least squares, updated": ("params", lambda: batches(LeastSquares(128, 8))),
        "MLP, batches of 32, 10 steps": ("params", lambda: batches(Net(32, 24, 32, exposures=10, later=10, lr=0.01))),
        "MLP, batches of 32, 40 steps": ("params", lambda: batches(Net(32, 24, 32, exposures=40, later=40, lr=0.01))),
    }
    rows = []
    for name, (kind, make) in makes.items():
        m, by_age, total = make(), {}, 0
        for lo, hi in AGES:
            at = slice(T - hi, T - lo)
            got = per_fact(m, keys[:, at], values[:, at])[0][:-1]
            by_age[f"{lo}-{hi}"], total = [round(x, 2) for x in got.tolist()], total + got * (hi - lo)
        rows.append({"name": name, "kind": kind, "kept": accounts(m)["kept"], "ages": by_age, "bits": [round(x) for x in total.tolist()]})
        print(f"{name:34}", {k: round(sum(v) / 3, 2) for k, v in by_age.items()}, rows[-1]["bits"], flush=True)
    return rows


# ------------------------------------------------------------------ sentences; a rule and its exceptions

def text():
    rows = []
    for N in (64, 512, 2048):
        made = [facts.sentences(N, s) for s in ALL]
        values = torch.stack([v for _, _, v in made])
        for name, make in (("exact words", exact_text), ("BM25", bm25_text), ("BM25 and synonym vectors", synonym_text), ("letter 3-4-grams, LSA-128", trigram_text)):
            m = make()
            m.write([s for s, _, _ in made])
            row = {"name": name, "N": N, **{k: v for k, v in accounts(m).items()}}
            for question, q in (("exact", facts.ask), ("paraphrase", facts.paraphrase), ("misspelt", partial(facts.misspell, seed=5))):
                z = m.read([q(about) for _, about, _ in made])
                got = recall.bits(z, values, recall.calibrate(z[-1], values[-1]))[:-1] / N
                row[question] = [round(x, 2) for x in got.tolist()]
            row["per_byte"] = round(sum(row["exact"]) / 3 * N / row["kept"], 4)
            rows.append(row)
            print(row, flush=True)
    return rows


def rule(P=1022):
    """4 of the 8 value bits follow from the key: what a small net answers for keys that it never saw. 64 raw key bits, 14 hidden units."""
    rows = []
    for N in (124, 248, 496, 992):
        keys, values = facts.draws(facts.rule, N, ALL)
        new, theirs = facts.draws(facts.rule, 1024, tuple(s + 500 for s in ALL))
        m = Net(64, 14, 32, 3000, 0.03, raw=True)
        m.write(keys, values)
        seen = per_fact(m, keys, values)[0][:-1]
        sign = fitted(m, new)[..., :4] > 0
        right = (sign == (theirs[..., None] >> torch.arange(4) & 1).bool()).float().mean((-1, -2))[:-1]
        rows.append({"N": N, "kept": accounts(m)["kept"], "seen": [round(x, 2) for x in seen.tolist()], "rule_right": [round(x, 3) for x in right.tolist()]})
        print(rows[-1], flush=True)
    return rows


PARTS = {f.__name__: f for f in (tables, sentences, text, precision, overload, passes_of_forgetting, leaving, questions, stream, rule, writing, caches, solved, states, exposures)}
PARTS |= {f"nets_{kib}_kib": partial(nets, kib * 1024) for kib in (1, 4, 16)}

if __name__ == "__main__":
    wrong = [p for p in sys.argv[1:] if p not in PARTS]
    if wrong:
        raise SystemExit(f"no part {wrong}; there are {', '.join(PARTS)}")
    for part in sys.argv[1:] or PARTS:
        print(f"--- {part}", flush=True)
        record(f"four_memories_{part}", {"rows": PARTS[part]()}, seeds=list(SEEDS))
