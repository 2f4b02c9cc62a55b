"""ALiBi: no positions in the tokens; each head subtracts from every score the distance times a slope of its own.

    s_tj = q_t·k_j / √K − m_h (t − j),   m_h = 2^(−8h/H),   h = 1 … H             (1)

Paper   Press et al. 2022, arXiv:2108.12409.
Differs Bloom and the authors' code add m_h·j instead: in each row that differs by a constant, which the softmax does not see.
Shapes  q: (..., H, T, K) -> bias: (H, 1, M), entry d for the key d tokens back: what ``full.parallel(..., bias=alibi.bias)`` takes
Units   nats for each token of distance: a key 1/m_h tokens back weighs e times less
"""
from __future__ import annotations

import torch
from torch import Tensor


def slopes(H: int) -> Tensor:
    """m of (1), (H,) in float64. Where H is no power of two: those of the power n below, then every second one of 2n. Raises ValueError for H < 1."""
    if H < 1:
        raise ValueError(f"H is {H}, wanted at least one head")
    n = 1 << H.bit_length() - 1
    m = 2.0 ** (-8 * torch.arange(1, n + 1, dtype=torch.float64) / n)                               # (1)
    return m if n == H else torch.cat([m, slopes(2 * n)[::2][:H - n]])


def bias(q: Tensor, M: int) -> Tensor:
    """−m_h·d for d = 0 … M − 1: (H, 1, M), in float32 at least. Raises ValueError for a q without heads."""
    if q.dim() < 3:
        raise ValueError(f"q has shape {tuple(q.shape)}, wanted (..., H, T, K): each head has a slope of its own")
    m = slopes(q.shape[-3]).to(q.device)[:, None, None]
    return (-m * torch.arange(M, device=q.device)).to(torch.promote_types(q.dtype, torch.float32))  # (1)
