"""Run fla's Triton kernels on a machine without a GPU, through Triton's interpreter: for agreement at tiny sizes, never for speed.

Set TRITON_INTERPRET=1 and import this before fla; call ``install()`` after. It reaches into triton 3.9 and fla-core 0.6: three things
need a stand-in. The autotuner has no driver to time with and takes its first configuration; ``torch.cuda.device`` has nothing to switch;
loop counters are plain ints, on which the kernels call ``.to``.
"""
import builtins
import contextlib
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch  # noqa: E402
from triton.runtime import autotuner  # noqa: E402

LAUNCH = {"num_warps", "num_stages", "num_ctas", "maxnreg", "ir_override"}


def run_first_config(self, *args, **kwargs):
    config = self.best_config = self.configs[0]
    self.nargs = dict(zip(self.arg_names, args))
    if config.pre_hook:
        config.pre_hook({**self.nargs, **kwargs, **config.all_kwargs()})
    chosen = {n: v for n, v in config.all_kwargs().items() if n not in kwargs and n not in LAUNCH}
    try:
        return self.fn.run(*args, **kwargs, **chosen)
    finally:
        self.nargs = None


class Counter(int):
    def to(self, *args, **kwargs):
        return self


def interpreted_range(*bounds):
    numbers = [int(x.handle.data.item()) if hasattr(x, "handle") else int(x) for x in bounds]
    return map(Counter, builtins.range(*numbers))


def install(prefix="fla.ops"):
    autotuner.Autotuner.run = run_first_config
    torch.cuda.device = lambda *a, **k: contextlib.nullcontext()
    for name, module in list(sys.modules.items()):
        if module is not None and name.startswith(prefix):
            vars(module).setdefault("range", interpreted_range)
