# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # A clock that stands still: why Mamba selects
#
# **Question.** You listen to a long announcement: noise, noise, *platform 4*, noise, *coach 7*, noise. At the end somebody asks: what was said, in order? Two memories of one size listen with you. Both are sums that fade.
# In the first (S4) every tick of the clock is alike: each token fades the memory by the same factor, and is added with the same weight. In the second (S6, the memory in Mamba) *the token itself* sets how far the clock moves, what is added and what is read.
#
# **Your prediction, before you read on.** If the words always come at the same places, can the first memory do it? And if they lie anywhere, how many of the words does it get right, when guessing gets one in eight? Does it help the second one if it may look at three tokens before the present one?

# %%
import torch

from minimem import check, core, show
from minimem.catalog import card, result
from minimem.lm import accuracy, fit, small
from minimem.state import mamba, s4
from minimem.tasks.copy import copying

torch.set_num_threads(1)
SEEDS = range(3)
ORANGE, BROWN, GREY = show.KIND_COLOUR["state"], "#7a3b00", "#595959"

# %% [markdown]
# (mamba)=
# ## Mamba's memory, S6
#
# A layer has $D$ channels, each with its own $N$ numbers that fade at $N$ rates, fast and slow. The token decides three things: $\Delta$, how far the clock moves in each channel; $B$, on which of the $N$ numbers to write; $C$, which of them to read.
# In S4 all three are fixed, and that is why it can be computed as one long convolution. S6 gives the convolution up {cite:p}`gu2024mamba`.

# %%
card("mamba")


# %% [markdown]
# ### Build it

# %%
def step(S, x, d, B, C, params):
    a = d[..., None, :] * params["A"].mT                                         # (1) how much fades: far if the clock moves far
    S = a.exp() * S + B[..., :, None] * (d * x)[..., None, :]                    # (1) write x at the numbers that B names
    return S, (C[..., None, :] @ S)[..., 0, :] + params["D"] * x                 # (2) read those that C names


x, d, B, C = check.inputs("xdBC", T=20)
params = mamba.params(4, 6, dtype=torch.float64)
S = mamba.chunked(x, d, B, C, params)[1]
check.same(step, mamba.step, S, *(y[..., 0, :] for y in (x, d, B, C)), params)
print(f"{core.nbytes(S[0, 0])} bytes: 6 numbers for each of 4 channels, in float64")

# %% [markdown]
# ### What it can do that a fixed clock cannot
#
# With $\Delta = 0$ nothing fades and nothing is written: the token might as well not be there. So four symbols among eight blanks leave *exactly* the state that the four symbols alone leave, wherever they lie. No training is needed to see it; training only has to find it.

# %%
where = torch.tensor([1, 5, 6, 10])
x, d, B, C = check.inputs("xdBC", T=12, lead=())
still = torch.zeros_like(d).index_copy(0, where, d[where])                       # the clock moves at the four symbols alone
among = mamba.chunked(x, still, B, C, params)[1]
alone = mamba.chunked(*(y[where] for y in (x, d, B, C)), params)[1]
torch.testing.assert_close(among, alone, rtol=0, atol=1e-12)
fixed = s4.s4d_lin(4, 6, dtype=torch.float64)
heard = torch.zeros_like(x).index_copy(0, where, x[where])                       # S4D: even silence lets its clock run
far = (s4.parallel(heard, params=fixed)[1] - s4.parallel(x[where], params=fixed)[1]).norm() / s4.parallel(x[where], params=fixed)[1].norm()
print(f"among blanks against alone: S6 differs by 0, S4D by {far:.0%} of its size")

# %%
plt = show.style()
fig, axes = plt.subplots(1, 2, figsize=(8.2, 2.9), sharey=True)
one, said = torch.ones(20, 1), torch.tensor([1.0, -0.5, 1.0, 0.7])[:, None]
single = {"A": -torch.ones(1, 1), "D": torch.zeros(1)}
for places, line, label in (([1, 3, 6, 8], "-", "early"), ([2, 9, 13, 18], "--", "late")):
    at = torch.tensor(places)
    x, symbol = torch.zeros(20, 1).index_copy(0, at, said), torch.zeros(20, 1).index_fill(0, at, 1.0)
    for ax, clock, title in zip(axes, (0.3 * one, 0.3 * symbol), ("fixed clock: every token fades it", "selective: $\\Delta = 0$ at blanks")):
        y, _ = mamba.recurrent(x, clock, one, one, single)
        ax.plot(y, line, color=ORANGE if line == "-" else BROWN, drawstyle="steps-post", label=f"four symbols, {label}")
        ax.plot(at, y[at], "o", ms=4, color=ORANGE if line == "-" else BROWN)
        ax.set(xlabel="token", xticks=range(0, 20, 4))
        ax.set_title(title, size=10)
axes[0].set_ylabel("one number of the state")
axes[0].legend(loc="upper right", fontsize=8)
fig.tight_layout()

# %% [markdown]
# The same four symbols, early (line) or late (dashed). Left, what is kept in the end depends on *when* they were said, so whoever reads it must know that first. Right, it does not.
#
# ## The task
#
# `copying` hides $n$ symbols of eight among blanks; then come $n$ marks, and at each the next symbol is asked. With fixed places the symbols stand first, and every answer lies a fixed number of tokens back: a delay line is enough. Scattered, each sequence has another delay.

# %%
for scattered in (False, True):
    tokens, targets = copying(n=4, slots=24, scattered=scattered, batch=1, seed=3)
    print("fixed    " if not scattered else "scattered", "".join(".?abcdefgh"[t] for t in tokens[0]), " asked:", "".join(".?abcdefgh"[t] for t in targets[0, 24:]))

# %% [markdown]
# First small and live: two symbols, one layer, 250 steps. The two layers have about 5,700 parameters and 2 KB of state. The fixed places come first: only a memory that *can* copy is worth asking where it fails.

# %% tags=["nbval-ignore-output"]
LAYERS = {"S4D": (42, lambda: s4.Layer(42, 12), 1.6e-2), "S6": (24, lambda: mamba.Layer(24, 8), 1e-2)}      # width, layer, learning rate


def learn(name, scattered, seed):
    D, layer, rate = LAYERS[name]
    torch.manual_seed(seed)
    lm = small(10, D, [layer()])
    fit(lm, lambda i: copying(2, 24, scattered=scattered, batch=32, seed=10 ** 6 * (seed + 1) + i), 250, rate)
    return lm, accuracy(lm, *copying(2, 24, scattered=scattered, batch=500, seed=10 ** 9 + seed))


right = torch.tensor([[learn("S4D", False, s)[1], learn("S4D", True, s)[1], learn("S6", True, s)[1]] for s in SEEDS])
for name, column in zip(("S4D, fixed places", "S4D, scattered", "S6, scattered"), right.T):
    print(f"{name:18} {column.mean():.2f} ± {column.std():.2f}")
assert right[:, 0].min() >= 0.95 and right[:, 2].mean() >= right[:, 1].mean() + 0.15

# %% [markdown]
# ### At full size
#
# Four symbols, five memories of one layer, 800 steps each (`benchmarks/trained/selective_copying.py`). *Unit* is the gated layer of Mamba, once with S6 in it and once with S4D, so that nothing but the memory differs; *its layer* is S4D's own, with a nonlinear map (GELU and a gate) behind the memory.
# Learning rates were chosen for each on other seeds. What counts was fixed before the run: S4D gets at least .95 from fixed places, and from scattered ones Mamba is at least 15 points better than S4D in the same unit, and than S4D's own layer.

# %% tags=["claim-mamba"]
stored = result("selective_copying")
arms = {name: {k: torch.tensor(v, dtype=torch.float64) for k, v in arm.items()} for name, arm in stored["data"]["arms"].items()}
lines = [f"{'':31}parameters   bytes   fixed         scattered"]
for name, arm in arms.items():
    fixed = f"{arm['fixed'].mean():.2f} ± {arm['fixed'].std():.2f}" if len(arm["fixed"]) else "     -     "
    lines.append(f"{name:31}{int(arm['parameters']):10}{int(arm['bytes']):8}   {fixed}   {arm['scattered'].mean():.2f} ± {arm['scattered'].std():.2f}")
print("\n".join(lines))
S6 = arms["S6, unit (Mamba)"]["scattered"]
lead = {name: (S6 - arms[name]["scattered"]).mean().item() for name in ("S4D, unit", "S4D, its layer")}
print("\nMamba leads by " + ", ".join(f"{100 * x:.0f} points ({name})" for name, x in lead.items()))
assert len(stored["seeds"]) >= 3 and S6.min() > 0.98
assert all(arms[name]["fixed"].min() > 0.95 for name in arms if "S4D" in name)
assert lead["S4D, unit"] >= 0.15                                                # met, three times over
assert 0.10 < lead["S4D, its layer"] < 0.15                                     # missed, by a point or two
assert S6.min() > arms["S4D, its layer"]["scattered"].max()

# %%
plt = show.style()
fig, (ax, ax2) = plt.subplots(1, 2, figsize=(8.6, 3.2), sharey=True)
looks = {"S4D, its layer": (GREY, "s--"), "S4D, unit without convolution": ("#a0a0a0", "v:"), "S4D, unit": ("#303030", "o:"),
         "S6, unit without convolution": (BROWN, "D--"), "S6, unit (Mamba)": (ORANGE, "^-")}
for i, (name, (colour, mark)) in enumerate(looks.items()):
    for task, dx in (("fixed", -0.15), ("scattered", 0.15)):
        seeds = arms[name][task]
        ax.plot([i + dx] * len(seeds), seeds, mark[0], color=colour, mfc="white" if task == "fixed" else colour, ms=6)
    longer = arms[name]["longer"]
    ax2.errorbar([24, 48, 96, 192], longer.mean(0), longer.std(0), fmt=mark, color=colour, label=name, ms=4, capsize=2)
ax.set(xticks=range(5), ylabel="symbols right", title="hollow: fixed places, filled: scattered", ylim=(0, 1.03))
ax.set_xticks(range(5), ["S4D\nlayer", "S4D\nunit,\nno conv.", "S4D\nunit", "S6\nunit,\nno conv.", "S6\nunit"], size=8)
ax2.set(xscale="log", xticks=[24, 48, 96, 192], xticklabels=[24, 48, 96, 192], xlabel="slots (trained with 24)", title="more blanks than in training")
ax2.minorticks_off()
for a in (ax, ax2):
    a.axhline(1 / 8, color="#bbbbbb", lw=1, zorder=0)
    a.title.set_size(10)
ax.annotate("guessing", (3.4, 0.14), size=8, color=GREY)
ax2.legend(fontsize=7, loc="center right", bbox_to_anchor=(1, 0.52))
fig.tight_layout()

# %% [markdown]
# ### What did it learn?
#
# How much does a trained S6 write, how many tokens after a symbol? The size of what is written, $\lVert B_t\rVert\,\lVert\Delta_t x_t\rVert$, divided by what it writes at blanks far from any symbol.

# %%
lm, _ = learn("S6", True, 0)
mixer, shown = lm.blocks[0].mixer, torch.zeros(8, 16, dtype=torch.long)
shown[:, 8] = torch.arange(2, 10)                                               # each symbol once, among blanks
with torch.no_grad():
    x = torch.nn.functional.silu(mixer.conv1d(mixer.in_proj(lm.blocks[0].norm(lm.embed(shown))).chunk(2, -1)[0])[0])
    d, B, C = mixer.x_proj(x).split(mixer.sizes, -1)
    written = B.norm(dim=-1) * (torch.nn.functional.softplus(mixer.dt_proj(d)) * x).norm(dim=-1)
times = written / written[:, 6:7]
plt = show.style()
fig, ax = plt.subplots(figsize=(5.6, 3.0))
image = ax.imshow(times[:, 8:14].log10(), cmap="YlOrBr", vmin=0, vmax=2)
for i in range(8):
    for j in range(6):
        ax.text(j, i, f"{times[i, 8 + j]:.0f}" if times[i, 8 + j] >= 1.5 else "1", ha="center", va="center", size=7, color="white" if times[i, 8 + j] > 20 else "black")
ax.set(xlabel="tokens after the symbol", ylabel="symbol", yticks=range(8), yticklabels="abcdefgh", title="size of the write, in that of a blank", aspect="auto")
ax.grid(False)
fig.tight_layout()

# %% [markdown]
# ## What to notice
#
# - **In the same unit, selection is everything.** With S4D inside, Mamba's unit finds hardly more than half of the scattered symbols, although it copies from fixed places without a mistake; with S6 inside it finds 99 of 100.
# - **What we asked for was missed, by a point.** S4D's own layer, with its nonlinear map behind the memory, gets .85: much can be told from a state that depends on when things were said, *if the lengths are those of training*. The lead is 14 points, 15 were asked.
# - **More blanks than in training tell the two apart.** Asked after twice the blanks, all S4D fall to about a third, and at 8 times near guessing; S6 without convolution does not notice twice or four times the blanks. This measure was recorded, but not what we had set ourselves.
# - **Selection needs help to be exact.** Without the short convolution S6 stays at .88. The picture above shows what it is for: the big writes come one to three tokens *after* the symbol.
# - **Limit.** One layer, 28 tokens. In a trial with two layers (one seed, not reported further) S4D in Mamba's unit reached .93: a stack of fixed clocks with gates between them can count. And one seed of S6 in three lost its way at twice the blanks (.78).
#
# ## Break it
#
# In the cell that builds `still`, let the clock tick a little at blanks, `still + 0.05`. How much of the state is then lost, and from which of the six numbers of a channel first? (From those with the largest $-A$: they forget fastest.)
# Then leave `params["D"] * x` out of line (2) of `step` and let the battery mark it: `check.battery(step, like="mamba")`. It fails `agrees`, `gradients` and `finite`, and passes what does not compare with the definition.
#
# ```{exercise} Which number remembers for how long?
# :label: mamba-halves
#
# Mamba starts with $A = -1, \dots, -N$ and $\Delta$ between .001 and .1. After how many tokens has the slowest number of a channel lost half of what it held, at $\Delta = .1$ and at $.001$? And the fastest of 16?
# ```
#
# ````{solution} mamba-halves
# :class: dropdown
#
# $e^{-n\Delta t} = ½$ at $t = \ln 2/(n\Delta)$. For $n = 1$ that is 7 and 693 tokens, for $n = 16$ it is 0.4 and 43: before any training a layer holds memories from half a token to seven hundred.
# ````
#
# ```{exercise} Undo the selection
# :label: mamba-undo
#
# Write a function `deaf(x, d, B, C, state=None)` that runs Mamba's memory with $\Delta$, $B$ and $C$ replaced by their first token's. Show that its output is linear in $x$: `deaf(x + y) = deaf(x) + deaf(y)`. Is `mamba.chunked` itself linear in $x$, for given $d$, $B$, $C$? Where, then, is the nonlinearity in the layer?
# ```
#
# ````{solution} mamba-undo
# :class: dropdown
#
# ```python
# def deaf(x, d, B, C, state=None):
#     d, B, C = (y[..., :1, :].expand_as(y) for y in (d, B, C))
#     return mamba.chunked(x, d, B, C, params, state)
#
# x, d, B, C = check.inputs("xdBC")
# y = torch.randn_like(x)
# torch.testing.assert_close(deaf(x + y, d, B, C)[0], deaf(x, d, B, C)[0] + deaf(y, d, B, C)[0])
# ```
#
# For given $d$, $B$ and $C$ the memory is linear too. In the layer they are made from $x$, so the output is a product of what the token says and what the token decides.
# ````
#
# ```{exercise} Euler or exact?
# :label: mamba-euler
#
# The paper derives (1) by holding the input constant over a step, which would write $(e^{\Delta A} - 1)/A \cdot B\,x$. Its code writes $\Delta B\,x$. For which $\Delta A$ do the two differ by more than a tenth? Does it matter to a trained model?
# ```
#
# ````{solution} mamba-euler
# :class: dropdown
#
# The ratio is $(e^{\Delta A} - 1)/(\Delta A)$: below .9 for $\Delta A < -0.215$, and .43 at $-2$. A model trained with one rule is wrong under the other, so a reader of published weights must use Euler's; for training it hardly matters, as $B$ is free to make up for it.
# ````
#
# **Next.** Mamba-2 lets all numbers of a head fade at *one* rate, and so becomes linear attention with a gate; it pays with a coarser clock and gains a state eight times as large. How much is recalled per byte is another lab.
