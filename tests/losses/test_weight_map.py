"""U-Net's weight map against the distances of all pixels to all objects."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import losses

RNG = np.random.default_rng(0)


def slow(masks, ignored, w0, sigma, class_weights, everywhere):
    """Pixel by pixel, with the distances to all pixels of all objects."""
    inside = masks.any(0)
    places = [np.argwhere(mask) for mask in masks if mask.any()]
    a, b = np.sum(~inside & ~ignored), np.sum(inside & ~ignored)
    if class_weights is None:
        class_weights = ((a + b) / (2 * a), (a + b) / (2 * b)) if a and b else (1, 1)
    weights = np.zeros(inside.shape)
    for y, x in np.argwhere(~ignored):
        weights[y, x] = class_weights[int(inside[y, x])]
        if len(places) >= 2 and (everywhere or not inside[y, x]):
            distances = [np.min(np.hypot(*(place - (y, x)).T)) for place in places]
            weights[y, x] += w0 * np.exp(-(sum(sorted(distances)[:2]) ** 2) / (2 * sigma**2))
    return weights


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 6),
    st.sampled_from([0.7, 2.0, 5.0]),
    st.booleans(),
    st.sampled_from([None, (1.0, 2.5)]),
)
def test_equals_all_distances(seed, number, sigma, everywhere, class_weights):
    rng = np.random.default_rng(seed)
    labels = np.zeros((23, 31), np.int32)
    ids = rng.choice(10**6, number, replace=False) + 1
    for i in ids:
        y, x = rng.integers(0, 23), rng.integers(0, 31)
        labels[y : y + rng.integers(1, 8), x : x + rng.integers(1, 8)] = i
    labels[rng.random(labels.shape) < 0.05] = -1
    options = {"sigma": sigma, "everywhere": everywhere, "class_weights": class_weights}
    masks = np.stack([labels == i for i in [*ids, 0]])[:-1]
    expected = slow(masks, labels < 0, w0=10.0, **options)
    got = losses.unet_weight_map(labels, **options)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_masks_may_overlap():
    masks = np.zeros((4, 12, 14), bool)
    masks[0, 2:6, 1:7] = masks[1, 4:9, 5:10] = masks[2, 10:, 12:] = True  # The last is empty.
    expected = slow(masks, np.zeros((12, 14), bool), 3.0, 2.0, None, False)
    got = losses.unet_weight_map(masks, w0=3.0, sigma=2.0)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    apart = np.where(masks[0], 7, 0) + np.where(masks[2], 9, 0)
    np.testing.assert_array_equal(
        losses.unet_weight_map(apart), losses.unet_weight_map(masks[[2, 0]])
    )


def test_a_gap_of_one_pixel_has_the_greatest_weight():
    labels = np.zeros((40, 41), np.uint8)
    labels[10:30, 5:20], labels[10:30, 21:36] = 1, 2
    weights = losses.unet_weight_map(labels, class_weights=(1.0, 1.0))
    np.testing.assert_allclose(weights[10:30, 20], 1 + 10 * np.exp(-(2**2) / 50), rtol=1e-6)
    assert np.max(weights) == weights[20, 20]
    np.testing.assert_array_equal(weights[labels > 0], 1)
    np.testing.assert_allclose(weights[:, 20], weights[::-1, 20])


def test_maps_of_one_kind():
    for fill, expected in ((0, 1), (3, 1), (-1, 0)):
        got = losses.unet_weight_map(np.full((5, 6), fill))
        np.testing.assert_array_equal(got, np.full((5, 6), expected, np.float32))
    one = np.zeros((5, 6), int)
    one[2, 2:5] = 4
    got = losses.unet_weight_map(one, everywhere=True)
    np.testing.assert_allclose(got, np.where(one, 30 / 6, 30 / 54), rtol=1e-6)


def test_bad_options():
    labels = np.zeros((3, 3), int)
    for options in ({"w0": -1.0}, {"sigma": 0.0}):
        with pytest.raises(ValueError, match="expected w0 >= 0"):
            losses.unet_weight_map(labels, **options)
