r"""Structural memory: one index over turns, triples, facts and summaries at once, searched again and again with what was found so far.

    q_n = [question; thought_{n−1}],    d(u) = min_{n≤N} d(q_n, u)                        (1)

A memory is any retriever of this package; its score is the likeness −d, so the least distance over the N searches is the highest score.
A thought is ``think(question, best units so far) -> str``: written by a language model (``by_llm``), or without one (``rocchio``), the ten words

    w(t) = idf(t) · 1/3 Σ_{d in the best 3} (1 + ln f_{d,t}),    idf(t) = ln (1 + N)/(1 + n_t)

that the three best units hold and few of the others: pseudo-relevance feedback, which trusts that what was found first is right.

Paper   Zeng et al. 2024, arXiv:2412.15266; Rocchio 1971, Relevance feedback in information retrieval (in Salton, The SMART Retrieval System).
Differs the paper searches vectors of documents and keeps the T best of each search; here every unit keeps its least distance, which gives the same K best
        for K ≤ T. Distances of different questions must be comparable: those of unit vectors and of min-max fusion are, those of BM25 grow with the question.
        Nothing here makes triples or facts: they are told, each with its kind, and structures must be compared at equal words, not at equal k.
"""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np

from .llm import LLM, Unanswered, ask, prompt
from .unit import TERM, Around, Memory, Unit, tokens

Think = Callable[[str, list[Unit]], str]
THOUGHT = {"type": "object", "required": ["thought"], "properties": {"thought": {"type": "string"}}}
MARKS = {"type": "object", "required": ["scores"], "properties": {"scores": {"type": "array", "items": {"type": "number", "minimum": 1, "maximum": 10}}}}


def mixed(*structures: Iterable[Unit]) -> list[Unit]:
    """The union of several structures, to be written into one memory; each unit keeps its kind. Raises ValueError if two units have one id."""
    units = [u for some in structures for u in some]
    twice = [id for id, n in Counter(u.id for u in units).items() if n > 1]
    if twice:
        raise ValueError(f"every unit must have an id of its own, saw {twice[:3]} more than once")
    return units


class Iterative(Around):
    """A text memory that searches ``turns`` times, each time with the question and a thought about the best ``look`` units so far.

    It stops early at an empty thought, and at one that a model does not give (Unanswered): what was found until then stands.
    Raises ValueError if turns or look is below 1.
    """

    def __init__(self, memory: Memory, think: Think, turns: int = 4, look: int = 50) -> None:
        if turns < 1 or look < 1:
            raise ValueError(f"wanted turns >= 1 and look >= 1, saw turns={turns!r}, look={look!r}")
        super().__init__(memory)
        self.think, self.turns, self.look = think, turns, look

    def scores(self, query: str) -> np.ndarray:
        """−d(u) of every unit by (1), in the order written."""
        units, best = list(self.units.values()), self.memory.scores(query)
        for _ in range(self.turns - 1):
            found = [units[i] for i in np.argsort(-best, kind="stable")[:self.look] if best[i] > self.least]
            try:
                thought = self.think(query, found)
            except Unanswered:
                break
            if not thought.strip():
                break
            best = np.maximum(best, self.memory.scores(f"{query}\n{thought}"))                  # (1)
        return best


# ------------------------------------------------------------------ thoughts

def by_llm(llm: LLM) -> Think:
    """Thoughts by a model: what is known so far, and what still has to be looked for. Raises Unanswered, as ``ask`` does."""
    def think(question: str, found: list[Unit]) -> str:
        task = f'What do the notes tell about this question, and what is still to be looked for? Answer in JSON: {{"thought": "one or two sentences"}}.\n{question}'
        return ask(llm, prompt(task, found), THOUGHT)["thought"]
    return think


def rocchio(memory: Memory, top: int = 3, terms: int = 10) -> Think:
    """Thoughts without a model: the ``terms`` words of the best ``top`` units that weigh most in this memory and are not in the question."""
    def think(question: str, found: list[Unit]) -> str:
        best, bags = [_bag(u.text) for u in found[:top]], [_bag(u.text) for u in memory.units.values()]
        weight = {t: math.log((1 + len(bags)) / (1 + sum(t in bag for bag in bags))) * sum(1 + math.log(bag[t]) for bag in best if t in bag) / top
                  for t in set().union(*best) - set(tokens(question))}
        chosen = sorted(weight, key=lambda t: (-weight[t], t))[:terms]
        written = {tokens(w)[0]: w for u in reversed(found[:top]) for w in TERM.findall(u.text) if len(tokens(w)) == 1}
        return " ".join(written.get(t, t) for t in chosen)
    return think


@lru_cache(1 << 15)
def _bag(text: str) -> Counter[str]:
    return Counter(tokens(text))


# ------------------------------------------------------------------ reranking

def rerank(llm: LLM, question: str, units: Sequence[Unit]) -> list[Unit]:
    """The units in the order of a model's marks from 1 to 10; of equals the first stays first. Without a usable answer they stay as they were."""
    units = list(units)
    wanted = {**MARKS, "properties": {"scores": {**MARKS["properties"]["scores"], "minItems": len(units), "maxItems": len(units)}}}
    task = f'How much does each note help to answer this question, from 1 to 10? Answer in JSON, one number a note, in their order: {{"scores": [...]}}.\n{question}'
    try:
        marks = ask(llm, prompt(task, units), wanted)["scores"]
    except Unanswered:
        return units
    return [units[i] for i in np.argsort(-np.array(marks, float), kind="stable")]
