"""flash-linear-attention: the chunked Triton kernels of the (gated) delta rule, on a CUDA device.

    S_t = e^{a_t} (I − b_t k_t k_tᵀ) S_{t−1} + b_t k_t v_tᵀ,   o_t = S_tᵀ q_t          (``state.gated_delta`` is the definition)

Differs float64 is refused: the kernels compute in float32 at most. Their layout is (B, T, H, D); ours becomes it as (B·H, T, 1, D),
        without a copy. They scale q by K^-½ unless told not to, and are told. DeltaNet is the gated kernel with a = 0, since the
        kernel without a gate takes no float32. The state is kept in float32 inside and returned in the dtype of q.
Shapes  q, k: (..., T, K)   v: (..., T, V)   a, b: (..., T, 1)   S: (..., K, V)
"""
from __future__ import annotations

import torch
from fla.ops.gated_delta_rule import chunk_gated_delta_rule
from torch import Tensor

from .. import core


def gated_delta(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As ``state.gated_delta.chunked``. Raises ValueError for inputs that do not fit and for float64."""
    core.expect("q:TK k:TK v:TV a:T1 b:T1", q, k, v, a, b, state=state, state_shape="KV")
    return _kernel(q, k, v, a, b, state)


def delta(q: Tensor, k: Tensor, v: Tensor, b: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As ``state.delta.chunked``. Raises ValueError for inputs that do not fit and for float64."""
    core.expect("q:TK k:TK v:TV b:T1", q, k, v, b, state=state, state_shape="KV")
    return _kernel(q, k, v, torch.zeros_like(b), b, state)


def _kernel(q, k, v, a, b, state):
    if q.dtype == torch.float64:
        raise ValueError("q is torch.float64, wanted float32, bfloat16 or float16: the kernels compute in float32 at most")
    lead = q.shape[:-2]
    q, k, v, a, b = (x.reshape(-1, x.shape[-2], 1, x.shape[-1]).contiguous() for x in (q, k, v, a, b))
    start = None if state is None else state.reshape(-1, 1, *state.shape[-2:]).float()
    out, last = chunk_gated_delta_rule(q, k, v, g=a[..., 0].float(), beta=b[..., 0], scale=1.0, initial_state=start,
                                       output_final_state=True)
    return out.reshape(*lead, *out.shape[1::2]), last.reshape(*lead, *last.shape[-2:]).to(q.dtype)
