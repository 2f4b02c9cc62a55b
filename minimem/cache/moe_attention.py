"""Mixtures in attention: each token chooses its heads (MoH, MoA), what its heads are made of (SwitchHead), or each head how far it looks (MoA again).

MoH, heads as experts: S shared ones are always on, k of the R others are chosen by the token that asks.
    o_t = Σ_h g_{t,h} head_h(x_t) W_O⁽ʰ⁾                                            (1)
    g_{t,h} = 2a_t · S · softmax_h(W_S x_t) for the shared, 2(1 − a_t) · k · p_h / Σ_{i∈top_k} p_i for the chosen, 0 for the rest
    p = softmax(W_R x_t) over all R,    (a_t, 1 − a_t) = softmax(W_G x_t),    balance = R Σ_h mean_t(p_h) mean_t([h is chosen])
SwitchHead, experts inside a few heads, for values (chosen by the token that is read) and for outputs (by the token that asks):
    v_j^h = Σ_{e∈top_k} σ_e(x_j) x_j W_V^{h,e},    o_t = Σ_h Σ_{e∈top_k} σ'_e(x_t) head_h(x_t) W_O^{h,e}        (2)
MoA, mixture of attention spans: a window for each head, which grows with the length N for which it was set.
    W_h(N) = α_h + β_h N                                                            (3)
MoA, mixture of attention heads: k of E experts for queries and outputs, all reading the same keys and values.
    q^e_t = x_t W_Q^e,    o_t = Σ_{e∈top_k} softmax_{top_k}(W x_t)_e head_e(x_t) W_O^e

Paper   MoH: Jin et al. 2024, arXiv:2410.11842. SwitchHead: Csordás et al. 2024, arXiv:2312.07987. MoA of spans: Fu et al. 2024, arXiv:2406.14909.
        MoA of heads: Zhang et al. 2022, arXiv:2210.05144, as JetMoE has it (several key heads, softmax over the chosen).
Differs MoH has the factors of its authors' code for images; their Llama-3 chooses by the norms of the queries instead, and weights nothing.
        All heads are computed, and the silent ones multiplied by 0, as in that code: time is not saved here. SwitchHead and MoA without
        their losses and dropout of experts. The spans have no sinks, and are set by hand: no search by gradients.
Shapes  q, k: (..., T, K)   v: (..., T, V)   b, the gate: (..., T, 1)   S: {"k", "v"} of every head, chosen or not; layers: x (B, T, D)
Units   ``active`` counts the shared heads too. A window counts the current token.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import core
from ..layer import QKV, State, merged
from ..layer import heads as split
from . import full, window
from .window import Memory, Rotate, bare, checked, init  # noqa: F401  (init: the empty cache is the same)

# ------------------------------------------------------------------ MoH

def step(S: Memory, q: Tensor, k: Tensor, v: Tensor, b: Tensor, rotate: Rotate = bare) -> tuple[Memory, Tensor]:
    """One token of heads with gates: the definition. Every head keeps the token; only heads with b > 0 are heard."""
    S, head = full.step(S, q, k, v, rotate)
    return S, b * head                                                                              # (1)


def recurrent(q: Tensor, k: Tensor, v: Tensor, b: Tensor, state: Memory | None = None, rotate: Rotate = bare) -> tuple[Tensor, Memory]:
    """Token by token. Returns b_t·head(x_t) (..., T, V) and the cache. Raises ValueError for shapes that do not fit, mixed types, NaN."""
    core.expect("q:TK b:T1", q, b)
    return core.run(step, checked(q, k, v, state), q, k, v, b, rotate=rotate)


def parallel(q: Tensor, k: Tensor, v: Tensor, b: Tensor, state: Memory | None = None, rotate: Rotate = bare) -> tuple[Tensor, Memory]:
    """All tokens at once, by ``full.parallel``. Raises ValueError as ``recurrent`` does."""
    core.expect("q:TK b:T1", q, b)
    head, S = full.parallel(q, k, v, state, rotate)
    return b * head, S                                                                              # (1)


def gates(logits: Tensor, shared: int, k: int) -> tuple[Tensor, Tensor]:
    """g of (1), and the loss that is least when all routed heads are used alike (then it is k).

    logits: (..., T, S + R + 2), of the shared heads, the routed ones, the two groups   ->   g: (..., T, S + R), balance: a number.
    """
    s, r, group = logits.split([shared, logits.shape[-1] - shared - 2, 2], -1)
    a, p = 2 * group.softmax(-1), r.softmax(-1)
    chosen = torch.zeros_like(p).scatter(-1, p.topk(k, -1).indices, 1.0)
    kept = p * chosen
    g = torch.cat([a[..., :1] * shared * s.softmax(-1), a[..., 1:] * k * kept / kept.sum(-1, keepdim=True)], -1)
    return g, p.shape[-1] * (p.flatten(0, -2).mean(0) * chosen.flatten(0, -2).mean(0)).sum()


class Layer(nn.Module):
    """MoH: ``shared`` heads for every token, and the best ``active`` − ``shared`` of the others. ``balance``: the loss of the last call.

    state: {"k", "v"}: (B, heads, t, D / heads), as large as without gates: a later token may choose any head.
    """

    def __init__(self, D: int, heads: int = 8, shared: int = 2, active: int = 6, rotate: Rotate = bare):
        super().__init__()
        if not 0 < shared < active <= heads:
            raise ValueError(f"saw {shared} shared and {active} active of {heads} heads, wanted 0 < shared < active <= heads")
        self.D, self.shared, self.k, self.rotate = D, shared, active - shared, rotate
        self.qkv = QKV(D, heads, D // heads, D // heads, 0, nn.Identity())
        self.router = nn.Linear(D, heads + 2, bias=False)
        self.out = nn.Linear(D, D, bias=False)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.D)
        (q, k, v), _ = self.qkv(x, {})
        g, self.balance = gates(self.router(x), self.shared, self.k)
        o, S = parallel(q, k, v, g.mT[..., None], state, self.rotate)
        return self.out(merged(o)), S                                                               # (1)


# ------------------------------------------------------------------ experts

def routed(x: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
    """x W_e for each chosen expert e: rows are sorted by expert, and each expert multiplies only its own.

    x: (..., k or 1, D)   weight: (E, D, M)   chosen: (..., k), numbers 0 … E − 1   ->   (..., k, M)
    """
    e = chosen.flatten()
    order = e.argsort()
    rows = x.expand(*chosen.shape, x.shape[-1]).flatten(0, -2)[order]
    parts = rows.split(e.bincount(minlength=len(weight)).tolist())
    y = torch.cat([part @ W for part, W in zip(parts, weight)])
    return y[order.argsort()].unflatten(0, chosen.shape)


def _weights(n: int, rows: int, columns: int, fan_in: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(n, rows, columns) * fan_in ** -0.5)


class SwitchHead(nn.Module):
    """A few heads of width ``K`` (None: D / heads), each with ``experts`` matrices for values and as many for outputs, ``k`` of them used at a time.

    state: {"k", "v"}: (B, heads, t, K); a value is the sum of its experts, so it costs no more than without them.
    """

    def __init__(self, D: int, heads: int = 2, experts: int = 4, k: int = 2, K: int | None = None, rotate: Rotate = bare):
        super().__init__()
        K = K or D // heads
        self.D, self.heads, self.k, self.rotate = D, heads, k, rotate
        self.qk = nn.Linear(D, 2 * heads * K, bias=False)
        self.v, self.o = _weights(heads * experts, D, K, D), _weights(heads * experts, K, D, heads * K)
        self.source, self.target = nn.Linear(D, heads * experts, bias=False), nn.Linear(D, heads * experts, bias=False)

    def chosen(self, router: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gates (B, T, heads, k, 1), not normalised, and the numbers of the experts they belong to, (B, T, heads, k)."""
        g, e = router(x).unflatten(-1, (self.heads, -1)).sigmoid().topk(self.k, -1)
        return g[..., None], e + torch.arange(0, len(self.v), len(self.v) // self.heads, device=x.device)[:, None]

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.D)
        q, key = (split(y, self.heads) for y in self.qk(x).chunk(2, -1))
        g, e = self.chosen(self.source, x)
        v = (g * routed(x[..., None, None, :], self.v, e)).sum(-2).transpose(1, 2)                  # (2)
        head, S = full.parallel(q, key, v, state, self.rotate)
        g, e = self.chosen(self.target, x)
        return (g * routed(head.transpose(1, 2)[..., None, :], self.o, e)).sum((-3, -2)), S         # (2)


class MoA(nn.Module):
    """Mixture of attention heads: ``k`` of ``experts``, each ``kv_heads`` queries of width ``K`` (None: D / kv_heads), on one set of keys and values.

    state: {"k", "v"}: (B, kv_heads, t, K), whatever the number of experts.
    """

    def __init__(self, D: int, experts: int = 4, k: int = 2, kv_heads: int = 2, K: int | None = None, rotate: Rotate = bare):
        super().__init__()
        K = K or D // kv_heads
        self.D, self.k, self.kv_heads, self.rotate = D, k, kv_heads, rotate
        self.router, self.kv = nn.Linear(D, experts, bias=False), nn.Linear(D, 2 * kv_heads * K, bias=False)
        self.q, self.o = _weights(experts, D, kv_heads * K, D), _weights(experts, kv_heads * K, D, k * kv_heads * K)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.D)
        best, e = self.router(x).topk(self.k, -1)
        q = routed(x[..., None, :], self.q, e).unflatten(-1, (self.kv_heads, -1))                   # (B, T, k, kv_heads, K)
        key, v = (split(y, self.kv_heads) for y in self.kv(x).chunk(2, -1))
        head, S = full.parallel(q.permute(0, 3, 2, 1, 4).flatten(1, 2), key, v, state, self.rotate)
        head = head.unflatten(1, (self.kv_heads, self.k)).permute(0, 3, 2, 1, 4).flatten(-2)
        return (best.softmax(-1)[..., None] * routed(head, self.o, e)).sum(-2), S


# ------------------------------------------------------------------ spans

def windows(alpha: Sequence[float], beta: Sequence[float], N: int) -> list[int]:
    """W_h of every head for a text of N tokens, at least 1 and at most N."""
    return [min(N, max(1, math.floor(a + b * N))) for a, b in zip(alpha, beta, strict=True)]         # (3)


class Spans(nn.Module):
    """MoA of spans: head h sees its last ``windows[h]`` tokens, and keeps no more. A trained ``full.Layer`` can be loaded.

    state: for each window W {"window W": {"k", "v"}: (B, heads with that window, min(t, W), D / heads)}.
    """

    def __init__(self, D: int, windows: Sequence[int], rotate: Rotate = bare):
        super().__init__()
        self.D, self.rotate = D, rotate
        self.groups = {W: [h for h, w in enumerate(windows) if w == W] for W in sorted(set(windows))}
        self.order = sorted(range(len(windows)), key=sum(self.groups.values(), []).__getitem__)
        self.qkv = QKV(D, len(windows), D // len(windows), D // len(windows), 0, nn.Identity())
        self.out = nn.Linear(D, D, bias=False)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.D)
        (q, k, v), _ = self.qkv(x, {})
        o, S = [], {}
        for W, h in self.groups.items():
            name = f"window {W}"
            out, S[name] = window.parallel(q[:, h], k[:, h], v[:, h], state[name] if state else None, W, 0, self.rotate)
            o.append(out)
        return self.out(merged(torch.cat(o, 1)[:, self.order])), S
