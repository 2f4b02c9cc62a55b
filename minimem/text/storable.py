"""What the stores share: their error, how they are read, and what a unit and an embedder must be for everything to come back as it was written."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Self

import numpy as np

from .unit import Unit, expect_count, expect_unit, fill

MISSES = 250                                                     # units in a row that do not fit, after which a read has looked far enough


class StoreError(Exception):
    """The store cannot do this; the sentence says why. It is as it was before the call."""


def text_of(name: str, x: object) -> str:
    """The string itself. Raises ValueError if it is none, or holds what not every database can keep: a NUL character, half a surrogate pair."""
    if not isinstance(x, str):
        raise ValueError(f"{name} must be a string, saw {type(x).__name__}")
    if "\0" in x:
        raise ValueError(f"{name} holds a NUL character at {x.index(chr(0))}, which PostgreSQL cannot keep")
    try:
        x.encode()
    except UnicodeEncodeError as e:
        raise ValueError(f"{name} holds half a character at {e.start} ({x[e.start]!r}), wanted text that UTF-8 can write") from None
    return x


def day_of(name: str, x: object) -> float | None:
    """A number of days, or None. Raises ValueError if it is neither."""
    if x is not None and not (isinstance(x, (int, float, np.number)) and x == x and (isinstance(x, float) or abs(x) < 2**1023)):
        raise ValueError(f"{name} must be a number of days or None, saw {x!r:.100}")
    return None if x is None else float(x)


def row(record: Unit) -> tuple[str, str, str, float | None, float | None, str]:
    """(id, text, kind, time, expires, meta as JSON) of a unit that comes back equal. Raises ValueError if it would not."""
    unit = expect_unit(record)
    for turn in unit.source_ids:
        text_of("a source id", turn)
    try:
        meta = json.dumps(unit.meta, ensure_ascii=False, allow_nan=False)
        same = isinstance(unit.meta, dict) and json.loads(meta) == unit.meta
    except (TypeError, ValueError, RecursionError) as e:
        raise ValueError(f"meta of {unit.id!r} must be a dict that JSON can write: {e}") from None
    if not same:
        raise ValueError(f"meta of {unit.id!r} must be a dict that JSON gives back equal (text as keys, lists for tuples), saw {unit.meta!r:.200}")
    return (text_of("id", unit.id), text_of("text", unit.text), text_of("kind", unit.kind),
            day_of("time", unit.time), day_of("expires", unit.expires), text_of("meta", meta))


def ids_of(ids: Iterable[str]) -> list[str]:
    """The ids as a list. Raises ValueError for one string in place of several, and for an id that is no string."""
    if isinstance(ids, str):
        raise ValueError(f"ids must be a list of ids, saw the string {ids!r}")
    return [text_of("an id", i) for i in ids]


def batches(records: Iterable[Any], size: int = 256) -> Iterator[list[Any]]:
    """The records, at most ``size`` at a time."""
    records = iter(records)
    return iter(lambda: list(islice(records, size)), [])


def expect_embedder(embed: Any) -> Any:
    """The embedder itself, or None. Raises ValueError if it does not say its name and dim, or changes with what it is fitted on."""
    if embed is not None and not (callable(embed) and isinstance(getattr(embed, "name", None), str) and isinstance(getattr(embed, "dim", None), int)):
        raise ValueError(f"embed must be callable and have a name (str) and a dim (int), saw {embed!r}")
    if hasattr(embed, "fit"):
        raise ValueError(f"embed {embed.name!r} is fitted on the texts, so vectors stored before mean nothing after; wanted one that is fixed")
    return embed


def embedded(embed: Callable[[Sequence[str]], Any], texts: Sequence[str]) -> np.ndarray:
    """(n, dim) float32. Raises ValueError if the embedder gives another shape, or what is not a number."""
    x = np.asarray(embed(texts), "<f4")
    if x.shape != (len(texts), embed.dim) or not np.isfinite(x).all():
        raise ValueError(f"embed {embed.name!r} gave {x.shape}{'' if np.isfinite(x).all() else ' with NaN or infinity'} for {len(texts)} texts, "
                         f"wanted finite ({len(texts)}, {embed.dim})")
    return x


class Store:
    """What a store of either kind does by the same means. The kind says how it changes, reads, ranks and loads: `_reading`, `_asked`, `_order`, `_pages`, `_load`."""

    def write(self, record: Unit) -> None:
        """Keep a unit; one with the same id is replaced. When this returns, it is kept.

        Raises ValueError if the record is no Unit or cannot be stored.
        """
        self.write_all([record])

    def rank(self, query: str, k: int | None = 10) -> list[Unit]:
        """The k best units, best first (None: all); of equals the older first. Without ``embed`` only units that share a term with the query.

        Raises ValueError if k is negative or the query no string.
        """
        expect_count(k)
        asked = self._asked(query)
        with self._reading():
            return list(self._load(self._order(*asked, k)))

    def read(self, query: str, words: float = 500) -> list[Unit]:
        """The best units that fit a budget of words, best first. Raises ValueError if the budget is negative or not a number."""
        taken, left, missed, asked = fill([], words), words, 0, self._asked(query)
        with self._reading():
            for some in self._pages(*asked):
                new = fill(self._load(some), left)
                taken += new
                left -= sum(u.words for u in new)
                missed = 0 if new else missed + len(some)
                if left < 1 or missed >= MISSES:
                    break
        return taken

    def nbytes(self) -> int:
        """All bytes held for this user."""
        return sum(self.sizes().values())

    def close(self) -> None:
        """Let go of the file or the server."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
