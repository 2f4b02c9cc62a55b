"""The recall task: laid out as said, the newest value asked, refused where it does not fit."""
import pytest
import torch

from minimem.tasks.mqar import curriculum, mqar


@pytest.mark.parametrize("pairs, T, times", [(8, 32, 1), (4, 40, 3), (1, 3, 1)])
def test_a_reader_who_keeps_a_dict_answers_everything(pairs, T, times):
    tokens, targets = mqar(pairs, T, 32, times, batch=50, seed=3)
    for row, asked in zip(tokens.tolist(), targets.tolist()):
        known = {}
        for key, value in zip(row[0:2 * pairs * times:2], row[1:2 * pairs * times:2]):
            assert 1 <= key < 16 <= value < 32
            known[key] = value
        assert len(known) == pairs and set(row[2 * pairs * times:]) <= {0, *known}
        assert all(a == (known[k] if k else -100) for k, a in zip(row[2 * pairs * times:], asked[2 * pairs * times:]))
        assert sum(a >= 0 for a in asked) == pairs and set(asked[:2 * pairs * times]) == {-100}
        assert row[:2 * pairs * times:2].count(row[0]) == times


def test_seeds_decide():
    assert torch.equal(mqar(4, 16, seed=1)[0], mqar(4, 16, seed=1)[0]) and not torch.equal(mqar(4, 16, seed=1)[0], mqar(4, 16, seed=2)[0])


@pytest.mark.parametrize("pairs, T, vocab, times", [(4, 11, 64, 1), (4, 27, 64, 3), (0, 8, 64, 1), (32, 96, 64, 1), (2, 8, 64, 0)])
def test_what_does_not_fit_is_refused(pairs, T, vocab, times):
    with pytest.raises(ValueError, match="pairs written|keys of"):
        mqar(pairs, T, vocab, times)


def test_curriculum_grows_to_the_task():
    batch = curriculum(8, 64, 100, 32, times=3, batch=10, seed=2)
    tokens, targets = batch(0)
    assert tokens.shape == (40, 16) and ((targets >= 0).sum(1) == 2).all()                # 2 pairs, a quarter of the length, 4 times the sequences
    shapes = [batch(i)[0].shape for i in range(0, 41, 4)]
    assert shapes == sorted(shapes, key=lambda s: s[1]) and all(abs(b * t / 640 - 1) < 0.2 for b, t in shapes)
    for step in (40, 99, 100):
        for got, want in zip(batch(step), mqar(8, 64, 32, 3, 10, seed=2 * 10 ** 6 + step)):
            assert torch.equal(got, want)
    assert curriculum(1, 4, 10)(0)[0].shape == (32, 4)
