"""A source whose images are cut into tiles of one size."""

from typing import SupportsIndex

import numpy as np

from jaxseg.data.info import DatasetInfo
from jaxseg.data.sources import Example, Extent, Source
from jaxseg.types import InputError


class TiledSource:
    """Tiles of the images of a source, from the upper left, row by row; see `sources.Source`.

    Tiles do not overlap, and what is left at the right and at the bottom belongs to none. Each tile
    decodes its image: let the source keep them (`cache_bytes`). `label`, `labels` and
    `pixel_weight` are cut alike; other arrays are left out. `info` is the source's.
    """

    def __init__(self, source: Source, size: int | tuple[int, int]):
        """Wraps a source.

        Args:
          source: whose images are cut; `extent` tells how many tiles each gives.
          size: height and width of the tiles in pixels, one number for a square.

        Raises:
          InputError: no image is as large as a tile.
          ValueError: a side is below 1.
        """
        self._size = (size, size) if isinstance(size, int) else size
        if min(self._size) < 1:
            raise ValueError(f"size is {size}; expected 1 or more")
        self._source = source
        self._tiles = [
            (i, row, column)
            for i in range(len(source))
            for extent in [source.extent(i)]
            for row in range(extent.height // self._size[0])
            for column in range(extent.width // self._size[1])
        ]
        if not self._tiles:
            raise InputError(
                f"tiles of {self._size[0]}x{self._size[1]} (height x width): no image is as large; "
                "set a smaller size"
            )
        self.ids = tuple(f"{source.ids[i]}_{row}_{column}" for i, row, column in self._tiles)

    @property
    def info(self) -> DatasetInfo:
        """What the source says of its classes."""
        return self._source.info  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, index: SupportsIndex) -> Example:
        """Cuts a tile out of its image."""
        i, row, column = self._tiles[index]
        example = self._source[i]
        height, width = self._size
        rows = slice(row * height, (row + 1) * height)
        columns = slice(column * width, (column + 1) * width)
        result = {
            key: np.ascontiguousarray(example[key][..., rows, columns])
            for key in ("label", "labels", "pixel_weight")
            if key in example
        }
        image = np.ascontiguousarray(example["image"][rows, columns])
        return {"image": image, **result, "id": self.ids[index]}

    def extent(self, index: SupportsIndex) -> Extent:
        """The size of the tiles."""
        return Extent(*self._size, self._source.extent(self._tiles[index][0]).maps)
