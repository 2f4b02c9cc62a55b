"""What every text memory shares: a memory around any score."""
import math

import numpy as np
import pytest

from minimem.text.unit import Memory, Unit


class Lengths(Memory):
    """The longer the text, the better, whatever is asked."""

    def scores(self, query):
        return np.array([float(len(u.text)) for u in self.units.values()])


def memory(*texts, kind=Lengths, **more):
    m = kind()
    for i, t in enumerate(texts):
        m.write(Unit(str(i), t, **more))
    return m


def test_best_first_and_of_equals_the_older():
    m = memory("aa", "b", "cc", "ddd")
    assert [u.id for u in m.rank("?")] == ["3", "0", "2", "1"] and [u.id for u in m.rank("?", 2)] == ["3", "0"] and m.rank("?", 0) == []
    assert memory().rank("?") == [] == memory().read("?")
    with pytest.raises(ValueError, match="k must be >= 0, saw -1"):
        m.rank("?", -1)


def test_what_is_not_above_least_is_not_found():
    class Picky(Lengths):
        least = 1.0
    assert [u.id for u in memory("aa", "b", "", kind=Picky).rank("?")] == ["0"]


def test_a_score_that_is_no_number_is_an_error_and_not_a_unit_less():
    class Broken(Lengths):
        def scores(self, query):
            return np.where(super().scores(query) == 1, math.nan, 1.0)
    with pytest.raises(ValueError, match=r"the scores of \['1'\] are not numbers"):
        memory("aa", "b", "cc", kind=Broken).read("?")


def test_a_unit_with_the_same_id_is_replaced_and_is_now_the_newest():
    m = memory("a", "b")
    m.write(Unit("0", "c"))
    assert [u.text for u in m.units.values()] == ["b", "c"] and [u.id for u in m.rank("?")] == ["1", "0"]
    with pytest.raises(ValueError, match="record must be a Unit, saw str"):
        m.write("text")
    assert len(m.units) == 2


def test_budget_forgetting_and_bytes():
    m = memory("one two three", "four five", "six")
    assert [u.id for u in m.read("?", 4)] == ["0", "2"]
    m.write(Unit("late", "x", expires=5.0))
    assert m.forget(4.9) == 0 and m.forget(5.0) == 1 and "late" not in m.units and m.forget(math.inf) == 0
    assert m.nbytes() == len("one two threefour fivesix") + 2 * 3                       # id and source id, one byte each
    with pytest.raises(ValueError, match="now must be a number of days"):
        m.forget(math.nan)
