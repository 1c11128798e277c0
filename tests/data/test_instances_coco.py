"""COCO's objects, as the public files have them: polygons, run lengths, crowds."""

import json

import numpy as np
import pytest

from jaxseg import data
from jaxseg.data.instances_coco import CocoInstancesSource
from jaxseg.data.rle import decode_rle, encode_rle, fill_polygons
from jaxseg.types import InputError


def random_masks(rng, count):
    for i in range(count):
        size = rng.integers(1, 40, 2)
        mask = rng.random(size) < rng.random()
        yield np.kron(mask, np.ones((5, 7), bool)) if i % 3 == 0 else mask


def slow_runs(mask):
    """Lengths of runs down the columns, the first of pixels outside."""
    runs, current = [0], False
    for value in mask.T.ravel().tolist():
        if value != current:
            runs.append(0)
            current = value
        runs[-1] += 1
    return runs


def test_run_lengths():
    for mask in random_masks(np.random.default_rng(0), 30):
        np.testing.assert_array_equal(decode_rle(slow_runs(mask), mask.shape), mask)
        np.testing.assert_array_equal(decode_rle(encode_rle(mask), mask.shape), mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools
def test_run_lengths_and_polygons_equal_pycocotools():
    codec = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(1)
    for mask in random_masks(rng, 60):
        theirs = codec.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert encode_rle(mask) == theirs["counts"].decode()
    for i in range(200):
        size = tuple(rng.integers(4, 80, 2).tolist())
        corners = rng.uniform(-8, 90, 2 * rng.integers(3, 12))
        corners = np.round(corners * 2) / 2 if i % 3 == 0 else corners
        theirs = codec.decode(codec.frPyObjects([corners.tolist()], *size))[..., 0]
        np.testing.assert_array_equal(fill_polygons([corners.tolist()], size), theirs)


def test_polygons_hold_the_pixels_whose_middle_is_inside():
    """But for those that the outline passes near to."""
    triangle = [3.2, 2.1, 30.7, 9.4, 11.3, 27.9]
    mask = fill_polygons([triangle], (32, 34))
    corners = np.array(triangle).reshape(3, 2)
    for y, x in np.ndindex(mask.shape):
        sides = []
        for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            (ax, ay), (bx, by) = a, b
            cross = (bx - ax) * (y + 0.5 - ay) - (by - ay) * (x + 0.5 - ax)
            sides.append(cross / np.hypot(bx - ax, by - ay))
        if abs(min(sides)) > 1:
            assert mask[y, x] == (min(sides) > 0)
    assert mask.sum() > 200


SIZES = {7: (20, 30), 3: (24, 16), 5: (10, 12)}
BLOB = np.zeros((20, 30), bool)
BLOB[4:9, 3:20] = True
BLOB[12:15, 22:29] = True


def annotations():
    box = [2.0, 3.0, 9.0, 3.0, 9.0, 8.0, 2.0, 8.0]
    other = [12.0, 1.0, 15.0, 1.0, 15.0, 5.0, 12.0, 5.0]
    rle = {"size": [20, 30], "counts": slow_runs(BLOB)}
    return {
        "images": [
            {"id": i, "file_name": f"{i:012d}.png", "height": h, "width": w}
            for i, (h, w) in SIZES.items()
        ],
        "categories": [{"id": 90, "name": "brush"}, {"id": 2, "name": "bicycle"}],
        "annotations": [
            {"id": 11, "image_id": 7, "category_id": 90, "segmentation": [box, other]},
            {"id": 12, "image_id": 7, "category_id": 2, "iscrowd": 1, "segmentation": rle},
            {"id": 13, "image_id": 3, "category_id": 2, "iscrowd": 0, "segmentation": [box]},
            # It holds no pixel.
            {"id": 14, "image_id": 3, "category_id": 2, "segmentation": [[1, 1, 1, 1, 1, 1]]},
        ],
    }


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    for i, (h, w) in SIZES.items():
        image = rng.integers(0, 256, (h, w, 3)).astype(np.uint8)
        data.write_image(tmp_path / "val2017" / f"{i:012d}.png", image)
    write(tmp_path, annotations())
    return tmp_path


def write(folder, content):
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))


def test_examples(folder):
    source = CocoInstancesSource(folder)
    assert isinstance(source, data.Source)
    assert source.ids == ("000000000007", "000000000003", "000000000005")
    assert source.classes == ("bicycle", "brush") and source.category_ids == (2, 90)
    first = source[0]
    assert first["image"].shape == (20, 30, 3)
    expected = np.zeros((20, 30), bool)
    expected[3:8, 2:9] = expected[1:5, 12:15] = True
    np.testing.assert_array_equal(first["masks"], [expected, BLOB])
    np.testing.assert_array_equal(first["kinds"], [1, 0])
    np.testing.assert_array_equal(first["crowd"], [False, True])
    assert len(source[1]["masks"]) == 1 and source[2]["masks"].shape == (0, 10, 12)
    assert source.extent(1) == (24, 16, 2)
    assert CocoInstancesSource(folder, "val", empty=False).ids == source.ids[:2]


def test_batches_hold_what_is_said_of_masks(folder):
    batches = list(data.eval_batches(CocoInstancesSource(folder), batch_size=2))
    first = batches[0]
    assert first["masks"].shape == (2, 2, 20, 30)
    np.testing.assert_array_equal(first["kinds"], [[1, 0], [-1, -1]])
    np.testing.assert_array_equal(first["crowd"], [[False, True], [False, False]])
    np.testing.assert_array_equal(first["valid"], [[True, True], [False, False]])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"annotations": None}, "no images, annotations and categories"),
        ({"category_id": 5}, "entry 11 is damaged"),
        ({"segmentation": [[1.0, 2.0]]}, "annotation 11 is damaged"),
        ({"segmentation": {"size": [20, 30], "counts": "42"}}, "annotation 11 is damaged"),
        ({"segmentation": {"size": [9, 9], "counts": [81]}}, "annotation 11 is damaged"),
        ({"segmentation": {"size": [20, 30], "counts": [600.5]}}, "annotation 11 is damaged"),
        ({"image_id": 99}, "entry 11 is damaged"),
    ],
)
def test_damage_is_told(folder, change, says):
    content = annotations()
    if "annotations" in change:
        del content["annotations"]
    else:
        content["annotations"][0] |= change
    write(folder, content)
    with pytest.raises(InputError, match=says) as error:
        CocoInstancesSource(folder)[0]
    assert "\n" not in str(error.value) and ";" in str(error.value)


def test_missing_files_are_told(folder):
    for split, says in (("test", "no split 'test'"), ("train", "no such file")):
        with pytest.raises(InputError, match=says):
            CocoInstancesSource(folder, split)
    data.write_image(folder / "val2017" / "000000000007.png", np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(InputError, match="3x3, its annotations are of 20x30"):
        CocoInstancesSource(folder)[0]
