import math

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from skimage.measure import label as components

from jaxseg.metrics import dsb_average_precision

THRESHOLDS = [round(0.5 + 0.05 * i, 2) for i in range(10)]


def as_batch(label, weight=None, size=None):
    return {
        "label": label,
        "weight": np.ones(len(label), np.float32) if weight is None else weight,
        "size": np.array([label.shape[1:]] * len(label)) if size is None else size,
    }


def figures(told, label, **options):
    metric = dsb_average_precision(**options)
    return metric.compute(metric.measure({"instances": told[None]}, as_batch(label[None])))


def cells(rng, shape=(40, 48), pitch=8, jitter=1, missing=0.15):
    """Discs of uneven size on a grid, some missing, some with the number of another map's."""
    result = np.zeros(shape, np.int32)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    for y in range(4, shape[0], pitch):
        for x in range(4, shape[1], pitch):
            if rng.random() >= missing:
                v, u = np.array([y, x]) + rng.integers(-jitter, jitter + 1, 2)
                disc = (yy - v) ** 2 + (xx - u) ** 2 <= rng.uniform(6, 16)
                result[disc] = rng.integers(1, 10**6)
    return result


def slow(told, label):
    """TP, FP and FN by an optimal assignment of masks, threshold by threshold."""
    valid = label >= 0
    ours = [valid & (told == i) for i in np.unique(told[valid]) if i > 0]
    theirs = [label == i for i in np.unique(label[valid]) if i > 0]
    iou = np.zeros((len(ours), len(theirs)))
    for (i, a), (j, b) in ((p, q) for p in enumerate(ours) for q in enumerate(theirs)):
        iou[i, j] = (a & b).sum() / (a | b).sum()
    hits = []
    for t in THRESHOLDS:
        rows, columns = linear_sum_assignment(iou > t, maximize=True)
        hits.append(int((iou > t)[rows, columns].sum()))
    return np.array(hits), len(ours), len(theirs)


def expected(pairs):
    found = [slow(told, label) for told, label in pairs]
    scores = [h / (n + m - h) if n + m else np.ones(10) for h, n, m in found]
    hits, ours, theirs = (sum(column) for column in zip(*found, strict=True))
    score, f1 = np.mean(scores, axis=0), 2 * hits / (ours + theirs)
    return {
        **{"ap_dsb": score.mean(), "ap_dsb_50": score[0], "ap_dsb_75": score[5]},
        **{"f1_50": f1[0], "f1_75": f1[5], "images": len(pairs)},
        **{"predicted": ours / len(pairs), "objects": theirs / len(pairs)},
    }


@pytest.mark.parametrize("ignored", [0.0, 0.2])
def test_equals_the_best_assignment_of_masks(ignored):
    rng = np.random.default_rng(2)
    labels, maps = ([cells(rng) for _ in range(3)] for _ in range(2))
    for label in labels:
        label[rng.random(label.shape) < ignored] = -1
    metric = dsb_average_precision()
    sums = metric.measure({"instances": np.stack(maps)}, as_batch(np.stack(labels)))
    got = metric.compute(sums)
    assert got == pytest.approx(expected(list(zip(maps, labels, strict=True))))
    assert 0.05 < got["ap_dsb"] < got["ap_dsb_50"] < 0.95


def test_an_overlap_of_exactly_the_threshold_is_no_hit():
    label = np.zeros((3, 20), np.int32)
    label[0, :20] = 5
    for length in range(10, 20):
        told = np.zeros_like(label)
        told[0, :length] = 9
        at, below = length / 20, length / 20 - 0.001
        assert figures(told, label, thresholds=(at,))["ap_dsb"] == 0
        if length > 10:
            assert figures(told, label, thresholds=(below,))["ap_dsb"] == 1
    # So none is hit by both halves, and none hits both halves.
    told[0, :10], told[0, 10:] = 1, 2
    assert figures(told, label)["f1_50"] == figures(label, told)["f1_50"] == 0


def test_merged_and_split_objects_of_connected_components():
    """Two touching squares taken for one: two are missed and one is made up."""
    label = np.zeros((12, 30), np.int32)
    label[2:10, 2:10], label[2:10, 10:18], label[2:10, 20:28] = 1, 2, 3
    told = components(label > 0).astype(np.int32)
    got = figures(told, label)
    assert got["ap_dsb"] == pytest.approx(1 / (1 + 1 + 2))
    assert got["f1_50"] == pytest.approx(2 / 5)
    assert (got["objects"], got["predicted"]) == (3, 2)


def test_images_without_objects():
    empty, one = np.zeros((6, 6), np.int32), np.zeros((6, 6), np.int32)
    one[2:4, 2:4] = 7
    assert figures(empty, empty)["ap_dsb"] == figures(empty, empty)["f1_50"] == 1
    assert figures(one, empty)["ap_dsb"] == figures(empty, one)["ap_dsb"] == 0
    # An object that lies wholly where nothing is known is none.
    assert figures(one, np.where(one > 0, -1, 0))["ap_dsb"] == 1
    nothing = figures(one, empty - 1)
    assert nothing.pop("images") == 0 and all(math.isnan(value) for value in nothing.values())


def test_numbers_change_nothing_and_thresholds_choose_the_figures():
    rng = np.random.default_rng(4)
    told, label = cells(rng), cells(rng)
    other = np.where(told > 0, 2_000_000 - told, 0)
    assert figures(other, label) == figures(told, label)
    assert figures(told, told)["ap_dsb"] == 1
    assert figures(told, label, thresholds=(0.75, 0.6)).keys() == {
        *("ap_dsb", "ap_dsb_75", "f1_75", "objects", "predicted", "images"),
    }
    assert figures(told, label, thresholds=(0.75,))["ap_dsb"] == figures(told, label)["ap_dsb_75"]


def test_padding_weights_and_ignored_pixels_change_nothing_and_sums_add():
    rng = np.random.default_rng(5)
    label, told = (np.stack([cells(rng) for _ in range(4)]) for _ in range(2))
    label[rng.random(label.shape) < 0.1] = -1
    size = np.array([[40, 48], [24, 48], [40, 48], [30, 20]])
    weight = np.array([1, 0.5, 0, 1], np.float32)
    metric = dsb_average_precision()
    whole = metric.measure({"instances": told}, as_batch(label, weight, size))
    pairs = [(told[i, :h, :w], label[i, :h, :w]) for i, (h, w) in enumerate(size) if i != 2]
    assert metric.compute(whole) == pytest.approx(expected(pairs))
    a, b, c = (metric.measure({"instances": t[None]}, as_batch(g[None])) for t, g in pairs)
    left, right = metric.merge(metric.merge(a, b), c), metric.merge(a, metric.merge(b, c))
    strange, other = np.where(label < 0, -77, told), label.copy()
    strange[2], other[2] = -1, 99
    for i, (h, w) in enumerate(size):
        strange[i, h:], strange[i, :, w:], other[i, h:], other[i, :, w:] = -8, 55, 66, 5
    same = metric.measure({"instances": strange}, as_batch(other, weight, size))
    for sums in (left, right, same):
        np.testing.assert_allclose(sums["score"], whole["score"], rtol=1e-14)
        for name in ("hits", "predicted", "objects", "images"):
            np.testing.assert_array_equal(sums[name], whole[name])
            assert sums[name].dtype == np.int64


def test_bad_input():
    flat = np.zeros((1, 4, 5), np.int32)
    metric = dsb_average_precision()
    for make, message in (
        (lambda: dsb_average_precision(thresholds=()), r"thresholds=\(\)"),
        (lambda: dsb_average_precision(thresholds=(0.3, 0.5)), r"thresholds=\(0.3, 0.5\)"),
        (lambda: dsb_average_precision(thresholds=(1.0,)), r"thresholds=\(1.0,\)"),
        (lambda: metric.measure({"instances": flat - 3}, as_batch(flat)), "negative instance -3"),
        (lambda: metric.measure({"instances": flat[:, 1:]}, as_batch(flat)), "differ in size"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
