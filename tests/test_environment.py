"""environment.yml says what pyproject.toml says; constraints.txt pins all of it."""
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
CONDA = {"pytorch-cpu": "torch", "matplotlib-base": "matplotlib"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LISTED = {"jupyterlab", "jupytext", "torch", "numpy", "scikit-learn", "faiss-cpu", "nbval"}     # and mamba-ssm: environment-cuda.yml


def environment(name):
    deps = yaml.safe_load((ROOT / name).read_text())["dependencies"]
    pip = next(d["pip"] for d in deps if isinstance(d, dict))
    lines = [d for d in deps if isinstance(d, str) and d.split("=")[0] not in ("python", "pip")] + [p for p in pip if not p.startswith("-e")]
    return {CONDA.get(r.name, r.name): r.specifier for r in map(Requirement, lines)}, pip


def test_environment_matches_pyproject():
    have, pip = environment("environment.yml")
    want = {r.name: r.specifier for extra in ("text", "notebooks", "test") for r in map(Requirement, PROJECT["dependencies"] + EXTRAS[extra])}
    assert LISTED <= set(have)
    assert {n: s for n, s in have.items() if want.get(n) != s} == {}
    assert pip[-1] == "-e .[text,server,notebooks,book,test]"


def test_mamba_ssm_stands_apart():
    assert "mamba-ssm" in environment("environment-cuda.yml")[0]
    assert any(r.startswith("mamba-ssm") for r in EXTRAS["kernels"])


def test_constraints_pin_everything():
    pins = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pinned = {r.name.lower().replace("_", "-"): r.specifier for r in pins}
    wanted = [Requirement(r) for extra in EXTRAS if extra != "kernels" for r in PROJECT["dependencies"] + EXTRAS[extra]]
    assert all(len(r.specifier) == 1 and str(r.specifier).startswith("==") for r in pins)
    for r in wanted:
        (pin,) = pinned[r.name.lower().replace("_", "-")]
        assert pin.version in r.specifier, f"{r} is pinned to {pin.version}"
        assert "+" not in pin.version
