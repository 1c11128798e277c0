"""Images and label maps that lie in folders of a data set's own layout, as a source."""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Int32, Integer

from jaxseg.data import images, sources
from jaxseg.data.cache import DecodeCache
from jaxseg.data.info import DatasetInfo
from jaxseg.types import InputError


class Pair(NamedTuple):
    """An image and its label map."""

    name: str
    image: pathlib.Path
    label: pathlib.Path


ReadLabel = Callable[[pathlib.Path], Int32[np.ndarray, "h w"]]
"""A file -> the class of each pixel, below 65535; -1 is ignored."""


class PairsSource:
    """Pairs as a source of the examples that `folders.open_folder` gives; see `sources.Source`."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        info: DatasetInfo,
        read_label: ReadLabel,
        *,
        cache_bytes: int = 0,
    ):
        """Lists examples.

        Args:
          pairs: in their order.
          info: of the examples.
          read_label: raises `InputError` for a file that cannot be used.
          cache_bytes: decoded images and labels are kept in memory up to this number of bytes.
        """
        self.info = info
        self.ids = tuple(pair.name for pair in pairs)
        self._pairs = tuple(pairs)
        self._read = read_label
        self._cache = DecodeCache(cache_bytes)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        """Decodes an example.

        Raises:
          InputError: a file is damaged, or the label map has another size or values of no class.
        """
        i = range(len(self))[index]
        pair = self._pairs[i]
        image = self._cache.get((i, "image"), lambda: images.read_image(pair.image))
        # Counted from 1, so that an ignored pixel fits a narrow type.
        kept = self._cache.get((i, "label"), lambda: (self._read(pair.label) + 1).astype(np.uint16))
        label = kept.astype(np.int32) - 1
        sources.check_sizes({"id": str(pair.label), "image": image, "label": label})
        return {"image": image, "label": label, "id": pair.name}

    def extent(self, index: SupportsIndex) -> sources.Extent:
        """Size of the image, from its header."""
        return sources.Extent(*images.image_size(self._pairs[range(len(self))[index]].image), 0)


def map_ids(
    values: Integer[np.ndarray, "h w"],
    classes: Sequence[Sequence[int]],
    ignored: Sequence[int],
    name: str,
) -> Int32[np.ndarray, "h w"]:
    """The class of each value of a label map; -1 for those that are ignored.

    Args:
      values: of a file.
      classes: the values of each class, 0..255.
      ignored: values that are none, 0..255.
      name: the file, for errors.

    Raises:
      InputError: there is another value.
    """
    # One entry more, for what does not fit into 8 bits.
    table = np.full(257, -2, np.int32)
    table[list(ignored)] = -1
    for number, own in enumerate(classes):
        table[list(own)] = number
    result = table[np.where((values < 0) | (values > 255), 256, values)]
    if (result == -2).any():
        wrong, counts = np.unique(values[result == -2], return_counts=True)
        listed = ", ".join(f"{v} ({n} pixels)" for v, n in zip(wrong[:5], counts, strict=False))
        more = ", ..." if len(wrong) > 5 else ""
        raise InputError(
            f"{name}: values {listed}{more} are no class of this data; copy the release again"
        )
    return result


def choose_splits(folder: pathlib.Path, there: Sequence[str], split: str | None) -> tuple[str, ...]:
    """The splits that are asked for, several joined by "+"; None: all that are there.

    Raises:
      InputError: there is no such split.
    """
    names = tuple(dict.fromkeys(split.split("+"))) if split else tuple(there)
    for name in names:
        if name not in there:
            raise InputError(f"{folder}: no split {name!r}; there are {', '.join(there)}")
    return names
