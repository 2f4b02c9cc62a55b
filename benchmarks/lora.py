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


def main():
    torch.set_num_threads(1)
    starts = {seed: pretrained(seed) for seed in CALIBRATION + SEEDS}
    grid = {str(r): [np.mean([accuracy(adapted(starts[s][0], starts[s][2], r, lr, s), starts[s][2]) for s in CALIBRATION]) for lr in GRID]
            for r in RANKS}
    rate = {r: GRID[int(np.argmax(row))] for r, row in grid.items()}
    print({r: [round(a, 3) for a in row] for r, row in grid.items()}, rate)
    new, old = np.zeros((2, len(SEEDS), len(RANKS)))
    for i, s in enumerate(SEEDS):
        net, old_task, new_task = starts[s]
        for j, r in enumerate(RANKS):
            state = adapted(net, new_task, r, rate[str(r)], s)
            new[i, j], old[i, j] = accuracy(state, new_task), accuracy(state, old_task)
        print(s, new[i].round(3), old[i].round(3), flush=True)
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
