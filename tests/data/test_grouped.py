"""Classes put together in groups, and images cut into tiles."""

import json

import numpy as np
import pytest

from jaxseg.data import (
    GroupedSource,
    MemorySource,
    TiledSource,
    eval_batches,
    open_data,
    write_image,
    write_labels,
)
from jaxseg.data.camvid import CLASSES
from jaxseg.types import InputError

LAND = {"1": "background", "2": "building", "3": "road", "4": "water", "5": "barren"}
GROUPS = {"built": ("building", "road", "background"), "water": ("water",)}


@pytest.fixture
def folder(tmp_path):
    """Two images of classes 1..5 in the files, 0 ignored; one is no multiple of the tiles."""
    colours = [[k, k + 1, k + 2] for k in range(5)]
    info = {"kind": "classes", "classes": LAND, "ignore": 0, "colors": colours, "name": "land"}
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    rng = np.random.default_rng(0)
    for below in ("images", "labels"):
        (tmp_path / below).mkdir()
    for name, size in (("a", (23, 31)), ("b", (20, 10))):
        write_image(
            tmp_path / f"images/{name}.png", rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        )
        write_labels(tmp_path / f"labels/{name}.png", rng.integers(0, 6, size))
    return tmp_path


def test_groups_of_pixels(folder):
    source = open_data(folder)
    grouped = GroupedSource(source, GROUPS)
    assert grouped.info.classes == ("built", "water") and grouped.info.num_classes == 2
    assert grouped.info.colors == ((0, 1, 2), (3, 4, 5)) and grouped.info.name == "land"
    assert grouped.ids == source.ids and len(grouped) == 2
    expected = {0: 0, 1: 0, 2: 0, 3: 1, 4: -1, -1: -1}
    for i in range(2):
        assert grouped.extent(i) == source.extent(i)
        found, label = grouped[i], source[i]["label"]
        assert found["label"].dtype == np.int32
        for old, new in expected.items():
            assert (label == old).any() and (found["label"][label == old] == new).all()
        np.testing.assert_array_equal(found["image"], source[i]["image"])
    several = GroupedSource(open_data(folder, annotations="all"), GROUPS)
    np.testing.assert_array_equal(several[0]["labels"][0], grouped[0]["label"])


def test_groups_by_number_and_of_whole_images():
    examples = [
        {"image": np.zeros((4, 4, 1), np.uint8), "label": np.int32(k)} for k in (-1, 0, 1, 2, 9)
    ]
    grouped = GroupedSource(MemorySource(examples), {"even": (0, 2), "odd": [np.int64(1)]})
    assert [int(grouped[i]["label"]) for i in range(5)] == [-1, 0, 1, 0, -1]
    (batch,) = eval_batches(grouped, batch_size=6)
    assert batch["label"].tolist() == [-1, 0, 1, 0, -1, -1]
    assert grouped.info.classes == ("even", "odd")


def test_unlabelled_images_stay(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    grouped = GroupedSource(open_data(tmp_path), {"all": (0,)})
    assert set(grouped[0]) == {"image", "id"}


def test_groups_of_camvid():
    """The three groups of the published trials hold every class once."""
    groups = {
        "sky": ("Sky",),
        "upright": ("Building", "Tree", "Pole", "SignSymbol", "Fence"),
        "ground": ("Road", "Pavement", "Car", "Pedestrian", "Bicyclist"),
    }
    assert sorted(name for group in groups.values() for name in group) == sorted(CLASSES)


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ({}, "no groups; name one"),
        ({"a": ()}, "group 'a': no list of classes; name one"),
        ({"a": "road"}, "group 'a': no list of classes; name one"),
        ({"a": ("lake",)}, "group 'a': no class 'lake'; the classes are background, building"),
        ({"a": (7,)}, "group 'a': no class 7; the classes are background"),
        ({"a": ("road",), "b": (2,)}, "class 2 is in 'a' and 'b'; strike one"),
    ],
)
def test_groups_that_cannot_be(folder, groups, says):
    with pytest.raises(InputError, match=says):
        GroupedSource(open_data(folder), groups)


def test_names_need_an_info():
    source = MemorySource([{"image": np.zeros((4, 4, 1), np.uint8), "label": np.int32(0)}])
    with pytest.raises(InputError, match="no class 'a'; the classes are not named: give numbers"):
        GroupedSource(source, {"group": ("a",)})


@pytest.mark.parametrize(("size", "counts"), [(10, (6, 2)), ((23, 7), (4, 0)), ((8, 31), (2, 0))])
def test_tiles(folder, size, counts):
    source = open_data(folder, cache_bytes=1 << 20)
    tiles = TiledSource(source, size)
    height, width = (size, size) if isinstance(size, int) else size
    assert len(tiles) == sum(counts) and tiles.info == source.info
    k = 0
    for i, count in enumerate(counts):
        for j in range(count):
            row, column = divmod(j, source[i]["image"].shape[1] // width)
            place = np.s_[row * height : (row + 1) * height, column * width : (column + 1) * width]
            for key in ("image", "label"):
                np.testing.assert_array_equal(tiles[k][key], source[i][key][place])
            assert tiles[k]["id"] == tiles.ids[k] == f"{source.ids[i]}_{row}_{column}"
            assert tiles.extent(k) == (height, width, 0)
            k += 1
    np.testing.assert_array_equal(tiles[-1]["image"], tiles[k - 1]["image"])
    (batch,) = eval_batches(GroupedSource(tiles, GROUPS), batch_size=len(tiles))
    assert batch["label"].shape == (len(tiles), height, width) and batch["label"].max() == 1


def test_tiles_of_weights_and_annotators():
    rng = np.random.default_rng(0)
    example = {
        "image": rng.integers(0, 256, (8, 9, 4)).astype(np.uint8),
        "labels": rng.integers(0, 9, (2, 8, 9)).astype(np.int32),
        "pixel_weight": rng.random((8, 9)).astype(np.float32),
    }
    tiles = TiledSource(MemorySource([example]), 4)
    assert len(tiles) == 4 and tiles.extent(0) == (4, 4, 2)
    np.testing.assert_array_equal(tiles[3]["labels"], example["labels"][:, 4:, 4:8])
    np.testing.assert_array_equal(tiles[2]["pixel_weight"], example["pixel_weight"][4:, :4])


def test_tiles_that_cannot_be(folder):
    with pytest.raises(InputError, match=r"tiles of 40x40 .*: no image is as large; set a smaller"):
        TiledSource(open_data(folder), 40)
    with pytest.raises(ValueError, match="size is 0; expected 1 or more"):
        TiledSource(open_data(folder), 0)
