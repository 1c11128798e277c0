import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from jaxseg.metrics import reconstruction_error


def slow(superpixels, target):
    """By its definition: (sum of distances, known pixels, regions), pixel by pixel."""
    known = [p for p in np.ndindex(superpixels.shape) if not np.isnan(target[p]).any()]
    members = {}
    for p in known:
        members.setdefault(int(superpixels[p]), []).append(target[p].astype(np.float64))
    error = sum(math.dist(v, np.mean(vs, axis=0)) for vs in members.values() for v in vs)
    return error, len(known), len(members)


def examples(rng, channels=2, count=3, shape=(7, 9)):
    superpixels = rng.integers(0, 6, (count, *shape)) * 3
    target = rng.normal(0, 4, (count, *shape, channels)).astype(np.float32)
    target[rng.random((count, *shape)) < 0.2, 0] = np.nan
    return superpixels, target


def batch(target, weight=None, size=None):
    count = len(target)
    return {
        "target": target,
        "weight": np.ones(count, np.float32) if weight is None else weight,
        "size": np.array([target.shape[1:3]] * count) if size is None else size,
    }


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_equals_slow_loops(channels):
    superpixels, target = examples(np.random.default_rng(channels), channels)
    metric = reconstruction_error()
    got = metric.compute(metric.measure({"superpixels": superpixels}, batch(target)))
    found = [slow(s, t) for s, t in zip(superpixels, target, strict=True)]
    error, pixels, regions = (sum(column) for column in zip(*found, strict=True))
    assert got == {
        "epe": pytest.approx(error / pixels, rel=1e-12),
        "regions": pytest.approx(regions / 3),
        "images": 3.0,
    }


def test_padding_and_weights():
    superpixels, target = examples(np.random.default_rng(0), count=4)
    size = np.array([[7, 9], [4, 9], [7, 5], [6, 6]])
    weight = np.array([1, 0.5, 0, 1], np.float32)
    metric = reconstruction_error()
    got = metric.compute(metric.measure({"superpixels": superpixels}, batch(target, weight, size)))
    found = [slow(superpixels[i, :h, :w], target[i, :h, :w]) for i, (h, w) in enumerate(size)]
    error, pixels, _ = np.sum([found[i] for i in (0, 1, 3)], axis=0)
    assert got["epe"] == pytest.approx(error / pixels) and got["images"] == 3


def test_merge_adds():
    superpixels, target = examples(np.random.default_rng(1))
    metric = reconstruction_error()

    def measure(*rows):
        return metric.measure({"superpixels": superpixels[list(rows)]}, batch(target[list(rows)]))

    a, b, c = measure(0), measure(1), measure(2)
    left = metric.merge(metric.merge(a, b), c)
    assert metric.compute(left) == pytest.approx(metric.compute(measure(0, 1, 2)))
    assert left == pytest.approx(metric.merge(a, metric.merge(b, c)))
    assert left["error"].dtype == np.float64 and left["pixels"].dtype == np.int64


@hypothesis.given(st.integers(0, 10_000), st.floats(-3, 3), st.floats(0.1, 9))
@hypothesis.settings(max_examples=40, deadline=None)
def test_invariants(seed, shift, scale):
    superpixels, target = examples(np.random.default_rng(seed), count=1)
    metric = reconstruction_error()

    def epe(regions, values):
        return metric.compute(metric.measure({"superpixels": regions}, batch(values)))["epe"]

    once = epe(superpixels, target)
    moved = (target * scale + shift).astype(np.float32)
    assert epe(superpixels, moved) == pytest.approx(scale * once, rel=1e-4, abs=1e-5)
    assert epe(np.arange(63).reshape(1, 7, 9), target) == 0
    hidden = np.isnan(target).any(axis=-1)
    other = np.where(hidden, -5, superpixels)
    assert epe(other, target) == once


def test_what_cannot_be_measured():
    superpixels, target = examples(np.random.default_rng(2))
    metric = reconstruction_error()
    unknown = np.full_like(target, np.nan)
    nothing = metric.compute(metric.measure({"superpixels": superpixels}, batch(unknown)))
    assert nothing["images"] == 0 and math.isnan(nothing["epe"]) and math.isnan(nothing["regions"])
    with pytest.raises(ValueError, match="no 'target'"):
        metric.measure({"superpixels": superpixels}, {"weight": np.ones(3)})
    with pytest.raises(ValueError, match="differ"):
        metric.measure({"superpixels": superpixels[:, :5]}, batch(target))
    with pytest.raises(ValueError, match="negative superpixel"):
        metric.measure({"superpixels": superpixels - 1}, batch(target))
