"""sLSTM against the authors' cell and layer, and what its recurrence can do that no gate of its input alone can."""
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from minimem import check, core
from minimem.state import slstm

EXACT = {"rtol": 1e-9, "atol": 1e-10}
GOLDEN = np.load(Path(__file__).parent / "golden/slstm.npz")


def golden(name):
    return torch.from_numpy(GOLDEN[name])


def layer():
    """Ours, with the weights of the golden numbers: their R is (head, from, gate, to) with gates i, f, z, o, their biases (head, gate, cell)."""
    ours, order = slstm.Layer(12, heads=2).double(), [2, 0, 1, 3]
    ours.load_state_dict({
        **{name: golden(f"gate{g}_weight") for name, g in zip("zifo", order)}, "R": golden("R")[:, :, order].flatten(2),
        "bias": golden("b")[:, order].transpose(0, 1), "norm": golden("gn_weight_effective"), "conv.weight": golden("conv_weight")[:, None],
        "conv.bias": golden("conv_bias")})
    return ours


@pytest.mark.oracle("slstm")
def test_golden_numbers_of_the_layer():
    """xlstm 2.0.6 in float64, gradient included; with the gates i and f exchanged the difference would be 2."""
    ours, x = layer(), golden("x").requires_grad_()
    y, state = ours(x)
    torch.testing.assert_close(y, golden("ref_y"), rtol=0, atol=1e-13)
    for name, want in zip("hcnm", golden("ref_state_ycnm")):
        torch.testing.assert_close(state["memory"][name].flatten(1), want, rtol=0, atol=1e-13)
    grad, = torch.autograd.grad((y * golden("w")).sum(), x)
    torch.testing.assert_close(grad, golden("grad_x"), rtol=0, atol=1e-12)


@pytest.mark.oracle("slstm")
def test_equals_the_authors_cell():
    """Their vanilla cell token by token, three sequences of one head; R is (4, from, to) there, and gates come as i, f, z, o."""
    from xlstm.blocks.slstm.src.vanilla.slstm import slstm_forward_pointwise
    z, i, f, o = (3 * x for x in check.inputs("zifo", T=60, V=5, lead=(3,)))
    R = torch.randn(5, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    states, outs = torch.zeros(4, 3, 5, dtype=torch.float64), []
    for t in range(60):
        given, back = torch.cat([x[:, t] for x in (i, f, z, o)], -1), torch.einsum("bi,igj->bgj", states[0], R).flatten(1)
        states, _ = slstm_forward_pointwise(given, back, torch.zeros(1, 20, dtype=torch.float64), states, {})
        outs.append(states[0])
    out, state = slstm.recurrent(z, i, f, o, params={"R": R[:, [2, 0, 1, 3]].flatten(1)})
    torch.testing.assert_close(out, torch.stack(outs, 1), **EXACT)
    for name, want in zip("hcnm", states):
        torch.testing.assert_close(state[name], want, **EXACT)


@pytest.mark.oracle("slstm")
def test_layer_equals_the_authors():
    """Their layer as it stands, where the module called fgate feeds the gate i and igate feeds f."""
    from xlstm.blocks.slstm.layer import sLSTMLayer, sLSTMLayerConfig
    theirs = sLSTMLayer(sLSTMLayerConfig(embedding_dim=12, num_heads=2, conv1d_kernel_size=4, backend="vanilla", dtype="float32"))
    cell, ours = theirs.slstm_cell, layer().float()
    theirs.load_state_dict({
        **{f"{module}.weight": getattr(ours, name).detach() for module, name in (("fgate", "i"), ("igate", "f"), ("zgate", "z"), ("ogate", "o"))},
        "conv1d.conv.weight": ours.conv.weight.detach(), "conv1d.conv.bias": ours.conv.bias.detach(), "group_norm.weight": ours.norm.detach() - 1,
        "slstm_cell._recurrent_kernel_": cell._recurrent_kernel_ext2int(golden("R").float()),
        "slstm_cell._bias_": cell._bias_ext2int(golden("b").float())})
    x = torch.randn(2, 30, 12, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours(x)[0], theirs(x), rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_without_a_unit_and_without_r_it_is_a_weighted_mean():
    """R = 0: h is σ(õ) times the mean of tanh z̃ with weights e^ĩ, faded by σ(f̃) since."""
    z, i, f, o = check.inputs("zifo", T=30)
    a = F.logsigmoid(f).cumsum(-2)
    w = (i[..., None, :, :] - a[..., None, :, :] + a[..., :, None, :]).exp() * torch.ones(30, 30, dtype=torch.float64).tril()[..., None]
    want = torch.sigmoid(o) * (w * torch.tanh(z)[..., None, :, :]).sum(-2) / w.sum(-2)
    torch.testing.assert_close(slstm.recurrent(z, i, f, o, params={"R": torch.zeros(4, 16, dtype=torch.float64)})[0], want, **EXACT)


def test_a_cell_that_counts_parity_by_hand():
    """One cell, no training: a one forgets all and writes the opposite of h, which only R can know; a zero keeps. 10,000 tokens."""
    bits = torch.randint(2, (10000, 1), generator=torch.Generator().manual_seed(0)).double()
    z, i, f, o = 0 * bits, 80 * (bits - 1), 40 * (1 - 2 * bits), 0 * bits + 40
    even = dict(zip("hcnm", torch.tensor([[1.0], [1.0], [1.0], [0.0]]).double()))
    h, _ = slstm.recurrent(z, i, f, o, even, params={"R": torch.tensor([[-40.0, 0, 0, 0]]).double()})
    assert torch.equal(h > 0, bits.cumsum(0) % 2 == 0)
    h, _ = slstm.recurrent(z, i, f, o, even, params={"R": torch.zeros(1, 4).double()})
    assert not torch.equal(h > 0, bits.cumsum(0) % 2 == 0)


@pytest.mark.parametrize("scale, shift", [(1000, 0), (1, -300), (1, 300)])
def test_extreme_gates_stay_finite(scale, shift):
    z, i, f, o = check.inputs("zifo", T=300, dtype=torch.float32)
    xs = [x.requires_grad_() for x in (z, scale * i + shift, scale * f, o)]
    out, state = slstm.recurrent(*xs, params=slstm.params(4))
    assert all(x.isfinite().all() for x in (out, *state.values(), *torch.autograd.grad(out.sin().sum(), xs))) and out.abs().max() <= 1
    assert (state["n"] >= 1).all()                               # the heaviest token so far counts 1, so nothing is divided by 0


def test_cells_of_one_head_do_not_see_another():
    torch.manual_seed(0)
    ours = slstm.Layer(8, heads=2, conv=0).double()
    with torch.no_grad():
        ours.R.normal_()
    x = torch.randn(1, 9, 8, dtype=torch.float64, requires_grad=True)
    slope, = torch.autograd.grad(ours(x)[0][:, -1, :4].sin().sum(), x)
    assert slope[..., :4].abs().min() > 0 and not slope[..., 4:].any()


def test_bytes_of_one_cell_and_of_the_layer():
    """4 floats per cell; the layer keeps the last three tokens for its convolution."""
    assert core.nbytes(slstm.recurrent(*(x[0, 0] for x in check.inputs("zifo", V=7, dtype=torch.float32)), params=slstm.params(7))[1]) == 4 * 4 * 7
    assert core.nbytes(slstm.Layer(32)(torch.randn(1, 5, 32))[1]) == 4 * (4 * 32 + 3 * 32)
    assert core.nbytes(slstm.Layer(32, conv=0)(torch.randn(1, 5, 32))[1]) == 4 * 4 * 32


def test_what_it_refuses():
    xs = check.inputs("zifo", T=3)
    with pytest.raises(ValueError, match=r"params\['R'\] has shape \(5, 20\), wanted \(..., 4, 16\)"):
        slstm.recurrent(*xs, params=slstm.params(5, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"state\['m'\] has shape"):
        slstm.recurrent(*xs, {**slstm.init(4, (2, 3), dtype=torch.float64), "m": torch.zeros(2, 3, 5).double()}, params=slstm.params(4, dtype=torch.float64))
