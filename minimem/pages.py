"""The pages of the book that are made from the catalog: cards under each heading, corrections, names, all systems, speed, modules.

``python -m minimem.catalog tables`` writes them to ``book/generated``.
"""
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .catalog import CHINESE, KINDS, ROOT, System, contents, correction, coverage, equations, expect_clone, named, result, systems


def slug(section: str) -> str:
    """File name of a survey heading, ASCII."""
    parts = [re.sub(r"\(.*?\)|:.*", "", p).strip().lower() for p in section.split(" / ")]
    return re.sub(r"[^a-z0-9]+", "_", " ".join(parts)).strip("_")


def section_table(section: str) -> str:
    """The systems under one heading of the survey, as Markdown for the book."""
    return "\n".join(_box(s, label=section == s.sections[0]) for s in systems().values() if section in s.sections)


def _box(s: System, label: bool) -> str:
    """One system as an admonition of the book: claim and equations in sight, the rest folded."""
    head = [f"{{cite:p}}`{','.join(s.paper)}`"] if s.paper else []
    head += ["added here, not in the survey"] if s.added else []
    head += [f"{{ref}}`lab <{s.notebook.partition('#')[2]}>`"] if s.built else []
    lines = [f"(card-{s.key})="] if label else []
    lines += [f"::::{{admonition}} {s.name}{named(s)}", f":class: system kind-{s.kind}", "",
              " · ".join([f"`{s.key}`", f"**{s.status}**", *head]), ""]
    if s.claim:
        lines += [s.claim if s.built else f"*Still to be shown here:* {s.claim}", ""]
    lines += [*equations(s), *_corrections(s)]
    folded = {"Bytes": s.bytes, "Metric": s.metric, "Known before the run": s.expected, "Checked against" if s.built else "To be checked against": s.oracle,
              "Stored results": ", ".join(f"`benchmarks/results/{r}.json`" for r in s.measured)}
    if s.claim:
        lines += [":::{dropdown} Bytes, measure, oracle", *[f"- *{name}.* {text}" for name, text in folded.items() if text], ":::", ""]
    return "\n".join([*lines, "::::", ""])


def _corrections(s: System) -> list[str]:
    return [*(correction(e) for e in s.errata), ""] if s.errata else []


def errata() -> str:
    """Every correction to the survey, as Markdown: the general ones, then those of single systems."""
    lines, heading = [], ""
    for e in contents()["survey_errata"]:
        if e["heading"] != heading:
            heading = e["heading"]
            lines += ["", f"### {heading}", ""]
        lines.append(correction(e))
    lines += ["", "## Of single systems"]
    for s in systems().values():
        if s.errata:
            lines += ["", f"### {s.name}", "", f"{{ref}}`To its card <card-{s.key}>`.", "", *map(correction, s.errata)]
    return "\n".join(lines).strip() + "\n"


def glossary() -> str:
    """English and Chinese names of headings and systems, as a Markdown table."""
    rows = {m[1].strip(): m[2] for s in systems().values() for part in " / ".join(s.sections).split(" / ")
            if (m := re.fullmatch(r"(?!Introduction)(.*?)\s*\((.*[\u4e00-\u9fff].*)\)", part))}
    rows |= {s.name: s.name_zh for s in systems().values() if re.search(CHINESE, s.name_zh)}
    return "\n".join(["| English | 中文 |", "|---|---|", *(f"| {en} | {zh} |" for en, zh in sorted(rows.items(), key=lambda r: r[0].lower()))]) + "\n"


def listing() -> str:
    """Every system with its status, lab and oracle: one Markdown table for each kind."""
    lines = []
    for kind, title in KINDS.items():
        lines += ["", f"## {title}", "", "| system | status | checked against, once built |", "|---|---|---|"]
        for s in (s for s in systems().values() if s.kind == kind):
            lab = f", {{ref}}`lab <{s.notebook.partition('#')[2]}>`" if s.built else ""
            lines.append(f"| {{ref}}`{s.name} <card-{s.key}>` | {s.state}{lab} | {s.oracle.replace('|', chr(92) + '|')} |")
    return "\n".join(lines).strip() + "\n"


def speed() -> str:
    """What was measured about speed, stored in ``benchmarks/results``, as Markdown tables."""
    lines = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        if not re.fullmatch(r".*speed.*|states|attention", path.stem):
            continue
        r, key = result(path.stem), path.stem.removesuffix("_speed")
        lines += ["", f"## {systems()[key].name if key in systems() else key.capitalize()}", "",
                  f"`{r['command']}`, {r['date']}, {r['cpu']}, {r['cores']} cores.", "",
                  "| measured | value |", "|---|---|", *(line for k, v in r["data"].items() for line in _rows(k, v))]
    return "\n".join(lines).strip() + "\n"


def _rows(name: str, node: Any) -> list[str]:
    """A stored number, list or dict as rows of a table of two columns."""
    if isinstance(node, dict):
        return [f"| **{name}** | |", *(r for k, v in node.items() for r in _rows(k, v))]
    if isinstance(node, list) and any(isinstance(x, dict) for x in node):
        return [*([] if name == "rows" else [f"| **{name}** | |"]), *(r for x in node for r in _case(x))]
    return [f"| {name} | {_shown(node)} |"]


def _case(x: dict[str, Any]) -> list[str]:
    """One case of a list: what it is, then each competitor with its numbers; or all in one row."""
    nested = {k: v for k, v in x.items() if isinstance(v, dict)}
    if not nested:
        words = {k: v for k, v in x.items() if isinstance(v, str)}
        return [f"| {_shown(words)} | {_shown({k: v for k, v in x.items() if k not in words})} |"]
    names = dict.fromkeys(n for v in nested.values() for n in v)
    return [f"| **{_shown({k: v for k, v in x.items() if k not in nested})}** | |",
            *(f"| {n} | {_shown({k: v[n] for k, v in nested.items() if n in v})} |" for n in names)]


def _shown(x: Any) -> str:
    if isinstance(x, dict):
        return ", ".join(_shown(v) if isinstance(v, str) else f"{k} {_shown(v)}" for k, v in x.items())
    if isinstance(x, list):
        return ", ".join(map(_shown, x))
    return (f"{x:,.3g}" if abs(x) < 1000 else f"{x:,.0f}") if isinstance(x, float) else f"{x:,}" if isinstance(x, int) else str(x)


def api() -> dict[str, str]:
    """Pages of the modules, from their docstrings. The adapters in ``fast/`` are left out: they import what may not be installed."""
    def module(path: Path) -> str:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        return f"### `{name}`\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```\n"

    def folder(name: str) -> list[Path]:
        return [p for p in sorted((ROOT / "minimem" / name).glob("*.py")) if p.stem not in ("__init__", "__main__")]
    contract = [ROOT / f"minimem/{n}.py" for n in ("core", "check", "catalog", "forms")]
    others = [d for d in sorted((ROOT / "minimem").iterdir()) if (d / "__init__.py").exists() and d.name not in KINDS]
    rest = [p for p in folder("") if p not in contract and p.stem != "pages"]
    rest += [p for d in others for p in [d / "__init__.py", *(folder(d.name) if d.name != "fast" else [])]]
    memories = [line for kind, title in KINDS.items() if folder(kind) for line in (f"## {title}\n", *map(module, folder(kind)))]
    return {"api_contract": "\n".join(module(p)[1:] for p in contract if p.exists()), "api_memories": "\n".join(memories),
            "api_tools": "\n".join(module(p)[1:] for p in rest)}


def tables() -> list[Path]:
    """Write ``book/generated/*.md`` and the README's coverage table; only files whose text changed are touched. Raises ValueError outside a clone."""
    expect_clone()
    out = ROOT / "book" / "generated"
    out.mkdir(exist_ok=True)
    pages = {slug(x): section_table(x) for s in systems().values() for x in s.sections}
    pages |= {"coverage": coverage() + "\n", "systems": listing(), "errata": errata(), "glossary": glossary(), "speed": speed()} | api()
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    todo = {out / f"{name}.md": text for name, text in pages.items()}
    todo[ROOT / "README.md"] = re.sub(r"(<!-- coverage -->\n).*?(<!-- /coverage -->)", lambda m: m[1] + coverage() + "\n" + m[2], readme, flags=re.S)
    changed = [p for p, text in todo.items() if not p.exists() or p.read_text(encoding="utf8") != text]
    for p in changed:
        p.write_text(todo[p], encoding="utf8")
    return changed
