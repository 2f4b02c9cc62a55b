# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # Softmax, sharper softmax, no softmax: who shares the attention?
#
# **Question.** Attention gives each earlier token a weight, and softmax makes the weights sum to one. One token stands out by a fixed margin. What is left of its weight when it stands among 10, 100, 1,000, 10,000 others?
#
# **Your prediction, before you read on.** The scores: one token has +3, all others have −2. Among ten, softmax gives the one .94 of all weight. Guess the other three. Then guess what happens if nobody shares: if each
# token gets its own weight between 0 and 1 by a sigmoid. What is the sum of all weights in a model that has not learned anything yet, for 256 tokens?

# %%
import math

import torch

from minimem import check, core, show
from minimem.cache import full, sigmoid, ssmax, swat
from minimem.catalog import card, result

torch.set_num_threads(1)
SIZES = [10 ** i for i in range(1, 5)]
one = torch.ones(1, dtype=torch.float64)


def largest(step, n, **options):
    """The weight of the one: its value is 1, all others are 0."""
    k, v = torch.full((n, 1), -2.0, dtype=torch.float64), torch.zeros(n, 1, dtype=torch.float64)
    k[0], v[0] = 3, 1
    return step({"k": k[:-1], "v": v[:-1]}, one, k[-1], v[-1], **options)[1].item()


fades = {"softmax": [largest(full.step, n) for n in SIZES], "SSMAX, s = .43": [largest(ssmax.step, n, s=0.43) for n in SIZES]}
plt = show.style()
for (name, y), mark, colour in zip(fades.items(), ("o--", "s-"), ("#595959", show.KIND_COLOUR["cache"])):
    plt.plot(SIZES, y, mark, color=colour, label=name)
    for n, p in zip(SIZES, y):
        plt.annotate(f"{p:.3f}", (n, p), xytext=(0, 7 if "SS" in name else -14), textcoords="offset points", ha="center", size=8)
plt.xscale("log")
plt.ylim(-0.1, 1.12)
plt.xlabel("tokens that share the attention")
plt.ylabel("weight of the one with score +3")
plt.legend(loc="lower left", bbox_to_anchor=(0.02, 0.12))
print({name: [round(p, 3) for p in y] for name, y in fades.items()})

# %% [markdown]
# These are the numbers of the paper's first figure {cite:p}`nakanishi2025ssmax`. The one is $e^5$ times as heavy as any other, but there are more and more others.
#
# (ssmax)=
# ## Sharper as the text grows: SSMAX

# %%
card("ssmax")

# %% [markdown]
# The margin is multiplied by $s \log n$, so $e^{5}$ becomes $n^{5s}$. With $5s > 1$ the one grows faster than the crowd. The rule costs nothing: multiply each query by a number of its own row before an attention that knows nothing of it.
# Below, the definition, and the same as a factor on the queries, `rescale`. Each row counts its own keys, also those it inherits from a cache.

# %%
def step(S, q, k, v, s=0.43):
    S = {"k": torch.cat([S["k"], k[..., None, :]], -2), "v": torch.cat([S["v"], v[..., None, :]], -2)}
    n = S["k"].shape[-2]
    z = q[..., None, :] @ S["k"].mT / q.shape[-1] ** 0.5
    p = (s * math.log(n) * z).softmax(-1)                          # (1)
    return S, (p @ S["v"])[..., 0, :]


q, k, v = check.inputs("qkv", T=20)
o, state = ssmax.parallel(q, k, v)
check.same(step, ssmax.step, state, *(x[..., 0, :] for x in (q, k, v)))
factor, _ = full.parallel(q, k, v, rescale=lambda q, n: q * 0.43 * n.double().log()[:, None])
z = torch.randn(1000, dtype=torch.float64)
print("a factor on the queries is enough:", torch.allclose(o, factor))
print("subtracting s log n instead changes nothing:", torch.allclose((z - 0.43 * math.log(1000)).softmax(-1), z.softmax(-1)))

# %% [markdown]
# The second line is a mistake found in the wild under this very name: softmax does not notice a constant.
#
# ### Does a trained model need it?
#
# The task, `lookup`: $n$ records of a key (a word of three letters) and a value; then one key, whose value is wanted. One layer of attention is trained with 8 to 128 records, and asked with up to 4,096. More records mean more near misses. A third
# arm has a factor that is learned too, but does not know $n$. Each is trained with weight decay (all matrices shrink a little at every step, as in the training of large models), the first two also without.
# What counts was fixed before the run: at 2,048 records, 16 times the longest of the training, SSMAX is at least 20 points of 100 above softmax, with decay, on every seed. The trainings are stored (`python benchmarks/trained/ssmax.py`).

# %% tags=["claim-ssmax"]
found = result("ssmax")["data"]
right = {arm: torch.tensor(x) for arm, x in found["accuracy"].items()}                    # (seeds, lengths)
looks = {"softmax": ("#595959", "o--"), "learned constant": ("#7aa6d6", "v:"), "SSMAX": (show.KIND_COLOUR["cache"], "s-")}
plt = show.style()
fig, axes = plt.subplots(1, 2, figsize=(8.6, 3.4), sharey=True)
for name, y in right.items():
    arm, *bare = name.split(",")
    axes[len(bare)].errorbar(found["lengths"], y.mean(0), torch.stack([y.mean(0) - y.min(0).values, y.max(0).values - y.mean(0)]).clamp(min=0), fmt=looks[arm][1],
                              color=looks[arm][0], label=arm, ms=4, capsize=2)
for ax, title in zip(axes, ("with weight decay", "without")):
    ax.axvline(found["longest"], color="0.6", lw=1)
    ax.set(xscale="log", xticks=found["lengths"], xticklabels=found["lengths"], xlabel="records", title=title, ylim=(0, 1.04))
    ax.minorticks_off()
    ax.tick_params(axis="x", labelsize=8)
axes[0].text(118, 0.3, "longest in training", rotation=90, ha="right", size=8, color="0.3")
axes[0].set_ylabel("right answers")
axes[1].legend(*axes[0].get_legend_handles_labels(), loc="lower right", bbox_to_anchor=(1, 0.05))
fig.tight_layout()
at = found["lengths"].index(2048)
for arm, y in right.items():
    print(f"{arm:26} at 128: {y[:, 1].mean():.2f}   at 2,048: {y[:, at].mean():.2f} ({y[:, at].min():.2f} to {y[:, at].max():.2f})   at 4,096: {y[:, -1].mean():.2f}")
assert [round(p, 3) for p in fades["softmax"]] == [0.943, 0.6, 0.129, 0.015] and [round(p, 3) for p in fades["SSMAX, s = .43"]] == [0.94, 0.995, 1, 1]
assert all((y[:, 1] > 0.99).all() for y in right.values())                                # all have learned the task
assert len(right["SSMAX"]) >= 3 and (right["SSMAX"] - right["softmax"])[:, at].min() >= 0.2
assert (right["learned constant"][:, at] < right["SSMAX"][:, at]).all()                   # the factor must know n

# %% [markdown]
# With decay all three are right among 128 records. Among 2,048 softmax is down to about .41, the factor that does not know $n$ helps a little, and SSMAX is still right 99 times of 100.
# **Without decay there is nothing to see**: softmax is as good as SSMAX. Nothing then stops it from growing its scores for as long as it is trained, and with a margin like that even 4,096 records are not many; what both lose there, they lose to near misses.
# So SSMAX is not simply a better softmax. It makes the margin grow with the crowd where the weights cannot, or may not, grow.
#
# (sigmoid)=
# ## Nobody shares: sigmoid attention

# %%
card("sigmoid")


# %% [markdown]
# No row sum, no maximum, nothing that all keys have to wait for: the weight of a key depends on that key alone {cite:p}`ramapuram2025sigmoid`. The catch is the start. A score of 0 gives the weight ½, so $n$ keys weigh $n/2$.
# The bias $c = -\log n$ makes each weight $1/(n+1)$ instead.

# %%
def step(S, q, k, v, n=256):
    S = {"k": torch.cat([S["k"], k[..., None, :]], -2), "v": torch.cat([S["v"], v[..., None, :]], -2)}
    s = q[..., None, :] @ S["k"].mT / q.shape[-1] ** 0.5
    p = (s - math.log(n)).sigmoid()                                # (1)
    return S, (p @ S["v"])[..., 0, :]                              # (2)


o, state = sigmoid.parallel(q, k, v)
check.same(step, sigmoid.step, state, *(x[..., 0, :] for x in (q, k, v)))
lengths = [4, 16, 64, 256, 1024]
sums = {}
for seed in range(3):                                              # scores as in a fresh model: normal, variance 1; the value of every key is 1
    r = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(8, 1024, 16, generator=r) for _ in range(2))
    for name, options in (("c = 0", {"n": 1}), ("c = −log 1,024", {"n": 1024}), ("c = −log(t + 1)", {"n": None})):
        total = sigmoid.parallel(x, y, torch.ones(8, 1024, 1), **options)[0][..., 0].mean(0)
        sums.setdefault(name, []).append(total[[n - 1 for n in lengths]])
plt = show.style()
for (name, y), mark, colour in zip(sums.items(), ("o--", "v:", "s-"), ("#c23b22", "#7aa6d6", show.KIND_COLOUR["cache"])):
    plt.loglog(lengths, torch.stack(y).mean(0), mark, color=colour, label=name)
plt.axhline(1, color="black", lw=1, label="softmax")
plt.xticks(lengths, lengths)
plt.minorticks_off()
plt.xlabel("keys that the row sees")
plt.ylabel("sum of the weights")
plt.legend()
print({name: [round(x, 2) if x < 2 else round(x) for x in torch.stack(y).mean(0).tolist()] for name, y in sums.items()})

# %% [markdown]
# One number for all rows, as in the paper, leaves the early rows of a long text with almost nothing. The last line, $c = -\log(t+1)$, is our addition.
#
# Now two layers on real text, stored (`python benchmarks/trained/sigmoid.py`), three seeds. Fixed before the run: without the bias the initial loss or gradient is at least ten times larger, the final loss is worse; with it the final loss is within .03 nats of softmax.

# %% tags=["claim-sigmoid"]
found = result("sigmoid")["data"]
start = {arm: torch.tensor(x)[:, -1].T for arm, x in found["starts"].items()}              # 256 tokens: (sum, added, loss, gradient) × seeds
bare = {arm: torch.tensor(x).T for arm, x in found["without norms"].items()}
loss, share = ({arm: torch.tensor(x) for arm, x in found[name].items()} for name in ("loss", "share of token 0"))
print(f"{'means of three seeds':26}fresh: sum  added   loss  gradient   no norms: loss  gradient   trained: loss    on token 0")
for arm in start:
    total, added, first, grad = start[arm].mean(1).tolist()
    print(f"{arm:26}{total:10.1f}{added:7.2f}{first:7.2f}{grad:10.2f}{bare[arm][0].mean():17.1f}{bare[arm][1].mean():10.1f}{loss[arm].mean():10.3f} ± {loss[arm].std():.3f}{share[arm].mean():10.3f}")
none, biased, plain = "sigmoid, c = 0", "sigmoid, c = -log n", "softmax"
assert len(loss[plain]) >= 3
assert (start[none][0] > 100 * start[biased][0]).all() and (start[none][1] > 10 * start[biased][1]).all()      # the sums explode
assert (start[none][2] < 1.1 * start[plain][2]).all()                                                          # but not the loss: the norms divide by them,
assert ((2 < start[none][3] / start[plain][3]) & (start[none][3] / start[plain][3] < 10)).all()                # and the gradient is a few times larger, not ten
assert (bare[none][0] > 100 * bare[plain][0]).all() and (bare[none][1] > 1e4 * bare[plain][1]).all()           # without norms nothing hides it
assert (loss[none] > loss[biased] + 0.1).all()
gap = loss[biased] - loss[plain]
assert (gap > 0).all() and (gap < 0.06).all() and gap.max() > 0.03                                             # near softmax, but not within .03 on every seed
assert (loss["sigmoid, c = -log(t + 1)"] <= loss[biased]).all()

# %% [markdown]
# The sums explode as announced, and what attention adds to the stream grows to more than ten times the stream itself. But the loss of the fresh model does not notice, and the gradient is only about three times that of softmax: an RMSNorm stands before each part and at the end,
# and divides by whatever comes. Take the norms away (two columns: a control we added after seeing this), and the same models start at a loss of 800 to 2,100 instead of 4.6. The criterion was fixed for a model with norms, so it is **not reproduced**.
#
# After training the bias does matter. Without it the loss is about .25 nats worse; with it, sigmoid attention comes to .04 of softmax, with $-\log(t+1)$ to .03 (the line was .03 on every seed, so this is not reproduced either, by little).
# Sigmoid attention learns more slowly: in a first run of a third of the steps it was .27 behind.
#
# (swat)=
# ## A window of sigmoids: SWAT

# %%
card("swat")


# %% [markdown]
# Four things at once {cite:p}`fu2025swat`: a sliding window *in training*, sigmoid weights without $-\log n$ (a window is short), RoPE, and a slope: each head adds $s_h$ times the distance to its scores. Half of the heads have negative slopes and look at what is near.
# The other half have positive ones and look at what is about to leave the window.

# %%
def step(S, q, k, v, window=8, slopes=-0.5, rotate=swat.rotate_halves):
    S = {"k": torch.cat([S["k"], k[..., None, :]], -2)[..., -window:, :], "v": torch.cat([S["v"], v[..., None, :]], -2)[..., -window:, :]}
    slots = torch.arange(S["k"].shape[-2])
    s = rotate(q[..., None, :], slots[-1:]) @ rotate(S["k"], slots).mT / q.shape[-1] ** 0.5
    p = (s + slopes * (slots[-1] - slots)).sigmoid()
    return S, (p @ S["v"])[..., 0, :]                              # (1)


o, state = swat.parallel(q, k, v)
check.same(step, swat.step, state, *(x[..., 0, :] for x in (q, k, v)))
W, slopes = 32, swat.two_sided(3, 3)                               # (2)
weights = swat.parallel(torch.zeros(6, 64, 2), torch.zeros(6, 64, 2), torch.eye(64).expand(6, 64, 64), window=W, slopes=slopes)[0][:, -1, -W:].flip(-1)
plt = show.style()
for y, slope in zip(weights, slopes.tolist()):
    shade = (plt.cm.Blues if slope < 0 else plt.cm.Oranges)(0.35 + abs(slope) * 1.2)
    plt.plot(range(W), y, "-" if slope < 0 else "--", color=shade, label=f"slope {slope:+.3f}")
plt.legend(loc="center", bbox_to_anchor=(0.6, 0.5), ncols=2, fontsize=9)
plt.axvline(W - 1, color="0.6", lw=1)
plt.text(W - 1.4, 0.5, "the next token to leave", rotation=90, ha="right", va="center", size=8, color="0.3")
plt.xlabel("distance (tokens)")
plt.ylabel("weight, at a score of 0")
print(f"sum of {W} weights, per head:", [round(x) for x in weights.sum(-1).tolist()], " bytes of the cache:", core.nbytes(swat.parallel(q[0, 0], k[0, 0], v[0, 0])[1]))

# %% [markdown]
# ### How far does a symbol travel?
#
# A layer sees 32 tokens. A symbol that is older can be known only if a token inside the window has noted it, and passes it on: four layers reach $4 \times 31 = 124$ tokens. The task: one of 32 symbols appears among noise, after 8 to 160 tokens another one; at *every*
# place the symbol shown last is asked. Four layers are trained on it, and four on real text, with a softmax window and with SWAT: all slopes negative (−), all positive (+), or balanced (−+); stored, three seeds (`python benchmarks/trained/swat.py`).
# Fixed before the run, for balanced slopes on every seed: 95 of 100 right at lags 48 to 95, and around lag 64, twice the window, not more than 2 of 100 behind the softmax window. And the text: no jump of the loss where the first characters leave
# (places 33 to 96 at most 1.05 times places 16 to 31; places 256 to 511 at most 1.05 times 32 to 159).

# %% tags=["claim-swat"]
found = result("swat")["data"]
known, nats = ({arm: torch.tensor(x) for arm, x in found[name].items()} for name in ("known", "nats"))      # (seeds, groups of 8)
looks = {"softmax window": ("#595959", "-"), "SWAT (-)": ("#1f5fa8", "--"), "SWAT (+)": ("#e07b00", ":"), "SWAT (-+)": ("#7a3b00", "-.")}
plt = show.style()
fig, axes = plt.subplots(1, 2, figsize=(9.2, 3.5))
for arm, (colour, line) in looks.items():
    for ax, y in zip(axes, (known[arm], nats[arm][:, 1:])):
        x = torch.arange(y.shape[1]) * 8 + (4 if ax is axes[0] else 12)
        ax.plot(x, y.mean(0), line, color=colour, label=arm)
        ax.fill_between(x, y.min(0).values, y.max(0).values, color=colour, alpha=0.12, lw=0)
for hops in range(1, 5):
    axes[0].axvline(hops * (W - 1), color="0.7", lw=1, zorder=0)
    axes[0].text(hops * (W - 1), 1.04, f"{hops}", size=8, color="0.3", ha="center")
axes[0].set(xlabel="tokens since the symbol was shown", ylabel="symbol known", ylim=(0, 1.02))
axes[0].set_title("reach of 1, 2, 3, 4 layers", size=9, pad=14)
axes[1].axvline(found["length"], color="0.7", lw=1, zorder=0)
axes[1].set(xlabel="place in the text (characters)", ylabel="nats a character")
axes[1].set_title("real text; trained on 160 characters", size=9, pad=14)
axes[0].legend(loc="lower center", bbox_to_anchor=(0.35, 0.02), fontsize=9)
fig.tight_layout()


def mean(x, lo, hi):
    return x[:, lo // 8:hi // 8].mean(1)


print(f"{'three seeds':16}known at lag 48-95   at 56-71       nats a character   33-96 to 16-31   256-511 to 32-159")
for arm in looks:
    far, twice, text = mean(known[arm], 48, 96), mean(known[arm], 56, 72), nats[arm][:, 2:].mean(1)
    out = [mean(nats[arm], lo, hi) / mean(nats[arm], a, b) for lo, hi, a, b in ((32, 96, 16, 32), (256, 512, 32, 160))]
    print(f"{arm:16}{far.mean():.3f} ± {far.std():.3f}      {twice.mean():.3f} ± {twice.std():.3f}  {text.mean():.3f} ± {text.std():.3f}      " + "            ".join(f"{x.mean():.3f}" for x in out))
both, plain, near = "SWAT (-+)", "softmax window", "SWAT (-)"
assert len(known[both]) >= 3
assert all((mean(y, 48, 96) > 0.95).all() and (mean(y, 128, 160) < 0.3).all() for y in known.values())             # beyond the window, not beyond the reach
assert (mean(known[both], 56, 72) >= mean(known[plain], 56, 72) - 0.02).all()                                      # at twice the window as good as softmax
left = {arm: mean(x, 32, 96) / mean(x, 16, 32) for arm, x in nats.items()}                                         # where the first characters have left
assert not (left[both] < 1.05).all() and not (left[plain] < 1.05).all() and (left[both] / left[plain] < 1.02).all()         # missed, by both: the text is harder there
assert (mean(nats[both], 256, 512) < 1.05 * mean(nats[both], 32, 160)).all()
read = {arm: x[:, 2:].mean(1) for arm, x in nats.items()}
assert ((read[near] - read[plain]).abs() < 0.05).all() and (read[plain] + 0.2 < read[both]).all() and (read[both] + 0.2 < read["SWAT (+)"]).all()

# %% [markdown]
# The claim holds, and for everyone: whoever is trained on texts longer than the window passes the symbol on, hop by hop, as far as four hops reach and no farther. At twice the window all four know it nearly always.
# No curve has a step where the first characters leave. One bound was **missed**, on two seeds of three: places 33 to 96 were allowed 1.05 times the loss of places 16 to 31, and take 1.06 and 1.07. But so they do with a softmax window, on the same seeds: the text itself is harder there,
# and the bound should have been set against that. Far on, the ratio is .98.
#
# What SWAT costs is on the right: balanced slopes read the text a quarter of a nat worse, positive ones alone more than half a nat. Negative slopes alone are level with softmax. In the paper too (−) is the best on average, before (−+); only the distance is much larger here.
# Look at the short lags: with positive slopes a symbol shown a moment ago is *less* well known than one shown 64 tokens ago. What is far weighs nearly 1 whatever its score, and without a common sum the new symbol cannot push the old one aside.
#
# A word on patience. In a first run of a third of the steps, balanced slopes knew the symbol .974 of the time, softmax .995, and we had written "not reproduced" here. SWAT learns more slowly; with 900 steps (tried on another seed first) the difference is gone.
#
# ## What to notice
#
# - **Fading is arithmetic; whether it hurts is not.** The first figure holds for any fixed margin. A model whose weights may grow makes the margin larger instead, and softmax is fine.
# - **A norm can hide an explosion.** Without $-\log n$ attention adds more than ten times the stream it is added to, and the first loss does not move. It is the loss after training that tells.
# - **Nobody sharing has a price.** In SWAT's heads with positive slopes the old keeps its weight when the new comes. And whoever shares nothing learns more slowly: sigmoid attention and SWAT both looked worse in their first, shorter runs.
# - **Limits.** One, two and four layers, at most 64 wide, minutes of training. A head that puts idle weight on token 0 did not form in any arm (all below .02), so that sigmoid needs no sink cannot be seen here.
#
# ## Break it
#
# The commonest mistake with SSMAX is to take one $n$ for the whole call, the length of the text, instead of one for each row. In a training on texts of one length nothing looks wrong. The battery sees it:

# %%
def one_n(q, k, v, state=None):
    return full.parallel(q, k, v, state, rescale=lambda q, n: ssmax.scaled(q, n[-1:].expand(len(n)), 0.43))


print("fails:", ", ".join(name for name, verdict in check.battery(one_n, like="ssmax", form=True, quiet=True).items() if verdict != "ok"))

# %% [markdown]
# It is still causal in the battery's eyes (a later token changes no earlier output as long as their *number* stays the same), but a text that is read in two parts gives other numbers than the same text read in one.
#
# ## Exercises
#
# ```{exercise} When is s large enough?
# :label: normalisation-s
#
# A token's score is $\delta = 2$ above all others. What is its weight among 10,000 tokens, by softmax and by SSMAX with $s = .43$? From which $s$ on does it not fade?
# ```
#
# ````{solution} normalisation-s
# :class: dropdown
#
# Softmax: $1 / (1 + 9999\,e^{-2}) = .0007$. SSMAX: the odds are $n^{s\delta} / (n - 1) \approx n^{.86 - 1} = .28$, so the weight is .22. It still fades, but slowly. From $s\delta > 1$ on, $s > ½$, it grows.
# ````
#
# ```{exercise} The exact bias
# :label: normalisation-bias
#
# All scores are 0 and a row sees $n$ keys. Which $c$ makes the sigmoid weights sum to exactly 1? What is the sum with $c = -\log n$, and why does the difference not matter?
# ```
#
# ````{solution} normalisation-bias
# :class: dropdown
#
# $\sigma(c) = 1/n$ gives $c = -\log(n - 1)$. With $-\log n$ the sum is $n / (n + 1)$. In a fresh model the scores are not all 0, and the mean of $e^{s}$ over normal scores of variance 1 is $1.65$, so the sum is off by more than that anyway:
# ```python
# print(sums["c = −log 1,024"][0][-1])
# ```
# ````
#
# ```{exercise} How far, how many layers, how many bytes?
# :label: normalisation-reach
#
# A model with windows of 128 is to know a symbol from 1,000 tokens ago. How many layers does it need at least? Compare its cache with that of a full cache of the same model at token 100,000.
# ```
#
# ````{solution} normalisation-reach
# :class: dropdown
#
# Each layer looks at most $W - 1 = 127$ tokens back, so $\lceil 1000 / 127 \rceil = 8$ layers. The windows hold 128 entries a layer, the full cache 100,000: a factor of 781.
# ````
#
# ```{exercise} Your own SWAT
# :label: normalisation-own
#
# Write SWAT for a whole sequence with a mask of $T \times T$ cells, window 8 and slope −½, and let the battery mark it: `check.battery(dense, like="swat", form=True)`.
# ```
#
# ````{solution} normalisation-own
# :class: dropdown
#
# ```python
# def dense(q, k, v, state=None):
#     core.expect("q:TK k:TK v:TV", q, k, v)
#     S = state or swat.init(k.shape[-1], v.shape[-1], k.shape[:-2], **core.like(k))
#     k, v = torch.cat([S["k"], k], -2), torch.cat([S["v"], v], -2)
#     at = torch.arange(k.shape[-2])
#     t = at[-q.shape[-2]:]
#     d = t[:, None] - at
#     s = swat.rotate_halves(q, t) @ swat.rotate_halves(k, at).mT / k.shape[-1] ** 0.5 - 0.5 * d
#     p = s.sigmoid() * ((d >= 0) & (d < 8))
#     return p @ v, {"k": k[..., -8:, :], "v": v[..., -8:, :]}
# ```
# All eleven checks pass. Multiplying by the mask *after* the sigmoid is right here; a weight of 0 before it would be the weight ½.
# ````
#
# **Next.** Heads can be chosen token by token, like experts: {doc}`19_heads_as_experts`. Where softmax puts the weight that it must give away is in {doc}`01_streaming` and {doc}`17_sinks`.
