"""Absolute positions, added to the embedding of a token: waves of fixed lengths, a learned table, or none at all.

    p_{t,2i} = sin(t·10000^(−2i/D)),   p_{t,2i+1} = cos(t·10000^(−2i/D))        (1)   sinusoidal
    x_t ← x_t + E_t,   t < L                                                    (2)   learned
    s_tj = q_t·k_j / √K,   j ≤ t                                                (3)   none: NoPE

Both tables are an ``nn.Embedding`` for ``lm.small(..., positions=)``: the model adds row t to token t, and raises ValueError beyond the last row.

Paper   (1) Vaswani et al. 2017, arXiv:1706.03762; (2) Gehring et al. 2017, arXiv:1705.03122; (3) Kazemnejad et al. 2023, arXiv:2305.19466.
Differs sine and cosine alternate, as in the paper; Transformer-XL and others put all sines first: the same up to an order of the columns,
        so weights do not carry over. The paper multiplies embeddings by √D, so that the waves, of size √½, do not drown them: ours are drawn
        large enough.
Shapes  (T, D), D even for the waves
"""
from __future__ import annotations

import torch
from torch import Tensor, nn

from ..cache.window import bare

nope = bare                                                                                         # (3) positions: nothing to do


def table(T: int, D: int) -> Tensor:
    """p of (1), (T, D) in float64: a position times a frequency loses its fraction in short types. Raises ValueError for an odd D."""
    if D % 2:
        raise ValueError(f"D is {D}, wanted an even width: sines and cosines come in pairs")
    turn = torch.arange(T, dtype=torch.float64)[:, None] * 10000.0 ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    return torch.stack([turn.sin(), turn.cos()], -1).flatten(-2)                                    # (1)


def sinusoidal(T: int, D: int) -> nn.Embedding:
    """The waves as a table that is not trained, in torch's default type. Raises ValueError for an odd D."""
    return nn.Embedding.from_pretrained(table(T, D).to(torch.get_default_dtype()), freeze=True)


def learned(T: int, D: int) -> nn.Embedding:
    """E of (2): T rows, drawn with deviation 0.02 as in GPT-2, then learned. A row that training did not reach stays noise."""
    E = nn.Embedding(T, D)                                                                          # (2)
    nn.init.normal_(E.weight, std=0.02)
    return E
