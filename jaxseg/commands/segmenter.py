"""Superpixels of one image, or of many at a time, with the number that was asked for."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from jaxseg.methods import ssn
from jaxseg.ops.connectivity import set_region_count
from jaxseg.ops.slic import grid_shape
from jaxseg.predictor import Predictor
from jaxseg.types import Batch, InputError, Prediction

TOLERANCE = 0.25
"""Of the number asked for: what the official connectivity rule leaves beyond is merged or split."""
_MOST_IMAGES = 8
_BATCH_WORK = 1 << 22


class Computed(NamedTuple):
    """What the device made of some images; the rest is for `Segmenter.finish`."""

    images: Sequence[np.ndarray]
    batch: Batch
    prediction: Prediction


class Segmenter:
    """Trained weights that make superpixels: `segmenter(image, number)`."""

    def __init__(self, predictor: Predictor, name: str):
        """`name` is what errors call the weights."""
        self._predictor = predictor
        self._name = name

    @property
    def programs(self) -> int:
        """How many programs were compiled so far."""
        return self._predictor.programs

    def __call__(
        self, image: UInt8[np.ndarray, "h w 3"], number: int, exact: bool = False
    ) -> Int32[np.ndarray, "h w"]:
        """The superpixels of one image, numbered from 0 and 4-connected.

        Args:
            image: RGB.
            number: wanted; what comes is within a quarter of it.
            exact: whether exactly that number must come.

        Raises:
            ValueError: the number does not fit the image.
            InputError: the weights make no superpixels.
        """
        bucket = ssn.plan_buckets([image.shape[:2]], number)[0]
        return next(self.finish(self.compute(bucket, [image], number), number, exact))

    def compute(
        self, bucket: ssn.Bucket, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], number: int
    ) -> Computed:
        """Runs the network and the clustering for images of a bucket: one program.

        Raises:
            ValueError: an image does not fit the bucket, or there are more than `batch_size`.
            InputError: the weights make no superpixels.
        """
        batch = ssn.bucket_batch(bucket, images, number, batch_size=batch_size(bucket))
        try:
            prediction = self._predictor.predict(batch, num_superpixels=number)
            prediction["superpixels"]
        except (TypeError, KeyError) as error:
            raise InputError(f"{self._name}: is no run that makes superpixels ({error})") from error
        return Computed(images, batch, prediction)

    def finish(
        self, computed: Computed, number: int, exact: bool = False
    ) -> Iterator[Int32[np.ndarray, "_ _"]]:
        """Connects the superpixels of each image and sees to their number; on the host alone."""
        images, batch, prediction = computed
        finished = self._predictor.finish(prediction, batch, num_superpixels=number)
        for image, labels in zip(images, finished["superpixels"], strict=False):
            height, width, _ = image.shape
            yield _with_count(labels[:height, :width], image, number, exact)


def batch_size(bucket: ssn.Bucket) -> int:
    """Images in one call: one on a CPU, where more are no faster; else some millions of pixels."""
    import jax

    if jax.default_backend() == "cpu":
        return 1
    return min(max(_BATCH_WORK // bucket.work, 1), _MOST_IMAGES, len(bucket.members))


def _with_count(labels: np.ndarray, image: np.ndarray, number: int, exact: bool) -> np.ndarray:
    count = int(labels.max()) + 1
    most = math.floor(number * (1 + TOLERANCE))
    least = math.ceil(number * (1 - TOLERANCE))
    wanted = number if exact else min(max(count, least), most)
    return labels if count == wanted else set_region_count(labels, wanted, _features(image, number))


def _features(image: np.ndarray, number: int) -> Float32[np.ndarray, "h w 5"]:
    """`ssn.input_features` on the host: each size of image would compile it anew."""
    from skimage.color import rgb2lab

    height, width, _ = image.shape
    rows, cols = grid_shape(height, width, number)
    scale = np.float32(ssn.POSITION_SCALE * max(rows / height, cols / width))
    lab: Any = np.float32(ssn.COLOR_SCALE) * rgb2lab(image / np.float32(255))
    position = scale * np.moveaxis(np.indices((height, width), np.float32), 0, -1)
    return np.concatenate([position, lab], axis=-1)
