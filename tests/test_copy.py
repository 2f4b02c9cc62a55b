"""The copying task: laid out as said, answered by whoever keeps a list, refused where it does not fit."""
import pytest
import torch

from minimem.tasks.copy import copying


@pytest.mark.parametrize("scattered", [True, False])
def test_a_reader_who_keeps_a_list_answers_everything(scattered):
    tokens, targets = copying(3, 10, 5, scattered, batch=200, seed=4)
    places = set()
    for row, asked in zip(tokens.tolist(), targets.tolist()):
        shown = [x for x in row if x > 1]
        assert len(shown) == 3 and max(shown) <= 6 and row[10:] == [1] * 3 and 1 not in row[:10]
        assert asked == [-100] * 10 + shown
        places.add(tuple(i for i, x in enumerate(row) if x > 1))
    assert len(places) > 50 if scattered else places == {(0, 1, 2)}
    assert targets[:, 10:].unique().tolist() == [2, 3, 4, 5, 6]


def test_seeds_decide():
    assert torch.equal(copying(seed=1)[0], copying(seed=1)[0]) and not torch.equal(copying(seed=1)[0], copying(seed=2)[0])


@pytest.mark.parametrize("n, slots, symbols", [(0, 4, 8), (5, 4, 8), (2, 4, 1)])
def test_what_does_not_fit_is_refused(n, slots, symbols):
    with pytest.raises(ValueError, match=f"saw n={n}, slots={slots}, symbols={symbols}"):
        copying(n, slots, symbols)
