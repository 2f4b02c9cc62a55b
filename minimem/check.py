"""The battery: what every sequence memory must obey, whoever wrote it.

    check.battery(my_step, like="gated_delta")                  # your own step
    check.battery(my_kernel, like="gated_delta", form=True)     # your own fast form: (*inputs, state=None) -> (out, state)

A *form* maps inputs (..., T, D) and a state to outputs and the next state; the *definition* is ``core.run`` of the row's ``step``.
Everything is compared in float64, where a wrong formula is never within tolerance.
"""
from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from . import core
from .catalog import System, system

EXACT = {"rtol": 1e-9, "atol": 1e-10}
Form = Callable[..., tuple[Tensor, object]]
Make = Callable[..., list[Tensor]]


def inputs(letters: str, T: int = 23, K: int = 6, V: int = 4, lead: tuple[int, ...] = (2, 3), seed: int = 0,
           dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Random inputs (*lead, T, D) by letter: q, k (unit norm), v, a (log-decay per head), g (log-decay per key), b in (0, 1);
    i, f (gates before their activation, per head; beside z and o per cell, all four as wide as v); B, C (as wide as q), x (as wide
    as v), d > 0 (steps, as wide as v), t > 0 (a step per head);
    s (log-decay per slot, 5 of them); w (weights of 12 levels: enough for 2,048 tokens)."""
    r = torch.Generator().manual_seed(seed)
    width = {**dict.fromkeys("qkgBC", K), **dict.fromkeys("vxdzo", V), **dict.fromkeys("abt", 1), **dict.fromkeys("if", V if "z" in letters else 1),
             "s": 5, "w": 12}
    shape = {"k": partial(F.normalize, dim=-1), "a": F.logsigmoid, "g": F.logsigmoid, "s": F.logsigmoid, "b": torch.sigmoid, "d": F.softplus, "t": F.softplus}
    made = [(c, torch.randn(*lead, T, width[c], generator=r, dtype=torch.float64)) for c in letters]
    return [shape.get(c, lambda x: x)(x).to(dtype) for c, x in made]


def _cut(xs: list[Tensor], lo: int, hi: int | None) -> list[Tensor]:
    return [x[..., lo:hi, :] for x in xs]


def _same(got: object, want: object, what: str, **tolerance: float) -> None:
    tolerance = tolerance or EXACT
    if not any(True for _ in core.tensors(want)):
        raise ValueError(f"{what}: nothing to compare, wanted tensors, saw {type(want).__name__}")
    for x, y in zip(core.tensors(got), core.tensors(want), strict=True):
        torch.testing.assert_close(x, y, msg=lambda m: f"{what}: {m}", **tolerance)


def agrees(form: Form, definition: Form, make: Make) -> None:
    """Output and state equal the definition's, at lengths that cross chunk edges."""
    for T in (1, 2, 7, 16, 17, 33, 65):
        xs = make(T=T)
        _same(form(*xs), definition(*xs), f"differs from the definition at T={T}")


def streaming(form: Form, definition: Form, make: Make) -> None:
    """Cut anywhere and hand the state over: nothing changes."""
    xs = make(T=40)
    whole = form(*xs)
    for at in (1, 9, 16, 22, 39):
        o1, state = form(*_cut(xs, 0, at))
        o2, last = form(*_cut(xs, at, None), state=state)
        _same((torch.cat([o1, o2], -2), last), whole, f"cut at {at} differs from the whole")


def causal(form: Form, definition: Form, make: Make) -> None:
    """Tokens after t never change output t."""
    xs, other = make(T=30), make(T=30, seed=1)
    mixed = [torch.cat([x[..., :12, :], y[..., 12:, :]], -2) for x, y in zip(xs, other)]
    _same(form(*mixed)[0][..., :12, :], form(*xs)[0][..., :12, :], "output 0..11 changed with tokens 12..29", rtol=0, atol=1e-12)


def lead_dims(form: Form, definition: Form, make: Make) -> None:
    """Leading axes are independent, and may be absent."""
    xs = make()
    out, state = form(*xs)
    out1, state1 = form(*(x[1, 2] for x in xs))
    picked = [t[1, 2] for t in core.tensors(state)]
    _same((out1, state1), (out[1, 2], picked), "one (T, D) sequence differs from the same sequence in a batch")


def pure(form: Form, definition: Form, make: Make) -> None:
    """No argument is edited, the state included."""
    xs = make()
    _, state = form(*xs)
    kept = [t.clone() for t in [*xs, *core.tensors(state)]]
    form(*xs, state=state)
    assert all(torch.equal(t, k) for t, k in zip([*xs, *core.tensors(state)], kept)), "an argument was edited in place"


def keeps_dtype(form: Form, definition: Form, make: Make) -> None:
    """float32 in, float32 out; float64 in, float64 out."""
    for dtype in (torch.float32, torch.float64):
        for t in core.tensors(form(*make(dtype=dtype))):
            assert t.dtype == dtype, f"{dtype} in, {t.dtype} out"


def gradients(form: Form, definition: Form, make: Make) -> None:
    """Gradients of outputs and last state with respect to every input equal the definition's, through a state handed over as well."""
    def grads(f: Form) -> tuple[Tensor, ...]:
        xs = [x.requires_grad_() for x in make(T=79)]
        r = torch.Generator().manual_seed(7)
        first, state = f(*_cut(xs, 0, 9))
        rest = f(*_cut(xs, 9, None), state=state)
        total = sum((t * torch.randn(t.shape, generator=r, dtype=t.dtype)).sum() for t in core.tensors((first, rest)))
        return torch.autograd.grad(total, xs)
    _same(grads(form), grads(definition), "gradient differs from the definition's", rtol=1e-8, atol=1e-9)


def chunk_invariant(form: Form, definition: Form, make: Make) -> None:
    """The chunk size is an implementation detail."""
    if "chunk" not in inspect.signature(form).parameters:
        return
    xs = make(T=37)
    want = definition(*xs)
    for chunk in (1, 3, 16, 37, 64):
        _same(form(*xs, chunk=chunk), want, f"chunk={chunk} differs from the definition")


def finite(form: Form, definition: Form, make: Make) -> None:
    """Long sequences and extreme gates stay finite, in float32, and right: within 2e-6, or where a loop in float32 is not, as right as it and within 1e-5."""
    names = list(inspect.signature(definition).parameters)
    for decay in (-1000.0, -20.0, -2.0 ** -20, 0.0, None):         # e^(−2^−20) is a float32: no error that every step repeats
        xs = make(T=1024, lead=(), dtype=torch.float32)
        if decay is not None:
            xs = [torch.full_like(x, decay) if n in ("a", "g") else x for n, x in zip(names, xs)]
        out, state = form(*xs)
        assert all(t.isfinite().all() for t in core.tensors((out, state))), f"not finite at log-decay {decay}"
        want = definition(*(x.double() for x in xs))[0]
        error, size = (out - want).abs().max(), want.abs().max()
        if error > 2e-6 * size:
            own = min((definition(*xs)[0] - want).abs().max(), 1e-5 * size)
            assert error <= own, f"float32 error {error / size:.1e} of the largest output at log-decay {decay}, wanted < 2e-6"


def growth(form: Form, definition: Form, make: Make, kind: str = "constant") -> None:
    """Bytes of the state stay, grow by the same amount for each token, or by one level for each doubling."""
    sizes = [core.nbytes(form(*make(T=T))[1]) for T in (32, 64, 128, 256)]
    steps = [b - a for a, b in zip(sizes, sizes[1:])]
    ok = {"constant": steps[0] == steps[1] == steps[2] == 0, "linear": steps[0] > 0 and steps == [steps[0] * n for n in (1, 2, 4)],
          "log": max(steps) <= sizes[0]}
    assert ok[kind], f"bytes at T = 32, 64, 128, 256 are {sizes}, not {kind}"


def bad_input(form: Form, definition: Form, make: Make) -> None:
    """Wrong width, length, dtype, NaN, positive log-decay, empty sequence: a ValueError that names the argument."""
    names = list(inspect.signature(definition).parameters)
    xs = make(T=5)

    def refused(name: str, changed: list[Tensor], what: str) -> None:
        try:
            form(*changed)
        except ValueError as e:
            assert re.match(rf"\W*{name}\b", str(e)), f"{what} of {name}: the message does not begin with its name: {e}"
        else:
            raise AssertionError(f"{what} of {name} was accepted")

    for i, name in enumerate(names[: len(xs)]):
        def put(x: Tensor, i: int = i) -> list[Tensor]:
            return [*xs[:i], x, *xs[i + 1:]]
        nan = xs[i].clone()
        nan[..., 2, 0] = torch.nan
        refused(name, put(nan), "NaN")
        if i:                                          # against the first input, which sets the sizes
            refused(name, put(xs[i][..., :3, :]), "a shorter sequence")
            refused(name, put(xs[i].float()), "another dtype")
        if name in ("a", "g"):
            refused(name, put(xs[i] + 100), "a positive log-decay")
        fixed = {1, *(x.shape[-1] for x in xs[:i] + xs[i + 1:])}           # a width of its own is free
        if i and name in ("k", "a", "b", "g", "i", "f") and xs[i].shape[-1] in fixed:
            refused(name, put(torch.cat([xs[i], xs[i]], -1)), "another width")
    refused(names[0], [x[..., :0, :] for x in xs], "an empty sequence")


CHECKS = {f.__name__: f for f in (agrees, streaming, causal, lead_dims, pure, keeps_dtype, gradients, chunk_invariant, finite, growth, bad_input)}


def sized(fn: Callable, *args: object, **like: object) -> object:
    """``fn`` (a module's ``init`` or ``params``) at the widths of ``inputs``: K = N = 6, V = P = D = 4, M = 5, whichever it asks for."""
    names = inspect.signature(fn).parameters
    return fn(*args, **{n: size for n, size in {"K": 6, "N": 6, "V": 4, "P": 4, "D": 4, "M": 5}.items() if n in names}, **like)


def learned(row: System, like: Tensor) -> dict[str, object]:
    """The learned inner parts of a memory that has some, as keyword arguments of its step and forms."""
    return {"params": sized(row.code.params, **core.like(like))} if hasattr(row.code, "params") else {}


def bound(row: System, name: str) -> Form:
    """A form of a row, with its learned inner parts, if it has some, given."""
    fn = getattr(row.code, name)

    def form(*xs: Tensor, state: object = None, **options: object) -> tuple[Tensor, object]:
        return fn(*xs, state=state, **learned(row, xs[0]), **options)
    kept = [p for n, p in inspect.signature(fn).parameters.items() if n != "params"]
    form.__signature__ = inspect.Signature(kept)
    return form


def parts(row: System) -> tuple[Form, Make]:
    """The definition of a row as a form, and the maker of its inputs. Raises ValueError for a row without forms."""
    if not (row.built and row.forms):
        raise ValueError(f"{row.key} has no forms to compare with, wanted a sequence memory that is built")
    return bound(row, "recurrent"), partial(inputs, row.inputs)


def battery(fn: Callable, like: str, form: bool = False, quiet: bool = False) -> dict[str, str]:
    """Run every check on your own ``step`` (or, with ``form=True``, fast form) against the row ``like``.

    Returns and prints check -> "ok" or what was wrong: a marking sheet, so nothing wrong with ``fn`` is raised.
    Raises ValueError if there is no row ``like`` or it is no sequence memory.
    ``fn`` as a step: ``(state, *inputs) -> (state, out)``; as a form: ``(*inputs, state=None) -> (out, state)``.
    """
    row = system(like)
    definition, make = parts(row)
    if form:
        mine = fn
    else:
        def mine(*xs: Tensor, state: object = None) -> tuple[Tensor, object]:
            state = sized(row.code.init, lead=xs[0].shape[:-2], **core.like(xs[0])) if state is None else state
            return core.run(fn, state, *xs, **learned(row, xs[0]))
    sheet = {}
    for name, test in CHECKS.items():
        if name == "bad_input" and not form:
            continue
        try:
            test(mine, definition, make, **({"kind": row.growth} if name == "growth" else {}))
            sheet[name] = "ok"
        except Exception as e:
            sheet[name] = f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
    if not quiet:
        print("\n".join(f"{name:16} {verdict}" for name, verdict in sheet.items()))
    return sheet


def same(fn: Callable, reference: Callable, *args: object, **options: object) -> None:
    """The copy in a notebook equals the package's function on these arguments; AssertionError if it drifted."""
    _same(fn(*args, **options), reference(*args, **options), f"{fn.__name__} differs from {reference.__module__}.{reference.__name__}")
