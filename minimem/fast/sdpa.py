"""torch SDPA: full attention, and a window with sinks, as one fused kernel call a block.

    o_t = Σ_{j∈𝒱(t)} softmax_j(q_t·k_j/√K) v_j                    (``forms.attend`` is the definition)

Differs SDPA returns no log-sum-exp, so its reads cannot be merged with others. It has one q; where sinks are read by another (rotated by
        slot), the two stand side by side, [q, q'], each meeting zeros in the other's keys: twice the width.
        ``is_causal=True`` puts the triangle at the top left: with more keys than queries the first query would see only key 0.
        Here queries are the last of the keys, so that case gets an explicit T × M mask, and so does a bias. The kernel wants four axes: with
        fewer, torch falls back to the T × T product, so leading axes are folded into one.
Shapes  q, k: (..., T, K)   v: (..., T, V)   state: {"k": (..., m, K), "v": (..., m, V)}
"""
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cache.full import Bias, Rescale, grouped
from ..cache.window import Rotate, appended, bare, checked
from ..forms import by_distance

State = dict[str, Tensor]


def full(q: Tensor, k: Tensor, v: Tensor, state: State | None = None, rotate: Rotate = bare, bias: Bias | None = None,
         rescale: Rescale | None = None) -> tuple[Tensor, State]:
    """Causal attention over all that came before, as ``cache.full.parallel``, grouped heads too. Returns o (..., H, T, V) and the cache, unrotated."""
    S = appended(grouped(q, k, v, state), k, v)
    T, M = q.shape[-2], S["k"].shape[-2]
    at = torch.arange(M, device=q.device)
    t, mask = at[-T:], at <= at[-T:, None] if 1 < T < M else None
    if bias is not None:
        b = by_distance(bias(q, M).to(q.dtype), t[:, None] - at).masked_fill(at > t[:, None], -torch.inf)
        mask = b.expand(*q.shape[:-1], M).reshape(1, -1, T, M)
    x = rotate(q if rescale is None else rescale(q, t + 1), t)
    return _read(x, rotate(S["k"], at), S["v"], attn_mask=mask, is_causal=mask is None and T > 1, enable_gqa=q.shape[:-2] != k.shape[:-2]), S


def streaming(q: Tensor, k: Tensor, v: Tensor, state: State | None = None, window: int = 8, sinks: int = 2,
              rotate: Rotate = bare, block: int = 128) -> tuple[Tensor, State]:
    """The first ``sinks`` and the last ``window`` keys, as ``cache.window.parallel``. Returns o and the cache, unrotated.

    Raises ValueError for window or block < 1, sinks < 0, and shapes that do not fit, a state of more than sinks + window among them.
    """
    if window < 1 or sinks < 0 or block < 1:
        raise ValueError(f"saw window={window}, sinks={sinks}, block={block}, wanted window >= 1, sinks >= 0, block >= 1")
    k, v = appended(checked(q, k, v, state), k, v).values()
    if (held := k.shape[-2] - q.shape[-2]) > sinks + window:
        raise ValueError(f"the state holds {held} tokens, wanted at most sinks + window = {sinks + window}")
    M, K, v_sinks = *k.shape[-2:], v[..., :sinks, :]
    at, out, first = torch.arange(M, device=q.device), [], M - q.shape[-2]
    kept = torch.cat([at[:sinks], at[sinks:][-window:]])
    cache = {"k": k.index_select(-2, kept), "v": v.index_select(-2, kept)}
    q, q_sinks, k = rotate(q, at[first:]), rotate(q, at[first:].clamp(max=sinks + window - 1)), rotate(k, at)
    k_sinks = k[..., :sinks, :]
    if sinks and rotate is not bare:
        q, k, k_sinks = torch.cat([q, q_sinks], -1), F.pad(k, (0, K)), F.pad(k_sinks, (K, 0))
    ks, vs = k.split(block, -2), v.split(block, -2)
    for x in q.split(block, -2):
        end = first + x.shape[-2]
        lo, hi = max(0, first - window + 1) // block, (end - 1) // block + 1
        i, j = at[first:end, None], at[lo * block:hi * block]
        mask = torch.cat([at[:sinks] <= i, (j <= i) & (i - j < window) & (j >= sinks)], -1)
        out.append(_read(x, torch.cat([k_sinks, *ks[lo:hi]], -2), torch.cat([v_sinks, *vs[lo:hi]], -2), attn_mask=mask, scale=K**-0.5))
        first = end
    return torch.cat(out, -2), cache


def _read(q: Tensor, k: Tensor, v: Tensor, **options) -> Tensor:
    o = F.scaled_dot_product_attention(*(x.reshape(1, -1, *x.shape[-2:]) for x in (q, k, v)), **options)
    return o.reshape(*q.shape[:-1], v.shape[-1])
