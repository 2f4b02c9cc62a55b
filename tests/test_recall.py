"""Bits recalled: closed forms that any score of this kind must give."""
import math

import pytest
import torch

from minimem import recall

N, V = 500, 256
R = torch.Generator().manual_seed(0)
ANSWER = torch.randint(V, (3, N), generator=R)
KNOWN = torch.ones(3, N, dtype=torch.bool)


def scored(z, answer=ANSWER):
    return recall.bits(z, answer, recall.calibrate(z[-1], answer[-1])) / answer.shape[-1]


def two_valued(a, h=1.0):
    return h * max(0.0, 8 + a * math.log2(a) + ((1 - a) * math.log2((1 - a) / (V - 1)) if a < 1 else 0))


def test_all_right_is_8_bits_less_the_price_of_n_questions():
    got = scored(recall.named(ANSWER, KNOWN))
    eps = 1 / (N + 1)
    assert torch.allclose(got, torch.full((3,), 8 + math.log2(1 - eps + eps / V)), atol=1e-4)
    assert recall.bits(recall.named(ANSWER, KNOWN), ANSWER, recall.Law(100.0, 0.0)).tolist() == [8 * N] * 3


def test_without_an_answer_nothing():
    z = recall.named(ANSWER, ~KNOWN)
    assert scored(z).tolist() == [0, 0, 0]
    assert recall.accuracy(z, ANSWER).tolist() == [0, 0, 0]


def test_wrong_answers_nothing():
    assert scored(recall.named((ANSWER + 1) % V, KNOWN)).max() < 0.01


@pytest.mark.parametrize("a", [0.9, 0.5, 0.1])
@pytest.mark.parametrize("h", [1.0, 0.4])
def test_named_answers_obey_the_two_valued_law(a, h):
    """h of the questions answered, a of these right: h N (log V + a log a + (1-a) log (1-a)/(V-1))."""
    answered, right = torch.arange(N) < h * N, torch.arange(N) % 10 < 10 * a
    z = recall.named(torch.where(right, ANSWER, (ANSWER + 7) % V), answered.expand(3, N))
    assert torch.allclose(scored(z), torch.full((3,), two_valued(a, h)), atol=0.02)
    assert recall.accuracy(z, ANSWER).mean().item() == pytest.approx(a * h, abs=0.01)


def test_gaussian_scores_give_the_information_of_the_channel():
    """z = s·onehot + noise: the right law is softmax(s z), and its bits are the mean of log V p."""
    s = 3.0
    z = s * recall.named(ANSWER, KNOWN) + torch.randn(3, N, V, generator=R)
    p = (s * z).softmax(-1).gather(-1, ANSWER[..., None])[..., 0]
    best = 8 + p.log2().mean(-1)
    assert torch.allclose(scored(z), best, atol=0.1)


def test_a_guesser_of_half_the_values_gets_0_outside_the_sum_and_credit_inside():
    r = torch.Generator().manual_seed(1)
    half = torch.rand(3, 4000, V, generator=r).argsort(-1) < V // 2
    answer = torch.randint(V, (3, 4000), generator=r)
    p = half * 0.9 / (V // 2) + ~half * 0.1 / (V // 2)
    law = recall.Law(1.0, 0.0)
    assert recall.bits(p.log(), answer, law).tolist() == [0, 0, 0]
    inside = (8 + p.gather(-1, answer[..., None]).log2()).clamp(min=0).mean()
    assert inside >= 0.3
    assert scored(p.log(), answer).max() < 0.01


def test_bits_do_not_depend_on_the_unit_of_the_scores():
    z = recall.named(ANSWER, KNOWN) + 0.3 * torch.randn(3, N, V, generator=R)
    assert torch.allclose(scored(1000 * z), scored(z), atol=1e-3)
    assert torch.allclose(scored(z + 5), scored(z), atol=1e-3)


def test_a_sample_of_questions_stands_for_all():
    z, law = recall.named(ANSWER, KNOWN), recall.Law(50.0, 0.01)
    assert torch.allclose(recall.bits(z, ANSWER, law, N=10 * N), 10 * recall.bits(z, ANSWER, law))


def test_eps_is_at_least_one_in_n_plus_1():
    for n in (4, 50, 400):
        assert recall.calibrate(recall.named(ANSWER[0, :n], KNOWN[0, :n]), ANSWER[0, :n]).eps == pytest.approx(1 / (n + 1), rel=1e-5)


def test_draws_are_scored_each_for_itself():
    z = recall.named(ANSWER, KNOWN & torch.tensor([[True], [False], [True]]))
    assert (recall.bits(z, ANSWER, recall.Law(50.0, 0.01)) > 0).tolist() == [True, False, True]


def test_answers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"z has shape \(3, 500, 256\), wanted \(3, 9, 'V'\)"):
        recall.bits(recall.named(ANSWER, KNOWN), ANSWER[:, :9], recall.Law(1.0, 0.0))
