"""Full attention with a KV cache: keep the key and the value of every token, and look at all of them.

    S_t = concat(S_{t−1}, (k_t, v_t))                             (1)
    o_t = Σ_{j≤t} softmax_j(q_t·k_j / √K) v_j                     (2)

Positions enter by three small functions, each optional:

    rotate(x, at)    queries and keys turned by where they stand, at (T,): ``rope.rotate_halves``, FoPE, interpolated frequencies
    bias(q, M)       what is added to the scores by distance: (..., T or 1, R), entry d for the key d tokens back, the last for all
                     that is farther: ALiBi, T5, Shaw
    rescale(q, n)    queries times a factor that depends on how many keys n (T,) they see: SSMAX

Paper   Vaswani et al. 2017, arXiv:1706.03762; one key head for all query heads, Shazeer 2019, arXiv:1911.02150; for groups of them,
        Ainslie et al. 2023, arXiv:2305.13245.
Differs keys are kept as they come, not rotated, so that frequencies may change with the length. The price: each call rotates all of
        them anew, which for one new token takes longer than the read itself. The cache is joined, not written in place: each call
        copies it, in about the time of a fused read (``benchmarks/cache.py``).
Shapes  q: (..., H, T, K)   k: (..., Hk, T, K)   v: (..., Hk, T, V), H a multiple of Hk: H / Hk query heads in a row read the same keys;
        or all (..., T, D) with the same leading axes
        S: {"k": (..., Hk, m, K), "v": (..., Hk, m, V)}
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import core
from ..forms import attend
from ..layer import QKV, State, merged
from .window import Memory, Rotate, appended, bare, checked, init  # noqa: F401  (init: the empty cache is the same)

Bias = Callable[[Tensor, int], Tensor]
Rescale = Callable[[Tensor, Tensor], Tensor]


def step(S: Memory, q: Tensor, k: Tensor, v: Tensor, rotate: Rotate = bare, bias: Bias | None = None,
         rescale: Rescale | None = None) -> tuple[Memory, Tensor]:
    """One token: the definition."""
    S = {"k": torch.cat([S["k"], k[..., None, :]], -2), "v": torch.cat([S["v"], v[..., None, :]], -2)}     # (1)
    q, at = q[..., None, :], torch.arange(S["k"].shape[-2], device=k.device)
    x = q if rescale is None else rescale(q, at[-1:] + 1)
    keys, values = shared(rotate(S["k"], at), q), shared(S["v"], q)
    s = rotate(x, at[-1:]) @ keys.mT / q.shape[-1] ** 0.5
    if bias is not None:
        b = bias(q, len(at))
        s = s + b[..., (at[-1] - at).clamp(max=b.shape[-1] - 1)]
    return S, (s.softmax(-1) @ values)[..., 0, :]                                                           # (2)


def shared(x: Tensor, q: Tensor) -> Tensor:
    """x (..., Hk, m, D), each head repeated for the H / Hk heads of q that read it."""
    return x if x.shape[:-2] == q.shape[:-2] else x.repeat_interleave(q.shape[-3] // x.shape[-3], -3)


def recurrent(q: Tensor, k: Tensor, v: Tensor, state: Memory | None = None, rotate: Rotate = bare, bias: Bias | None = None,
              rescale: Rescale | None = None) -> tuple[Tensor, Memory]:
    """Token by token, O(T²·K). Returns o (..., H, T, V) and the cache.

    Raises ValueError for shapes that do not fit, H no multiple of Hk among them, mixed types, NaN.
    """
    return core.run(step, grouped(q, k, v, state), q, k, v, rotate=rotate, bias=bias, rescale=rescale)


def parallel(q: Tensor, k: Tensor, v: Tensor, state: Memory | None = None, rotate: Rotate = bare, bias: Bias | None = None,
             rescale: Rescale | None = None) -> tuple[Tensor, Memory]:
    """All tokens at once, in blocks: O(T²·K) time, no T × T matrix, no repeated heads. Returns o (..., H, T, V) and the cache.

    Raises ValueError as ``recurrent`` does.
    """
    S = appended(grouped(q, k, v, state), k, v)
    at = torch.arange(S["k"].shape[-2], device=k.device)
    t = at[-q.shape[-2]:]
    b = None if bias is None else bias(q, len(at))
    x = rotate(q if rescale is None else rescale(q, t + 1), t)
    keys, values = rotate(S["k"], at), S["v"]
    if q.shape[:-2] != k.shape[:-2]:
        x, keys, values = x.unflatten(-3, (k.shape[-3], -1)), keys.unsqueeze(-3), values.unsqueeze(-3)
        if b is not None and b.dim() > 2:
            b = b.unflatten(-3, (1, 1) if b.shape[-3] == 1 else (k.shape[-3], -1))
    o, _ = attend(x, keys, values, bias=b)
    return o.reshape(*q.shape[:-1], v.shape[-1]), S


def grouped(q: Tensor, k: Tensor, v: Tensor, state: Memory | None) -> Memory:
    """``checked``, where q may have more heads than k, so many for each. Raises ValueError as it does."""
    one = q                                                               # query head for each key head
    alike = isinstance(q, Tensor) and isinstance(k, Tensor) and q.dim() == k.dim() > 2
    if alike and q.shape[-3] > k.shape[-3] > 0 and q.shape[-3] % k.shape[-3] == 0:
        core.expect("q:TK", q)
        one = q[..., ::q.shape[-3] // k.shape[-3], :, :]
    return checked(one, k, v, state)


class Layer(nn.Module):
    """Softmax attention over all that came before, H query heads on ``kv_heads`` (None: as many) heads of keys and values.

    ``rotate``, ``bias``, ``rescale``: positions, as above; those that learn are modules. ``conv``: width of a short convolution of q, k and v, 0 for none.
    state: {"k", "v"}: (B, Hk, t, D / H), unrotated, grows with every token; with ``conv`` also the window of the convolution.
    Raises ValueError if D is no multiple of ``heads``, or ``heads`` none of ``kv_heads``.
    """

    def __init__(self, D: int, heads: int = 4, kv_heads: int | None = None, conv: int = 0, rotate: Rotate = bare,
                 bias: Bias | None = None, rescale: Rescale | None = None):
        super().__init__()
        if D % heads or heads % (kv_heads or heads):
            raise ValueError(f"D is {D}, heads {heads} and kv_heads {kv_heads}, wanted each a multiple of the next")
        self.D = D
        self.rotate, self.bias, self.rescale = rotate, bias, rescale
        self.qkv = QKV(D, heads, D // heads, D // heads, conv, nn.Identity(), kv_heads)
        self.out = nn.Linear(D, D, bias=False)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.D)
        (q, k, v), kept = self.qkv(x, state or {})
        S = {n: state[n] for n in ("k", "v")} if state else None
        o, S = parallel(q, k, v, S, self.rotate, self.bias, self.rescale)
        return self.out(merged(o)), {**S, **kept}
