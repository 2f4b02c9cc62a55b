"""RWKV-4: every channel keeps an average of its values, weighted by e to the key and fading with time.

    o_t = (Σ_{i<t} e^{(t−1−i)w + k_i} v_i + e^{u+k_t} v_t) / (Σ_{i<t} e^{(t−1−i)w + k_i} + e^{u+k_t}),   w ≤ 0         (1)
    p' = max(p + w, k_t),   α' = e^{p+w−p'} α + e^{k_t−p'} v_t,   β' = e^{p+w−p'} β + e^{k_t−p'}                       (2)

(1) reads before (2) writes: the sums of (1) are α e^p and β e^p. p is the largest exponent so far, so that no e^k overflows; only
α e^p and β e^p mean something, not α, β and p alone.

Paper   Peng et al. 2023, arXiv:2305.13048.
Differs w and u are given. The layer below has them as parameters, w = −e^(time_decay), and starts as the authors' code does.
Shapes  k, v, o: (..., T, D)   w, u: (D,)   α, β, p: (..., D)
Units   w is a natural log-decay a token. u is added to the key of the current token, for its own read alone. In float32, where
        (1) as it stands ends at keys of 88, ``parallel`` errs by 1e-6 and ``recurrent`` by 1e-4 of the values for keys around 100.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import core, forms
from ..layer import State, shifted

Tensors = dict[str, Tensor]
NOTHING = -1e38              # the largest exponent of no keys; finite, so that differences are


def init(D: int, lead: tuple[int, ...] = (), **like) -> Tensors:
    """The empty memory: α = β = 0 and p = −1e38, each (*lead, D)."""
    alpha, beta = torch.zeros(2, *lead, D, **like)
    return {"alpha": alpha, "beta": beta, "p": torch.full((*lead, D), NOTHING, **like)}


def params(D: int, seed: int = 0, **like) -> Tensors:
    """w and u as the authors' code starts them in the first layer; draws nothing, so every ``seed`` gives the same."""
    n = torch.arange(D, **like)
    return {"w": -torch.exp(-5 + 8 * (n / max(1, D - 1)) ** 0.7), "u": math.log(0.3) + 0.5 * ((n + 1) % 3 - 1)}


def step(state: Tensors, k: Tensor, v: Tensor, params: Tensors) -> tuple[Tensors, Tensor]:
    """One token: the definition. The sums of (1) over the tokens before are α e^p and β e^p; p, their unit, takes no gradient."""
    alpha, beta, p, w, u = state["alpha"], state["beta"], state["p"], params["w"], params["u"]
    top = torch.maximum(p, u + k).detach()
    past, now = (p - top).exp(), (u + k - top).exp()
    o = (past * alpha + now * v) / (past * beta + now)           # (1)
    top = torch.maximum(p + w, k).detach()                       # (2) p'
    past, now = (p - top + w).exp(), (k - top).exp()    # (2) not (p + w) − p': w would be lost beside a large p
    return {"alpha": past * alpha + now * v, "beta": past * beta + now, "p": top}, o     # (2) α' and β'


def _start(k: Tensor, v: Tensor, params: Tensors, state: Tensors | None) -> Tensors:
    """The state to start from, once everything fits."""
    core.expect("k:TD v:TD", k, v, state=state, state_shape={"alpha": "D", "beta": "D", "p": "D"})
    core.expect("k:D w:D u:D", k.flatten(0, -2)[0], params["w"], params["u"])
    if params["w"].max() > 0:
        raise ValueError(f"w is a log-decay and must be <= 0, saw {params['w'].max().item():.3g}")
    return init(k.shape[-1], k.shape[:-2], **core.like(k)) if state is None else state


def recurrent(k: Tensor, v: Tensor, params: Tensors, state: Tensors | None = None) -> tuple[Tensor, Tensors]:
    """(1) and (2) token by token. Returns o (..., T, D) and the state. Raises ValueError naming the argument that does not fit."""
    return core.run(step, _start(k, v, params, state), k, v, params=params)


def parallel(k: Tensor, v: Tensor, params: Tensors, state: Tensors | None = None) -> tuple[Tensor, Tensors]:
    """The same values, 1,024 tokens at a time without a loop. Raises as ``recurrent``."""
    state, outs = _start(k, v, params, state), []
    for part in zip(k.split(1024, -2), v.split(1024, -2)):
        o, state = _part(*part, params["w"], params["u"], state)
        outs.append(o)
    return torch.cat(outs, -2), state


def _part(k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensors) -> tuple[Tensor, Tensors]:
    """p from a running maximum of k_t − t w, α and β from one scan."""
    with torch.no_grad():
        t = torch.arange(k.shape[-2] + 1, **core.like(k))[:, None] * w
        most = torch.cat([state["p"][..., None, :], k], -2) - t
        p = t + most.mT.contiguous().cummax(-1)[0].mT                     # in memory order: three times as fast
        past, p = p[..., :-1, :], p[..., 1:, :]
        top = torch.maximum(past, u + k)
    now, start = (k - p).exp(), torch.stack([state["alpha"], state["beta"]])
    sums, last = forms.scan((past - p + w).expand(2, *k.shape), torch.stack([now * v, now]), start)
    alpha, beta = torch.cat([start[..., None, :], sums[..., :-1, :]], -2) * (past - top).exp()
    now = (u + k - top).exp()
    return (alpha + now * v) / (beta + now), {"alpha": last[0], "beta": last[1], "p": p[..., -1, :].clone()}


# ------------------------------------------------------------------ the layers of the paper

def ramps(D: int, layer: int, layers: int) -> tuple[Tensor, float]:
    """(1, 1, D) μ = (i/D)^(1 − layer/layers), how much of the current token channel i takes at the start; and depth, 0 … 1."""
    return (torch.arange(D) / D)[None, None] ** (1 - layer / layers), layer / max(1, layers - 1)


class Layer(nn.Module):
    """Time mix: y = W_o (σ(r) ⊙ o), with r, k and v each made of its own mix μ x_t + (1 − μ) x_{t−1} of two tokens.

    ``layer`` of ``layers``, counted from 0, sets how it starts: slow to fast channels, W_k = W_r = W_o = 0, W_v orthogonal.
    state: {"x": (B, 1, D) the last token, "alpha", "beta", "p": (B, D)}, 4 D floats; ChannelMix keeps one more D.
    """

    def __init__(self, D: int, layer: int = 0, layers: int = 2):
        super().__init__()
        self.D, n = D, torch.arange(D)
        mu, depth = ramps(D, layer, layers)
        self.time_decay = nn.Parameter(-5 + 8 * (n / max(1, D - 1)) ** (0.7 + 1.3 * depth))
        self.time_first = nn.Parameter(math.log(0.3) + 0.5 * ((n + 1) % 3 - 1))
        self.time_mix_key, self.time_mix_value = nn.Parameter(mu.clone()), nn.Parameter(mu + 0.3 * depth)
        self.time_mix_receptance = nn.Parameter(mu ** 0.5)
        self.key, self.value, self.receptance, self.output = (nn.Linear(D, D, bias=False) for _ in range(4))
        nn.init.orthogonal_(self.value.weight)
        for linear in (self.key, self.receptance, self.output):
            nn.init.zeros_(linear.weight)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.D)
        before, last = shifted(x, state and state["x"])
        k, v, r = (linear(torch.lerp(before, x, mu)) for linear, mu in (
            (self.key, self.time_mix_key), (self.value, self.time_mix_value), (self.receptance, self.time_mix_receptance)))
        memory = state and {n: state[n] for n in ("alpha", "beta", "p")}
        o, memory = parallel(k, v, {"w": -self.time_decay.exp(), "u": self.time_first}, memory)
        return self.output(r.sigmoid() * o), {"x": last, **memory}


class ChannelMix(nn.Module):
    """y = σ(W_r x_r) ⊙ W_v relu(W_k x_k)², the block's second half; x_r and x_k are mixes of two tokens as in ``Layer``.

    ``width`` of the middle, 4 D in RWKV-4. state: {"x": (B, 1, D) the last token}.
    """

    def __init__(self, D: int, width: int = 0, layer: int = 0, layers: int = 2):
        super().__init__()
        self.D, width = D, width or 4 * D
        mu, _ = ramps(D, layer, layers)
        self.time_mix_key, self.time_mix_receptance = nn.Parameter(mu.clone()), nn.Parameter(mu.clone())
        self.key, self.value = nn.Linear(D, width, bias=False), nn.Linear(width, D, bias=False)
        self.receptance = nn.Linear(D, D, bias=False)
        nn.init.orthogonal_(self.key.weight, gain=max(1, width / D) ** 0.5)
        for linear in (self.receptance, self.value):
            nn.init.zeros_(linear.weight)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        core.expect("x:TD", x, D=self.D)
        before, last = shifted(x, state and state["x"])
        k = self.key(torch.lerp(before, x, self.time_mix_key)).relu().square()
        return self.receptance(torch.lerp(before, x, self.time_mix_receptance)).sigmoid() * self.value(k), {"x": last}
