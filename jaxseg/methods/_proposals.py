"""What a detector proposes and what it keeps: boxes of one example, of a fixed number."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32

from jaxseg.ops.boxes import Anchors, box_area, clip_boxes, decode_boxes
from jaxseg.ops.nms import nms


class Proposals(NamedTuple):
    """Boxes that may hold an object, the likeliest first."""

    boxes: Float[Array, "p 4"]
    """Inside of the image; 0 where there is none."""
    valid: Bool[Array, " p"]


class Detections(NamedTuple):
    """Boxes that hold an object, the likeliest first."""

    boxes: Float[Array, "n 4"]
    """Inside of the image; 0 where there is none."""
    scores: Float[Array, " n"]
    """The probability of the class, 0 where there is none."""
    kinds: Int32[Array, " n"]
    """The class, -1 where there is none."""


def centres_inside(boxes: Float[Array, "n 4"], size: Int[Array, "2"]) -> Bool[Array, " n"]:
    """Which boxes have their centre in an image of this height and width."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return jnp.all((centre >= 0) & (centre < size[None].astype(boxes.dtype)), axis=1)


def level_slices(anchors: Anchors, shapes: tuple[int, ...]) -> tuple[slice, ...]:
    """Where the anchors of each level stand, whose numbers are given."""
    if sum(shapes) != len(anchors.boxes):
        raise ValueError(f"{shapes} anchors by level: expected {len(anchors.boxes)} in all")
    ends = [sum(shapes[: i + 1]) for i in range(len(shapes))]
    return tuple(slice(end - count, end) for end, count in zip(ends, shapes, strict=True))


def propose(
    logits: Float[Array, " a"],
    deltas: Float[Array, "a 4"],
    anchors: Anchors,
    size: Int[Array, "2"],
    *,
    counts: tuple[int, ...],
    pre_nms: int,
    num_proposals: int,
    iou_threshold: float,
) -> Proposals:
    """The likeliest boxes of a region proposal network (Ren et al., 2015; Lin et al., 2017).

    Of each level the `pre_nms` likeliest are decoded, cut to the image and thinned out among
    themselves; of all levels together the likeliest stay. Nothing has a gradient. A box with
    a number that is not finite is none, nor is one that is empty after the cut, nor one whose
    anchor has its centre beyond the image: padding proposes nothing.

    Args:
        logits: of the anchors.
        deltas: of the anchors.
        anchors: level by level.
        size: height and width of the image.
        counts: the number of anchors of each level.
        pre_nms: of each level.
        num_proposals: P.
        iou_threshold: of the suppression.
    """
    logits, deltas = jax.lax.stop_gradient((logits, deltas))
    inside = centres_inside(anchors.boxes, size)
    scores = jnp.where(inside & jnp.isfinite(logits), logits, -jnp.inf)
    chosen = []
    for level in level_slices(anchors, counts):
        number = min(pre_nms, level.stop - level.start)
        chosen.append(level.start + jax.lax.top_k(scores[level], number)[1])
    best = jnp.concatenate(chosen)
    boxes = clip_boxes(decode_boxes(deltas[best], anchors.boxes[best]), size)
    scores = scores[best]
    kept = nms(
        boxes,
        scores,
        iou_threshold=iou_threshold,
        max_outputs=num_proposals,
        valid=box_area(boxes) > 0,
        groups=anchors.levels[best],
    )
    found = jnp.where(kept.valid[:, None], boxes[kept.indices], 0)
    return Proposals(found, kept.valid)


def detect(
    logits: Float[Array, "p k_and_1"],
    deltas: Float[Array, "p k 4"],
    proposals: Proposals,
    size: Int[Array, "2"],
    *,
    weights: tuple[float, float, float, float],
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
) -> Detections:
    """The likeliest of the boxes of every proposal and class, thinned out among those of a class.

    All that are above the score are held against each other, however many: none is left out
    beforehand.

    Args:
        logits: of background and of each class.
        deltas: of each class's box, from the proposal.
        proposals: of the image.
        size: height and width of the image.
        weights: of the deltas, see `ops.boxes.encode_boxes`.
        score_threshold: probabilities up to it are none.
        iou_threshold: of the suppression.
        max_detections: N.
    """
    count, classes = deltas.shape[:2]
    scores = jax.nn.softmax(logits, axis=-1)[:, 1:].reshape(-1)
    origins = jnp.repeat(proposals.boxes, classes, axis=0)
    boxes = decode_boxes(deltas.reshape(-1, 4), origins, weights=weights)
    boxes = clip_boxes(boxes, size)
    kinds = jnp.tile(jnp.arange(classes, dtype=jnp.int32), count)
    kept = nms(
        boxes,
        scores,
        iou_threshold=iou_threshold,
        max_outputs=max_detections,
        valid=jnp.repeat(proposals.valid, classes)
        & (scores > score_threshold)
        & (box_area(boxes) > 0),
        groups=kinds,
    )
    there = kept.valid
    return Detections(
        jnp.where(there[:, None], boxes[kept.indices], 0),
        jnp.where(there, scores[kept.indices], 0),
        jnp.where(there, kinds[kept.indices], -1),
    )
