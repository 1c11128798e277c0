"""Panoptic quality: how many objects are found, and how well they are outlined."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxseg.metrics._objects import assign, count_objects, objects
from jaxseg.metrics._sums import add
from jaxseg.types import Batch, Metric, Prediction


def panoptic_quality(
    *, num_classes: int = 1, names: Sequence[str] = (), score_threshold: float = 0.5
) -> Metric:
    """Makes panoptic quality of things (Kirillov et al., CVPR 2019); it runs on the host.

    A predicted object is a hit if its intersection over union with a true one of its class is above
    0.5. TP are the hits over all images, FP the other predicted objects, FN the true ones that none
    hits. Masks may overlap, unlike in the paper: of several hits of an object one counts.

    - `sq`: the mean overlap of the hits; 0 where there is none.
    - `rq`: TP / (TP + FP / 2 + FN / 2), which is F1.
    - `pq`: their product; all three are means over the classes that occur, in truth or prediction.
    - `pq_NAME`, `sq_NAME`, `rq_NAME`: of each class, if there are `names`.

    What `measure` needs, and what is ignored, is as in `instances`. Crowds are not counted, nor
    what lies in one by more than half and hits nothing.

    Args:
        num_classes: kinds are 0 .. num_classes - 1.
        names: of the classes, for figures of each.
        score_threshold: predicted objects are those with a score above it.

    Returns:
        A Metric whose sums are, by class, {"overlap": float64, "hits", "predicted", "objects":
        int64}.

    Raises:
        ValueError: an option is out of range; in `measure`: see `instances`.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: expected 1 or more")
    if names and len(names) != num_classes:
        raise ValueError(f"{len(names)} names for {num_classes} classes")

    def measure(prediction: Prediction, batch: Batch) -> dict[str, Any]:
        sums: dict[str, Any] = {"overlap": np.zeros(num_classes)}
        sums |= {n: np.zeros(num_classes, np.int64) for n in ("hits", "predicted", "objects")}
        for told, truth in objects(prediction, batch, num_classes=num_classes):
            overlaps, ours, theirs = count_objects(told, truth, score_threshold)
            rows, columns = assign(overlaps, 0.5)
            np.add.at(sums["overlap"], theirs[columns], overlaps[rows, columns])
            for name, kinds in (
                ("hits", theirs[columns]),
                ("predicted", ours),
                ("objects", theirs),
            ):
                sums[name] += np.bincount(kinds, minlength=num_classes)
        return sums

    def compute(sums: dict[str, Any]) -> dict[str, float]:
        both = (sums["predicted"] + sums["objects"]) / 2
        there = both > 0
        sq = sums["overlap"] / np.maximum(sums["hits"], 1)
        rq = sums["hits"] / np.where(there, both, 1)
        figures = {}
        for name, values in (("pq", sq * rq), ("sq", sq), ("rq", rq)):
            figures[name] = float(values[there].mean()) if there.any() else float("nan")
            for k, given in enumerate(names):
                figures[f"{name}_{given}"] = float(values[k]) if there[k] else float("nan")
        return figures

    return Metric(measure=measure, merge=add, compute=compute)
