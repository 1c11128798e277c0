"""Superpixels by soft and hard k-means on a fixed grid: differentiable SLIC.

Every pixel of a grid cell (r, c) has nine candidates, the superpixels of the cells
(r + dr, c + dc) with dr, dc in {-1, 0, 1}, in the order q = 3 (dr + 1) + (dc + 1). The
candidates never change, so the cost does not depend on the number of superpixels.

Sources: Jampani et al., "Superpixel Sampling Networks", ECCV 2018 (arXiv:1807.10174),
algorithm 1; Achanta et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods",
TPAMI 2012.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxseg.ops import _blocks, _kmeans
from jaxseg.ops._blocks import Grid, Layout, Ties
from jaxseg.ops.color import at_least_float32, rgb_to_lab


class SoftAssignment(NamedTuple):
    """Pixels softly assigned to superpixels."""

    affinity: Float[Array, "h w 9"]
    """Probability of each of the pixel's nine candidates; 0 for those off the grid."""
    centers: Float[Array, "rows cols c"]
    """Mean feature of each superpixel under `affinity`."""


def grid_shape(height: int, width: int, num_superpixels: int) -> Grid:
    """The grid of nearly square cells for a wanted number of superpixels.

    rows = floor(sqrt(K height / width)) and cols = floor(sqrt(K width / height)), each at least
    1 and at most its side; so rows * cols <= K unless an extreme aspect ratio forces a 1.

    Args:
        height: rows of pixels.
        width: columns of pixels.
        num_superpixels: K, wanted number of superpixels, from 1 to height * width / 4.

    Raises:
        ValueError: a number is out of range.
    """
    if height < 1 or width < 1:
        raise ValueError(f"image of {height}x{width} pixels: expected at least 1x1")
    most = max(1, height * width // 4)
    if not 1 <= num_superpixels <= most:
        raise ValueError(
            f"num_superpixels={num_superpixels}: expected 1 to {most} "
            f"for an image of {height}x{width} pixels"
        )
    rows = math.isqrt(num_superpixels * height // width)
    cols = math.isqrt(num_superpixels * width // height)
    return min(max(rows, 1), height), min(max(cols, 1), width)


def soft_slic(
    features: Float[Array, "h w c"],
    grid: Grid,
    *,
    num_iters: int,
    mask: Bool[Array, "h w"] | None = None,
    ties: Ties = "floor",
) -> SoftAssignment:
    """Differentiable SLIC: soft k-means in which a pixel sees the nine cells around it.

    Starts from the mean feature of every cell. Affinities are
    Q = softmax over the nine candidates of -||x - s||^2 (eq. 3), updates s = sum(Q x) / sum(Q)
    (eq. 4); a superpixel whose sum(Q) falls below 1e-3 gets s = 0 and no gradient.
    Gradients (in reverse mode) flow through all iterations; their memory holds the centres of
    each iteration, not the affinities.

    Args:
        features: x, per pixel. Computed in float32, or in float64 if given so.
        grid: (rows, cols) of superpixels, static; see `grid_shape`.
        num_iters: number of associations, static, at least 1, with an update between each two.
        mask: pixels that count; all if None. A pixel outside the mask must be finite but enters no
            mean; its affinity is still the softmax over its candidates. A superpixel whose whole
            cell is outside the mask is a candidate of no pixel inside it and its centre is 0;
            pixels that have no other candidate belong to their own cell.
        ties: the cell of a pixel that lies exactly between two; "floor" the higher, floor(i rows /
            H), "lower" as in the authors' code.

    Returns:
        `affinity` after the last association and `centers`, the means under it.

    Raises:
        ValueError: `num_iters`, the grid, the mask's shape or `ties` is out of range.
    """
    if num_iters < 1:
        raise ValueError(f"num_iters={num_iters}: expected at least 1")
    if mask is not None and mask.shape != features.shape[:2]:
        raise ValueError(f"mask of shape {mask.shape}: expected {features.shape[:2]}")
    features = at_least_float32(features)
    layout = _blocks.layout(*features.shape[:2], grid, ties)
    with jax.named_scope("soft_slic"):
        return SoftAssignment(*_kmeans.soft_kmeans(features, mask, layout, num_iters))


def hard_labels(
    affinity: Float[Array, "h w 9"], grid: Grid, *, ties: Ties = "floor"
) -> Int[Array, "h w"]:
    """The superpixel of the largest affinity, r * cols + c, int32; the first of equals.

    Args:
        affinity: as `soft_slic` returns it.
        grid: (rows, cols) of superpixels, static.
        ties: as given to `soft_slic`.

    Raises:
        ValueError: the grid does not fit, or `ties` is unknown.
    """
    layout = _blocks.layout(*affinity.shape[:2], grid, ties)
    return _labels(jnp.argmax(affinity, axis=-1).astype(jnp.int32), layout, grid)


def _labels(candidate: Int[Array, "h w"], layout: Layout, grid: Grid) -> Int[Array, "h w"]:
    row, col = candidate // 3 - 1, candidate % 3 - 1
    return jnp.asarray(layout.cell) + row * grid[1] + col


def pool(
    values: Float[Array, "h w c"],
    affinity: Float[Array, "h w 9"],
    grid: Grid,
    *,
    mask: Bool[Array, "h w"] | None = None,
    ties: Ties = "floor",
) -> Float[Array, "rows cols c"]:
    """Mean of the pixels' values in each superpixel, weighted by affinity.

    Args:
        values: any values of the pixels, not only those that were clustered.
        affinity: as `soft_slic` returns it.
        grid: (rows, cols) of superpixels, static.
        mask: pixels that count; all if None.
        ties: as given to `soft_slic`.

    Returns:
        The means; 0, without gradient, where a superpixel's affinities sum to less than 1e-3.

    Raises:
        ValueError: the grid does not fit, or `ties` is unknown.
    """
    layout = _blocks.layout(*affinity.shape[:2], grid, ties)
    values = at_least_float32(values)
    affinity = affinity.astype(values.dtype)
    if mask is not None:
        affinity = jnp.where(mask[..., None], affinity, 0)
    q = _blocks.to_blocks(affinity, layout).mT
    x = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)
    sums = _blocks.neighbors_transpose(_blocks.matmul(q, _blocks.to_blocks(x, layout)))
    mass = sums[..., -1:]
    alive = mass >= _kmeans.MIN_MASS
    return jnp.where(alive, sums[..., :-1] / jnp.where(alive, mass, 1), 0)


def unpool(
    centers: Float[Array, "rows cols c"],
    affinity: Float[Array, "h w 9"],
    grid: Grid,
    *,
    hard: bool = False,
    ties: Ties = "floor",
) -> Float[Array, "h w c"]:
    """Spreads values of superpixels over the pixels: sum over candidates of Q * value.

    Args:
        centers: one value per superpixel.
        affinity: as `soft_slic` returns it.
        grid: (rows, cols) of superpixels, static; the leading shape of `centers`.
        hard: give each pixel the value of its most probable superpixel alone; the choice
            has no gradient, the values have.
        ties: as given to `soft_slic`.

    Raises:
        ValueError: the grid does not fit, or `ties` is unknown.
    """
    if centers.shape[:2] != tuple(grid):
        raise ValueError(f"centers of shape {centers.shape}: expected {tuple(grid)} first")
    layout = _blocks.layout(*affinity.shape[:2], grid, ties)
    centers = at_least_float32(centers)
    if hard:
        affinity = jax.nn.one_hot(jnp.argmax(affinity, axis=-1), 9, dtype=centers.dtype)
    q = _blocks.to_blocks(affinity.astype(centers.dtype), layout)
    return _blocks.from_blocks(_blocks.matmul(q, _blocks.neighbors(centers)), layout)


def slic(
    image: Float[Array, "h w 3"],
    num_superpixels: int,
    *,
    compactness: float | Float[Array, ""] = 10.0,
    num_iters: int = 10,
) -> Int[Array, "h w"]:
    """SLIC superpixels: k-means on CIE Lab colour and position, nine candidates a pixel.

    The squared distance is d_lab^2 + (compactness / S)^2 d_xy^2 with S the side of a square of
    the mean cell's area. A superpixel that loses all its pixels keeps its centre. Superpixels
    may be in pieces: `ops.connectivity.enforce_connectivity` mends that.

    Args:
        image: RGB in [0, 1].
        num_superpixels: wanted number, static; see `grid_shape`.
        compactness: weight of position against colour; larger gives squarer superpixels.
        num_iters: number of assignments, static, at least 1, with an update between each two.

    Returns:
        Labels r * cols + c, int32.

    Raises:
        ValueError: `num_superpixels` or `num_iters` is out of range.
    """
    if num_iters < 1:
        raise ValueError(f"num_iters={num_iters}: expected at least 1")
    height, width = image.shape[:2]
    grid = grid_shape(height, width, num_superpixels)
    layout = _blocks.layout(height, width, grid, "floor")
    lab = rgb_to_lab(at_least_float32(image))
    scale = compactness / math.sqrt(height * width / (grid[0] * grid[1]))
    y = jnp.broadcast_to(jnp.arange(height, dtype=lab.dtype)[:, None], (height, width))
    x = jnp.broadcast_to(jnp.arange(width, dtype=lab.dtype)[None, :], (height, width))
    position = jnp.stack([y, x], axis=-1) * jnp.asarray(scale, lab.dtype)
    features = jnp.concatenate([lab, position], axis=-1)
    with jax.named_scope("slic"):
        return _labels(_kmeans.hard_kmeans(features, layout, num_iters), layout, grid)
