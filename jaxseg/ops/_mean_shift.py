"""Mean shift with a flat kernel (Fukunaga and Hostetler 1975; Comaniciu and Meer, PAMI 2002)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from jaxseg.ops._nearest import nearest_center
from jaxseg.ops.color import at_least_float32

_AT_ONCE = 16
"""Seeds that are moved together: so many distances are held for each point."""


class Modes(NamedTuple):
    """Where points are dense, by falling number of points."""

    labels: Int32[Array, " p"]
    """The nearest mode of each point, -1 outside the mask."""
    centers: Float[Array, "k d"]
    """0 where there is none."""
    valid: Bool[Array, " k"]
    """Whether there is such a mode."""
    sizes: Int32[Array, " k"]
    """Points within the bandwidth."""


def mean_shift(
    points: Float[Array, "p d"],
    *,
    bandwidth: float | Float[Array, ""],
    max_clusters: int,
    num_seeds: int = 256,
    num_iters: int = 20,
    mask: Bool[Array, " p"] | None = None,
) -> Modes:
    """Moves seeds to where points are dense; seeds that end together are one mode.

    Each seed moves `num_iters` times to the mean of the points within the bandwidth. Of the places
    where they end, those with the most points come first, and one within the bandwidth of an
    earlier one is dropped, as in scikit-learn. The seeds are points, evenly taken in their order:
    a cluster of fewer than P / `num_seeds` points may have none.

    Args:
        points: such as the embedding of the pixels of an image.
        bandwidth: radius, in the unit of the points.
        max_clusters: K, static; of more modes the largest stay.
        num_seeds: static; the work is in proportion.
        num_iters: of every seed; one that rests stays.
        mask: points that count; None: all.

    Raises:
        ValueError: a number below 1.
    """
    for name, value in (
        *(("max_clusters", max_clusters), ("num_seeds", num_seeds), ("num_iters", num_iters)),
    ):
        if value < 1:
            raise ValueError(f"{name}={value}: expected 1 or more")
    points = at_least_float32(points)
    dtype = points.dtype
    limit = jnp.square(jnp.asarray(bandwidth, dtype))
    mask = jnp.ones(points.shape[:1], bool) if mask is None else mask
    points = jnp.where(mask[:, None], points, 0)

    def near(center: Float[Array, " d"]) -> Bool[Array, " p"]:
        return mask & (jnp.sum(jnp.square(points - center[None]), axis=-1) <= limit)

    def moved(seed: Float[Array, " d"]) -> tuple[Array, Array]:
        def step(_: Array, center: Array) -> Array:
            about = near(center).astype(dtype)
            # About the centre, for the digits; a seed with no point near it rests.
            shift = jnp.sum(about[:, None] * (points - center[None]), axis=0)
            return center + shift / jnp.maximum(jnp.sum(about), 1)

        center = jax.lax.fori_loop(0, num_iters, step, seed)
        return center, jnp.sum(near(center), dtype=jnp.int32)

    seeds, exists = _even(points, mask, num_seeds)
    places, sizes = jax.lax.map(moved, seeds, batch_size=min(_AT_ONCE, num_seeds))
    sizes = jnp.where(exists, sizes, 0)
    kept = _apart(places, sizes, limit)
    order = jnp.argsort(jnp.where(kept, -sizes, 1), stable=True)[:max_clusters]
    missing = max(max_clusters - num_seeds, 0)
    valid = jnp.pad(kept[order], (0, missing))
    centers = jnp.pad(jnp.where(kept[order][:, None], places[order], 0), ((0, missing), (0, 0)))
    labels, _ = nearest_center(points, centers, valid)
    sizes = jnp.pad(jnp.where(kept[order], sizes[order], 0), (0, missing))
    return Modes(jnp.where(mask, labels, -1), centers, valid, sizes)


def _even(
    points: Float[Array, "p d"], mask: Bool[Array, " p"], number: int
) -> tuple[Float[Array, "s d"], Bool[Array, " s"]]:
    """Points of the mask at even steps in their order; which of them are not repetitions."""
    count = jnp.sum(mask, dtype=jnp.int32)
    step = jnp.arange(number, dtype=jnp.int32)
    # In two parts, which fit 32 bits: floor(step * count / number).
    whole, part = count // number, count % number
    rank = step * whole + (step * part) // number
    place = jnp.searchsorted(jnp.cumsum(mask, dtype=jnp.int32), rank + 1)
    exists = (count > 0) & (jnp.diff(rank, prepend=-1) > 0)
    return points[jnp.minimum(place, len(points) - 1)], exists


def _apart(
    places: Float[Array, "s d"], sizes: Int32[Array, " s"], limit: Float[Array, ""]
) -> Bool[Array, " s"]:
    """Which places stay: by falling size, those that are near no earlier one that stays."""
    order = jnp.argsort(-sizes, stable=True).astype(jnp.int32)

    def step(kept: Bool[Array, " s"], i: Int32[Array, ""]) -> tuple[Bool[Array, " s"], None]:
        squares = jnp.sum(jnp.square(places - places[i][None]), axis=-1)
        stays = (sizes[i] > 0) & ~jnp.any(kept & (squares <= limit))
        return kept.at[i].set(stays), None

    kept, _ = jax.lax.scan(step, sizes < 0, order)
    return kept
