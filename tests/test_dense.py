"""Dense retrieval: LSA against scikit-learn, the search against faiss, the loss against torch and sentence-transformers, a memory of vectors."""
import faiss
import numpy as np
import pytest
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from torch.nn import functional as F

from minimem.tasks import dialogue
from minimem.text.bm25 import BM25
from minimem.text.dense import LSA, BiEncoder, Dense, batches, in_batch, pool, train
from minimem.text.unit import Unit, tokens

CHAT = dialogue.make(1, 0)[0]
UNITS = dialogue.turns(CHAT)
QUERIES = [q.text for q in dialogue.questions(CHAT)]


def memory(texts=(), embed=None):
    m = Dense(embed)
    for i, t in enumerate(texts):
        m.write(t if isinstance(t, Unit) else Unit(f"D1:{i + 1}", t))
    return m


class Spelled:
    """An embedder by letters that notes what it was asked."""
    name, dim = "letters", 26

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked += texts
        rows = np.array([[t.count(chr(97 + i)) for i in range(26)] for t in texts], np.float32).reshape(len(texts), 26)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


# ------------------------------------------------------------------ LSA

@pytest.mark.oracle("dense")
def test_lsa_of_full_rank_is_the_cosine_of_tf_idf():
    texts = [u.text for u in UNITS[:40]] + ["", "the of"]
    x = TfidfVectorizer(analyzer=tokens, sublinear_tf=True).fit_transform(texts)
    rows = LSA(256).fit(texts)(texts)
    np.testing.assert_allclose(rows @ rows.T, (x @ x.T).toarray(), atol=1e-5)
    assert rows.shape == (42, 256) and rows.dtype == np.float32 and not rows[:, 42:].any() and not rows[40:].any()


@pytest.mark.oracle("dense")
def test_lsa_of_16_numbers_is_scikit_learns():
    texts = [u.text for u in UNITS]
    vectorizer, svd = TfidfVectorizer(analyzer=tokens, sublinear_tf=True), TruncatedSVD(16, random_state=0)
    svd.fit(vectorizer.fit_transform(texts))
    want = svd.transform(vectorizer.transform(QUERIES))
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    ours = LSA(16).fit(texts)(QUERIES)
    np.testing.assert_allclose(ours @ ours.T, want @ want.T, atol=2e-4)         # a direction has no sign


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("texts", [[], [""], ["the of"], ["cat"], ["cat"] * 5, ["cat dog"], ["cat", "dog", "cat bird"], ["我搬到北京了", "🎉"], ["broken \ud83d"]])
def test_lsa_of_few_texts_or_terms(texts):
    rows = LSA(8).fit(texts)([*texts, "cat", "never seen", ""])
    assert rows.shape == (len(texts) + 3, 8) and np.isfinite(rows).all()
    length = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(length, length > 0.5, atol=1e-6)                 # of length 1, or all 0 where no term was seen
    assert all(x > 0.5 for x, t in zip(length, texts) if tokens(t)) and not rows[-2:].any()
    assert LSA(8)(["not fitted"]).shape == (1, 8)


def test_lsa_gives_the_same_vectors_again_and_forgets_what_it_was_fitted_on():
    texts, e = [u.text for u in UNITS], LSA(32)
    np.testing.assert_array_equal(e.fit(texts)(QUERIES), LSA(32).fit(texts)(QUERIES))
    np.testing.assert_array_equal(e.fit(["a cat"])(["cat"]), LSA(32).fit(["a cat"])(["cat"]))
    assert e.nbytes() == 3 + 8 + 4 and LSA().nbytes() == 0 and (LSA().dim, LSA(8).name) == (256, "lsa-8")


def test_wrong_uses():
    with pytest.raises(ValueError, match="dim must be >= 1, saw 0"):
        LSA(0)
    for call in (LSA().fit, LSA(), BiEncoder(4, 8)):
        with pytest.raises(ValueError, match="texts must be a list of strings, saw the string 'a cat'"):
            call("a cat")
        with pytest.raises(ValueError, match="text must be a string, saw NoneType"):
            call([None])
    for wrong in ({"dim": 0}, {"buckets": 0}, {"tau": 0}, {"tau": float("nan")}):
        with pytest.raises(ValueError, match="wanted dim >= 1, buckets >= 1 and tau > 0"):
            BiEncoder(**wrong)
    with pytest.raises(ValueError, match="query must be a string, saw NoneType"):
        memory(["a cat"]).rank(None)
    with pytest.raises(ValueError, match="must be a Unit, saw str"):
        Dense().write("a cat")


# ------------------------------------------------------------------ the memory

@pytest.mark.oracle("dense")
@pytest.mark.parametrize("embed", [LSA(64), BiEncoder(64)], ids=["lsa", "bi-encoder"])
def test_the_search_is_faiss_flat(embed):
    m = memory(UNITS, embed)
    index = faiss.IndexFlatIP(64)
    index.add(m.vectors)
    ids = list(m.units)
    for query in QUERIES[:20]:
        s, found = index.search(m.embed([query]), 10)
        ranked = m.rank(query, 10)
        ours = m.scores(query)[[ids.index(u.id) for u in ranked]]
        np.testing.assert_allclose(ours, s[0], atol=1e-6)
        if np.diff(s[0]).max() < -1e-6:                                         # no ties: the same units in the same order
            assert [u.id for u in ranked] == [ids[i] for i in found[0]]


def test_every_unit_is_found_best_first_the_older_first_of_equals():
    m = memory(["dog", "cat", "cat", "bird"], Spelled())
    assert [u.id for u in m.rank("cat")] == ["D1:2", "D1:3", "D1:4", "D1:1"] or m.scores("cat").argmax() == 1
    assert [u.id for u in m.rank("cat", 2)] == ["D1:2", "D1:3"] and len(m.rank("xyz")) == 4
    assert m.scores("cat").dtype == np.float64 and [u.text for u in m.read("cat", 2)] == ["cat", "cat"]
    assert Dense().rank("cat") == [] and Dense().scores("cat").shape == (0,)


def test_a_text_is_embedded_once():
    e = Spelled()
    m = memory(["cat", "dog"], e)
    assert e.asked == []                                                        # not before it is read
    m.rank("bird")
    m.write(Unit("D1:3", "fish", expires=1))
    m.write(Unit("D1:2", "hen"))                                                # in place of the dog
    m.rank("bird")
    assert e.asked == ["cat", "dog", "bird", "fish", "hen", "bird"]
    assert list(m.units) == ["D1:1", "D1:3", "D1:2"]
    np.testing.assert_array_equal(m.vectors, Spelled()(["cat", "fish", "hen"]))
    assert m.forget(1) == 1
    np.testing.assert_array_equal(m.vectors, Spelled()(["cat", "hen"]))
    assert len(e.asked) == 6 and m.sizes()["vectors"] == 2 * 26 * 4 == m.nbytes() - len("cathen") - 4 * len("D1:1")


def test_changes_before_the_first_read():
    m = memory(["cat", "dog", "hen"], Spelled())
    m.write(Unit("D1:1", "fish"))
    m.write(Unit("D1:4", "owl"))
    np.testing.assert_array_equal(m.vectors, Spelled()(["dog", "hen", "fish", "owl"]))
    m.write(Unit("D1:5", "bee"))
    m.write(Unit("D1:2", "ant"))                                                # one of those embedded, while another waits
    np.testing.assert_array_equal(m.vectors, Spelled()(["hen", "fish", "owl", "bee", "ant"]))


def test_a_memory_told_to_start_again_with_other_units():
    m = memory(["cat", "dog", "hen"], Spelled())
    m.rank("bird")
    for texts in (["cat", "owl", "hen"], ["hen", "cat"], [], ["bee"]):
        m._restart([Unit(f"D1:{i}", t) for i, t in enumerate(texts)])
        np.testing.assert_array_equal(m.vectors, Spelled()(texts))


def test_what_is_fitted_is_fitted_again_after_any_change_and_belongs_to_one_memory():
    lsa = LSA(16)
    a, b = memory(UNITS[:50], lsa), memory(UNITS[50:100], lsa)
    first = a.scores(QUERIES[0])
    b.scores(QUERIES[0])
    np.testing.assert_array_equal(a.scores(QUERIES[0]), first)                  # b's fit did not reach a
    a.write(UNITS[60])
    np.testing.assert_array_equal(a.scores(QUERIES[0]), memory([*UNITS[:50], UNITS[60]], LSA(16)).scores(QUERIES[0]))
    a.write(Unit(UNITS[60].id, "the zebra", expires=1))
    assert a.rank("zebra")[0].text == "the zebra" and a.forget(1) == 1
    assert "zebra" not in getattr(a.embed._tfidf, "vocabulary_", {})            # without a trace, at once
    np.testing.assert_array_equal(a.scores(QUERIES[0]), first)
    assert a.sizes()["embedder"] == a.embed.nbytes() > a.sizes()["vectors"] == 50 * 16 * 4 and "embedder" not in memory([], Spelled()).sizes()


def test_an_embedder_of_another_width_or_one_that_fails_changes_nothing():
    m = memory(["cat"], Spelled())
    m.rank("cat")
    m.write(Unit("D1:2", "dog"))
    m.embed = lambda texts: np.zeros((len(texts), 5))
    m.embed.name, m.embed.dim = "five", 26
    with pytest.raises(ValueError, match=r"five returned vectors of shape \(1, 5\), wanted \(1, 26\)"):
        m.rank("cat")
    m.embed = Spelled()
    assert [u.text for u in m.rank("dog", 1)] == ["dog"]


# ------------------------------------------------------------------ the encoder

def test_the_mean_without_padding_equals_the_definition():
    e, texts = BiEncoder(16, 64), [u.text for u in UNITS[:30]] + ["", "the of"]
    rows = list(map(e.buckets, texts))
    padded = torch.tensor([r + [0] * (40 - len(r)) for r in rows])
    real = torch.arange(40) < torch.tensor(list(map(len, rows)))[:, None]
    torch.testing.assert_close(e.encode(texts), pool(e.table[padded], real))
    h = e.table[padded].where(real[..., None], float("nan"))                    # what padding holds does not matter
    torch.testing.assert_close(e.encode(texts), pool(h, real))
    assert e(texts).shape == (32, 16) and not e(texts)[30:].any() and e([]).shape == (0, 16)
    np.testing.assert_allclose(np.linalg.norm(e(texts)[:30], axis=1), 1, atol=1e-5)


@pytest.mark.oracle("dense")
@pytest.mark.parametrize("more", [0, 5])
def test_the_loss_is_cross_entropy_and_sentence_transformers_ranking_loss(more):
    g = torch.Generator().manual_seed(more)
    q, d = (F.normalize(torch.randn(n, 8, generator=g, dtype=torch.float64), dim=-1).requires_grad_() for n in (7, 7 + more))
    loss = in_batch(q, d, 0.05)
    want = F.cross_entropy(q @ d.T / 0.05, torch.arange(7))
    torch.testing.assert_close(loss, want)
    for ours, theirs in zip(torch.autograd.grad(loss, (q, d)), torch.autograd.grad(want, (q, d))):
        torch.testing.assert_close(ours, theirs)
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    theirs = MultipleNegativesRankingLoss(None, scale=20.0).compute_loss_from_embeddings([q, d[:7], *([d[7:]] if more else [])], None)
    torch.testing.assert_close(theirs, want)


def test_the_loss_by_hand():
    q, d = torch.eye(2, dtype=torch.float64), torch.tensor([[1.0, 0], [0.6, 0.8]], dtype=torch.float64)
    want = [-np.log(np.exp(2) / (np.exp(2) + np.exp(1.2))), -np.log(np.exp(1.6) / (np.exp(0) + np.exp(1.6)))]
    assert in_batch(q, d, 0.5).item() == pytest.approx(np.mean(want), abs=1e-12)


def test_batches_hold_every_pair_once_of_one_group_and_no_text_twice():
    groups = [[(f"q{g}{i}", f"d{g}{i}") for i in range(10 + g)] for g in range(3)]
    seen = list(batches(groups, 4, epochs=2, seed=1))
    assert sorted(p for b in seen for p in b) == sorted(2 * [p for g in groups for p in g])
    assert all(len(b) <= 4 and len({q[1] for q, _ in b}) == 1 for b in seen)
    assert seen == list(batches(groups, 4, 2, 1)) != list(batches(groups, 4, 2, 2))
    first, second = ({frozenset(b) for b in half} for half in (seen[: len(seen) // 2], seen[len(seen) // 2:]))
    assert first != second                                                      # other pairs meet in the second epoch
    assert [len(b) for b in batches([[("a", "x"), ("b", "x"), ("c", "y")]], 3, 1)] == [2]


def pairs(seed, n=2):
    chats = dialogue.make(n, seed)
    said = [{u.id: u.text for u in dialogue.turns(s)} for s in chats]
    return [[(f.text, at[i]) for f in dialogue.facts(s) for i in f.source_ids] for s, at in zip(chats, said)]


@pytest.mark.parametrize("seed", range(3))
def test_training_lowers_the_loss_and_finds_the_turns_of_facts_of_other_chats(seed):
    held = dialogue.make(1, 900 + seed)[0]
    facts = [dialogue.Question(f.text, "", f.source_ids, 4) for f in dialogue.facts(held)]
    e = BiEncoder(32, 4096, seed=seed)

    def found():
        m = memory(dialogue.turns(held), e)
        return np.mean([dialogue.evidence_recall(m.rank(q.text, 1), q.evidence) for q in facts])

    before, name = found(), e.name
    losses = train(e, batches(pairs(700 + seed), 32, 5, seed))
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4]) and found() > before and e.name != name
    again = BiEncoder(32, 4096, seed=seed)
    assert train(again, batches(pairs(700 + seed), 32, 5, seed)) == losses and again.name == e.name


def test_a_step_follows_its_own_batch_alone():
    first, second = [("cat sat", "a dog"), ("dog ran", "a cat")], [("fish swam", "a fish"), ("cat ate", "the cat")]
    e = BiEncoder(8, 64)
    train(e, [first, second], rate=1e-12)
    got, e.table.grad = e.table.grad.to_dense(), None
    in_batch(*(e.encode(list(x)) for x in zip(*second)), e.tau).backward()
    torch.testing.assert_close(got, e.table.grad.to_dense())


def test_hard_negatives_stand_behind_the_texts_and_never_against_a_right_one():
    asked, e = [], BiEncoder(8, 64)
    batch = [("cat sat", "a cat"), ("dog ran", "a dog")]
    plain = train(BiEncoder(8, 64), [batch])
    assert train(e, [batch], hard=lambda q, d: asked.append((q, d)) or "a cat") == plain and asked == batch
    want = in_batch(*(BiEncoder(8, 64).encode(x) for x in (["cat sat", "dog ran"], ["a cat", "a dog", "sat"])), 0.05).item()
    assert train(BiEncoder(8, 64), [batch], hard=lambda q, d: "sat") == [pytest.approx(want)]


def test_the_default_memory_finds_as_bm25_does_within_a_few_points():
    r = {k: dialogue.bootstrap(dialogue.evaluate(dialogue.make(3, 5), k, (10,))["R@10"])[0] for k in (Dense, BM25, dialogue.Random)}
    assert r[Dense] > 0.5 * r[BM25] > r[dialogue.Random]
