"""Reading an image at the nodes of a grid: nearest, bilinear, and filtered."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Shaped

from jaxseg.ops._sampling_grid import check_coords, check_image
from jaxseg.ops.color import at_least_float32


def sample(
    image: Shaped[Array, "h w *c"],
    coords: Float[Array, "rows cols 2"],
    *,
    order: Literal[0, 1] = 1,
    antialias: bool = False,
) -> Shaped[Array, "rows cols *c"]:
    """Reads an image or a label map at the nodes of a grid.

    Published is order 0 for both, without a filter. Gradients flow into the image and, with order
    1, into the coordinates.

    Args:
        image: with channels or without; at least 2x2. Floats for order 1.
        coords: (row, column) in [0, 1], align-corners; clipped to it. Any grid, of one node too
            where nothing is filtered.
        order: 0, the nearest pixel (of two equally near ones the even), for labels; 1, bilinear.
        antialias: whether each node averages over about the pixels that it stands for, so that
            what is finer than the grid does not alias: between the two nearest levels of a
            pyramid of 2x2 means (Williams, "Pyramidal parametrics", SIGGRAPH 1983), the
            level by the longer one of the node's mean steps to its neighbours along the grid's
            axes. Order 1 alone.

    Returns:
        The type of the image for order 0; at least float32 for order 1.

    Raises:
        ValueError: another order; order 1 for integers; a filter for order 0; a side is too small.
    """
    check_image(image.shape[:2])
    if order not in (0, 1):
        raise ValueError(f"order={order}: expected 0 or 1")
    if order == 0:
        if antialias:
            raise ValueError("antialias=True: expected order=1, the nearest pixel has no filter")
        return _nearest(image, coords)
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"an image of {image.dtype}: expected floats, or order=0")
    values = at_least_float32(image)
    pixels = _pixels(coords, image.shape[:2])
    if not antialias:
        return bilinear(values, pixels)
    check_coords(coords)
    return _trilinear(values, pixels)


def bilinear(
    values: Float[Array, "h w *c"], pixels: Float[Array, "rows cols 2"]
) -> Float[Array, "rows cols *c"]:
    """Interpolates at (row, column) in pixels; beyond the outermost centres the image goes on."""
    height, width, *channels = values.shape
    top = jnp.asarray([height - 1, width - 1], pixels.dtype)
    pixels = jnp.clip(pixels, jnp.zeros((), pixels.dtype), top[None, None])
    # The last cell includes its end, so that a side of one pixel is the only special case.
    last = jnp.asarray([max(height - 2, 0), max(width - 2, 0)], jnp.int32)[None, None]
    cell = jnp.minimum(jnp.floor(pixels).astype(jnp.int32), last)
    part = (pixels - cell.astype(pixels.dtype)).astype(values.dtype)
    part = part.reshape(*part.shape, *(1 for _ in channels))
    down, across = part[:, :, 0], part[:, :, 1]
    flat = values.reshape(height * width, *channels)
    place = cell[..., 0] * width + cell[..., 1]
    right, below = min(width - 1, 1), min(height - 1, 1) * width

    def at(offset: int) -> Array:
        return jnp.take(flat, place + offset, axis=0, mode="clip")

    upper = (1 - across) * at(0) + across * at(right)
    lower = (1 - across) * at(below) + across * at(below + right)
    return (1 - down) * upper + down * lower


def _pixels(coords: Float[Array, "h w 2"], shape: tuple[int, ...]) -> Float[Array, "h w 2"]:
    """From [0, 1] to pixels."""
    coords = at_least_float32(coords)
    return coords * jnp.asarray([shape[0] - 1, shape[1] - 1], coords.dtype)[None, None]


def _nearest(
    image: Shaped[Array, "h w *c"], coords: Float[Array, "rows cols 2"]
) -> Shaped[Array, "rows cols *c"]:
    height, width, *channels = image.shape
    pixel: Int32[Array, "rows cols 2"] = jnp.round(_pixels(coords, (height, width))).astype(
        jnp.int32
    )
    row, col = jnp.clip(pixel[..., 0], 0, height - 1), jnp.clip(pixel[..., 1], 0, width - 1)
    flat = image.reshape(height * width, *channels)
    return jnp.take(flat, row * width + col, axis=0, mode="clip")


def _trilinear(
    values: Float[Array, "h w *c"], pixels: Float[Array, "rows cols 2"]
) -> Float[Array, "rows cols *c"]:
    levels = max(values.shape[0], values.shape[1]) - 1
    levels = levels.bit_length()
    level = jnp.minimum(_level(pixels), jnp.asarray(levels, pixels.dtype))
    level = level.reshape(*level.shape, *(1 for _ in values.shape[2:])).astype(values.dtype)
    total = jnp.zeros((), values.dtype)
    one = jnp.ones((), values.dtype)
    for k in range(levels + 1):
        # Pixel i of level k is the mean of pixels i 2^k .. (i + 1) 2^k - 1.
        size = jnp.asarray(2.0**k, pixels.dtype)
        weight = jnp.maximum(one - jnp.abs(level - jnp.asarray(k, values.dtype)), 0)
        total = total + weight * bilinear(values, (pixels + 0.5) / size - 0.5)
        if k < levels:
            values = _halve(values)
    return total


def _halve(values: Float[Array, "h w *c"]) -> Float[Array, "rows cols *c"]:
    """Means of 2x2 pixels; an odd last row or column counts twice."""
    height, width, *channels = values.shape
    pads = [(0, height % 2), (0, width % 2), *((0, 0) for _ in channels)]
    values = jnp.pad(values, pads, mode="edge")
    blocks = values.reshape((height + 1) // 2, 2, (width + 1) // 2, 2, *channels)
    return jnp.mean(blocks, axis=(1, 3))


def _level(pixels: Float[Array, "h w 2"]) -> Float[Array, "h w"]:
    """log₂ of how many pixels a node stands for along its sparser axis, at least 0."""
    squares = []
    for axis in (0, 1):
        ahead = jnp.diff(pixels, axis=axis)
        pads = [(0, 0)] * 3
        # A node at a side has one neighbour: half of its step, twice.
        pads[axis] = (1, 1)
        ahead = jnp.pad(ahead, pads, mode="edge")
        n = pixels.shape[axis]
        mean = (
            jax.lax.slice_in_dim(ahead, 0, n, axis=axis)
            + jax.lax.slice_in_dim(ahead, 1, n + 1, axis=axis)
        ) / 2
        squares.append(jnp.sum(mean * mean, axis=-1))
    # Without a root: nodes may coincide.
    longer = jnp.maximum(squares[0], squares[1])
    return jnp.log2(jnp.maximum(longer, jnp.ones((), longer.dtype))) / 2
