"""The README's example runs as it stands."""
import re
from pathlib import Path

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf8")


def test_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(code.strip().splitlines()) == 6
    exec(code, {})
    assert re.search(r"4096 bytes bring back \d+ of 64 facts", capsys.readouterr().out)
