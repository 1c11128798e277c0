"""Keypoints as heatmaps, and back: a peak for every point, a map for every kind of point.

Points are (row, column) in pixels, the centre of the top left pixel being (0, 0). A kind, one of
0 .. K - 1, says which heatmap a point belongs to (a joint, a worm's tip); -1 marks a place that
holds no point.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxseg.ops.color import at_least_float32

_FLOOR = 1e-6
"""Least value, as a part of the peak, whose logarithm is taken: networks give negative ones too."""


class Peaks(NamedTuple):
    """Points found in heatmaps, the best first; places without one hold (0, 0), -1 and 0."""

    points: Float[Array, "p 2"]
    """(row, column) in pixels."""
    kinds: Int[Array, " p"]
    """The heatmap of each."""
    scores: Float[Array, " p"]
    """The height of each peak."""


def gaussian_heatmaps(
    points: Float[Array, "p 2"],
    kinds: Int[Array, " p"],
    *,
    shape: tuple[int, int],
    num_kinds: int,
    sigma: float | Float[Array, ""],
) -> Float[Array, "h w {num_kinds}"]:
    """Draws points: at distance d from the nearest point of its kind a pixel holds exp(-d²/2σ²).

    The Gaussians are not normalised and not cut off, and each is centred where its point is,
    between pixels too (Tompson et al., NIPS 2014; the maximum, not the sum, of points that are near
    one another: Cao et al., CVPR 2017).

    Args:
        points: in pixels; also outside of the image.
        kinds: of the points; one that is not 0 .. num_kinds - 1 draws nothing.
        shape: height and width of the maps.
        num_kinds: K.
        sigma: in pixels.

    Returns:
        `[H, W, K]` in [0, 1], 0 where there is no point of a kind.

    Raises:
        ValueError: a size, the number of kinds or a Python `sigma` is not positive.
    """
    if min(shape) < 1 or num_kinds < 1:
        raise ValueError(f"shape={shape}, num_kinds={num_kinds}: expected 1 or more")
    if isinstance(sigma, int | float) and not 0 < sigma < math.inf:
        raise ValueError(f"sigma={sigma}: expected a positive finite number")
    points = at_least_float32(points)
    sigma = jnp.asarray(sigma, points.dtype)
    of_kind = kinds[:, None] == jnp.arange(num_kinds, dtype=kinds.dtype)[None]
    there = jnp.any(of_kind, axis=1)
    # Padding may hold anything, and must not reach the gradient.
    points = jnp.where(there[:, None], points, jnp.zeros((), points.dtype))
    rows, cols = (
        jnp.exp(
            -jnp.square(
                (jnp.arange(size, dtype=points.dtype)[None] - points[:, axis, None]) / sigma
            )
            / 2
        )
        for axis, size in enumerate(shape)
    )
    each = rows[:, :, None, None] * cols[:, None, :, None]
    # One fused reduction: the P Gaussians never exist side by side.
    drawn = jnp.where(of_kind[:, None, None, :], each, jnp.zeros((), points.dtype))
    return jnp.max(drawn, axis=0, initial=0)


def heatmap_peaks(
    heatmaps: Float[Array, "h w k"],
    *,
    max_points: int,
    window: int = 3,
    threshold: float | Float[Array, ""] = 0.1,
) -> Peaks:
    """Finds the highest local maxima of all heatmaps.

    A peak is the highest pixel of the window around it, in its own heatmap; of equal ones in a
    window the first in reading order. So two peaks of a kind are at least window // 2 + 1 apart, in
    rows or in columns. Its place is that of the vertex of the parabola through the logarithms
    of it and its two neighbours, along each axis: exact for a Gaussian, at most half a pixel away
    (the Taylor step of DARK, Zhang et al., CVPR 2020, without its mixed derivative). At the border
    of the map it stays on the pixel.

    Args:
        heatmaps: `[H, W, K]`.
        max_points: P; of more peaks the highest stay.
        window: height and width of the window, an odd number from 3 on.
        threshold: a peak is higher than this number, which is 0 or more.

    Returns:
        P peaks, by falling height.

    Raises:
        ValueError: `max_points` is not 1 .. H·W·K, `window` is no such number, or a Python
            `threshold` is negative.
    """
    kinds = heatmaps.shape[2]
    if not 1 <= max_points <= heatmaps.size:
        raise ValueError(f"max_points={max_points}: expected 1 to {heatmaps.size}, all pixels")
    if window < 3 or window % 2 == 0:
        raise ValueError(f"window={window}: expected an odd number from 3 on")
    if isinstance(threshold, int | float) and not threshold >= 0:
        raise ValueError(f"threshold={threshold}: expected 0 or more")
    heatmaps = at_least_float32(heatmaps)
    chosen = jax.lax.stop_gradient(heatmaps)
    peak = _is_peak(chosen, window // 2) & (chosen > jnp.asarray(threshold, chosen.dtype))
    candidates = jnp.where(peak, chosen, jnp.asarray(-jnp.inf, chosen.dtype))
    best, places = jax.lax.top_k(candidates.reshape(-1), max_points)
    places = places.astype(jnp.int32)
    points, scores = _refined(heatmaps, places)
    found = best > -jnp.inf
    nothing = jnp.zeros((), heatmaps.dtype)
    return Peaks(
        jnp.where(found[:, None], points, nothing),
        jnp.where(found, places % kinds, -1),
        jnp.where(found, scores, nothing),
    )


def heatmap_argmax(
    heatmaps: Float[Array, "h w k"],
) -> tuple[Float[Array, "k 2"], Float[Array, " k"]]:
    """Finds the highest pixel of each heatmap, refined as in `heatmap_peaks`.

    Args:
        heatmaps: `[H, W, K]`.

    Returns:
        Points `[K, 2]` in pixels, and the values `[K]` of their pixels, of any sign.
    """
    heatmaps = at_least_float32(heatmaps)
    kinds = heatmaps.shape[2]
    flat = jax.lax.stop_gradient(heatmaps).reshape(-1, kinds)
    places = jnp.argmax(flat, axis=0).astype(jnp.int32) * kinds + jnp.arange(kinds, dtype=jnp.int32)
    return _refined(heatmaps, places)


def _is_peak(x: Float[Array, "h w k"], reach: int) -> Bool[Array, "h w k"]:
    """Whether a pixel is above those of its window that come before, and not below the others."""

    def moved(x: Array, offset: int, axis: int) -> Array:
        """The values `offset` pixels further on."""
        pads = [(0, 0)] * 3
        pads[axis] = (max(-offset, 0), max(offset, 0))
        padded = jnp.pad(x, pads, constant_values=-jnp.inf)
        first = max(offset, 0)
        return jax.lax.slice_in_dim(padded, first, first + x.shape[axis], axis=axis)

    def highest(x: Array, offsets: range, axis: int) -> Array:
        result = moved(x, offsets[0], axis)
        for offset in offsets[1:]:
            result = jnp.maximum(result, moved(x, offset, axis))
        return result

    before, after = range(-reach, 0), range(1, reach + 1)
    left, right = highest(x, before, 1), highest(x, after, 1)
    row = jnp.maximum(jnp.maximum(left, right), x)
    above, below = highest(row, before, 0), highest(row, after, 0)
    return (x > jnp.maximum(left, above)) & (x >= jnp.maximum(right, below))


def _refined(
    heatmaps: Float[Array, "h w k"], places: Int[Array, " p"]
) -> tuple[Float[Array, "p 2"], Float[Array, " p"]]:
    """Sub-pixel points of pixels `(row · W + column) · K + kind`, and the pixels' values."""
    height, width, kinds = heatmaps.shape
    flat = heatmaps.reshape(-1)
    score = flat[places]
    # No logarithm of what is not positive; such a pixel stays where it is.
    positive = score > 0
    one = jnp.ones((), heatmaps.dtype)
    top = jnp.where(positive, score, one)
    points = []
    for size, stride in ((height, width * kinds), (width, kinds)):
        at = places // stride % size
        inside = positive & (at > 0) & (at < size - 1)
        before, after = (
            jnp.log(jnp.maximum(jnp.where(inside, flat[places + step], one) / top, _FLOOR))
            for step in (
                jnp.where(inside, -stride, 0),
                jnp.where(inside, stride, 0),
            )
        )
        bend = -(before + after)
        curved = inside & (bend > 0)
        offset = (after - before) / jnp.where(curved, 2 * bend, one)
        points.append(at.astype(score.dtype) + jnp.where(curved, offset, jnp.zeros_like(offset)))
    return jnp.stack(points, axis=-1), score
