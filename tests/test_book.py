"""The book covers the survey, shows every system, and speaks of itself only. Cheap: nothing is built."""
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from minimem import catalog, pages

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
PAGES = {p: p.read_text(encoding="utf8") for p in sorted(BOOK.rglob("*.md")) if "generated" not in p.parts}
TITLES = "\n".join(line.lower() for text in PAGES.values() for line in text.splitlines() if re.match(r"#+ |\(.*\)=", line))
HEADINGS = """
Introduction; 记忆的两个维度; 维度一：信息的处理化程度; 维度二：信息的保存和丢弃; Memory Architecture; 感觉知识; 工作记忆; 长期记忆;
Sensory Memory; 现有工作; 反思; 向量数据库; 检索方法; 稀疏检索; 密集检索; 记忆粒度; 轮次级; 会话级; 基于总结; 小结;
Working Memory; 概述; Classification; Incremental Update; Long-context processing; 长度外推; 长上下文训练; 位置编码; 位置插值; 滑动窗口; 注意力增强;
Sigmoid Attention; Model efficiency; Cache外部检索; Cache内部稀疏化; Cache压缩; Iterative Update; 基于Transformer; Linear Attention; state-space models;
Meta Learning; LSTM; 前缀微调; Hybrid Update; 第一阶段：基础突破; 第二阶段：混合架构爆发; 第三阶段：架构创新; Log-Linear Attention; 相关技术; 硬件加速;
Long-term Memory; MoE; LoRA; 终生学习; 预训练; 微调; 强化学习; 微调方法; 完全微调; 参数高效微调; 记忆更新机制; 增量学习; 持续学习;
记忆保留策略; 正则化技术; 记忆巩固; Related Surveys; 一些无法访问原文的工作
"""


def toc_files(node):
    if isinstance(node, list):
        return [f for x in node for f in toc_files(x)]
    if isinstance(node, dict):
        return [v for k, v in node.items() if k in ("root", "file")] + [f for v in node.values() for f in toc_files(v)]
    return []


TOC = toc_files(yaml.safe_load((ROOT / "_toc.yml").read_text()))


def test_toc_and_files_agree():
    missing = [f for f in TOC if not any((ROOT / f).with_name(Path(f).name + x).exists() for x in (".md", ".ipynb"))]
    written = [str(p.relative_to(ROOT).with_suffix("")) for p in PAGES]
    labs = [str(p.relative_to(ROOT).with_suffix("")) for p in (ROOT / "notebooks").glob("*/*.ipynb")]
    assert missing == []
    assert sorted(set(written + labs) - set(TOC)) == [], "not in _toc.yml"
    assert len(TOC) == len(set(TOC))


@pytest.mark.parametrize("heading", [h.strip() for h in HEADINGS.split(";")])
def test_heading_of_the_survey(heading):
    assert heading.lower() in TITLES


def test_every_section_is_shown_once():
    shown = [m for text in PAGES.values() for m in re.findall(r"^```\{include\} (?:\.\./)*generated/(\w+)\.md$", text, re.M)]
    sections = {pages.slug(x) for s in catalog.systems().values() for x in s.sections}
    assert sorted(sections - set(shown)) == []
    assert sorted(x for x in set(shown) if shown.count(x) > 1) == []
    known = sections | {"coverage", "systems", "errata", "glossary", "speed"} | set(pages.api())
    assert sorted(set(shown) - known) == []


def test_every_module_has_its_page():
    shown = set(re.findall(r"automodule:: (\S+)", "\n".join(pages.api().values())))
    modules = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in (ROOT / "minimem").rglob("*.py")}
    hidden = {"minimem", "minimem.pages"} | {f"minimem.{k}" for k in catalog.KINDS} | {m for m in modules if m.startswith("minimem.fast.") or m.endswith(".__main__")}
    assert shown == modules - hidden


def test_every_card_has_its_place():
    cards = "\n".join(pages.section_table(x) for x in {x for s in catalog.systems().values() for x in s.sections})
    assert [k for k in catalog.systems() if cards.count(f"(card-{k})=") != 1] == []


def test_splitting_formulas_loses_nothing():
    for s in catalog.systems().values():
        rows = [r for r in catalog.equations(s) if r]
        text = "\n".join(rows)
        assert re.findall(r"\\tag\{\d+\}", text) == re.findall(r"\\tag\{\d+\}", s.equation), s.key
        for row in text.splitlines()[1:-1]:
            plain = row.replace(r"\{", "").replace(r"\}", "")
            assert plain.count("{") == plain.count("}"), f"{s.key}: {row}"
            assert len(re.findall(r"\\left(?![a-z])", row)) == len(re.findall(r"\\right(?![a-z])", row)), f"{s.key}: {row}"


def test_speed_reads_nested_measurements():
    rows = pages._rows("rows", [{"case": "delta", "T": 2048, "ms": {"ours": 1234.5, "theirs": 2.0}}, {"by": "attend", "ms": 1.25}])
    assert rows == ["| **delta, T 2,048** | |", "| ours | ms 1,234 |", "| theirs | ms 2 |", "| attend | ms 1.25 |"]


def test_pictures_are_there():
    wanted = [(p, m) for p, text in PAGES.items() for m in re.findall(r"\{figure\} (\S+)", text)]
    assert wanted and [m for p, m in wanted if not (p.parent / m).exists()] == []


def test_names_in_two_languages():
    rows = catalog.systems().values()
    assert [s.key for s in rows if not s.name or not s.name_zh] == []
    assert "| Sparse retrieval | 稀疏检索 |" in pages.glossary()


def test_every_system_cites_its_paper():
    assert [s.key for s in catalog.systems().values() if not s.paper and s.key not in ("store",)] == []


def test_citations_exist():
    bib = set(re.findall(r"^@\w+\{([^,\s]+)", (BOOK / "references.bib").read_text(encoding="utf8"), re.M))
    cited = {k.strip() for text in PAGES.values() for m in re.findall(r"\{cite:\w+\}`([^`]+)`", text) for k in m.split(",")}
    assert sorted(cited - bib) == []


def tracked():
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        path = ROOT / name
        if path.exists() and path.suffix in (".md", ".py", ".toml", ".bib", ".yml", ".ipynb", ".txt", ".json", ".cff", ".css") and path != Path(__file__):
            yield name, path.read_text(encoding="utf8")


# joined here so that this file does not hold them itself
FORBIDDEN = {"internal sheets": r"fact" + r"check|\bpilot\b|the specs\b|SYSTEMS\.md|DESIGN\.md|catalog-seed", "absolute paths": r"(?<![\w.])/(?:root|home|work|tmp)/\w",
             "package hosts": r"pypi\.org|pythonhosted|conda\.anaconda|index-url|proxy\.golang"}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_speaks_of_itself_only(what):
    found = [f"{name}: {m[0]}" for name, text in tracked() for m in re.finditer(FORBIDDEN[what], re.sub(r'"image/png": "[^"]*"', "", text))]
    assert found == []
