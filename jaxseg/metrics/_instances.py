"""Objects that are found, missed and made up: instance maps or masks against true ones."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

from jaxseg.metrics._objects import Told, Truth, assign, count_objects, objects
from jaxseg.metrics._sums import add
from jaxseg.types import Batch, Metric, Prediction

_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def dsb_average_precision(
    *,
    thresholds: Sequence[float] = _THRESHOLDS,
    overlapping: bool = False,
    num_classes: int = 1,
    score_threshold: float = 0.5,
) -> Metric:
    """Makes the score of the 2018 Data Science Bowl; it runs on the host.

    An object is all pixels of one number, above 0, whether connected or not. At threshold t a
    predicted object is a hit if its intersection over union with a true one is above t, strictly,
    as in the competition; since t is 0.5 or more, no object can be hit twice. TP are the hits, FP
    the other predicted objects and FN the true ones that none hits (Caicedo et al., Nature Methods
    2019; it is not COCO's average precision: there are no confidences).

    - `ap_dsb`: TP / (TP + FP + FN), the mean over the thresholds and then over the images; an
      image without objects scores 1 if none is predicted and 0 otherwise.
    - `ap_dsb_50`, `ap_dsb_75`: that of one threshold, if it is among `thresholds`.
    - `f1_50`, `f1_75`: 2 TP / (2 TP + FP + FN) of the sums over all images.
    - `objects`, `predicted`: true and predicted objects, the mean over images.
    - `images`: how many have a labelled pixel, objects or background.

    Pixels of label -1 are cut out of both maps, and a predicted object that lies wholly in them
    with them. Pixels beyond an image's `size` and examples of weight 0 count for nothing; figures
    of no image are NaN.

    `measure` needs `instances` `[B, H, W]` of the prediction, 0 where there is none, and of the
    batch `label`, numbers of objects with 0 for background, `size` and `weight`.

    Overlapping objects are masks, of the prediction and of the batch; see `instances` for what
    `measure` needs then. An object is a hit at most once: pairs are chosen so that there are as
    many hits as there can be. Objects of two classes hit one another never, crowds are left out,
    and what lies in one by more than half and hits nothing.

    Args:
        thresholds: of intersection over union, each in [0.5, 1).
        overlapping: whether objects are masks that may overlap.
        num_classes: of overlapping objects.
        score_threshold: of overlapping objects those with a score above it are predicted.

    Returns:
        A Metric whose sums are {"score": float64 `[thresholds]`, "hits": int64 `[thresholds]`,
        "predicted", "objects", "images": int64}.

    Raises:
        ValueError: no threshold, or one out of range; in `measure`: sizes that differ, or a
            negative instance at a labelled pixel.
    """
    limits = np.array(thresholds, np.float64)
    if not limits.size or not np.all((limits >= 0.5) & (limits < 1)):
        raise ValueError(f"thresholds={tuple(thresholds)}: expected numbers from 0.5 to below 1")

    def measure(prediction: Prediction, batch: Batch) -> dict[str, Any]:
        if overlapping:
            pairs = objects(prediction, batch, num_classes=num_classes)
            counts: Iterable[_Counts] = (
                _count_masks(*pair, limits, score_threshold) for pair in pairs
            )
        else:
            counts = _count_maps(prediction, batch, limits)
        sums: dict[str, Any] = {
            "score": np.zeros(len(limits)),
            "hits": np.zeros(len(limits), np.int64),
            **{name: np.int64(0) for name in ("predicted", "objects", "images")},
        }
        for hits, predicted, true in counts:
            union = predicted + true - hits
            sums["score"] += hits / union if predicted + true else np.ones(len(limits))
            sums["hits"] += hits
            sums["predicted"] += predicted
            sums["objects"] += true
            sums["images"] += 1
        return sums

    def compute(sums: dict[str, Any]) -> dict[str, float]:
        images = int(sums["images"])
        both = int(sums["predicted"] + sums["objects"])
        score = sums["score"] / images if images else np.full(len(limits), np.nan)
        f1 = 2 * sums["hits"] / both if both else np.full(len(limits), 1.0 if images else np.nan)
        shown = [(i, t) for t in (50, 75) for i in np.flatnonzero(np.isclose(limits, t / 100))]
        return {
            "ap_dsb": float(score.mean()),
            **{f"ap_dsb_{t}": float(score[i]) for i, t in shown},
            **{f"f1_{t}": float(f1[i]) for i, t in shown},
            **{
                name: float(sums[name]) / images if images else math.nan
                for name in ("objects", "predicted")
            },
            "images": float(images),
        }

    return Metric(measure=measure, merge=add, compute=compute)


_Counts = tuple[Int64[np.ndarray, " t"], int, int]
"""Hits by threshold, predicted objects, true ones."""


def _count_masks(
    told: Told, truth: Truth, limits: Float64[np.ndarray, " t"], score_threshold: float
) -> _Counts:
    overlaps, ours, theirs = count_objects(told, truth, score_threshold)
    hits = [len(assign(overlaps, limit)[0]) for limit in limits.tolist()]
    return np.array(hits, np.int64), len(ours), len(theirs)


def _count_maps(
    prediction: Prediction, batch: Batch, limits: Float64[np.ndarray, " t"]
) -> Iterator[_Counts]:
    instances, label = np.asarray(prediction["instances"]), np.asarray(batch["label"])
    if instances.shape != label.shape:
        raise ValueError(f"instances {instances.shape} and label {label.shape} differ in size")
    for index in np.flatnonzero(np.asarray(batch["weight"]) > 0):
        height, width = (int(side) for side in np.asarray(batch["size"])[index])
        true, told = label[index, :height, :width], instances[index, :height, :width]
        valid = true >= 0
        if not valid.any():
            continue
        if told[valid].min() < 0:
            raise ValueError(f"a labelled pixel has the negative instance {told[valid].min()}")
        overlaps, predicted, count = _overlaps(told[valid], true[valid])
        yield np.count_nonzero(overlaps[:, None] > limits, axis=0), predicted, count


def _overlaps(
    told: Int[np.ndarray, " n"], true: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " pairs"], int, int]:
    """Intersection over union of the pairs of objects that touch, and both numbers of objects."""
    ours, a, our_area = np.unique(told, return_inverse=True, return_counts=True)
    theirs, b, their_area = np.unique(true, return_inverse=True, return_counts=True)
    pairs, shared = np.unique(a * len(theirs) + b, return_counts=True)
    a, b = np.divmod(pairs, len(theirs))
    objects = (ours[a] > 0) & (theirs[b] > 0)
    union = our_area[a] + their_area[b] - shared
    found = (shared / union)[objects]
    return found, int(np.count_nonzero(ours > 0)), int(np.count_nonzero(theirs > 0))
