# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# (secom)=
# # SeCom: cut the chat where the topic changes
#
# *"When will it be, with the violin and the chorus?"* The turn that answers says only *"20 July 2024 would suit us all."* No word of the question is in it; the violin was two turns before.
# Single turns are too small for such an answer, whole sessions too large for a budget of words. SeCom {cite:p}`pan2025secom` cuts sessions into **segments** of one topic each.
#
# The paper compares segments with turns and sessions. There is a simpler rival, which it leaves out: **windows**, five turns each, cut without looking at what is said.
#
# Predict, for a chat whose subjects change at known turns: at 120 words read, who finds most answers, (a) turns, (b) sessions, (c) windows of five, (d) segments found by a program, (e) segments cut exactly where the subject changes?

# %%
import random

import numpy as np
import torch

from minimem import check, show
from minimem.catalog import card, result
from minimem.tasks import topics
from minimem.tasks.dialogue import bootstrap, evaluate, questions, turns
from minimem.text import secom
from minimem.text.bm25 import BM25
from minimem.text.dense import LSA
from minimem.text.granularity import by_session, sessions, windows
from minimem.text.llm import Rules, quoted
from minimem.text.secom import SeCom, asked, by_likeness, window_diff

torch.set_num_threads(1)
card("secom")

# %% [markdown]
# The survey files SeCom under turns, sessions and summaries, with a mark "to be confirmed". It is none of these: its unit lies between turn and session, and the other three are what it is compared with.
#
# ## The definition
#
# The paper asks a language model for the cuts. What needs no model is older: *TextTiling*. Give every turn a vector. At each gap compare the two turns before it with the two after it: $g_i$.
# Where the topic changes, $g$ has a valley; its *depth* is how far $g$ climbs on both sides. Cut the deepest valleys first, those deeper than the mean and half a standard deviation.

# %%
def tiled(x, least=2):                                           # x: a row a turn
    g = []
    for i in range(1, len(x)):
        a, b = x[max(i - 2, 0):i].sum(0), x[i:i + 2].sum(0)
        g.append(round(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12), 9))
    d = []
    for i, low in enumerate(g):
        tops = [low, low]
        for side, walk in enumerate((g[i::-1], g[i:])):
            for value in walk:
                if value < tops[side]:
                    break
                tops[side] = value
        d.append(sum(tops) - 2 * low)
    cuts = [0, len(x)]
    for i in np.argsort(-np.array(d), kind="stable"):
        if d[i] > np.mean(d) + np.std(d) / 2 and all(abs(i + 1 - c) >= least for c in cuts):                     # (1)
            cuts.append(int(i) + 1)
    return sorted(cuts[2:])


def tensor(cut):
    return lambda x: torch.tensor(cut(x))


for seed in range(5):
    check.same(tensor(tiled), tensor(secom.tiled), np.random.default_rng(seed).standard_normal((30, 8)))

# %% [markdown]
# One session of a made chat. Its subjects (garden, music, money …) have no word in common, but a turn in four says nothing (*"Oh, I see. And then?"*), and the answers name no subject. The vectors are LSA's, fitted on the chat.

# %%
chat = topics.make(1, seed=0)[0]
said = by_session(turns(chat))[1]
lsa = LSA(16).fit([u.text for u in turns(chat)])
g = secom.likeness(lsa([u.text for u in said]))
d, gaps, found = secom.depths(g), np.arange(1, len(said)), by_likeness(lsa)(said)

plt = show.style()
fig, (top, low) = plt.subplots(2, 1, figsize=(6.4, 4.2), sharex=True)
top.plot(gaps, g, "-o", ms=3, color=show.KIND_COLOUR["text"])
top.set(ylabel="likeness $g$", title="solid rules: the subject changes; triangles: cuts by (1)")
low.bar(gaps, d, color="0.7")
low.axhline(d.mean() + d.std() / 2, color="k", lw=1, ls="--")
low.text(len(said) - 0.6, d.mean() + d.std() / 2, "$\\mu+\\frac{1}{2}\\sigma$", va="bottom", ha="right")
low.plot(found, [-0.12] * len(found), "^", color="k", clip_on=False)
low.set(ylabel="depth $\\delta$", xlabel="gap before turn", xticks=range(0, len(said) + 1, 2), ylim=(-0.2, None))
for ax in (top, low):
    for c in topics.cuts(chat)[1]:
        ax.axvline(c, color="k", lw=1.6)
fig.tight_layout()
print("the subject changes before turns", topics.cuts(chat)[1], "- cuts before turns", found)

# %% [markdown]
# ## How good are the cuts?
#
# *WindowDiff* slides a window of half a segment over the chat and counts where reference and guess have different numbers of cuts inside it: 0 is perfect, near misses cost a little.
# Fixed before the run: 3 seeds of 4 chats (the size of LSA, 16, was chosen on seeds 100 to 102).

# %%
SEEDS = (0, 1, 2)
chats = {seed: topics.make(4, seed) for seed in SEEDS}
fitted = {seed: [by_likeness(LSA(16).fit([u.text for u in turns(s)])) for s in chats[seed]] for seed in SEEDS}
wrong = {}
for seed in SEEDS:
    for sample, cut in zip(chats[seed], fitted[seed]):
        for s, said in by_session(turns(sample)).items():
            n, got = len(said), cut(said)
            guesses = {"by (1)": [got], "windows of 5": [range(5, n, 5)], "no cut": [[]],
                       "as many at random": [random.Random(f"{seed} {i}").sample(range(1, n), len(got)) for i in range(10)]}
            for name, some in guesses.items():
                wrong.setdefault(name, {}).setdefault(seed, []).append(np.mean([window_diff(topics.cuts(sample)[s], c, n) for c in some]))
for name, seeds in wrong.items():
    print(f"WindowDiff, {name:18}", *(f"{np.mean(w):.2f}" for w in seeds.values()))

# %% [markdown]
# ## What is it good for?
#
# The same chats, asked their questions, at equal numbers of words read. All units are found by BM25.

# %%
WORDS = (30, 60, 120, 240)


def recall(seed):
    out = {}
    for sample, cut in zip(chats[seed], fitted[seed]):
        true = lambda said: topics.cuts(sample)[said[0].meta["session"]]         # noqa: B023, E731
        jobs = {"turns": (BM25, turns), "sessions": (BM25, lambda s: sessions(turns(s))), "windows of 5": (BM25, lambda s: windows(turns(s), 5)),
                "segments by (1)": (lambda: SeCom(cut, keep=1), turns), "segments, true cuts": (lambda: SeCom(true, keep=1), turns)}        # noqa: B023
        for name, (memory, units) in jobs.items():
            for w, values in evaluate([sample], memory, (), WORDS, units=units).items():
                out.setdefault(name, {}).setdefault(w, []).extend(values)
    return {name: [100 * bootstrap(v)[0] for v in r.values()] for name, r in out.items()}


answers = [recall(seed) for seed in SEEDS]
made = {name: np.array([a[name] for a in answers]) for name in answers[0]}
ax = show.style().gca()
for (name, x), look in zip(made.items(), (":x", "-.s", "--o", "-^", "-D")):
    ax.errorbar(WORDS, x.mean(0), [x.mean(0) - x.min(0), x.max(0) - x.mean(0)], fmt=look, color=show.KIND_COLOUR["text"], mfc="white" if "1" in name else None, capsize=2, label=name)
ax.set(xscale="log", xticks=WORDS, xticklabels=WORDS, xlabel="words read", ylabel="evidence found (%)", ylim=(-3, 103), title="made chats (mean, lowest and highest of 3 seeds)")
ax.minorticks_off()
ax.legend(fontsize=9)
print("120 words:", {name: f"{x[:, 2].min():.0f} to {x[:, 2].max():.0f} %" for name, x in made.items()})

# %% [markdown]
# Topics are worth it: cut *exactly* where the subject changes, segments find far more than windows. But the program's cuts are not exact, and that is enough to lose the whole advantage:
# a turn that says nothing looks like a change of subject, and there the answer is cut off from what it answers.
#
# ## Found by one text, read as another
#
# SeCom has a second idea. What is *searched* need not be what is *read*: words that most turns share are dropped from the key, and the original comes back.
# (The paper drops them by a trained compressor, LLMLingua-2; ours drops those with the smallest $\ln(N/n)$.)

# %%
memory = SeCom(fitted[0][0], keep=0.75)
for unit in turns(chats[0][0]):
    memory.write(unit)
q = questions(chats[0][0])[0]
best = memory.rank(q.text, 1)[0]
print(q.text, "\n\nkey:\n" + memory.index[0].units[best.id].text, "\n\nread:\n" + best.text)
print({part: f"{size / len(memory.units):.0f} bytes a turn" for part, size in memory.sizes().items()})

# %% [markdown]
# ## On real chats
#
# LoCoMo {cite:p}`maharana2024locomo`: 1,390 segments of 4.2 turns, cut by (1) on MiniLM's vectors. Fixed before the run: the paper's claim counts as shown if segments beat turns, and sessions, in evidence *and* in words of the answer at 1,000 words,
# with BM25 and with the sum of BM25 and MiniLM; and the *topics* count as the cause if the same holds against windows of 4, which are as long.

# %%
stored = result("segments")["data"]
RIVALS = ("session", "turn", "window of 3", "window of 4", "window of 5", "cuts at random, seed 0")
fig, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True)
for ax, key, title in ((axes[0], "words 1000", "evidence"), (axes[1], "answer 1000", "words of the answer")):
    for shift, look, name in ((0.22, "o", "BM25"), (0, "^", "MiniLM"), (-0.22, "s", "sum")):
        mid, lo, hi = np.array([stored["segment minus"][name][r][key] for r in RIVALS]).T
        ax.errorbar(mid, np.arange(6) + shift, xerr=[mid - lo, hi - mid], fmt=look, ms=4, color=show.KIND_COLOUR["text"], mfc="white" if name == "MiniLM" else None, capsize=2, label=name)
    ax.axvline(0, color="k", lw=0.8)
    ax.set(title=title, yticks=range(6), yticklabels=[f"minus {r}" for r in RIVALS], xlabel="points (95 % interval)")
axes[1].legend(fontsize=8.5)
fig.suptitle("LoCoMo, 1,000 words: segments minus ...", fontsize=11)
fig.tight_layout()


def points(retriever, rival, key="words 1000"):
    return stored["segment minus"][retriever][rival][key]


keyed = result("segments_keys")["data"]["minus as said"]
for rival in ("turn", "session", "window of 4"):
    print(f"minus {rival:12}", *(f"{r} {what}: {m:.1f} [{lo:.1f}, {hi:.1f}]  " for r in ("BM25", "sum") for what, key in (("evidence", "words 1000"), ("answer", "answer 1000"))
                                 for m, lo, hi in [points(r, rival, key)]))
for name in keyed["MiniLM"]:
    print(f"key: {name:24}", *(f"{r}: {m:+.1f} [{lo:.1f}, {hi:.1f}]  " for r in ("BM25", "MiniLM", "sum") for m, lo, hi in [keyed[r][name]["words 1000"]]))

# %% [markdown]
# ## What holds, and what does not

# %% tags=["claim-secom"]
for i, seed in enumerate(SEEDS):                                          # made chats, 120 words
    at = {name: x[i, 2] for name, x in made.items()}
    assert at["segments by (1)"] > max(at["turns"], at["sessions"])
    assert at["segments, true cuts"] > at["windows of 5"] + 10 > at["segments by (1)"]                      # true topics beat windows, found ones do not
    assert np.mean(wrong["by (1)"][seed]) < np.mean(wrong["as many at random"][seed]) - 0.1
for key in ("words 1000", "answer 1000"):
    assert all(points(r, "session", key)[1] > 0 for r in ("BM25", "MiniLM", "sum"))
    assert points("BM25", "turn", key)[1] > 0 > points("sum", "turn", key)[1]                               # above turns with BM25, not with the sum,
    assert not any(points(r, "window of 4", key)[1] > 0 for r in ("BM25", "MiniLM", "sum"))                 # and never above windows as long
assert keyed["BM25"]["75 %, the rarest"]["words 1000"][1] < 0 < keyed["MiniLM"]["75 %, the rarest"]["words 1000"][1]
assert keyed["MiniLM"]["75 %, any"]["words 1000"][2] < 0 and keyed["MiniLM"]["speakers' names dropped"]["words 1000"][1] < 0
print("not reproduced: segments beat sessions, and turns only with BM25; windows of four turns do as well")

# %% [markdown]
# ## What to notice
#
# - **Segments beat sessions by far and turns with BM25. So do windows.** On LoCoMo no retriever finds more in segments than in windows of four turns; with the sum, windows find two points more.
#   With MiniLM alone segments find 3.9 points *less* than turns (1.4 to 6.1), and windows of four do as badly. What helps, where anything does, is that neighbours come along, not that the cut is in the right place. The paper's gain over turns is not wrong; it is not shown to come from topics.
# - **The purified key is the part that carries over, for vectors.** With MiniLM it gains 4.0 points of evidence (2.5 to 5.5); with BM25, which gives such words little weight anyway, it gains nothing.
#   It matters *which* words go: as many drawn at random cost MiniLM 13 points, and to drop only the speakers' names changes nothing.
# - **WindowDiff and recall disagree.** By WindowDiff the cuts by (1) look better than windows of five; by recall they are no better. One cut at the wrong turn, just between question and answer, is a small error to the one and all to the other.
# - **A limit.** A language model may well cut better than TextTiling, and the paper's scores come from one, with another as the judge of the answers. We have neither here; what we can say is that the baseline of windows must be beaten, and how far exact cuts could go.
#
# ## Break it
#
# Let a model cut that only answers nonsense. A memory must not lose a turn by that: the answer is checked, asked for once more, and then every three exchanges are a segment.

# %%
for name, rule in (("nonsense", lambda m: "Sure! Here are your segments:"), ("a gap", lambda m: [{"start": 1, "end": 2}, {"start": 5, "end": 9}]), ("one piece", lambda m: [{"start": 1, "end": len(quoted(m))}])):
    memory = SeCom(asked(Rules(rule)), keep=1)
    for unit in turns(chats[0][0]):
        memory.write(unit)
    pieces = memory.segments()
    print(f"{name:10}", len(pieces), "segments,", sum(len(s.source_ids) for s in pieces), "of", len(memory.units), "turns kept")

# %% [markdown]
# ## Exercises
#
# ```{exercise} Why WindowDiff and not the share of right cuts
# :label: secom-windowdiff
#
# Twelve turns, true cuts before turns 4 and 8. Compare the guesses [5, 9], [4] and [1, 2, …, 11] by the share of true cuts found exactly, and by `window_diff`.
# ```
#
# ````{solution} secom-windowdiff
# :class: dropdown
#
# ```python
# for guess in ([5, 9], [4], range(1, 12)):
#     print(list(guess), len({4, 8} & set(guess)) / 2, round(window_diff([4, 8], guess, 12), 2))
# ```
# Found exactly: 0, a half, and all. WindowDiff: 0.4, 0.2, 1. It forgives the near miss a little, and punishes cutting everywhere as it deserves.
# ````
#
# ```{exercise} Look further
# :label: secom-further
#
# A turn that says nothing fools (1) because it looks only two turns to either side. Let it look three turns far and cut off no fewer than three. What happens to WindowDiff, and what to the recall at 120 words?
# ```
#
# ````{solution} secom-further
# :class: dropdown
#
# ```python
# def further(lsa, near=3, least=3):
#     def cut(said):
#         d, cuts = secom.depths(secom.likeness(lsa([u.text for u in said]), near)), [0, len(said)]
#         for i in np.argsort(-d, kind="stable"):
#             if d[i] > d.mean() + d.std() / 2 and all(abs(i + 1 - c) >= least for c in cuts):
#                 cuts.append(int(i) + 1)
#         return sorted(cuts[2:])
#     return cut
#
# for seed in SEEDS:
#     cuts = [further(LSA(16).fit([u.text for u in turns(s)])) for s in chats[seed]]
#     print(np.mean([window_diff(topics.cuts(s)[n], c(said), len(said)) for s, c in zip(chats[seed], cuts) for n, said in by_session(turns(s)).items()]).round(2),
#           round(100 * bootstrap([v for s, c in zip(chats[seed], cuts) for v in evaluate([s], lambda: SeCom(c, keep=1), (), (120,))["words 120"]])[0]))
# ```
# WindowDiff falls from some 0.35 to 0.24 to 0.30, and recall rises to 54 to 61 %: level with windows of five, still far from the true cuts. Both settings were now chosen on the chats they are tested on, which a fair comparison must not do.
# ````
#
# ```{exercise} Segments that overlap
# :label: secom-overlap
#
# Windows of five turns that begin at every second turn: what do they cost in units and bytes, and why can they not be compared at an equal *number of units*?
# ```
#
# ````{solution} secom-overlap
# :class: dropdown
#
# Two and a half times the units, vectors and index. Read by words, the same turn can be paid for twice. Read by number of units they win over any disjoint cut of the same length, since the best start is always among them:
# that is why budgets here are words. (A fair reader would drop the turns it has already.)
# ````
#
# **Next.** What is lost when a model writes down less than was said: summaries.
