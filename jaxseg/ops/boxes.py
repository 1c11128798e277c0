"""Boxes: areas, overlaps, coding by anchors, matching with objects, sampling.

A box is `[y0, x0, y1, x1]` in pixels, on the continuous plane: the top left pixel covers 0..1 in
both directions, so y1 and x1 are one past the last row and column of what the box holds. Where an
end is not beyond its start the box is empty; sets of boxes are padded with zeros.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Key, Num

from jaxseg.ops.color import at_least_float32


class Anchors(NamedTuple):
    """The boxes that a pyramid's cells begin with, by level, row, column, ratio."""

    boxes: Float[Array, "a 4"]
    """Those near the border reach over it."""
    levels: Int32[Array, " a"]
    """The level of each, 0 being the finest."""


class Matches(NamedTuple):
    """What object each candidate stands for."""

    labels: Int32[Array, " a"]
    """1 an object, 0 background, -1 neither."""
    indices: Int32[Array, " a"]
    """The object that it overlaps most, the first of equal ones; of use where the label is 1."""
    iou: Float[Array, " a"]
    """The overlap with it."""


class Samples(NamedTuple):
    """A fixed number of candidates, positive ones first."""

    indices: Int32[Array, " s"]
    """Of the candidates; 0 where there is none."""
    labels: Int32[Array, " s"]
    """1 or 0 as the candidate's; -1 where there is none."""


def box_area(boxes: Float[Array, "n 4"]) -> Float[Array, " n"]:
    """Square pixels of each box, 0 of an empty one."""
    sides = jnp.maximum(at_least_float32(boxes[:, 2:] - boxes[:, :2]), 0)
    return sides[:, 0] * sides[:, 1]


def box_iou(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """Intersection over union of every pair, in [0, 1]; 0 where both boxes are empty."""
    dtype = jnp.promote_types(at_least_float32(a).dtype, at_least_float32(b).dtype)
    a, b = a.astype(dtype), b.astype(dtype)
    (y0, x0, y1, x1), (v0, u0, v1, u1) = a.T[:, :, None], b.T[:, None]
    height = jnp.minimum(y1, v1) - jnp.maximum(y0, v0)
    width = jnp.minimum(x1, u1) - jnp.maximum(x0, u0)
    shared = jnp.maximum(height, 0) * jnp.maximum(width, 0)
    union = box_area(a)[:, None] + box_area(b)[None] - shared
    # A quotient: of a union that is rounded, a product with a threshold would miss ties.
    return shared / jnp.maximum(union, jnp.finfo(dtype).tiny)


def clip_boxes(
    boxes: Float[Array, "n 4"], size: tuple[int, int] | Num[Array, "2"]
) -> Float[Array, "n 4"]:
    """Cuts boxes to an image.

    Args:
        boxes: in its pixels.
        size: its height and width; traced, where images are padded.
    """
    limit = jnp.asarray(size).astype(boxes.dtype)
    limit = jnp.concatenate([limit, limit])
    return jnp.clip(boxes, jnp.zeros((), boxes.dtype), limit[None])


def encode_boxes(
    boxes: Float[Array, "n 4"],
    anchors: Float[Array, "n 4"],
    *,
    weights: tuple[float, float, float, float] | Float[Array, "4"] = (1.0, 1.0, 1.0, 1.0),
) -> Float[Array, "n 4"]:
    """Tells each box from its anchor: `((c - c_a) / s_a, log(s / s_a))` for centre c and sides s.

    The parametrisation of Girshick et al., CVPR 2014 (appendix C), by (y, x, height, width).

    Args:
        boxes: what is to be told.
        anchors: from where.
        weights: factors of the four numbers.

    Returns:
        `[dy, dx, dh, dw]`; 0 where the box or its anchor is empty.
    """
    boxes, anchors = at_least_float32(boxes), at_least_float32(anchors)
    there = (box_area(boxes) > 0) & (box_area(anchors) > 0)
    # A box of its own keeps the logarithm and its gradient finite.
    unit = jnp.asarray([[0, 0, 1, 1]], boxes.dtype)
    center, sides = _center_sides(jnp.where(there[:, None], boxes, unit))
    origin, scale = _center_sides(jnp.where(there[:, None], anchors, unit.astype(anchors.dtype)))
    deltas = jnp.concatenate([(center - origin) / scale, jnp.log(sides / scale)], axis=1)
    deltas = deltas * jnp.asarray(weights, deltas.dtype)[None]
    return jnp.where(there[:, None], deltas, jnp.zeros((), deltas.dtype))


def decode_boxes(
    deltas: Float[Array, "n 4"],
    anchors: Float[Array, "n 4"],
    *,
    weights: tuple[float, float, float, float] | Float[Array, "4"] = (1.0, 1.0, 1.0, 1.0),
    max_log_scale: float = math.log(1000 / 16),
) -> Float[Array, "n 4"]:
    """Inverts `encode_boxes`.

    Args:
        deltas: `[dy, dx, dh, dw]`.
        anchors: from where.
        weights: those of the encoding.
        max_log_scale: bound of dh and dw after the weights, so that the exponential stays finite.
    """
    deltas, anchors = at_least_float32(deltas), at_least_float32(anchors)
    deltas = deltas / jnp.asarray(weights, deltas.dtype)[None]
    origin, scale = _center_sides(anchors)
    center = origin + deltas[:, :2] * scale
    sides = scale * jnp.exp(jnp.minimum(deltas[:, 2:], max_log_scale))
    return jnp.concatenate([center - sides / 2, center + sides / 2], axis=1)


def _center_sides(boxes: Float[Array, "n 4"]) -> tuple[Float[Array, "n 2"], Float[Array, "n 2"]]:
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes[:, :2] + sides / 2, sides


def pyramid_anchors(
    sizes: Sequence[int | float] | Float[Array, " levels"],
    *,
    feature_shapes: tuple[tuple[int, int], ...],
    strides: tuple[int, ...],
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
    offset: float = 0.0,
) -> Anchors:
    """Lays boxes of one area and several shapes around each cell of each level (Lin et al., 2017).

    Args:
        sizes: sides of a level's square in pixels; every other ratio has its area.
        feature_shapes: rows and columns of each level, the finest first.
        strides: pixels between the cells of each level.
        ratios: height / width of the boxes of a cell.
        offset: where in its cell a box is centred: cell (i, j) has its boxes around
            `stride · (i + offset, j + offset)`. 0 is that of detectron2.

    Raises:
        ValueError: not as many sizes, shapes and strides.
    """
    if not len(sizes) == len(feature_shapes) == len(strides):
        raise ValueError(
            f"{len(sizes)} sizes, {len(feature_shapes)} feature_shapes, {len(strides)} strides: "
            "expected one of each for every level"
        )
    # By its own dtype a list of Python numbers would be of 64 bits where these are enabled.
    sizes = at_least_float32(sizes if isinstance(sizes, jax.Array) else jnp.float32(sizes))
    dtype = sizes.dtype
    roots = jnp.sqrt(jnp.asarray(ratios, dtype))
    boxes, levels = [], []
    for level, (shape, stride) in enumerate(zip(feature_shapes, strides, strict=True)):
        rows, cols = (stride * (jnp.arange(n, dtype=dtype) + offset) for n in shape)
        half = jnp.stack([sizes[level] * roots, sizes[level] / roots], axis=-1) / 2
        grid = (*shape, len(ratios))
        center = jnp.stack(
            [
                jnp.broadcast_to(rows[:, None, None], grid),
                jnp.broadcast_to(cols[None, :, None], grid),
            ],
            axis=-1,
        )
        around = half[None, None]
        boxes.append(jnp.concatenate([center - around, center + around], axis=-1).reshape(-1, 4))
        levels.append(jnp.full(math.prod(grid), level, jnp.int32))
    return Anchors(jnp.concatenate(boxes), jnp.concatenate(levels))


def match_boxes(
    candidates: Float[Array, "a 4"],
    boxes: Float[Array, "n 4"],
    valid: Bool[Array, " n"],
    *,
    positive_iou: float | Float[Array, ""],
    negative_iou: float | Float[Array, ""],
    low_quality: bool = False,
) -> Matches:
    """Decides which candidates stand for an object (Ren et al., NIPS 2015, section 3.1.2).

    Nothing here has a gradient. The overlaps, N · A values, are held.

    Args:
        candidates: anchors or proposals; label -1 those that only pad.
        boxes: of the objects.
        valid: which of them are objects. Without any, all is background.
        positive_iou: from this overlap on a candidate is positive,
        negative_iou: below this one it is background, and in between it is neither.
        low_quality: whether the candidates that overlap an object most, all of equal ones, are
            positive at any overlap above 0. Their own `indices` stay.

    Raises:
        ValueError: Python numbers with `negative_iou` above `positive_iou`.
    """
    known = all(isinstance(x, int | float) for x in (negative_iou, positive_iou))
    if known and not 0 <= negative_iou <= positive_iou <= 1:
        raise ValueError(
            f"negative_iou={negative_iou}, positive_iou={positive_iou}: expected "
            "0 <= negative_iou <= positive_iou <= 1"
        )
    overlaps = jax.lax.stop_gradient(box_iou(boxes, candidates))
    dtype = overlaps.dtype
    overlaps = jnp.where(valid[:, None], overlaps, jnp.zeros((), dtype))
    # Computed twice it could round differently, and would not equal its own maximum.
    overlaps = jax.lax.optimization_barrier(overlaps)
    if len(boxes):
        iou, indices = jnp.max(overlaps, axis=0), jnp.argmax(overlaps, axis=0).astype(jnp.int32)
    else:
        iou, indices = (jnp.zeros(len(candidates), kind) for kind in (dtype, jnp.int32))
    labels = jnp.where(iou < jnp.asarray(negative_iou, dtype), 0, -1)
    labels = jnp.where(iou >= jnp.asarray(positive_iou, dtype), 1, labels)
    if low_quality:
        best = jnp.max(overlaps, axis=1, initial=0, keepdims=True)
        labels = jnp.where(jnp.any((overlaps == best) & (best > 0), axis=0), 1, labels)
    return Matches(labels.astype(jnp.int32), indices, iou)


def sample_matches(
    key: Key[Array, ""],
    labels: Int32[Array, " a"],
    *,
    num_samples: int,
    positive_fraction: float,
) -> Samples:
    """Draws candidates without replacement: positive ones up to a share, and background.

    Where positive ones are few, background takes their places; where both are, places stay empty.
    The draw depends on the key alone: fold the example's index into it, and the result does not
    depend on how a batch is split.

    Args:
        key: of this example.
        labels: 1, 0, or -1 for what is never drawn.
        num_samples: S.
        positive_fraction: greatest share of positive ones.

    Raises:
        ValueError: `num_samples` is below 1, or the share is not in [0, 1].
    """
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples}: expected 1 or more")
    if not 0 <= positive_fraction <= 1:
        raise ValueError(f"positive_fraction={positive_fraction}: expected 0 to 1")
    order = jax.random.uniform(key, labels.shape, jnp.float32)

    def drawn(label: int, most: int) -> tuple[Array, Array]:
        """As many as there are, at most `most`, and their number."""
        eligible = labels == label
        _, first = jax.lax.top_k(jnp.where(eligible, order, -1), min(most, len(labels)))
        first = jnp.pad(first.astype(jnp.int32), (0, num_samples - len(first)))
        return first, jnp.minimum(jnp.sum(eligible, dtype=jnp.int32), most)

    positives, num_positives = drawn(1, int(num_samples * positive_fraction))
    negatives, num_negatives = drawn(0, num_samples)
    place = jnp.arange(num_samples, dtype=jnp.int32)
    positive = place < num_positives
    there = place < num_positives + num_negatives
    other = negatives[jnp.maximum(place - num_positives, 0)]
    indices = jnp.where(there, jnp.where(positive, positives, other), 0)
    return Samples(indices, jnp.where(positive, 1, jnp.where(there, 0, -1)).astype(jnp.int32))
