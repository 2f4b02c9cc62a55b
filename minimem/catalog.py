"""The list of systems: one row drives the book's tables, the notebook headers, the README and the tests.

``python -m minimem.catalog`` prints coverage and what is wrong (exit status 1 if anything is);
``python -m minimem.catalog tables`` writes the book's tables and the README's coverage.
"""
from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]        # the repository, when installed with -e
KINDS = {"text": "Text", "position": "Positions", "cache": "Caches", "state": "States", "params": "Parameters", "hybrid": "Hybrids"}
ORACLE_KINDS = ("code", "golden", "closed-form", "published-number", "none")
CHINESE = r"[\u4e00-\u9fff]"
STATUS = {"checked": "checked", "not reproduced at toy scale": "not reproduced", "planned": "planned", "named only": "named only"}


@dataclass(frozen=True)
class System:
    """One row of ``catalog.toml``.

    ``paper``: keys of the bibliography. ``sections``: headings of the survey, outermost first, joined by `` / ``.
    ``equation``: LaTeX, one numbered line each. ``forms``: names of functions in ``module`` beside ``step``.
    ``inputs``: the letters of what they take (``qkvab``). ``growth`` of the state: constant, linear or log. ``oracle``: the independent implementation, with its version.
    ``expected``: what was known before the run; ``measured``: names of files in ``benchmarks/results``.
    ``notebook``: ``notebooks/part/NN_name.ipynb#anchor``. ``errata``: what the survey says, the right fact, its source.
    """
    key: str
    name: str
    name_zh: str
    year: int
    paper: tuple[str, ...]
    kind: str
    module: str
    sections: tuple[str, ...]
    added: bool
    equation: str
    bytes: str
    oracle: str
    oracle_kind: str
    claim: str
    metric: str
    expected: str
    errata: tuple[dict[str, str], ...]
    status: str
    forms: tuple[str, ...] = ()
    inputs: str = ""
    growth: str = "constant"
    measured: tuple[str, ...] = ()
    notebook: str = ""

    @property
    def code(self) -> ModuleType:
        """The module itself, imported."""
        return importlib.import_module(self.module)

    @property
    def built(self) -> bool:
        return self.state in ("checked", "not reproduced")

    @property
    def state(self) -> str:
        """The status without its reason: checked, not reproduced, planned or named only."""
        return next((short for long, short in STATUS.items() if self.status.startswith(long)), "unknown")


@cache
def contents() -> dict[str, Any]:
    """``catalog.toml`` as it stands."""
    return tomllib.loads(files("minimem").joinpath("catalog.toml").read_text(encoding="utf8"))


@cache
def systems() -> dict[str, System]:
    """Every row, by key, in the book's order. Raises ValueError naming the row whose fields are wrong."""
    rows = {}
    for key, row in contents().items():
        if not isinstance(row, dict):
            continue
        row = {**row, "paper": [row["paper"]] if isinstance(row.get("paper"), str) and row["paper"] else row.get("paper") or []}
        try:
            rows[key] = System(key=key, **{f: tuple(v) if isinstance(v, list) else v for f, v in row.items()})
        except TypeError as e:
            raise ValueError(f"catalog.toml, row [{key}]: {str(e).split('.')[-1].strip().removeprefix('__init__() ')}") from None
    return rows


def system(key: str) -> System:
    """One row. Raises ValueError with the nearest keys when there is none."""
    import difflib
    if key not in systems():
        near = difflib.get_close_matches(key, systems(), 3)
        raise ValueError(f"no system {key!r} in the catalog" + (f"; did you mean {', '.join(near)}?" if near else ""))
    return systems()[key]


def result(name: str) -> dict[str, Any]:
    """A stored measurement, ``benchmarks/results/<name>.json``, with machine, versions, seeds and command."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    if not path.exists():
        raise ValueError(f"no stored result {name!r}: {path} is missing (results come with a clone, not with the wheel)")
    return json.loads(path.read_text(encoding="utf8"))


# ------------------------------------------------------------------ what is wrong

def expect_clone() -> None:
    """The files beside the package are here. Raises ValueError where it was installed without them."""
    if not (ROOT / "book/references.bib").exists():
        raise ValueError(f"{ROOT} is no clone of minimem: book, notebooks and results are missing, an installed wheel holds the package alone")


def problems() -> list[str]:
    """Everything in the catalog that is not so; empty when it is sound. Raises ValueError outside a clone."""
    expect_clone()
    bib = set(re.findall(r"^@\w+\{([^,\s]+)", (ROOT / "book/references.bib").read_text(encoding="utf8"), re.M))
    found = [f"[{s.key}] {p}" for s in systems().values() for p in _wrong(s, bib)]
    return found + _unnamed_modules()


def _wrong(s: System, bib: set[str]) -> list[str]:
    bad = [f"kind {s.kind!r} is none of {', '.join(KINDS)}"] if s.kind not in KINDS else []
    if s.state == "unknown":
        bad.append(f"status {s.status!r} is none of {', '.join(STATUS)}")
    if s.oracle_kind.split(":")[0] not in ORACLE_KINDS:
        bad.append(f"oracle_kind {s.oracle_kind!r} is none of {', '.join(ORACLE_KINDS)}")
    bad += [f"paper {k!r} is not in book/references.bib" for k in s.paper if k not in bib]
    bad += [f"errata need {f!r}" for e in s.errata for f in ("survey", "fact", "source") if not e.get(f)]
    return bad + (_wrong_built(s) if s.built else [])


def _wrong_built(s: System) -> list[str]:
    bad = []
    try:
        module = s.code
    except ImportError as e:
        return [f"module {s.module!r} cannot be imported: {e}"]
    if s.kind != "position" and not hasattr(module, "step") and not any({"write", "read"} <= set(dir(x)) for x in (module, *vars(module).values())):
        bad.append(f"{s.module} has neither step nor write and read")
    bad += [f"{s.module} has no form {f!r}" for f in s.forms if not callable(getattr(module, f, None))]
    source, doc = inspect.getsource(module), module.__doc__ or ""
    for n in re.findall(r"\\tag\{(\d+)\}", s.equation):
        if f"({n})" not in doc:
            bad.append(f"equation ({n}) is not in the docstring of {s.module}")
        if not re.search(rf"#.*\({n}\)", source.replace(doc, "")):
            bad.append(f"equation ({n}) is not marked '# ({n})' in the code of {s.module}")
    path, _, anchor = s.notebook.partition("#")
    lab = ROOT / path
    if not (path and lab.exists()):
        bad.append(f"notebook {path!r} does not exist")
    else:
        text = lab.with_suffix(".py").read_text(encoding="utf8")
        if f"({anchor})=" not in text:
            bad.append(f"notebook {path} has no anchor ({anchor})=")
        cells = re.split(r"^# %%", text, flags=re.M)
        if not any(f'"claim-{s.key}"' in c.split("\n")[0] and re.search(r"^\s*assert ", c, re.M) for c in cells):
            bad.append(f'notebook {path} has no cell tagged "claim-{s.key}" that asserts the claim')
    bad += [f"result {r!r} is not in benchmarks/results" for r in s.measured if not (ROOT / f"benchmarks/results/{r}.json").exists()]
    return bad


def _unnamed_modules() -> list[str]:
    """A mechanism in a kind's folder that no row names."""
    named = {s.module for s in systems().values()}
    helpers = set(contents().get("helpers", []))
    found = {f"minimem.{k}.{p.stem}" for k in KINDS for p in (ROOT / "minimem" / k).glob("*.py") if p.stem != "__init__"}
    return [f"{m} is named by no row (nor by helpers)" for m in sorted(found - named - helpers)]


# ------------------------------------------------------------------ what it says

def coverage() -> str:
    """A Markdown table: systems by kind of memory and status."""
    columns = list(STATUS.values())
    lines = ["| kind of memory | " + " | ".join(columns) + " | all |", "|---" * (len(columns) + 2) + "|"]
    rows = list(systems().values())
    for kind, title in {**KINDS, "": "**all**"}.items():
        mine = [s for s in rows if kind in ("", s.kind)]
        lines.append(f"| {title} | " + " | ".join(str(sum(s.state == c for s in mine)) for c in columns) + f" | {len(mine)} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Card:
    """A row as Markdown: what a notebook shows at its head."""
    s: System

    def _repr_markdown_(self) -> str:
        s = self.s
        lines = [f"**{s.name}**{named(s)} · kept: {KINDS[s.kind].lower()}", *(["", *equations(s)] if s.equation else [])]
        lines += [f"- *Bytes.* {s.bytes}", f"- *Claim.* {s.claim}", f"- *Metric.* {s.metric}", f"- *Known before the run.* {s.expected}",
                  f"- *Checked against.* {s.oracle}", f"- *Status.* {s.status}"]
        lines += map(correction, s.errata)
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<card of {self.s.key}>"


def card(key: str) -> Card:
    """The row of one system, shown as Markdown in a notebook."""
    return Card(system(key))


def named(s: System) -> str:
    """What stands behind the English name: the Chinese one, if it is another, and the year."""
    return (f" · {s.name_zh}" if re.search(CHINESE, s.name_zh) else "") + (f" · {s.year}" if s.year else "")


def equations(s: System) -> list[str]:
    """One row for each formula, so that they fit a narrow page; the number stands at the last of its line."""
    rows = re.sub(r"[,;]\s*\\q?quad\s*|\\q?quad(?=\\text\{\()", lambda m: m[0].split("\\")[0].strip() + "\n", s.equation.strip()).splitlines()
    return [r"\begin{align*}", "\\\\\n".join("& " + row for row in rows), r"\end{align*}", ""] if rows else []


def correction(e: dict[str, str]) -> str:
    return f"- *The survey says:* {e['survey']}. *The right fact:* {e['fact']} ({e['source']})."


def main(argv: list[str]) -> int:
    if argv == ["tables"]:
        from .pages import tables
        print(f"{len(tables())} tables changed")
        return 0
    if argv:
        print("usage: python -m minimem.catalog [tables]", file=sys.stderr)
        return 2
    print(coverage())
    bad = problems()
    print("\n".join(["", *bad, f"{len(bad)} problems" if bad else "the catalog is sound"]))
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as e:
        sys.exit(str(e))
