"""Transformer-XL: read the text in segments, keep the hidden states of the segments before, and look at them by their distance.

    h̃ = [SG(m); h],   q = h W_q,   k = h̃ W_k,   v = h̃ W_v                              (1)
    s_tj = [(q_t + u)·k_j + (q_t + w)·R_{t−j} W_R] / √K,   o_t = Σ_{j≤t} softmax_j(s_tj) v_j       (2)

h: what the layer is given in this segment of n tokens; m: what it was given in the last M tokens before it. SG: no gradient flows into them.
u and w are learned for each head, and R_d = [sin(d Ω), cos(d Ω)] with Ω_i = 10000^(−2i/D), the sinusoids of a distance.

Token t sees from n⌊t/n⌋ − M to t: M tokens at the start of a segment, M + n − 1 at its end. With ``segment=1`` all see the same M, the authors'
variant for evaluation. Both M and n may change after training. Keys and values are computed from the kept states again for each segment, by the weights of today.

Paper   Dai et al. 2019, arXiv:1901.02860.
Differs the attention alone: residual and norm stand around it, LayerNorm after it in the paper. Inside ``layer.Block`` the norm comes before, as in the
        option ``pre_lnorm`` of the authors' code; then what is kept is normed already. No dropout.
Shapes  x, o: (..., T, D)   memory: (..., m, D), m ≤ M   segment: (..., s, D), s < n   W: (D, D), used as x W   u, w: (H, K), H K = D
Units   ``memory`` M and ``segment`` n in tokens
"""
from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import core
from ..forms import attend
from ..layer import State, heads, merged
from ..position.rope import angles

Params = dict[str, Tensor]


def init(D: int, lead: tuple[int, ...] = (), **like) -> State:
    """Nothing seen: memory and segment are (*lead, 0, D)."""
    return {n: torch.zeros(*lead, 0, D, **like) for n in ("memory", "segment")}


def params(D: int, heads: int = 2, seed: int = 0, **like) -> Params:
    """q, k, v, r and o (D, D), and u and w (heads, D / heads), with a spread of 1/√D. Raises ValueError where D does not divide by heads or by 2."""
    if D % heads or D % 2:
        raise ValueError(f"D is {D}, wanted a multiple of heads, {heads}, and of 2")
    r, uw = torch.Generator().manual_seed(seed), (heads, D // heads)
    shape = {"q": (D, D), "k": (D, D), "v": (D, D), "r": (D, D), "o": (D, D), "u": uw, "w": uw}
    return {n: D ** -0.5 * torch.randn(size, generator=r, dtype=torch.float64).to(torch.empty(0, **like)) for n, size in shape.items()}


def sinusoids(n: int, like: Tensor) -> Tensor:
    """R of the distances 0 … n − 1, (n, D), D and type those of ``like``."""
    cos, sin = angles(torch.arange(n, device=like.device), like.shape[-1])
    return torch.cat([sin, cos], -1).to(like.dtype)


def step(S: State, x: Tensor, params: Params, memory: int = 12, segment: int = 4) -> tuple[State, Tensor]:
    """One token: the definition."""
    u, w = params["u"][:, None], params["w"][:, None]
    h = torch.cat([S["memory"], S["segment"], x[..., None, :]], -2)                                # (1)
    q, k, v = (heads(y @ params[n], len(u)) for n, y in (("q", h[..., -1:, :]), ("k", h), ("v", h)))        # (1)
    R = heads(sinusoids(h.shape[-2], x).flip(0) @ params["r"], len(u))
    s = ((q + u) @ k.mT + (q + w) @ R.mT) / q.shape[-1] ** 0.5                                      # (2)
    o = merged(s.softmax(-1) @ v) @ params["o"]                                                     # (2)
    return filed({**S, "segment": h[..., S["memory"].shape[-2]:, :]}, memory, segment), o[..., 0, :]


def filed(S: State, memory: int, segment: int) -> State:
    """A full segment goes into the memory, which no gradient enters; all but the last ``memory`` tokens are dropped. SG of (1)."""
    if S["segment"].shape[-2] < segment:
        return S
    h = torch.cat([S["memory"], S["segment"]], -2).detach()                                         # (1)
    return {"memory": h[..., max(0, h.shape[-2] - memory):, :], "segment": h[..., :0, :]}


def recurrent(x: Tensor, state: State | None = None, *, params: Params, memory: int = 12, segment: int = 4) -> tuple[Tensor, State]:
    """Token by token: O((M + n) D²) each, as keys and values are computed again. Returns o (..., T, D) and the state.

    Raises ValueError for another width than that of the parameters, NaN, no tokens, memory < 0, segment < 1, and a state that is larger than these.
    """
    return core.run(step, _checked(x, state, params, memory, segment), x, params=params, memory=memory, segment=segment)


def chunked(x: Tensor, state: State | None = None, *, params: Params, memory: int = 12, segment: int = 4) -> tuple[Tensor, State]:
    """Segment by segment: O(T (D² + (M + n) D)) with segments as long as the memory. Returns o (..., T, D) and the state. Raises ValueError as ``recurrent`` does.

    (q_t + w)·R_d W_R is computed for every d and then looked up by distance: n × (M + n) numbers a head, no tensor n × (M + n) × K.
    """
    S, outs, H = _checked(x, state, params, memory, segment), [], len(params["u"])
    u, w = params["u"][:, None], params["w"][:, None]
    for part in x.tensor_split([*range(segment - S["segment"].shape[-2], x.shape[-2], segment)], -2):
        h = torch.cat([S["memory"], S["segment"], part], -2)                                       # (1)
        q, k, v = (heads(y @ params[n], H) for n, y in (("q", part), ("k", h), ("v", h)))           # (1)
        R = heads(sinusoids(h.shape[-2], x) @ params["r"], H)
        o, _ = attend(q + u, k, v, bias=(q + w) @ R.mT / q.shape[-1] ** 0.5)                        # (2)
        outs.append(merged(o) @ params["o"])
        S = filed({**S, "segment": h[..., S["memory"].shape[-2]:, :]}, memory, segment)
    return torch.cat(outs, -2), S


def _checked(x: Tensor, state: State | None, params: Params, memory: int, segment: int) -> State:
    core.expect("x:TD", x, state=state, state_shape={"memory": "MD", "segment": "SD"}, D=len(params["q"]))
    if memory < 0 or segment < 1:
        raise ValueError(f"saw memory={memory} and segment={segment}, wanted memory >= 0 and segment >= 1")
    if state is None:
        return init(x.shape[-1], x.shape[:-2], **core.like(x))
    m, s = (state[n].shape[-2] for n in ("memory", "segment"))
    if m > memory or s >= segment:
        raise ValueError(f"state holds {m} tokens of memory and {s} of a segment, wanted at most {memory} and less than {segment}")
    return state


class Layer(nn.Module):
    """The attention of Transformer-XL with its own weights; residual and norm are those of the block around it.

    ``memory`` and ``segment`` may be set anew after training. state: {"memory": (B, ≤ memory, D), "segment": (B, < segment, D)}, what it was given.
    """

    def __init__(self, D: int, heads: int = 4, memory: int = 16, segment: int = 16):
        super().__init__()
        self.memory, self.segment = memory, segment
        self.weight = nn.ParameterDict(params(D, heads, int(torch.randint(2 ** 31, ())), dtype=torch.get_default_dtype()))

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return chunked(x, state, params=dict(self.weight), memory=self.memory, segment=self.segment)
