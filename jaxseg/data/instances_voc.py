"""Pascal VOC's objects with their masks (Everingham et al., IJCV 2010).

The public layout is read as it is, VOCdevkit/VOC2012 or its content: `JPEGImages/ID.jpg`,
`SegmentationObject/ID.png` with the object of each pixel, `SegmentationClass/ID.png` with its
class, and `ImageSets/Segmentation/{train,val,trainval}.txt`.
"""

import operator
import os
import pathlib
from typing import NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Bool, Int32

from jaxseg.data import images, sources
from jaxseg.data.cache import DecodeCache, narrow
from jaxseg.data.info import DatasetInfo
from jaxseg.types import InputError

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""Of values 1 to 20 in the files; class k of an example is k + 1 there."""

BORDER = 255
"""The value of outlines and of what is too hard to tell."""


class Files(NamedTuple):
    """Of an image."""

    image: pathlib.Path
    objects: pathlib.Path
    classes: pathlib.Path


class VocInstancesSource:
    """VOC's images with the masks of their objects; see `sources.Source`.

    An example is {"image" `[H, W, 3]` uint8, "masks" `[N, H, W]` bool, "kinds" `[N]` int32, "label"
    `[H, W]` int32, "id"}. `label` is 0 for background and class k + 1 on objects, and -1 on
    borders, which are in no mask: the loss of `methods.semiconv.embedding` and measures of
    instances leave such pixels out. Mask R-CNN does not read it: to it borders are background.

    Args:
      path: `VOC2012`, or a folder that holds it.
      split: "train", "val", or "train+val"; None is the same.
      cache_bytes: decoded files are kept in memory up to this number of bytes.

    Raises:
      InputError: a file or folder is missing; where an example is read: one is damaged, of another
        size, or an object is of no class or of several.
    """

    def __init__(
        self, path: str | os.PathLike[str], split: str | None = None, *, cache_bytes: int = 0
    ):
        root = _root(pathlib.Path(path))
        self.ids = tuple(i for name in _choose(root, split) for i in _listed(root, name))
        self._files = [
            Files(
                root / "JPEGImages" / f"{i}.jpg",
                root / "SegmentationObject" / f"{i}.png",
                root / "SegmentationClass" / f"{i}.png",
            )
            for i in self.ids
        ]
        self.info = DatasetInfo(name="VOC2012", kind="instances", ignore=BORDER)
        self.classes = CLASSES
        self._cache = DecodeCache(cache_bytes)
        self._extents: dict[int, sources.Extent] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        """Decodes an example."""
        i = operator.index(index)
        files = self._files[i]
        image = self._cache.get(files.image, lambda: images.read_image(files.image))
        objects, classes = self._maps(files)
        for path, label in ((files.objects, objects), (files.classes, classes)):
            sources.check_sizes({"id": str(path), "image": image, "label": label})
        masks, kinds = separate(objects, classes, str(files.objects))
        label = np.where(classes == BORDER, -1, classes).astype(np.int32)
        label[objects == BORDER] = -1
        return {"image": image, "masks": masks, "kinds": kinds, "label": label, "id": self.ids[i]}

    def _maps(self, files: Files) -> tuple[np.ndarray, np.ndarray]:
        return self._map(files.objects), self._map(files.classes)

    def _map(self, path: pathlib.Path) -> np.ndarray:
        return self._cache.get(path, lambda: narrow(images.read_labels(path)))

    def extent(self, index: SupportsIndex) -> sources.Extent:
        """Size and number of objects, which are counted once."""
        i = operator.index(index)
        if i not in self._extents:
            objects, _ = self._maps(self._files[i])
            count = len(np.setdiff1d(objects, (0, BORDER)))
            height, width = objects.shape
            self._extents[i] = sources.Extent(height, width, count)
        return self._extents[i]


def separate(
    objects: np.ndarray, classes: np.ndarray, name: str
) -> tuple[Bool[np.ndarray, "n h w"], Int32[np.ndarray, " n"]]:
    """The objects of a map, and the class of each.

    Args:
      objects: 0 for none, `BORDER` for outlines.
      classes: likewise, 1 to 20.
      name: the file, for errors.

    Raises:
      InputError: an object is of no class or of several.
    """
    masks = sources.instance_masks(objects, background=0, ignore=BORDER)
    kinds = np.zeros(len(masks), np.int32)
    for n, mask in enumerate(masks):
        found = np.setdiff1d(classes[mask], (BORDER,))
        if len(found) != 1 or not 1 <= found[0] <= len(CLASSES):
            raise InputError(
                f"{name}: object {objects[mask][0]} has the classes {found.tolist()}; "
                "unpack VOC2012 again"
            )
        kinds[n] = found[0] - 1
    return masks, kinds


def _root(path: pathlib.Path) -> pathlib.Path:
    for folder in (path, path / "VOC2012", path / "VOCdevkit" / "VOC2012"):
        if (folder / "SegmentationObject").is_dir():
            return folder
    raise InputError(f"{path}: no folder SegmentationObject; give VOCdevkit/VOC2012")


def _choose(root: pathlib.Path, split: str | None) -> list[str]:
    names = list(dict.fromkeys((split or "train+val").split("+")))
    for name in names:
        if name not in ("train", "val"):
            raise InputError(f"{root}: no split {name!r}; there are train and val")
    return names


def _listed(root: pathlib.Path, split: str) -> list[str]:
    path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    try:
        found = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable ({error}); unpack VOC2012 again") from None
    if not found:
        raise InputError(f"{path}: lists no image; unpack VOC2012 again")
    return found
