"""Eight linear systems learn to say again what they heard 256 tokens ago, from five starts of A.

Fixed before the run, from calibration on seeds 100 to 102: 200 steps of AdamW, .01 with a one-cycle rate, batches of 16 sequences of 512 tokens;
D = 8 channels of N = 64, a linear map before and after, no GELU, no gate. Noise up to 1/16 turns a token.
"normal" draws each A of each channel as −e^x + iy with x and y normal; "uniform" keeps the real part −1/2 and draws y from 0 to 32π, the range of S4D-Lin.
What counts, on tokens 256 to 511, in parts of the variance: S4, S4D-LegS and S4D-Lin below .1 and "normal" above .5 on every seed.

    python benchmarks/trained/delay.py [--seeds 3]
"""
import argparse
import math
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from record import record

from minimem.state import s4
from minimem.tasks.delay import delay

D, N, STEPS, LAG, BAND = 8, 64, 200, 256, 1 / 16


def normal(D, N, seed=0):
    re, im = torch.randn(2, D, N // 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return s4.start(torch.complex(-re.exp(), im), D, seed)


def uniform(D, N, seed=0):
    im = math.pi * N / 2 * torch.rand(D, N // 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return s4.start(torch.complex(torch.full_like(im, -0.5), im), D, seed)


ARMS = {"S4": s4.params, "S4D-LegS": s4.s4d_legs, "S4D-Lin": s4.s4d_lin, "uniform": uniform, "normal": normal}


class Net(nn.Module):
    def __init__(self, begin, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.inp, self.out = nn.Linear(1, D, bias=False), nn.Linear(D, 1, bias=False)
        self.ssm = nn.ParameterDict(begin(D, N, seed=seed))

    def forward(self, x):
        return self.out(s4.parallel(self.inp(x), params=self.ssm)[0])


def trained(begin, seed):
    """Squared error over the variance, after training."""
    net = Net(begin, seed)
    adam = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, 1e-2, total_steps=STEPS, pct_start=0.1, cycle_momentum=False)

    def loss(batch, seed):
        x, target = delay(lag=LAG, band=BAND, batch=batch, seed=seed)
        return (net(x) - target)[:, LAG:].square().mean() / target[:, LAG:].square().mean()
    for i in range(STEPS):
        error = loss(16, 10 ** 5 * (seed + 1) + i)
        adam.zero_grad()
        error.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        rate.step()
    with torch.no_grad():
        return loss(64, 10 ** 5 * (seed + 1) - 1).item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    seeds = list(range(parser.parse_args().seeds))
    torch.set_num_threads(1)
    rows = {}
    for arm, begin in ARMS.items():
        rows[arm] = [round(trained(begin, seed), 4) for seed in seeds]
        print(f"{arm}: {rows[arm]}", flush=True)
    record("delay", {"error": rows, "steps": STEPS, "lag": LAG, "band": BAND, "channels": D, "N": N}, seeds)


if __name__ == "__main__":
    main()
