"""Averages over any number of bins, and maxima, with gradients that a CPU is fast at."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxseg.models.layers import max_pool_3x3
from jaxseg.models.resize import resample


class MaxPooled(NamedTuple):
    """Maxima, and the place of each in its window."""

    values: Float[Array, "b oh ow c"]
    places: Int[Array, "b oh ow c"]
    """0 to window² - 1, row by row."""


def adaptive_average_pool(
    x: Float[Array, "b h w c"], size: tuple[int, int]
) -> Float[Array, "b oh ow c"]:
    """Means over bins that cover the map, PyTorch's adaptive_avg_pool2d.

    Bin i goes from floor(i · before / after) to ceil((i + 1) · before / after), its end excluded:
    bins overlap where the sizes do not divide, and repeat pixels where there are fewer than bins.

    Args:
        x: maps.
        size: (height, width), how many bins.

    Raises:
        ValueError: a size below 1.
    """

    def matrix(before: int, after: int) -> np.ndarray:
        index = np.arange(after)
        first, end = index * before // after, -(-(index + 1) * before // after)
        pixel = np.arange(before)[None]
        inside = (pixel >= first[:, None]) & (pixel < end[:, None])
        return inside / (end - first)[:, None]

    if tuple(size) == (1, 1):
        return jnp.mean(x, axis=(1, 2), keepdims=True)
    return resample(x, size, matrix)


def average_pool_3x3(x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow c"]:
    """Average pooling 3×3 with stride 2 and padding 1, whose zeros count as pixels.

    Sides are halved and rounded up.
    """
    for axis in (1, 2):
        nodes = -(-x.shape[axis] // 2)
        edges = [(0, 0)] * x.ndim
        edges[axis] = (1, 2 * nodes - x.shape[axis])
        padded = jnp.pad(x, edges)
        taps = [
            jax.lax.slice_in_dim(padded, k, k + 2 * nodes - 1, stride=2, axis=axis)
            for k in range(3)
        ]
        x = (taps[0] + taps[1] + taps[2]) / 3
    return x


def max_pool_2x2(x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow c"]:
    """Max pooling 2×2 with stride 2; sides must be even. At a tie the gradient is shared.

    Written as a maximum over an axis: XLA's CPU gradient of a window reduction is far slower.
    """
    batch, height, width, channels = x.shape
    return jnp.max(x.reshape(batch, height // 2, 2, width // 2, 2, channels), axis=(2, 4))


def max_pool_ceil(x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow c"]:
    """Max pooling 3×3 with stride 2 and padding 1 to sides that are halved and rounded up."""
    height, width = x.shape[1:3]
    return max_pool_3x3(x)[:, : -(-height // 2), : -(-width // 2)]


def max_pool_with_places(x: Float[Array, "b h w c"], window: int = 2) -> MaxPooled:
    """Maximum pooling with stride `window`, that remembers where each maximum was.

    The first of equal pixels is the maximum, and gets the gradient. Rows and columns that fill no
    window are left out.
    """
    batch, height, width, channels = x.shape
    rows, cols = height // window, width // window
    whole = x[:, : rows * window, : cols * window]
    blocks = whole.reshape(batch, rows, window, cols, window, channels)
    blocks = jnp.transpose(blocks, (0, 1, 3, 2, 4, 5))
    blocks = blocks.reshape(batch, rows, cols, window**2, channels)
    places = jnp.argmax(jax.lax.stop_gradient(blocks), axis=3).astype(jnp.int32)
    chosen = places[:, :, :, None] == _offsets(window)
    return MaxPooled(jnp.sum(jnp.where(chosen, blocks, jnp.zeros((), x.dtype)), axis=3), places)


def max_unpool(
    values: Float[Array, "b h w c"], places: Int[Array, "b h w c"], window: int = 2
) -> Float[Array, "b oh ow c"]:
    """Puts each value where the maximum of its window was, and 0 elsewhere.

    Args:
        values: what a decoder made of the pooled maps.
        places: of `max_pool_with_places`, of the same shape.
        window: that of the pooling.
    """
    batch, rows, cols, channels = values.shape
    chosen = places[:, :, :, None] == _offsets(window)
    blocks = jnp.where(chosen, values[:, :, :, None], jnp.zeros((), values.dtype))
    blocks = blocks.reshape(batch, rows, cols, window, window, channels)
    blocks = jnp.transpose(blocks, (0, 1, 3, 2, 4, 5))
    return blocks.reshape(batch, rows * window, cols * window, channels)


def _offsets(window: int) -> Array:
    return jnp.arange(window**2, dtype=jnp.int32).reshape(1, 1, 1, -1, 1)
