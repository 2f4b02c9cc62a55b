"""Every lab was executed in full, from the source beside it, and keeps to the budget."""
import subprocess
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


@pytest.mark.parametrize("name", ["01_outside.py", "missing.py", "01_four_memories.ipynb", "--all"])
def test_what_is_no_source_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / "01_outside.py").write_text("# %%\n1 + 1\n")
    (tmp_path / "01_four_memories.ipynb").write_text("{}")
    ran = subprocess.run([sys.executable, ROOT / "tools/notebooks.py", *(["--all"] if name == "--all" else []), tmp_path / name], capture_output=True, text=True)
    assert ran.returncode == 1 and ran.stderr.startswith("no source of a lab: ") and "Traceback" not in ran.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["01_four_memories.ipynb", "01_outside.py"]
