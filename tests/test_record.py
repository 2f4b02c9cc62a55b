"""What is stored beside a measurement is true: the time it took, the command that makes it again."""
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import record  # noqa: E402


@pytest.fixture
def stored(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(record, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["/anywhere/benchmarks/some.py", "part"])
    return lambda name: json.loads(record.record(name, {"x": 1}).read_text(encoding="utf8"))


def test_each_record_tells_its_own_seconds(stored, monkeypatch):
    monkeypatch.setattr(record, "SPENT", [0.0])
    clock = iter((50.0, 62.0))
    monkeypatch.setattr(record.time, "process_time", lambda: next(clock))
    assert [stored(name)["cpu_seconds"] for name in ("first", "second")] == [50, 12]


@pytest.mark.parametrize("data, wanted", [("", "python benchmarks/some.py part"), ("my/locomo", "MINIMEM_DATA=... python benchmarks/some.py part")])
def test_the_command_says_that_data_was_named_and_not_where(stored, monkeypatch, data, wanted):
    monkeypatch.setenv("MINIMEM_DATA", data)
    assert stored("any")["command"] == wanted
