"""Embeddings about the means of their objects: what losses and measures of them share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxseg.ops._steered import length


class InstanceMeans(NamedTuple):
    """Of one example with N places for objects."""

    own: Bool[Array, "n h w"]
    """The masks of valid objects without the pixels that several share."""
    pixels: Float[Array, " n"]
    """How many each has left."""
    means: Float[Array, "n d"]
    """Of the embedding over them; 0 where there is none."""
    distance: Float[Array, "h w"]
    """‖Ψ - mean‖ of each pixel of one object; 0 elsewhere."""


def instance_means(
    embedding: Float[Array, "h w d"], masks: Bool[Array, "n h w"], valid: Bool[Array, " n"]
) -> InstanceMeans:
    """Means of an embedding over objects that may overlap.

    A pixel of several objects cannot be near the means of all of them: it counts for none.
    """
    dtype = embedding.dtype
    masks = masks & valid[:, None, None]
    alone = jnp.sum(masks, axis=0, dtype=jnp.int32) == 1
    own = masks & alone[None]
    # Whatever it is elsewhere: 0 times what is not finite is NaN.
    embedding = jnp.where(alone[..., None], embedding, 0)
    weight = own.astype(dtype)
    pixels = jnp.sum(weight, axis=(1, 2))
    exact = jax.lax.Precision.HIGHEST
    total = jnp.einsum("nhw,hwd->nd", weight, embedding, precision=exact)
    means = total / jnp.maximum(pixels, 1)[:, None]
    mine = jnp.einsum("nhw,nd->hwd", weight, means, precision=exact)
    return InstanceMeans(own, pixels, means, length(embedding - mine))
