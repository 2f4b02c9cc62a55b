"""Execute the py:percent sources and write the .ipynb beside each, deterministically.

python tools/notebooks.py            those whose .ipynb is out of step with the source
python tools/notebooks.py --all      every lab (after a change in minimem)
python tools/notebooks.py FILE...    these
"""
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
KEEP = {"tags", "nbgrader"}


def sources() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*/[0-9][0-9]_*.py"))


def drift(py: Path) -> str:
    """What is out of step between a source and its executed twin; empty if nothing is."""
    if not py.with_suffix(".ipynb").exists():
        return "never executed"
    src, nb = jupytext.read(py), nbformat.read(py.with_suffix(".ipynb"), 4)
    want = [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in src.cells]
    have = [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in nb.cells]
    if have != want:
        return "the source changed since it was executed"
    counts = [c.execution_count for c in nb.cells if c.cell_type == "code"]
    return "" if counts == list(range(1, len(counts) + 1)) else "not executed top to bottom"


def execute(py: Path) -> nbformat.NotebookNode:
    nb = jupytext.read(py)
    nb.metadata.pop("jupytext", None)
    NotebookClient(nb, timeout=900, kernel_name="python3", record_timing=False, resources={"metadata": {"path": str(py.parent)}}).execute()
    nb.metadata = {"kernelspec": nb.metadata["kernelspec"], "language_info": {"name": "python"}}
    for i, c in enumerate(nb.cells):
        c.id = f"c{i:03d}"
        c.metadata = {k: v for k, v in c.metadata.items() if k in KEEP}
    nb.nbformat, nb.nbformat_minor = 4, 5
    return nb


if __name__ == "__main__":
    args = sys.argv[1:]
    todo = sources() if args == ["--all"] else [Path(a).resolve() for a in args] or [p for p in sources() if drift(p)]
    if wrong := [str(p) for p in todo if p.suffix != ".py" or not p.is_file() or not p.is_relative_to(ROOT)]:
        sys.exit(f"no source of a lab: {', '.join(wrong)}; wanted .py files under {ROOT}, or --all alone")
    for i, py in enumerate(todo, 1):
        print(f"[{i}/{len(todo)}] {py.relative_to(ROOT)}", flush=True)
        nbformat.write(execute(py), py.with_suffix(".ipynb"))
    print(f"{len(todo)} executed")
