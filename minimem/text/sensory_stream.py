r"""A sensory buffer: frames come in without end, C of them are kept, and a rule says which frame goes.

    kept after x_t:  the C frames of highest worth w;  of equals the older goes

    newest      w_s = s                                                    (1)
    thinned     w_s = max { j : 2ʲ divides s },   w_0 = ∞                  (2)
    reservoir   w_s = u_s,   drawn once, even between 0 and 1              (3)
    surprising  w_s = |x_s − x_{s−1}|²,   w_0 = ∞                          (4)
    novel       w_s = min { |x_s − x_r|² : r < s kept },   ∞ for the first (5)

(2) leaves gaps of powers of two, (3) every set of C frames with the same chance. (5) is the only worth that changes later: when the frame that
made another one old news is dropped. It drops the later one of the two kept frames that are nearest to each other.

Paper   Sperling 1960 (what is seen stays whole for part of a second); Vitter 1985, doi 10.1145/3147.3165 (the reservoir).
Differs the drawn numbers of (3) make the same sample as Vitter's Algorithm R, with nothing to remember but the seed. The frame before is held for every
        rule, though only (4) asks for it. Prediction in (4) is the frame before; a better one is an exercise of the lab.
Shapes  a frame: (D,)   frames: (kept, D)   times, worth: (kept,)
Units   time is the number of the frame, from 0; sizes in bytes.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Worth = Callable[["Buffer", np.ndarray], Any]                  # the buffer, and the frame that comes → worth of each kept frame and of this one


def newest(buffer: Buffer, x: np.ndarray) -> list[float]:
    """The last C frames."""
    return [*buffer.worth, buffer.t]                                                                  # (1)


def thinned(buffer: Buffer, x: np.ndarray) -> list[float]:
    """Frames at even gaps over all that was; the gap doubles when it must."""
    t = buffer.t
    return [*buffer.worth, (t & -t).bit_length() - 1 if t else math.inf]                              # (2)


def reservoir(buffer: Buffer, x: np.ndarray) -> list[float]:
    """Any C frames, each with the same chance."""
    return [*buffer.worth, np.random.default_rng((buffer.seed, buffer.t)).random()]                   # (3)


def surprising(buffer: Buffer, x: np.ndarray) -> list[float]:
    """Frames that were least like the frame before."""
    return [*buffer.worth, math.inf if buffer.last is None else _apart(x, buffer.last)]               # (4)


def novel(buffer: Buffer, x: np.ndarray) -> np.ndarray:
    """Frames that are far from all older ones that are kept."""
    every = np.vstack([buffer.frames, x]) if len(buffer.frames) else x[None]
    d = _apart(every[:, None], every[None])
    return np.where(np.tri(len(every), k=-1, dtype=bool), d, math.inf).min(1)                         # (5)


def _apart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x − y|², in floats: whole numbers of eight bits would wrap around."""
    return (np.subtract(x, y, dtype=np.result_type(x, y, np.float32)) ** 2).sum(-1)


class Buffer:
    """A memory of at most ``capacity`` frames; ``rule``: what a frame is worth, one of the five above. Raises ValueError if capacity < 1."""

    def __init__(self, capacity: int, rule: Worth, seed: int = 0) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be >= 1 frame, saw {capacity!r}")
        self.capacity, self.rule, self.seed, self.t = capacity, rule, seed, 0
        self.last: np.ndarray | None = None
        self.frames, self.times, self.worth = np.zeros((0, 0)), np.zeros(0, np.int64), np.zeros(0)

    def write(self, frame: np.ndarray) -> None:
        """See the next frame; it, or another, may go. Raises ValueError if it is no finite vector as wide as the others."""
        x = np.array(frame)
        if x.ndim != 1 or not np.issubdtype(x.dtype, np.number) or not np.isfinite(x).all() or (self.last is not None and x.shape != self.last.shape):
            wanted = "one axis" if self.last is None else f"shape {self.last.shape}"
            raise ValueError(f"frame must be finite numbers of {wanted}, saw {x.dtype} of shape {x.shape}")
        worth = np.asarray(self.rule(self, x), float)
        kept = np.delete(np.arange(len(worth)), np.argmin(worth)) if len(worth) > self.capacity else np.arange(len(worth))
        self.frames = np.vstack([self.frames, x])[kept] if len(self.frames) else x[None][kept]
        self.times, self.worth = np.append(self.times, self.t)[kept], worth[kept]
        self.last, self.t = x, self.t + 1

    def read(self, query: float | np.ndarray) -> tuple[int, np.ndarray]:
        """The kept frame nearest to a time (a number) or most like another frame (a vector), with its time; of equals the older.

        Raises ValueError if nothing is kept, or the vector has another shape than the frames.
        """
        q = np.asarray(query, float)
        if not len(self.times):
            raise ValueError("the buffer is empty: nothing was written, or all was forgotten")
        if q.ndim and q.shape != self.frames.shape[1:]:
            raise ValueError(f"query must be a time or a frame of shape {self.frames.shape[1:]}, saw shape {q.shape}")
        i = int(np.argmin(((self.frames - q) ** 2).sum(1) if q.ndim else np.abs(self.times - q)))
        return int(self.times[i]), self.frames[i]

    def forget(self, before: float) -> int:
        """Drop the frames seen before this time; returns how many. Raises ValueError if it is not a number."""
        if not -math.inf <= before <= math.inf:
            raise ValueError(f"before must be a number, saw {before!r}")
        stay = self.times >= before
        self.frames, self.times, self.worth = self.frames[stay], self.times[stay], self.worth[stay]
        return int((~stay).sum())

    def sizes(self) -> dict[str, int]:
        """Bytes by part: the frames; when each was seen and what it is worth; the frame before."""
        return {"frames": self.frames.nbytes, "times and worth": self.times.nbytes + self.worth.nbytes, "last frame": self.last.nbytes if self.last is not None else 0}

    def nbytes(self) -> int:
        """All bytes held."""
        return sum(self.sizes().values())
