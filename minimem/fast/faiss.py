"""faiss: the exact k nearest keys by inner product, without forming all scores at once.

    ids_i = the k numbers j with the largest q_i · k_j, largest first        (`minimem.fast.search` in plain torch)

Paper   Johnson, Douze, Jégou 2017, arXiv:1702.08734.
Differs float32 on the CPU only: anything else is refused, not converted. Keys that tie may come in another order.
        The scores carry no gradient.
Shapes  queries: (Q, K)   keys: (N, K)   scores: (Q, k)   ids: (Q, k), int64
"""
from __future__ import annotations

import faiss
import torch
from torch import Tensor

from ..core import expect


def search(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(scores, ids) of the k keys nearest to each query.

    Raises ValueError for shapes other than (Q, K) and (N, K), for k outside 1..N, and for anything but float32 on the CPU.
    """
    expect("queries:QK keys:NK", queries, keys)
    if queries.dim() != 2:
        raise ValueError(f"queries has shape {tuple(queries.shape)}, wanted (Q, K)")
    if queries.dtype != torch.float32 or queries.device.type != "cpu":
        raise ValueError(f"queries is {queries.dtype} on {queries.device}, wanted torch.float32 on cpu: faiss computes in nothing else")
    if not 1 <= k <= len(keys):
        raise ValueError(f"k must be between 1 and the number of keys, {len(keys)}, saw {k!r}")
    scores, ids = faiss.knn(queries.detach().numpy(), keys.detach().numpy(), k, metric=faiss.METRIC_INNER_PRODUCT)
    return torch.from_numpy(scores), torch.from_numpy(ids)
