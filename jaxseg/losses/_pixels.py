"""What the losses of semantic segmentation share: which pixels count, and means over them."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxseg.ops.color import at_least_float32

Classes = Literal["present", "all"]

_NOTHING = 1e-19
"""A mass below is taken for none: the square of it is the least that float32 can divide by."""


class _Pixels(NamedTuple):
    """What every loss here computes with; all of one type, float32 or float64."""

    logits: Float[Array, "b h w c"]
    """0 at ignored pixels."""
    target: Float[Array, "b h w c"]
    """The probability of each class, 0 at ignored pixels."""
    weights: Float[Array, "b h w"]
    """Of pixels, 0 at ignored ones."""
    class_weights: Float[Array, " c"]


def _pixels(
    logits: Float[Array, "b h w c"],
    labels: Integer[Array, "b h w"] | Float[Array, "b h w c"],
    ignore_label: int,
    class_weights: Float[Array, " c"] | None,
    pixel_weights: Float[Array, "b h w"] | None,
) -> _Pixels:
    """Widens, makes labels to probabilities, and hides the logits of ignored pixels.

    Raises:
        ValueError: the shapes of labels and logits disagree.
    """
    if labels.shape[:3] != logits.shape[:3]:
        raise ValueError(f"labels of shape {labels.shape}: expected {logits.shape[:3]} first")
    classes = logits.shape[-1]
    logits = at_least_float32(logits)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        if labels.shape != logits.shape:
            raise ValueError(f"probabilities of shape {labels.shape}: expected {logits.shape}")
        target = labels.astype(logits.dtype)
        counts = jnp.any(target > 0, axis=-1) & ~jnp.any(jnp.isnan(target), axis=-1)
    else:
        labels = labels.astype(jnp.int32)
        counts = (labels != ignore_label) & (labels >= 0) & (labels < classes)
        own = labels[..., None] == jnp.arange(classes, dtype=jnp.int32)[None, None, None]
        target = own.astype(logits.dtype)
    weights = jnp.ones(counts.shape, logits.dtype)
    if pixel_weights is not None:
        weights = pixel_weights.astype(logits.dtype)
        counts = counts & (weights > 0)
    target = jnp.where(counts[..., None], target, 0)
    weights = jnp.where(counts, weights, 0)
    if class_weights is None:
        class_weights = jnp.ones((classes,), logits.dtype)
    return _Pixels(
        # Before anything is computed with them: 0 times the gradient of an infinity is NaN.
        jnp.where(counts[..., None], logits, 0),
        target,
        weights,
        class_weights.astype(logits.dtype),
    )


def _ratio(part: Float[Array, "..."], whole: Float[Array, "..."]) -> Float[Array, "..."]:
    """The quotient; 0, without gradient, where the whole is 0."""
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0)


def _class_mean(
    losses: Float[Array, "b c"],
    mass: Float[Array, "b c"],
    class_weights: Float[Array, " c"],
    classes: Classes,
) -> Float[Array, " b"]:
    """The weighted mean over all classes, or over those of some mass in the example.

    Raises:
        ValueError: `classes` is neither "present" nor "all".
    """
    if classes not in ("present", "all"):
        raise ValueError(f'classes={classes!r}: expected "present" or "all"')
    share = jnp.broadcast_to(class_weights[None], losses.shape)
    if classes == "present":
        share = jnp.where(mass > _NOTHING, share, 0)
    return _ratio(jnp.sum(share * losses, axis=1), jnp.sum(share, axis=1))
