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


def four_kinds():
    """The four kinds of memory: what is kept, what a write and a read do, and how the bytes grow. Returns the figure.

    The bytes are those of a model of the shape of SmolLM2-135M in 16 bit, measured from tensors of that shape; text is taken as 4 bytes a token.
    """
    import torch

    from . import core
    plt = style()
    half = torch.bfloat16
    row = core.nbytes(torch.zeros(30, 3, 2, 64, dtype=half))                          # 30 layers, 3 KV heads, key and value
    fixed = {"state": core.nbytes(torch.zeros(30, 9, 64, 64, dtype=half)), "params": 134_515_008 * half.itemsize}
    grows = {"text": 4, "cache": row}
    tokens = [1e2, 1e6]
    curve = {kind: [t * grows[kind] if kind in grows else fixed[kind] for t in tokens] for kind in KIND_COLOUR}
    words = {"text": ("Text", "the words, outside the model", "append a note", "search, put the hits\nin the prompt"),
             "cache": ("Cache", "a key and a value per token", "append a row", "compare the query\nwith every row"),
             "state": ("State", "matrices of fixed size", "blend the new pair in", "multiply the query\nby the matrix"),
             "params": ("Parameters", "the weights of the network", "a step of training", "a forward pass")}
    fig = plt.figure(figsize=(6.6, 6.2), dpi=140)
    for box, (kind, (name, kept, write, read)) in zip(fig.subfigures(2, 2, hspace=0, wspace=0).flat, words.items()):
        colour = KIND_COLOUR[kind]
        ink = {"family": "sans-serif", "va": "top"}
        box.text(.05, .97, name, size=14, weight="bold", color=colour, **ink)
        box.text(.05, .855, kept, size=9.5, **ink)
        for y, label, line in ((.29, "write", write), (.19, "read", read)):
            box.text(.05, y, label, size=9.5, weight="bold", color=colour, **ink)
            box.text(.22, y, line, size=9.5, linespacing=1.25, **ink)
        _icon(box.add_axes((.04, .36, .34, .38)), kind, colour)
        ax = box.add_axes((.56, .44, .39, .29))
        for other, y in curve.items():
            ax.loglog(tokens, y, color=colour if other == kind else "#c8c8c8", lw=3 if other == kind else 1.2, zorder=2 + (other == kind))
        ax.set(xlim=tokens, ylim=(1e2, 1e11), xticks=[1e2, 1e4, 1e6], yticks=[1e3, 1e6, 1e9], yticklabels=["kB", "MB", "GB"])
        ax.minorticks_off()
        ax.tick_params(labelsize=8)
        ax.set_title("bytes kept", size=8.5, loc="left")
        ax.set_xlabel("tokens read", size=8.5, labelpad=1)
    return fig


def human_memory():
    """Human memory as psychology divides it, and what a language model has in each place. Returns the figure."""
    plt = style()
    fig, ax = plt.subplots(figsize=(6.6, 4.9), dpi=140)
    fig.subplots_adjust(0, 0, 1, 1)
    ax.set(xlim=(0, 66), ylim=(0, 49))
    ax.axis("off")
    for x, y, w, h, colour, name, people, model in (
            (2, 36, 17, 11.5, KIND_COLOUR["text"], "Sensory memory", "what the senses hold,\nfor a second or so", "the input; in the survey\nalso text outside"),
            (24.5, 36, 17, 11.5, KIND_COLOUR["cache"], "Working memory", "what one is thinking of,\nfor seconds", "the prompt, the cache,\nthe state"),
            (47, 36, 17, 11.5, KIND_COLOUR["params"], "Long-term memory", "what one knows,\nfor years", "the weights;\na store of text"),
            (24.5, 19.5, 17, 10, KIND_COLOUR["params"], "Declarative", "what one can tell", "facts in weights and text"),
            (47, 19.5, 17, 10, KIND_COLOUR["params"], "Non-declarative", "what one can do:\nskills, habits, priming", "skills in the weights"),
            (13, 3, 17, 9.5, KIND_COLOUR["params"], "Episodic", "what happened to me", "dialogues, dated notes"),
            (36, 3, 17, 9.5, KIND_COLOUR["params"], "Semantic", "what is so", "facts in weights, a wiki")):
        ax.add_patch(_box(ax, x, y, w, h, colour, "white"))
        ax.text(x + .8, y + h - 1.6, name, size=10, weight="bold", color=colour, va="center")
        ax.text(x + .8, y + h - 3.3, people, size=8.6, va="top", linespacing=1.2)
        ax.text(x + .8, y + .7, model, size=8.6, va="bottom", style="italic", color="#444444", linespacing=1.2)
    for start, end, both in (((19, 41.7), (24.5, 41.7), False), ((41.5, 41.7), (47, 41.7), True), ((53, 36), (36, 29.5), False), ((55.5, 36), (55.5, 29.5), False),
                             ((31, 19.5), (22, 12.5), False), ((35, 19.5), (44, 12.5), False)):
        ax.annotate("", end, start, arrowprops={"arrowstyle": "<->" if both else "->", "color": "#444444", "lw": 1.2})
    ax.text(2, 31.5, "upright: people", size=8.6)
    ax.text(2, 29.5, "slanted: a language model", size=8.6, style="italic", color="#444444")
    return fig


def _icon(ax, kind: str, colour: str) -> None:
    """What is stored, drawn small."""
    import numpy as np
    ax.set(xlim=(0, 10), ylim=(0, 10), aspect="equal")
    ax.axis("off")
    if kind == "text":
        for x in (2.2, 1.1, 0):
            ax.add_patch(_box(ax, x, x, 7.2, 7.6, colour, "white"))
        for i, length in enumerate((5.2, 4.1, 5.4, 3.2, 4.7)):
            ax.plot([.9, .9 + length], [6.4 - 1.3 * i] * 2, color=colour, lw=2)
    elif kind == "cache":
        for i in range(5):
            for x, w, name in ((0, 3.6, "k"), (4, 5.6, "v")):
                ax.add_patch(_box(ax, x, 8.2 - 1.9 * i, w, 1.5, colour, colour if i < 4 else "white", ls="-" if i < 4 else ":"))
                ax.text(x + w / 2, 8.95 - 1.9 * i, f"${name}_{i + 1}$", color="white" if i < 4 else colour, size=9, ha="center", va="center")
    elif kind == "state":
        shade = .15 + .85 * np.abs(np.outer(np.sin(np.arange(1, 7) * 1.9), np.cos(np.arange(1, 7) * 1.3)))
        for (i, j), a in np.ndenumerate(shade):
            ax.add_patch(_box(ax, 1.5 * j, 1.5 * i, 1.4, 1.4, "none", colour, alpha=a))
    else:
        layers = [np.linspace(.8, 8.6, n) for n in (3, 4, 3)]
        for x, (a, b) in zip((.8, 4.7), zip(layers, layers[1:])):
            for i, p in enumerate(a):
                for j, q in enumerate(b):
                    ax.plot([x, x + 3.9], [p, q], color=colour, lw=.6 + 1.6 * ((i * 3 + j * 2) % 4 == 0), zorder=1)
        for x, ys in zip((.8, 4.7, 8.6), layers):
            ax.scatter([x] * len(ys), ys, s=55, color="white", edgecolor=colour, lw=1.6, zorder=2)


def _box(ax, x: float, y: float, w: float, h: float, edge: str, face: str, **more):
    from matplotlib.patches import Rectangle
    return Rectangle((x, y), w, h, edgecolor=edge, facecolor=face, lw=1.4, **more)
