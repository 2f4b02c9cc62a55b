"""State tracking, trained: one layer of each kind on parity and on three cups, at most 24 tokens long, asked at up to 192.

python benchmarks/trained/parity.py [--seeds 5]          about 6 minutes of one core; the seeds are 0, 1, …
"""
import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from record import record  # noqa: E402

from minimem.cache import full  # noqa: E402
from minimem.lm import accuracy, fit, small  # noqa: E402
from minimem.state import delta, gated_delta, gla, mamba2, mlstm, slstm  # noqa: E402
from minimem.tasks.parity import lessons, parity, shuffle  # noqa: E402

torch.set_num_threads(1)
D, BATCH, RATE, LENGTHS = 32, 64, 1e-2, (24, 48, 96, 192)
LAYERS = {                                                       # two heads with keys of 16, no convolution
    "delta, b in (0, 1)": lambda: delta.Layer(D, 2, conv=0), "delta, b in (0, 2)": lambda: delta.Layer(D, 2, conv=0, negative=True),
    "gated delta, b in (0, 2)": lambda: gated_delta.Layer(D, 2, 16, 16, conv=0, negative=True), "Mamba-2": lambda: mamba2.Layer(D, 2, 16, 16, conv=1),
    "GLA": lambda: gla.Layer(D, 2, 16, 16), "mLSTM": lambda: mlstm.Layer(D, 4, conv=1), "sLSTM": lambda: slstm.Layer(D, 2, conv=0),
    "attention": lambda: full.Layer(D, 2)}
FIVE = {"delta, b in (0, 1)", "delta, b in (0, 2)", "sLSTM"}      # seeds; the others three
TASKS = {"parity": (parity, 2, 500, list(LAYERS)),
         "cups, swaps": (shuffle, 6, 700, ["delta, b in (0, 1)", "delta, b in (0, 2)", "mLSTM", "sLSTM"]),
         "cups, all moves": (partial(shuffle, moves=6), 6, 700, ["delta, b in (0, 2)", "sLSTM"])}


def trained(task: str, layer: str, seed: int) -> dict:
    """Accuracy on the last quarter at each length, and by place in sequences of 192; 512 sequences each."""
    ask, vocab, steps, _ = TASKS[task]
    torch.manual_seed(seed)
    model, started = small(vocab, D, [LAYERS[layer]()], mlp=2 * D), time.process_time()
    losses = fit(model, lessons(ask, seed, BATCH), steps, RATE)
    spent = time.process_time() - started
    tokens, answers = ask(LENGTHS[-1], 512, seed=seed)
    with torch.no_grad():
        places = (model(tokens)[0].argmax(-1) == answers).float().mean(0)
    right = [round(accuracy(model, *ask(T, 512, seed=seed, last=T // 4)), 3) for T in LENGTHS]
    print(f"{task:16} {layer:26} seed {seed}  loss {sum(losses[-20:]) / 20:.3f}  right at {LENGTHS}: {right}  {spent:.1f} s", flush=True)
    return {"right": right, "places": [round(x, 2) for x in places[:48].tolist()], "seconds": round(spent)}


if __name__ == "__main__":
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("--seeds", type=int, default=5, help="at most so many of each (where not all five are asked for: three)")
    seeds, rows = read.parse_args().seeds, []
    for task, (_, _, steps, layers) in TASKS.items():
        for layer in layers:
            runs = [trained(task, layer, s) for s in range(min(seeds, 5 if layer in FIVE and task == "parity" else 3))]
            right = list(zip(*(r["right"] for r in runs)))
            rows.append({"task": task, "layer": layer, "steps": steps, "seeds": len(runs), "right": [r["right"] for r in runs],
                         "best": [max(x) for x in right], "median": [round(median(x), 3) for x in right],
                         "places": [max(x) for x in zip(*(r["places"] for r in runs))], "seconds": sum(r["seconds"] for r in runs)})
    record("parity", {"lengths": LENGTHS, "trained on": [3, 24], "width": D, "batch": BATCH, "rate": RATE, "rows": rows}, list(range(seeds)))
