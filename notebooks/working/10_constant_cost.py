# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # What does one more token cost?
#
# **Question.** A model has read 16,383 tokens and writes the next one. What does it have to keep to be able to, and how long does that one token take, compared with the 64th?
#
# **Your prediction, before you read on.** Sixteen layers, all of width 64, each with the sizes its paper gives it. One keeps all keys and values, fifteen keep a state, and of those all are constant but two.
# Which two? After how many tokens has attention's cache outgrown the largest of the constant states? And from which length on is attention the slowest to write a token: 64, 1,000, 16,000, or not even then?

# %%
import math
import time
from importlib import import_module

import torch

from minimem import core, show
from minimem.catalog import result
from minimem.cache import full

torch.set_num_threads(1)
D, LENGTHS = 64, (63, 255, 1023, 4095, 16383)
STATES = ("linear", "retnet", "gla", "gsa", "delta", "gated_delta", "rwkv4", "rwkv6", "s4", "mamba", "mamba2", "mlstm", "slstm", "log_linear", "hyena")


def layers():
    """Random weights: what a token costs does not depend on what the layer has learned."""
    torch.manual_seed(0)
    sizes = {"hyena": {"longest": 16384}}
    return {"attention": full.Layer(D), **{key: import_module(f"minimem.state.{key}").Layer(D, **sizes.get(key, {})) for key in STATES}}


# %% [markdown]
# ## Bytes
#
# Every layer of this book returns what it needs to go on: `y, state = layer(x)`. So bytes need no formula. Read $T$ tokens, and measure the tensors in `state`, convolution windows and counters included.
# $T$ is one less than a power of two, where the memory that grows with $\log T$ is at its largest.

# %%
with torch.no_grad():
    x = torch.randn(1, LENGTHS[-1], D, generator=torch.Generator().manual_seed(0))
    kept = {key: [core.nbytes(layer(x[:, :T])[1]) for T in (63, 255, 1023)] for key, layer in layers().items()}
    for key in ("attention", "linear", "mamba2", "log_linear", "hyena"):                       # the others do not change
        layer = layers()[key]
        kept[key] += [core.nbytes(layer(x[:, :T])[1]) for T in LENGTHS[3:]]

print(f"{'bytes after':12}" + "".join(f"{T:>11,}" for T in LENGTHS))
for key, sizes in kept.items():
    print(f"{key:12}" + "".join(f"{n:>11,}" for n in sizes))

# %% [markdown]
# Three kinds, and nothing else: a line, a staircase of one more matrix each time the text doubles, and rows that do not move at all. How fast does each grow? The slope of $\log$ bytes against $\log T$ is 1 for a line and 0 for a constant;
# for a logarithm it falls towards 0, so there the differences between columns tell more: they are all the same.

# %%
def slope(sizes):
    n, x = len(sizes), [math.log(T) for T in LENGTHS[:len(sizes)]]
    y = [math.log(s) for s in sizes]
    mean = sum(x) / n
    return sum((a - mean) * b for a, b in zip(x, y)) / sum((a - mean) ** 2 for a in x)


slopes = {key: slope(sizes) for key, sizes in kept.items()}
grows = {"attention", "hyena", "log_linear"}
assert all(abs(s) < 1e-9 for key, s in slopes.items() if key not in grows)
assert slopes["attention"] > 0.999 and slopes["hyena"] > 0.98
stairs = [b - a for a, b in zip(kept["log_linear"], kept["log_linear"][1:])]
assert len(set(stairs)) == 1 and kept["log_linear"][0] > stairs[0]
print("slope of log bytes: ", {key: round(slopes[key], 2) for key in sorted(grows)}, " all others 0")
print(f"log_linear adds {stairs[0]:,} bytes, two matrices, each time the text is four times as long")

# %% [markdown]
# ## When has the cache outgrown them?
#
# Attention keeps 512 bytes a token at this width (64 numbers of key and 64 of value, 4 bytes each). Divide, and each state has a length at which it begins to pay.

# %%
per_token = (kept["attention"][1] - kept["attention"][0]) / (255 - 63)
even = sorted((math.ceil(sizes[-1] / per_token), key) for key, sizes in kept.items() if key not in grows)
print("tokens after which a cache is larger:\n" + "\n".join(f"  {n:>5,}  {key}" for n, key in even))
log_linear = [T for T, n in zip(LENGTHS, kept["log_linear"]) if n < per_token * T]
print(f"log_linear is smaller than the cache from {log_linear[0]:,} tokens on, of the five lengths")
assert per_token == 512
assert even[0][0] == 2 and even[-1] == (137, "mamba2")
assert log_linear[0] == 4095

# %%
plt = show.style()
fig, axes = plt.subplots(1, 2, figsize=(9.6, 3.8))
stored = result("decode")["data"]
looks = {"attention": ("#595959", "o--"), "hyena": ("#7a3b00", "^-."), "log_linear": (show.KIND_COLOUR["state"], "s-"), "mamba2": ("black", "d:"), "linear": ("black", "x:")}
for ax, what, name in ((axes[0], "bytes", "bytes kept"), (axes[1], "ms", "ms for one more token")):
    for key, row in stored["layers"].items():
        colour, look = looks.get(key, ("#c9c9c9", "-"))
        ax.plot(stored["T"], row[what], look, color=colour, ms=4, lw=1 if key not in looks else 1.5, label=key if key in looks else None, zorder=2 if key in looks else 1)
    ax.plot([], [], color="#c9c9c9", label="the eleven others")
    ax.set(xscale="log", yscale="log", xlabel="tokens read so far", title=name, ylabel=what)
axes[1].legend(loc="upper left", bbox_to_anchor=(1.01, 1))
fig.tight_layout()

# %% [markdown]
# ## Time
#
# The right half of the figure is stored: `benchmarks/decode.py`, medians of 25 steps on an otherwise idle core. The same in small, here and now, on a machine that may be doing other things: so nothing is asserted of it. The table shows ms for one token after 63 and after 4,095.

# %% tags=["nbval-ignore-output"]
@torch.no_grad()
def ms(layer, T, rounds=15):
    state, times = layer(x[:, :T])[1], []
    for _ in range(rounds):
        start = time.process_time()
        layer(x[:, :1], state)
        times.append(1e3 * (time.process_time() - start))
    return sorted(times)[rounds // 2]


for key in ("attention", "hyena", "log_linear", "mamba2", "gated_delta", "linear"):
    layer = layers()[key]
    print(f"{key:12} {ms(layer, 63):6.2f} {ms(layer, 4095):6.2f}")

# %% [markdown]
# What of the stored times is sure enough to be asserted: states do not get slower (slopes within ±0.15), attention and Hyena do, and beyond 16,000 tokens they are the two slowest.

# %%
rows = stored["layers"]
assert all(abs(r["slope of ms"]) < 0.15 for key, r in rows.items() if key not in ("attention", "hyena"))
assert min(rows[key]["ms"][-1] for key in ("attention", "hyena")) > max(r["ms"][-1] for key, r in rows.items() if key not in ("attention", "hyena"))
assert rows["attention"]["ms"][0] < rows["mamba2"]["ms"][0]
assert all(r["bytes"][:len(kept[key])] == kept[key] for key, r in rows.items())              # stored bytes are those measured above
print("slowest after 16,383 tokens:", sorted(rows, key=lambda key: -rows[key]["ms"][-1])[:2])

# %% [markdown]
# ## What to notice
#
# - **The two are Hyena and log-linear attention.** Hyena is a long convolution: to write a token it needs every token before it, so exactly computed it is as large as a cache and slower. Log-linear attention adds one matrix each time the text doubles.
# - **Constant does not mean small.** Mamba-2's matrices pay from 137 tokens on, sLSTM's few numbers from the fourth. Log-linear attention, with Mamba-2's sizes, can be larger than a cache for the first thousand tokens: with ten matrices after 1,023, but with one after 1,024.
# - **Constant does not mean fast.** Around 255 tokens attention is the *quickest* of all here: a few matrix products, against a dozen small operations. States win by not getting slower.
# - **Limit.** Width 64, one layer, one sequence, plain PyTorch on a CPU: below a millisecond this measures how many operations Python starts, not the mechanism. On a GPU with many sequences it is the bytes read per token that count, and those are the left half of the figure.
#   And bytes say nothing about what is remembered in them: that is [another lab](11_recall_per_byte.ipynb).
#
# ## Break it
#
# Give Hyena a filter of 256 tokens, `Layer(64, longest=256)`, and let it read 1,023. What does it say? Then give log-linear attention `levels=8` and find the first token that it refuses. Which of the fifteen states would go on for ever? (The thirteen constant ones.)
#
# ```{exercise} A model, not a layer
# :label: cost-model
#
# Mamba-2 of 2.7 billion parameters has 64 layers with 80 heads of 64 × 128 numbers. How many bytes is that in float32? A transformer of that size, say 32 layers of width 2,560, keeps keys and values in 2 bytes a number. From how many tokens on is its cache larger?
# ```
#
# ````{solution} cost-model
# :class: dropdown
#
# 64 · 80 · 64 · 128 · 4 = 167,772,160 bytes, 160 MiB. The cache takes 32 · 2 · 2,560 · 2 = 327,680 bytes a token: from 512 tokens on.
#
# ```python
# print(64 * 80 * 64 * 128 * 4 / (32 * 2 * 2560 * 2))
# ```
# ````
#
# ```{exercise} The window between
# :label: cost-window
#
# Sliding-window attention keeps the last $W$ keys and values. At which $W$ does it cost as many bytes as Mamba-2's state at width 64? What would the three curves of the left figure look like with it?
# ```
#
# ````{solution} cost-window
# :class: dropdown
#
# 70,144 / 512 = 137 tokens. Its curve follows attention's up to 137 tokens and stays level from there on.
# ````
#
# ## Next
#
# Bytes are the price. [What do they buy?](11_recall_per_byte.ipynb)
