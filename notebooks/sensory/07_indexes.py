# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# (index)=
# # Vector indexes: what may be missed, and what it saves
#
# A memory has 8,695 vectors, one for each thing it was told. To find the ten nearest to a question it can compare the question with all of them.
# Or it can sort the vectors into 64 cells beforehand and look only into the cell that the question falls into: 230 comparisons instead of 8,695.
#
# **How many of the true ten nearest does it still find?** Two people test this. One makes up vectors: clouds of points around random centres, as many
# examples do.
# The other takes the vectors of real chats and asks real questions. Make a prediction before you read on: who reports the higher recall, and by how
# much?

# %%
import numpy as np
import torch

from minimem import check, fast, show
from minimem.catalog import card, result
from minimem.tasks.dialogue import facts, make, questions, summaries, turns
from minimem.text.dense import LSA
from minimem.text.hnsw import HNSW
from minimem.text.index import IVF, PQ, SQ8, Flat, Indexed
from minimem.text.vectors import kmeans, recall

torch.set_num_threads(1)
card("index")

# %% [markdown]
# ## The definitions
#
# All vectors have length 1, and near means: a large inner product. (1) compares the question $q$ with every vector. The others do less, or keep less:
#
# - *IVF* (inverted file) learns centres by k-means, files each vector under its nearest centre, and compares $q$ with the vectors of $p$ cells only:
#   fewer comparisons.
# - *SQ8* (scalar quantisation) keeps each number as a byte between the least and the largest seen: a quarter of the bytes.
# - *PQ* (product quantisation) cuts the vector into pieces and keeps, for each piece, the number of the nearest of 256 learned codewords: one byte a
#   piece. The question is not coded; its product
#   with each codeword is looked up in a small table. {cite:p}`jegou2011pq`

# %%
def exact(q, x, k):
    return np.argsort(-(x @ q), kind="stable")[:k]                                  # (1)


def ivf(q, x, centres, probe, k):
    cell = (x @ centres.T).argmax(1)                                                # (done once, when a vector is added)
    inside = np.flatnonzero(np.isin(cell, np.argsort(-(centres @ q))[:probe]))      # (4)
    return inside[exact(q, x[inside], k)]


def sq8(x, low, span):
    return low + (np.floor((x - low) / span * 255) + 0.5) / 255 * span              # (2)


def pq(q, codes, books):
    table = [book @ piece for book, piece in zip(books, np.split(q, len(books)))]
    return sum(t[z] for t, z in zip(table, codes.T))                                # (3)


# %% [markdown]
# Are they the package's? Both are run on the vectors of eight made chats. A chat's turns, facts and session summaries are written; LSA turns each
# text into 128 numbers.

# %%
def chats(seed):
    made = make(8, seed)
    texts = list(dict.fromkeys(u.text for chat in made for part in (turns, facts, summaries) for u in part(chat)))
    embed = LSA(128).fit(texts)
    return embed(texts), embed([q.text for chat in made for q in questions(chat, range(1, 6))])


def filled(index, x):
    index.add(x)
    return index


def tensor(f):
    return lambda *args: torch.tensor(f(*args), dtype=torch.float64)


x, q = (v.astype(np.float64) for v in chats(0))
cells, bytes_, codes = filled(IVF(32, 4), x), filled(SQ8(), x), filled(PQ(64, 4), x)
for one in q[:20]:
    check.same(tensor(exact), tensor(lambda q, x, k: filled(Flat(), x).search(q[None], k).ids[0]), one, x, 10)
    check.same(tensor(ivf), tensor(lambda q, *_: cells.search(q[None], 10).ids[0]), one, x, cells.centres, 4, 10)
    check.same(tensor(pq), tensor(lambda q, *_: codes.compare(q[None], codes.codes)[0]), one, codes.codes, codes.books)
check.same(tensor(sq8), tensor(lambda x, *_: bytes_.decode(bytes_.encode(x))), x, bytes_.low, bytes_.span)
share = recall(cells.search(q, 10).ids, filled(Flat(), x).search(q, 10).ids)
print(f"{len(x)} vectors, {len(q)} questions; IVF with 4 of 32 cells finds {share:.1f} of the exact ten")

# %% [markdown]
# ## Cells, and a graph
#
# The picture shows vectors of length 1 in three dimensions, from above. A question near a border has its nearest vectors on both sides; with $p=1$
# those on the other side are not looked at.
#
# HNSW {cite:p}`malkov2020hnsw` has no borders. Each vector is linked with a few near ones, in several directions; some are also nodes of a sparser
# layer above. A search walks: from the top,
# always to the neighbour nearest to the question; on the lowest layer it keeps the `ef` best seen and goes on until nothing better is in sight.
# The walk drawn keeps only one, and stops beside the nearest; that is why a search keeps more.

# %%
r = np.random.default_rng(4)
p = 0.75 * r.uniform(-1, 1, (260, 2)) * [1, 0.8]
p = np.c_[p, np.sqrt(1 - (p ** 2).sum(1))]
centres, graph = kmeans(p, 9, seed=1, unit=True), filled(HNSW(M=4, ef=8, build=24, seed=2), p)
margin = np.sort(p @ centres.T, axis=1)
one = p[np.where(np.linalg.norm(p[:, :2], axis=1) < 0.35, margin[:, -1] - margin[:, -2], 9).argmin()] @ np.eye(3)
true, found = exact(one, p, 10), ivf(one, p, centres, 1, 10)
step, path = next(iter(graph.layers[-1])), []
for layer in reversed(graph.layers):
    path.append(step)
    while (better := max([step, *layer[step].tolist()], key=lambda j: p[j] @ one)) != step:
        path.append(step := better)
plt = show.style()
fig, axes = plt.subplots(1, 2, figsize=(9, 4.1))
grid = np.stack(np.meshgrid(np.linspace(-0.8, 0.8, 300), np.linspace(-0.65, 0.65, 300)), -1)
up = np.concatenate([grid, np.sqrt(np.clip(1 - (grid ** 2).sum(-1, keepdims=True), 0, 1))], -1)
axes[0].contour(grid[..., 0], grid[..., 1], (up @ centres.T).argmax(-1), levels=np.arange(9) - 0.5, colors="0.45", linewidths=0.8)
axes[0].scatter(*p[:, :2].T, s=9, color="0.75")
axes[0].scatter(*centres[:, :2].T, marker="P", s=45, color="0.3", label="centre of a cell")
axes[0].scatter(*p[np.intersect1d(true, found), :2].T, s=26, color="black", label="among the ten nearest, found")
axes[0].scatter(*p[np.setdiff1d(true, found), :2].T, s=34, facecolor="white", edgecolor="#b00000", label="among the ten nearest, missed")
for i, links in graph.layers[0].items():
    for j in links:
        axes[1].plot(*p[[i, j], :2].T, color="0.86", lw=0.7, zorder=0)
axes[1].scatter(*p[:, :2].T, s=9, color="0.75")
axes[1].scatter(*p[list(graph.layers[1]), :2].T, s=30, facecolor="none", edgecolor="0.35", label="also on the layer above")
axes[1].plot(*p[path, :2].T, "-o", color="black", ms=4, lw=1.6, label="the walk")
for ax, title in zip(axes, ("IVF, p = 1: one of 9 cells", f"HNSW: a walk of {len(set(path)) - 1} steps")):
    ax.scatter(*one[:2], marker="*", s=150, color="#e07b00", edgecolor="black", linewidth=0.5, zorder=5, label="the question")
    ax.set(title=title, xlim=(-0.8, 0.8), ylim=(-0.65, 0.65), xticks=[], yticks=[])
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2)
fig.tight_layout()
walk, inside = graph.search(one[None], 10), ((p @ centres.T).argmax(1) == (centres @ one).argmax()).sum()
print(f"found in one cell: {len(np.intersect1d(true, found))} of 10, after {9 + inside} comparisons; "
      f"by HNSW: {len(np.intersect1d(true, walk.ids))} of 10, after {walk.scanned[0]}")

# %% [markdown]
# ## Codes
#
# Left: two of the 128 numbers of every vector, one piece for PQ, and its 16 learned codewords (four bits). A vector keeps the number of its codeword
# and forgets where in the cell it was.
# Right: what that does to the scores of one question. They come out a little too low, for a codeword is an average, and averages are short; that
# would do no harm. But the best are close together, and their order suffers.

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.7))
piece, book = x[:, 2:4], codes.books[1]
span = np.abs(piece).max(0) * 1.05
grid = np.stack(np.meshgrid(np.linspace(-span[0], span[0], 300), np.linspace(-span[1], span[1], 300)), -1)
near = (grid @ book.T - (book ** 2).sum(1) / 2).argmax(-1)
axes[0].contour(grid[..., 0], grid[..., 1], near, levels=np.arange(16) - 0.5, colors="0.45", linewidths=0.7)
axes[0].scatter(*piece.T, s=3, color="0.7")
axes[0].scatter(*book.T, marker="P", s=40, color="black", label="codeword")
axes[0].set(title="PQ: one piece of every vector", xlabel="number 3 of the vector", ylabel="number 4")
axes[0].legend(fontsize=8, loc="lower left")
one, s = q[7], pq(q[7], codes.codes, codes.books)
ten, theirs = exact(one, x, 10), np.argsort(-s, kind="stable")[:10]
axes[1].scatter(x @ one, s, s=3, color="0.7")
axes[1].scatter((x @ one)[ten], s[ten], s=20, color="black", label="the exact ten")
axes[1].axhline(s[theirs[-1]], color="0.4", lw=0.8, ls="--", label="what PQ takes lies above")
axes[1].axline((0, 0), slope=1, color="0.5", lw=0.8)
axes[1].set(title="64 pieces of 4 bits: scores of one question", xlabel="exact inner product", ylabel="by PQ's table")
axes[1].legend(fontsize=8, loc="upper left")
fig.tight_layout()
print(f"{x.shape[1] * 4} bytes a vector become {codes.codes.shape[1] // 2} with two codes a byte")

# %% [markdown]
# ## A memory read through an index
#
# `Indexed` puts an index under a text memory. It writes and reads as every other one; only that what the index misses is not read. `fast.pick` puts
# faiss {cite:p}`johnson2019faiss` in place of our own, if it is installed.

# %%
chat = make(1, seed=0)[0]
empty = {"flat": Flat, "SQ8": SQ8, "IVF, 1 of 16 cells": lambda: IVF(16, 1), "HNSW": lambda: HNSW(8, 16), "HNSW by faiss": lambda: fast.pick("hnsw").fn(8, 16)}
for name, new in empty.items():
    memory = Indexed(LSA(64), new)
    for unit in turns(chat):
        memory.write(unit)
    ids = [u.id for u in memory.rank("When did Farah's tomatoes win a prize?", 4)]
    print(f"{name:18} {memory.sizes()['index'] / len(memory.units):4.0f} bytes a turn for the index  ", *ids)

# %% [markdown]
# D7:5 tells of the prize. For IVF it lies in another cell than the question.
#
# ## The experiment
#
# Fixed before the run: three seeds, each of eight chats (about 2,400 vectors) with its questions; beside them the same number of made-up vectors and
# queries, around one random centre
# for each hundred vectors, the noise as long as the centre. Measured: the share of the exact ten that is found, against the share of the vectors that
# was compared, which is a count and not a time.
# The settings were tried on seeds 10 to 12.

# %% tags=["nbval-ignore-output"]
def clustered(n, queries, seed, K=128):
    r = np.random.default_rng(seed)
    v = r.standard_normal((n // 100, K))[r.integers(n // 100, size=n + queries)] + r.standard_normal((n + queries, K))
    v = (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32)
    return v[:n], v[n:]


def measure(x, q, seed):
    ten, pick = filled(Flat(), x).search(q, 10).ids, {key: fast.pick(key).fn for key in ("ivf", "hnsw", "sq8", "pq")}
    made = {f"IVF {p}": pick["ivf"](32, p, seed=seed) for p in (1, 2, 4, 8, 16)} | {f"HNSW {ef}": pick["hnsw"](16, ef, seed=seed) for ef in (10, 32)}
    made |= {"SQ8": pick["sq8"](), "PQ": pick["pq"](16, seed=seed)}
    return {name: (recall((f := filled(index, x).search(q, 10)).ids, ten), f.scanned.mean() / len(x)) for name, index in made.items()}


SEEDS, live = (0, 1, 2), {"chats": [], "clusters": []}
for seed in SEEDS:
    x, q = chats(seed)
    live["chats"].append(measure(x, q, seed))
    live["clusters"].append(measure(*clustered(len(x), len(q), seed), seed))
for name in live["chats"][0]:
    told = {what: np.array([r[name] for r in rs]).T for what, rs in live.items()}
    print(f"{name:8}", *(f"{what}: found {f.min():.2f} to {f.max():.2f}, compared {c.mean():4.0%}   " for what, (f, c) in told.items()))

# %% [markdown]
# ## The same on real chats
#
# LoCoMo {cite:p}`maharana2024locomo`: 8,695 turns, facts and summaries of ten long chats in one index, as 384 numbers each by MiniLM, asked with all
# its 1,986 questions. The vectors may not be shipped; these are stored numbers.
# *Evidence* is the share of the turns that answer which are among the ten. (What the card calls known before came from one training and from other
# clusters: of its .69 against .94 in one cell, we measure .71 against nearly 1.)

# %%
stored = result("indexes")["data"]
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
average = {what: {n: np.mean([r[n] for r in rs], 0) for n in rs[0]} for what, rs in live.items()}
kept = {what: {n: (r["recall"][0] / 100, r["scanned"] / 100) for n, r in stored[key]["faiss"].items()}
        for what, key in (("chats", "real"), ("clusters", "made"))}
for ax, title, data in zip(axes, ("made chats, LSA (mean of 3 seeds)", "LoCoMo, MiniLM (stored)"), (average, kept)):
    for what, line in (("chats", "-"), ("clusters", "--")):
        for family, mark in (("IVF", "o"), ("HNSW", "s")):
            y, share = np.array([v for n, v in data[what].items() if n.startswith(family)]).T
            ax.plot(100 * share, y, line, marker=mark, mfc="black" if what == "chats" else "white", color=show.KIND_COLOUR["text"],
                    label=f"{family}, {what if what == 'clusters' else 'chats and questions'}")
    ax.set(title=title, xlabel="vectors compared (%)", xscale="log", xticks=[2, 5, 10, 20, 50], xticklabels=[2, 5, 10, 20, 50], ylim=(0.4, 1.02))
    ax.minorticks_off()
axes[0].set_ylabel("of the exact ten, found")
axes[1].legend(fontsize=8, loc="lower right")
fig.tight_layout()
print(f"{'':16} {'LoCoMo: found %':>20} {'evidence %':>13} {'clusters: found %':>18}   compared      MB")
for n, r in stored["real"]["faiss"].items():
    m, low, high = r["recall"]
    evidence, made = stored["evidence in the 10"][n][0], stored["made"]["faiss"][n]["recall"][0]
    print(f"{n:16} {m:6} [{low}, {high}]".ljust(42), f"{evidence:8} {made:>18} {r['scanned']:8.1f} % {r['bytes'] / 1e6:6.1f}")
print("\nfound % in 1 and in 16 of 64 cells")
for n, r in stored["how tight the clusters are"].items():
    print(f"{n:32}", *(f"{r[f'IVF64 probe {p}'][0]:6}" for p in (1, 16)))

# %% [markdown]
# ## What holds

# %% tags=["claim-index"]
for real, made in zip(*live.values()):
    assert made["IVF 1"][0] > real["IVF 1"][0] + 0.3                          # clusters flatter cells ...
    assert real["PQ"][0] > made["PQ"][0] + 0.2                                # ... and slander codes
    shares = [real[f"IVF {p}"] for p in (1, 2, 4, 8, 16)]
    assert shares == sorted(shares) and real["SQ8"][0] > 0.97                 # looking further finds more; a byte a number loses next to nothing
real, made = (stored[key]["faiss"] for key in ("real", "made"))
assert real["IVF64 probe 1"]["recall"][2] < made["IVF64 probe 1"]["recall"][1] - 20
assert real["PQ48"]["recall"][1] > made["PQ48"]["recall"][2]
assert real["SQ8"]["recall"][1] > 99 and real["SQ8"]["bytes"] < 0.26 * real["Flat"]["bytes"]
for settings in (("IVF64 probe", (1, 4, 8, 16)), ("HNSW32 ef", (16, 32, 64, 128))):
    more = [(real[f"{settings[0]} {n}"]["recall"][0], real[f"{settings[0]} {n}"]["scanned"]) for n in settings[1]]
    assert more == sorted(more)                                               # recall is bought with comparisons
print("as claimed")

# %% [markdown]
# ## What to notice
#
# - **Clusters flatter cells.** Around a made centre, the ten nearest lie in one cell by construction: one look finds nearly all, a second the
#   rest. In chats the neighbours are spread:
#   what is near a question shares its person with one turn, its topic with another. There the recall climbs cell by cell.
# - **It is the vectors, not only the questions.** Units of LoCoMo that were held out and asked in place of questions fare even worse (last table).
#   And no noise makes the clusters like the chats:
#   from 2 to 3 the recall in one cell falls from nearly all to little more than half, and then sixteen cells find 83 %, in chats 99.
# - **Clusters slander codes.** In a made chat the first and the tenth of the exact ten are 0.24 apart, in the clusters 0.06: there a small error of
#   PQ reorders everything. So made vectors do not even err to one side.
# - **What is missed matters differently.** On LoCoMo one cell and PQ find the same seven of the exact ten. But of the turns that answer, exact search
#   has 65 % among its ten, PQ 60 %, one cell 49 %:
#   PQ mixes up what is nearly equal; a cell misses the best as easily as the tenth.
# - **HNSW is the same on both.** It knows no cells, and with 7 % of the comparisons it finds as much as IVF with 50 %. Its price is the building,
#   some three times that of IVF on 100,000 vectors, and the bytes of the links.
# - **A limit: at the size of a chat none of this is needed.** 8,695 vectors are compared in less than a millisecond. Read the bytes first: SQ8 keeps
#   a quarter and loses half a per cent; IVF and HNSW keep *more* than the vectors.
#
# ## Break it
#
# A memory grows. An index learns its centres from the first lot that it is given and keeps them. Let the first lot be one chat, and the others come
# later.

# %% tags=["nbval-ignore-output"]
def grown(seed, *lots):
    x, q = chats(seed)
    index = IVF(32, 8, seed=seed)
    for lot in np.split(x, lots):
        index.add(lot)
    found = index.search(q, 10)
    return recall(found.ids, filled(Flat(), x).search(q, 10).ids), found.scanned.mean() / len(x)


at_once, late = ([grown(seed, *lots) for seed in SEEDS] for lots in ((), (330,)))
for what, told in (("all chats", at_once), ("the first", late)):
    print(f"centres learned from {what}: found {min(told)[0]:.2f} to {max(told)[0]:.2f}, compared {np.mean(told, 0)[1]:.0%}")
assert all(a > b for (a, _), (b, _) in zip(at_once, late))

# %% [markdown]
# The same number of comparisons finds less, and nothing in the index says so. Build it anew from time to time; `Indexed` does so whenever its
# embedder is fitted again.
#
# ## Exercises
#
# ```{exercise} All questions at once
# :label: index-batch
#
# Write `my_exact(q, x, k)` for many questions (Q, K) without a loop; `check.same(tensor(my_exact), tensor(lambda q, x, k: filled(Flat(), x).search(q,
# k).ids), q, x, 10)` marks it.
# ```
#
# ````{solution} index-batch
# :class: dropdown
#
# ```python
# def my_exact(q, x, k):
#     return np.argsort(-(q @ x.T), axis=1, kind="stable")[:, :k]
# ```
# With 100,000 vectors most of the time goes into sorting what nobody asks for. `np.partition` finds the k-th best first; see
# `minimem.text.vectors.best`.
# ````
#
# ```{exercise} Codes to find, vectors to decide
# :label: index-rerank
#
# PQ with 16 bytes a vector finds three in four of the exact ten. Take its best 30 instead, compare those with the exact vectors, and keep ten. How
# many are found now? What has to be kept for it?
# ```
#
# ````{solution} index-rerank
# :class: dropdown
#
# ```python
# ids = filled(PQ(16), x).search(q, 30).ids
# s = np.einsum("qkd,qd->qk", x[ids], q)
# again = np.take_along_axis(ids, np.argsort(-s, 1)[:, :10], 1)
# print(recall(again, filled(Flat(), x).search(q, 10).ids))
# ```
# About 0.98: what PQ puts wrong it puts nearly right. The exact vectors must still be kept, but may lie on a disk, from which 30 are read.
# ````
#
# ```{exercise} Cells of codes
# :label: index-composed
#
# `IVF(32, 8, PQ(16))` files codes into cells. Predict its recall from that of IVF with 8 cells (0.81 to 0.86) and of PQ (0.74 to 0.77), then measure.
# How many bytes does it keep for a vector, and what are they?
# ```
#
# ````{solution} index-composed
# :class: dropdown
#
# The losses add up: 0.64 to 0.70. Of some 85 bytes a vector, 16 are the code and 8 its number; the codewords (128 kB) and centres (16 kB) are shared,
# and weigh much because the index is small.
# ````
#
# **Next.** A store that keeps text and vectors through a crash, and whose index is a cache.
