"""Digits in one file of arrays, made here in small."""

import functools

import numpy as np
import pytest

from jaxseg.data import DigitsSource, eval_batches, image_views, open_data, train_batches
from jaxseg.data.views import digit_first, digit_second
from jaxseg.types import InputError


def arrays(train=6, test=4, seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"{split}_{what}": values
        for split, count in (("train", train), ("test", test))
        for what, values in (
            ("images", rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)),
            ("labels", rng.integers(0, 10, count).astype(np.uint8)),
        )
    }


def keras(found):
    return {
        f"{'x' if what == 'images' else 'y'}_{split}": values
        for name, values in found.items()
        for split, what in [name.split("_")]
    }


@pytest.mark.parametrize("names", [dict, keras])
@pytest.mark.parametrize("split", ["train", "test", "train+test", "test+train", None])
def test_images_and_classes(tmp_path, names, split):
    found = arrays()
    np.savez_compressed(tmp_path / "mnist.npz", **names(found))
    source = open_data(tmp_path, split, channels=None, cache_bytes=1000, annotations="first")
    assert isinstance(source, DigitsSource)
    order = (split or "train+test").split("+")
    images = np.concatenate([found[f"{s}_images"] for s in order])
    labels = np.concatenate([found[f"{s}_labels"] for s in order])
    assert len(source) == len(images) and source.ids[0] == f"{order[0]}_00000"
    for i in range(-1, len(source)):
        example = source[i]
        np.testing.assert_array_equal(example["image"], images[i][..., None])
        assert example["label"] == labels[i] and example["label"].dtype == np.int32
        assert np.ndim(example["label"]) == 0 and example["id"] == source.ids[i]
        assert source.extent(i) == (28, 28, 0)
    with pytest.raises(IndexError):
        source[len(source)]


def test_info_and_channels(tmp_path):
    found = arrays()
    np.savez(tmp_path / "mnist.npz", **found)
    source = open_data(tmp_path, "test", channels="rgb")
    assert source.info.kind == "image_classes" and source.info.num_classes == 10
    assert source.info.classes == tuple("0123456789")
    np.testing.assert_array_equal(
        source[1]["image"], np.repeat(found["test_images"][1][..., None], 3, -1)
    )


def test_a_folder_has_no_such_kind(tmp_path):
    (tmp_path / "dataset.json").write_text('{"kind": "image_classes", "classes": ["a"]}')
    with pytest.raises(InputError, match="kind is 'image_classes'; expected partition, classes, "):
        open_data(tmp_path)


def test_batches_with_views(tmp_path):
    np.savez(tmp_path / "mnist.npz", **arrays())
    source = DigitsSource(tmp_path)
    make = functools.partial(image_views, first=digit_first(), second=digit_second(), repeats=3)
    batches = train_batches(source, batch_size=4, seed=0, transform=make, num_threads=0)
    batch = next(iter(batches))
    assert batch["image"].shape == (4, 24, 24, 1) and batch["views"].shape == (4, 3, 24, 24, 1)
    assert batch["label"].shape == (4,) and batch["label"].dtype == np.int32
    *_, last = eval_batches(source, batch_size=4)
    assert last["label"].tolist()[2:] == [-1, -1] and last["weight"].tolist() == [1, 1, 0, 0]


WRONG = {
    "missing": (lambda a: a.pop("test_labels"), r"no array 'test_labels', but train_images, .*;"),
    "type": (
        lambda a: a.update(train_images=a["train_images"] / 255),
        r"train_images is float64 of shape \(6, 28, 28\); save grey images as uint8",
    ),
    "shape": (
        lambda a: a.update(train_images=a["train_images"][..., None]),
        r"train_images is uint8 of shape \(6, 28, 28, 1\); save grey images as uint8 \[N, H, W\]",
    ),
    "labels": (
        lambda a: a.update(test_labels=a["test_labels"][:, None]),
        r"test_labels is uint8 of shape \(4, 1\); save integers \[N\]",
    ),
    "floats": (
        lambda a: a.update(test_labels=a["test_labels"] * 1.0),
        r"test_labels is float64 of shape \(4,\); save integers",
    ),
    "length": (
        lambda a: a.update(test_labels=a["test_labels"][:3]),
        r"test_images has 4 images, test_labels 3 labels; save as many",
    ),
    "class": (
        lambda a: a.update(test_labels=np.array([0, 11, 3, 4])),
        r"test_labels holds 11; save classes 0..9",
    ),
    "negative": (
        lambda a: a.update(test_labels=np.array([0, 1, -3, 4])),
        r"test_labels holds -3; save classes 0..9",
    ),
    "sizes": (
        lambda a: a.update(test_images=a["test_images"][:, :20]),
        r"images of train and test differ in size; open one",
    ),
}


@pytest.mark.parametrize(("change", "says"), WRONG.values(), ids=WRONG)
def test_files_that_cannot_be_used(tmp_path, change, says):
    found = arrays()
    change(found)
    np.savez(tmp_path / "mnist.npz", **found)
    with pytest.raises(InputError, match=rf"mnist.npz: {says}") as error:
        open_data(tmp_path)
    assert "\n" not in str(error.value)
    if "sizes" in says or "train_images is" not in says:
        assert len(open_data(tmp_path, "train")) == 6


def test_damaged_and_missing_files(tmp_path):
    with pytest.raises(InputError, match=r"mnist.npz: no such file; put the digits there"):
        DigitsSource(tmp_path)
    path = tmp_path / "mnist.npz"
    np.savez(path, **arrays())
    with pytest.raises(InputError, match=r"no split 'val'; there are train, test"):
        open_data(tmp_path, "val")
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[2000:2100] = bytes(100)
    for content in (b"", b"not an archive", whole[: len(whole) // 2], bytes(damaged)):
        path.write_bytes(content)
        with pytest.raises(
            InputError, match=r"mnist.npz: not readable \(.*; copy the file"
        ) as error:
            open_data(tmp_path)
        assert "\n" not in str(error.value)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match=r"mnist.npz: not readable"):
        open_data(tmp_path)
