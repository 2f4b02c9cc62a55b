"""``make new`` begins a system: what it writes fails until it is filled, and it never touches what exists."""
import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def empty(root):
    """The package and the tool alone, and one lab of another name."""
    shutil.copytree(ROOT / "minimem", root / "minimem", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tools", "tests", "book", "notebooks/working", "notebooks/sensory", "notebooks/longterm"):
        (root / name).mkdir(parents=True)
    for name in ("tools/new.py", "tests/conftest.py", "book/references.bib", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    (root / "notebooks/working/07_other.py").write_text("# %%\n")
    return root


@pytest.fixture
def copy(tmp_path):
    return empty(tmp_path)


def python(root, *args):
    return subprocess.run([sys.executable, *args], cwd=root, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)})


def new(root, *args):
    return python(root, "tools/new.py", *args)


def files(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and not {"__pycache__", ".pytest_cache"} & set(p.parts)}


def wrote(root, *args):
    before = files(root)
    done = new(root, *args)
    assert done.returncode == 0, done.stderr
    after = files(root)
    assert all(after[n] == b for n, b in before.items() if n != "minimem/catalog.toml"), "a file that existed was changed"
    assert {n for n in after if n not in before} == {w for w in re.findall(r"^wrote  (\S+)$", done.stdout, re.M)}
    return after, set(after) - set(before), done.stdout


CASES = [("window_of_two", "cache", "working/08"), ("toy_store", "text", "sensory/01"), ("toy_weights", "params", "longterm/01"), ("toy_state", None, "working/09")]
KEYS = [key for key, _, _ in CASES]
RUN = """
import re
from minimem import catalog
print(*("problem " + p for p in catalog.problems()), sep="\\n")
for key, lab in %r:
    module = catalog.system(key).code
    assert all(x in dir(module) for x in ("init", "step", "recurrent")) or {"read", "write"} <= set().union(*map(dir, (module, *vars(module).values())))
    cells = [c.partition("\\n")[2] for c in re.split("^# %%%%", open(lab).read(), flags=re.M) if not c.startswith(" [markdown]")][1:]
    space = {}
    for i, cell in enumerate(cells):
        try:
            exec(cell, space)
            print(key, i, "ran")
        except (NotImplementedError, AssertionError) as e:
            print(key, i, e)
"""


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """One system of each kind, just begun."""
    root = empty(tmp_path_factory.mktemp("begun"))
    for key, kind, lab in CASES:
        _, made, said = wrote(root, *filter(None, (key, kind)))
        assert made == {f"minimem/{kind or 'state'}/{key}.py", f"tests/test_{key}.py", f"notebooks/{lab}_{key}.py"}
        assert "Next:" in said and f"wrote  minimem/catalog.toml, row [{key}]" in said
    return root


def test_the_rows(begun):
    rows = tomllib.loads((begun / "minimem/catalog.toml").read_text(encoding="utf8"))
    old = tomllib.loads((ROOT / "minimem/catalog.toml").read_text(encoding="utf8"))
    assert {k: v for k, v in rows.items() if k not in KEYS} == old
    assert [(rows[k]["kind"], rows[k]["status"]) for k in KEYS] == [(kind or "state", "planned") for _, kind, _ in CASES]
    assert [rows[k].get("forms", []) for k in KEYS] == [["recurrent"], [], [], ["recurrent"]]


def test_modules_and_labs_fail_until_filled(begun):
    labs = {key: begun / f"notebooks/{lab}_{key}.py" for key, _, lab in CASES}
    done = python(begun, "-c", RUN % list((k, str(p)) for k, p in labs.items()))
    assert done.returncode == 0, done.stderr
    assert not re.search(rf"^problem .*({'|'.join(KEYS)})", done.stdout, re.M), done.stdout
    for key in KEYS:
        told = re.findall(rf"^{key} \d (.*)$", done.stdout, re.M)
        assert 6 <= len(told) <= 12
        assert told[:2] == ["ran", "ran"] and all(line.startswith(f"{key}: ") for line in told[2:]), told    # imports and card; then nothing
        text = labs[key].read_text()
        assert f"({key})=" in text and f'"claim-{key}"' in text
        assert all(part in text for part in ("**Question.**", "prediction", "What to notice", "A limit", "Break it", "{exercise}", "dropdown", "**Next.**"))


def test_tests_fail_until_filled(begun):
    done = python(begun, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/test_{k}.py" for k in KEYS))
    assert done.stdout.splitlines()[-1].startswith("12 failed in "), done.stdout
    assert all(f"AssertionError: {k}: " in done.stdout for k in KEYS)


def test_a_second_run_writes_nothing(begun):
    before = files(begun)
    for key in KEYS:
        assert wrote(begun, key)[:2] == (before, set())


def test_house_style(begun):
    ruff = python(begun, "-m", "ruff", "check", "--no-cache", *(n for n in files(begun) if n.endswith(".py") and any(k in n for k in KEYS)))
    assert ruff.returncode == 0, ruff.stdout


def test_a_row_that_stands_gets_what_it_lacks(copy):
    wrote(copy, "toy_state")
    toml, module = copy / "minimem/catalog.toml", copy / "minimem/state/toy_state.py"
    toml.write_text(toml.read_text(encoding="utf8").replace("name = 'Toy state'", "name = 'The Toy'").replace(r"S_t = \ldots", r"S_t = S_{t-1} + \Delta"), encoding="utf8")
    module.unlink()
    after, made, _ = wrote(copy, "toy_state")
    assert made == {"minimem/state/toy_state.py"} and after["minimem/catalog.toml"] == toml.read_bytes()
    doc = ast.get_docstring(ast.parse(module.read_text(encoding="utf8")))
    assert doc.startswith("The Toy: ") and "S_t = S_{t-1} + \\Delta        (1)" in doc and "(2)" in doc


def test_a_finished_row_keeps_its_files(copy):
    (copy / "tests/test_lora.py").write_text("# mine\n")
    (copy / "notebooks/longterm/01_lora.py").write_text("# mine\n")
    _, made, said = wrote(copy, "lora")
    assert made == set() and said.count("exists") == 5


@pytest.mark.parametrize("args, message", [
    ((), "saw 'nothing'"), (("Gated-Delta",), "lower snake case"), (("9lives",), "lower snake case"), (("a__b",), "lower snake case"),
    (("../evil",), "lower snake case"), (("lambda",), "lower snake case"), (("a", "state", "b"), "lower snake case"),
    (("toy", "magic"), "kind 'magic', wanted one of text"), (("gated_delta", "cache"), "kind 'cache', wanted state, the row's"),
    (("mindmemory",), "mindmemory has no module"), (("survey_errata",), "is a list"),
])
def test_a_wrong_key_is_refused(copy, args, message):
    before = files(copy)
    done = new(copy, *args)
    assert done.returncode == 2 and message in done.stderr and not done.stdout and "Traceback" not in done.stderr
    assert files(copy) == before
