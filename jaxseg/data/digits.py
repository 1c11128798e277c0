"""MNIST, and data sets of its form, as one file of arrays: `mnist.npz`.

The arrays are `train_images` `[N, H, W]` uint8, `train_labels` `[N]` of integers 0..9, and those of
the test; or Keras's names `x_train`, `y_train`, `x_test`, `y_test`.
"""

import os
import pathlib
import zipfile
import zlib
from typing import SupportsIndex

import numpy as np

from jaxseg.data.images import Channels
from jaxseg.data.info import DatasetInfo
from jaxseg.data.sources import Example, Extent
from jaxseg.types import InputError

FILE = "mnist.npz"
SPLITS = ("train", "test")
NUM_CLASSES = 10
INFO = DatasetInfo(
    name="digits",
    kind="image_classes",
    channels="grey",
    classes=tuple(str(digit) for digit in range(NUM_CLASSES)),
    class_ids=tuple(range(NUM_CLASSES)),
)


def has_digits(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds `mnist.npz`."""
    return pathlib.Path(path, FILE).is_file()


class DigitsSource:
    """Grey images that are one of ten classes each: `image` uint8 `[H, W, 1]`, `label` int32 `[]`.

    All is kept in memory as it is in the file (MNIST: 55 MB). See `sources.Source`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None = None,
        *,
        channels: Channels = "raw",
    ):
        """Reads the file.

        Args:
          path: the folder of `mnist.npz`.
          split: "train", "test", both joined by "+", or None for both.
          channels: "rgb" gives the grey three times; "raw" and "grey" once.

        Raises:
          InputError: the file is missing or damaged, an array is missing, of another type or
            shape, or as long as no other; or there is no such split.
          ValueError: `channels` is none of the three.
        """
        if channels not in ("rgb", "grey", "raw"):
            raise ValueError(f"channels is {channels!r}; expected 'rgb', 'grey' or 'raw'")
        file = pathlib.Path(path, FILE)
        names = tuple(dict.fromkeys(split.split("+"))) if split else SPLITS
        for name in names:
            if name not in SPLITS:
                raise InputError(f"{file}: no split {name!r}; there are {', '.join(SPLITS)}")
        found = [_read(file, name) for name in names]
        if len({images.shape[1:] for images, _ in found}) > 1:
            raise InputError(f"{file}: images of train and test differ in size; open one of them")
        self.info = INFO
        self.ids = tuple(
            f"{name}_{i:05d}"
            for name, (images, _) in zip(names, found, strict=True)
            for i in range(len(images))
        )
        self._images = np.concatenate([images for images, _ in found])
        self._labels = np.concatenate([labels for _, labels in found])
        self._images.setflags(write=False)
        self._bands = 3 if channels == "rgb" else 1

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: SupportsIndex) -> Example:
        """Gives an example."""
        i = range(len(self))[index]
        image = self._images[i][..., None]
        if self._bands > 1:
            image = np.repeat(image, self._bands, axis=-1)
        return {"image": image, "label": self._labels[i], "id": self.ids[i]}

    def extent(self, index: SupportsIndex) -> Extent:
        """The size that all have."""
        _, height, width = self._images.shape
        return Extent(height, width, 0)


def _read(file: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a split, checked."""
    try:
        # NumPy leaves a file open that it cannot read.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            keras = f"x_{split}" in arrays
            names = (
                (f"x_{split}", f"y_{split}") if keras else (f"{split}_images", f"{split}_labels")
            )
            for name in names:
                if name not in arrays:
                    there = ", ".join(arrays) or "nothing"
                    raise InputError(f"{file}: no array {name!r}, but {there}; save it under it")
            images, labels = arrays[names[0]], arrays[names[1]]
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; put the digits there") from None
    except InputError:
        raise
    # What NumPy raises for a damaged archive, and for one that is none.
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: not readable ({reason}); copy the file again") from None
    if images.dtype != np.uint8 or images.ndim != 3:
        raise InputError(
            f"{file}: {names[0]} is {images.dtype} of shape {images.shape}; "
            "save grey images as uint8 [N, H, W]"
        )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"{file}: {names[1]} is {labels.dtype} of shape {labels.shape}; save integers [N]"
        )
    if len(images) != len(labels) or not len(images):
        raise InputError(
            f"{file}: {names[0]} has {len(images)} images, {names[1]} {len(labels)} labels; "
            "save as many of one as of the other, and one at least"
        )
    if labels.min() < 0 or labels.max() >= NUM_CLASSES:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise InputError(f"{file}: {names[1]} holds {wrong}; save classes 0..{NUM_CLASSES - 1}")
    return images, labels.astype(np.int32)
