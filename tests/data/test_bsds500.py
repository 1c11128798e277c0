"""The official release, written here in small, through ArrayRecord and back."""

import inspect

import numpy as np
import pytest
import scipy.io
from PIL import Image

from jaxseg.data import Bsds500Source, open_data, open_folder, prepare, write_labels
from jaxseg.data.bsds500 import read_groundtruth
from jaxseg.types import InputError

RNG = np.random.default_rng(2)


def write_mat(path, segments):
    cells = np.empty((1, len(segments)), object)
    for k, s in enumerate(segments):
        edges = np.zeros(s.shape, np.uint8)
        edges[:, 1:] = s[:, 1:] != s[:, :-1]
        cells[0, k] = {"Segmentation": s, "Boundaries": edges}
    scipy.io.savemat(path, {"groundTruth": cells})


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The release, and the same as a plain folder."""
    root = tmp_path_factory.mktemp("release")
    plain = root / "plain"
    plain.mkdir()
    (plain / "dataset.json").write_text('{"kind": "partition"}')
    for split, names in (("train", ("12", "3", "45", "7")), ("test", ("8",))):
        for folder in ("images", "groundTruth"):
            (root / "BSDS500/data" / folder / split).mkdir(parents=True)
        (plain / "images" / split).mkdir(parents=True)
        (plain / "labels" / split).mkdir(parents=True)
        for i, name in enumerate(names):
            shape = (10, 16) if i % 2 else (16, 10)
            image = Image.fromarray(RNG.integers(0, 256, (*shape, 3)).astype(np.uint8))
            for place in (root / "BSDS500/data/images", plain / "images"):
                image.save(place / split / f"{name}.jpg")
            segments = [RNG.integers(1, 400, shape).astype(np.uint16) for _ in range(i + 2)]
            write_mat(root / f"BSDS500/data/groundTruth/{split}/{name}.mat", segments)
            for k, s in enumerate(segments):
                write_labels(plain / f"labels/{split}/{name}_{k}.png", s)
    return root


@pytest.fixture(scope="module")
def prepared(release, tmp_path_factory):
    return prepare("bsds500", release, tmp_path_factory.mktemp("data"))


def test_mat(release):
    labels, boundaries = read_groundtruth(release / "BSDS500/data/groundTruth/train/3.mat")
    assert labels.shape == boundaries.shape == (3, 10, 16) and labels.dtype == np.uint16
    np.testing.assert_array_equal(boundaries[..., 1:], labels[..., 1:] != labels[..., :-1])


@pytest.mark.parametrize("annotations", ["each", "all", "first"])
@pytest.mark.parametrize("split", ["train", "test", "train+test", None])
@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_same_examples_as_the_folder(release, prepared, split, annotations, cache_bytes):
    options = {"annotations": annotations, "cache_bytes": cache_bytes}
    expected = open_folder(release / "plain", split, **options)
    found = open_data(prepared, split, **options)
    assert isinstance(found, Bsds500Source) and found.info.kind == "partition"
    assert found.ids == expected.ids and len(found) == len(expected)
    for _ in range(2):
        for i in range(len(found)):
            assert found.extent(i) == expected.extent(i)
            a, b = found[i], expected[i]
            assert set(a) == set(b)
            for key in a:
                np.testing.assert_array_equal(a[key], b[key])
                assert getattr(a[key], "dtype", None) == getattr(b[key], "dtype", None)


def test_prepared_by_any_folder_above(release, prepared):
    assert Bsds500Source(prepared.parent, "train").ids == open_data(prepared, "train").ids
    assert prepare("bsds500", release / "BSDS500/data", prepared.parent.parent) == prepared


def test_errors(release, prepared, tmp_path):
    with pytest.raises(InputError, match="no converter for 'voc'; there is one for bsds500"):
        prepare("voc", release, tmp_path)
    with pytest.raises(InputError, match="no images/ and groundTruth/ of BSDS500; give"):
        prepare("bsds500", tmp_path, tmp_path)
    with pytest.raises(InputError, match="no split 'val'; there are"):
        open_data(prepared, "val")
    with pytest.raises(InputError, match="run it first"):
        Bsds500Source(tmp_path, "train")
    with pytest.raises(ValueError, match="annotations is 'some'"):
        # Without the check of annotations.
        inspect.unwrap(Bsds500Source.__init__)(None, prepared, annotations="some")
    with pytest.raises(InputError, match=r"no.mat: no such file; take"):
        read_groundtruth(tmp_path / "no.mat")
    (tmp_path / "bad.mat").write_bytes(b"x" * 300)
    with pytest.raises(InputError, match=r"bad.mat: no ground truth of BSDS500 \(") as error:
        read_groundtruth(tmp_path / "bad.mat")
    assert "\n" not in str(error.value)
    scipy.io.savemat(tmp_path / "other.mat", {"x": 1})
    with pytest.raises(InputError, match=r"other.mat: no ground truth"):
        read_groundtruth(tmp_path / "other.mat")


def test_incomplete_release(tmp_path):
    data = tmp_path / "BSDS500/data"
    for folder in ("images", "groundTruth"):
        (data / folder).mkdir(parents=True)
    with pytest.raises(InputError, match="images: no train, val, test"):
        prepare("bsds500", tmp_path, tmp_path / "out")
    for folder in ("images", "groundTruth"):
        (data / folder / "train").mkdir()
    Image.new("RGB", (8, 6)).save(data / "images/train/1.jpg")
    with pytest.raises(InputError, match=r"1.mat: no such file"):
        prepare("bsds500", tmp_path, tmp_path / "out")
    write_mat(data / "groundTruth/train/1.mat", [np.ones((8, 6), np.uint16)])
    with pytest.raises(InputError, match=r"1.mat: 8x6, its image 6x8"):
        prepare("bsds500", tmp_path, tmp_path / "out")
    assert not list(tmp_path.glob("out/**/*.array_record*"))
