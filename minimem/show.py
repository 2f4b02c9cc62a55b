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


def four_memories():
    """Bits recalled per kept byte: against bytes (A), against the work of writing (B), and what else each memory can do (C). Returns the figure.

    Drawn from the stored sweep, ``benchmarks/results/four_memories_*.json``. A line is the mean of the draws, its band their range.
    """
    from statistics import mean

    from .catalog import result
    plt = style()

    def rows(*parts):
        return [r for p in parts for r in result(f"four_memories_{p}")["data"]["rows"]]
    swept = [r for r in rows("tables", "sentences", "caches", "states", "solved", "nets_1_kib", "nets_4_kib", "nets_16_kib") if r["reached"]]
    fig = plt.figure(figsize=(9.6, 11.2), dpi=110)
    top, bottom = fig.subfigures(2, 1, height_ratios=(1.28, 1))
    _per_byte(top, swept, mean)
    left, right = bottom.subfigures(1, 2, width_ratios=(1, 1.12))
    _more_writing(left, rows("writing") + swept, mean)
    _behaviour(right, {r["name"]: r for r in rows("questions")}, {r["name"]: r for r in rows("stream")}, mean)
    return fig


WIDTH = {32: (0, (1, 1.4)), 16: (0, (4, 1.3, 1, 1.3)), 8: (0, (6, 2)), 4: "-", 0: "-"}          # line style by bits of a number


def _per_byte(box, rows, mean):
    """Panel A. Labels stand at the end of their line, pushed apart where they would meet."""
    from math import log10
    ax = box.add_axes((.095, .10, .60, .775))
    families = [("XOR static function", "table without keys (XOR)", (0,)), ("cuckoo, 12-bit fingerprint", "table with fingerprints (cuckoo)", (0,)),
                ("log, exact key", "log of whole records", (0,)), ("sentences, BM25", "sentences in plain text", (0,)),
                ("MLP", "small network", (4, 8, 16, 32)), ("least squares", "solved matrix", (4, 8, 16, 32)), ("KV cache, tuned width", "KV cache, best width", (4, 8, 16, 32)),
                ("KV cache 64+64 float16", "KV cache as in a model", (16,)), ("additive", "fixed state", (8, 16, 32))]
    ends, hollow = [], {"sentences, BM25": "sentences with their index", "least squares": "solved matrix, 32 bit,\nready for more writing"}
    for name, label, widths in families:
        for bits in widths:
            line = sorted((r for r in rows if r["name"] == name and r["bits"] == bits), key=lambda r: r["budget"])
            x, y = [r["kept"] for r in line], [mean(r["per_byte"]) for r in line]
            colour = KIND_COLOUR[line[0]["kind"]]
            ax.plot(x, y, color=colour, ls=WIDTH[bits], lw=2.4 if bits == widths[0] else 1.7, zorder=3)
            ax.fill_between(x, [min(r["per_byte"]) for r in line], [max(r["per_byte"]) for r in line], color=colour, alpha=.16, lw=0)
            ends.append((x[-1], y[-1], f"{label}, {bits} bit" if bits else label, colour, bits == widths[0]))
            if name in hollow and bits == widths[-1]:            # the same memory with all that it needs beside the answer
                r = next(r for r in line if r["budget"] == 4096)
                far = r["kept"] + r["aux"] + r["index"]
                y0, y1 = mean(r["per_byte"]), mean(r["per_byte"]) * r["kept"] / far
                ax.plot([r["kept"], far], [y0, y1], color=colour, lw=.7)
                ax.plot(far, y1, marker="o", ms=7, mfc="white", mec=colour, zorder=4)
                ax.text(far * 1.25, y1 * .97, hollow[name], size=8.3, color=colour, va="center" if bits else "top")
    ax.set(xscale="log", yscale="log", xlim=(230, 1.15e6), ylim=(.012, 12), xticks=[2**8, 2**10, 2**12, 2**14, 2**16, 2**20], yticks=[.03, .1, .3, 1, 3, 8])
    ax.set_xticklabels(["256 B", "1 KiB", "4 KiB", "16 KiB", "64 KiB", "1 MiB"])
    ax.set_yticklabels(["0.03", "0.1", "0.3", "1", "3", "8"])
    ax.minorticks_off()
    ax.axhline(8, color="k", lw=1.2)
    ax.text(250, 8.5, "8: the values alone fill the memory; nothing can be higher", size=8.8, va="bottom")
    for y in (.5, 1, 2):
        ax.axhline(y, color=KIND_COLOUR["params"], lw=.8, ls=":", zorder=1)
    ends.sort(key=lambda e: -e[1])
    at = [log10(e[1]) for e in ends]
    for _ in range(600):                                         # push labels apart
        for i in range(len(at) - 1):
            if (over := .09 - (at[i] - at[i + 1])) > 0:
                at[i], at[i + 1] = at[i] + over / 2, at[i + 1] - over / 2
    for (x, y, label, colour, first), a in zip(ends, at):
        ax.annotate(label, (x, y), (1.35e6, 10**a), size=9.3 if first else 8.5, weight="bold" if first else "normal", color=colour, va="center",
                    annotation_clip=False, arrowprops={"arrowstyle": "-", "color": colour, "lw": .5, "alpha": .5, "shrinkA": 1, "shrinkB": 2, "relpos": (0, .5)})
    ax.set_xlabel("bytes kept between writing and reading")
    ax.set_ylabel("bits recalled per byte kept,\nat 90 % right answers or more")
    box.text(.03, .975, "A", size=15, weight="bold", va="top")
    box.text(.07, .972, "What comes back for each byte kept", size=12.5, weight="bold", va="top")
    box.text(.07, .932, "grey: text and tables.  blue: caches.  orange: states.  green: parameters; their thin dotted rules: 2 bits a weight of 32, 16 and 8 bits.\n"
                        "Lines: numbers of 32 bits dotted, 16 dash-dot, 8 dashed, 4 solid.  Hollow: counted with what the memory needs beside its answers.",
             size=8.4, va="top", color="#333333", linespacing=1.35)


def _more_writing(box, rows, mean):
    """Panel B."""
    ax = box.add_axes((.17, .13, .80, .72))
    seen = {(r["name"], r["bits"]): (max(r["write"], 1), mean(r["per_byte"]), r["kind"]) for r in rows if r["budget"] == 4096}
    same = [*((f"delta, {p} passes", 32) for p in (1, 2, 4, 16, 64)), ("logistic read-out", 32)]
    ax.plot([seen[k][0] for k in same], [seen[k][1] for k in same], color="#cccccc", lw=5, zorder=1, solid_capstyle="round")
    names = {("XOR static function", 0): ("XOR", 6, -3), ("cuckoo, 12-bit fingerprint", 0): ("cuckoo", 6, -3), ("log, exact key", 0): ("log", 6, -3),
             ("sentences, BM25", 0): ("sentences", 6, -3), ("KV cache 64+64 float16", 16): ("KV as in a model", 6, -3),
             ("KV cache, tuned width", 4): ("KV, 4 bit", 6, -3), ("additive", 32): ("additive", -40, 4), ("delta, 1 passes", 32): ("delta, 1 pass", 6, -8),
             ("delta, 4 passes", 32): ("4 passes", 7, -9), ("delta, 64 passes", 32): ("64 passes", -22, 7), ("least squares", 32): ("solved", -36, 1),
             ("least squares", 8): ("solved, 8 bit", -30, 7), ("logistic read-out", 32): ("trained", 2, -14), ("MLP", 32): ("network", -22, 8),
             ("MLP", 8): ("network, 8 bit", -60, 8)}
    shape = {"text": "s", "cache": "D", "state": "o", "params": "^"}
    for k in [*names, ("delta, 2 passes", 32), ("delta, 16 passes", 32)]:
        x, y, kind = seen[k]
        ax.scatter(x, y, s=44, marker=shape[kind], color=KIND_COLOUR[kind], zorder=3, lw=0)
        if k in names:
            ax.annotate(names[k][0], (x, y), names[k][1:], textcoords="offset points", size=8.3, color=KIND_COLOUR[kind])
    ax.text(2e5, .088, "the same 4 KiB matrix,\nwritten more often", size=8.3, color="#777777", style="italic")
    ax.set(xscale="log", yscale="log", xlim=(.6, 3e8), ylim=(.02, 12), xticks=[1, 1e2, 1e4, 1e6, 1e8], yticks=[.03, .1, .3, 1, 3, 8])
    ax.set_yticklabels(["0.03", "0.1", "0.3", "1", "3", "8"])
    ax.minorticks_off()
    ax.set_xlabel("operations to write one fact")
    ax.set_ylabel("bits recalled per byte, at 4 KiB")
    box.text(.03, .975, "B", size=15, weight="bold", va="top")
    box.text(.10, .97, "Recall is bought with writing,", size=12.5, weight="bold", va="top")
    box.text(.10, .925, "for vectors; for tables it is not", size=12.5, weight="bold", va="top")


def _behaviour(box, asked, streamed, mean):
    """Panel C: share of the bits, or of the right behaviour, in a square; white is none."""
    from matplotlib.patches import Rectangle
    ax = box.add_axes((.345, .115, .645, .66))
    rows = [("log, exact key", "log, exact key", "log, the oldest go first"), ("log, nearest key", "log, nearest key", "log, the oldest go first"),
            ("cuckoo, 12-bit fingerprint", "cuckoo table", "cuckoo, a random one goes"), ("XOR static function", "XOR table", None),
            ("KV int8, content only", "KV cache", "KV 16+8 4 bit, window 256"), ("KV int8, and recency", "KV cache + recency", "KV 16+8 4 bit, window 256"),
            ("additive", "state, additive", "additive"), ("delta", "state, delta rule", "delta"), ("least squares, full, ROME", "solved matrix, edited", "least squares, updated"),
            ("MLP, change only", "small network", "MLP, batches of 32, 10 steps")]
    columns = ["fresh", "similar keys", "2 wrong bits", "never written", "rewritten", "untouched", "deleted", "old"]
    for i, (name, label, stream) in enumerate(rows):
        r = {k: mean(v) for k, v in asked[name].items() if isinstance(v, list)}
        old = None if stream is None else mean(streamed[stream]["ages"]["512-2048"]) / 8
        cells = [r["fresh"] / 8, r["correlated"] / 8, r["flip 2"] / 8, 1 - r["false answers"], r["newest"] / 8, r["untouched"] / 8, 1 - r["leak"] / 8, old]
        ax.text(-.7, i, label, ha="right", va="center", size=9, color=KIND_COLOUR[asked[name]["kind"]])
        for j, c in enumerate(cells):
            shade = str(.97 - .85 * c) if c is not None else "white"
            ax.add_patch(Rectangle((j - .46, i - .46), .92, .92, facecolor=shade, edgecolor="#999999", lw=.5, hatch="" if c is not None else "////"))
            if c is not None and c < .985:
                ax.text(j, i, f"{100 * c:.0f}", ha="center", va="center", size=8, color="white" if c > .55 else "black")
    for j, c in enumerate(columns):
        ax.text(j - .1, -.72, c, rotation=42, ha="left", va="bottom", size=9)
    ax.set(xlim=(-.5, len(columns) - .5), ylim=(len(rows) - .5, -.5))
    ax.axis("off")
    box.text(.03, .975, "C", size=15, weight="bold", va="top")
    box.text(.09, .97, "What else a memory can do", size=12.5, weight="bold", va="top")
    box.text(.09, .925, "percent; black is 100", size=9, va="top", color="#333333")
    box.text(.0, .095, "128 facts in 16 KiB. never written: unknown keys turned away. rewritten: the newest\n"
                        "value. deleted: bits gone for good. old: 512 to 2,048 facts back in a stream through\n"
                        "4 KiB. hatched: a table that must be built anew for every fact.", size=7.8, va="top", color="#333333", linespacing=1.3)


def speed(data: dict):
    """The stored times of the states: how many times as long the others take, and how time grows with length."""
    plt = style()
    rows = [(f"{r['case'].replace('_', ' ')}, T = {r['T']:,}", who, x) for r in data["rows"] if r["work"] == "forward + backward"
            for who, x in r["times ours"].items() if not who.startswith("minimem")]
    fig, (above, below) = plt.subplots(2, 1, figsize=(7.6, 0.22 * len(rows) + 4.6), height_ratios=[0.22 * len(rows), 4])
    above.barh(range(len(rows)), [x for *_, x in rows], color=KIND_COLOUR["state"], height=0.6)
    for y, (_, _, x) in enumerate(rows):
        above.annotate(f"{x:.1f}" if x < 10 else f"{x:.0f}", (x * 1.05, y), va="center", size=7.5)
    above.axvline(1, color="black", lw=1)
    above.set(xscale="log", xlabel="time of the other, in ours (forward + backward)", xlim=(0.8, 900))
    above.set_yticks(range(len(rows)), [f"{case}: {who}" for case, who, _ in rows], size=7.5)
    above.invert_yaxis()
    above.grid(axis="y", visible=False)
    grown = [r for r in data["time and peak memory against T"] if r["work"] == "forward + backward"]
    for r, line in zip(grown, ("-", "--", ":", "-.") * len(grown)):
        below.plot(r["T"], r["ms"], line, color="#7a3b00" if r["case"] == "log_linear" else "#1f5fa8", marker=".", lw=1)
    last = sorted(grown, key=lambda r: r["ms"][-1])
    for i, r in enumerate(last):
        below.annotate(f"{r['case'].replace('_', ' ')}  {r['slope']:.2f}", (r["T"][-1], r["ms"][-1]), (1.04, 0.25 + 0.65 * i / max(1, len(last) - 1)),
                       textcoords="axes fraction", size=7.5, va="center", arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "#999999", "relpos": (0, 0.5)})
    below.set(xscale="log", yscale="log", xlabel="tokens", ylabel="ms, forward + backward", title="with the slope of log time against log tokens")
    below.title.set_size(9)
    fig.tight_layout()
    return fig
