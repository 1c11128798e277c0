"""A source whose images are all shrunk by one factor; sizes stay different."""

import math

import numpy as np
import pytest
from PIL import Image

from jaxseg.data import MemorySource
from jaxseg.data.info import DatasetInfo
from jaxseg.data.resized import ResizedSource

SIZES = ((12, 18), (9, 7), (1, 2))


def examples():
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.integers(0, 256, (*size, 4)).astype(np.uint8),
            "label": rng.integers(-1, 300, size).astype(np.int32),
            "id": str(i),
        }
        for i, size in enumerate(SIZES)
    ]


@pytest.mark.parametrize(
    ("factor", "sizes"),
    [
        (0.33, ((4, 6), (3, 2), (1, 1))),
        (0.5, ((6, 9), (4, 4), (1, 1))),
        (1.0, SIZES),
        (2.0, ((24, 36), (18, 14), (2, 4))),
    ],
)
@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_each_image_by_its_own_size(factor, sizes, cache_bytes):
    originals = examples()
    source = ResizedSource(MemorySource(originals), factor, cache_bytes=cache_bytes)
    for _ in range(2):
        for i, size in enumerate(sizes):
            got, old = source[i], originals[i]
            assert source.extent(i) == (*size, 0) and got["id"] == old["id"]
            assert got["label"].dtype == np.int32
            # As if the size had been given.
            alone = ResizedSource(MemorySource(originals), size)[i]
            np.testing.assert_array_equal(got["image"], alone["image"])
            for c in range(4):
                plane = Image.fromarray(old["image"][..., c])
                expected = plane.resize(size[::-1], Image.Resampling.BILINEAR)
                np.testing.assert_array_equal(got["image"][..., c], expected)
            height, width = old["label"].shape
            for y, x in np.ndindex(*size):
                row, col = int((y + 0.5) * height / size[0]), int((x + 0.5) * width / size[1])
                assert got["label"][y, x] == old["label"][row, col]


def test_labels_may_keep_their_size():
    originals = examples()
    source = ResizedSource(MemorySource(originals), 0.5, keep_labels=True)
    for i, size in enumerate(SIZES):
        np.testing.assert_array_equal(source[i]["label"], originals[i]["label"])
        assert tuple(source[i]["size"]) == size
        assert source[i]["image"].shape[:2] == source.extent(i)[:2]


@pytest.mark.parametrize("factor", [0.0, -0.5, math.nan, math.inf])
def test_factors_that_do_not_fit(factor):
    with pytest.raises(ValueError, match="expected sides of 1 or more, or a factor above 0"):
        ResizedSource(MemorySource(examples()), factor)


def test_info_is_that_of_the_source():
    class Named(MemorySource):
        info = DatasetInfo("a", "classes", classes=("x", "y"))

    assert ResizedSource(Named(examples()), 0.5).info.classes == ("x", "y")
