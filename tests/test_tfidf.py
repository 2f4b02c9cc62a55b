"""TF-IDF: the fast form, scikit-learn, and what a text memory must do with odd input."""
import math
import random

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from minimem.tasks.dialogue import make, questions, turns
from minimem.text.tfidf import TFIDF, Weights, score
from minimem.text.unit import Unit, tokens

CHINESE = ["小李：我上个月搬到北京了，住在大学旁边。", "小王：我养了一只橘猫。", "小李：今天下雨，北京大学没有人，北京很安静。"]


def corpus(seed, n=60):
    """Texts of 0 to 30 words from a vocabulary of 40 with a long tail, and queries with repeats and unknown words."""
    r = random.Random(seed)
    draw = lambda k: [f"w{int(40 * r.random() ** 3)}" for _ in range(k)]   # noqa: E731
    docs = [draw(r.randint(0, 30)) for _ in range(n)]
    return docs, [[*draw(r.randint(0, 6)), *(["never seen"] if i % 3 == 0 else [])] for i in range(20)]


def memory(texts, **options):
    m = TFIDF(**options)
    for i, t in enumerate(texts):
        m.write(Unit(f"D1:{i + 1}", t))
    return m


def test_one_score_by_hand():
    cat, dog = (1 + math.log(2)) * (math.log(4 / 2) + 1), math.log(4 / 3) + 1
    want = cat / math.hypot(cat, dog)
    assert score(["cat"], [["cat", "cat", "dog"], ["dog"], ["fish"]]) == pytest.approx([want, 0, 0], abs=1e-12)
    assert score(["cat", "cat", "never seen"], [["cat", "cat", "dog"], ["dog"], ["fish"]]) == pytest.approx([want, 0, 0], abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_fast_equals_the_definition(seed):
    docs, queries = corpus(seed, n=1 + 20 * seed)
    number = {t: i for i, t in enumerate(dict.fromkeys(t for d in docs for t in d))}
    fast = Weights([np.array([number[t] for t in d], np.int32) for d in docs], len(number))
    for q in queries:
        got = fast.scores([number[t] for t in q if t in number])
        np.testing.assert_allclose(got, score(q, docs), rtol=1e-12, atol=1e-13)


@pytest.mark.oracle("tfidf")
@pytest.mark.parametrize("texts, asked", [
    ([u.text for u in turns(make(1, seed=5)[0])], [q.text for q in questions(make(1, seed=5)[0])]),
    (CHINESE, ["小李现在住在哪里？北京还是上海？", "谁养了橘猫", "北京北京大学"]),
], ids=["a chat", "Chinese"])
def test_scikit_learn_gives_the_same_scores(texts, asked):
    theirs = TfidfVectorizer(analyzer=tokens, sublinear_tf=True, smooth_idf=True)
    want = (theirs.fit_transform(texts) @ theirs.transform(asked).T).toarray().T
    m = memory(texts)
    np.testing.assert_allclose([m.scores(q) for q in asked], want, rtol=0, atol=1e-12)
    np.testing.assert_allclose(score(tokens(asked[0]), [tokens(t) for t in texts]), want[0], rtol=0, atol=1e-12)
    assert want.max() > 0.2


@pytest.mark.filterwarnings("error")
def test_a_store_of_empty_texts_scores_nothing():
    assert score(["a"], []) == [] and score(["a"], [[], []]) == [0, 0] and score([], [["a"]]) == [0]
    assert memory(["", "the of"]).rank("a cat") == [] == TFIDF().read("cat") and TFIDF().scores("cat").shape == (0,)
    assert memory(["a cat"]).read("") == memory(["a cat"]).read("the of") == memory(["a cat"]).read("zebra") == []


def test_writing_bit_by_bit_equals_writing_at_once():
    texts = [" ".join(d) for d in corpus(7)[0]]
    whole, bits = memory(texts), TFIDF()
    for i, t in enumerate(texts):
        bits.write(Unit(f"D1:{i + 1}", t))
        if i % 5 == 0:
            bits.read("w3 w5")
    np.testing.assert_array_equal(bits.scores("w1 w9 w30"), whole.scores("w1 w9 w30"))


def test_the_same_id_again_and_what_expires_leave_no_trace():
    m = memory(["my cat Tom", "a dog"])
    m.write(Unit("D1:1", "my parrot Polly", expires=10.0))
    assert m.read("cat") == [] and [u.id for u in m.read("Polly")] == ["D1:1"] and "tom" not in m._number
    assert m.forget(10.0) == 1 and m.read("Polly") == [] and m._number == {"dog": 0}
    np.testing.assert_array_equal(m.scores("a big dog"), memory(["a dog"]).scores("a big dog"))


def test_a_text_that_cannot_be_cut_changes_nothing():
    def cut(text):
        if "bad" in text:
            raise RuntimeError("cannot be cut")
        return tokens(text)
    m = memory(["an apple", "a cherry"], tokenize=cut)
    for id in ("D1:1", "D1:9"):                                  # in place of a unit, and as a new one
        with pytest.raises(RuntimeError):
            m.write(Unit(id, "bad"))
    m.write(Unit("D1:3", "a pear"))
    assert [[u.text for u in m.rank(q)] for q in ("apple", "cherry", "pear")] == [["an apple"], ["a cherry"], ["a pear"]]


def test_wrong_records_questions_and_numbers():
    with pytest.raises(ValueError, match="must be a Unit, saw str"):
        TFIDF().write("a cat")
    with pytest.raises(ValueError, match="text must be a string, saw NoneType"):
        memory(["a cat"]).read(None)
    with pytest.raises(ValueError, match="k must be >= 0, saw -1"):
        memory(["a cat"]).rank("cat", -1)


def test_bytes_are_those_of_what_is_held():
    m = memory(["cat dog cat", "cat 猫咪"])
    sizes = m.sizes()
    assert m.weights.w.data.nbytes + m.weights.w.indices.nbytes == 4 * 12                 # 12 bytes a pair of term and text
    assert sizes["text"] == len("cat dog catcat 猫咪".encode()) + 2 * 2 * len("D1:1")
    assert sizes["vocabulary"] == len("catdog猫咪".encode()) + 3 * 4
    assert sizes["index"] == 5 * 4 + 4 * 12 + 4 * 4 + 3 * 8                                # terms, pairs, row starts, idf
    assert m.nbytes() == sum(sizes.values())
