"""Optimized libraries behind our own signatures: the only place that imports them, and only when one is picked.

    pick("gated_delta")                   the first library that works here, else our own; ``why`` says what was passed over
    pick("gated_delta", want="fla")       that one, or a ValueError with the reason
    pick("gated_delta", want="minimem")   our own
    pick("ivf").fn(cells=64, probe=8)     an empty vector index; also flat, sq8, pq, hnsw

``python -m minimem.fast`` prints what is active on this machine.
"""
from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from .. import core


@dataclass(frozen=True)
class Backend:
    """``package``: its name for pip. ``fn``: module:function. ``gpu``: runs on a CUDA device only.
    ``exercised``: how our tests run it; "" if no test machine can."""
    name: str
    package: str
    fn: str
    gpu: bool = False
    exercised: str = ""


@dataclass(frozen=True)
class Pick:
    """What was picked: call ``fn`` as our own form; put ``name`` beside a measurement; ``why`` is the reason in a sentence."""
    fn: Callable
    name: str
    why: str


OURS = {
    "gated_delta": "minimem.state.gated_delta:chunked",
    "delta": "minimem.state.delta:chunked",
    "full": "minimem.cache.full:parallel",
    "streaming": "minimem.cache.window:parallel",
    "search": "minimem.fast:search",
    "flat": "minimem.text.index:Flat",
    "sq8": "minimem.text.index:SQ8",
    "pq": "minimem.text.index:PQ",
    "ivf": "minimem.text.index:IVF",
    "hnsw": "minimem.text.hnsw:HNSW",
}
INTERPRETED = "its kernels run in Triton's interpreter on a CPU, at tiny sizes; not exercised on a GPU"
BACKENDS = {
    "gated_delta": [Backend("fla", "fla-core", "minimem.fast.fla:gated_delta", gpu=True, exercised=INTERPRETED)],
    "delta": [Backend("fla", "fla-core", "minimem.fast.fla:delta", gpu=True, exercised=INTERPRETED)],
    "full": [Backend("sdpa", "torch", "minimem.fast.sdpa:full", exercised="on a CPU")],
    "streaming": [Backend("sdpa", "torch", "minimem.fast.sdpa:streaming", exercised="on a CPU")],
    "search": [Backend("faiss", "faiss-cpu", "minimem.fast.faiss:search", exercised="on a CPU")],
    **{name.lower(): [Backend("faiss", "faiss-cpu", f"minimem.fast.faiss:{name}", exercised="on a CPU")]
       for name in ("Flat", "SQ8", "PQ", "IVF", "HNSW")},
}


def search(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k keys with the largest inner product, one matrix product and a partial sort: scores and ids, (Q, k).

    Raises ValueError for shapes other than (Q, K) and (N, K), mixed types, NaN, and k outside 1..N.
    """
    core.expect("queries:QK keys:NK", queries, keys)
    if queries.dim() != 2:
        raise ValueError(f"queries has shape {tuple(queries.shape)}, wanted (Q, K)")
    if not 1 <= k <= len(keys):
        raise ValueError(f"k must be between 1 and the number of keys, {len(keys)}, saw {k!r}")
    return tuple(torch.topk(queries @ keys.mT, k))


def load(path: str) -> Callable:
    """The function at ``module:name``, imported now."""
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


def why_not(backend: Backend) -> str:
    """Why this backend cannot run here; empty if it can."""
    try:
        version(backend.package)
    except PackageNotFoundError:
        return f"{backend.package} is not installed"
    if backend.gpu and not torch.cuda.is_available():
        return "it needs a CUDA device and there is none"
    try:
        load(backend.fn)
    except Exception as e:                      # a library may fail in any way when imported: say how, do not stop
        return f"importing it failed: {type(e).__name__}: {e}"
    return ""


def pick(key: str, want: str = "auto") -> Pick:
    """The function to call for ``key``, who computes it, and why.

    Raises ValueError for an unknown key or backend, and for a backend asked for by name that cannot run here.
    """
    if key not in BACKENDS:
        raise ValueError(f"no fast form for {key!r}, wanted one of {', '.join(BACKENDS)}")
    if want not in (known := ["auto", "minimem", *(b.name for b in BACKENDS[key])]):
        raise ValueError(f"no backend {want!r} for {key!r}, wanted one of {', '.join(known)}")
    if want == "minimem":
        return Pick(load(OURS[key]), "minimem", "asked for by name")
    passed = []
    for backend in BACKENDS[key]:
        reason = why_not(backend)
        if not reason and want in ("auto", backend.name):
            why = "asked for by name" if want != "auto" else "; ".join([*passed, "the first in the list that runs here"])
            return Pick(load(backend.fn), f"{backend.name} {version(backend.package)}", why)
        if want == backend.name:
            raise ValueError(f"{want} cannot run {key!r} here: {reason}")
        passed.append(f"not {backend.name}: {reason}")
    return Pick(load(OURS[key]), "minimem", "; ".join(passed))
