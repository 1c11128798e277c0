"""Keypoints of people as COCO scores them: average precision over object keypoint similarity."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from jaxseg.data.coco_people import People
from jaxseg.data.person_crops import to_image
from jaxseg.metrics._average_precision import join, match, precision_recall
from jaxseg.types import Batch, Metric, Prediction

_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
    *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)
_AREAS = {"all": (0.0, 1e10), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}


def keypoint_oks(
    people: People,
    *,
    sigmas: Sequence[float] = _SIGMAS,
    score_threshold: float = 0.2,
    nms_threshold: float | None = 0.9,
    max_detections: int = 20,
) -> Metric:
    """Makes COCO's score of keypoints, for crops of one person each; it runs on the host.

    The similarity of a detection to a person of area s² is the mean of exp(-d² / (2 s² (2σ)²)) over
    the person's labelled keypoints (Lin et al., ECCV 2014; the formula is that of cocoapi). At each
    threshold 0.5, 0.55, ..., 0.95 detections are matched to people, the best score first; crowds
    and people without keypoints need not be found, and what finds them is not counted.

    The score of a detection is that of its box times the mean of its keypoints' scores that are
    above `score_threshold`, 0 if none is. Of detections of one image that are more similar than
    `nms_threshold` the best stays; there s² is the mean area of the two crops' windows. Both are
    the protocol of HRNet (Sun et al., CVPR 2019; its released code).

    - `ap`: precision, the mean over 101 recalls and over the thresholds; `ap_50`, `ap_75`: at one
      threshold; `ap_medium`, `ap_large`: of people of 32² to 96² pixels, and of more.
    - `ar`, `ar_50`, `ar_75`, `ar_medium`, `ar_large`: the part of the people that are found.
    - `people`: how many are to be found.

    Figures of no person are NaN (cocoapi says -1). All images of `people` count, also those that no
    batch came from.

    `measure` needs `points` `[B, P, 2]` in pixels of the crop, `kinds` `[B, P]` and `scores`
    `[B, P]` of the prediction; of several points of a kind the best counts, a kind that is absent
    is at (0, 0) of the image, as in COCO's results; and of the batch `crop`, `image_id`, `score`,
    `size` and `weight` (`data.coco_keypoints`).

    Args:
        people: all that is annotated, crowds too: `CocoKeypointSource(...).people`.
        sigmas: of each keypoint, as part of s.
        score_threshold: of a keypoint that counts in the detection's score.
        nms_threshold: in [0, 1]; None keeps all detections.
        max_detections: the best of each image that are matched.

    Returns:
        A Metric whose sums are concatenated detections: {"image_id": int64 `[D]`, "points":
        float64 `[D, K, 2]` in pixels of the image, "score", "window": float64 `[D]`}.

    Raises:
        ValueError: an option is out of range, `people` has another number of keypoints; in
            `measure`: a kind out of range; in `compute`: an image that `people` does not list.
    """
    deviations = np.array(sigmas, np.float64)
    if people.points.shape[1] != len(deviations) or not np.all(deviations > 0):
        raise ValueError(
            f"sigmas={tuple(sigmas)}: expected {people.points.shape[1]} numbers above 0"
        )
    if nms_threshold is not None and not 0 <= nms_threshold <= 1:
        raise ValueError(f"nms_threshold={nms_threshold}: expected 0..1 or None")
    if max_detections < 1:
        raise ValueError(f"max_detections={max_detections}: expected 1 or more")
    images = np.unique(people.images)
    order = np.argsort(people.image_id, kind="stable")
    starts = np.searchsorted(people.image_id[order], images, "left")
    ends = np.searchsorted(people.image_id[order], images, "right")
    true = People(people.images, *(field[order] for field in people[1:]))
    ranges = np.array(list(_AREAS.values()))[:, :, None]

    def measure(prediction: Prediction, batch: Batch) -> dict[str, Any]:
        rows = np.flatnonzero(np.asarray(batch["weight"]) > 0)
        points, kinds, scores = (
            np.asarray(prediction[name])[rows] for name in ("points", "kinds", "scores")
        )
        if kinds.size and kinds.max() >= len(deviations):
            raise ValueError(f"kinds up to {kinds.max()}: expected -1..{len(deviations) - 1}")
        crop = np.asarray(batch["crop"])[rows].astype(np.float64)
        places = np.zeros((len(rows), len(deviations), 2))
        sure = np.zeros((len(rows), len(deviations)))
        # The best of a kind is written last.
        by_score = np.argsort(scores, axis=1, kind="stable")
        ordered = np.take_along_axis(kinds, by_score, axis=1)
        row, place = np.nonzero(ordered >= 0)
        place = by_score[row, place]
        kind = kinds[row, place]
        places[row, kind] = to_image(points, crop)[row, place]
        sure[row, kind] = scores[row, place]
        good = sure > score_threshold
        mean = np.sum(sure * good, axis=1) / np.maximum(np.count_nonzero(good, axis=1), 1)
        size = np.asarray(batch["size"])[rows].astype(np.float64)
        return {
            "image_id": np.asarray(batch["image_id"])[rows].astype(np.int64),
            "points": places,
            "score": np.asarray(batch["score"])[rows].astype(np.float64) * mean,
            "window": np.abs(np.linalg.det(crop[..., :2])) * size.prod(axis=1),
        }

    def merge(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        return {name: np.concatenate([a[name], b[name]]) for name in a}

    def compute(sums: dict[str, Any]) -> dict[str, float]:
        if unknown := set(sums["image_id"].tolist()) - set(images.tolist()):
            raise ValueError(f"image {min(unknown)} is none of those that `people` lists")
        best_first = np.lexsort([-sums["score"], sums["image_id"]])
        told = {name: values[best_first] for name, values in sums.items()}
        bounds = (np.searchsorted(told["image_id"], images, side) for side in ("left", "right"))
        parts = []
        for i, (start, end) in enumerate(zip(*bounds, strict=True)):
            points, score, window = (
                told[name][start:end] for name in ("points", "score", "window")
            )
            if nms_threshold is not None:
                kept = _suppress(points, window, deviations, nms_threshold)
                points, score = points[kept], score[kept]
            points, score = points[:max_detections], score[:max_detections]
            here = People(true.images, *(field[starts[i] : ends[i]] for field in true[1:]))
            aside = here.crowd | (here.num_keypoints == 0)
            extent = np.prod(np.ptp(points, axis=1), axis=-1)
            parts.append(
                match(
                    score,
                    _similarity(points, here, deviations),
                    ignored=aside | (here.area < ranges[:, 0]) | (here.area > ranges[:, 1]),
                    crowd=here.crowd,
                    outside=(extent < ranges[:, 0]) | (extent > ranges[:, 1]),
                )
            )
        matches = join(parts)
        figures: dict[str, float] = {}
        for name, table in zip(("ap", "ar"), precision_recall(matches), strict=True):
            by_range = dict(zip(_AREAS, table, strict=True))
            figures[name] = float(by_range["all"].mean())
            figures |= {f"{name}_{50 + 5 * t}": float(by_range["all"][t].mean()) for t in (0, 5)}
            figures |= {f"{name}_{a}": float(by_range[a].mean()) for a in ("medium", "large")}
        return {**figures, "people": float(matches.truths[0])}

    return Metric(measure=measure, merge=merge, compute=compute)


def _similarity(
    points: Float64[np.ndarray, "d k 2"], people: People, sigmas: Float64[np.ndarray, " k"]
) -> Float64[np.ndarray, "d g"]:
    """Of each detection and person; without labelled keypoints, by the distance from a box.

    This box is the person's, three times as wide and high about the same middle.
    """
    difference = points[:, None] - people.points
    low, high = people.box[:, None, :2], people.box[:, None, 2:]
    low, high = low - (high - low), high + (high - low)
    beyond = np.maximum(low - points[:, None], 0) + np.maximum(points[:, None] - high, 0)
    labelled = people.labelled
    none = np.count_nonzero(labelled, axis=1)[:, None] == 0
    squared = np.sum(np.where(none[..., None], beyond, difference) ** 2, axis=-1)
    area = people.area[:, None] + np.spacing(1)
    used = labelled | none
    similar = np.exp(-squared / (2 * sigmas) ** 2 / area / 2)
    return np.sum(similar * used, axis=-1) / np.count_nonzero(used, axis=-1)


def _suppress(
    points: Float64[np.ndarray, "d k 2"],
    window: Float64[np.ndarray, " d"],
    sigmas: Float64[np.ndarray, " k"],
    threshold: float,
) -> Bool[np.ndarray, " d"]:
    """Which detections stay, the best first, where none may be more similar to a better one."""
    kept = np.ones(len(points), bool)
    for d in range(len(points)):
        if kept[d]:
            later = slice(d + 1, None)
            area = (window[later, None] + window[d]) / 2 + np.spacing(1)
            squared = np.sum((points[later] - points[d]) ** 2, axis=-1)
            similar = np.exp(-squared / (2 * sigmas) ** 2 / area / 2).mean(axis=-1)
            kept[later] &= similar <= threshold
    return kept
