import math

import numpy as np
import pytest
from scipy import ndimage

from jaxseg.metrics import boundary_f

CLASSES = 4


def blobs(rng, shape=(14, 17), cell=4, ignored=0.0, classes=CLASSES):
    grid = rng.integers(0, classes, (shape[0] // cell + 1, shape[1] // cell + 1))
    label = np.kron(grid, np.ones((cell, cell), int))[: shape[0], : shape[1]].astype(np.int32)
    label[rng.random(shape) < ignored] = -1
    return label


def as_batch(label, weight=None, size=None):
    return {
        "label": label,
        "weight": np.ones(len(label), np.float32) if weight is None else weight,
        "size": np.array([label.shape[1:]] * len(label)) if size is None else size,
    }


def figures(told, label, **options):
    metric = boundary_f(CLASSES, **options)
    return metric.compute(metric.measure({"classes": told[None]}, as_batch(label[None])))


def slow_contour(classes, label, c):
    def borders(y, x):
        return any(
            0 <= v < label.shape[0]
            and 0 <= u < label.shape[1]
            and label[v, u] >= 0
            and classes[v, u] != c
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        )

    return [p for p in np.ndindex(label.shape) if label[p] >= 0 and classes[p] == c and borders(*p)]


def slow(told, label, tolerance):
    """F of each class, from all pairs of contour pixels; NaN where the label has none of it."""
    limit = tolerance * math.hypot(*label.shape)
    result = []
    for c in range(CLASSES):
        a, b = slow_contour(told, label, c), slow_contour(label, label, c)
        if not (label == c).any():
            result.append(math.nan)
        elif not a or not b:
            result.append(float(not a and not b))
        else:
            p = np.mean([any(math.dist(i, j) <= limit for j in b) for i in a])
            r = np.mean([any(math.dist(i, j) <= limit for j in a) for i in b])
            result.append(2 * p * r / (p + r) if p + r else 0.0)
    return result


@pytest.mark.parametrize("tolerance", [0.0, 0.0075, 0.1])
@pytest.mark.parametrize("ignored", [0.0, 0.15])
def test_equals_all_pairs_of_contour_pixels(tolerance, ignored):
    rng = np.random.default_rng(7)
    labels = [blobs(rng, ignored=ignored, classes=classes) for classes in (4, 2, 3)]
    maps = [blobs(rng, cell=3) for _ in labels]
    metric = boundary_f(CLASSES, tolerance=tolerance)
    got = metric.compute(metric.measure({"classes": np.stack(maps)}, as_batch(np.stack(labels))))
    each = np.nanmean([slow(t, g, tolerance) for t, g in zip(maps, labels, strict=True)], axis=0)
    expected = {f"boundary_f_{c}": f for c, f in enumerate(each)}
    assert got == pytest.approx(expected | {"boundary_f": np.mean(each), "images": 3})
    assert 0 < got["boundary_f"] < 1


def test_contours_on_a_photograph_sized_map_equal_a_distance_transform():
    rng = np.random.default_rng(1)
    label = (ndimage.gaussian_filter(rng.normal(size=(180, 240)), 9) > 0).astype(np.int32)
    told = (ndimage.gaussian_filter(rng.normal(size=(180, 240)), 9) > 0).astype(np.int32)
    cross = ndimage.generate_binary_structure(2, 1)

    def contour(mask):
        return mask & ~ndimage.binary_erosion(mask, cross, border_value=1)

    got = figures(told, label, tolerance=0.01)  # 3 pixels exactly: the limit is included
    for c in (0, 1):
        a, b = contour(told == c), contour(label == c)
        p = np.mean(ndimage.distance_transform_edt(~b)[a] <= 3)
        r = np.mean(ndimage.distance_transform_edt(~a)[b] <= 3)
        assert got[f"boundary_f_{c}"] == pytest.approx(2 * p * r / (p + r))


def test_a_shifted_border_is_right_up_to_the_tolerance():
    label = np.zeros((30, 40), np.int32)  # a diagonal of 50
    label[:, 20:] = 1
    near, far = (np.roll(label, shift, axis=1) for shift in (2, 3))
    near[:, :20], far[:, :20] = 0, 0
    assert figures(near, label, tolerance=0.04)["boundary_f"] == 1
    assert figures(far, label, tolerance=0.04)["boundary_f"] == 0
    assert figures(far, label, tolerance=0.06)["boundary_f"] == 1


def test_classes_without_a_contour():
    flat, split = np.zeros((20, 30), np.int32), np.zeros((20, 30), np.int32)
    split[:, 15:] = 1
    same = figures(flat, flat, names=("a", "b", "c", "d"))
    assert same["boundary_f"] == same["boundary_f_a"] == 1 and math.isnan(same["boundary_f_b"])
    # A contour made up for a class that fills the label; the class made up is not counted.
    assert figures(split, flat) == pytest.approx(
        {"boundary_f": 0, "boundary_f_0": 0, "images": 1}
        | {f"boundary_f_{c}": math.nan for c in (1, 2, 3)},
        nan_ok=True,
    )
    missed = figures(flat, split)
    assert missed["boundary_f_0"] == missed["boundary_f_1"] == 0
    nothing = figures(flat, flat - 1)
    assert nothing["images"] == 0 and math.isnan(nothing["boundary_f"])


def test_padding_weights_and_ignored_pixels_change_nothing_and_sums_add():
    rng = np.random.default_rng(5)
    label = np.stack([blobs(rng, ignored=0.1) for _ in range(4)])
    told = np.stack([blobs(rng) for _ in range(4)])
    size = np.array([[14, 17], [9, 17], [14, 17], [7, 11]])
    weight = np.array([1, 0.5, 0, 1], np.float32)
    metric = boundary_f(CLASSES)
    whole = metric.measure({"classes": told}, as_batch(label, weight, size))
    alone = [
        metric.measure({"classes": told[i : i + 1, :h, :w]}, as_batch(label[i : i + 1, :h, :w]))
        for i, (h, w) in ((i, size[i]) for i in (0, 1, 3))
    ]
    a, b, c = alone
    left, right = metric.merge(metric.merge(a, b), c), metric.merge(a, metric.merge(b, c))
    strange, other = np.where(label < 0, 77, told), label.copy()
    strange[2], other[2] = 99, 99
    for i, (h, w) in enumerate(size):
        strange[i, h:], strange[i, :, w:], other[i, h:], other[i, :, w:] = -8, 55, 66, -1
    same = metric.measure({"classes": strange}, as_batch(other, weight, size))
    for sums in (left, right, same):
        np.testing.assert_allclose(sums["f"], whole["f"], rtol=1e-14)
        np.testing.assert_array_equal(sums["occurs"], whole["occurs"])
        assert sums["images"] == whole["images"] == 3
    assert (whole["f"].dtype, whole["occurs"].dtype) == (np.float64, np.int64)
    assert whole["images"].dtype == left["images"].dtype == np.int64


def test_bad_input():
    flat = np.zeros((1, 4, 5), np.int32)
    metric = boundary_f(2)
    for make, message in (
        (lambda: boundary_f(0), "num_classes=0"),
        (lambda: boundary_f(2, tolerance=-0.1), "tolerance=-0.1"),
        (lambda: boundary_f(2, tolerance=math.nan), "tolerance=nan"),
        (lambda: boundary_f(2, names=("a",)), "1 names for 2"),
        (lambda: metric.measure({"classes": flat}, as_batch(flat + 2)), "a label is 2"),
        (lambda: metric.measure({"classes": flat - 1}, as_batch(flat)), "a prediction is -1"),
        (lambda: metric.measure({"classes": flat[:, 1:]}, as_batch(flat)), "differ in size"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
