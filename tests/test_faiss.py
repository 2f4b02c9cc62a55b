"""faiss finds what one matrix product finds, and refuses what it would have to convert."""
import pytest
import torch

from minimem import fast
from minimem.fast.faiss import search


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("N, k", [(1, 1), (100, 1), (100, 7), (1000, 1000)])
def test_the_same_keys_and_scores(N, k):
    q, keys = draw(5, 16), draw(N, 16, seed=1)
    (s, i), (s0, i0) = search(q, keys, k), fast.search(q, keys, k)
    torch.testing.assert_close(s, s0, rtol=1e-5, atol=1e-5)
    assert torch.equal(i, i0)


def test_strided_inputs_no_queries_and_nothing_edited():
    q, keys = draw(5, 16)[:, ::2], draw(50, 16, seed=1)[:, ::2]
    kept = q.clone(), keys.clone()
    assert torch.equal(search(q, keys, 3)[1], fast.search(q, keys, 3)[1])
    assert torch.equal(q, kept[0]) and torch.equal(keys, kept[1])
    assert search(q[:0], keys, 3)[1].shape == (0, 3)


@pytest.mark.parametrize("q, keys, k, message", [
    (draw(2, 4).double(), draw(9, 4).double(), 1, "torch.float64"), (draw(2, 4), draw(9, 5), 1, "keys has shape"),
    (draw(1, 2, 4), draw(1, 9, 4), 1, "queries has shape"), (draw(2, 4), draw(9, 4), 0, "k must be"), (draw(2, 4), draw(9, 4), 10, "k must be"),
    (draw(2, 4) * float("nan"), draw(9, 4), 1, "queries holds NaN")])
def test_refusals(q, keys, k, message):
    for find in (search, fast.search):
        if message == "torch.float64" and find is fast.search:
            continue                                     # plain torch takes any type
        with pytest.raises(ValueError, match=message):
            find(q, keys, k)
