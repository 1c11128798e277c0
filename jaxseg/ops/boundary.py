"""Where the classes of a label map meet, and which point there is nearest to each node of a grid.

Source: Marin et al., "Efficient Segmentation: Learning Downsampling Near Semantic Boundaries",
ICCV 2019 (arXiv:1907.07156), section 3.1. Points are (row, column) in [0, 1], align-corners: pixel
i of n stands at i / (n - 1).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int, Int32

from jaxseg.ops._sampling_grid import Grid, check_grid, check_image, uniform_sampling

MAX_SIDE = 32768
"""Pixels of the longest side whose squared distances fit into int32."""
_FAR = np.int32(2**31 - 1)


class NearestBoundary(NamedTuple):
    """The nearest boundary pixel of each node of a uniform grid."""

    points: Float32[Array, "h w 2"]
    """(row, column) in [0, 1]; where there is no boundary at all, the nodes themselves."""
    found: Bool[Array, ""]
    """Whether there is a boundary."""


def boundary_map(
    labels: Int[Array, "h w"], *, target_classes: tuple[int, ...] | None = None
) -> Bool[Array, "h w"]:
    """Marks the pixels of which one of the four neighbours has another label.

    So both sides of a step are marked, a line two pixels wide, and then the pixels that are ignored
    or of no target class are cleared: of a step between a target and another class the target's
    side stays, of a step to ignored pixels the side that has a label.

    Args:
        labels: classes; -1 is ignored.
        target_classes: those whose outlines count, static; all if None.

    Raises:
        ValueError: `target_classes` is empty or holds a negative number.
    """
    step_y, step_x = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    marked = jnp.pad(step_y, ((0, 1), (0, 0))) | jnp.pad(step_y, ((1, 0), (0, 0)))
    marked |= jnp.pad(step_x, ((0, 0), (0, 1))) | jnp.pad(step_x, ((0, 0), (1, 0)))
    marked &= labels >= 0
    if target_classes is None:
        return marked
    if not target_classes or min(target_classes) < 0:
        raise ValueError(f"target_classes={target_classes}: expected one class or more, from 0 on")
    target = jnp.zeros(labels.shape, bool)
    for target_class in target_classes:
        target |= labels == target_class
    return marked & target


def nearest_boundary(mask: Bool[Array, "h w"], grid: Grid) -> NearestBoundary:
    """Finds the boundary pixel nearest to each node, exactly, without a full distance transform.

    Node (i, j) of an h x w grid is read at the pixel floor(i (H - 1) / (h - 1)) and likewise for
    columns. First, for the rows of nodes alone, the nearest marked row of every column is found;
    then for each node the column with the least squared distance, in int32: O(H W + h w W) work.
    The distance is in pixels, so on an image that is not square it is not that of [0, 1]².

    Args:
        mask: boundary pixels, as `boundary_map` gives them; at least 2x2.
        grid: (h, w), static, at least (2, 2); may be larger than the image.

    Returns:
        Of equally near pixels the one in the first column and there the first row.

    Raises:
        ValueError: a side of the grid or of the image is below 2, or one of the image above 32768.
    """
    check_grid(grid)
    check_image(mask.shape)
    height, width = mask.shape
    if max(height, width) > MAX_SIDE:
        raise ValueError(f"an image of {height}x{width} pixels: expected at most {MAX_SIDE} a side")
    node_rows, node_cols = (
        np.arange(n, dtype=np.int64) * (side - 1) // (n - 1)
        for n, side in zip(grid, mask.shape, strict=True)
    )
    rows = _nearest_rows(mask, node_rows.astype(np.int32))
    cols = jnp.arange(width, dtype=jnp.int32)

    def nearest(row: Int32[Array, " w"], node_row: Int32[Array, ""]) -> Int32[Array, "nodes 2"]:
        across = jnp.where(row >= 0, jnp.square(row - node_row), _FAR)
        apart = jnp.square(cols[None] - jnp.asarray(node_cols, jnp.int32)[:, None])
        # Where nothing is marked the sum would overflow.
        distance = jnp.where(across[None] == _FAR, _FAR, across[None] + apart)
        least = jnp.min(distance, axis=1, keepdims=True)
        # Two plain reductions; an argmin is one of pairs, which processors do not vectorise.
        col = jnp.min(jnp.where(distance == least, cols[None], width - 1), axis=1)
        return jnp.stack([row[col], col], axis=-1)

    points = jax.lax.map(lambda xs: nearest(*xs), (rows, jnp.asarray(node_rows, jnp.int32)))
    found = jnp.any(mask)
    scale = jnp.asarray([height - 1, width - 1], jnp.float32)
    relative = points.astype(jnp.float32) / scale[None, None]
    return NearestBoundary(jnp.where(found, relative, jnp.asarray(uniform_sampling(grid))), found)


def _nearest_rows(
    mask: Bool[Array, "h w"], node_rows: Int32[np.ndarray, " rows"]
) -> Int32[Array, "rows w"]:
    """The marked row nearest to each node's row in every column; -1 where there is none."""
    height = mask.shape[0]
    ends = np.append(node_rows[1:], height)
    # The rows from each node's to the next one's, each row once.
    block = node_rows[:, None] + np.arange(max(int(np.max(ends - node_rows)), 1), dtype=np.int32)
    inside = block < ends[:, None]
    marked = mask[np.minimum(block, height - 1)] & inside[..., None]
    row = jnp.asarray(block[..., None])
    none = jnp.int32(2 * MAX_SIDE)
    first = jnp.min(jnp.where(marked, row, none), axis=1)
    last = jnp.max(jnp.where(marked, row, -none), axis=1)
    below = jax.lax.cummin(first, axis=0, reverse=True)
    above = jnp.pad(jax.lax.cummax(last, axis=0)[:-1], ((1, 0), (0, 0)), constant_values=-none)
    here = jnp.asarray(node_rows)[:, None]
    above = jnp.where(mask[node_rows], here, above)
    nearest = jnp.where(here - above <= below - here, above, below)
    return jnp.where(jnp.abs(nearest) == none, -1, nearest)
