"""Where an image is read, and what is read there: the first half of `methods.adaptive`.

Batches throughout. Coordinates are (row, column) in [0, 1], align-corners, as in `ops.warp`.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Shaped

from jaxseg.ops.boundary import boundary_map, nearest_boundary
from jaxseg.ops.color import to_float
from jaxseg.ops.warp import (
    fold_fraction,
    make_fold_free,
    project_covering,
    resize_sampling,
    sample,
    solve_sampling,
)

Mode = Literal["learned", "oracle", "fixed", "uniform", "area"]


class Sampling(NamedTuple):
    """Where each image of a batch is read."""

    coords: Float[Array, "b rows cols 2"]
    folded: Float[Array, " b"]
    """The part of the cells that were folded before that was mended."""


class Targets(NamedTuple):
    """What a sampler learns to give."""

    coords: Float[Array, "b rows cols 2"]
    """The uniform grid where there is no boundary."""
    found: Bool[Array, " b"]
    """Whether there is one."""


def targets(
    labels: Int[Array, "b h w"],
    grid: tuple[int, int],
    *,
    smoothness: float,
    target_classes: tuple[int, ...] | None,
    extent: Int[Array, "b 2"] | None = None,
) -> Targets:
    """`ops.warp.sampling_targets`, and whether there was anything to aim at.

    Args:
        labels: classes; others are ignored.
        grid: (rows, cols) of the nodes.
        smoothness: λ on that grid.
        target_classes: whose boundaries count; all if None.
        extent: height and width of each image without its padding, whose edge is no boundary; None:
            nothing is padding.
    """

    def one(labels: Int[Array, "h w"], extent: Int[Array, " 2"] | None) -> Targets:
        marked = _boundary(labels, extent, target_classes)
        points, found = nearest_boundary(marked, grid)
        return Targets(solve_sampling(points, smoothness=smoothness), found)

    with jax.named_scope("sampling_targets"):
        return jax.vmap(one, (0, None if extent is None else 0))(labels, extent)


def _boundary(
    labels: Int[Array, "h w"],
    extent: Int[Array, " 2"] | None,
    target_classes: tuple[int, ...] | None,
) -> Bool[Array, "h w"]:
    if extent is None:
        return boundary_map(labels, target_classes=target_classes)
    # The padding, which is at the lower and the right side, goes on with the labels beside it.
    rows, cols = (jnp.arange(n, dtype=extent.dtype) for n in labels.shape)
    inside = (rows < extent[0])[:, None] & (cols < extent[1])[None]
    labels = jnp.take(labels, jnp.minimum(rows, extent[0] - 1), axis=0)
    labels = jnp.take(labels, jnp.minimum(cols, extent[1] - 1), axis=1)
    return boundary_map(labels, target_classes=target_classes) & inside


def mean_sampling(
    labels: Iterable[Int[np.ndarray, "_ _"]],
    grid: tuple[int, int],
    *,
    smoothness: float = 1.0,
    target_classes: tuple[int, ...] | None = None,
) -> Float32[np.ndarray, "rows cols 2"]:
    """The mean of the targets of a data set (host), for mode "fixed".

    It covers the image, as each of them does. Each size of labels compiles once.

    Args:
        labels: of any number and any sizes; those without a boundary are left out.
        grid: (rows, cols) of the nodes.
        smoothness: λ on that grid.
        target_classes: whose boundaries count; all if None.

    Raises:
        ValueError: there is no boundary at all.
    """

    @jax.jit
    def find(labels: Int[Array, "h w"]) -> Targets:
        return targets(labels[None], grid, smoothness=smoothness, target_classes=target_classes)

    total, count = np.zeros((*grid, 2)), 0
    for each in labels:
        coords, found = jax.device_get(find(np.asarray(each, np.int32)))
        if found[0]:
            total, count = total + coords[0], count + 1
    if not count:
        raise ValueError("no labels with a boundary of a target class: expected one or more")
    return (total / count).astype(np.float32)


def at_nodes(
    coords: Float[Array, "b rows cols 2"], size: tuple[int, int], *, fold_free: bool
) -> Sampling:
    """Brings a sampler's coordinates to the nodes of the working size, where they cover the image.

    Args:
        coords: of any grid; what lies outside of [0, 1] is clipped.
        size: (h, w) of the nodes.
        fold_free: whether folds are mended, each by a blend with the uniform grid around it.
    """

    def one(coords: Float[Array, "rows cols 2"]) -> Sampling:
        covering = project_covering(resize_sampling(coords, size))
        folded = fold_fraction(covering)
        mended = make_fold_free(covering, per_region=True) if fold_free else covering
        return Sampling(mended, folded)

    with jax.named_scope("nodes"):
        return jax.vmap(one)(coords)


def cell_centres(size: tuple[int, int], image: tuple[int, int]) -> Float32[np.ndarray, "h w 2"]:
    """Where the centres of h×w equal parts of an image lie (host): what an area filter stands for.

    Args:
        size: (h, w).
        image: height and width, each at least 2.
    """
    sides = [
        ((np.arange(n) + 0.5) * (whole / n) - 0.5) / (whole - 1)
        for n, whole in zip(size, image, strict=True)
    ]
    # Beyond the outermost centres, where the image is smaller, its border goes on.
    return np.clip(np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1), 0, 1).astype(np.float32)


def read(
    image: Shaped[Array, "b h w c"],
    coords: Float[Array, "b rows cols 2"],
    *,
    order: Literal[0, 1],
    antialias: bool,
) -> Float[Array, "b rows cols c"]:
    """The images at the nodes, as floats; see `ops.warp.sample`."""

    def one(image: Shaped[Array, "h w c"], coords: Float[Array, "rows cols 2"]) -> Array:
        if order == 0:
            # Only what is read is converted.
            return to_float(sample(image, coords, order=0))
        return sample(to_float(image), coords, antialias=antialias)

    with jax.named_scope("sample"):
        return jax.vmap(one)(image, coords)


def read_labels(
    labels: Shaped[Array, "b h w"], coords: Float[Array, "b rows cols 2"]
) -> Shaped[Array, "b rows cols"]:
    """Labels, or weights of pixels, of the pixels nearest to the nodes."""
    return jax.vmap(lambda labels, coords: sample(labels, coords, order=0))(labels, coords)


def shrunk(image: Shaped[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b oh ow c"]:
    """A small view of large images, as floats: antialiased, and quick on a CPU.

    First the means of blocks of at most half of the pixels that fall into one, which costs a sum
    for each pixel; then the linear interpolation that averages over the rest.

    Args:
        image: uint8, or floats in [0, 1].
        size: (height, width), each at least 1. May be larger than the image.
    """
    sides = image.shape[1:3]
    blocks = [max(n // (2 * m), 1) for n, m in zip(sides, size, strict=True)]
    wide = image.astype(jnp.int32) if image.dtype == jnp.uint8 else image
    for axis, block in enumerate(blocks, 1):
        if block > 1:
            wide = _sums(wide, axis, block)
    if image.dtype == jnp.uint8:
        wide = wide.astype(jnp.float32) / 255
    wide = wide / np.prod(blocks).astype(wide.dtype)
    # The last block may reach beyond the image, so that a side need not be a whole number of them.
    scale = [m * block / n for m, block, n in zip(size, blocks, sides, strict=True)]
    return jax.image.scale_and_translate(
        wide,
        (wide.shape[0], *size, wide.shape[-1]),
        (1, 2),
        jnp.asarray(scale, wide.dtype),
        jnp.zeros(2, wide.dtype),
        "linear",
        precision=jax.lax.Precision.HIGHEST,
    )


def _sums(x: Shaped[Array, "b h w c"], axis: int, block: int) -> Shaped[Array, "b oh ow c"]:
    """Sums of so many rows or columns; the last ones count again where some are missing."""
    shape = list(x.shape)
    count = -(-shape[axis] // block)
    pads = [(0, 0)] * 4
    pads[axis] = (0, count * block - shape[axis])
    x = jnp.pad(x, pads, mode="edge")
    shape[axis : axis + 1] = [count, block]
    return jnp.sum(x.reshape(shape), axis=axis + 1)
