# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # How many bytes does recall need?
#
# **Question.** A model that is trained to look things up keeps what it has read in a state of fixed size. How large must that state be, and does it matter by which rule it is written?
#
# **Your prediction, before you read on.** Two layers of one memory and nothing else, trained for a few seconds. They read eight pairs of a key and a value, then eight keys again. The memory is one matrix, $K$ rows of 48 numbers.
# Which share of the values comes back with $K=4$? With 16? What if the short convolution before the memory is taken out? And if every key is written three times, each time with another value: which rules find the newest?

# %%
import torch

from minimem import check, core, forms, show
from minimem.catalog import card, result
from minimem.lm import accuracy, fit, small
from minimem.state import linear, mamba2
from minimem.tasks.mqar import curriculum, mqar

torch.set_num_threads(1)
NAMES = {                                              # memory: name, colour and mark
    "linear": ("linear attention", "#595959", "o--"), "mamba2": ("Mamba-2", "#1b8a5a", "D-."),
    "delta": ("DeltaNet", "#e07b00", "s-"), "gated_delta": ("Gated DeltaNet", "#7a3b00", "^:"),
    "attention": ("attention", "#1f5fa8", "*"), "retnet": ("RetNet", "#1b8a5a", "P:"), "gla": ("GLA", "#e07b00", "v:"),
    "gsa": ("GSA", "#7a3b00", "<:"), "rwkv4": ("RWKV-4", "#1f5fa8", "h"), "rwkv6": ("RWKV-6", "#1f5fa8", ">:"),
    "mamba": ("Mamba", "#1b8a5a", "X-."), "mlstm": ("mLSTM", "#a0559b", "d:"), "log_linear": ("log-linear", "#a0559b", "p:"),
    "s4": ("S4D", "#111111", "x:"), "hyena": ("Hyena", "#111111", "*"),
}

# %% [markdown]
# (mamba2)=
# ## Mamba-2: a state-space model that is linear attention
#
# A state-space model keeps numbers that fade, and adds the input to them. Mamba-2 lets all numbers of a head fade at one rate, which depends on the token. Then its state is a matrix that fades and to which a table *key times value* is added: linear attention with a forget gate.
# Only the names differ: $C$ asks, $B$ is the key, $\Delta x$ the value, and $e^{\Delta A}$ is what is kept.

# %%
card("mamba2")


# %% [markdown]
# ### Build it

# %%
def step(S, x, d, B, C, params):
    S = (d * params["A"]).exp()[..., None] * S + B[..., :, None] * (d * x)[..., None, :]      # (1) fade, add key times value
    return S, (C[..., None, :] @ S)[..., 0, :] + params["D"] * x                             # (2) ask, and let some of x past


x, d, B, C = check.inputs("xdBC", T=50)
d, own = d[..., :1], mamba2.params(dtype=torch.float64)            # one step of time for a head
y, S = mamba2.recurrent(x, d, B, C, own)
check.same(step, mamba2.step, S, *(z[..., 0, :] for z in (x, d, B, C)), own)
as_attention, _ = forms.gated(C, B, d * x, d * own["A"])
torch.testing.assert_close(as_attention + own["D"] * x, y, rtol=1e-9, atol=1e-10)
print("Mamba-2 is gated linear attention with q = C, k = B, v = Δx, a = ΔA")

# %% [markdown]
# ## The task
#
# Keys are numbers below 32, values are 32 and more, 0 fills. Every key is written with its value, and later asked once. Nothing but the first half of the line says which value belongs to it: the answers are different in each line.

# %%
tokens, targets = mqar(pairs=4, T=16, batch=2, seed=0)
for line, answers in zip(tokens.tolist(), targets.tolist()):
    print("read  ", " ".join(f"{t:3}" for t in line), "\nanswer", " ".join(f"{a:3}" if a >= 0 else "  ·" for a in answers))

# %% [markdown]
# ## Train it here
#
# The smallest version: six pairs, two layers of linear attention 32 wide, as it is built today (unit keys, the read normed, a short convolution), 300 steps. The memory is $K \times 32$ numbers in each layer.
# On other seeds nearly all came back with $K=16$ and about .3 with $K=2$; so at least .8 and at most .5 was expected here. The first held; one seed in three has .53 with $K=2$. What is asserted is a gap of .3 between any two.

# %% tags=["claim-live", "nbval-ignore-output"]
def trained(K, seed, D=32, pairs=6, T=24, vocab=32, steps=300):
    """Share of values that come back, and bytes of the state."""
    torch.manual_seed(seed)
    model = small(vocab, D, [linear.Layer(D, 1, K, D, conv=4, normed=True) for _ in range(2)])
    fit(model, curriculum(pairs, T, steps, vocab, seed=seed), steps, lr=0.012)
    tokens, targets = mqar(pairs, T, vocab, batch=256, seed=seed * 10 ** 6 + steps)
    return accuracy(model, tokens, targets), core.nbytes(model(tokens[:1])[1])


live = {K: [trained(K, seed) for seed in range(3)] for K in (2, 16)}
for K, runs in live.items():
    print(f"K = {K:2}   {runs[0][1]:5} bytes   " + "  ".join(f"{right:.2f}" for right, _ in runs))
assert min(right for right, _ in live[16]) >= max(0.8, 0.3 + max(right for right, _ in live[2]))

# %% [markdown]
# ## Recall against bytes
#
# The same on all memories, a little larger: eight pairs among 32 tokens, two layers 48 wide, one head, 500 steps, three seeds. These trainings take some minutes each, so they are stored; `benchmarks/trained/mqar.py` repeats them.
# Bytes are those of the whole state of both layers where it is largest, the window of the convolution included. The steps and the learning rate, one for all, were chosen with linear attention, Gated DeltaNet and Mamba-2 on seeds that are not shown.

# %%
stored = {key: result(f"mqar_{key}")["data"] for key in NAMES}
bare = [key for key, runs in stored.items() if "no convolution" in runs]
swept = {key: {size: run for size, run in runs.items() if size not in ("no convolution", "as published")} for key, runs in stored.items()}


def mean(run):
    return sum(run["accuracy"]) / len(run["accuracy"])


plt = show.style()
fig, axes = plt.subplots(1, 2, figsize=(10.4, 4.2), sharey=True)
for ax, keys in zip(axes, (bare, ["linear", *(key for key in NAMES if key not in bare)])):
    for key in keys:
        name, colour, mark = NAMES[key]
        runs = list(swept[key].values())
        kb, right = [run["bytes"] / 1024 for run in runs], [mean(run) for run in runs]
        spread = [[m - min(run["accuracy"]) for m, run in zip(right, runs)], [max(run["accuracy"]) - m for m, run in zip(right, runs)]]
        ax.errorbar(kb, right, spread, fmt=mark, color=colour, label=name, ms=7 if len(runs) == 1 else 5, lw=1.4, capsize=2)
    ax.set(xscale="log", xticks=(2, 4, 8, 16, 32), xticklabels=(2, 4, 8, 16, 32), xlabel="bytes of the state, KiB", ylim=(0, 1.03))
    ax.minorticks_off()
    ax.legend(fontsize=9, **({"loc": "lower right"} if keys is bare else {"loc": "center left", "bbox_to_anchor": (1, 0.5)}))
axes[0].set_ylabel("values that come back")
axes[0].set_title("by size", size=10)
axes[1].set_title("the others, one size or two", size=10)
fig.tight_layout()

# %% [markdown]
# Marks are means, bars reach from the worst of three seeds to the best.

# %% tags=["claim-mamba2"]
print(f"{'':17}size               KiB    worst  mean  best")
for key, runs in swept.items():
    for size, run in runs.items():
        print(f"{NAMES[key][0]:17}{size:15}{run['bytes'] / 1024:7.1f}    {min(run['accuracy']):.2f}   {mean(run):.2f}  {max(run['accuracy']):.2f}")
by_N = [mean(stored["mamba2"][f"N = {N}"]) for N in (8, 16, 32, 64)]
assert all(after >= before - 0.01 for before, after in zip(by_N, by_N[1:])) and by_N[-1] >= by_N[0] + 0.05
by_K = [mean(stored["linear"][f"K = {K}"]) for K in (4, 8, 16, 32)]
assert by_K[0] < 0.9 < by_K[2]

# %% [markdown]
# ## What the short convolution does, and facts that change
#
# Left, the same memories of 16 rows without the convolution of width 4 that stands before them. Right, another task of the same kind: eight keys, **each written three times** with another value, and the newest is asked. Four heads of 16 × 16 numbers, 400 steps, five seeds; `benchmarks/trained/rewrite.py`.
# Fixed before the run: DeltaNet's worst seed should be .6 above linear attention's best, as in a first trial with one seed or two.

# %%
rewrite = {key: result(f"rewrite_{key}")["data"] for key in ("linear", "retnet", "mamba2", "delta", "gated_delta", "attention")}
plt = show.style()
fig, (left, right) = plt.subplots(1, 2, figsize=(10.4, 3.6), sharey=True, width_ratios=(4, 6))
for i, key in enumerate(bare):
    whole = next(run for size, run in swept[key].items() if "16" in size or key == "attention")
    for off, run, colour, label in ((-0.2, whole, show.KIND_COLOUR["state"], "with"), (0.2, stored[key]["no convolution"], "#595959", "without")):
        left.bar(i + off, mean(run), 0.36, color=colour, label=label if i == 0 else None)
        left.plot([i + off] * len(run["accuracy"]), run["accuracy"], "k_", ms=8)
left.set_xticks(range(len(bare)), [NAMES[key][0].replace(" ", "\n") for key in bare])
left.set_title("each key written once: the short convolution", size=10)
left.set_ylabel("newest value comes back")
left.set_ylim(0, 1.2)
left.legend(loc="upper center", ncols=2)
for i, (key, run) in enumerate(rewrite.items()):
    right.bar(i, sum(run["newest"]) / 5, 0.5, color=show.KIND_COLOUR["cache" if key == "attention" else "state"])
    right.plot([i] * 5, run["newest"], "k_", ms=10)
right.set_xticks(range(len(rewrite)), [NAMES[key][0].replace(" ", "\n") for key in rewrite])
right.set_title("each key written three times", size=10)
fig.tight_layout()

# %% tags=["claim-rewrite"]
for key, run in rewrite.items():
    print(f"{NAMES[key][0]:17}newest {min(run['newest']):.2f} to {max(run['newest']):.2f}    any value the key ever had {min(run['ever']):.2f} to {max(run['ever']):.2f}    {run['bytes'] / 1024:5.1f} KiB")
gap = min(rewrite["delta"]["newest"]) - max(rewrite["linear"]["newest"])
print(f"DeltaNet's worst less linear attention's best: {gap:.2f}")
assert gap >= 0.4

# %% [markdown]
# ## What to notice
#
# - **Bytes decide.** Linear attention brings back .79 of the values from 2.8 KiB, .99 from 4.5 and all but 1 in 300 from 7.9; Mamba-2 with 4.5 KiB .88, with 7.9 .99. A first trial had .47 for the smallest state, and below .7 was expected. The spread there, from .21 to .91 by rule and seed, is mostly the luck of a short training: single seeds say nothing about which rule is better.
# - **A matrix for each head is what these few steps teach.** All memories of that kind come to .94 and more by 8 KiB (log-linear attention needs more, for it keeps several). States kept channel by channel do not: S4D stays at .2, RWKV-4 at .25, Mamba, which had .25 at 7 KiB after these 500 steps,
#   learns more slowly than the rest, and Hyena gets to .5. That is training as much as memory: with 1000 steps RWKV-4 has .32 ({doc}`08_rwkv`), and Mamba solves a task of its own ({doc}`07_selective_copying`).
# - **The rule hardly shows when every key is written once.** The task that writes each key three times tells the rules apart. Linear attention nearly always names a value that the key had at some time, but the newest in .36 to .50 of the cases, little better than one of three. DeltaNet with the same bytes finds .97 and more,
#   as much as attention, whose cache is more than five times as large.
# - **Training can fail where the memory would not.** Two of five Gated DeltaNets end below .3, three above .78; the two have not learned to recall at all, for what they name is mostly no value that the key ever had. Mamba-2 is in the same place on all seeds. Both forget from the start, and 400 steps are few: in one trial on another seed, not stored, 1200 steps bring Gated DeltaNet to .99 and Mamba-2 to .58.
# - **A criterion that was missed.** DeltaNet's worst seed is .48 above linear attention's best, not .6: longer sequences in larger batches at the start of training make linear attention better than it was in the first trial (.10 to .24).
# - **The short convolution is not a detail.** Without it nothing pairs a value with the key before it, and two layers of linear attention or of a delta rule are left at .2, as is Mamba-2: about what naming any value of the line gives. Softmax attention alone gets along without it, .83: one layer can find out by itself what stood just before.
# - **A surprise.** The formulas of 2020, with $\phi$ and normaliser, which {doc}`02_overwrite` found nearly useless on keys of length 1, reach .98 behind the same convolution: training makes queries and keys long, and $\phi$ then tells them apart.
# - **Limit.** One task, one learning rate, one head, three seeds, and 32 tokens: at this length attention's cache is not larger than the larger states. What counts as a small state depends on the number of pairs, here eight.
#
# ## Break it
#
# In `step`, add `B` as it is without multiplying by the step of time, `B[..., :, None] * x[..., None, :]`, and let the battery mark it: `check.battery(step, like="mamba2")`. The step of time $\Delta$ then only forgets; in Mamba-2 the same number says how much is forgotten *and* how much is written.
# Then train with `conv=0`. All that is left is to name one of the values of the line, one that stands there twice if there is any: that is right for about .3 of six.
#
# ```{exercise} How much window does it take?
# :label: recall-window
#
# The convolution is 4 wide. Which of its places does the task need? Train the live model with `conv=2` and with `conv=1`.
# ```
#
# ````{solution} recall-window
# :class: dropdown
#
# ```python
# def layers(conv, seed=0):
#     torch.manual_seed(seed)
#     model = small(32, 32, [linear.Layer(32, 1, 16, 32, conv=conv, normed=True) for _ in range(2)])
#     fit(model, curriculum(6, 24, 300, 32, seed=seed), 300, lr=0.012)
#     return accuracy(model, *mqar(6, 24, 32, batch=256, seed=300))
#
#
# print(layers(2), layers(1))
# ```
#
# One place is enough, the token before: where the value stands, the memory must find the key that goes with it. With `conv=1` each token knows only itself, and no pair is ever written.
# ````
#
# ```{exercise} When is the cache larger?
# :label: recall-cache
#
# Attention keeps 48 + 48 numbers per token and layer. After how many tokens does its cache take more bytes than Mamba-2 with $N=64$? Convolutions left aside.
# ```
#
# ````{solution} recall-cache
# :class: dropdown
#
# $64 \cdot 48 / 96 = 32$ tokens: just the length of this task. It is no accident that toy tasks flatter the cache; at 1000 tokens the state is 32 times smaller.
# ````
#
# ```{exercise} Bits
# :label: recall-bits
#
# Eight values, each one of 32: how many bits are that at most, and how many does the state of linear attention with $K=8$ hold?
# ```
#
# ````{solution} recall-bits
# :class: dropdown
#
# $8 \log_2 32 = 40$ bits, and a little more to say which key each belongs to; two layers keep 4608 bytes, 36,864 bits. About a thousandth is used: numbers in 32 bits are wasteful, one of the layers only prepares, and the model must be right for keys in any order.
# {doc}`/book/compare` counts bits per byte for all kinds of memory.
# ````
#
# **Next.** What a state cannot do at any size, and what helps: {doc}`12_parity`.
