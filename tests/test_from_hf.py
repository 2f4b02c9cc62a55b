"""Models and layers of transformers, read into ours: the same numbers come out."""
import pytest
import torch

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
