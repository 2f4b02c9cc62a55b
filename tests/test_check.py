"""The battery itself: it passes what is right, names what is wrong, and compares nothing with nothing never."""
import pytest
import torch

from minimem import check
from minimem.catalog import systems
from minimem.state import gated_delta


@pytest.mark.parametrize("row", [s for s in systems().values() if s.built and s.forms], ids=lambda s: s.key)
def test_every_step_of_ours_is_ok(row):
    assert set(check.battery(row.code.step, like=row.key, quiet=True).values()) == {"ok"}


def test_form_is_ok():
    assert set(check.battery(gated_delta.chunked, like="gated_delta", form=True, quiet=True).values()) == {"ok"}


def forgets_last(S, q, k, v, a, b):
    miss = v - (k[..., None, :] @ S)[..., 0, :]                  # forgetting left out of the error
    S = a.exp()[..., None] * S + k[..., :, None] * (b * miss)[..., None, :]
    return S, (q[..., None, :] @ S)[..., 0, :]


def in_place(S, q, k, v, a, b):
    S.mul_(a.exp()[..., None])
    S += k[..., :, None] * (b * (v - (k[..., None, :] @ S)[..., 0, :]))[..., None, :]
    return S, (q[..., None, :] @ S)[..., 0, :]


def in_float32(S, q, k, v, a, b):
    S, out = gated_delta.step(*(x.float() for x in (S, q, k, v, a, b)))
    return S, out


@pytest.mark.parametrize("step, names", [(forgets_last, {"agrees"}), (in_place, {"pure"}), (in_float32, {"agrees", "keeps_dtype"})])
def test_wrong_is_named(step, names):
    sheet = check.battery(step, like="gated_delta", quiet=True)
    assert names <= {name for name, verdict in sheet.items() if verdict != "ok"}


def takes_no_gradient_into_the_state(*xs, state=None):
    return gated_delta.chunked(*xs, state=None if state is None else state.detach())


def cuts_the_gradient_every_64_tokens(*xs, state=None):
    outs = []
    for part in zip(*(x.split(64, -2) for x in xs)):
        o, state = gated_delta.chunked(*part, state=state if state is None or not outs else state.detach())
        outs.append(o)
    return torch.cat(outs, -2), state


@pytest.mark.parametrize("form", [takes_no_gradient_into_the_state, cuts_the_gradient_every_64_tokens])
def test_gradients_that_stop_somewhere_are_named(form):
    sheet = check.battery(form, like="gated_delta", form=True, quiet=True)
    assert [name for name, verdict in sheet.items() if verdict != "ok"] == ["gradients"]


@pytest.mark.parametrize("like, message", [("bm25", "bm25 has no forms"), ("lora", "lora has no forms"), ("gated-delta", "did you mean gated_delta")])
def test_a_row_that_cannot_judge_is_refused(like, message):
    with pytest.raises(ValueError, match=message):
        check.battery(gated_delta.step, like=like)


def test_prints_a_line_a_check(capsys):
    check.battery(gated_delta.step, like="gated_delta")
    assert len(capsys.readouterr().out.splitlines()) == len(check.CHECKS) - 1       # a step does not check its input


def test_nothing_is_never_the_same():
    with pytest.raises(ValueError, match="nothing to compare"):
        check.same(lambda: [1.0], lambda: [2.0])
    with pytest.raises(AssertionError, match="differs"):
        check.same(lambda: torch.zeros(2), lambda: torch.ones(2))
