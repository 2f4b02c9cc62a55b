"""Transformer-XL beyond its segment: bits for each character of real text, and copying over one and a half segments.

Text: segments of 64 characters, 16 texts side by side, each going on where it stopped; two layers, D = 64, four heads. One model is trained without a
memory and one with a memory of 64; the latter then reads the rest of the text with a memory of 0, 64 and 192. Copying: segments of 32, 8 symbols, each
asked 48 tokens after it was shown; two layers, D = 32; no memory, one of 32, which no place of the first half of a segment can reach back 48 with, and one of 64.
Fixed before the run, from calibration on seed 101 (text: .004 and .008 at 400 steps; at 400 the memory did not help yet, at 1000 it did):
1000 steps at .008 for text, 400 at .004 for copying.
What counts, on every seed: with a memory of 64 at least .02 bits fewer than the model that was trained without; with 192 no more bits than with 64,
but for .005; copying above .9 with a memory of 64, and within .03 of chance, 1/8, with none.

    python benchmarks/trained/transformer_xl.py [--seeds 3]
"""
import argparse
import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from record import record

from minimem.cache import transformer_xl as xl
from minimem.lm import Carried, fit, small, surprise
from minimem.tasks import documentation

ROWS, MEMORIES = 16, (0, 16, 64, 192)
TEXT = {"n": 64, "D": 64, "layers": 2, "steps": 1000, "lr": 8e-3}
COPY = {"n": 32, "lag": 48, "symbols": 8, "steps": 400, "lr": 4e-3, "memories": (0, 32, 64)}


def built(vocab, D, layers, memory, n, seed):
    torch.manual_seed(seed)
    return small(vocab, D, [xl.Layer(D, 4, memory, n) for _ in range(layers)], mlp=2 * D)


def side_by_side(text, n, start):
    """step → the next n tokens of each of ROWS pieces of a text, and what follows them; each piece begins anew where it ends."""
    rows = text.roll(-start)[:len(text) // ROWS * ROWS].view(ROWS, -1)

    def batch(step):
        at = (step * n + torch.arange(n + 1)) % rows.shape[1]
        return rows[:, at[:-1]], rows[:, at[1:]]
    return batch


def reader(memory, seed, say=None):
    model = built(documentation.VOCAB, TEXT["D"], TEXT["layers"], memory, TEXT["n"], seed)
    fit(Carried(model), side_by_side(documentation.characters()[0], TEXT["n"], 20_000 * seed), TEXT["steps"], TEXT["lr"], say=say)
    return model


def bits(model, memory):
    """Bits for each character of a text that was not learned from, by place in the segment, (n,); its ROWS pieces are read from nothing."""
    for block in model.blocks:
        block.mixer.memory = memory
    text = documentation.characters()[1]
    pieces = text[:len(text) // ROWS * ROWS].view(ROWS, -1)
    pieces = pieces[:, :(pieces.shape[1] - 1) // TEXT["n"] * TEXT["n"] + 1]
    return surprise(model, pieces).unflatten(1, (-1, TEXT["n"])).mean((0, 1)) / math.log(2)


def stream(seed, lag, symbols):
    """step → the next n of an endless row of symbols, and the symbol ``lag`` before each, with which it must be answered."""
    r, told = torch.Generator().manual_seed(seed), torch.full((ROWS, lag), -100)

    def batch(step, n=COPY["n"]):
        nonlocal told
        tokens = torch.randint(symbols, (ROWS, n), generator=r)
        told = torch.cat([told, tokens], 1)
        answers, told = told[:, :n], told[:, n:]
        return tokens, answers
    return batch


def copier(memory, seed, say=None):
    """Share of right answers by place in the segment, (n,), after training."""
    model = Carried(built(COPY["symbols"], 32, 2, memory, COPY["n"], seed))
    batch = stream(seed, COPY["lag"], COPY["symbols"])
    fit(model, batch, COPY["steps"], COPY["lr"], say=say)
    with torch.no_grad():
        return torch.stack([(model(x)[0].argmax(-1) == y).float().mean(0) for x, y in (batch(0) for _ in range(40))]).mean(0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    seeds = list(range(parser.parse_args().seeds))
    torch.set_num_threads(1)

    def told(name):
        return lambda step, loss: print(f"{name}, step {step + 1}: loss {loss:.3f}", flush=True) if (step + 1) % 200 == 0 else None

    data = {"copy": {}, "bits": {}, "by place": {}, "settings": {"text": TEXT, "copy": COPY}}
    for memory in COPY["memories"]:
        data["copy"][memory] = [[round(x, 2) for x in copier(memory, seed, told(f"copy, memory {memory}, seed {seed}")).tolist()] for seed in seeds]
        print({memory: [sum(x) / len(x) for x in data["copy"][memory]]}, flush=True)
    for trained in (0, 64):
        read = MEMORIES if trained else (0,)
        found = []
        for seed in seeds:
            model = reader(trained, seed, told(f"text, memory {trained}, seed {seed}"))
            found.append({m: bits(model, m) for m in read})
            print({m: round(x.mean().item(), 3) for m, x in found[-1].items()}, flush=True)
        for m in read:
            name = f"trained with {trained}, read with {m}"
            data["bits"][name] = [round(x[m].mean().item(), 3) for x in found]
            data["by place"][name] = [[round(y, 2) for y in x[m].unflatten(0, (-1, 4)).mean(-1).tolist()] for x in found]
    record("transformer_xl", data, seeds)


if __name__ == "__main__":
    main()
