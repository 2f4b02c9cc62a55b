"""Say again what was heard ``lag`` tokens ago: a noise without high frequencies goes in, and the same noise, late, should come out."""
from __future__ import annotations

import torch
from torch import Tensor


def delay(T: int = 512, lag: int = 256, band: float = 1 / 16, batch: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """x and target, both (batch, T, 1): target_t = x_{t−lag}, 0 before. x is noise of variance 1 with all frequencies up to ``band``.

    ``band`` is in turns a token, at most ½ (white noise): to know x for ``lag`` tokens back takes about 2 · band · lag numbers.
    Raises ValueError for a lag outside 1 … T − 1, or a band that is not in (1/T, ½].
    """
    if not 0 < lag < T or not 1 / T < band <= 0.5:
        raise ValueError(f"lag is {lag}, band is {band:.3g}, wanted lag in 1 ... {T - 1} and band in (1/{T}, 1/2]")
    r = torch.Generator().manual_seed(seed)
    kept = round(4 * T * band)
    spectrum = torch.fft.rfft(torch.randn(batch, 4 * T, generator=r))               # four times too long: its end and start would meet
    spectrum[:, kept + 1:] = 0
    x = torch.fft.irfft(spectrum, 4 * T)[:, :T, None] / ((2 * kept + 1) / (4 * T)) ** 0.5
    return x, torch.cat([torch.zeros(batch, lag, 1), x[:, : T - lag]], 1)
