"""Facts planted in text: what is asked can be answered, what is not planted is the text."""
import pytest
import torch

from minimem.tasks import documentation
from minimem.tasks.planted import ASK, FACT, KINDS, VALUES, VOCAB, lessons, questions


def test_lessons_can_be_answered_by_a_reader_who_keeps_notes():
    tokens, targets = lessons(64, 40, 3)
    assert tokens.shape == targets.shape == (40, 64) and tokens.max() < VOCAB
    assert tokens[:20].max() < FACT and torch.equal(tokens[:20, 1:], targets[:20, :-1])
    for row, want in zip(tokens[20:].tolist(), targets[20:].tolist()):
        notes, asked = {}, 0
        for t, w, after in zip(row, want, [*row[1:], FACT]):
            if FACT <= t < ASK:
                notes[(t - FACT) // VALUES] = t
            if t >= ASK:
                asked += 1
                assert w == notes[t - ASK]
            else:
                assert w == (after if after < FACT else -100)
        assert asked == len(notes) == KINDS


def test_text_goes_on_around_what_is_planted():
    rows = [r[r < FACT] for r in [*lessons(64, 8, 0)[0][4:], *questions(64, 20, 4, 0)[0]]]
    learn, test = ("".join(chr(c + 31) for c in x) for x in documentation.characters())
    for r, text in zip(rows, [learn] * 4 + [test] * 4):
        assert "".join(chr(c + 31) for c in r) in text


@pytest.mark.parametrize("T, distance", [(64, 1), (64, 40), (64, 63), (500, 333)])
def test_the_answer_was_said_at_its_distance(T, distance):
    tokens, answers = questions(T, distance, 30, 1)
    assert tokens.shape == (30, T)
    assert torch.equal(tokens[:, T - 1 - distance], answers)
    assert torch.equal(tokens[:, -1] - ASK, (answers - FACT) // VALUES)
    facts = (tokens >= FACT) & (tokens < ASK)
    assert torch.equal(facts.sum(1), torch.full((30,), KINDS)) and (tokens >= ASK).sum() == 30
    assert all(len({(t - FACT) // VALUES for t in row[keep].tolist()}) == KINDS for row, keep in zip(tokens, facts))


def test_seeds_and_refusals():
    assert torch.equal(lessons(64, 8, 5)[0], lessons(64, 8, 5)[0]) and not torch.equal(lessons(64, 8, 5)[0], lessons(64, 8, 6)[0])
    for T, distance in ((64, 0), (64, 64), (7, 3)):
        with pytest.raises(ValueError, match=f"distance is {distance}, wanted 1 to T - 1 = {T - 1}, and T >= 8"):
            questions(T, distance, 2, 0)
