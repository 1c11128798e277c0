"""SYNTHIA-RAND-CITYSCAPES and ApolloScape, in layouts that the test writes."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxseg.data import Source, apolloscape, eval_batches, synthia, write_image
from jaxseg.data.apolloscape import ApolloscapeSource
from jaxseg.data.synthia import SynthiaSource
from jaxseg.types import InputError

SIZE = (6, 9)


def write_png16(path, pixels):
    """Colours of 16 bits a channel, which Pillow does not write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


@pytest.fixture
def rendered(tmp_path):
    """Twelve images; their ids."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "RAND_CITYSCAPES"
    for part in ("RGB", "GT/LABELS"):
        (folder / part).mkdir(parents=True)
    ids = rng.integers(0, 23, (12, *SIZE))
    for i, values in enumerate(ids):
        write_image(folder / f"RGB/{i:07}.png", rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8))
        # The second channel numbers objects, and needs more than 8 bits.
        objects = rng.integers(0, 60000, SIZE)
        write_png16(
            folder / f"GT/LABELS/{i:07}.png", np.stack([values, objects, 0 * objects], axis=-1)
        )
    (folder / "RGB" / "._0000000.png").write_bytes(b"of a Mac")
    return tmp_path, ids


def test_synthia(rendered):
    folder, ids = rendered
    source = SynthiaSource(folder, cache_bytes=1 << 20)
    assert isinstance(source, Source) and len(source) == 12
    for i in (0, 11, 0):
        example = source[i]
        assert example["id"] == f"{i:07}" and example["image"].shape == (*SIZE, 3)
        np.testing.assert_array_equal(example["label"], ids[i] - 1)
        assert example["label"].dtype == np.int32
    train, val = (SynthiaSource(folder / "RAND_CITYSCAPES", s) for s in ("train", "val"))
    assert val.ids == ("0000009",) and set(train.ids) == set(source.ids) - set(val.ids)
    assert SynthiaSource(folder, "val+train").ids == source.ids
    assert source.info.num_classes == 22 and source.info.classes[9] == "pedestrian"
    [batch] = eval_batches(val, batch_size=1)
    np.testing.assert_array_equal(batch["label"][0], ids[9] - 1)


def test_synthia_in_grey(rendered):
    """Maps that someone saved again with one channel."""
    folder, ids = rendered
    path = folder / "RAND_CITYSCAPES/GT/LABELS/0000003.png"
    Image.fromarray(ids[3].astype(np.uint8)).save(path)
    np.testing.assert_array_equal(synthia.read_label(path), ids[3] - 1)


def test_what_synthia_refuses(rendered):
    folder, _ = rendered
    labels = folder / "RAND_CITYSCAPES/GT/LABELS"
    with pytest.raises(InputError, match="no split 'test'"):
        SynthiaSource(folder, "test")
    with pytest.raises(InputError, match="no RAND_CITYSCAPES/RGB"):
        SynthiaSource(labels)
    write_png16(labels / "0000000.png", np.full((*SIZE, 3), 23))
    with pytest.raises(InputError, match=r"0000000.png: values 23 \(54 pixels\)"):
        SynthiaSource(folder)[0]
    write_png16(labels / "0000001.png", np.zeros((3, 9, 3)))
    with pytest.raises(InputError, match="the label is 3x9, the image 6x9"):
        SynthiaSource(folder)[1]
    (labels / "0000002.png").write_bytes((labels / "0000003.png").read_bytes()[:60])
    with pytest.raises(InputError, match=r"0000002\.png: damaged"):
        SynthiaSource(folder)[2]
    (labels / "0000004.png").unlink()
    with pytest.raises(InputError, match=r"0000004\.png: no label"):
        SynthiaSource(folder)


KNOWN = [*apolloscape.INFO.class_ids, *(i + 128 for i in range(33, 41)), 0, 1, 98, 99, 100, 255]


@pytest.fixture
def roads(tmp_path):
    """Two roads of three lists; the ids of the second road's are not there. The ids by image."""
    rng = np.random.default_rng(1)
    lists, ids = tmp_path / "public_image_lists", {}
    lists.mkdir()
    for split, count in (("train", 3), ("val", 2)):
        lines = []
        for i in range(count):
            name = f"17090{i}_06150_{split}_Camera 5"
            where = "road01_ins/{}/Record001/Camera 5/" + name + "{}"
            image, label = where.format("ColorImage", ".jpg"), where.format("Label", "_bin.png")
            for path in (image, label):
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            write_image(tmp_path / image, rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8))
            ids[name] = rng.choice(KNOWN, SIZE)
            Image.fromarray(ids[name].astype(np.uint8)).save(tmp_path / label)
            lines.append(f"{image}\t{label}\n")
        (lists / f"road01_ins_{split}.lst").write_text("".join(lines))
    other = "road02_ins/{}/Record001/Camera 5/a{}"
    missing = f"{other.format('ColorImage', '.jpg')}\t{other.format('Label', '_bin.png')}\n"
    (lists / "road02_ins_train.lst").write_text(missing)
    return tmp_path, ids


def test_apolloscape(roads):
    folder, ids = roads
    source = ApolloscapeSource(folder, "train+val")
    assert len(source) == 5 and source.info.num_classes == 22
    names = list(apolloscape.CLASSES)
    for example in (source[i] for i in range(5)):
        values = ids[example["id"].removeprefix("road01_ins_")]
        for pixel in np.ndindex(SIZE):
            told, value = example["label"][pixel], int(values[pixel])
            if value in (0, 1, 98, 99, 100, 255):
                assert told == -1
            else:
                single = value - 128 if value >= 161 else value
                assert apolloscape.CLASSES[names[told]][0] == single
    assert len(ApolloscapeSource(folder, "val")) == 2 and len(ApolloscapeSource(folder)) == 5
    # The eight right-most columns of Table 2.
    targets = [names[i] for i in apolloscape.TARGETS]
    assert targets == [
        "car",
        "motorbicycle",
        "bicycle",
        "person",
        "rider",
        "truck",
        "bus",
        "tricycle",
    ]
    assert source.info.colors[names.index("bicycle")] == (119, 11, 32)
    # The lists may lie beside the roads.
    for path in (folder / "public_image_lists").iterdir():
        path.rename(folder / path.name)
    assert ApolloscapeSource(folder, "val").ids == source.ids[3:]


def test_what_apolloscape_refuses(roads, tmp_path):
    folder, ids = roads
    label = folder / f"road01_ins/Label/Record001/Camera 5/{next(iter(ids))}_bin.png"
    Image.fromarray(np.full(SIZE, 41, np.uint8)).save(label)
    with pytest.raises(InputError, match=r"_bin.png: values 41 \(54 pixels\)"):
        ApolloscapeSource(folder, "train")[0]
    with pytest.raises(InputError, match="no split 'test'"):
        ApolloscapeSource(folder, "test")
    label.unlink()
    with pytest.raises(InputError, match=r"line 1: no .*_bin.png; unpack road01_ins again"):
        ApolloscapeSource(folder)
    (folder / "public_image_lists/road01_ins_val.lst").write_text("one word\n")
    with pytest.raises(InputError, match="line 1 is no image and label"):
        ApolloscapeSource(folder, "val")
    (folder / "road01_ins").rename(tmp_path / "elsewhere")
    (folder / "public_image_lists/road01_ins_val.lst").write_text("\n")
    with pytest.raises(InputError, match="no folder of a listed road"):
        ApolloscapeSource(folder)
    with pytest.raises(InputError, match="no public_image_lists"):
        ApolloscapeSource(tmp_path / "elsewhere")
