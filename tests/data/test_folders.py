"""Folders of every layout and kind, and what is wrong with some."""

import inspect
import json

import numpy as np
import pytest
from PIL import Image

from jaxseg.data import (
    FolderSource,
    open_data,
    open_folder,
    samples_path,
    splits,
    write_image,
    write_labels,
)
from jaxseg.data.cache import DecodeCache, narrow
from jaxseg.types import InputError

RNG = np.random.default_rng(1)
SHAPE = (6, 8)


def picture(path, shape=SHAPE):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = RNG.integers(0, 256, (*shape, 3)).astype(np.uint8)
    Image.fromarray(array).save(path)
    return array


def label(path, high=3, shape=SHAPE):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = RNG.integers(0, high, shape)
    write_labels(path, array)
    return array


def declare(folder, **content):
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))


def test_folders_with_annotators(tmp_path):
    declare(tmp_path, kind="partition")
    image = picture(tmp_path / "images/train/a_1.png")
    maps = [label(tmp_path / f"labels/train/a_1_{k}.png") for k in (0, 2, 10)]
    picture(tmp_path / "images/train/b.jpg")
    alone = label(tmp_path / "labels/train/b.png")
    label(tmp_path / "labels/train/b_0.png")
    picture(tmp_path / "images/val/c.jpg")
    label(tmp_path / "labels/val/c.png")

    source = open_folder(tmp_path, "train")
    assert isinstance(source, FolderSource) and source.ids == ("a_1", "a_1", "a_1", "b")
    for k in range(3):
        np.testing.assert_array_equal(source[k]["image"], image)
        np.testing.assert_array_equal(source[k]["label"], maps[k])
        assert source[k]["label"].dtype == np.int32
        assert source.extent(k) == (*SHAPE, 0)
    np.testing.assert_array_equal(source[3]["label"], alone)
    assert set(source[3]) == {"image", "label", "id"}

    source = open_folder(tmp_path, "train", annotations="all")
    np.testing.assert_array_equal(source[0]["labels"], maps)
    assert [source.extent(i).maps for i in range(2)] == [3, 1]
    assert open_folder(tmp_path, "train", annotations="first").ids == ("a_1", "b")
    assert open_folder(tmp_path, "val+train").ids == ("c", "a_1", "a_1", "a_1", "b")
    assert open_data(tmp_path).ids == ("a_1", "a_1", "a_1", "b", "c")
    assert splits(tmp_path) == ("train", "val")


def test_number_at_the_end_of_another_image(tmp_path):
    declare(tmp_path, kind="partition")
    for name in ("a", "a_1"):
        picture(tmp_path / f"images/{name}.png")
    label(tmp_path / "labels/a_1.png")
    with pytest.raises(InputError, match=r"a.png: no label .*a.png; add it"):
        open_folder(tmp_path)
    label(tmp_path / "labels/a_0.png")
    assert open_folder(tmp_path).ids == ("a", "a_1")
    declare(tmp_path, kind="partition", annotators=False)
    with pytest.raises(InputError, match="no label"):
        open_folder(tmp_path)


def test_lists(tmp_path):
    declare(tmp_path, kind="classes", classes={"1": "x", "2": "y"}, ignore=0, layout="lists")
    for name in ("a", "b", "c"):
        picture(tmp_path / f"images/{name}.jpg")
        found = label(tmp_path / f"labels/{name}.png")
    (tmp_path / "train.txt").write_text("c\n\na.jpg\n")
    (tmp_path / "test.txt").write_text("b")
    (tmp_path / "fold.txt").write_text("b")
    (tmp_path / "notes.txt").write_text("not a list")
    source = open_folder(tmp_path, "train")
    assert source.ids == ("c", "a") and source.info.classes == ("x", "y")
    np.testing.assert_array_equal(source[0]["label"], found - 1)
    assert splits(tmp_path) == ("train", "test")
    assert open_folder(tmp_path).ids == ("c", "a", "b")
    assert open_folder(tmp_path, "fold").ids == ("b",)
    (tmp_path / "test.txt").write_text("b\nd\n")
    with pytest.raises(InputError, match=r"test.txt: line 2: no image 'd'; add it"):
        open_folder(tmp_path, "test")
    (tmp_path / "test.txt").write_text("\n")
    with pytest.raises(InputError, match=r"test.txt: empty"):
        open_folder(tmp_path, "test")


def test_images_alone(tmp_path):
    names = ("b.png", "A.JPG", "._b.png", "notes.txt")
    for name in names[:2]:
        picture(tmp_path / name)
    for name in names[2:]:
        (tmp_path / name).write_text("")
    source = open_folder(tmp_path)
    assert source.ids == ("A", "b") and set(source[0]) == {"image", "id"}
    assert splits(tmp_path) == ("all",) and open_folder(tmp_path, "all").ids == source.ids
    with pytest.raises(InputError, match="no split 'train'; there are all"):
        open_folder(tmp_path, "train")


@pytest.mark.parametrize(
    ("declared", "option", "channels"),
    [("grey", None, 3), ("grey", "grey", 1), ("rgb+nir", None, 4), ("rgb", "raw", 4)],
)
def test_channels(tmp_path, declared, option, channels):
    declare(tmp_path, kind="unlabelled", channels=declared)
    Image.fromarray(RNG.integers(0, 256, (*SHAPE, 4)).astype(np.uint8)).save(tmp_path / "a.png")
    assert open_folder(tmp_path, channels=option)[0]["image"].shape == (*SHAPE, channels)


def test_instances(tmp_path):
    declare(tmp_path, kind="instances", ignore=9)
    picture(tmp_path / "images/train/a.png")
    found = np.zeros(SHAPE, np.int32)
    found[:2], found[3:5, 2:4], found[5, 0] = 4, 7, 9
    (tmp_path / "labels/train").mkdir(parents=True)
    write_labels(tmp_path / "labels/train/a.png", found)
    source = open_folder(tmp_path, "train")
    np.testing.assert_array_equal(source[0]["masks"], [found == 4, found == 7])
    assert source.extent(0) == (*SHAPE, 2)
    as_map = open_folder(tmp_path, "train", as_partition=True)
    np.testing.assert_array_equal(as_map[0]["label"], np.where(found == 9, -1, found))
    assert as_map.info.kind == "partition" and "masks" not in as_map[0]


@pytest.mark.parametrize("with_labels", [True, False])
def test_stacked_masks_overlap(tmp_path, with_labels):
    declare(tmp_path, kind="instances", stacked_masks="masks")
    picture(tmp_path / "images/a.png")
    masks = np.zeros((4, *SHAPE), bool)
    masks[0, :3], masks[1, 2:4], masks[3, 5:] = True, True, True
    (tmp_path / "masks").mkdir()
    Image.fromarray(masks.reshape(-1, SHAPE[1])).save(tmp_path / "masks/a.png")
    if with_labels:
        found = label(tmp_path / "labels/a.png")
    source = open_folder(tmp_path)
    np.testing.assert_array_equal(source[0]["masks"], masks[[0, 1, 3]])
    assert source.extent(0).maps == 3
    flat = open_folder(tmp_path, as_partition=True)[0]["label"]
    if with_labels:
        np.testing.assert_array_equal(flat, found)
    else:
        np.testing.assert_array_equal(flat[:, 0], [1, 1, 1, 2, 0, 3])
    Image.fromarray(masks.reshape(-1, SHAPE[1])[:-1]).save(tmp_path / "masks/a.png")
    with pytest.raises(InputError, match=r"a.png: 23x8 holds no whole number of masks of 6x8"):
        source = open_folder(tmp_path)
        source[0]


def test_what_is_missing(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        open_folder(tmp_path / "missing")
    with pytest.raises(InputError, match="no images"):
        open_folder(tmp_path)
    declare(tmp_path, kind="partition", layout="folders")
    with pytest.raises(InputError, match="images: no such folder"):
        open_folder(tmp_path, "train")
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="no splits; expected images/train/"):
        open_folder(tmp_path, "train")
    (tmp_path / "images/train").mkdir()
    with pytest.raises(InputError, match="train: no images"):
        open_folder(tmp_path, "train")
    with pytest.raises(InputError, match="no split 'tset'; there are train"):
        open_folder(tmp_path, "train+tset")
    picture(tmp_path / "images/train/a.png")
    with pytest.raises(InputError, match="labels/train: no such folder"):
        open_folder(tmp_path, "train")
    label(tmp_path / "labels/train/a.png")
    with pytest.raises(ValueError, match="annotations is 'some'"):
        # Without the check of annotations.
        inspect.unwrap(open_folder)(tmp_path, annotations="some")
    picture(tmp_path / "images/train/a.jpg")
    with pytest.raises(InputError, match=r"a.png: a.jpg has the same name; rename"):
        open_folder(tmp_path)


def test_bad_labels(tmp_path):
    declare(tmp_path, kind="classes", classes=["x", "y"])
    for name, shape, high in (("a", (8, 6), 2), ("b", SHAPE, 5)):
        picture(tmp_path / f"images/{name}.png")
        label(tmp_path / f"labels/{name}.png", high, shape)
    source = open_folder(tmp_path)
    with pytest.raises(
        InputError, match=r"labels/a.png: the label is 8x6, the image 6x8 .*; export"
    ):
        source[0]
    with pytest.raises(
        InputError, match=r"labels/b.png: values 2 \(\d+ pixels\), .* are no classes"
    ):
        source[1]


def test_labels_painted_in_the_colours_of_the_classes(tmp_path):
    colors = [[128, 0, 0], [0, 0, 192]]
    declare(tmp_path, kind="classes", classes=["x", "y"], colors=colors)
    picture(tmp_path / "images/a.png")
    indices = label(tmp_path / "labels/a.png", 2)
    write_image(tmp_path / "labels/a.png", np.array(colors, np.uint8)[indices])
    with pytest.raises(InputError, match=r"labels/a.png: .* painted in the colours of") as error:
        open_folder(tmp_path)[0]
    assert "\n" not in str(error.value)


def test_cache_reads_once(tmp_path):
    declare(tmp_path, kind="partition")
    before = [picture(tmp_path / f"images/{name}.png") for name in "ab"]
    for name in "ab":
        label(tmp_path / f"labels/{name}.png")
    room = before[0].nbytes + SHAPE[0] * SHAPE[1]
    source = open_folder(tmp_path, cache_bytes=room)
    first = [source[i] for i in range(2)]
    for path in tmp_path.glob("images/*.png"):
        path.unlink()
    np.testing.assert_array_equal(source[0]["image"], before[0])
    np.testing.assert_array_equal(source[0]["label"], first[0]["label"])
    assert not source[0]["image"].flags.writeable and source[0]["label"].flags.writeable
    with pytest.raises(InputError, match="no such file"):
        source[1]
    with pytest.raises(ValueError, match="max_bytes is -1"):
        DecodeCache(-1)


@pytest.mark.parametrize(("high", "kind"), [(255, "uint8"), (256, "uint16"), (70000, "uint32")])
def test_labels_are_kept_narrow(high, kind):
    labels = np.array([[0, high]], np.int32)
    assert narrow(labels).dtype == kind
    np.testing.assert_array_equal(narrow(labels), labels)
    assert narrow(-labels).dtype == np.int32


def test_samples():
    root = samples_path()
    assert sum(p.stat().st_size for p in root.rglob("*") if p.is_file()) < 4e6
    train, test = open_folder(root, "train"), open_folder(root, "test")
    assert (len(train), len(test)) == (30, 10) and not set(train.ids) & set(test.ids)
    for source in (train, test):
        for i in range(len(source)):
            masks = source[i]["masks"]
            assert len(masks) >= 5 and masks.sum(axis=0).max() == 1
            assert source.extent(i) == (256, 256, len(masks))
    label_map = open_folder(root, "test", as_partition=True)[0]["label"]
    assert label_map.min() == 0 and label_map.max() == len(test[0]["masks"])
    photos = open_folder(root / "photos")
    assert photos.ids == ("camera", "chelsea", "coffee")
    assert all(photos[i]["image"].shape[2] == 3 for i in range(3))
