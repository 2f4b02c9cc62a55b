# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # Sixteen numbers for a whole past: HiPPO, S4 and S4D
#
# **Question.** A signal comes in, one value at a time, a thousand of them. You may keep 16 numbers, and nobody tells you beforehand how long the signal will be. Which 16 numbers let you draw all of its past, from the first value to the last?
#
# **Your prediction, before you read on.** Three waves pass by. Keeping the last 16 values gives 1.6 % of the past. Can 16 *other* numbers give all of it, and with what error? What happens to them if the same waves are sampled four times as fast, so that 4000 values come instead of 1000?
# And then: a network is to say again what it heard 256 steps ago. It may train everything, the memory too. Does it matter where the memory *starts*?

# %%
import math

import torch

from minimem import check, core, forms, show
from minimem.catalog import card, result
from minimem.state import hippo, s4
from minimem.tasks.delay import delay

torch.set_num_threads(1)
WIDE = {"dtype": torch.float64}

# %% [markdown]
# (hippo)=
# ## HiPPO: the past as a polynomial
#
# Keep the coefficients of the polynomial that fits all of the past best. When a value arrives, the past is one token longer: the polynomial is stretched over the longer time and bent a little towards the new value. Both are one small linear step.

# %%
card("hippo")


# %% [markdown]
# ### Build it
#
# $A$ is a triangle, so the inverse in (2) is one triangular solve. The counter $t$ is part of the memory: the longer the past, the less one more value moves the polynomial.

# %%
def step(state, x, params):
    t, (A, B) = state["t"] + 1, params.values()
    half = A / (2 * t[..., None])
    right = state["c"] - state["c"] @ half.mT + x[..., None] * B / t[..., None]            # (2) [(I - A/2t) c + B f/t]
    eye = torch.eye(len(B), **core.like(B))
    c = torch.linalg.solve_triangular((eye + half).mT, right, upper=True, left=False)      # (2) (I + A/2t)^-1
    return {"c": c, "t": t}, c


def waves(s):
    """The signal, at places s in [0, 1] of the whole: it has a size (root mean square) of .79."""
    return torch.sin(9 * s) + torch.cos(23 * s) / 2


def places(T):
    return torch.arange(1, T + 1, **WIDE) / T


heard = waves(places(1000))[:, None]
memory = hippo.recurrent(heard[:300], params=hippo.params(16, **WIDE))[1]
check.same(step, hippo.step, memory, heard[300], hippo.params(16, **WIDE))
print(f"kept: {core.nbytes(memory)} bytes, 16 coefficients and a counter of 8 bytes each; heard: {core.nbytes(heard)} bytes")

# %% [markdown]
# What the numbers remember. Top: the *same* 16 numbers at three moments; each time they hold all of the past until then. Middle: the end, with fewer numbers. Bottom: LegT, the other measure of the paper, spends its 16 numbers on a window.

# %%
plt = show.style()
fig, axes = plt.subplots(3, 1, figsize=(7.2, 7.4), sharex=True, gridspec_kw={"height_ratios": (2.1, 1.5, 1.2)})
orange, brown, time = show.KIND_COLOUR["state"], "#7a3b00", torch.arange(1, 1001, **WIDE)
every = hippo.recurrent(heard, params=hippo.params(16, **WIDE))[0][0]
for i, t in enumerate((300, 600, 1000)):
    y = -3.4 * i
    axes[0].plot(time, heard[:, 0] + y, color="#c4c4c4", lw=4, solid_capstyle="round")
    axes[0].plot(time[:t], hippo.read(every[t - 1], time[:t] / t) + y, color=orange, lw=1.6)
    axes[0].plot(t, heard[t - 1, 0] + y, "o", color=brown, ms=6, zorder=4)
    axes[0].text(1015, y, f"after {t}", va="center", size=9)
axes[0].set_title("LegS: 16 numbers hold all that was heard so far", loc="left", size=10)
axes[1].plot(time, heard, color="#c4c4c4", lw=4)
for N, line, colour in ((4, ":", "#333333"), (8, "--", brown), (16, "-", orange)):
    c = hippo.recurrent(heard, params=hippo.params(N, **WIDE))[1]["c"][0]
    axes[1].plot(time, hippo.read(c, places(1000)), line, color=colour, lw=1.6, label=f"N = {N}")
axes[1].legend(loc="upper left", bbox_to_anchor=(1, 1), handlelength=1.6)
axes[1].set_title("LegS: what fewer numbers keep", loc="left", size=10)
c = hippo.legt_parallel(heard, params=hippo.legt(16, 400, **WIDE))[1][0]
axes[2].plot(time, heard, color="#c4c4c4", lw=4)
axes[2].axvspan(600, 1000, color=orange, alpha=0.13, lw=0)
axes[2].plot(time[600:], hippo.read(c, (time[600:] - 600) / 400), color=orange, lw=1.6)
axes[2].plot(time[300:600], hippo.read(c, (time[300:600] - 600) / 400), color=orange, lw=1.2, ls="--")
axes[2].text(800, -2.1, "window", ha="center", size=9)
axes[2].text(15, -2.1, "before it: only a guess", size=9)
axes[2].set(ylim=(-2.4, 2.4), xlabel="time (tokens)", xlim=(0, 1000))
axes[2].set_title("LegT: 16 numbers for the last 400 tokens", loc="left", size=10)
for ax in axes:
    ax.set_yticks([])
    ax.set_ylabel("signal")
    ax.grid(False)
fig.tight_layout()

# %% [markdown]
# The claim, with numbers fixed before the run. The error is the root mean square over all of the past, in parts of the signal's; beside the waves, five random signals, sums of four sines of up to four turns.
# It must fall from $N=4$ to $16$ and be under 2 % at 16; the coefficients must change by less than 5 % when the signal is sampled four times as fast; LegT, asked about the time before its window, must err by more than the signal itself.
# The last two columns say how much of the error at 1000 samples is the fault of the step, not of the polynomial: sampled four times as fast, 32 numbers err less.

# %% tags=["claim-hippo"]
def sines(seed):
    size, turns, phase = torch.rand(3, 4, generator=torch.Generator().manual_seed(seed), **WIDE)
    return lambda s: (size * (2 * math.pi * (4 * turns * s[:, None] + phase)).sin()).sum(-1)


def legs(f, N, T):
    """Coefficients after all T samples, and their error in parts of the signal."""
    x = f(places(T))
    c = hippo.recurrent(x[:, None], params=hippo.params(N, **WIDE))[1]["c"][0]
    return c, ((hippo.read(c, places(T)) - x).norm() / x.norm()).item()


print("signal     N=4    N=8    N=16   N=32  |  4x faster: N=16   N=32   change of c   LegT before its window")
for name, f in {"waves": waves, **{f"sines {seed}": sines(seed) for seed in range(5)}}.items():
    (_, e4), (_, e8), (c, e16), (_, e32) = (legs(f, N, 1000) for N in (4, 8, 16, 32))
    (fast, e16_fast), (_, e32_fast) = (legs(f, N, 4000) for N in (16, 32))
    change = ((fast - c).norm() / fast.norm()).item()
    window = hippo.legt_parallel(f(places(1000))[:, None], params=hippo.legt(16, 500, **WIDE))[1][0]
    before = places(500) - 1                                                       # the 500 tokens before the window
    outside = (hippo.read(window, before) - f(places(1000))[:500]).norm() / f(places(1000))[:500].norm()
    print(f"{name:9} {e4:6.3f} {e8:6.3f} {e16:6.3f} {e32:6.3f} {e16_fast:18.3f} {e32_fast:6.3f} {change:12.3f}   {'wrong' if outside > 1 else outside:>15}")
    assert e4 > e8 > e16 and e16 < 0.02 and change < 0.05 and outside > 1
    assert e32_fast < e32

# %% [markdown]
# (s4)=
# ## S4: a memory that can be trained in parallel
#
# S4 takes HiPPO's matrix, lets the clock run evenly (no $1/t$: the past fades, with a scale $1/\Delta$ of each channel's own), and reads out with a learned $C$. Nothing in the step depends on the input, so over a whole sequence it is one long convolution; and HiPPO's matrix is, in another basis,
# diagonal but for one rank, so that neither the step nor the kernel costs more than $N$. S4D leaves that one rank out.

# %%
card("s4")


# %% [markdown]
# ### Build it
#
# The step of both; `both` adds the conjugate halves. The last line counts what is kept, and the one before says that a stream cut anywhere is the convolution of the whole.

# %%
def s4_step(S, x, params):
    s, u, (dt, A, C, *PB) = torch.view_as_complex(S), x[..., None], s4._system(params)
    if PB:                                                                                 # S4
        P, B = PB
        w = s + dt / 2 * (A * s - P * both(P.conj() * s)) + dt * B * u                     # (1) (I + dt/2 A) s + dt B x
        d = 1 / (1 - dt / 2 * A)
        s = d * (w - P * both(P.conj() * d * w) / (2 / dt + both(P.conj() * d * P)))       # (1) (I - dt/2 A)^-1
    else:                                                                                  # S4D
        s = (dt * A).exp() * s + torch.expm1(dt * A) / A * u                               # (3)
    return torch.view_as_real(s), both(C * s)[..., 0] + params["D"] * x                    # (1)


def both(x):
    return 2 * x.real.sum(-1, keepdim=True)


x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0), **WIDE)
for begin in (s4.params, s4.s4d_lin):
    p = begin(8, 64, **WIDE)
    y, S = s4.recurrent(x, params=p)
    check.same(s4_step, s4.step, S, x[0], p)
    first, cut = s4.parallel(x[:123], params=p)
    rest, _ = s4.parallel(x[123:], cut, params=p)
    print("convolution = recurrence, cut at 123:", bool((torch.cat([first, rest]) - y).abs().max() < 1e-10), f"  {core.nbytes(S)} bytes for 8 channels")

# %% [markdown]
# Seen from the side: what each number of the state keeps, as a weight on the past. A step of $\Delta = 1/256$ for all; $N=16$, drawn are the first six real numbers.

# %%
def normal(D, N, seed=0):
    """No structure: every A of every channel is -exp(x) + iy, x and y normal."""
    re, im = torch.randn(2, D, N // 2, generator=torch.Generator().manual_seed(seed), **WIDE)
    return s4.start(torch.complex(-re.exp(), im), D, seed)


def uniform(D, N, seed=0):
    """The real part and the range of frequencies of S4D-Lin, at random places."""
    im = math.pi * N / 2 * torch.rand(D, N // 2, generator=torch.Generator().manual_seed(seed), **WIDE)
    return s4.start(torch.complex(torch.full_like(im, -0.5), im), D, seed)


def weights(p, T):
    """How each number of the state weighs the last T inputs: (T, D * N)."""
    states, S = [], torch.zeros(*p["C"].shape)
    for t in range(T):
        S, _ = s4.step(S, torch.full_like(p["D"], float(t == 0)), p)
        states.append(S.flatten())
    return torch.stack(states)


STARTS = {"S4": s4.params, "S4D-Lin": s4.s4d_lin, "S4D-Real": s4.s4d_real, "uniform": uniform, "normal": normal}
plt = show.style()
fig, axes = plt.subplots(1, 4, figsize=(9.4, 3.2), sharey=True)
for ax, (name, begin) in zip(axes, {k: v for k, v in STARTS.items() if k != "uniform"}.items()):
    p = begin(1, 16)
    w = weights({**p, "log_dt": torch.full((1,), -math.log(256))}, 1024)
    if name == "S4":                                                                       # in HiPPO's own coordinates
        A, B, eye = *hippo.params(16).values(), torch.eye(16)
        w = hippo.powers(torch.linalg.solve(eye + A / 512, eye - A / 512), torch.linalg.solve(eye + A / 512, B / 256), 1024)
    for i, y in enumerate(w.T[w.abs().max(0).values > 0][:6]):
        ax.plot(range(1024), y / y.abs().max() * 0.45 - i, color="#e07b00" if i % 2 == 0 else "#7a3b00", lw=1.2)
    ax.set(title=name, xlabel="age (tokens)", xticks=(0, 256, 512, 1024), yticks=[])
    ax.axvline(256, color="#999999", lw=0.8, ls=":")
axes[0].set_ylabel("weight of an input of that age\n(each number scaled to its largest)")
fig.tight_layout()

# %% [markdown]
# S4's look like HiPPO's polynomials, stretched: fine for the near past, coarse for the far one. S4D-Lin turns at evenly spaced frequencies. S4D-Real only fades, and the numbers of the last memory turn too slowly to tell one token from the next.
#
# ### Say again what you heard 256 tokens ago
#
# First with no training of the memory: eight channels are fed the same noise, and the *best possible* linear read of all $8 \cdot 64$ numbers is computed by least squares. What it cannot say is not in there. The noise has all frequencies up to a limit; the higher the limit, the more there is to keep.

# %%
def best_read(begin, band, seed):
    """Squared error on fresh noise, in parts of the variance, of the least squares read of the input of 256 tokens ago."""
    h = weights(begin(8, 64, seed=seed), 512)
    h = h / h.norm(dim=0).clamp(min=1e-9)                            # a mode that does not turn has no imaginary part
    (H, y), (H2, y2) = ((forms.convolve(h, x)[:, 256:].flatten(0, 1).double(), late[:, 256:].flatten().double())
                        for x, late in (delay(band=band, batch=12, seed=2 * seed + i) for i in (0, 1)))
    read = torch.linalg.solve(H.mT @ H + 1e-6 * len(H) * torch.eye(H.shape[1], **WIDE), H.mT @ y)
    return ((H2 @ read - y2).square().mean() / y2.square().mean()).item()


bands, errors = (1 / 64, 1 / 32, 1 / 16, 1 / 8), {}
for name, begin in STARTS.items():
    errors[name] = torch.tensor([[best_read(begin, band, seed) for band in bands] for seed in range(3)])
plt = show.style()
fig, ax = plt.subplots(figsize=(6.4, 3.4))
looks = {"S4": ("-", "s", "#7a3b00"), "S4D-Lin": ("-", "o", "#e07b00"), "S4D-Real": ("--", "v", "#888888"), "uniform": (":", "D", "#e07b00"), "normal": ("--", "^", "#222222")}
for name, (line, mark, colour) in looks.items():
    ax.plot(range(4), errors[name].mean(0), ls=line, marker=mark, ms=5, color=colour, label=name)
    ax.fill_between(range(4), errors[name].min(0).values, errors[name].max(0).values, color=colour, alpha=0.15, lw=0)
ax.set(xticks=range(4), xticklabels=["1/64", "1/32", "1/16", "1/8"], xlabel="noise up to this frequency (turns per token)", ylim=(-0.03, 1.03),
       ylabel="error of the best linear read\n(parts of the variance)")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
fig.tight_layout()

# %% [markdown]
# HiPPO's polynomials with the evenly running clock, S4, hold the far past up to 1/32 and no further. The frequencies of S4D-Lin need not be *evenly* spaced: random ones of the same range ("uniform") do as well. What fails is a range that is too small.
#
# Now everything is trained: $A$, $\Delta$, $B$, $C$ and the maps before and after, 200 steps from each start (`benchmarks/trained/delay.py`, noise up to 1/16, three seeds).
# Fixed before the run: S4, S4D-LegS and S4D-Lin end below .1 of the variance and "normal" above .5, on every seed. The second half of the row's claim, selective copying, is the [lab of Mamba](07_selective_copying).

# %% tags=["claim-s4"]
stored = result("delay")
trained = stored["data"]["error"]
for arm, e in trained.items():
    print(f"{arm:10} error after training, least and most of 3 seeds: {min(e):.3f} ... {max(e):.3f}")
assert len(stored["seeds"]) >= 3
assert all(max(trained[arm]) < 0.1 for arm in ("S4", "S4D-LegS", "S4D-Lin")) and min(trained["normal"]) > 0.5
at = bands.index(1 / 16)
assert errors["S4D-Lin"][:, at].max() < 0.1 and errors["normal"][:, at].min() > 0.5            # and before any training

# %% [markdown]
# ## What to notice
#
# - **Sixteen numbers, all of the past**, to 1 % of its size or better, and the same numbers however fast the signal is sampled. No window was chosen.
# - **More numbers are not always better.** At 1000 samples, 32 numbers err a little more than 16 on most signals: what is left is the error of the step, which is large while $t$ is not much more than $N$. Sampled four times as fast, it is a third.
# - **HiPPO is not what carries the long lag in S4D.** Before training, what counts is that the frequencies, times $\Delta$, cover those of the signal and that nothing fades too soon. Evenly spaced or drawn at random from the same range, it works; drawn too low, 200 steps of training do not repair it.
# - **S4 itself**, before training, loses at 1/16 what S4D keeps: its clock runs evenly, so its polynomials are stretched, and coarse for old times. Training repairs that, and what starts from drawn frequencies ends where the others do.
# - **Limit.** The noise is a task for linear systems, made of few frequencies. A memory that must *choose* what to keep cannot be a fixed convolution: that is the lab of Mamba. The published results of S4 (Path-X, speech) are not tried here.
#
# ## Break it
#
# Set `t` in `step` to a fixed 500: the memory becomes a fading one, and the picture at the top is right only near the end. Then put Euler's step for (2), $c + (Bf - Ac)/t$, and look at the largest number in `c` during the first 30 tokens: a step multiplies by $1 - \lambda/t$, $\lambda = 1 \dots N$, for $t < \lambda/2$ below $-1$.
# Then leave the one rank out of the step of S4 but not out of its convolution (`P * both(...)` with 0 for both): `check.battery(s4_step, like="s4")` says which properties go, and which stay: it is still causal, and can still be cut anywhere.
#
# ```{exercise} A constant
# :label: hippo-constant
#
# The signal is 1 from the first token on. Show that $c = (1, 0, 0, \dots)$ stays as it is under (1). Does (2) reach it from $c_0 = 0$, and how fast?
# ```
#
# ````{solution} hippo-constant
# :class: dropdown
#
# The first column of $A$ is $B$, so $-Ac + B = 0$. From 0, the miss shrinks by $\prod_t (1 - \lambda/2t)/(1 + \lambda/2t)$ along the eigenvector of $\lambda = 1 \dots N$: like $t^{-\lambda}$, so $1/t$ for the slowest.
#
# ```python
# out, _ = hippo.recurrent(torch.ones(1000, 1, **WIDE), params=hippo.params(4, **WIDE))
# print((out[0, [9, 99, 999]] - torch.tensor([1.0, 0, 0, 0])).norm(dim=-1))
# ```
# ````
#
# ```{exercise} The missing token
# :label: hippo-half
#
# LegS hears the first half of the waves, then 500 tokens of silence (zeros). What does it say about the first half afterwards, with 16 numbers and with 32? And LegT with a window of 400?
# ```
#
# ````{solution} hippo-half
# :class: dropdown
#
# ```python
# x = torch.cat([waves(places(1000))[:500], torch.zeros(500, **WIDE)])[:, None]
# for N in (16, 32):
#     c = hippo.recurrent(x, params=hippo.params(N, **WIDE))[1]["c"][0]
#     print(N, ((hippo.read(c, places(1000)) - x[:, 0])[:500].norm() / x.norm()).item())
# ```
#
# The half is still there; the corner at 500 is what a polynomial does not like, and twice as many numbers help little. LegT has forgotten all of it: its window holds silence.
# ````
#
# ```{exercise} Your own convolution
# :label: s4-own
#
# Write S4D over a whole sequence with a matrix of $T \times T$ kernel values, no FFT, and let the battery mark it: `check.battery` compares with S4's parameters, so compare by hand with `s4.recurrent(x, params=s4.s4d_lin(8, 64, **WIDE))`.
# ```
#
# ````{solution} s4-own
# :class: dropdown
#
# ```python
# def mine(x, p):
#     dt, A, C = s4._system(p)
#     l = torch.arange(len(x), **WIDE)
#     K = 2 * ((C * torch.expm1(dt * A) / A)[..., None] * ((dt * A)[..., None] * l).exp()).real.sum(1)         # (3)
#     age = (l[:, None] - l).long()
#     return torch.einsum("dts,sd->td", K[:, age.clamp(min=0)] * (age >= 0), x) + p["D"] * x
# ```
# ````
#
# **Next.** [Hyena](06_hyena) keeps the convolution and gives up the state: its filter is drawn by a network, and to go on it must keep all of the past.
