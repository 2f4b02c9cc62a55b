"""Run in a process of its own by test_fast: fla's kernels in Triton's interpreter against float64. Prints errors as JSON."""
import json

import torch
import triton_on_cpu
from torch.nn import functional as F

from minimem.fast import fla
from minimem.state import delta, gated_delta

torch.set_num_threads(1)
triton_on_cpu.install()


def make(letters, dtype, T=70, lead=(2,), K=16, V=16):
    r = torch.Generator().manual_seed(0)
    width, shape = {"q": K, "k": K, "v": V, "a": 1, "b": 1}, {"q": lambda x: F.normalize(x, dim=-1), "a": F.logsigmoid, "b": torch.sigmoid}
    shape["k"] = shape["q"]
    xs = [shape.get(c, lambda x: x)(torch.randn(*lead, T, width[c], generator=r)) for c in letters]
    return [x.to(dtype).requires_grad_() for x in (*xs, torch.randn(*lead, K, V, generator=r))]


def run(form, xs):
    """Output, state and the gradients of both."""
    out, state = form(*xs[:-1], state=xs[-1])
    return [x.double() for x in (out, state, *torch.autograd.grad(out.float().sin().sum() + state.float().square().sum(), xs))]


told = {}
for name, letters, kernel, ours in (("gated_delta", "qkvab", fla.gated_delta, gated_delta), ("delta", "qkvb", fla.delta, delta)):
    for dtype in (torch.float32, torch.float16):
        xs = make(letters, dtype)
        exact = run(ours.recurrent, [x.detach().double().requires_grad_() for x in xs])
        error = [[((x - e).abs().max() / e.abs().max()).item() for x, e in zip(run(f, xs), exact)] for f in (kernel, ours.recurrent)]
        told[f"{name} {dtype}"] = {"kernel": error[0], "eager": error[1], "eps": torch.finfo(dtype).eps}
    try:
        kernel(*(x.double() for x in xs))
    except ValueError as e:
        told[f"{name} float64"] = str(e)
print(json.dumps(told))
