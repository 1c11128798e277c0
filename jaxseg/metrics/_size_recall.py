"""Recall of objects by their size: what a coarse grid loses first."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int, Int64

from jaxseg.metrics._confusion import check_targets, confusion
from jaxseg.types import Batch, Metric, Prediction


def size_recall(num_classes: int, bins: int = 8, *, target_classes: Sequence[int] = ()) -> Metric:
    """Makes the measure of semantic maps object by object; it runs on the host.

    An object is a connected part of the pixels of one class in the labels, pixels that touch at a
    corner included: two that touch are one, and one that something cuts in two is two. Its size is
    √(its pixels / the image's pixels), the side of a square of its area as a part of a square
    image's side. Its recall is the part of its pixels that have the right class, whatever is said
    of the pixels around it.

    Bin K of 1 .. `bins` holds the sizes from 2^-K to below 2^-(K - 1), the first also 1, the last
    all that are smaller. The bins and the mean are ours: Marin et al. (ICCV 2019, Figs. 12-14)
    show such curves and do not say how they were made.

    - `recall_K`: the mean over the objects of a bin, each counting the same; NaN if there is none.
    - `objects_K`: how many they are.
    - `recall`, `objects`: of all bins together.

    Pixels of label -1, those beyond an image's `size` and examples of weight 0 count for nothing;
    ignored pixels belong to no object, and to the image's size.

    `measure` needs `classes` of the prediction, `label`, `size` and `weight` of the batch.

    Args:
        num_classes: labels and predictions are 0 .. num_classes - 1.
        bins: 1 or more; the last but one begins at 2^-(bins - 1).
        target_classes: whose objects count; all if there are none.

    Returns:
        A Metric whose sums are {"recall": float64 `[bins]`, "objects": int64 `[bins]`}.

    Raises:
        ValueError: `num_classes` or `bins` is below 1, or a target class is no class or named
            twice; in `measure`: sizes that differ, or a class out of range at a labelled pixel.
    """
    matrix = confusion(num_classes)
    if bins < 1:
        raise ValueError(f"bins={bins}: expected 1 or more")
    targets = check_targets(num_classes, target_classes) or list(range(num_classes))

    def measure(prediction: Prediction, batch: Batch) -> dict[str, Any]:
        matrix.measure(prediction, batch)  # for its checks
        label, size = np.asarray(batch["label"]), np.asarray(batch["size"])
        told = np.asarray(prediction["classes"])
        recall, objects = np.zeros(bins, np.float64), np.zeros(bins, np.int64)
        for index in np.flatnonzero(np.asarray(batch["weight"]) > 0):
            place = (index, slice(int(size[index, 0])), slice(int(size[index, 1])))
            right = told[place] == label[place]
            for target in targets:
                shares, pixels = _objects(label[place], right, target)
                which = _bins(pixels, label[place].size, bins)
                recall += np.bincount(which, shares, bins)
                objects += np.bincount(which, minlength=bins)
        return {"recall": recall, "objects": objects}

    def compute(sums: dict[str, Any]) -> dict[str, float]:
        recall, objects = sums["recall"], sums["objects"]
        figures = {"recall": _over(recall.sum(), objects.sum())}
        figures |= {f"recall_{k + 1}": _over(recall[k], objects[k]) for k in range(bins)}
        figures["objects"] = float(objects.sum())
        return figures | {f"objects_{k + 1}": float(objects[k]) for k in range(bins)}

    return Metric(measure=measure, merge=matrix.merge, compute=compute)


def _objects(
    label: Int[np.ndarray, "h w"], right: np.ndarray, target: int
) -> tuple[Float64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """The recall of each object of a class, and its pixels."""
    from scipy import ndimage

    parts, count = ndimage.label(label == target, structure=np.ones((3, 3), bool))
    inside = parts > 0
    which = parts[inside] - 1
    pixels = np.bincount(which, minlength=count).astype(np.int64)
    found = np.bincount(which, right[inside], count)
    return found / pixels, pixels


def _bins(pixels: Int64[np.ndarray, " n"], whole: int, bins: int) -> Int64[np.ndarray, " n"]:
    """The bin of each area, counted from 0."""
    # √(pixels / whole) ≥ 2^-k, in integers: a size may lie on the edge of two bins.
    edges = 4 ** np.arange(1, bins, dtype=np.int64)
    return (pixels[:, None] * edges < whole).sum(axis=1)


def _over(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else math.nan
