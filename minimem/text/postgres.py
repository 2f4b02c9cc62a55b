"""A text memory in PostgreSQL: the contract of ``store.SQLite`` for many writers at once, where the server itself keeps users apart.

    setup("postgresql://owner@host/db", ["ada", "ben"])                                  # once, by the owner of the database
    with Postgres("postgresql://ada:secret@host/db", embed=minilm()) as store: ...

A user is a role of the database, and every table has row-level security: a row is there for the role it belongs to and for no other. Ada's connection has no
rights that could change that, so not even SQL that slipped in through it reads, changes or counts Ben's rows. For the same reason the store refuses to run
as a superuser, a role that bypasses the policies, or the owner of the tables. One login may serve many users if it is a member of their roles
(``user="ada"`` then says SET ROLE); it sees nothing as itself, but whoever can make it run SQL can be any of them.

    meta (name, value)    account (owner, generation, last, units, terms)    unit (owner, n, id, key, text, kind, time, expires, meta, deleted)
    source (owner, n, place, turn)    posting (owner, term, n, f, length)    vector (owner, n, x): HNSW by inner product, if asked for

Full text is BM25 with FTS5's formula, exact, over the user's own counts:  Σ_t max(ln((N − n_t + ½)/(n_t + ½)), 10⁻⁶) · f · 2.2 / (f + 1.2 (¼ + ¾ |d|/ℓ̄)).

Differs ts_rank is no BM25, for it knows no n_t, and a GIN index on tsvector fetches every unit that holds a word: on 100,000 turns that took three times as long
        as the table `posting`, whose primary key holds all that the formula needs (and cuts no terms, so Chinese pairs stay whole). A question's words are
        taken rarest first, and no more once they stand in 20,000 units together. Up to 5,000 units vector and words are fused over all; beyond that over the
        200 nearest and the 200 best by words, between the smallest and largest cosine; a `k` over 50, or None, compares all. Vectors are compared one by one
        until `index` has built HNSW, which finds nearly all of the nearest.
        `purge` rewrites all tables, for all users, and takes the bytes out of the files of the tables and indexes. The server's log of writes (pg_wal) keeps
        them until its old segments are overwritten, archives and backups for longer: those are the operator's (wal_recycle = off removes them at a checkpoint).
        The sizes of whole tables, all users together, are no secret in PostgreSQL. A process must not carry a store over a fork.
Units   as in ``store``.
"""
from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import chain
from typing import Any

import numpy as np

from .fusion import minmax
from .storable import Store, StoreError, batches, day_of, embedded, expect_embedder, ids_of, row, text_of
from .store import REACH, SCHEMA, WAIT
from .unit import Unit, tokens

EXTENSION, EXACT, DEPTH, WIDEST, PATIENCE = "vector", 5000, 200, 2000, 10.0          # pgvector's HNSW takes at most 2,000 numbers a vector
TABLES = """
CREATE SCHEMA minimem;
CREATE TABLE minimem.meta (name text PRIMARY KEY, value text);
CREATE TABLE minimem.account (owner text COLLATE "C" PRIMARY KEY DEFAULT current_user, generation bigint NOT NULL DEFAULT 0, last bigint NOT NULL DEFAULT 0,
                              units bigint NOT NULL DEFAULT 0, terms bigint NOT NULL DEFAULT 0);
CREATE TABLE minimem.unit (owner text COLLATE "C" NOT NULL DEFAULT current_user, n bigint NOT NULL, id text COLLATE "C" NOT NULL, key bytea NOT NULL, text text NOT NULL,
                           kind text NOT NULL, time double precision, expires double precision, meta text NOT NULL, deleted boolean NOT NULL, PRIMARY KEY (owner, n));
CREATE INDEX unit_key ON minimem.unit (owner, key) WHERE NOT deleted;
CREATE TABLE minimem.source (owner text COLLATE "C" NOT NULL DEFAULT current_user, n bigint, place integer, turn text NOT NULL, PRIMARY KEY (owner, n, place));
CREATE TABLE minimem.posting (owner text COLLATE "C" NOT NULL DEFAULT current_user, term text COLLATE "C", n bigint, f integer NOT NULL, length integer NOT NULL,
                              PRIMARY KEY (owner, term, n) INCLUDE (f, length));
CREATE TABLE minimem.vector (owner text COLLATE "C" NOT NULL DEFAULT current_user, n bigint, x {vector} NOT NULL, PRIMARY KEY (owner, n));
ALTER TABLE minimem.vector ALTER x SET STORAGE PLAIN;
INSERT INTO minimem.meta VALUES ('schema', '{schema}');
CREATE FUNCTION minimem.begin(model text, dim integer) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN   -- the one thing that a user may change for all: the model of a store that has none yet
    INSERT INTO minimem.meta VALUES ('model', model), ('dim', dim::text) ON CONFLICT DO NOTHING;
    IF FOUND AND dim IS NOT NULL THEN
        EXECUTE format('ALTER TABLE minimem.vector ALTER x TYPE {vector}(%s)', dim);
    END IF;
END $$;
CREATE FUNCTION minimem.index() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET maintenance_work_mem = '1GB'
SET max_parallel_maintenance_workers = 0 AS $$
BEGIN
    CREATE INDEX IF NOT EXISTS near ON minimem.vector USING hnsw (x {ops});
END $$;
REVOKE ALL ON FUNCTION minimem.begin, minimem.index FROM public"""
OWN = {"account": (), "unit": ("id", "key", "text", "kind", "meta"), "source": ("turn",), "posting": ("term",), "vector": ("x",)}
SCORE = f"""
WITH asked (term, times) AS (SELECT * FROM unnest(%(terms)s::text[], %(times)s::integer[])),
     held AS MATERIALIZED (SELECT term, times, (SELECT count(*) FROM minimem.posting AS p WHERE p.term = asked.term) AS units FROM asked),
     rare AS (SELECT *, sum(units) OVER w AS reach, row_number() OVER w AS place FROM held WHERE units > 0 WINDOW w AS (ORDER BY units, term COLLATE "C")),
     all_of AS MATERIALIZED (SELECT units::float8 AS count, 0.75 * units / greatest(terms, 1)::float8 AS inverse FROM minimem.account),
     weight AS MATERIALIZED (SELECT term, inverse, {2.2 * 2**44}::float8 * times * greatest(ln((count - units + 0.5) / (units + 0.5)), 1e-6) AS w
                             FROM rare, all_of WHERE place = 1 OR reach <= %(reach)s),
     score AS MATERIALIZED (SELECT p.n, sum(round(w * f / (f + 1.2::float8 * (0.25::float8 + length * inverse)))) AS s
                            FROM weight JOIN minimem.posting AS p USING (term) GROUP BY p.n)"""       # whole numbers: a sum without rounding, ties stay ties
BEST = SCORE + " SELECT n FROM score ORDER BY s DESC, n LIMIT %(k)s"
ALL = SCORE + " SELECT n, coalesce(s, 0), -(x <#> %(x)b::{vector}) FROM minimem.vector LEFT JOIN score USING (n) ORDER BY n"
SOME = SCORE + """, near AS MATERIALIZED (SELECT n FROM minimem.vector ORDER BY x <#> %(x)b::{vector} LIMIT %(k)s),
     far AS MATERIALIZED (SELECT n FROM minimem.vector ORDER BY x <#> %(minus)b::{vector} LIMIT 1),
     matched AS (SELECT n FROM score ORDER BY s DESC, n LIMIT %(k)s),
     least AS (SELECT n FROM score ORDER BY s, n LIMIT 1),
     bare AS (SELECT n FROM minimem.vector WHERE NOT EXISTS (SELECT FROM score WHERE score.n = vector.n) LIMIT 1)
     SELECT n, coalesce(s, 0), -(x <#> %(x)b::{vector}), (SELECT count(*) FROM near)
     FROM (SELECT n FROM near UNION SELECT n FROM far UNION SELECT n FROM matched UNION SELECT n FROM least UNION SELECT n FROM bare) AS candidate
     JOIN minimem.vector USING (n) LEFT JOIN score USING (n) ORDER BY n"""


def setup(dsn: str, users: Iterable[str] = ()) -> None:
    """Make the tables, once for a database, and the roles of these users; needs a superuser, or an owner of the database who may create roles.

    Run again, it adds users. A new role may log in but has no password (psql: ``\\password ada``). Raises StoreError if it cannot.
    """
    from psycopg import errors, sql
    names = [text_of("user", u) for u in ids_of(users)]
    if long := [u for u in names if len(u.encode()) > 63]:
        raise ValueError(f"user {long[0]!r} is longer than the 63 bytes that PostgreSQL keeps of a name")
    db = _connect(dsn)
    with db, _asking(db), db.transaction():
        if db.info.server_version < 170000:
            raise StoreError(f"{_name(db)} is PostgreSQL {db.info.server_version // 10000}, wanted 17 or newer, where a user may be allowed to VACUUM")
        if db.info.parameter_status("server_encoding") != "UTF8":
            raise StoreError(f"{_name(db)} is encoded in {db.info.parameter_status('server_encoding')}, wanted UTF8")
        db.execute("SELECT pg_advisory_xact_lock(1296649837)")                       # two setups at once
        if not db.execute("SELECT to_regnamespace('minimem')").fetchone()[0]:
            try:
                db.execute(sql.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(sql.Identifier(EXTENSION)))
            except (errors.FeatureNotSupported, errors.UndefinedFile):
                raise StoreError(f"{_name(db)}: this server has no pgvector; install it there (Debian: postgresql-17-pgvector) or ask its operator") from None
            db.execute(TABLES.format(**_types(db), schema=SCHEMA))
            for table, columns in OWN.items():
                for column in columns:                                               # no samples of what was said in pg_statistic, where no purge would find them
                    db.execute(f"ALTER TABLE minimem.{table} ALTER {column} SET STATISTICS 0")
                db.execute(f"ALTER TABLE minimem.{table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
                db.execute(f"CREATE POLICY own ON minimem.{table} USING (owner = current_user::text) WITH CHECK (owner = current_user::text)")
        group = sql.Identifier("minimem_user")
        for role, login in (("minimem_user", "NOLOGIN"), *((name, "LOGIN") for name in names)):
            if not db.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone():
                db.execute(sql.SQL("CREATE ROLE {} " + login).format(sql.Identifier(role)))
            if login == "LOGIN":
                db.execute(sql.SQL("GRANT {} TO {}").format(group, sql.Identifier(role)))
        for rights in ("USAGE ON SCHEMA minimem", "SELECT ON minimem.meta", "EXECUTE ON FUNCTION minimem.begin, minimem.index",
                       f"SELECT, INSERT, UPDATE, DELETE, MAINTAIN ON {', '.join(f'minimem.{t}' for t in OWN)}"):
            db.execute(sql.SQL("GRANT " + rights + " TO {}").format(group))


class Postgres(Store):
    """The store of one user: the role that ``dsn`` (a URL or ``key=value`` pairs) logs in as, or ``user``, if that role may act for it.

    ``embed``: keep a vector of every unit and rank by both; a store is begun with vectors or without, and keeps to one model.
    Raises StoreError, here and in every method, if the server is down, refuses, has no tables of ours or newer ones, or the store is closed.
    """

    def __init__(self, dsn: str, user: str = "", embed: Any = None) -> None:
        self.user, self.embed, self._lock = text_of("user", user), expect_embedder(embed), threading.RLock()
        self._db = _connect(dsn)
        try:
            self.name = _name(self._db)
            with self._asking():
                self._become()
                self._known()
                for option in (f"lock_timeout = '{WAIT:g}s'", "jit = off", f"hnsw.ef_search = {DEPTH}", "hnsw.iterative_scan = strict_order"):
                    self._db.execute(f"SET {option}")
                self._db.execute("INSERT INTO minimem.account DEFAULT VALUES ON CONFLICT DO NOTHING")
                self._types = _types(self._db)
                _vectors(self._db)
        except BaseException:
            self._db.close()
            raise

    def _become(self) -> None:
        """Act as the user. Raises StoreError if this login can get round the policies, or may not be this user."""
        from psycopg import sql
        login = self._one("SELECT session_user::text")
        if not self._one("SELECT to_regnamespace('minimem') IS NOT NULL"):
            raise StoreError(f"{self.name} has no tables of ours; its owner makes them once, with minimem.text.postgres.setup")
        above = self._one("SELECT string_agg(rolname, ', ') FROM pg_roles WHERE pg_has_role(session_user, oid, 'MEMBER') "
                          "AND (rolsuper OR rolbypassrls OR oid = (SELECT nspowner FROM pg_namespace WHERE nspname = 'minimem'))")
        if above:
            raise StoreError(f"{self.name}: {login} has the rights of {above}, which policies do not bind; log in as a plain user (setup makes them)")
        if self.user and self.user != login:
            if not self._one("SELECT count(*) FROM pg_roles WHERE rolname = %s AND pg_has_role(session_user, oid, 'SET')", self.user):
                raise StoreError(f"{self.name}: {login} may not act for {self.user!r}; log in as that user, or its owner says: GRANT {self.user} TO {login}")
            self._db.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(self.user)))
        self.user = self.user or login
        if not self._one("SELECT has_schema_privilege('minimem', 'USAGE')"):
            raise StoreError(f"{self.name}: {self.user!r} is no user of this store; its owner adds it with minimem.text.postgres.setup")

    def _known(self) -> None:
        """Settle the model. Raises StoreError if the tables are newer or the vectors of another model."""
        meta = self._meta()
        if meta["schema"] != str(SCHEMA):
            raise StoreError(f"{self.name} has schema {meta['schema']}, this minimem knows {SCHEMA}: a newer one made it; update minimem")
        if not self.embed:
            return
        if "model" not in meta:
            self._db.execute("SELECT minimem.begin(%s, %s)", (self.embed.name, self.embed.dim))
            meta = self._meta()
        if meta["model"] is None:
            raise StoreError(f"{self.name} was begun without vectors; open it without embed, or write its units() into a new store")
        if (meta["model"], int(meta["dim"])) != (self.embed.name, self.embed.dim):
            raise StoreError(f"{self.name} holds vectors of {meta['model']} (dim {meta['dim']}) and embed is {self.embed.name} (dim {self.embed.dim}): vectors of two "
                             "models cannot be compared; open it with the first, or write its units() into a new store")

    # -------------------------------------------------------------- asking the server

    def _asking(self) -> Any:
        return _asking(self._db)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """All of it or nothing; another writer of this user waits, readers and other users do not."""
        from psycopg.pq import TransactionStatus
        with self._lock, self._asking():
            if self._db.info.transaction_status == TransactionStatus.INTRANS:
                raise StoreError("a write is under way in this store; let it end first")
            with self._db.transaction():
                self._db.execute("SELECT FROM minimem.account FOR UPDATE")
                yield

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """One state of the store, whatever others write meanwhile; inside a write of our own, what it has written so far."""
        from psycopg.pq import TransactionStatus
        with self._lock, self._asking():
            if self._db.info.transaction_status == TransactionStatus.INTRANS:
                yield
                return
            self._db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                yield
            finally:
                if not self._db.closed:
                    self._db.execute("ROLLBACK")

    def _one(self, sql: str, *values: Any) -> Any:
        return self._db.execute(sql, values or None).fetchone()[0]

    def _meta(self) -> dict[str, str | None]:
        return dict(self._db.execute("SELECT name, value FROM minimem.meta").fetchall())

    # -------------------------------------------------------------- writing

    def write_all(self, records: Iterable[Unit]) -> int:
        """Keep all of them or, if anything fails, none; returns how many. Takes a few hundred at a time from a generator.

        Raises ValueError if a record is no Unit or cannot be stored.
        """
        ready = map(self._ready, batches(records))
        first = next(ready, None)                               # checked and embedded before anybody has to wait
        if first is None:
            return 0
        with self._changing():
            if not self.embed:
                if "model" not in self._meta():
                    self._db.execute("SELECT minimem.begin(NULL, NULL)")
                if model := self._meta()["model"]:
                    raise StoreError(f"{self.name} holds vectors of {model}; open it with that embed to write, or some units would have none")
            count = sum(self._put(*r) for r in chain([first], ready))
            self._changed()
        return count

    def _ready(self, records: Sequence[Unit]) -> tuple[list[tuple], list[tuple[str, ...]], np.ndarray | None]:
        rows = [row(u) for u in records]
        vectors = embedded(self.embed, [u.text for u in records]) if self.embed else None
        return rows, [u.source_ids if u.source_ids != (u.id,) else () for u in records], vectors

    def _put(self, rows: Sequence[tuple], turns: Sequence[Sequence[str]], vectors: np.ndarray | None) -> int:
        last = {r[0]: i for i, r in enumerate(rows)}            # twice the same id: the later stays
        self._bury("key = ANY(%s)", [*map(_key, last)])
        bags = [_bag(r[1]) if last[r[0]] == i else Counter() for i, r in enumerate(rows)]
        n = 1 + self._one("UPDATE minimem.account SET last = last + %s, units = units + %s, terms = terms + %s RETURNING last", len(rows), len(last),
                          sum(map(Counter.total, bags))) - len(rows)
        self._insert("unit (n, key, id, text, kind, time, expires, meta, deleted)", "bigint bytea text text text float8 float8 text boolean",
                     ((n + i, _key(r[0]), *r, last[r[0]] != i) for i, r in enumerate(rows)))
        self._insert("source (n, place, turn)", "bigint integer text", ((n + i, j, t) for i, some in enumerate(turns) for j, t in enumerate(some)))
        self._insert("posting (term, n, f, length)", "text bigint integer integer", ((t, n + i, f, bag.total()) for i, bag in enumerate(bags) for t, f in bag.items()))
        if vectors is not None:
            self._insert("vector (n, x)", f"bigint {self._types['vector']}", ((n + i, x) for i, x in enumerate(vectors) if last[rows[i][0]] == i))
        return len(rows)

    def _insert(self, table: str, types: str, rows: Iterable[tuple]) -> None:
        """Rows by columns, each one array: COPY is not for tables with policies."""
        if columns := [*zip(*rows)]:
            arrays = ", ".join(f"%{'b' if t.endswith('.vector') else 's'}::{t}[]" for t in types.split())
            self._db.execute(f"INSERT INTO minimem.{table} SELECT * FROM unnest({arrays})", [list(c) for c in columns])

    def _bury(self, which: str, value: Any) -> int:
        """Take units out of the full text and the vectors and mark them deleted."""
        found = self._db.execute(f"UPDATE minimem.unit SET deleted = true WHERE NOT deleted AND {which} RETURNING n, text", (value,)).fetchall()
        if found:
            pairs = [(t, n, f) for n, text in found for t, f in _bag(text).items()]
            self._db.execute("DELETE FROM minimem.posting AS p USING unnest(%s::text[], %s::bigint[]) AS gone (term, n) WHERE p.term = gone.term AND p.n = gone.n",
                             ([t for t, _, _ in pairs], [n for _, n, _ in pairs]))
            self._db.execute("DELETE FROM minimem.vector WHERE n = ANY(%s)", ([n for n, _ in found],))
            self._db.execute("UPDATE minimem.account SET units = units - %s, terms = terms - %s", (len(found), sum(f for _, _, f in pairs)))
        return len(found)

    def _changed(self) -> None:
        self._db.execute("UPDATE minimem.account SET generation = generation + 1")

    def delete(self, ids: Iterable[str]) -> int:
        """Units of these ids are found no longer; returns how many there were. Their bytes stay until ``purge``."""
        keys = [*map(_key, ids_of(ids))]
        with self._changing():
            if count := self._bury("key = ANY(%s)", keys):
                self._changed()
        return count

    def forget(self, now: float) -> int:
        """The same for the units whose ``expires`` is not after ``now``. Raises ValueError if now is not a number of days."""
        if (now := day_of("now", now)) is None:
            raise ValueError("now must be a number of days, saw None")
        with self._changing():
            if count := self._bury("expires <= %s", now):
                self._changed()
        return count

    def index(self) -> None:
        """Build the HNSW index, once and for all users, when comparing every vector takes too long: best after the bulk is written. Writers wait meanwhile."""
        if not self.embed or self.embed.dim > WIDEST:
            raise StoreError(f"{self.name} has no vectors that HNSW can take: wanted an embed of dim <= {WIDEST}, saw {self.embed and self.embed.dim}")
        with self._changing():
            self._db.execute("SELECT minimem.index()")
            self._db.execute("ANALYZE minimem.vector")              # or the planner does not know that the index pays

    def purge(self) -> int:
        """Take every byte of what was deleted, forgotten or replaced out of the files of the tables; returns how many units that were.

        Everybody else waits meanwhile. Raises StoreError if somebody reads an old state; the units are gone from the tables then, and the next ``purge`` finishes.
        """
        with self._changing():
            gone = [n for n, in self._db.execute("DELETE FROM minimem.unit WHERE deleted RETURNING n").fetchall()]
            if gone:
                self._db.execute("DELETE FROM minimem.source WHERE n = ANY(%s)", (gone,))
                self._changed()
        left: list[str] = []
        end = time.monotonic() + PATIENCE

        def told(notice: Any) -> None:                          # "3 dead row versions cannot be removed yet"
            left.extend(re.findall(r"^[1-9]\d*", notice.message_detail or ""))
        with self._lock, self._asking():
            self._db.add_notice_handler(told)
            try:
                for table in OWN:
                    while True:
                        left.clear()
                        self._db.execute(f"VACUUM (FULL, VERBOSE, ANALYZE) minimem.{table}")
                        if not left:
                            break
                        if time.monotonic() > end:
                            raise StoreError(f"{self.name} still holds what was purged, for somebody reads an old state of the database; purge again after that")
                        time.sleep(0.1)                         # the server's own autovacuum is soon done
            finally:
                self._db.remove_notice_handler(told)
        return len(gone)

    # -------------------------------------------------------------- reading

    def _pages(self, bag: Counter[str], vector: np.ndarray | None) -> Iterator[list[int]]:
        """Numbers of the units, best first, 50 at a time; only who reads on has all compared."""
        head = self._order(bag, vector, 50)
        yield head
        if len(head) == 50:
            yield from batches((n for n in self._order(bag, vector, None) if n not in head), 50)

    def _asked(self, query: str) -> tuple[Counter[str], np.ndarray | None]:
        return _bag(query), embedded(self.embed, [query])[0] if self.embed else None

    def _order(self, bag: Counter[str], x: np.ndarray | None, k: int | None) -> list[int]:
        """Numbers of the k best units."""
        asked = {"terms": list(bag), "times": list(bag.values()), "reach": REACH, "k": k and min(k, 2**62)}
        if x is None:
            return [n for n, in self._db.execute(BEST, asked).fetchall()]
        asked |= {"x": x, "minus": -x}
        if k is not None and k <= 50 and self._one("SELECT units FROM minimem.account") > EXACT:
            rows = self._db.execute(SOME.format(**self._types), asked | {"k": DEPTH}).fetchall()
            rows = [r[:3] for r in rows] if rows[0][3] == DEPTH else None             # fewer: the nearest of all users are not this one's
        else:
            rows = None
        n, bm25, cosine = map(np.array, zip(*(rows or self._db.execute(ALL.format(**self._types), asked).fetchall() or [(0, 0.0, 0.0)])))
        return [i for i in n[np.argsort(-minmax([bm25, cosine]), kind="stable")[:k]].tolist() if i]

    def _load(self, numbers: Iterable[int]) -> Iterator[Unit]:
        for some in batches(numbers):
            rows = self._db.execute("SELECT id, text, kind, ARRAY(SELECT turn FROM minimem.source AS s WHERE s.n = u.n ORDER BY place), time, expires, meta "
                                    "FROM unnest(%s::bigint[]) WITH ORDINALITY AS wanted (n, place) JOIN minimem.unit AS u USING (n) ORDER BY place", (some,))
            for *fields, meta in rows.fetchall():
                yield Unit(*fields, json.loads(meta))

    def get(self, id: str) -> Unit | None:
        """The unit of this id, or None. Raises ValueError if the id is no string."""
        with self._reading():
            key = _key(text_of("id", id))
            return next(self._load(n for n, in self._db.execute("SELECT n FROM minimem.unit WHERE NOT deleted AND key = %s", (key,)).fetchall()), None)

    def units(self) -> Iterator[Unit]:
        """All units that are there now, in the order written, a few hundred in memory at a time; what is written meanwhile is not among them."""
        with self._reading():
            newest = self._one("SELECT last FROM minimem.account")
        n = 0
        while True:
            with self._reading():
                some = [n for n, in self._db.execute("SELECT n FROM minimem.unit WHERE NOT deleted AND n > %s AND n <= %s ORDER BY n LIMIT 256", (n, newest)).fetchall()]
                page = list(self._load(some))
            if not some:
                return
            yield from page
            n = some[-1]

    # -------------------------------------------------------------- what it holds, and whether it is sound

    @property
    def generation(self) -> int:
        """A number that every change to this user's units raises."""
        with self._reading():
            return self._one("SELECT generation FROM minimem.account")

    def stats(self) -> dict[str, Any]:
        """units; deleted (and not yet purged); bytes by part; model and dim of the vectors; schema; generation."""
        with self._reading():
            units, deleted = (self._one("SELECT count(*) FROM minimem.unit WHERE deleted = %s", d) for d in (False, True))
            meta = self._meta()
            return {"units": units, "deleted": deleted, "bytes": self.sizes(), "model": meta.get("model"), "dim": int(meta["dim"]) if meta.get("dim") else None,
                    "schema": SCHEMA, "generation": self.generation}

    def sizes(self) -> dict[str, int]:
        """Bytes by part, of this user alone: text with ids and meta; full text (rows of terms); vectors; what is deleted and not purged."""
        text = ("SELECT coalesce(sum(octet_length(id) + octet_length(text) + octet_length(kind) + octet_length(meta) "
                "+ coalesce((SELECT sum(octet_length(turn)) FROM minimem.source AS s WHERE s.n = u.n), 0)), 0)::bigint FROM minimem.unit AS u WHERE deleted = %s")
        with self._reading():
            return {"text": self._one(text, False), "full text": self._one("SELECT coalesce(sum(pg_column_size(p)), 0) FROM minimem.posting AS p"),
                    "vectors": self._one("SELECT coalesce(sum(pg_column_size(x)), 0) FROM minimem.vector"), "deleted": self._one(text, True)}

    def check(self) -> None:
        """Returns if all is in step. Raises StoreError that names what is not: a text and its terms, a vector, the counts."""
        with self._reading():
            told = self._db.execute("SELECT units, terms FROM minimem.account").fetchone()
            want, bad, terms, units, n = self._meta().get("dim"), [], 0, 0, 0
            while rows := self._db.execute(
                    f"SELECT u.n, id, text, {self._types['dims']}(x) FROM minimem.unit AS u LEFT JOIN minimem.vector AS v USING (n) WHERE NOT deleted AND u.n > %s "
                    "ORDER BY u.n LIMIT 256", (n,)).fetchall():
                bags = {n: _bag(text) for n, _, text, _ in rows}
                held: dict[int, Counter[str]] = {n: Counter() for n in bags}
                asked = [(t, n, bag.total()) for n, bag in bags.items() for t in bag]
                for n, term, f in self._db.execute("SELECT n, term, f FROM unnest(%s::text[], %s::bigint[], %s::integer[]) AS a (term, n, length) JOIN minimem.posting USING (term, n, length)",
                                                   [list(column) for column in zip(*asked)] or [[], [], []]).fetchall():
                    held[n][term] = f
                for n, id, _, dim in rows:
                    units, terms = units + 1, terms + bags[n].total()
                    bad += [f"{id!r} has other terms in the full text"] * (held[n] != bags[n]) + [f"{id!r} has a vector of dim {dim}, wanted {want}"] * (str(dim) != str(want))
            bad += [f"{told[0]} units and {told[1]} terms are counted, {units} and {terms} are there"] * (told != (units, terms))
            for table, count in (("posting", "count(DISTINCT n)"), ("vector", "count(*)")):
                extra = self._one(f"SELECT {count} FROM minimem.{table} AS x WHERE NOT EXISTS (SELECT FROM minimem.unit AS u WHERE u.n = x.n AND NOT deleted)")
                bad += [f"{extra} units that are not there are in {table}"] * bool(extra)
        if bad:
            raise StoreError(f"{self.name} is out of step ({'; '.join(bad[:5])}{', …' if len(bad) > 5 else ''})")

def _key(id: str) -> bytes:
    """An id of any length as the index holds it; made here, for behind policies the server looks up only what needs no function that could leak."""
    return sha256(id.encode()).digest()


def _bag(text: str) -> Counter[str]:
    """How often each term stands in a text; a term too long for an index goes by its digest."""
    return Counter(t if len(t) <= 500 else sha256(t.encode()).hexdigest() for t in tokens(text))


def _connect(dsn: str) -> Any:
    """A connection. Raises StoreError if there is none; no message holds the password."""
    try:
        import psycopg
    except ImportError:
        raise StoreError("PostgreSQL is reached through psycopg; get it with: pip install 'minimem[server]'") from None
    try:
        psycopg.conninfo.conninfo_to_dict(text_of("dsn", dsn))
    except psycopg.Error:
        raise StoreError("dsn is no PostgreSQL connection string, wanted postgresql://user:password@host:5432/database") from None
    try:
        return psycopg.connect(dsn, autocommit=True, connect_timeout=10, client_encoding="utf8", application_name="minimem")
    except psycopg.Error as e:
        known = psycopg.conninfo.conninfo_to_dict(dsn)
        why = " ".join(str(e).split())
        for secret in filter(None, (known.get("password"), known.get("sslpassword"))):
            why = why.replace(str(secret), "***")
        at = f"{known.get('host', 'the local socket')}:{known.get('port', 5432)}/{known.get('dbname', known.get('user', ''))}"
        raise StoreError(f"no connection to PostgreSQL at {at} as {known.get('user', 'the user of this system')}: {why}") from None


def _name(db: Any) -> str:
    """The store in an error message: without the password."""
    return f"postgresql://{db.info.user}@{db.info.host}:{db.info.port}/{db.info.dbname}"


def _types(db: Any) -> dict[str, str]:
    """What pgvector calls its own, with the schema it stands in."""
    found = db.execute("SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace AS s ON s.oid = extnamespace WHERE extname = 'vector'").fetchone()
    return {what: f"{found[0]}.{name}" for what, name in (("vector", "vector"), ("ops", "vector_ip_ops"), ("dims", "vector_dims"))} if found else {}


def _vectors(db: Any) -> None:
    """Let this connection send arrays of numpy as vectors, as they are in memory."""
    from psycopg.adapt import Dumper
    from psycopg.pq import Format
    from psycopg.types import TypeInfo
    info = TypeInfo.fetch(db, _types(db)["vector"])
    info.register(db)

    class Vector(Dumper):
        format, oid = Format.BINARY, info.oid

        def dump(self, x: np.ndarray) -> bytes:
            return len(x).to_bytes(2, "big") + bytes(2) + x.astype(">f4").tobytes()
    db.adapters.register_dumper(np.ndarray, Vector)


@contextmanager
def _asking(db: Any) -> Iterator[None]:
    import psycopg
    from psycopg import errors
    try:
        yield
    except psycopg.Error as e:
        if db.closed and not db.broken:
            raise StoreError("the store is closed") from None
        reasons = {errors.LockNotAvailable: f"is being written by somebody else, and still was after {WAIT:g} s", errors.DiskFull: "cannot grow: the server's disk is full",
                   errors.ReadOnlySqlTransaction: "cannot be written: the server only reads (a standby?)", errors.InsufficientPrivilege: "does not allow this"}
        why = "closed the connection; what was acknowledged is kept, open the store again" if db.broken else \
            next((why for kind, why in reasons.items() if isinstance(e, kind)), "gave an error")
        raise StoreError(f"{_name_of(db)} {why} ({type(e).__name__}: {' '.join((e.diag.message_primary or str(e)).split())})") from e


def _name_of(db: Any) -> str:
    return "the server" if db.closed else _name(db)
