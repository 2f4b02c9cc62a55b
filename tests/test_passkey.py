"""Passkey: one line in dull text, at the depth asked for, in words and in a real tokenizer's tokens."""
import re

import pytest
import torch

from minimem import pretrained
from minimem.tasks.passkey import FILLER, passkey, score


@pytest.mark.parametrize("depth, before", [(0, 0), (0.1, 4), (0.5, 20), (0.9, 36), (1, 40)])
def test_the_line_stands_at_its_depth(depth, before):
    prompt, key = passkey(40, depth, seed=3)
    assert re.findall(r"\d+", prompt) == [key, key] and len(key) == 5
    head, tail = re.split(r"The secret number is \d+\. Remember it: \d+ is the secret number\.", prompt)
    parts = "|".join(map(re.escape, FILLER))
    assert (len(re.findall(parts, head)), len(re.findall(parts, tail))) == (before, 40 - before)
    assert prompt.endswith("What is the secret number? The secret number is ")


def test_seeds_decide():
    keys = {passkey(seed=s)[1] for s in range(200)}
    assert passkey(seed=1) == passkey(seed=1) and len(keys) > 190 and {len(k) for k in keys} == {5} and "0" in {k[-1] for k in keys} and "0" not in {k[0] for k in keys}


@pytest.mark.parametrize("sentences, depth", [(0, 0.5), (5, -0.1), (5, 1.1)])
def test_what_does_not_fit_is_refused(sentences, depth):
    with pytest.raises(ValueError, match=f"saw sentences={sentences} and depth={depth}"):
        passkey(sentences, depth)


def test_score_asks_for_the_last_five():
    """A reader who knows tokens 4 … 8 of 9 beforehand; then one who has the last wrong."""
    ids = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 7])
    logits = torch.zeros(9, 10)
    logits[3:8].scatter_(1, ids[4:, None], 50.0)
    assert score(logits, ids) == (True, 0.0)
    logits[7] = 0
    logits[7, 1] = 50.0
    exact, nats = score(logits, ids)
    assert not exact and nats == pytest.approx(10.0)
    assert score(torch.zeros(9, 10), ids)[1] == pytest.approx(2.302585)


def test_the_key_is_five_tokens_of_a_real_tokenizer():
    from gguf import GGUFReader
    tokenizer = pretrained._tokenizer({name: field.contents() for name, field in GGUFReader(pretrained._installed()).fields.items()})
    prompt, key = passkey(8, 0.5, seed=0)
    ids = tokenizer.encode(prompt + key).ids
    assert [tokenizer.decode([i]) for i in ids[-5:]] == list(key) and tokenizer.decode(ids[:-5]) == prompt
