"""Classes of pixels in narrow bands around the borders of the labels (trimaps)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxseg.metrics._confusion import confusion
from jaxseg.types import Batch, Metric, Prediction


def trimap(
    num_classes: int,
    radii: Sequence[int] = (1, 2, 5, 10, 20, 40),
    *,
    names: Sequence[str] = (),
    around_ignored: bool = False,
) -> Metric:
    """Makes the measure of semantic maps near the borders of the labels; it runs on the host.

    For each radius R only the labelled pixels at most R pixels from a pixel of another class count
    (Kohli et al., IJCV 2009; DeepLab, Chen et al., TPAMI 2018). The distance is Euclidean, between
    the centres of the two pixels: 1 is the one-pixel seam on both sides of a border, and the band
    is 2R pixels wide. From one confusion matrix per radius, over all images together:

    - `accuracy_R`: the part of these pixels that have the right class.
    - `miou_R`: the mean over classes of their intersection over union within these pixels; over
      the classes that are labelled or predicted there.
    - `iou_R_NAME`: that of each class, if `names` are given.
    - `pixels_R`: how many they are.

    The border of the image is none of the labels. An ignored region has no class, so that the edge
    of a labelled region towards it is no border either, but one class seen across it counts at its
    distance. PASCAL VOC hides the borders under ignored ribbons, and DeepLab measures around these:
    there, set `around_ignored`, which takes ignored pixels for those of one class more.

    Pixels of label -1, those beyond an image's `size` and examples of weight 0 count for nothing;
    figures of no pixel are NaN.

    `measure` needs `classes` of the prediction, `label`, `size` and `weight` of the batch.

    Args:
        num_classes: labels and predictions are 0 .. num_classes - 1.
        radii: R, in pixels, each 1 or more.
        names: of the classes, for `iou_R_NAME`.
        around_ignored: edges towards ignored regions are borders too.

    Returns:
        A Metric whose sums are {"matrix": int64 `[radii, num_classes, num_classes]`}, rows the
        labels.

    Raises:
        ValueError: `num_classes` is below 1 or not the number of names; no radius, a radius below
            1 or twice the same; in `measure`: sizes that differ, or a class out of range at a
            labelled pixel.
    """
    matrix = confusion(num_classes, names=names)
    radii = tuple(radii)
    if not radii or min(radii) < 1 or len(set(radii)) < len(radii):
        raise ValueError(f"radii={radii}: expected one or more, all different, each 1 or more")

    def measure(prediction: Prediction, batch: Batch) -> dict[str, Any]:
        matrix.measure(prediction, batch)  # for its checks: a wrong label may lie in no band
        label, size = np.asarray(batch["label"]), np.asarray(batch["size"])
        distance = np.full(label.shape, np.inf)
        for index in np.flatnonzero(np.asarray(batch["weight"]) > 0):
            place = (index, slice(int(size[index, 0])), slice(int(size[index, 1])))
            distance[place] = _distance(label[place], max(radii), around_ignored)
        bands = [{**batch, "label": np.where(distance <= r, label, -1)} for r in radii]
        return {"matrix": np.stack([matrix.measure(prediction, b)["matrix"] for b in bands])}

    def compute(sums: dict[str, Any]) -> dict[str, float]:
        figures = {}
        for radius, counts in zip(radii, sums["matrix"], strict=True):
            found = matrix.compute({"matrix": counts})
            figures[f"accuracy_{radius}"] = found["pixel_accuracy"]
            figures[f"miou_{radius}"] = found["miou"]
            figures |= {f"iou_{radius}_{name}": found[f"iou_{name}"] for name in names}
            figures[f"pixels_{radius}"] = found["pixels"]
        return figures

    return Metric(measure=measure, merge=matrix.merge, compute=compute)


def _distance(
    label: Int[np.ndarray, "h w"], reach: int, around_ignored: bool
) -> Float[np.ndarray, "h w"]:
    """From each labelled pixel to the nearest of another class; those beyond `reach` may differ."""
    from scipy import ndimage

    distance = np.full(label.shape, np.inf)
    classes = np.unique(label[label >= 0])
    # The box that holds a class, and `reach` more on each side, holds all that can be near enough.
    boxes = ndimage.find_objects(label.astype(np.int64) + 1)
    for number in classes:
        rows, columns = boxes[number]
        box = (_widen(rows, reach), _widen(columns, reach))
        part = label[box]
        other = part != number if around_ignored else (part != number) & (part >= 0)
        if other.any():
            own = part == number
            distance[box][own] = ndimage.distance_transform_edt(~other)[own]
    return distance


def _widen(span: slice, reach: int) -> slice:
    return slice(max(span.start - reach, 0), span.stop + reach)
