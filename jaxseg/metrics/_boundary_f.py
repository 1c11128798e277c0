"""How well the contours of classes are found: the boundary F-measure."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxseg.metrics._confusion import confusion
from jaxseg.types import Batch, Metric, Prediction


def boundary_f(num_classes: int, *, tolerance: float = 0.0075, names: Sequence[str] = ()) -> Metric:
    """Makes the measure of the contours of semantic maps; it runs on the host.

    A contour pixel of class c belongs to c and has, among its 4 neighbours, a labelled pixel that
    does not. Let T be those of the label, P those of the prediction, and θ = `tolerance` · the
    diagonal of the image in pixels. For one image and class,

    - precision is the part of P at most θ from a pixel of T,
    - recall the part of T at most θ from a pixel of P (Euclidean, between centres; θ included),
    - F = 2 · precision · recall / (precision + recall), 0 if both are 0.

    If T and P are both empty, as for a class that fills the image, F is 1; if one is, it is 0
    (the rule of DAVIS, Perazzi et al., CVPR 2016).

    - `boundary_f_NAME`: the mean of F over the images in whose label the class occurs; NaN if there
      is none. What is predicted of a class where the label has none of it is not counted here; it
      costs the classes that are there.
    - `boundary_f`: the mean of these over the classes that occur.
    - `images`: how many have a labelled pixel.

    As in Csurka et al. (BMVC 2013), whose θ this is. DAVIS dilates with a disk of 0.8 % of the
    diagonal, rounded up, and draws a contour on one side of each edge: its figures differ a little.

    Pixels of label -1 are cut out of both maps: no contour lies in them or runs along them, and
    neither does one along the border of the image. Maps whose classes all lie apart, between
    ignored ribbons (PASCAL VOC), have no contour. Pixels beyond an image's `size` and examples of
    weight 0 count for nothing.

    `measure` needs `classes` of the prediction, `label`, `size` and `weight` of the batch.

    Args:
        num_classes: labels and predictions are 0 .. num_classes - 1.
        tolerance: as a part of the diagonal, 0 or more.
        names: of the classes, for `boundary_f_NAME`; by default their numbers.

    Returns:
        A Metric whose sums are {"f": float64 `[num_classes]`, "occurs": int64 `[num_classes]`,
        "images": int64}.

    Raises:
        ValueError: `num_classes` is below 1 or not the number of names; a negative tolerance; in
            `measure`: sizes that differ, or a class out of range at a labelled pixel.
    """
    matrix = confusion(num_classes, names=names)
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance}: expected 0 or more")
    called = list(names) or [str(i) for i in range(num_classes)]

    def measure(prediction: Prediction, batch: Batch) -> dict[str, Any]:
        matrix.measure(prediction, batch)  # for its checks
        classes, label = np.asarray(prediction["classes"]), np.asarray(batch["label"])
        size = np.asarray(batch["size"])
        total, occurs = np.zeros(num_classes), np.zeros(num_classes, np.int64)
        images = np.int64(0)
        for index in np.flatnonzero(np.asarray(batch["weight"]) > 0):
            height, width = (int(side) for side in size[index])
            true, told = label[index, :height, :width], classes[index, :height, :width]
            valid = true >= 0
            contours = _contours(true, valid), _contours(told, valid)
            distance = tolerance * math.hypot(height, width)
            for number in np.unique(true[valid]):
                of_true = np.argwhere(contours[0] & (true == number))
                of_told = np.argwhere(contours[1] & (told == number))
                total[number] += _f_measure(of_told, of_true, distance)
                occurs[number] += 1
            images += valid.any()
        return {"f": total, "occurs": occurs, "images": images}

    def compute(sums: dict[str, Any]) -> dict[str, float]:
        occurs = sums["occurs"]
        each = np.where(occurs > 0, sums["f"] / np.maximum(occurs, 1), np.nan)
        return {
            "boundary_f": float(each[occurs > 0].mean()) if occurs.any() else math.nan,
            **{f"boundary_f_{name}": float(f) for name, f in zip(called, each, strict=True)},
            "images": float(sums["images"]),
        }

    return Metric(measure=measure, merge=matrix.merge, compute=compute)


def _contours(
    classes: Int[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """Pixels of which one of the 4 neighbours has another class, both labelled."""
    right = (classes[:, :-1] != classes[:, 1:]) & valid[:, :-1] & valid[:, 1:]
    down = (classes[:-1] != classes[1:]) & valid[:-1] & valid[1:]
    marked = np.zeros(classes.shape, bool)
    marked[:, :-1] |= right
    marked[:, 1:] |= right
    marked[:-1] |= down
    marked[1:] |= down
    return marked


def _f_measure(
    told: Int[np.ndarray, "p 2"], true: Int[np.ndarray, "t 2"], distance: float
) -> float:
    from scipy.spatial import cKDTree

    if not len(told) or not len(true):
        return float(len(told) == len(true))
    # The search excludes its bound, so it goes further than the distance that counts.
    bound = distance + 1
    precision, recall = (
        np.mean(cKDTree(others).query(points, distance_upper_bound=bound)[0] <= distance)
        for points, others in ((told, true), (true, told))
    )
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0
