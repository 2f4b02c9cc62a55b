"""What summaries lose: on made chats (always) and on LoCoMo (with MINIMEM_DATA set).

OMP_NUM_THREADS=1 python benchmarks/summaries.py

Fixed before the run. Made chats: seeds 0, 1, 2, six chats each; tried out on seed 100. LoCoMo: all ten conversations, three seeds of what is drawn by chance,
95 % intervals by drawing conversations again. Extracts in place of a model's summaries: turns drawn by chance, and the centroid and TextRank of `granularity`.
One writing a session; the age of a turn is the number of writings it has come through. Budgets of 100 (the paper's size), 300, 1,000 and 2,000 words.

law         what chance alone predicts, with no parameter to fit: the product over the writings of (words kept / words given)
slope       p of pⁿ, fitted to the logarithm of the survival at all ages (to 12) at which the law is above 5 %; for turns drawn by chance
answer      share of the terms of a question's answer in the memory, days written before each turn; questions with evidence in one session;
            "another chat's" is the same in the memory of another conversation: what common words give for nothing
same bytes  1,000 or 2,000 words kept in three ways; read with BM25 (b = 0) in 250 words, days included; a model's tokens are counted as words
"""
import math
import os
import random
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
from record import record

from minimem.tasks import dialogue
from minimem.tasks.dialogue import answer_recall, bootstrap, dated, evidence_recall, questions, turns
from minimem.text.bm25 import BM25
from minimem.text.granularity import by_session, pagerank, vectors
from minimem.text.llm import Counted
from minimem.text.recursive_summary import RecursiveSummary, extractive
from minimem.text.unit import fill, tokens

BUDGETS, AGES, SEEDS, READ = (100, 300, 1000, 2000), 12, (0, 1, 2), 250
PACKAGES = ("minimem", "numpy", "scipy", "jsonschema")


def chance(seed, name):
    r = random.Random(f"{seed} {name}")
    return lambda units: [r.random() for _ in units]


RULES = {"chance": chance,
         "centroid": lambda *_: lambda units: (x := vectors(units)) @ x.mean(0),
         "TextRank": lambda *_: lambda units: pagerank((x := vectors(units)) @ x.T)}


def percent(values, digits=1):
    return [round(100 * x, digits) for x in bootstrap(values)]


def histories(sample, words, score):
    """(sessions so far, what the memory holds, words kept / words given) after each writing."""
    memory, said = RecursiveSummary(extractive(words, score), words), list(by_session(turns(sample)).values())
    for i, session in enumerate(said, 1):
        given = sum(u.words for u in (*memory.memory, *session))
        for unit in session:
            memory.write(unit)
        memory.end()
        yield said[:i], memory.memory, min(1.0, sum(u.words for u in memory.memory) / given)


# ------------------------------------------------------------------ survival against age

def survival(samples, words, rule, seeds):
    """Evidence turns still there, and the law, by age: one list of values a conversation."""
    alive, law = defaultdict(lambda: [[] for _ in samples]), defaultdict(lambda: [[] for _ in samples])
    for seed in seeds:
        for c, sample in enumerate(samples):
            asked, shares = {e for q in questions(sample) for e in q.evidence}, []
            for said, kept, share in histories(sample, words, RULES[rule](seed, sample["sample_id"])):
                shares.append(share)
                ids = {u.id for u in kept}
                for j, session in enumerate(said[-AGES:], max(len(said) - AGES, 0)):
                    some = [u.id in ids for u in session if u.id in asked]
                    alive[len(said) - j][c] += some
                    law[len(said) - j][c] += [math.prod(shares[j:])] * len(some)
    return alive, law


def slope(curve, ages):
    """p of pⁿ from a straight line through the logarithms."""
    return float(np.exp(np.polyfit(ages, np.log(np.maximum(curve, 1e-4)), 1)[0]))


def slopes(alive, ages, draws=1000):
    """The fitted p and its interval over conversations."""
    total = np.array([[sum(v) for v in alive[n]] for n in ages], float)
    count = np.array([[len(v) for v in alive[n]] for n in ages], float)
    pick = np.random.default_rng(0).integers(total.shape[1], size=(draws, total.shape[1]))
    drawn = [slope(total[:, p].sum(1) / np.maximum(count[:, p].sum(1), 1), ages) for p in pick]
    return [round(x, 3) for x in (slope(total.sum(1) / count.sum(1), ages), *np.percentile(drawn, [2.5, 97.5]))]


def survivals(samples, seeds):
    found = {}
    for words in BUDGETS:
        for rule in RULES:
            alive, law = survival(samples, words, rule, seeds if rule == "chance" else seeds[:1])
            mean = {n: bootstrap(law[n])[0] for n in range(1, AGES + 1) if any(law[n])}
            ages = [n for n in mean if mean[n] > 0.05]
            found[f"{rule}, {words} words"] = {
                "survival": {n: percent(alive[n]) for n in mean}, "law": {n: round(100 * mean[n], 1) for n in mean}}
            if rule == "chance" and len(ages) > 1:
                found[f"{rule}, {words} words"] |= {"slope": slopes(alive, ages), "slope of the law": round(slope([mean[n] for n in ages], ages), 3)}
            print(rule, words, [v[0] for v in found[f"{rule}, {words} words"]["survival"].values()], found[f"{rule}, {words} words"].get("slope"), flush=True)
    return found


def answers(samples, words, seeds):
    """Answer terms in the memory by age, and in that of another conversation."""
    mine, other = defaultdict(lambda: [[] for _ in samples]), defaultdict(lambda: [[] for _ in samples])
    for seed in seeds:
        terms = [[{t for u in kept for t in tokens(dated(u).text)} for _, kept, _ in histories(s, words, chance(seed, s["sample_id"]))] for s in samples]
        for c, sample in enumerate(samples):
            number = {u.id: u.meta["session"] for u in turns(sample)}
            place = {s: i for i, s in enumerate(dict.fromkeys(number.values()))}
            for q in questions(sample):
                wanted, where = set(tokens(q.answer)), {number.get(e) for e in q.evidence}
                if not wanted or len(where) > 1 or None in where:
                    continue
                j = place[where.pop()]
                for i in range(j, min(j + AGES, len(terms[c]))):
                    there = terms[(c + 1) % len(samples)]
                    mine[i - j + 1][c].append(len(wanted & terms[c][i]) / len(wanted))
                    other[i - j + 1][c].append(len(wanted & there[min(i, len(there) - 1)]) / len(wanted))
    return {"answer": {n: percent(mine[n]) for n in sorted(mine)}, "another chat's": {n: percent(other[n])[0] for n in sorted(other)}}


# ------------------------------------------------------------------ the same bytes, kept in three ways

def recursive(sample, words, score):
    memory = RecursiveSummary(llm := Counted(extractive(words, score)), words)
    for unit in turns(sample):
        memory.write(unit)
    memory.end()
    return memory.memory, llm


def per_session(sample, words, score):
    """Each session's extract stands by itself, an equal share of the words each; the number of sessions is known beforehand."""
    said = by_session(turns(sample)).values()
    llm, kept = Counted(extractive(words / len(said), score)), []
    for session in said:
        memory = RecursiveSummary(llm, max(1, int(words / len(said))))
        for unit in session:
            memory.write(unit)
        memory.end()
        kept += memory.memory
    return kept, llm


def newest(sample, words, score):
    return fill(turns(sample)[::-1], words), None


def everything(sample, words, score):
    return turns(sample), None


def gpt(sample, words, score):
    """LoCoMo's own; a call a session, its instructions unknown and not counted."""
    units = dialogue.summaries(sample)
    return units, SimpleNamespace(calls=len(units), prompt_tokens=sum(u.words for u in turns(sample)), completion_tokens=sum(u.words for u in units))


STORES = {"one recursive memory": recursive, "an extract a session": per_session, "the newest turns": newest}


def stores(samples, words, ways, seeds):
    found = {}
    for name, way in ways.items():
        kept, read, said, by_age, bytes_, cost = ([[] for _ in samples] for _ in range(6))
        ages = defaultdict(lambda: [[] for _ in samples])
        for seed in seeds if way in (recursive, per_session) else seeds[:1]:
            for c, sample in enumerate(samples):
                units, llm = way(sample, words, chance(seed, sample["sample_id"]))
                memory, number = BM25(b=0), {u.id: u.meta["session"] for u in turns(sample)}
                for unit in units:
                    memory.write(unit)
                last = max(number.values())
                for q in questions(sample):
                    kept[c].append(evidence_recall(units, q.evidence))
                    shown = fill(map(dated, memory.rank(q.text)), READ)
                    read[c].append(evidence_recall(shown, q.evidence))
                    said[c].append(answer_recall(shown, q.answer))
                    for e in q.evidence:
                        if e in number:
                            ages[last - number[e] + 1][c].append(evidence_recall(units, [e]))
                bytes_[c].append(sum(len(u.text.encode()) for u in units))
                cost[c].append((llm.calls, llm.prompt_tokens, llm.completion_tokens) if llm else (0, 0, 0))
        found[name] = {"evidence kept": percent(kept), f"evidence in {READ} words": percent(read), f"answer terms in {READ} words": percent(said),
                       "kept by age": {n: percent(ages[n])[0] for n in sorted(ages)}, "bytes a conversation": round(np.mean(bytes_)),
                       "calls, words read, words written by the model, a conversation": [round(x) for x in np.mean(cost, axis=(0, 1))]}
        print(words, name, {k: v for k, v in found[name].items() if "age" not in k}, flush=True)
    return found


def same_bytes(samples, seeds, more):
    found = {str(w): stores(samples, w, STORES, seeds) for w in (1000, 2000)}
    return found | {"for comparison, not the same bytes": stores(samples, 0, {"all turns": everything} | more, seeds[:1])}


def both(samples, seeds, more):
    return {"turns": sum(len(turns(s)) for s in samples), "questions": sum(len(questions(s)) for s in samples),
            "words a session": round(np.mean([sum(u.words for u in x) for s in samples for x in by_session(turns(s)).values()])),
            "survival": survivals(samples, seeds), "answer terms by age": {w: answers(samples, w, seeds) for w in (300, 1000)},
            "same bytes": same_bytes(samples, seeds, more)}


if __name__ == "__main__":
    found = {"made": {str(s): both(dialogue.make(6, seed=s), [s], {}) for s in SEEDS}}
    if "MINIMEM_DATA" in os.environ:
        found["LoCoMo"] = both(dialogue.load(), list(SEEDS), {"GPT-3.5 summaries": gpt})
    else:
        print("MINIMEM_DATA is not set: LoCoMo not measured")
    record("summaries", {"on": "percent: mean, 95% interval over the conversations; made: 6 chats a seed; LoCoMo: 10 conversations, categories 1-4", **found},
           seeds=SEEDS, packages=PACKAGES)
