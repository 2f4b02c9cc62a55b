"""A small language model made of blocks around memories: forward, decode, train; and transformers' models read into it."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cache import full
from .layer import MLP, Block, State
from .position.interpolation import ntk_by_parts, pi, yarn
from .position.rope import frequencies, rotate_halves
from .state import mamba, mamba2, mlstm, rwkv4


class LM(nn.Module):
    """tokens (B, T) → logits (B, T, vocab), and the state of every block, to go on from.

    ``blocks``: modules (x, state) → (x, state). ``embed``: what makes (B, T, D) of tokens. ``head``: None is the embedding, transposed.
    ``positions``: a table (length, D) that is added, None for none; the state then counts the tokens. ``cap`` c: logits are c·tanh(·/c).
    Raises ValueError for tokens that are no (B, T) whole numbers within the vocabulary, none at all, or more than there are positions.
    """

    def __init__(self, embed: nn.Module, blocks: Iterable[nn.Module], norm: nn.Module, head: nn.Linear | None = None,
                 positions: nn.Embedding | None = None, cap: float = 0.0):
        super().__init__()
        self.embed, self.blocks, self.norm, self.positions, self.cap = embed, nn.ModuleList(blocks), norm, positions, cap
        self.head = head
        if head is None:
            self.head = nn.Linear(embed.embedding_dim, embed.num_embeddings, bias=False)
            self.head.weight = embed.weight

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        if tokens.dim() != 2 or not tokens.numel() or tokens.dtype != torch.long:
            raise ValueError(f"tokens are {tokens.dtype} of shape {tuple(tokens.shape)}, wanted whole numbers (torch.long), (B, T), at least one")
        if not 0 <= tokens.min() <= tokens.max() < self.head.out_features:
            raise ValueError(f"tokens reach from {tokens.min()} to {tokens.max()}, wanted 0 to {self.head.out_features - 1}")
        state, x, after = state or {}, self.embed(tokens), {}
        if self.positions is not None:
            t = state.get("t", tokens.new_zeros(())) + tokens.shape[1]
            if t > self.positions.num_embeddings:
                raise ValueError(f"tokens reach position {t - 1}, wanted at most {self.positions.num_embeddings - 1}")
            x, after = x + self.positions.weight[t - tokens.shape[1]:t], {"t": t}
        for i, block in enumerate(self.blocks):
            x, after[f"block {i}"] = block(x, state.get(f"block {i}"))
        logits = self.head(self.norm(x))
        return (self.cap * torch.tanh(logits / self.cap) if self.cap else logits), after


def small(vocab: int, D: int, mixers: Iterable[nn.Module], mlp: int = 0, std: float = 0.5,
          positions: int | nn.Embedding = 0) -> LM:
    """The model of the labs: one block for each mixer, an embedding drawn with ``std`` and a head of its own; mlp: width of a SwiGLU after each,
    0 for none; positions: how many are learned, or a table."""
    embed = nn.Embedding(vocab, D)
    nn.init.normal_(embed.weight, std=std)
    return LM(embed, [Block(m, D, MLP(D, mlp) if mlp else None) for m in mixers], nn.RMSNorm(D), nn.Linear(D, vocab, bias=False),
              nn.Embedding(positions, D) if isinstance(positions, int) and positions else positions or None)


class Carried(nn.Module):
    """A model that goes on where it stopped, for ``fit`` on a text in segments: each call begins from the state that the last one left."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.state = model, None

    def forward(self, tokens: Tensor) -> tuple[Tensor, State]:
        logits, self.state = self.model(tokens, self.state)
        return logits, self.state


def fit(model: nn.Module, batch: Callable[[int], tuple[Tensor, Tensor]], steps: int, lr: float, warm: float = 0.1,
        say: Callable[[int, float], None] | None = None, extra: Callable[[], Tensor] | None = None) -> list[float]:
    """Train with AdamW, the rate rising over ``warm`` of the steps and falling by a cosine, gradients clipped to norm 1. Returns the losses.

    ``batch(step)`` gives tokens (B, T) and what should follow each of them, (B, T), −100 where nothing is asked.
    ``say(step, loss)`` is called after every step. ``extra()``, after each forward pass, gives what else to make small: the balance of experts.
    Draws nothing at random: seed the model and the batches.
    """
    adam = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, lr, total_steps=steps, pct_start=warm, cycle_momentum=False)
    losses = []
    model.train()
    for i in range(steps):
        tokens, targets = batch(i)
        loss = F.cross_entropy(model(tokens)[0].flatten(0, 1), targets.flatten(), ignore_index=-100)
        adam.zero_grad()
        (loss + extra() if extra else loss).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        rate.step()
        losses.append(loss.item())
        if say:
            say(i, losses[-1])
    model.eval()
    return losses


@torch.no_grad()
def accuracy(model: nn.Module, tokens: Tensor, targets: Tensor) -> float:
    """Share of right answers where one is asked (targets ≥ 0)."""
    asked = targets >= 0
    return (model(tokens)[0].argmax(-1) == targets)[asked].float().mean().item()


@torch.no_grad()
def surprise(model: nn.Module, tokens: Tensor) -> Tensor:
    """Nats by which tokens[:, 1:] surprised the model, place by place: (B, T − 1)."""
    return F.cross_entropy(model(tokens[:, :-1])[0].mT, tokens[:, 1:], reduction="none")


@torch.no_grad()
def generate(model: nn.Module, tokens: Tensor, n: int) -> Tensor:
    """The n likeliest next tokens, (B, n): the prompt (B, T) is read once, then one token at a time from the state."""
    out, (logits, state) = [], model(tokens)
    for _ in range(n):
        out.append(logits[:, -1:].argmax(-1))
        logits, state = model(out[-1], state)
    return torch.cat(out, 1)


# ------------------------------------------------------------------ models of transformers


def from_hf(model: nn.Module) -> LM:
    """A ``transformers`` model as ours, with its weights: the logits agree.

        from_hf(AutoModelForCausalLM.from_pretrained("state-spaces/mamba-130m-hf"))

    Raises ValueError for an architecture that is not here, and for weights that have no place.
    """
    kind = model.config.model_type
    if kind not in HF:
        raise ValueError(f"no map for a model of type {kind!r}, wanted one of {', '.join(HF) or 'none yet'}")
    build, renames, *changes = HF[kind]
    ours = build(model.config)
    weights = {}
    for name, w in model.state_dict().items():
        for old, new in renames.items():
            name = re.sub(old, new, name)
        weights[name] = w
    for change in changes:
        change(model, weights)
    missing, left = ours.load_state_dict(weights, strict=False)
    if missing or left:
        raise ValueError(f"weights without a place: {', '.join(left) or 'none'}; places without a weight: {', '.join(missing) or 'none'}")
    return ours.to(model.dtype).eval()


def _mamba(c) -> LM:
    mixers = [mamba.Layer(c.hidden_size, c.state_size, c.expand, c.time_step_rank, c.conv_kernel, c.use_bias, c.use_conv_bias)
              for _ in range(c.num_hidden_layers)]
    return _normed(c, mixers)


def _mamba2(c) -> LM:
    mixers = [mamba2.Layer(c.hidden_size, c.num_heads, c.state_size, c.head_dim, c.n_groups, c.conv_kernel, c.use_bias, c.use_conv_bias,
                           tuple(c.time_step_limit), c.layer_norm_epsilon) for _ in range(c.num_hidden_layers)]
    return _normed(c, mixers)


def _normed(c, mixers: list[nn.Module]) -> LM:
    """A block with an RMSNorm for each mixer, nothing else between embedding and head."""
    if c.hidden_act != "silu":
        raise ValueError(f"hidden_act is {c.hidden_act!r}, wanted 'silu', what the published models have")
    D, eps = c.hidden_size, c.layer_norm_epsilon
    head = None if c.tie_word_embeddings else nn.Linear(D, c.vocab_size, bias=False)
    return LM(nn.Embedding(c.vocab_size, D), [Block(m, D, eps=eps) for m in mixers], nn.RMSNorm(D, eps=eps), head)


def _rwkv(c) -> LM:
    """The first of its LayerNorms follows the embedding; the last has torch's ε, whatever the configuration says."""
    if c.attention_hidden_size != c.hidden_size:
        raise ValueError(f"attention_hidden_size is {c.attention_hidden_size}, wanted hidden_size, {c.hidden_size}, what the published models have")
    D, L, norm = c.hidden_size, c.num_hidden_layers, partial(nn.LayerNorm, eps=c.layer_norm_epsilon)
    blocks = [Block(rwkv4.Layer(D, i, L), D, rwkv4.ChannelMix(D, c.intermediate_size, i, L), nn.LayerNorm, c.layer_norm_epsilon) for i in range(L)]
    embed, head = nn.Embedding(c.vocab_size, D), nn.Linear(D, c.vocab_size, bias=False)
    if c.tie_word_embeddings:
        head.weight = embed.weight
    return LM(nn.Sequential(embed, norm(D)), blocks, nn.LayerNorm(D), head)


def _unscaled(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """What transformers halves after every few blocks when it evaluates, so that float16 does not overflow: doubled again, in ``weights``."""
    every = model.config.rescale_every if model.base_model.layers_are_rescaled else 0
    for name in [n for n in weights if every and re.search(r"mixer\.output|ffn\.value", n)]:
        weights[name] = weights[name] * 2 ** (int(name.split(".")[1]) // every)


def _xlstm(c) -> LM:
    """xLSTM-7B: its feed-forward is rounded up to whole multiples, as its authors do it."""
    D, H, eps, round_to = c.hidden_size, c.num_heads, c.norm_eps, c.ffn_round_up_to_multiple_of
    K, V, width = int(D * c.qk_dim_factor) // H, int(D * c.v_dim_factor) // H, int((D * c.ffn_proj_factor + round_to - 1) // round_to) * round_to
    blocks = [Block(mlstm.Large(D, H, K, V, c.gate_soft_cap, eps), D, MLP(D, width), eps=eps) for _ in range(c.num_hidden_layers)]
    return LM(nn.Embedding(c.vocab_size, D), blocks, nn.RMSNorm(D, eps=eps), nn.Linear(D, c.vocab_size, bias=False), cap=c.output_logit_soft_cap)


def _llama(c) -> LM:
    """Llama, and what is built like it: Mistral with its whole past, SmolLM3, which turns no queries and keys in some of its layers."""
    D, H, L, eps = c.hidden_size, c.num_attention_heads, c.num_hidden_layers, c.rms_norm_eps
    for name, want in {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "head_dim": D // H, "sliding_window": None}.items():
        if (saw := getattr(c, name, want)) != want:
            raise ValueError(f"{name} is {saw!r}, wanted {want!r}")
    turn = _turn(D // H, c.rope_parameters)
    mixers = [full.Layer(D, H, c.num_key_value_heads, rotate=turn if turned else full.bare) for turned in getattr(c, "no_rope_layers", L * [1])[:L]]
    blocks = [Block(m, D, MLP(D, c.intermediate_size), eps=eps) for m in mixers]
    head = None if c.tie_word_embeddings else nn.Linear(D, c.vocab_size, bias=False)
    return LM(nn.Embedding(c.vocab_size, D), blocks, nn.RMSNorm(D, eps=eps), head)


def _turn(K: int, told: dict) -> Callable[[Tensor, Tensor], Tensor]:
    """The rotation of heads of width K: RoPE as trained, or stretched. Llama 3 stretches as NTK by parts, in other words."""
    told = {n: x for n, x in told.items() if x is not None}
    base, s, trained, kind = (told.pop(n, None) for n in ("rope_theta", "factor", "original_max_position_embeddings", "rope_type"))
    theta, m = frequencies(K, base), 1.0
    if kind == "linear":
        theta = pi(K, base, s)
    elif kind == "llama3":
        theta = ntk_by_parts(K, base, s, trained, told.pop("low_freq_factor"), told.pop("high_freq_factor"))
    elif kind == "yarn":
        theta, m = yarn(K, base, s, trained, told.pop("beta_slow", 1), told.pop("beta_fast", 32))
        m = told.pop("attention_factor", m)
    elif kind != "default":
        raise ValueError(f"rope_type is {kind!r}, wanted 'default', 'linear', 'llama3' or 'yarn'")
    if told:
        raise ValueError(f"rope_parameters of type {kind!r} hold {', '.join(told)}, which has no place here")
    return partial(rotate_halves, theta=theta, scale=m)


def _packed(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """The matrices of q, k and v as the one that they are here, in ``weights``."""
    for name in [n for n in weights if n.endswith(".q_proj.weight")]:
        weights[name.replace("q_proj", "qkv.proj")] = torch.cat([weights.pop(name.replace("q_proj", f"{x}_proj")) for x in "qkv"])


BACKBONE = {r"^backbone\.embeddings": "embed", r"^backbone\.layers": "blocks", r"^backbone\.norm_f": "norm", r"^lm_head": "head"}
LLAMA = {r"^model\.embed_tokens": "embed", r"^model\.layers": "blocks", r"^model\.norm": "norm", r"^lm_head": "head", r"\.input_layernorm\.": ".norm.",
         r"\.post_attention_layernorm\.": ".ffn_norm.", r"\.self_attn\.": ".mixer.", r"\.o_proj\.": ".out.", r"\.mlp\.(gate|up|down)_proj\.": r".ffn.\1."}

HF: dict[str, tuple] = {     # model_type: (config → LM, {pattern of their names: ours}), and what else must be done: (model, weights), in place
    **dict.fromkeys(("llama", "mistral", "smollm3"), (_llama, LLAMA, _packed)),
    "mamba": (_mamba, BACKBONE),
    "mamba2": (_mamba2, BACKBONE),
    "rwkv": (_rwkv, {r"^rwkv\.embeddings": "embed.0", r"^rwkv\.blocks\.0\.pre_ln": "embed.1", r"^rwkv\.blocks": "blocks", r"^rwkv\.ln_out": "norm",
                     r"\.ln1\.": ".norm.", r"\.ln2\.": ".ffn_norm.", r"\.attention\.": ".mixer.", r"\.feed_forward\.": ".ffn."}, _unscaled),
    "xlstm": (_xlstm, {**BACKBONE, r"^backbone\.blocks": "blocks", r"^backbone\.out_norm": "norm", r"\.norm_mlstm\.": ".norm.", r"\.norm_ffn\.": ".ffn_norm.",
                       r"\.mlstm_layer\.": ".mixer.", r"\.multihead_norm\.weight": ".norm", r"\.out_proj\.": ".out.", r"\.proj_up_gate\.": ".gate.",
                       r"\.ogate_preact\.": ".gate.", r"\.([if])gate_preact\.": r".\1.", r"\.proj_(up|down)\.": r".\1."}),
}
