"""Every lab was executed in full, from the source beside it, and keeps to the budget."""
import sys
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import notebooks  # noqa: E402

LABS = notebooks.sources()


@pytest.mark.parametrize("py", LABS, ids=lambda p: p.stem)
def test_in_step(py):
    assert notebooks.drift(py) == "", "run: make notebooks"


@pytest.mark.parametrize("py", LABS, ids=lambda p: p.stem)
def test_budget(py):
    code = [c for c in jupytext.read(py).cells if c.cell_type == "code"]
    assert len(code) <= 12, f"{len(code)} code cells, wanted at most 12"


def test_no_orphans():
    assert {p.with_suffix("") for p in LABS} == {p.with_suffix("") for p in (ROOT / "notebooks").glob("*/*.ipynb")}
