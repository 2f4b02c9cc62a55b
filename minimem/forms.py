"""The fast forms: a few algorithms that carry nearly all sequence memories, each checked against the loop it replaces.

    attend      o_t = Σ_j softmax_j(q_t·k_j/√K) v_j over the keys that t may see
    scan        h_t = e^{a_t} ⊙ h_{t−1} + x_t, every channel by itself
    selective   S_t = e^{A ⊙ d_t} ⊙ S_{t−1} + B_t (d_t ⊙ x_t)ᵀ                       y_t = S_tᵀ C_t
    gated       S_t = e^{g_t} S_{t−1} + k_t v_tᵀ                                     o_t = S_tᵀ q_t, or with weights per level of a tree
    delta       S_t = e^{g_t} S_{t−1} + k_t (b_t (v_t − e^{g_t} S_{t−1}ᵀ k_t))ᵀ      o_t = S_tᵀ q_t
    convolve    y_t = Σ_{j≤t} h_j x_{t−j}, a fixed filter

Shapes  q, k: (..., T, K)   v: (..., T, V)   b: (..., T, 1)   g: (..., T, 1), in ``gated`` also (..., T, K)   S: (..., K, V)
        a, x, d: (..., T, D)   h: (..., D)   A: (D, N)   B, C: (..., T, N); the S of ``selective``: (..., N, D)
Units   a and g are natural log-decays ≤ 0 (−∞ empties the memory). Every decay is e to a sum of them or a product, never a quotient: no gate overflows.
        The gradient of a decay per head is a difference of sums, right to the rounding of the gradients of q and k. Its own size is
        near e^g: at g = −5 float32 gives four of its digits, at −10 two, at −20 none.

Arguments are checked in the mechanisms that call them, but for chunk (ValueError below 1) and the shapes of scan and selective. float16 and bfloat16 are computed in float32.
"""
from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.linalg import solve_triangular
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

ROWS = 4096                 # tokens × heads worked on at once: what stays in the cache of one core
BLOCK = 8                   # tokens that a scan goes through in the type of its input
PART = 1 << 19              # scores that attend works on at once, likewise
LOG2E = math.log2(math.e)


def delta(q: Tensor, k: Tensor, v: Tensor, b: Tensor, g: Tensor | None = None, state: Tensor | None = None,
          chunk: int = 32) -> tuple[Tensor, Tensor]:
    """The (gated) delta rule, one triangular solve a chunk; g = None is no decay. Returns out (..., T, V) and S (..., K, V).

    Keys must have unit norm (or b‖k‖² ≤ 2), else the recurrence itself diverges. Yang et al. 2024, arXiv:2406.06484 and 2412.06464.
    Differentiable once.
    """
    return _wide(_by_chunks, q, k, v, b, g, state, chunk)


def gated(q: Tensor, k: Tensor, v: Tensor, g: Tensor | None = None, state: Tensor | dict[int, Tensor] | None = None,
          levels: Tensor | None = None, by_value: bool = False, chunk: int = 64) -> tuple[Tensor, Tensor | dict[int, Tensor]]:
    """Linear attention with a decay per head, per key, or none (g = None). Returns out (..., T, V) and S (..., K, V).

    Decay per head: differentiable once. A decay per key is split along a binary tree; ``chunk`` is rounded up to a power of two.
    ``by_value``: g (..., T, V) is the decay of each column, not row, of the memory: S_t = S_{t−1} diag(e^{g_t}) + k_t v_tᵀ.

    ``levels`` (..., T, L): token t reads what token j wrote with weight levels[t, bit_length(t xor j)], t and j counted from 0 at
    the empty memory (log-linear attention, arXiv:2506.04761). The state is then {level: S}, one for each 1 among the binary digits
    of the number of tokens so far. Time O(T log T). Raises ValueError for fewer than bit_length(last t) + 1 levels.
    """
    if levels is not None:
        return _wide(_by_levels, q, k, v, levels, g, {} if state is None else state, chunk)
    by_key = g is not None and g.shape[-1] > 1
    return _wide(partial(_by_tree, by_value=by_value) if by_key or by_value else _by_chunks, q, k, v, None, g, state, chunk)


def _wide(form, q, k, v, b, g, state, chunk):
    """Leading axes flattened to one, at least float32 inside."""
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}, wanted >= 1")
    lead, dtype = q.shape[:-2], q.dtype
    wide = torch.promote_types(dtype, torch.float32)

    def flat(x):
        if isinstance(x, dict):
            return {n: flat(y) for n, y in x.items()}
        return None if x is None else x.reshape(x.shape[:-2].numel(), *x.shape[-2:]).to(wide)

    def back(x):
        if isinstance(x, dict):
            return {n: back(y) for n, y in x.items()}
        return x.reshape(*lead, *x.shape[-2:]).to(dtype)
    state = q.new_zeros(*lead, k.shape[-1], v.shape[-1]) if state is None else state
    q, k, v, b, g, state = map(flat, (q, k, v, b, g, state))
    g = g if g is None else g.clamp(min=-1e3)                             # e^-1000 is 0 in float64, and 0·(−1000) is a number
    return tuple(map(back, form(q, k, v, b, g, state, chunk)))


# ------------------------------------------------------------------ every channel by itself


def scan(a: Tensor, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """h_t = e^{a_t} ⊙ h_{t−1} + x_t. Returns all h (..., T, D) and the last (..., D).

    a, x: (..., T, D) of one shape; state: (..., D), None for 0. Differentiable once. Raises ValueError for other shapes and T = 0.

    In blocks of 8 tokens, all side by side: what each adds; then h at the end of each, a scan of T / 8 tokens; then every token from
    the right start: some 23 log₈ T steps of Python. The gradient of a scan is the same scan run backwards.
    Between blocks all is float64: e^a near 1 in float32 is wrong by up to 3e-8 a token, which in a loop adds up to T times that.
    """
    if a.dim() < 2 or a.shape != x.shape or not x.shape[-2]:
        raise ValueError(f"a has shape {tuple(a.shape)} and x {tuple(x.shape)}, wanted (..., T, D) for both, T >= 1")
    lead, D, dtype = x.shape[:-2], x.shape[-1], x.dtype
    if state is not None and state.shape != (*lead, D):
        raise ValueError(f"state has shape {tuple(state.shape)}, wanted {(*lead, D)}")
    state = x.new_zeros(*lead, D) if state is None else state
    h, last = _Scan.apply(*(y.to(torch.promote_types(dtype, torch.float32)) for y in (a.movedim(-2, 0), x.movedim(-2, 0), state)))
    return h.movedim(0, -2).to(dtype), last.to(dtype)


class _Scan(Function):
    """Time first: a, x (T, ...), state (...). Long sequences are worked on in parts, so that what is written is still in the cache."""

    @staticmethod
    def forward(ctx, a, x, state):
        h, last = torch.empty_like(x), state.double()
        ctx.size = max(64, 64 * ROWS // max(1, state.numel()))
        for a_, x_, h_ in zip(*(y.split(ctx.size) for y in (a, x, h))):
            last = _through(a_, a_.exp(), x_, last, h_)
        ctx.save_for_backward(a, h, state)
        return h, h[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, dh, dlast):
        a, h, state = ctx.saved_tensors
        buffer, dx, carry, stop = h.new_empty(len(h) + 1, *state.shape), torch.empty_like(h), dlast.double(), len(h)
        befores = [state, *h[ctx.size - 1::ctx.size]]
        for a_, h_, dh_, dx_, before in reversed([*zip(*(y.split(ctx.size) for y in (a, h, dh, dx)), befores)]):
            decay = buffer[stop - len(a_):stop + 1]                       # its place is that of da, but for the last, which is the next part's
            torch.exp(a_, out=decay[:-1])
            later, decay[-1] = decay[-1].clone(), 1
            _through(a_[1:], decay[1:], dh_, carry, dx_, back=True)
            carry = a_[0].double().exp() * dx_[0]
            decay[:-1] *= dx_
            decay[0] *= before
            decay[1:-1] *= h_[:-1]
            decay[-1], stop = later, stop - len(a_)
        return buffer[:-1], dx, carry.to(h.dtype)


def _through(a: Tensor, decay: Tensor, x: Tensor, h: Tensor, out: Tensor, back: bool = False) -> Tensor:
    """h ← decay_t h + x_t, decay = e^a, for t = 0, 1, …, or from the last to the first: all values into out, (T, ...); the last in float64."""
    T, way = len(x), -1 if back else 1
    n = (T - 1) % BLOCK + 1                                               # so many one by one, the rest in blocks
    lone, rest = (slice(T - n, T), slice(0, T - n)) if back else (slice(0, n), slice(n, T))
    h = _steps(*(y[lone].unbind()[::way] for y in (decay, x, out)), h.to(x.dtype))
    if n < T:
        rows = [y[rest].unflatten(0, (-1, BLOCK)).unbind(1)[::way] for y in (decay, x, out)]
        adds = rows[1][0].clone()
        _steps(rows[0][1:], rows[1][1:], [adds] * (BLOCK - 1), adds)
        sums = a[rest].unflatten(0, (-1, BLOCK)).sum(1).double()
        ends = sums.new_empty(sums.shape)
        last = _through(sums, sums.exp(), adds.double(), h.double(), ends, back)
        starts = torch.cat([ends[1:], h[None]] if back else [h[None], ends[:-1]]).to(x.dtype)
        _steps(*rows, starts)
        return last
    return h.double()


def _steps(decay, x, out, h):
    for d, y, o in zip(decay, x, out):
        h = torch.addcmul(y, d, h, out=o)
    return h


# ------------------------------------------------------------------ every channel and key by itself, with a read


def selective(x: Tensor, d: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The selective scan of Mamba (S6): S_t[n, c] = e^{d_t[c] A[c, n]} S_{t−1}[n, c] + B_t[n] d_t[c] x_t[c],  y_t = S_tᵀ C_t.

    x, d: (..., T, D), d ≥ 0   A: (D, N), negative   B, C: (..., T, N)   state: (..., N, D), None for 0.
    Returns y (..., T, D) and S (..., N, D). Differentiable once. Raises ValueError for shapes that do not fit and T = 0.

    One step a token, in float64. In segments: of the states only those between segments are kept, the others are computed again
    for the gradient, in the type of x: right to about 1e-8 times the tokens remembered in float32. Gu and Dao 2023, arXiv:2312.00752.
    """
    lead, D, N, dtype = x.shape[:-2], x.shape[-1], A.shape[-1], x.dtype
    state = x.new_zeros(*lead, N, D) if state is None else state
    wanted = {"x": x.shape, "d": x.shape, "A": (D, N), "B": (*x.shape[:-1], N), "C": (*x.shape[:-1], N), "state": (*lead, N, D)}
    for (name, shape), y in zip(wanted.items(), (x, d, A, B, C, state)):
        if y.shape != shape or x.dim() < 2 or not x.shape[-2]:
            raise ValueError(f"{name} has shape {tuple(y.shape)}, wanted {tuple(shape)}: x, d (..., T, D), A (D, N), B, C (..., T, N), T >= 1")
    wide = torch.promote_types(dtype, torch.float32)
    x, d, B, C, S = (y.reshape(lead.numel(), *y.shape[len(lead):]).to(wide) for y in (x, d, B, C, state))
    y, S = _Selective.apply(*(z.transpose(0, 1) for z in (x, d, B, C)), A.mT.to(wide).contiguous(), S)
    return y.transpose(0, 1).reshape(*lead, *y.shape[::2]).to(dtype), S.reshape(state.shape).to(dtype)


class _Selective(Function):
    """Time first: x, d (T, b, D), B, C (T, b, N); A (N, D), S (b, N, D)."""

    @staticmethod
    def forward(ctx, x, d, B, C, A, S):
        ctx.size = max(8, min(64, 32 * ROWS // max(1, S.numel())))
        out, borders = torch.empty_like(x), x.new_empty(-(-len(x) // ctx.size), *S.shape)
        for x_, d_, B_, C_, y_, border in zip(*(y.split(ctx.size) for y in (x, d, B, C, out)), borders):
            border.copy_(S)
            states = _states(*(y.double() for y in (x_, d_, B_, A, S)))[1]
            torch.matmul(C_[:, :, None], states[1:].to(x.dtype), out=y_[:, :, None])
            S = states[-1]
        ctx.save_for_backward(x, d, B, C, A, borders)
        return out, S.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dS):
        """With G_t the gradient of S_t, G_t = C_t dy_tᵀ + e^{d_{t+1} A} ⊙ G_{t+1}; that of d_t ⊙ A is H_t = G_t ⊙ e^{d_t A} ⊙ S_{t−1}."""
        *inputs, A, borders = ctx.saved_tensors
        dA, grads = torch.zeros_like(A), [torch.empty_like(y) for y in inputs]
        parts = zip(*(y.split(ctx.size) for y in (*inputs, dy, *grads)), borders)
        for x_, d_, B_, C_, dy_, dx_, dd_, dB_, dC_, S in reversed([*parts]):
            decay, states = _states(x_, d_, B_, A, S)
            G = C_[..., None] * dy_[:, :, None]
            later, *earlier = reversed(G.unbind())
            later.add_(dS)
            for d_n, G_n in zip(reversed(decay[1:].unbind()), earlier):
                later = G_n.addcmul_(d_n, later)
            dS = decay[0] * later
            torch.matmul(states[1:], dy_[..., None], out=dC_[..., None])
            torch.matmul(G, (d_ * x_)[..., None], out=dB_[..., None])
            du = (B_[:, :, None] @ G)[:, :, 0]
            torch.mul(du, d_, out=dx_)
            H = decay.mul_(states[:-1]).mul_(G)
            torch.sum(torch.mul(H, A, out=G), -2, out=dd_).addcmul_(du, x_)
            dA += H.mul_(d_[:, :, None]).sum((0, 1))
        return *grads, dA, dS


def _states(x: Tensor, d: Tensor, B: Tensor, A: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """The decays of a segment, (T, b, N, D), and its T + 1 states, from S on."""
    decay, states = (d[:, :, None] * A).exp_(), S.new_empty(len(x) + 1, *S.shape)
    torch.mul(B[..., None], (d * x)[:, :, None], out=states[1:])
    states[0] = S
    S, *later = states.unbind()
    for d_n, S_n in zip(decay.unbind(), later):
        S = S_n.addcmul_(d_n, S)
    return decay, states


# ------------------------------------------------------------------ a decay per head

def _by_chunks(q, k, v, b, g, state, chunk):
    C = min(chunk, q.shape[1])
    outs, step = [], _part(q, C)
    for part in zip(*([None] * -(-q.shape[1] // step) if x is None else x.split(step, 1) for x in (q, k, v, b, g))):
        q_, k_, v_, b_, g_ = (x if x is None else _chunks(x, C).transpose(0, 1) for x in part)
        out, state = _Chunks.apply(q_, k_, v_, b_, q.new_zeros(1, 1, C, 1) if g_ is None else g_, state)
        outs.append(out.transpose(0, 1))
    return torch.cat(outs, 1).flatten(1, 2)[:, :q.shape[1]], state


def _part(q: Tensor, C: int) -> int:
    """Tokens of (B, T, D) to work on at once: whole chunks, about ROWS rows in all."""
    return max(1, ROWS // (C * max(1, len(q)))) * C


def _chunks(x: Tensor, C: int) -> Tensor:
    """(B, T, D) → (B, N, C, D), with zeros at the end: k = b = g = 0 leaves the memory as it is."""
    pad = -x.shape[1] % C
    return (F.pad(x, (0, 0, 0, pad)) if pad else x).unflatten(1, (-1, C))


class _Chunks(Function):
    """N chunks of C tokens, q, k, v, b, g: (N, B, C, D); without b the rows written are u = v.

    From the chunk's start state S, with D_ij = e^{Σ g over (j, i]} for j ≤ i and h_i = e^{Σ g over (0, i]}:
        e_i = v_i − h_i Sᵀ k_i − Σ_{j<i} D_ij (k_i·k_j) u_j,   u = b e:   a unit triangular system for the errors E
        o_i = h_i Sᵀ q_i + Σ_{j≤i} D_ij (q_i·k_j) u_j,         S' = h_C S + Σ_j D_Cj k_j u_jᵀ
    So k reads like a second query, and both are carried as y = [q; k].
    """

    @staticmethod
    def forward(ctx, q, k, v, b, g, S):
        N, B, C, _ = k.shape
        ones = g.new_ones(C, C)
        D = (g * ones.tril(-1)).cumsum(-2).exp_().mul_(ones.tril())       # no difference of large sums: exact for strong gates
        head, tail = g.cumsum(-2).exp_(), D[..., -1, :, None]
        y = torch.stack([q] if b is None else [q, k], 2)
        k, v, decay = k.contiguous(), v.contiguous(), head[..., -1:, :].expand(N, B, 1, 1)
        W = (y.flatten(2, 3) @ k.mT).unflatten(2, (-1, C)).mul_(D[:, :, None])
        yh, kt = y * head[:, :, None], k * tail
        states = S.new_empty(N + 1, *S.shape)
        states[0] = S
        if b is None:
            U = E = v
            kv, S = (kt.mT @ v).unbind(), states.unbind()
            for n, d in enumerate(decay.unbind()):
                torch.addcmul(kv[n], d, S[n], out=S[n + 1])
        else:
            U, E, L = torch.empty_like(v), torch.empty_like(v), W[:, :, 1] * b.mT
            for n in range(N):
                miss = torch.baddbmm(v[n], yh[n, :, 1], states[n], alpha=-1)
                solve_triangular(L[n], miss, upper=False, unitriangular=True, out=E[n])
                torch.mul(b[n], E[n], out=U[n])
                torch.mul(decay[n], states[n], out=states[n + 1]).baddbmm_(kt[n].mT, U[n])
        out = _add(yh[:, :, 0] @ states[:-1], W[:, :, 0], U)
        ctx.save_for_backward(y, k, U, E, b, D, head, yh, kt, W, states)
        return out, states[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, dout, dS):
        """From the last chunk to the first. With L and M the weights of k and q inside a chunk, and ∂ for a gradient:
            ∂U = Mᵀ ∂O + (D_C· k) ∂S',   (I + Lᵀ diag b) R = ∂U,   ∂v = b R,   ∂b_i = r_i·e_i;   what k read as a query gets −b R
        The rest follows for all chunks at once. A decay needs no pass of its own: see dG.
        """
        y, k, U, E, b, D, head, yh, kt, W, states = ctx.saved_tensors
        N, B, C, _ = k.shape
        decay = head[..., -1:, :].expand(N, B, 1, 1)
        dy = U.new_empty(*y.shape[:-1], U.shape[-1])                      # gradient of what y read
        dy[:, :, 0] = dout
        dU, dstates = W[:, :, 0].mT @ dy[:, :, 0], torch.empty_like(states)
        dstates[N] = dS
        if b is None:
            qd = yh[:, :, 0].mT @ dy[:, :, 0]
            for n in reversed(range(N)):
                torch.addcmul(qd[n], decay[n], dstates[n + 1], out=dstates[n])
            dv, db = _add(dU, kt, dstates[1:]), None
        else:
            dR, LT = torch.empty_like(U), (b * W[:, :, 1]).mT
            for n in reversed(range(N)):
                dU[n].baddbmm_(kt[n], dstates[n + 1])
                solve_triangular(LT[n], dU[n], upper=True, unitriangular=True, out=dR[n])
                torch.mul(dR[n], -b[n], out=dy[n, :, 1])
                reads = yh[n].flatten(1, 2).mT, dy[n].flatten(1, 2)
                torch.mul(decay[n], dstates[n + 1], out=dstates[n]).baddbmm_(*reads)
            dv, db = -dy[:, :, 1], (dR * E).sum(-1, keepdim=True)
        dW = (dy.flatten(2, 3) @ U.mT).unflatten(2, (-1, C)).mul_(D[:, :, None])
        dW[:, :, 1:].mul_(D.new_ones(C, C).tril(-1))                      # a key does not read its own row
        dW, dy = dW.flatten(2, 3), dy.flatten(2, 3)
        dY = (dy @ states[:-1].mT).unflatten(2, (-1, C)).mul_(head[:, :, None])
        dY = _add(dY.flatten(2, 3), dW, k).unflatten(2, (-1, C))
        dk = _add((U @ dstates[1:].mT).mul_(D[..., -1, :, None]), dW.mT, y.flatten(2, 3))
        dg = None
        if ctx.needs_input_grad[4]:                                       # y_i carries e^{+G_i}, k_j e^{−G_j}, S' e^{G_C}
            dG = (y * dY).sum((2, -1)).sub_((k * dk).sum(-1))
            dG[..., -1] += (states[1:] * dstates[1:]).sum((-1, -2))
            dg = dG.flip(-1).cumsum(-1).flip(-1)[..., None]
        return dY[:, :, 0], dk if b is None else dk.add_(dY[:, :, 1]), dv, db, dg, dstates[0]


def _add(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """x += a @ b, with two leading axes."""
    x.view(a.shape[:2].numel(), *x.shape[2:]).baddbmm_(a.flatten(0, 1), b.flatten(0, 1))
    return x


# ------------------------------------------------------------------ a decay per key, or per value

def _by_tree(q, k, v, b, g, state, chunk, by_value):
    C, outs = 1 << (min(chunk, q.shape[1]) - 1).bit_length(), []
    for part in zip(*(x.split(_part(q, C), 1) for x in (q, k, v, g))):
        out, state = _tree(*(_chunks(x, C) for x in part), state, by_value)
        outs.append(out.flatten(1, 2)[:, :part[0].shape[1]])
    return torch.cat(outs, 1), state


def _tree(q, k, v, g, state, by_value):
    out, size = (q * k).sum(-1, keepdim=True) * v, 1
    while size < q.shape[2]:
        out, size = out + _halves(q, k, v, g, size, by_value), 2 * size
    fade, tail, decay = g.cumsum(-2).exp(), _to_end(g), g.sum(-2).exp()
    kv, decay = (k.mT @ (v * tail), decay[..., None, :]) if by_value else ((k * tail).mT @ v, decay[..., None])
    states = []
    for kv_n, decay_n in zip(kv.unbind(1), decay.unbind(1)):
        states.append(state)
        state = decay_n * state + kv_n
    states = torch.stack(states, 1)
    return out + ((q @ states) * fade if by_value else (q * fade) @ states), state


def _to_end(g: Tensor) -> Tensor:
    """e^{Σ g over (j, last]} for every j."""
    return F.pad(g[..., 1:, :].flip(-2).cumsum(-2).flip(-2), (0, 0, 0, 1)).exp()


def _halves(q: Tensor, k: Tensor, v: Tensor, g: Tensor, size: int, by_value: bool) -> Tensor:
    """In every block of 2·size tokens the right half reads the left: the decay j → i is that to the border times that from it."""
    def halves(x):
        return x.unflatten(-2, (-1, 2, size)).unbind(-3)
    (gl, gr), (_, qr), (kl, _), (vl, _) = (halves(x) for x in (g, q, k, v))
    fade, tail = gr.cumsum(-2).exp(), _to_end(gl)
    qr, kl, vl = (qr, kl, vl * tail) if by_value else (qr * fade, kl * tail, vl)
    read = (qr @ kl.mT) @ vl
    read = read * fade if by_value else read
    return torch.stack([torch.zeros_like(read), read], -3).flatten(-4, -2)


# ------------------------------------------------------------------ weights per level of a binary counter of blocks

def _by_levels(q, k, v, levels, g, state, chunk):
    """Level l > 0 of token t is a block of 2^{l−1} tokens: the largest power of two at the end of t, then the next, and so on."""
    T, now, C = q.shape[1], sum(1 << l - 1 for l in state), 1 << (min(chunk, q.shape[1]) - 1).bit_length()
    if levels.shape[-1] <= (now + T - 1).bit_length():
        raise ValueError(f"levels has {levels.shape[-1]} weights, wanted {(now + T - 1).bit_length() + 1} for token {now + T - 1}")
    if g is not None and g.shape[-1] > 1:
        raise ValueError(f"g has {g.shape[-1]} decays a token, wanted one beside levels")
    g, outs, first = q.new_zeros(len(q), T, 1) if g is None else g, [], now % C
    for part in zip(*(x.split([min(T, _part(q, C) - first), *_rest(T, _part(q, C), first)], 1) for x in (q, k, v, g, levels))):
        run = partial(checkpoint, _counted, use_reentrant=False, preserve_rng_state=False) if torch.is_grad_enabled() else _counted
        out, state = run(*part, state, now, C)
        outs.append(out)
        now += out.shape[1]
    return torch.cat(outs, 1), state


def _rest(T: int, size: int, first: int) -> list[int]:
    """How many tokens are in the parts after the first, which ends where a part of ``size`` tokens would that began ``first`` before."""
    left = max(0, T - (size - first))
    return [min(size, left - done) for done in range(0, left, size)]


def _counted(q, k, v, g, levels, state, now, C):
    """Chunks of C tokens, at multiples of C: inside one by a C × C matrix, and what is older block by block."""
    T, first = q.shape[1], now % C
    q, k, v, g, levels = (_chunks(F.pad(x, (0, 0, first, 0)), C) for x in (q, k, v, g, levels))
    i, ones = torch.arange(C, device=q.device), g.new_ones(C, C)
    D = (g * ones.tril(-1)).cumsum(-2).exp() * ones.tril()
    out = ((q @ k.mT) * D * levels.gather(-1, _bits(i[:, None] ^ i).expand(*D.shape))) @ v
    late, last, fade, reads = q * g.cumsum(-2).exp(), k * _to_end(g), g.sum(-2, keepdim=True).exp(), []
    start, stop = now - first, now + T
    for late_n, last_n, v_n, fade_n, levels_n in zip(*(x.unbind(1) for x in (late, last, v, fade, levels))):
        reads.append(torch.zeros_like(v_n))
        if state:
            l, t = torch.tensor([*state], device=q.device), start + i[:, None]
            level = (_bits((t >> l) ^ (now >> l)) + l).clamp(max=levels.shape[-1] - 1)      # what is padded may be anywhere
            read = late_n[:, None] @ torch.stack([*state.values()], 1)
            reads[-1] = (levels_n.gather(-1, level.expand(len(late_n), *level.shape)).mT[..., None] * read).sum(1)
        end, kept = min(start + C, stop), {}
        for l in range(end.bit_length(), 0, -1):
            if end >> l - 1 & 1:
                lo, hi = end >> l << l, (end >> l << l) + (1 << l - 1)
                parts = [fade_n * S for m, S in state.items() if lo <= now >> m << m < hi]
                if hi > now:
                    new = slice(max(lo, now) - start, hi - start)
                    parts.append(last_n[:, new].mT @ v_n[:, new])
                kept[l] = sum(parts)
        state, now, start = kept, end, end
    return (out + torch.stack(reads, 1)).flatten(1, 2)[:, first:first + T], state


def _bits(n: Tensor) -> Tensor:
    """How many binary digits n has: frexp's exponent of a whole number."""
    return torch.frexp(n.double())[1].long()


# ------------------------------------------------------------------ attend: softmax attention by blocks


def by_distance(bias: Tensor, distance: Tensor) -> Tensor:
    """bias (..., T or 1, R), indexed by ``distance`` (T, M): (..., T, M). What is farther than R − 1 gets the last, what is ahead the first."""
    at = distance.clamp(0, bias.shape[-1] - 1)
    return bias[..., 0, :][..., at] if bias.shape[-2] == 1 else bias.gather(-1, at.expand(*bias.shape[:-1], -1))


def softmax_read(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One softmax over one group of keys: what each query reads, and the log of its denominator.

        o_t = Σ_j exp(q_t·k_j/√K − lse_t) v_j,    lse_t = log Σ_j exp(q_t·k_j/√K)

    q: (..., T, K)   k: (..., M, K)   v: (..., M, V)   visible: (..., T, M) bool, None = all; bias: (..., T, M), added to the scores   ->   o: (..., T, V), lse: (..., T, 1).
    Leading axes broadcast. Sums run in float32 at least, and the results keep that type.
    A query that sees nothing reads 0, with the lowest finite number as its lse: no NaN, forward or backward.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    low = torch.finfo(wide).min
    s = (q.to(wide) * q.shape[-1] ** -0.5) @ k.to(wide).mT
    if bias is not None:
        s = s + bias.to(wide)
    if visible is not None:
        s = s + s.new_zeros(visible.shape).masked_fill(~visible, low)     # s is lost in low; adding is faster than filling s
    p, (top, at) = s.softmax(-1), s.max(-1, keepdim=True)
    lse = top - p.gather(-1, at).log()                                    # of p = e^(s − lse), at one and the same key
    return p @ v.to(wide) * (lse > low), lse


def merge(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Two reads (o, lse) of two groups of keys -> the read of both under one softmax; a key in both groups counts twice.

        lse = log(e^lse₁ + e^lse₂),    o = e^(lse₁−lse) o₁ + e^(lse₂−lse) o₂
    """
    lse = torch.logaddexp(a[1], b[1])
    return (a[1] - lse).exp() * a[0] + (b[1] - lse).exp() * b[0], lse


def attend(q: Tensor, k: Tensor, v: Tensor, window: int | None = None, sinks: int = 0, q_sinks: Tensor | None = None,
           bias: Tensor | None = None, beyond: int = 0, block: int = 128) -> tuple[Tensor, Tensor]:
    """Causal softmax attention, a block of queries at a time: never a T × M matrix, forward or backward.

    The T queries are the last T of M positions. Query t sees key j ≤ t if t − j < ``window`` (None: all) or j < ``sinks``.
    ``q_sinks``: queries to use on the sinks, where their distance differs from the true one (None: q).
    ``bias``: (..., T or 1, R), added to the scores by distance, q_t·k_j/√K + bias[t, min(t − j, R − 1)]; one row serves all queries.
    ``beyond``: query t sees key j only if t − j ≥ ``beyond``. Near and far groups may have queries and keys of their own: ``merge`` joins them.

    q: (..., T, K)   k: (..., M, K)   v: (..., M, V)   ->   o: (..., T, V) in q's dtype, lse: (..., T, 1), both differentiable, once.
    Leading axes broadcast; where k and v have 1 on the last of them, as a key head that serves several query heads, nothing is copied.
    Time O(T·(window + sinks + block)), without a window O(T·M). Memory: q, k, v, o and lse, as much again at most for the weights of short windows,
    and the scores of one part: a block of queries of one head, or as many blocks and heads as fit the cache. Longer rows are computed again for the gradient.
    Raises ValueError for more queries than keys, window or block < 1, window ≤ beyond, sinks or beyond < 0, a bias of other than T or 1 rows.

    Source: softmax on the fly, Milakov and Gimelshein 2018, arXiv:1805.02867; by blocks, Dao et al. 2022, arXiv:2205.14135.
    """
    T, M = q.shape[-2], k.shape[-2]
    if not 0 < T <= M:
        raise ValueError(f"q has {T} positions and k has {M}, wanted 1 <= T <= M: the queries are the last of the keys")
    if block < 1 or sinks < 0 or beyond < 0 or (window is not None and window <= beyond):
        raise ValueError(f"saw window={window}, sinks={sinks}, beyond={beyond}, block={block}, wanted window >= 1 and > beyond, sinks >= 0, beyond >= 0, block >= 1")
    if bias is not None and bias.shape[-2] not in (1, T):
        raise ValueError(f"bias has {bias.shape[-2]} rows, wanted 1 or one for each of the {T} queries")
    wide = torch.promote_types(q.dtype, torch.float32)
    first, sinks = M - T - beyond, 0 if window is None else min(sinks, M)
    k, v, bias = k[..., :max(0, M - beyond), :], v[..., :max(0, M - beyond), :], None if bias is None else bias[..., min(beyond, bias.shape[-1] - 1):]

    def read(q, k, v, first, window, block):
        lead, xs = _heads(*(x if x is None else x.to(wide) for x in (q, k, v, bias)))
        return [x.reshape(*lead, T, -1) for x in _Attend.apply(*xs, first, window, block)]
    if window is None:
        o, lse = read(q, k, v, first, M + 1, min(block, max(64, T // 8)))                 # half of a block on the diagonal is for nothing
    else:
        W = window - beyond
        o, lse = read(q, k[..., sinks:, :], v[..., sinks:, :], first - sinks, W, min(block, max(32, W // 64 * 16)))
    if sinks:
        o, lse = merge((o, lse), read(q if q_sinks is None else q_sinks, k[..., :sinks, :], v[..., :sinks, :], first, M + 1, T))
    return o.to(q.dtype), lse


def _heads(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[torch.Size, tuple[Tensor | None, ...]]:
    """Leading axes of the result; q (N, G, T, K), k (N, M, K), v (N, M, V), bias (B, G, T or 1, R): G queries on each of N heads, of which head h has bias h % B."""
    lead = torch.broadcast_shapes(*(x.shape[:-2] for x in (q, k, v, bias) if x is not None))
    q, k, v, bias = (x if x is None else x[(None,) * (len(lead) + 2 - x.dim())] for x in (q, k, v, bias))
    n = len(lead)
    while n and k.shape[n - 1] == v.shape[n - 1] == 1:
        n -= 1
    if bias is not None:
        same = next((i for i in range(n) if bias.shape[i] > 1), n)
        bias = bias.expand(*bias.shape[:same], *lead[same:], -1, -1).reshape(-1, lead[n:].numel(), *bias.shape[-2:])
    q = q.expand(*lead, -1, -1).reshape(lead[:n].numel(), lead[n:].numel(), *q.shape[-2:])
    k, v = (x.expand(*lead[:n], *x.shape[n:]).reshape(len(q), *x.shape[-2:]) for x in (k, v))
    return lead, (q, k, v, bias)


class _Attend(Function):
    """q, k, v, bias as ``_heads`` gives them, query i at position ``first`` + i of the keys   ->   o: (N, G, T, V), lse: (N, G, T, 1).

    o and lse are kept, and the weights P where they are few; elsewhere scores s are computed again for the gradient. With P_ij = e^(s_ij − lse_i):
        dv = Pᵀ do,    ds_ij = P_ij (do_i·v_j − do_i·o_i + dlse_i),    dq = ds k / √K,    dk = dsᵀ q / √K
    In powers of two: torch's exp on a CPU is 20 to 60 times slower at −∞ and below −88, its exp2 is not.
    """

    @staticmethod
    def forward(ctx, q, k, v, bias, *where):
        ctx.where, low, tiny = where, torch.finfo(q.dtype).min, torch.finfo(q.dtype).tiny
        o, lse = q.new_zeros(*q.shape[:-1], v.shape[-1]), q.new_full((*q.shape[:-1], 1), low)
        weights = []
        for part in _parts(q, k, bias, *where):
            s = part.scores(q, k, bias, torch.zeros_like(lse))
            top = s.amax(-1, True).clamp_(min=low)
            p = _exp2(s.sub_(top))
            total = p.sum(-1, True).clamp_(min=tiny)
            if part.few(q, v) and any(ctx.needs_input_grad):
                weights.append(p.div_(total))
                part.put(o, p @ part.keys(v))
            else:
                part.put(o, (p @ part.keys(v)).div_(total))
            part.put(lse, total.log2_().add_(top).div_(LOG2E).masked_fill_(top == low, low))
        ctx.save_for_backward(q, k, v, bias, o, lse, *weights)
        return o, lse

    @staticmethod
    @once_differentiable
    def backward(ctx, do, dlse):
        q, k, v, bias, o, lse, *weights = ctx.saved_tensors
        do, root, low, weights = do.contiguous(), q.shape[-1] ** -0.5, torch.finfo(q.dtype).min, iter(weights)
        shift = (lse * -LOG2E).clamp_(max=-low)
        dq, dk, dv, dbias = (x if x is None else x.new_zeros(x.shape) for x in (q, k, v, bias))
        for part in _parts(q, k, bias, *ctx.where):
            p = next(weights) if part.few(q, v) else _exp2(part.scores(q, k, bias, shift))
            do_ = part.queries(do)
            part.add(dv, p, do_)
            D = (do_ * part.queries(o)).sum(-1, keepdim=True) - part.queries(dlse)
            ds = (do_ @ part.keys(v).mT).sub_(D).mul_(p)
            part.put(dq, (ds @ part.keys(k)).mul_(root))
            part.add(dk, ds, part.queries(q), root)
            if ctx.needs_input_grad[3]:
                part.add_bias(dbias, ds)
        return dq, dk, dv, dbias, None, None, None


def _parts(q, k, bias, first, window, block):
    """The parts of the work.

    A part is one block of queries of many heads, or, where there are more blocks than heads, many blocks of one head, each with its whole window: side by side.
    """
    (N, G, T), M, a = q.shape[:3], k.shape[1], 0
    while a < T:
        C = min(block, T - a)
        whole, end = -(-(C + window - 1) // C) * C, first + a + C         # blocks of keys for a window, and where those of this block end
        if end < whole <= 5 * block:
            C, end = min(T - a, whole - end), min(first + T, whole - C)   # the first queries of a short window, all at once
        lo = max(0, end - whole)
        L = max(0, min(end, M) - lo)
        blocks = (T - a) // C
        n = min(blocks, max(1, PART // (C * L))) if end >= whole and G == 1 and N < blocks else 1
        heads = 1 if n > 1 else max(1, PART // (G * C * max(1, L)))
        while bias is not None and heads % len(bias) and len(bias) % heads:
            heads -= 1                                                    # whole rounds of the heads of bias, or an even part of one
        distance = first + a - lo
        mask = q.new_full((C, L), -torch.inf).triu_(distance + 1)
        if distance + C > window:
            mask += torch.full_like(mask, -torch.inf).tril_(distance - window)
        for h in range(0, N if L else 0, heads):
            yield _Part(slice(h, min(N, h + heads)), slice(a, a + n * C), slice(lo, lo + (n - 1) * C + L), n, C, L, distance, mask)
        a += n * C


class _Part(NamedTuple):
    """n blocks of C queries each, ``at``, of one head, or one block of several ``heads``. Block i sees L keys from i · C on of those ``seen``;
    the first of them is ``distance`` back from its first query."""
    heads: slice
    at: slice
    seen: slice
    n: int
    C: int
    L: int
    distance: int
    mask: Tensor

    def few(self, q: Tensor, v: Tensor) -> bool:
        """A query has at most as many weights here as it has numbers in q, k, v and o: keeping them doubles what is kept at most."""
        return self.L <= 2 * (q.shape[-1] + v.shape[-1])

    def scores(self, q: Tensor, k: Tensor, bias: Tensor | None, shift: Tensor) -> Tensor:
        """Scores + bias + shift in powers of two, (heads or n, G · C, L), −∞ where a query does not see a key."""
        return self.added(bias, self.queries(shift)).baddbmm_(self.queries(q), self.keys(k).mT, alpha=LOG2E * q.shape[-1] ** -0.5)

    def queries(self, x: Tensor) -> Tensor:
        """(N, G, T, D) → (heads or n, G · C, D)."""
        x = x[self.heads, :, self.at]
        return x.reshape(max(self.n, len(x)), -1, x.shape[-1])

    def put(self, x: Tensor, y: Tensor) -> None:
        """queries(x) ← y."""
        x = x[self.heads, :, self.at]
        x.copy_(y.view(x.shape))

    def keys(self, x: Tensor) -> Tensor:
        """(N, M, D) → (heads or n, L, D), a view: windows overlap."""
        x = x[self.heads, self.seen]
        return x if self.n == 1 else x[0].unfold(0, self.L, self.C).mT

    def add(self, x: Tensor, p: Tensor, y: Tensor, scale: float = 1.0) -> None:
        """keys(x) ← keys(x) + scale pᵀ y; a key of several windows gets the sum."""
        x = x[self.heads, self.seen]
        if self.n == 1:
            x.baddbmm_(p.mT, y, alpha=scale)
        else:
            for i, p_i in enumerate(p.split(self.C, 2)):
                x[0, i * self.C:(i + self.n) * self.C].view(y.shape).baddbmm_(p_i.mT, y, alpha=scale)

    def added(self, bias: Tensor | None, shift: Tensor) -> Tensor:
        """mask + bias + shift, in powers of two."""
        mask, shift = self.mask, shift.unflatten(1, (-1, self.C))
        if bias is None:
            return (mask + shift).flatten(1, 2)
        bias = self.biased(bias)
        if bias.shape[2] == 1:
            row = bias[:, None, :, 0][..., self.columns(bias)] * LOG2E
            added = mask + _slanted(row.unsqueeze(-2).expand(*row.shape[:-1], self.C, -1).flatten(-2), self.C, self.L)
        else:
            rows = bias[:, :, self.at].reshape(len(bias), self.n, *shift.shape[1:3], -1)
            added = by_distance(rows, self.distances(mask)).mul_(LOG2E).add_(mask)
        return (added + shift.view(-1, len(bias), self.n, *shift.shape[1:])).flatten(0, 2).flatten(1, 2)

    def biased(self, bias: Tensor) -> Tensor:
        """The heads of ``bias`` that these heads have, each once."""
        first = self.heads.start % len(bias)
        return bias[first:first + self.heads.stop - self.heads.start]

    def columns(self, bias: Tensor) -> Tensor:
        """Which entry of a row of ``bias`` is in each of the C + L columns that ``_slanted`` makes diagonals of."""
        return (self.distance + self.C - 1 - torch.arange(self.C + self.L, device=bias.device)).clamp(0, bias.shape[-1] - 1)

    def distances(self, x: Tensor) -> Tensor:
        return self.distance + torch.arange(self.C, device=x.device)[:, None] - torch.arange(self.L, device=x.device)

    def add_bias(self, dbias: Tensor, ds: Tensor) -> None:
        """The gradient of bias: ds summed over every place that one of its entries was added to."""
        dbias, R = self.biased(dbias), dbias.shape[-1]
        ds = ds.view(-1, len(dbias), self.n, dbias.shape[1], self.C, self.L).sum(0)
        if dbias.shape[2] == 1:
            rows = ds.new_zeros(*dbias.shape[:2], self.C * (self.C + self.L))
            _slanted(rows, self.C, self.L).copy_(ds.sum(1))
            dbias[:, :, 0].index_add_(-1, self.columns(dbias), rows.unflatten(-1, (self.C, -1)).sum(-2))
        else:
            rows = ds.new_zeros(*ds.shape[:-1], R)
            rows.scatter_add_(-1, self.distances(ds).clamp(0, R - 1).expand(ds.shape), ds)
            dbias[:, :, self.at] += rows.view(*dbias.shape[:2], -1, R)


def _exp2(s: Tensor) -> Tensor:
    """s ← 2^s, and 0 below 2^−100 (in float32): products of numbers too small to have all their digits are many times slower."""
    return F.threshold_(s, 0.8 * math.log2(torch.finfo(s.dtype).tiny), -torch.inf).exp2_()


def _slanted(x: Tensor, C: int, L: int) -> Tensor:
    """(..., C (C + L)) → (..., C, L), a view: its (i, j) is (i, C − 1 − i + j) of x as (..., C, C + L), so that a diagonal is a column of x."""
    return x[..., C - 1:C * (C + L) - 1].unflatten(-1, (C, C + L - 1))[..., :L]


# ------------------------------------------------------------------ a fixed filter

def convolve(h: Tensor, x: Tensor) -> Tensor:
    """y_t = Σ_{j≤t} h_j x_{t−j} along axis −2, by one FFT of at least 2T points: nothing wraps around.

    h: (..., T, D)   x: (..., T, D)   ->   y: (..., T, D); leading axes broadcast. Time O(T log T) for each channel.
    """
    n = 1 << (2 * x.shape[-2] - 1).bit_length()
    return torch.fft.irfft(torch.fft.rfft(h, n, -2) * torch.fft.rfft(x, n, -2), n, -2)[..., :x.shape[-2], :]
