"""Recall by size, and the mean over target classes, against loops over pixels."""

import math

import numpy as np
import pytest

from jaxseg.metrics import confusion, size_recall

CLASSES, BINS = 4, 5


def scene(rng, shape=(24, 30), ignored=0.1):
    """Rectangles of many sizes, some of which touch at a corner alone."""
    label = np.zeros(shape, np.int32)
    for _ in range(14):
        y, x = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        h, w = rng.integers(1, 9, 2)
        label[y : y + h, x : x + w] = rng.integers(0, CLASSES)
    label[rng.random(shape) < ignored] = -1
    return label


def as_batch(label, weight=None, size=None):
    return {
        "label": label,
        "weight": np.ones(len(label), np.float32) if weight is None else weight,
        "size": np.array([label.shape[1:]] * len(label)) if size is None else size,
    }


def slow_objects(label, target):
    """Sets of pixels, each filled from its first one."""
    left = {p for p in np.ndindex(label.shape) if label[p] == target}
    while left:
        front = [left.pop()]
        found = set(front)
        while front:
            y, x = front.pop()
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            found |= near
            front += near
        yield found


def slow(labels, maps, targets):
    recalls = [[] for _ in range(BINS)]
    for label, told in zip(labels, maps, strict=True):
        for target in targets:
            for pixels in slow_objects(label, target):
                size = math.sqrt(len(pixels) / label.size)
                k = next((k for k in range(1, BINS) if size >= 2.0**-k), BINS)
                recalls[k - 1].append(np.mean([told[p] == target for p in pixels]))
    together = [recall for found in recalls for recall in found]
    figures = {"recall": np.mean(together), "objects": len(together)}
    for k, found in enumerate(recalls, 1):
        figures |= {f"recall_{k}": np.mean(found) if found else math.nan}
        figures |= {f"objects_{k}": len(found)}
    return figures


@pytest.mark.parametrize("targets", [(), (3,), (1, 2)])
def test_equals_objects_filled_pixel_by_pixel(targets):
    rng = np.random.default_rng(len(targets))
    labels = [scene(rng) for _ in range(3)]
    maps = [np.where(rng.random(x.shape) < 0.3, scene(rng, ignored=0), x) for x in labels]
    metric = size_recall(CLASSES, BINS, target_classes=targets)
    maps = [np.maximum(m, 0) for m in maps]
    got = metric.compute(metric.measure({"classes": np.stack(maps)}, as_batch(np.stack(labels))))
    expected = slow(labels, maps, targets or range(CLASSES))
    assert got == pytest.approx(expected, nan_ok=True)
    assert sum(got[f"objects_{k}"] > 0 for k in range(1, BINS + 1)) >= 3


@pytest.mark.parametrize(("side", "size_bin"), [(16, 1), (8, 1), (7, 2), (4, 2), (2, 3), (1, 4)])
def test_sides_on_the_edges_of_bins(side, size_bin):
    """A square of 8 in an image of 16 has the size 1/2, which is of the first bin."""
    label = np.zeros((1, 16, 16), np.int32)
    label[0, :side, :side] = 1
    told = label.copy()
    told[0, 0, 0] = 0
    metric = size_recall(2, 4, target_classes=(1,))
    got = metric.compute(metric.measure({"classes": told}, as_batch(label)))
    assert [got[f"objects_{k}"] for k in (1, 2, 3, 4)] == [k == size_bin for k in (1, 2, 3, 4)]
    assert got[f"recall_{size_bin}"] == pytest.approx(1 - 1 / side**2)


def test_padding_and_weights_change_nothing_and_sums_add():
    rng = np.random.default_rng(3)
    label = np.stack([scene(rng) for _ in range(3)])
    told = np.stack([scene(rng, ignored=0) for _ in range(3)])
    size, weight = np.array([[24, 30], [11, 30], [24, 30]]), np.array([1.0, 2.0, 0.0])
    metric = size_recall(CLASSES, BINS)
    whole = metric.measure({"classes": told}, as_batch(label, weight, size))
    first = metric.measure({"classes": told[:1]}, as_batch(label[:1]))
    second = metric.measure({"classes": told[1:2, :11]}, as_batch(label[1:2, :11]))
    merged = metric.merge(first, second)
    np.testing.assert_array_equal(whole["objects"], merged["objects"])
    np.testing.assert_allclose(whole["recall"], merged["recall"])
    assert whole["objects"].dtype == np.int64
    nothing = metric.measure({"classes": told}, as_batch(label, 0 * weight))
    assert math.isnan(metric.compute(nothing)["recall"])


def test_the_mean_over_target_classes():
    rng = np.random.default_rng(5)
    label, told = scene(rng)[None], scene(rng, ignored=0)[None]
    plain = confusion(CLASSES)
    sums = plain.measure({"classes": told}, as_batch(label))
    for targets in ((2,), (1, 3), (3, 1), (0, 1, 2, 3)):
        got = confusion(CLASSES, target_classes=targets).compute(sums)
        expected = []
        for target in targets:
            a, b = (label == target), (told == target) & (label >= 0)
            expected.append((a & b).sum() / (a | b).sum())
        assert got.pop("target_miou") == pytest.approx(np.mean(expected))
        assert got == plain.compute(sums)
    # A target that is nowhere is left out, as of all classes.
    few = confusion(6, target_classes=(2, 5))
    got = few.compute(few.measure({"classes": told}, as_batch(label)))
    assert got["target_miou"] == pytest.approx(got["iou_2"]) and math.isnan(got["iou_5"])


def test_bad_input():
    flat = np.zeros((1, 4, 5), np.int32)
    metric = size_recall(2)
    for make, message in (
        (lambda: size_recall(0), "num_classes=0"),
        (lambda: size_recall(2, 0), "bins=0"),
        (lambda: size_recall(2, target_classes=(2,)), r"target_classes=\(2,\)"),
        (lambda: confusion(2, target_classes=(1, 1)), r"target_classes=\(1, 1\)"),
        (lambda: metric.measure({"classes": flat}, as_batch(flat + 2)), "a label is 2"),
        (lambda: metric.measure({"classes": flat[:, 1:]}, as_batch(flat)), "differ in size"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
