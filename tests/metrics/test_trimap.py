import math

import numpy as np
import pytest

from jaxseg.metrics import confusion, trimap

CLASSES = 4
RADII = (1, 2, 3, 6)


def blobs(rng, shape=(15, 18), cell=4, ignored=0.0):
    grid = rng.integers(0, CLASSES, (shape[0] // cell + 1, shape[1] // cell + 1))
    label = np.kron(grid, np.ones((cell, cell), int))[: shape[0], : shape[1]].astype(np.int32)
    label[rng.random(shape) < ignored] = -1
    return label


def as_batch(label, weight=None, size=None):
    return {
        "label": label,
        "weight": np.ones(len(label), np.float32) if weight is None else weight,
        "size": np.array([label.shape[1:]] * len(label)) if size is None else size,
    }


def slow_band(label, radius, around_ignored):
    """The labelled pixels with one of another class within the radius, pair by pair."""
    pixels = [p for p in np.ndindex(label.shape) if around_ignored or label[p] >= 0]
    return [
        p
        for p in np.ndindex(label.shape)
        if label[p] >= 0 and any(label[p] != label[q] and math.dist(p, q) <= radius for q in pixels)
    ]


def slow(labels, maps, radius, around_ignored=False):
    found = [
        (label[p], told[p])
        for label, told in zip(labels, maps, strict=True)
        for p in slow_band(label, radius, around_ignored)
    ]
    ious = []
    for c in range(CLASSES):
        union = sum(c in pair for pair in found)
        ious += [sum(pair == (c, c) for pair in found) / union] if union else []
    return {
        f"accuracy_{radius}": np.mean([a == b for a, b in found]) if found else math.nan,
        f"miou_{radius}": np.mean(ious) if ious else math.nan,
        f"pixels_{radius}": len(found),
    }


@pytest.mark.parametrize("around_ignored", [False, True])
@pytest.mark.parametrize("ignored", [0.0, 0.2])
def test_equals_all_pairs_of_pixels(ignored, around_ignored):
    rng = np.random.default_rng(int(10 * ignored))
    # Cells of 4 and 7: near and far from borders; the boxes of the classes overlap.
    labels = [blobs(rng, cell=cell, ignored=ignored) for cell in (4, 7)]
    maps = [blobs(rng, cell=3) for _ in labels]
    metric = trimap(CLASSES, RADII, around_ignored=around_ignored)
    got = metric.compute(metric.measure({"classes": np.stack(maps)}, as_batch(np.stack(labels))))
    expected = [slow(labels, maps, radius, around_ignored) for radius in RADII]
    assert got == pytest.approx({k: v for each in expected for k, v in each.items()})


def test_a_straight_border_is_a_band_of_twice_the_radius():
    label = np.zeros((1, 9, 40), np.int32)
    label[..., 20:] = 1
    told = label.copy()
    told[..., 18:20] = 1
    metric = trimap(2, (1, 5, 19), names=("left", "right"))
    got = metric.compute(metric.measure({"classes": told}, as_batch(label)))
    assert [got[f"pixels_{r}"] for r in (1, 5, 19)] == [18, 90, 342]
    assert [got[f"accuracy_{r}"] for r in (1, 5, 19)] == pytest.approx([1 / 2, 8 / 10, 36 / 38])
    assert got["iou_5_left"] == pytest.approx(3 / 5)
    assert got["iou_5_right"] == pytest.approx(5 / 7)


def test_a_radius_beyond_the_image_gives_the_plain_confusion():
    rng = np.random.default_rng(3)
    prediction, batch = {"classes": blobs(rng)[None]}, as_batch(blobs(rng, ignored=0.3)[None])
    wide = trimap(CLASSES, (99,))
    plain = confusion(CLASSES).measure(prediction, batch)["matrix"]
    np.testing.assert_array_equal(wide.measure(prediction, batch)["matrix"], plain[None])


def test_an_image_of_one_class_has_no_border():
    label = np.ones((1, 6, 7), np.int32)
    metric = trimap(2, (1, 99), around_ignored=True)
    got = metric.compute(metric.measure({"classes": label}, as_batch(label)))
    assert got["pixels_1"] == got["pixels_99"] == 0 and math.isnan(got["miou_99"])


def test_ignored_borders():
    """Two classes with a ribbon of three ignored columns between them."""
    label = np.array([[[0, 0, 0, -1, -1, -1, 1, 1]]], np.int32)
    prediction, batch = {"classes": np.zeros_like(label)}, as_batch(label)
    plain, around = (trimap(2, (1, 3, 4), around_ignored=around) for around in (False, True))
    got = plain.compute(plain.measure(prediction, batch))
    assert [got[f"pixels_{r}"] for r in (1, 3, 4)] == [0, 0, 2]
    assert math.isnan(got["accuracy_1"]) and math.isnan(got["miou_1"])
    got = around.compute(around.measure(prediction, batch))
    assert [got[f"pixels_{r}"] for r in (1, 3, 4)] == [2, 5, 5]


def test_padding_weights_and_ignored_pixels_change_nothing_and_sums_add():
    rng = np.random.default_rng(5)
    label = np.stack([blobs(rng, ignored=0.1) for _ in range(4)])
    told = np.stack([blobs(rng) for _ in range(4)])
    size = np.array([[15, 18], [9, 18], [15, 18], [7, 11]])
    weight = np.array([1, 0.5, 0, 1], np.float32)
    # Around ignored regions, padding must not become one.
    metric = trimap(CLASSES, RADII, around_ignored=True)

    def measure(*rows, told=told, label=label):
        rows = list(rows)
        batch = as_batch(label[rows], weight[rows], size[rows])
        return metric.measure({"classes": told[rows]}, batch)["matrix"]

    whole = measure(0, 1, 2, 3)
    alone = [
        metric.measure({"classes": told[i : i + 1, :h, :w]}, as_batch(label[i : i + 1, :h, :w]))
        for i, (h, w) in ((i, size[i]) for i in (0, 1, 3))
    ]
    np.testing.assert_array_equal(whole, sum(sums["matrix"] for sums in alone))
    a, b, c = alone
    left, right = metric.merge(metric.merge(a, b), c), metric.merge(a, metric.merge(b, c))
    np.testing.assert_array_equal(left["matrix"], whole)
    np.testing.assert_array_equal(right["matrix"], whole)
    assert whole.dtype == np.int64 and whole.shape == (4, CLASSES, CLASSES)
    strange, other = np.where(label < 0, 77, told), label.copy()
    strange[2], other[2] = 99, 99
    for i, (h, w) in enumerate(size):
        strange[i, h:], strange[i, :, w:], other[i, h:], other[i, :, w:] = -8, 55, 66, -1
    np.testing.assert_array_equal(measure(0, 1, 2, 3, told=strange, label=other), whole)


def test_bad_input():
    flat = np.zeros((1, 4, 5), np.int32)
    metric = trimap(2)
    for make, message in (
        (lambda: trimap(0), "num_classes=0"),
        (lambda: trimap(2, ()), r"radii=\(\)"),
        (lambda: trimap(2, (0, 3)), r"radii=\(0, 3\)"),
        (lambda: trimap(2, (3, 3)), r"radii=\(3, 3\)"),
        (lambda: trimap(2, names=("a",)), "1 names for 2"),
        # One label fills the image, so that no band holds the pixels that are wrong.
        (lambda: metric.measure({"classes": flat}, as_batch(flat + 2)), "a label is 2"),
        (lambda: metric.measure({"classes": flat + 2}, as_batch(flat)), "a prediction is 2"),
        (lambda: metric.measure({"classes": flat[:, 1:]}, as_batch(flat)), "differ in size"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
