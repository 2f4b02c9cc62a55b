"""Streams of frames, and what can be asked about them: rows of digits that come one after another, and a sound whose pitch glides.

    rows of one digit, in time →          a glide and a held tone: strength by pitch (up) and time (→)
    |   :#*  |  t = 8                     |      ####|
    |  .##:  |  t = 9                     |    ##    |
    |  *#.   |  t = 10                    |  ##      |
    |  #*    |  …                         |##        |

``rows``: one handwritten digit is seen over and over, its pixels a little different each time; now and then another digit passes, once.
Was this digit ever seen? ``glides``: a tone is held for long, then glides quickly to another. What was heard at time t?

Source  scikit-learn's ``load_digits`` (8 × 8 pixels from 0 to 1); the sound is made here, 8,000 samples a second, a frame the spectrum of 64 of them.
Differs no real video and no real sound: what is said of a rule here need not hold there.
Shapes  frames: (T, 8) or (T, 33), float32
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """``frames`` (T, 8); ``starts`` of the digits that passed once, each eight frames long; ``never``: digits that did not pass (n, 8, 8)."""
    frames: np.ndarray
    starts: np.ndarray
    never: np.ndarray


class Glides(NamedTuple):
    """``frames`` (T, 33), the strength of each pitch; ``pitch`` in Hz (T,)."""
    frames: np.ndarray
    pitch: np.ndarray


def rows(digits: int = 250, rare: int = 12, seed: int = 0, noise: float = 0.03) -> Rows:
    """``digits`` digits row by row, ``rare`` of them different from the rest; as many that never pass. Raises ValueError unless 0 < rare < digits."""
    from sklearn.datasets import load_digits
    if not 0 < rare < digits:
        raise ValueError(f"rare must be above 0 and below digits={digits}, saw {rare!r}")
    r, data = np.random.default_rng(seed), load_digits()
    x, y = data.images.astype(np.float32) / 16, data.target
    common = r.integers(len(x))
    other = r.permutation(np.flatnonzero(y != y[common]))[:2 * rare]
    at = np.sort(r.choice(digits, rare, replace=False))
    seen = np.repeat(x[common][None], digits, 0)
    seen[at] = x[other[:rare]]
    seen += noise * r.standard_normal(seen.shape, dtype=np.float32)
    return Rows(seen.reshape(-1, 8), 8 * at, x[other[rare:]])


def glides(frames: int = 2000, seed: int = 0, held: tuple[int, int] = (40, 160), glide: tuple[int, int] = (10, 20)) -> Glides:
    """Tones held and glides between them, each of so many frames (fewest, most). Raises ValueError if frames < 1."""
    if frames < 1:
        raise ValueError(f"frames must be >= 1, saw {frames!r}")
    r, pitch, now = np.random.default_rng(seed), [], 1000.0
    while len(pitch) < frames:
        pitch += [now] * int(r.integers(*held, endpoint=True))
        then = r.uniform(300, 3700)
        pitch += list(np.linspace(now, then, int(r.integers(*glide, endpoint=True)), endpoint=False))
        now = then
    hertz = np.array(pitch[:frames])
    sound = np.sin(2 * np.pi * np.cumsum(np.repeat(hertz, 64)) / 8000)
    return Glides(np.abs(np.fft.rfft(sound.reshape(-1, 64) * np.hanning(64), axis=1)).astype(np.float32) / 16, hertz)
