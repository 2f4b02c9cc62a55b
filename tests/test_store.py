"""One contract for both stores: what is written comes back, is found, is forgotten, is gone; users never meet; nothing is left half done."""
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import cache
from pathlib import Path
from zlib import crc32

import numpy as np
import pg
import pytest

from minimem.tasks.dialogue import make, questions, turns
from minimem.text.dense import Dense
from minimem.text.fusion import minmax
from minimem.text.postgres import Postgres
from minimem.text.storable import StoreError
from minimem.text.store import SQLite
from minimem.text.unit import Memory, Unit, fill, tokens

HERE, NAN = Path(__file__).parent, float("nan")
SECRET = "Xylophanes-Quokka-77"


@cache
def direction(word):
    return np.random.default_rng(crc32(word.encode())).standard_normal(24)


class Hashed:
    """An embedder without a model: each word adds a fixed random vector."""
    name, dim = "hashed-words", 24

    def __call__(self, texts):
        x = [sum(map(direction, tokens(t)), np.full(24, 1e-3)) for t in texts]
        return np.array([v / np.linalg.norm(v) for v in x], np.float32).reshape(len(texts), 24)


class Other(Hashed):
    name, dim = "another-model", 24


@pytest.fixture(params=["sqlite", "postgres"])
def open_store(request, tmp_path):
    """open_store(user, embed): a store in the one, at first empty, database of this test."""
    opened = []
    if request.param == "postgres":
        dsn = pg.fresh("ada", "ben")

    def make_one(user, embed):
        return Postgres(dsn[user], user, embed) if request.param == "postgres" else SQLite(tmp_path / "chat.db", user, embed)

    def opener(user="ada", embed=None):
        opened.append(make_one(user, embed))
        return opened[-1]

    opener.kind = request.param
    yield opener
    for store in opened:
        store.close()


def cats(n=5, start=0, **fields):
    return [Unit(f"D1:{i}", f"cat number{i} and a {'dog' if i % 2 else 'fish'}", **fields) for i in range(start, start + n)]


def ids(units):
    return [u.id for u in units]


def state(store):
    """Everything that a caller can see."""
    told = {k: v for k, v in store.stats().items() if k != "bytes"}
    return list(store.units()), store.generation, told, ids(store.rank("cat dog", None)), ids(store.read("cat", 20))


# ------------------------------------------------------------------ written, and back

ODD = {
    "chinese": Unit("D1:1", "我上个月搬到北京了", "turn", time=19500.25),
    "emoji": Unit("emoji", "a 👩‍👩‍👧 and a \U0001f9a6", meta={"mood": "🦦", "深": [1, 2.5, None, True, {"x": "é"}]}),
    "summary": Unit("S1", "what was said", "summary", ("D1:3", "D1:1", "D1:3"), time=-3.5, expires=1e9),
    "fact": Unit("F1", "a fact", "fact", ("D1:3",)),
    "empty": Unit("", "", "", meta={}),
    "quotes": Unit("'; DROP TABLE unit; --", "\"' OR 1=1; -- %s ? :x \\ $1 {}\n\t\r", 'k"i\'nd', ("a'b", "c\"d")),
    "backslashes": Unit("C:\\new\\x41", "a\\101"),
    "an id like bytes": Unit("\\x41", "a"),
    "big": Unit("big", "word " * 200_000, time=0.0),
    "combining": Unit("cafe\u0301", "cafe\u0301 \u202e right to left \ufeff", meta={"nul as an escape": "a\u0000b"}),
    "numbers": Unit("n", "x", time=5, expires=math.inf, meta={"big": 2**70, "small": 1e-300, "neg": -0.5}),
}


@pytest.mark.parametrize("unit", ODD.values(), ids=ODD)
@pytest.mark.parametrize("embed", [None, Hashed()], ids=["words", "vectors"])
def test_every_field_comes_back_as_it_was(open_store, unit, embed):
    store = open_store(embed=embed)
    store.write(unit)
    assert store.get(unit.id) == unit and list(store.units()) == [unit]
    store.close()
    again = open_store(embed=embed)
    assert again.get(unit.id) == unit and again.get(unit.id).source_ids == unit.source_ids
    again.write(unit)
    assert list(again.units()) == [unit] and again.delete([unit.id]) == 1 and again.get(unit.id) is None
    again.check()


BAD = {
    "no unit": ("a cat", "record must be a Unit, saw str"),
    "half a character": (Unit("D1", "broken \ud83d emoji"), "text holds half a character at 7"),
    "half a character in the id": (Unit("\udc00", "x"), "id holds half a character"),
    "nul": (Unit("D1", "a\0b"), "text holds a NUL character at 1"),
    "nul in a source": (Unit("D1", "a", source_ids=("x\0",)), "source id holds a NUL"),
    "a number as source": (Unit("D1", "a", source_ids=(7,)), "source id must be a string, saw int"),
    "kind": (Unit("D1", "a", 3), "kind must be a string, saw int"),
    "time": (Unit("D1", "a", time="yesterday"), "time must be a number of days or None, saw 'yesterday'"),
    "nan": (Unit("D1", "a", time=NAN), "time must be a number of days or None, saw nan"),
    "time that no float can hold": (Unit("D1", "a", time=10**400), "time must be a number of days or None, saw 1000"),
    "expires": (Unit("D1", "a", expires=NAN), "expires must be a number of days or None"),
    "meta with a set": (Unit("D1", "a", meta={"x": {1}}), "meta of 'D1' must be a dict that JSON can write"),
    "meta with nan": (Unit("D1", "a", meta={"x": NAN}), "meta of 'D1' must be a dict that JSON can write"),
    "meta with a tuple": (Unit("D1", "a", meta={"x": (1, 2)}), "JSON gives back equal"),
    "meta with a number as key": (Unit("D1", "a", meta={1: 2}), "JSON gives back equal"),
    "meta with half a character": (Unit("D1", "a", meta={"x": "\ud83d"}), "meta holds half a character"),
    "meta a list": (Unit("D1", "a", meta=[1]), "meta of 'D1' must be a dict"),
}


@pytest.mark.parametrize("record, message", BAD.values(), ids=BAD)
def test_what_would_not_come_back_is_refused_and_nothing_changes(open_store, record, message):
    store = open_store()
    store.write_all(cats())
    before = state(store)
    with pytest.raises(ValueError, match=message):
        store.write(record)
    for place in (0, 300):                                              # in the first batch, and when some are already in the database
        with pytest.raises(ValueError, match=message):
            store.write_all([*cats(place, 100), record, Unit("D1:0", "replaced")])
    assert state(store) == before
    store.check()


@pytest.mark.parametrize("call, message", [
    (lambda s: s.get(3), "id must be a string, saw int"), (lambda s: s.get(None), "id must be a string"),
    (lambda s: s.delete("D1:1"), "ids must be a list of ids, saw the string 'D1:1'"),
    (lambda s: s.delete(["D1:1", 2]), "id must be a string, saw int"),
    (lambda s: s.rank("cat", -1), "k must be >= 0, saw -1"),
    (lambda s: s.rank(None), "text must be a string"), (lambda s: s.read(7), "text must be a string"),
    (lambda s: s.read("cat", -1), "words is a budget"), (lambda s: s.read("cat", NAN), "words is a budget"),
    (lambda s: s.read("cat", "many"), "words is a budget"),
    (lambda s: s.forget(NAN), "now must be a number of days"), (lambda s: s.forget(None), "now must be a number of days"),
    (lambda s: s.forget("today"), "now must be a number of days")])
def test_wrong_questions(open_store, call, message):
    store = open_store()
    store.write_all(cats())
    before = state(store)
    with pytest.raises(ValueError, match=message):
        call(store)
    assert state(store) == before


def test_nothing_in_nothing_out(open_store):
    store = open_store()
    assert store.rank("cat") == store.read("cat") == list(store.units()) == [] and store.get("x") is None
    assert store.delete(["x"]) == store.delete([]) == store.forget(1e9) == store.purge() == store.write_all([]) == 0
    assert store.generation == 0 and store.stats()["units"] == 0
    store.check()
    vectors = open_store("ben")
    assert vectors.rank("cat", None) == []


def test_in_the_order_written_and_a_replaced_unit_is_new(open_store):
    store, memory = open_store(), Memory()
    r = random.Random(0)
    for _ in range(3):
        some = [Unit(f"D{r.randrange(12)}", f"cat {r.random()}") for _ in range(15)]         # ids more than once, within a call too
        store.write_all(u for u in some)
        for u in some:
            memory.write(u)
        assert list(store.units()) == list(memory.units.values())
        store.check()
    assert len(store.rank("cat", None)) == len(memory.units) == store.stats()["units"] and store.stats()["deleted"] == 45 - len(memory.units)


def test_more_than_fits_one_batch(open_store):
    store = open_store(embed=Hashed())
    many = [Unit(f"D{i}", f"cat n{i}", source_ids=(f"D{i}", "x") if i % 3 else ()) for i in range(1000)]
    assert store.write_all(iter(many)) == 1000 and list(store.units()) == many
    assert ids(store.rank("n778", 1)) == ["D778"] and store.generation == 1
    assert len(store.read("cat", math.inf)) == 1000 and store.read("cat", 7) == store.rank("cat", 3)
    store.check()


def test_units_can_be_read_while_they_are_rewritten(open_store):
    store = open_store()
    store.write_all(cats(600))
    seen = []
    for u in store.units():
        store.write(Unit(u.id, "bird", meta={"was": u.text}))
        seen.append(u.id)
    assert len(seen) == len(set(seen)) <= 600 and store.stats()["units"] == 600
    assert store.write_all(Unit(u.id, "cow") for u in store.units()) == 600 and len(store.rank("cow", None)) == 600


def test_a_generator_is_taken_from_bit_by_bit_and_its_failure_undoes_all(open_store):
    store = open_store(embed=Hashed())
    store.write_all(cats())
    before, taken = state(store), []

    def some(stop):
        for i in range(2000):
            if i == stop:
                raise RuntimeError("the source broke")
            taken.append(i)
            yield Unit(f"D1:{i}", "cat, written again")
    for stop in (0, 1, 1500):
        with pytest.raises(RuntimeError, match="the source broke"):
            store.write_all(some(stop))
        assert state(store) == before

    class Stop(Hashed):
        def __call__(self, texts):
            if any("again" in t for t in texts) and len(taken) > 1600:
                raise KeyboardInterrupt
            return super().__call__(texts)
    taken.clear()
    store.embed = Stop()
    with pytest.raises(KeyboardInterrupt):
        store.write_all(some(None))
    assert 1600 < len(taken) < 2000 and state(store) == before
    store.check()


# ------------------------------------------------------------------ found

def definition(texts, query):
    """FTS5's formula: k₁ = 1.2, b = ¾, ln((N − n + ½)/(n + ½)) but at least 10⁻⁶; a repeated word counts repeatedly."""
    bags = [Counter(tokens(t)) for t in texts]
    N, mean = len(bags), sum(map(Counter.total, bags)) / max(len(bags), 1)
    s = np.zeros(N)
    for t in tokens(query):
        n = sum(t in bag for bag in bags)
        if n:
            idf = max(math.log((N - n + 0.5) / (n + 0.5)), 1e-6)
            s += [idf * bag[t] * 2.2 / (bag[t] + 1.2 * (0.25 + 0.75 * bag.total() / mean)) for bag in bags]
    return s


def same_order(got, units, scores, least):
    """The ranking is by score; equal scores (to eleven digits) by age."""
    place = {u.id: i for i, u in enumerate(units)}
    want = sorted((i for i in range(len(units)) if scores[i] > least), key=lambda i: (-float(f"{scores[i]:.11g}"), i))
    assert [place[u.id] for u in got] == want


QUERIES = ("When did Dilan camp by the lake?", "lake lake camp", "Which books has Farah read", "zebra", "", "the of",
           "What food does Dilan like now, and what job?")


@pytest.mark.parametrize("seed", [0, 1])
def test_full_text_ranks_by_its_formula_whatever_happened_before(open_store, seed):
    store, units = open_store(), turns(make(1, seed, 5)[0])
    other = open_store("ben")
    other.write_all(Unit(u.id, u.text.replace("a", "lake ")) for u in units[:50])
    store.write_all([Unit(u.id, "lake camp book") for u in units[::3]])                       # will be replaced
    store.write_all(units)
    store.delete(ids(units[5:20]))
    units = units[:5] + units[20:]
    for query in (*QUERIES, *(q.text for q in questions(make(1, seed, 5)[0])[:5])):
        same_order(store.rank(query, None), units, definition([u.text for u in units], query), 0)
        assert store.rank(query, 10**20) == store.rank(query, None) and store.rank(query, 7) == store.rank(query, None)[:7] and store.rank(query) == store.rank(query, 10) and store.rank(query, 0) == []
        assert store.read(query, 60) == fill(store.rank(query, None), 60)


def test_with_vectors_the_two_are_added_over_all_units(open_store):
    embed, units = Hashed(), turns(make(1, 2, 4)[0])
    store, dense = open_store(embed=embed), Dense(embed)
    store.write_all(units[:60])
    store.rank("lake")                                                                          # the matrix is there, and must follow
    store.write_all(units[40:])
    store.delete(ids(units[50:55]))
    units = [*units[:40], *units[40:50], *units[55:]]
    for u in units:
        dense.write(u)
    for query in QUERIES:
        scores = minmax([definition([u.text for u in units], query), dense.scores(query)])
        got = store.rank(query, None)
        place = {u.id: i for i, u in enumerate(units)}
        at = scores[[place[u.id] for u in got]]
        assert len(got) == len(units) and (np.diff(at) < 1e-6).all()
        assert store.rank(query, 5) == got[:5] and store.read(query, 50) == fill(got, 50)


def test_the_matrix_follows_what_another_connection_does(open_store):
    mine, theirs = open_store(embed=Hashed()), open_store(embed=Hashed())
    mine.write_all(cats(6))
    for change in (lambda s: s.write(Unit("new", "zebra")), lambda s: s.delete(["D1:1"]), lambda s: s.purge(),
                   lambda s: s.write(Unit("D1:2", "zebra")), lambda s: s.write(Unit("D1:9", "ant")), lambda s: s.delete(["D1:9"]),
                   lambda s: s.purge(), lambda s: s.write(Unit("D1:10", "bee"))):
        before = mine.generation
        change(theirs)
        assert mine.generation > before or mine.generation == theirs.generation
        for query in ("zebra", "bee", "cat"):
            assert mine.rank(query, None) == theirs.rank(query, None) == open_store(embed=Hashed()).rank(query, None)
            assert sorted(ids(mine.rank(query, None))) == sorted(ids(mine.units()))


def test_the_matrix_forgets_what_was_rolled_back(open_store):
    store = open_store(embed=Hashed())
    store.write_all(cats(3))
    there = []

    def some():
        for i in range(600):
            yield Unit(f"E{i}", f"zebra {i}")
            if i in (300, 599):
                there.append(len(store.rank("zebra", None)))                                    # reads what is being written
        raise RuntimeError
    with pytest.raises(RuntimeError):
        store.write_all(some())
    assert 3 < there[0] < there[1]
    store.write_all([Unit(f"F{i}", f"horse {i}") for i in range(300)])
    assert store.rank("zebra horse", None) == open_store(embed=Hashed()).rank("zebra horse", None)


HOSTILE = ['"', '""', '" OR *', "*", "NEAR(cat dog)", "terms:cat", "{terms}: cat", "-cat", "cat AND", "cat NOT dog", "^cat", "cat*", "(cat",
           "cat + dog", "'", "'; DROP TABLE unit; --", "%", "_", "\\", "cat\0dog", "\ud83d cat", "cat:* & dog", "cat | dog <-> !", "$1", "rank MATCH 'bm25(10)'",
           "😀", "，。！", "ﬀ Ⅷ ß İ ǅ ſ", "नमस्ते 한국어 ไทย עברית"]


@pytest.mark.parametrize("query", HOSTILE)
def test_a_question_is_words_and_nothing_else(open_store, query):
    store = open_store()
    store.write_all([*cats(), *(Unit(f"H{i}", q) for i, q in enumerate(HOSTILE) if "\0" not in q and "\ud83d" not in q)])
    units = list(store.units())
    same_order(store.rank(query, None), units, definition([u.text for u in units], query), 0)
    assert len(list(store.units())) == len(units)


def test_any_letters_of_any_script_are_found(open_store):
    store, r = open_store(), random.Random(0)
    letters = [c for c in map(chr, range(0x80, 0x31350)) if c.isalnum()]
    texts = ["cafe", "café", "straße strasse", *(" ".join("".join(r.choices(letters, k=3)) for _ in range(4)) for _ in range(300))]
    terms = [set(tokens(t)) for t in texts]
    store.write_all(Unit(str(i), t) for i, t in enumerate(texts))
    for i, text in enumerate(texts):
        for word in text.split():
            assert set(ids(store.rank(word, None))) == {str(j) for j, held in enumerate(terms) if held & set(tokens(word))}, (i, word)


def test_a_question_as_long_as_a_book(open_store):
    store = open_store()
    store.write_all([*cats(), Unit("x", "quokka")])
    assert ids(store.rank(" ".join(f"nothing{i}" for i in range(3000)) + " quokka")) == ["x"]
    assert len(store.rank(" ".join(f"number{i % 5} cat dog" for i in range(3000)))) == 5
    assert store.rank("a" * 100_000) == []


# ------------------------------------------------------------------ forgotten, deleted, purged

def test_forget_drops_what_has_expired_and_nothing_else(open_store):
    store = open_store(embed=Hashed())
    store.write_all([Unit("a", "cat"), Unit("b", "cat bird", expires=10.0), Unit("c", "cat", expires=20.0), Unit("d", "cat", expires=math.inf)])
    assert store.forget(9.9) == 0 and store.generation == 1
    assert store.forget(10) == 1 and store.forget(10.0) == 0 and store.generation == 2
    assert sorted(ids(store.rank("bird cat", None))) == ["a", "c", "d"] == sorted(ids(store.read("cat", 99))) and store.get("b") is None
    assert store.stats()["deleted"] == 1 and store.purge() == 1 and store.stats()["deleted"] == 0
    store.check()


@pytest.mark.parametrize("embed", [None, Hashed()], ids=["words", "vectors"])
def test_deleted_is_found_no_longer_by_any_way(open_store, embed):
    store = open_store(embed=embed)
    store.write_all([*cats(4), Unit("s", f"the {SECRET} of the cat", source_ids=("D1:0", "D1:1"))])
    assert store.delete(x for x in ["s", "s", "none", "D1:1"]) == 2 and store.generation == 2
    assert store.get("s") is None and ids(store.units()) == ["D1:0", "D1:2", "D1:3"]
    for found in (store.rank(f"{SECRET} quokka cat", None), store.read("quokka", 99), store.rank("quokka", None)):
        assert "s" not in ids(found)
    assert store.stats()["units"] == 3 and store.stats()["deleted"] == 2 and store.sizes()["deleted"] > len(SECRET)
    store.check()
    store.write(Unit("s", "a new one under the old id"))
    assert store.get("s").text.startswith("a new") and store.stats()["deleted"] == 2
    assert store.purge() == 2 and store.purge() == 0 and store.sizes()["deleted"] == 0
    assert ids(store.units()) == ["D1:0", "D1:2", "D1:3", "s"] == sorted(ids(store.rank("cat old", None)))
    store.check()


def test_generation_rises_with_every_change_of_ones_own(open_store):
    store, other = open_store(), open_store("ben")
    seen = [store.generation]
    for change in (lambda: store.write(Unit("a", "cat")), lambda: store.write(Unit("a", "cat")), lambda: store.write_all(cats()),
                   lambda: store.delete(["a"]), store.purge, lambda: store.write(Unit("b", "x", expires=1)), lambda: store.forget(2)):
        change()
        seen.append(store.generation)
    assert seen == sorted(set(seen)) and other.generation == 0
    other.write_all(cats(300))
    assert store.generation == seen[-1] and open_store().generation == seen[-1]


def test_sizes_follow_what_is_held(open_store):
    store = open_store(embed=Hashed())
    assert store.sizes()["text"] == store.sizes()["vectors"] == store.sizes()["deleted"] == 0
    store.write_all(cats(50))
    one = store.sizes()
    assert set(one) == {"text", "full text", "vectors", "deleted"} and one["vectors"] >= 50 * 24 * 4
    assert one["text"] >= sum(len(u.text + u.id) for u in cats(50))
    assert one["deleted"] == 0 and store.nbytes() == sum(one.values()) and store.stats()["bytes"] == one
    store.delete(ids(cats(20)))
    two = store.sizes()
    assert two["deleted"] > 0 and two["vectors"] == pytest.approx(0.6 * one["vectors"], rel=0.1) and two["text"] < one["text"]
    store.purge()
    assert store.sizes()["deleted"] == 0 and store.nbytes() < sum(one.values())


# ------------------------------------------------------------------ users

def test_two_users_with_the_same_ids_never_meet(open_store):
    ada, ben = open_store("ada", Hashed()), open_store("ben", Hashed())
    ada.write_all([Unit(f"D{i}", f"cat secret{i} of ada", source_ids=("x", "y"), expires=5.0) for i in range(20)])
    ada.delete(["D19"])                                                                           # not purged: whoever purges, purges their own
    before = state(ada), ada.sizes()
    ben.write_all([Unit(f"D{i}", f"dog{i} of ben", expires=5.0) for i in range(10, 40)])          # the same ids replace nothing
    ben.write(Unit("D0", "cat of ben"))
    assert ben.delete([f"D{i}" for i in range(10)] + ["' OR 1=1 --", "%", "D_"]) == 1
    assert ben.purge() == 1 and ben.forget(9) == 30 and ben.purge() == 30
    ben.write(Unit("D3", "cat cat cat"))
    assert (state(ada), ada.sizes()) == before
    for query in ("secret3 ada cat", "", *HOSTILE):
        assert all("ada" not in u.text for u in [*ben.rank(query, None), *ben.read(query, 1e6)])
    ben.write(Unit("D77", "dog of ben"))
    assert ada.get("D77") is None and ada.delete(["D77"]) == 0 and "D77" not in ids(ada.rank("dog ben", None))
    assert ben.delete(["D77"]) == ben.purge() == 1
    assert list(ben.units()) == [Unit("D3", "cat cat cat")] and ben.get("D5") is None and ben.stats()["units"] == 1 and ben.stats()["deleted"] == 0
    assert ben.sizes()["text"] < 60
    for store in (ada, ben):
        store.check()


@pytest.mark.parametrize("embed", [None, Hashed()], ids=["words", "vectors"])
def test_what_others_write_moves_no_ranking(open_store, embed):
    """The order of two answers would tell how often others use a word, were its count shared."""
    ada = open_store("ada", embed)
    ada.write_all([Unit("a", "cat cat bird"), Unit("b", "dog dog bird"), *(Unit(f"x{i}", "bird fish") for i in range(8)),
                   Unit("c", "dog and some more words about something")])
    query = "cat dog fish"
    before = ada.rank(query, None), ada.read(query, 12)
    ben = open_store("ben", embed)
    ben.write_all(Unit(f"D{i}", "cat " * (i % 5 + 1) + "fish") for i in range(400))
    assert (ada.rank(query, None), ada.read(query, 12)) == before
    ben.delete([f"D{i}" for i in range(400)])
    ben.purge()
    assert (ada.rank(query, None), ada.read(query, 12)) == before and (open_store("ada", embed).rank(query, None)) == before[0]


# ------------------------------------------------------------------ models

def test_vectors_of_two_models_never_meet(open_store):
    with open_store(embed=Hashed()) as store:
        store.write_all(cats())
        assert store.stats()["model"] == "hashed-words" and store.stats()["dim"] == 24
    with pytest.raises(StoreError, match="hashed-words.*another-model"):
        open_store(embed=Other())
    wide = Hashed()
    wide.dim = 25
    with pytest.raises(StoreError, match="24.*25"):
        open_store(embed=wide)
    bare = open_store()                                                                         # without an embedder: reading by words
    assert len(bare.rank("cat")) == 5
    with pytest.raises(StoreError, match="hashed-words"):
        bare.write(Unit("x", "y"))
    assert bare.stats()["units"] == 5 and bare.delete(["D1:1"]) == 1
    bare.check()


def test_a_store_begun_without_vectors_stays_without(open_store):
    open_store().write(Unit("x", "cat"))
    with pytest.raises(StoreError, match="begun without vectors"):
        open_store(embed=Hashed())
    assert open_store().stats()["model"] is None


def test_an_empty_store_that_got_a_model_meanwhile(open_store):
    bare = open_store()
    open_store(embed=Hashed())
    with pytest.raises(StoreError, match="hashed-words"):
        bare.write(Unit("x", "y"))


@pytest.mark.parametrize("returned, message", [(lambda t: np.zeros((len(t), 3)), "3\\)"), (lambda t: np.full((len(t), 24), NAN), "NaN or infinity"),
                                               (lambda t: np.zeros((len(t) + 1, 24)), "wanted finite")])
def test_an_embedder_that_gives_something_else_changes_nothing(open_store, returned, message):
    store = open_store(embed=Hashed())
    store.write_all(cats())
    before = state(store)

    class Wrong(Hashed):
        __call__ = staticmethod(returned)
    store.embed = Wrong()
    for call in (lambda: store.write(Unit("x", "y")), lambda: store.rank("cat"), lambda: store.read("cat")):
        with pytest.raises(ValueError, match=message):
            call()
    store.embed = Hashed()
    assert state(store) == before


def test_what_is_no_embedder(open_store):
    from minimem.text.dense import LSA
    for wrong, message in ((len, "name"), ("minilm", "callable"), (LSA(), "fitted")):
        with pytest.raises(ValueError, match=message):
            open_store(embed=wrong)


@pytest.mark.parametrize("user", [None, 3, "a\0b", "\ud83d"])
def test_what_is_no_user(open_store, user):
    with pytest.raises(ValueError, match="user"):
        open_store(user)


# ------------------------------------------------------------------ threads, processes, the end

def test_threads_share_one_store(open_store):
    store, failed = open_store(embed=Hashed()), []

    def work(k):
        try:
            for i in range(20):
                store.write(Unit(f"T{k}:{i}", f"cat t{k} n{i}"))
                assert store.get(f"T{k}:{i}") and store.rank(f"t{k} n{i}", 1)
        except BaseException as e:                                      # noqa: BLE001
            failed.append(e)
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed and store.stats()["units"] == 80
    store.check()


def test_a_closed_store_says_so(open_store):
    store = open_store()
    store.write(Unit("x", "cat"))
    walk = store.units()
    store.close()
    store.close()
    for call in (lambda: store.write(Unit("y", "z")), lambda: store.rank("cat"), lambda: store.read("cat"), lambda: store.get("x"),
                 lambda: next(walk), lambda: store.delete(["x"]), lambda: store.forget(1), store.purge, store.stats, store.sizes, store.check,
                 lambda: store.generation):
        with pytest.raises(StoreError, match="the store is closed"):
            call()


def test_a_write_inside_a_write_is_refused_and_undoes_it(open_store):
    store = open_store()

    def some():
        yield from cats(300)
        store.write(Unit("inside", "x"))
    with pytest.raises(StoreError, match="a write is under way in this store"):
        store.write_all(some())
    assert store.stats()["units"] == 0 and store.write_all(cats()) == 5


def test_a_refused_write_inside_a_write_leaves_that_one_whole(open_store):
    store = open_store()

    def some():
        yield from cats(300)
        with pytest.raises(StoreError, match="under way"):
            store.write(Unit("inside", "x"))
        raise RuntimeError
    with pytest.raises(RuntimeError):
        store.write_all(some())
    assert store.stats()["units"] == 0


# ------------------------------------------------------------------ SQLite alone: the file

WRITER = """
import sys
sys.path.insert(0, {root!r})
from minimem.text.store import SQLite
from minimem.text.unit import Unit
with SQLite({path!r}, sys.argv[1]) as store:
    for i in range(200):
        store.write(Unit(f"{{sys.argv[2]}}:{{i}}", f"cat {{i}} of {{sys.argv[2]}}"))
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "chat.db"


def files_hold(path, secret):
    secrets = {secret.encode(), secret.lower().encode(), *(t.encode() for t in tokens(secret) if len(t) > 4)}
    return [f"{f.name}: {s}" for f in path.parent.iterdir() for s in secrets if s in f.read_bytes()]


@pytest.mark.parametrize("how", ["delete", "forget", "replace"])
def test_purge_leaves_no_byte_of_it_in_any_file(path, how):
    embed = Hashed()
    store, other = SQLite(path, "ada", embed), SQLite(path, "ben", embed)
    other.write_all(cats(300))
    store.write_all(cats(200))
    vectors = {}
    for i in range(0, 200, 40):                                          # spread over pages, some long enough for pages of their own
        secret = Unit(f"S-{SECRET}-{i}", f"{SECRET} " * (1 + 30 * i), expires=1.0, source_ids=(f"turn-{SECRET}",), meta={"told": SECRET}, kind=SECRET)
        store.write(secret)
        store.write_all(cats(40, 1000 + i))
        vectors[secret.id] = embed([secret.text])[0].tobytes()
    assert files_hold(path, SECRET)
    {"delete": lambda: store.delete(vectors), "forget": lambda: store.forget(2),
     "replace": lambda: store.write_all([Unit(i, "gone") for i in vectors])}[how]()
    assert all(SECRET not in u.text for u in store.rank("quokka", None)) and files_hold(path, SECRET)          # not found, and still there
    assert store.purge() == len(vectors)
    if how == "replace":
        store.delete(vectors)                                            # the id bears the secret too
        store.purge()
    assert files_hold(path, SECRET) == []
    everything = b"".join(f.read_bytes() for f in path.parent.iterdir())
    assert not any(v in everything for v in vectors.values())
    assert store.stats()["units"] == 400 and other.stats()["units"] == 300 and len(store.rank("cat", None)) == 400
    assert (path.with_name("chat.db-wal")).stat().st_size == 0 == store._one("PRAGMA freelist_count")         # and the room is given back
    store.check()
    other.check()


def test_purge_says_so_when_a_reader_holds_the_old_state(path):
    store = SQLite(path)
    store.write_all([*cats(), Unit("s", SECRET)])
    store._db.execute("PRAGMA busy_timeout = 50")
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM unit").fetchone() == (6,)
    store.delete(["s"])
    with pytest.raises(StoreError, match="purge again"):
        store.purge()
    assert reader.execute("SELECT count(*) FROM unit").fetchone() == (6,)                 # its state stands still
    reader.close()
    assert store.purge() == 0 and files_hold(path, SECRET) == [] and store.stats()["units"] == 5


def test_two_processes_write_and_neither_fails(path):
    code = WRITER.format(root=str(HERE.parent), path=str(path))
    writers = [subprocess.Popen([sys.executable, "-c", code, "ada", name], stderr=subprocess.PIPE, text=True) for name in ("first", "second")]
    assert [(w.communicate()[1], w.returncode) for w in writers] == [("", 0)] * 2                 # both found the file empty, and made it
    with SQLite(path, "ada") as store:
        assert Counter(u.id.split(":")[0] for u in store.units()) == {"first": 200, "second": 200}
        assert len(store.rank("cat", None)) == 400 and store.generation == 400
        store.check()


def test_readers_go_on_during_a_write_and_see_all_or_nothing(path):
    writer, reader = SQLite(path), SQLite(path)
    writer.write_all(cats())
    seen = []

    def some():
        for u in cats(600, 100):
            seen.append(len(reader.rank("cat", None)))
            yield u
        assert SQLite(path).stats()["units"] == 5                           # opening waits for nobody
    writer.write_all(some())
    assert set(seen) == {5} and len(reader.rank("cat", None)) == 605


def test_a_writer_that_waited_long_enough_says_so(path):
    store, other = SQLite(path), SQLite(path)
    other._db.execute("PRAGMA busy_timeout = 50")

    def some():
        yield from cats(300)
        with pytest.raises(StoreError, match="written by somebody else"):
            other.write(Unit("x", "y"))
    assert store.write_all(some()) == 300 and other.stats()["units"] == 300
    other.write(Unit("x", "y"))


@pytest.mark.skipif(os.name != "posix", reason="needs SIGINT")
def test_ctrl_c_while_it_waits_for_another_writer_holds_nobody_up(path):
    store, other = SQLite(path), SQLite(path)
    other._db.execute("BEGIN IMMEDIATE")

    def press():
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        other._db.execute("ROLLBACK")
    pressing = threading.Thread(target=press)
    with pytest.raises(KeyboardInterrupt):
        pressing.start()
        store.write(Unit("x", "cat"))
    pressing.join()
    other._db.execute("PRAGMA busy_timeout = 50")
    other.write(Unit("y", "dog"))
    store.write(Unit("z", "cow"))
    assert ids(store.units()) == ["y", "z"]


@pytest.mark.parametrize("durable, want", [(True, 2), (False, 1)])
def test_durable_waits_for_the_disk(path, durable, want):
    store = SQLite(path, durable=durable)
    assert store._one("PRAGMA synchronous") == want and store._one("PRAGMA journal_mode") == "wal" and store._one("PRAGMA secure_delete") == 1


@pytest.mark.parametrize("embed", [None, Hashed()], ids=["words", "vectors"])
def test_read_looks_no_further_than_it_must(path, embed):
    store, loaded = SQLite(path, embed=embed), []
    store.write_all(Unit(f"D{i}", f"cat and another word{i}") for i in range(1000))
    load = store._load
    store._load = lambda some: (loaded.append(u) or u for u in load(some))
    for words, most in ((8, 50), (10, 300), (1e9, 1000)):        # full; two words left, and no unit so short; no end
        loaded.clear()
        assert len(store.read("cat", words)) == min(words // 4, 1000) and len(loaded) <= most


def test_the_commonest_words_are_left_out_where_they_cost_most(path, monkeypatch):
    monkeypatch.setattr("minimem.text.store.REACH", 30)
    store = SQLite(path)
    store.write_all([Unit(f"a{i}", "common rare" if i < 10 else "common") for i in range(50)])
    assert len(store.rank("common rare", None)) == 10 and len(store.rank("common", None)) == 50      # but a word alone is always asked


# ------------------------------------------------------------------ SQLite alone: what can be wrong with a file

def test_not_a_store(path, tmp_path):
    path.write_bytes(b"this is a diary, not a database. " * 200)
    with pytest.raises(StoreError, match="chat.db is not a SQLite database"):
        SQLite(path)
    assert path.read_bytes().startswith(b"this is a diary")
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE recipes (x)")
    with pytest.raises(StoreError, match="something else, with the tables recipes"):
        SQLite(tmp_path / "other.db")
    with pytest.raises(StoreError, match="cannot be opened: its folder is missing"):
        SQLite(tmp_path / "nowhere" / "chat.db")
    with pytest.raises(StoreError, match="or it is a folder"):
        SQLite(tmp_path)


def test_a_newer_schema(path):
    with SQLite(path) as store:
        store.write(Unit("x", "cat"))
        store._db.execute("UPDATE meta SET value = 2 WHERE name = 'schema'")
    with pytest.raises(StoreError, match="schema 2, this minimem knows 1"):
        SQLite(path)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT text FROM unit").fetchall() == [("cat",)]


def test_the_terms_of_schema_1():
    """A store holds the terms of its texts: whoever changes ``tokens`` must raise SCHEMA, and say how an old store is brought over."""
    assert tokens("Caroline's moving to 北京大学 in 2022!") == ["carolin", "mov", "北京", "京大", "大学", "2022"]


def damage(path, near, offset=0, what=b"\xff" * 40):
    raw = bytearray(path.read_bytes())
    at = raw.index(near) + offset
    raw[at:at + len(what)] = what
    path.write_bytes(raw)


def filled(path, embed=None):
    with SQLite(path, embed=embed) as store:
        store.write_all(Unit(f"D{i}", f"cat number{i} in a basket of straw", meta={"n": i}) for i in range(2000))
    assert not path.with_name("chat.db-wal").exists()


def test_damage_in_the_middle_is_noticed(path):
    filled(path)
    whole = path.read_bytes()
    pages = len(whole) // 4096
    noticed = 0
    for page in random.Random(0).sample(range(1, pages), 12):
        raw = bytearray(whole)
        raw[page * 4096:(page + 1) * 4096] = os.urandom(4096)
        path.write_bytes(raw)
        with pytest.raises(StoreError, match="is damaged|is not a SQLite|something else|gave an error"):
            with SQLite(path) as store:
                store.check()
        noticed += 1
    assert noticed == 12


@pytest.mark.parametrize("near, what", [(b"number1234 in a basket", b"number9999"), (b'{"n": 1234}', b'["n": 1234}'),
                                        (b"number77 in a basket", b"\xff\xfe\xfd")], ids=["a word", "meta", "no UTF-8"])
def test_a_changed_byte_in_a_text_is_noticed(path, near, what):
    filled(path)
    damage(path, near, what=what)
    with SQLite(path) as store, pytest.raises(StoreError, match="is damaged"):
        list(store.units())
        store.check()


def test_what_is_out_of_step_is_named(path):
    filled(path, Hashed())
    whole = path.read_bytes()
    for harm, message in {"DELETE FROM vector WHERE unit = 7": "'D6' has a vector of None bytes, wanted 96",
                          "UPDATE vector SET x = x'00' WHERE unit = 7": "vector of 1 bytes",
                          "DELETE FROM words_1 WHERE rowid = 7": "'D6' has other terms",
                          "UPDATE unit SET text = 'dog' WHERE n = 7": "'D6' has other terms",
                          "INSERT INTO words_1 (rowid, terms) VALUES (9999, 'ghost')": "2001 units in the full text, 2000 in the table",
                          "DELETE FROM words_1_data WHERE id > 10": "is damaged"}.items():
        path.write_bytes(whole)
        with SQLite(path, embed=Hashed()) as store:
            store._db.execute(harm)
            with pytest.raises(StoreError, match=message):
                store.check()
    path.write_bytes(whole)
    with SQLite(path, embed=Hashed()) as store:
        store.check()


def test_a_full_disk_keeps_what_there_was(path):
    store = SQLite(path, embed=Hashed())
    store.write_all(cats())
    before = state(store)
    store._db.execute(f"PRAGMA max_page_count = {store._one('PRAGMA page_count') + 5}")
    with pytest.raises(StoreError, match="the disk is full"):
        store.write_all(cats(3000, 100))
    with pytest.raises(StoreError, match="the disk is full"):
        store.write(Unit("big", "word " * 50_000))
    assert state(store) == before
    store.check()
    store._db.execute("PRAGMA max_page_count = 100000")
    assert store.write_all(cats(3000, 100)) == 3000
    store.check()


LIMITED = """
import resource, signal, sys
sys.path.insert(0, {root!r})
from minimem.text.storable import StoreError
from minimem.text.store import SQLite
from minimem.text.unit import Unit
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store, kept = SQLite({path!r}), 0
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
try:
    for kept in range(10_000):
        store.write(Unit(f"D{{kept}}", "cat " * 20))
except StoreError as e:
    print(kept, e)
    assert store.stats()["units"] == kept and len(store.rank("cat", None)) == kept
"""


def test_a_disk_that_stops_in_the_middle_of_a_write(path):
    done = subprocess.run([sys.executable, "-c", LIMITED.format(root=str(HERE.parent), path=str(path))], capture_output=True, text=True)
    kept, _, message = done.stdout.partition(" ")
    assert "could not be read or written" in message or "the disk is full" in message, done.stderr
    with SQLite(path) as store:
        assert 20 < store.stats()["units"] == int(kept)
        store.check()


@pytest.fixture
def nobody():
    """Root may write anywhere: for this test we are somebody else."""
    if os.name != "posix":
        pytest.skip("no such rights here")
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


def test_a_file_that_must_not_be_written(request):
    import shutil
    import tempfile
    folder = Path(tempfile.mkdtemp())
    try:
        with SQLite(folder / "chat.db") as store:
            store.write(Unit("x", "cat"))
        (folder / "chat.db").chmod(0o444)
        folder.chmod(0o555)
        request.getfixturevalue("nobody")
        with pytest.raises(StoreError, match="cannot be written|cannot be opened"):
            SQLite(folder / "chat.db", "new user").write(Unit("y", "dog"))
        with pytest.raises(StoreError, match="cannot be opened"):
            SQLite(folder / "new.db")
    finally:
        if os.getuid() == 0 and os.name == "posix":
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)
