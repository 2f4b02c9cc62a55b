# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # RWKV through its versions: a table, three numbers, a matrix
#
# **Question.** RWKV set out to train like a Transformer and to run like an RNN. Its first version needed a table of all pairs of positions; its fourth keeps *three numbers a channel*; its sixth keeps a matrix a head, and decides token by token how fast each row fades.
# What does each step buy, and can three numbers a channel remember who goes with whom?
#
# **Your prediction, before you read on.** Eight pairs of a key and a value are shown, then the keys alone; each must call up its value (of 32). Two blocks of width 48. RWKV-4 keeps 1.5 KiB, RWKV-6 6.4 KiB. How many answers does each get right?
# And if RWKV-6 is cut down to the *same* 1.5 KiB, who wins?
# Second task: count the drops in a bucket since it was last emptied. What if the decay cannot depend on the token?

# %%
import torch
from torch import nn

from minimem import check, core, show
from minimem.catalog import card, result
from minimem.layer import Block
from minimem.lm import accuracy, fit, small
from minimem.state import rwkv4, rwkv6
from minimem.tasks.bucket import bucket

torch.set_num_threads(1)
SEEDS = range(3)
ORANGE, BROWN, GREY = show.KIND_COLOUR["state"], "#7a3b00", "#595959"

# %% [markdown]
# ## From table to recurrence: versions 1 to 4
#
# | | V1 (2021) | V2 (2022) | V3 | V4 | V6, Finch (2024) |
# |---|---|---|---|---|---|
# | weight of a token $n$ steps back | learned, one number for each distance and head | $e^{nw}$ for each channel, and $u$ for the current token | as V2 | as V2 | a product of decays that each token chooses, per key |
# | divided by | the plain sum of all $e^{k}$ | the sum of the same weights | as V2 | as V2 | nothing; a norm per head follows |
# | against overflow | $k$ cut to $[-60, 30]$ | $k$ cut at 60 | $k$ cut at 60 | the largest exponent is kept aside | not needed: no $e^k$ |
# | state of a layer | all keys and values | 2 numbers a channel and a token | 2 and a token each for the two halves | **3** and two tokens | a $64\times64$ matrix a head and two tokens |
# | the token before | half of the channels take it whole | a learned mix, one for all | a learned mix each for $r$, $k$, $v$ | as V3 | a mix that depends on the token |
# | other half of the block | mish$(k)\cdot v$ | relu$(k)^2$, behind a gate | as V2 | as V2 | as V2, 3.5 times wide instead of 4 |
# | attention left in it | none needed; a small one optional | a copy head, 256 wide, on by default | the same | the same head, off by default | none |
#
# The survey calls V1 to V4 "purely linear attention". That fits V4. V1 is no recurrence, V2 and V3 were released with a small attention of another kind on top, and none of the four keeps the *matrix* of linear attention: that came with V5. {cite:p}`peng2023rwkv,peng2024eaglefinch`
# The survey is right, by its own remark, that RWKV is no hybrid; it stands in the timeline of hybrids all the same.
#
# **Why V1 is no RNN, in five lines.** Its weights form a table in which every diagonal is constant. Cut the past from the future: the rank of that corner is how many numbers must be handed over at the cut.

# %%
t = torch.arange(64)
gap = t[:, None] - t                                                    # how many tokens back
free = torch.rand(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
tables = {"V1, a learned number for each distance": free[gap.clamp(min=0)], "V4, a power for each distance": 0.9 ** gap.clamp(min=0).double()}
for name, table in tables.items():
    print(f"{name:40}numbers to hand over at token 32: {torch.linalg.matrix_rank(table[32:, :32])}")


# %% [markdown]
# All 32 tokens against one number. (V1 *starts* from powers, and training is free to leave them.) V2's choice, to give up free weights for powers, is what made RWKV recurrent. Two such sums are kept, the values' and the weights', and from V4 on the unit they are measured in.
#
# (rwkv4)=
# ## RWKV-4: three numbers a channel

# %%
card("rwkv4")


# %% [markdown]
# ### Build it
#
# A weighted mean of all values so far. The token itself counts with $e^{u+k}$, all older ones with powers of $e^w$. No $e^k$ is ever computed alone: $\alpha$ and $\beta$ are kept divided by $e^p$, $p$ being the largest exponent so far. Only $\alpha e^p$ and $\beta e^p$ mean something.

# %%
def step(state, k, v, params):
    alpha, beta, p, w, u = state["alpha"], state["beta"], state["p"], params["w"], params["u"]
    top = torch.maximum(p, u + k).detach()
    past, now = (p - top).exp(), (u + k - top).exp()
    o = (past * alpha + now * v) / (past * beta + now)                  # (1)
    top = torch.maximum(p + w, k).detach()                              # (2) p'
    past, now = (p - top + w).exp(), (k - top).exp()
    return {"alpha": past * alpha + now * v, "beta": past * beta + now, "p": top}, o      # (2)


k, v = check.inputs("xx", T=30)
params = rwkv4.params(4, dtype=torch.float64)
out, state = rwkv4.parallel(k, v, params)
check.same(step, rwkv4.step, state, k[..., 0, :], v[..., 0, :], params)
block = Block(rwkv4.Layer(48), 48, rwkv4.ChannelMix(48), nn.LayerNorm)
print({f"after {T} tokens": f"{core.nbytes(block(torch.randn(1, T, 48))[1])} bytes" for T in (10, 1000)}, "= 5 numbers x 48 channels x 4 bytes")

# %% [markdown]
# Left: the weight of each older token in what is read now, all keys equal, for three of the channels as they start, from slow to fast. The first dot is $u$: the current token is *off* its curve. Right: what that is for. Keys of growing spread; the formula (1) as it stands, in 32 bits, against the memory.

# %%
def formula(k, v, w, u):
    """(1) as one table of weights for each channel, nothing kept aside."""
    back = torch.arange(k.shape[-2])[:, None] - torch.arange(k.shape[-2])
    e = torch.where(back[..., None] > 0, (back[..., None] - 1) * w, u.expand(*back.shape, -1)) + k[..., None, :, :]
    weights = e.exp() * (back >= 0)[..., None]
    return (weights * v[..., None, :, :]).sum(-2) / weights.sum(-2)


SPREADS = (1, 5, 12, 17, 20, 25, 30)
learned = rwkv4.params(8)
errors = {"formula": [], "memory, token by token": [], "memory, by a scan": []}
for spread in SPREADS:
    runs = []
    for seed in SEEDS:
        k, v = check.inputs("xx", T=256, V=8, lead=(4,), seed=seed, dtype=torch.float32)
        truth = formula((spread * k).double(), v.double(), *(x.double() for x in learned.values()))
        said = (formula(spread * k, v, **learned), rwkv4.recurrent(spread * k, v, learned)[0], rwkv4.parallel(spread * k, v, learned)[0])
        runs.append([(x - truth).abs().max().item() for x in said])
    for name, error in zip(errors, zip(*runs)):
        errors[name].append(max(error) if all(e == e for e in error) else torch.nan)

plt = show.style()
fig, axes = plt.subplots(1, 2, figsize=(9.0, 3.2))
start = rwkv4.params(48)
for c, mark in ((6, "o-"), (24, "s--"), (36, "^:")):
    weight = torch.cat([start["u"][c:c + 1], torch.arange(11) * start["w"][c]]).exp()
    axes[0].plot(range(12), weight / weight.sum(), mark, color=(ORANGE, BROWN, GREY)[(6, 24, 36).index(c)], ms=4, label=f"channel {c} of 48")
axes[0].set(xlabel="tokens back", ylabel="share of what is read", title="Who is heard")
axes[0].legend()
for (name, error), mark, colour in zip(errors.items(), ("x--", "s-", "o-"), (GREY, BROWN, ORANGE)):
    axes[1].plot(SPREADS, error, mark, color=colour, ms=5, label=name)
axes[1].axvspan(21, 31, color="#eeeeee", zorder=0)
axes[1].annotate("here the formula\nis no number", (21.6, 6e-5), size=9, color=GREY)
axes[1].set(yscale="log", xlabel="standard deviation of the keys", ylabel="largest error of an output", title="32 bits", xlim=(0, 31), ylim=(2e-7, 5e-4))
axes[1].legend(loc="upper left", fontsize=8)
fig.tight_layout()

# %% [markdown]
# At a spread of 5 (variance 25) the formula still works in 32 bits, and $e^{12}$ would already be too much for 16. Past $e^{88}$ it ends. The memory does not care. One thing in the right panel deserves a second look: *the loop is less exact than the scan*. It rounds $p + w$ anew at every token, always the same way; the scan computes each $p_t$ at one go.
#
# Now recall. The runs are stored (`benchmarks/trained/rwkv.py`): two blocks, nothing but time mix, five seeds. What counts: at equal width RWKV-4 stays half of all answers behind RWKV-6. Another bound was committed before the run, from one trial on another seed: that RWKV-4 stays below .3. That one was wrong, as the last line shows; with three times the steps of RWKV-6 it is still learning.

# %% tags=["claim-rwkv4"]
rows = {(r["task"], r["memory"], r["K"]): r for r in result("rwkv")["data"]["rows"]}


def right(task, memory, K, test=0):
    """Accuracy of each seed."""
    return torch.tensor([r[test] for r in rows[task, memory, K]["right"]])


assert max(errors["memory, by a scan"]) < 1e-5 and max(errors["memory, token by token"]) < 1e-3     # whatever the keys, 3 seeds
assert errors["formula"][1] < 1e-4 and errors["formula"][-1] != errors["formula"][-1]                # variance 25: fine; 900: NaN
assert core.nbytes(block(torch.randn(1, 10, 48))[1]) == core.nbytes(block(torch.randn(1, 1000, 48))[1]) == 4 * 5 * 48
recall = right("recall", "RWKV-4", 0)
assert len(recall) == 5 and recall.max() < right("recall", "RWKV-6", 16).min() - 0.5
print(f"RWKV-4, {rows['recall', 'RWKV-4', 0]['bytes']} bytes: {recall.mean():.2f} ± {recall.std():.2f} right of 8 pairs; picking one of the 8 values that were shown: {1 / 8:.2f}")
print(f"guessed before the run: below .3; seeds for which that is so: {int((recall < 0.3).sum())} of 5")

# %% [markdown]
# Better than naming *some* value that was there, and far from knowing which. A mean over time holds what came; what came *with what* is found in it only as far as two blocks can work it into the 48 channels beforehand. To bind any key to any value, their product must be kept.
#
# (rwkv6)=
# ## RWKV-6: a matrix, and a decay that the token chooses

# %%
card("rwkv6")


# %% [markdown]
# ### Build it
#
# Two changes. The state is the matrix of linear attention, $k v^\top$ summed up; and $e^{g}$, how much of each row stays, is made from the token. As before it is *read first*, the current token entering with a bonus $u$ of its own, then written.

# %%
def step6(S, q, k, v, g, params):
    now = k[..., :, None] * v[..., None, :]
    seen = S + params["u"][..., :, None] * now                          # (1)
    o = (q[..., None, :] @ seen)[..., 0, :]                             # (1)
    return g.exp()[..., :, None] * S + now, o                           # (2)


q, k, v, g = check.inputs("qkvg", T=30)
params = rwkv6.params(6, dtype=torch.float64)
out, S = rwkv6.chunked(q, k, v, g, params)
check.same(step6, rwkv6.step, S, *(x[..., 0, :] for x in (q, k, v, g)), params)

# %% [markdown]
# ### Forget on command
#
# The bucket: token 1 is a drop, 2 empties it; after every token, how many drops are in it? To forget *before* and keep *after*, in equal parts, no fixed rate of fading will do. One block, trained here and now, twice: once as it is, once with the decay *frozen*, that is, still learned for each channel, but the same for every token.

# %% tags=["nbval-ignore-output"]
def trained(frozen, seed=0):
    torch.manual_seed(seed)
    model = small(8, 32, [rwkv6.Layer(32, 16, lora=8, decay_lora=8)])
    model.blocks[0].mixer.decay_down.requires_grad_(not frozen)         # 0 as it starts: without it the decay is w0 alone
    fit(model, lambda i: bucket(48, 32, seed=i), 200, 2e-2)
    return model


def stays(model, tokens):
    """What share of each row is kept at each token: e^g, (T, D)."""
    mixer, x = model.blocks[0].mixer, model.blocks[0].norm(model.embed(tokens[None]))
    drift = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1) - x
    low = torch.tanh((x + drift * mixer.mix[0]) @ mixer.mix_down).unflatten(-1, (5, -1))[..., 0, :]
    seen = x + drift * (mixer.mix[1] + low @ mixer.mix_up[0])
    return (-(mixer.decay + torch.tanh(seen @ mixer.decay_down) @ mixer.decay_up).exp()).exp()[0].detach()


models = {"decay chosen by the token": trained(False), "decay frozen": trained(True)}
tokens, targets = bucket(48, 1000, seed=10 ** 9)
live = {name: accuracy(m, tokens, targets) for name, m in models.items()}
assert live["decay chosen by the token"] > live["decay frozen"] + 0.05
print({name: round(x, 2) for name, x in live.items()})

# %% [markdown]
# Below: one stream. Above the line what the bucket holds and what each model says; under it, how much of each row of the state survives each token. In the model that may choose, a dark band stands at each emptying and the token after, whose mix still sees it: that is the command *forget*.

# %%
plt = show.style()
fig, axes = plt.subplots(3, 1, figsize=(9.2, 5.4), sharex=True, height_ratios=(1.5, 1, 1), layout="constrained")
line = tokens[3]
axes[0].step(range(48), targets[3].where(targets[3] >= 0, 7), where="mid", color="black", lw=3, alpha=0.25, label="drops in the bucket")
for (name, m), mark, colour in zip(models.items(), ("o", "x"), (ORANGE, GREY)):
    axes[0].plot(m(line[None])[0][0].argmax(-1), mark, color=colour, ms=5, label=name)
axes[0].set(ylabel="drops", title="Drops since the bucket was emptied", xlim=(-0.5, 47.5))
axes[0].legend(ncols=3, fontsize=8, loc="upper center")
axes[0].set(ylim=(-0.5, 9), yticks=range(0, 9, 2))
for ax, (name, m) in zip(axes[1:], models.items()):
    image = ax.imshow(stays(m, line).sort(-1)[0].mT, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    ax.set(ylabel="rows of S,\nsorted", yticks=(0, 31), yticklabels=(1, 32))
    ax.set_title(name, size=9)
    ax.grid(False)
axes[2].set(xlabel="token (a tick where the bucket is emptied)", xticks=[i for i in range(48) if line[i] == 2])
fig.colorbar(image, ax=axes, label="share of the row kept", pad=0.02, shrink=0.6)
plt.show()

# %% [markdown]
# The same with five seeds and 400 steps, stored; and recall by bytes. Fixed before the run: with the decay learned at least .95, frozen at most .85.

# %% tags=["claim-rwkv6"]
plt = show.style()
fig, ax = plt.subplots(figsize=(6.4, 3.6))
lines = ["recall of 8 pairs             bytes    right"]
for memory, sizes, mark, colour in (("RWKV-4", ("RWKV-4", "RWKV-4, wide"), "s--", GREY), ("RWKV-6", (3, 8, 16), "o-", ORANGE)):
    keys = [("recall", n, 0) if isinstance(n, str) else ("recall", memory, n) for n in sizes]
    found = torch.stack([torch.stack([right(*key).mean(), right(*key).min(), right(*key).max()]) for key in keys])
    ax.plot([rows[key]["bytes"] / 1024 for key in keys], found[:, 0], mark, color=colour, label=memory)
    ax.fill_between([rows[key]["bytes"] / 1024 for key in keys], found[:, 1], found[:, 2], color=colour, alpha=0.2, lw=0)
    lines += [f"{key[1]:14}width {rows[key]['D']:3} {f'K {key[2]:2}' if key[2] else '':5} {rows[key]['bytes']:6}    {right(*key).mean():.2f} ± {right(*key).std():.2f}" for key in keys]
ax.axhline(1 / 8, color="#bbbbbb", lw=1, zorder=0)
ax.annotate("one of the values shown", (4.2, 0.14), size=8, color=GREY)
ax.set(xscale="log", xlabel="state of both blocks (KiB)", ylabel="keys answered right", xticks=(1.5, 3, 6), xticklabels=(1.5, 3, 6), ylim=(0, 1.05))
ax.minorticks_off()
ax.legend(loc="upper left")
fig.tight_layout()

lines += ["", "drops counted                 64 tokens      256 tokens"]
for name in ("RWKV-6", "RWKV-6, decay frozen", "RWKV-6, no bonus", "RWKV-4"):
    short, long = (right("bucket", name, 0 if name == "RWKV-4" else 16, test) for test in (0, 1))
    lines.append(f"{name:30}{short.mean():.2f} ± {short.std():.2f}    {long.mean():.2f} ± {long.std():.2f}")
no_bonus = right("recall", "RWKV-6, no bonus", 16)
lines += ["", f"recall without the bonus u    {no_bonus.mean():.2f} ± {no_bonus.std():.2f}"]
assert right("bucket", "RWKV-6", 16).min() >= 0.95 and right("bucket", "RWKV-6, decay frozen", 16).max() <= 0.85
print("\n".join(lines))

# %% [markdown]
# ## What to notice
#
# - **Bytes, and what they hold.** RWKV-6 with heads of 3 has exactly the bytes of RWKV-4 (four numbers a channel) and recalls no better: here it even trails, with fewer steps. With heads of 16 it recalls nearly all; RWKV-4, given *those* bytes by being four times as wide, gets half way. So much of the step from 4 to 6 is that a matrix state is large, and cheap to make large; the other half is that keys and values are bound.
# - **Learning to recall comes suddenly.** With heads of 8, one seed of three had found out by step 300 and two had not. A mean of such runs says little; the band in the figure is their range.
# - **A decay that the token chooses is worth having where there is something to forget on command.** It is worth little elsewhere: this is the fourth such task that was tried, on other seeds, and on the first three (the value after a mark; what has been seen since a mark; the same with more symbols) a frozen decay did nearly as well (single trials, not stored). The frozen model is not helpless: with many rates of fading side by side it estimates the count, and is wrong when the bucket is full or the stream longer than it was trained on.
# - **The bonus $u$ changed nothing here.** Both tasks are solved as well without it: the current token reaches the output past the memory anyway, along the residual stream. Where $u$ earns its place, these toys do not show.
# - **Limit.** Two blocks of width 48 and a few hundred steps; the channel mix is left out, for with it all learn more slowly at this size. RWKV-4 had three times the steps of RWKV-6 at equal width and was still improving. That a 14-billion RWKV-4 writes good prose says that prose needs less exact recall than this task, not that the task is unfair.
#
# ## Break it
#
# In `step`, leave out the unit: set `top` to 0 in both places. `check.battery(step, like="rwkv4")` fails `agrees` and `gradients`, for the state is kept in another unit; the *outputs* are the same, for its keys are small. Multiply the keys by 100 and they are NaN. Why would a test of outputs on ordinary keys never have noticed?
#
# In `step6`, exchange the order: compute `S` first and read from it. Which checks fail? (`agrees`, `gradients` and `finite`: those that compare. It is still causal, pure, and can be cut anywhere, for it is a good memory, only another one.)
#
# ```{exercise} The cut of a mean
# :label: rwkv-mean
#
# With $w = 0$, $u = 0$ and all keys equal, what does RWKV-4 compute? And with $w \to -\infty$?
# ```
#
# ````{solution} rwkv-mean
# :class: dropdown
#
# The plain mean of all values so far, the current one included. With $w \to -\infty$ the mean of the last two: the older ones have weight $e^{(t-1-i)w}$, which is 1 only for $i = t-1$.
#
# ```python
# k, v = torch.zeros(6, 1), torch.arange(6.)[:, None]
# print(rwkv4.parallel(k, v, {"w": torch.zeros(1), "u": torch.zeros(1)})[0].T, rwkv4.parallel(k, v, {"w": torch.full((1,), -1e4), "u": torch.zeros(1)})[0].T)
# ```
# ````
#
# ```{exercise} Read late instead of before
# :label: rwkv-late
#
# `forms.gated` reads *after* it writes. Get RWKV-6 from it without dividing by any decay, and let the battery mark it: `check.battery(mine, like="rwkv6", form=True)`.
# ```
#
# ````{solution} rwkv-late
# :class: dropdown
#
# To read $S_{t-1}$, let every write come one token late, and make the last one at the end.
#
# ```python
# from torch.nn import functional as F
# from minimem import forms
#
# def mine(q, k, v, g, state=None):
#     core.expect("q:TK k:TK v:TV g:TK", q, k, v, g)
#     u = rwkv6.params(k.shape[-1], **core.like(k))["u"]
#     late = [F.pad(x[..., :-1, :], (0, 0, 1, 0)) for x in (k, v, g)]
#     out, S = forms.gated(q, *late, state=state)
#     out = out + (q * u * k).sum(-1, keepdim=True) * v
#     return out, g[..., -1, :, None].exp() * S + k[..., -1, :, None] * v[..., -1, None, :]
#
# sheet = check.battery(mine, like="rwkv6", form=True)
# ```
#
# Dividing by $e^{g_t}$ to step back from $S_t$ would be shorter, and lost as soon as a token says *forget everything*: 0 / 0.
# ````
#
# ```{exercise} How long does a channel remember?
# :label: rwkv-long
#
# RWKV-4 starts channel $c$ of $D$ in its first layer with $w = -\exp(-5 + 8\,(c/(D-1))^{0.7})$. After how many tokens has a weight halved, in the slowest channel and in the fastest?
# ```
#
# ````{solution} rwkv-long
# :class: dropdown
#
# $\ln 2 / |w|$: $0.69 / e^{-5} = 103$ tokens, and $0.69 / e^{3} = 0.03$ of one: the fastest channels see the last two tokens alone. The weights are where training starts, not where it ends.
# ````
#
# **Next.** The same matrix state with other gates: [one template for all of them](03_one_template), and what a state of a given size can recall.
