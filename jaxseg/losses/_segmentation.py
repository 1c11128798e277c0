"""The losses of supervised semantic segmentation.

All take logits `[B, H, W, C]` with labels `[B, H, W]`, or with the probability of every class
`[B, H, W, C]`, and give one value per example. A pixel is ignored where its label is
`ignore_label` or no class, or where its probabilities are all 0 or hold a NaN: whatever its logits
are, infinite or NaN too, they change neither the loss nor the gradient.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxseg.ops.color import at_least_float32


class _Pixels(NamedTuple):
    """What every loss here computes with; all of one type, float32 or float64."""

    logits: Float[Array, "b h w c"]
    """0 at ignored pixels."""
    target: Float[Array, "b h w c"]
    """The probability of each class, 0 at ignored pixels."""
    weights: Float[Array, "b h w"]
    """Of pixels, 0 at ignored ones."""
    class_weights: Float[Array, " c"]


def _pixels(logits, labels, ignore_label, class_weights, pixel_weights) -> _Pixels:
    if labels.shape[:3] != logits.shape[:3]:
        raise ValueError(f"labels of shape {labels.shape}: expected {logits.shape[:3]} first")
    classes = logits.shape[-1]
    logits = at_least_float32(logits)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        if labels.shape != logits.shape:
            raise ValueError(f"probabilities of shape {labels.shape}: expected {logits.shape}")
        target = labels.astype(logits.dtype)
        counts = jnp.any(target > 0, axis=-1) & ~jnp.any(jnp.isnan(target), axis=-1)
        target = jnp.where(counts[..., None], target, 0)
    else:
        labels = labels.astype(jnp.int32)
        counts = (labels != ignore_label) & (labels >= 0) & (labels < classes)
        own = labels[..., None] == jnp.arange(classes, dtype=jnp.int32)[None, None, None]
        target = (own & counts[..., None]).astype(logits.dtype)
    weights = counts.astype(logits.dtype)
    if pixel_weights is not None:
        weights = jnp.where(counts, pixel_weights.astype(logits.dtype), 0)
    if class_weights is None:
        class_weights = jnp.ones((classes,), logits.dtype)
    return _Pixels(
        # Before anything is computed with them: 0 times the gradient of an infinity is NaN.
        jnp.where(counts[..., None], logits, 0),
        target,
        weights,
        class_weights.astype(logits.dtype),
    )


def cross_entropy(
    logits: Float[Array, "b h w c"],
    labels: Integer[Array, "b h w"] | Float[Array, "b h w c"],
    *,
    ignore_label: int = -1,
    class_weights: Float[Array, " c"] | None = None,
    pixel_weights: Float[Array, "b h w"] | None = None,
) -> Float[Array, " b"]:
    """Weighted mean over the pixels of -log softmax(logits)[label].

    Σ w·ℓ / Σ w with w = pixel weight · class weight of the label, as in PyTorch: a common factor of
    the weights changes nothing, and a pixel of weight 0 is ignored. With probabilities p,
    ℓ = -Σ p_c·log softmax(logits)_c and each term has the weight of its class.

    Args:
        logits: unnormalised log-probabilities. A class may be ruled out by -inf where its target
            is 0.
        labels: classes 0..C-1 of any integer type; or the probability of every class.
        ignore_label: one more label that is ignored, beside all that are no class.
        class_weights: 0 or more; 1 if None.
        pixel_weights: 0 or more; 1 if None.

    Returns:
        In nats; 0 where nothing counts.

    Raises:
        ValueError: the shapes of labels and logits disagree.
    """
    x = _pixels(logits, labels, ignore_label, class_weights, pixel_weights)
    share = x.target * x.weights[..., None] * x.class_weights[None, None, None]
    surprise = jax.nn.logsumexp(x.logits, axis=-1, keepdims=True) - x.logits
    # A class of probability 0 may have the logit -inf.
    terms = jnp.where(x.target > 0, share * jnp.where(x.target > 0, surprise, 0), 0)
    return _ratio(jnp.sum(terms, axis=(1, 2, 3)), jnp.sum(share, axis=(1, 2, 3)))


def _ratio(part: Float[Array, " b"], whole: Float[Array, " b"]) -> Float[Array, " b"]:
    """The quotient; 0, without gradient, where the whole is 0."""
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0)
