"""Longer than trained: schemes of position, the same small model, trained on 64 characters, read and asked at 64 to 1,024.

Two layers, D = 64, four heads, an MLP, the same for all; half of the rows of a batch are text alone, in half four facts are planted, and asked for
within the 64 tokens. Each model is then read in two ways: text cut into pieces (every place counts, the first ones with hardly any context), and a
window that slides (the same characters at every length, each with nearly the full length before it). And it is asked for facts said within
and beyond 64 tokens. "ALiBi, steep" has the slopes 1/2 to 1/16 alone.
"T5, to 48" was added after the first seed of T5, whose buckets for 64 to 128 no training reaches: in it the last bucket begins at 45.
"Refilled", also after that seed: what T5 does if those buckets say what the last trained one says, or nothing at all (−20).

Fixed before the run: 1,000 steps at .004, after RoPE, NoPE and sinusoidal had 1,200 on seed 101; no other rate was tried, for any. What counts, on every seed, of the sliding loss in nats:
  ALiBi and T5    at 256 at most .1 above that at 64
  RoPE            at 256 more than .5 above that at 64; sinusoidal too
  learned         an error from token 64 on
  recall          of what was said 250 tokens ago steep ALiBi brings back at most .3 (1/8 is a guess), ALiBi with its small slopes at least .3 more

    python benchmarks/trained/extrapolation.py [ARM ...] [--seeds 3] [--keep FOLDER]       FOLDER: each finished training is stored there, and not done again
"""
import argparse
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from record import record  # noqa: E402

from minimem.cache import full  # noqa: E402
from minimem.lm import fit, small, surprise  # noqa: E402
from minimem.position import alibi, fope, relative, rope, sinusoidal  # noqa: E402
from minimem.tasks import documentation, planted  # noqa: E402

torch.set_num_threads(1)
D, HEADS, LAYERS, MLP, TRAINED, BATCH, STEPS, RATE = 64, 4, 2, 128, 64, 16, 1000, 4e-3
LENGTHS = (64, 128, 256, 512, 1024)
READ, BLOCK = 16384, 16                                # characters read; of every READ // 64 of them, the last BLOCK are scored at each length
ASKED = {64: (8, 16, 32, 48, 60), 128: (90, 120), 256: (32, 250), 512: (500,), 1024: (32, 1000)}            # length: distances
QUESTIONS = 64


def steep(q, M):
    """ALiBi's slopes ½ to 1/16, those of the first four heads of eight: no head that looks far."""
    return alibi.bias(q.repeat_interleave(2, -3), M)[:HEADS]


def layers(**made):
    """A layer for each block; what learns is made anew for each."""
    return [full.Layer(D, HEADS, **{n: make() for n, make in made.items()}) for _ in range(LAYERS)]


def shared(bias):
    return layers(bias=lambda: bias)


ARMS = {                                               # scheme: its layers, its table
    "sinusoidal": lambda: (layers(), sinusoidal.sinusoidal(LENGTHS[-1], D)),
    "learned": lambda: (layers(), sinusoidal.learned(TRAINED, D)),
    "Shaw": lambda: (layers(bias=partial(relative.Shaw, D // HEADS, 16)), 0),
    "T5": lambda: (shared(relative.T5(HEADS)), 0),
    "T5, to 48": lambda: (shared(relative.T5(HEADS, farthest=48)), 0),
    "ALiBi": lambda: (shared(alibi.bias), 0),
    "RoPE": lambda: (layers(rotate=lambda: rope.rotate_halves), 0),
    "NoPE": lambda: (layers(), 0),
    "ALiBi, steep": lambda: (shared(steep), 0),
    "FoPE": lambda: (layers(rotate=partial(fope.FoPE, D // HEADS, TRAINED, HEADS)), 0),
}


def trained(arm, seed):
    torch.manual_seed(seed)
    mixers, positions = ARMS[arm]()
    model = small(planted.VOCAB, D, mixers, mlp=MLP, positions=positions)
    losses = fit(model, lambda i: planted.lessons(TRAINED, BATCH, 10 ** 6 * seed + i), STEPS, RATE)
    return model, [round(sum(losses[i:i + STEPS // 10]) / (STEPS // 10), 3) for i in range(0, STEPS, STEPS // 10)]


def apart(model, L):
    """Non-overlapping: the text cut into pieces of L, each read from its first character on: the loss at every place, (pieces, L)."""
    text = documentation.characters()[1][1024:]
    pieces = text[torch.arange(0, READ, L)[:, None] + torch.arange(L + 1)]
    return torch.cat([surprise(model, x) for x in pieces.split(max(1, 8192 // L))])


def sliding(model, L):
    """The same characters at every length, each seen with nearly L others before it: the last BLOCK of windows of L."""
    text = documentation.characters()[1]
    ends = torch.arange(1024 + READ // 64, 1024 + READ + 1, READ // 64)
    windows = text[ends[:, None] + torch.arange(-L, 1)]
    return torch.cat([surprise(model, x)[:, -BLOCK:] for x in windows.split(max(1, 8192 // L))])


@torch.no_grad()
def recall(model, T, distance):
    """Share of facts that come back over ``distance`` tokens in a text of T."""
    tokens, answers = planted.questions(T, distance, QUESTIONS, seed=T + distance)
    said = torch.cat([model(x)[0][:, -1].argmax(-1) for x in tokens.split(max(1, 8192 // T))])
    return (said == answers).float().mean().item()


@torch.no_grad()
def refilled(model, value):
    """What a model of T5's does when the buckets that training did not reach, or hardly, say something else: that of 48 tokens back, or a number."""
    table = model.blocks[0].mixer.bias.table.weight
    kept, row = table.clone(), relative.bucket(torch.tensor(48))
    table[row + 1:] = table[row] if value is None else value
    told = {"sliding": {L: round(sliding(model, L).mean().item(), 3) for L in LENGTHS},
            "recall": {f"{d} of {T}": round(recall(model, T, d), 3) for T, d in ((64, 48), (256, 250), (1024, 1000))}}
    table.copy_(kept)
    return told


def measured(arm, seed):
    model, losses = trained(arm, seed)
    lengths = [L for L in LENGTHS if model.positions is None or L <= model.positions.num_embeddings]
    each = {L: apart(model, L) for L in lengths}
    places, bias = each[lengths[-1]].mean(0).unflatten(0, (-1, 16)).mean(-1), model.blocks[0].mixer.bias
    row = bias(torch.ones(HEADS, 1, 1), LENGTHS[-1]) if isinstance(bias, relative.T5) else torch.empty(0, 1)
    return {
        "while training": losses,
        "apart": {L: round(x.mean().item(), 3) for L, x in each.items()},
        "sliding": {L: round(sliding(model, L).mean().item(), 3) for L in lengths},
        "by place": [round(x, 3) for x in places.tolist()],
        "first places": [round(x, 2) for x in each[64].mean(0).tolist()],
        "recall": {f"{d} of {T}": round(recall(model, T, d), 3) for T in lengths for d in ASKED[T]},
        "learned": [[round(x, 2) for x in head] for head in row.flatten(1).tolist()],
        "refilled": {name: refilled(model, value) for name, value in (("as 48 back", None), ("out of sight", -20.0))} if arm == "T5" else {},
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("arms", nargs="*", default=[arm for arm in ARMS if arm != "FoPE"])            # that one: fope.py
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--keep", default=tempfile.mkdtemp())
    asked = parser.parse_args()
    rows = {arm: [] for arm in asked.arms}
    for seed in range(asked.seeds):
        for arm in asked.arms:
            path = Path(asked.keep) / f"{arm} {seed}.json"
            if not path.exists():
                path.write_text(json.dumps(measured(arm, seed)))
            rows[arm].append(json.loads(path.read_text()))
            now = rows[arm][-1]
            print(f"{arm}, seed {seed}: loss {now['sliding']}, recall {now['recall']}", flush=True)
    record("extrapolation", {"lengths": LENGTHS, "trained on": TRAINED, "steps": STEPS, "rows": rows}, list(range(asked.seeds)))


if __name__ == "__main__":
    main()
