"""FoPE: like RoPE, but each pair turns by a mixture of frequencies, and those too slow to turn once in training are dropped.

    Ω = {θ_i : θ_i ≥ 2π / L}                                      (1)
    Si_t = sin(t Ω) Cˢ,   Co_t = cos(t Ω) Cᶜ,   both padded to K/2 with 1              (2)
    x̃_t = x_t ⊙ Co_t + rot(x_t) ⊙ Si_t,   for queries and keys    (3)

θ_i = β^(−2i/K) are the frequencies of RoPE, L the trained length, Cˢ and Cᶜ (F, E) matrices of each head, F = |Ω|, E = min(F, ⌊K/4⌋);
rot((a, b)) = (−b, a) in each pair (i, i + K/2).

Paper   Hua et al. 2024, arXiv:2412.17739.
Differs follows the released code where the paper says otherwise. The paper's slow pairs get frequency 0, cos 0 = 1 and sin 0 = 0: they are left
        as they are. The code pads both with 1: x + rot(x), a turn by 45° and √2 times as long, at every position the same. It knows no
        place, but such a pair weighs twice in q·k. Cˢ and Cᶜ are drawn once, identity plus noise, and not trained: so are the
        released configurations; ``requires_grad_()`` trains them. With E ≤ K/4 at least half of the pairs know no place.
        As Cˢ and Cᶜ are drawn apart, q·k depends on the distance only nearly. The code's option of more frequencies than pairs is not here.
Shapes  x: (..., H, T, K), K even   positions: (T,)   theta: (F,)   sin_mix, cos_mix: (H, F, E)
"""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import rope


def frequencies(K: int, length: int, base: float = 10000.0) -> Tensor:
    """Ω of (1) in float64, falling: the frequencies of RoPE that turn at least once in ``length`` tokens. Raises ValueError if none does."""
    theta = rope.frequencies(K, base)
    theta = theta[theta >= 2 * math.pi / length]                                                    # (1)
    if not len(theta):
        raise ValueError(f"length is {length}, wanted at least 7: no frequency turns once, the fastest takes 2π tokens")
    return theta


def rotate(x: Tensor, positions: Tensor, theta: Tensor, sin_mix: Tensor, cos_mix: Tensor) -> Tensor:
    """x (..., H, T, K) at its positions, by (2) and (3). Raises ValueError for another number of heads than that of the matrices, and an odd K."""
    K, E = x.shape[-1], sin_mix.shape[-1]
    if x.dim() < 3 or x.shape[-3] != len(sin_mix) or K % 2 or 2 * E > K:
        raise ValueError(f"x has shape {tuple(x.shape)}, wanted (..., H={len(sin_mix)}, T, K), K even and at least {2 * E}")
    cos, sin = (y.to(x.dtype) for y in rope.angles(positions, K, theta=theta))
    sin, cos = (F.pad(y @ mix, (0, K // 2 - E), value=1.0) for y, mix in ((sin, sin_mix), (cos, cos_mix)))      # (2)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)                                    # (3)


class FoPE(nn.Module):
    """``rotate`` for an attention of H heads, K wide, trained on ``length`` tokens: ``full.Layer(D, H, rotate=FoPE(D // H, L, H))``.

    ``gain`` of the noise: its deviation is gain·√(2 / (E (F + H))), Xavier's rule for the three axes at once, as in the released code,
    where it is 0.3 for the smallest model. Not trained unless ``requires_grad_()`` is called.
    """

    def __init__(self, K: int, length: int, heads: int, base: float = 10000.0, gain: float = 0.3):
        super().__init__()
        self.theta = frequencies(K, length, base)                # no buffer: a cast of the model would round them
        n, E = len(self.theta), min(len(self.theta), K // 4)
        if not E:
            raise ValueError(f"K is {K}, wanted at least 4: a quarter of it is mixed")
        start = torch.eye(n)[:, ::-(-n // E)]                     # with more frequencies than columns every second one, and the last columns are noise alone
        start = F.pad(start, (0, E - start.shape[1]))
        self.sin_mix, self.cos_mix = (nn.Parameter(start + nn.init.xavier_normal_(torch.empty(heads, n, E), gain), requires_grad=False) for _ in range(2))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        return rotate(x, positions, self.theta, self.sin_mix, self.cos_mix)
