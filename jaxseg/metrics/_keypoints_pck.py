"""Keypoints that are found, missed and made up: points against points."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jaxseg.metrics._sums import add
from jaxseg.types import Batch, Metric, Prediction


def keypoint_pck(
    *,
    thresholds: Sequence[float],
    reference: str | None = None,
    min_score: float = 0.0,
    ignore_absent: bool = False,
) -> Metric:
    """Makes the percentage of correct keypoints (PCK); it runs on the host.

    At threshold t as many predicted points as possible are paired with true ones of their kind,
    each once, at a distance of at most t (Euclidean; t included): a maximum matching, so that the
    order of the points does not matter. With one point of a kind in an image it is the measure of
    Yang and Ramanan (TPAMI 2013).

    - `pck_T`: the paired part of the true points of all images, at threshold T; NaN without any.
    - `precision_T`: the paired part of the predicted points; NaN without any.
    - `f1_T`: 2 · paired / (true + predicted points); NaN without any of either.
    - `points`, `predicted`: true and predicted points, the mean over the images.
    - `images`: their number.

    `measure` needs `points` `[B, P, 2]` (row, column) and `kinds` `[B, P]`, -1 where there is none,
    of both; `scores` `[B, P]` of the prediction; `weight`, and `reference` if it is named, of
    the batch. P may differ between the two. Examples of weight 0 count for nothing.

    Args:
        thresholds: in pixels, or with `reference` as parts of its length; each 0 or more.
        reference: the key of a batch that holds a length for each example, `[B]` in pixels (a
            head's for PCKh, Andriluka et al., CVPR 2014); None: `thresholds` are pixels.
        min_score: predicted points of a lower score are left out.
        ignore_absent: whether predicted points of a kind of which an image has no true point are
            left out there (a joint that was not labelled), or else are wrong.

    Returns:
        A Metric whose sums are {"paired": int64 `[thresholds]`, "points", "predicted", "images":
        int64}.

    Raises:
        ValueError: no threshold, or a negative one; in `measure`: a point that is there and not
            finite, or a length that is not positive.
    """
    limits = np.array(thresholds, np.float64)
    if limits.ndim != 1 or not limits.size or not np.all(limits >= 0):
        raise ValueError(f"thresholds={tuple(thresholds)}: expected one or more numbers from 0 on")

    def measure(prediction: Prediction, batch: Batch) -> dict[str, Any]:
        sums: dict[str, Any] = {
            "paired": np.zeros(len(limits), np.int64),
            **{name: np.int64(0) for name in ("points", "predicted", "images")},
        }
        for index in map(int, np.flatnonzero(np.asarray(batch["weight"]) > 0)):
            length = 1.0 if reference is None else float(np.asarray(batch[reference])[index])
            if not 0 < length < math.inf:
                raise ValueError(
                    f"{reference} of example {index} is {length}: expected more than 0"
                )
            true, true_kinds = _present(batch, index)
            told, told_kinds = _present(prediction, index, min_score)
            if ignore_absent:
                known = np.isin(told_kinds, true_kinds)
                told, told_kinds = told[known], told_kinds[known]
            for kind in np.intersect1d(true_kinds, told_kinds):
                apart = true[true_kinds == kind][:, None] - told[told_kinds == kind][None]
                distance = np.linalg.norm(apart, axis=-1) / length
                sums["paired"] += [_pairs(distance <= limit) for limit in limits]
            sums["points"] += len(true)
            sums["predicted"] += len(told)
            sums["images"] += 1
        return sums

    def compute(sums: dict[str, Any]) -> dict[str, float]:
        points, predicted = int(sums["points"]), int(sums["predicted"])
        parts = {"pck": points, "precision": predicted, "f1": (points + predicted) / 2}
        images = int(sums["images"])
        return {
            **{
                f"{name}_{limit:g}": float(paired / whole) if whole else math.nan
                for name, whole in parts.items()
                for limit, paired in zip(limits, sums["paired"], strict=True)
            },
            "points": points / images if images else math.nan,
            "predicted": predicted / images if images else math.nan,
            "images": float(images),
        }

    return Metric(measure=measure, merge=add, compute=compute)


def _present(
    source: Prediction | Batch, index: int, min_score: float | None = None
) -> tuple[Float[np.ndarray, "p 2"], np.ndarray]:
    """The points of an example that are there, in float64, and their kinds."""
    points, kinds = (np.asarray(source[name])[index] for name in ("points", "kinds"))
    there = kinds >= 0
    if min_score is not None:
        there &= np.asarray(source["scores"])[index] >= min_score
    points = points[there].astype(np.float64)
    if not np.isfinite(points).all():
        raise ValueError(f"a point of example {index} is not finite")
    return points, kinds[there]


def _pairs(near: Bool[np.ndarray, "t p"]) -> int:
    """The most pairs of a row and a column, each used once, that are near."""
    from scipy.optimize import linear_sum_assignment

    rows, cols = linear_sum_assignment(near, maximize=True)
    return int(near[rows, cols].sum())
