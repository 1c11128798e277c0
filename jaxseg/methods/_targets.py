"""What a detector should say: of anchors, of proposals, and of the masks inside of boxes.

All functions take one example, and draw from the key that they are given: with one that is folded
from the example's index, no draw depends on the batch.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32, Key

from jaxseg.methods._proposals import Proposals
from jaxseg.ops.boxes import box_area, encode_boxes, match_boxes, sample_matches

MaskTargets = Literal["soft", "binary"]

_AT_ONCE = 8
"""Masks of the image's size that are cropped together: they are held as floats."""
_IN_CROWD = 0.5
"""A candidate with this part of its area in a crowd is no background."""


class Objects(NamedTuple):
    """The objects of an image, padded."""

    boxes: Float[Array, "n 4"]
    """As tight as the masks; 0 where there is none."""
    valid: Bool[Array, " n"]
    """Which are objects to be found, one by one."""
    kinds: Int32[Array, " n"]
    """The class of each, 0 where there is none."""
    crowd: Bool[Array, " n"] | None
    """Which stand for many, and are not to be told apart; None: none does."""


class Drawn(NamedTuple):
    """Candidates that were drawn, and what they should say; those of objects first."""

    indices: Int32[Array, " s"]
    """Of the candidates."""
    labels: Int32[Array, " s"]
    """1 an object, 0 background, -1 where there is none."""
    objects: Int32[Array, " s"]
    """The object that a candidate stands for; of use where the label is 1."""
    deltas: Float[Array, "s 4"]
    """From the candidate to that object's box, else 0."""


def mask_boxes(masks: Bool[Array, "n h w"]) -> Float[Array, "n 4"]:
    """The tightest box around each mask; 0 around an empty one."""
    sides = []
    for axis, length in ((2, masks.shape[1]), (1, masks.shape[2])):
        there = jnp.any(masks, axis=axis)
        first = jnp.argmax(there, axis=1)
        last = length - jnp.argmax(there[:, ::-1], axis=1)
        some = jnp.any(there, axis=1)
        sides.append([jnp.where(some, end, 0).astype(jnp.float32) for end in (first, last)])
    (top, bottom), (left, right) = sides
    return jnp.stack([top, left, bottom, right], axis=1)


def objects_of(
    masks: Bool[Array, "n h w"],
    valid: Bool[Array, " n"],
    kinds: Int[Array, " n"] | None,
    crowd: Bool[Array, " n"] | None,
    *,
    num_classes: int,
) -> Objects:
    """Boxes and classes of padded instances; one without a pixel or a class is none.

    Args:
        masks: of the instances.
        valid: which of them are there.
        kinds: classes; None: all of class 0.
        crowd: None: none.
        num_classes: kinds are 0 .. num_classes - 1.
    """
    boxes = mask_boxes(masks)
    nothing = jnp.zeros(len(masks), jnp.int32)
    kinds = nothing if kinds is None else kinds.astype(jnp.int32)
    there = valid & (box_area(boxes) > 0)
    single = there & (kinds >= 0) & (kinds < num_classes)
    if crowd is not None:
        single, crowd = single & ~crowd, there & crowd
    return Objects(boxes, single, jnp.where(single, kinds, 0), crowd)


def draw_anchors(
    key: Key[Array, ""],
    anchors: Float[Array, "a 4"],
    inside: Bool[Array, " a"],
    objects: Objects,
    *,
    num_samples: int,
    positive_fraction: float,
    positive_iou: float,
    negative_iou: float,
) -> Drawn:
    """Draws anchors to learn from, those that are best for an object among the positive ones.

    Args:
        key: of this example.
        anchors: boxes.
        inside: which of them count; others are never drawn, nor the best for an object.
        objects: of the image.
        num_samples: S.
        positive_fraction: greatest share of anchors that stand for an object.
        positive_iou: see `ops.boxes.match_boxes`.
        negative_iou: see there.
    """
    anchors = jnp.where(inside[:, None], anchors, 0)
    matches = match_boxes(
        anchors,
        objects.boxes,
        objects.valid,
        positive_iou=positive_iou,
        negative_iou=negative_iou,
        low_quality=True,
    )
    labels = jnp.where(inside, _spared(anchors, matches.labels, objects), -1)
    drawn = sample_matches(
        key, labels, num_samples=num_samples, positive_fraction=positive_fraction
    )
    return _told(anchors, drawn.indices, drawn.labels, matches.indices, objects, (1.0,) * 4)


def draw_rois(
    key: Key[Array, ""],
    proposals: Proposals,
    objects: Objects,
    *,
    num_samples: int,
    positive_fraction: float,
    positive_iou: float,
    weights: tuple[float, float, float, float],
) -> tuple[Float[Array, "s 4"], Drawn]:
    """Draws boxes to learn classes and masks from, of the proposals and the objects' own boxes.

    Args:
        key: of this example.
        proposals: of the image.
        objects: of the image.
        num_samples: S.
        positive_fraction: greatest share of boxes that stand for an object.
        positive_iou: a box stands for the object that it overlaps so much; else it is background.
        weights: of the deltas.

    Returns:
        The boxes, 0 where there is none, and what they should say.
    """
    boxes = jnp.concatenate([proposals.boxes, objects.boxes])
    there = jnp.concatenate([proposals.valid, objects.valid])
    matches = match_boxes(
        boxes, objects.boxes, objects.valid, positive_iou=positive_iou, negative_iou=positive_iou
    )
    labels = jnp.where(there, _spared(boxes, matches.labels, objects), -1)
    sampled = sample_matches(
        key, labels, num_samples=num_samples, positive_fraction=positive_fraction
    )
    drawn = _told(boxes, sampled.indices, sampled.labels, matches.indices, objects, weights)
    return jnp.where(drawn.labels[:, None] >= 0, boxes[drawn.indices], 0), drawn


def crop_masks(
    masks: Bool[Array, "n h w"],
    boxes: Float[Array, "r 4"],
    objects: Int32[Array, " r"],
    *,
    size: int,
    kind: MaskTargets = "soft",
) -> Float[Array, "r {size} {size}"]:
    """Cuts out the mask of an object inside of each box, in a square of cells.

    "soft" is the part of a cell's area that the mask covers, exactly, 0 beyond the image. "binary"
    is whether that is half of it or more, as most implementations have it: at 28 x 28 cells it
    costs thin objects much of their shape.

    Args:
        masks: of the objects.
        boxes: in pixels.
        objects: which mask each box cuts.
        size: cells along each side.
        kind: see above.
    """

    def one(box: Array, which: Array) -> Array:
        rows, cols = (
            _shares(box[axis], box[axis + 2], size, masks.shape[axis + 1]) for axis in (0, 1)
        )
        covered = masks[which].astype(box.dtype)
        product = jax.lax.Precision.HIGHEST
        part = jnp.matmul(jnp.matmul(rows, covered, precision=product), cols.T, precision=product)
        return part if kind == "soft" else (part >= 0.5 - 1e-6).astype(box.dtype)

    if not len(masks):
        return jnp.zeros((len(boxes), size, size), boxes.dtype)
    boxes = jax.lax.stop_gradient(boxes)
    return jax.lax.map(lambda pair: one(*pair), (boxes, objects), batch_size=_AT_ONCE)


def _shares(
    start: Float[Array, ""], stop: Float[Array, ""], cells: int, pixels: int
) -> Float[Array, "{cells} {pixels}"]:
    """How much of each cell each pixel fills, along one axis; 0 in an empty box."""
    ends = jnp.arange(cells + 1, dtype=start.dtype) / cells
    ends = start + (stop - start) * ends
    pixel = jnp.arange(pixels, dtype=start.dtype)
    low = jnp.maximum(ends[:-1, None], pixel[None])
    high = jnp.minimum(ends[1:, None], pixel[None] + 1)
    cell = (stop - start) / cells
    full = cell > 0
    return jnp.where(full, jnp.maximum(high - low, 0) / jnp.where(full, cell, 1), 0)


def _spared(
    boxes: Float[Array, "c 4"], labels: Int32[Array, " c"], objects: Objects
) -> Int32[Array, " c"]:
    """Labels, -1 for background that lies in a crowd: what is there may well be an object."""
    if objects.crowd is None or not len(objects.boxes):
        return labels
    low = jnp.maximum(boxes[:, None, :2], objects.boxes[None, :, :2])
    high = jnp.minimum(boxes[:, None, 2:], objects.boxes[None, :, 2:])
    shared = jnp.prod(jnp.maximum(high - low, 0), axis=-1)
    within = shared >= _IN_CROWD * box_area(boxes)[:, None]
    hidden = jnp.any(within & objects.crowd[None], axis=1)
    return jnp.where((labels == 0) & hidden, -1, labels)


def _told(
    boxes: Float[Array, "c 4"],
    indices: Int32[Array, " s"],
    labels: Int32[Array, " s"],
    matched: Int32[Array, " c"],
    objects: Objects,
    weights: tuple[float, float, float, float],
) -> Drawn:
    which = matched[indices]
    if not len(objects.boxes):
        return Drawn(indices, labels, which, jnp.zeros((len(indices), 4), boxes.dtype))
    deltas = encode_boxes(objects.boxes[which], boxes[indices], weights=weights)
    deltas = jnp.where(labels[:, None] == 1, deltas, 0)
    return Drawn(indices, labels, which, jax.lax.stop_gradient(deltas))
