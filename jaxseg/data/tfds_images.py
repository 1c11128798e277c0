"""Whole images with one class each, as TensorFlow Datasets prepares them, read without TensorFlow.

MNIST, CIFAR-10, CIFAR-100 and STL-10, or another data set whose features are an `image` and a
`ClassLabel`. They are written elsewhere, for TFDS prepares most of them with TensorFlow:

    tfds.builder("cifar100", file_format="array_record").download_and_prepare()
"""

import io
import os
import pathlib
from typing import Any, SupportsIndex

import numpy as np

from jaxseg.data import images, sources
from jaxseg.data.cache import DecodeCache
from jaxseg.data.info import DatasetInfo
from jaxseg.data.records import import_tfds, open_records, records_name
from jaxseg.types import InputError

NAMES = ("mnist", "cifar10", "cifar100", "stl10")
"""Those that `open_data` takes for such data."""


class TfdsImagesSource:
    """Examples `image` uint8 `[H, W, C]`, `label` int32 `[]`, -1 where it is not known.

    Order and names follow the records: TFDS shuffles when it prepares. See `sources.Source`.

    Args:
      path: the folder of the prepared version, or one above it, such as TFDS's `data_dir`.
      name: of the data set, such as "cifar100".
      split: one of its own, several joined by "+", such as "train+test" or, of STL-10,
        "train+unlabelled+test", or None for all.
      label: the feature that is the class; "coarse_label" gives the 20 classes of CIFAR-100.
      channels: see `images.read_image`; "raw": as they are stored.
      cache_bytes: decoded images are kept in memory up to this number of bytes.

    Raises:
      InputError: the data set is not there, or not in ArrayRecord files, or has no such split or
        features, or images of several sizes; where an example is read: an image is damaged.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        name: str,
        split: str | None = None,
        *,
        label: str = "label",
        channels: images.Channels = "raw",
        cache_bytes: int = 0,
    ):
        tfds = import_tfds()
        _check_there(pathlib.Path(path), name)
        opened = open_records(path, split, name)
        features = opened[0][1].dataset_info.features
        if not isinstance(dict(features.items()).get("image"), tfds.features.Image):
            raise InputError(f"{path}: {name} has no feature 'image'; it holds no images")
        there = [k for k, v in features.items() if isinstance(v, tfds.features.ClassLabel)]
        if label not in there:
            listed = ", ".join(there) or "none"
            raise InputError(
                f"{path}: {name} has no classes {label!r}; set label to one of: {listed}"
            )
        height, width, bands = features["image"].shape
        if height is None or width is None:
            raise InputError(f"{path}: images of {name} differ in size; choose another data set")
        self._size = (height, width)
        classes = tuple(features[label].names)
        self.info = DatasetInfo(
            name=name,
            kind="image_classes",
            channels="grey" if bands == 1 else "rgb",
            classes=classes,
            class_ids=tuple(range(len(classes))),
        )
        self._label, self._channels = label, channels
        self._places = [(records, i) for _, records in opened for i in range(len(records))]
        self.ids = tuple(f"{s}_{i:05d}" for s, records in opened for i in range(len(records)))
        self._cache = DecodeCache(cache_bytes)
        self._labels: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        """Decodes an example."""
        i = range(len(self))[index]
        records, place = self._places[i]

        def decode() -> np.ndarray:
            record: Any = records[place]
            self._labels[i] = int(record[self._label])
            file = io.BytesIO(record["image"])
            return images.read_image(file, channels=self._channels, name=self.ids[i])

        # The class is noted before the image can be kept.
        image = self._cache.get(i, decode)
        return {"image": image, "label": np.int32(self._labels[i]), "id": self.ids[i]}

    def extent(self, index: SupportsIndex) -> sources.Extent:
        """The size that all have."""
        return sources.Extent(*self._size, 0)


def _check_there(path: pathlib.Path, name: str) -> None:
    """Raises `InputError` unless one version was prepared, in files that can be read."""
    found = [
        file.parent
        for file in sorted(path.glob("**/dataset_info.json"))
        if records_name(file.parent) == name
    ]
    if not found:
        raise InputError(
            f"{path}: no {name} of TFDS; write it with tfds.builder({name!r}, "
            'file_format="array_record").download_and_prepare()'
        )
    if len(found) > 1:
        raise InputError(f"{path}: {len(found)} versions of {name}; give the folder of one")
    if not any(found[0].glob("*.array_record*")):
        raise InputError(
            f'{found[0]}: holds no ArrayRecord files; write it with file_format="array_record"'
        )
