"""Copying with fixed and with scattered places: memories whose clock always runs (S4D) against one that reads its clock off the token (S6).

All have one layer, near 10,000 parameters and 4.9 KB of state, and see the same sequences. ``unit`` is Mamba's unit, with S4D or S6 in it and
with or without its short convolution; ``layer`` is S4D's own layer. Steps, rates and sizes were chosen on seeds 100 to 102, a rate for each arm.
``longer``: the trained model asked after 1, 2, 4 and 8 times the blanks.

python benchmarks/trained/selective_copying.py [--seeds N]      130 CPU seconds a seed
"""
import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minimem import core
from minimem.layer import ShortConv, State
from minimem.lm import LM, accuracy, fit, small
from minimem.state import mamba, s4
from minimem.tasks.copy import copying

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from record import record  # noqa: E402

STEPS, SLOTS = 800, 24


class Unit(nn.Module):
    """Mamba's unit with S4D in the place of the selective memory."""

    def __init__(self, D: int, N: int, conv: int):
        super().__init__()
        self.in_proj, self.conv, self.out = nn.Linear(D, 4 * D, bias=False), ShortConv(2 * D, conv, bias=True), nn.Linear(2 * D, D, bias=False)
        self.ssm = nn.ParameterDict(s4.s4d_lin(2 * D, N, seed=int(torch.randint(2 ** 31, ()))))

    def forward(self, u: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        state = state or {}
        x, z = self.in_proj(u).chunk(2, -1)
        x, window = self.conv(x, state.get("conv"))
        y, S = s4.parallel(F.silu(x), state.get("S"), params=self.ssm)
        return self.out(y * F.silu(z)), {"S": S, "conv": window}


ARMS = {                                                                     # name: (D, mixer, learning rate)
    "S4D, its layer": (56, lambda: s4.Layer(56, 22), 1.6e-2),
    "S4D, unit without convolution": (34, lambda: Unit(34, 18, 1), 8e-3),
    "S4D, unit": (34, lambda: Unit(34, 16, 4), 8e-3),
    "S6, unit without convolution": (32, lambda: mamba.Layer(32, 19, conv=1), 8e-3),
    "S6, unit (Mamba)": (32, lambda: mamba.Layer(32, 16), 8e-3),
}


def train(arm: str, scattered: bool, seed: int) -> tuple[LM, list[float]]:
    """A model, and its accuracy after 1, 2, 4 and 8 times the blanks of its training."""
    D, mixer, lr = ARMS[arm]
    torch.manual_seed(seed)
    lm, start = small(10, D, [mixer()]), time.process_time()
    fit(lm, lambda i: copying(slots=SLOTS, scattered=scattered, seed=10 ** 6 * (seed + 1) + i), STEPS, lr)
    right = [accuracy(lm, *copying(slots=m * SLOTS, scattered=scattered, batch=1000, seed=10 ** 9 + seed)) for m in (1, 2, 4, 8)]
    print(f"seed {seed}  {'scattered' if scattered else 'fixed    '}  {arm:30} {right[0]:.3f}  {time.process_time() - start:.0f} CPU s", flush=True)
    return lm, right


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    seeds = list(range(parser.parse_args().seeds))
    torch.set_num_threads(1)
    arms = {arm: {"fixed": [], "scattered": [], "longer": []} for arm in ARMS}
    for seed in seeds:
        for arm, told in arms.items():
            if "S6" not in arm:
                told["fixed"].append(round(train(arm, False, seed)[1][0], 3))
            lm, right = train(arm, True, seed)
            told["scattered"].append(round(right[0], 3))
            told["longer"].append([round(x, 3) for x in right])
            told |= {"parameters": sum(p.numel() for p in lm.parameters()), "bytes": core.nbytes(lm(copying(batch=1)[0])[1])}
    task = f"4 of 8 symbols among {SLOTS} slots, batch 64, {STEPS} steps, 1 layer"
    record("selective_copying", {"task": task, "chance": 0.125, "arms": arms}, seeds)
