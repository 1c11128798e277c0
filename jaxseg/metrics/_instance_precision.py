"""Instances as COCO scores them: average precision over the overlap of masks, and of boxes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxseg.metrics._average_precision import THRESHOLDS, Matches, match, precision_recall
from jaxseg.metrics._instances import dsb_average_precision
from jaxseg.metrics._objects import (
    Told,
    Truth,
    box_areas,
    box_overlaps,
    mask_areas,
    mask_boxes,
    mask_overlaps,
    objects,
)
from jaxseg.types import Batch, Metric, Prediction

_AREAS = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}


def instances(
    *,
    num_classes: int = 1,
    names: Sequence[str] = (),
    boxes: bool = True,
    max_detections: int = 100,
    score_threshold: float = 0.5,
) -> Metric:
    """Makes COCO's average precision of instances, and AP_dsb beside it; it runs on the host.

    Of each image and class the `max_detections` best detections are matched with the true objects
    at overlaps of 0.5, 0.55, ..., 0.95 (Lin et al., ECCV 2014; the rules are those of cocoapi, and
    so are the figures, to rounding). Precision is averaged over 101 recalls, then over the classes
    that have an object to be found. Crowds need not be found, and what lies in them is not counted.

    - `ap`: the mean over the thresholds; `ap_50`, `ap_75`: at one; `ap_small`, `ap_medium`,
      `ap_large`: of objects of up to 32², 32² to 96², and 96² pixels or more.
    - `ar`: the part of the objects that are found, the mean over thresholds and classes.
    - `ap_NAME`: of each class, if there are `names`.
    - `box_ap`, `box_ap_50`, ...: the same of boxes. True boxes are those of the masks; as in COCO
      the area of a true object is that of its mask.
    - `ap_dsb`, `ap_dsb_50`, `ap_dsb_75`, ...: see `dsb_average_precision(overlapping=True)`; there
      an object is one whose score is above `score_threshold`.

    Figures of no object are NaN (cocoapi says -1). A true object's area is its pixels; of COCO's
    polygons the annotation file gives an area that differs by a little.

    `measure` needs of the prediction `masks` `[B, D, H, W]` bool, `scores` `[B, D]`, `kinds`
    `[B, D]` (-1: none; may be absent with one class), `boxes` `[B, D, 4]` (absent: those of the
    masks), or `instances` `[B, H, W]`, whose objects all score 1; of the batch `masks`, `valid`,
    `kinds`, `crowd`, `size` and `weight`, of which `kinds` and `crowd` may be absent. Pixels whose
    `label` is -1 are ignored if there is one: they are cut out of all masks, and a predicted object
    that lies wholly in them is left out.

    Args:
        num_classes: kinds are 0 .. num_classes - 1.
        names: of the classes, for figures of each; none: the means alone.
        boxes: whether boxes are scored too.
        max_detections: of an image and class.
        score_threshold: of objects that count in AP_dsb.

    Returns:
        A Metric whose sums are concatenated detections: {"score": float64 `[D]`, "kind": int64
        `[D]`, "mask_matched", "mask_ignored" (and "box_..."): bool `[D, 4, 10]` by area range and
        threshold, "truths": int64 `[num_classes, 4]`, "dsb": those of AP_dsb}.

    Raises:
        ValueError: an option is out of range; in `measure`: sizes that differ, or a kind that is
            out of range.
    """
    if num_classes < 1 or max_detections < 1:
        raise ValueError(
            f"num_classes={num_classes}, max_detections={max_detections}: expected 1 or more"
        )
    if names and len(names) != num_classes:
        raise ValueError(f"{len(names)} names for {num_classes} classes")
    rows = ("mask", "box") if boxes else ("mask",)
    ranges = np.array(list(_AREAS.values()))[:, :, None]
    dsb = dsb_average_precision(
        overlapping=True, num_classes=num_classes, score_threshold=score_threshold
    )

    def match_class(told: Told, truth: Truth) -> dict[str, Matches]:
        area = mask_areas(truth.masks)
        ignored = truth.crowd | (area < ranges[:, 0]) | (area > ranges[:, 1])
        found = {"mask": mask_areas(told.masks)}
        overlaps = {"mask": mask_overlaps(told.masks, truth.masks, truth.crowd)}
        if boxes:
            found["box"] = box_areas(told.boxes)
            overlaps["box"] = box_overlaps(told.boxes, mask_boxes(truth.masks), truth.crowd)
        return {
            row: match(
                told.scores,
                overlaps[row],
                ignored=ignored,
                crowd=truth.crowd,
                outside=(found[row] < ranges[:, 0]) | (found[row] > ranges[:, 1]),
            )
            for row in rows
        }

    def measure(prediction: Prediction, batch: Batch) -> dict[str, Any]:
        shape = (0, len(_AREAS), len(THRESHOLDS))
        parts: dict[str, list[np.ndarray]] = {"score": [np.zeros(0)], "kind": [np.zeros(0, int)]}
        parts |= {f"{row}_{what}": [np.zeros(shape, bool)] for row in rows for what in _FATES}
        truths = np.zeros((num_classes, len(_AREAS)), np.int64)
        for told, truth in objects(prediction, batch, num_classes=num_classes):
            for kind in np.union1d(told.kinds, truth.kinds):
                best = np.flatnonzero(told.kinds == kind)[:max_detections]
                there = truth.kinds == kind
                matches = match_class(
                    Told(*(field[best] for field in told)),
                    Truth(*(field[there] for field in truth)),
                )
                parts["score"].append(matches["mask"].scores)
                parts["kind"].append(np.full(len(best), kind))
                for row, found in matches.items():
                    parts[f"{row}_matched"].append(np.moveaxis(found.matched, -1, 0))
                    parts[f"{row}_ignored"].append(np.moveaxis(found.ignored, -1, 0))
                truths[kind] += matches["mask"].truths
        joined = {name: np.concatenate(values) for name, values in parts.items()}
        return {**joined, "truths": truths, "dsb": dsb.measure(prediction, batch)}

    def merge(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        sums = {n: np.concatenate([a[n], b[n]]) for n in a if n not in ("truths", "dsb")}
        return {**sums, "truths": a["truths"] + b["truths"], "dsb": dsb.merge(a["dsb"], b["dsb"])}

    def compute(sums: dict[str, Any]) -> dict[str, float]:
        figures: dict[str, float] = {}
        for row in rows:
            tables = [precision_recall(_of_class(sums, row, k)) for k in range(num_classes)]
            precision, recall = (np.stack(table) for table in zip(*tables, strict=True))
            by_range = dict(zip(_AREAS, np.moveaxis(precision, 1, 0), strict=True))
            found = {"ap": _mean(by_range["all"])}
            found |= {f"ap_{50 + 5 * t}": _mean(by_range["all"][:, t]) for t in (0, 5)}
            found |= {f"ap_{a}": _mean(by_range[a]) for a in ("small", "medium", "large")}
            found["ar"] = _mean(recall[:, 0])
            found |= {f"ap_{n}": _mean(p) for n, p in zip(names, by_range["all"], strict=False)}
            figures |= {name if row == "mask" else f"box_{name}": v for name, v in found.items()}
        return {**figures, **dsb.compute(sums["dsb"])}

    return Metric(measure=measure, merge=merge, compute=compute)


_FATES = ("matched", "ignored")


def _of_class(sums: dict[str, Any], row: str, kind: int) -> Matches:
    chosen = sums["kind"] == kind
    matched, ignored = (np.moveaxis(sums[f"{row}_{what}"][chosen], 0, -1) for what in _FATES)
    return Matches(sums["score"][chosen], matched, ignored, sums["truths"][kind])


def _mean(values: np.ndarray) -> float:
    """Of those that are no NaN, each of which has an object to be found."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
