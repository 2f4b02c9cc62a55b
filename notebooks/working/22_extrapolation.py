# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # Longer than trained: fluent, or still remembering?
#
# **Question.** A model has learned to read in pieces of 64 characters. Now it gets 1,024. How a model is told the *positions* of its tokens decides what happens: some get worse with the first new position, some go on as before. And those that go on, do they use what they have read?
#
# **Your prediction, before you read on.** Seven ways: a table of waves, a learned table, learned vectors (Shaw) or numbers (T5) for distances, a fixed penalty for distance (ALiBi), queries and keys turned by an angle (RoPE), and no positions at all.
# Which of them predicts the next character as well at 256 as at 64? And which can still say at 250 what was said at the beginning?

# %%
import torch

from minimem import check, show
from minimem.cache import full
from minimem.catalog import card, result
from minimem.lm import fit, small, surprise
from minimem.position import alibi, rope, sinusoidal
from minimem.tasks import documentation, planted

torch.set_num_threads(1)

# %% [markdown]
# (sinusoidal)=
# ## A table of waves
#
# The first Transformer adds a vector to each token, made of sines and cosines of its position {cite:p}`vaswani2017attention`. It exists for every position, however far. Whether a model can do anything with a vector that it never saw is another question.

# %%
card("sinusoidal")

# %% [markdown]
# (learned)=
# ## A learned table
#
# Or the vectors are parameters like any other {cite:p}`gehring2017convs2s`. Then there are as many as there were positions in training, and none after.

# %%
card("learned")

# %% [markdown]
# (nope)=
# ## Nothing
#
# Or there are none. A causal model is not blind to order even so: the first token sees one key, the tenth sees ten {cite:p}`kazemnejad2023nope`.

# %%
card("nope")


# %% [markdown]
# ### Build it

# %%
def table(T, D):
    turn = torch.arange(T).double()[:, None] * 10000.0 ** (-torch.arange(0, D, 2).double() / D)
    return torch.stack([turn.sin(), turn.cos()], -1).flatten(-2)                # (1)


check.same(table, sinusoidal.table, 300, 64)
waves = table(300, 64)
products = waves @ waves.T                                                      # depends on the distance alone
print("p_t·p_s for s = t, t − 1, t − 2, t − 64:", *(f"{products[200, 200 - d]:.1f}" for d in (0, 1, 2, 64)))
print("the same at another place:              ", *(f"{products[100, 100 - d]:.1f}" for d in (0, 1, 2, 64)))

plt = show.style()
fig, axes = plt.subplots(1, 2, figsize=(9.2, 3.2), width_ratios=(1.5, 1))
image = axes[0].imshow(waves[:128].T, cmap="gray", aspect="auto", interpolation="nearest")
axes[0].axvline(63.5, color=show.KIND_COLOUR["state"], lw=2)
axes[0].set(xlabel="position", ylabel="column", title="The table: fast waves above, slow ones below")
axes[0].grid(False)
fig.colorbar(image, ax=axes[0], label="value")
axes[1].plot(range(-100, 101), products[150, 50:251], color="black")
axes[1].set(xlabel="distance", ylabel="$p_t \\cdot p_s$", title="Two rows, multiplied")
fig.tight_layout()

# %% [markdown]
# Right of the line are rows that a model trained on 64 tokens has never added to anything. The fast columns look as before, and the slow ones take values that never came up.
#
# ## Train two
#
# The smallest version: one layer less than in the full one, pieces of 32 characters of the documentation that comes with Python, 250 steps, once with ALiBi and once with RoPE. Then both read 256 characters on end.

# %% tags=["nbval-ignore-output"]
def trained(seed, positions=0, **scheme):
    torch.manual_seed(seed)
    model = small(documentation.VOCAB, 48, [full.Layer(48, 4, **scheme)], mlp=96, positions=positions)
    fit(model, lambda i: documentation.passages(32, 32, seed=1000 * (seed + 1) + i), 250, 6e-3)
    return model


test = documentation.characters()[1][:180 * 257].view(180, 257)
models = {"ALiBi": trained(0, bias=alibi.bias), "RoPE": trained(0, rotate=rope.rotate_halves)}
live = {name: surprise(model, test).mean(0) for name, model in models.items()}
for name, nats in live.items():
    print(f"{name:6}", *(f"places {a + 1:3} to {b:3}: {nats[a:b].mean():.2f} nats   " for a, b in ((16, 32), (32, 64), (64, 128), (128, 256))))
rise = {name: (nats[128:].mean() - nats[16:32].mean()).item() for name, nats in live.items()}
assert rise["ALiBi"] < 0.1 and rise["RoPE"] > 0.25

# %% [markdown]
# ## Eight, twice, on three seeds
#
# The full version (`benchmarks/trained/extrapolation.py`): two layers, 64 characters, 1,000 steps, the same budget for all. In half of the training texts, **facts** are planted: a fact is one token of its own, and a question later in the text asks for it. Every model is then read in two ways.
#
# - **In pieces**: the text is cut into pieces of the given length, and every place counts, the first ones of each piece too, which have hardly anything before them.
# - **Sliding**: the *same* characters at every length, each with nearly the full length before it.

# %%
data = result("extrapolation")["data"]
lengths, rows = data["lengths"], data["rows"]
looks = {"sinusoidal": ("#595959", "o--"), "learned": ("black", "X"), "Shaw": ("#7a3b00", "<-"), "T5": ("#7aa6d6", "s-"), "ALiBi": ("#1f5fa8", "D-"), "RoPE": ("#e07b00", "v-"), "NoPE": ("#a9a9a9", "^:"),
         "ALiBi, steep": ("#0b2a4a", "P-.")}


def seeds(arm, what):
    """A row for each seed, a column for each length that the arm can read."""
    return torch.tensor([list(run[what].values()) for run in rows[arm]])


plt = show.style()
fig, axes = plt.subplots(1, 3, figsize=(11.6, 3.6), width_ratios=(1, 1, 0.9))
for ax, what, title in zip(axes, ("apart", "sliding"), ("In pieces: every place", "Sliding: the same characters")):
    for arm, (colour, mark) in looks.items():
        y = seeds(arm, what)
        ax.errorbar(lengths[:y.shape[1]], y.mean(0), y.std(0), fmt=mark, color=colour, ms=5, capsize=2, label=arm)
    ax.axvline(64, color="0.8", lw=1, zorder=0)
    ax.set(xscale="log", xticks=lengths, xticklabels=lengths, xlabel="length (characters)", title=title)
    ax.minorticks_off()
axes[0].set_ylabel("loss (nats a character)")
axes[0].set_ylim(1.4, 4.4)
axes[1].sharey(axes[0])
groups = [(0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, 32), (32, 64)]
for arm in ("ALiBi", "ALiBi, steep", "RoPE", "T5"):
    y = torch.tensor([run["first places"] for run in rows[arm]]).mean(0)
    axes[2].plot([y[lo:hi].mean() for lo, hi in groups], looks[arm][1], color=looks[arm][0], ms=5)
axes[2].set(xticks=range(7), xlabel="characters before it", title="The first are hard for all")
axes[2].set_xticklabels(["0", "1", "2-3", "4-7", "8-15", "16-31", "32-63"], size=8)
fig.legend(*axes[0].get_legend_handles_labels(), fontsize=9, ncols=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
fig.tight_layout()

# %% [markdown]
# The two readings differ for one reason, in the right panel (pieces of 64): the first characters of a piece are hard for everybody, as there is nothing to go by. The longer the pieces, the fewer of them. So read in pieces, a model that does not break seems to *improve* with length, even
# if it uses no more than the last few words. The paper of ALiBi calls this the curse of the early token, and credits a good part of the gain to it. For these small models, which use little context anyway, the gain is a few hundredths of a nat: look at steep ALiBi from 64 to 1,024, read both ways.

# %% tags=["claim-sinusoidal"]
lines = [f"{'sliding loss':15}" + "".join(f"{f'at {L}':14}" for L in lengths)]
for arm in looks:
    y = seeds(arm, "sliding")
    lines.append(f"{arm:15}" + "   ".join(f"{a:.2f} ± {b:.2f}" for a, b in zip(y.mean(0), y.std(0))))
print("\n".join(lines))
for arm, worse in (("sinusoidal", 0.5), ("RoPE", 0.5)):
    y = seeds(arm, "sliding")
    assert (y[:, 2] - y[:, 0] > worse).all()                                      # 256 against 64
pieces, slid = seeds("RoPE", "apart"), seeds("RoPE", "sliding")
assert (pieces[:, 1] - pieces[:, 0] < 0.3).all() and (slid[:, 1] - slid[:, 0] > 0.5).all()      # at 128 the pieces hide it
flat = seeds("ALiBi", "sliding")
assert (flat[:, 2] - flat[:, 0] < 0.1).all()

# %% [markdown]
# The waves meet the claim: from 128 characters on the model is worse than one that has no positions at all. RoPE breaks more slowly, ALiBi not at all. (T5, whose loss was expected to stay flat, and Shaw, the best of all, are the subject of {doc}`15_relative_biases`.)
#
# Beyond its end the learned table has nothing. Our model says so; a lookup that quietly takes the last row instead would be worse, as nobody would notice.

# %% tags=["claim-learned"]
inside = torch.tensor([run["sliding"]["64"] for run in rows["learned"]])
assert all(list(run["sliding"]) == ["64"] for run in rows["learned"])
model = small(documentation.VOCAB, 48, [full.Layer(48, 4)], mlp=96, positions=sinusoidal.learned(64, 48))
surprise(model, test[:1, :65])                                                    # 64 tokens: fine
try:
    surprise(model, test[:1, :66])
except ValueError as e:
    print(e)
else:
    raise AssertionError("a position beyond the table was accepted")
print("inside the table:", "  ".join(f"{x:.1f}" for x in inside), "nats")

# %% [markdown]
# ## Is it still remembered?
#
# The same models, asked for a fact that was said $d$ tokens before.

# %%
plt = show.style()
fig, (ax, bar) = plt.subplots(1, 2, figsize=(10.4, 3.6), width_ratios=(1.5, 1))
at = {"8 of 64": 8, "16 of 64": 16, "32 of 64": 32, "48 of 64": 48, "60 of 64": 60, "90 of 128": 90, "120 of 128": 120, "250 of 256": 250, "500 of 512": 500, "1000 of 1024": 1000}
for arm, (colour, mark) in looks.items():
    y = torch.tensor([[run["recall"][x] for x in at if x in run["recall"]] for run in rows[arm]])
    ax.plot(list(at.values())[:y.shape[1]], y.mean(0), mark, color=colour, ms=5, label=arm)
ax.axhline(1 / planted.VALUES, color="0.6", lw=1)
ax.axvline(64, color="0.8", lw=1, zorder=0)
ax.set(xscale="log", xticks=[8, 16, 32, 64, 128, 250, 500, 1000], xticklabels=[8, 16, 32, 64, 128, 250, 500, 1000], ylim=(0, 1.03), xlabel="distance of the fact (tokens)",
       ylabel="facts that come back", title="Said once, asked for later")
ax.minorticks_off()
ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))

for arm in ("Shaw", "ALiBi", "T5", "NoPE", "RoPE", "sinusoidal"):
    y = seeds(arm, "sliding")
    x, back = (y[:, -1] - y[:, 0]).mean(), torch.tensor([run["recall"]["1000 of 1024"] for run in rows[arm]]).mean()
    bar.plot(x, back, looks[arm][1][0], color=looks[arm][0], ms=9)
    bar.annotate(arm, (x, back), xytext=(7, -13 if arm == "sinusoidal" else 5), textcoords="offset points", size=9)
bar.set(xlabel="loss at 1,024 above that at 64 (nats)", ylabel="facts back over 1,000 tokens", ylim=(0, 1.03), xlim=(-0.2, 3.4), title="Flat is left, remembering is up")
fig.tight_layout()

# %% [markdown]
# In a text of 64 tokens all but the model with waves bring back most facts. (With waves it did not learn to, in these 1,000 steps, at any distance: its curve says nothing about distance.)
# Beyond, no curve of the loss tells what comes. ALiBi, whose loss does not notice the length at all, has all but lost the fact at 500. T5, whose loss breaks, brings most of what it knows back from anywhere: nothing in it takes far keys away.
# The model without positions, by far the worst at guessing letters, brings everything back over 120 tokens. And Shaw's does well at both.

# %% tags=["claim-nope"]
print(f"{'back over':14}48 tokens      120            250            1000")
for arm in ("NoPE", "Shaw", "T5", "ALiBi", "RoPE", "sinusoidal"):
    y = torch.tensor([[run["recall"][c] for c in ("48 of 64", "120 of 128", "250 of 256", "1000 of 1024")] for run in rows[arm]])
    print(f"{arm:14}" + "    ".join(f"{a:.2f} ± {b:.2f}" for a, b in zip(y.mean(0), y.std(0))))
none, other = seeds("NoPE", "sliding"), seeds("RoPE", "sliding")
assert (none[:, 0] > other[:, 0] + 0.3).all()                                     # two layers do not make up for positions …
assert (none[:, 2] < other[:, 2] - 0.5).all()                                     # … but what they read by does not break at 256
q, k, v = check.inputs("qkv", T=20)
order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
a, b = full.parallel(q, k, v)[0], full.parallel(q, k[..., order, :], v[..., order, :])[0]
assert torch.allclose(a[..., -1, :], b[..., -1, :])                               # one layer: the past is a set

# %% [markdown]
# ## What to notice
#
# - **Reading on is not remembering.** ALiBi's loss is flat, and at 500 tokens it hardly knows what was said; T5's breaks, and it does. Shaw's is flat *and* it knows. A loss per character is made of what is near, so it cannot tell these apart. Ask for the fact.
# - **How it is read matters.** In pieces of 128, RoPE seems nearly unharmed, for half of all places lie within its 64; read so that every character has the full length before it, it has lost most of a nat. Say which of the two a number is.
# - **Waves are no better than the table they look like.** That they can be computed for every position does not mean that a model can use them there.
# - **Limit.** Two layers, a thousand steps, 64 characters. The model without positions has not finished learning to read (2.2 nats where others have 1.6): it must build positions out of the mask, for which two layers are few; published results on it come from deeper models.
#   The waves did not learn to recall in this time, on either of the two sizes of embedding that were tried on another seed. Larger models have more heads with small slopes and longer texts to learn from, and their ALiBi may remember more.
#
# ## Break it
#
# Take far tokens away from the model with RoPE, *after* its training: a bias by distance can hide them. Guess first: its loss at 128 to 256 was about half a nat above that at 16 to 32.

# %% tags=["nbval-ignore-output"]
models["RoPE"].blocks[0].mixer.bias = lambda q, M: torch.where(torch.arange(M) < 32, 0.0, -1e4)[None]
nats = surprise(models["RoPE"], test).mean(0)
print(f"RoPE, 32 tokens in sight: places 17 to 32: {nats[16:32].mean():.2f}, 129 to 256: {nats[128:].mean():.2f} nats")
assert nats[128:].mean() < nats[16:32].mean() + 0.1

# %% [markdown]
# As flat as ALiBi. It is not far *positions* that hurt but far *distances*, which the turned keys and queries never met. Nor is this a cure: what is out of sight is forgotten, as {doc}`01_streaming` says of its window.
#
# ## Exercises
#
# ```{exercise} How far may I read?
# :label: extrapolation-waves
#
# The slowest wave of a table 64 wide has length $2\pi \cdot 10000^{62/64}$. How much of it does a model see in 64 tokens? How many of the 32 pairs of columns complete a turn within them?
# ```
#
# ````{solution} extrapolation-waves
# :class: dropdown
#
# About 47,000 tokens, so one part in 740. A pair completes a turn if $2\pi \cdot 10000^{2i/64} \le 64$, so $i \le 8$: nine pairs. All others take, beyond 64, values that were never met.
#
# ```python
# turns = 64 * 10000.0 ** (-torch.arange(0, 64, 2) / 64) / (2 * torch.pi)
# print((turns >= 1).sum())
# ```
# ````
#
# ```{exercise} A table that does not end
# :label: extrapolation-clamp
#
# Somebody "repairs" the learned table by taking row 63 for every later position. Try it: train `trained(0, positions=sinusoidal.learned(32, 48))`, then give it a table of 256 rows whose rows from 32 on are copies of row 31. What is the loss at places 64 to 256, against that of ALiBi?
# ```
#
# ````{solution} extrapolation-clamp
# :class: dropdown
#
# ```python
# model = trained(0, positions=sinusoidal.learned(32, 48))
# rows32 = model.positions.weight.detach()
# longer = torch.cat([rows32, rows32[-1:].expand(224, -1)])
# model.positions = torch.nn.Embedding.from_pretrained(longer)
# nats = surprise(model, test).mean(0)
# print(nats[16:32].mean(), nats[64:].mean())
# ```
# It is a tenth of a nat worse than within its 32 places, no more: nobody would notice that all later tokens share one place. That is why an error is better.
# ````
#
# **Next.** RoPE breaks here, and most models of today use it. What can be done to a finished one is the subject of {doc}`16_interpolation`.
