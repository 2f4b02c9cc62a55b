"""FlashAttention and PagedAttention: the same softmax attention, read a block of keys at a time, from a cache that is kept in pages.

    m' = max(m, max_j s_j),   α = e^(m−m'),   ℓ' = α ℓ + Σ_j e^(s_j−m'),   o' = α o + Σ_j e^(s_j−m') v_j        (1)
    lse = log(e^lse₁ + e^lse₂),   o = e^(lse₁−lse) o₁ + e^(lse₂−lse) o₂                                         (2)

(1) goes on by the keys j of one block, s_j = q·k_j/√K; at the end o/ℓ is the read and lse = m + log ℓ. (2) joins two reads made apart.

Paper   Dao et al. 2022, arXiv:2205.14135; (1) before it, Milakov and Gimelshein 2018, arXiv:1805.02867; pages, Kwon et al. 2023, arXiv:2309.06180.
Differs nothing here is about the fast memory of a chip: what a CPU can show is that the T × T matrix is not needed, and what pages save.
        The backward pass of FlashAttention, which keeps o and lse and computes the scores again, is that of ``forms.attend``; (2) is ``forms.merge``.
Shapes  q, k: (..., T, K)   v: (..., T, V)   S: {"k": (..., m, K), "v": (..., m, V)}   in Pages k: (count, ..., size, K), v: (count, ..., size, V)
"""
from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import reduce

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .. import core, forms
from .window import Memory, appended, checked, init  # noqa: F401  (init: the empty cache is the same)


def step(S: Memory, q: Tensor, k: Tensor, v: Tensor, chunk: int = 16) -> tuple[Memory, Tensor]:
    """One token: the definition. ``chunk`` keys at a time; their number changes nothing."""
    S = {"k": torch.cat([S["k"], k[..., None, :]], -2), "v": torch.cat([S["v"], v[..., None, :]], -2)}
    q = q[..., None, :] / q.shape[-1] ** 0.5
    m, l, o = q.new_tensor(-torch.inf), 0, 0
    for keys, values in zip(*(x.split(chunk, -2) for x in S.values())):
        s, last = q @ keys.mT, m
        m = torch.maximum(last, s.amax(-1, keepdim=True))                                           # (1)
        p, a = (s - m).exp(), (last - m).exp()
        l, o = a * l + p.sum(-1, keepdim=True), a * o + p @ values                                  # (1)
    return S, (o / l)[..., 0, :]


def recurrent(q: Tensor, k: Tensor, v: Tensor, state: Memory | None = None, chunk: int = 16) -> tuple[Tensor, Memory]:
    """Token by token, O(T²·K). Returns o (..., T, V) and the cache. Raises ValueError for what does not fit, mixed types, NaN, chunk < 1."""
    return core.run(step, _checked(q, k, v, state, chunk), q, k, v, chunk=chunk)


def parallel(q: Tensor, k: Tensor, v: Tensor, state: Memory | None = None, chunk: int = 128) -> tuple[Tensor, Memory]:
    """``chunk`` queries at a time, by ``forms.attend``: O(T²·K) time, memory O(T·(K + chunk)). Returns o and the cache, raises as ``recurrent``."""
    S = appended(_checked(q, k, v, state, chunk), k, v)
    return forms.attend(q, S["k"], S["v"], block=chunk)[0], S


def _checked(q: Tensor, k: Tensor, v: Tensor, state: Memory | None, chunk: int) -> Memory:
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}, wanted >= 1")
    return checked(q, k, v, state)


# ------------------------------------------------------------------ pages

class Pages:
    """A pool of ``count`` pages of ``size`` tokens. A sequence is a list of pages; several may use one, until one of them writes on it.

        pages = Pages(64, K, V);  pages.start("a");  pages.write("a", k, v);  pages.read("a", q);  pages.start("b", like="a");  pages.free("a")

    k: (..., K)   v: (..., V)   q: (..., T, K), which sees all tokens of the sequence   ->   o: (..., T, V); the leading axes are ``lead``.
    Raises ValueError for a name that is taken or unknown (freed twice, too), when no page is free, and for shapes that do not fit.
    """

    def __init__(self, count: int, K: int, V: int, lead: tuple[int, ...] = (), size: int = 16, **like):
        if count < 1 or size < 1:
            raise ValueError(f"saw count={count} and size={size}, wanted at least one page of at least one token")
        self.k, self.v = torch.zeros(count, *lead, size, K, **like), torch.zeros(count, *lead, size, V, **like)
        self.size, self.empty, self.users = size, list(range(count)), [0] * count
        self.tables, self.lengths = {}, {}                                # by name: the pages in order, the number of tokens

    def start(self, name: Hashable, like: Hashable | None = None) -> None:
        """A new sequence: empty, or with all that ``like`` holds, on the same pages."""
        if name in self.tables:
            raise ValueError(f"{name!r} has {self.lengths[name]} tokens already, wanted a new name")
        self.tables[name] = [] if like is None else [*self._table(like)]
        self.lengths[name] = 0 if like is None else self.lengths[like]
        for page in self.tables[name]:
            self.users[page] += 1

    def grow(self, name: Hashable) -> tuple[int, int]:
        """The page and the place on it for one token more. A full last page is followed by a new one; a shared last page is copied first."""
        table, at = self._table(name), self.lengths[name] % self.size
        if not at:
            table.append(self._take(name))
        elif self.users[old := table[-1]] > 1:
            table[-1] = new = self._take(name)
            self.users[old] -= 1
            self.k[new], self.v[new] = self.k[old], self.v[old]
        self.lengths[name] += 1
        return table[-1], at

    def write(self, name: Hashable, k: Tensor, v: Tensor) -> None:
        """One token."""
        core.expect("pages:K k:K v:V", self.k[0, ..., 0, :], k, v, V=self.v.shape[-1])
        page, at = self.grow(name)
        self.k[page, ..., at, :], self.v[page, ..., at, :] = k, v

    def read(self, name: Hashable, q: Tensor) -> Tensor:
        """Softmax attention to the whole sequence, a page at a time: no page is moved."""
        core.expect("pages:MK q:TK", self.k[0], q)
        table, n = self._table(name), self.lengths[name]
        if not n:
            raise ValueError(f"{name!r} holds no token, wanted at least one to read")
        kept = ((x[page][..., :n - i * self.size, :] for x in (self.k, self.v)) for i, page in enumerate(table))
        return reduce(forms.merge, (forms.softmax_read(q, k, v) for k, v in kept))[0]               # (2)

    def gather(self, name: Hashable) -> tuple[Tensor, Tensor]:
        """k (..., m, K) and v (..., m, V) of a sequence in one piece, as a cache without pages would hold them."""
        at, n = torch.tensor(self._table(name), dtype=torch.long), self.lengths[name]
        return tuple(x[at].movedim(0, -3).flatten(-3, -2)[..., :n, :] for x in (self.k, self.v))

    def free(self, name: Hashable) -> None:
        """Forget a sequence; pages that nobody else uses are empty again."""
        for page in self._table(name):
            self.users[page] -= 1
            if not self.users[page]:
                self.empty.append(page)
        del self.tables[name], self.lengths[name]

    def nbytes(self) -> int:
        """Bytes of the pages in use, each counted once."""
        return sum(core.nbytes([self.k[0], self.v[0]]) for n in self.users if n)

    def _table(self, name: Hashable) -> list[int]:
        if name not in self.tables:
            raise ValueError(f"no sequence {name!r}, wanted one of {[*self.tables]}")
        return self.tables[name]

    def _take(self, name: Hashable) -> int:
        if not self.empty:
            raise ValueError(f"no page is free for {name!r}: all {len(self.users)} of {self.size} tokens are in use")
        page = self.empty.pop()
        self.users[page] = 1
        return page


def requests(seed: int, count: int = 200, limit: int = 2048) -> list[tuple[int, int]]:
    """(tokens of the prompt, of the answer) of ``count`` requests, log-normal: half of the prompts have more than 128, half of the answers more
    than 256, one in six of either more than 2.7 times that; together at most ``limit``."""
    z = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    prompt, answer = (z.exp() * torch.tensor([128, 256])).ceil().long().T
    prompt = prompt.clamp(max=limit - 1)
    return [*zip(prompt.tolist(), torch.minimum(answer, limit - prompt).tolist())]


def serve(asked: list[tuple[int, int]], size: int, memory: int = 32768) -> dict[str, float]:
    """Answer requests from a memory of so many tokens, taken in pages of ``size``; pages as long as the longest request are what reserving for it means.

    Every step gives each running request one token. The next in line starts as soon as its prompt fits; where no page is left for a token, the
    youngest gives its pages back and is first in line again. Returns "waste": the share of the places on pages taken that held no token, over all steps;
    "running": requests at work in a step, the mean; "steps" until all are answered. Raises ValueError if one request is longer than memory.
    """
    pages, waiting, running = Pages(memory // size, 0, 0, size=size), [*enumerate(asked)][::-1], {}
    if (longest := max(map(sum, asked))) > len(pages.users) * size:
        raise ValueError(f"the longest request has {longest} tokens, wanted at most {len(pages.users)} pages of {size}")
    taken = used = at_work = steps = 0
    while waiting or running:
        while waiting and waiting[-1][1][0] <= len(pages.empty) * size:
            i, (prompt, answer) = waiting.pop()
            pages.start(i)
            running[i] = prompt + answer
            for _ in range(prompt):
                pages.grow(i)
        for i in [*running]:
            while i in running and not pages.empty and pages.lengths[i] % size == 0:
                pages.free(last := [*running][-1]), running.pop(last)
                waiting.append((last, asked[last]))
            if i in running:
                pages.grow(i)
        taken, used = taken + size * sum(map(bool, pages.users)), used + sum(pages.lengths.values())
        at_work, steps = at_work + len(running), steps + 1
        for i in [i for i in running if running[i] == pages.lengths[i]]:
            pages.free(i), running.pop(i)
    return {"waste": 1 - used / taken, "running": at_work / steps, "steps": steps}


class _Watch(TorchDispatchMode):
    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.largest = max([self.largest, *map(core.nbytes, core.tensors(out))])
        return out


def held(fn: Callable[..., Tensor], *xs: Tensor) -> dict[str, int]:
    """Bytes of the largest tensor that any operation of ``fn`` and its backward pass makes, and of all that is kept between the two."""
    xs, kept = [x.detach().requires_grad_() for x in xs], {}

    def keep(x: Tensor) -> Tensor:
        kept[x.data_ptr()] = core.nbytes(x)
        return x
    with _Watch() as seen, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        torch.autograd.grad(fn(*xs).sum(), xs)
    return {"largest": seen.largest, "kept": sum(kept.values())}
