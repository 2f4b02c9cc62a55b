# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # How far back? Distances added to the scores
#
# **Question.** Attention compares a query with every key, and by itself it cannot tell the last word from one a thousand words ago. Three papers tell it by adding something to each score that depends on the **distance** alone:
# a learned vector (Shaw), a learned number for each head (T5), a fixed penalty (ALiBi). What does each of them say about a distance that never came up in training?
#
# **Your prediction, before you read on.** A model with ALiBi has learned from texts of 64 characters. Its loss stays as good at 256 and at 1,024. Does it then make use of what was said 250 characters ago? Say yes or no, and remember it.

# %%
import math
from functools import partial

import torch

from minimem import check, core, show
from minimem.cache import full
from minimem.catalog import card, result
from minimem.position import alibi, relative

torch.set_num_threads(1)

# %% [markdown]
# (relative)=
# ## Learned: Shaw and T5
#
# Shaw adds to each key a vector for its distance, up to a limit $n$ beyond which all distances share the last one {cite:p}`shaw2018relative`. As the query meets the sum of both, the vector's part of the score is $q_t \cdot r_d$: it depends on what is asked.
# T5 keeps only a number for each head, the same for all queries {cite:p}`raffel2020t5`. Near distances have a number each; farther ones share one of 16 buckets that get wider, and from about 113 on there is a single one.

# %%
card("relative")

# %% [markdown]
# (alibi)=
# ## Fixed: ALiBi
#
# ALiBi learns nothing {cite:p}`press2022alibi`: head $h$ takes $m_h$ nats off a score for every token of distance. With eight heads the slopes are ½, ¼, … 1/256. A key $1/m_h$ tokens back counts $e$ times less than one that says the same and is near.

# %%
card("alibi")

# %% [markdown]
# ### Build it
#
# One token at a time. `row` holds what is added at distance 0, 1, 2, …; its last entry serves all that is farther. ALiBi, T5 and Shaw differ in the row alone.

# %%
def step(S, q, k, v, bias):
    S = {"k": torch.cat([S["k"], k[..., None, :]], -2), "v": torch.cat([S["v"], v[..., None, :]], -2)}
    n = S["k"].shape[-2]
    row = bias(q[..., None, :], n)                                          # (H, 1, R); Shaw: (..., H, 1, R), a row for each query
    far = (n - 1 - torch.arange(n)).clamp(max=row.shape[-1] - 1)            # t − j
    s = q[..., None, :] @ S["k"].mT / q.shape[-1] ** 0.5 + row[..., far]    # (1), (2)
    return S, (s.softmax(-1) @ S["v"])[..., 0, :]


q, k, v = check.inputs("qkv", T=40, lead=(2, 4))
torch.manual_seed(0)
t5, shaw = relative.T5(4, buckets=8, farthest=20).double(), relative.Shaw(6, n=8).double()
for learned in (t5.table.weight, shaw.keys):
    torch.nn.init.normal_(learned)
for name, bias in (("ALiBi", alibi.bias), ("T5", t5), ("Shaw", shaw)):
    whole, state = full.parallel(q, k, v, bias=bias)
    check.same(step, full.step, state, *(x[..., 0, :] for x in (q, k, v)), bias=bias)
    empty = {n: x[..., :0, :] for n, x in state.items()}
    one_by_one, _ = core.run(partial(step, bias=bias), empty, q, k, v)
    print(f"{name:6} row {tuple(bias(q, 40).shape)!s:15} by blocks, all tokens at once, the same: {torch.allclose(one_by_one, whole)}")

# %% [markdown]
# How many numbers is that? For six tokens, six a head, not 36: the matrix of biases holds the same number all along each diagonal (a *Toeplitz* matrix), so a view of one line, each row beginning a place earlier than the last, shows all of it and stores nothing.
# And if only differences within a row matter, still less will do. Bloom adds $m_h\,j$, one number for each *key*: in every row that is ALiBi's bias plus a constant, which the softmax does not see.

# %%
T = 6
row = alibi.bias(q, T)[1, 0]                                                # one head: −m·d
line = torch.cat([row.flip(0), row.new_full((T - 1,), -torch.inf)])         # farthest … nearest, then what lies ahead
view = line.unfold(0, T, 1)                                                 # the last query first
assert view.shape == (T, T) and view.untyped_storage().nbytes() == core.nbytes(line)
matrix = view.flip(0)
bloom = torch.where(matrix.isinf(), matrix, alibi.slopes(4)[1] * torch.arange(T))
print((matrix + 0).numpy())
print("after the softmax the same as Bloom's:", torch.allclose(matrix.softmax(-1), bloom.softmax(-1)))

# %% [markdown]
# Shaw's values are the harder half: what is read gets a vector of its distance too, $\sum_j p_{tj}(v_j + r^V_{t-j})$. Taken literally that is a $T \times T \times V$ array. But all keys at distance $n$ or more share one vector.
# (For 10,000 tokens and 64 numbers a value, 25.6 GB in 32 bit.)
# So the keys fall into two groups: the $n$ nearest, gathered for each query, and all others, read as in plain attention and shifted once. The two are joined under one softmax by their denominators ({func}`minimem.forms.merge`).

# %%
def as_written(q, k, v, keys, values):
    d = torch.arange(q.shape[-2])[:, None] - torch.arange(q.shape[-2])
    c = d.clamp(0, len(keys) - 1)
    s = (q[..., None, :] * (k[..., None, :, :] + keys[c])).sum(-1) / q.shape[-1] ** 0.5         # (1), T × T × K
    p = s.masked_fill(d < 0, -torch.inf).softmax(-1)
    return (p[..., None] * (v[..., None, :, :] + values[c])).sum(-2)


values = torch.randn(9, 4, dtype=torch.float64)                            # n = 8
check.same(relative.shaw, as_written, q, k, v, shaw.keys, values)

# %% [markdown]
# What they add, by distance. T5's numbers below are not drawn by hand: they are what the models of this lab's experiment learned on 64 characters.

# %%
plt = show.style()
stored = result("extrapolation")["data"]
fig, axes = plt.subplots(1, 3, figsize=(10.4, 3.2))
d = torch.arange(200)
blues = ("#0b2a4a", "#1f5fa8", "#7aa6d6", "#a9a9a9")
eight = alibi.bias(torch.ones(8, 1, 2), 200)[:, 0]
for h in range(8):
    axes[0].plot(d, eight[h], color=blues[h // 2], ls="-" if h % 2 == 0 else "--")
    x = min(165, int(11 / alibi.slopes(8)[h]))
    axes[0].annotate(f"1/{2 ** (h + 1)}", (x, eight[h, x]), size=8, xytext=(1, 1), textcoords="offset points")
axes[0].set(ylim=(-12, 0.4), title="ALiBi: eight heads and their slopes", ylabel="added to the score (nats)")
axes[1].step(d, relative.bucket(d), where="post", color=blues[1])
axes[1].axvline(64, color="0.7", lw=1)
axes[1].set(title="T5: 32 buckets", ylabel="bucket")
for h, (colour, line) in enumerate(zip(blues, ("-", "--", "-.", ":"))):
    axes[2].plot(stored["rows"]["T5"][0]["learned"][h], color=colour, ls=line, label=f"head {h}")
axes[2].axvline(64, color="0.7", lw=1)
axes[2].annotate("trained: 64", (67, -1.6), size=8, color="0.4")
axes[2].set(title="T5: what one model learned", ylabel="added to the score (nats)")
axes[2].legend(fontsize=8)
for ax in axes:
    ax.set_xlabel("distance (tokens)")
fig.tight_layout()

# %% [markdown]
# ## The window that ALiBi has
#
# Suppose that all keys fit a query equally well. How many tokens back must one go to find 99% of a head's attention? And by how many nats must a key 250 tokens back fit *better* than the one at hand to get the same weight? The second number is just $250\,m_h$.

# %%
m = alibi.slopes(8)
share = alibi.bias(torch.ones(8, 1, 2).double(), 4000)[:, 0].softmax(-1).cumsum(-1)
print("slope   99% of the attention within   a key 250 back must win by")
for h in range(8):
    print(f"1/{round(1 / m[h].item()):<5} {(share[h] < 0.99).sum() + 1:>12} tokens {250 * m[h]:>25.0f} nats")

plt = show.style()
for h in range(8):
    plt.plot(range(1, 4001), share[h], color=blues[h // 2], ls="-" if h % 2 == 0 else "--", label=f"1/{2 ** (h + 1)}")
plt.axvline(64, color="0.7", lw=1)
plt.text(67, 0.03, "trained length of the experiment", size=8, color="0.4")
plt.xscale("log")
plt.xlabel("the nearest … tokens")
plt.ylabel("share of the attention,\nall keys fitting alike")
_ = plt.legend(title="slope", fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))

# %% [markdown]
# Half of the heads are blind beyond a few dozen tokens, whatever they learn: no head wins by 60 nats. What reaches far are the last two or three. So there are two ways to be wrong about ALiBi: that it remembers everything because its loss stays flat, and that it is a window with an edge.
#
# ## What they do to a model
#
# The experiment of {doc}`22_extrapolation` trains small models with four heads on texts of 64 characters and reads up to 1,024; its results are stored, on three seeds. Of each model we ask two things. *Loss*: how well is the next character predicted, with 64, 256 or 1,024 characters in sight?
# *Recall*: a fact, one token, was said $d$ tokens ago; does it come back when asked for? One in eight would be a guess. "Steep" is ALiBi with the slopes ½ to 1/16 alone. What counts was fixed before the run.

# %% tags=["claim-alibi"]
rows = stored["rows"]


LOSS, RECALL = ("64", "256", "1024"), ("48 of 64", "250 of 256", "1000 of 1024")


def seeds(runs, what, *columns):
    """A row for each seed, a column for each length, or distance and length."""
    return torch.tensor([[run[what][c] for c in columns] for run in runs])


def table(arms):
    print(f"{'':24}" + "".join(f"{h:15}" for h in ("loss at 64", "at 256", "at 1024", "back over 48", "over 250", "over 1000")))
    for name, runs in arms.items():
        both = torch.cat([seeds(runs, "sliding", *LOSS), seeds(runs, "recall", *RECALL)], 1)
        print(f"{name:24}" + "    ".join(f"{a:.2f} ± {b:.2f}" for a, b in zip(both.mean(0), both.std(0))))


table({name: rows[name] for name in ("ALiBi", "ALiBi, steep", "RoPE")})
flat, broken = ((x[:, 1] - x[:, 0]) for x in (seeds(rows[arm], "sliding", "64", "256") for arm in ("ALiBi", "RoPE")))
assert (flat < 0.1).all() and (broken > 0.5).all()                              # the loss of ALiBi stays, that of RoPE does not …
near, far = seeds(rows["ALiBi"], "recall", "48 of 64").min(), seeds(rows["ALiBi"], "recall", "500 of 512").max()
assert near > 0.7 and far < 0.35                                                # … and what was said is out of reach all the same
few, none = (seeds(rows[arm], "recall", "250 of 256") for arm in ("ALiBi", "ALiBi, steep"))
assert (none <= 0.3).all() and (few > none + 0.1).all()                         # it is the small slopes that still bring back something from 250 …
assert not (few >= none + 0.3).all()                                            # … but not the .3 more, on every seed, that had been asked

# %% [markdown]
# Flat loss is not memory. What RoPE does beyond its length shows what breaking looks like; ALiBi goes on at 1,024 as if nothing had happened, because for its text little has: what matters for the next letter is near. A fact 32 tokens back comes back in a text of 1,024 as well as in one of 64.
# A fact 500 back does not, and with steep slopes one 250 back is gone without a trace.
#
# And the learned ones? The claim fixed before the run was that T5's loss stays flat too. Shaw's vectors, with a limit of 16, got a third line for comparison.

# %% tags=["claim-relative"]
changed = {how: [run["refilled"][how] for run in rows["T5"]] for how in ("as 48 back", "out of sight")}
table({"Shaw": rows["Shaw"], "T5": rows["T5"], "T5, to 48": rows["T5, to 48"], "sinusoidal": rows["sinusoidal"], **{f"T5, far: {how}": runs for how, runs in changed.items()}})
d = torch.arange(10_000)
by_hand = torch.where(d < 16, d, (16 + 16 * (d.clamp(min=1) / 16).log() / math.log(8)).long().clamp(max=31))
assert torch.equal(relative.bucket(d), by_hand)
t5, absolute = (seeds(rows[arm], "sliding", "64", "256") for arm in ("T5", "sinusoidal"))
assert (t5[:, 1] - t5[:, 0] > 0.3).all()                                        # the claim as it was fixed fails: T5's loss is not flat …
assert (t5[:, 1] - t5[:, 0] < absolute[:, 1] - absolute[:, 0]).all()            # … though it rises less than that of absolute positions
shaw, kept = seeds(rows["Shaw"], "sliding", *LOSS), seeds(rows["Shaw"], "recall", *RECALL)
assert (shaw[:, 1] - shaw[:, 0] < 0.1).all() and (kept[:, 2] > 0.6).all()       # Shaw's is, and it remembers
assert (seeds(rows["T5"], "recall", *RECALL).amin(1) > 2 * seeds(rows["ALiBi"], "recall", "1000 of 1024")[:, 0]).all()
hidden, back = seeds(changed["out of sight"], "sliding", *LOSS), seeds(changed["out of sight"], "recall", *RECALL)
assert (hidden[:, 2] - hidden[:, 0] < 0.1).all() and (back[:, 1:] < 0.35).all()

# %% [markdown]
# It fails for T5, and the figure of what T5 learned says where to look. Distances from 64 on never came up in training; their buckets still say 0, *more* than the −1.7 of those just before. So the loss of the finished models was measured again with another number in the far buckets. Put in what the bucket of 48 says, and much of the damage at 256 is repaired.
# What is left is a matter of numbers: each far token gets little weight, but there are ever more of them. Hide them altogether (−20), and the loss is flat to the end. And the fact is gone.
#
# **So must one choose?** No: look at Shaw. It has the best loss of all, it hardly rises, and four of five facts come back over 1,000 tokens. Its vectors are multiplied by the *query*. A query for the next letter can push all that is far away, and a question can let it in. ALiBi and T5 say the same to both, and can only be right for one.
#
# ## What to notice
#
# - **Loss and memory are two questions.** ALiBi is flat and forgets, T5 breaks and remembers, Shaw is flat and remembers. One of the two numbers alone tells you neither.
# - **A bias costs a row, not a matrix**: what depends on the distance alone is one number for each distance, whatever the number of pairs.
# - **T5's rule is not wrong**, its limit is too far for these models: 128 buckets of distance, 64 tokens of training. In T5 itself texts had 512 tokens, so that every bucket was trained.
# - **Limit.** T5 had learned to answer only seven questions of ten, at any distance. Two layers, 64 numbers wide, a thousand steps. A big model has more heads with small slopes and may spread a fact over many layers; the papers report perplexity at up to some ten times the trained length, not recall.
#
# ## Break it
#
# In `step`, write `far = torch.arange(n)`: the place of the key in place of its distance, the commonest slip with these. Which of the three biases notices? (`check.same` fails for all.) And why is the output of the very first token right even so?
#
# ## Exercises
#
# ```{exercise} Twelve heads
# :label: relative-twelve
#
# What are the slopes for twelve heads? First by hand: take those of eight heads, then every second one of sixteen, from the first on, until there are twelve.
# ```
#
# ````{solution} relative-twelve
# :class: dropdown
#
# ½, ¼, … 1/256; then $2^{-1/2}, 2^{-3/2}, 2^{-5/2}, 2^{-7/2}$. `alibi.slopes(12)` says the same. They are not sorted: head 9 looks less far than head 1.
# ````
#
# ```{exercise} One bucket for two hundred tokens
# :label: relative-bucket
#
# In which of T5's 32 buckets is a key 40 tokens back, and which other distances share it? Which distances share the last one?
# ```
#
# ````{solution} relative-bucket
# :class: dropdown
#
# $16 + \lfloor 16 \ln(40/16) / \ln(128/16) \rfloor = 16 + 7 = 23$, with all from 40 to 45; the last bucket, 31, begins at 113 and has no end.
#
# ```python
# d = torch.arange(10_000)
# b = relative.bucket(d)
# print(b[40], d[b == b[40]], d[b == 31][[0, -1]])
# ```
# ````
#
# ```{exercise} Your own bias
# :label: relative-own
#
# Give every head the penalty $\log(1 + d)$ in place of $m_h d$, so that it grows ever more slowly. Write it as a `bias(q, M)` and check that `full.parallel` and your `step` agree. How much better must a key 250 tokens back fit than the one at hand?
# ```
#
# ````{solution} relative-own
# :class: dropdown
#
# ```python
# def slow(q, M):
#     return -torch.arange(1, M + 1).to(q).log().expand(q.shape[-3], 1, M)
#
# whole, state = full.parallel(q, k, v, bias=slow)
# check.same(step, full.step, state, *(x[..., 0, :] for x in (q, k, v)), bias=slow)
# ```
#
# By $\log 251 = 5.5$ nats, within what a head can win by; ALiBi's steepest head would have to win by 125. Such a bias has no far edge, and none that is the same for all distances either: the softmax over ever more keys gets flatter.
# ````
#
# ```{exercise} In somebody else's words
# :label: relative-flex
#
# PyTorch's FlexAttention takes a function of a score and its four indices: batch, head, query, key. Read the solution, then write T5's bias the same way. Which of Shaw's two terms can be written so, and which cannot?
# ```
#
# ````{solution} relative-flex
# :class: dropdown
#
# ```python
# from torch.nn.attention.flex_attention import create_block_mask, flex_attention
#
# q, k, v = check.inputs("qkv", T=40, lead=(2, 4))
# m = alibi.slopes(4).to(q)
# causal = create_block_mask(lambda b, h, t, j: j <= t, None, None, 40, 40, device="cpu")
# theirs = flex_attention(q, k, v, lambda s, b, h, t, j: s - m[h] * (t - j), causal)
# print(torch.allclose(theirs, full.parallel(q, k, v, bias=alibi.bias)[0]))
# ```
# T5: `s + table[relative.bucket((t - j).clamp(min=0)), h]`, with scores that are not divided by $\sqrt K$. Shaw's keys: `s + qr[b, h, t, (t - j).clamp(0, n)]` over $q\,r^\top$, made before. His values cannot be written so: the function changes scores, not what is summed.
# On a CPU this is for reading and checking: without compiling it writes down all $T \times T$ scores, and it has no backward pass.
# ````
#
# **Next.** {doc}`22_extrapolation` puts these beside absolute positions and RoPE, and reads each in two ways.
