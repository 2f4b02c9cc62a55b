"""The README's examples run as they stand."""
import re
from pathlib import Path

import torch

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf8")
EXAMPLE, CHECKPOINT = re.findall(r"```python\n(.*?)```", README, re.S)


def test_example_runs(capsys):
    assert len(EXAMPLE.strip().splitlines()) == 6
    exec(EXAMPLE, {})
    assert re.search(r"4096 bytes bring back \d+ of 64 facts", capsys.readouterr().out)


def test_a_checkpoint_runs(monkeypatch):
    """With random weights in the place of those that are published."""
    from transformers import AutoTokenizer, BatchEncoding, MambaConfig, MambaForCausalLM
    theirs = MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2)).eval()
    monkeypatch.setattr(MambaForCausalLM, "from_pretrained", lambda name: theirs)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda name: lambda text, return_tensors: BatchEncoding({"input_ids": torch.arange(12)[None]}))
    told = {}
    exec(CHECKPOINT, told)
    assert told["more"].shape == (1, 20)
    torch.testing.assert_close(told["logits"], theirs(told["tokens"]).logits, rtol=1e-4, atol=1e-4)
