"""RoPE: turn each pair of coordinates by an angle that grows with the position; only the distance survives in q·k.

    θ_i = β^(−2i/K),    i = 0 … K/2−1                             (1)
    ⟨q̃_t, k̃_j⟩ = Re Σ_i q_t⁽ⁱ⁾ conj(k_j⁽ⁱ⁾) e^(𝕚(t−j)θ_i)          (2)

Paper   Su et al. 2021, arXiv:2104.09864.
Differs two layouts of the pairs are in use: neighbours (2i, 2i+1), as in the paper and in GGUF files, and halves (i, i+K/2), as in
        transformers. They are one method up to a fixed order of the rows of W_q and W_k (``halves_from_pairs``).
Shapes  x: (..., T, K), K even   positions: (T,), or (..., T) where sequences stand at different places
"""
from __future__ import annotations

import torch
from torch import Tensor


def angles(positions: Tensor, K: int, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """cos and sin of t·θ_i, each (..., T, K/2), in float64: a position times a frequency loses its fraction in short types.

    Raises ValueError for an odd K, here and in both rotations.
    """
    if K % 2:
        raise ValueError(f"x has width {K}, wanted an even one: coordinates turn in pairs")
    theta = base ** (-torch.arange(0, K, 2, dtype=torch.float64, device=positions.device) / K)      # (1)
    turn = positions.double()[..., None] * theta
    return turn.cos(), turn.sin()


def rotate_pairs(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """x with its pairs of neighbours (2i, 2i+1) turned by their angles."""
    cos, sin = (a.to(x.dtype) for a in angles(positions, x.shape[-1], base))
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)                      # (2)


def rotate_halves(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """x with its pairs (i, i + K/2) turned by their angles."""
    cos, sin = (a.to(x.dtype) for a in angles(positions, x.shape[-1], base))
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)                                    # (2)


def halves_from_pairs(W: Tensor, heads: int) -> Tensor:
    """Rows of W_q or W_k (heads·K, D) stored for neighbours, reordered for halves: even rows of each head first, odd rows after."""
    rows = W.unflatten(0, (heads, -1, 2))
    return rows.transpose(1, 2).reshape(W.shape)
