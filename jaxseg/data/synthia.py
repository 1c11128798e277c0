"""SYNTHIA-RAND-CITYSCAPES: rendered street scenes with the classes of Cityscapes and some more.

Ros, Sellart, Materzynska, Vazquez, Lopez, "The SYNTHIA Dataset", CVPR 2016; 9400 images of
760×1280. The release holds `RAND_CITYSCAPES/RGB/NNNNNNN.png` and `RAND_CITYSCAPES/GT/LABELS/`
of the same names: colour PNG of 16 bits a channel, whose first channel is the class id 0..22 and
whose second one numbers objects. Parking slot, terrain, truck and train have an id but hardly a
pixel.

There is no official split. Here every tenth image is "val" and the others are "train". Marin et
al. (ICCV 2019) say that they use 13 thousand images, as many as an older set of the same authors
has (SYNTHIA-RAND, with 11 classes), so that their figures are not of this data. Which classes they
call targets their paper's text, as far as it is known here, does not say.
"""

import os
import pathlib

import numpy as np
from jaxtyping import Int32

from jaxseg.data import images
from jaxseg.data.info import DatasetInfo
from jaxseg.data.pairs import Pair, PairsSource, choose_splits, map_ids
from jaxseg.types import InputError

CLASSES: dict[str, tuple[int, int, int]] = {
    "sky": (70, 130, 180),
    "building": (70, 70, 70),
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "fence": (64, 64, 128),
    "vegetation": (107, 142, 35),
    "pole": (153, 153, 153),
    "car": (0, 0, 142),
    "traffic sign": (220, 220, 0),
    "pedestrian": (220, 20, 60),
    "bicycle": (119, 11, 32),
    "motorcycle": (0, 0, 230),
    "parking slot": (250, 170, 160),
    "road work": (128, 64, 64),
    "traffic light": (250, 170, 30),
    "terrain": (152, 251, 152),
    "rider": (255, 0, 0),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "wall": (102, 102, 156),
    "lane marking": (160, 160, 200),
}
"""Name -> colour for pictures, by class id from 1 on; 0 is void."""
VOID = 0
SPLITS = ("train", "val")
VALIDATION_EVERY = 10
INFO = DatasetInfo(
    name="SYNTHIA-RAND-CITYSCAPES",
    kind="classes",
    layout="folders",
    classes=tuple(CLASSES),
    class_ids=tuple(range(1, len(CLASSES) + 1)),
    colors=tuple(CLASSES.values()),
    ignore=VOID,
)


def read_label(path: pathlib.Path) -> Int32[np.ndarray, "h w"]:
    """Reads and checks a label map: its first channel, or its values where it is grey.

    Raises:
      InputError: the file is damaged, or holds other values.
    """
    values = _first_channel(path)
    return map_ids(values, [(i,) for i in INFO.class_ids], [VOID], str(path))


def _first_channel(path: pathlib.Path) -> Int32[np.ndarray, "h w"]:
    with images.opened(path, str(path)) as image:
        if image.mode != "RGB":
            return images.read_labels(path, colors=INFO.colors)
        if image.tile and image.tile[0][3] == "RGB;16B":
            # Pillow keeps the first byte of 16-bit colours, which is 0 here. Read as if the second
            # one came first, it keeps the second.
            image.tile = [(*image.tile[0][:3], "RGB;16L")]
        image.load()
        return np.asarray(image)[..., 0].astype(np.int32)


class SynthiaSource(PairsSource):
    """SYNTHIA-RAND-CITYSCAPES as a source of the examples that `folders.open_folder` gives.

    Args:
      path: the folder `RAND_CITYSCAPES`, or the one above it.
      split: "train", "val", both joined by "+", or None for both.
      cache_bytes: see `folders.open_folder`.

    Raises:
      InputError: there is no such data, an image has no label map, or the split does not exist;
        where an example is read: a file is damaged, of another size than its image, or of other
        ids.
    """

    def __init__(
        self, path: str | os.PathLike[str], split: str | None = None, *, cache_bytes: int = 0
    ):
        folder = _release_folder(pathlib.Path(path))
        names = choose_splits(folder, SPLITS, split)
        found = [
            pair
            for i, pair in enumerate(_find_pairs(folder))
            if SPLITS[i % VALIDATION_EVERY == VALIDATION_EVERY - 1] in names
        ]
        super().__init__(found, INFO, read_label, cache_bytes=cache_bytes)


def _release_folder(path: pathlib.Path) -> pathlib.Path:
    for folder in (path, path / "RAND_CITYSCAPES", path / "SYNTHIA_RAND_CITYSCAPES"):
        if (folder / "RGB").is_dir():
            return folder
    raise InputError(f"{path}: no RAND_CITYSCAPES/RGB; unpack SYNTHIA_RAND_CITYSCAPES again")


def _find_pairs(folder: pathlib.Path) -> tuple[Pair, ...]:
    pictures, labels = folder / "RGB", folder / "GT" / "LABELS"
    # Copies from a Mac hold ._NAME beside each NAME.
    names = sorted(n for n in os.listdir(pictures) if n.endswith(".png") and n[0] != ".")
    if not names:
        raise InputError(f"{pictures}: no .png; unpack SYNTHIA_RAND_CITYSCAPES again")
    there = set(os.listdir(labels)) if labels.is_dir() else set()
    for name in names:
        if name not in there:
            raise InputError(
                f"{pictures / name}: no label {labels / name}; unpack SYNTHIA_RAND_CITYSCAPES again"
            )
    return tuple(Pair(name.removesuffix(".png"), pictures / name, labels / name) for name in names)
