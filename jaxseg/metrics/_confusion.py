"""Classes of pixels against labels: accuracy and intersection over union, from one matrix."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxseg.metrics._sums import add
from jaxseg.types import Batch, Metric, Prediction


def confusion(
    num_classes: int, *, names: Sequence[str] = (), target_classes: Sequence[int] = ()
) -> Metric:
    """Makes the measure of semantic maps; it runs on the host.

    The matrix n_ij counts the pixels of class i that were taken for j, over all images together;
    t_i = Σ_j n_ij. As in Long et al. (FCN, CVPR 2015, section 5):

    - `pixel_accuracy`: Σ_i n_ii / Σ_i t_i.
    - `mean_accuracy`: the mean of n_ii / t_i over the classes that are labelled somewhere.
    - `miou`: the mean of IoU_i = n_ii / (t_i + Σ_j n_ji - n_ii) over the classes that are labelled
      or predicted somewhere: a class predicted where it never occurs counts as 0.
    - `fwiou`: Σ_i t_i IoU_i / Σ_i t_i.
    - `target_miou`: the same mean over `target_classes` alone, if they are given.
    - `iou_NAME`: IoU_i of each class; NaN for one that is neither labelled nor predicted.
    - `pixels`: Σ_i t_i.

    Pixels of label -1, those beyond an image's `size` and examples of weight 0 count for nothing;
    figures of no pixel are NaN.

    `measure` needs `classes` of the prediction, `label`, `size` and `weight` of the batch.

    Args:
        num_classes: labels and predictions are 0 .. num_classes - 1.
        names: of the classes, for `iou_NAME`; by default their numbers.
        target_classes: those that matter most, such as small ones. All pixels count for them too:
            one of another class that is taken for a target is in its union.

    Returns:
        A Metric whose sums are {"matrix": int64 `[num_classes, num_classes]`}, rows the labels.

    Raises:
        ValueError: `num_classes` is below 1 or not the number of names, or a target class is none
            of them or named twice; in `measure`: sizes that differ, or a class out of range at a
            labelled pixel.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: expected 1 or more")
    if names and len(names) != num_classes:
        raise ValueError(f"{len(names)} names for {num_classes} classes")
    targets = check_targets(num_classes, target_classes)
    called = list(names) or [str(i) for i in range(num_classes)]

    def measure(prediction: Prediction, batch: Batch) -> dict[str, Any]:
        classes, label = np.asarray(prediction["classes"]), np.asarray(batch["label"])
        if classes.shape != label.shape:
            raise ValueError(f"classes {classes.shape} and label {label.shape} differ in size")
        size = np.asarray(batch["size"])
        inside = np.arange(label.shape[1])[None, :, None] < size[:, :1, None]
        inside = inside & (np.arange(label.shape[2])[None, None, :] < size[:, 1:, None])
        counts = inside & (label >= 0) & (np.asarray(batch["weight"]) > 0)[:, None, None]
        true, told = label[counts].astype(np.int64), classes[counts].astype(np.int64)
        for what, found in (("a label", true), ("a prediction", told)):
            wrong = found[(found < 0) | (found >= num_classes)]
            if wrong.size:
                raise ValueError(f"{what} is {wrong[0]}: expected 0 to {num_classes - 1}")
        pairs = np.bincount(true * num_classes + told, minlength=num_classes**2)
        return {"matrix": pairs.reshape(num_classes, num_classes).astype(np.int64)}

    def compute(sums: dict[str, Any]) -> dict[str, float]:
        matrix = sums["matrix"].astype(np.float64)
        right, labelled, total = np.diag(matrix), matrix.sum(axis=1), matrix.sum()
        iou = _over(right, labelled + matrix.sum(axis=0) - right)
        return {
            "pixel_accuracy": float(right.sum() / total) if total else math.nan,
            "mean_accuracy": _mean(_over(right, labelled)),
            "miou": _mean(iou),
            **({"target_miou": _mean(iou[targets])} if targets else {}),
            "fwiou": float(np.nansum(labelled * iou) / total) if total else math.nan,
            **{f"iou_{name}": float(value) for name, value in zip(called, iou, strict=True)},
            "pixels": float(total),
        }

    return Metric(measure=measure, merge=add, compute=compute)


def check_targets(num_classes: int, target_classes: Sequence[int]) -> list[int]:
    """The target classes, checked."""
    targets = [int(target) for target in target_classes]
    known = all(0 <= target < num_classes for target in targets)
    if not known or len(set(targets)) < len(targets):
        raise ValueError(
            f"target_classes={tuple(target_classes)}: expected different classes of 0 to "
            f"{num_classes - 1}"
        )
    return targets


def _over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan
