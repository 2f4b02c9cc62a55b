# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # RoPE in two layouts: the same numbers, read in the wrong order
#
# **Question.** A model tells places in the text apart by turning its queries and keys, two coordinates at a time. Two conventions are in use for *which* two: neighbours, or one from each half. A file of weights does not say which it means.
# What happens to a good model that is read by the wrong convention? No error is raised, every shape fits, every number is finite.
#
# **Your prediction, before you read on.** The model guesses the next token among 49,152. Read rightly, its perplexity on plain English is about 10: it might as well have guessed among ten. Read wrongly: a little more, ten times as much, or 49,152?

# %%
import pydoc_data.topics
from dataclasses import replace

import torch

from minimem import check, show
from minimem.catalog import card, result
from minimem.position.rope import frequencies, halves_from_pairs, rotate_halves, rotate_pairs
from minimem.pretrained import load, surprise

torch.set_num_threads(1)

# %% [markdown]
# (rope)=
# ## Turning by place
#
# Attention compares a query with each key by a product, and a product knows nothing of order. RoPE {cite:p}`su2021rope` takes the coordinates two by two, each pair a point in a plane, and turns pair $i$ by the angle $t\,\theta_i$ at place $t$.
# If both the query and the key are turned, the product of the two depends on the *difference* of their angles alone: on how far apart the two tokens stand, not where.

# %%
card("rope")

# %% [markdown]
# ### Build it
#
# One line is the whole rule: a point $(a, b)$ turned by an angle is $(a\cos - b\sin,\ a\sin + b\cos)$. The layouts differ only in what $a$ and $b$ are.


# %%
def pairs(x, positions, base=10000.0):
    theta = base ** (-torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])          # (1)
    angle = positions.double()[:, None] * theta
    a, b = x[..., 0::2], x[..., 1::2]                                        # neighbours
    return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).flatten(-2)      # (2)


def halves(x, positions, base=10000.0):
    theta = base ** (-torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
    angle = positions.double()[:, None] * theta
    a, b = x.chunk(2, -1)                                                    # one from each half
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


q, k, _ = check.inputs("qkv", T=20)
at = torch.arange(20)
check.same(pairs, rotate_pairs, q, at)
check.same(halves, rotate_halves, q, at)
near, far = (pairs(q, at + start) @ pairs(k, at + start).mT for start in (0, 1000))
print("the same scores a thousand tokens later:", torch.allclose(near, far))
order = [0, 2, 4, 1, 3, 5]                                                   # even coordinates first, then odd ones
print("the same scores in the other layout, coordinates reordered:", torch.allclose(near, halves(q[..., order], at) @ halves(k[..., order], at).mT))

# %% [markdown]
# How fast do they turn? SmolLM2-135M {cite:p}`allal2025smollm2` has 64 coordinates a head, so 32 pairs, and $\beta = 100{,}000$. The first pair turns once in 6 tokens. The last turns once in 438,000, and in the longest text of its training,
# 8,192 tokens, it went through 7 degrees. Each row is one pair, drawn at some places of a text:

# %%
plt = show.style()
theta, places = frequencies(64, 100_000.0), [0, 1, 2, 4, 8, 32, 128, 512, 2048, 8191]
rows = [0, 4, 8, 14, 19, 25, 31]
fig, axes = plt.subplots(len(rows), len(places), figsize=(8.2, 6.0))
for r, i in enumerate(rows):
    for c, t in enumerate(places):
        ax, angle = axes[r, c], t * theta[i]
        ax.add_patch(plt.Circle((0, 0), 1, fc="white", ec="0.7"))
        ax.annotate("", (angle.cos(), angle.sin()), (0, 0), arrowprops={"arrowstyle": "-|>", "color": show.KIND_COLOUR["cache"], "lw": 1.6, "shrinkA": 0, "shrinkB": 0})
        ax.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal")
        ax.axis("off")
        if r == 0:
            ax.set_title(f"t = {t:,}", size=9)
    wave = float(2 * torch.pi / theta[i])
    axes[r, 0].text(-1.5, 0, f"pair {i}\nturns once in\n{wave:,.0f} tokens", ha="right", va="center", size=8.5)
fig.subplots_adjust(left=0.15, right=0.99, top=0.94, bottom=0.01, wspace=0.05, hspace=0.05)
turns = 8192 * theta / (2 * torch.pi)
print(f"pairs that never complete a turn in 8,192 tokens: {int((turns < 1).sum())} of 32, from pair {int((turns < 1).nonzero()[0])} on")

# %% [markdown]
# Fast pairs tell apart tokens that stand next to each other, and say the same again every few tokens. Slow pairs hardly turn within a page: what is written in them is compared as if there were no positions.
# The twelve slowest have never completed a turn. Past 8,191 they would show angles that no training has seen: that is why RoPE alone does not reach beyond its training, and where {doc}`16_interpolation` begins.
#
# ## The experiment
#
# The weights come in a GGUF file, whose rows of $W_q$ and $W_k$ are ordered for neighbours; transformers orders the rows of the same model for halves. `halves_from_pairs` changes one into the other. So there are two orders of the rows and two ways to turn:
# four models. The same weights, to the last bit.

# %%
model = load()
heads = {"attn_q.": model.heads, "attn_k.": model.kv_heads}
reordered = replace(model, weights={name: next((halves_from_pairs(w, n) for part, n in heads.items() if part in name), w) for name, w in model.weights.items()})
readings = {"file's rows, neighbours": (model, rotate_pairs), "reordered rows, halves": (reordered, rotate_halves),
            "file's rows, halves": (model, rotate_halves), "reordered rows, neighbours": (reordered, rotate_pairs)}

# %% tags=["nbval-ignore-output"]
topics = pydoc_data.topics.topics
ids = model.encode("\n\n".join(topics[name] for name in sorted(topics)))
passages = [ids[start:start + 129] for start in (20_000, 40_000, 60_000)]
ppl = {name: [surprise(m, x, rotate=rotate).mean().exp().item() for x in passages] for name, (m, rotate) in readings.items()}
print("perplexity of three passages of 128 tokens")
for name, x in ppl.items():
    print(f"{name:28}", *(f"{p:8.1f}" for p in x))

# %% [markdown]
# The row's own measure takes 1,024 tokens a passage, and is stored with the command that makes it (`python benchmarks/four_perplexities.py`): right and right agree, wrong is more than ten times right, on every passage.
# On the short passages above, where even the right reading has little to go by, wrong is more than four times right.

# %% tags=["claim-rope"]
stored = result("four_perplexities")["data"]
for p in [stored["tried before"], *stored["passages"].values()]:
    right = [p["pairs, rows as in the file"], p["halves, rows reordered"]]
    wrong = [p["halves, rows as in the file"], p["pairs, rows reordered"]]
    assert abs(right[0] - right[1]) < 0.02
    assert min(wrong) > 10 * max(right)
for a, b, c, d in zip(*ppl.values()):
    assert abs(a / b - 1) < 0.001 and min(c, d) > 4 * a                       # 128 tokens: the right reading has less to go by

# %% tags=["nbval-ignore-output"]
plt = show.style()
fig, ax = plt.subplots(figsize=(6.8, 2.9))
every = {"first 1,024 tokens": stored["tried before"], **{f"from token {int(n):,}": p for n, p in stored["passages"].items()}}
labels = {"pairs, rows as in the file": "file's rows, neighbours", "halves, rows reordered": "reordered rows, halves",
          "halves, rows as in the file": "file's rows, halves", "pairs, rows reordered": "reordered rows, neighbours"}
for i, what in enumerate(labels):
    for n, (mark, (name, p)) in enumerate(zip("osD^", every.items())):
        ax.plot(p[what], i + 0.14 * (n - 1.5), mark, ms=6, color=show.KIND_COLOUR["cache"] if i < 2 else "#c23b22", mfc="white" if n == 0 else None,
                label=name if i == 0 else None)
ax.set(xscale="log", xlim=(5, 60_000), xlabel="perplexity, 1,024 tokens", yticks=range(4), yticklabels=labels.values())
ax.axvline(49152, color="black", lw=1)
ax.text(45_000, 1.5, "blind guessing", rotation=90, size=8, ha="right", va="center")
ax.invert_yaxis()
ax.legend(fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.4, 1), handletextpad=0.1, columnspacing=1)
fig.tight_layout()

# %% [markdown]
# ## Why it breaks
#
# A token's score for *itself* is untouched: at distance 0 nothing is turned. At every other distance, coordinates are turned with a partner, and at a speed, that their weights were not made for. Look at what each head makes of distance: how much of its attention goes 0, 1, 2 … tokens back, on the mean over a passage?
# Left, the head that looks most at the token just before, one of those on which copying rests.


# %% tags=["nbval-ignore-output"]
def by_distance(m, rotate, ids):
    """Mean share of attention, by layer, head and distance 0 … 15: (270, 16)."""
    found = []

    def watched(q, k, v, state, turn):
        t = torch.arange(q.shape[-2])
        s = turn(q, t) @ turn(k, t).unsqueeze(-3).mT / q.shape[-1] ** 0.5
        w = s.masked_fill(t > t[:, None], -torch.inf).softmax(-1)
        found.append(torch.stack([w.diagonal(-d, -2, -1).mean(-1) for d in range(16)], -1).flatten(0, 1))
        return w @ v.unsqueeze(-3), None
    surprise(m, ids, rotate=rotate, attention=watched)
    return torch.cat(found)


right, wrong = by_distance(model, rotate_pairs, passages[0]), by_distance(model, rotate_halves, passages[0])
head = right[:, 1].argmax()
plt = show.style()
fig, axes = plt.subplots(1, 2, figsize=(8.2, 3.0))
for x, mark, colour, name in ((right, "o-", show.KIND_COLOUR["cache"], "neighbours (right)"), (wrong, "s--", "#c23b22", "halves (wrong)")):
    axes[0].plot(x[head], mark, color=colour, ms=4, label=name)
    axes[1].plot(x[:, 1].sort(descending=True).values, mark[1:], color=colour, lw=2, label=name)
axes[0].set(xlabel="distance back, tokens", ylabel="share of attention", ylim=(0, 1), xticks=range(0, 16, 3), title=f"layer {head // 9}, head {head % 9}")
axes[1].set(xlabel="the 270 heads, sorted", ylabel="share on the token just before", ylim=(0, 1), title="all heads")
axes[0].legend()
fig.tight_layout()
assert right[head, 1] > 0.5 and wrong[head, 1] < 0.1 * right[head, 1]

# %% [markdown]
# ## What to notice
#
# - **Nothing warns you.** Shapes, types, norms of queries and keys, even the scores at distance 0 are right. Only the loss, or a comparison with somebody else's code, tells. A wrong model still beats blind guessing by a factor of a hundred: it knows how often words occur, and looks like a model that was trained badly.
# - **There is no right layout**, only the right one for given rows. The two right readings agree to the printed digits, because a fixed order of coordinates changes no product.
# - RoPE adds no bytes to the memory. But keys that were turned *before* they are stored are tied to their frequencies and places for good. The caches of this book keep keys unturned, and turn them at each read.
# - **A limit.** This shows that the trained weights need their layout, not that RoPE is a good code of positions. Trained from scratch, either layout does equally well.
#
# ## Break it
#
# Thirty layers are wrong in the readings above. How bad is *one*? Give one layer rows in the other order, and leave all others as they are.

# %% tags=["nbval-ignore-output"]
alone = {}
for layer in (0, 1, 10, 20, 29):
    mixed = replace(model, weights={name: reordered.weights[name] if name.startswith(f"blk.{layer}.") else w for name, w in model.weights.items()})
    alone[layer] = surprise(mixed, passages[0], rotate=rotate_pairs).mean().exp().item()
print("perplexity, all layers right:", f"{ppl[list(ppl)[0]][0]:.1f};", "one wrong:", {layer: f"{p:.1f}" for layer, p in alone.items()})

# %% [markdown]
# One layer alone does next to nothing: the others carry on with what the residual stream still holds. Thirty of them multiply the perplexity by six, on the same passage. A port of a model that gets *one* layer wrong will pass for a slightly worse model; compare logits, not impressions.
#
# ```{exercise} Which pairs matter?
# :label: four-pairs
#
# Stop the twelve slowest pairs of SmolLM2 from turning at all (`theta` with zeros), then, instead, the twelve fastest. Predict the perplexities first.
# ```
#
# ````{solution} four-pairs
# :class: dropdown
#
# ```python
# from functools import partial
#
# for stop in (slice(20, 32), slice(0, 12)):
#     still = frequencies(64, model.base)
#     still[stop] = 0
#     print(surprise(model, passages[0], rotate=partial(rotate_pairs, theta=still)).mean().exp())
# ```
# The slowest: not one digit changes. Within 128 tokens even the fastest of them turns by less than six degrees. The fastest: 259, as bad as the wrong layout. In a text of 8,000 tokens the slow ones would be missed.
# ````
#
# ```{exercise} The reverse
# :label: four-reverse
#
# Write `pairs_from_halves(W, heads)`, for a file in transformers' order that is to be turned by neighbours. How do you know that it is right, without a model?
# ```
#
# ````{solution} four-reverse
# :class: dropdown
#
# ```python
# def pairs_from_halves(W, heads):
#     return W.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(W.shape)
#
#
# W = torch.randn(24, 5)
# print(torch.equal(pairs_from_halves(halves_from_pairs(W, 3), 3), W))
# ```
# ````
#
# ```{exercise} A rotation that forgets where it is
# :label: four-short
#
# Angles are computed in float64 here. In bfloat16 the numbers above 256 are even, then multiples of 4, and so on. Which pairs suffer first, those that turn fast or those that turn slowly? Round the positions with `positions.bfloat16()` and look.
# ```
#
# ````{solution} four-short
# :class: dropdown
#
# ```python
# x = ids[20_000:20_513]
#
# def rounded(x, positions, base):
#     return rotate_pairs(x, positions.bfloat16(), base)
#
# for rotate in (rotate_pairs, rounded):
#     print(surprise(model, x, chunk=512, rotate=rotate)[256:].mean().exp())
# ```
# The fast ones: an error of one token is a whole radian for pair 0, and nothing for pair 31. Past 256, neighbours fall on the same place, and the perplexity goes from 15 to 21.
# ````
#
# **Next.** What to do with the pairs that never completed a turn, when the text grows longer than the training: {doc}`16_interpolation`.
