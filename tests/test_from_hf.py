"""Models and layers of transformers, read into ours: the same numbers come out."""
import pytest
import torch

from minimem.lm import from_hf
from minimem.state import gated_delta

CLOSE = {"rtol": 1e-5, "atol": 1e-5}                             # of float32, on outputs of size 1


@pytest.fixture
def qwen3_next(monkeypatch):
    """Their layer in plain torch: as it stands it would call fla's kernels."""
    from transformers.models.qwen3_next import modeling_qwen3_next as theirs
    for name in ("causal_conv1d_fn", "causal_conv1d_update", "torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule"):
        monkeypatch.setattr(theirs, name, getattr(theirs, name).__wrapped__)

    def layer(G, H):
        config = theirs.Qwen3NextConfig(hidden_size=48, num_hidden_layers=1, linear_num_key_heads=G, linear_num_value_heads=H,
                                        linear_key_head_dim=8, linear_value_head_dim=12, layer_types=["linear_attention"])
        torch.manual_seed(0)
        layer = theirs.Qwen3NextGatedDeltaNet(config, 0).eval()
        with torch.no_grad():
            for p in layer.parameters():
                p += 0.1 * torch.randn_like(p)
        return layer, config
    return layer


@pytest.mark.parametrize("G, H", [(4, 4), (2, 4)])
@pytest.mark.oracle("gated_delta")
def test_qwen3_next_layer(qwen3_next, G, H):
    """Whole, and a prompt with then one token at a time; each head with its own keys, and two that share them."""
    from transformers import DynamicCache
    theirs, config = qwen3_next(G, H)
    ours, x = gated_delta.from_hf(theirs), torch.randn(2, 70, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = theirs(x)
        got, state = ours(x)
        torch.testing.assert_close(got, want, **CLOSE)
        cache, seen = DynamicCache(config=config), None
        for lo, hi in ((0, 66), (66, 67), (67, 68)):
            step = theirs(x[:, lo:hi], cache_params=cache)
            mine, seen = ours(x[:, lo:hi], seen)
            torch.testing.assert_close(mine, step, **CLOSE)
            torch.testing.assert_close(mine, want[:, lo:hi], **CLOSE)
        torch.testing.assert_close(seen["S"], cache.layers[0].recurrent_states[0], **CLOSE)


MODELS = {
    "mamba": [{}, {"use_bias": True, "use_conv_bias": False, "tie_word_embeddings": False, "state_size": 3, "residual_in_fp32": False},
              {"hidden_size": 37, "expand": 3, "time_step_rank": 5, "conv_kernel": 2, "rescale_prenorm_residual": True, "layer_norm_epsilon": 0.1}],
    "mamba2": [{"head_dim": 10, "num_heads": 4, "n_groups": 1}, {"head_dim": 10, "num_heads": 4, "n_groups": 2, "layer_norm_epsilon": 0.1},
               {"hidden_size": 21, "head_dim": 7, "num_heads": 6, "n_groups": 3, "use_bias": True, "use_conv_bias": False, "conv_kernel": 3},
               {"head_dim": 40, "num_heads": 1, "n_groups": 1, "tie_word_embeddings": True, "rescale_prenorm_residual": True}],
}


@pytest.fixture
def mamba_model(monkeypatch):
    """A model of a few layers with random weights, none at the value it starts with; in plain torch whatever else is installed."""
    import transformers
    from transformers.models.mamba import modeling_mamba
    from transformers.models.mamba2 import modeling_mamba2
    for module in (modeling_mamba, modeling_mamba2):
        for name in ("causal_conv1d_fn", "causal_conv1d_update", "mamba_selective_scan", "mamba_selective_state_update",
                     "mamba2_chunk_scan", "mamba2_selective_state_update"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(module, name).__wrapped__)

    def made(kind, **options):
        config, model = {"mamba": (transformers.MambaConfig, transformers.MambaForCausalLM),     # not AutoModel, which fla changes
                         "mamba2": (transformers.Mamba2Config, transformers.Mamba2ForCausalLM)}[kind]
        torch.manual_seed(0)
        theirs = model(config(**{"vocab_size": 50, "hidden_size": 20, "state_size": 6, "num_hidden_layers": 3, **options})).eval()
        with torch.no_grad():
            for p in theirs.parameters():
                p += 0.1 * torch.randn_like(p)
        return theirs
    return made


@pytest.mark.parametrize("kind, options", [(kind, o) for kind, several in MODELS.items() for o in several])
@pytest.mark.oracle("mamba", "mamba2")
def test_mamba_models(mamba_model, kind, options):
    """Logits of a whole sequence, and of a prompt and then token by token from their cache and from our state."""
    theirs = mamba_model(kind, **options)
    ours, tokens = from_hf(theirs), torch.randint(50, (2, 75), generator=torch.Generator().manual_seed(1))
    assert (ours.head.weight is ours.embed.weight) == theirs.config.tie_word_embeddings
    with torch.no_grad():
        want = theirs(tokens).logits
        torch.testing.assert_close(ours(tokens)[0], want, rtol=0, atol=1e-5)
        step, (mine, state) = theirs(tokens[:, :70], use_cache=True), ours(tokens[:, :70])
        torch.testing.assert_close(mine, step.logits, rtol=0, atol=1e-5)
        for t in range(70, 75):
            step, (mine, state) = theirs(tokens[:, t:t + 1], cache_params=step.cache_params, use_cache=True), ours(tokens[:, t:t + 1], state)
            torch.testing.assert_close(mine, step.logits, rtol=0, atol=1e-5)
            torch.testing.assert_close(mine[:, 0], want[:, t], rtol=0, atol=1e-5)
    assert want.abs().max() > 1


@pytest.mark.oracle("mamba2")
def test_limits_of_the_step_hold_while_decoding_too(mamba_model):
    """In transformers 5.23.0 they hold for whole sequences alone: its own decoding is another model."""
    theirs = mamba_model("mamba2", head_dim=10, num_heads=4, n_groups=2, time_step_limit=(0.3, 0.7))
    ours, tokens = from_hf(theirs), torch.randint(50, (2, 8), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want, prompt, (_, state) = theirs(tokens).logits, theirs(tokens[:, :7], use_cache=True), ours(tokens[:, :7])
        torch.testing.assert_close(ours(tokens)[0], want, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours(tokens[:, 7:], state)[0][:, 0], want[:, 7], rtol=0, atol=1e-5)
        decoded = theirs(tokens[:, 7:], cache_params=prompt.cache_params, use_cache=True).logits
    assert (decoded[:, 0] - want[:, 7]).abs().max() > 0.01


@pytest.fixture
def rwkv_model():
    """Random weights, none at the value it starts with."""
    from transformers import RwkvConfig, RwkvForCausalLM

    def made(**options):
        torch.manual_seed(0)
        theirs = RwkvForCausalLM(RwkvConfig(**{"vocab_size": 50, "hidden_size": 20, "num_hidden_layers": 5, "rescale_every": 2, **options})).eval()
        with torch.no_grad():
            for p in theirs.parameters():
                p += 0.2 * torch.randn_like(p)
        return theirs
    return made


@pytest.mark.parametrize("options", [{}, {"rescale_every": 0, "intermediate_size": 33, "num_hidden_layers": 2}, {"tie_word_embeddings": True},
                                     {"layer_norm_epsilon": 0.1, "rescale_every": 0}])
@pytest.mark.oracle("rwkv4")
def test_rwkv_models(rwkv_model, options):
    """Whole; in pieces; token by token (one sequence: for more, their decoding mixes the sequences); before and after their halving."""
    theirs = rwkv_model(**options)
    ours, tokens = from_hf(theirs), torch.randint(50, (3, 30), generator=torch.Generator().manual_seed(1))
    assert (ours.head.weight is ours.embed[0].weight) == theirs.config.tie_word_embeddings
    with torch.no_grad():
        want = theirs(tokens).logits
        for model in (ours, from_hf(theirs)):                                 # by now they have halved their weights
            torch.testing.assert_close(model(tokens)[0], want, rtol=0, atol=1e-4)
        step, (mine, state) = theirs(tokens[:, :7], use_cache=True), ours(tokens[:, :7])
        step, (mine, state) = theirs(tokens[:, 7:20], state=step.state, use_cache=True), ours(tokens[:, 7:20], state)
        torch.testing.assert_close(mine, step.logits, rtol=0, atol=1e-4)
        for i, name in enumerate(("x", "x", "alpha", "beta", "p")):           # of the channel mix, then of the time mix
            for l in range(theirs.config.num_hidden_layers):
                kept = state[f"block {l}"]["ffn" if i == 0 else "mixer"][name]
                torch.testing.assert_close(kept.reshape(3, 20), step.state[i][:, :, l], rtol=1e-4, atol=1e-4)
        step, (_, state) = theirs(tokens[:1, :20], use_cache=True), ours(tokens[:1, :20])
        for t in range(20, 30):
            step, (mine, state) = theirs(tokens[:1, t:t + 1], state=step.state, use_cache=True), ours(tokens[:1, t:t + 1], state)
            torch.testing.assert_close(mine, step.logits, rtol=0, atol=1e-4)
            torch.testing.assert_close(mine[0, 0], want[0, t], rtol=0, atol=1e-4)
    assert want.abs().max() > 1


@pytest.mark.oracle("rwkv4")
def test_their_decoding_of_several_sequences_mixes_them(rwkv_model):
    """In transformers 5.23.0 one token of each of B sequences gives a (B, B, D) stream; so the test above decodes a single one."""
    theirs, tokens = rwkv_model(), torch.randint(50, (3, 5), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        step = theirs(tokens[:, :4], use_cache=True)
        assert theirs(tokens[:, 4:], state=step.state, use_cache=True).logits.shape == (3, 3, 50)


LLAMAS = [("Llama", {}), ("Llama", {"num_key_value_heads": 4, "tie_word_embeddings": True, "rms_norm_eps": 0.1}),
          ("Llama", {"num_key_value_heads": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 30.0}, "num_hidden_layers": 1}),
          *(("Llama", {"rope_parameters": {"rope_theta": 100.0, "rope_type": kind, "factor": 4.0, **more}}) for kind, more in (
              ("linear", {}), ("llama3", {"original_max_position_embeddings": 20, "low_freq_factor": 0.5, "high_freq_factor": 2.0}),
              ("yarn", {"original_max_position_embeddings": 40}),
              ("yarn", {"original_max_position_embeddings": 64, "beta_slow": 0.5, "beta_fast": 4, "attention_factor": 1.5}))),
          ("Mistral", {"sliding_window": None}), ("SmolLM3", {"no_rope_layers": [1, 0, 1], "pad_token_id": 0}), ("SmolLM3", {"pad_token_id": 0, "no_rope_layer_interval": 2})]


def llama_model(kind, **options):
    """Random weights, none at the value it starts with."""
    import transformers
    torch.manual_seed(0)
    config = getattr(transformers, kind + "Config")(**{"vocab_size": 50, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3,
                                                       "num_attention_heads": 4, "num_key_value_heads": 2, "attn_implementation": "eager", **options})
    theirs = getattr(transformers, kind + "ForCausalLM")(config).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p += 0.1 * torch.randn_like(p)
    return theirs


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 2e-6)])            # in both, their angles are float32
@pytest.mark.parametrize("kind, options", LLAMAS)
@pytest.mark.oracle("full")
def test_llama_models(kind, options, dtype, tolerance):
    """Logits of a whole sequence, and of a prompt and then token by token from their cache and from ours."""
    theirs = llama_model(kind, **options).to(dtype)
    ours, tokens, close = from_hf(theirs), torch.randint(50, (2, 40), generator=torch.Generator().manual_seed(1)), {"rtol": 0, "atol": tolerance}
    assert (ours.head.weight is ours.embed.weight) == theirs.config.tie_word_embeddings
    with torch.no_grad():
        want = theirs(tokens).logits
        torch.testing.assert_close(ours(tokens)[0], want, **close)
        step, (mine, state) = theirs(tokens[:, :35], use_cache=True), ours(tokens[:, :35])
        torch.testing.assert_close(mine, step.logits, **close)
        for t in range(35, 40):
            step, (mine, state) = theirs(tokens[:, t:t + 1], past_key_values=step.past_key_values, use_cache=True), ours(tokens[:, t:t + 1], state)
            torch.testing.assert_close(mine, step.logits, **close)
            torch.testing.assert_close(mine[:, 0], want[:, t], **close)
    assert want.abs().max() > 1


@pytest.mark.parametrize("kind, options, message", [
    ("Llama", {"attention_bias": True}, "attention_bias is True, wanted False"), ("Llama", {"mlp_bias": True}, "mlp_bias is True"),
    ("Llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu', wanted 'silu'"), ("Llama", {"head_dim": 6}, "head_dim is 6, wanted 8"),
    ("Mistral", {"sliding_window": 8}, "sliding_window is 8, wanted None"),
    ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rope_type is 'dynamic', wanted 'default', 'linear'"),
    ("Llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 8, "truncate": False}}, "hold truncate")])
def test_which_llamas_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        from_hf(llama_model(kind, **options))


def test_what_from_hf_refuses(mamba_model, rwkv_model):
    import transformers
    with pytest.raises(ValueError, match="no map for a model of type 'gpt2', wanted one of .*mamba, mamba2"):
        from_hf(transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=10)))
    with pytest.raises(ValueError, match="hidden_act is 'gelu', wanted 'silu'"):
        from_hf(mamba_model("mamba", hidden_act="gelu"))
    with pytest.raises(ValueError, match="attention_hidden_size is 12, wanted hidden_size, 20"):
        from_hf(rwkv_model(attention_hidden_size=12))
    more = mamba_model("mamba")
    more.backbone.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="weights without a place: backbone.extra.weight, backbone.extra.bias; places without a weight: none"):
        from_hf(more)


@pytest.mark.parametrize("D, options", [(128, {}), (32, {"gate_soft_cap": 2.0, "output_logit_soft_cap": 1.0, "ffn_proj_factor": 2.0, "norm_eps": 1e-3})])
@pytest.mark.oracle("mlstm")
def test_xlstm(D, options):
    """xLSTM-7B's architecture: logits, and decoding, which works there only where D is a multiple of 128: its cache rounds K up, its layers do not."""
    from transformers import xLSTMConfig, xLSTMForCausalLM
    torch.manual_seed(0)
    theirs = xLSTMForCausalLM(xLSTMConfig(vocab_size=50, hidden_size=D, num_hidden_layers=2, num_heads=4, autocast_kernel_dtype="float32", **options)).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p += 0.05 * torch.randn_like(p)
        ours, tokens = from_hf(theirs), torch.randint(50, (2, 70))
        want = theirs(tokens, use_cache=False).logits
        assert want.std() > 0.3
        torch.testing.assert_close(ours(tokens)[0], want, rtol=1e-4, atol=1e-4)
        if D == 128:
            cache, (_, state) = theirs(tokens[:, :66], use_cache=True).cache_params, ours(tokens[:, :66])
            for t in range(66, 70):
                step = theirs(tokens[:, t:t + 1], cache_params=cache, use_cache=True).logits
                mine, state = ours(tokens[:, t:t + 1], state)
                torch.testing.assert_close(mine, step, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(mine, want[:, t:t + 1], rtol=1e-4, atol=1e-4)
