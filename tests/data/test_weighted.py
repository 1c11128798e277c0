"""Weights of pixels that follow the image from the source to the batch."""

import functools

import numpy as np
import pytest

from jaxseg.data import (
    MemorySource,
    WeightedLabel,
    WeightedSource,
    random_crop_flip_scale,
    train_batches,
)
from jaxseg.types import InputError


def source(count=3, size=(12, 16)):
    rng = np.random.default_rng(0)
    return MemorySource(
        [
            {
                "image": rng.integers(0, 256, (*size, 3)).astype(np.uint8),
                "label": rng.integers(-1, 300, size).astype(np.int32),
            }
            for _ in range(count)
        ]
    )


def weigh(label):
    return WeightedLabel(label // 2, (label / 7).astype(np.float32))


@pytest.mark.parametrize(("cache_bytes", "calls"), [(0, 6), (1 << 20, 3)])
def test_each_image_is_weighed_once_if_there_is_room(cache_bytes, calls):
    plain, seen = source(), []
    weighted = WeightedSource(
        plain, lambda label: seen.append(1) or weigh(label), cache_bytes=cache_bytes
    )
    assert weighted.ids == plain.ids and len(weighted) == 3
    for _ in range(2):
        for i in range(3):
            example, old = weighted[i], plain[i]
            np.testing.assert_array_equal(example["label"], old["label"] // 2)
            np.testing.assert_array_equal(
                example["pixel_weight"], (old["label"] / 7).astype(np.float32)
            )
            assert example["image"] is old["image"] and weighted.extent(i) == plain.extent(i)
            assert example["label"].dtype == np.int32
            assert example["pixel_weight"].dtype == np.float32
    assert len(seen) == calls


def test_weights_of_another_size_are_refused():
    small = WeightedSource(source(), lambda label: weigh(label[1:]))
    with pytest.raises(InputError, match="0: the label is 11x16, the image 12x16"):
        small[0]
    with pytest.raises(InputError, match="0: the weight map is 12x15, the image 12x16"):
        WeightedSource(source(), lambda x: WeightedLabel(x, np.ones((12, 15), np.float32)))[0]


def test_weights_follow_the_labels_into_batches():
    def weight(label):
        return (2.5 * label + 10).astype(np.float32)

    weighted = WeightedSource(source(), lambda label: WeightedLabel(label, weight(label)))
    augment = functools.partial(random_crop_flip_scale, crop_size=(14, 14), scale_range=(0.5, 2.0))
    batches = iter(train_batches(weighted, batch_size=4, seed=0, transform=augment, num_threads=0))
    for _ in range(3):
        batch = next(batches)
        inside = np.zeros(batch["label"].shape, bool)
        for one, (height, width) in zip(inside, batch["size"], strict=True):
            one[:height, :width] = True
        assert batch["pixel_weight"].shape == (4, 14, 14)
        expected = np.where(inside, weight(batch["label"]), 0)
        np.testing.assert_array_equal(batch["pixel_weight"], expected)
