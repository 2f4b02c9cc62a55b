"""Begin a system: python tools/new.py KEY [KIND]     (make new KEY=...)

Writes what is missing of: the row in catalog.toml (KIND says where, state if it is left out), the module, its test and its lab.
All of them fail until they are filled. What exists is never touched.
"""
import keyword
import re
import sys
import tomllib
from pathlib import Path
from string import Template

ROOT = Path(__file__).resolve().parents[1]
PARTS = {"text": "sensory", "cache": "working", "state": "working", "position": "working", "hybrid": "working", "params": "longterm"}

ROW = """[$key]
name = '$name'
name_zh = '$name'
year = 0
paper = []
kind = '$kind'
module = 'minimem.$kind.$key'
sections = []
added = true
equation = '''
$equation'''
bytes = ''
oracle = ''
oracle_kind = 'code'
claim = ''
metric = ''
expected = ''
errata = []
status = 'planned'
$forms
"""
EQUATIONS = {"text": r"s(q,d) = \ldots \tag{1}",
             "params": r"\theta_t = \theta_{t-1} - \ldots \tag{1}",
             "": "S_t = \\ldots \\tag{1}\no_t = S_t^{\\top} q_t \\tag{2}"}

# ------------------------------------------------------------------ modules

HEAD = '''r"""$name: one plain sentence that says what is kept and how a write changes it.

$equations

Paper   ${paper}authors, year, arXiv:number, number of the equation.
Differs what is left out or changed, and why.
Shapes  $shapes
"""
from __future__ import annotations

'''
SHAPES = {"text": "what read returns, and in which order.", "params": "state: {name: tensor}   x: (..., d_in)   y: (...,)   out: (..., d_out)",
          "": "q, k: (..., T, K)   v: (..., T, V)   S: (..., K, V)"}
SEQUENCE = HEAD + '''import torch
from torch import Tensor

from .. import core

SHAPES = "q:TK k:TK v:TV"


def init(K: int, V: int, lead: tuple[int, ...] = (), **like) -> Tensor:
    """The empty memory S_0 = 0, (*lead, K, V)."""
    return torch.zeros(*lead, K, V, **like)


def step(S: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """One token: the definition."""
    raise NotImplementedError("$key.step: write the equation here, at most 10 lines, each one marked with its number")


def recurrent(q: Tensor, k: Tensor, v: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Token by token. Returns o (..., T, V) and S_T. Raises ValueError naming the argument that does not fit."""
    core.expect(SHAPES, q, k, v, state=state, state_shape="KV")
    state = init(k.shape[-1], v.shape[-1], k.shape[:-2], **core.like(k)) if state is None else state
    return core.run(step, state, q, k, v)
'''
TEXT = HEAD + '''from .unit import Unit, expect_unit


class $class_name:
    """A text memory: write keeps a unit, read returns the best that fit a budget of words."""

    def __init__(self) -> None:
        self.units: dict[str, Unit] = {}

    def write(self, record: Unit) -> None:
        """Keep a unit; one with the same id is replaced. Raises ValueError if the record is no Unit."""
        unit = expect_unit(record)
        self.units[unit.id] = unit

    def read(self, query: str, words: float = 500) -> list[Unit]:
        """The best units that fit a budget of words, best first. Raises ValueError if the budget is negative."""
        raise NotImplementedError("$key.read: rank the units by equation (1) and fill the budget, see unit.fill")

    def forget(self, now: float) -> int:
        """Drop the units whose ``expires`` is not after ``now``; returns how many."""
        raise NotImplementedError("$key.forget: what goes, and when")

    def nbytes(self) -> int:
        """Bytes kept: the text as UTF-8, and every index."""
        raise NotImplementedError("$key.nbytes: count what is kept")
'''
PARAMS = HEAD + '''from torch import Tensor

State = dict[str, Tensor]


def init(net: State) -> State:
    """The memory before the first write. Raises ValueError where widths, dtypes or numbers of ``net`` are wrong."""
    raise NotImplementedError("$key.init: what is trained and what is frozen")


def read(state: State, x: Tensor) -> Tensor:
    """A forward pass, (..., d_in) → (..., d_out). Raises ValueError naming x when it does not fit."""
    raise NotImplementedError("$key.read: the forward pass, each line of the equation marked with its number")


def write(state: State, batch: tuple[Tensor, Tensor], lr: float = 1e-3) -> State:
    """One update step on ``batch = (x, y)``; the old state stays as it is. Raises ValueError naming x or y."""
    raise NotImplementedError("$key.write: the update, each line of the equation marked with its number")


def cost(state: State, batch: tuple[Tensor, Tensor]) -> dict[str, int]:
    """Bytes, measured: resident, active, auxiliary (kept between writes) and transient (for a moment during a write)."""
    raise NotImplementedError("$key.cost: count tensors; what autograd saves is seen by saved_tensors_hooks")
'''

# ------------------------------------------------------------------ the test

TEST = '''"""$name against somebody else's code, and what its catalog row promises."""
import pytest

from minimem.catalog import system


@pytest.mark.oracle("$key")
def test_somebody_elses_code_says_the_same():
    raise AssertionError("$key: compare $module with an independent implementation, in values and in gradients (row: oracle)")


def test_wrong_use_is_named():
    raise AssertionError("$key: every wrong argument raises ValueError that says what was seen and what was wanted")


def test_the_row_is_filled():
    assert system("$key").built, "$key: fill $promised in catalog.toml"
'''

# ------------------------------------------------------------------ the lab

LAB = '''# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # $name: what it keeps, in a few words
#
# **Question.** One sentence.
#
# **Your prediction, before you read on.** What will happen, and why?

# %%
import torch

from minimem import $helpers
from minimem.catalog import card
from $package import $stem

torch.set_num_threads(1)

# %% [markdown]
# ($key)=
# ## The memory

# %%
card("$key")

# %% [markdown]
# ### Build it
#
# The whole mechanism, at most 15 lines; the last line proves that it is the package's.

# %%
$build

# %% [markdown]
# ### What it looks like inside

# %%
plt = show.style()
raise NotImplementedError("$key: draw the mechanism, with units on the axes and a colour from show.KIND_COLOUR")

# %% [markdown]
# ## The experiment
#
# Fixed before the run: the question, the metric, the bytes that each side may keep, the seeds. Calibrate on other seeds than those reported.

# %% tags=["nbval-ignore-output"]
raise NotImplementedError("$key: at equal bytes or words, at least 3 seeds, the spread shown")

# %% [markdown]
# The claim, as an inequality over the seeds. If it does not hold, say so here and in the row: *not reproduced at toy scale*.

# %% tags=["claim-$key"]
shown = False
assert shown, "$key: the claim is not shown yet"

# %% [markdown]
# ## What to notice
#
# - One thing.
# - Another.
# - **A limit.** What this page does not show.
#
# ## Break it
#
# Remove the term that matters, and watch it fail.

# %%
raise NotImplementedError("$key: the failure, in one cell")

# %% [markdown]
# ## Exercises
#
# ```{exercise} A short name
# :label: $label-one
#
# What to do. `check` marks it.
# ```
#
# ````{solution} $label-one
# :class: dropdown
#
# The answer.
# ````
#
# **Next.** Where to go from here.
'''
BUILD = {"text": '''def read(memory, query, words=500):
    raise NotImplementedError("$key: the read of $module")


memory = $stem.$class_name()
assert read(memory, "") == memory.read("")''',
         "params": '''def read(state, x):
    raise NotImplementedError("$key: the read of $module")


check.same(read, $stem.read, {}, torch.ones(1, 1))       # put a state and inputs here''',
         "": '''def step(S, q, k, v):
    raise NotImplementedError("$key: the step of $module")


S = $stem.init(6, 4, (2, 3), dtype=torch.float64)
check.same(step, $stem.step, S, *(x[..., 0, :] for x in check.inputs("qkv")))'''}
NEXT = """
Next:
  1. $module: the docstring (equations numbered as in the row), then the definition
  2. minimem/catalog.toml, row [$key]: $promised
  3. $test: the oracle; break the code once and see it fail
  4. $lab: then python tools/notebooks.py $lab
  5. python -m minimem.catalog says what is still wrong; the chapter includes the row's card by its section$counted"""


def of(kind: str, choices: dict[str, str]) -> str:
    return choices.get(kind, choices[""])


def equations(latex: str) -> str:
    """The row's lines for a docstring, to be rewritten in Unicode; the numbers stay."""
    lines = [re.sub(r"\s*\\tag\{(\d+)\}", r"        (\1)", line) for line in latex.strip().splitlines()]
    return "\n".join("    " + line for line in lines or ["…        (1)"])


def refused(argv: list[str], rows: dict) -> str:
    """Why these arguments will not do; empty if they will."""
    if len(argv) not in (1, 2) or not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", argv[0]) or keyword.iskeyword(argv[0]):
        return f"wanted a key in lower snake case like gated_delta, saw {' '.join(argv) or 'nothing'!r}: make new KEY=..."
    row = rows.get(argv[0], {"kind": argv[-1] if argv[1:] else "state", "module": "new"})
    if not isinstance(row, dict):
        return f"{argv[0]} is a list in catalog.toml, wanted another key"
    if argv[1:] and (argv[1] not in PARTS or argv[1] != row["kind"]):
        return f"kind {argv[1]!r}, wanted " + (f"{row['kind']}, the row's" if argv[0] in rows else f"one of {', '.join(PARTS)}")
    return "" if row["module"] else f"{argv[0]} has no module, for it is {row['status']}"


def wording(key: str, kind: str, row: dict) -> dict[str, str]:
    """What the templates are filled with."""
    module = row.get("module", f"minimem.{kind}.{key}")
    package, _, stem = module.rpartition(".")
    paper = [row["paper"]] if isinstance(row.get("paper"), str) else row.get("paper", [])
    words = {
        "key": key, "name": row.get("name", key.replace("_", " ").capitalize()), "kind": kind, "module": module, "package": package, "stem": stem,
        "label": key.replace("_", "-"), "class_name": "".join(w.capitalize() for w in stem.split("_")), "shapes": of(kind, SHAPES),
        "forms": "" if kind in ("text", "params") else "forms = ['recurrent']\ninputs = 'qkv'\n", "helpers": "show" if kind == "text" else "check, show",
        "equation": row.get("equation", of(kind, EQUATIONS)), "paper": "".join(f"{p}: " for p in paper if p),
        "promised": "oracle, claim, metric, measured, notebook and status" + (", forms and inputs" if kind not in ("text", "params") else ""),
        "counted": "" if row else "\n  6. one row more: tests/test_catalog.py counts them, python -m minimem.catalog tables shows them in the README",
    }
    words["equations"] = equations(words["equation"])
    return words | {"build": Template(of(kind, BUILD)).substitute(words)}


def lab_of(key: str, part: Path, notebook: str) -> Path:
    """The lab that the row names, or the one called by the key, or the next free number."""
    if notebook:
        return ROOT / Path(notebook.partition("#")[0]).with_suffix(".py")
    number = 1 + max((int(p.name[:2]) for p in part.glob("[0-9][0-9]_*.py")), default=0)
    return next(iter(sorted(part.glob(f"[0-9][0-9]_{key}.py"))), part / f"{number:02}_{key}.py")


def add_row(toml: Path, row: str) -> None:
    """After the last row, before the lists that are no rows."""
    text = toml.read_text(encoding="utf8")
    after = re.search(r"^\[\[", text, re.M)
    at = after.start() if after else len(text)
    toml.write_text(text[:at].rstrip("\n") + "\n\n" + row + text[at:], encoding="utf8")


def main(argv: list[str]) -> int:
    toml = ROOT / "minimem/catalog.toml"
    rows = tomllib.loads(toml.read_text(encoding="utf8"))
    if why := refused(argv, rows):
        print(why, file=sys.stderr)
        return 2
    key, row = argv[0], rows.get(argv[0], {})
    kind = row.get("kind") or (argv[1:] or ["state"])[0]
    words = wording(key, kind, row)
    if not row:
        add_row(toml, Template(ROW).substitute(words))
    print(f"{'exists' if row else 'wrote '} minimem/catalog.toml, row [{key}]")
    code, test = ROOT / (words["module"].replace(".", "/") + ".py"), ROOT / f"tests/test_{key}.py"
    lab = lab_of(key, ROOT / "notebooks" / PARTS[kind], row.get("notebook", ""))
    todo = {code.with_name("__init__.py"): f'"""{kind.capitalize()}: what is kept, in one sentence."""\n',
            code: of(kind, {"text": TEXT, "params": PARAMS, "": SEQUENCE}), test: TEST, lab: LAB}
    for path, template in todo.items():
        new = not path.exists()
        if new:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(template).substitute(words), encoding="utf8")
        print(f"{'wrote ' if new else 'exists'} {path.relative_to(ROOT)}")
    print(Template(NEXT).substitute(words, lab=lab.relative_to(ROOT), test=test.relative_to(ROOT)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
