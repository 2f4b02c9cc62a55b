"""The wheel works alone: in an empty folder, with torch and numpy and nothing of the clone."""
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from minimem import __version__
from minimem.catalog import systems

ROOT = Path(__file__).resolve().parents[1]
TAKEN = ("minimem", "pyproject.toml", "README.md", "LICENSE")        # a clone's other files must not be needed
ALONE = """
import sys
HERE, CLONE = sys.argv[1:]

class OnlyTorchAndNumpy:                # what those two import for themselves is theirs: it counts who asks
    def find_spec(self, name, path=None, target=None):
        frame = sys._getframe(1)
        while frame and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        if frame and frame.f_code.co_filename.startswith(HERE) and name.split(".")[0] not in ("torch", "numpy", "minimem", *sys.stdlib_module_names):
            raise ImportError(f"{name} is blocked: {frame.f_code.co_filename} asked for it")

sys.meta_path[:] = [OnlyTorchAndNumpy(), *(f for f in sys.meta_path if "editable" not in str(f).lower())]    # the clone may be installed with -e
sys.path[:] = [HERE, *(p for p in sys.path if p and p != CLONE)]
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built without a network from a copy of what a release holds."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in TAKEN:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, source / name)
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out), str(source)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel unpacked in an empty folder."""
    folder = tmp_path_factory.mktemp("alone")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def alone(folder, code):
    """Run code in a fresh process that finds minimem in ``folder`` only."""
    return subprocess.run([sys.executable, "-c", ALONE + code, str(folder), str(ROOT)], cwd=folder, capture_output=True, text=True)


def test_what_it_holds(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    mine = {str(p.relative_to(ROOT)) for p in (ROOT / "minimem").rglob("*.py")} | {"minimem/catalog.toml"}
    assert mine - set(names) == set(), "missing from the wheel"
    assert {n.split("/")[0] for n in names} == {"minimem", next(n for n in names if n.endswith("METADATA")).split("/")[0]}
    assert wheel.name.endswith("-py3-none-any.whl") and any(n.endswith("licenses/LICENSE") for n in names)


def test_what_it_says(wheel):
    archive = zipfile.ZipFile(wheel)
    meta = Parser().parsestr(archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))).decode())
    plain = [r.name for r in map(Requirement, meta.get_all("Requires-Dist")) if not r.marker]
    assert plain == ["torch", "numpy"]
    assert meta["License-Expression"] == "MIT" and meta["Requires-Python"] == ">=3.11" and "minimem" in meta.get_payload()
    assert Version(meta["Version"]) == Version(__version__)


def test_it_works_alone(installed):
    done = alone(installed, """
import torch, minimem
from minimem import catalog, check, core
from minimem.state import gated_delta
assert minimem.__file__.startswith(HERE) and catalog.__file__.startswith(HERE), minimem.__file__
out, state = gated_delta.recurrent(*check.inputs("qkvab"))
print(len(catalog.systems()), core.nbytes(state), catalog.system("gated_delta").built, catalog.card("gated_delta"))
""")
    assert done.stdout.split(" ", 2)[:2] == [str(len(systems())), str(2 * 3 * 6 * 4 * 8)], done.stderr[-2000:]
    assert not done.stderr


def test_every_module_imports_alone(installed):
    done = alone(installed, """
import importlib, pkgutil, minimem
names = [m.name for m in pkgutil.walk_packages(minimem.__path__, "minimem.") if not m.name.startswith("minimem.fast.")]
for name in names:
    importlib.import_module(name)
assert all(m.__file__.startswith(HERE) for n, m in sys.modules.items() if n.split(".")[0] == "minimem")
print("imported", len(names))
""")
    assert done.stdout.startswith("imported"), done.stderr[-2000:]


def test_what_needs_the_clone_says_so(installed):
    done = alone(installed, """
from minimem import catalog, pages
for what in (catalog.problems, pages.tables, lambda: catalog.result("lora")):
    try:
        what()
    except ValueError as e:
        print(e)
""")
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr[-2000:]
    assert [f"{installed} is no clone of minimem" in x for x in lines[:2]] == [True, True]
    assert lines[2].startswith("no stored result 'lora'") and "not with the wheel" in lines[2]


def test_the_command_says_so_too(installed):
    done = alone(installed, """
import runpy
sys.argv[:] = ["minimem.catalog"]
runpy.run_module("minimem.catalog", run_name="__main__", alter_sys=False)
""")
    assert done.returncode == 1 and "| **all** |" in done.stdout
    assert "is no clone of minimem" in done.stderr and "Traceback" not in done.stderr
