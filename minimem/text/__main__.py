"""A text memory from the command line: python -m minimem.text add | search | stats | export | delete | purge | setup DB ..."""
from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from .storable import StoreError, row
from .unit import Unit

EPOCH, FIELDS, BATCH = datetime(1970, 1, 1), ("id", "text", "kind", "source_ids", "time", "expires", "meta"), 1000
HELP = """\
DB is a SQLite file, made by the first add, or postgresql://user@host/database (password in the URL or in PGPASSWORD).

  python -m minimem.text add chat.db notes.jsonl                  lines such as {"text": "Ada moved to Turin", "time": "2023-05-08"}
  tail -f log.txt | python -m minimem.text add chat.db - --lines  each line of plain text is a unit, equal lines one
  python -m minimem.text search chat.db "Where does Ada live?" --words 250
  python -m minimem.text export chat.db | python -m minimem.text add copy.db -
  python -m minimem.text delete chat.db D1:3 && python -m minimem.text purge chat.db
  python -m minimem.text setup postgresql://owner@host/chats ada ben

exit codes: 0 done; 1 nothing found, or bad lines skipped; 2 an error, told in one line; 130 interrupted"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("python -m minimem.text", description="A text memory that keeps what it acknowledged.", epilog=HELP,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Any, about: str, user: bool = True) -> argparse.ArgumentParser:
        p = commands.add_parser(run.__name__, help=about, description=about, epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
        p.set_defaults(run=run)
        p.add_argument("db", metavar="DB", help="a SQLite file, or postgresql://...")
        if user:
            p.add_argument("--user", default="", help="whose memory (PostgreSQL: the login's own, if left out)")
            p.add_argument("--vectors", choices=("minilm", "none"), default="none", help="keep and use vectors of MiniLM too; 10 ms a unit")
        return p

    p = command(add, "Keep units: lines of JSON (text; and id, kind, source_ids, time, expires, meta), or a file in LoCoMo's schema.")
    p.add_argument("files", nargs="+", metavar="FILE", help="- is standard input")
    p.add_argument("--lines", action="store_true", help="plain text, a unit a line")
    p.add_argument("--skip-bad", action="store_true", help="tell bad lines and go on")
    p = command(search, "The units that fit a question best, best first.")
    p.add_argument("query")
    how = p.add_mutually_exclusive_group()
    how.add_argument("--words", type=float, metavar="N", help="as many as fit N words")
    how.add_argument("-k", type=int, default=10, metavar="N", help="N units (10)")
    p.add_argument("--json", action="store_true", help="a line of JSON for each")
    command(stats, "How many units, how many bytes, which model.").add_argument("--json", action="store_true", help="as JSON")
    command(export, "All units as lines of JSON, in the order written.").add_argument("--out", type=Path, metavar="FILE")
    p = command(delete, "Units are found no longer; their bytes go with purge.")
    p.add_argument("ids", nargs="*", metavar="ID")
    p.add_argument("--expired", action="store_true", help="those whose time has come, too")
    command(purge, "Take the bytes of what was deleted or replaced out of the files.")
    command(index, "PostgreSQL with vectors: build HNSW, once, after the bulk is written.")
    command(setup, "PostgreSQL: make the tables and the roles of users, once, as the owner of the database.", user=False).add_argument("users", nargs="+", metavar="USER")
    return top


# ------------------------------------------------------------------ the commands

def add(a: argparse.Namespace) -> int:
    new = same = bad = 0

    def good() -> Iterator[Unit | None]:
        nonlocal bad
        for where, made in chain.from_iterable(read(f, a.lines) for f in a.files):
            if made is None or isinstance(made, Unit):
                yield made
            elif a.skip_bad:
                bad += 1
                print(f"{where}: {made}; skipped", file=sys.stderr)
            else:
                raise ValueError(f"{where}: {made}")

    def until_bad(units: Iterator[Unit | None]) -> Iterator[list[Unit]]:
        """Batches, as large as BATCH or as what has come (None); what was read before an error is kept before the error is told."""
        some: list[Unit] = []
        try:
            for unit in units:
                some += [unit] * (unit is not None)
                if some and (unit is None or len(some) == BATCH):
                    yield some
                    some = []
        except (ValueError, OSError):
            if some:
                yield some
            raise
        if some:
            yield some

    with opened(a, new=True) as store, progress() as tick:
        again = store.stats()["units"] > 0                              # perhaps an interrupted run, repeated
        try:
            for some in until_bad(good()):
                todo = [u for u in some if not (again and store.get(u.id) == u)]
                new += store.write_all(todo)
                same += len(some) - len(todo)
                tick(len(some))
        finally:
            print(f"{new} units kept" + f", {same} were there already" * bool(same) + f", {bad} bad lines skipped" * bool(bad), file=sys.stderr)
    return 1 if bad else 0


def search(a: argparse.Namespace) -> int:
    with opened(a) as store:
        found = store.rank(a.query, a.k) if a.words is None else store.read(a.query, a.words)
    for u in found:
        day = "" if u.time is None or not -7e5 < u.time < 1e6 else f"{EPOCH + timedelta(days=u.time):%Y-%m-%d}"
        print(line(u) if a.json else "\t".join((u.id, day, " ".join(u.text.split()))))
    return 0 if found else 1


def stats(a: argparse.Namespace) -> int:
    with opened(a) as store:
        told = store.stats()
    if a.json:
        print(json.dumps(told))
    else:
        parts = {f"bytes, {part}": size for part, size in told.pop("bytes").items()}
        for name, x in {**told, **parts}.items():
            print(f"{name:18} {'none' if x is None else f'{x:,}' if isinstance(x, int) else x}")
    return 0


def export(a: argparse.Namespace) -> int:
    with opened(a) as store:
        if a.out:
            part = a.out.with_name(a.out.name + ".part")                # a full file or none
            with part.open("w", encoding="utf8") as f:
                f.writelines(line(u) + "\n" for u in store.units())
            part.replace(a.out)
        else:
            for u in store.units():
                print(line(u))
    return 0


def delete(a: argparse.Namespace) -> int:
    with opened(a) as store:
        count = store.delete(a.ids) + (store.forget(time.time() / 86400) if a.expired else 0)
    print(f"{count} units deleted; their bytes are in the files until purge", file=sys.stderr)
    return 0 if count else 1


def purge(a: argparse.Namespace) -> int:
    with opened(a) as store:
        print(f"{store.purge()} units purged", file=sys.stderr)
    return 0


def index(a: argparse.Namespace) -> int:
    expect_remote(a)
    with opened(a) as store:
        store.index()
    return 0


def setup(a: argparse.Namespace) -> int:
    from . import postgres
    expect_remote(a)
    postgres.setup(a.db, a.users)
    print(f"ready for {', '.join(a.users)}; a new role has no password yet (psql: \\password {a.users[0]})", file=sys.stderr)
    return 0


# ------------------------------------------------------------------ units in and out

def read(name: str, lines: bool) -> Iterator[tuple[str, Unit | str | None]]:
    """(where, unit, or what is wrong) for each line of a file or of standard input; None when all that has come so far was given."""
    with (open(name, "rb") if name != "-" else os.fdopen(os.dup(0), "rb")) as f:
        shown, head = ("standard input" if name == "-" else name), b"" if name == "-" else f.peek(64).lstrip(b"\xef\xbb\xbf \t\r\n")
        if head.startswith(b"[") and not lines:
            yield from samples(shown, f)
            return
        n = 0
        for raw in arriving(f) if name == "-" else f:
            if raw is None:
                yield shown, None
                continue
            n += 1
            try:
                text = raw.decode("utf-8-sig" if n == 1 else "utf-8").strip()
                if text:
                    made = unit({"text": text} if lines else json.loads(text))
                    row(made)
                    yield f"{shown}:{n}", made
            except json.JSONDecodeError as e:
                yield f"{shown}:{n}", f"no JSON ({e.msg} at column {e.colno}); for plain text there is --lines"
            except (ValueError, TypeError, OverflowError, RecursionError) as e:
                yield f"{shown}:{n}", str(e)


def arriving(f: BinaryIO) -> Iterator[bytes | None]:
    """The lines of a pipe, and None after those that have come so far: what follows may take a day."""
    rest = bytearray()
    while come := f.read1(1 << 16):
        rest += come
        if b"\n" in come:
            *some, rest = rest.split(b"\n")
            yield from (*some, None)
    yield rest


def samples(name: str, f: BinaryIO) -> Iterator[tuple[str, Unit | str]]:
    """The turns of conversations in LoCoMo's schema; the conversation's name goes before each id."""
    from ..tasks.dialogue import turns
    try:
        for i, sample in enumerate(json.load(f)):
            for u in turns(sample):
                yield name, replace(u, id=f"{sample.get('sample_id', i)}/{u.id}", source_ids=())
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        yield name, f"a JSON list, but no conversations in LoCoMo's schema ({type(e).__name__}: {e}); wanted a JSON object on each line"


def unit(told: Any) -> Unit:
    """A unit from what a line says; without an id it gets one from its content. Raises ValueError if it says no unit."""
    if not isinstance(told, dict) or "text" not in told:
        raise ValueError(f"wanted a JSON object with \"text\", saw {json.dumps(told, ensure_ascii=False)[:60]}")
    if unknown := [k for k in told if k not in FIELDS]:
        raise ValueError(f"unknown field {unknown[0]!r}, wanted {', '.join(FIELDS)} (anything else goes into meta)")
    told = {k: x for k, x in told.items() if x is not None}
    for name in ("time", "expires"):
        if isinstance(told.get(name), str):
            at = datetime.fromisoformat(told[name])
            told[name] = ((at - at.utcoffset() if at.tzinfo else at).replace(tzinfo=None) - EPOCH) / timedelta(days=1)
    told.setdefault("id", sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:20])
    return Unit(**told)


def line(u: Unit) -> str:
    """A unit as ``add`` reads it."""
    told = {name: getattr(u, name) for name in FIELDS if getattr(u, name) not in (None, {})}
    if u.source_ids == (u.id,):
        del told["source_ids"]
    return json.dumps(told, ensure_ascii=False)


# ------------------------------------------------------------------ the store, the screen

def remote(db: str) -> bool:
    return "://" in db or "password=" in db                             # not a file, and no message may show it


def expect_remote(a: argparse.Namespace) -> None:
    if not remote(a.db):
        raise ValueError(f"{a.run.__name__} is for postgresql://..., saw {a.db!r}; a SQLite file needs none")


def opened(a: argparse.Namespace, new: bool = False) -> Any:
    """The store that DB names. Raises StoreError if there is none, unless a new one may be made."""
    embed = None
    if a.vectors == "minilm":
        from ..pretrained import minilm
        embed = minilm()
    if remote(a.db):
        from .postgres import Postgres
        return Postgres(a.db, a.user, embed)
    from .store import SQLite
    if not (new or Path(a.db).exists()):
        raise StoreError(f"there is no store {a.db}; the first add makes one")
    return SQLite(a.db, a.user, embed)


@contextmanager
def progress() -> Iterator[Any]:
    """A counter on the screen, if a person looks and tqdm is there."""
    if not (sys.stderr.isatty() and find_spec("tqdm")):
        yield lambda n: None
        return
    from tqdm import tqdm
    with tqdm(unit=" units", delay=1) as bar:
        yield bar.update


def main(argv: Sequence[str] | None = None) -> int:
    a = parser().parse_args(argv)
    try:
        sys.stdout.reconfigure(errors="backslashreplace")
        if a.run is export or getattr(a, "json", False):
            sys.stdout.reconfigure(encoding="utf8")                     # lines of JSON, whatever the screen is
        code = a.run(a)
        sys.stdout.flush()
        return code
    except BrokenPipeError:                                             # | head has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        print("interrupted; what was kept stays, the same command again goes on", file=sys.stderr)
        return 130
    except (StoreError, ValueError, OSError, ImportError) as e:
        told = f"{e.filename}: {e.strerror}" if isinstance(e, OSError) and e.filename else str(e)
        print("error: " + " ".join(told.split()), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
