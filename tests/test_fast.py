"""Who computes what: explicit requests are kept or refused, automatic ones say why; kernels stay in the error budget."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minimem import check, fast
from minimem.fast import Backend, pick

HERE = Path(__file__).parent


def python(*args):
    done = subprocess.run([sys.executable, *args], capture_output=True, text=True, cwd=HERE)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def offer(monkeypatch, *backends):
    monkeypatch.setitem(fast.BACKENDS, "gated_delta", list(backends))


RUNS = Backend("runs", "numpy", "minimem.state.gated_delta:recurrent")
ABSENT = Backend("absent", "no-such-package", "nowhere:f")
BROKEN = Backend("broken", "numpy", "minimem.state.nowhere:f")
NEEDS_GPU = Backend("needs_gpu", "numpy", "minimem.state.gated_delta:recurrent", gpu=True)


def test_importing_fast_imports_no_library():
    python("-c", "import sys, minimem.fast; assert not {'fla', 'triton', 'faiss', 'mamba_ssm'} & set(sys.modules)")


def test_without_a_gpu_our_own_form_runs_and_says_why(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    got = pick("gated_delta")
    assert (got.name, got.fn.__module__, got.fn.__name__) == ("minimem", "minimem.state.gated_delta", "chunked")
    assert got.why == "not fla: it needs a CUDA device and there is none"
    with pytest.raises(ValueError, match="fla cannot run 'gated_delta' here: it needs a CUDA device"):
        pick("gated_delta", want="fla")


def test_auto_takes_the_first_that_runs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    offer(monkeypatch, ABSENT, BROKEN, NEEDS_GPU, RUNS)
    got = pick("gated_delta")
    assert got.name.startswith("runs ") and got.fn.__name__ == "recurrent"
    for reason in ("no-such-package is not installed", "ModuleNotFoundError", "CUDA device", "the first in the list that runs here"):
        assert reason in got.why
    assert pick("gated_delta", want="minimem").name == "minimem"
    assert pick("gated_delta", want="runs").why == "asked for by name"


@pytest.mark.parametrize("backend, reason", [(ABSENT, "not installed"), (BROKEN, "importing it failed"), (NEEDS_GPU, "CUDA")])
def test_a_request_that_cannot_be_met_is_refused(monkeypatch, backend, reason):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    offer(monkeypatch, RUNS, backend)
    with pytest.raises(ValueError, match=reason):
        pick("gated_delta", want=backend.name)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no fast form for 'gated-delta', wanted one of gated_delta"):
        pick("gated-delta")
    with pytest.raises(ValueError, match="no backend 'flash' for 'delta', wanted one of auto, minimem, fla"):
        pick("delta", want="flash")


@pytest.mark.parametrize("key", [key for key in fast.BACKENDS if ".text." not in fast.OURS[key]])       # the indexes: tests/test_index.py
def test_what_is_picked_computes_what_ours_does(key):
    if key == "search":
        r = torch.Generator().manual_seed(0)
        args = torch.randn(5, 8, generator=r), torch.randn(50, 8, generator=r), 3
    else:
        args = check.inputs("qkv" if key in ("full", "streaming") else "qkvb" if key == "delta" else "qkvab", T=20, dtype=torch.float32)
    got, want = (pick(key, want).fn(*args) for want in ("auto", "minimem"))
    torch.testing.assert_close(got[0], want[0], rtol=1e-5, atol=1e-5)


def test_the_table_names_every_backend():
    table = python("-m", "minimem.fast")
    for key, backends in fast.BACKENDS.items():
        for b in backends:
            line = next(x for x in table.splitlines() if x.split()[:2] == [key, b.name])
            assert (b.exercised or "not exercised") in line
    assert table.splitlines()[0].split()[:4] == ["key", "backend", "version", "active"]


@pytest.fixture(scope="module")
def kernels():
    return json.loads(python("fla_kernels.py").splitlines()[-1])


@pytest.mark.oracle("gated_delta", "delta")
@pytest.mark.parametrize("key", ["gated_delta", "delta"])
@pytest.mark.parametrize("dtype", ["torch.float32", "torch.float16"])
def test_fla_kernels_stay_in_the_error_budget(kernels, key, dtype):
    """Output, state and all gradients against float64: twice the plain loop's error in that dtype, plus the rounding of sums over a chunk of 64, √64 eps."""
    told = kernels[f"{key} {dtype}"]
    for kernel, eager in zip(told["kernel"], told["eager"], strict=True):
        assert kernel <= 2 * eager + 8 * told["eps"]


def test_fla_refuses_float64(kernels):
    assert "wanted float32" in kernels["delta float64"] and "wanted float32" in kernels["gated_delta float64"]
