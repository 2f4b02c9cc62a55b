"""A text memory in one SQLite file: what it acknowledged is there, what it purged is gone, and no user meets another's.

    with SQLite("chat.db", user="ada", embed=minilm()) as store:
        store.write_all(turns(sample))                     # one transaction: all of them or none
        store.read("Where does Dilan live now?", words=250)

What it promises, and the tests hold it to:
    acknowledged = kept   a write that returned survives the death of the process; with ``durable`` the loss of power too
    all or nothing        text, full-text index and vectors change in one transaction; an error leaves the store as it was
    deleted, purged       ``delete`` and ``forget`` make units unfindable at once; ``purge`` takes their bytes out of the files
    one user, one store   every row carries its user; the counts behind a ranking are the user's own

    meta (name, value)    user (number, name, generation)    unit (n, user, id, text, kind, time, expires, meta, deleted)
    source (unit, place, user, turn)    vector (unit, user, x)    words_1, words_2 …: FTS5, one a user

Full text is FTS5's bm25() (k₁ = 1.2, b = 0.75, idf = ln((N − n + ½)/(n + ½)), at least 10⁻⁶) over the terms of ``tokens``, joined by blanks, so
that Chinese is found and every memory here cuts a text alike. Its N and n are counted over a whole table: in a shared one, the order of Ada's
answers would tell how often Ben writes a word. Hence one table a user. With ``embed``, BM25 and cosine are added up, each from 0 to 1.

Differs a question's words are taken rarest first, and no more once they stand in 20,000 units together: the commonest words of a large store weigh
        little and cost most. `read` gives up when 250 units in a row do not fit. Vectors are compared one by one in memory, in a copy that follows
        the table's generation: exact, and quick enough for 100,000. `purge` rebuilds the whole file, for all users; older bytes that a disk, a backup
        or a snapshot keeps are out of its reach. One connection behind a lock: threads may share a store, a process must not carry it over a fork.
        A writer waits 60 s for another; readers never wait. Users are kept apart by this code, not by the file: who may read the file may read it all
        (PostgreSQL keeps them apart itself).
Units   times in days since 1 January 1970, budgets in words, sizes in bytes as stored, without the empty room in pages.
"""
from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from .fusion import minmax
from .storable import Store, StoreError, batches, day_of, embedded, expect_embedder, ids_of, row, text_of
from .unit import Unit, tokens

SCHEMA, WAIT, REACH = 1, 60.0, 20_000
TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE user (number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, generation INTEGER NOT NULL DEFAULT 0);
CREATE TABLE unit (n INTEGER PRIMARY KEY AUTOINCREMENT, user INTEGER NOT NULL REFERENCES user, id TEXT NOT NULL, text TEXT NOT NULL,
                   kind TEXT NOT NULL, time REAL, expires REAL, meta TEXT NOT NULL, deleted INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX unit_id ON unit (user, id) WHERE deleted = 0;
CREATE INDEX unit_order ON unit (user, deleted);
CREATE TABLE source (unit INTEGER NOT NULL REFERENCES unit ON DELETE CASCADE, place INTEGER NOT NULL, user INTEGER NOT NULL, turn TEXT NOT NULL,
                     PRIMARY KEY (unit, place)) WITHOUT ROWID;
CREATE TABLE vector (unit INTEGER PRIMARY KEY REFERENCES unit ON DELETE CASCADE, user INTEGER NOT NULL, x BLOB NOT NULL)"""
REASONS = {
    "SQLITE_NOTADB": "is not a SQLite database, or its beginning is damaged",
    "SQLITE_CORRUPT": "is damaged; go back to a copy of it, or rescue what can be read with: sqlite3 FILE .recover",
    "SQLITE_FULL": "cannot grow: the disk is full",
    "SQLITE_READONLY": "cannot be written: the file or its folder is read-only",
    "SQLITE_CANTOPEN": "cannot be opened: its folder is missing or closed to us, or it is a folder itself",
    "SQLITE_IOERR": "could not be read or written; the operating system refused (disk full, a quota, a drive gone)",
    "SQLITE_BUSY": "is being written by somebody else, and still was after the wait",
}


class SQLite(Store):
    """The store of one user in the file ``path``, which is made if it is not there. Another user in the same file has another store.

    ``embed``: keep a vector of every unit and rank by both; a file is begun with vectors or without, and keeps to one model.
    ``durable``: wait for the disk at every write, which then survives the loss of power, and not only the death of the process.
    Raises StoreError, here and in every method, if the file is damaged, full, locked, of another kind, newer than this code, or closed.
    """

    def __init__(self, path: str | Path, user: str = "", embed: Any = None, durable: bool = False) -> None:
        self.path, self.user, self.embed, self._lock = str(path), text_of("user", user), expect_embedder(embed), threading.RLock()
        with self._asking():
            self._db = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None, check_same_thread=False)
        try:
            with self._asking():
                for name, value in {"journal_mode": "WAL", "synchronous": "FULL" if durable else "NORMAL", "foreign_keys": "ON",
                                    "secure_delete": "ON", "journal_size_limit": 1 << 26}.items():
                    self._db.execute(f"PRAGMA {name} = {value}")
            self._forget_matrix()
            with self._reading():
                ready = self._known()
            if not ready:
                with self._changing():
                    self._found()
            with self._asking():
                self._db.execute(f"CREATE VIRTUAL TABLE temp.term USING fts5vocab (main, {self._words}, row)")
        except BaseException:
            self._db.close()
            raise

    def _known(self) -> bool:
        """Whether this file knows this user and this model. Raises StoreError if it is no store of ours, or of another model."""
        tables = {name for name, in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and not {"meta", "user", "unit"} <= tables:
            raise StoreError(f"{self.path} is a SQLite database of something else, with the tables {', '.join(sorted(tables))[:100]}")
        if not tables:
            return False
        if self._meta("schema") != SCHEMA:
            raise StoreError(f"{self.path} has schema {self._meta('schema')}, this minimem knows {SCHEMA}: a newer one wrote it; update minimem")
        self._number = self._one("SELECT max(number) FROM user WHERE name = ?", self.user)
        self._words = f"words_{self._number}"
        model = self._meta("model"), self._meta("dim")
        if not self.embed or model == (self.embed.name, self.embed.dim):
            return self._number is not None
        if model[0] is not None:
            raise StoreError(f"{self.path} holds vectors of {model[0]} (dim {model[1]}), embed is {self.embed.name} (dim {self.embed.dim}): vectors "
                             "of two models cannot be compared; open it with the first, or write its units() into a new store")
        if self._one("SELECT EXISTS (SELECT * FROM unit)"):
            raise StoreError(f"{self.path} was begun without vectors; open it without embed, or write its units() into a new store")
        return False

    def _found(self) -> None:
        """Make what this file lacks: tables, model, user."""
        if not self._one("SELECT count(*) FROM sqlite_master"):
            for statement in TABLES.split(";"):
                self._db.execute(statement)
            self._db.execute("INSERT INTO meta VALUES ('schema', ?)", (SCHEMA,))
        self._known()                                           # another process may have been here since
        if self.embed:
            self._db.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", [("model", self.embed.name), ("dim", self.embed.dim)])
        self._db.execute("INSERT OR IGNORE INTO user (name) VALUES (?)", (self.user,))
        self._known()
        self._db.execute(f"CREATE VIRTUAL TABLE IF NOT EXISTS {self._words} USING fts5 (terms, tokenize = 'ascii')")

    # -------------------------------------------------------------- asking the database

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as e:
            name = getattr(e, "sqlite_errorname", "")
            if isinstance(e, sqlite3.ProgrammingError) and "closed" in str(e):
                raise StoreError("the store is closed") from None
            name = "SQLITE_CORRUPT" if "decode to UTF-8" in str(e) else name
            why = next((why for start, why in REASONS.items() if name.startswith(start)), "gave an error")
            raise StoreError(f"{self.path} {why} ({name or 'SQLite'}: {e})") from e

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """All of it or nothing; waits for other writers."""
        with self._lock, self._asking():
            if self._db.in_transaction:
                raise StoreError("a write is under way in this store; let it end first")
            try:                                                # BEGIN too: Ctrl-C while it waits comes when it has begun
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._forget_matrix()
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """One state of the file, whatever others write meanwhile; inside a write of our own, what it has written so far."""
        with self._lock, self._asking():
            if self._db.in_transaction:
                yield
                return
            try:
                self._db.execute("BEGIN")
                yield
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def _one(self, sql: str, *values: Any) -> Any:
        return self._db.execute(sql, values).fetchone()[0]

    def _meta(self, name: str) -> Any:
        return self._one("SELECT max(value) FROM meta WHERE name = ?", name)

    # -------------------------------------------------------------- writing

    def write_all(self, records: Iterable[Unit]) -> int:
        """Keep all of them or, if anything fails, none; returns how many. Takes a few hundred at a time from a generator; other writers wait.

        Raises ValueError if a record is no Unit or cannot be stored.
        """
        ready = map(self._ready, batches(records))
        first = next(ready, None)                               # checked and embedded before anybody has to wait
        if first is None:
            return 0
        with self._changing():
            if self._meta("model") and not self.embed:
                raise StoreError(f"{self.path} holds vectors of {self._meta('model')}; open it with that embed to write, or some would be missing")
            count = sum(self._put(*r) for some in chain([first], ready) for r in some)
            self._changed()
        return count

    def _ready(self, records: Sequence[Unit]) -> list[tuple]:
        rows = [row(u) for u in records]
        vectors = [x.tobytes() for x in embedded(self.embed, [u.text for u in records])] if self.embed else [None] * len(rows)
        return [(r, u.source_ids if u.source_ids != (u.id,) else (), x) for r, u, x in zip(rows, records, vectors)]

    def _put(self, row: tuple, turns: Sequence[str], vector: bytes | None) -> int:
        self._bury("id = ?", row[0])
        new = "INSERT INTO unit (user, id, text, kind, time, expires, meta) VALUES (?, ?, ?, ?, ?, ?, ?)"
        n = self._db.execute(new, (self._number, *row)).lastrowid
        self._db.execute(f"INSERT INTO {self._words} (rowid, terms) VALUES (?, ?)", (n, " ".join(tokens(row[1]))))
        self._db.executemany("INSERT INTO source VALUES (?, ?, ?, ?)", [(n, i, self._number, turn) for i, turn in enumerate(turns)])
        if vector is not None:
            self._db.execute("INSERT INTO vector VALUES (?, ?, ?)", (n, self._number, vector))
        return 1

    def _bury(self, which: str, value: Any) -> int:
        """Take units out of the full text and mark them deleted."""
        found = self._db.execute(f"SELECT n FROM unit WHERE user = ? AND deleted = 0 AND {which}", (self._number, value)).fetchall()
        self._db.executemany(f"DELETE FROM {self._words} WHERE rowid = ?", found)
        self._db.executemany("UPDATE unit SET deleted = 1 WHERE n = ?", found)
        return len(found)

    def _changed(self) -> None:
        self._db.execute("UPDATE user SET generation = generation + 1 WHERE number = ?", (self._number,))

    def delete(self, ids: Iterable[str]) -> int:
        """Units of these ids are found no longer; returns how many there were. Their bytes stay in the file until ``purge``."""
        ids = ids_of(ids)
        with self._changing():
            if count := sum(self._bury("id = ?", i) for i in ids):
                self._changed()
        return count

    def forget(self, now: float) -> int:
        """The same for the units whose ``expires`` is not after ``now``. Raises ValueError if now is not a number of days."""
        if (now := day_of("now", now)) is None:
            raise ValueError("now must be a number of days, saw None")
        with self._changing():
            if count := self._bury("expires <= ?", now):
                self._changed()
        return count

    def purge(self) -> int:
        """Take every byte of what was deleted, forgotten or replaced out of the files; returns how many units that were.

        The file is written anew, which takes its own size in free room, and the log of writes (-wal) emptied. Raises StoreError if somebody reads
        an old state all the while; the units are gone from the tables then, and the next ``purge`` finishes.
        """
        with self._changing():
            if count := self._db.execute("DELETE FROM unit WHERE user = ? AND deleted = 1", (self._number,)).rowcount:
                self._db.execute(f"INSERT INTO {self._words} ({self._words}) VALUES ('rebuild')")
                self._changed()
        with self._lock, self._asking():
            self._db.execute("VACUUM")
            if self._one("PRAGMA wal_checkpoint(TRUNCATE)"):
                raise StoreError(f"{self.path}-wal still holds what was purged, for somebody reads an old state of the store; purge again after that")
        return count

    # -------------------------------------------------------------- reading

    def _pages(self, terms: Sequence[str], vector: np.ndarray | None) -> Iterator[list[int]]:
        return batches(self._order(terms, vector, None), 50)

    def _asked(self, query: str) -> tuple[list[str], np.ndarray | None]:
        terms = tokens(query)
        return terms, embedded(self.embed, [query])[0] if self.embed else None

    def _order(self, terms: Sequence[str], vector: np.ndarray | None, k: int | None) -> list[int]:
        """Numbers of the k best units."""
        if vector is None:
            return [n for n, _ in self._matches(terms, "ORDER BY rank, rowid LIMIT ?", -1 if k is None else int(min(k, 2**62)))]
        self._follow()
        cosine = np.concatenate([np.einsum("nk,k->n", x, vector) for x in self._vectors])       # equal rows, equal scores: @ would round by place
        bm25 = np.zeros(len(self._numbers))
        if found := self._matches(terms):
            n, scores = zip(*found)
            bm25[np.searchsorted(self._numbers, n)] = scores
        s = minmax([bm25, cosine])
        some = np.flatnonzero(s >= np.partition(s, -k)[-k]) if k and k < len(s) else np.arange(len(s))
        return self._numbers[some[np.argsort(-s[some], kind="stable")[:k]]].tolist()

    def _matches(self, terms: Sequence[str], order: str = "", *values: int) -> list[tuple[int, float]]:
        """(number, BM25) of the units that hold a term; the rarest terms first, until they stand in REACH units."""
        count = {t: self._db.execute("SELECT doc FROM temp.term WHERE term = ?", (t,)).fetchone() for t in set(terms)}
        rare = sorted((t for t in count if count[t]), key=lambda t: (count[t], t))
        reach = np.cumsum([count[t][0] for t in rare])
        kept = {t for i, t in enumerate(rare) if i == 0 or reach[i] <= REACH}
        match = " OR ".join(f'"{t}"' for t in terms if t in kept)
        return self._db.execute(f"SELECT rowid, -rank FROM {self._words} WHERE {self._words} MATCH ? {order}", (match, *values)).fetchall() if kept else []

    def _follow(self) -> None:
        """Bring the numbers of the units and their vectors, kept in memory in a few blocks, to the state of the tables."""
        state = self.generation, self._db.total_changes
        if state == self._state:
            return
        last = int(self._numbers[-1]) if len(self._numbers) else 0
        new = self._db.execute("SELECT n, x FROM unit JOIN vector ON unit = n WHERE unit.user = ? AND deleted = 0 AND n > ? ORDER BY n",
                               (self._number, last)).fetchall()
        if self._one("SELECT count(*) FROM unit WHERE user = ? AND deleted = 0 AND n <= ?", self._number, last) < len(self._numbers):
            live = self._db.execute("SELECT n FROM unit WHERE user = ? AND deleted = 0 AND n <= ?", (self._number, last)).fetchall()
            kept = np.isin(self._numbers, np.array(live, np.int64))
            self._numbers, self._vectors = self._numbers[kept], [np.concatenate(self._vectors)[kept]]
        self._numbers = np.append(self._numbers, np.array([n for n, _ in new], np.int64))
        self._vectors.append(np.frombuffer(b"".join(x for _, x in new), "<f4").reshape(-1, self.embed.dim))
        if len(self._vectors) > 16:
            self._vectors = [np.concatenate(self._vectors)]
        self._state = state

    def _forget_matrix(self) -> None:
        self._state, self._numbers, self._vectors = None, np.zeros(0, np.int64), []

    def _load(self, numbers: Iterable[int]) -> Iterator[Unit]:
        for some in batches(numbers):
            among, turns = f"IN ({','.join('?' * len(some))})", {}
            for n, turn in self._db.execute(f"SELECT unit, turn FROM source WHERE unit {among} ORDER BY unit, place", some):
                turns.setdefault(n, []).append(turn)
            rows = {n: r for n, *r in self._db.execute(f"SELECT n, id, text, kind, time, expires, meta FROM unit WHERE n {among}", some)}
            for n in some:
                try:
                    id, text, kind, time, expires, meta = rows[n]
                    yield Unit(id, text, kind, turns.get(n, ()), time, expires, json.loads(meta))
                except (KeyError, json.JSONDecodeError) as e:
                    raise StoreError(f"{self.path} {REASONS['SQLITE_CORRUPT']} (unit {n}: {type(e).__name__} {e})") from e

    def get(self, id: str) -> Unit | None:
        """The unit of this id, or None. Raises ValueError if the id is no string."""
        text_of("id", id)
        with self._reading():
            found = self._db.execute("SELECT n FROM unit WHERE user = ? AND deleted = 0 AND id = ?", (self._number, id)).fetchall()
            return next(self._load(n for n, in found), None)

    def units(self) -> Iterator[Unit]:
        """All units that are there now, in the order written, a few hundred in memory at a time; what is written meanwhile is not among them."""
        with self._reading():
            newest = self._one("SELECT coalesce(max(n), 0) FROM unit WHERE user = ?", self._number)
        n = 0
        while True:
            with self._reading():
                some = self._db.execute("SELECT n FROM unit WHERE user = ? AND deleted = 0 AND n > ? AND n <= ? ORDER BY n LIMIT 256",
                                        (self._number, n, newest)).fetchall()
                page = list(self._load(n for n, in some))
            if not some:
                return
            yield from page
            n = some[-1][0]

    # -------------------------------------------------------------- what it holds, and whether it is sound

    @property
    def generation(self) -> int:
        """A number that every change to this user's units raises."""
        with self._reading():
            return self._one("SELECT generation FROM user WHERE number = ?", self._number)

    def stats(self) -> dict[str, Any]:
        """units; deleted (and not yet purged); bytes by part; model and dim of the vectors; schema; generation."""
        with self._reading():
            units, deleted = (self._one("SELECT count(*) FROM unit WHERE user = ? AND deleted = ?", self._number, d) for d in (0, 1))
            return {"units": units, "deleted": deleted, "bytes": self.sizes(), "model": self._meta("model"), "dim": self._meta("dim"),
                    "schema": SCHEMA, "generation": self.generation}

    def sizes(self) -> dict[str, int]:
        """Bytes by part, of this user alone: text with ids and meta; full text (terms and index); vectors; what is deleted and not purged."""
        text = "SELECT coalesce(sum(length(CAST(id || text || kind || meta AS BLOB))), 0) FROM unit WHERE user = ? AND deleted = ?"
        turns = "SELECT coalesce(sum(length(CAST(turn AS BLOB))), 0) FROM source JOIN unit ON n = unit WHERE unit.user = ? AND deleted = ?"
        vectors = "SELECT coalesce(sum(length(x)), 0) FROM vector JOIN unit ON n = unit WHERE unit.user = ? AND deleted = ?"
        with self._reading():
            live, dead = ([self._one(sql, self._number, d) for sql in (text, turns, vectors)] for d in (0, 1))
            words = sum(self._one(f"SELECT coalesce(sum(length(CAST({c} AS BLOB))), 0) FROM {self._words}_{part}")
                        for part, c in (("content", "c0"), ("data", "block"), ("docsize", "sz")))
            return {"text": live[0] + live[1], "full text": words, "vectors": live[2], "deleted": sum(dead)}

    def check(self) -> None:
        """Returns if all is in step. Raises StoreError that names what is not: the file's pages, the full text, a text and its terms, a vector."""
        with self._reading():
            bad = [said for said, in self._db.execute("PRAGMA integrity_check") if said != "ok"]
            rows = self._db.execute(f"SELECT id, text, terms, length(x) FROM unit LEFT JOIN {self._words} AS w ON w.rowid = n "
                                    "LEFT JOIN vector ON unit = n WHERE unit.user = ? AND deleted = 0", (self._number,))
            size, count = 4 * self._meta("dim") if self._meta("dim") else None, 0
            for id, text, terms, length in rows:
                count += 1
                if " ".join(tokens(text)) != terms:
                    bad.append(f"{id!r} has other terms in the full text")
                if length != size:
                    bad.append(f"{id!r} has a vector of {length} bytes, wanted {size}")
            if (words := self._one(f"SELECT count(*) FROM {self._words}")) != count:
                bad.append(f"{words} units in the full text, {count} in the table")
        with self._changing():
            self._db.execute(f"INSERT INTO {self._words} ({self._words}) VALUES ('integrity-check')")
        if bad:
            raise StoreError(f"{self.path} {REASONS['SQLITE_CORRUPT']} ({'; '.join(bad[:5])}{', …' if len(bad) > 5 else ''})")
