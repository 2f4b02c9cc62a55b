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


def frequencies(K: int, base: float = 10000.0) -> Tensor:
    """θ_i of (1), (K/2,) in float64. Raises ValueError for an odd K."""
    if K % 2:
        raise ValueError(f"x has width {K}, wanted an even one: coordinates turn in pairs")
    return base ** (-torch.arange(0, K, 2, dtype=torch.float64) / K)                                # (1)


def angles(positions: Tensor, K: int, base: float = 10000.0, theta: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """cos and sin of t·θ_i, each (..., T, K/2), in float64: a position times a frequency loses its fraction in short types.

    ``theta`` (K/2,): frequencies in place of those of ``base``. Raises ValueError for an odd K, here and in both rotations.
    """
    theta = (frequencies(K, base) if theta is None else theta.double()).to(positions.device)
    turn = positions.double()[..., None] * theta
    return turn.cos(), turn.sin()


def rotate_pairs(x: Tensor, positions: Tensor, base: float = 10000.0, theta: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """x with its pairs of neighbours (2i, 2i+1) turned by their angles, then times ``scale``."""
    cos, sin = (scale * a.to(x.dtype) for a in angles(positions, x.shape[-1], base, theta))
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)                      # (2)


def rotate_halves(x: Tensor, positions: Tensor, base: float = 10000.0, theta: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """x with its pairs (i, i + K/2) turned by their angles, then times ``scale``."""
    cos, sin = (scale * a.to(x.dtype) for a in angles(positions, x.shape[-1], base, theta))
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)                                    # (2)


def halves_from_pairs(W: Tensor, heads: int) -> Tensor:
    """Rows of W_q or W_k (heads·K, D) stored for neighbours, reordered for halves: even rows of each head first, odd rows after."""
    rows = W.unflatten(0, (heads, -1, 2))
    return rows.transpose(1, 2).reshape(W.shape)
