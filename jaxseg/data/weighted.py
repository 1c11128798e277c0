"""A source whose pixels have weights: targets and weights are made once for each image."""

from collections.abc import Callable
from typing import NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Float32, Int32

from jaxseg.data.cache import DecodeCache, narrow
from jaxseg.data.sources import Example, Extent, Source, check_sizes


class WeightedLabel(NamedTuple):
    """What a network is to learn of an image, and how much each pixel counts."""

    label: Int32[np.ndarray, "h w"]
    """Classes; -1 is ignored."""
    pixel_weight: Float32[np.ndarray, "h w"]
    """0 or more."""


class WeightedSource:
    """The examples of a source with another `label`, and `pixel_weight` float32 `[H, W]`.

    For weights that belong to the whole image and cost more than reading it, such as
    `losses.unet_weight_map`: crops are taken of the finished map (`random_crop_flip_scale` moves
    it along). See `sources.Source`.
    """

    def __init__(
        self,
        source: Source,
        weigh: Callable[[Int32[np.ndarray, "h w"]], WeightedLabel],
        *,
        cache_bytes: int = 0,
    ):
        """Wraps a source of examples with `image` and `label`.

        Args:
          source: whose labels are replaced; it may keep its images itself.
          weigh: the label of an image -> its new label and weights; called from several threads.
          cache_bytes: labels and weights are kept in memory up to this number of bytes.
        """
        self.ids = source.ids
        self._source, self._weigh = source, weigh
        self._cache = DecodeCache(cache_bytes)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> Example:
        """Makes an example.

        Raises:
          InputError: as the source does, or the new maps have another size than the image.
        """
        example = self._source[index]
        i = index.__index__()
        made: list[WeightedLabel] = []

        def weighed() -> WeightedLabel:
            if not made:
                made.append(self._weigh(example["label"]))
            return made[0]

        # Counted from 1, so that an ignored pixel fits the narrow type.
        label = self._cache.get(("label", i), lambda: narrow(weighed().label + 1))
        weight = self._cache.get(("weight", i), lambda: weighed().pixel_weight)
        result = {**example, "label": label.astype(np.int32) - 1, "pixel_weight": weight}
        check_sizes(result)
        return result

    def extent(self, index: SupportsIndex) -> Extent:
        """The size of the image."""
        return self._source.extent(index)
