"""python -m minimem.text: what a shell sees; and that a run killed in the middle keeps what it acknowledged and is finished by the same command again."""
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minimem.tasks.dialogue import make, questions, turns
from minimem.text import __main__ as command_line
from minimem.text.__main__ import line, main, parser, unit
from minimem.text.store import SQLite
from minimem.text.unit import Unit

ROOT = Path(__file__).resolve().parents[1]


def shell(command, **options):
    """A pipe of shell commands in which ``M`` is this program."""
    command = command.replace("M ", f"{sys.executable} -m minimem.text ")
    return subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}, **options)


@pytest.fixture
def db(tmp_path):
    return str(tmp_path / "chat.db")


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_text('{"text": "Ada moved to Turin", "time": "2023-05-08", "id": "a"}\n\n{"text": "Ben has a cat", "meta": {"who": "Ben"}}\n{"text": "我搬到北京了", "expires": 10}\n', "utf8")
    return str(path)


def test_add_search_stats_export(db, notes, capsys):
    assert main(["add", db, notes]) == 0 and "3 units kept" in capsys.readouterr().err
    assert main(["search", db, "where did Ada move?"]) == 0 and capsys.readouterr().out == "a\t2023-05-08\tAda moved to Turin\n"
    assert main(["search", db, "北京", "--json"]) == 0 and json.loads(capsys.readouterr().out)["text"] == "我搬到北京了"
    assert main(["search", db, "cat Ada", "-k", "1"]) == 0 and len(capsys.readouterr().out.splitlines()) == 1
    assert main(["search", db, "cat Ada Ben", "--words", "4"]) == 0 and capsys.readouterr().out.split("\t")[2] == "Ben has a cat\n"
    assert main(["search", db, "zebra"]) == 1 and capsys.readouterr().out == ""
    assert main(["stats", db, "--json"]) == 0 and json.loads(capsys.readouterr().out)["units"] == 3
    assert main(["stats", db]) == 0 and "bytes, text" in capsys.readouterr().out


def test_what_is_exported_is_read_back(db, tmp_path, capsys):
    odd = [Unit("", "", "fact", ("a", "b")), Unit("x\n\t", 'a\nb "c" \\ é 😀', time=-1.5, expires=float("inf"), meta={"深": [1, None, {"y": 2.5}]}), *turns(make(1, 0, 4)[0])]
    with SQLite(db) as store:
        store.write_all(odd)
    out = tmp_path / "out.jsonl"
    assert main(["export", db, "--out", str(out)]) == 0 and not list(tmp_path.glob("*.part"))
    assert main(["add", db + "2", str(out)]) == 0
    assert shell(f"M export {db} | M add {db}3 - && M export {db}3 | cmp - {out}").returncode == 0
    for copy in ("2", "3"):
        with SQLite(db + copy) as store:
            assert list(store.units()) == odd


@pytest.mark.parametrize("lines", [[], ["--lines"]], ids=["json", "plain"])
def test_a_second_run_adds_nothing(db, tmp_path, lines, capsys):
    path = tmp_path / "some"
    path.write_text("".join((f"line number {i}\n" if lines else json.dumps({"text": f"line number {i}"}) + "\n") for i in range(1500)))
    assert main(["add", db, str(path), *lines]) == 0
    with SQLite(db) as store:
        before = store.stats()
    assert before["units"] == 1500 and before["generation"] == 2
    assert main(["add", db, str(path), *lines]) == 0 and "0 units kept, 1500 were there already" in capsys.readouterr().err
    with SQLite(db) as store:
        assert store.stats() == before


BAD = {"{": "no JSON", "[1]": 'wanted a JSON object with "text"', '{"txt": 1}': 'wanted a JSON object with "text"', '{"text": 1}': "text must be a string, saw int", '{"text": "a", "tiem": 3}': "unknown field 'tiem'",
       '{"text": "a", "time": "yesterday"}': "yesterday", '{"text": "a", "time": [1]}': "time must be a number", '{"text": "a", "source_ids": "D1"}': "source_ids must be a tuple", '{"text": "a\\u0000"}': "NUL",
       '{"text": "a", "source_ids": 3}': "not iterable", '{"text": "\\ud83d"}': "half a character", '{"text": "a", "meta": 3}': "meta of", '{"text": "a", "time": NaN}': "time must be", "plain words": "there is --lines"}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_line_is_told_with_its_place(db, tmp_path, bad, capsys):
    path = tmp_path / "some.jsonl"
    path.write_text(f'{{"text": "one"}}\n{bad}\n{{"text": "three"}}\n')
    assert main(["add", db, str(path)]) == 2
    err = capsys.readouterr().err
    assert f"{path}:2: " in err and BAD[bad] in err and "Traceback" not in err and "1 units kept" in err
    assert main(["add", db, str(path), "--skip-bad"]) == 1 and "1 bad lines skipped" in capsys.readouterr().err
    with SQLite(db) as store:
        assert [u.text for u in store.units()] == ["one", "three"]


def test_bytes_that_are_no_text_and_a_mark_at_the_start(db, tmp_path, capsys):
    path = tmp_path / "some"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n{"text": "\xff"}\n{"text": "three"}')
    assert main(["add", db, str(path), "--skip-bad"]) == 1 and f"{path}:2: 'utf-8' codec can't decode" in capsys.readouterr().err
    with SQLite(db) as store:
        assert [u.text for u in store.units()] == ["one", "three"]


def test_a_chat_in_locomos_schema(db, tmp_path, capsys):
    samples = make(2, 0, 4)
    path = tmp_path / "locomo.json"
    path.write_text(json.dumps(samples))
    assert main(["add", db, str(path)]) == 0
    q = questions(samples[1], (4,))[0]
    assert main(["search", db, q.text, "-k", "40", "--json"]) == 0
    found = [json.loads(x)["id"] for x in capsys.readouterr().out.splitlines()]
    assert f"{samples[1]['sample_id']}/{q.evidence[0]}" in found
    path.write_text('[{"a": 1}]')
    assert main(["add", db, str(path)]) == 2 and "no conversations in LoCoMo's schema" in capsys.readouterr().err


def test_time_is_a_day_or_a_date():
    assert unit({"text": "a", "time": "1970-01-02T12:00"}).time == 1.5 == unit({"text": "a", "time": "1970-01-02T13:00+01:00"}).time and unit({"text": "a", "time": 3}).time == 3
    assert unit({"text": "a"}).id == unit({"text": "a", "time": None}).id != unit({"text": "a", "time": 0}).id != unit({"text": "b", "time": 0}).id
    u = Unit("a", "b", source_ids=("c",), expires=1.0)
    assert unit(json.loads(line(u))) == u


def test_delete_expired_and_purge(db, notes, capsys):
    main(["add", db, notes])
    assert main(["delete", db, "a"]) == 0 and main(["delete", db, "a"]) == 1 and main(["delete", db, "--expired"]) == 0
    assert main(["purge", db]) == 0 and "2 units purged" in capsys.readouterr().err
    assert b"Turin" not in Path(db).read_bytes()
    with SQLite(db) as store:
        assert [u.text for u in store.units()] == ["Ben has a cat"]


def test_users_do_not_meet(db, notes, capsys):
    main(["add", db, notes, "--user", "ada"])
    assert main(["search", db, "cat", "--user", "ben"]) == main(["search", db, "cat"]) == 1 and main(["search", db, "cat", "--user", "ada"]) == 0


@pytest.mark.parametrize("command, message", [
    ("search nowhere.db x", "there is no store nowhere.db; the first add makes one"), ("export nowhere.db", "there is no store"), ("stats setup.cfg.none", "there is no store"),
    ("stats README.md", "README.md is not a SQLite database"), ("add /no/such/folder/x.db README.md --lines", "/no/such/folder/x.db cannot be opened"), ("add {db} nothing.jsonl", "nothing.jsonl: No such file or directory"),
    ("add {db} tests", "tests: Is a directory"), ("setup {db} ada", "setup is for postgresql://"), ("index {db}", "index is for postgresql://"), ("search postgresql://ada:hunter2@127.0.0.1:1/x cat", "no connection to PostgreSQL at 127.0.0.1:1/x"),
    ("search postgresql+psycopg://ada:hunter2@h/x cat", "dsn is no PostgreSQL connection string"), ("stats host=127.0.0.1\tport=1\tpassword=hunter2", "no connection to PostgreSQL"),
    ("stats postgresql://ada:hunter2@[", "dsn is no PostgreSQL connection string"), ("export {db} --out /no/such/folder/x", "No such file or directory")])
def test_an_error_is_one_line_without_a_password(db, notes, command, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    if "export" in command or "index" in command:
        main(["add", db, notes])
        capsys.readouterr()
    assert main(command.format(db=db).split(" ")) == 2
    seen = capsys.readouterr()
    told = [x for x in seen.err.splitlines() if not x.endswith("units kept")]
    assert len(told) == 1 and told[0].startswith("error: ") and message in told[0] and "hunter2" not in seen.err + seen.out
    assert not (ROOT / "nowhere.db").exists()


def test_a_pipe_that_ends_early_and_a_screen_of_ascii(db, tmp_path):
    path = tmp_path / "some"
    path.write_text("".join(f"行 number {i} 😀\n" for i in range(5000)), "utf8")
    assert main(["add", db, str(path), "--lines"]) == 0
    done = shell(f"M export {db} | head -1")
    assert done.returncode == 0 and done.stderr == "" and json.loads(done.stdout)["text"] == "行 number 0 😀"
    done = shell(f"M search {db} number", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "\\u884c" in done.stdout and done.stderr == ""
    done = shell(f"M search {db} number -k 1 --json", env={"PYTHONIOENCODING": "latin-1"})
    assert json.loads(done.stdout)["text"] == "行 number 0 😀"
    assert shell(f"M export {db} | M add {db}2 -", env={"PYTHONIOENCODING": "ascii"}).returncode == 0
    with SQLite(db) as a, SQLite(db + "2") as b:
        assert list(a.units()) == list(b.units())


def test_lines_of_a_pipe_are_kept_as_they_come(db):
    child = subprocess.Popen([sys.executable, "-m", "minimem.text", "add", db, "-", "--lines"], cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdin.write(b"one\ntwo\nthr")
    child.stdin.flush()
    wait, there = time.time() + 60, []
    with SQLite(db) as store:
        while len(there) < 2 and time.time() < wait:
            time.sleep(0.02)
            there = [u.text for u in store.units()]
        assert there == ["one", "two"]
        child.stdin.write(b"ee\r\nfour")
        assert b"4 units kept" in child.communicate()[1]
        assert [u.text for u in store.units()] == ["one", "two", "three", "four"]


def test_a_day_before_the_calendar(db, capsys):
    with SQLite(db) as store:
        store.write(Unit("a", "cat", time=-719_163.0))
    assert main(["search", db, "cat", "-k", "9" * 30]) == 0 and capsys.readouterr().out == "a\t\tcat\n"


def test_help_shows_examples():
    done = shell("M add --help")
    assert done.returncode == 0 and "tail -f log.txt |" in done.stdout and "exit codes" in done.stdout
    assert shell("M ").returncode == 2
    assert set(parser()._subparsers._group_actions[0].choices) == {"add", "search", "stats", "export", "delete", "purge", "index", "setup"}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_stopped_keeps_what_it_acknowledged_and_goes_on(db, tmp_path, how):
    path = tmp_path / "some"
    path.write_text("".join(f"line number {i} of a long file\n" for i in range(20_000)))
    run = [sys.executable, "-m", "minimem.text", "add", db, str(path), "--lines"]
    child = subprocess.Popen(run, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def kept():
        try:
            with sqlite3.connect(f"file:{db}?mode=ro", uri=True) as reader:
                return reader.execute("SELECT count(*) FROM unit").fetchone()[0]
        except sqlite3.OperationalError:
            return 0
    while kept() < 2000 and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(how)
    said = child.communicate()[1]
    assert child.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL), said
    if how == signal.SIGINT:
        assert "interrupted; what was kept stays" in said and "Traceback" not in said
    with SQLite(db) as store:
        there = [u.text for u in store.units()]
        store.check()
    assert 2000 <= len(there) < 20_000 and len(there) % 1000 == 0 and there == [f"line number {i} of a long file" for i in range(len(there))]
    assert subprocess.run(run, cwd=ROOT, capture_output=True).returncode == 0
    with SQLite(db) as store:
        assert store.stats()["units"] == 20_000 and store.stats()["deleted"] == 0


def test_the_same_commands_on_postgresql(notes, tmp_path, capsys):
    import pg
    dsn = pg.fresh(ready=False)
    assert main(["setup", dsn.owner, "ada", "ben"]) == 0
    ada, ben = dsn.of("ada"), dsn.of("ben")
    for _ in range(2):
        assert main(["add", ada, notes]) == 0
    assert "0 units kept, 3 were there already" in capsys.readouterr().err
    assert main(["search", ada, "Turin"]) == 0 and capsys.readouterr().out == "a\t2023-05-08\tAda moved to Turin\n"
    assert main(["search", ben, "Turin"]) == 1 and main(["search", ada, "Turin", "--user", "ben"]) == 2 and "ada may not act for 'ben'" in capsys.readouterr().err
    assert main(["export", ada, "--out", str(tmp_path / "out")]) == 0 and main(["add", str(tmp_path / "x.db"), str(tmp_path / "out")]) == 0
    assert main(["delete", ada, "a"]) == 0 and main(["purge", ada]) == 0 and main(["stats", ada, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["deleted"] == 0
    assert main(["index", ada]) == 2 and "has no vectors that HNSW can take" in capsys.readouterr().err
    assert main(["stats", dsn.owner]) == 2 and "policies do not bind" in capsys.readouterr().err


@pytest.mark.parametrize("there", [True, False])
def test_progress_is_shown_to_a_person_if_tqdm_is_there(monkeypatch, there):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(command_line, "find_spec", lambda name: there or None)
    with command_line.progress() as told:
        time.sleep(1.1)                                                 # it shows itself after a second
        told(7)
    assert ("7 units" in screen.getvalue()) == there
