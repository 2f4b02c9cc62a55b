# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# (rag)=
# # RAG: which document wrote the answer?
#
# *Where has Dilan travelled to?* One note says Chile, another says Morocco. A search brings both, and a language model is to answer. RAG {cite:p}`lewis2020rag` lets the model read **each document alone**,
# and then adds up what it would say. There are two ways to add.
#
# Make a prediction. Document A knows the first half of an answer and is quite lost about the second; document B the other way round. Each is as likely to be the right one.
#
# - *per sequence*: one of the documents wrote the whole answer, we do not know which;
# - *per token*: for every word we draw a document anew.
#
# Which way gives the whole answer more probability? And is there a case where that way goes wrong?

# %%
import itertools
import re

import numpy as np
import torch

from minimem import check, show
from minimem.catalog import card
from minimem.tasks import dialogue
from minimem.text import rag
from minimem.text.dense import LSA, Dense

torch.set_num_threads(1)
card("rag")

# %% [markdown]
# The survey files RAG under *sparse* retrieval. It was the other way round: the paper is where dense retrieval and generation met. Two BERTs turned questions and 21 million chunks of Wikipedia into vectors (DPR),
# an index found the five or ten largest inner products, and BART wrote. BM25 appears in it only as something to compare with. So our memory below is a dense one, too.
#
# ## The definition
#
# $p_\eta(z\mid x)$ says how likely document $z$ is the right one for question $x$: a softmax of the scores of the $k$ best. $p_\theta(y_i\mid x,z,y_{<i})$ is what the model, reading $z$, gives to the next token.
# All in logarithms, where long products stay finite.

# %%
def sequence(doc, token):                                        # doc: ln p(z | x), (Z,)    token: ln p(y_i | x, z, y_<i), (Z, T)
    return torch.logsumexp(doc + token.sum(-1), -1)                                                       # (1)


def per_token(doc, token):
    return torch.logsumexp(doc.unsqueeze(-1) + token, -2).sum(-1)                                         # (2)


r = torch.Generator().manual_seed(0)
doc, token = torch.randn(3, generator=r, dtype=torch.float64).log_softmax(-1), torch.rand(3, 5, generator=r, dtype=torch.float64).log()
check.same(sequence, rag.sequence, doc, token)
check.same(per_token, rag.per_token, doc, token)
print("three documents, five tokens:", *(f"{f(doc, token).exp():.4f}" for f in (sequence, per_token)))

# %% [markdown]
# ## Every answer there is
#
# Four words, answers of two words: sixteen answers, so nothing need be sampled or trained. In *two halves*, document A knows that the answer begins with *red* and B that it ends with *fox*; each is lost about the rest.
# In *two rivals*, A says *red fox* and B says *old owl*. Each square is one answer; the darker, the more probable.

# %%
WORDS = ["red", "old", "fox", "owl"]


def knows(word, p):                                              # p on one word, the rest evenly on the others; None: no idea
    return torch.tensor([p if w == word else (1 - p) / 3 for w in WORDS] if word else [0.25] * 4, dtype=torch.float64).log()


def table(a, b, p=0.9):                                          # step(y) = ln p(next | z, y): (2 documents, 4 words)
    return lambda y: torch.stack([knows(d[len(y)], p) for d in (a, b)])


CASES = {"two halves": table(("red", None), (None, "fox")), "two rivals": table(("red", "fox"), ("old", "owl"))}
even = torch.full((2,), 0.5, dtype=torch.float64).log()
grid = {(case, name): np.array([[f(even, rag.said(step, (i, j))).exp().item() for j in range(4)] for i in range(4)])
        for case, step in CASES.items() for name, f in (("per sequence", sequence), ("per token", per_token))}

plt = show.style()
fig, axes = plt.subplots(2, 2, figsize=(6, 5.6), sharex=True, sharey=True)
for ax, ((case, name), p) in zip(axes.flat, grid.items()):
    ax.imshow(p, cmap="Greys", vmin=0, vmax=0.5)
    for (i, j), x in np.ndenumerate(p):
        ax.text(j, i, f"{x:.2f}", ha="center", va="center", fontsize=9, color="white" if x > 0.25 else "black")
    ax.set(title=f"{case}, {name}", xticks=range(4), yticks=range(4), xticklabels=WORDS, yticklabels=WORDS)
    ax.grid(False)
for ax in axes[:, 0]:
    ax.set_ylabel("first word")
for ax in axes[1]:
    ax.set_xlabel("second word")
fig.tight_layout()
print({f"{case}, {name}": f"sum {p.sum():.6f}" for (case, name), p in grid.items()})

# %% [markdown]
# Above: *red fox*, which no document knows whole, is more probable per token. Below: the same freedom gives *red owl* and *old fox*, which **nobody said**, as much as *red fox*.
#
# For two tokens the difference has a name. Let $f(z)$ be what document $z$ gives to the first token and $g(z)$ to the second: then
#
# $$p_{\mathrm{seq}} - p_{\mathrm{tok}} = \mathbb{E}_z[fg] - \mathbb{E}_z[f]\,\mathbb{E}_z[g] = \mathrm{Cov}_z(f, g).$$
#
# Per sequence gains where the same documents know both words, per token where different ones do. With knowledge $p$ and doubt $u$ (what a lost document gives the right word), both differences are exactly $((p-u)/2)^2$:

# %%
u = np.linspace(0, 0.9, 50)
fig, axes = plt.subplots(1, 2, figsize=(7, 3.1), sharey=True)
for ax, case, seq, tok in ((axes[0], "two halves: the joint answer", 0.9 * u, ((0.9 + u) / 2) ** 2), (axes[1], "two rivals: one of the answers", (0.9**2 + u**2) / 2, ((0.9 + u) / 2) ** 2)):
    ax.plot(u, tok, "--", color=show.KIND_COLOUR["text"], label="per token")
    ax.plot(u, seq, "-", color=show.KIND_COLOUR["text"], label="per sequence")
    ax.set(title=case, xlabel="doubt u: a lost document's share\nfor the right word (p = 0.9)")
axes[0].set_ylabel("probability")
axes[0].legend()
fig.tight_layout()

# %% [markdown]
# At $u=0$, where a document is sure that the other half is wrong, the joint answer has probability 0 per sequence: no single document could have written it. Per token it has $p^2/4$.
#
# ## The experiment
#
# Fixed before the run: 3 seeds of 200 pairs of documents that say random things (softmax of normal numbers, vocabulary of 5, answers of 3 tokens), all 125 answers of each pair enumerated.
# In *halves*, A gives its first token 0.9 and B its second and third (each its own); in *rivals* A and B each give 0.9 to all three tokens of an answer of their own. The metric: the share of pairs
# in which the answer in question is more probable per token; and of how much probability nobody's mixtures get.

# %%
V, T, SEEDS = 5, 3, (0, 1, 2)
ANSWERS = torch.tensor(list(itertools.product(range(V), repeat=T)))


def sure(p, at, word):                                           # set p(word) = 0.9 at these places, the rest as it was
    rest = p[at] * 0.1 / (1 - p[at, word])
    rest[word] = 0.9
    return torch.cat([p[:at], rest[None], p[at + 1:]])


def both(a, b):                                                  # all answers under two documents with tables (T, V)
    token = torch.stack([torch.stack([d[i, ANSWERS[:, i]] for i in range(T)], -1) for d in (a, b)], 1).log()        # (answers, 2, T)
    return [f(even.expand(len(ANSWERS), 2), token).exp() for f in (sequence, per_token)]


def draw(seed, pairs=200):
    r, found = torch.Generator().manual_seed(seed), {"halves": [], "rivals": [], "mixtures": []}
    number = lambda y: int((ANSWERS == torch.tensor(y)).all(1).nonzero())        # noqa: E731
    for _ in range(pairs):
        a, b = torch.randn(2, T, V, generator=r, dtype=torch.float64).softmax(-1)
        seq, tok = both(sure(a, 0, 1), sure(sure(b, 1, 2), 2, 3))
        found["halves"].append((seq[number([1, 2, 3])], tok[number([1, 2, 3])]))
        for at in range(T):
            a, b = sure(a, at, 1), sure(b, at, 2)
        seq, tok = both(a, b)
        assert torch.allclose(torch.stack([seq.sum(), tok.sum()]), torch.ones(2, dtype=torch.float64))
        found["rivals"].append((seq[number([1, 1, 1])], tok[number([1, 1, 1])]))
        mixed = [number(y) for y in itertools.product((1, 2), repeat=T) if len(set(y)) == 2]
        found["mixtures"].append((seq[mixed].sum(), tok[mixed].sum()))
    return {k: np.array(v) for k, v in found.items()}


drawn = [draw(seed) for seed in SEEDS]
for k in drawn[0]:
    mean = [d[k].mean(0) for d in drawn]
    print(f"{k:9} per sequence", *(f"{m[0]:.3f}" for m in mean), "  per token", *(f"{m[1]:.3f}" for m in mean),
          "  more probable per token in", *(f"{(d[k][:, 1] > d[k][:, 0]).mean():.0%}" for d in drawn))

# %% [markdown]
# In one pair of halves out of ten the order turns round: there a document that was not told a token gave it much by chance, and so knew more than its half.
#
# ## The same with words
#
# A dense memory (LSA) holds what was noted of a chat. The "language model" is a rule, so that you can see through it: reading one note, it gives 0.9 to a word of the note that is not in the question and was not said yet;
# if there is none, it has no idea and spreads evenly. The two best notes are read.

# %%
def ask(seed):
    sample = dialogue.make(1, seed)[0]
    question = f"Where has {sample['conversation']['speaker_a']} travelled to?"
    memory = Dense(LSA(64))
    for unit in dialogue.facts(sample):
        memory.write(unit)
    known = {w for u in memory.rank(question, 2) for w in re.findall(r"\w+", u.text)} - set(re.findall(r"\w+", question))
    vocabulary = ["<end>", *sorted(known)]

    def reader(question, units, said):
        rows = []
        for u in units:
            new = [v for v, w in enumerate(vocabulary) if w in u.text and v not in said] or range(len(vocabulary))
            rows.append([0.9 * (v in new) / len(new) + 0.1 / len(vocabulary) for v in range(len(vocabulary))])
        return torch.tensor(rows, dtype=torch.float64).log()
    m = rag.RAG(memory, reader, k=2)
    units, doc = m.documents(question)
    y, _ = m.answer(question, end=0, length=2, beams=9)
    step = lambda y: reader(question, units, y)                  # noqa: E731
    return question, units, doc, [vocabulary[v] for v in y], [f(doc, rag.said(step, y)).exp().item() for f in (sequence, per_token)]


asked = [ask(seed) for seed in SEEDS]
for question, units, weight, words, (seq, tok) in asked:
    print(question, "|", " | ".join(sorted(f"{u.text} {p:.2f}" for p, u in zip(weight.exp(), units))), "| answer:", *sorted(words), f"| per sequence {seq:.2f}, per token {tok:.2f}")

# %% [markdown]
# ## What holds

# %% tags=["claim-rag"]
halves, rivals = grid["two halves", "per token"] - grid["two halves", "per sequence"], grid["two rivals", "per sequence"] - grid["two rivals", "per token"]
assert abs(halves[0, 2] - ((0.9 - 0.25) / 2) ** 2) < 1e-12 and abs(rivals[0, 2] - ((0.9 - 0.1 / 3) / 2) ** 2) < 1e-12     # exact, and of equal form
for d in drawn:
    assert (d["halves"][:, 1] > d["halves"][:, 0]).mean() > 0.8            # halves are joined per token,
    assert (d["rivals"][:, 0] > d["rivals"][:, 1]).all()                   # a whole answer is kept per sequence,
    assert d["mixtures"][:, 1].mean() > 3 * d["mixtures"][:, 0].mean()     # and mixtures nobody said are the price
for *_, words, (seq, tok) in asked:
    assert tok > seq and len(set(words)) == 2
print("as claimed, with its price")

# %% [markdown]
# ## What to notice
#
# - **Neither is better.** Per token the model joins what several documents know and mixes up what they contradict each other in; it cannot tell these cases apart. In the paper, too, each wins on some tasks.
# - **The weights of the notes are nearly even.** Cosines lie between −1 and 1, and a softmax of such numbers hardly prefers anything. The paper's inner products of BERT vectors are not of length 1, and larger.
#   `RAG(..., tau=0.05)` sharpens ours, as in the training of {doc}`dense retrievers </book/sensory/dense_retrieval>`.
# - **A limit.** Here the documents' tables are given, and the sum over documents is exact. In the paper it is what makes *training* possible: the gradient of $\ln p$ reaches the question's encoder through
#   $p_\eta(z\mid x)$, so the search learns from answers. Nothing is trained here. And what people call RAG today mostly puts all documents into one prompt: neither (1) nor (2).
#
# ## Break it
#
# In (2) the weights of the documents never change. Let them learn: after every token, by Bayes' rule, a document that gave the token more gets more weight.

# %%
def learning(doc, token):
    total = 0.0
    for some in token.unbind(-1):
        total = total + torch.logsumexp(doc + some, -1)
        doc = (doc + some).log_softmax(-1)                       # the one line that (2) lacks
    return total


print("two halves, red fox:", *(f"{f(even, rag.said(CASES['two halves'], (0, 2))).exp():.4f}" for f in (sequence, per_token, learning)), "  (per sequence, per token, with weights that learn)")
check.same(learning, sequence, doc, token)

# %% [markdown]
# It has become (1), exactly. RAG-Sequence is the RAG-Token that listens to what it has said: once *red* is out, document A is believed, and A does not know about foxes.
#
# ## Exercises
#
# ```{exercise} When they are equal
# :label: rag-equal
#
# Name three cases in which (1) and (2) give the same number for every answer. Check one with `rag.sequence` and `rag.per_token`.
# ```
#
# ````{solution} rag-equal
# :class: dropdown
#
# One document; or one document with weight 1; answers of one token (a class, a yes or no); documents that all say the same. In each the covariance over documents is 0.
#
# ```python
# doc, token = torch.randn(4, dtype=torch.float64).log_softmax(-1), torch.rand(4, 1, dtype=torch.float64).log()
# check.same(rag.sequence, rag.per_token, doc, token)
# ```
# ````
#
# ```{exercise} Thorough or fast
# :label: rag-fast
#
# (1) is no model of the next token, so it cannot be searched like one. `rag.by_sequence` searches under each document alone and scores every answer found under *all* documents ("thorough").
# The paper's "fast" way takes $p_\theta(y\mid x,z)=0$ for a document whose own search did not find $y$. Write it. When do the two choose differently?
# ```
#
# ````{solution} rag-fast
# :class: dropdown
#
# ```python
# def fast(doc, step, end, length, beams=1):
#     p = {}
#     for z in range(len(doc)):
#         for y, l in rag.search(lambda y, z=z: step(y)[z], end, length, beams):
#             p.setdefault(y, []).append(doc[z].item() + l)
#     return max(((y, torch.tensor(l).logsumexp(0).item()) for y, l in p.items()), key=lambda a: a[1])
# ```
# When the best answer is the second choice of several documents and no beam holds it; with more beams they agree. The fast way saves one reading of every answer under every document.
# ````
#
# ```{exercise} Three documents, three thirds
# :label: rag-thirds
#
# With $n$ documents, each knowing one of $n$ tokens ($p=0.9$) and lost about the others ($u=0.25$): what is the joint answer's probability in both ways, and what happens as $n$ grows?
# ```
#
# ````{solution} rag-thirds
# :class: dropdown
#
# Per sequence $p\,u^{n-1}$, per token $((p+(n-1)u)/n)^n$. Already at $n=3$: 0.056 and 0.102. Both vanish, at the same pace: with more documents each knows less of the whole, and
# $((p+(n-1)u)/n)^n = u^n(1+\frac{p-u}{nu})^n$ tends to $u^n e^{(p-u)/u}$, against $u^n\,p/u$: the ratio tends to $e^{(p-u)/u}\,u/p = 3.7$, a constant.
# ````
#
# **Next.** Streams that are not text: what to keep when everything cannot be kept.
