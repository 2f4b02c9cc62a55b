"""The README's example runs as it stands."""
import re
from pathlib import Path

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf8")


def test_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(code.strip().splitlines()) <= 8
    exec(code, {})
    assert re.search(r"4096 bytes, newest fact right, \d+ of 64 right", capsys.readouterr().out)
