"""The bucket: a reader who counts answers everything; seeds decide."""
import torch

from minimem.tasks.bucket import bucket


def test_a_reader_who_counts_answers_everything():
    tokens, targets = bucket(80, batch=50, seed=3)
    gaps = []
    for row, asked in zip(tokens.tolist(), targets.tolist()):
        count, since = 0, 0
        for token, answer in zip(row, asked):
            assert token in (0, 1, 2)
            count, since = (0, gaps.append(since)) if token == 2 else (count + token, since)
            since = (since or 0) + 1
            assert answer == (count if count <= 7 else -100)
    assert set(gaps) <= {*range(2, 7), *range(16, 33)} and 0.3 < sum(g < 7 for g in gaps) / len(gaps) < 0.8
    assert (targets == -100).any() and 0.15 < (tokens == 1).float().mean() < 0.3


def test_seeds_decide():
    assert torch.equal(bucket(seed=1)[0], bucket(seed=1)[0]) and not torch.equal(bucket(seed=1)[0], bucket(seed=2)[0])
    assert bucket(5, batch=2)[0].shape == bucket(5, batch=2)[1].shape == (2, 5)
