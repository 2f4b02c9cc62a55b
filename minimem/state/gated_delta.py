"""Gated delta rule: a matrix of fixed size that first forgets a little, then corrects what it says about one key.

    S_t = e^{a_t} (I − b_t k_t k_tᵀ) S_{t−1} + b_t k_t v_tᵀ        (1)
    o_t = S_tᵀ q_t                                                (2)

Paper   Yang, Kautz, Hatamizadeh 2025, arXiv:2412.06464.
Differs a and b are given, q and k are not convolved, activated or normed, q is not scaled: that is ``Layer``.
Shapes  q, k: (..., T, K)   v: (..., T, V)   a, b: (..., T, 1)   S: (..., K, V)
Units   a is a natural log-decay ≤ 0. b in (0, 1), or (0, 2) to allow negative eigenvalues. Keys have unit norm: with b‖k‖² > 2 the
        memory grows without bound.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import core, forms
from ..layer import QKV, State, merged, step_bias, unit

SHAPES = "q:TK k:TK v:TV a:T1 b:T1"


def init(K: int, V: int, lead: tuple[int, ...] = (), **like) -> Tensor:
    """The empty memory S_0 = 0, (*lead, K, V)."""
    return torch.zeros(*lead, K, V, **like)


def step(S: Tensor, q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """One token: the definition. (1) in three parts: it is S' + b k (v − S'ᵀ k)ᵀ with S' = e^a S."""
    S = a.exp()[..., None] * S                                   # (1) forget
    miss = v - (k[..., None, :] @ S)[..., 0, :]                  # (1) what the memory gets wrong about k
    S = S + k[..., :, None] * (b * miss)[..., None, :]           # (1) correct it
    return S, (q[..., None, :] @ S)[..., 0, :]                   # (2)


def recurrent(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(1) and (2) token by token. Returns o (..., T, V) and S_T. Raises ValueError naming the argument that does not fit."""
    core.expect(SHAPES, q, k, v, a, b, state=state, state_shape="KV")
    state = init(k.shape[-1], v.shape[-1], k.shape[:-2], **core.like(k)) if state is None else state
    return core.run(step, state, q, k, v, a, b)


def chunked(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor | None = None,
            chunk: int = 32) -> tuple[Tensor, Tensor]:
    """The same values chunk by chunk: T/chunk steps, each one triangular solve. Raises as ``recurrent``."""
    core.expect(SHAPES, q, k, v, a, b, state=state, state_shape="KV")
    return forms.delta(q, k, v, b, a, state, chunk)


class Layer(nn.Module):
    """q, k, v = SiLU(conv(x W)), q and k of unit norm; a = −A softplus(x W_a + c), b = σ(x W_b) per head, 2σ if ``negative``;
    o → RMSNorm per head ⊙ SiLU(x W_z) → W_o.

    x, y: (B, T, D)   state: S (B, H, K, V) and the window of the convolutions, (B, conv − 1, H·(2K + V)).
    As in the paper H·K = ¾ D and V = 2 K unless they are given. conv = 0: no convolution.
    """

    def __init__(self, D: int, heads: int = 6, K: int = 0, V: int = 0, conv: int = 4, negative: bool = False):
        super().__init__()
        K = K or 3 * D // (4 * heads)
        V = V or 2 * K
        self.D, self.strongest = D, 2.0 if negative else 1.0
        self.qkv = QKV(D, heads, K, V, conv)
        self.a, self.b, self.z = (nn.Linear(D, n, bias=False) for n in (heads, heads, heads * V))
        self.A_log, self.dt_bias = nn.Parameter(torch.empty(heads).uniform_(0.01, 16).log()), nn.Parameter(step_bias(heads))
        self.norm, self.out = nn.RMSNorm(V, eps=1e-5), nn.Linear(heads * V, D, bias=False)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.D)
        state = state or {}
        (q, k, v), kept = self.qkv(x, state)
        a = (-self.A_log.exp() * F.softplus(self.a(x) + self.dt_bias)).mT[..., None]
        b = self.strongest * self.b(x).sigmoid().mT[..., None]
        o, S = chunked(unit(q) * q.shape[-1] ** -0.5, unit(k), v, a, b, state.get("S"))
        return self.out(merged(self.norm(o)) * F.silu(self.z(x))), {"S": S, **kept}


def from_hf(theirs: nn.Module) -> Layer:
    """The ``linear_attn`` of a layer of transformers' Qwen3-Next as a ``Layer``, with its weights.

    There, neighbouring heads may share q and k: here each has its own copy. Raises AttributeError for another module.
    """
    H, G, K, V = theirs.num_v_heads, theirs.num_k_heads, theirs.head_k_dim, theirs.head_v_dim
    n = H // G
    ours = Layer(theirs.hidden_size, H, K, V, theirs.conv_kernel_size)
    ours.norm.eps = theirs.norm.variance_epsilon

    def each(w: Tensor) -> Tensor:
        return w.unflatten(0, (G, K)).repeat_interleave(n, 0).flatten(0, 1)
    q, k, v, z = theirs.in_proj_qkvz.weight.unflatten(0, (G, -1)).split([K, K, n * V, n * V], 1)
    b, a = theirs.in_proj_ba.weight.unflatten(0, (G, -1)).split([n, n], 1)
    cq, ck, cv = theirs.conv1d.weight.split([G * K, G * K, H * V])
    q, k, v, z, b, a = (w.flatten(0, 1) for w in (q, k, v, z, b, a))
    ours.load_state_dict({"qkv.proj.weight": torch.cat([each(q), each(k), v]), "qkv.conv.weight": torch.cat([each(cq), each(ck), cv]),
                          "a.weight": a, "b.weight": b, "z.weight": z, "A_log": theirs.A_log, "dt_bias": theirs.dt_bias,
                          "norm.weight": theirs.norm.weight, "out.weight": theirs.out_proj.weight})
    return ours.to(z.dtype).eval()
