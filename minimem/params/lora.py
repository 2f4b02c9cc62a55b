r"""LoRA: leave the weights alone and learn a thin correction beside each of them.

    h = W₀ x + (α/r) B A x,   A: (r, d_in) random,   B: (d_out, r),   B₀ = 0        (1)
    W = W₀ + (α/r) B A,   merged: the same h from one matrix, in the time of W₀     (2)

The memory is a small network; a write is one step of Adam on the cross-entropy, a read a forward pass. What may change stands in
``trained``, what may not in ``frozen``: ``init`` freezes W₀ and trains A and B, ``full`` trains the whole network.

Paper   Hu et al. 2021, arXiv:2106.09685, eq. 3. Rank against forgetting: Biderman et al. 2024, arXiv:2405.09673.
Differs every matrix of a GELU network gets an adapter, its bias stays frozen; no dropout. A is normal with variance 1/d_in
        (loralib draws it uniform, as torch does its linear layers). α defaults to 2r, so the factor in (1) is 2 at every rank.

Shapes  W_i: (d_i, d_{i−1})   c_i: (d_i,)   A_i: (r, d_{i−1})   B_i: (d_i, r), for the layers i = 1 … L
        x: (..., d_0)   y: (...,) class numbers   out: (..., d_L)
        state: {"frozen", "trained", "m", "v": {name: tensor}, "alpha", "t": ()}; m, v, t are Adam's moments and its count
Units   bytes; an adapter is 4 r (d_in + d_out) of them in float32
"""
from __future__ import annotations

from string import ascii_uppercase

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from ..core import expect, like, nbytes, tensors

Net = dict[str, Tensor]
State = dict[str, Net | Tensor]
Batch = tuple[Tensor, Tensor]


def dense(*widths: int, seed: int = 0, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Net:
    """A random network W_1, c_1 … W_L, c_L of these widths: W_i normal with variance 1/d_{i−1}, c_i = 0."""
    r = torch.Generator(device).manual_seed(seed)
    net = {}
    for i, (n, m) in enumerate(zip(widths, widths[1:]), 1):
        net[f"W{i}"] = torch.randn(m, n, generator=r, dtype=dtype, device=device) / n**0.5
        net[f"c{i}"] = torch.zeros(m, dtype=dtype, device=device)
    return net


def full(net: Net) -> State:
    """The network itself as the memory: all of it is trained. Raises ValueError where widths, dtypes or numbers are wrong."""
    return _state({}, _checked(net), net["W1"].new_zeros(()))


def init(net: Net, rank: int, alpha: float | None = None, seed: int = 0) -> State:
    """Freeze ``net`` and put an adapter of this rank beside each matrix; reads are unchanged, for B₀ = 0.

    Raises ValueError for a rank that is no whole number ≥ 1, an alpha that is not > 0, and where widths, dtypes or numbers of ``net`` are wrong.
    """
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank is {rank!r}, wanted a whole number >= 1")
    alpha = 2 * rank if alpha is None else alpha
    if not 0 < alpha < float("inf"):
        raise ValueError(f"alpha is {alpha!r}, wanted a finite number > 0")
    W = _checked(net)["W1"]
    r = torch.Generator(W.device).manual_seed(seed)
    adapters = {}
    for i in range(1, len(net) // 2 + 1):
        m, n = net[f"W{i}"].shape
        adapters[f"A{i}"] = torch.randn(rank, n, generator=r, **like(W)) / n**0.5
        adapters[f"B{i}"] = torch.zeros(m, rank, **like(W))
    return _state(net, adapters, W.new_tensor(alpha))


def read(state: State, x: Tensor) -> Tensor:
    """A forward pass, unmerged: (..., d_0) → (..., d_L), GELU between the layers. Raises ValueError naming x when it does not fit."""
    _fits(state, x)
    p = state["frozen"] | state["trained"]
    h = x
    for i in range(1, _depth(p) + 1):
        x = F.gelu(h) if i > 1 else h
        h = x @ p[f"W{i}"].mT + p[f"c{i}"]
        if f"A{i}" in p:
            A, B = p[f"A{i}"], p[f"B{i}"]
            h = h + (x @ A.mT @ B.mT) * (state["alpha"].item() / len(A))          # (1)
    return h


def merge(state: State) -> State:
    """Every adapter added to its matrix: nothing is left to train, ``frozen`` is an ordinary network again."""
    p = state["frozen"] | state["trained"]
    net = {n: w for n, w in p.items() if n[0] in "Wc"}
    for i in range(1, _depth(p) + 1):
        if f"A{i}" in p:
            A, B = p[f"A{i}"], p[f"B{i}"]
            net[f"W{i}"] = net[f"W{i}"] + B @ A * (state["alpha"].item() / len(A))    # (2)
    return _state(net, {}, state["alpha"])


def write(state: State, batch: Batch, lr: float = 1e-3) -> State:
    """One step of Adam (β = 0.9, 0.999) on the mean cross-entropy of ``batch = (x, y)``, through ``trained`` alone.

    Raises ValueError naming x or y when they do not fit the network, and when nothing is left to train.
    """
    _fits(state, *batch)
    if not state["trained"]:
        raise ValueError("state has nothing in trained, wanted one made by init or full")
    grads, t = _gradients(state, batch), state["t"] + 1
    m = {n: 0.9 * state["m"][n] + 0.1 * g for n, g in grads.items()}
    v = {n: 0.999 * state["v"][n] + 0.001 * g * g for n, g in grads.items()}
    move = {n: (m[n] / (1 - 0.9**t)) / ((v[n] / (1 - 0.999**t)).sqrt() + 1e-8) for n in grads}
    return {**state, "trained": {n: p - lr * move[n] for n, p in state["trained"].items()}, "m": m, "v": v, "t": t}


def cost(state: State, batch: Batch) -> dict[str, int]:
    """Bytes, measured: ``resident`` weights, those a read touches (``active``), what is kept between writes (``auxiliary``: m, v, t),
    and what a write needs for a moment (``transient``: the gradients, and all that autograd saves for the backward pass, each storage once).
    """
    weights = state["frozen"] | state["trained"]
    own = {w.untyped_storage().data_ptr() for w in tensors(state)}
    saved = {}

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in own:
            saved[x.untyped_storage().data_ptr()] = x
        return x
    with saved_tensors_hooks(keep, lambda x: x):
        grads = _gradients(state, batch)
    everything = {n: w.detach().requires_grad_() for n, w in weights.items()}
    touched = torch.autograd.grad(read({**state, "frozen": {}, "trained": everything}, batch[0]).sum(), everything.values(), allow_unused=True)
    return {
        "resident": nbytes(weights), "active": nbytes([w for w, g in zip(weights.values(), touched) if g is not None]),
        "auxiliary": nbytes([state["m"], state["v"], state["t"]]),
        "transient": nbytes(grads) + sum(x.untyped_storage().nbytes() for x in saved.values()),
    }


def _state(frozen: Net, trained: Net, alpha: Tensor) -> State:
    m, v = ({n: torch.zeros_like(w) for n, w in trained.items()} for _ in range(2))
    return {"frozen": frozen, "trained": trained, "m": m, "v": v, "alpha": alpha, "t": torch.zeros_like(alpha)}


def _gradients(state: State, batch: Batch) -> Net:
    trained = {n: w.detach().requires_grad_() for n, w in state["trained"].items()}
    out = read({**state, "trained": trained}, batch[0])
    loss = F.cross_entropy(out.reshape(-1, out.shape[-1]), batch[1].reshape(-1))
    return dict(zip(trained, torch.autograd.grad(loss, trained.values()))) if trained else {}


def _depth(net: Net) -> int:
    return sum(name.startswith("W") for name in net)


def _checked(net: Net) -> Net:
    wanted = [f"{kind}{i}" for i in range(1, len(net) // 2 + 1) for kind in "Wc"]
    if not wanted or sorted(net) != sorted(wanted):
        raise ValueError(f"net has {sorted(net)}, wanted W1, c1, W2, c2 … and no others")
    letter = ascii_uppercase
    expect(" ".join(f"W{i}:{letter[i]}{letter[i - 1]} c{i}:{letter[i]}" for i in range(1, len(net) // 2 + 1)), *(net[n] for n in wanted))
    return net


def _fits(state: State, x: Tensor, y: Tensor | None = None) -> None:
    p = state["frozen"] | state["trained"]
    for name, value in (("x", x), ("y", x if y is None else y)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a tensor, got {type(value).__name__}")
    W, classes = p["W1"], p[f"W{_depth(p)}"].shape[0]
    if x.shape[-1:] != W.shape[1:]:
        raise ValueError(f"x has shape {tuple(x.shape)}, wanted (..., {W.shape[1]})")
    if x.dtype != W.dtype or x.device != W.device:
        raise ValueError(f"x is {x.dtype} on {x.device}, wanted {W.dtype} on {W.device} like W1")
    if x.isnan().any():
        raise ValueError("x holds NaN, wanted finite numbers")
    if y is None:
        return
    if y.shape != x.shape[:-1] or not y.numel():
        raise ValueError(f"y has shape {tuple(y.shape)}, wanted that of x but for its last axis, {tuple(x.shape[:-1])}, and not empty")
    if y.dtype != torch.int64 or y.min() < 0 or y.max() >= classes:
        raise ValueError(f"y is {y.dtype} from {y.min()} to {y.max()}, wanted torch.int64 from 0 to {classes - 1}")
