"""The losses of supervised semantic segmentation that judge each pixel by itself.

All take logits `[B, H, W, C]` with labels `[B, H, W]`, or with the probability of every class
`[B, H, W, C]`, and give one value per example. A pixel is ignored where its label is
`ignore_label` or no class, or where its probabilities are all 0 or hold a NaN: whatever its logits
are, infinite or NaN too, they change neither the loss nor the gradient.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxseg.losses._pixels import _Pixels, _pixels, _ratio


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
    return _mean(_surprise(x), _share(x))


def focal(
    logits: Float[Array, "b h w c"],
    labels: Integer[Array, "b h w"] | Float[Array, "b h w c"],
    *,
    gamma: float | Float[Array, ""] = 2.0,
    ignore_label: int = -1,
    class_weights: Float[Array, " c"] | None = None,
    pixel_weights: Float[Array, "b h w"] | None = None,
) -> Float[Array, " b"]:
    """Cross-entropy in which a pixel counts the less the surer it is: -(1 - q)^γ·log q.

    q is the probability of the pixel's label (Lin et al., ICCV 2017, eq. 4; their α of eq. 5 is
    `class_weights`). With probabilities p the terms -p_c·(1 - q_c)^γ·log q_c are summed over the
    classes. The mean is that of `cross_entropy`, over the weights and not over (1 - q)^γ too; the
    paper divides by the number of anchors that are an object.

    Args:
        logits: as for `cross_entropy`.
        labels: as for `cross_entropy`.
        gamma: γ, 0 or more; 0 gives `cross_entropy`.
        ignore_label: as for `cross_entropy`.
        class_weights: 0 or more; 1 if None.
        pixel_weights: 0 or more; 1 if None.

    Returns:
        In nats; 0 where nothing counts.

    Raises:
        ValueError: the shapes of labels and logits disagree.
    """
    x = _pixels(logits, labels, ignore_label, class_weights, pixel_weights)
    surprise = _surprise(x)
    doubt = -jnp.expm1(-surprise)
    # Where the doubt is 0 the term is 0 with all its derivatives, but a power below 1 has none.
    doubtful = doubt > 0
    factor = jnp.exp(jnp.asarray(gamma, doubt.dtype) * jnp.log(jnp.where(doubtful, doubt, 1)))
    return _mean(jnp.where(doubtful, factor * surprise, 0), _share(x))


def ohem_cross_entropy(
    logits: Float[Array, "b h w c"],
    labels: Integer[Array, "b h w"] | Float[Array, "b h w c"],
    *,
    threshold: float | Float[Array, ""] = 0.7,
    min_kept: float | Float[Array, ""] = 1 / 16,
    ignore_label: int = -1,
    class_weights: Float[Array, " c"] | None = None,
    pixel_weights: Float[Array, "b h w"] | None = None,
) -> Float[Array, " b"]:
    """Cross-entropy of the hardest pixels of each example: online hard example mining.

    Kept are the pixels whose label has a probability below `threshold`, and the hardest of the
    others if these are fewer than the fraction `min_kept`. So `threshold=0.0` keeps that fraction
    alone, `min_kept=0.0` the pixels below the threshold alone, `min_kept=1.0` all, which is
    `cross_entropy`. Hardness is the cross-entropy without weights (with soft labels, exp(-ℓ) is
    compared with the threshold); pixels as hard as the last one kept are kept too.

    After Shrivastava et al., CVPR 2016, in the form that segmentation uses, where the threshold
    and a least number count over the batch; here over each example, as a loss gives one value per
    example.

    Args:
        logits: as for `cross_entropy`.
        labels: as for `cross_entropy`.
        threshold: probability, 0..1.
        min_kept: of the pixels whose weight is not 0, rounded up, 0..1.
        ignore_label: as for `cross_entropy`.
        class_weights: 0 or more; 1 if None. A class of weight 0 is ignored.
        pixel_weights: 0 or more; 1 if None.

    Returns:
        In nats; 0 where nothing counts.

    Raises:
        ValueError: the shapes of labels and logits disagree; a fraction is outside 0..1.
    """
    for name, value in (("threshold", threshold), ("min_kept", min_kept)):
        if isinstance(value, int | float) and not 0 <= value <= 1:
            raise ValueError(f"{name}={value}: expected 0 to 1")
    x = _pixels(logits, labels, ignore_label, class_weights, pixel_weights)
    share, surprise = _share(x), _surprise(x)
    counts = jnp.sum(share, axis=-1) > 0
    hardness = jnp.where(counts, jnp.sum(x.target * surprise, axis=-1), -jnp.inf)
    # Computed once: were it computed again for the comparison, a last bit could leave out the
    # very pixel that the sorting found.
    hardness = jax.lax.optimization_barrier(jax.lax.stop_gradient(hardness))
    flat = hardness.reshape(len(hardness), -1)
    number = jnp.sum(counts, axis=(1, 2)).astype(flat.dtype)
    # The product of a fraction such as 0.3 may come out just above the whole number it is meant as.
    least = jnp.ceil(jnp.asarray(min_kept, flat.dtype) * number * (1 - 1e-6)).astype(jnp.int32)
    place = flat.shape[1] - least
    here = jnp.arange(flat.shape[1], dtype=jnp.int32)[None] == place[:, None]
    last = jnp.max(jnp.where(here, jnp.sort(flat, axis=1), -jnp.inf), axis=1)
    last = jnp.where(least > 0, last, jnp.inf)
    cut = jnp.minimum(last, -jnp.log(jnp.asarray(threshold, flat.dtype)))[:, None, None]
    kept = counts & ((hardness > cut) | (hardness == last[:, None, None]))
    return _mean(surprise, jnp.where(kept[..., None], share, 0))


def _surprise(x: _Pixels) -> Float[Array, "b h w c"]:
    """-log softmax(logits) of the classes that the target holds; 0 for the others."""
    surprise = jax.nn.logsumexp(x.logits, axis=-1, keepdims=True) - x.logits
    # A class of probability 0 may have the logit -inf.
    return jnp.where(x.target > 0, surprise, 0)


def _share(x: _Pixels) -> Float[Array, "b h w c"]:
    """The weight of each class at each pixel."""
    return x.target * x.weights[..., None] * x.class_weights[None, None, None]


def _mean(terms: Float[Array, "b h w c"], share: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    return _ratio(jnp.sum(share * terms, axis=(1, 2, 3)), jnp.sum(share, axis=(1, 2, 3)))
