"""Longer than trained: the pairs of RoPE turn slower, or far distances are mapped into the range that training has seen.

    PI            θ'_i = θ_i / s,    s = L_new / L_train                                                         (1)
    NTK-aware     β' = β s^(K/(K−2)):  the fastest pair as before, the slowest divided by s                      (1)
      dynamic     β'_ℓ = β (s ℓ / L_train − (s − 1))^(K/(K−2))  at a length ℓ > L_train                          (2)
      by parts    θ'_i = (1 − γ_i) θ_i / s + γ_i θ_i,   γ_i = clip((r_i − slow) / (fast − slow), 0, 1),  r_i = L_train θ_i / 2π
    YaRN          idx(n) = K ln(L_train / 2πn) / (2 ln β),   low = ⌊idx(32)⌋,  high = ⌈idx(1)⌉,
                  γ_i = 1 − clip((i − low) / (high − low), 0, 1)                                                 (1)
                  θ'_i = (1 − γ_i) θ_i / s + γ_i θ_i                                                             (2)
                  m = 0.1 ln s + 1,   cos → m cos,  sin → m sin                                                  (3)
    ReRoPE        dist(t, j) = min(t − j, w);   leaky: w + (t − j − w) / κ beyond w                              (1)
    Self-Extend   beyond w:  pos_q(t) = ⌊t/G⌋ + w − ⌊w/G⌋,   pos_k(j) = ⌊j/G⌋;   exact inside w                  (1)
                  L_max = (L_train − w) G + w                                                                    (2)

Paper   PI: Chen et al. 2023, arXiv:2306.15595. NTK (bloc97, dynamic: emozilla, forum posts of 2023), by parts and YaRN: Peng et al. 2023,
        arXiv:2309.00071. ReRoPE: Su 2023, github.com/bojone/rerope. Self-Extend: Jin et al. 2024, arXiv:2401.01325.
Differs YaRN's ramp runs in the number of the pair, as in the code that its authors released; in their paper it runs in the turns r_i,
        which is ``ntk_by_parts``. Dynamic NTK has a base for every length, so keys are kept unrotated and turned anew.
Shapes  θ: (K/2,) in float64   q, k: (..., T, K)   v: (..., T, V)   S: {"k": (..., m, K), "v": (..., m, V)}, unrotated
Units   ``trained`` L_train and ``length`` ℓ count tokens. w: keys nearer than w tokens, the token itself included, stand at their true distance.
        The first five give θ (YaRN also m) for ``partial(rope.rotate_halves, theta=θ, scale=m)``.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import core
from ..cache.full import Layer
from ..cache.window import Memory, Rotate, appended, checked
from ..forms import attend, merge
from ..layer import State, merged
from .rope import frequencies, rotate_halves

# ------------------------------------------------------------------ slower turns


def pi(K: int, base: float, s: float) -> Tensor:
    """All pairs s times slower, as if positions were divided by s."""
    return frequencies(K, base) / s                                                                 # (1)


def ntk(K: int, base: float, s: float) -> Tensor:
    """A larger base: pair i is s^(2i/(K−2)) times slower. Raises ValueError for K < 4."""
    if K < 4:
        raise ValueError(f"K is {K}, wanted at least 4: the fastest pair stays, another one must slow down")
    return frequencies(K, base * s ** (K / (K - 2)))                                                # (1)


def ntk_dynamic(K: int, base: float, s: float, trained: int, length: int) -> Tensor:
    """θ at this length; up to the trained one nothing changes. s = 1 makes it ``ntk`` by the factor length / trained."""
    return ntk(K, base, s * max(length, trained) / trained - (s - 1))                               # (2)


def ntk_by_parts(K: int, base: float, s: float, trained: int, slow: float = 1.0, fast: float = 32.0) -> Tensor:
    """Pairs of fewer than ``slow`` turns in the trained length s times slower, those of more than ``fast`` as before, between them a ramp."""
    theta = frequencies(K, base)
    keep = ((trained * theta / (2 * math.pi) - slow) / (fast - slow)).clamp(0, 1)
    return (1 - keep) * theta / s + keep * theta


def yarn(K: int, base: float, s: float, trained: int, slow: float = 1.0, fast: float = 32.0) -> tuple[Tensor, float]:
    """θ and the factor m on cos and sin, so that scores are multiplied by m²."""
    def idx(turns: float) -> float:
        return K * math.log(trained / (2 * math.pi * turns)) / (2 * math.log(base))
    theta, i = frequencies(K, base), torch.arange(K // 2, dtype=torch.float64)
    low, high = max(math.floor(idx(fast)), 0), min(math.ceil(idx(slow)), K - 1)
    keep = 1 - ((i - low) / (high - low or 1)).clamp(0, 1)                                          # (1)
    return (1 - keep) * theta / s + keep * theta, 0.1 * math.log(max(s, 1)) + 1                     # (2) (3)


def rotate_dynamic(x: Tensor, positions: Tensor, base: float, s: float, trained: int, rotate: Rotate = rotate_halves) -> Tensor:
    """x turned by dynamic NTK; the length is the last position and one.

    One call has one length: token by token each query sees all keys by its own, in a longer call all queries by that of the last.
    """
    return rotate(x, positions, theta=ntk_dynamic(x.shape[-1], base, s, trained, int(positions.max()) + 1))


# ------------------------------------------------------------------ other distances


def capped(t: Tensor, j: Tensor, w: int, leak: float = 0.0) -> Tensor:
    """ReRoPE's distance; ``leak`` is the slope 1/κ beyond w."""
    d = (t - j).double()
    return torch.where(d < w, d, w + leak * (d - w))                                                # (1)


def grouped(t: Tensor, j: Tensor, w: int, G: int) -> Tensor:
    """Self-Extend's distance."""
    return torch.where(t - j < w, t - j, t // G + w - w // G - j // G)                              # (1)


def reach(trained: int, w: int, G: int) -> int:
    """The longest text in which Self-Extend meets no distance that training has not, if G divides w."""
    return (trained - w) * G + w                                                                    # (2)


def step(S: Memory, q: Tensor, k: Tensor, v: Tensor, distance: Callable[[Tensor, Tensor], Tensor], rotate: Rotate = rotate_halves) -> tuple[Memory, Tensor]:
    """One token, by any rule ``distance(t, j)``: the definition. For each key the query is turned by their distance."""
    S = {"k": torch.cat([S["k"], k[..., None, :]], -2), "v": torch.cat([S["v"], v[..., None, :]], -2)}
    j = torch.arange(S["k"].shape[-2], device=k.device)
    turned = rotate(q[..., None, :].expand_as(S["k"]), distance(j[-1], j))
    s = (turned * S["k"]).sum(-1) / q.shape[-1] ** 0.5
    return S, (s.softmax(-1)[..., None, :] @ S["v"])[..., 0, :]


def recurrent(q: Tensor, k: Tensor, v: Tensor, state: Memory | None = None, *, distance: Callable[[Tensor, Tensor], Tensor],
              rotate: Rotate = rotate_halves) -> tuple[Tensor, Memory]:
    """Token by token, O(T²·K). Returns o (..., T, V) and the cache. Raises ValueError for shapes that do not fit, mixed types, NaN."""
    return core.run(step, checked(q, k, v, state), q, k, v, distance=distance, rotate=rotate)


def rerope(q: Tensor, k: Tensor, v: Tensor, state: Memory | None = None, *, w: int, leak: float = 0.0,
           rotate: Rotate = rotate_halves) -> tuple[Tensor, Memory]:
    """= ``recurrent`` with ``capped``, in blocks: far queries stand at w + (t − w)·leak, far keys at j·leak.

    Twice the scores of full attention at most, no T × T matrix. Returns o (..., T, V) and the cache. Raises ValueError as ``recurrent``, and for w < 1.
    """
    return _near_and_far(q, k, v, state, w, rotate, lambda t: w + leak * (t.double() - w), lambda j: leak * j.double())


def self_extend(q: Tensor, k: Tensor, v: Tensor, state: Memory | None = None, *, w: int, G: int,
                rotate: Rotate = rotate_halves) -> tuple[Tensor, Memory]:
    """= ``recurrent`` with ``grouped``, in blocks, as ``rerope``. Raises ValueError as it does, and for G < 1."""
    if G < 1:
        raise ValueError(f"G is {G}, wanted at least 1: so many tokens share a position")
    return _near_and_far(q, k, v, state, w, rotate, lambda t: t // G + w - w // G, lambda j: j // G)


def _near_and_far(q, k, v, state, w, rotate, far_q, far_k):
    """Two reads of one cache, with queries and keys of their own, under one softmax."""
    S = appended(checked(q, k, v, state), k, v)
    j = torch.arange(S["k"].shape[-2], device=k.device)
    t = j[-q.shape[-2]:]
    near = attend(rotate(q, t), rotate(S["k"], j), S["v"], window=w)
    far = attend(rotate(q, far_q(t)), rotate(S["k"], far_k(j)), S["v"], beyond=w)
    return merge(near, far)[0].to(q.dtype), S


class Remapped(nn.Module):
    """A trained ``full.Layer`` that reads by another form, with its own weights and rotation, untrained for it.

        block.mixer = Remapped(block.mixer, partial(rerope, w=64))

    x, y: (B, T, D); state as of the layer: {"k", "v"}: (B, Hk, t, K), and what its convolution keeps.
    """

    def __init__(self, layer: Layer, form: Callable):
        super().__init__()
        self.layer, self.form = layer, form

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.layer.D)
        (q, k, v), kept = self.layer.qkv(x, state or {})
        S = {n: state[n] for n in ("k", "v")} if state else None
        reads = [self.form(y, k, v, S, rotate=self.layer.rotate) for y in q.unflatten(-3, (k.shape[-3], -1)).unbind(-3)]
        o = torch.stack([o for o, _ in reads], -3).flatten(-4, -3)
        return self.layer.out(merged(o)), {**reads[0][1], **kept}
