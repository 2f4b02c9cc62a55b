# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# (dense)=
# # A bi-encoder: learn which words mean the same
#
# BM25 finds a turn by the words it shares with the question. Often it shares none: *"Which countries has Dilan visited?"* is answered by *"So, I am back from Chile, the mountains there are something else."*
# A **bi-encoder** turns question and turn into one vector each, and compares the vectors. **Can a small one, trained in seconds on other people's chats, learn that "back from" is about visiting?**
#
# Make two predictions before you read on.
#
# 1. Its vectors start as random numbers, one vector for each word. Does it find anything before it is trained?
# 2. MiniLM is a ready-made encoder of 22 million weights that was trained on more than a billion pairs of texts. On the turns of real chats, does it find more than BM25, which counts words?

# %%
import random
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from minimem import check, pretrained, show
from minimem.catalog import card, result
from minimem.tasks.dialogue import Random, bootstrap, evaluate, facts, make, turns
from minimem.text import dense, late
from minimem.text.bm25 import BM25
from minimem.text.dense import BiEncoder, Dense, batches, train

torch.set_num_threads(1)
card("dense")

# %% [markdown]
# The survey's example for this heading is a review of retrieval-augmented generation (Gao and others, 2023). That is a good map of the field; the method itself comes from DPR {cite:p}`karpukhin2020dpr`, which trained two
# encoders on questions and passages with the loss (3). The mean over tokens in (1) is that of Sentence-BERT {cite:p}`reimers2019sbert`.
#
# ## The definition
#
# $h_i$ is the vector of the $i$-th token. In MiniLM six layers of attention compute it from the whole text; in ours it is one row of a table, found by the word. The loss takes a batch of pairs $(q_i, d_i)$, compares every
# question with every text, and wants the largest score at the partner: **what answers one question serves as a wrong answer for all the others**, so wrong answers cost nothing.

# %%
def mean_vector(h, real):
    n = real.sum(-1, keepdim=True).clamp(min=1)
    h = (h * real[..., None]).sum(-2) / n                                       # only real tokens count, not the padding
    return h / h.norm(dim=-1, keepdim=True).clamp(min=1e-12)                    # (1)


def loss(q, d, tau):
    s = q @ d.T                                                                 # (2), every question with every text
    return -torch.log_softmax(s / tau, dim=1).diagonal().mean()                 # (3)


# %%
g = torch.Generator().manual_seed(0)
h, real = torch.randn(5, 7, 16, generator=g, dtype=torch.float64), torch.arange(7) < torch.tensor([7, 3, 1, 0, 5])[:, None]
check.same(mean_vector, dense.pool, h, real)
check.same(loss, dense.in_batch, mean_vector(h, real), mean_vector(h.flip(0), real.flip(0)), 0.05)
print("both are the package's")

# %% [markdown]
# ## Train it
#
# Pairs to learn from: each fact that was noted of a chat, and the turn it was noted from. No question is used, and the chats we shall ask about are others.
# A batch holds 32 pairs of *one* chat, because that is what the memory must tell apart later. One pass over 20 chats is 60 steps.

# %% tags=["nbval-ignore-output"]
def pairs(sample):
    text = {u.id: u.text for u in turns(sample)}
    return [(f.text, text[i]) for f in facts(sample) for i in f.source_ids]


def trained(seed, chats=20):
    encoder = BiEncoder(256, seed=seed)
    losses = train(encoder, batches([pairs(s) for s in make(chats, 1000 + seed)], 32, 1, seed), rate=0.005)
    return encoder, losses


before, (after, losses) = BiEncoder(256, seed=0), trained(0)
for fact, turn in pairs(make(1, 0)[0])[:2]:
    print(f"{fact:30} <- {turn}")
print("loss, first and last ten steps:", np.mean(losses[:10]).round(2), np.mean(losses[-10:]).round(2))

# %% [markdown]
# What the loss sees: twelve facts of a chat it was not trained on, and their turns. Each row is a softmax over the turns; the right one is on the diagonal.

# %%
def show_matrices(encoders, some):
    plt = show.style()
    fig, axes = plt.subplots(1, 2, figsize=(6.6, 3.3), sharey=True, layout="constrained")
    for ax, (name, e) in zip(axes, encoders.items()):
        s = torch.tensor(e([q for q, _ in some]) @ e([d for _, d in some]).T)
        im = ax.imshow(torch.softmax(s / 0.05, 1), cmap="Greys", vmin=0, vmax=1)
        ax.set(title=name, xlabel="turn number", xticks=range(0, 12, 2), yticks=range(0, 12, 2))
        ax.grid(False)
    axes[0].set_ylabel("fact number")
    fig.colorbar(im, ax=axes, label="share of the softmax", shrink=0.8)


held = pairs(make(1, 0)[0])
some = random.Random(1).sample(held, 12)
show_matrices({"untrained": before, "trained on other chats": after}, some)

# %% [markdown]
# The same as a map. 256 numbers do not fit on paper, so we draw the two directions in which these six facts and six turns differ most. A line joins a fact to its turn: after training, the lines are short.

# %%
def show_map(encoders, some):
    plt = show.style()
    fig, axes = plt.subplots(1, 2, figsize=(6.6, 3.6), layout="constrained")
    for ax, (name, e) in zip(axes, encoders.items()):
        x = np.concatenate([e([q for q, _ in some]), e([d for _, d in some])])
        x = x - x.mean(0)
        x = x @ np.linalg.svd(x)[2][:2].T
        for i, (a, b) in enumerate(zip(x[: len(some)], x[len(some):])):
            ax.plot(*zip(a, b), "-", color="0.7", lw=1)
            ax.plot(*a, "o", color=show.KIND_COLOUR["text"], label="fact" if i == 0 else None)
            ax.plot(*b, "^", color="white", mec="black", label="its turn" if i == 0 else None)
            ax.annotate(str(i), a, xytext=(-11, 3), textcoords="offset points", fontsize=9)
        ax.set(title=name, xlabel="first direction", ylabel="second direction", aspect="equal", xlim=(-1, 1), ylim=(-1, 1))
    axes[0].legend(fontsize=8, loc="upper right")


show_map({"untrained": before, "trained on other chats": after}, some[:6])
for i, (fact, turn) in enumerate(some[:6]):
    print(i, fact, "<-", turn[:70])

# %% [markdown]
# ## The experiment
#
# Fixed before the run: 3 seeds; for each, 6 chats to ask about and 20 others to train on. Real questions now, not facts. Measured: evidence recall at 10 turns and at equal budgets of words.
# (Width, rate, batch and one pass were tried on chats of other seeds.)

# %%
SEEDS, WORDS, found = (0, 1, 2), (125, 250, 500, 1000), {}
for seed in SEEDS:
    systems = {"untrained": partial(Dense, BiEncoder(256, seed=seed)), "trained": partial(Dense, trained(seed)[0]), "LSA-256": Dense,
               "BM25, b = 0": partial(BM25, b=0), "random": Random}
    for name, memory in systems.items():
        found.setdefault(name, []).append({k: 100 * bootstrap(v)[0] for k, v in evaluate(make(6, seed), memory, (10,), WORDS).items()})
for name, rs in found.items():
    print(f"{name:12}", {k: f"{min(r[k] for r in rs):.0f} to {max(r[k] for r in rs):.0f} %" for k in ("R@10", "words 250", "words 1000")})

ax = show.style().gca()
for (name, rs), look in zip(found.items(), (":s", "-o", "--^", "-.x", "-")):
    x = np.array([[r[f"words {w}"] for w in WORDS] for r in rs])
    ax.errorbar(WORDS, x.mean(0), [x.mean(0) - x.min(0), x.max(0) - x.mean(0)], fmt=look, color=show.KIND_COLOUR["text"], label=name, capsize=2)
ax.set(title="made chats (mean, lowest and highest of 3 seeds)", xlabel="words read", ylabel="evidence found (%)", xscale="log", ylim=(0, 100),
       xticks=WORDS, xticklabels=WORDS)
ax.minorticks_off()
ax.legend(fontsize=8, ncols=2)

# %% [markdown]
# Untrained it is no fool: a random vector for each word still tells texts with shared words from others, since random directions are nearly at right angles. It misses what training adds: which words matter, and which belong together.
# We can ask the table itself.

# %% tags=["nbval-ignore-output"]
def row(encoder, term):
    return encoder.table[encoder.buckets(term)[0]].detach()


WORDS_SEEN = "flat stair key best taste eat back trip car book gift dog nurse work lake".split()
for word in ("live", "favourite"):
    near = {w: F.cosine_similarity(row(after, word), row(after, w), dim=0).item() for w in WORDS_SEEN}
    print(f"nearest to {word!r}:", {w: round(near[w], 2) for w in sorted(near, key=near.get)[:-4:-1]})
print("length of a word's vector, against that before training:", {w: round((row(after, w).norm() / row(before, w).norm()).item(), 2)
      for w in ("Lena", "took", "know", "flat", "Vietnam", "cello", "goat")})

# %% [markdown]
# *Live* has come near *flat* and *stair*, *favourite* near *best* and *taste*. And a word's vector grew if the word decides (a country, an instrument, an animal) and shrank if it does not (a name, *took*): the encoder
# found by itself what BM25 has from the formula for idf.
#
# ## A vector for every token
#
# One vector a text must hold all of it. *Late interaction* (ColBERT {cite:p}`khattab2020colbert`) keeps a vector for every token, and each token of the question counts the token of the text that is most like it:
# $s(q,d)=\sum_i \max_j q_i^\top d_j$. MiniLM, live, on one question and the turn that answers it:

# %%
late_memory = late.Late(pretrained.minilm().tokens)
query, turn = "Which countries has Dilan visited?", "Dilan: I am back from Chile, the mountains there are something else."
q, d = (torch.from_numpy(late_memory.token_vectors(t)) for t in (query, turn))
across, down = ([t.removeprefix("##") for t in pretrained.minilm().tokenizer.encode(x).tokens] for x in (turn, query))
s = q @ d.T
plt = show.style()
fig, ax = plt.subplots(figsize=(6.6, 3.9), layout="constrained")
im = ax.imshow(s, cmap="Greys", vmin=0, vmax=1)
ax.plot(s.argmax(1), range(len(down)), "o", mfc="none", mec=show.KIND_COLOUR["state"], mew=1.5, ms=9)
ax.set(xticks=range(len(across)), yticks=range(len(down)), yticklabels=down, title="circles: the most alike, one a row; their sum is the score")
ax.set_xticklabels(across, rotation=60, ha="right", rotation_mode="anchor")
ax.grid(False)
fig.colorbar(im, ax=ax, label="cosine", shrink=0.8)
check.same(lambda q, d: (q @ d.T).max(1).values.sum(), late.maxsim, q, d)
print("the token most like 'countries':", across[s[down.index("countries")].argmax()], "- like 'visited':", across[s[down.index("visited")].argmax()])

# %% [markdown]
# *Countries* finds *Chile* and *visited* finds *from*, although the letters share nothing. The price: 18 vectors of 1,536 bytes for a turn of 70 bytes.
#
# ## On real chats
#
# LoCoMo {cite:p}`maharana2024locomo` is not ours to ship; these are stored numbers. The encoder here was trained on the facts of eight conversations and asked about the two others; MiniLM and LSA are as they come.

# %%
turns_of, learnt = result("dense")["data"], result("bi_encoder_locomo")["data"]
LINES = [("systems", learnt, name) for name in ("untrained", "trained")] + [
    ("systems", turns_of, name) for name in ("MiniLM", "LSA-256", "BM25 b=0", "MaxSim, all turns", "MiniLM, then MaxSim of 50")] + [
    ("differences", learnt, "trained minus untrained"), ("differences", turns_of, "BM25 b=0 minus MiniLM"),
    ("differences", turns_of, "MaxSim, all turns minus MiniLM")]
print(f"{'LoCoMo, % (95 % interval)':32} {'R@10':>18} {'1,000 words':>20}")
for what, of, name in LINES:
    print(f"{name:32}", *("{:6} [{}, {}]".format(*of[what][name][k]) for k in ("R@10", "words 1000")))
print({name: f"{sum(parts.values()):,} bytes a turn" for name, parts in turns_of["bytes a turn"].items()})

# %% [markdown]
# ## What holds

# %% tags=["claim-dense"]
for r0, r1, *_, chance in zip(*found.values()):
    assert r1["R@10"] > r0["R@10"] + 10 and r1["words 250"] > r0["words 250"] + 10          # trained beats untrained, on chats it never saw
    assert r0["R@10"] > 2 * chance["R@10"]                                                  # which is not chance either
assert turns_of["differences"]["BM25 b=0 minus MiniLM"]["R@10"][1] > 0                      # on LoCoMo, counting words beats MiniLM alone
assert learnt["differences"]["trained minus untrained"]["R@10"][1] > 0
print("as claimed")

# %% [markdown]
# ## What to notice
#
# - **Trained beats untrained, but how much depends on the chats.** On made chats by 29 to 34 points: all of them are put together from the same turns of phrase. On LoCoMo by 2.2 points (1.4 to 3.3), from two thousand pairs;
#   five passes instead of one give 4.5. It stays 22 points below BM25, and added to BM25 it takes 1.8 points away. This is a lesson in how such encoders learn, not one to use; it says nothing about DPR's numbers, which took
#   two BERTs and far more pairs.
# - **MiniLM alone finds 18.9 points less than BM25** (13.5 to 24.0; the card expected 15.0, with another stemmer for BM25). A turn of a chat says little by itself, and its rare words, names and dates are what questions ask for.
# - **The same network with a vector for every token finds 21.5 points more than with one**, and in 1,000 words more than BM25. The price is 57 kB a turn, 37 times the bytes. As a second look it must not forget the first: ordering the 50
#   best of "BM25 + MiniLM" by MaxSim alone *loses* 2.3 points (0.8 to 3.8).
# - **A limit: vectors are bytes.** 1,536 for a turn of 155 (in 16 bits, 768, the results are the same to a tenth of a point). LSA's 256 numbers take 1,024, and what it learned from the chat another 2,236 a turn.
#
# ## Break it
#
# Two ways. First give every fact the turn of *another* fact of the same chat: the encoder then learns what is not so. Then take the wrong answers out of (3) and only pull partners together, $-s(q_i,d_i)$.
# Guess what the second does before you run it: with nothing pushed apart, could not all vectors become the same?

# %% tags=["nbval-ignore-output"]
def pulled(groups, rate=0.005):
    encoder = BiEncoder(256, seed=0)
    adam = torch.optim.SparseAdam([encoder.table], rate)
    for batch in batches(groups, 32, 1, 0):
        q, d = (encoder.encode(x) for x in zip(*batch))
        adam.zero_grad()
        (-(q * d).sum(1).mean()).backward()
        adam.step()
    return encoder


groups, wrong = [pairs(s) for s in make(20, 1000)], BiEncoder(256, seed=0)
mixed = [[(fact, g[i - 7][1]) for i, (fact, _) in enumerate(g)] for g in groups]
train(wrong, batches(mixed, 32, 1, 0), rate=0.005)
for name, e in {"untrained": before, "trained": after, "trained on wrong partners": wrong, "no wrong texts": pulled(groups)}.items():
    x = e([u.text for u in turns(make(1, 0)[0])])
    r10 = 100 * bootstrap(evaluate(make(6, 0), partial(Dense, e), (10,))["R@10"])[0]
    print(f"{name:26} R@10 {r10:.0f} %, mean cosine of two turns {(x @ x.T).mean():.2f}")

# %% [markdown]
# Wrong partners teach what is not so: worse than no training. But without wrong texts nothing breaks here: it finds *more* (stored, three seeds: R@10 69 to 71 % against 57 to 58 %). The turns did draw together, the mean
# cosine doubled, yet their order survived. Is (3) then not needed? **The made chats mislead.** On LoCoMo the same encoder without wrong texts is no better than untrained (−0.4 points of R@10, −2.6 to 1.3; in 1,000 words 3 points *worse*), where
# (3) gains. Made chats say few things in few ways, so pulling is enough; in real talk it draws everything together. A toy can show how a mechanism works, and still be wrong about whether it is needed.
#
# ## Exercises
#
# ```{exercise} The loss in one line
# :label: dense-loss
#
# (3) is the loss of a classifier with as many classes as the batch has texts. Write `my_loss(q, d, tau)` with `F.cross_entropy`; mark it with `check.same(my_loss, dense.in_batch, q, d, 0.05)` where `q` and `d` have as many rows.
# ```
#
# ````{solution} dense-loss
# :class: dropdown
#
# ```python
# def my_loss(q, d, tau):
#     return F.cross_entropy(q @ d.T / tau, torch.arange(len(q)))
#
# q, d = (F.normalize(torch.randn(6, 8), dim=-1) for _ in range(2))
# check.same(my_loss, dense.in_batch, q, d, 0.05)
# ```
# With more texts than questions the line still holds: the texts behind the last question are hard negatives, right for nobody.
# ````
#
# ```{exercise} Temperature
# :label: dense-temperature
#
# $\tau$ is 0.05 above. Say what the loss does with a partner that leads all others by 0.3, for $\tau=0.05$ and for $\tau=0.2$; then train with 0.2 (`BiEncoder(256, tau=0.2)`) and ask the questions again.
# ```
#
# ````{solution} dense-temperature
# :class: dropdown
#
# ```python
# from math import exp
# for tau in (0.05, 0.2):
#     print(tau, 1 / (1 + 31 * exp(-0.3 / tau)))        # the partner's share among 32 texts
# e = BiEncoder(256, tau=0.2)
# train(e, batches(groups, 32, 1, 0), rate=0.005)
# print(bootstrap(evaluate(make(6, 0), partial(Dense, e), (10,))["R@10"]))
# ```
# At 0.05 that partner already has 93 % of the softmax, and the loss stops pulling; at 0.2 it has 13 %, and the words of fact and turn are drawn on together. R@10 on the three seeds rises from
# 57 to 58 % to 69 to 71 % (stored in `result("bi_encoder_made")`). We report 0.05 above because it was fixed first.
# ````
#
# ```{exercise} One vector for a whole session
# :label: dense-session
#
# MiniLM reads 256 tokens and says nothing when a text is longer. A session of LoCoMo has 571 words. Look at `result("dense_sessions")["data"]`: how much of the sessions is never read, how much of the evidence, and what does the mean of the turns' vectors repair?
# ```
#
# ````{solution} dense-session
# :class: dropdown
#
# No session fits. 66 % of the words are cut off, and 54 % of the evidence turns stand wholly behind the cut. The session that holds the evidence is among the first ten for 61 % of it; by the mean of the turns' vectors 78 % (16.5 points more, 95 % interval 13.2 to 19.6).
# BM25, which reads everything, reaches 91 %.
# ````
#
# **Next.** Both kinds of score in one list; and indexes that search a million vectors without looking at each.
