"""Blocks of a superpixel grid: the pixels of every cell side by side.

An image `[H, W, C]` under a grid of rows x cols cells becomes `[rows, cols, P, C]`, P being the
pixels of the largest cell; the slots that a smaller cell leaves over hold 0. All index maps are
static, and every map here has its adjoint written out, so that nothing is ever scattered.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

Grid = tuple[int, int]
Ties = Literal["floor", "lower"]

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """How an image is cut into cells. One object per key, so that it hashes by identity."""

    cell: Int[np.ndarray, "h w"]
    """The cell of each pixel, r * cols + c."""
    place: Int[np.ndarray, "h w"]
    """The slot of each pixel, counted through all cells."""
    pixel: Int[np.ndarray, "rows cols slots"]
    """The pixel, y * w + x, in each slot; any where the slot is empty."""
    filled: Bool[np.ndarray, "rows cols slots"]
    """Whether the slot holds a pixel."""
    rows: Bool[np.ndarray, "rows h"]
    """Whether a row of pixels belongs to a row of cells."""
    cols: Bool[np.ndarray, "cols w"]
    """The same for columns."""


@functools.lru_cache(maxsize=64)
def layout(height: int, width: int, grid: Grid, ties: Ties) -> Layout:
    """The blocks of a height x width image under `grid` = (rows, cols).

    Args:
        height: rows of pixels.
        width: columns of pixels.
        grid: (rows, cols) of cells, each between 1 and its side.
        ties: "floor" puts row i into cell floor(i * rows / height); "lower" into the cell whose
            centre is nearest and, of two equally near ones, the lower. The maps differ only
            where a pixel's index is a multiple of the cell's exact size.

    Raises:
        ValueError: the grid does not fit the image, or `ties` is unknown.
    """
    rows, cols = grid
    if not (1 <= rows <= height and 1 <= cols <= width):
        raise ValueError(
            f"grid {grid} does not fit an image of {height}x{width} pixels: "
            "expected 1 <= rows <= height and 1 <= cols <= width"
        )
    if ties not in ("floor", "lower"):
        raise ValueError(f"ties={ties!r}: expected 'floor' or 'lower'")
    cell_y, slot_y, pixel_y, filled_y = _axis(height, rows, ties)
    cell_x, slot_x, pixel_x, filled_x = _axis(width, cols, ties)
    cell = cell_y[:, None] * cols + cell_x
    slot = slot_y[:, None] * pixel_x.shape[1] + slot_x
    pixel = (pixel_y * width)[:, None, :, None] + pixel_x[None, :, None, :]
    filled = filled_y[:, None, :, None] & filled_x[None, :, None, :]
    pixel, filled = pixel.reshape(rows, cols, -1), filled.reshape(rows, cols, -1)
    place = cell * pixel.shape[2] + slot
    cell, place, pixel = (a.astype(np.int32) for a in (cell, place, pixel))
    in_row = np.arange(rows)[:, None] == cell_y
    in_col = np.arange(cols)[:, None] == cell_x
    return Layout(cell, place, pixel, filled, in_row, in_col)


def _axis(length: int, cells: int, ties: Ties) -> tuple[np.ndarray, ...]:
    """(cell and slot of each pixel, pixel of each slot and whether there is one)."""
    position = np.arange(length)
    cell = position * cells // length
    if ties == "lower":
        cell -= (position * cells % length == 0) & (position > 0)
    counts = np.bincount(cell, minlength=cells)
    starts = np.cumsum(counts) - counts
    slots = np.arange(counts.max())
    pixel = np.minimum(starts[:, None] + slots, length - 1)
    return cell, position - starts[cell], pixel, slots < counts[:, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def to_blocks(x: Shaped[Array, "h w c"], blocks: Layout) -> Shaped[Array, "rows cols slots c"]:
    """Cuts an image into its cells, 0 in empty slots."""
    pixels = x.reshape(-1, x.shape[-1])
    cells = jnp.take(pixels, jnp.asarray(blocks.pixel), axis=0, mode="clip")
    return jnp.where(blocks.filled[..., None], cells, jnp.zeros((), x.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def from_blocks(x: Shaped[Array, "rows cols slots c"], blocks: Layout) -> Shaped[Array, "h w c"]:
    """Puts the cells back into the image; the inverse of `to_blocks`."""
    return jnp.take(x.reshape(-1, x.shape[-1]), jnp.asarray(blocks.place), axis=0, mode="clip")


# Every pixel moves to one place of its own, so that each of the two is the other's adjoint.
to_blocks.defvjp(
    lambda x, blocks: (to_blocks(x, blocks), None), lambda blocks, _, g: (from_blocks(g, blocks),)
)
from_blocks.defvjp(
    lambda x, blocks: (from_blocks(x, blocks), None), lambda blocks, _, g: (to_blocks(g, blocks),)
)


def cell_sums(x: Float[Array, "h w c"], blocks: Layout) -> Float[Array, "rows cols c"]:
    """Sum over the pixels of each cell."""
    h, w, c = x.shape
    sums = matmul(jnp.asarray(blocks.rows, x.dtype), x.reshape(h, -1))
    return matmul(jnp.asarray(blocks.cols, x.dtype), sums.reshape(-1, w, c))


@functools.lru_cache(maxsize=64)
def neighbor_ids(grid: Grid) -> Int[np.ndarray, "rows cols 9"]:
    """The 3x3 cells around each cell, row by row; -1 off the grid."""
    rows, cols = grid
    ids = np.pad(np.arange(rows * cols, dtype=np.int32).reshape(grid), 1, constant_values=-1)
    return np.stack([ids[i : i + rows, j : j + cols] for i in range(3) for j in range(3)], -1)


@jax.custom_vjp
def neighbors(x: Float[Array, "rows cols c"]) -> Float[Array, "rows cols 9 c"]:
    """The values of the nine cells around each cell; 0 off the grid."""
    rows, cols, channels = x.shape
    ids = neighbor_ids((rows, cols))
    values = jnp.take(x.reshape(-1, channels), jnp.asarray(ids), axis=0, mode="clip")
    return jnp.where((ids >= 0)[..., None], values, jnp.zeros((), x.dtype))


@jax.custom_vjp
def neighbors_transpose(x: Float[Array, "rows cols 9 c"]) -> Float[Array, "rows cols c"]:
    """Adds each cell's nine values to the cells that they stand for: the adjoint of `neighbors`."""
    rows, cols, _, channels = x.shape
    x = jnp.pad(x, ((1, 1), (1, 1), (0, 0), (0, 0)))
    total = jnp.zeros((rows, cols, channels), x.dtype)
    for q in range(9):
        i, j = divmod(q, 3)
        total = total + x[2 - i : 2 - i + rows, 2 - j : 2 - j + cols, q]
    return total


neighbors.defvjp(lambda x: (neighbors(x), None), lambda _, g: (neighbors_transpose(g),))
neighbors_transpose.defvjp(lambda x: (neighbors_transpose(x), None), lambda _, g: (neighbors(g),))
