"""Predicted and true objects of an image as masks that may overlap, and how they meet."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

from jaxseg.types import Batch, Prediction


class Told(NamedTuple):
    """Predicted objects, the best score first."""

    masks: Bool[np.ndarray, "d h w"]
    boxes: Float64[np.ndarray, "d 4"]
    """`[y0, x0, y1, x1]`; those of the masks where the prediction holds none."""
    scores: Float64[np.ndarray, " d"]
    kinds: Int64[np.ndarray, " d"]


class Truth(NamedTuple):
    """True objects, in the order of the batch."""

    masks: Bool[np.ndarray, "g h w"]
    kinds: Int64[np.ndarray, " g"]
    crowd: Bool[np.ndarray, " g"]
    """Those that stand for many."""


def objects(
    prediction: Prediction, batch: Batch, *, num_classes: int
) -> Iterator[tuple[Told, Truth]]:
    """The objects of every image that counts: of weight above 0, with a pixel that is not ignored.

    All is cut to the image's `size`, and pixels whose `label` `[B, H, W]` is -1, where batches hold
    one, are cut out of all masks; objects that this leaves empty are left out.

    Args:
        prediction: `masks` `[B, D, H, W]` with `scores` `[B, D]` and, if there are several classes,
            `kinds` `[B, D]`, -1 where there is none; `boxes` `[B, D, 4]` is optional. Or
            `instances` `[B, H, W]`, 0 for none: objects of class 0 and score 1.
        batch: `masks` `[B, G, H, W]`, `valid`, `weight`, `size`; `kinds`, `crowd` and `label` are
            optional.
        num_classes: kinds are below it.

    Raises:
        ValueError: sizes differ, or a kind is out of range.
    """
    true = np.asarray(batch["masks"])
    name = "masks" if "masks" in prediction else "instances"
    if (shape := np.shape(prediction[name])[-2:]) != true.shape[-2:]:
        raise ValueError(f"{name} {shape} and the batch's masks {true.shape[-2:]} differ in size")
    for index in np.flatnonzero(np.asarray(batch["weight"]) > 0).tolist():
        height, width = (int(side) for side in np.asarray(batch["size"])[index])
        inside = np.s_[..., :height, :width]
        counted = np.ones((height, width), bool)
        if "label" in batch and np.ndim(batch["label"]) == 3:
            counted = np.asarray(batch["label"])[index][inside] >= 0
        if counted.any():
            told = _told(prediction, index, inside, counted)
            truth = _truth(batch, index, inside, counted)
            for kinds in (told.kinds, truth.kinds):
                if kinds.size and not 0 <= kinds.min() <= kinds.max() < num_classes:
                    raise ValueError(
                        f"kinds {kinds.min()}..{kinds.max()}: expected 0..{num_classes - 1}"
                    )
            yield told, truth


def _told(prediction: Prediction, index: int, inside: tuple, counted: np.ndarray) -> Told:
    if "masks" in prediction:
        given = np.asarray(prediction["masks"])[index]
        scores = np.asarray(prediction["scores"])[index].astype(np.float64)
        kinds = np.zeros(len(given), np.int64)
        if "kinds" in prediction:
            kinds = np.asarray(prediction["kinds"])[index].astype(np.int64)
        there = kinds >= 0 if "kinds" in prediction else given.any(axis=(1, 2))
    else:
        numbers = np.asarray(prediction["instances"])[index]
        given = numbers == np.unique(numbers[numbers > 0])[:, None, None]
        scores, kinds = np.ones(len(given)), np.zeros(len(given), np.int64)
        there = np.ones(len(given), bool)
    order = np.flatnonzero(there)
    order = order[np.argsort(-scores[order], kind="stable")]
    given = given[order]
    masks = given[inside] & counted
    # One that was empty from the beginning is a detection that is wrong.
    kept = masks.any(axis=(1, 2)) | ~given.any(axis=(1, 2))
    order, masks = order[kept], masks[kept]
    boxes = mask_boxes(masks)
    if "masks" in prediction and "boxes" in prediction:
        boxes = np.asarray(prediction["boxes"])[index][order].astype(np.float64)
    return Told(masks, boxes, scores[order], kinds[order])


def _truth(batch: Batch, index: int, inside: tuple, counted: np.ndarray) -> Truth:
    valid = np.flatnonzero(np.asarray(batch["valid"])[index])
    masks = np.asarray(batch["masks"])[index][valid][inside] & counted
    there = masks.any(axis=(1, 2))
    chosen = valid[there]
    kinds, crowd = np.zeros(len(chosen), np.int64), np.zeros(len(chosen), bool)
    if "kinds" in batch:
        kinds = np.asarray(batch["kinds"])[index][chosen].astype(np.int64)
    if "crowd" in batch:
        crowd = np.asarray(batch["crowd"])[index][chosen]
    return Truth(masks[there], kinds, crowd)


def mask_boxes(masks: Bool[np.ndarray, "n h w"]) -> Float64[np.ndarray, "n 4"]:
    """The smallest box about each mask, as in `ops.boxes`; zeros of an empty one."""
    boxes = np.zeros((len(masks), 4))
    for axis, (low, high) in {2: (0, 2), 1: (1, 3)}.items():
        there = np.asarray(masks.any(axis=axis))
        boxes[:, low] = there.argmax(axis=1)
        boxes[:, high] = there.shape[1] - there[:, ::-1].argmax(axis=1)
    boxes[~masks.any(axis=(1, 2))] = 0
    return boxes


def mask_overlaps(
    told: Bool[np.ndarray, "d h w"], true: Bool[np.ndarray, "g h w"], crowd: Bool[np.ndarray, " g"]
) -> Float64[np.ndarray, "d g"]:
    """Intersection over union; over the predicted mask's area where the true one is a crowd."""
    shared = np.zeros((len(told), len(true)), np.int64)
    for g, (y0, x0, y1, x1) in enumerate(mask_boxes(true).astype(int).tolist()):
        # Counting in the true object's box alone: most of an image is empty.
        window = np.s_[..., y0:y1, x0:x1]
        shared[:, g] = np.sum(told[window] & true[g][window], axis=(1, 2))
    return _over(shared.astype(np.float64), mask_areas(told), mask_areas(true), crowd)


def mask_areas(masks: Bool[np.ndarray, "n h w"]) -> Float64[np.ndarray, " n"]:
    """Pixels of each mask."""
    return masks.sum(axis=(1, 2)).astype(np.float64)


def box_overlaps(
    told: Float64[np.ndarray, "d 4"],
    true: Float64[np.ndarray, "g 4"],
    crowd: Bool[np.ndarray, " g"],
) -> Float64[np.ndarray, "d g"]:
    """As `mask_overlaps`, of boxes."""
    low = np.maximum(told[:, None, :2], true[:, :2])
    high = np.minimum(told[:, None, 2:], true[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    return _over(shared, box_areas(told), box_areas(true), crowd)


def box_areas(boxes: Float64[np.ndarray, "n 4"]) -> Float64[np.ndarray, " n"]:
    """Square pixels, 0 where the end is before the start."""
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)


def _over(
    shared: Float[np.ndarray, "d g"],
    told: Float[np.ndarray, " d"],
    true: Float[np.ndarray, " g"],
    crowd: Bool[np.ndarray, " g"],
) -> Float64[np.ndarray, "d g"]:
    union = np.where(crowd, told[:, None], told[:, None] + true - shared)
    return shared / np.where(shared > 0, union, 1)


def assign(
    overlaps: Float64[np.ndarray, "d g"], threshold: float
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Pairs whose overlap is above the threshold, no object in two, as many as there can be.

    Of several ways the one with the largest sum of overlaps is taken. Where objects do not overlap
    one another and the threshold is 0.5 or more, there is one way alone.
    """
    from scipy.optimize import linear_sum_assignment

    able = overlaps > threshold
    least = max(min(overlaps.shape), 1)
    rows, columns = linear_sum_assignment(able * (1 + overlaps / (2 * least)), maximize=True)
    hit = able[rows, columns]
    return rows[hit], columns[hit]


def count_objects(
    told: Told, truth: Truth, score_threshold: float
) -> tuple[Float64[np.ndarray, "d g"], Int64[np.ndarray, " d"], Int64[np.ndarray, " g"]]:
    """What measures without confidences count: overlaps, and the classes of both kinds of objects.

    Predicted objects are those with a pixel and a score above `score_threshold`, less those that
    lie in crowds of their class by more than half and hit no true object by more than half; true
    ones those that are no crowd. Objects of two classes do not overlap.
    """
    good = (told.scores > score_threshold) & told.masks.any(axis=(1, 2))
    kinds, crowd = told.kinds[good], truth.crowd
    found = mask_overlaps(told.masks[good], truth.masks, crowd)
    found = np.where(kinds[:, None] == truth.kinds, found, 0.0)
    single = found[:, ~crowd]
    aside = found[:, crowd].sum(axis=1) > 0.5
    kept = ~aside | np.any(single > 0.5, axis=1)
    return single[kept], kinds[kept], truth.kinds[~crowd]
