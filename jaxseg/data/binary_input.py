"""A source whose images are made of the masks."""

from typing import SupportsIndex

import numpy as np

from jaxseg.data.info import DatasetInfo
from jaxseg.data.sources import Example, Extent, Source
from jaxseg.types import InputError


class BinaryInputSource:
    """The examples of a source, their image being where any object is: 255 there, 0 elsewhere.

    So BBBC010 was first segmented into instances: foreground is given, and objects that touch and
    cross are to be told apart (Wählby et al., Nature Methods 2012; Novotny et al., ECCV 2018). The
    union of the masks serves for foreground, since the foreground that comes with a data set may be
    an annotation of its own, displaced against the masks.

    It is binary as long as it has this size: where a transform resizes the example after, the image
    gets grey outlines, while masks are resized by the nearest pixel and stay binary.

    Args:
      source: of examples with `masks` `[N, H, W]`.
      channels: of the image, all equal.

    Raises:
      InputError: in `source[i]`: the example has no masks.
    """

    def __init__(self, source: Source, *, channels: int = 3):
        if channels < 1:
            raise ValueError(f"channels is {channels}; expected 1 or more")
        self.ids = source.ids
        self._source, self._channels = source, channels

    @property
    def info(self) -> DatasetInfo:
        """What the source says of itself."""
        return self._source.info  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> Example:
        """Makes the image of an example."""
        example = self._source[index]
        if "masks" not in example:
            raise InputError(
                f"{example['id']}: has no instances, of whose masks the image is made; give data "
                'whose kind is "instances"'
            )
        union = np.where(example["masks"].any(axis=0), 255, 0).astype(np.uint8)
        return {**example, "image": np.repeat(union[..., None], self._channels, axis=-1)}

    def extent(self, index: SupportsIndex) -> Extent:
        """The size of an example."""
        return self._source.extent(index)
