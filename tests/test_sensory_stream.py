"""The sensory buffer: what each rule keeps, counted exactly; reading by time and by content; bytes."""
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits

from minimem.tasks import streams
from minimem.text.sensory_stream import Buffer, newest, novel, reservoir, surprising, thinned

RULES = (newest, thinned, reservoir, surprising, novel)


def filled(frames, capacity, rule, seed=0):
    b = Buffer(capacity, rule, seed)
    for x in frames:
        b.write(x)
    return b


def walk(T, D=3, seed=0):
    return np.random.default_rng(seed).standard_normal((T, D)).cumsum(0).astype(np.float32)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("capacity", [1, 2, 7, 50])
def test_never_more_than_its_capacity_and_frames_as_they_were(rule, capacity):
    frames = walk(40)
    b = Buffer(capacity, rule)
    for t, x in enumerate(frames, 1):
        b.write(x)
        assert len(b.times) == len(b.frames) == len(b.worth) == min(t, capacity)
        assert (np.diff(b.times) > 0).all() and b.t == t
    np.testing.assert_array_equal(b.frames, frames[b.times])
    assert b.frames.dtype == np.float32
    if capacity == 50:
        assert list(b.times) == list(range(40))


@pytest.mark.oracle("sensory_stream")
@pytest.mark.parametrize("T, C", [(5, 5), (100, 7), (1000, 1)])
def test_newest_keeps_the_last(T, C):
    assert list(filled(walk(T), C, newest).times) == list(range(T - C, T))


@pytest.mark.oracle("sensory_stream")
@pytest.mark.parametrize("C", [1, 2, 3, 8, 11])
def test_thinned_keeps_gaps_of_powers_of_two(C):
    """Closed form: all multiples of the step g = 2ʲ so far, j least so that they fit, and the newest odd multiples of g/2 in what is left."""
    b = Buffer(C, thinned)
    for t in range(200):
        b.write(np.zeros(1))
        g = 1
        while t // g + 1 > C:
            g *= 2
        whole, half = list(range(0, t + 1, g)), list(range(g // 2, t + 1, g)) if g > 1 else []
        want = sorted(whole + half[len(half) - (C - len(whole)):] if C > len(whole) else whole)
        assert list(b.times) == want
        assert set(np.diff(b.times)) <= {g, g // 2 or g} and b.times[0] == 0


@pytest.mark.oracle("sensory_stream")
def test_reservoir_keeps_every_frame_with_chance_C_over_N():
    """Every frame with C/N and every two with C(C − 1)/N(N − 1), within five standard deviations of 2,000 draws; and the draws follow the seed."""
    N, C, draws = 12, 4, 2000
    kept = [tuple(filled(np.zeros((N, 1)), C, reservoir, seed).times) for seed in range(draws)]
    for size, p in ((1, C / N), (2, C * (C - 1) / (N * (N - 1)))):
        count = Counter(s for k in kept for s in itertools.combinations(k, size))
        assert all(abs(count[s] - draws * p) < 5 * math.sqrt(draws * p * (1 - p)) for s in itertools.combinations(range(N), size))
    assert kept[7] == tuple(filled(np.ones((N, 2)), C, reservoir, 7).times)


@pytest.mark.oracle("sensory_stream")
def test_surprising_keeps_the_largest_changes():
    for seed in range(5):
        frames = walk(60, seed=seed).astype(float)
        change = [math.inf, *((frames[1:] - frames[:-1]) ** 2).sum(1)]
        assert list(filled(frames, 9, surprising).times) == sorted(np.argsort(change)[-9:])


@pytest.mark.oracle("sensory_stream")
@pytest.mark.parametrize("seed", range(4))
def test_novel_keeps_one_of_each_kind(seed):
    """K different frames in any order and number leave exactly K, each at its first time, if they fit."""
    r = np.random.default_rng(seed)
    kinds, order = r.standard_normal((6, 4)), np.concatenate([np.arange(6), r.integers(6, size=200)])
    order = order[r.permutation(len(order))]
    first = sorted(int(np.flatnonzero(order == k)[0]) for k in range(6))
    assert set(filled(kinds[order], 6, novel).times) == set(first)
    assert set(first) <= set(filled(kinds[order], 9, novel).times)


def test_the_nearest_two_kept_never_come_nearer():
    for seed in range(4):
        b, least = Buffer(6, novel), 0.0
        for t, x in enumerate(np.random.default_rng(seed).standard_normal((150, 3))):
            b.write(x)
            now = min(((p - q) ** 2).sum() for p, q in itertools.combinations(b.frames, 2)) if t else math.inf
            if t >= 6:
                assert now >= least - 1e-12
            least = now


def test_when_old_news_is_dropped_its_echo_counts_again():
    """1.0 goes, as near to 0.9; then 1.2, which was near to 1.0, is measured from 0.9, and outlives 4.9, which is near to 5."""
    b = filled(np.array([[0.0], [0.9], [1.0], [5.0], [1.2]]), 4, novel)
    assert list(b.times) == [0, 1, 3, 4]
    b.write(np.array([4.9]))
    assert list(b.times) == [0, 1, 3, 4] and b.worth == pytest.approx([math.inf, 0.81, 4.1 ** 2, 0.09])


# ------------------------------------------------------------------ reading

def test_reading_by_time_and_by_content():
    b = filled(np.array([[0.0, 0], [1, 0], [2, 0], [9, 9]]), 2, newest)
    assert b.read(0)[0] == b.read(-5.0)[0] == 2 and b.read(2.6)[0] == 3 and b.read(2.5)[0] == 2
    t, x = b.read(np.array([8.0, 8]))
    assert t == 3 and list(x) == [9, 9] and b.read([1, 1])[0] == 2


def test_forget_drops_what_was_seen_before():
    b = filled(walk(10), 5, newest)
    assert b.forget(5) == 0 and b.forget(7) == 2 and list(b.times) == [7, 8, 9]
    b.write(walk(1)[0])
    assert list(b.times) == [7, 8, 9, 10] and len(b.worth) == len(b.frames) == 4
    assert b.forget(math.inf) == 4
    with pytest.raises(ValueError, match="the buffer is empty"):
        b.read(3)
    b.write(walk(1)[0])
    assert list(b.times) == [11]
    with pytest.raises(ValueError, match="before must be"):
        b.forget(math.nan)


@pytest.mark.parametrize("rule", RULES)
def test_bytes(rule):
    """Measured: capacity × (a frame + 16) + one frame, and no more however long the stream."""
    assert Buffer(4, rule).nbytes() == 0
    for T in (4, 50):
        assert filled(walk(T, D=8), 4, rule).nbytes() == 4 * (8 * 4 + 16) + 8 * 4


def test_wrong_uses():
    with pytest.raises(ValueError, match="capacity must be >= 1 frame, saw 0"):
        Buffer(0, newest)
    b = filled(walk(3), 2, newest)
    for wrong in (np.zeros(4), np.zeros((1, 3)), 7.0, np.array([0, np.nan, 0]), np.array(["a", "b", "c"])):
        with pytest.raises(ValueError, match="frame must be finite numbers of shape \\(3,\\)"):
            b.write(wrong)
    assert b.t == 3 and list(b.times) == [1, 2]
    with pytest.raises(ValueError, match="query must be a time or a frame of shape \\(3,\\), saw shape \\(2,\\)"):
        b.read(np.zeros(2))
    with pytest.raises(ValueError, match="numbers of one axis"):
        Buffer(1, newest).write(np.zeros((2, 2)))


def test_a_frame_that_is_edited_later_stays_as_it_was_seen():
    b, x = Buffer(2, surprising), np.ones(2)
    b.write(x)
    x[:] = 7
    assert list(b.frames[0]) == list(b.last) == [1, 1]


# ------------------------------------------------------------------ the streams

def test_rows_of_digits():
    s, again = streams.rows(digits=40, rare=5, seed=3), streams.rows(digits=40, rare=5, seed=3)
    assert s.frames.shape == (320, 8) and s.frames.dtype == np.float32 and all(map(np.array_equal, s, again))
    assert len(s.starts) == len(s.never) == 5 and (s.starts % 8 == 0).all()
    images = s.frames.reshape(-1, 8, 8)
    rare = np.isin(np.arange(40), s.starts // 8)
    known = load_digits().images.astype(np.float32) / 16
    nearest = [int(((known - x) ** 2).sum((1, 2)).argmin()) for x in images]
    assert len({nearest[i] for i in np.flatnonzero(~rare)}) == 1 and len({nearest[i] for i in np.flatnonzero(rare)}) == 5
    assert not {x.tobytes() for x in s.never} & {known[i].tobytes() for i in nearest}
    for wrong in (0, 40):
        with pytest.raises(ValueError, match="rare must be"):
            streams.rows(digits=40, rare=wrong)


def test_glides():
    s = streams.glides(500, seed=1)
    assert s.frames.shape == (500, 33) and s.pitch.shape == (500,) and np.array_equal(s.frames, streams.glides(500, seed=1).frames)
    held = np.flatnonzero(np.diff(s.pitch) == 0)
    heard = s.frames.argmax(1) * 8000 / 64
    assert len(held) > 300 and np.abs(heard - s.pitch)[held].max() < 8000 / 64 and (s.pitch >= 300).all() and (s.pitch <= 3700).all()
    with pytest.raises(ValueError, match="frames must be >= 1"):
        streams.glides(0)


@pytest.mark.parametrize("rule", RULES)
def test_whole_numbers_of_eight_bits_do_not_wrap_around(rule):
    frames = np.array([[0], [255], [250], [100], [116]])
    assert list(filled(frames.astype(np.uint8), 2, rule).times) == list(filled(frames.astype(float), 2, rule).times)
    assert filled(frames.astype(np.uint8), 2, rule).frames.dtype == np.uint8
