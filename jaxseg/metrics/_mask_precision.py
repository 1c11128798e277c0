"""Average precision of masks as VOC scores it, mAP^r."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from jaxseg.metrics._objects import Told, Truth, mask_overlaps, objects
from jaxseg.types import Batch, Metric, Prediction


def mask_average_precision(
    *, num_classes: int, names: Sequence[str] = (), thresholds: Sequence[float] = (0.5, 0.7)
) -> Metric:
    """Makes mAP^r, VOC's average precision over masks; it runs on the host.

    Hariharan et al., "Simultaneous Detection and Segmentation", ECCV 2014, with the rules of VOC's
    kit (Everingham et al., IJCV 2010): in all images together, the best score first, a detection is
    a hit if the true object of its class and image that it overlaps most is overlapped by the
    threshold or more and was not hit before; otherwise it is false. Precision is made to fall with
    recall, and the area below it is taken as it is, not at points.

    - `ap_r_50`, `ap_r_70`: the mean over the classes that have an object, by threshold.
    - `ap_r_50_NAME`, ...: of each class, if there are `names`.

    What `measure` needs, and what is ignored, is as in `instances`. A detection whose best object
    is a crowd is not counted, and crowds need not be found.

    Args:
        num_classes: kinds are 0 .. num_classes - 1.
        names: of the classes, for figures of each.
        thresholds: of intersection over union, in (0, 1].

    Returns:
        A Metric whose sums are concatenated detections: {"score": float64 `[D]`, "kind": int64
        `[D]`, "hit", "counted": bool `[D, thresholds]`, "truths": int64 `[num_classes]`}.

    Raises:
        ValueError: an option is out of range; in `measure`: see `instances`.
    """
    limits = np.array(thresholds, np.float64)
    if num_classes < 1 or not limits.size or not np.all((limits > 0) & (limits <= 1)):
        raise ValueError(
            f"num_classes={num_classes}, thresholds={tuple(thresholds)}: expected 1 or more, and "
            "numbers above 0, up to 1"
        )
    if names and len(names) != num_classes:
        raise ValueError(f"{len(names)} names for {num_classes} classes")

    def measure(prediction: Prediction, batch: Batch) -> dict[str, Any]:
        empty = np.zeros((0, len(limits)), bool)
        parts: dict[str, list[np.ndarray]] = {"score": [np.zeros(0)]}
        parts |= {"kind": [np.zeros(0, np.int64)], "hit": [empty], "counted": [empty]}
        truths = np.zeros(num_classes, np.int64)
        for told, truth in objects(prediction, batch, num_classes=num_classes):
            hit, counted = _hits(told, truth, limits)
            for name, values in (
                ("score", told.scores),
                ("kind", told.kinds),
                ("hit", hit),
                ("counted", counted),
            ):
                parts[name].append(values)
            truths += np.bincount(truth.kinds[~truth.crowd], minlength=num_classes)
        return {**{n: np.concatenate(values) for n, values in parts.items()}, "truths": truths}

    def merge(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        sums = {name: np.concatenate([a[name], b[name]]) for name in a if name != "truths"}
        return {**sums, "truths": a["truths"] + b["truths"]}

    def compute(sums: dict[str, Any]) -> dict[str, float]:
        figures: dict[str, float] = {}
        for t, limit in enumerate(limits):
            found = np.full(num_classes, np.nan)
            for kind in np.flatnonzero(sums["truths"]):
                chosen = (sums["kind"] == kind) & sums["counted"][:, t]
                order = np.argsort(-sums["score"][chosen], kind="stable")
                found[kind] = _area(sums["hit"][chosen, t][order], int(sums["truths"][kind]))
            name, known = f"ap_r_{100 * limit:.0f}", found[~np.isnan(found)]
            figures[name] = float(known.mean()) if known.size else float("nan")
            figures |= {f"{name}_{n}": float(v) for n, v in zip(names, found, strict=False)}
        return figures

    return Metric(measure=measure, merge=merge, compute=compute)


def _hits(
    told: Told, truth: Truth, limits: Float64[np.ndarray, " t"]
) -> tuple[Bool[np.ndarray, "d t"], Bool[np.ndarray, "d t"]]:
    """Which detections hit an object, and which count, in an image."""
    hit = np.zeros((len(told.scores), len(limits)), bool)
    counted = np.ones_like(hit)
    if not len(truth.kinds):
        return hit, counted
    overlaps = mask_overlaps(told.masks, truth.masks, truth.crowd)
    overlaps = np.where(told.kinds[:, None] == truth.kinds, overlaps, -1.0)
    taken = np.zeros((len(truth.kinds), len(limits)), bool)
    for d, row in enumerate(overlaps):
        best = int(row.argmax())
        reached = row[best] >= limits
        if truth.crowd[best]:
            counted[d] = ~reached
        else:
            hit[d] = reached & ~taken[best]
            taken[best] |= reached
    return hit, counted


def _area(hit: Bool[np.ndarray, " d"], truths: int) -> float:
    """Below the curve of precision over recall, made to fall."""
    hits = np.cumsum(hit)
    precision = hits / np.arange(1, len(hit) + 1)
    reached = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(reached[hit]) / truths)
