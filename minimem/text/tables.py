r"""Engineers' tables: what a programmer would use to remember facts. The controls that every learnt memory is measured against.

A fact is a key of 64 bits and a value of 8. The three differ in how much of the key they keep:

    Log      the whole key beside the value; 9 bytes a fact; finds a damaged key by distance            72 bits a fact
    Cuckoo   a fingerprint of f bits beside the value, in one of two buckets of 4 slots                  (f + 8)/.96 bits a fact
    Xor      nothing of the key: value(x) = s[h₁(x)] ⊕ s[h₂(x)] ⊕ s[h₃(x)]          (1)      8 · 1.23 bits a fact

so a log knows what it was never told, a cuckoo table nearly (false answers 8/2ᶠ), a Xor table not at all: it answers every key.

Paper   cuckoo tables with fingerprints: Fan et al. 2014, doi 10.1145/2674005.2674994; three slots that are XORed, found by peeling: Graf and
        Lemire 2020, arXiv:1912.08258, for filters; 1.23 slots a fact.
Differs no resizing, no compression of the keys, hash functions by multiply and shift. The index of a log is not kept: it scans.
Shapes  keys: (n,) int64   values: (n,) int64 in 0 … 255.   read -> value (n,), answered (n,) bool.
"""
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def mix(keys: Ints, seed: int) -> NDArray[np.uint64]:
    """64 well-mixed bits of each key: a hash function, one for each seed."""
    with np.errstate(over="ignore"):
        x = np.asarray(keys).astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))


def expect_facts(keys: Ints, values: Ints) -> None:
    """Raises ValueError unless there is one value for each key, from 0 to 255."""
    if np.shape(keys) != np.shape(values):
        raise ValueError(f"values have shape {np.shape(values)}, wanted that of the keys, {np.shape(keys)}")
    if np.size(values) and not 0 <= np.min(values) <= np.max(values) <= 255:
        raise ValueError(f"values from {np.min(values)} to {np.max(values)}, wanted 0 to 255: one byte each")


class Log:
    """Records of 9 bytes, in the order of writing; at most ``capacity`` (1 or more), the oldest go first."""

    def __init__(self, capacity: int, within: int = 0):
        if capacity < 1:
            raise ValueError(f"capacity must be >= 1, saw {capacity}")
        self.records = np.zeros(0, dtype=[("key", "<i8"), ("value", "u1")])         # packed: 9 bytes each
        self.capacity, self.within = capacity, within

    def write(self, keys: Ints, values: Ints) -> None:
        expect_facts(keys, values)
        new = np.zeros(len(keys), self.records.dtype)
        new["key"], new["value"] = keys, values
        self.records = np.concatenate([self.records, new])[-self.capacity:]

    def forget(self, keys: Ints) -> None:
        self.records = self.records[~np.isin(self.records["key"], keys)]

    def read(self, keys: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """The newest record whose key differs from the question in the fewest bits, if these are at most ``within``."""
        newest = self.records[::-1]
        if not self.within or not len(newest):
            known, first = np.unique(newest["key"], return_index=True)
            at = np.searchsorted(known, keys).clip(max=max(len(known) - 1, 0))
            found = known[at] == keys if len(known) else np.zeros(len(keys), bool)
            return np.where(found, newest["value"][first[at]] if len(known) else 0, 0), found
        bits = [np.unpackbits(np.ascontiguousarray(k).view(np.uint8).reshape(-1, 8), axis=1).astype(np.float32) * 2 - 1
                for k in (keys, newest["key"])]
        distance = 32 - bits[0] @ bits[1].T / 2
        at = distance.argmin(1)
        return newest["value"][at].astype(np.int64), distance[np.arange(len(keys)), at] <= self.within


class Xor:
    """A static function: one byte a slot, built once from all its facts; a change means building it again."""

    def __init__(self, keys: Ints, values: Ints, slots: int):
        expect_facts(keys, values)
        if len(np.unique(keys)) < len(keys):
            raise ValueError(f"{len(keys) - len(np.unique(keys))} of {len(keys)} keys are repeated, wanted each key once")
        for self.seed in range(100):                            # one byte of seed is kept
            if self._build(np.asarray(keys), np.asarray(values), slots):
                return
        raise ValueError(f"{len(keys)} facts do not fit {slots} slots (100 seeds tried): wanted at least 1.23 slots a fact and a few more")

    def _at(self, keys: Ints, slots: int) -> Ints:
        third = slots // 3
        return np.stack([(mix(keys, 3 * self.seed + i) % np.uint64(third)).astype(np.int64) + i * third for i in range(3)], 1)

    def _build(self, keys: Ints, values: Ints, slots: int) -> bool:
        at, left, peeled = self._at(keys, slots), np.arange(len(keys)), []
        while len(left):                                        # peel: a slot that one key alone uses can be set last
            alone = np.bincount(at[left].ravel(), minlength=slots)[at[left]] == 1
            mine = alone.any(1)
            if not mine.any():
                return False
            peeled.append((left[mine], at[left[mine], alone[mine].argmax(1)]))
            left = left[~mine]
        self.slots = np.zeros(slots, np.uint8)
        for who, slot in reversed(peeled):
            self.slots[slot] = values[who] ^ np.bitwise_xor.reduce(self.slots[at[who]], 1)   # (1), its own slot still 0
        return True

    def read(self, keys: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        value = np.bitwise_xor.reduce(self.slots[self._at(keys, len(self.slots))], 1)          # (1)
        return value.astype(np.int64), np.ones(len(keys), bool)


class Cuckoo:
    """Buckets of 4 slots, each a fingerprint (0: empty) and a value, packed to f + 8 bits (f ≤ 22). A key lives in one of two."""

    def __init__(self, nbytes: int, f: int = 12, kicks: int = 500, seed: int = 0):
        if not 1 <= f <= 22 or nbytes * 8 < (f + 8) * 4:
            raise ValueError(f"saw {nbytes} bytes and f = {f}, wanted room for one bucket of 4 slots of f + 8 bits, and f from 1 to 22")
        self.f, self.kicks, self.m = f, kicks, nbytes * 8 // ((f + 8) * 4)
        self.rng = np.random.default_rng(seed)
        self.slots = np.zeros((self.m, 4), np.int32)            # fingerprint * 256 + value; packed whenever bytes are counted

    def _where(self, keys: Ints) -> tuple[Ints, Ints, Ints]:
        print_ = 1 + (mix(keys, 1) % np.uint64(2**self.f - 1)).astype(np.int64)
        first = (mix(keys, 2) % np.uint64(self.m)).astype(np.int64)
        return print_, first, self._other(first, print_)

    def _other(self, bucket: Ints, print_: Ints) -> Ints:
        return ((mix(print_, 3) % np.uint64(self.m)).astype(np.int64) - bucket) % self.m          # its own inverse

    def write(self, keys: Ints, values: Ints) -> int:
        """Returns how many facts were pushed out: a full table drops the last one that it kicked."""
        expect_facts(keys, values)
        lost, other = 0, self._other(np.zeros(2**self.f, np.int64), np.arange(2**self.f)).tolist()
        for p, a, b, v in zip(*(x.tolist() for x in (*self._where(keys), np.asarray(values)))):
            slots = [(c, j) for c in (a, b) for j in range(4)]
            at = next((s for s in slots if self.slots[s] >> 8 == p), None) or next((s for s in slots if not self.slots[s]), None)
            if at:                                              # the key is here already, or there is a gap
                self.slots[at] = p << 8 | v
                continue
            item, c = p << 8 | v, a if self.rng.random() < 0.5 else b
            for _ in range(self.kicks + 1):
                gaps = np.flatnonzero(self.slots[c] == 0)
                at = c, int(gaps[0]) if len(gaps) else int(self.rng.integers(4))
                item, self.slots[at] = int(self.slots[at]), item
                if not item:
                    break
                c = (other[item >> 8] - c) % self.m              # the one that was pushed out moves to its other bucket
            else:
                lost += 1
        return lost

    def forget(self, keys: Ints) -> None:
        p, a, b = self._where(keys)
        for c in (a, b):
            hit = self.slots[c] >> 8 == p[:, None]
            self.slots[c[hit.any(1)], hit[hit.any(1)].argmax(1)] = 0

    def read(self, keys: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        p, a, b = self._where(keys)
        both = np.concatenate([self.slots[a], self.slots[b]], 1)
        hit = both >> 8 == p[:, None]
        return both[np.arange(len(keys)), hit.argmax(1)] & 255, hit.any(1)

    def packed(self) -> NDArray[np.uint8]:
        """The slots, f + 8 bits each."""
        return np.packbits(self.slots.ravel()[:, None] >> np.arange(self.f + 8) & 1)
