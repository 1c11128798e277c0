"""Resizing of maps, without gathers: every way and its gradient is slices, sums and products.

Along one axis, resizing is a matrix with few entries in each row, and its rows repeat: where sizes
are p·g and q·g, every p rows the matrix has moved by q columns. Each of the p phases is then a sum
of strided slices; where p is large, for sizes with no common factor, the matrix itself multiplies.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_MAX_SLICES = 24
"""Above so many slices an axis is resized by its matrix."""


def resize_bilinear(
    x: Float[Array, "b h w c"], size: tuple[int, int], *, align_corners: bool = False
) -> Float[Array, "b oh ow c"]:
    """Bilinear interpolation to any size; like PyTorch's, it does not smooth when it shrinks.

    Args:
        x: maps.
        size: (height, width) of the result.
        align_corners: whether the centres of the corner pixels stay where they are; otherwise the
            images' borders do, and the border's values are repeated.

    Raises:
        ValueError: a size below 1.
    """

    def positions(before: int, after: int) -> np.ndarray:
        if align_corners:
            # One pixel alone lies at the first corner, as in PyTorch.
            return np.arange(after) * ((before - 1) / max(after - 1, 1))
        return np.clip((np.arange(after) + 0.5) * (before / after) - 0.5, 0, before - 1)

    def matrix(before: int, after: int) -> np.ndarray:
        distance = np.abs(positions(before, after)[:, None] - np.arange(before)[None])
        # Rounding must not make an entry of what is none.
        return np.where(distance < 1 - 1e-9, 1 - distance, 0)

    return resample(x, size, matrix)


def resize_nearest(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b oh ow c"]:
    """The pixel floor(i · before / after), PyTorch's "nearest".

    Raises:
        ValueError: a size below 1.
    """

    def matrix(before: int, after: int) -> np.ndarray:
        chosen = np.arange(after) * before // after
        return (chosen[:, None] == np.arange(before)[None]).astype(float)

    return resample(x, size, matrix)


def sub_pixel(x: Float[Array, "b h w d"], factor: int) -> Float[Array, "b oh ow c"]:
    """Channels to pixels (Shi et al., CVPR 2016): `[B, H, W, C·f²]` -> `[B, f·H, f·W, C]`.

    Channel c·f² + i·f + j becomes row i and column j of channel c, as in PyTorch's PixelShuffle.

    Raises:
        ValueError: f² does not divide the channels.
    """
    batch, height, width, channels = x.shape
    if channels % factor**2:
        raise ValueError(f"{channels} channels: expected a multiple of {factor}²")
    y = x.reshape(batch, height, width, channels // factor**2, factor, factor)
    y = jnp.transpose(y, (0, 1, 4, 2, 5, 3))
    return y.reshape(batch, factor * height, factor * width, channels // factor**2)


def resample(
    x: Float[Array, "b h w c"],
    size: tuple[int, int],
    matrix: Callable[[int, int], np.ndarray],
) -> Float[Array, "b oh ow c"]:
    """Applies a matrix to each axis.

    Args:
        x: maps.
        size: (height, width) of the result.
        matrix: (before, after) -> `[after, before]`, what each axis is multiplied with.

    Raises:
        ValueError: a size below 1.
    """
    if min(size) < 1:
        raise ValueError(f"size={tuple(size)}: expected 1 or more")
    # The axis that shrinks goes first, so that what lies between is small.
    for axis in sorted((1, 2), key=lambda axis: size[axis - 1] / x.shape[axis]):
        if x.shape[axis] != size[axis - 1]:
            x = _resample(x, matrix(x.shape[axis], size[axis - 1]), axis)
    return x


def _resample(x: Array, matrix: np.ndarray, axis: int) -> Array:
    after, before = matrix.shape
    groups = math.gcd(after, before)
    phases, step = after // groups, before // groups
    # weights[r] holds (t, w): phase r is Σ w[k] · x[step·k + t].
    weights = [_taps(matrix[r::phases], step) for r in range(phases)]
    if sum(map(len, weights)) > _MAX_SLICES:
        return _multiply(x, matrix, axis)
    low = min(min(t for t, _ in taps) for taps in weights)
    high = max(max(t for t, _ in taps) for taps in weights)
    edges = [(0, 0)] * x.ndim
    edges[axis] = (max(-low, 0), max(step * (groups - 1) + high - before + 1, 0))
    padded = jnp.pad(x, edges)
    shape = [1] * x.ndim
    shape[axis] = groups
    parts = []
    for taps in weights:
        total = jnp.zeros((), x.dtype)
        for t, w in taps:
            first = t + edges[axis][0]
            span = step * (groups - 1) + 1
            part = jax.lax.slice_in_dim(padded, first, first + span, step, axis)
            total += part * jnp.asarray(w.reshape(shape), x.dtype)
        parts.append(total)
    if phases == 1:
        return parts[0]
    stacked = jnp.stack(parts, axis + 1)
    return stacked.reshape(*x.shape[:axis], after, *x.shape[axis + 1 :])


def _taps(rows: np.ndarray, step: int) -> list[tuple[int, np.ndarray]]:
    groups, before = rows.shape
    place = np.arange(before)[None] - step * np.arange(groups)[:, None]
    used = np.unique(place[rows != 0])
    return [(int(t), np.where(place == t, rows, 0).sum(1)) for t in used]


def _multiply(x: Array, matrix: np.ndarray, axis: int) -> Array:
    product = jax.lax.dot_general(
        jnp.asarray(matrix, x.dtype),
        x,
        (((1,), (axis,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.moveaxis(product, 0, axis)
