"""The overwrite task asks for what it says it asks for."""
import pytest
import torch
from torch.nn import functional as F

from minimem.tasks.overwrite import decode, overwrite, switch


def test_the_answer_is_the_newest_value_of_each_key():
    k, v, asked, answer, codes = overwrite(keys=5, times=3, lead=(2,), seed=1)
    for draw in range(2):
        said = {}
        for key, value in zip(k[draw], v[draw]):
            n = int((asked[draw] - key).square().sum(-1).argmin())
            said.setdefault(n, []).append(int(decode(value, codes)))
        assert {n: len(x) for n, x in said.items()} == dict.fromkeys(range(5), 3)
        assert [said[n][-1] for n in range(5)] == answer[draw].tolist()


@pytest.mark.parametrize("cosine", [0.0, 0.5, 0.9])
def test_keys_have_unit_norm_and_the_cosine_asked_for(cosine):
    k = overwrite(keys=64, times=1, width=256, cosine=cosine, seed=0)[2]
    torch.testing.assert_close(k.norm(dim=-1), torch.ones(64))
    between = (k @ k.mT)[~torch.eye(64, dtype=torch.bool)]
    assert abs(between.mean() - cosine) < 0.05


def test_the_map_switches_halfway():
    k, v = switch(400, noise=0.0, seed=3)
    first, second = (torch.linalg.lstsq(a, b).solution for a, b in zip(k.split(200), v.split(200)))
    torch.testing.assert_close(k[:200] @ first, v[:200], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(k[200:] @ second, v[200:], rtol=1e-3, atol=1e-3)
    assert (first - second).norm() > 1 and F.normalize(k, dim=-1).allclose(k, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"keys": 0, "times": 1}, {"keys": 3, "times": 0}, {"keys": 3, "times": 1, "cosine": 1.0}])
def test_a_task_that_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(ValueError, match="wanted keys >= 1"):
        overwrite(**wrong)
