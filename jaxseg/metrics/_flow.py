"""How well the means of superpixels tell a real-valued property of pixels, such as flow."""

import math
from typing import Any

import numpy as np

from jaxseg.metrics._sums import add
from jaxseg.types import Batch, Metric, Prediction


def reconstruction_error() -> Metric:
    """Makes the measure of superpixels against a real-valued map; it runs on the host.

    Every pixel takes the mean of its superpixel:

    - `epe`: the Euclidean distance between a pixel's value and that mean, averaged over all pixels
      of all images, as Sintel does with flow (end-point error, in pixels; Jampani et al., ECCV
      2018, section 4, measure superpixels so). With one channel it is the absolute error.
    - `regions`: superpixels produced, the mean over images.
    - `images`: their number.

    A pixel with a NaN in any channel is unknown and counts nowhere; an image without a known pixel
    is none.

    `measure` needs `superpixels` of the prediction (0 or more where known), and of the batch
    `target` `[B, H, W, C]`, `size` and `weight`; figures of no image are NaN.

    Returns:
        A Metric whose sums are a dict of float64 and int64 scalars.

    Raises:
        ValueError: in `measure`: no target, sizes that differ, or a superpixel without a number.
    """
    return Metric(measure=_measure, merge=add, compute=_compute)


def _measure(prediction: Prediction, batch: Batch) -> dict[str, Any]:
    superpixels = np.asarray(prediction["superpixels"])
    if "target" not in batch:
        raise ValueError("the batch has no 'target'")
    target = np.asarray(batch["target"])
    if superpixels.shape != target.shape[:3]:
        raise ValueError(f"superpixels {superpixels.shape} and target {target.shape} differ")
    sums: dict[str, Any] = {
        "error": np.float64(0),
        "pixels": np.int64(0),
        "regions": np.int64(0),
        "images": np.int64(0),
    }
    for index in np.flatnonzero(np.asarray(batch["weight"]) > 0):
        height, width = (int(side) for side in np.asarray(batch["size"])[index])
        values = target[index, :height, :width].astype(np.float64)
        known = ~np.isnan(values).any(axis=-1)
        if not known.any():
            continue
        regions, values = superpixels[index, :height, :width][known], values[known]
        if regions.min() < 0:
            raise ValueError("a known pixel has a negative superpixel")
        _, region = np.unique(regions, return_inverse=True)
        area = np.bincount(region)
        means = [np.bincount(region, channel) / area for channel in values.T]
        distance = np.linalg.norm(values - np.stack(means, axis=-1)[region], axis=-1)
        sums["error"] += distance.sum()
        sums["pixels"] += np.int64(distance.size)
        sums["regions"] += np.int64(area.size)
        sums["images"] += np.int64(1)
    return sums


def _compute(sums: dict[str, Any]) -> dict[str, float]:
    images, pixels = int(sums["images"]), int(sums["pixels"])
    return {
        "epe": float(sums["error"]) / pixels if pixels else math.nan,
        "regions": int(sums["regions"]) / images if images else math.nan,
        "images": float(images),
    }
