"""From the embedding of one image to a prediction of instances."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxseg.methods._targets import mask_boxes


def decoded(
    decoder: Callable[..., Any],
    psi: Float[Array, "h w d"],
    seeds: Float[Array, "h w"],
    foreground: Float[Array, "h w"],
    inside: Bool[Array, "h w"],
    *,
    min_size: int,
) -> dict[str, Array]:
    """The objects that a decoder finds among an image's pixels, by falling score.

    Args:
        decoder: `(points, seed scores, mask)` -> `labels`, `centers`, `valid` and, where it has
            them, `scores`.
        psi: the embedding.
        seeds: probability of being near an object's centre.
        foreground: probability of being in one.
        inside: the pixels to decode.
        min_size: smaller objects are dropped, in pixels.

    Returns:
        "masks", "scores", "kinds", "boxes", "instances" of `types.Prediction`, without the batch.
    """
    shape = inside.shape
    found = decoder(psi.reshape(-1, psi.shape[-1]), seeds.ravel(), inside.ravel())
    number = found.valid.shape[0]
    # Behind the places of the objects, one for pixels of none.
    labels = jnp.where(found.labels >= 0, found.labels, number)
    pixels = jax.ops.segment_sum(jnp.ones_like(seeds).ravel(), labels, number + 1)[:-1]
    certain = jax.ops.segment_sum(foreground.ravel(), labels, number + 1)[:-1]
    scores = getattr(found, "scores", jnp.ones((number,), seeds.dtype))
    scores = scores * certain / jnp.maximum(pixels, 1)
    kept = found.valid & (pixels >= max(min_size, 1))
    order = jnp.argsort(jnp.where(kept, -scores, jnp.inf), stable=True)
    place = jnp.zeros((number + 1,), jnp.int32)
    place = place.at[order].set(jnp.where(kept[order], jnp.arange(number, dtype=jnp.int32) + 1, 0))
    instances = place[labels].reshape(shape)
    masks = instances[None] == jnp.arange(1, number + 1, dtype=jnp.int32)[:, None, None]
    return {
        "masks": masks,
        "scores": jnp.where(kept, scores, 0)[order],
        "kinds": jnp.where(kept[order], 0, -1).astype(jnp.int32),
        "boxes": mask_boxes(masks),
        "instances": instances,
    }
