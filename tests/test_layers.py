"""The paper's layer of every row that has one: cut anywhere, token by token, causal, trainable, bytes as the row says."""
import pytest
import torch

from minimem import check, core
from minimem.cache import full
from minimem.catalog import systems
from minimem.layer import MLP, Block, ShortConv
from minimem.lm import LM, accuracy, fit, generate, small
from minimem.tasks.mqar import mqar

D = 32
LAYERS = {s.key: s for s in systems().values() if s.kind in ("state", "cache") and s.built and hasattr(s.code, "Layer")}
EXACT = {"rtol": 1e-8, "atol": 1e-9}


def made(key):
    """The layer of a row in float64, and x (2, 21, D); no parameter is left at zero, where its use could not be seen."""
    torch.manual_seed(0)
    layer = full.Layer(D, conv=3) if key == "attention" else LAYERS[key].code.Layer(D)
    layer = layer.double()
    with torch.no_grad():
        for p in layer.parameters():
            p += 0.05 * torch.randn_like(p)
    return layer, torch.randn(2, 21, D, dtype=torch.float64)


EVERY = pytest.mark.parametrize("key", [*LAYERS, "attention"])


@EVERY
def test_cut_anywhere(key):
    layer, x = made(key)
    whole, last = layer(x)
    assert whole.shape == x.shape
    for at in (1, 2, 10, 20):
        first, state = layer(x[:, :at])
        rest, state = layer(x[:, at:], state)
        torch.testing.assert_close(torch.cat([first, rest], 1), whole, **EXACT)
        for got, want in zip(core.tensors(state), core.tensors(last), strict=True):
            torch.testing.assert_close(got, want, **EXACT)


@EVERY
def test_one_token_at_a_time(key):
    layer, x = made(key)
    state, outs = None, []
    for t in range(x.shape[1]):
        y, state = layer(x[:, t:t + 1], state)
        outs.append(y)
    torch.testing.assert_close(torch.cat(outs, 1), layer(x)[0], **EXACT)


@EVERY
def test_causal(key):
    layer, x = made(key)
    x.requires_grad_()
    late, = torch.autograd.grad(layer(x)[0][:, 9].sum(), x)
    assert late[:, 10:].abs().max() < 1e-12 and (late[:, :10].abs() > 1e-9).any((0, 2)).sum() > 1          # an FFT rounds zeros to 1e-18


@EVERY
def test_gradients_reach_every_parameter(key):
    layer, x = made(key)
    (layer(x)[0] * torch.randn_like(x)).sum().backward()
    for name, p in layer.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, f"{name} gets no gradient"


@pytest.mark.parametrize("key", LAYERS)
def test_bytes_grow_as_the_row_says(key):
    layer, _ = made(key)
    sizes = [core.nbytes(layer(torch.randn(1, T, D, dtype=torch.float64))[1]) for T in (32, 64, 128)]
    kind = LAYERS[key].growth
    grown = sizes[1] - sizes[0], sizes[2] - sizes[1]
    assert {"constant": grown == (0, 0), "linear": grown[1] == 2 * grown[0] > 0, "log": max(grown) <= sizes[0]}[kind], sizes


@EVERY
def test_no_argument_is_edited(key):
    layer, x = made(key)
    _, state = layer(x)
    kept = [t.clone() for t in (x, *core.tensors(state))]
    layer(x, state)
    assert all(torch.equal(a, b) for a, b in zip(kept, (x, *core.tensors(state))))


@EVERY
def test_what_a_layer_refuses(key):
    layer, x = made(key)
    for wrong in (x[..., :-1], x[:, :0], torch.where(x == x.max(), torch.nan, x)):
        with pytest.raises(ValueError, match="^x "):
            layer(wrong)


def test_short_conv_is_its_formula():
    conv, x = ShortConv(3, 4).double(), torch.randn(2, 9, 3, dtype=torch.float64)
    y, state = conv(x)
    for t in range(9):
        want = sum(conv.weight[:, 0, j] * (x[:, t - 3 + j] if t - 3 + j >= 0 else 0) for j in range(4))
        torch.testing.assert_close(y[:, t], want)
    assert torch.equal(state, x[:, -3:])
    assert torch.equal(conv(x[:, :2])[1], torch.cat([torch.zeros(2, 1, 3).double(), x[:, :2]], 1))


def model(vocab=24, positions=0):
    torch.manual_seed(1)
    return small(vocab, D, [full.Layer(D), full.Layer(D)], mlp=48, positions=positions)


@pytest.mark.parametrize("positions", [0, 40])
def test_a_model_decodes_what_it_would_read(positions):
    lm, tokens = model(positions=positions).double(), torch.randint(24, (2, 12))
    logits, state = lm(tokens)
    first, part = lm(tokens[:, :5])
    rest, part = lm(tokens[:, 5:], part)
    torch.testing.assert_close(torch.cat([first, rest], 1), logits)
    assert core.nbytes(part) == core.nbytes(state)
    more = generate(lm, tokens, 6)
    longer = torch.cat([tokens, more], 1)
    assert torch.equal(lm(longer)[0][:, 11:-1].argmax(-1), more)


def test_what_a_model_refuses():
    lm = model(positions=10)
    for tokens, words in ((torch.zeros(2, 3), "torch.float32"), (torch.tensor([[24]]), "0 to 23"), (torch.zeros(3).long(), r"shape \(3,\)"),
                          (torch.zeros(1, 11).long(), "position 10, wanted at most 9"), (torch.zeros(1, 0).long(), "at least one")):
        with pytest.raises(ValueError, match=words):
            lm(tokens)


def test_tied_head_cap_and_blocks():
    embed = torch.nn.Embedding(10, D)
    lm = LM(embed, [Block(MLP(D, 16), D)], torch.nn.RMSNorm(D), cap=0.5)
    assert lm.head.weight is embed.weight
    logits = lm(torch.arange(10)[None])[0]
    assert logits.abs().max() <= 0.5
    lm.cap = 0.0
    torch.testing.assert_close(logits, 0.5 * torch.tanh(lm(torch.arange(10)[None])[0] / 0.5))


def test_a_small_model_learns_to_recall():
    lm = model(vocab=16)
    losses = fit(lm, lambda i: mqar(2, 8, 16, batch=64, seed=i), 150, 3e-3)
    assert losses[-1] < 0.5 * losses[0]
    again = fit(model(vocab=16), lambda i: mqar(2, 8, 16, batch=64, seed=i), 3, 3e-3)
    assert again[0] == losses[0]                                              # nothing drawn but by the seeds
    assert accuracy(lm, *mqar(2, 8, 16, batch=128, seed=10**6)) > 0.3


@pytest.mark.parametrize("key", ["linear", "mlstm", "rwkv4"])
def test_long_sequences_worked_on_in_parts_are_whole(key):
    """4,100 tokens, more than one part, against three calls cut elsewhere."""
    row = systems()[key]
    form, xs = check.bound(row, row.forms[1]), check.inputs(row.inputs, T=4100, lead=())
    out, last = form(*xs)
    state, outs = None, []
    for lo, hi in ((0, 1500), (1500, 4090), (4090, 4100)):
        part, state = form(*(x[lo:hi] for x in xs), state=state)
        outs.append(part)
    torch.testing.assert_close(torch.cat(outs), out, **EXACT)
    for got, want in zip(core.tensors(state), core.tensors(last), strict=True):
        torch.testing.assert_close(got, want, **EXACT)
