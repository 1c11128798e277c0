"""A source at another size: for training and measuring on small images."""

import math
from typing import Any, SupportsIndex

import numpy as np

from jaxseg.data.cache import DecodeCache, narrow
from jaxseg.data.info import DatasetInfo
from jaxseg.data.sources import Example, Extent, Source
from jaxseg.types import Batch, Metric, Prediction


class ResizedSource:
    """The examples of a source at another size.

    Images are resized bilinearly, averaged over the pixels that fall into one where they shrink;
    `label` by the pixel that holds the new pixel's centre. See `sources.Source`.
    """

    def __init__(
        self,
        source: Source,
        size: tuple[int, int] | float,
        *,
        keep_labels: bool = False,
        cache_bytes: int = 0,
    ):
        """Wraps a source of examples with `image` and `label`.

        Args:
          source: whose examples are resized.
          size: height and width, or a factor on those of each image.
          keep_labels: whether `label` stays as large as it is, with `size` its height and width: to
            be measured against, see `at_label_size`. Labels of one batch must be of one size.
          cache_bytes: resized images and labels are kept in memory up to this number of bytes.

        Raises:
          ValueError: a side is below 1, or the factor not above 0.
        """
        if (min(size) < 1) if isinstance(size, tuple) else not 0 < size < math.inf:
            raise ValueError(f"size is {size}; expected sides of 1 or more, or a factor above 0")
        self.ids = source.ids
        self._source, self._size, self._keep = source, size, keep_labels
        self._cache = DecodeCache(cache_bytes)

    @property
    def info(self) -> DatasetInfo:
        """What the source says of its classes."""
        return self._source.info  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> Example:
        """Resizes an example; its other arrays are left out."""
        found: list[Example] = []

        def example() -> Example:
            if not found:
                found.append(self._source[index])
            return found[0]

        i = index.__index__()
        image = self._cache.get(("image", i), lambda: self._resized(example()["image"]))
        # Counted from 1, so that an ignored pixel fits the narrow type.
        kept = self._cache.get(("label", i), lambda: narrow(self._label(example()) + 1))
        label = kept.astype(np.int32) - 1
        result = {"image": image, "label": label, "id": self.ids[i]}
        return {**result, "size": np.array(label.shape, np.int32)} if self._keep else result

    def _resized(self, image: np.ndarray) -> np.ndarray:
        return _resize(image, self._new_size(image.shape[0], image.shape[1]))

    def _label(self, example: Example) -> np.ndarray:
        label = example["label"]
        return label if self._keep else _pick(label, self._new_size(*label.shape))

    def _new_size(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self._size, tuple):
            return self._size
        return max(round(height * self._size), 1), max(round(width * self._size), 1)

    def extent(self, index: SupportsIndex) -> Extent:
        """The new size; that of the file is read where a factor needs it."""
        if isinstance(self._size, tuple):
            return Extent(*self._size, 0)
        found = self._source.extent(index)
        return Extent(*self._new_size(found.height, found.width), 0)


def at_label_size(metric: Metric) -> Metric:
    """A measure of `classes` that were predicted at another size than that of `label`.

    Every pixel of the label map is compared with the class that was predicted where its centre
    lies, as if the predicted map had been resized by "nearest".

    Args:
        metric: such as `metrics.confusion`; it gets the map at the size of the labels.

    Returns:
        The metric, on the host.
    """

    def measure(prediction: Prediction, batch: Batch) -> Any:
        size = np.asarray(batch["label"]).shape[1:]
        classes = [_pick(one, size) for one in np.asarray(prediction["classes"])]
        return metric.measure({**prediction, "classes": np.stack(classes)}, batch)

    return metric._replace(measure=measure)


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    def resize(plane: Any) -> np.ndarray:
        return np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR))

    # Each channel alone: four channels at once would be taken for transparency.
    planes = [resize(np.ascontiguousarray(image[..., c])) for c in range(image.shape[2])]
    return np.stack(planes, axis=-1)


def _pick(label: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    # In integers, for many centres lie on the edge of two pixels.
    rows, cols = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for new, old in zip(size, label.shape, strict=True)
    )
    return label[rows[:, None], cols[None, :]]
