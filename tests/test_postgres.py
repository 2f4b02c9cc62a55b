"""PostgreSQL alone: users kept apart by the server, whatever SQL is tried; kills, errors without passwords, purged bytes, HNSW. The contract itself is in test_store."""
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pg
import psycopg
import pytest

from minimem.tasks.dialogue import make, questions, turns
from minimem.text import postgres
from minimem.text.postgres import Postgres, setup
from minimem.text.storable import StoreError
from minimem.text.store import SQLite
from minimem.text.unit import Unit, fill

HERE, SECRET, TABLES = Path(__file__).parent, "Xylophanes-Quokka-77", ("account", "unit", "source", "posting", "vector")


class Vectors:
    """An embedder of given width: the text is the seed."""
    name = "drawn"

    def __init__(self, dim=16):
        self.dim = dim

    def __call__(self, texts):
        x = np.array([np.random.default_rng(list(t.encode())).standard_normal(self.dim) for t in texts], np.float32).reshape(-1, self.dim)
        return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def dsn():
    return pg.fresh("ada", "ben")


@pytest.fixture
def two(dsn):
    """Ada with nothing, Ben with a secret in every table; and what Ben has."""
    with Postgres(dsn["ben"], embed=Vectors()) as ben:
        ben.write_all([Unit(f"D{i}", f"{SECRET} number {i}", source_ids=("x", "y")) for i in range(20)])
        ben.delete(["D19"])
        with Postgres(dsn["ada"], embed=Vectors()) as ada:
            before = list(ben.units()), ben.stats(), ben.rank("quokka number", None)
            yield ada, ben
        assert (list(ben.units()), ben.stats(), ben.rank("quokka number", None)) == before, "Ben's memory was changed"
        ben.check()


# ------------------------------------------------------------------ users

@pytest.mark.parametrize("table", TABLES)
def test_sql_through_ones_own_connection_sees_and_changes_no_row_of_another(two, table):
    db = two[0]._db
    mine = 1 if table == "account" else 0
    for count in (f"SELECT count(*) FROM minimem.{table}", f"SELECT count(*) FROM minimem.{table} WHERE owner = 'ben' OR true", f"SELECT count(*) FROM minimem.{table} TABLESAMPLE SYSTEM (100)",
                  f"SELECT count(*) FROM (TABLE minimem.{table} UNION ALL TABLE minimem.{table}) AS twice"):
        assert db.execute(count).fetchone()[0] in (mine, 2 * mine)
    with db.cursor().copy(f"COPY (SELECT * FROM minimem.{table}) TO STDOUT") as out:
        assert b"".join(out).count(b"\n") == mine
    assert db.execute(f"DELETE FROM minimem.{table} WHERE owner <> 'ada'").rowcount == 0
    assert db.execute(f"UPDATE minimem.{table} SET owner = 'ada' WHERE owner <> 'ada'").rowcount == 0
    for forbidden in (f"TRUNCATE minimem.{table}", f"DROP TABLE minimem.{table}", f"ALTER TABLE minimem.{table} DISABLE ROW LEVEL SECURITY", f"DROP POLICY own ON minimem.{table}",
                      f"ALTER TABLE minimem.{table} NO FORCE ROW LEVEL SECURITY", f"CREATE POLICY more ON minimem.{table} USING (true)", f"ALTER TABLE minimem.{table} OWNER TO ada",
                      f"CREATE TRIGGER t BEFORE INSERT ON minimem.{table} EXECUTE FUNCTION suppress_redundant_updates_trigger()",
                      f"CREATE RULE r AS ON SELECT TO minimem.{table} DO INSTEAD NOTHING", f"CREATE INDEX ON minimem.{table} (owner)"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            db.execute(forbidden)
    rights = db.execute("SELECT relacl FROM pg_class WHERE oid = %s::regclass", (f"minimem.{table}",)).fetchone()
    db.execute(f"GRANT ALL ON minimem.{table} TO public")                              # a warning: no privileges were granted
    assert db.execute("SELECT relacl FROM pg_class WHERE oid = %s::regclass", (f"minimem.{table}",)).fetchone() == rights
    db.execute("SET row_security = off")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        db.execute(f"TABLE minimem.{table}")
    db.execute("RESET row_security")


@pytest.mark.parametrize("sql", [
    "SET ROLE ben", "SET SESSION AUTHORIZATION ben", "SET ROLE postgres", "ALTER ROLE ada BYPASSRLS", "ALTER ROLE ada SUPERUSER", "GRANT ben TO ada", "GRANT postgres TO ada", "ALTER ROLE ben PASSWORD 'x'",
    "INSERT INTO minimem.unit (owner, n, id, key, text, kind, meta, deleted) VALUES ('ben', 99, 'x', '', 'planted', 'turn', '{}', false)",
    "INSERT INTO minimem.account (owner) VALUES ('ben') ON CONFLICT (owner) DO UPDATE SET units = 0", "UPDATE minimem.account SET owner = 'ben'", "INSERT INTO minimem.posting VALUES ('ben', 'cat', 1, 1, 1)",
    "UPDATE minimem.meta SET value = '9'", "DELETE FROM minimem.meta", "CREATE TABLE minimem.t ()", "CREATE FUNCTION minimem.f() RETURNS int LANGUAGE sql RETURN 1", "ALTER FUNCTION minimem.begin OWNER TO ada",
    "DROP SCHEMA minimem CASCADE", "SELECT pg_read_file('pg_hba.conf')", "COPY minimem.unit TO '/var/out'", "SELECT * FROM pg_statistic", "CREATE EXTENSION dblink"])
def test_what_would_get_round_the_policies_is_forbidden(two, sql):
    with pytest.raises(psycopg.Error) as told:
        two[0]._db.execute(sql)
    assert told.value.sqlstate in ("42501", "22023", "0A000"), told.value                 # no privilege; no such role to be set; not there


def test_settings_and_cheap_functions_move_no_policy(two):
    db = two[0]._db
    for setting in ("minimem.owner = 'ben'", "search_path = pg_temp, minimem", "enable_indexscan = off", "plan_cache_mode = force_generic_plan"):
        db.execute(f"SET {setting}")
    db.execute("CREATE FUNCTION pg_temp.current_user() RETURNS text LANGUAGE sql RETURN 'ben'")
    db.execute("CREATE FUNCTION pg_temp.tell(text) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE 'told %', $1; RETURN true; END$$")
    heard = []
    db.add_notice_handler(lambda n: heard.append(n.message_primary))
    assert db.execute("SELECT * FROM minimem.unit WHERE pg_temp.tell(text)").fetchall() == [] and heard == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        db.execute("CREATE OR REPLACE FUNCTION minimem.begin(model text, dim integer) RETURNS void LANGUAGE sql AS ''")
    db.execute("SELECT minimem.begin('another', 3), minimem.begin('x; DROP TABLE minimem.unit', 4)")       # the model is settled: nothing happens
    assert two[0].stats()["model"] == "drawn" and two[0].stats()["dim"] == 16
    stats = db.execute("SELECT count(*) FROM pg_stats WHERE schemaname = 'minimem' AND tablename <> 'meta'").fetchone()
    assert stats == (0,)


def test_a_login_for_many_sees_nothing_as_itself(dsn):
    pg.ask("DROP ROLE IF EXISTS app")
    pg.ask("CREATE ROLE app LOGIN")
    pg.ask("GRANT ada TO app WITH INHERIT FALSE, SET TRUE")
    pg.ask("GRANT minimem_user TO app")
    login = dsn.of("app")
    with Postgres(dsn["ada"]) as ada, Postgres(login) as nobody, Postgres(login, "ada") as acting:
        ada.write(Unit("x", "a cat"))
        assert list(nobody.units()) == nobody.rank("cat") == [] and nobody.stats()["units"] == 0 and nobody.delete(["x"]) == 0
        assert [u.id for u in acting.rank("cat")] == ["x"] and acting.user == "ada" and nobody.user == "app"
    with pytest.raises(StoreError, match="app may not act for 'ben'"):
        Postgres(login, "ben")
    with pytest.raises(StoreError, match="ada may not act for 'ben'"):
        Postgres(dsn["ada"], "ben")
    with pytest.raises(StoreError, match="stranger' is no user of this store"):
        Postgres(dsn.of("stranger"))


def test_who_stands_above_the_policies_is_refused(dsn):
    with pytest.raises(StoreError, match="postgres has the rights of postgres"):
        Postgres(dsn.owner)
    with pytest.raises(StoreError, match="policies do not bind"):
        Postgres(dsn.owner, "ada")
    for rights in ("BYPASSRLS", "SUPERUSER"):
        pg.ask("DROP ROLE IF EXISTS above")
        pg.ask(f"CREATE ROLE above LOGIN {rights} IN ROLE minimem_user")
        with pytest.raises(StoreError, match="above has the rights of .*above"):
            Postgres(dsn.of("above"))
    pg.ask("DROP ROLE above")
    pg.ask("CREATE ROLE above LOGIN IN ROLE minimem_user, postgres NOINHERIT")
    with pytest.raises(StoreError, match="rights of postgres"):
        Postgres(dsn.of("above"))
    pg.ask("DROP ROLE above")


def test_an_owner_who_is_no_superuser(dsn):
    """As on a hosted server: may create databases' tables and roles, and is bound by its own policies."""
    plain = pg.fresh(ready=False)
    pg.ask("DROP ROLE IF EXISTS landlord")
    pg.ask("CREATE ROLE landlord LOGIN CREATEROLE")
    pg.ask("GRANT minimem_user TO landlord WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
    name = plain.owner.split("/")[3].split("?")[0]
    pg.ask(f"ALTER DATABASE {name} OWNER TO landlord")
    with pytest.raises(StoreError, match="does not allow this .*extension"):
        setup(plain.of("landlord"), ["cleo"])
    pg.ask("CREATE EXTENSION vector", plain.owner)
    setup(plain.of("landlord"), ["cleo"])
    setup(plain.of("landlord"), ["cleo", "dan"])
    with Postgres(plain.of("cleo"), embed=Vectors()) as cleo, Postgres(plain.of("dan"), embed=Vectors()) as dan:
        cleo.write_all([Unit("x", "a cat"), Unit("y", "a dog")])
        assert cleo.delete(["x"]) == cleo.purge() == 1 and [u.id for u in cleo.rank("dog")] == ["y"] and list(dan.units()) == []
        cleo.check()
    with psycopg.connect(plain.of("landlord")) as db:
        assert db.execute("SELECT count(*) FROM minimem.unit").fetchone() == (0,)
    with pytest.raises(StoreError, match="landlord has the rights of landlord"):
        Postgres(plain.of("landlord"))


def test_setup_twice_and_names_of_any_kind():
    odd = 'o"; DROP SCHEMA minimem; --'
    dsn = pg.fresh("ada", odd, "名字")
    setup(dsn.owner, ["ada", odd])
    pg.ask(f'CREATE ROLE many LOGIN IN ROLE ada, "{odd.replace(chr(34), chr(34) * 2)}", "名字"') if not pg.ask("SELECT 1 FROM pg_roles WHERE rolname = 'many'") else None
    for name in (odd, "名字"):
        with Postgres(dsn.of("many"), name) as store:
            store.write(Unit("x", f"a cat of {name}"))
            assert len(list(store.units())) == 1 and store.user == name
    with pytest.raises(ValueError, match="list of ids, saw the string"):
        setup(dsn.owner, "ada")
    with pytest.raises(ValueError, match="longer than the 63 bytes"):
        setup(dsn.owner, ["字" * 22])


# ------------------------------------------------------------------ the two stores agree

@pytest.mark.parametrize("embed", [None, Vectors()], ids=["words", "vectors"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_stores_give_the_same_ranking(dsn, tmp_path, seed, embed):
    sample = make(1, seed, 6)[0]
    units = turns(sample)
    with Postgres(dsn["ada"], embed=embed) as a, SQLite(tmp_path / "x.db", embed=embed) as b:
        for store in (a, b):
            store.write_all(units[: len(units) // 2])
            store.write_all(units[len(units) // 3:])
            store.delete(u.id for u in units[::11])
        assert list(a.units()) == list(b.units()) and {k: v for k, v in a.stats().items() if k != "bytes"} == {k: v for k, v in b.stats().items() if k != "bytes"}
        for q in questions(sample):
            assert a.rank(q.text, None) == b.rank(q.text, None) and a.read(q.text, 100) == b.read(q.text, 100)


@pytest.mark.parametrize("reach", [0, 20, 40])
def test_both_leave_out_the_same_common_words(dsn, tmp_path, monkeypatch, reach):
    for module in (postgres, sys.modules[SQLite.__module__]):
        monkeypatch.setattr(module, "REACH", reach)
    sample = make(1, 3, 6)[0]
    with Postgres(dsn["ada"]) as a, SQLite(tmp_path / "x.db") as b:
        for store in (a, b):
            store.write_all(turns(sample))
        found = [(a.rank(q.text, None), b.rank(q.text, None)) for q in questions(sample)]
        assert all(x == y and x for x, y in found)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hnsw_finds_nearly_all_of_the_ten_nearest(dsn, monkeypatch, seed):
    """Recall@10 over 1,500 vectors and 40 questions at least .97; who compares all, finds all. Another user's 1,500 vectors stand in the same index."""
    embed = Vectors(32)
    with Postgres(dsn["ben"], embed=embed) as ben, Postgres(dsn["ada"], embed=embed) as ada:
        for store, name in ((ben, "ben"), (ada, "ada")):
            store.write_all(Unit(f"D{i}", f"{name} {seed} {i}") for i in range(1500))
        asked = [f"nothing {seed} of this kind {j}" for j in range(40)]
        exact = [ada.rank(q, 10) for q in asked]
        ada.index()
        monkeypatch.setattr(postgres, "EXACT", 0)
        for way in ("sort", "seqscan"):                                                # at this size the planner would rather compare all
            ada._db.execute(f"SET enable_{way} = off")
        plan = " ".join(r for r, in ada._db.execute("EXPLAIN SELECT n FROM minimem.vector ORDER BY x <#> %(x)b::public.vector LIMIT 200", {"x": embed(["x"])[0]}).fetchall())
        found = [ada.rank(q, 10) for q in asked]
        recall = np.mean([len({u.id for u in f} & {u.id for u in e}) / 10 for f, e in zip(found, exact)])
        assert "Index Scan using near" in plan and recall >= 0.97, (recall, plan)
        assert all(u.text.startswith("ada") for f in found for u in f)
        whole = ada.rank(asked[0], None)
        assert len(whole) == 1500 and whole[:10] == exact[0] and ada.read(asked[0], 300) == fill(whole, 300)


def test_an_id_is_looked_up_and_not_searched_for(dsn, monkeypatch):
    """Behind policies PostgreSQL uses an index only for comparisons that cannot leak."""
    with Postgres(dsn["ada"]) as store:
        store.write_all(Unit(f"D{i}", "cat") for i in range(300))
        asked, execute = [], store._db.execute
        execute("SET enable_seqscan = off")
        monkeypatch.setattr(store._db, "execute", lambda *of: asked.append(of) or execute(*of))
        assert store.get("D7") and store.delete(["D8"]) == store.write_all([Unit("D7", "dog")]) == 1
        plans = [" ".join(r for r, in execute("EXPLAIN " + of[0], *of[1:]).fetchall()) for of in asked if "WHERE NOT deleted" in of[0]]
        assert len(plans) == 3
        for plan in plans:
            assert "unit_key" in plan and "(key = " in plan.split("Index Cond:")[1].split("Filter:")[0], plan


# ------------------------------------------------------------------ purged

def test_purge_leaves_no_byte_in_the_tables_and_the_log_can_be_emptied(dsn):
    pg.ask("CHECKPOINT")
    with Postgres(dsn["ada"], embed=Vectors()) as store, Postgres(dsn["ben"], embed=Vectors()) as other:
        store.write_all([Unit(f"D{i}", f"cat {i}" + f" {SECRET}x{i}" * (i % 3 == 0), meta={"m": SECRET} if i % 3 == 0 else {}) for i in range(500)])
        store.write(Unit("long", f"{SECRET} and more " * 3000, source_ids=(f"source-{SECRET}",)))
        other.write(Unit("b", f"Ben's own {SECRET}y"))
        vector = Vectors()([f"cat 0 {SECRET}x0"])[0].tobytes()
        pg.ask("CHECKPOINT")
        held = [p for p in pg.files() if SECRET.encode() in p.read_bytes() or vector in p.read_bytes()]
        assert any("base" in p.parts for p in held), "the test would see nothing"
        assert store.delete([f"D{i}" for i in range(0, 500, 3)]) + store.delete(["long"]) == store.purge() == 168
        assert other.delete(["b"]) == other.purge() == 1
        store.check()
        assert store.stats()["units"] == 333 and len(store.rank("cat", None)) == 333
        pg.ask("CHECKPOINT")
        words = [SECRET.encode(), b"xylophan", vector]
        left = [p for p in pg.files() if any(w in p.read_bytes() for w in words)]
        assert all("pg_wal" in p.parts for p in left), left                            # the promise: tables and indexes, TOAST, statistics, the server's log
        pg.ask("ALTER SYSTEM SET wal_recycle = off")                                   # what the operator can do beside
        pg.ask("SELECT pg_reload_conf()")
        for _ in range(2):
            pg.ask("SELECT pg_switch_wal()")
            pg.ask("CHECKPOINT")
        assert [p for p in pg.files() if any(w in p.read_bytes() for w in words)] == []


def test_purge_says_so_when_a_reader_holds_the_old_state(dsn, monkeypatch):
    monkeypatch.setattr(postgres, "PATIENCE", 0.3)
    with Postgres(dsn["ada"]) as store, psycopg.connect(dsn["ben"]) as reader:
        store.write_all([Unit("a", SECRET), Unit("b", "a cat")])
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1 FROM pg_class LIMIT 1")
        store.delete(["a"])
        with pytest.raises(StoreError, match="somebody reads an old state of the database; purge again"):
            store.purge()
        assert [u.id for u in store.units()] == ["b"]
        reader.rollback()
        assert store.purge() == 0 and store.stats()["deleted"] == 0
        store.check()


# ------------------------------------------------------------------ kills, and two at once

CHILD = """
import os, sys
sys.path.insert(0, {root!r})
from minimem.text.postgres import Postgres
from minimem.text.unit import Unit
for start in sys.stdin:                                     # a worker each, forked: what it imports takes longer than its life
    if pid := os.fork():
        print("died", os.waitpid(pid, 0)[1], flush=True)
        continue
    i, store = int(start), Postgres(sys.argv[1])
    print(os.getpid(), flush=True)
    while True:
        store.write(Unit(f"D{{i}}", f"cat word{{i}}x", source_ids=("s", f"D{{i}}")))
        print(i, flush=True)
        store.write_all(Unit(f"D{{i + j}}", f"cat word{{i + j}}x") for j in range(1, 300))
        print(i + 299, flush=True)
        i += 300
"""


def test_ten_kills_lose_nothing_that_was_acknowledged(dsn):
    r, n = random.Random(0), 0
    parent = subprocess.Popen([sys.executable, "-c", CHILD.format(root=str(HERE.parent)), dsn["ada"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for _ in range(10):
        parent.stdin.write(f"{n}\n")
        parent.stdin.flush()
        pid = int(parent.stdout.readline())
        time.sleep(r.uniform(0, 0.3))
        os.kill(pid, signal.SIGKILL)
        said = [*iter(lambda: parent.stdout.readline().strip(), f"died {int(signal.SIGKILL)}")]
        acknowledged = int(said[-1]) + 1 if said else n
        for _ in range(500):                                                           # the server undoes what the dead had under way, or has it done
            if not pg.ask("SELECT 1 FROM pg_stat_activity WHERE usename = 'ada'"):
                break
            time.sleep(0.02)
        with Postgres(dsn["ada"]) as store:
            there = [u.id for u in store.units()]
            store.check()
        assert there == [f"D{i}" for i in range(len(there))]
        assert len(there) - acknowledged in (0, 1, 299), (n, acknowledged, len(there))
        n = len(there)
    parent.stdin.close()
    assert parent.wait() == 0 and n > 300


def test_two_writers_of_one_user_wait_for_each_other(dsn):
    failed = []

    def work(k):
        try:
            with Postgres(dsn["ada"]) as store:
                for i in range(40):
                    store.write_all([Unit(f"{k}:{i}", f"cat {i}"), Unit("same", f"by {k} {i}")])
        except BaseException as e:                                                     # noqa: BLE001
            failed.append(e)
    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    with Postgres(dsn["ada"]) as store:
        assert not failed and store.stats()["units"] == 121 and store.generation == 120 and store.stats()["deleted"] == 119
        store.check()


def test_readers_go_on_during_a_write_and_other_users_write(dsn):
    with Postgres(dsn["ada"]) as writer, Postgres(dsn["ada"]) as reader, Postgres(dsn["ben"]) as other:
        writer.write(Unit("a", "cat"))

        def some():
            yield from (Unit(f"D{i}", "cat") for i in range(600))
            assert len(reader.rank("cat", None)) == reader.generation == 1 and other.write_all([Unit("b", "cat")]) == 1
            yield Unit("last", "cat")
        assert writer.write_all(some()) == 601 and len(reader.rank("cat", None)) == 602


def test_a_writer_that_waited_long_enough_says_so(dsn, monkeypatch):
    monkeypatch.setattr(postgres, "WAIT", 0.2)
    with Postgres(dsn["ada"]) as a, Postgres(dsn["ada"]) as b:
        def some():
            yield Unit("a", "cat")
            yield from (Unit(f"D{i}", "cat") for i in range(256))
            with pytest.raises(StoreError, match="is being written by somebody else, and still was after 0.2 s"):
                b.write(Unit("b", "dog"))
        assert a.write_all(some()) == 257
        b.write(Unit("b", "dog"))
        assert b.stats()["units"] == 258


# ------------------------------------------------------------------ errors

@pytest.mark.parametrize("dsn, message", [
    ("postgresql://ada:hunter2@127.0.0.1:1/chats", "no connection to PostgreSQL at 127.0.0.1:1/chats as ada: .*refused"),
    ("postgresql://ada:hunter2@no-such-host.invalid/chats", "no connection to PostgreSQL at no-such-host.invalid"),
    ("host=127.0.0.1 port=1 user=ada password=hunter2", "127.0.0.1:1/ada as ada"),
    ("postgresql://ada:hunter2@127.0.0.1:1/chats?sslmode=hunter2", "sslmode"),
    ("postgresql://ada:hunter2@[half", "dsn is no PostgreSQL connection string"), ("hunter2", "dsn is no PostgreSQL"), ("ada hunter2=hunter2", "dsn is no PostgreSQL")])
def test_no_message_holds_the_password(dsn, message):
    with pytest.raises(StoreError, match=message) as told:
        Postgres(dsn)
    seen = str(told.value)
    for e in (told.value.__cause__, None if told.value.__suppress_context__ else told.value.__context__):
        seen += repr(e)
    assert "hunter2" not in seen


def test_a_wrong_password(dsn):
    pg.ask("ALTER ROLE ada PASSWORD 'correct'")
    hba = Path(pg.server().pgdata) / "pg_hba.conf"
    trusting = hba.read_text()
    hba.write_text("local all ada scram-sha-256\nlocal all all trust\n")
    pg.ask("SELECT pg_reload_conf()")
    try:
        wait = time.time() + 10
        while time.time() < wait:                                                      # until the server has read it
            try:
                Postgres(dsn["ada"].replace("ada:@", "ada:hunter2@")).close()
            except StoreError as e:
                assert "password authentication failed for user \"ada\"" in str(e) and "hunter2" not in str(e)
                break
        with Postgres(dsn["ada"].replace("ada:@", "ada:correct@")) as store:
            store.write(Unit("x", "cat"))
            with pytest.raises(StoreError) as told:
                store.write_all(iter([Unit("y", "cat")] + [Unit(f"z{i}", "cat") for i in range(256)] + [store.close()]))
            assert "correct" not in str(told.value) + store.name
    finally:
        hba.write_text(trusting)
        pg.ask("SELECT pg_reload_conf()")


def test_not_set_up_newer_or_without_pgvector(dsn, monkeypatch):
    plain = pg.fresh(ready=False)
    with pytest.raises(StoreError, match="has no tables of ours; its owner makes them once, with minimem.text.postgres.setup"):
        Postgres(plain.of("ada"))
    with pytest.raises(StoreError, match="does not allow this"):
        setup(plain.of("ada"), ["ada"])
    monkeypatch.setattr(postgres, "EXTENSION", "vector-that-is-not-there")
    with pytest.raises(StoreError, match="this server has no pgvector; install it there"):
        setup(plain.owner, ["ada"])
    assert pg.ask("SELECT to_regnamespace('minimem')", plain.owner) == [(None,)]
    pg.ask("UPDATE minimem.meta SET value = '2' WHERE name = 'schema'", dsn.owner)
    with pytest.raises(StoreError, match="has schema 2, this minimem knows 1: a newer one made it; update minimem"):
        Postgres(dsn["ada"])


def test_a_connection_that_the_server_closed(dsn):
    with Postgres(dsn["ada"]) as store:
        store.write(Unit("a", "cat"))
        pg.ask(f"SELECT pg_terminate_backend({store._db.info.backend_pid})")
        with pytest.raises(StoreError, match="closed the connection; what was acknowledged is kept, open the store again"):
            store.write(Unit("b", "dog"))
        with pytest.raises(StoreError, match="closed the connection"):
            store.rank("cat")
    with Postgres(dsn["ada"]) as store:
        assert [u.id for u in store.units()] == ["a"]


def test_what_is_out_of_step_is_named(dsn):
    with Postgres(dsn["ada"], embed=Vectors()) as store:
        for harm, message in (("DELETE FROM minimem.posting WHERE term = 'cat' AND n = 1", "'D0' has other terms"), ("DELETE FROM minimem.vector WHERE n = 2", "'D1' has a vector of dim None, wanted 16"),
                              ("UPDATE minimem.account SET units = 7", "7 units and 10 terms are counted, 5 and 10 are there"), ("DELETE FROM minimem.unit WHERE n = 3", "1 units that are not there are in posting"),
                              ("UPDATE minimem.unit SET text = 'bird' WHERE n = 4", "'D3' has other terms")):
            store.write_all([Unit(f"D{i}", f"cat n{i}") for i in range(5)])
            store.delete([u.id for u in store.units()])
            store._db.execute("DELETE FROM minimem.unit")
            for table in ("posting", "vector", "account"):
                store._db.execute(f"DELETE FROM minimem.{table}")
            store._db.execute("INSERT INTO minimem.account DEFAULT VALUES")
            store.write_all([Unit(f"D{i}", f"cat n{i}") for i in range(5)])
            store.check()
            store._db.execute(harm)
            with pytest.raises(StoreError, match=message):
                store.check()


def test_terms_and_vectors_of_any_length(dsn):
    with Postgres(dsn["ada"], embed=Vectors(2100)) as store:                            # too wide for HNSW: every vector is compared
        store.write_all([Unit("long", "q" * 200_000), Unit("two", f"{'q' * 5000} cat"), Unit("i" * 100_000, "dog")])
        assert store.rank("q" * 200_000, 1)[0].id == "long" and store.rank("q" * 5000, 1)[0].id == "two"
        assert store.get("i" * 100_000).text == "dog" and store.delete(["i" * 100_000, "long"]) == 2
        store.check()


def test_the_server_logs_nothing_of_what_was_said(dsn):
    with Postgres(dsn["ada"]) as store:
        store.write(Unit("x", f"{SECRET} logged"))
        with pytest.raises(ValueError):
            store.write_all([Unit("y", f"{SECRET} logged"), "no unit"])
        store.rank(f"{SECRET} logged")
    assert SECRET not in pg.logged()
