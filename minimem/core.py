"""The contract: a memory is init, write, read and the bytes it keeps."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def tensors(state: Any) -> Iterator[Tensor]:
    """Every tensor in a (nested) state, in a fixed order."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for x in state.values():
            yield from tensors(x)
    elif isinstance(state, (tuple, list)):
        for x in state:
            yield from tensors(x)


def nbytes(state: Any) -> int:
    """Bytes that must be kept to go on; measured from the tensors, never from a formula."""
    return sum(t.numel() * t.element_size() for t in tensors(state))


def like(x: Tensor) -> dict[str, Any]:
    """dtype and device of x, as keyword arguments: ``torch.zeros(3, **like(x))``."""
    return {"dtype": x.dtype, "device": x.device}


def run(step: Callable, state: Any, *inputs: Tensor, **options: Any) -> tuple[Tensor, Any]:
    """Run ``step`` token by token over axis -2 of the inputs, each (..., T, D).

    Returns the outputs stacked on axis -2, and the last state.
    ``unbind`` and ``stack``, not indexing: ``x[..., t, :]`` in a loop makes the backward pass O(T²).
    """
    outputs = []
    for token in zip(*(x.unbind(-2) for x in inputs), strict=True):
        state, out = step(state, *token, **options)
        outputs.append(out)
    return torch.stack(outputs, -2), state


def expect(wanted: str, *inputs: Tensor, state: Any = None, state_shape: str | dict[str, str] = "", **sizes: int) -> None:
    """Check the inputs of a public form once, before any arithmetic.

    ``wanted`` names each input and its last axes: ``expect("q:TK k:TK v:TV a:T1", q, k, v, a)``.
    Equal letters must be equal sizes, ``1`` is the number one, leading axes must be the same for all, types floating and the same.
    ``sizes`` fixes a letter: ``expect("x:TD", x, D=64)``. An input called ``a`` or ``g`` is a log-decay and must be ≤ 0. ``state_shape`` says the last axes of ``state``,
    or of each tensor in it: ``{"S": "KV", "z": "K"}``.

    Raises ValueError naming the argument, what was seen and what was wanted.
    """
    names, shapes = zip(*(w.split(":") for w in wanted.split()))
    if state is not None:
        held = {"state": (state_shape, state)}
        if isinstance(state_shape, dict):
            if not isinstance(state, dict) or set(state) != set(state_shape):
                saw = sorted(state) if isinstance(state, dict) else type(state).__name__
                raise ValueError(f"state must be a dict of {' and '.join(state_shape)}, got {saw}")
            held = {f"state[{n!r}]": (shape, state[n]) for n, shape in state_shape.items()}
        names, (more, kept) = (*names, *held), zip(*held.values())
        shapes, inputs = (*shapes, *more), (*inputs, *kept)
    size = {"1": 1, **sizes}
    first = inputs[0]
    for name, shape, x in zip(names, shapes, inputs, strict=True):
        if not isinstance(x, Tensor):
            raise ValueError(f"{name} must be a tensor, got {type(x).__name__}")
        if not x.is_floating_point():
            raise ValueError(f"{name} is {x.dtype}, wanted a floating type")
        want = "(..., " + ", ".join(f"{c}={size[c]}" if c in size and c != "1" else c for c in shape) + ")"
        if x.dim() < len(shape):
            raise ValueError(f"{name} has shape {tuple(x.shape)}, wanted {want}")
        for letter, n in zip(shape, x.shape[x.dim() - len(shape):]):
            if size.setdefault(letter, n) != n:
                raise ValueError(f"{name} has shape {tuple(x.shape)}, wanted {want}")
        lead, lead0 = x.shape[: x.dim() - len(shape)], first.shape[: first.dim() - len(shapes[0])]
        if lead != lead0:
            raise ValueError(f"{name} has leading axes {tuple(lead)}, wanted those of {names[0]}, {tuple(lead0)}")
        if x.dtype != first.dtype or x.device != first.device:
            raise ValueError(f"{name} is {x.dtype} on {x.device}, wanted {first.dtype} on {first.device} like {names[0]}")
        if not x.detach().sum().isfinite() and x.isnan().any():      # the sum first: one cheap pass
            raise ValueError(f"{name} holds NaN, wanted numbers")
        if name in ("a", "g") and x.numel() and x.detach().max() > 0:
            raise ValueError(f"{name} is a log-decay and must be <= 0, saw {x.detach().max().item():.3g}")
    if size.get("T") == 0:
        raise ValueError(f"{names[0]} has shape {tuple(first.shape)}: the sequence is empty, wanted T >= 1")
