"""Recall amid noise: laid out as said, answered by a reader who keeps a dict, distances that grow with T."""
import pytest
import torch

from minimem.tasks.scattered import scattered


@pytest.mark.parametrize("pairs, T", [(4, 64), (1, 3), (8, 24), (16, 80)])
def test_a_reader_who_keeps_a_dict_answers_everything(pairs, T):
    tokens, targets = scattered(pairs, T, batch=50, seed=3)
    for row, asked in zip(tokens.tolist(), targets.tolist()):
        known, t = {}, 0
        while t < T:
            if not 8 <= row[t] < 24:                             # noise
                assert row[t] < 8 and asked[t] == -100
            elif row[t] in known:
                assert asked[t] == known[row[t]]
            else:
                assert asked[t] == asked[t + 1] == -100 and 24 <= row[t + 1] < 40
                known[row[t]] = row[t + 1]
                t += 1
            t += 1
        assert len(known) == pairs == sum(a >= 0 for a in asked)


def test_distances_are_a_third_of_the_length():
    for T in (64, 512):
        tokens, targets = scattered(4, T, batch=500)
        asked, keys = targets >= 0, (tokens >= 8) & (tokens < 24)
        last, first = asked.nonzero()[:, 1].sum(), (keys & ~asked).nonzero()[:, 1].sum()
        assert abs((last - first).item() / 2000 / T - 1 / 3) < 0.02


def test_seeds_decide():
    assert torch.equal(scattered(4, 32, seed=1)[0], scattered(4, 32, seed=1)[0]) and not torch.equal(scattered(4, 32, seed=1)[0], scattered(4, 32, seed=2)[0])


@pytest.mark.parametrize("pairs, T, symbols, noise", [(4, 11, 16, 8), (0, 8, 16, 8), (17, 99, 16, 8), (2, 8, 16, 0)])
def test_what_does_not_fit_is_refused(pairs, T, symbols, noise):
    with pytest.raises(ValueError, match="pairs asked once"):
        scattered(pairs, T, symbols, noise)
