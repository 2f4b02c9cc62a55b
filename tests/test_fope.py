"""FoPE against the authors' numbers, and closed forms for the pairs that know no place, the start and RoPE as a special case."""
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from minimem import check
from minimem.cache import full
from minimem.position import fope, rope
from minimem.position.fope import FoPE


def golden():
    with np.load(Path(__file__).parent / "golden/fope.npz") as z:
        return {k: torch.from_numpy(z[k]) for k in z.files}


@pytest.mark.oracle("fope")
def test_the_authors_numbers_and_gradients():
    g = golden()
    x, s, c = (g[n].clone().requires_grad_() for n in ("x", "sin_coef", "cos_coef"))
    y = fope.rotate(x, torch.arange(7), g["inv_freq"], s, c)
    torch.testing.assert_close(y, g["ref_y"], **check.EXACT)
    (y * g["w"]).sum().backward()
    for got, name in ((x, "x"), (s, "sin_coef"), (c, "cos_coef")):
        torch.testing.assert_close(got.grad, g[f"grad_{name}"], **check.EXACT)
    last = fope.rotate(g["x"][..., 4:, :], torch.arange(4, 7), g["inv_freq"], g["sin_coef"], g["cos_coef"])         # decoding, from position 4
    torch.testing.assert_close(last, g["ref_y"][..., 4:, :], **check.EXACT)


@pytest.mark.oracle("fope")
def test_the_frequencies_kept_are_the_authors():
    g = golden()
    theta = fope.frequencies(int(g["opt_head_dim"]), int(g["opt_max_len"]), float(g["opt_theta"]))
    torch.testing.assert_close(theta, g["inv_freq"], **check.EXACT)
    assert FoPE(16, 64, 2).sin_mix.shape == g["sin_coef"].shape


def test_a_frequency_that_turns_exactly_once_is_kept():
    base = (32 / math.pi) ** 2                                    # K = 4: θ = 1, π/32, and the second turns once in 64 tokens
    assert len(fope.frequencies(4, 65, base)) == 2 and len(fope.frequencies(4, 63, base)) == 1


def test_with_identities_the_mixed_pairs_are_those_of_rope():
    theta, x = fope.frequencies(16, 64), torch.randn(2, 3, 9, 16).double()
    one = torch.eye(3).double().repeat(3, 1, 1)
    y = fope.rotate(x, torch.arange(9), theta, one, one)
    mixed = [*range(3), *range(8, 11)]
    torch.testing.assert_close(y[..., mixed], rope.rotate_halves(x, torch.arange(9))[..., mixed], **check.EXACT)


def test_pairs_that_are_not_mixed_turn_by_45_degrees_and_grow_by_root_2():
    """In closed form, at every position; so q·k of such a pair is doubled, and knows no distance."""
    layer, (q, k) = FoPE(16, 64, 2).double(), torch.randn(2, 3, 2, 200, 16).double()
    at = torch.arange(200)
    pairs = [torch.complex(x[..., 3:8], x[..., 11:]) for x in (q, layer(q, at))]
    turn = torch.polar(torch.tensor(2.0, dtype=torch.float64).sqrt(), torch.tensor(math.pi / 4, dtype=torch.float64))
    torch.testing.assert_close(pairs[1], turn * pairs[0], **check.EXACT)
    rest = [*range(3, 8), *range(11, 16)]
    score = (layer(q, at)[..., rest] * layer(k, at + 1000)[..., rest]).sum(-1)
    torch.testing.assert_close(score, 2 * (q[..., rest] * k[..., rest]).sum(-1), **check.EXACT)


@pytest.mark.parametrize("K, length, base, shape", [(16, 64, 1e4, (3, 3)), (16, 64, 10.0, (8, 4)), (16, 64, 64.0, (5, 4)), (8, 10 ** 6, 1e4, (4, 2)), (24, 100, 3.0, (12, 6)), (4, 7, 1e4, (1, 1))])
def test_it_starts_as_the_identity_and_noise(K, length, base, shape):
    torch.manual_seed(0)
    layers = [FoPE(K, length, 2, base) for _ in range(400)]
    mixes = torch.cat([torch.stack([x.sin_mix, x.cos_mix]) for x in layers], 1)
    assert mixes.shape[-2:] == shape and not any(p.requires_grad for p in layers[0].parameters())
    F, E = shape
    start = torch.zeros(F, E)
    for i in range(E):
        if i * -(-F // E) < F:                                    # else the column is noise alone: so the released code has it
            start[i * -(-F // E), i] = 1
    assert layers[0].bfloat16().theta.dtype == torch.float64
    assert (mixes.mean((0, 1)) - start).abs().max() < 0.04
    deviation = 0.3 * (2 / (E * (F + 2))) ** 0.5
    assert abs((mixes - start).std() / deviation - 1) < 0.06 and (layers[1].sin_mix != layers[1].cos_mix).all()


def test_distance_is_all_that_counts_only_nearly():
    """The same q and k at the same distance, at two places: equal with identities, not with what is drawn."""
    torch.manual_seed(0)
    layer, (q, k) = FoPE(16, 64, 2).double(), torch.randn(2, 2, 1, 16).double()

    def score(at):
        return (layer(q, torch.tensor([at + 5])) * layer(k, torch.tensor([at]))).sum(-1)
    assert (score(3) - score(40)).abs().max() > 0.01
    for mix in (layer.sin_mix, layer.cos_mix):
        mix.copy_(torch.eye(3))
    torch.testing.assert_close(score(3), score(40), **check.EXACT)


def test_in_a_layer_cut_anywhere():
    torch.manual_seed(0)
    layer = full.Layer(32, 4, rotate=FoPE(8, 64, 4)).double()
    x = torch.randn(2, 21, 32).double()
    whole, _ = layer(x)
    state, outs = None, []
    for part in x.split([1, 9, 1, 10], 1):
        y, state = layer(part, state)
        outs.append(y)
    torch.testing.assert_close(torch.cat(outs, 1), whole, **check.EXACT)
    assert (layer(x.flip(1))[0].flip(1) - whole).abs().max() > 0.01
    torch.testing.assert_close(full.recurrent(*(x[:, None].expand(2, 4, 21, 32)[..., :8],) * 3, rotate=layer.rotate)[0],
                               full.parallel(*(x[:, None].expand(2, 4, 21, 32)[..., :8],) * 3, rotate=layer.rotate)[0], **check.EXACT)


@pytest.mark.parametrize("shape", [(3, 9, 16), (1, 9, 16), (9, 16), (2, 9, 15), (2, 9, 4)])
def test_refuses(shape):
    with pytest.raises(ValueError, match=rf"x has shape \({shape[0]}, .*wanted \(..., H=2, T, K\)"):
        FoPE(16, 64, 2)(torch.randn(shape), torch.arange(9))


def test_refuses_what_cannot_turn():
    with pytest.raises(ValueError, match="length is 6"):
        FoPE(16, 6, 2)
    with pytest.raises(ValueError, match="K is 2, wanted at least 4"):
        FoPE(2, 64, 2)
    with pytest.raises(ValueError, match="width 5"):
        FoPE(5, 64, 2)
