"""The questions of state tracking: the answers are right, and nothing in them can be guessed."""
from functools import partial

import pytest
import torch

from minimem.tasks.parity import MOVES, lessons, parity, shuffle


def test_the_examples_of_the_docstring():
    bits, odd = parity(6, 500)
    assert [1, 1, 0, 1, 1, 0] in odd[(bits == torch.tensor([1, 0, 1, 1, 0, 1])).all(1)].tolist()
    tokens, at = shuffle(3, 2000)
    assert at[(tokens == torch.tensor([1, 2, 1])).all(1)].tolist()[0] == [1, 4, 3]


def test_parity_is_that_of_the_ones():
    bits, odd = parity(40)
    for t in (0, 7, 39):
        assert torch.equal(odd[:, t], bits[:, :t + 1].sum(1) % 2)


@pytest.mark.parametrize("moves", [4, 6])
def test_the_cups_lie_where_they_were_moved(moves):
    """Moved one by one, by hand."""
    tokens, answers = shuffle(30, 8, moves=moves)
    assert tokens.unique().tolist() == list(range(moves))
    for row, wanted in zip(tokens.tolist(), answers.tolist()):
        cups = [0, 1, 2]
        for token, answer in zip(row, wanted):
            cups = [cups[i] for i in MOVES[token]]
            assert cups == MOVES[answer].tolist()


def test_every_answer_is_as_likely():
    assert (parity(50, 2000)[1][:, -1].float().mean() - 1 / 2).abs() < 0.04
    for moves in (4, 6):
        share = shuffle(50, 3000, moves=moves)[1][:, -1].bincount() / 3000
        assert (share - 1 / 6).abs().max() < 0.03


def test_only_the_last_are_asked():
    for task in (parity, shuffle):
        every, some = task(20)[1], task(20, last=5)[1]
        assert (some[:, :15] == -100).all() and torch.equal(some[:, 15:], every[:, 15:])


def test_lessons_have_many_lengths_and_repeat_with_their_seed():
    made = lessons(partial(shuffle, moves=6), seed=2, batch=5)
    lengths = {made(i)[0].shape[1] for i in range(300)}
    assert min(lengths) == 3 and max(lengths) == 24 and made(7)[0].shape[0] == 5
    assert torch.equal(made(7)[0], lessons(partial(shuffle, moves=6), seed=2, batch=5)(7)[0])
    assert not torch.equal(lessons(parity, 0)(0)[0][:, :3], lessons(parity, 1)(0)[0][:, :3])


def test_what_they_refuse():
    for task in (parity, shuffle):
        for T, last in ((0, None), (5, 6), (5, 0)):
            with pytest.raises(ValueError, match=f"T is {T}"):
                task(T, last=last)
    with pytest.raises(ValueError, match="moves is 5"):
        shuffle(5, moves=5)
