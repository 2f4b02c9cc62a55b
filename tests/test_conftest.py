"""A declared oracle that ran nowhere fails the whole run, and only the whole run."""
from types import SimpleNamespace

import conftest
import pytest

from minimem.catalog import systems


def finished(monkeypatch, ran, args=("tests",), **options):
    monkeypatch.setattr(conftest, "RAN", set(ran))
    session = SimpleNamespace(config=SimpleNamespace(args=list(args), option=SimpleNamespace(**options)), exitstatus=0)
    conftest.pytest_sessionfinish(session)
    return session.exitstatus


def test_a_missing_oracle_fails_the_whole_run(monkeypatch, capsys):
    assert finished(monkeypatch, systems()) == 0
    assert finished(monkeypatch, set(systems()) - {"gated_delta"}) == pytest.ExitCode.TESTS_FAILED
    assert capsys.readouterr().out == "\nno oracle ran for: gated_delta\n"


@pytest.mark.parametrize("fewer", [{"keyword": "a"}, {"markexpr": "slow"}, {"deselect": ["tests/test_x.py"]}, {"lf": True}, {"collectonly": True}, {"args": ["tests/test_x.py"]}])
def test_a_part_of_the_tests_is_no_whole_run(monkeypatch, fewer):
    assert finished(monkeypatch, (), **fewer) == 0
