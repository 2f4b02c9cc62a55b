"""MemoChat: which turns can still be reached when a model's answers cannot be used, and what is found; made chats (always), LoCoMo (with MINIMEM_DATA set).

OMP_NUM_THREADS=1 python benchmarks/memochat.py

Fixed before the run. The model is `by_terms`, a rule; 0, 25 or 100 % of its answers, drawn by chance, are no JSON, twice. Made chats: seeds 0, 1, 2, six chats each, tried
out on seed 100; LoCoMo: all ten conversations, three draws. A turn is reachable if the words of some memo or of some turn, asked, bring it back; budgets are
500 and 1,000 words, days included, BM25 with b = 0. A memo counts as found by its topic if it is among the first five. A topic with its summary claims no evidence: only turns that are read count.
"""
import os
import random
from collections import defaultdict
from dataclasses import replace

from record import record

from minimem.tasks import dialogue
from minimem.tasks.dialogue import bootstrap, evaluate, turns
from minimem.text import granularity
from minimem.text.bm25 import BM25
from minimem.text.llm import Counted, Rules
from minimem.text.memochat import MemoChat, by_terms

WORDS, SEEDS, PACKAGES = (500, 1000), (0, 1, 2), ("minimem", "numpy", "scipy", "jsonschema")


def percent(values):
    return [round(100 * x, 1) for x in bootstrap(values)]


class Memos(MemoChat):
    """Memos whose summary claims no evidence: only the turns that are read count."""

    def rank(self, query, k=None):
        return [replace(u, source_ids=(u.id,)) if u.kind == "summary" else u for u in super().rank(query, k)]


class Released(Memos):
    """What the released code does with turns that could not be filed: no question finds them."""

    def choose(self, query):
        return [m for m in super().choose(query) if m.topic]


def failing(rate, r):
    """The rule, whose answer and repair are no JSON with this chance."""
    good, bad = by_terms(), []

    def rule(messages):
        if len(messages) == 2:                                  # asked, not asked again
            bad[:] = [r.random() < rate]
        return "no JSON" if bad[0] else good.rule(messages)
    return Counted(Rules(rule))


def by_topic(samples, within):
    """For each memo, asked by its topic alone: is it among the first?"""
    found = []
    for sample in samples:
        m = Memos(by_terms())
        for unit in turns(sample):
            m.write(unit)
        found.append([float(x.option in [y.option for y in m.choose(x.topic)[:within]]) for x in m.memos])
    return found


def maker(kind, rate, seed):
    """Makes empty memories, one conversation after the other, whose model fails at the same places each time."""
    r = random.Random(seed)
    return lambda: kind(failing(rate, r))


def reached(samples, memory):
    """The share of turns that some question brings back: the words of each memo and of each turn are asked; per conversation."""
    found, calls, failures = [], 0, 0
    for sample in samples:
        m = memory()
        for unit in turns(sample):
            m.write(unit)
        said, chosen = {u.id for u in turns(sample)}, {}
        for asked in (*(x.option for x in m.memos), *(u.text for u in turns(sample))):
            chosen |= {id(x): x for x in m.choose(asked)}
            if len(chosen) == len(m.memos):
                break
        ids = {u.id for x in chosen.values() for u in x.turns} | {u.id for u in m.recent}
        found.append([float(i in ids) for i in said])
        calls, failures = calls + m.llm.calls, failures + m.failures
    return found, calls, failures


def memochat(samples, seeds):
    found = {}
    for rate in (0.0, 0.25, 1.0):
        for name, kind in (("kept where it can be found", Memos), ("as released", Released)):
            if not rate and kind is Released:
                continue
            share, got, calls, failures = [[] for _ in samples], defaultdict(lambda: [[] for _ in samples]), 0, 0
            for seed in seeds if 0 < rate < 1 else seeds[:1]:
                some, n, bad = reached(samples, maker(kind, rate, seed))
                share, calls, failures = [a + b for a, b in zip(share, some)], calls + n, failures + bad
                for k, v in evaluate(samples, maker(kind, rate, seed), words=WORDS, dates=True).items():
                    got[k] = [a + b for a, b in zip(got[k], v)]
            found[f"{round(100 * rate)} % of answers unusable, {name}"] = {
                "turns reachable": percent(share), "calls": calls, "failures": failures, **{k: percent(v) for k, v in got.items()}}
            print(rate, name, found[f"{round(100 * rate)} % of answers unusable, {name}"], flush=True)
    found["the right memo, asked by its topic"] = {f"among the first {n}" if n > 1 else "first": percent(by_topic(samples, n)) for n in (1, 5)}
    for name, units in (("turns", turns), ("windows of 8", lambda s: granularity.windows(turns(s), 8)), ("windows of 3", lambda s: granularity.windows(turns(s)))):
        found[name] = {k: percent(v) for k, v in evaluate(samples, lambda: BM25(b=0), words=WORDS, units=units, dates=True).items()}
        print(name, found[name], flush=True)
    return found


if __name__ == "__main__":
    made = {"made": {str(s): memochat(dialogue.make(6, seed=s), [s]) for s in SEEDS}}
    if "MINIMEM_DATA" in os.environ:
        made["LoCoMo"] = memochat(dialogue.load(), list(SEEDS))
    else:
        print("MINIMEM_DATA is not set: LoCoMo not measured")
    record("memochat", {"on": "percent: mean, 95% interval over the conversations; made: 6 chats a seed; LoCoMo: 10 conversations, categories 1-4; calls of the model in all",
                        **made}, seeds=SEEDS, packages=PACKAGES)
