"""The facts are what they are said to be."""
import math

import pytest
import torch

from minimem.tasks import facts


def hamming(a, b):
    return (facts.signs(a) != facts.signs(b)).sum(-1)


def test_random_facts_are_random_and_repeatable():
    keys, values = facts.random(4000, 1)
    assert keys.unique().numel() == 4000 and values.min() == 0 and values.max() == 255
    assert facts.signs(keys).mean(0).abs().max() < 0.08
    assert torch.equal(facts.random(4000, 1)[0], keys) and not torch.equal(facts.random(4000, 2)[0], keys)


def test_correlated_keys_share_56_bits_in_groups_of_8():
    keys, _ = facts.correlated(64, 1)
    groups = (keys & ~255).unflatten(0, (8, 8))
    assert (groups == groups[:, :1]).all() and groups[:, 0].unique().numel() == 8
    assert keys.unique().numel() == 64 and (facts.signs(facts.correlated(320, 1)[0])[:, 8:].std(0) > 0).all()
    assert facts.correlated(13, 1)[0].shape == (13,)


@pytest.mark.parametrize("f", [0, 1, 2, 6, 64])
def test_flip_flips_exactly_f_bits(f):
    keys, _ = facts.random(300, 1)
    assert (hamming(keys, facts.flip(keys, f, 3)) == f).all()


def test_rule_gives_four_bits_and_only_four():
    keys, values = facts.rule(4000, 1)
    again, others = facts.rule(4000, 2)
    assert values.unique().numel() == 256
    design = torch.cat([facts.signs(keys), torch.ones(4000, 1)], 1)
    bit = (values[:, None] >> torch.arange(8) & 1).float() * 2 - 1
    w = torch.linalg.lstsq(design, bit).solution                 # a linear map learns the rule, from other keys as well
    theirs = (others[:, None] >> torch.arange(8) & 1).float() * 2 - 1
    right = ((torch.cat([facts.signs(again), torch.ones(4000, 1)], 1) @ w).sign() == theirs).float().mean(0)
    assert (right[:4] > 0.9).all() and (right[4:] < 0.56).all()


def test_the_encoder_has_the_kernel_that_it_promises():
    keys, _ = facts.random(400, 1)
    x = facts.encode(keys, 2048)
    assert torch.allclose(x.norm(dim=-1), torch.ones(400), atol=1e-5)
    for f in (2, 6, 10):
        seen = (x * facts.encode(facts.flip(keys, f, 1), 2048)).sum(-1).mean().item()
        assert seen == pytest.approx(math.exp(-0.15 * f), abs=0.02)


def test_draws_are_stacked_seeds():
    keys, values = facts.draws(facts.random, 9, (1, 2))
    assert keys.shape == values.shape == (2, 9) and torch.equal(keys[1], facts.random(9, 2)[0])


def test_codebook():
    assert facts.codebook(8).unique(dim=0).shape == (256, 8)
    assert facts.codebook(32).unique(dim=0).shape == (256, 32) and set(facts.codebook(32).unique().tolist()) == {-1, 1}


def test_sentences_and_their_questions():
    said, about, values = facts.sentences(512, 1)
    assert len(set(said)) == len(set(about)) == 512 and len(set(facts.WORDS)) == 256
    a, p = about[5]
    assert said[5] == f"The {a} of {p} is {facts.WORDS[values[5]]}." and facts.ask(about)[5] == f"What is the {a} of {p}?"
    words = {w for s in said for w in s.lower().replace(".", "").split()}
    assert not words & set(facts.ATTRIBUTES.values())            # a paraphrase shares only the name
    assert all(p in q for q, (_, p) in zip(facts.paraphrase(about), about))


def test_misspelt_names_differ_by_one_swap():
    _, about, _ = facts.sentences(512, 1)
    for q, m in zip(facts.ask(about), facts.misspell(about, 5)):
        wrong = [i for i, (x, y) in enumerate(zip(q, m, strict=True)) if x != y]
        assert wrong == [] or (len(wrong) == 2 and wrong[1] == wrong[0] + 1 and sorted(q) == sorted(m))


@pytest.mark.parametrize("n", [0, 64 * 64 * 8 + 1])
def test_too_many_sentences_are_refused(n):
    with pytest.raises(ValueError, match=f"N must be between 1 and 32768, saw {n}"):
        facts.sentences(n, 1)
