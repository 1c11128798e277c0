"""Colour changes against Pillow's, `colorsys`, and their own formulas."""

import colorsys

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from jaxseg.data import ColorJitter, Grey
from jaxseg.data import photometric as changes


def picture(channels, size=(20, 24), seed=0):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3)).astype(np.uint8))
    image = np.asarray(small.resize(size[::-1], Image.Resampling.BICUBIC))
    image = np.concatenate([image, rng.integers(0, 256, (*size, 1)).astype(np.uint8)], -1)
    return np.ascontiguousarray(image[..., :channels])


def planes(image):
    return image.reshape(-1, image.shape[2]).T.astype(np.float32)


def image_of(values, like):
    return values.T.reshape(like.shape)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
@pytest.mark.parametrize("name", ["Brightness", "Contrast", "Color"])
def test_equals_pillow(name, factor, channels):
    image = picture(channels)
    shown = Image.fromarray(image[..., 0] if channels == 1 else image)
    expected = np.asarray(getattr(ImageEnhance, name)(shown).enhance(factor), np.float32)
    change = getattr(changes, f"adjust_{'saturation' if name == 'Color' else name.lower()}")
    found = image_of(change(planes(image), factor), image)
    # Pillow rounds the luma, the mean, and the result down.
    assert np.abs(found - expected.reshape(image.shape)).max() < 1.5
    if factor == 1:
        np.testing.assert_allclose(found, image, atol=1e-4)


@pytest.mark.parametrize("shift", [-0.5, -0.11, 0.0, 0.125, 0.4])
def test_hue_turns_in_hsv(shift):
    image = picture(3, (6, 7))
    image[0, :3] = [[0, 0, 0], [90, 90, 90], [255, 0, 255]]
    found = image_of(changes.adjust_hue(planes(image), shift), image)
    for row, column in np.ndindex(6, 7):
        hue, saturation, value = colorsys.rgb_to_hsv(*(image[row, column] / 255.0))
        expected = colorsys.hsv_to_rgb((hue + shift) % 1.0, saturation, value)
        np.testing.assert_allclose(found[row, column], np.array(expected) * 255, atol=1e-3)
    grey = planes(picture(1))
    np.testing.assert_array_equal(changes.adjust_hue(grey, shift), grey)


def test_infrared_stays_and_grey_has_no_colour():
    image, jitter = picture(4), ColorJitter(0.4, 0.4, 0.4, 0.125)
    for seed in range(5):
        of_rgb = jitter(image[..., :3], np.random.default_rng(seed))
        found = jitter(image, np.random.default_rng(seed))
        np.testing.assert_array_equal(found[..., :3], of_rgb)
        np.testing.assert_array_equal(found[..., 3], image[..., 3])
        assert np.abs(of_rgb.astype(int) - image[..., :3]).mean() > 2
        assert found.dtype == np.uint8 and found.flags.c_contiguous
    grey, rng = picture(1), np.random.default_rng(0)
    np.testing.assert_array_equal(ColorJitter(saturation=0.9, hue=0.5)(grey, rng), grey)
    np.testing.assert_array_equal(ColorJitter()(image, rng), image)


def test_factors_are_uniform_and_in_every_order():
    """A grey of 100 tells the factor of the brightness; of two values, the order too."""
    rng, even = np.random.default_rng(1), np.full((2, 2, 1), 100, np.uint8)
    found = np.array([ColorJitter(brightness=0.4)(even, rng)[0, 0, 0] for _ in range(2000)])
    assert 60 <= found.min() < 62 and 138 < found.max() <= 140
    assert abs(found.mean() - 100) < 2 and abs(found.std() - 40 / np.sqrt(3)) < 1
    assert ColorJitter(brightness=3.0)(even, rng).max() <= 255
    pair = np.array([[[100], [250]]], np.uint8)
    seen = set()
    for seed in range(40):
        draws = np.random.default_rng(seed).random(4)
        found = ColorJitter(0.4, 0.4)(pair, np.random.default_rng(seed)).ravel()
        factors = 0.6 + 0.8 * draws[:2]
        results = []
        for order in ("bc", "cb"):
            values = np.array([100.0, 250.0])
            for step in order:
                mean = 0 if step == "b" else values.mean()
                factor = factors["bc".index(step)]
                values = np.clip((values - mean) * factor + mean, 0, 255)
            results.append(np.abs(values - found).max() < 0.51)
        assert any(results)
        if not all(results):
            seen.add(results.index(True))
    assert seen == {0, 1}


def test_grey():
    image, rng = picture(4), np.random.default_rng(0)
    found = Grey()(image, rng)
    expected = np.asarray(Image.fromarray(image[..., :3]).convert("L")).astype(int)
    assert np.abs(found[..., 0] - expected).max() <= 1
    np.testing.assert_array_equal(found[..., 1], image[..., 3])
    assert Grey()(image[..., :3], rng).shape == (20, 24, 1)
    assert Grey()(image[..., :1], rng).shape == (20, 24, 1)


@pytest.mark.parametrize("options", [{"brightness": -0.1}, {"hue": 0.6}])
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match=rf"{next(iter(options))} is .*; expected 0 or more"):
        ColorJitter(**options)
