"""From the nodes back to the pixels: the second half of `methods.adaptive`.

Each function takes the inverse of the sampling `[H, W, 2]` (`ops.warp.invert_sampling`) that all
images share, or None where each has its own, which is then computed.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxseg.methods.tasks import classes_at
from jaxseg.ops.warp import invert_sampling, unwarp

Inverse = Float[Array, "height width 2"]


def unwarped(
    values: Float[Array, "b rows cols n"],
    coords: Float[Array, "b rows cols 2"],
    inverse: Inverse | None,
    to: tuple[int, int],
) -> Float[Array, "b height width n"]:
    """Values at the nodes, interpolated at the pixels of images of size `to`."""

    def one(values: Array, coords: Array, inverse: Array) -> Array:
        return unwarp(values, coords, to, inverse=inverse)

    return _each(one, values, coords, inverse, to)


def unwarped_classes(
    logits: Float[Array, "b rows cols n"],
    coords: Float[Array, "b rows cols 2"],
    inverse: Inverse | None,
    to: tuple[int, int],
    *,
    confidence: bool,
    probabilities: bool,
    chunk: int,
) -> dict[str, Array]:
    """What `methods.tasks.classes_at` gives, of logits at the nodes.

    Args:
        logits: at the nodes.
        coords: of the nodes.
        inverse: see above.
        to: height and width.
        confidence: whether the probability of each class is wanted; without it nothing but the
            greatest of the logits is looked for.
        probabilities: whether that of every class is.
        chunk: numbers of logits of each image that exist at its size at a time, unless
            `probabilities` are wanted.
    """
    if probabilities:
        found = classes_at(unwarped(logits, coords, inverse, to), to, probabilities=True)
        return found if confidence else {k: x for k, x in found.items() if k != "confidence"}

    def one(logits: Array, coords: Array, inverse: Array) -> dict[str, Array]:
        if confidence:
            return _most_probable(logits, coords, inverse, chunk)
        return {"classes": unwarp(logits, coords, to, argmax=True, inverse=inverse)}

    return _each(one, logits, coords, inverse, to)


def _each(
    function: Callable[[Array, Array, Array], Any],
    values: Float[Array, "b rows cols n"],
    coords: Float[Array, "b rows cols 2"],
    inverse: Inverse | None,
    to: tuple[int, int],
) -> Any:
    if inverse is not None:
        return jax.vmap(function, (0, 0, None))(values, coords, inverse)

    def own(values: Array, coords: Array) -> Any:
        return function(values, coords, invert_sampling(coords, to).coords)

    return jax.vmap(own)(values, coords)


def _most_probable(
    logits: Float[Array, "rows cols n"],
    coords: Float[Array, "rows cols 2"],
    inverse: Inverse,
    chunk: int,
) -> dict[str, Array]:
    """Classes and their probabilities at every pixel, by bands of rows."""
    height, width, _ = inverse.shape
    rows = min(height, max(2, chunk // (width * logits.shape[-1])))
    bands = -(-height // rows)

    def band(inverse: Inverse) -> dict[str, Array]:
        # A pixel's weights follow from the inverse alone, so that a band can be an image.
        size = (inverse.shape[0], width)
        values = unwarp(logits, coords, size, inverse=inverse)
        return {k: x[0] for k, x in classes_at(values[None], size).items()}

    if bands == 1:
        return band(inverse)
    places = inverse[np.minimum(np.arange(bands * rows), height - 1)]
    found = jax.lax.map(band, places.reshape(bands, rows, width, 2))
    return {k: x.reshape(bands * rows, width)[:height] for k, x in found.items()}
