# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # Beyond the segment: what if a model keeps what it was given, and does not learn from it?
#
# **Question.** A text is cut into segments of 64 characters, and a model reads them one after the other. At the first character of each segment it knows nothing of what came before. Transformer-XL hands over what each layer was *given* in the segment before.
# What is that worth? And if no gradient flows back into it, how does a model learn to use it?
#
# **Your prediction, before you read on.** A model must answer each symbol of an endless row with the one that came 48 places before, in segments of 32. Three of them: with no memory, with a memory of 32 tokens, and with one of 64. At which places of a segment is each right?

# %%
import torch

from minimem import check, core, show
from minimem.cache import full
from minimem.cache import transformer_xl as xl
from minimem.catalog import card, result
from minimem.layer import heads, merged
from minimem.lm import Carried, fit, small

torch.set_num_threads(1)

# %% [markdown]
# (transformer_xl)=
# ## The memory
#
# Each layer keeps its own input, the *hidden states* $h$ of the last $M$ tokens before this segment. Their keys and values are computed again for each segment. Two things make that work. No gradient goes into what is kept (SG, *stop gradient*):
# it is read like a page that somebody else wrote. And positions enter as *distances*: a token that was number 63 of the last segment would otherwise be told to stand after the number 5 of this one.

# %%
card("transformer_xl")


# %% [markdown]
# ### Build it
#
# One token at a time. Two questions are asked of each kept token: does its content fit ($q + u$ times $k$), and does its distance ($q + w$ times $R\,W_R$)? $u$ and $w$ are what a head asks for whatever the token is.

# %%
def step(S, x, params, memory=12, segment=4):
    u, w = params["u"][:, None], params["w"][:, None]
    h = torch.cat([S["memory"], S["segment"], x[..., None, :]], -2)                            # (1)
    q, k, v = (heads(y @ params[n], len(u)) for n, y in (("q", h[..., -1:, :]), ("k", h), ("v", h)))
    R = heads(xl.sinusoids(h.shape[-2], x).flip(0) @ params["r"], len(u))                      # the farthest first
    s = ((q + u) @ k.mT + (q + w) @ R.mT) / q.shape[-1] ** 0.5                                 # (2)
    o = merged(s.softmax(-1) @ v) @ params["o"]                                                # (2)
    S = {**S, "segment": h[..., S["memory"].shape[-2]:, :]}
    if S["segment"].shape[-2] == segment:                                                      # it is full: SG of (1)
        S = {"memory": h.detach()[..., max(0, h.shape[-2] - memory):, :], "segment": h.detach()[..., :0, :]}
    return S, o[..., 0, :]


params, (x,) = xl.params(4, dtype=torch.float64), check.inputs("x", T=30)
state = xl.chunked(x, params=params)[1]
check.same(step, xl.step, state, x[..., 0, :], params=params)
one_by_one, _ = core.run(step, xl.init(4, (2, 3), dtype=x.dtype), x, params=params)
print("segment by segment, the same:", torch.allclose(one_by_one, xl.chunked(x, params=params)[0]))

# %% [markdown]
# Who reads whom? Segments of 4, a memory of 4, and no formula: one token is changed, and we look which outputs move. Left, one layer; right, a model of three. A layer reaches one memory back; but what it reads there has read one memory back as well.
# And where does the gradient of an output go? The same picture with dots: only to its own segment, at any depth.

# %%
def moved(model, T=24):
    """Which outputs move with which input, and which inputs have a gradient of which output: both (T, T), output by input."""
    x = torch.randn(T, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    changed = x + torch.eye(T, dtype=torch.float64)[:, :, None]                                # copy j differs in token j
    moves = ((model(changed) - model(x[None])).abs().amax(-1) > 1e-12).mT
    grad = torch.autograd.functional.jacobian(lambda y: model(y[None])[0].sum(-1), x).abs().amax(-1) > 1e-12
    return moves, grad


torch.manual_seed(0)
layers = [xl.Layer(8, 2, memory=4, segment=4).double() for _ in range(3)]
plt = show.style()
fig, axes = plt.subplots(1, 2, figsize=(8.2, 4.1), sharey=True)
for ax, depth in zip(axes, (1, 3)):
    def through(y, depth=depth):
        for layer in layers[:depth]:
            y = y + layer(y)[0]
        return y
    moves, grad = moved(through)
    ax.imshow(moves, cmap="Blues", vmin=0, vmax=2.4)
    at = grad.nonzero()
    ax.plot(at[:, 1], at[:, 0], ".", color="black", ms=4)
    ax.set(xlabel="input: place in the text", title=f"{depth} layer" + "s" * (depth > 1), xticks=range(0, 24, 4), yticks=range(0, 24, 4))
    ax.grid(False)
    for edge in range(4, 24, 4):
        ax.axhline(edge - .5, color="white", lw=1)
        ax.axvline(edge - .5, color="white", lw=1)
    reach = max((t - j) for t, j in moves.nonzero().tolist())
    print(f"{depth} layers: an output moves with inputs up to {reach} places back, its gradient goes back {int((at[:, 0] - at[:, 1]).max())}")
axes[0].set_ylabel("output: place in the text")
fig.tight_layout()

# %% [markdown]
# Blue: the output moves with the input. Dots: and a gradient goes there. The blue band grows with depth, the dots do not. So this lengthens what can be *used*, not what can be *learned from*: a layer may find something in the memory, but nobody can ask the layers below to have stored it better.
#
# ### Bytes
#
# A cache of keys and values keeps $2 H_k K$ numbers a token and layer, this one $D$: half of it when every head has its own keys. If four query heads share one key head, the cache of keys and values is the smaller one. Measured, one layer, 64 tokens of width 32 in 32 bit:

# %%
x = torch.randn(1, 64, 32)
kept = {"hidden states, memory 64": xl.Layer(32, 4, memory=64, segment=64), "keys and values, 4 key heads": full.Layer(32, 4), "keys and values, 1 key head": full.Layer(32, 4, kv_heads=1)}
size = {name: core.nbytes(layer(x)[1]) for name, layer in kept.items()}
print("\n".join(f"{name:30} {n:6} bytes, {n // 64} a token" for name, n in size.items()))

# %% [markdown]
# The price is time: the keys and values of all $M$ kept tokens are computed again for each segment. With segments as long as the memory that doubles two of the five matrix products; token by token it would be $M$ times the work.
#
# ## Copy over one and a half segments
#
# The three models of the prediction, trained live: two layers, width 32, 150 segments of 16 rows side by side. Each step goes on where the last one stopped, with the state it left.

# %%
N, LAG, SYMBOLS = 32, 48, 8


def segment_of(seed):
    """step → the next N symbols of 16 rows, and those LAG places before each."""
    rows = torch.randint(SYMBOLS, (16, 200 * N + LAG), generator=torch.Generator().manual_seed(seed))
    return lambda step: (rows[:, LAG + step * N:LAG + (step + 1) * N], rows[:, step * N:(step + 1) * N])


@torch.no_grad()
def by_place(model, batch, steps):
    return torch.stack([(model(x)[0].argmax(-1) == y).float().mean(0) for x, y in map(batch, steps)]).mean(0)


def trained(memory, seed=0):
    torch.manual_seed(seed)
    model = Carried(small(SYMBOLS, 32, [xl.Layer(32, 4, memory, N) for _ in range(2)], mlp=64))
    fit(model, segment_of(seed), 150, 4e-3)
    return model


# %% tags=["nbval-ignore-output"]
models = {memory: trained(memory) for memory in (0, 32, 64)}
right = {memory: by_place(model, segment_of(0), range(150, 190)) for memory, model in models.items()}
plt = show.style()
fig, ax = plt.subplots(figsize=(6.8, 3.2))
for (memory, y), colour, mark in zip(right.items(), ("#595959", "#7aa6d6", show.KIND_COLOUR["cache"]), ("^:", "s--", "o-")):
    ax.plot(y, mark, color=colour, ms=4, label=f"memory of {memory}")
ax.axhline(1 / SYMBOLS, color="0.6", lw=1)
ax.text(31.5, 0.2, "chance", ha="right", size=8, color="0.3")
ax.axvline(15.5, color="0.6", lw=1)
ax.text(15.8, 0.35, "48 places back is\nwithin 32 + place", size=8, color="0.3")
ax.set(xlabel="place in the segment", ylabel="symbols right", ylim=(0, 1.08), title="Answer with the symbol of 48 places before")
ax.legend(loc="center right", fontsize=8)
fig.tight_layout()
assert right[0].max() < 0.3 and right[64].mean() > 0.9 and right[32][16:].mean() > 0.9 > 0.5 > right[32][:16].mean()
print({memory: round(y.mean().item(), 2) for memory, y in right.items()})

# %% [markdown]
# With a memory of 32 the answer is in sight for the second half of each segment only, and there it is right. It *could* be had everywhere: the first layer fetches the symbol of 24 places before, the second fetches what the first one found 24 places before that. The right panel above says that it is within reach.
# But for the first half of a segment this route leads through the memory, which takes no gradient, and where it does not, the short way is open too. With 400 steps (stored, below) a part of it is found.
#
# ## Real text
#
# Now the documentation that comes with Python, one character a token, in segments of 64 (`benchmarks/trained/transformer_xl.py`): a model trained without a memory, and one trained with a memory of 64, which then reads text that it has not seen with memories of 0 to 192.

# %%
stored = result("transformer_xl")["data"]
plt = show.style()
fig, (left, mid) = plt.subplots(1, 2, figsize=(8.8, 3.5), sharey=True)
places = torch.arange(16) * 4 + 1.5
for name, colour, mark, label in (("trained with 0, read with 0", "#595959", "^:", "trained and read without"),
                                  ("trained with 64, read with 64", show.KIND_COLOUR["cache"], "o-", "trained and read with 64")):
    y = torch.tensor(stored["by place"][name])
    left.plot(places, y.mean(0), mark, color=colour, ms=4, label=label)
    left.fill_between(places, y.min(0).values, y.max(0).values, color=colour, alpha=0.15, lw=0)
left.set(xlabel="place in the segment", ylabel="bits for each character")
left.legend(fontsize=8)
sizes = [int(name.split()[-1]) for name in stored["bits"] if name.startswith("trained with 64")]
y = torch.tensor([stored["bits"][f"trained with 64, read with {m}"] for m in sizes])
mid.errorbar(range(len(sizes)), y.mean(1), (y.mean(1) - y.min(1).values, y.max(1).values - y.mean(1)), fmt="o-", color=show.KIND_COLOUR["cache"], capsize=3, label="trained with 64")
base = torch.tensor(stored["bits"]["trained with 0, read with 0"])
mid.axhline(base.mean(), color="#595959", ls=":", label="trained and read without")
mid.set(xlabel="memory while reading (tokens)", xticks=range(len(sizes)), xticklabels=sizes)
mid.legend(fontsize=8)
fig.tight_layout()

# %% tags=["claim-transformer_xl"]
bits = {name: torch.tensor(y) for name, y in stored["bits"].items()}
copied = {int(m): torch.tensor(y).mean(1) for m, y in stored["copy"].items()}
for name, y in bits.items():
    print(f"{name:32}" + "  ".join(f"{b:.3f}" for b in y.tolist()) + "  bits a character, by seed")
for m, y in copied.items():
    print(f"{f'copy over 48, memory {m}':32}" + "  ".join(f"{b:.2f} " for b in y.tolist()) + "   symbols right")
assert (bits["trained with 64, read with 64"] < bits["trained with 0, read with 0"] - 0.02).all()
assert (copied[64] > 0.9).all() and ((copied[0] - 1 / 8).abs() < 0.03).all()
assert (bits["trained with 64, read with 192"] <= bits["trained with 64, read with 64"] + 0.005).all()
assert (bits["trained with 64, read with 0"] > bits["trained with 0, read with 0"] + 0.02).all()        # what nobody had asked for
saved = [torch.tensor(stored["by place"][f"trained with {m}, read with {m}"]).mean(0) for m in (0, 64)]
share = ((saved[0] - saved[1])[0] / (saved[0] - saved[1]).sum()).item()
print(f"of the bits saved, {share:.0%} are saved at the first 4 of 64 characters")
assert 0.5 < share < 0.8 and (saved[0] - saved[1])[8:].abs().mean() < 0.02                              # groups of 4: level in the second half
assert size["hidden states, memory 64"] * 2 == size["keys and values, 4 key heads"]

# %% [markdown]
# ## What to notice
#
# - **Where the bits are saved.** About two thirds of them at the first four of the 64 characters, where the model without a memory knows nothing, and the rest up to place 25. In the second half of the segment the two are level: this small model has little use for what stands more than some 25 characters back. Half of the whole gain is there with a memory of 16.
# - **A longer memory than in training** does no harm and hardly helps: from 64 to 192 the bits fall by a few thousandths. The distances beyond 127 were never trained; that they do no damage is what sinusoids of a *distance* are for.
# - **A model that was trained with a memory depends on it.** Read with none, it is worse than the model that never had one.
# - **It takes time.** On the calibration seed the memory was of no use after 400 steps; the results here are those of 1000.
# - **A limit.** What falls out of the memory is gone, and what is in it was written by layers that no gradient told what will be needed. The copy over one and a half segments is perfect where one layer sees the symbol, and between 57 and 70% where two layers have to pass it on.
#
# ## Break it
#
# The batch must hold *the same* texts from step to step, row by row. The usual mistake is to shuffle the segments. Here each row of the copying model with a memory of 64 gets its neighbour's memory before each segment:

# %% tags=["nbval-ignore-output"]
@torch.no_grad()
def borrowed(model, batch, steps):
    hits = []
    for x, y in map(batch, steps):
        model.state = {block: {"mixer": {n: z.roll(1, 0) for n, z in kept["mixer"].items()}, "ffn": {}} for block, kept in model.state.items()}
        hits.append((model(x)[0].argmax(-1) == y).float().mean())
    return torch.stack(hits).mean().item()


wrong = borrowed(models[64], segment_of(0), range(190, 200))
print(f"with its own memory {right[64].mean():.2f}, with its neighbour's {wrong:.2f} of symbols right")
assert wrong < 0.2

# %% [markdown]
# Nothing raises, and on text the loss would merely be a little higher. Then, in `step`, take out `.detach()` in both places and let the battery mark it: `check.battery(step, like="transformer_xl")`. Only `gradients` fails: the values are the same.
#
# ```{exercise} The shift trick
# :label: segment-shift
#
# `chunked` computes $X_{t,d} = (q_t+w)\cdot R_d W_R$ for every distance $d$ and looks up $X_{t,\,t-j}$. The authors get the same without an index: list the distances from far to near, put a column of zeros on the left, reshape.
# With $n$ queries and $M + n$ keys, write it for $X$ of shape $(n, M+n)$. What stands where $j > t$?
# ```
#
# ````{solution} segment-shift
# :class: dropdown
#
# ```python
# n, M = 4, 3
# X = torch.arange(float(n * (M + n))).view(n, M + n)
# shifted = torch.nn.functional.pad(X.flip(-1), (1, 0)).view(M + n + 1, n)[1:].view(n, M + n)
# t, j = torch.arange(M, M + n)[:, None], torch.arange(M + n)
# print((shifted == X.gather(1, (t - j).clamp(min=0)))[j <= t].all())
# ```
#
# Each row is one number longer than before, so each row slides one place against the one above. Where $j > t$ stand numbers of the next row: the mask must come after the shift.
# ````
#
# ```{exercise} How far?
# :label: segment-far
#
# The first published model had 16 layers, segments of 150 and a memory of 150. How far back can its last token look, at most? And over how many tokens does its gradient go?
# ```
#
# ````{solution} segment-far
# :class: dropdown
#
# A layer reaches from the end of a segment to $149 + 150 = 299$ places back, and each further layer one memory more, for it reads tokens at the border of which the layer below has read 150 more: $149 + 16 \cdot 150 = 2549$. The picture above: $3 + 1 \cdot 4 = 7$ and $3 + 3 \cdot 4 = 15$.
# The gradient stays in the segment: 150 tokens.
# ````
#
# ```{exercise} All see the same
# :label: segment-same
#
# With `segment=1` each token sees exactly the last $M$ tokens and itself. Write that for a whole sequence with one call of `forms.attend` and let `check` compare. Why can a model with no memory not be trained like this?
# ```
#
# ````{solution} segment-same
# :class: dropdown
#
# ```python
# from minimem.forms import attend
# M, p = 7, xl.params(4, dtype=torch.float64)
# x, = check.inputs("x", T=30)
# q, k, v = (heads(x @ p[n], 2) for n in "qkv")
# R = heads(xl.sinusoids(M + 1, x) @ p["r"], 2)
# o, _ = attend(q + p["u"][:, None], k, v, window=M + 1, bias=(q + p["w"][:, None]) @ R.mT / 2 ** 0.5)
# print(torch.allclose(merged(o) @ p["o"], xl.chunked(x, params=p, memory=M, segment=1)[0]))
# ```
#
# With $M = 0$ a token sees itself alone.
# ````
#
# **Next.** The memory here is a list of states, the oldest of which is dropped. Later papers squeeze the old ones together, look them up, or write them into a few tokens. What other schemes of position do past the trained length: {doc}`21_fope`, and the page on {doc}`long contexts <../../book/working/long_context>`.
