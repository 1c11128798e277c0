import numpy as np
import pytest
from scipy.ndimage import label

from jaxseg.data.dots import DotsSource
from jaxseg.types import InputError


def test_dots_are_identical_apart_and_on_a_grid():
    source = DotsSource(6, grid=(2, 3), pitch=17, radius=5.5, seed=1)
    corners = set()
    for i in range(len(source)):
        example = source[i]
        image, masks = example["image"], example["masks"]
        assert image.shape == (34, 51, 3) and image.dtype == np.uint8 and masks.dtype == bool
        assert source.extent(i) == (34, 51, 6) == (*image.shape[:2], len(masks))
        np.testing.assert_array_equal(image, masks.any(axis=0)[..., None] * np.array([255] * 3))
        assert label(masks.any(axis=0))[1] == 6 and masks.sum(axis=0).max() == 1
        places = [np.argwhere(mask) for mask in masks]
        for k, place in enumerate(places):
            shift = 17 * np.array(np.divmod(k, 3))
            np.testing.assert_array_equal(place - shift, places[0])
        corners.add(tuple(places[0][0]))
    assert len(corners) > 2
    again = DotsSource(6, grid=(2, 3), pitch=17, radius=5.5, seed=1)
    np.testing.assert_array_equal(again[3]["masks"], source[3]["masks"])
    other = DotsSource(6, grid=(2, 3), pitch=17, radius=5.5, seed=2)
    assert any((other[i]["masks"] != source[i]["masks"]).any() for i in range(6))
    assert source[-1]["id"] == source.ids[5] == "dots_5"


def test_a_dot_is_a_disk():
    (mask,) = DotsSource(1, grid=(1, 1), pitch=19, radius=9.0)[0]["masks"]
    rows, cols = np.mgrid[-9:10, -9:10]
    np.testing.assert_array_equal(mask, rows**2 + cols**2 <= 81)


@pytest.mark.parametrize(
    "wrong", [{"number": 0}, {"grid": (0, 2)}, {"grid": (2, 0)}, {"radius": 20.0}, {"radius": 0.5}]
)
def test_bad_numbers(wrong):
    options = {"number": 2, **wrong}
    with pytest.raises(InputError, match="; give"):
        DotsSource(options.pop("number"), **options)


def test_there_is_no_dot_beyond_the_last():
    with pytest.raises(IndexError):
        DotsSource(2)[2]
