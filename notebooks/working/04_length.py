# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # Longer than it was trained: does a memory that chooses what to forget still hold?
#
# **Question.** A model has been trained on texts of 64 tokens. Now four facts lie among 512 tokens, with noise between them, and are asked hundreds of tokens later. A memory of fixed size has room for four facts. Does it still have them?
#
# **Your prediction, before you read on.** Five models learn the task at 64 tokens. Three have a matrix for a memory: it forgets by a gate that it *learned*, by a *fixed* rate, or *never*. Two are attention, which keeps everything, with learned positions (number 65 and all later ones never seen in training).
# Rank the five at 512 tokens.

# %%
import torch
from torch.nn import functional as F

from minimem import check, core, show
from minimem.catalog import card, result
from minimem.lm import accuracy, fit, small
from minimem.state import gla
from minimem.tasks.scattered import scattered

torch.set_num_threads(1)

# %% [markdown]
# (gla)=
# ## A rate for every row, chosen by the token
#
# Gated linear attention keeps one matrix $S$. Before a pair is added, each row, one for each entry of the key, fades by its own factor $e^{a}$, and the token says by how much. With all $a = 0$ it is linear attention; with one $a$ for the whole matrix it is Mamba-2.

# %%
card("gla")


# %%
def step(S, q, k, v, a):
    S = a.exp()[..., None] * S + k[..., :, None] * v[..., None, :]                   # (1)
    return S, (q[..., None, :] @ S)[..., 0, :] * q.shape[-1] ** -0.5                 # (2)


q, k, v, a = check.inputs("qkvg", T=60)
S = torch.randn(2, 3, 6, 4).double()
check.same(step, gla.step, S, *(x[..., 0, :] for x in (q, k, v, a)))
check.same(lambda *x: core.run(step, torch.zeros_like(S), *x), gla.chunked, q, k, v, a)

# %% [markdown]
# What a gate for each row can do. Three rows, set by hand: the first keeps everything, the second halves with every token, the third is *emptied* by tokens 5 and 10 and keeps all else. Each token writes 1 into each row.

# %%
plt = show.style()
a = torch.tensor([0.0, -0.693, 0.0]).repeat(16, 1)
a[[5, 10], 2] = -torch.inf
one, S, held = torch.ones(3), torch.zeros(3, 1), []
for a_t in a:
    S, _ = step(S, one, one, one[:1], a_t)
    held.append(S[:, 0])
fig, ax = plt.subplots(figsize=(6.4, 2.8))
for y, colour, line, name in zip(torch.stack(held, 1), ("#595959", show.KIND_COLOUR["state"], "#000000"), ("o--", "s-", "^:"),
                                 ("keeps: a sum", "halves: the last few", "emptied twice: since then")):
    ax.plot(y, line, color=colour, ms=4, label=name)
ax.set(xlabel="token", ylabel="what the row holds", title="One matrix, three rows, three ways to forget")
ax.legend()
fig.tight_layout()

# %% [markdown]
# ## The task
#
# `scattered` puts pairs of a key and a value among noise; each key comes once more, anywhere later, and its value must follow. A longer sequence holds *the same number* of facts, only farther apart: on average by a third of its length.

# %%
tokens, targets = scattered(2, 16, symbols=8, noise=4, batch=3, seed=1)
for row, answers in zip(tokens.tolist(), targets.tolist()):
    print(" ".join("·" if t < 4 else f"k{t - 4}" if t < 12 else f"v{t - 12}" for t in row).ljust(44), "asked:", " ".join(f"v{t - 12}" for t in answers if t >= 0))


# %% [markdown]
# ## Train one
#
# The smallest version: 2 facts in 24 tokens, two layers 32 wide, 300 steps. Then it is asked at up to eight times that length, and we look at the gates that it has learned: the mean factor $e^{a}$ of each row, by what the token is.

# %% tags=["nbval-ignore-output"]
def trained(seed):
    torch.manual_seed(seed)
    model = small(20, 32, [gla.Layer(32, heads=1, K=8, V=32, conv=4) for _ in range(2)])
    fit(model, lambda i: scattered(2, 24, 8, 4, seed=1000 * (seed + 1) + i), 300, 0.008)
    return model


model = trained(0)
print({T: round(accuracy(model, *scattered(2, T, 8, 4, batch=256, seed=1)), 2) for T in (24, 48, 96, 192)})

# %%
tokens, _ = scattered(2, 64, 8, 4, batch=64, seed=2)
kinds = {"noise": tokens < 4, "key": (tokens >= 4) & (tokens < 12), "value": tokens >= 12}
with torch.no_grad():
    x, first = model.embed(tokens), model.blocks[0]
    keep = (F.logsigmoid(first.mixer.decay(first.norm(x))) / 16).exp()
rates = torch.stack([keep[which].mean(0) for which in kinds.values()])
rates = rates[:, rates[0].argsort()]
plt = show.style()
fig, ax = plt.subplots(figsize=(6.4, 3.0))
for (name, y), colour, mark in zip(zip(kinds, rates), ("#000000", show.KIND_COLOUR["state"], "#9a9a9a"), ("o-", "s--", "^:")):
    ax.plot(1 / (1 - y), mark, color=colour, ms=5, label=name)
ax.set(yscale="log", xlabel="row of the first layer's memory, sorted", ylabel="horizon $1/(1-e^a)$, tokens", title="How long a row lasts, if every token were …")
ax.legend()
fig.tight_layout()
assert (1 / (1 - rates))[0].median() > 2 * (1 / (1 - rates))[1:].max(0).values.median()     # it learned to hold still while noise passes

# %% [markdown]
# Nobody told the model what noise is. Its rows last longer while noise passes than while keys and values do: it forgets to make room, when there is something to make room for.
# The longest horizons are what carries a fact past the trained length; what they are was settled at 24 tokens, where a horizon of 200 and one of 2000 look alike.
#
# ## Five models, up to eight times the length
#
# The full version (`benchmarks/trained/length.py`): 4 facts, trained on 64 tokens, asked on 64 to 512, three seeds. What counts was fixed before the run, after calibration on other seeds:
# GLA loses at most 5 points of 100 at 512 tokens on every seed, and attention with learned positions at least 15.

# %%
data = result("length")["data"]
plt = show.style()
fig, ax = plt.subplots(figsize=(7.4, 3.8))
looks = (("#e07b00", "s-"), ("#7a3b00", "^--"), ("#595959", "o:"), ("#1f5fa8", "D-"), ("#0b2a4a", "v--"))
for (name, rows), (colour, mark) in zip(data["accuracy"].items(), looks):
    y = torch.tensor(rows)
    ax.errorbar(data["lengths"], y.mean(0), y.std(0), fmt=mark, color=colour, ms=5, capsize=2, label=name)
ax.axvline(64, color="#bbbbbb", lw=1, zorder=0)
ax.annotate("trained", (66, 0.02), size=8, color="#666666")
ax.set(xscale="log", xlabel="tokens", ylabel="values recalled", ylim=(0, 1.05), xticks=data["lengths"], xticklabels=data["lengths"])
ax.minorticks_off()
ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
fig.tight_layout()

# %% [markdown]
# The claim, with what was fixed before the run. **GLA does not meet it**: it is flat up to four times the trained length, and at eight times loses more than 5 points on two of three seeds, on the third (the one that learned the task worst) 20.
# Attention with learned positions fails as expected. What nobody had put into the claim is that two other models pass easily: the matrix that never forgets, and attention with the same learned positions and a short convolution.

# %% tags=["claim-gla"]
right = {name: torch.tensor(rows) for name, rows in data["accuracy"].items()}
lines = [f"{'tokens':44}" + "".join(f"{T:<14}" for T in data["lengths"]) + "lost at 512, by seed"]
for name, y in right.items():
    lines.append(f"{name:44}" + "".join(f"{m:.2f} ± {d:.2f}   " for m, d in zip(y.mean(0), y.std(0))) + "  ".join(f"{x:.2f}" for x in y[:, 0] - y[:, -1]))
print("\n".join(lines))
lost = {name.split(":")[0]: y[:, 0] - y[:, -1] for name, y in right.items()}
learned = right["GLA: learned forgetting"]
assert (learned[:, 0] - learned[:, 2] <= 0.05).all()                                 # flat at 4 times the trained length …
assert not (lost["GLA"] <= 0.05).all()                                               # … and not at 8 times: the claim as it was fixed fails
assert (lost["attention, learned positions"] >= 0.15).all()                          # its rival does lose what was said
assert (lost["linear attention"] < lost["GLA"]).all() and (lost["GLA"] < lost["RetNet"]).all()
assert (lost["attention, learned positions, convolution"].abs() <= 0.01).all()

# %% [markdown]
# ## What to notice
#
# - **What keeps recall flat is not forgetting.** In order, from best to worst: never forget, forget by a learned gate, forget at a fixed rate. GLA does well as far as its gates learn to stay open, and 64 tokens do not teach them to stay open for 512.
#   RetNet's one head here is its first, with a horizon of 32, and cannot do otherwise.
# - **Why gates all the same?** Here four facts fit into the memory with ease, so there is nothing that must go. Where facts change or the matrix is too small, forgetting is what makes room; the labs on overwriting and on the horizons of RetNet show both.
# - **"Attention fails past its length" is a half-truth.** It loses 26 or 27 points where positions are what ties a value to the key before it: numbers 64 to 511 are noise that was never trained. Give it a convolution of four tokens for that, and it never needs the positions; then 512 is as easy as 64.
#   In a trial on another seed it did as well without any positions. It also keeps everything: 393,224 bytes after 512 tokens, where the models with a matrix have 8064 (RetNet 8 more, for its counters).
# - **Limit.** Two layers, four facts, three seeds; one of the three GLA models had not finished learning, at 600 steps. The calibration was uneven: attention needed its own
#   number of steps, rate and positions to learn at all, and got them, GLA was left as it was. The paper's claim is about the perplexity of language models trained on 2,000 tokens and read beyond 20,000,
#   which is not contradicted here. What this task shows is that the gate alone does not give it.
#
# ## Break it
#
# Take the choice away from the model that was trained above: give every token the same gates, first those that never forget, then those it started with.
#
# ```{exercise} Who needs to forget?
# :label: length-never
#
# Set the weights of `mixer.decay[1]` to 0 and its bias to 100 in both blocks, so that $a = 0$ for every token: the memory never forgets. What happens at 24 and at 192 tokens? And with the bias 0, where all rows keep .96 a token?
# ```
#
# ````{solution} length-never
# :class: dropdown
#
# ```python
# from copy import deepcopy
# for bias in (100.0, 0.0):
#     changed = deepcopy(model)
#     for block in changed.blocks:
#         torch.nn.init.zeros_(block.mixer.decay[1].weight)
#         torch.nn.init.constant_(block.mixer.decay[1].bias, bias)
#     print(bias, [round(accuracy(changed, *scattered(2, T, 8, 4, batch=256, seed=1)), 2) for T in (24, 192)])
# ```
#
# Never forgetting costs nothing, at eight times the length it may even be better: this task has nothing to forget, as noise is hardly written. At .96, a horizon of 23 tokens, a quarter and more of the answers is lost at 192 tokens, and hardly any at 24.
# A model cannot learn from short texts which of the two it will need.
# ````
#
# ```{exercise} A decay for all is a decay for each
# :label: length-equal
#
# When is GLA what RetNet is, but for the turning of keys? Show it with `gla.chunked` and `retnet.chunked` (set its `t` so that nothing turns: which positions leave a key as it is?).
# ```
#
# ````{solution} length-equal
# :class: dropdown
#
# When all $a$ are $\log\gamma$. No position but 0 leaves all keys as they are, so turn the keys for GLA by hand:
#
# ```python
# from minimem.state import retnet
# q, k, v = check.inputs("qkv", T=60)
# t = torch.arange(60.0).double()
# mine, _ = gla.chunked(retnet.rotate(q, t) * 6 ** 0.5, retnet.rotate(k, t), v, torch.full_like(k, 31 / 32).log())
# torch.testing.assert_close(mine, retnet.chunked(q, k, v)[0])
# ```
# ````
#
# **Next.** What a memory must be able to do to select a few tokens among many: selective copying.
