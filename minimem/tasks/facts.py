r"""Facts to remember and questions about them. A fact is a key of 64 bits and one of 256 values (8 bits).

    key    1011 0100 … 0110   (64 random bits)      value  173
    random      every bit of every key is drawn anew
    correlated  8 keys share their first 56 bits:   1011 0100 … 0110 | 01110010
                                                    1011 0100 … 0110 | 10001101
    rule        the low 4 bits of the value follow from the key (4 fixed linear thresholds); the high 4 are random
    flip        the same question, asked with f wrong bits
    sentences   "The home of Bano Relka is tavi."     asked "What is the home of Bano Relka?"
                paraphrased "What is the residence of Bano Relka?", misspelt "What is the home of Bnao Relka?"

Shapes  keys: (N,) int64, 64 bits each   values: (N,) int64 in 0 … 255.   ``draws`` stacks several seeds: (D, N).
Memories of vectors read the bits through one fixed encoder, which is no part of any memory:

    φ(x) = √(2/d) cos(xW + b) / ‖·‖,   x ∈ {−1, 1}⁶⁴,  W ~ N(0, 1/3.65²),  b ~ U(0, 2π)              (1)

so that φ(x)·φ(y) ≈ exp(−0.15 · Hamming distance): .01 for two random keys, .74 after 2 wrong bits, .41 after 6 (Rahimi and Recht 2007).
"""
from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

BITS, V = 64, 256
Facts = tuple[Tensor, Tensor]


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(N: int, seed: int) -> Facts:
    """N facts whose key and value bits are all random."""
    r = _rng(seed)
    return torch.randint(-2**63, 2**63 - 1, (N,), generator=r), torch.randint(V, (N,), generator=r)


def correlated(N: int, seed: int, group: int = 8) -> Facts:
    """Groups of 8 keys that share 56 of their 64 bits."""
    keys, values = random(N, seed)
    r = _rng(seed + 10**6)
    shared = keys[torch.arange(N) // group * group] & ~255
    last = torch.rand(-(-N // group), 256, generator=r).argsort(-1)[:, :group].flatten()[:N]
    return shared | last, values


def rule(N: int, seed: int) -> Facts:
    """Values whose low 4 bits follow a fixed rule of the key; the high 4 are exceptions to be learnt by heart."""
    keys, values = random(N, seed)
    low = (signs(keys) @ torch.randn(BITS, 4, generator=_rng(77)) > 0).long() @ torch.tensor([1, 2, 4, 8])
    return keys, values // 16 * 16 + low


def draws(make: Callable[[int, int], Facts], N: int, seeds: tuple[int, ...]) -> Facts:
    """One independent set of facts a seed, stacked: keys and values (D, N)."""
    keys, values = zip(*(make(N, s) for s in seeds))
    return torch.stack(keys), torch.stack(values)


def flip(keys: Tensor, f: int, seed: int) -> Tensor:
    """The same keys with f different bits wrong in each."""
    where = torch.rand(*keys.shape, BITS, generator=_rng(seed)).argsort(-1)[..., :f]
    return keys ^ (torch.ones_like(where) << where).sum(-1)


def signs(keys: Tensor) -> Tensor:
    """The 64 bits as −1 and 1: (..., 64)."""
    return (keys[..., None] >> torch.arange(BITS) & 1).float() * 2 - 1


# ------------------------------------------------------------------ the reader, the same for every memory of vectors

@lru_cache(maxsize=64)
def projection(d: int) -> Facts:
    """W (64, d) and b (d,) of (1): made from a fixed seed, so nothing about the facts is in them."""
    r = _rng(64 + d)
    return torch.randn(BITS, d, generator=r) / 3.65, torch.rand(d, generator=r) * 2 * math.pi


def encode(keys: Tensor, d: int) -> Tensor:
    """φ of (1): (..., d), unit length."""
    W, b = projection(d)
    return torch.nn.functional.normalize(torch.cos(signs(keys) @ W + b), dim=-1)    # (1)


@lru_cache(maxsize=16)
def codebook(d: int) -> Tensor:
    """A ±1 codeword for each value, (256, d): its 8 bits when d = 8, random signs otherwise."""
    if d == 8:
        return (torch.arange(V)[:, None] >> torch.arange(8) & 1).float() * 2 - 1
    return torch.randint(2, (V, d), generator=_rng(256 + d)).float() * 2 - 1


# ------------------------------------------------------------------ the same kind of facts in words

ATTRIBUTES = {"home": "residence", "job": "occupation", "pet": "animal", "car": "vehicle", "meal": "dish", "sport": "pastime",
              "friend": "companion", "town": "village"}
WORDS = [a + b for a in ("ba", "cu", "da", "fe", "gi", "ho", "ka", "lu", "me", "ni", "po", "ra", "su", "ta", "vi", "zo")
         for b in ("ble", "den", "fin", "gar", "hol", "jin", "kor", "lin", "mos", "nex", "pal", "rud", "sten", "tov", "wim", "yar")]


def _names(r: torch.Generator, parts: int, n: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < n:
        at = torch.randint(70, (2 * parts,), generator=r).tolist()
        found["".join(("bdfgklmnprstvz", "aeiou")[i % 2][x % (14, 5)[i % 2]] for i, x in enumerate(at)).capitalize()] = None
    return list(found)


def sentences(N: int, seed: int) -> tuple[list[str], list[tuple[str, str]], Tensor]:
    """N sentences, what each is about (attribute, person) and its value. 8 attributes a person, N/8 persons, 64 first and 64 last names.

    Raises ValueError for more than 32,768 facts: there are no more persons.
    """
    if not 1 <= N <= 64 * 64 * 8:
        raise ValueError(f"N must be between 1 and {64 * 64 * 8}, saw {N}")
    r = _rng(seed)
    first, last = _names(r, 2, 64), _names(r, 3, 64)
    people = [f"{first[i // 64]} {last[i % 64]}" for i in torch.randperm(64 * 64, generator=r)[: -(-N // 8)].tolist()]
    about = [(a, p) for p in people for a in ATTRIBUTES][:N]
    values = torch.randint(V, (N,), generator=r)
    return [f"The {a} of {p} is {WORDS[v]}." for (a, p), v in zip(about, values.tolist())], about, values


def ask(about: list[tuple[str, str]]) -> list[str]:
    """The plain question for each fact."""
    return [f"What is the {a} of {p}?" for a, p in about]


def paraphrase(about: list[tuple[str, str]]) -> list[str]:
    """The same question with another word for the attribute, one that no sentence holds."""
    return ask([(ATTRIBUTES[a], p) for a, p in about])


def misspell(about: list[tuple[str, str]], seed: int) -> list[str]:
    """The same question with two neighbouring letters of the person's name swapped (inside one of its two words)."""
    r, out = _rng(seed), []
    for a, p in about:
        names = p.split()
        which = int(torch.randint(2, (1,), generator=r))
        name, i = names[which], int(torch.randint(len(names[which]) - 1, (1,), generator=r))
        names[which] = name[:i] + name[i + 1] + name[i] + name[i + 2:]
        out.append((a, " ".join(names)))
    return ask(out)
