"""A source whose images are padded to few sizes, so that few programs are compiled for them."""

from typing import Any, SupportsIndex

import numpy as np

from jaxseg.data.info import DatasetInfo
from jaxseg.data.sources import Example, Extent, Source


class PaddedSource:
    """The examples of a source, black at the right and below up to a multiple of some pixels.

    `size` says where the padding begins; labels are -1 there, and masks and weights end. For
    measuring by methods that heed `size`, where images are of many sizes. See `sources.Source`.

    Args:
      source: of examples without points.
      multiple: of which both sides become multiples.
    """

    def __init__(self, source: Source, multiple: int):
        if multiple < 1:
            raise ValueError(f"multiple is {multiple}; expected 1 or more")
        self.ids = source.ids
        self._source, self._multiple = source, multiple

    @property
    def info(self) -> DatasetInfo:
        """What the source says of itself."""
        return self._source.info  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> Example:
        """Pads an example."""
        example = self._source[index]
        height, width = example["image"].shape[:2]
        edges = ((0, -height % self._multiple), (0, -width % self._multiple))
        result: dict[str, Any] = {**example, "image": np.pad(example["image"], (*edges, (0, 0)))}
        for key, fill in (("label", -1), ("labels", -1), ("masks", False), ("pixel_weight", 0)):
            if key in example and np.ndim(example[key]) > 1:
                before = ((0, 0),) * (np.ndim(example[key]) - 2)
                result[key] = np.pad(example[key], (*before, *edges), constant_values=fill)
        # What was padded before keeps its true size.
        return {"size": np.array([height, width], np.int32), **result}

    def extent(self, index: SupportsIndex) -> Extent:
        """The size with its padding."""
        height, width, maps = self._source.extent(index)
        return Extent(height + -height % self._multiple, width + -width % self._multiple, maps)
