"""Non-maximum suppression: of boxes that overlap, the best stays. Exact, with static shapes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32

from jaxseg.ops.boxes import box_iou
from jaxseg.types import PyTree

_TILE = 256
"""Boxes that are settled together: their overlaps, 65,536 values, fit a processor's cache."""


class Kept(NamedTuple):
    """The boxes that stay, the best first."""

    indices: Int32[Array, " m"]
    """Places in the input; 0 where there is none."""
    valid: Bool[Array, " m"]
    """True for as many as stay, then false."""


class _Rows(NamedTuple):
    """Boxes that are held against others."""

    boxes: Array
    groups: Array


def nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    *,
    iou_threshold: float | Float[Array, ""],
    max_outputs: int,
    valid: Bool[Array, " n"] | None = None,
    groups: Int[Array, " n"] | None = None,
) -> Kept:
    """Goes through boxes by falling score and drops those that overlap one that stayed.

    Equal to the greedy algorithm at every threshold. Boxes are taken in tiles of 256: a tile is
    first held against those that already stay, and then settled in itself by repeating
    `stay_i = candidate_i and no j < i with stay_j and IoU_ij > threshold` until nothing changes:
    each round settles one more box at least, mostly all of them within two to seven. It ends as
    soon as `max_outputs` boxes stay. Nothing of the size N x N is held. Under `vmap` all
    examples take as many steps as the longest.

    Args:
        boxes: `[y0, x0, y1, x1]`.
        scores: of equal ones the first box counts as the better.
        iou_threshold: overlaps above it, not at it, are dropped.
        max_outputs: M, length of the result.
        valid: which boxes exist; by default all. One with a coordinate or a score that is not
            finite never does.
        groups: classes or levels of the pyramid, any integers: a box is dropped only for one of
            its own group. By default all are of one.

    Raises:
        ValueError: `max_outputs` is below 1, or a Python threshold is not in [0, 1].
    """
    if max_outputs < 1:
        raise ValueError(f"max_outputs={max_outputs}: expected 1 or more")
    if isinstance(iou_threshold, int | float) and not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold={iou_threshold}: expected 0 to 1")
    boxes, scores = jax.lax.stop_gradient((boxes, scores))
    exists = jnp.isfinite(scores) & jnp.all(jnp.isfinite(boxes), axis=1)
    if valid is not None:
        exists &= valid
    order = jnp.argsort(jnp.where(exists, -scores, jnp.inf), stable=True).astype(jnp.int32)
    # What does not exist is empty, so that no difference of infinities becomes NaN.
    boxes = jnp.where(exists[:, None], boxes, jnp.zeros((), boxes.dtype))
    rows = _Rows(boxes, jnp.zeros_like(order) if groups is None else groups)
    count = -(-max(len(boxes), 1) // _TILE)
    rows = jax.tree.map(lambda x: _padded(x[order], count * _TILE), rows)
    exists, order = _padded(exists[order], count * _TILE), _padded(order, count * _TILE)
    room = -(-max_outputs // _TILE) * _TILE
    before = jnp.arange(_TILE)[:, None] < jnp.arange(_TILE)[None]

    def drops(a: _Rows, b: _Rows) -> Array:
        iou = box_iou(a.boxes, b.boxes)
        return (iou > jnp.asarray(iou_threshold, iou.dtype)) & (a.groups[:, None] == b.groups[None])

    def settle(state: tuple) -> tuple:
        number, total, kept, indices = state
        tile = _tile(rows, number)

        def against_kept(state: tuple) -> tuple:
            other, candidates = state
            # Places that are still free hold empty boxes, which overlap nothing.
            return other + 1, candidates & ~jnp.any(drops(_tile(kept, other), tile), axis=0)

        start = zero, _tile(exists, number)
        _, candidates = jax.lax.while_loop(lambda s: s[0] * _TILE < total, against_kept, start)
        inside = drops(tile, tile) & before

        def repeat(state: tuple) -> tuple:
            stay, _ = state
            again = candidates & ~jnp.any(inside & stay[:, None], axis=0)
            return again, jnp.any(again != stay)

        stay, _ = jax.lax.while_loop(lambda s: s[1], repeat, (candidates, jnp.any(inside)))
        place = jnp.where(stay, total + jnp.cumsum(stay, dtype=jnp.int32) - 1, room)
        kept, indices = jax.tree.map(
            lambda all_, new: all_.at[place].set(new, mode="drop"),
            (kept, indices),
            (tile, _tile(order, number)),
        )
        return number + 1, total + jnp.sum(stay, dtype=jnp.int32), kept, indices

    # Made of what came in, these vary over the same devices: `shard_map` wants that of a loop.
    zero = 0 * exists[0].astype(jnp.int32)
    free = jax.tree.map(
        lambda x: jnp.zeros((room, *x.shape[1:]), x.dtype) + zero.astype(x.dtype), rows
    )
    _, total, _, indices = jax.lax.while_loop(
        lambda state: (state[0] < count) & (state[1] < max_outputs),
        settle,
        (zero, zero, free, jnp.zeros(room, jnp.int32) + zero),
    )
    return Kept(indices[:max_outputs], jnp.arange(max_outputs, dtype=jnp.int32) < total)


def _padded(x: Array, length: int) -> Array:
    return jnp.pad(x, [(0, length - len(x))] + [(0, 0)] * (x.ndim - 1))


def _tile(tree: PyTree, number: Array) -> PyTree:
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, number * _TILE, _TILE), tree)
