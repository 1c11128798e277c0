"""VOC's layout, made here in small."""

import numpy as np
import pytest
from PIL import Image

from jaxseg import data
from jaxseg.data.instances_voc import BORDER, CLASSES, VocInstancesSource
from jaxseg.types import InputError

SIZE = (12, 16)


def maps():
    """Two objects of a class that touch, one of another; outlines about each."""
    objects = np.zeros(SIZE, np.uint8)
    objects[1:7, 1:6], objects[1:7, 6:11], objects[8:12, 10:16] = 1, 2, 3
    classes = np.select([(objects == 1) | (objects == 2), objects == 3], [15, 9], 0)
    classes = classes.astype(np.uint8)
    edge = np.zeros(SIZE, bool)
    edge[1:7, 5], edge[7, 9:16] = True, True
    objects[edge] = classes[edge] = BORDER
    return objects, classes


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationObject", "SegmentationClass"):
        (root / name).mkdir(parents=True)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000032\n")
    (lists / "val.txt").write_text("2008_000008\n2011_000003\n")
    palette = np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes()
    for name in ("2007_000032", "2008_000008", "2011_000003"):
        Image.new("RGB", SIZE[::-1], "white").save(root / "JPEGImages" / f"{name}.jpg")
        for kind, values in zip(("Object", "Class"), maps(), strict=True):
            picture = Image.fromarray(values)
            # As released: indices with a palette.
            picture.putpalette(palette)
            picture.save(root / f"Segmentation{kind}" / f"{name}.png")
    return tmp_path


def test_examples(folder):
    objects, classes = maps()
    source = VocInstancesSource(folder, "train+val")
    assert isinstance(source, data.Source) and len(source) == 3
    assert VocInstancesSource(folder / "VOCdevkit/VOC2012", "val").ids == source.ids[1:]
    example = source[0]
    np.testing.assert_array_equal(example["masks"], [objects == k for k in (1, 2, 3)])
    assert [CLASSES[k] for k in example["kinds"]] == ["person", "person", "chair"]
    border = objects == BORDER
    assert border.any() and not (example["masks"].any(axis=0) & border).any()
    np.testing.assert_array_equal(example["label"], np.where(border, -1, classes.astype(int)))
    assert source.extent(0) == (*SIZE, 3)
    (batch,) = data.eval_batches(source, batch_size=3)
    np.testing.assert_array_equal(batch["kinds"], [[14, 14, 8]] * 3)


@pytest.mark.parametrize("value", [0, 9, 21])
def test_objects_of_no_class_or_several_are_told(folder, value):
    _, classes = maps()
    classes[2, 2] = value
    path = folder / "VOCdevkit/VOC2012/SegmentationClass/2007_000032.png"
    Image.fromarray(classes).save(path)
    with pytest.raises(InputError, match="object 1 has the classes"):
        VocInstancesSource(folder, "train")[0]


def test_missing_files_are_told(folder, tmp_path):
    with pytest.raises(InputError, match="no split 'test'"):
        VocInstancesSource(folder, "test")
    with pytest.raises(InputError, match="no folder SegmentationObject"):
        VocInstancesSource(tmp_path / "VOCdevkit" / "none")
    (folder / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").unlink()
    with pytest.raises(InputError, match=r"val\.txt: not readable"):
        VocInstancesSource(folder, "val")
