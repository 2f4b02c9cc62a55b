"""LoRA learns less and forgets less: accuracy on a new and on the old task after the same number of steps, by rank.

Fixed before the run: network 64-64-64-10, 600 steps on digits, 300 steps on digits with shuffled pixels, batches of 64, Adam.
The learning rate of each arm is the best of one grid by new-task accuracy, mean of two calibration seeds that are not reported.
"""
import numpy as np
import torch
from record import record
from scipy.stats import spearmanr

from minimem.params import lora
from minimem.tasks import digits

RANKS = (1, 2, 4, 8, 16, "full")
GRID = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
CALIBRATION, SEEDS = (100, 101), tuple(range(10))


def accuracy(state, task):
    return (lora.read(state, task.x_test).argmax(-1) == task.y_test).double().mean().item()


def pretrained(seed):
    old, new = digits.permuted(2, seed)
    state = lora.full(lora.dense(64, 64, 64, 10, seed=seed))
    for batch in digits.batches(old, 600, seed=seed):
        state = lora.write(state, batch)
    return state["trained"], old, new


def adapted(net, new, rank, lr, seed):
    state = lora.full(net) if rank == "full" else lora.init(net, rank, seed=seed)
    for batch in digits.batches(new, 300, seed=seed + 1):
        state = lora.write(state, batch, lr)
    return state


def scores(starts, seeds, rank, lr):
    """New-task and old-task accuracy of every seed: (2, seeds)."""
    pairs = []
    for s in seeds:
        net, old, new = starts[s]
        state = adapted(net, new, rank, lr, s)
        pairs.append((accuracy(state, new), accuracy(state, old)))
    return np.array(pairs).T


def main():
    torch.set_num_threads(1)
    starts = {seed: pretrained(seed) for seed in CALIBRATION + SEEDS}
    grid = {str(r): [scores(starts, CALIBRATION, r, lr).mean(1) for lr in GRID] for r in RANKS}
    rate = {r: GRID[int(np.argmax([new for new, _ in row]))] for r, row in grid.items()}
    new, old = (np.stack(t, -1) for t in zip(*(scores(starts, SEEDS, r, rate[str(r)]) for r in RANKS)))
    rho = {name: [spearmanr(range(len(RANKS)), row).statistic for row in table] for name, table in (("new", new), ("old", old))}
    before = [accuracy(lora.full(net), task) for net, task, _ in (starts[s] for s in SEEDS)]
    record("lora", {
        "ranks": RANKS, "grid": GRID, "calibration": {r: np.round(row, 3) for r, row in grid.items()}, "rate": rate,
        "old_before": round(float(np.mean(before)), 3), "new": new.round(3), "old": old.round(3),
        "spearman_new": np.round(rho["new"], 2), "spearman_old": np.round(rho["old"], 2),
        "bytes": {str(r): lora.cost(adapted(*starts[0][::2], r, 1e-3, 0), next(digits.batches(starts[0][2], 1))) for r in RANKS},
    }, seeds=list(SEEDS), packages=("torch", "numpy", "scikit-learn", "scipy"))


if __name__ == "__main__":
    main()
