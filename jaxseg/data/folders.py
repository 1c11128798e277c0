"""A folder of images and labels as a source of examples.

Images are `images/SPLIT/ID.jpg` (or png, tif, ...) or, without splits, `images/ID.jpg`; the labels
`labels/.../ID.png`, or `ID_0.png`, `ID_1.png`, ... of several annotators; `dataset.json` says what
they mean (`info.read_info`).
"""

import operator
import os
import pathlib
from typing import SupportsIndex

import numpy as np

from jaxseg.data import images, info, sources
from jaxseg.data.cache import DecodeCache, narrow
from jaxseg.data.layout import Entry, find_entries
from jaxseg.types import InputError


class FolderSource:
    """Examples of a folder; made by `open_folder`. See `sources.Source`."""

    def __init__(
        self,
        entries: list[Entry],
        dataset: info.DatasetInfo,
        *,
        annotations: sources.Annotations,
        channels: images.Channels,
        cache_bytes: int,
    ):
        self.info = dataset
        self._channels = channels
        self._all = annotations == "all" and dataset.kind in ("partition", "classes")
        each = annotations == "each" and not self._all
        self._items = [
            (entry, k) for entry in entries for k in range(max(len(entry.labels), 1) if each else 1)
        ]
        self.ids = tuple(entry.id for entry, _ in self._items)
        self._cache = DecodeCache(cache_bytes)
        self._extents: dict[int, sources.Extent] = {}

    def __len__(self) -> int:
        return len(self._items)

    def _image(self, entry: Entry) -> np.ndarray:
        return self._cache.get(
            entry.image, lambda: images.read_image(entry.image, channels=self._channels)
        )

    def _stored(self, path: pathlib.Path) -> np.ndarray:
        return self._cache.get(
            path, lambda: narrow(images.read_labels(path, colors=self.info.colors))
        )

    def _label(self, path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray:
        stored = self._stored(path)
        sources.check_sizes({"id": str(path), "image": np.empty((*shape, 0)), "label": stored})
        return info.map_labels(stored, self.info, str(path))

    def _masks(self, entry: Entry, k: int, shape: tuple[int, ...]) -> np.ndarray:
        if entry.masks is None:
            label = self._label(entry.labels[k], shape)
            return sources.instance_masks(label, background=self.info.background)
        stored = self._stored(entry.masks)
        if stored.shape[0] % shape[0] or stored.shape[1] != shape[1]:
            raise InputError(
                f"{entry.masks}: {stored.shape[0]}x{stored.shape[1]} holds no whole number "
                f"of masks of {shape[0]}x{shape[1]} (height x width), the image's size; "
                "stack them one below the other"
            )
        masks = stored.reshape(-1, *shape) != 0
        return masks[masks.any(axis=(1, 2))]

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        """Decodes an example.

        Raises:
          InputError: a file is damaged, a label has another size than its image or values that
            `dataset.json` does not declare.
        """
        entry, k = self._items[index]
        image = self._image(entry)
        example = {"image": image, "id": entry.id}
        shape = image.shape[:2]
        if self.info.kind == "instances":
            example["masks"] = self._masks(entry, k, shape)
        elif self._all:
            example["labels"] = np.stack([self._label(path, shape) for path in entry.labels])
        elif entry.labels:
            example["label"] = self._label(entry.labels[k], shape)
        elif entry.masks is not None:
            example["label"] = sources.flatten_masks(self._masks(entry, k, shape))
        return example

    def extent(self, index: SupportsIndex) -> sources.Extent:
        """Size from the image's header; instances are counted once by decoding their labels."""
        i = operator.index(index)
        if i not in self._extents:
            entry, k = self._items[i]
            size = images.image_size(entry.image)
            count = len(entry.labels) if self._all else 0
            if self.info.kind == "instances":
                count = len(self._masks(entry, k, size))
            self._extents[i] = sources.Extent(*size, count)
        return self._extents[i]


def open_folder(
    path: str | os.PathLike[str],
    split: str | None = None,
    *,
    annotations: sources.Annotations = "each",
    as_partition: bool = False,
    channels: images.Channels | None = None,
    cache_bytes: int = 0,
) -> FolderSource:
    """Opens a folder of images, with labels or without.

    Args:
      path: the folder that holds `dataset.json`; without that file, a folder of images alone.
      split: "train", or "train+val" for both; None: all there are. A folder without splits has
        one named "all".
      annotations: where an image was annotated several times: "each" annotation is an example of
        its own, "all" of an image are one example (`labels`; partitions and classes only), or the
        "first" alone.
      as_partition: gives instances as one label map (`label`), in which the background is a
        segment too and of overlapping objects the first covers. No effect on other kinds.
      channels: see `images.read_image`. None: "rgb" for data of grey or RGB images, "raw" for
        data of other bands.
      cache_bytes: decoded images and labels are kept in memory up to this number of bytes.

    Returns:
      A source, in the order of the split's list, or of the names.

    Raises:
      InputError: the folder, the split, an image, or a label is missing.
      ValueError: `annotations` is none of the three.
    """
    if annotations not in ("each", "all", "first"):
        raise ValueError(f"annotations is {annotations!r}; expected 'each', 'all' or 'first'")
    folder = pathlib.Path(path)
    dataset = info.read_info(folder)
    partition = as_partition and dataset.kind == "instances"
    entries = find_entries(folder, dataset, split, partition=partition)
    plain = dataset.channels in ("rgb", "grey")
    return FolderSource(
        entries,
        dataset._replace(kind="partition") if partition else dataset,
        annotations=annotations,
        channels=channels or ("rgb" if plain else "raw"),
        cache_bytes=cache_bytes,
    )
