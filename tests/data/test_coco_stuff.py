"""COCO-Stuff's layout, made here in small: its coarse classes and its choice of images."""

import inspect
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxseg.data import Source, coco_stuff, coco_stuff_files, eval_batches, train_batches
from jaxseg.data.coco_stuff import CLASSES, CocoStuffSource, coarse_labels, fine_ids
from jaxseg.types import InputError

SIZE = (12, 16)
NAMES = {"train": ("000000000030", "000000000009", "000000000025"), "val": ("000000000139",)}
# Of the values 91 to 181: the parent in the authors' hierarchy, as IIC's code numbers its 15.
PARENTS = [
    *(5, 5, 10, 8, 8, 10, 3, 13, 4, 1, 0, 0, 5, 5, 11, 3, 3, 5, 3, 9, 3, 13, 1, 1, 1, 1, 1, 10),
    *(14, 2, 2, 3, 10, 9, 9, 12, 8, 10, 3, 5, 4, 3, 10, 12, 9, 5, 13, 4, 9, 5, 10, 4, 9, 9, 13, 9),
    *(14, 9, 12, 8, 5, 2, 9, 14, 3, 11, 8, 9, 12, 3, 12, 10, 13, 3, 8, 5, 5, 10, 2, 6, 6, 6, 6, 6),
    *(6, 6, 14, 14, 7, 7, 12),
]
SKY, PLANT, GROUND = 11, 10, 9
TREE, CLOUDS, WOOD, PERSON, UNLABELLED = 168, 105, 181, 0, 255


def by_table(ids, classes):
    def one(v):
        parent = PARENTS[v - 91] if 91 <= v < 182 else None
        if classes == 15:
            return -1 if parent is None else parent
        return {SKY: 0, PLANT: 1, GROUND: 2}.get(parent, -1)

    return np.array([one(int(v)) for v in ids.ravel()], np.int32).reshape(ids.shape)


def image_path(folder, split, name):
    return folder / "images" / f"{split}2017" / f"{name}.jpg"


def label_path(folder, split, name):
    return folder / "annotations" / f"{split}2017" / f"{name}.png"


def save(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)


def write_pair(folder, split, name, ids, rng):
    save(rng.integers(0, 256, (*ids.shape, 3)), image_path(folder, split, name))
    save(ids, label_path(folder, split, name))


def mostly(share, size=SIZE, value=TREE, rest=UNLABELLED):
    """A label map with `value` on a share of its pixels, `rest` on the others."""
    ids = np.full(size[0] * size[1], rest)
    ids[: round(share * len(ids))] = value
    return ids.reshape(size)


def refused(says, function, *arguments, **options):
    with pytest.raises(InputError, match=says) as error:
        function(*arguments, **options)
    assert "\n" not in str(error.value) and ";" in str(error.value)


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("coco"), np.random.default_rng(0)
    found = {}
    for split, names in NAMES.items():
        for name in names:
            ids = rng.integers(0, 183, SIZE)
            found[name] = split, np.where(ids == 182, UNLABELLED, ids)
            write_pair(folder, split, name, found[name][1], rng)
    # What else lies there.
    image_path(folder, "train", "._000000000009").write_bytes(b"mac")
    (folder / "annotations/instances_train2017.json").touch()
    return folder, found


@pytest.mark.parametrize("classes", [3, 15])
def test_the_table(classes):
    ids = np.array([[*range(182), UNLABELLED]])
    got = coarse_labels(ids, "a", classes=classes)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, by_table(ids, classes))
    assert set(got[0]) == {*range(-1, classes)}
    names = fine_ids()
    assert len(names) == 91 and set(names.values()) == {*range(91, 182)}
    # Label ids of the authors' labels.txt, less one.
    known = {"banner": 91, "clouds": 105, "sky-other": 156, "tree": 168, "grass": 123, "road": 148}
    assert known.items() <= names.items() and names["wood"] == WOOD
    kind = {"clouds": "sky", "sky-other": "sky", "tree": "plant", "road": "ground"}
    for name, parent in kind.items():
        assert CLASSES[classes][got[0, names[name]]] == parent


def test_unlabelled_pixels_are_no_sky():
    """Unlike in IIC's released code, whose map starts as zeros."""
    ids = np.array([[UNLABELLED, CLOUDS, TREE, WOOD, PERSON]])
    original = np.zeros_like(ids)
    for value in range(182):
        original[ids == value] = by_table(np.array([value]), 3)[0]
    np.testing.assert_array_equal(original, [[0, 0, 1, -1, -1]])
    np.testing.assert_array_equal(coarse_labels(ids, "a", classes=3), [[-1, 0, 1, -1, -1]])


@pytest.mark.parametrize("classes", [3, 15])
@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_examples_are_what_was_written(download, classes, cache_bytes):
    folder, expected = download
    options = {"classes": classes, "curated": False, "cache_bytes": cache_bytes}
    source = CocoStuffSource(folder, "train+val", **options)
    assert isinstance(source, Source)
    assert source.ids == (*sorted(NAMES["train"]), *NAMES["val"]) and len(source) == 4
    assert source.info.classes == CLASSES[classes] and source.info.num_classes == classes
    for _ in range(2):
        for i, name in enumerate(source.ids):
            split, ids = expected[name]
            with Image.open(image_path(folder, split, name)) as image:
                np.testing.assert_array_equal(source[i]["image"], np.asarray(image.convert("RGB")))
            np.testing.assert_array_equal(source[i]["label"], by_table(ids, classes))
            assert source[i]["label"].dtype == np.int32 and source[i]["id"] == name
            assert source.extent(i) == (*SIZE, 0)
    np.testing.assert_array_equal(source[-1]["label"], source[3]["label"])
    with pytest.raises(IndexError):
        source[4]
    (batch,) = eval_batches(source, batch_size=4)
    for example, label in zip(batch["example"], batch["label"], strict=True):
        np.testing.assert_array_equal(label, source[int(example)]["label"])
    assert next(iter(train_batches(source, batch_size=2, seed=0)))["label"].shape == (2, *SIZE)
    assert not list(folder.glob("*.txt"))


def test_splits(download):
    folder = download[0]
    for split, count in (
        ("train", 3),
        ("train2017", 3),
        ("val", 1),
        ("val2017+train", 4),
        (None, 4),
    ):
        assert len(CocoStuffSource(folder, split, curated=False)) == count
    refused(r"no split 'test'; there are train, val", CocoStuffSource, folder, "test")


# Name, label map, whether three quarters of it are of the 3 classes, and of the 15.
CANDIDATES = [
    ("000000000001", mostly(0.75), True, True),
    ("000000000002", mostly(0.745), False, False),
    ("000000000003", mostly(1.0, (11, 16)), False, False),
    ("000000000004", mostly(1.0, (16, 11)), False, False),
    ("000000000005", mostly(0.0), False, False),
    ("000000000006", mostly(1.0, value=PERSON), False, False),
    ("000000000007", mostly(0.5, rest=WOOD), False, True),
    ("000000000008", mostly(0.5, rest=CLOUDS), True, True),
]


@pytest.fixture
def candidates(tmp_path):
    rng = np.random.default_rng(1)
    for name, ids, *_ in CANDIDATES:
        write_pair(tmp_path, "val", name, ids, rng)
    return tmp_path


@pytest.mark.parametrize("classes", [3, 15])
def test_the_choice_of_images(candidates, classes, monkeypatch):
    options = {"classes": classes, "min_side": 12}
    expected = tuple(name for name, _, *kept in CANDIDATES if kept[classes == 15])
    assert CocoStuffSource(candidates, "val", **options).ids == expected
    path = candidates / f"curated_val_stuff{classes}_0.75_12.txt"
    assert tuple(path.read_text().split("\n")[1:-1]) == expected
    # Three quarters are a rule of two numbers.
    assert "000000000002" in CocoStuffSource(candidates, min_share=0.74, min_side=12).ids
    assert "000000000003" in CocoStuffSource(candidates, min_side=11).ids
    refused(r"lists no image; lower min_share", CocoStuffSource, candidates)
    # The list is read from now on, until there are other images.
    with monkeypatch.context() as patch:
        patch.setattr(coco_stuff.images, "read_labels", None)
        assert CocoStuffSource(candidates, "val", **options).ids == expected
    write_pair(candidates, "val", "000000000000", mostly(0.9), np.random.default_rng(2))
    assert CocoStuffSource(candidates, **options).ids == ("000000000000", *expected)


def test_lists_of_others(candidates, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("lists")
    path = elsewhere / "curated_val_stuff3_0.75_360.txt"
    path.write_text("000000000006\n000000000003\n")
    source = CocoStuffSource(candidates, cache_dir=elsewhere)
    assert source.ids == ("000000000006", "000000000003")
    assert (source[0]["label"] == -1).all()
    path.write_text("000000000099\n")
    says = r"stuff3_0.75_360.txt: lists '000000000099', of which there is no image; remove"
    refused(says, CocoStuffSource, candidates, cache_dir=elsewhere)
    path.write_bytes(b"\xff\xfe")
    refused(r"stuff3_0.75_360.txt: not readable", CocoStuffSource, candidates, cache_dir=elsewhere)
    missing = elsewhere / "none"
    refused(r"none/cura.*: not written", CocoStuffSource, candidates, cache_dir=missing, min_side=9)


def test_the_rule_is_tried_on_many_threads_in_order(candidates, monkeypatch):
    monkeypatch.setattr(coco_stuff_files.os, "cpu_count", lambda: 5)
    expected = tuple(name for name, _, kept, _ in CANDIDATES if kept)
    assert CocoStuffSource(candidates, min_side=12).ids == expected


def test_incomplete_downloads(tmp_path, download):
    refused(r"no images/train2017 or images/val2017; unpack", CocoStuffSource, tmp_path)
    (tmp_path / "images/val2017").mkdir(parents=True)
    refused(r"images/val2017: no .jpg; unpack COCO's val2017.zip", CocoStuffSource, tmp_path)
    shutil.copytree(download[0] / "images", tmp_path / "images", dirs_exist_ok=True)
    says = r"139.jpg: no label .*annotations/val2017/000000000139.png; unpack stuffthingmaps"
    refused(says, CocoStuffSource, tmp_path, "val")
    refused(says, CocoStuffSource, tmp_path, "val", curated=False)


def test_files_that_cannot_be_used(tmp_path):
    name, rng = NAMES["val"][0], np.random.default_rng(3)
    write_pair(tmp_path, "val", name, mostly(0.9), rng)
    source = CocoStuffSource(tmp_path, curated=False)
    path = label_path(tmp_path, "val", name)

    def refused_both_ways(says):
        refused(says, lambda: source[0])
        refused(says, CocoStuffSource, tmp_path, min_side=1)
        assert not list(tmp_path.glob("*.txt"))

    wrong = mostly(0.9)
    wrong[:2, :3] = 182
    save(wrong, path)
    refused_both_ways(r"139.png: values 182 \(6 pixels\) are none of stuffthingmaps, 0 to 181 and")
    Image.fromarray(np.full(SIZE, 1000, np.uint16)).save(path)
    refused_both_ways(r"139.png: values 1000 .* are none of stuffthingmaps")
    save(np.stack([mostly(0.9)] * 3, -1), path)
    refused_both_ways(r"139.png: a label map needs one channel")
    path.write_bytes(path.read_bytes()[:60])
    refused_both_ways(r"139.png: damaged")
    save(mostly(0.9, (11, 16)), path)
    refused(r"139.png: the label is 11x16, the image 12x16 .*; export", lambda: source[0])
    save(mostly(0.9), path)
    image_path(tmp_path, "val", name).write_bytes(b"no picture")
    refused(r"139.jpg: not an image", lambda: source[0])
    refused(r"139.jpg: not an image", lambda: source.extent(0))


@pytest.mark.parametrize("options", [{"classes": 4}, {"min_share": 1.5}])
def test_options_that_do_not_fit(download, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is .*; expected"):
        inspect.unwrap(CocoStuffSource.__init__)(None, download[0], **options)
