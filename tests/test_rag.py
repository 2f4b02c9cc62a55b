"""RAG: both formulas by enumeration of every answer, against transformers' losses, and read out of a memory of text."""
import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from minimem.text.bm25 import BM25
from minimem.text.dense import LSA, Dense
from minimem.text.rag import RAG, by_sequence, by_token, per_token, said, search, sequence
from minimem.text.unit import Unit

END = 0


class Table:
    """A generator by hand: p_θ(next | z, prefix) drawn once for every prefix; and a prior. V tokens, Z documents."""

    def __init__(self, seed, V=3, Z=3, sharp=1.5):
        self.r, self.V, self.Z, self.sharp, self.at = torch.Generator().manual_seed(seed), V, Z, sharp, {}
        self.doc = self.draw(Z)

    def draw(self, *shape):
        return (self.sharp * torch.randn(*shape, generator=self.r, dtype=torch.float64)).log_softmax(-1)

    def __call__(self, y):
        if y not in self.at:
            self.at[y] = self.draw(self.Z, self.V)
        return self.at[y]


def answers(V, T, end=END):
    """Every answer of at most T tokens: over at ``end``, or after T."""
    return [y for t in range(1, T + 1) for y in itertools.product(range(V), repeat=t)
            if end not in y[:-1] and (t == T or y[-1] == end)]


def by_hand(table, y):
    """(1) and (2) with products and sums of plain numbers."""
    p, prior = [[math.exp(table(y[:i])[z][v]) for i, v in enumerate(y)] for z in range(table.Z)], table.doc.exp().tolist()
    seq = sum(prior[z] * math.prod(p[z]) for z in range(table.Z))
    return seq, math.prod(sum(prior[z] * p[z][i] for z in range(table.Z)) for i in range(len(y)))


@pytest.mark.oracle("rag")
@pytest.mark.parametrize("Z", [1, 2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_every_answer_enumerated(seed, Z):
    table, totals = Table(seed, Z=Z), [0.0, 0.0]
    for y in answers(3, 4):
        got = [f(table.doc, said(table, y)).exp().item() for f in (sequence, per_token)]
        assert got == pytest.approx(by_hand(table, y), abs=1e-12)
        if Z == 1 or len(y) == 1:
            assert got[0] == pytest.approx(got[1], abs=1e-12)
        totals = [t + g for t, g in zip(totals, got)]
    assert totals == pytest.approx([1, 1], abs=1e-12)


@pytest.mark.oracle("rag")
@pytest.mark.parametrize("seed", range(5))
def test_two_tokens_differ_by_their_covariance_over_the_documents(seed):
    table = Table(seed, V=4, Z=5)
    prior = table.doc.exp()
    for y in itertools.product(range(4), repeat=2):
        f, g = said(table, y).exp().unbind(-1)
        cov = (prior * f * g).sum() - (prior * f).sum() * (prior * g).sum()
        got = sequence(table.doc, said(table, y)).exp() - per_token(table.doc, said(table, y)).exp()
        torch.testing.assert_close(got, cov, rtol=1e-9, atol=1e-12)


@pytest.mark.oracle("rag")
@pytest.mark.parametrize("seed", range(5))
def test_sequence_is_per_token_with_a_prior_that_learns(seed):
    """p_seq = Π_i Σ_z p(z | x, y_<i) p_θ(y_i | x, z, y_<i), by Bayes' rule."""
    table = Table(seed, V=4, Z=3)
    for y in itertools.product(range(4), repeat=3):
        token, doc, total = said(table, y), table.doc, 0.0
        for some in token.unbind(-1):
            total += torch.logsumexp(doc + some, 0)
            doc = (doc + some).log_softmax(0)
        torch.testing.assert_close(sequence(table.doc, token), total, rtol=1e-9, atol=1e-12)


def transformers_loss(kind, scores, logits, y):
    """−ln p as RagSequenceForGeneration or RagTokenForGeneration compute it: a first token that is not scored, then y, then padding (0)."""
    from transformers.models.rag import modeling_rag
    model = object.__new__(getattr(modeling_rag, f"Rag{kind}ForGeneration"))
    model.__dict__["config"] = SimpleNamespace(n_docs=len(scores), bos_token_id=None, generator=SimpleNamespace(pad_token_id=0, bos_token_id=None))
    more = torch.cat([logits, torch.zeros_like(logits[:, :1])], 1)
    return model.get_nll(more, scores[None], torch.tensor([[0, *y]])).squeeze()


@pytest.mark.oracle("rag")
@pytest.mark.parametrize("kind, ours", [("Sequence", sequence), ("Token", per_token)])
@pytest.mark.parametrize("seed", range(4))
def test_transformers_computes_the_same_losses(seed, kind, ours):
    """Theirs adds the prior to the second token's score, and so loses it for an answer of one token without an end; ours has two or more here."""
    r = torch.Generator().manual_seed(seed)
    Z, V = 2 + seed, 6
    for T in (2, 3, 5):
        scores, logits = (torch.randn(*s, generator=r, dtype=torch.float64) for s in ((Z,), (Z, T, V)))
        y = torch.randint(1, V, (T,), generator=r).tolist()
        token = logits.log_softmax(-1)[:, range(T), y]
        torch.testing.assert_close(-ours(scores.log_softmax(0), token), transformers_loss(kind, scores, logits, y), rtol=1e-9, atol=1e-12)


def halves(p, u, rivals=False):
    """Two documents, answer (1, 2): each knows one half of it with p and the other with u; or one knows all of it and the other nothing."""
    first, second = (torch.tensor(x, dtype=torch.float64) for x in (([p, u], [u, p]) if not rivals else ([p, u], [p, u])))
    return torch.full((2,), 0.5, dtype=torch.float64).log(), torch.stack([first, second], -1).log()


@pytest.mark.parametrize("p, u", [(0.9, 0.1), (0.7, 0.0), (0.5, 0.5)])
def test_halves_are_joined_per_token_and_a_whole_is_kept_per_sequence(p, u):
    """Exactly ((p − u)/2)² is won by the one or by the other."""
    for rivals, sign in ((False, -1), (True, 1)):
        doc, token = halves(p, u, rivals)
        got = sequence(doc, token).exp() - per_token(doc, token).exp()
        assert got.item() == pytest.approx(sign * ((p - u) / 2) ** 2, abs=1e-12)
    if u == 0:
        assert sequence(*halves(p, u)).item() == -math.inf and per_token(*halves(p, u)).exp().item() == pytest.approx(p * p / 4)


@pytest.mark.parametrize("seed", range(3))
def test_small_numbers_stay_apart(seed):
    """400 tokens of ln p = −50 each: the probability itself would be 0 in float64."""
    r = torch.Generator().manual_seed(seed)
    doc, token = torch.randn(2, 3, generator=r, dtype=torch.float64).log_softmax(-1), -50 - torch.rand(2, 3, 400, generator=r, dtype=torch.float64)
    for f in (sequence, per_token):
        got = f(doc, token)
        assert got.shape == (2,) and torch.isfinite(got).all() and (got < -20000).all()
        torch.testing.assert_close(f(doc[0], token[0]), got[0])
        assert f(doc.float(), token.float()).dtype == torch.float32


# ------------------------------------------------------------------ reading an answer out

@pytest.mark.parametrize("seed", range(6))
def test_with_beams_enough_the_best_answer_is_found(seed):
    table = Table(seed, V=3, Z=3)
    every = answers(3, 4)
    for decode, f in ((by_token, per_token), (by_sequence, sequence)):
        y, p = decode(table.doc, table, END, 4, beams=len(every))
        best = max(every, key=lambda y, f=f: f(table.doc, said(table, y)))
        assert y == best and p == pytest.approx(f(table.doc, said(table, y)).item(), abs=1e-12)


def test_beam_search_keeps_what_is_over():
    """Greedy takes the likelier first token and pays later; two beams do not. Everything ends at ``length``."""
    steps = {(): [0.0, 0.6, 0.4], (1,): [0.4, 0.3, 0.3], (2,): [0.9, 0.1, 0.0]}
    step = lambda y: torch.tensor(steps.get(y, [1.0, 0.0, 0.0]), dtype=torch.float64).log()     # noqa: E731
    assert search(step, END, 5)[0][0] == (1, END) and search(step, END, 5, 2)[0][0] == (2, END)
    assert [y for y, _ in search(step, END, 1, 3)] == [(1,), (2,), (0,)]
    assert math.exp(search(step, END, 5, 2)[0][1]) == pytest.approx(0.36)
    everything = search(step, END, 3, 100)
    assert sum(math.exp(p) for _, p in everything) == pytest.approx(1) and len({y for y, _ in everything}) == len(everything)


def test_a_document_s_own_answer_is_scored_under_all():
    """Each document alone prefers its own answer; both give the third a fair share, and by sequence it wins only if a beam holds it."""
    p = torch.tensor([[0.0, 0.55, 0.0, 0.45], [0.0, 0.0, 0.55, 0.45]], dtype=torch.float64).log()
    doc = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    assert by_sequence(torch.tensor([0.3, 0.7], dtype=torch.float64).log(), lambda y: p, END, 1)[0] == (2,)
    assert by_sequence(doc, lambda y: p, END, 1)[0] == (1,) and by_sequence(doc, lambda y: p, END, 1, beams=2)[0] == (3,) == by_token(doc, lambda y: p, END, 1)[0]


@pytest.mark.parametrize("f", [sequence, per_token])
@pytest.mark.parametrize("doc, token", [((2,), (3, 4)), ((), (4,)), ((3,), (3,)), ((2, 3), (3, 4)), ((3,), (3, 4, 5))])
def test_shapes_that_do_not_fit(f, doc, token):
    with pytest.raises(ValueError, match="token must be"):
        f(torch.zeros(doc), torch.zeros(token))


def test_wrong_numbers():
    table = Table(0)
    with pytest.raises(ValueError, match="at least one token"):
        said(table, ())
    for length, beams in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="length and beams must be >= 1"):
            by_token(table.doc, table, END, length, beams)
    for k, tau in ((0, 1.0), (1, 0.0), (1, math.inf), (1, -1.0)):
        with pytest.raises(ValueError, match="k must be >= 1 and tau"):
            RAG(BM25(), None, k, tau)


# ------------------------------------------------------------------ around a memory

PLACES = ["nothing", "Chile", "Morocco", "Oslo"]


def reader(query, units, y):
    """Says a place that its unit names and that was not said yet, with 0.925; has no idea, if there is none."""
    rows = []
    for u in units:
        open_ = [v for v, place in enumerate(PLACES) if v and place in u.text and v not in y] or range(4)
        rows.append([0.1 / 4 + 0.9 / len(open_) * (v in open_) for v in range(4)])
    return torch.tensor(rows, dtype=torch.float64).log()


@pytest.mark.parametrize("memory", [BM25, lambda: Dense(LSA(8))])
def test_an_answer_from_two_documents(memory):
    m = RAG(memory(), reader, k=2)
    for i, text in enumerate(("Dilan travelled to Chile in spring", "Dilan travelled to Morocco in autumn", "it rained in Oslo", "Farah bakes")):
        m.write(Unit(f"D1:{i + 1}", text))
    q = "Where has Dilan travelled?"
    units, doc = m.documents(q)
    assert {u.id for u in units} == {"D1:1", "D1:2"} and doc.exp().sum().item() == pytest.approx(1) and m.read(q, 6) == m.memory.read(q, 6)
    s = dict(zip(m.memory.units, m.memory.scores(q)))
    assert (doc[0] - doc[1]).item() == pytest.approx(s[units[0].id] - s[units[1].id], abs=1e-9)
    y, p = m.answer(q, END, 2, beams=4)
    token = said(lambda y: reader(q, units, y), y)
    assert {PLACES[v] for v in y} == {"Chile", "Morocco"}
    assert p == pytest.approx(per_token(doc, token).item()) and p > sequence(doc, token) + 0.5
    assert m.answer(q, END, 2, beams=16, decode=by_sequence)[1] == pytest.approx(sequence(doc, token).item(), abs=0.1)
    m.tau = 0.1
    torch.testing.assert_close(m.documents(q)[1].diff(), 10 * doc.diff())


def test_nothing_found_is_said():
    m = RAG(BM25(), reader)
    m.write(Unit("D1:1", "a cat"))
    assert m.documents("zebra")[0] == [] and m.documents("zebra")[1].shape == (0,)
    with pytest.raises(ValueError, match="no unit was found for 'zebra'"):
        m.answer("zebra", END, 2)
