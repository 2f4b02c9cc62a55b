"""Every sequence memory of the catalog, every form, every check."""
import pytest

from minimem import check
from minimem.catalog import systems

ROWS = [s for s in systems().values() if s.built and s.forms]


@pytest.mark.parametrize("name", check.CHECKS)
@pytest.mark.parametrize("row, form", [pytest.param(s, f, id=f"{s.key}-{f}") for s in ROWS for f in s.forms])
def test_battery(row, form, name):
    definition, make = check.parts(row)
    check.CHECKS[name](getattr(row.code, form), definition, make, **({"kind": row.growth} if name == "growth" else {}))
