"""Masks of objects, drawn inside their boxes, put where they belong in the image."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.ops.color import at_least_float32

_product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def paste_masks(
    masks: Float[Array, "n h w"], boxes: Float[Array, "n 4"], *, shape: tuple[int, int]
) -> Float[Array, "n {shape[0]} {shape[1]}"]:
    """Stretches each mask over its box on an empty canvas: W_y · mask · W_xᵀ.

    The centre of a pixel is looked up in the mask by bilinear interpolation, the mask's cells
    having equal parts of the box and nothing being outside of them: what `grid_sample` of PyTorch
    does with `align_corners=False` and zero padding, as detectron2 pastes. So a mask fades out
    within half a cell on either side of its box's edge.

    Args:
        masks: of any size; probabilities mostly.
        boxes: `[y0, x0, y1, x1]` in pixels, also partly or wholly outside; into an empty one
            nothing is drawn.
        shape: height and width of the canvas.

    Returns:
        `[N, H, W]`; a mask of ones stays within 0 and 1.

    Raises:
        ValueError: a size of the canvas is below 1.
    """
    if min(shape) < 1:
        raise ValueError(f"shape={shape}: expected 1 or more")
    masks, boxes = at_least_float32(masks), at_least_float32(boxes)
    rows, cols = (
        _weights(boxes[:, axis], boxes[:, axis + 2], masks.shape[axis + 1], shape[axis])
        for axis in (0, 1)
    )
    dtype = jnp.promote_types(masks.dtype, boxes.dtype)
    masks, rows, cols = masks.astype(dtype), rows.astype(dtype), cols.astype(dtype)
    return _product("nyx,nqx->nyq", _product("npy,nyx->npx", rows, masks), cols)


def _weights(
    start: Float[Array, " n"], stop: Float[Array, " n"], cells: int, pixels: int
) -> Float[Array, "n {pixels} {cells}"]:
    """How much each pixel takes of each cell, along one axis."""
    full = stop > start
    side = jnp.where(full, stop - start, jnp.ones((), start.dtype))
    center = jnp.arange(pixels, dtype=start.dtype) + 0.5
    place = (center[None] - start[:, None]) / side[:, None] * cells - 0.5
    distance = jnp.abs(place[:, :, None] - jnp.arange(cells, dtype=start.dtype)[None, None])
    near = jnp.maximum(1 - distance, 0)
    return jnp.where(full[:, None, None], near, jnp.zeros((), start.dtype))
