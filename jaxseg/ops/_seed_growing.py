"""Objects grown from seeds: the most certain pixel, then the most certain of the rest."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from jaxseg.ops._nearest import nearest_center
from jaxseg.ops.color import at_least_float32

_PROPOSALS = 4
"""Seeds that are tried, at most, for each place for an object."""


class GrownInstances(NamedTuple):
    """Objects by falling score of their seeds; those that are not valid are 0."""

    labels: Int32[Array, " p"]
    """The object of each point, -1 for none."""
    centers: Float[Array, "n d"]
    """In the embedding."""
    valid: Bool[Array, " n"]
    """Whether there is such an object."""
    scores: Float[Array, " n"]
    """Of its seed."""


class _State(NamedTuple):
    free: Bool[Array, " p"]
    tried: Int32[Array, ""]
    made: Int32[Array, ""]
    centers: Float[Array, "n d"]
    scores: Float[Array, " n"]


def grow_instances(
    embedding: Float[Array, "p d"],
    seed_scores: Float[Array, " p"],
    *,
    radius: float | Float[Array, ""],
    max_instances: int,
    min_score: float | Float[Array, ""] = 0.5,
    min_pixels: int | Int32[Array, ""] = 1,
    min_new: float | Float[Array, ""] = 0.5,
    assign: Literal["nearest", "radius"] = "nearest",
    mask: Bool[Array, " p"] | None = None,
) -> GrownInstances:
    """Finds objects of which nobody knows how many there are.

    The free point of the highest score is a seed. The mean of the points within the radius of it is
    a centre; the points within the radius of that are taken, and no seeds any more. The centre is
    that of an object if enough of the points were free before, else it is the rim of another
    object and dropped. So on until no free score is high enough, there are `max_instances`, or
    four times as many seeds were tried. At last every point is given to a centre.

    Args:
        embedding: such as Ψ of the pixels of an image.
        seed_scores: how certainly a point lies at the centre of its object, in any unit.
        radius: of an object, in the unit of the embedding.
        max_instances: N, static; the work grows with the number that is found.
        min_score: of a seed.
        min_pixels: points that an object brings, at least.
        min_new: the part of the points within the radius that must be free.
        assign: "nearest": every point to the nearest centre, however far; "radius": only to one
            within the radius.
        mask: points that belong to objects at all; None: all do.

    Raises:
        ValueError: no place for an object, or another `assign`.
    """
    if max_instances < 1:
        raise ValueError(f"max_instances={max_instances}: expected 1 or more")
    if assign not in ("nearest", "radius"):
        raise ValueError(f'assign={assign!r}: expected "nearest" or "radius"')
    points, scores = at_least_float32(embedding), at_least_float32(seed_scores)
    dtype = points.dtype
    limit = jnp.square(jnp.asarray(radius, dtype))
    least = jnp.asarray(min_score, scores.dtype)
    mask = jnp.ones(scores.shape, bool) if mask is None else mask

    def near(center: Float[Array, " d"]) -> Bool[Array, " p"]:
        return mask & (jnp.sum(jnp.square(points - center[None]), axis=-1) <= limit)

    def goes_on(state: _State) -> Bool[Array, ""]:
        there = jnp.any(state.free & (scores >= least))
        room = (state.made < max_instances) & (state.tried < _PROPOSALS * max_instances)
        return there & room

    def step(state: _State) -> _State:
        seed = jnp.argmax(jnp.where(state.free, scores, -jnp.inf))
        about = near(points[seed]).astype(dtype)
        total = jnp.sum(about[:, None] * jnp.where(mask[:, None], points, 0), axis=0)
        center = total / jnp.maximum(jnp.sum(about), 1)
        taken = near(center)
        new = jnp.sum(taken & state.free, dtype=jnp.int32)
        share = new.astype(dtype) / jnp.maximum(jnp.sum(taken, dtype=jnp.int32), 1).astype(dtype)
        enough = (new >= min_pixels) & (new > 0) & (share >= jnp.asarray(min_new, dtype))
        # The seed itself even where its neighbours' mean is far from it.
        free = (state.free & ~taken).at[seed].set(False)
        place = jnp.where(enough, state.made, max_instances)
        return _State(
            free,
            state.tried + 1,
            state.made + enough.astype(jnp.int32),
            state.centers.at[place].set(center, mode="drop"),
            state.scores.at[place].set(scores[seed], mode="drop"),
        )

    zero = jnp.zeros((), jnp.int32)
    start = _State(
        mask,
        zero,
        zero,
        jnp.zeros((max_instances, points.shape[1]), dtype),
        jnp.zeros((max_instances,), scores.dtype),
    )
    end = jax.lax.while_loop(goes_on, step, start)
    valid = jnp.arange(max_instances, dtype=jnp.int32) < end.made
    labels, squares = nearest_center(points, end.centers, valid)
    given = mask if assign == "nearest" else mask & (squares <= limit)
    return GrownInstances(jnp.where(given, labels, -1), end.centers, valid, end.scores)
