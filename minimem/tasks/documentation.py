"""Real text on every machine: the documentation that comes with Python, one character a token.

    [Th]e ``if`` statement is used for conditional execution   ->   each next character is asked

``pydoc_data.topics`` is the text of Python's language reference, some 700,000 characters; it differs a little between versions of Python.
"""
from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

VOCAB = 96              # a line break, and the 95 printable characters of ASCII; what is none of them becomes a space


@cache
def characters() -> tuple[Tensor, Tensor]:
    """The text as numbers 0 … 95, cut in two: nine tenths to learn from, the last tenth to be tested on."""
    from pydoc_data.topics import topics
    text = "\n\n".join(topics[name] for name in sorted(topics))
    ids = torch.tensor([ord(c) - 31 if " " <= c <= "~" else 0 if c == "\n" else 1 for c in text])
    cut = len(ids) * 9 // 10
    return ids[:cut], ids[cut:]


def passages(T: int, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """``batch`` random places of the text to learn from: tokens (batch, T) and the ones that follow each, for ``lm.fit``."""
    text, _ = characters()
    at = torch.randint(len(text) - T, (batch, 1), generator=torch.Generator().manual_seed(seed)) + torch.arange(T + 1)
    return text[at[:, :-1]], text[at[:, 1:]]
