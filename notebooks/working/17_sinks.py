# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # Two memories in the shape of a Λ: do they differ, and what do they remember?
#
# **Question.** {doc}`01_streaming` showed that a model which drops old tokens must keep the first ones. Two papers found this within a month of each other, and each invented its own rule for a thing that sounds like bookkeeping:
# *how far away* are those first tokens, once everything between them and the present is gone? Does the rule matter? And does such a memory remember anything?
#
# **Your prediction, before you read on.** (1) The first rule numbers what is left in the cache. The second says "far away is far away" and uses one fixed distance. By how much do their perplexities differ: a factor of two, a tenth, or less than a hundredth?
# (2) What if there is no rule, and the first tokens move away for ever? (3) A five-digit number stands in a text of 240 tokens; the memory keeps the last 60 and the first 4. How far back may the number stand and still be told?

# %%
import math
import pydoc_data.topics

import torch
from torch.nn import functional as F

from minimem import check, core, show
from minimem.cache import lambda_mask, window
from minimem.catalog import card, result
from minimem.position.rope import rotate_pairs
from minimem.pretrained import dense, forward, load, surprise, through
from minimem.tasks.passkey import passkey, score

torch.set_num_threads(1)

# %% [markdown]
# (lambda_mask)=
# ## The Λ-mask
#
# Draw which keys each query sees, and the picture has two legs: a vertical one (the first tokens) and a slanting one (the window). LM-Infinite {cite:p}`han2024lminfinite` calls it a Λ. A pre-trained model was never shown
# a distance beyond the longest text of its training, so the second half of the idea is a ceiling: what is farther away than that counts as just that far.

# %%
card("lambda_mask")

# %% [markdown]
# ### Build it
#
# RoPE {cite:p}`su2021rope` makes the product of a query and a key depend on their distance alone. So keys may stay as they are, and the query is turned by the *distance* to each of them: a rule about distances is then one line.

# %%
def step(M, q, k, v, window=8, n_global=2, ceiling=None, rotate=lambda_mask.bare):
    k, v = torch.cat([M["k"], k[..., None, :]], -2), torch.cat([M["v"], v[..., None, :]], -2)
    if k.shape[-2] > n_global + window:            # (1) the oldest that is not global goes
        k, v = (torch.cat([x[..., :n_global, :], x[..., n_global + 1:, :]], -2) for x in (k, v))
    j = torch.arange(k.shape[-2])
    dist = torch.where(j < n_global, M["t"][..., None] - j, j[-1] - j).clamp(max=ceiling or window)     # (2)
    w = ((rotate(q[..., None, :].expand_as(k), dist) * k).sum(-1) / q.shape[-1] ** 0.5).softmax(-1)
    return {"k": k, "v": v, "t": M["t"] + 1}, (w[..., None, :] @ v)[..., 0, :]                          # (3)


q, k, v = check.inputs("qkv", T=30)
whole, state = lambda_mask.parallel(q, k, v, rotate=rotate_pairs)
check.same(step, lambda_mask.step, state, *(x[..., 0, :] for x in (q, k, v)), rotate=rotate_pairs)
slots = {n: window.parallel(q, k, v, sinks=n, rotate=rotate_pairs)[0] for n in (0, 1, 2, 4)}
capped = {n: lambda_mask.parallel(q, k, v, n_global=n, rotate=rotate_pairs)[0] for n in (0, 1, 2, 4)}
for n in slots:
    print(n, "first tokens: the same as StreamingLLM?", torch.allclose(slots[n], capped[n]))
long = lambda_mask.parallel(*check.inputs("qkv", T=3000))[1]
print("bytes of six heads after 30 tokens:", core.nbytes(state), " after 3,000:", core.nbytes(long))

# %% [markdown]
# With one first token they are the *same* memory. The picture says why. Each row is a query, each number the distance at which it sees a key. Three first tokens, a window of six.

# %%
plt = show.style()
rules = {"no rule: the true distance": lambda t, j, slot, last: t - j, "StreamingLLM: slots": lambda t, j, slot, last: last - slot,
         "Λ-mask: a ceiling": lambda t, j, slot, last: min(t - j, 6)}
fig, axes = plt.subplots(1, 3, figsize=(10.8, 3.9), sharey=True)
for ax, (name, rule) in zip(axes, rules.items()):
    for t in range(17):
        seen = [j for j in range(t + 1) if j < 3 or t - j < 6]
        for slot, j in enumerate(seen):
            ax.add_patch(plt.Rectangle((j - .5, t - .5), 1, 1, fc=show.KIND_COLOUR["cache"] if j < 3 else "#c9d8ea", ec="white"))
            ax.text(j, t, rule(t, j, slot, len(seen) - 1), ha="center", va="center", fontsize=7, color="white" if j < 3 else "black")
    ax.set(xlim=(-.6, 16.6), ylim=(16.6, -.6), xlabel="key: place in the text", title=name, xticks=range(0, 17, 4), yticks=range(0, 17, 4))
    ax.grid(False)
axes[0].set_ylabel("query: place in the text")
fig.tight_layout()

# %% [markdown]
# Inside the window (light) all three agree: distances there are true. Only the first tokens (dark) are placed differently. In the slots of StreamingLLM they settle at 8, 7, 6, just beyond the window. Under the ceiling all three settle at 6.
# A single one would stand at 6 in both of them. Without a rule they drift off, 16, 15, 14, and go on. The window and the ceiling are one number here, as in the authors' code.
#
# ## A real model
#
# SmolLM2-135M, as in {doc}`01_streaming`; nothing is trained. Three short passages, 64 entries a head; perplexity of what is said from token 64 on.

# %% tags=["nbval-ignore-output"]
model = load()
topics = pydoc_data.topics.topics
ids = model.encode("\n\n".join(topics[name] for name in sorted(topics)))
readers = {"everything": dense, "60 + 4, slots": through(window.parallel, window=60, sinks=4), "60 + 4, ceiling": through(lambda_mask.parallel, window=60, n_global=4)}
passages = [ids[start:start + 257] for start in (20_000, 40_000, 60_000)]
ppl = {name: torch.stack([surprise(model, x, attention=reader)[64:].mean().exp() for x in passages]) for name, reader in readers.items()}
for name, x in ppl.items():
    print(f"{name:16}", *(f"{p:6.2f}" for p in x))

# %% [markdown]
# And the larger measurement: 1,536 tokens a passage, 256 entries, with 0, 1, 4 and 10 first tokens (stored; `python benchmarks/sinks.py perplexity`).

# %%
plt = show.style()
stored = result("sinks")["data"]["passages"]
labels = {"0 slots": "none", "1 slots": "1, either rule", "4 slots": "4, slots", "4 ceiling at the window": "4, ceiling", "4 ceiling at 8192": "4, true distance",
          "10 slots": "10, slots", "10 ceiling at the window": "10, ceiling"}
fig, ax = plt.subplots(figsize=(6.8, 3.2))
for mark, (start, row) in zip("osD", stored.items()):
    ax.plot([row[n] / row["dense"] for n in labels], range(len(labels)), mark, color=show.KIND_COLOUR["cache"], mfc="none", ms=7, label=f"passage from {int(start):,}")
ax.set(yticks=range(len(labels)), yticklabels=labels.values(), ylabel="first tokens kept", xlabel="perplexity, times that of the reader that keeps everything", xlim=(0.95, None))
ax.set_ylim(len(labels) - 0.5, -0.5)
ax.legend(fontsize=8)
fig.tight_layout()

# %% [markdown]
# Whether the first tokens are there makes a factor of two. How many of them makes two hundredths at most, how far away they are said to be five thousandths.
#
# ## What do they remember?
#
# Fluency is one thing. The *passkey* task {cite:p}`mohtashami2023landmark` asks for a fact: a number of five digits in a dull text. First look at what the model says.

# %% tags=["nbval-ignore-output"]
live = {}
print(passkey(sentences=4, depth=0.5, seed=0)[0])
for depth in (0.5, 0.9):
    prompt, key = passkey(sentences=30, depth=depth, seed=0)
    x = model.encode(prompt + key)
    for name, reader in readers.items():
        with torch.no_grad():
            logits, _ = forward(model, x, attention=reader)
        live[depth, name] = score(logits, x)[0]
        print(f"depth {depth}, of {len(x)} tokens   {name:16} right: {key}   said: {model.decode(logits[-6:-1].argmax(-1))!r}")

# %% [markdown]
# The digits are read out one at a time, each after the right ones before it. All depths, three keys (stored):

# %%
plt = show.style()
short = result("sinks_passkey")["data"]["short"]["depths"]
fig, ax = plt.subplots()
for name, label, mark, colour in (("dense", "everything", "o-", "black"), ("0 slots", "64 + 0", "v:", "#c23b22"), ("4 slots", "60 + 4, slots", "s--", show.KIND_COLOUR["cache"]),
                                  ("4 ceiling", "60 + 4, ceiling", "D-.", "#7aa6d6")):
    nats = torch.tensor([[row[name][1] for row in keys.values()] for keys in short.values()])
    back = [next(iter(keys.values()))["back"] for keys in short.values()]
    ax.errorbar(back, nats.mean(1), (nats.mean(1) - nats.min(1).values, nats.max(1).values - nats.mean(1)), fmt=mark, color=colour, label=label, ms=4, capsize=2)
ax.axhline(math.log(10), color="0.6", lw=1)
ax.text(190, math.log(10) - 0.05, "a guess among ten digits", fontsize=8, color="0.3", ha="right", va="top")
ax.axvline(62, color="0.6", lw=1)
ax.text(61, 3.2, "the window ends", fontsize=8, color="0.3", rotation=90, ha="right", va="center")
ax.set(xlabel="how far back the number was last written (tokens)", ylabel="nats per digit")
ax.legend(fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
fig.tight_layout()

# %% [markdown]
# A step, not a slope. What is in the window is told; what has left it is gone. The model is then worse than somebody who guesses among ten digits, for it is not even sure that digits come.
# The first tokens make the reading *inside* the window surer (.02 nats a digit against .12 to .21) and add nothing outside. In longer texts (992 tokens, 256 entries) it is the same.
#
# The row's claim, with limits that were fixed on a passage and keys that are not shown: the two rules within 3% of each other on every passage, both within a quarter of full attention, the window without first tokens above 1.5 times;
# a key is found by everyone if it was last written inside the window, else by full attention alone.

# %% tags=["claim-lambda_mask"]
for row in stored.values():
    for n in ("4", "10"):
        assert abs(row[f"{n} ceiling at the window"] / row[f"{n} slots"] - 1) < 0.03
        assert row[f"{n} ceiling at the window"] / row["dense"] < 1.25 and row["0 slots"] / row[f"{n} ceiling at the window"] > 1.5
    assert abs(row["4 ceiling at 8192"] / row["4 slots"] - 1) < 0.03
assert ((ppl["60 + 4, ceiling"] / ppl["60 + 4, slots"]).log().abs() < 0.03).all()
for task in result("sinks_passkey")["data"].values():
    for row in (row for keys in task["depths"].values() for row in keys.values()):
        inside = row["back"] < task["entries"]
        assert row["dense"][0] == 1 and all(row[name][0] == inside for name in ("0 slots", "4 slots", "4 ceiling"))
assert [live[0.5, n] for n in readers] == [True, False, False] and all(live[0.9, n] for n in readers)

# %% [markdown]
# ## Break it: then why a ceiling at all?
#
# So the rules agree. But is a rule needed? Up to 8,192 tokens, the length of the training, even "no rule" is as good (*true distance* in the figure). To see what comes after, we need not read a million tokens. The state counts them in `t`:
# read 256, move the count forward, read on. Window and first tokens are as they were; only the distance between them is another. Live for one passage, and stored for three.

# %% tags=["nbval-ignore-output"]
x, moved = ids[20_000:20_385], {}
with torch.no_grad():
    for name, limit in (("ceiling", None), ("no rule", 10**9)):
        reader = through(lambda_mask.parallel, window=60, n_global=4, ceiling=limit)
        _, state = forward(model, x[:256], attention=reader)
        for more in (0, 100_000):
            logits, _ = forward(model, x[256:-1], [{**M, "t": M["t"] + more} for M in state], attention=reader)
            moved[name, more] = F.cross_entropy(logits, x[257:]).exp().item()
            print(f"{name:8} after {more:7,} more tokens: perplexity {moved[name, more]:7.1f}")
assert moved["ceiling", 100_000] == moved["ceiling", 0] and moved["no rule", 100_000] > 3 * moved["no rule", 0]
far = result("sinks_jump")["data"]["passages"].values()
plt = show.style()
steps = [n for n in next(iter(far)) if n != "ceiling"]
for row in far:
    plt.plot([row[n] for n in steps], "o-", color=show.KIND_COLOUR["cache"], ms=4)
    plt.axhline(row["ceiling"], color="black", lw=1, ls="--")
plt.xticks(range(len(steps)), [f"{int(n):,}" for n in steps], fontsize=8)
plt.yscale("log")
plt.xlabel("tokens moved forward, no rule (dashed: with the ceiling)")
_ = plt.ylabel("perplexity of 512 tokens")

# %% [markdown]
# ## Other sums under the line
#
# A sink is needed because softmax weights must sum to 1. Two repairs change the softmax, and are meant to be there from the start of the training. What if they are put into a finished model?
#
# - **SSMAX** {cite:p}`nakanishi2025ssmax`: queries times $s\log n$ for $n$ visible keys, so that weights stay as sharp in a long text as in a short one. Here $s = 1/\log n_0$: nothing changes at $n_0$ keys; shorter texts become flatter, longer ones sharper.
# - **softmax1**, the *zero sink* of {cite:t}`xiao2024streaming`: a zero among the scores, $e^{s_j}/(1+\sum_i e^{s_i})$, so that a head may look nowhere. It is what one reads anyway, times $\sigma(\mathrm{lse})$.

# %%
plt = show.style()
places = ["1–31", "32–127", "128–255", "256–511", "512–1,023", "from 1,024"]
data = list(result("sinks_ssmax")["data"]["passages"].values())
for name, mark, colour in (("n0 = 64", "o-", "#7aa6d6"), ("n0 = 256", "s--", show.KIND_COLOUR["cache"]), ("n0 = 1024", "v:", "#c23b22"), ("n0 = 256, never less", "D-.", "black")):
    more = torch.tensor([row[name] for row in data]) - torch.tensor([row["as trained"] for row in data])
    plt.errorbar(range(6), more.mean(0), (more.mean(0) - more.min(0).values, more.max(0).values - more.mean(0)), fmt=mark, color=colour, ms=4, capsize=2, label=name.replace("n0", "$n_0$"))
plt.axhline(0, color="0.6", lw=1)
plt.xticks(range(6), places, fontsize=8)
plt.xlabel("place in the text (tokens)")
plt.ylabel("nats a token, more than as trained")
_ = plt.legend(fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
zero, plain = result("sinks_softmax1")["data"]["passages"], stored
for start in zero:
    print(f"passage {start}: everything {plain[start]['dense']:.1f}, with softmax1 {zero[start]['softmax1']:.1f};  window 256 {plain[start]['0 slots']:.1f}, "
          f"with softmax1 {zero[start]['softmax1, window 256']:.1f}, with 1 first token {plain[start]['1 slots']:.1f}")

# %% [markdown]
# SSMAX makes the finished model worse nearly wherever it changes anything, on either side of $n_0$. It is no repair for a model whose heads learned how sharp to be without it. Digits of the passkey, with $n_0 = 256$: all right, as before
# (992 tokens, .03 nats as trained, .01 to .03 with it). Trained from the start it is another story, told in {doc}`18_normalisation`.
#
# softmax1 does no harm to the reader of everything. With a window and no first token it closes about half of the gap: heads that may look nowhere do, but they were not trained to, and a real first token does better.
#
# ## What to notice
#
# - Slots or ceiling: the same keys, one rule each for a few of them, and the same perplexity within three thousandths. With a single first token they are one memory, up to rounding.
# - The rule still matters: without any, four entries among 256 that stand too far away cost a factor of six to more than five hundred, where their absence costs a factor of two. It is not monotone (less at 32,768 than at 16,384), for RoPE's angles come round again.
# - No first token, no slot and no ceiling brings back what left the window. Fluent is not the same as remembering.
# - **Limits.** One model of 135 million parameters, one kind of text, three passages and three keys. Putting the count forward shows what distance does; a real text of a million tokens would have passed through the window on the way.
#   SSMAX was tried within the lengths that the model knows, where there is nothing to repair.
#
# ## Exercises
#
# ```{exercise} The slots of the first tokens
# :label: sinks-slots
#
# A cache of $W$ recent and $S$ first tokens is full. At what distance does StreamingLLM see first token $j$, and for which $j$ is that the ceiling $W$ of the Λ-mask?
# ```
#
# ````{solution} sinks-slots
# :class: dropdown
#
# The query stands in slot $S + W - 1$, the token in slot $j$: the distance is $W + (S - 1 - j)$. It is $W$ for the last of them, $j = S - 1$, so with $S = 1$ the two memories are one.
# The largest difference is $S - 1$ tokens: three of 252 in the measurement above. No wonder that nothing changes.
# ````
#
# ```{exercise} Thirty layers of 60 tokens
# :label: sinks-layers
#
# A token in the window of 60 has itself looked back 60 tokens, one layer below. With 30 layers, something written 1,800 tokens ago could still arrive. Why did the number not, from 74 tokens back?
# ```
#
# ````{solution} sinks-layers
# :class: dropdown
#
# It *could*, had the model learned to hand it on. This one was trained with everything in view: heads that find the place of the number copy digits from there directly, and no layer below had a reason to store them in the filler that follows.
# Models that are trained with a window, as SWAT is {cite:p}`fu2025swat`, have that reason.
# ````
#
# ```{exercise} Your own Λ
# :label: sinks-own
#
# Write it for a whole sequence with a mask of $T \times T$ cells, and let the battery mark it: `check.battery(masked, like="lambda_mask", form=True)`.
# Its signature is `masked(q, k, v, state=None) -> (out, state)`; no positions, a window of 8 and 2 first tokens.
# ```
#
# ````{solution} sinks-own
# :class: dropdown
#
# ```python
# def masked(q, k, v, state=None):
#     core.expect("q:TK k:TK v:TV", q, k, v)
#     M = state or lambda_mask.init(k.shape[-1], v.shape[-1], k.shape[:-2], **core.like(k))
#     k, v = torch.cat([M["k"], k], -2), torch.cat([M["v"], v], -2)
#     j = torch.arange(k.shape[-2])
#     t = j[-q.shape[-2]:, None]
#     seen = (j <= t) & ((j < 2) | (t - j < 8))
#     w = (q @ k.mT / k.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf).softmax(-1)
#     kept = torch.cat([j[:2], j[2:][-8:]])
#     return w @ v, {"k": k[..., kept, :], "v": v[..., kept, :], "t": M["t"] + q.shape[-2]}
# ```
# Without positions this is StreamingLLM, but for the counter: `check.battery` tells the two apart by the state alone.
# ````
#
# **Next.** A finished model can also be *shown* a long text at short distances: {doc}`16_interpolation` changes the frequencies, and {doc}`18_normalisation` trains the other softmaxes from the start.
