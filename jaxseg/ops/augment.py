"""Transforms of maps that a loss must undo."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxseg.ops.color import at_least_float32


def warp_affine(
    values: Float[Array, "h w c"], affine: Float[Array, "2 3"]
) -> Float[Array, "h w c"]:
    """Bilinear samples at the places that an affine map gives to the pixels; 0 outside.

    As PyTorch's `affine_grid` and `grid_sample` with `align_corners=True`: coordinates (column,
    row, 1), from -1 at the centre of the first pixel to 1 at that of the last. Flips are exact.

    Args:
        values: a map; the result is float32, or float64 if given so.
        affine: A: pixel u of the result is the sample at A·u.
    """
    values = at_least_float32(values)
    height, width, channels = values.shape
    dtype = values.dtype
    a = affine.astype(dtype)
    # In pixels from the middle, where a flip is exact.
    half_row, half_col = (height - 1) / 2, (width - 1) / 2
    rows = jnp.arange(height, dtype=dtype)[:, None] - half_row
    cols = jnp.arange(width, dtype=dtype)[None, :] - half_col
    ratio = half_col / half_row if height > 1 and width > 1 else 1.0
    col = a[0, 0] * cols + a[0, 1] * ratio * rows + (a[0, 2] + 1) * half_col
    row = a[1, 0] / ratio * cols + a[1, 1] * rows + (a[1, 2] + 1) * half_row
    top, left = jnp.floor(row), jnp.floor(col)
    flat = values.reshape(height * width, channels)
    out = jnp.zeros_like(values)
    for i, j in np.ndindex(2, 2):
        y, x = top + i, left + j
        share = (1 - jnp.abs(row - y)) * (1 - jnp.abs(col - x))
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        share = jnp.where(inside, share, jnp.zeros_like(share))
        place = jnp.clip(y, 0, height - 1) * width + jnp.clip(x, 0, width - 1)
        corner = jnp.take(flat, place.astype(jnp.int32), axis=0, mode="clip")
        out = out + share[..., None] * corner
    return out
