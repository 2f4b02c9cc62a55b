"""Counts which rows had their oracle run: a declared oracle that ran nowhere fails the session."""
import pytest
import torch

from minimem.catalog import systems

torch.set_num_threads(1)
RAN: set[str] = set()


def pytest_configure(config):
    config.addinivalue_line("markers", "oracle(*keys): compares these rows with code or numbers that are not ours")


def pytest_collection_modifyitems(items):
    for item in items:
        item.user_properties += [("oracle", key) for mark in item.iter_markers("oracle") for key in mark.args]


def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed:
        RAN.update(key for name, key in report.user_properties if name == "oracle")


def pytest_sessionfinish(session):
    asked = session.config.option
    fewer = any(getattr(asked, x, None) for x in ("keyword", "markexpr", "deselect", "lf", "collectonly"))
    if hasattr(session.config, "workerinput") or session.config.args != ["tests"] or fewer:
        return                                          # only the whole run can tell
    missing = [s.key for s in systems().values() if s.built and not s.oracle_kind.startswith("none") and s.key not in RAN]
    if missing:
        print(f"\nno oracle ran for: {', '.join(missing)}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
