"""COCO's objects with their masks, for learning to find instances.

The public layout is read as it is: `annotations/instances_{train,val}2017.json` and the images in
`{train,val}2017/`, or in `images/{train,val}2017/`.
"""

import operator
import os
import pathlib
from typing import SupportsIndex

import numpy as np

from jaxseg.data import images, sources
from jaxseg.data.cache import DecodeCache
from jaxseg.data.coco_objects import Photo, Thing, draw_thing, read_objects
from jaxseg.data.info import DatasetInfo
from jaxseg.types import InputError

SPLITS = ("train", "val")


class CocoInstancesSource:
    """COCO's images with the masks of their objects; see `sources.Source`.

    An example is {"image" `[H, W, 3]` uint8, "masks" `[N, H, W]` bool, "kinds" `[N]` int32 from 0
    on, by rising number of COCO's category, "crowd" `[N]` bool, "id", the image's name}. Masks may
    overlap; an object whose polygons hold no pixel is left out. `category_ids` are COCO's numbers.

    Args:
      path: COCO's folder.
      split: "train", "val", "train+val", or None for those that are there.
      empty: whether images without an object are examples too; crowds alone are none.
      cache_bytes: decoded images are kept in memory up to this number of bytes.

    Raises:
      InputError: a file or folder is missing or damaged, or no example is left; where an example is
        read: an image or an object is damaged.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None = None,
        *,
        empty: bool = True,
        cache_bytes: int = 0,
    ):
        root = pathlib.Path(path)
        self._photos: list[tuple[pathlib.Path, Photo, pathlib.Path]] = []
        names: tuple[str, ...] = ()
        for name in _choose(root, split):
            file = _annotations(root, name)
            found, folder = read_objects(file), _photo_folder(root, name)
            if names and names != found.categories:
                raise InputError(f"{file}: other categories than before; choose one split")
            names, self.category_ids = found.categories, found.category_ids
            for photo in found.photos.values():
                if empty or not all(thing.crowd for thing in photo.things):
                    self._photos.append((folder / photo.name, photo, file))
        if not self._photos:
            raise InputError(f"{root}: no image with an object; choose another split")
        self.info = DatasetInfo(name="COCO", kind="instances")
        self.classes = names
        self.ids = tuple(pathlib.Path(photo.name).stem for _, photo, _ in self._photos)
        self._cache = DecodeCache(cache_bytes)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        """Decodes an image and draws its objects."""
        i = operator.index(index)
        path, photo, file = self._photos[i]
        image = self._cache.get(path, lambda: images.read_image(path))
        if image.shape[:2] != (photo.height, photo.width):
            raise InputError(
                f"{path}: {image.shape[0]}x{image.shape[1]}, its annotations are of "
                f"{photo.height}x{photo.width} (height x width); copy the image again"
            )
        drawn: list[tuple[Thing, np.ndarray]] = []
        for thing in photo.things:
            mask = draw_thing(thing, photo, file)
            if mask.any():
                drawn.append((thing, mask))
        masks = np.zeros((len(drawn), *image.shape[:2]), bool)
        for place, (_, mask) in zip(masks, drawn, strict=True):
            place[:] = mask
        return {
            "image": image,
            "masks": masks,
            "kinds": np.array([thing.kind for thing, _ in drawn], np.int32),
            "crowd": np.array([thing.crowd for thing, _ in drawn], bool),
            "id": self.ids[i],
        }

    def extent(self, index: SupportsIndex) -> sources.Extent:
        """Size of an example, and its annotated objects; no image is read."""
        photo = self._photos[operator.index(index)][1]
        return sources.Extent(photo.height, photo.width, len(photo.things))


def _annotations(root: pathlib.Path, split: str) -> pathlib.Path:
    return root / "annotations" / f"instances_{split}2017.json"


def _photo_folder(root: pathlib.Path, split: str) -> pathlib.Path:
    for folder in (root / f"{split}2017", root / "images" / f"{split}2017"):
        if folder.is_dir():
            return folder
    raise InputError(f"{root}: no folder {split}2017 of images; unpack {split}2017.zip there")


def _choose(root: pathlib.Path, split: str | None) -> list[str]:
    there = [name for name in SPLITS if _annotations(root, name).is_file()]
    if split is None and there:
        return there
    chosen = list(dict.fromkeys((split or SPLITS[0]).split("+")))
    for name in chosen:
        if name not in SPLITS:
            raise InputError(f"{root}: no split {name!r}; there are train and val")
        if name not in there:
            raise InputError(
                f"{_annotations(root, name)}: no such file; give COCO's folder, with its "
                "annotations_trainval2017.zip unpacked"
            )
    return chosen
