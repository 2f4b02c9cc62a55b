"""MemoChat: every few turns a model files what was said under topics; a question is read through the memos that are chosen for it.

    topic → [(summary, turns), …]                           what is kept, beside the recent turns
    write   10 recent turns, or more words than half the window: the model cuts all but the last two into ranges, each with a topic and a summary
    read    of the options "topic. summary" a model names some by number, or a retriever ranks them; then topic, summary and turns of each are read

Paper   Lu et al. 2023, arXiv:2308.08239.
Differs the ranges must follow each other and cover every turn: an answer that does not fit is sent back once. If that fails too, the turns stay as they are, in
        a memo without topic and summary that can be chosen by all its words. (The released code files them under a topic that is never chosen, behind two lines
        drawn by chance; turns outside the ranges it drops; its instruction asks for an end smaller than the start.) A topic is what the model calls it; the
        same name again adds to it. There a memo also holds the two turns that stay recent; here each turn is in one place. A summary whose turn is
        replaced or expires is dropped with it, for it may still tell of it.
Units   budgets in words, times in days, sizes in bytes.
"""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .bm25 import BM25
from .llm import LLM, Messages, Rules, Unanswered, ask, prompt, quoted
from .unit import Memory, Unit, expect_count, expect_unit, tokens

TURNS, KEPT = 10, 2                                             # the paper's: memos are written at ten recent turns, two stay
TEXT = {"type": "string", "pattern": r"\S"}
MEMOS = {"type": "object", "required": ["memos"], "additionalProperties": False, "properties": {"memos": {"type": "array", "minItems": 1, "items": {
    "type": "object", "required": ["topic", "summary", "start", "end"], "additionalProperties": False,
    "properties": {"topic": TEXT, "summary": TEXT, "start": {"type": "integer"}, "end": {"type": "integer"}}}}}}
CHOICE = {"type": "object", "required": ["numbers"], "additionalProperties": False, "properties": {"numbers": {"type": "array", "items": {"type": "integer"}}}}
WRITE = ("The notes are turns of a conversation, n their number. Cut them into ranges of one topic each: the first range starts at 1, each of the others right after the "
         "range before, the last ends at {n}. Answer with JSON: {{\"memos\": [{{\"topic\": \"a few words\", \"summary\": \"one sentence\", \"start\": 1, \"end\": 3}}, ...]}}.")
CHOOSE = ("The notes are memos of a conversation. Which of them may help with the message below? Answer with JSON: "
          "{{\"numbers\": [their n, the best first]}}, or an empty list if none does.\n\nMessage: {query}")


@dataclass(frozen=True)
class Memo:
    """Turns under a topic, with their summary; both are empty where the model failed."""
    topic: str
    summary: str
    turns: tuple[Unit, ...]

    @property
    def option(self) -> str:
        """What the memo is chosen by."""
        return f"{self.topic}. {self.summary}" if self.topic else "\n".join(u.text for u in self.turns)


class MemoChat(Memory):
    """Memos by topic. ``failures`` counts the answers that could not be used, ``why`` is the last reason.

    ``llm`` writes the memos. They are chosen by ``chooser``, a model (which may be the same), or else ranked by ``index``, an empty retriever (BM25).
    ``window``: words that the model has room for.
    """

    def __init__(self, llm: LLM, chooser: LLM | None = None, index: Memory | None = None, window: int = 2048) -> None:
        self.llm, self.chooser, self.index, self.window = llm, chooser, BM25(b=0) if index is None else index, window
        self.memos: list[Memo] = []
        self.recent: list[Unit] = []
        self.failures, self.why = 0, ""

    @property
    def topics(self) -> dict[str, list[Memo]]:
        """The memos by topic; "" holds those that the model failed to write."""
        found: dict[str, list[Memo]] = {}
        for memo in self.memos:
            found.setdefault(memo.topic, []).append(memo)
        return found

    @property
    def units(self) -> dict[str, Unit]:
        """Every turn, by id."""
        return {u.id: u for u in (*(u for m in self.memos for u in m.turns), *self.recent)}

    def _restart(self, units: Iterable[Unit]) -> None:
        kept = {u.id for u in units}
        left = [(m, tuple(u for u in m.turns if u.id in kept)) for m in self.memos]
        self.memos = [m if turns == m.turns else Memo("", "", turns) for m, turns in left if turns]
        self.recent = [u for u in self.recent if u.id in kept]
        self.index._restart(Unit(str(i), m.option) for i, m in enumerate(self.memos))

    def write(self, record: Unit) -> None:
        """Keep a turn; one with the same id is replaced. Raises ValueError if the record is no Unit, and whatever the model raises but Unanswered:
        the turn is kept then, and the next one tries again."""
        unit, units = expect_unit(record), self.units
        if unit.id in units:
            self._restart(u for u in units.values() if u.id != unit.id)
        self.recent.append(unit)
        full = len(self.recent) >= TURNS or sum(u.words for u in self.recent) > self.window / 2
        if full and len(self.recent) > KEPT:
            turns = self.recent[:-KEPT]
            try:
                memos = self._written(turns)
            except Unanswered as e:
                self.failures, self.why, memos = self.failures + 1, str(e), [Memo("", "", tuple(turns))]
            for memo in memos:
                self.index.write(Unit(str(len(self.memos)), memo.option))
                self.memos.append(memo)
            self.recent = self.recent[-KEPT:]

    def _written(self, turns: Sequence[Unit]) -> list[Memo]:
        """The memos of these turns. Raises Unanswered."""
        def check(said: dict[str, Any]) -> None:
            last = 0
            for m in said["memos"]:
                if m["start"] != last + 1 or m["end"] < m["start"]:
                    raise ValueError(f"the range {m['start']} to {m['end']} must start at {last + 1} and not end before it starts")
                if not tokens(m["topic"] + " " + m["summary"]):
                    raise ValueError(f"topic and summary must hold a word to be found by, saw {m['topic']!r} and {m['summary']!r}")
                last = m["end"]
            if last != len(turns):
                raise ValueError(f"the last range must end at {len(turns)}, saw {last}")

        said = ask(self.llm, prompt(WRITE.format(n=len(turns)), turns), MEMOS, check)["memos"]
        return [Memo(m["topic"].strip(), m["summary"].strip(), tuple(turns[int(m["start"]) - 1:int(m["end"])])) for m in said]

    def choose(self, query: str) -> list[Memo]:
        """The memos chosen for a question, best first; where the chooser fails, as the index ranks them."""
        if self.chooser and self.memos:
            def check(said: dict[str, Any]) -> None:
                if wrong := [n for n in said["numbers"] if not 1 <= n <= len(self.memos)]:
                    raise ValueError(f"numbers must be between 1 and {len(self.memos)}, saw {wrong[0]}")

            options = [Unit(str(i), m.option) for i, m in enumerate(self.memos)]
            try:
                said = ask(self.chooser, prompt(CHOOSE.format(query=query), options), CHOICE, check)
                return [self.memos[int(n) - 1] for n in dict.fromkeys(said["numbers"])]
            except Unanswered as e:
                self.failures, self.why = self.failures + 1, str(e)
        return [self.memos[int(u.id)] for u in self.index.rank(query)]

    def rank(self, query: str, k: int | None = None) -> list[Unit]:
        """Of each chosen memo its topic and summary, then its turns; at the end the recent turns, newest first. Raises ValueError if k is negative."""
        expect_count(k)
        found: list[Unit] = []
        for m in self.choose(query):
            if m.topic:
                found.append(Unit(f"memo of {m.turns[0].id}", m.option, "summary", tuple(i for u in m.turns for i in u.source_ids), time=m.turns[0].time))
            found += m.turns
        return [*found, *self.recent[::-1]][:k]

    def sizes(self) -> dict[str, int]:
        """Bytes by part: the turns, the topics and summaries, and what the index holds beside the options it was told."""
        memos = sum(len((m.topic + m.summary).encode(errors="surrogatepass")) for m in self.memos)
        return {**super().sizes(), "memos": memos, "index": self.index.nbytes()}


def by_terms(least: int = 3) -> Rules:
    """No model: cuts where a turn shares no term with the one before (after ``least`` turns); the topic is the two commonest terms, the summary the richest turn."""
    def rule(messages: Messages) -> dict[str, Any]:
        said = [q["text"] for q in quoted(messages)]
        bags, starts = [Counter(tokens(re.sub(r"^\w+: ", "", t))) for t in said], [0]
        for i in range(1, len(said)):
            if i - starts[-1] >= least and len(said) - i >= least and not bags[i] & bags[i - 1]:
                starts.append(i)
        memos = []
        for a, b in zip(starts, [*starts[1:], len(said)]):
            top = [t for t, _ in sum(bags[a:b], Counter()).most_common(2)]
            memos.append({"topic": " and ".join(top) or "talk", "summary": max(said[a:b], key=lambda t: len(set(tokens(t)))).strip() or "nothing", "start": a + 1, "end": b})
        return {"memos": memos}
    return Rules(rule)
