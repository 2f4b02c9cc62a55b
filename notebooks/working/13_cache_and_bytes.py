# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # The cache: what a Transformer remembers, and what it costs
#
# **Question.** A language model writes one token (a piece of a word) after the other, and each is chosen in view of all that came before. Does it have to read the whole text again for every token? If not, what must it keep, and how much is that?
#
# **Your predictions, before you read on.** A small language model, SmolLM2-135M, has 135 million weights: 269 MB in 16 bit. (1) It has read 512 tokens. By what factor is the next one cheaper if it may keep notes?
# (2) After how many tokens do the notes outweigh the model? (3) The notes are numbers, one set for each token. You change the *first* word of the text. How many of the other tokens' numbers change?

# %%
import pydoc_data.topics
import time

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from minimem import check, core, show
from minimem.cache import flash, full
from minimem.catalog import card, result
from minimem.lm import small
from minimem.position.rope import rotate_halves
from minimem.pretrained import forward, load

torch.set_num_threads(1)

# %% [markdown]
# (full)=
# ## The memory
#
# Each token leaves two vectors in every layer: a *key* $k$, by which it is found, and a *value* $v$, which is what it has to say. A later token compares its *query* $q$ with all keys, turns the scores into weights that sum to 1 (*softmax*),
# and takes the weighted mean of the values {cite:p}`vaswani2017attention`. Keys and values of old tokens never change, so they can be kept: the *KV cache*.

# %%
card("full")


# %% [markdown]
# ### Build it
#
# Without positions, it is the shortest memory of this book. Writing adds a row, and reading looks at all rows. The package's own has three small functions more, by which positions enter, and lets several query heads share the rows.

# %%
def step(S, q, k, v):
    S = {"k": torch.cat([S["k"], k[..., None, :]], -2),
         "v": torch.cat([S["v"], v[..., None, :]], -2)}         # (1)
    w = (q[..., None, :] @ S["k"].mT / q.shape[-1] ** 0.5).softmax(-1)
    return S, (w @ S["v"])[..., 0, :]                           # (2)


q, k, v = check.inputs("qkv", T=20)
whole, state = full.parallel(q, k, v)
check.same(step, full.step, state, *(x[..., 0, :] for x in (q, k, v)))
one_by_one, _ = core.run(step, full.init(6, 4, (2, 3), dtype=q.dtype), q, k, v)
print("one by one and all at once, the same:", torch.allclose(one_by_one, whole))

# %% [markdown]
# ## Cached is recomputed
#
# Does a model with a cache say the same as one that reads everything anew? SmolLM2 {cite:p}`allal2025smollm2` reads three passages of 32 tokens, all at once and in pieces of 1, 3 and 7 tokens, with nothing but the cache between the pieces. Its logits (scores of 49,152 possible next tokens) reach 30 and more.

# %%
def cached(q, k, v, state, rotate):
    """Our full attention in the place of SmolLM2's: 9 query heads on 3 heads of keys."""
    o, state = full.parallel(q.flatten(-4, -3), k, v, state, rotate=rotate)
    return o.unflatten(-3, (k.shape[-3], -1)), state


@torch.no_grad()
def read(ids, chunk):
    state, logits = None, []
    for part in ids.split(chunk, 1):
        new, state = forward(model, part, state, attention=cached)
        logits.append(new)
    return torch.cat(logits, 1), state


model, topics = load(), pydoc_data.topics.topics
text = model.encode("\n\n".join(topics[name] for name in sorted(topics)))
ids = torch.stack([text[start:start + 32] for start in (20_000, 40_000, 60_000)])
anew, kept = read(ids, 32)
difference = {chunk: (read(ids, chunk)[0] - anew).abs().amax((1, 2)) for chunk in (1, 3, 7)}
print({chunk: "below 1e-4" if d.max() < 1e-4 else d for chunk, d in difference.items()})

# %% [markdown]
# ### What is written was itself read
#
# Formula (1) makes it look as if the memory were a mere list of the tokens. It is one in the lowest layer alone. Replace the first token of each passage by another and let the model read again: by how much do the keys and values of the *other* 31 tokens change?

# %%
other = ids.clone()
other[:, 0] += 1                                               # its neighbour in the vocabulary
_, kept_other = read(other, 32)


def change(old, new):
    """Length of the change over length of the old, for each passage, tokens 1 to 31."""
    return (new - old)[..., 1:, :].flatten(1).norm(dim=1) / old[..., 1:, :].flatten(1).norm(dim=1)


moved = {n: torch.stack([change(a[n], b[n]) for a, b in zip(kept, kept_other)]) for n in "kv"}       # (layers, passages)
plt = show.style()
for n, mark, colour in (("v", "s--", "#7aa6d6"), ("k", "o-", show.KIND_COLOUR["cache"])):
    plt.plot(range(1, 31), 100 * moved[n].mean(1), mark, ms=4, color=colour, label={"k": "keys", "v": "values"}[n])
    plt.fill_between(range(1, 31), *(100 * f(1).values for f in (moved[n].min, moved[n].max)), color=colour, alpha=0.2, lw=0)
plt.xlabel("layer")
plt.ylabel("change of the other tokens'\nkeys and values (%)")
_ = plt.legend()

# %% [markdown]
# In layer 1 nothing moves, to the last bit. From layer 2 on everything does, for what a layer writes is made from what the layers below have *read*. So the cache of a token is not about the token: it is about the token *in this text*.
# That is why a stored cache can be reused for another text only if the two are equal from the first token on.
#
# ## What it costs in bytes
#
# The price is a key and a value for each token, in each layer, for each head of keys. Query heads cost nothing: they keep nothing. So let several of them share one head of keys: with all sharing one it is called MQA {cite:p}`shazeer2019mqa`, with groups GQA
# {cite:p}`ainslie2023gqa`, with a head of keys for each the old MHA. SmolLM2 has three groups of three. One layer of its width, measured with each of the three and taken 30 times:

# %%
per_token = {}
for name, kv_heads in (("MHA", 9), ("GQA", 3), ("MQA", 1)):
    layer = full.Layer(576, heads=9, kv_heads=kv_heads).bfloat16()
    sizes = [core.nbytes(layer(torch.randn(1, T, 576).bfloat16())[1]) for T in (1, 100)]
    assert sizes[1] == 100 * sizes[0]
    per_token[name] = 30 * sizes[0]                              # 30 layers
per_token["MLA"] = 30 * (4 * 64 + 64 // 2) * 2                   # arithmetic, not a measurement: see below
weights = 2 * sum(w.numel() for w in model.weights.values())
print("\n".join(f"{name}: {size:6,} bytes a token, {8192 * size / 1e6:3.0f} MB for 8,192" for name, size in list(per_token.items())[:3]))
print(f"the model itself, in 16 bit: {weights / 1e6:.0f} MB, outweighed after {weights // per_token['GQA']:,} tokens")

# %% [markdown]
# There is a fourth way, MLA {cite:p}`deepseekai2024v2`: keep one short vector from which the keys and values of all heads are computed, and a small key that carries the position. This book has no MLA, so its line in the figure below is *arithmetic*:
# with the proportions of DeepSeek-V2, 4½ head widths a layer, a head of 64 gives $30 \times 288 \times 2 = 17{,}280$ bytes, as much as GQA with 2¼ groups. What sharing does to the quality of a model is not measured here; the papers on MQA and GQA say: little.
#
# ## What it saves in time
#
# A model of four layers with random weights (time does not depend on what it says): the next token after $t$ others, with all of them computed anew and from the cache. Two measures: seconds of the processor, and multiplications, which are counted and are the same on each machine.

# %% tags=["nbval-ignore-output"]
torch.manual_seed(0)
lm, tokens = small(256, 512, [full.Layer(512, 8, 2, rotate=rotate_halves) for _ in range(4)], mlp=1376), torch.randint(256, (1, 513))
LENGTHS = (64, 128, 256, 512)


@torch.no_grad()
def flops(f, *args):
    with FlopCounterMode(display=False) as counter:
        f(*args)
    return counter.get_total_flops()


@torch.no_grad()
def ms(f, *args):
    start = time.process_time()
    f(*args)
    return 1e3 * (time.process_time() - start)


with torch.no_grad():
    states = {t: lm(tokens[:, :t])[1] for t in LENGTHS}
ways = {"computed anew": lambda t: (lm, tokens[:, :t + 1]), "from the cache": lambda t: (lm, tokens[:, t:t + 1], states[t])}
took = {way: {t: [ms(*work(t)) for _ in range(4)] for t in LENGTHS} for way, work in ways.items()}
counted = {way: {t: flops(*work(t)) for t in LENGTHS} for way, work in ways.items()}
ratio = {t: min(took["computed anew"][t]) / min(took["from the cache"][t]) for t in LENGTHS}
for t in LENGTHS:
    print(f"after {t:3} tokens: {ratio[t]:5.1f} times the time, {counted['computed anew'][t] / counted['from the cache'][t]:3.0f} times the multiplications")
stored = result("cache")["data"]
plt = show.style()
fig, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.8))
real = stored["SmolLM2-135M"]
left.plot(stored["T"], real["anew"], "s--", color="#595959", label="computed anew")
left.plot(stored["T"], real["cached"], "o-", color=show.KIND_COLOUR["cache"], label="from the cache")
left.set(xscale="log", yscale="log", xticks=stored["T"], xticklabels=stored["T"], xlabel="tokens read before", ylabel="ms of CPU time", title="the next token of SmolLM2-135M")
left.legend(fontsize=9)
t = torch.logspace(2, 6, 9)
for (name, size), line in zip(per_token.items(), ("-", "--", "-.", ":")):
    right.plot(t, t * size / 1e6, line, color="#595959" if name == "MLA" else show.KIND_COLOUR["cache"], label=name + (" (arithmetic)" if name == "MLA" else ""))
right.axhline(weights / 1e6, color="black", lw=1)
right.text(1e6, 0.8 * weights / 1e6, "the model's weights", fontsize=8, ha="right", va="top")
right.set(xscale="log", yscale="log", xlabel="tokens read", ylabel="MB of cache in 16 bit", title="what is kept")
right.legend(fontsize=9)
for ax in (left, right):
    ax.minorticks_off()
fig.tight_layout()

# %% [markdown]
# Left: stored, from `python benchmarks/cache.py`, as the real model takes minutes. Sixteen times the text costs whoever computes anew more than ten times as much; from the cache, not even twice.
# A factor of hundreds in multiplications is not that factor in time: for a single token all weights have to be fetched from memory just as for 512.
#
# "The cost of a Transformer is quadratic", one reads. Of which cost is that true? The last lines below count for attention alone how three costs grow when the text becomes twice as long: the multiplications for the whole text, those for one more token, and the bytes kept.

# %% tags=["claim-full"]
assert max(d.max() for d in difference.values()) < 1e-4                                     # three passages, three ways to cut, float32
assert (moved["k"][0] == 0).all() and (moved["v"][0] == 0).all() and (moved["k"][1:] > 0).all()
half = core.nbytes([{n: x[0].half() for n, x in layer.items()} for layer in kept])
assert half == 32 * per_token["GQA"] == 32 * 23_040 and per_token["MHA"] == 9 * per_token["MQA"]       # the real model's cache
assert ratio[512] > 5 and real["ratio"][stored["T"].index(512)] > 5                          # CPU time: here, and of the real model
assert real["anew"][-1] > 10 * real["anew"][0] and real["cached"][-1] < 2 * real["cached"][0]
assert counted["computed anew"][512] > 256 * counted["from the cache"][512]
costs, lines = [], []
for T in (1024, 2048, 4096):
    q, k, v = torch.randn(3, 1, T, 64, dtype=torch.float32).unbind()
    _, S = full.parallel(q, k, v)
    costs.append((flops(full.parallel, q, k, v), flops(full.parallel, q[:, -1:], k[:, -1:], v[:, -1:], S), core.nbytes(S)))
for T, small_one, large_one in zip((1024, 2048), costs, costs[1:]):
    grown = (f"{what} x {b / a:.1f}" for what, a, b in zip(("whole text", "one more token", "bytes"), small_one, large_one))
    lines.append(f"from {T:,} to {2 * T:,} tokens: " + ", ".join(grown))
print("\n".join(lines))

# %% [markdown]
# The whole text grows nearly fourfold: that is the quadratic cost, $T^2$ scores for $T$ tokens. (Not quite, because half of each block on the diagonal is computed in vain, and the diagonal weighs less in a longer text.) One more token and the bytes kept only double.
# And the predictions: (1) the factor in time stands above, and it grows with the text; (2) after 11,676 tokens; (3) all of them, in every layer but the first.
#
# (flash)=
# ## The same memory, better kept: blocks and pages
#
# Two things about this cache look worse than they have to be. To compute all weights at once takes a table of $T \times T$ scores: for 8,192 tokens 268 MB a head in 32 bit. And a server that answers many people does not know how long each answer will be, so it reserves room for the longest.

# %%
card("flash")


# %% [markdown]
# ### Softmax a block at a time
#
# A softmax divides by a sum over all keys, so it seems to need all of them first. It does not {cite:p}`milakov2018online`: keep the largest score so far $m$, the sum $\ell$ of $e^{s-m}$ and the weighted sum $o$ of the values. When a larger score comes along, multiply what was summed by $e^{m-m'}$ and go on.
# FlashAttention {cite:p}`dao2022flashattention` does that with blocks that fit into the fast memory of a chip.

# %%
def blocks(q, k, v, chunk):
    m, l, o = torch.tensor(-torch.inf), 0, 0
    for keys, values in zip(k.split(chunk, -2), v.split(chunk, -2)):
        s, last = q @ keys.mT / q.shape[-1] ** 0.5, m
        m = torch.maximum(last, s.amax(-1, keepdim=True))                            # (1)
        p, a = (s - m).exp(), (last - m).exp()
        l, o = a * l + p.sum(-1, keepdim=True), a * o + p @ values                   # (1)
        yield m, l, o


def by_blocks(S, q, k, v, chunk=16):
    S = {"k": torch.cat([S["k"], k[..., None, :]], -2), "v": torch.cat([S["v"], v[..., None, :]], -2)}
    *_, (m, l, o) = blocks(q[..., None, :], S["k"], S["v"], chunk)
    return S, (o / l)[..., 0, :]


q, k, v = check.inputs("qkv", T=40)
_, state = full.parallel(q, k, v)
for chunk in (1, 3, 16, 64):
    check.same(by_blocks, flash.step, state, *(x[..., 0, :] for x in (q, k, v)), chunk=chunk)

q, k, v = torch.randn(3, 64, 16, generator=torch.Generator().manual_seed(5)).unbind()
m, l, o = (torch.cat(x) for x in zip(*blocks(2 * q[-1:], k, v, 8)))                  # one query, eight blocks of eight keys
plt = show.style()
fig, axes = plt.subplots(1, 3, figsize=(10.2, 3.2))
for i in range(8):
    for j in range(8):
        axes[0].add_patch(plt.Rectangle((8 * j, 8 * i), 8, 8, fc="#c9d8ea" if j <= i else "white", ec="black" if i == 7 else "0.6", hatch="" if j <= i else "///", lw=1.5 if i == 7 else .6))
        if j <= i:
            axes[0].text(8 * j + 4, 8 * i + 4, j + 1, ha="center", va="center", fontsize=8)
axes[0].set(xlim=(-.5, 64.5), ylim=(64.5, -.5), xlabel="key", ylabel="query", title="a block at a time, left to right", xticks=range(0, 65, 16), yticks=range(0, 65, 16))
axes[1].step(range(1, 9), m[:, 0], "o-", where="post", color=show.KIND_COLOUR["cache"])
axes[1].set(xlabel="blocks read by the last query", ylabel="largest score so far, m", xticks=range(1, 9), title="m only rises")
axes[2].plot(range(1, 9), (l * (m - m[-1]).exp() / l[-1])[:, 0], "o-", color=show.KIND_COLOUR["cache"], label="share of all weight seen")
axes[2].plot(range(1, 9), (o / l - (o / l)[-1]).norm(dim=-1), "s--", color="#595959", label="distance of o / l from its end")
axes[2].set(xlabel="blocks read by the last query", xticks=range(1, 9), ylim=(-.1, 2.5), title="the read comes near its end")
axes[2].legend(fontsize=8, loc="upper right")
axes[0].grid(False)
fig.tight_layout()

# %% [markdown]
# Left: hatched blocks hold only keys that no query in them may see, so they are never computed; the framed row is the one on the right. No more than one block of scores has to exist at a time; {func}`minimem.forms.attend` takes a row of blocks, 128 queries with all keys that they may see. The backward pass needs the scores a second time, and computes them again from $q$, $k$ and the logarithm of the denominator: some time in exchange for the table.
#
# ### Pages
#
# PagedAttention {cite:p}`kwon2023pagedattention` keeps the cache as an operating system keeps memory: in *pages* of a few tokens, anywhere, with a table for each sequence that says where. As a softmax may be joined from parts in any order (2), a page is read where it lies.
# Two sequences that begin alike use the same pages, until one of them writes on one: that page is copied first. Here with pages of 4 tokens: A has 10 and B 6, C begins as A and adds 3, B is done and forgotten, D writes 7 on the pages that B gave back.

# %%
pages, nothing = flash.Pages(9, 0, 0, size=4), torch.zeros(0)


def write(name, n):
    for _ in range(n):
        pages.write(name, nothing, nothing)


pages.start("A"), write("A", 10)
pages.start("B"), write("B", 6)
pages.start("C", like="A"), write("C", 3)
pages.free("B")
pages.start("D"), write("D", 7)
plt = show.style()
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
look = {"A": ("#1f5fa8", "white"), "C": ("#c9d8ea", "black"), "D": ("#595959", "white")}
for row, (name, n) in enumerate(pages.lengths.items()):
    for t in range(16):
        left.add_patch(plt.Rectangle((t, row), 1, 1, fc=look[name][0] if t < n else "white", hatch="" if t < n else "///", ec="0.5"))
left.set(xlim=(0, 16), ylim=(3, 0), yticks=[.5, 1.5, 2.5], yticklabels=pages.lengths, xlabel="token", title="16 places reserved for each")
for page in range(9):
    for t in range(4):
        who = [name for name, table in pages.tables.items() if page in table and 4 * table.index(page) + t < pages.lengths[name]]
        face, ink = look[who[0]] if who else ("white", "black")
        right.add_patch(plt.Rectangle((t + 5 * (page // 3), page % 3), 1, 1, fc=face, hatch="///" if page not in pages.empty and not who else "", ec="0.5"))
        right.text(t + 5 * (page // 3) + .5, page % 3 + .5, "".join(who), color=ink, ha="center", va="center", fontsize=9)
    right.text(5 * (page // 3) - .2, page % 3 + .5, page, ha="right", va="center", fontsize=9, color="0.4")
right.set(xlim=(-.7, 14.2), ylim=(3, 0), xticks=[], yticks=[], title="9 pages of 4: in use " + str(9 - len(pages.empty)))
for ax in (left, right):
    ax.grid(False)
fig.tight_layout()
print({name: table for name, table in pages.tables.items()})

# %% [markdown]
# Hatched places are taken and hold nothing. Now a server with room for 32,768 tokens and 200 requests, half of which want an answer of more than 256 tokens, none of more than 2,048 with its question. It serves them from pages of 16 tokens, and from pages of 2,048, which is what reserving for the longest means.
# Fixed before: the waste of places is below 5 % with small pages and above 50 % with reservation; the blocks agree with PyTorch's own attention within $10^{-5}$.

# %% tags=["claim-flash"]
def dense(q, k, v):
    s = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~torch.ones(len(q), len(q)).tril().bool(), -torch.inf)
    return s.softmax(-1) @ v


def flashed(q, k, v):
    return flash.parallel(q, k, v)[0]


for seed in range(3):
    q, k, v = torch.randn(3, 2048, 64, generator=torch.Generator().manual_seed(seed)).unbind()
    assert (flashed(q, k, v) - scaled_dot_product_attention(q, k, v, is_causal=True)).abs().max() < 1e-5
    pages = flash.Pages(128, 64, 64)
    pages.start("text")
    for pair in zip(k, v):
        pages.write("text", *pair)
    assert (pages.read("text", q[-1:]) - flashed(q, k, v)[-1:]).abs().max() < 1e-5
large = {name: [flash.held(f, q[:T], k[:T], v[:T])["largest"] for T in (1024, 2048)] for name, f in (("T x T", dense), ("by blocks", flashed))}
lines = [f"largest tensor, forward and backward, {name:9}: {short / 2**20:3.1f} MiB at 1,024 tokens, {long / 2**20:4.1f} MiB at 2,048" for name, (short, long) in large.items()]
assert large["T x T"][1] == 4 * large["T x T"][0] and large["by blocks"][1] == 2 * large["by blocks"][0]
for seed in range(3):
    served = {size: flash.serve(flash.requests(seed), size) for size in (16, 2048)}
    lines.append(f"seed {seed}" + "".join(f"; pages of {size:,}: {100 * x['waste']:.0f} % wasted, {x['running']:.0f} at work, {x['steps']:,} steps" for size, x in served.items()))
    assert served[16]["waste"] < 0.05 and served[2048]["waste"] > 0.5 and served[16]["steps"] < served[2048]["steps"]
print("\n".join(lines))

# %% [markdown]
# ## What to notice
#
# - **The cache changes nothing in what the model says**, and nothing is approximated: it is bookkeeping. The same holds for the blocks and the pages. Most of what follows in this chapter *does* change what is said, and pays less for it.
# - **The notes are heavy.** A token of four letters leaves 23,040 bytes, and after 11,676 tokens the notes outweigh the model that took them. Sharing heads divides them by the size of a group; a model has to be trained for it.
# - **Which cost is quadratic?** The multiplications for the whole text. The bytes are linear in its length, and so is the work for one more token.
# - **A limit.** Our own read is plain PyTorch. For each new token it turns all cached keys anew, which takes longer than reading them, and copies the cache, where a server writes in place; `result("cache")` has both. And what is measured here of shared heads is bytes:
#   that such models answer as well is what the papers say, not what we saw.
#
# ## Break it
#
# Continue from a cache with `scaled_dot_product_attention(q, k, v, is_causal=True)`, as many first attempts do. With one query and many keys the triangle stands at the *top left*, so that the query sees key 0 and no other. No error is raised, and the output is the value of the first token of the text:
#
# ```python
# q, k, v = check.inputs("qkv", T=20)
# last = scaled_dot_product_attention(q[..., -1:, :], k, v, is_causal=True)
# print(torch.allclose(last, v[..., :1, :]), torch.allclose(last, full.parallel(q, k, v)[0][..., -1:, :]))
# ```
#
# ```{exercise} A larger model
# :label: cache-larger
#
# A model has 8 billion weights in 16 bit, 32 layers, 32 query heads and 8 heads of keys, each 128 wide. How many bytes does a token leave? What do 128,000 tokens take, and what would they take without sharing?
# ```
#
# ````{solution} cache-larger
# :class: dropdown
#
# $2 \times 32 \times 8 \times 128 \times 2 = 131{,}072$ bytes. 128,000 tokens: 17 GB, more than the 16 GB of the weights. Without sharing four times as much, 67 GB.
# ````
#
# ```{exercise} Rotated before it is kept
# :label: cache-rotated
#
# Many programs keep keys *after* the rotation that tells their place ({doc}`14_four_perplexities`), which saves turning them at each read. When is that wrong? Read 20 tokens with `rotate_halves`, then go on with another base.
# ```
#
# ````{solution} cache-rotated
# :class: dropdown
#
# ```python
# from functools import partial
# xs, new = check.inputs("qkv", T=30), partial(rotate_halves, base=100.0)
# _, state = full.parallel(*(x[..., :20, :] for x in xs), rotate=rotate_halves)
# rest, _ = full.parallel(*(x[..., 20:, :] for x in xs), state=state, rotate=new)
# print(torch.allclose(rest, full.parallel(*xs, rotate=new)[0][..., 20:, :]))                # True: our keys are kept unrotated
#
# at = torch.arange(30)
# mixed = torch.cat([rotate_halves(xs[1], at)[..., :20, :], new(xs[1], at)[..., 20:, :]], -2)
# wrong, _ = full.parallel(new(xs[0], at), mixed, xs[2])
# print(torch.allclose(wrong[..., 20:, :], rest))                                             # False
# ```
# It is wrong as soon as frequencies or places change between write and read: in schemes that stretch positions as the text grows, and where old tokens are dropped and the others move up.
# ````
#
# ```{exercise} Your own attention
# :label: cache-own
#
# Write it for a whole sequence in one go, with a mask of $T \times M$ cells, starting from a state, and let the battery mark it: `check.battery(mine, like="full", form=True)`. Its signature is `mine(q, k, v, state=None) -> (out, state)`.
# ```
#
# ````{solution} cache-own
# :class: dropdown
#
# ```python
# def mine(q, k, v, state=None):
#     core.expect("q:TK k:TK v:TV", q, k, v)
#     if state is not None:
#         k, v = torch.cat([state["k"], k], -2), torch.cat([state["v"], v], -2)
#     j = torch.arange(k.shape[-2])
#     seen = j <= j[-q.shape[-2]:, None]
#     w = (q @ k.mT / k.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf).softmax(-1)
#     return w @ v, {"k": k, "v": v}
# ```
# Take `j[:q.shape[-2], None]` in place of `j[-q.shape[-2]:, None]`, and only the checks that go on from a state notice.
# ````
#
# **Next.** The cache says nothing about *order*: the next labs show how a token learns where it stands ({doc}`14_four_perplexities`), and what happens beyond the longest text of the training.
