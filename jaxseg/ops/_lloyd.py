"""k-means: seeds by k-means++ (Arthur and Vassilvitskii, SODA 2007), then Lloyd's iterations."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Key

from jaxseg.ops._nearest import nearest_center
from jaxseg.ops.color import at_least_float32


class Clusters(NamedTuple):
    """A partition of points."""

    labels: Int32[Array, " p"]
    """The nearest centre of each point, -1 outside the mask."""
    centers: Float[Array, "k d"]
    """The means, but of a cluster without points, which stays where it was."""
    valid: Bool[Array, " k"]
    """Whether the cluster has points."""
    inertia: Float[Array, ""]
    """The sum over the points of the squared distance to their centre."""


class _State(NamedTuple):
    step: Int32[Array, ""]
    moving: Bool[Array, ""]
    labels: Int32[Array, " p"]
    centers: Float[Array, "k d"]


def kmeans(
    key: Key[Array, ""],
    points: Float[Array, "p d"],
    num_clusters: int,
    *,
    mask: Bool[Array, " p"] | None = None,
    num_starts: int = 10,
    num_iters: int = 100,
) -> Clusters:
    """The partition of least inertia among several starts.

    A start draws points as centres, each with a chance in proportion to its squared distance from
    the nearest one before it; then centres move to the means of their points, until no point
    changes its centre.

    Args:
        key: of the draws.
        points: such as the embedding of the pixels of an image.
        num_clusters: K, static.
        mask: points that count; None: all.
        num_starts: static; one after the other.
        num_iters: moves of a start, at most.

    Raises:
        ValueError: a number below 1.
    """
    for name, value in (
        *(("num_clusters", num_clusters), ("num_starts", num_starts), ("num_iters", num_iters)),
    ):
        if value < 1:
            raise ValueError(f"{name}={value}: expected 1 or more")
    points = at_least_float32(points)
    mask = jnp.ones(points.shape[:1], bool) if mask is None else mask
    weight = mask.astype(points.dtype)
    points = jnp.where(mask[:, None], points, 0)
    # About their mean: squares of what all points share would cost the digits of the rest.
    offset = jnp.sum(points, axis=0) / jnp.maximum(jnp.sum(weight), 1)
    points = (points - offset[None]) * weight[:, None]

    def start(key: Key[Array, ""]) -> Clusters:
        return _lloyd(points, mask, _plus_plus(key, points, mask, num_clusters), num_iters)

    tried = jax.lax.map(start, jax.random.split(key, num_starts))
    best = jax.tree.map(lambda x: x[jnp.argmin(tried.inertia)], tried)
    return best._replace(centers=best.centers + offset[None])


def _plus_plus(
    key: Key[Array, ""], points: Float[Array, "p d"], mask: Bool[Array, " p"], number: int
) -> Float[Array, "k d"]:
    def draw(squares: Float[Array, " p"], key: Key[Array, ""]) -> tuple[Array, Array]:
        # Where all distances are 0, evenly among the points that count.
        even = jnp.where(mask, 0, -jnp.inf).astype(points.dtype)
        told = jnp.where(mask & (squares > 0), jnp.log(jnp.maximum(squares, 1e-30)), -jnp.inf)
        chances = jnp.where(jnp.any(mask & (squares > 0)), told, even)
        center = points[jax.random.categorical(key, chances)]
        new = jnp.sum(jnp.square(points - center[None]), axis=-1)
        return jnp.minimum(squares, new), center

    first = jnp.ones_like(points[:, 0])  # all alike
    first_key, rest = jax.random.split(key)
    _, center = draw(first, first_key)
    squares = jnp.sum(jnp.square(points - center[None]), axis=-1)
    _, others = jax.lax.scan(draw, squares, jax.random.split(rest, number - 1))
    return jnp.concatenate([center[None], others])


def _lloyd(
    points: Float[Array, "p d"],
    mask: Bool[Array, " p"],
    centers: Float[Array, "k d"],
    num_iters: int,
) -> Clusters:
    number = len(centers)
    exists = jnp.ones((number,), bool)
    exact = jax.lax.Precision.HIGHEST

    def assigned(centers: Float[Array, "k d"]) -> tuple[Array, Array]:
        labels, squares = nearest_center(points, centers, exists)
        return jnp.where(mask, labels, -1), jnp.sum(jnp.where(mask, squares, 0))

    def members(labels: Int32[Array, " p"]) -> Float[Array, "p k"]:
        numbers = jnp.arange(number, dtype=jnp.int32)
        return (labels[:, None] == numbers[None]).astype(points.dtype)

    def step(state: _State) -> _State:
        own = members(state.labels)
        counts = jnp.sum(own, axis=0)[:, None]
        sums = jnp.einsum("pk,pd->kd", own, points, precision=exact)
        centers = jnp.where(counts > 0, sums / jnp.maximum(counts, 1), state.centers)
        labels, _ = assigned(centers)
        return _State(state.step + 1, jnp.any(labels != state.labels), labels, centers)

    start = _State(jnp.zeros((), jnp.int32), jnp.any(mask), assigned(centers)[0], centers)
    end = jax.lax.while_loop(lambda s: s.moving & (s.step < num_iters), step, start)
    labels, inertia = assigned(end.centers)
    valid = jnp.sum(members(labels), axis=0) > 0
    return Clusters(labels, end.centers, valid, inertia)
