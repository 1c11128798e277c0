import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.metrics import confusion

CLASSES = 4


def example(seed, batch=3, shape=(5, 6), classes=CLASSES):
    rng = np.random.default_rng(seed)
    return {"classes": rng.integers(0, classes, (batch, *shape)).astype(np.int32)}, {
        "label": rng.integers(-1, classes, (batch, *shape)).astype(np.int32),
        "weight": np.ones(batch, np.float32),
        "size": np.tile(np.array([shape], np.int32), (batch, 1)),
    }


def slow(prediction, batch):
    """By definition, over sets of pixels."""
    true, told = ([set() for _ in range(CLASSES)] for _ in range(2))
    for pixel in np.ndindex(batch["label"].shape):
        b, y, x = pixel
        if batch["label"][pixel] < 0 or not batch["weight"][b]:
            continue
        if y < batch["size"][b][0] and x < batch["size"][b][1]:
            true[batch["label"][pixel]].add(pixel)
            told[prediction["classes"][pixel]].add(pixel)
    total = sum(map(len, true))
    pairs = list(zip(true, told, strict=True))
    iou = [len(a & b) / len(a | b) if a | b else math.nan for a, b in pairs]
    accuracy = [len(a & b) / len(a) for a, b in pairs if a]
    return {
        "pixel_accuracy": sum(len(a & b) for a, b in pairs) / total,
        "mean_accuracy": sum(accuracy) / len(accuracy),
        "miou": np.nanmean(iou),
        "fwiou": sum(len(a) * i for a, i in zip(true, iou, strict=True) if a) / total,
        **{f"iou_{c}": i for c, i in enumerate(iou)},
        "pixels": total,
    }


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, CLASSES))
def test_equals_sets_of_pixels(seed, classes):
    prediction, batch = example(seed, classes=classes)
    batch["weight"][1] = 0
    batch["size"][2] = (3, 4)
    batch["label"][0, 0, 0] = 0
    metric = confusion(CLASSES)
    got = metric.compute(metric.measure(prediction, batch))
    assert got == pytest.approx(slow(prediction, batch), nan_ok=True)


def test_a_class_that_is_only_predicted_counts_as_zero():
    label = np.zeros((1, 2, 2), np.int32)
    classes = label.copy()
    classes[0, 0, 0] = 2
    batch = {"label": label, "weight": np.ones(1), "size": np.array([[2, 2]])}
    metric = confusion(CLASSES, names=("sky", "road", "car", "tree"))
    got = metric.compute(metric.measure({"classes": classes}, batch))
    assert got["miou"] == pytest.approx((0.75 + 0) / 2)
    assert got["mean_accuracy"] == 0.75
    assert (got["iou_sky"], got["iou_car"]) == (0.75, 0)
    assert math.isnan(got["iou_road"]) and math.isnan(got["iou_tree"])


def test_sums_add_and_what_is_ignored_changes_nothing():
    prediction, batch = example(1)
    metric = confusion(CLASSES)
    whole = metric.measure(prediction, batch)
    parts = [
        metric.measure({"classes": prediction["classes"][i]}, {k: v[i] for k, v in batch.items()})
        for i in (slice(0, 1), slice(1, 3))
    ]
    np.testing.assert_array_equal(metric.merge(*parts)["matrix"], whole["matrix"])
    assert whole["matrix"].dtype == np.int64
    strange = np.where(batch["label"] < 0, -9, prediction["classes"])
    other = metric.measure({"classes": strange}, batch)
    np.testing.assert_array_equal(other["matrix"], whole["matrix"])


def test_nothing_labelled():
    prediction, batch = example(2)
    batch["label"][:] = -1
    metric = confusion(CLASSES)
    got = metric.compute(metric.measure(prediction, batch))
    assert got["pixels"] == 0
    assert all(math.isnan(value) for name, value in got.items() if name != "pixels")


def test_bad_input():
    prediction, batch = example(3)
    for make, message in (
        (lambda: confusion(0), "num_classes=0"),
        (lambda: confusion(3, names=("a",)), "1 names for 3"),
        (lambda: confusion(2).measure(prediction, batch), "a label is"),
        (
            lambda: confusion(CLASSES).measure({"classes": prediction["classes"] + 9}, batch),
            "a prediction is",
        ),
        (
            lambda: confusion(CLASSES).measure({"classes": prediction["classes"][:, 1:]}, batch),
            "differ in size",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
