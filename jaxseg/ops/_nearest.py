"""The nearest of some centres, for many points at once."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32


def nearest_center(
    points: Float[Array, "p d"], centers: Float[Array, "k d"], valid: Bool[Array, " k"]
) -> tuple[Int32[Array, " p"], Float[Array, " p"]]:
    """The number of the nearest valid centre, the first of equal ones, and its squared distance.

    -1 and infinity where none is valid. One centre after the other: P x K is never held, and
    differences lose nothing where points are far from 0.
    """

    def step(best: tuple[Array, Array], one: tuple[Array, Array, Array]):
        label, square = best
        number, center, there = one
        new = jnp.sum(jnp.square(points - center[None]), axis=-1)
        closer = there & (new < square)
        return (jnp.where(closer, number, label), jnp.where(closer, new, square)), None

    numbers = jnp.arange(len(centers), dtype=jnp.int32)
    # Of the points, so that under `shard_map` it varies as they do.
    start = jnp.full_like(points[:, 0], -1, jnp.int32), jnp.full_like(points[:, 0], jnp.inf)
    best, _ = jax.lax.scan(step, start, (numbers, centers, valid))
    return best
