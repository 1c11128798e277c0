"""COCO-Stuff in 3 or 15 coarse classes, without the things.

Caesar, Uijlings, Ferrari, "COCO-Stuff: Thing and Stuff Classes in Context", CVPR 2018: COCO 2017 in
the layout of the authors' README, `images/{train2017,val2017}/ID.jpg` and, out of
stuffthingmaps_trainval2017.zip, `annotations/{train2017,val2017}/ID.png`. A value of such a map is
one less than the label id of the authors' labels.txt: 0..90 things, 91..181 stuff; 255 unlabelled.

The coarse classes are the parents of the 91 kinds of stuff in the authors' label hierarchy. The 3,
the 15, and the choice of images are those of IIC (Ji, Henriques, Vedaldi, ICCV 2019). With 3
classes its released code makes unlabelled pixels sky, learns from them and counts them; here they
are ignored, as things are.
"""

import functools
import os
import pathlib
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int32, Integer

from jaxseg.data import images, sources
from jaxseg.data.cache import DecodeCache
from jaxseg.data.coco_stuff_files import Files, Rule, choose_splits, find_files, list_curated
from jaxseg.data.info import DatasetInfo
from jaxseg.types import InputError

HIERARCHY: dict[str, tuple[str, ...]] = {
    "ceiling": ("ceiling-other", "ceiling-tile"),
    "floor": (
        *("carpet", "floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood"),
    ),
    "food": ("food-other", "fruit", "salad", "vegetable"),
    "furniture": (
        *("cabinet", "counter", "cupboard", "desk-stuff", "door-stuff", "furniture-other"),
        *("light", "mirror-stuff", "shelf", "stairs", "table"),
    ),
    "raw material": ("cardboard", "metal", "paper", "plastic"),
    "textile": (
        *("banner", "blanket", "cloth", "clothes", "curtain", "mat", "napkin", "pillow", "rug"),
        *("textile-other", "towel"),
    ),
    "wall": (
        *("wall-brick", "wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile"),
        "wall-wood",
    ),
    "window": ("window-blind", "window-other"),
    "building": ("bridge", "building-other", "house", "roof", "skyscraper", "tent"),
    "ground": (
        *("dirt", "gravel", "ground-other", "mud", "pavement", "platform", "playingfield"),
        *("railroad", "road", "sand", "snow"),
    ),
    "plant": (
        *("branch", "bush", "flower", "grass", "leaves", "moss", "plant-other", "straw", "tree"),
    ),
    "sky": ("clouds", "sky-other"),
    "solid": ("hill", "mountain", "rock", "solid-other", "stone", "wood"),
    "structural": ("cage", "fence", "net", "railing", "structural-other"),
    "water": ("fog", "river", "sea", "water-other", "waterdrops"),
}
"""The kinds of stuff of each coarse class; the classes in the order of IIC's 15."""

CLASSES = {3: ("sky", "plant", "ground"), 15: tuple(HIERARCHY)}
"""The coarse classes by how many there are."""

_THINGS = 91
_UNLABELLED = 255
_UNKNOWN = -2


def fine_ids() -> dict[str, int]:
    """The value of each kind of stuff in the label maps, 91..181: numbered by the alphabet."""
    names = sorted(name for kinds in HIERARCHY.values() for name in kinds)
    return {name: _THINGS + i for i, name in enumerate(names)}


@functools.cache
def _table(classes: int) -> np.ndarray:
    ids = fine_ids()
    # One entry more, for what does not fit into 8 bits.
    table = np.full(257, _UNKNOWN, np.int32)
    table[: _THINGS + len(ids)] = table[_UNLABELLED] = -1
    for i, name in enumerate(CLASSES[classes]):
        table[[ids[kind] for kind in HIERARCHY[name]]] = i
    return table


def coarse_labels(
    ids: Integer[np.ndarray, "h w"], name: str, *, classes: int = 3
) -> Int32[np.ndarray, "h w"]:
    """The coarse class of each pixel, -1 on things, other stuff and unlabelled pixels.

    Args:
      ids: values of a label map.
      name: the file, for errors.
      classes: 3 or 15.

    Raises:
      InputError: a value is neither 0..181 nor 255.
    """
    result = _table(classes)[np.where((ids < 0) | (ids > 255), 256, ids)]
    if (result == _UNKNOWN).any():
        wrong, counts = np.unique(ids[result == _UNKNOWN], return_counts=True)
        listed = ", ".join(f"{v} ({n} pixels)" for v, n in zip(wrong[:5], counts, strict=False))
        more = ", ..." if len(wrong) > 5 else ""
        raise InputError(
            f"{name}: values {listed}{more} are none of stuffthingmaps, 0 to 181 and 255; unpack "
            "stuffthingmaps_trainval2017.zip again"
        )
    return result


def _read_label(path: pathlib.Path, classes: int) -> np.ndarray:
    return coarse_labels(images.read_labels(path), str(path), classes=classes)


class CocoStuffSource:
    """COCO-Stuff as a source of examples with coarse classes; see `sources.Source`.

    An example is {"image" `[H, W, 3]` uint8, "label" `[H, W]` int32, "id"}, of the image's size. -1
    is everything but the classes: what the loss and the scores of IIC leave out is `label < 0`. So
    the labels say which pixels it learns from, and which images.

    Images are chosen by their label maps, all of which are read once, which takes minutes; the list
    is kept as `curated_SPLIT_stuff3_0.75_360.txt` and the like, an id a line. The authors' lists
    are not public any more. Their code has the rule of the defaults, and made the list for 15
    classes by it; that for 3 is older, and may have had another.

    Args:
      path: the folder of `images` and `annotations`.
      split: "train", "val", both joined by "+" (IIC learns from both, and is scored on both), or
        None for those that are there.
      classes: 3 or 15.
      curated: whether images are chosen; else all are given.
      min_share: how much of a chosen image is of the classes at least, 0..1 of all its pixels.
      min_side: how many pixels both sides of it have at least.
      cache_dir: the folder of the lists; None: `path`.
      cache_bytes: see `folders.open_folder`.

    Raises:
      InputError: there is no such data, an image has no label map, no image is chosen, or a list
        cannot be written; where an example is read: a file is damaged, a label map of another size
        than its image, or of other values.
      ValueError: there is no such number of classes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None = None,
        *,
        classes: int = 3,
        curated: bool = True,
        min_share: float = 0.75,
        min_side: int = 360,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int = 0,
    ):
        if classes not in CLASSES:
            raise ValueError(f"classes is {classes}; expected 3 or 15")
        if not 0 <= min_share <= 1:
            raise ValueError(f"min_share is {min_share}; expected 0 to 1")
        folder = pathlib.Path(path)
        self._rule = Rule(f"stuff{classes}", min_share, min_side) if curated else None
        self._lists = pathlib.Path(cache_dir or folder)
        self._read = functools.partial(_read_label, classes=classes)
        self.info = DatasetInfo(
            name=f"COCO-Stuff-{classes}",
            kind="classes",
            classes=CLASSES[classes],
            class_ids=tuple(range(classes)),
        )
        found = [f for s in choose_splits(folder, split) for f in self._chosen(folder, s)]
        self.ids = tuple(name for name, _ in found)
        self._files = tuple(files for _, files in found)
        self._cache = DecodeCache(cache_bytes)

    def _chosen(self, folder: pathlib.Path, split: str) -> list[tuple[str, Files]]:
        files = find_files(folder, split)
        if self._rule is None:
            return list(files.items())
        name, share, side = self._rule
        path = self._lists / f"curated_{split}_{name}_{share:g}_{side}.txt"
        return [(i, files[i]) for i in list_curated(path, files, self._rule, self._read)]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        """Decodes an example."""
        i = range(len(self))[index]
        image = self._cache.get((i, "image"), lambda: images.read_image(self._files[i].image))
        # Counted from 1, so that an ignored pixel fits the narrow type.
        kept = self._cache.get((i, "label"), lambda: (self._label(i) + 1).astype(np.uint8))
        example = {"image": image, "label": kept.astype(np.int32) - 1, "id": self.ids[i]}
        sources.check_sizes({**example, "id": str(self._files[i].label)})
        return example

    def _label(self, i: int) -> np.ndarray:
        return self._read(self._files[i].label)

    def extent(self, index: SupportsIndex) -> sources.Extent:
        """Size of an example, from the image's header."""
        return sources.Extent(*images.image_size(self._files[range(len(self))[index]].image), 0)
