"""Passkey: a number of five digits in one line of a long and dull text, asked for at the end.

    passkey(sentences=8, depth=0.5, seed=0)
        Somewhere in this text stands a secret number. Remember it. The river runs slowly. A dog sleeps by the door.
        Rain falls on the roof. Bread lies on the table. The secret number is 46044. Remember it: 46044 is the secret number.
        The river runs slowly. A dog sleeps by the door. Rain falls on the roof. Bread lies on the table.
        What is the secret number? The secret number is                       asked:  46044

``depth`` says where the line stands: 0 before all of the filler, 1 after it. Guessing is right once in 90,000.
A tokenizer that cuts numbers into digits has the key in the last five tokens of ``prompt + key``, which is what ``score`` takes.

Source  Mohtashami and Jaggi 2023, arXiv:2305.16300, section 4.2. Differs: other words, and the filler counted in sentences.
"""
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

DIGITS = 5
FILLER = "The river runs slowly.", "A dog sleeps by the door.", "Rain falls on the roof.", "Bread lies on the table."


def passkey(sentences: int = 40, depth: float = 0.5, seed: int = 0) -> tuple[str, str]:
    """The prompt, which ends in a blank, and the key that must follow it.

    Raises ValueError for fewer than one sentence of filler or a depth outside 0 … 1.
    """
    if sentences < 1 or not 0 <= depth <= 1:
        raise ValueError(f"saw sentences={sentences} and depth={depth}, wanted sentences >= 1 and 0 <= depth <= 1")
    key = str(torch.randint(10 ** (DIGITS - 1), 10 ** DIGITS, (1,), generator=torch.Generator().manual_seed(seed)).item())
    text = [FILLER[i % len(FILLER)] for i in range(sentences)]
    text.insert(round(depth * sentences), f"The secret number is {key}. Remember it: {key} is the secret number.")
    ends = "Somewhere in this text stands a secret number. Remember it.", "What is the secret number? The secret number is "
    return " ".join([ends[0], *text, ends[1]]), key


def score(logits: Tensor, ids: Tensor) -> tuple[bool, float]:
    """Is every digit of the key, the last five of ``ids`` (T,), the likeliest next token, and nats per digit. logits: (T, vocab)."""
    said, key = logits[-DIGITS - 1:-1], ids[-DIGITS:]
    return bool((said.argmax(-1) == key).all()), cross_entropy(said, key).item()
