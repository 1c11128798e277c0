"""Data sets of whole images in TFDS's own layout, written here in small."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxseg.data import TfdsImagesSource, eval_batches, open_data
from jaxseg.data.records import import_tfds, write_records
from jaxseg.types import InputError

FINE = ("apple", "bear", "bee", "bed")
COARSE = ("fruit", "animals", "things")
COARSE_OF = (0, 1, 1, 2)
FORMS = {"cifar100": (8, 8, 3), "mnist": (7, 7, 1), "stl10": (6, 6, 3)}
COUNTS = {
    "cifar100": {"train": 5, "test": 3},
    "mnist": {"train": 4, "test": 2},
    "stl10": {"train": 3, "test": 2, "unlabelled": 4},
}


def png(image):
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, format="PNG")
    file.seek(0)
    return file


def made(name, split):
    """Images and classes of a split; STL-10's without labels have -1, as TFDS writes them."""
    count = COUNTS[name][split]
    rng = np.random.default_rng(len(name + split))
    images = rng.integers(0, 256, (count, *FORMS[name])).astype(np.uint8)
    return images, [-1] * count if split == "unlabelled" else list(rng.integers(0, 4, count))


def builder_class(data_name):
    tfds = import_tfds()

    class Small(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("3.0.2")
        code_path = None
        name = data_name

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=FORMS[data_name], encoding_format="png"),
                "label": tfds.features.ClassLabel(names=FINE),
            }
            if data_name == "cifar100":
                features["coarse_label"] = tfds.features.ClassLabel(names=COARSE)
                features["id"] = tfds.features.Text()
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, download_manager):
            return {split: self._generate_examples(split) for split in COUNTS[data_name]}

        def _generate_examples(self, split):
            for i, (image, label) in enumerate(zip(*made(data_name, split), strict=True)):
                record = {"image": png(image), "label": int(label)}
                if data_name == "cifar100":
                    record |= {"coarse_label": COARSE_OF[label], "id": f"{split}_{i}"}
                yield i, record

    return Small


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """TFDS's folder, and that of each version in it."""
    root = tmp_path_factory.mktemp("tensorflow_datasets")
    return root, {name: write_records(builder_class(name), root) for name in FORMS}


def as_set(images, labels):
    return sorted(
        (image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
    )


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_images_and_classes(data_dir, name, cache_bytes):
    root, folders = data_dir
    for split in (*COUNTS[name], "train+test"):
        source = TfdsImagesSource(root, name, split, cache_bytes=cache_bytes)
        parts = [made(name, one) for one in split.split("+")]
        images = np.concatenate([images for images, _ in parts])
        labels = np.concatenate([labels for _, labels in parts])
        for _ in range(2):
            examples = [source[i] for i in range(len(source))]
            found = as_set([e["image"] for e in examples], [e["label"] for e in examples])
            assert found == as_set(images, labels)
        assert all(e["label"].dtype == np.int32 and e["label"].ndim == 0 for e in examples)
        assert [e["id"] for e in examples] == list(source.ids)
        assert len(set(source.ids)) == len(source) and source.ids[0].startswith(split[:4])
        assert source.extent(-1) == (*FORMS[name][:2], 0)
        np.testing.assert_array_equal(source[-1]["image"], examples[-1]["image"])
    opened = open_data(folders[name], "train", channels=None, annotations="each")
    assert isinstance(opened, TfdsImagesSource) and opened.info == source.info
    assert opened.info.kind == "image_classes" and opened.info.classes == FINE
    assert opened.info.channels == ("grey" if name == "mnist" else "rgb")


def test_coarse_classes_and_channels(data_dir):
    root, folders = data_dir
    fine = TfdsImagesSource(root, "cifar100", "train")
    coarse = open_data(folders["cifar100"], "train", label="coarse_label", channels="grey")
    assert coarse.info.classes == COARSE and coarse.ids == fine.ids
    for i in range(len(fine)):
        assert coarse[i]["label"] == COARSE_OF[fine[i]["label"]]
        expected = np.asarray(Image.fromarray(fine[i]["image"]).convert("L"))[..., None]
        np.testing.assert_array_equal(coarse[i]["image"], expected)
    assert TfdsImagesSource(root, "mnist", "test", channels="rgb")[0]["image"].shape == (7, 7, 3)


def test_batches(data_dir):
    (batch,) = eval_batches(TfdsImagesSource(data_dir[0], "stl10"), batch_size=10)
    assert batch["image"].shape == (10, 6, 6, 3) and batch["label"].shape == (10,)
    assert (batch["label"] == -1).sum() == 5 and batch["weight"].sum() == 9


def test_errors(data_dir, tmp_path):
    root, folders = data_dir
    with pytest.raises(InputError, match=r"no cifar10 of TFDS; write it with tfds.builder\('cifar"):
        TfdsImagesSource(root, "cifar10")
    with pytest.raises(InputError, match=r"no split 'val'; there are .*train"):
        open_data(folders["mnist"], "val")
    with pytest.raises(InputError, match=r"mnist has no classes 'coarse'; set label to .*: label"):
        open_data(folders["mnist"], label="coarse")
    copy = tmp_path / "mnist/3.0.1"
    copy.mkdir(parents=True)
    for file in folders["mnist"].glob("*.json"):
        (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match=r'3.0.1: holds no ArrayRecord files; write .*="array_'):
        TfdsImagesSource(tmp_path, "mnist")
    other = tmp_path / "mnist/3.0.2"
    other.mkdir()
    (other / "dataset_info.json").write_text('{"name": "mnist"}')
    with pytest.raises(InputError, match=r"2 versions of mnist; give the folder of one"):
        TfdsImagesSource(tmp_path, "mnist")
