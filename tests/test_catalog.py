"""One list, no drift: every row points to things that exist."""
import dataclasses
import re
from pathlib import Path

import pytest

from minimem import catalog

ROOT = Path(__file__).resolve().parents[1]


def test_sound():
    assert catalog.problems() == []


def test_every_system_is_there():
    assert len(catalog.systems()) == 114


def test_readme_shows_this_coverage():
    assert catalog.coverage() in (ROOT / "README.md").read_text(encoding="utf8"), "run: python -m minimem.catalog tables"


def broken(**change):
    return dataclasses.replace(catalog.system("gated_delta"), **change)


@pytest.mark.parametrize("change, message", [
    ({"module": "minimem.state.nowhere"}, "minimem.state.nowhere"),
    ({"kind": "magic"}, "kind 'magic'"),
    ({"status": "nearly done"}, "status 'nearly done'"),
    ({"paper": ("nobody2099",)}, "nobody2099"),
    ({"forms": ("telepathy",)}, "telepathy"),
    ({"equation": r"x = y \tag{9}"}, "equation (9)"),
    ({"notebook": "notebooks/working/99_nothing.ipynb#x"}, "99_nothing"),
    ({"measured": ("never_run",)}, "never_run"),
])
def test_a_wrong_row_is_named(change, message):
    bib = set(re.findall(r"^@\w+\{([^,\s]+)", (ROOT / "book/references.bib").read_text(encoding="utf8"), re.M))
    assert not catalog._wrong(broken(), bib)
    assert any(message in p for p in catalog._wrong(broken(**change), bib))


def test_unknown_key_suggests():
    with pytest.raises(ValueError, match="did you mean gated_delta"):
        catalog.system("gated-delta")


def test_missing_result():
    with pytest.raises(ValueError, match="no stored result 'nothing'"):
        catalog.result("nothing")
