"""Cityscapes' download, made here in small: read as it is, and through ArrayRecord files."""

import importlib.resources.abc
import inspect
import math
import os
import shutil
import sys
import types

import numpy as np
import pytest
from command_line import Jaxseg
from PIL import Image

from jaxseg import metrics
from jaxseg.data import (
    CityscapesSource,
    MemorySource,
    Source,
    cityscapes_records,
    eval_batches,
    open_data,
    prepare,
    train_batches,
)
from jaxseg.data.cityscapes import CLASSES, INFO, LABEL_IDS, train_ids
from jaxseg.data.resized import ResizedSource, at_label_size
from jaxseg.types import InputError

SIZE = (12, 24)
NAMES = {
    "train": ("bonn_000001_000019", "aachen_000002_000019", "bonn_000000_000019"),
    "val": ("ulm_000003_000019",),
    "test": ("berlin_000000_000019", "berlin_000001_000019"),
}
# The authors' table of label ids, with the train id of each that is evaluated.
TABLE = {
    **dict.fromkeys(range(34)),
    **{7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11},
    **{25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18},
}


def by_table(ids):
    mapped = [-1 if TABLE[int(v)] is None else TABLE[int(v)] for v in ids.ravel()]
    return np.array(mapped, np.int32).reshape(ids.shape)


def image_path(folder, split, name):
    return folder / "leftImg8bit" / split / name.split("_")[0] / f"{name}_leftImg8bit.png"


def label_path(folder, split, name, encoding="labelIds"):
    return folder / "gtFine" / split / name.split("_")[0] / f"{name}_gtFine_{encoding}.png"


def save(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)


def write_download(folder, splits=tuple(NAMES), size=SIZE, seed=0):
    """Gives the images and label ids by name."""
    rng = np.random.default_rng(seed)
    found = {}
    for split in splits:
        for name in NAMES[split]:
            image, ids = rng.integers(0, 256, (*size, 3)), rng.integers(0, 34, size)
            if split == "test":
                ids %= 4
            save(image, image_path(folder, split, name))
            save(ids, label_path(folder, split, name))
            found[name] = image.astype(np.uint8), ids
    return found


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cityscapes")
    found = write_download(folder)
    # What else lies there.
    save(np.zeros((*SIZE, 3)), label_path(folder, "train", NAMES["train"][0], "color"))
    image_path(folder, "train", "bonn_x").with_name("._bonn_x_leftImg8bit.png").write_bytes(b"mac")
    (folder / "README").touch()
    return folder, found


@pytest.fixture(scope="module")
def prepared(download, tmp_path_factory):
    return prepare("cityscapes", download[0], tmp_path_factory.mktemp("data"))


def test_the_table():
    assert [TABLE[i] for i in LABEL_IDS] == list(range(19)) and len(CLASSES) == 19
    assert sum(v is not None for v in TABLE.values()) == 19
    # The order in which released networks predict them.
    ids = np.arange(34, dtype=np.int32).reshape(2, 17)
    np.testing.assert_array_equal(train_ids(ids, "a"), by_table(ids))
    stored = np.array([[0, 18, 255]])
    np.testing.assert_array_equal(train_ids(stored, "a", encoding="labelTrainIds"), [[0, 18, -1]])


@pytest.mark.parametrize("way", ["download", "records"])
@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_both_ways_give_what_was_written(download, prepared, way, cache_bytes):
    folder, expected = download
    path = folder if way == "download" else prepared
    source = open_data(path, "train+val", channels="rgb", cache_bytes=cache_bytes)
    assert isinstance(source, CityscapesSource) and isinstance(source, Source)
    assert source.info == INFO
    assert set(source.ids) == {*NAMES["train"], *NAMES["val"]} and len(source) == 4
    assert source.ids[-1] == NAMES["val"][0]
    if way == "download":
        assert source.ids == (*sorted(NAMES["train"]), *NAMES["val"])
    for _ in range(2):
        for i, name in enumerate(source.ids):
            image, ids = expected[name]
            example = source[i]
            np.testing.assert_array_equal(example["image"], image)
            np.testing.assert_array_equal(example["label"], by_table(ids))
            assert example["label"].dtype == np.int32 and example["id"] == name
            assert source.extent(i) == (*SIZE, 0)
    np.testing.assert_array_equal(source[-1]["label"], source[3]["label"])
    with pytest.raises(IndexError):
        source[4]
    assert set(open_data(path).ids) == set(source.ids)
    every = open_data(path, "val", annotations="all")
    assert every[0]["labels"].shape == (1, *SIZE) and every.extent(0) == (*SIZE, 1)
    (batch,) = eval_batches(open_data(path, "train"), batch_size=4)
    assert batch["label"].shape == (4, *SIZE) and batch["weight"].sum() == 3
    batch = next(iter(train_batches(source, batch_size=4, seed=0)))
    for image, label in zip(batch["image"], batch["label"], strict=True):
        (ids,) = (ids for known, ids in expected.values() if (known == image).all())
        np.testing.assert_array_equal(label, by_table(ids))


@pytest.mark.parametrize("way", ["download", "records"])
def test_the_test_images_have_no_labels(download, prepared, way):
    source = open_data(download[0] if way == "download" else prepared, "test")
    assert sorted(source.ids) == sorted(NAMES["test"]) and source.info.kind == "unlabelled"
    assert set(source[0]) == {"image", "id"} and source.extent(0) == (*SIZE, 0)
    np.testing.assert_array_equal(source[1]["image"], download[1][source.ids[1]][0])


def test_the_test_images_need_no_annotations(download, tmp_path):
    shutil.copytree(download[0] / "leftImg8bit/test", tmp_path / "leftImg8bit/test")
    assert open_data(tmp_path).ids == NAMES["test"]
    folder = prepare("cityscapes", tmp_path, tmp_path / "out")
    assert set(open_data(folder).ids) == set(NAMES["test"])


def test_train_ids_in_place_of_label_ids(tmp_path):
    ids = write_download(tmp_path, ["val"])[NAMES["val"][0]][1]
    expected = by_table(ids)
    path = label_path(tmp_path, "val", NAMES["val"][0])
    save(expected % 256, path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    np.testing.assert_array_equal(open_data(tmp_path)[0]["label"], expected)
    path.unlink()
    np.testing.assert_array_equal(open_data(tmp_path)[0]["label"], expected)
    folder = prepare("cityscapes", tmp_path, tmp_path / "out")
    np.testing.assert_array_equal(open_data(folder, "val")[0]["label"], expected)
    wrong = path.with_name(path.name.replace("labelIds", "labelTrainIds"))
    save(ids, wrong)
    with pytest.raises(InputError, match=r"labelTrainIds.png: values 19 .* are no train ids, 0 to"):
        open_data(tmp_path)[0]


def test_what_tfds_writes_is_read(tmp_path, monkeypatch):
    """TFDS's own builder, given Python's file functions in place of TensorFlow's."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.datasets.cityscapes import cityscapes_dataset_builder as module

    big = np.kron(np.arange(32).reshape(4, 8), np.ones((256, 256), int))
    for split, names in NAMES.items():
        save(np.stack([big] * 3, -1), image_path(tmp_path, split, names[0]))
        save(big, label_path(tmp_path, split, names[0]))
    for zipped in ("leftImg8bit", "gtFine"):
        (tmp_path / f"{zipped}_trainvaltest.zip").touch()
    gfile = types.SimpleNamespace(exists=os.path.exists, listdir=os.listdir)
    monkeypatch.setattr(module, "tf", types.SimpleNamespace(io=types.SimpleNamespace(gfile=gfile)))
    # A package that TFDS asks for, and does not need on this Python.
    monkeypatch.setitem(sys.modules, "importlib_resources", importlib.resources)
    monkeypatch.setattr(tfds.download.DownloadManager, "extract", lambda self, path: str(tmp_path))
    builder = module.Builder(
        config="semantic_segmentation", data_dir=tmp_path / "out", file_format="array_record"
    )
    config = tfds.download.DownloadConfig(manual_dir=str(tmp_path))
    builder.download_and_prepare(download_config=config)
    assert set(builder.info.splits) == {"train", "validation", "test"}
    for split in ("train", "val"):
        (example,) = open_data(builder.data_path, split)
        assert example["id"] == NAMES[split][0] and (example["image"] == big[..., None]).all()
        np.testing.assert_array_equal(example["label"], by_table(big))
    assert open_data(builder.data_path, "val").extent(0) == (1024, 2048, 0)
    assert set(open_data(builder.data_path, "test")[0]) == {"image", "id"}


def test_the_command_says_where_it_is(download, tmp_path, capsys):
    command = ("data", "prepare", "cityscapes", "--source", download[0], "-o", tmp_path / "sets")
    folder = Jaxseg(capsys).succeeds(*command).strip().split("--data ")[1]
    assert len(open_data(folder, "train")) == 3
    assert prepare("cityscapes", download[0], tmp_path / "sets") == tmp_path / (
        "sets/cityscapes/1.0.0"
    )


def one_line(error):
    text = str(error.value)
    assert "\n" not in text and ";" in text


def refused(says, function, *arguments):
    with pytest.raises(InputError, match=says) as error:
        function(*arguments)
    one_line(error)


@pytest.mark.parametrize("way", ["download", "records"])
def test_splits_that_cannot_be_opened(download, prepared, tmp_path, way):
    path = download[0] if way == "download" else prepared
    refused(r"no split 'train_extra'; there are train, val, test", open_data, path, "train_extra")
    refused(r"test has no labels, unlike train; open", open_data, path, "train+test")
    refused(r"no data set of jaxseg data prepare cityscapes; run", CityscapesSource, tmp_path)
    with pytest.raises(ValueError, match="annotations is 'some'"):
        inspect.unwrap(CityscapesSource.__init__)(None, path, annotations="some")


@pytest.mark.parametrize(
    ("split", "feature"), [("train_extra", "segmentation_label"), ("train", "disparity_map")]
)
def test_other_configs_of_tfds(monkeypatch, tmp_path, split, feature):
    features = {"image_id": None, "image_left": None, feature: None}
    records = types.SimpleNamespace(dataset_info=types.SimpleNamespace(features=features))
    monkeypatch.setattr(cityscapes_records, "open_records", lambda *_: [(split, records)])
    refused(r"holds no fine labels; write the config semantic", CityscapesSource, tmp_path, split)


def test_incomplete_download(tmp_path):
    refused(r"no leftImg8bit/train, val or test; give", prepare, "cityscapes", tmp_path, tmp_path)
    (tmp_path / "leftImg8bit/val").mkdir(parents=True)
    refused(r"leftImg8bit/val: no CITY/\*_leftImg8bit.png; unpack", open_data, tmp_path)
    write_download(tmp_path, ["val", "train"])
    label_path(tmp_path, "val", NAMES["val"][0]).unlink()
    says = (
        r"ulm_000003_000019_leftImg8bit.png: no label .*ulm_000003_000019_gtFine_labelIds.png; un"
    )
    refused(says, open_data, tmp_path)
    refused(says, prepare, "cityscapes", tmp_path, tmp_path / "out")
    assert len(open_data(tmp_path, "train")) == 3


def test_files_that_cannot_be_used(tmp_path):
    name = NAMES["val"][0]
    ids = write_download(tmp_path, ["val"])[name][1]
    path = label_path(tmp_path, "val", name)

    def refused_both_ways(says):
        refused(says, lambda: open_data(tmp_path)[0])
        refused(says, prepare, "cityscapes", tmp_path, tmp_path / "out")
        assert not list((tmp_path / "out").glob("**/*.array_record*"))

    for value in (34, 255):
        wrong = ids.copy()
        wrong[:2, :3] = value
        save(wrong, path)
        refused_both_ways(rf"labelIds.png: values {value} \(6 pixels\) are no label ids, 0 to 33; ")
    Image.fromarray((ids * 1000).astype(np.uint16)).save(path)
    refused_both_ways(r"labelIds.png: values 1000 .* are no label ids")
    save(ids[:-1], path)
    refused_both_ways(r"labelIds.png: the label is 11x24, the image 12x24 .*; export")
    save(np.stack([ids] * 3, -1), path)
    refused_both_ways(r"labelIds.png: a label map needs one channel")
    save(ids, path)
    image = image_path(tmp_path, "val", name)
    image.write_bytes(image.read_bytes()[:400])
    refused_both_ways(r"leftImg8bit.png: damaged")
    assert open_data(tmp_path).extent(0) == (*SIZE, 0)
    image.write_bytes(b"not a picture")
    refused(r"not an image", lambda: open_data(tmp_path).extent(0))


def test_images_of_several_sizes_are_no_records(tmp_path):
    write_download(tmp_path, ["train"])
    write_download(tmp_path, ["val"], size=(6, 12))
    assert [open_data(tmp_path).extent(i)[:2] for i in (0, 3)] == [SIZE, (6, 12)]
    says = r"ulm_.*: 6x12, other images 12x24 \(height x width\); bring"
    refused(says, prepare, "cityscapes", tmp_path, tmp_path / "out")


def official_scores(predicted, truth):
    """The authors' evaluation, on label ids: one matrix of 34 × 34, void rows left out."""
    matrix = np.zeros((34, 34), np.int64)
    for p, t in zip(predicted, truth, strict=True):
        for i, j in zip(t.ravel(), p.ravel(), strict=True):
            matrix[i, j] += 1
    counted = [i for i, c in TABLE.items() if c is not None]
    scores = {}
    for i in counted:
        right, missed = matrix[i, i], matrix[i].sum() - matrix[i, i]
        wrong = sum(matrix[j, i] for j in counted if j != i)
        scores[i] = right / (right + missed + wrong) if right + missed + wrong else math.nan
    return scores


def test_measured_as_the_authors_do(download):
    """Images and classes of half the size, classes enlarged by Pillow."""
    folder, found = download
    small = (SIZE[0] // 2, SIZE[1] // 2)
    source = ResizedSource(open_data(folder, "train"), small, keep_labels=True)
    metric = at_label_size(metrics.confusion(19, names=tuple(CLASSES)))
    rng = np.random.default_rng(5)
    sums, predicted, truth = None, [], []
    for batch in eval_batches(source, batch_size=2):
        assert batch["image"].shape == (2, *small, 3) and batch["label"].shape == (2, *SIZE)
        classes = rng.integers(0, 17, (2, *small)).astype(np.int32)
        new = metric.measure({"classes": classes}, batch)
        sums = new if sums is None else metric.merge(sums, new)
        for i, n in enumerate(batch["example"]):
            if n >= 0:
                ids = Image.fromarray(np.array(LABEL_IDS, np.uint8)[classes[i]])
                predicted.append(np.asarray(ids.resize(SIZE[::-1], Image.Resampling.NEAREST)))
                truth.append(found[source.ids[n]][1])
    figures, scores = metric.compute(sums), official_scores(predicted, truth)
    assert len(truth) == 3
    for name, i in zip(CLASSES, LABEL_IDS, strict=True):
        assert figures[f"iou_{name}"] == pytest.approx(scores[i], abs=1e-12)
    assert figures["miou"] == pytest.approx(np.nanmean(list(scores.values())), abs=1e-12)


@pytest.mark.parametrize("size", [(5, 9), (6, 7), (23, 31)])
def test_classes_are_enlarged_as_pillow_does(size):
    rng = np.random.default_rng(6)
    classes = rng.integers(0, 3, (1, *size)).astype(np.int32)
    label = rng.integers(-1, 3, (13, 21)).astype(np.int32)
    large = Image.fromarray(classes[0]).resize((21, 13), Image.Resampling.NEAREST)
    batch = {"label": label[None], "size": np.array([[13, 21]]), "weight": np.ones(1)}
    got = at_label_size(metrics.confusion(3)).measure({"classes": classes}, batch)
    expected = metrics.confusion(3).measure({"classes": np.asarray(large)[None]}, batch)
    np.testing.assert_array_equal(got["matrix"], expected["matrix"])


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_labels_keep_their_size(cache_bytes):
    rng = np.random.default_rng(7)
    image = rng.integers(0, 256, (8, 12, 3)).astype(np.uint8)
    label = rng.integers(-1, 300, (8, 12)).astype(np.int32)
    whole = MemorySource([{"image": image, "label": label}])
    source = ResizedSource(whole, (4, 6), keep_labels=True, cache_bytes=cache_bytes)
    for _ in range(2):
        example = source[0]
        assert tuple(example["size"]) == (8, 12)
        np.testing.assert_array_equal(example["label"], label)
        np.testing.assert_array_equal(example["image"], ResizedSource(whole, (4, 6))[0]["image"])
