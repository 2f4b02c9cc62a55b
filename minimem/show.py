"""The figures. One colour per kind of memory everywhere; dark to light survives printing in grey."""
from __future__ import annotations

KIND_COLOUR = {"text": "#595959", "cache": "#1f5fa8", "state": "#e07b00", "params": "#1b8a5a"}


def style():
    """matplotlib.pyplot, set up once: size, resolution, fonts, spines. Call it at the head of a figure."""
    import matplotlib.pyplot as plt
    plt.rcParams.update({
        "figure.figsize": (6.4, 3.6), "figure.dpi": 90, "savefig.dpi": 90, "font.size": 10, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False, "svg.hashsalt": "minimem",
    })
    return plt
