"""Every sequence memory of the catalog, every form, every check."""
import pytest
import torch

from minimem import check, core
from minimem.catalog import systems

ROWS = [s for s in systems().values() if s.built and s.forms]


@pytest.mark.parametrize("name", check.CHECKS)
@pytest.mark.parametrize("row, form", [pytest.param(s, f, id=f"{s.key}-{f}") for s in ROWS for f in s.forms])
def test_battery(row, form, name):
    definition, make = check.parts(row)
    check.CHECKS[name](check.bound(row, form), definition, make, **({"kind": row.growth} if name == "growth" else {}))


@pytest.mark.parametrize("row, form", [pytest.param(s, f, id=f"{s.key}-{f}") for s in ROWS for f in s.forms])
def test_init_is_where_a_form_starts(row, form):
    _, make = check.parts(row)
    for dtype in (torch.float32, torch.float64):
        xs, run = make(dtype=dtype), check.bound(row, form)
        empty = check.sized(row.code.init, lead=(2, 3), dtype=dtype)         # widths and leading axes of check.inputs
        assert all(t.dtype == dtype for t in core.tensors(empty))
        check._same(run(*xs, state=empty), run(*xs), "starting from init differs from starting from nothing", rtol=0, atol=0)
