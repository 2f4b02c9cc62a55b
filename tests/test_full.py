"""Full attention: torch SDPA, transformers' Llama, the cache against recomputing, grouped heads, and where positions enter."""
from functools import partial

import pytest
import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention as sdpa

from minimem import check, core
from minimem.cache import full
from minimem.lm import small
from minimem.position.rope import rotate_halves, rotate_pairs

HEADS = [(4, 4), (4, 2), (6, 2), (4, 1)]                           # query heads, heads of keys: MHA, GQA, GQA, MQA
FORMS = [full.recurrent, full.parallel]


def qkv(T=30, H=4, Hk=4, seed=0):
    q, = check.inputs("q", T=T, lead=(2, H), seed=seed)
    return [q, *check.inputs("kv", T=T, lead=(2, Hk), seed=seed + 1)]


def repeated(q, k, v):
    """The same with each head of keys and values written out for every query head that reads it."""
    return [q, *(x.repeat_interleave(q.shape[-3] // x.shape[-3], -3) for x in (k, v))]


def dense(q, k, v, bias=0.0):
    """The formula with T × T scores; bias (..., T, T)."""
    s = q @ k.mT / q.shape[-1] ** 0.5 + bias
    seen = torch.ones(s.shape[-2:]).tril().bool()
    return s.masked_fill(~seen, -torch.inf).softmax(-1) @ v


# ------------------------------------------------------------------ others' code

@pytest.mark.oracle("full")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("H, Hk", HEADS)
@pytest.mark.parametrize("at", [0, 1, 17, 29])
def test_sdpa(form, H, Hk, at):
    """The last queries of 30 tokens, the first ``at`` of which come from a cache; their mask stands at the lower right."""
    q, k, v = qkv(H=H, Hk=Hk)
    state = full.parallel(*(x[..., :at, :] for x in (q, k, v)))[1] if at else None
    got, state = form(*(x[..., at:, :] for x in (q, k, v)), state=state)
    want = sdpa(q[..., at:, :], k, v, attn_mask=causal_lower_right(30 - at, 30), enable_gqa=H != Hk)
    torch.testing.assert_close(got, want, **check.EXACT)
    assert torch.equal(state["k"], k) and torch.equal(state["v"], v)


@pytest.mark.oracle("full")
@pytest.mark.parametrize("H, Hk", HEADS)
@pytest.mark.parametrize("cut", [12, 1, 11])
def test_llama_attention(H, Hk, cut):
    """Their layer with its weights, prompt and rest; its cache holds rotated keys, ours becomes that by the rotation."""
    from transformers import DynamicCache, LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding
    config = LlamaConfig(hidden_size=8 * H, num_attention_heads=H, num_key_value_heads=Hk, num_hidden_layers=1,
                         rope_parameters={"rope_type": "default", "rope_theta": 300.0}, attn_implementation="eager")
    torch.manual_seed(H + Hk)
    theirs, turn = LlamaAttention(config, 0).double(), LlamaRotaryEmbedding(config)
    rotate = partial(rotate_halves, base=300.0)
    ours = full.Layer(8 * H, H, Hk, rotate=rotate).double()
    ours.load_state_dict({"qkv.proj.weight": torch.cat([x.weight for x in (theirs.q_proj, theirs.k_proj, theirs.v_proj)]), "out.weight": theirs.o_proj.weight})
    x, cache, state = torch.randn(2, 12, 8 * H, dtype=torch.float64), DynamicCache(config=config), None
    hidden = torch.ones(12, 12).triu(1).double() * torch.finfo(torch.float64).min
    for lo, hi in ((0, cut), (cut, 12))[:1 + (cut < 12)]:
        at = torch.arange(lo, hi)[None]
        want, _ = theirs(x[:, lo:hi], turn(x, at), hidden[None, None, lo:hi, :hi], cache)
        got, state = ours(x[:, lo:hi], state)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)                              # their angles are float32
    torch.testing.assert_close(rotate(state["k"], torch.arange(12)), cache.layers[0].keys, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(state["v"], cache.layers[0].values, **check.EXACT)


# ------------------------------------------------------------------ the cache

@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 1e-4)])
@pytest.mark.parametrize("Hk", [4, 2, 1])
@pytest.mark.parametrize("chunk", [1, 3, 7, 40])
def test_logits_from_the_cache_are_those_without(chunk, Hk, dtype, tolerance):
    """A whole model of three blocks, fed ``chunk`` tokens at a time, against one call without a cache."""
    torch.manual_seed(0)
    lm = small(50, 32, [full.Layer(32, 4, Hk, rotate=rotate_halves) for _ in range(3)], mlp=64).to(dtype)
    tokens, state, logits = torch.randint(50, (2, 40)), None, []
    with torch.no_grad():
        whole = lm(tokens)[0]
        for part in tokens.split(chunk, 1):
            out, state = lm(part, state)
            logits.append(out)
    torch.testing.assert_close(torch.cat(logits, 1), whole, rtol=0, atol=tolerance)
    assert whole.std() > 0.1
    assert core.nbytes(state) == 2 * 3 * Hk * 8 * dtype.itemsize * 40 * 2                         # the row's formula, for 2 sequences of 40 tokens


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rotate", [rotate_halves, rotate_pairs])
def test_positions_go_on_at_the_next_call(form, rotate):
    xs = qkv()
    whole = dense(*(rotate(x, torch.arange(30)) for x in xs[:2]), xs[2])
    first, state = form(*(x[..., :11, :] for x in xs), rotate=rotate)
    rest, _ = form(*(x[..., 11:, :] for x in xs), state=state, rotate=rotate)
    torch.testing.assert_close(torch.cat([first, rest], -2), whole, **check.EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_keys_are_kept_unrotated(form):
    """Other frequencies from the second call on: what a run that had them from the start gives."""
    xs, new = qkv(), partial(rotate_halves, base=50.0)
    _, state = form(*(x[..., :11, :] for x in xs), rotate=rotate_halves)
    assert torch.equal(state["k"], xs[1][..., :11, :])
    rest, _ = form(*(x[..., 11:, :] for x in xs), state=state, rotate=new)
    torch.testing.assert_close(rest, form(*xs, rotate=new)[0][..., 11:, :], **check.EXACT)


# ------------------------------------------------------------------ grouped heads

def scheme(H):
    """rotate, bias and rescale at once, each different for every head or place where it may be."""
    slope = torch.linspace(0.1, 1.0, H, dtype=torch.float64)[:, None, None]
    return {"rotate": rotate_halves, "bias": lambda q, M: -slope * torch.arange(M).double().sqrt(),
            "rescale": lambda q, n: q * n[:, None].double().log1p()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("H, Hk", HEADS[1:])
@pytest.mark.parametrize("how", ["bare", "all"])
def test_grouped_heads_are_repeated_heads(form, H, Hk, how):
    xs, options = qkv(H=H, Hk=Hk), scheme(H) if how == "all" else {}
    got, state = form(*xs, **options)
    want, wider = form(*repeated(*xs), **options)
    torch.testing.assert_close(got, want, **check.EXACT)
    assert core.nbytes(state) * H == core.nbytes(wider) * Hk == 2 * Hk * 30 * (6 + 4) * 8 * H


@pytest.mark.parametrize("H, Hk", HEADS)
def test_both_forms_agree_and_can_be_cut(H, Hk):
    xs, options = qkv(H=H, Hk=Hk), scheme(H)
    whole = full.recurrent(*xs, **options)
    for cut in (1, 13, 29):
        first, state = full.parallel(*(x[..., :cut, :] for x in xs), **options)
        rest, state = full.parallel(*(x[..., cut:, :] for x in xs), state=state, **options)
        check._same((torch.cat([first, rest], -2), state), whole, f"cut at {cut}")


# ------------------------------------------------------------------ where positions enter

@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("Hk", [4, 2])
@pytest.mark.parametrize("rows, R", [("one", 30), ("each", 30), ("each", 5), ("batch", 5)])
def test_bias_is_added_by_distance(form, Hk, rows, R):
    """A bias of each head, (H, 1, R); one of each query, as Shaw's; one for all heads of each sequence. Beyond R − 1 the last entry counts."""
    xs, table = qkv(Hk=Hk), torch.randn(4, 6, R, dtype=torch.float64)
    bias = {"one": lambda q, M: table[:, :1], "each": lambda q, M: q @ table, "batch": lambda q, M: (q @ table).sum(-3, keepdim=True)}[rows]
    distance = (torch.arange(30)[:, None] - torch.arange(30)).clamp(0, R - 1)
    b = bias(xs[0], 30)
    added = b.expand(*b.shape[:-2], 30, R).gather(-1, distance.expand(*b.shape[:-2], 30, 30))
    got, _ = form(*xs, bias=bias)
    torch.testing.assert_close(got, dense(*repeated(*xs), added), **check.EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_rescale_knows_how_many_keys_are_seen(form):
    xs, seen = qkv(), []

    def rescale(q, n):
        seen.extend(n.tolist())
        return q * n[:, None].double().log()
    want = dense(xs[0] * torch.arange(1, 31)[:, None].double().log(), *xs[1:])
    first, state = form(*(x[..., :9, :] for x in xs), rescale=rescale)
    rest, _ = form(*(x[..., 9:, :] for x in xs), state=state, rescale=rescale)
    torch.testing.assert_close(torch.cat([first, rest], -2), want, **check.EXACT)
    assert seen == [*range(1, 31)]


# ------------------------------------------------------------------ wrong use

@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place, change, message", [
    (1, lambda k: torch.cat([k, k[:, :1]], 1), r"^k has leading axes \(2, 3\), wanted those of q, \(2, 4\)"),
    (1, lambda k: torch.cat([k] * 4, 1), "^k has leading axes"),
    (2, lambda v: v[:, :1], r"^v has leading axes \(2, 1\)"),
    (1, lambda k: k[0], "^k has leading axes"),
    (1, lambda k: k[..., :5], "^k has shape"),
    (2, lambda v: v[..., :20, :], "^v has shape"),
    (2, lambda v: v.float(), "^v is torch.float32"),
    (1, lambda k: k.index_fill(-2, torch.tensor(3), torch.nan), "^k holds NaN"),
    (1, lambda k: k.tolist(), "^k must be a tensor, got list"),
])
def test_refuses(form, place, change, message):
    xs = qkv(Hk=2)
    xs[place] = change(xs[place])
    with pytest.raises(ValueError, match=message):
        form(*xs)


@pytest.mark.parametrize("head", range(4))
def test_no_query_head_may_hold_nan(head):
    q, k, v = qkv(Hk=2)
    q[0, head, 7, 0] = torch.nan
    with pytest.raises(ValueError, match="^q holds NaN"):
        full.parallel(q, k, v)


@pytest.mark.parametrize("form", FORMS)
def test_refuses_a_cache_of_other_heads(form):
    xs = qkv(Hk=2)
    for lead, K in (((2, 4), 6), ((2, 2), 7)):
        with pytest.raises(ValueError, match=r"^state\['k'\] has "):
            form(*xs, state=full.init(K, 4, lead, dtype=torch.float64))
    S = full.parallel(*xs)[1]
    with pytest.raises(ValueError, match=r"^state\['v'\] has shape"):
        form(*xs, state={"k": S["k"], "v": S["v"][..., 1:, :]})


@pytest.mark.parametrize("options", [{"D": 30}, {"kv_heads": 3}, {"heads": 2, "kv_heads": 4}])
def test_refuses_heads_that_do_not_divide(options):
    with pytest.raises(ValueError, match="wanted each a multiple of the next"):
        full.Layer(**{"D": 32, **options})
