"""Numbers of few bits, really packed (4-bit numbers two in a byte, the scales beside them), and what a memory's numbers weigh."""
from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .. import core
from ..tasks import facts

Packed = dict[str, Tensor]


def pack(x: Tensor, bits: int, axis: int = -2) -> Packed:
    """x in 32, 16, 8 or 4 bits. 8 and 4: whole numbers times one float16 scale for each line along ``axis``; 4: two in a byte."""
    if bits == 32:
        return {"x": x}
    if bits == 16:
        return {"x": x.half()}
    top = 2 ** (bits - 1) - 1
    scale = (x.abs().amax(axis, keepdim=True) / top).clamp(min=1e-7).half()
    n = (x / scale.float()).round().clamp(-top, top).to(torch.int8)
    if bits == 4:
        n = F.pad(n, (0, n.shape[-1] % 2)) + 8
        n = n[..., ::2] << 4 | n[..., 1::2]
    return {"x": n, "scale": scale}


def unpack(p: Packed, bits: int, width: int | None = None) -> Tensor:
    """The numbers again, as float32. ``width``: the length of the last axis where it was odd."""
    x = p["x"]
    if bits == 4:
        x = x.to(torch.uint8)
        x = (torch.stack([x >> 4, x & 15], -1).flatten(-2)[..., :width]).float() - 8
    return x.float() * p["scale"].float() if "scale" in p else x.float()


def rounded(x: Tensor, bits: int, axis: int = -2) -> Tensor:
    """x as it comes back from ``bits`` bits."""
    return x if bits == 32 else unpack(pack(x, bits, axis), bits, x.shape[-1])


def accounts(memory: Any) -> dict[str, int]:
    """The five byte counts of one draw, measured. The reader: key encoder and codebook of a memory that reads vectors."""
    D = getattr(memory, "draws", None) or next(core.tensors(memory.kept)).shape[0]
    counts = {name: _nbytes(getattr(memory, name, None)) // D for name in ("kept", "aux", "index", "transient")}
    return counts | {"reader": _nbytes([facts.projection(memory.d_k), facts.codebook(memory.d_v)]) if hasattr(memory, "d_k") else 0}


def _nbytes(x: Any) -> int:
    if isinstance(x, dict):
        return sum(_nbytes(v) for v in x.values())
    if isinstance(x, (list, tuple)):
        return sum(_nbytes(v) for v in x)
    return x.nbytes if isinstance(x, np.ndarray) else len(x) if isinstance(x, bytes) else core.nbytes(x)
