"""Flip, scale and crop: the labels follow the image."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxseg.data import random_crop_flip_scale


def ramp(height, width):
    """An image whose channels are its row and column, and the same as labels."""
    rows, columns = np.indices((height, width))
    image = np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)
    masks = np.stack([rows < 1, columns < width // 2, rows >= 0])
    labels = np.stack([rows, columns]).astype(np.int32)
    return {"id": "a", "image": image, "label": labels[0], "labels": labels, "masks": masks}


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 120),
    width=st.integers(1, 120),
    crop=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    seed=st.integers(0, 2**31),
    channels=st.sampled_from([1, 3, 4]),
)
def test_labels_follow(height, width, crop, seed, channels):
    example = ramp(height, width)
    example["image"] = np.repeat(example["image"][..., :2], 2, axis=-1)[
        ..., [0, 2, 1, 3][:channels]
    ]
    rng = np.random.default_rng(seed)
    out = random_crop_flip_scale(example, rng, crop_size=crop, scale_range=(0.2, 3.0))
    h, w = out["size"]
    assert out["image"].shape == (*crop, channels) and out["label"].shape == crop
    assert out["image"].dtype == np.uint8 and out["label"].dtype == np.int32
    assert h >= 1 and w >= 1 and 1 <= len(out["masks"]) <= 3 and out["masks"].any((1, 2)).all()
    for key in ("label", "labels"):
        inside = out[key][..., :h, :w]
        assert (inside >= 0).all() and (out[key] >= 0).sum() == inside.size
    np.testing.assert_array_equal(out["label"], out["labels"][0])
    assert not out["masks"][:, h:].any() and not out["masks"][:, :, w:].any()
    np.testing.assert_array_equal(out["masks"][-1], out["label"] >= 0)
    # Bilinear values and nearest labels of a ramp differ by rounding; at the border of the image
    # and where it shrinks, by up to half of an output pixel.
    names = [0, 1] if channels > 1 else [0]
    for c, k in zip([0, 1][: len(names)], names, strict=True):
        difference = out["image"][:h, :w, c].astype(int) - out["labels"][k, :h, :w]
        assert np.abs(difference).max() <= 4
    assert example["image"].shape[:2] == (height, width)


def test_equals_resizing_everything():
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3)).astype(np.uint8)
    image = np.asarray(Image.fromarray(image).resize((140, 120), Image.Resampling.BICUBIC))
    example = {"id": "a", "image": image, "label": np.arange(image[..., 0].size).reshape(120, 140)}
    for scale in (0.75, 1.0, 1.3, 2.9):
        size = (round(120 * scale), round(140 * scale))
        whole = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
        labels = Image.fromarray(example["label"].astype(np.int32))
        labels = np.asarray(labels.resize(size[::-1], Image.Resampling.NEAREST))
        for seed in range(4):
            out = random_crop_flip_scale(
                example,
                np.random.default_rng(seed),
                crop_size=80,
                flip_probability=0.0,
                scale_mean=scale,
                scale_std=0.0,
            )
            draws = np.random.default_rng(seed)
            draws.standard_normal()
            top, left = (int(draws.random() * (n - 79)) for n in size)
            found, expected = (
                out["image"].astype(int),
                whole[top : top + 80, left : left + 80].astype(int),
            )
            # Sums that end on one half (weights of a third) are rounded one way or the other.
            difference = np.abs(found - expected)
            assert difference.max() <= 2 and difference.mean() < 0.25
            # Centres on the edge of two pixels may take either.
            ties = [
                (2 * np.arange(k, k + 80) + 1) * n % (2 * m) == 0
                for k, n, m in zip((top, left), (120, 140), size, strict=True)
            ]
            clear = ~ties[0][:, None] & ~ties[1]
            expected = labels[top : top + 80, left : left + 80]
            assert clear.sum() > 2000
            np.testing.assert_array_equal(out["label"][clear], expected[clear])


def test_flip_and_probabilities():
    example = ramp(40, 50)
    still = functools.partial(random_crop_flip_scale, crop_size=(40, 50), scale_std=0.0)
    rng = np.random.default_rng(0)
    same = still(example, rng, flip_probability=0.0)
    np.testing.assert_array_equal(same["image"], example["image"])
    turned = still(example, rng, flip_probability=1.0)
    for key, axis in (("image", 1), ("label", 1), ("labels", 2), ("masks", 2)):
        np.testing.assert_array_equal(turned[key], np.flip(example[key], axis))
    flips = [still(example, rng)["label"][0, 0] == 0 for _ in range(50)]
    assert all(flips)  # Rows do not turn over.
    flips = [still(example, rng)["labels"][1, 0, 0] == 0 for _ in range(400)]
    assert 0.4 < np.mean(flips) < 0.6


def test_points_move_with_the_pixels():
    """Bright pixels are where their points are, whatever the crop, the scale and the flip."""
    rng = np.random.default_rng(0)
    seen = 0
    for scale in (1.0, 3.0):
        for _ in range(20):
            image = np.zeros((40, 50, 3), np.uint8)
            points = np.stack([rng.permutation(40)[:6], rng.permutation(50)[:6]], 1)
            image[*points.T] = 255
            kinds = np.array([0, 1, 2, 3, 4, -1], np.int32)
            example = {"image": image, "points": points.astype(np.float32), "kinds": kinds}
            out = random_crop_flip_scale(
                example, rng, crop_size=30, scale_mean=scale, scale_std=0.0, scale_range=(1.0, 3.0)
            )
            assert out["points"].shape == (6, 2) and out["points"].dtype == np.float32
            assert out["kinds"].dtype == np.int32 and out["kinds"][5] == -1
            inside = out["kinds"] >= 0
            assert np.all(out["points"][out["kinds"] < 0][:-1] >= 0)
            rows, cols = np.round(out["points"][inside]).astype(int).T
            assert np.all(out["image"][rows, cols, 0] > 150)
            seen += inside.sum()
            # Every bright pixel is near a point, unless its point is the absent one.
            lit = np.argwhere(out["image"][..., 0] > 250)
            if scale == 1 and len(lit):
                assert len(lit) - inside.sum() in (0, 1)
    assert seen > 40


def test_scales_are_those_of_the_recipe():
    """A clipped normal: P(s = .75) = Phi(-1/3) = .369, P(s = 3) = 1 - Phi(8/3) = .004."""
    example = ramp(100, 100)
    rng = np.random.default_rng(0)
    spans = []
    for _ in range(600):
        label = random_crop_flip_scale(example, rng, crop_size=60)["label"]
        spans.append(60 / (label.max() - label.min() + 1))
    spans = np.array(spans)
    assert 0.31 < np.mean(spans < 0.77) < 0.43
    assert spans.min() > 0.72 and spans.max() < 3.2
    assert 0.43 < np.mean(spans > 1) < 0.57


def test_small_image_is_mirrored():
    example = ramp(3, 4)
    out = random_crop_flip_scale(
        example, np.random.default_rng(0), crop_size=8, scale_std=0.0, flip_probability=0.0
    )
    np.testing.assert_array_equal(out["image"][:, 0, 0], [0, 1, 2, 2, 1, 0, 0, 1])
    np.testing.assert_array_equal(out["image"][0, :, 1], [0, 1, 2, 3, 3, 2, 1, 0])
    np.testing.assert_array_equal(out["size"], [3, 4])
    assert (out["label"] >= 0).sum() == 12


@pytest.mark.parametrize(
    "options",
    [
        {"crop_size": 0},
        {"scale_range": (2.0, 1.0)},
        {"scale_range": (0.0, 1.0)},
        {"flip_probability": 1.5},
    ],
)
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        random_crop_flip_scale(ramp(9, 9), np.random.default_rng(0), **options)
