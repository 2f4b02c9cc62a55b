# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # Between one matrix and all tokens: a memory that grows with log t
#
# **Question.** A fixed matrix is cheap and blurs everything alike. A cache of all tokens is exact and grows without end. What lies between, if the memory may grow, but only by one matrix each time the text *doubles*?
#
# **Your prediction, before you read on.** 511 pairs of a key and a value were written, keys of 32 numbers. A single matrix gives back about one value in five, however old. The memory below holds the newest pair in a matrix of its own, the two before it in another,
# the four before those in a third, and so on: nine matrices, the oldest for 256 pairs. How many of the values will it give back that are 1, 10, 100 and 500 pairs old? And how many after the *512th* pair?

# %%
import torch
from torch.nn import functional as F

from minimem import check, core, forms, show
from minimem.catalog import card
from minimem.state import log_linear

torch.set_num_threads(1)
SEEDS = range(5)

# %% [markdown]
# (log_linear)=
# ## A binary counter of matrices

# %%
card("log_linear")


# %% [markdown]
# ### Build it
#
# Two blocks of one size become one block of twice the size: their matrices are added. That is how a binary counter carries, so after $T$ pairs there is one matrix for each 1 among the binary digits of $T$.
# A token reads all of them, each with a weight $w^{(l)}$ of its own choice, and itself at level 0.

# %%
def step(state, q, k, v, a, w):
    state = {l: a.exp()[..., None] * S for l, S in state.items()}                          # (2) all fade
    state[0] = k[..., :, None] * v[..., None, :]                                           # (2) the token itself
    o = sum(w[..., l, None] * (q[..., None, :] @ S)[..., 0, :] for l, S in state.items())  # (1)
    l, S = 1, state.pop(0)
    while l in state:                                                                      # (2) carry: 0111 + 1 = 1000
        l, S = l + 1, S + state.pop(l)
    return {**state, l: S}, o


token = [x[..., -1, :] for x in check.inputs("qkvaw", T=24)]
_, state = log_linear.chunked(*check.inputs("qkvaw", T=23))
check.same(step, log_linear.step, state, *token)
print("after 23 tokens, 23 = 10111 in binary: levels", sorted(state), "  after the 24th, 24 = 11000:", sorted(step(state, *token)[0]))

# %% [markdown]
# Which matrix holds which token? Left: the level at which token $t$ (down) reads token $j$ (across): small blocks near, large ones far. Right: what is kept after $T$ tokens, in the same unit as one matrix.

# %%
plt = show.style()
fig, axes = plt.subplots(1, 2, figsize=(9.4, 3.9))
t = torch.arange(32)
level = torch.tensor([[(i ^ j).bit_length() if j <= i else -1 for j in range(32)] for i in range(32)])
image = axes[0].imshow(level, cmap="YlOrBr", vmin=-1, vmax=6)
for n in range(3, 6):
    axes[0].text(31.5 - 0.75 * 2 ** n, 31.5 - 0.25 * 2 ** n, n, ha="center", va="center", size=9, color="white" if n > 4 else "black")
axes[0].set(title="level: 0 is the token itself, then 1, 2, …", xlabel="token that is read, j", ylabel="token that reads, t")
axes[0].grid(False)
K, V, far = 32, 64, 512
one = torch.ones(far, 1)
kept, state = [], {}
for _ in range(far):
    state, _ = log_linear.step(state, *torch.zeros(2, K), torch.zeros(V), torch.zeros(1), torch.ones(11))
    kept.append(core.nbytes(state) / (4 * K * V))
axes[1].step(range(1, far + 1), kept, where="post", color=show.KIND_COLOUR["state"], lw=1, label="log-linear")
axes[1].plot(range(1, far + 1), [T * (K + V) / (K * V) for T in range(1, far + 1)], "--", color="#595959", label="all keys and values")
axes[1].axhline(1, color="black", ls=":", label="one matrix")
axes[1].set(title="bytes kept, in matrices of 8 KiB", xlabel="tokens so far", ylabel="matrices", ylim=(0, 13))
axes[1].legend()
fig.tight_layout()
assert kept == [T.bit_count() for T in range(1, far + 1)]

# %% [markdown]
# The line on the right is no smooth logarithm but a saw: after 511 tokens nine matrices, after 512 a single one.
#
# ### Recall against distance
#
# Random keys of $K = 32$ numbers, written once; each value is one of 64 code words. After the last pair every key is asked for its value. Five memories with the *same* $K$:
#
# - **all pairs**, read by softmax attention;
# - **one matrix**: linear attention;
# - **one fading matrix**, which halves what it knows every 22 pairs ($a = -1/32$);
# - **log-linear, told the level**: weight 1 where the asked pair is, 0 elsewhere. No memory knows that; it is the best that weights can do, and what a trained model may come near to when the question tells how long ago;
# - **log-linear, fixed weights** $w^{(l)} = 2^{-(l-1)/2}$, so that every level disturbs equally.
#
# The metric was fixed before the run: recall in each octave of distance (1, 2 to 3, 4 to 7, …), five seeds of 50 streams.

# %%
def stream(T, K, seed, draws=50):
    r = torch.Generator().manual_seed(seed)
    k = F.normalize(torch.randn(draws, T, K, generator=r), dim=-1)
    codes, answer = F.normalize(torch.randn(64, V, generator=r), dim=-1), torch.randint(64, (draws, T), generator=r)
    return k, codes, answer


def recall(T, seed):
    """Per memory, the share of right answers for the pairs 1, 2 to 3, 4 to 7, … pairs ago; and the number of matrices."""
    k, codes, answer = stream(T, 32, seed)
    v, no = codes[answer], torch.zeros_like(k[..., :1])
    _, state = log_linear.chunked(k, k, v, no, torch.ones(*k.shape[:2], 11))
    at = torch.tensor([(T ^ j).bit_length() for j in range(T)])
    reads = {l: k @ S for l, S in state.items()}
    said = {"all pairs": (32 * k @ k.mT).softmax(-1) @ v, "one matrix": sum(reads.values()),
            "one fading matrix": k @ forms.gated(k, k, v, no - 1 / 32)[1],
            "log-linear, told the level": sum(x * (at == l)[:, None] for l, x in reads.items()),
            "log-linear, fixed weights": sum(x * 2 ** (-(l - 1) / 2) for l, x in reads.items())}
    wide, wide_codes, wide_answer = stream(T, 32 * len(state), seed)
    said_wide = wide @ forms.gated(wide, wide, wide_codes[wide_answer])[1]
    right = {name: ((x @ codes.mT).argmax(-1) == answer).float().mean(0) for name, x in said.items()}
    right["one matrix, as many bytes"] = ((said_wide @ wide_codes.mT).argmax(-1) == wide_answer).float().mean(0)
    ago = (T - torch.arange(T)).log2().long()
    return {name: torch.stack([x[ago == n].mean() for n in range(int(ago.max()) + 1)]) for name, x in right.items()}, len(state)


runs = [recall(511, seed) for seed in SEEDS]
found = {name: torch.stack([r[name] for r, _ in runs]) for name in runs[0][0]}
assert {n for _, n in runs} == {9}

# %%
plt = show.style()
fig, ax = plt.subplots(figsize=(6.6, 3.8))
looks = {"all pairs": ("#595959", "o--"), "log-linear, told the level": (show.KIND_COLOUR["state"], "s-"), "log-linear, fixed weights": (show.KIND_COLOUR["state"], "v:"),
         "one fading matrix": ("#7a3b00", "^-."), "one matrix": ("black", "x-")}
for name, (colour, look) in looks.items():
    ax.errorbar(2 ** torch.arange(9), found[name].mean(0), found[name].std(0), fmt=look, color=colour, ms=4, capsize=2, label=name)
ax.set(xscale="log", xlabel="pairs since it was written (octaves)", ylabel="recall", title="511 pairs, keys of 32 numbers", ylim=(-0.03, 1.05))
ax.set_xticks([2 ** n for n in range(9)], [2 ** n for n in range(9)])
ax.minorticks_off()
ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
fig.tight_layout()

# %% [markdown]
# The claim of the catalog: about $\log T$ matrices stand between one and all; old tokens stay readable, more coarsely. The last rows are its two reverses: the same *bytes* in one wide matrix, and one token more.

# %% tags=["claim-log_linear"]
print(f"{'recall, pairs ago':28}" + "".join(f"{2 ** n:>6}" for n in range(9)) + "     all")
for name, x in found.items():
    print(f"{name:28}" + "".join(f"{y:6.2f}" for y in x.mean(0)) + f"   {x.mean(1).mean():.2f} ± {x.mean(1).std():.2f}")
told, one, fading, wide = (found[n] for n in ("log-linear, told the level", "one matrix", "one fading matrix", "one matrix, as many bytes"))
assert (found["all pairs"] > 0.99).all()
assert (told > one + 0.1).all() and (told.mean(1) < 0.95).all()                # between, at every distance
assert (told[:, 6:].diff(dim=1) < -0.1).all()                                  # more coarsely the older
assert (told[:, 7:] > 0.3).all() and (fading[:, 7:] < 0.05).all()              # and still there where a fading matrix has nothing
assert (wide[:, 7:] > told[:, 7:] + 0.2).all()                                 # but bytes in one wide matrix serve old pairs better
after = [recall(512, seed) for seed in SEEDS]
same = all(torch.equal(r["log-linear, told the level"], r["one matrix"]) for r, _ in after)
print(f"\nafter 512 pairs: {after[0][1]} matrix; log-linear, told the level, reads as one matrix does: {same}")
assert same

# %% [markdown]
# ## What to notice
#
# - **Old tokens stay readable, more coarsely.** A pair shares its matrix with as many others as it is old. So recall falls by octaves: perfect up to 16 pairs, about two thirds at 128, twice as good as one matrix at 256. Forgetting by a gate falls off a cliff instead.
# - **A saw, not a slope.** After 512 pairs all nine matrices have become one, and the memory *is* linear attention. After 511 it is nine times as large. Who measures such a memory at powers of two measures its worst.
# - **Limit: at equal bytes it loses on old pairs.** One matrix with keys nine times as wide has the same bytes and gives back 95 in 100, however old. Log-linear attention saves *parameters and key width*, not bytes; and only the read weights, made by the token that asks, can turn its blocks into answers.
#   Here they were told, not learned. With fixed weights it remembers the newest pairs only, as a gate does.
#
# ## Break it
#
# In `step`, leave out the loop that carries and write `return {**state, len(state) + 1: S}, o`: one matrix a token. The outputs of the battery's `agrees` are then wrong, for the weights belong to other blocks, and `growth` is no longer `log`. With all weights 1, is anything wrong at all?
# (No output is: sums do not care who holds the summands. Only the bytes tell.)
#
# ```{exercise} When is it full?
# :label: log-linear-full
#
# At which numbers of tokens up to 1,000 does the memory hold most matrices, and at which only one? How many does it hold on average?
# ```
#
# ````{solution} log-linear-full
# :class: dropdown
#
# Most at 511, nine; 767, 895, 959, 991 have nine too. One at 1, 2, 4, …, 512. On average half of the binary digits are ones: about 5.
#
# ```python
# ones = [T.bit_count() for T in range(1, 1001)]
# print(max(ones), [T for T, n in enumerate(ones, 1) if n == max(ones)], sum(ones) / 1000)
# ```
# ````
#
# ```{exercise} A level of its own for the newest 16
# :label: log-linear-16
#
# Suppose blocks begin at 16 tokens: the newest 16 are kept as keys and values, and only then become a matrix of 32 × 64 numbers. How many bytes does that save or cost after 511 tokens?
# ```
#
# ````{solution} log-linear-16
# :class: dropdown
#
# The four matrices of levels 1 to 4 (1 + 2 + 4 + 8 = 15 tokens) take 4 · 32 · 64 numbers; 15 keys and values take 15 · (32 + 64). That is 8,192 against 1,440 numbers: it saves six sevenths of them. Small blocks cost more than their tokens.
# ````
#
# ## Next
#
# What does one more token cost in each of these memories? [The next lab](10_constant_cost.ipynb) counts.
