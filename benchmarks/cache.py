"""What the cache saves, and what it costs: the next token computed anew or from the cache, and the parts of one read.

python benchmarks/cache.py            (about a minute)

Fixed before the run: CPU time, one thread, the two ways in turns, ROUNDS rounds; the ratio of medians at 512 tokens should be above 5.
Computing anew is given the best case: it makes the logits of the last token alone.
"""
import os
import statistics
import time
from dataclasses import replace
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from record import record  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from minimem import core, pretrained  # noqa: E402
from minimem.cache import full  # noqa: E402
from minimem.lm import small  # noqa: E402
from minimem.position.rope import rotate_halves, rotate_pairs  # noqa: E402

torch.set_num_threads(1)
LENGTHS, PARTS, ROUNDS = (64, 128, 256, 512, 1024), (512, 2048, 8192), 5


def medians(work):
    """ms of CPU time of each piece of work, by name; the pieces take turns."""
    took = {name: [] for name in work}
    for _ in range(ROUNDS + 1):
        for name, run in work.items():
            start = time.process_time()
            run()
            took[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(t[1:]) for name, t in took.items()}                # the first round warms up


def short(x):
    return float(f"{x:.2g}")


def compared(name, anew, cached, bytes_at):
    """``anew(t)`` and ``cached(t)`` give the work of the token after t others."""
    ms = medians({(how, t): make(t) for t in LENGTHS for how, make in (("anew", anew), ("cached", cached))})
    row = {**{how: [short(ms[how, t]) for t in LENGTHS] for how in ("anew", "cached")},
           "ratio": [short(ms["anew", t] / ms["cached", t]) for t in LENGTHS], "bytes": [bytes_at(t) for t in LENGTHS]}
    print(name, row, flush=True)
    return row


def smollm2():
    """The real model. Its head costs a fifth of a token: whoever computes anew has a head of one row for all tokens but the last."""
    model = pretrained.load()
    head = model.weights["token_embd.weight"]
    body, h = replace(model, weights={**model.weights, "output.weight": head[:1]}), torch.ones(head.shape[1])
    ids = torch.arange(1000, 1001 + LENGTHS[-1])
    states = {t: pretrained.forward(body, ids[:t])[1] for t in LENGTHS}
    return compared("SmolLM2-135M", lambda t: lambda: (pretrained.forward(body, ids[:t + 1]), F.linear(h, head)),
                    lambda t: partial(pretrained.forward, model, ids[t:t + 1], states[t]), lambda t: core.nbytes(states[t]))


def random_model():
    torch.manual_seed(0)
    lm, tokens = small(256, 256, [full.Layer(256, 8, 2, rotate=rotate_halves) for _ in range(4)], mlp=688), torch.randint(256, (1, LENGTHS[-1] + 1))
    states = {t: lm(tokens[:, :t])[1] for t in LENGTHS}
    return compared("random, 4 layers, width 256", lambda t: partial(lm, tokens[:, :t + 1]), lambda t: partial(lm, tokens[:, t:t + 1], states[t]),
                    lambda t: core.nbytes(states[t]))


def parts(t):
    """ms of one token, one layer of SmolLM2's shape: 9 query heads on 3 heads of keys, 64 wide, float32, after t tokens."""
    q, k, v, at = torch.randn(1, 9, 1, 64), torch.randn(1, 3, t, 64), torch.randn(1, 3, t, 64), torch.arange(t)
    S, new = {"k": k, "v": v}, (k[..., :1, :], v[..., :1, :])
    ms = medians({"copying the cache (torch.cat)": lambda: [torch.cat([x, y], -2) for x, y in zip((k, v), new)],
                  "rotating all its keys": lambda: rotate_pairs(k, at),
                  "reading it, torch SDPA": lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
                  "full.parallel, bare": lambda: full.parallel(q, *new, S),
                  "full.parallel, rotated": lambda: full.parallel(q, *new, S, rotate=rotate_pairs)})
    print(t, row := {name: short(x) for name, x in ms.items()}, flush=True)
    return row


if __name__ == "__main__":
    with torch.no_grad():
        record("cache", {"size": "one sequence, float32, 1 thread, ms of CPU time, medians", "rounds": ROUNDS, "T": list(LENGTHS),
                         "SmolLM2-135M": smollm2(), "random, 4 layers, width 256": random_model(),
                         "one token of one layer": {str(t): parts(t) for t in PARTS}}, seeds=[0])
