"""COCO's average precision: detections matched to true objects, whatever their overlap means.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; the rules are those of the
official evaluation (cocoapi), which boxes, masks and keypoints share. A is the number of area
ranges, T of thresholds, D of detections, G of true objects.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Of overlap: 0.5, 0.55, ..., 0.95."""

RECALLS = np.linspace(0.0, 1.0, 101)
"""At which precision is read."""


class Matches(NamedTuple):
    """What became of the detections of some images."""

    scores: Float64[np.ndarray, " d"]
    matched: Bool[np.ndarray, "a t d"]
    """It found a true object."""
    ignored: Bool[np.ndarray, "a t d"]
    """It counts neither as found nor as made up."""
    truths: Int64[np.ndarray, " a"]
    """True objects that are to be found."""


def match(
    scores: Float64[np.ndarray, " d"],
    overlaps: Float64[np.ndarray, "d g"],
    *,
    ignored: Bool[np.ndarray, "a g"],
    crowd: Bool[np.ndarray, " g"],
    outside: Bool[np.ndarray, "a d"],
    thresholds: Float64[np.ndarray, " t"] = THRESHOLDS,
) -> Matches:
    """Matches the detections of one image and one category, the best first.

    Each detection takes, of the true objects that are left and that it overlaps by the threshold or
    more, the one of largest overlap, of equal ones the last. Only where none of these counts does
    it take an ignored one, and is ignored with it. A crowd may be taken often. A detection that
    takes nothing is ignored if its own area is out of the range.

    Args:
        scores: falling.
        overlaps: with every true object, in the order of the annotations.
        ignored: true objects that need not be found, by area range.
        crowd: those that stand for many.
        outside: detections whose area is out of the range.
        thresholds: the least overlap of a match.

    Returns:
        The Matches of the image.

    Raises:
        ValueError: the scores rise.
    """
    areas, count = ignored.shape
    if np.any(np.diff(scores) > 0):
        raise ValueError("scores rise; expected the best detection first")
    least = np.minimum(thresholds, 1 - 1e-10)[:, None]
    matched = np.zeros((areas, len(thresholds), len(scores)), bool)
    beside = np.zeros_like(matched)
    free = np.ones((areas, len(thresholds), count), bool)
    for d, overlap in enumerate(overlaps if count else ()):
        able = (free | crowd) & (overlap >= least)
        counting = able & ~ignored[:, None]
        able = np.where(counting.any(axis=-1, keepdims=True), counting, able)
        # The last of equal ones: of the reversed row the first.
        best = count - 1 - np.argmax(np.where(able, overlap, -1.0)[..., ::-1], axis=-1)
        matched[..., d] = able.any(axis=-1)
        beside[..., d] = matched[..., d] & np.take_along_axis(ignored, best, axis=1)
        taken = (np.arange(count) == best[..., None]) & matched[..., d, None]
        free &= ~taken
    beside |= ~matched & outside[:, None]
    truths = np.array(np.count_nonzero(~ignored, axis=1), np.int64)
    return Matches(scores, matched, beside, truths)


def join(parts: Sequence[Matches]) -> Matches:
    """The matches of several images, one at least; detections of one score keep their order."""
    return Matches(
        scores=np.concatenate([part.scores for part in parts]),
        matched=np.concatenate([part.matched for part in parts], axis=-1),
        ignored=np.concatenate([part.ignored for part in parts], axis=-1),
        truths=np.stack([part.truths for part in parts]).sum(axis=0),
    )


def precision_recall(
    matches: Matches,
) -> tuple[Float64[np.ndarray, "a t 101"], Float64[np.ndarray, "a t"]]:
    """Precision at the 101 recalls, and the recall of all detections.

    Precision at a recall is the largest that is reached at this recall or a higher one, 0 where
    none is reached; its mean is the average precision.

    Returns:
        Both by area range and threshold, NaN where there is nothing to be found.
    """
    order = np.argsort(-matches.scores, kind="stable")
    matched, counted = matches.matched[..., order], ~matches.ignored[..., order]
    hits = np.cumsum(matched & counted, axis=-1, dtype=np.float64)
    misses = np.cumsum(~matched & counted, axis=-1, dtype=np.float64)
    precisions = hits / (hits + misses + np.spacing(1))
    reached = np.maximum.accumulate(precisions[..., ::-1], axis=-1)[..., ::-1]
    precision = np.zeros((*hits.shape[:2], len(RECALLS)))
    recall = np.zeros(hits.shape[:2])
    for a, t in np.ndindex(*hits.shape[:2]):
        if not matches.truths[a]:
            precision[a, t] = recall[a, t] = np.nan
        elif len(order):
            recalls = hits[a, t] / matches.truths[a]
            places = np.searchsorted(recalls, RECALLS)
            there = places < len(order)
            precision[a, t, there] = reached[a, t, places[there]]
            recall[a, t] = recalls[-1]
    return precision, recall
