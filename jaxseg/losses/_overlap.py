"""Losses of how well predicted and true regions overlap: Dice, Jaccard, Tversky.

They compare the softmax probabilities q of each class with its target t over an example: with the
pixel weights w, TP = Σ w·q·t, FP = Σ w·q·(1 - t), FN = Σ w·(1 - q)·t. One minus an index of the
three is the loss of the class; an example has the mean over the classes, weighted by
`class_weights`. Ignored pixels, as `cross_entropy` defines them, are in no sum.

Which classes are in the mean: with `classes="present"` those of which the example holds a pixel,
because the index of an absent class is 0 whatever is predicted, without a gradient, if `smooth` is
0. With `classes="all"` and a `smooth` above 0 an absent class counts and is pushed towards an
empty prediction. Two classes of which the first is background are scored by the second alone with
`class_weights=(0, 1)`.

With soft labels the minimum is not at q = t: the indices reward whole decisions.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxseg.losses._pixels import _NOTHING, Classes, _class_mean, _pixels


def dice(
    logits: Float[Array, "b h w c"],
    labels: Integer[Array, "b h w"] | Float[Array, "b h w c"],
    *,
    smooth: float | Float[Array, ""] = 0.0,
    classes: Classes = "present",
    ignore_label: int = -1,
    class_weights: Float[Array, " c"] | None = None,
    pixel_weights: Float[Array, "b h w"] | None = None,
) -> Float[Array, " b"]:
    """Soft Dice loss: 1 - (2 Σ w·q·t + s) / (Σ w·q + Σ w·t + s), the mean over classes.

    Sums over an example, not squared (V-Net, Milletari et al., 3DV 2016, squares them in the
    denominator). Drozdzal et al. (DLMIA 2016) train residual U-Nets of two classes with
    `smooth=1.0, classes="all", class_weights=(0, 1)` on batches of one image; theirs is less by 1.

    Args:
        logits: unnormalised log-probabilities.
        labels: classes 0..C-1 of any integer type; or the probability of every class.
        smooth: s, 0 or more, in pixels (of weight 1).
        classes: in the mean, see the module: "present" or "all".
        ignore_label: one more label that is ignored, beside all that are no class.
        class_weights: in the mean over classes, 0 or more; 1 if None.
        pixel_weights: 0 or more; 1 if None.

    Returns:
        0..1; 0 where nothing counts.

    Raises:
        ValueError: the shapes of labels and logits disagree; `classes` is something else.
    """
    rest = (ignore_label, class_weights, pixel_weights)
    return _tversky(logits, labels, 0.5, 0.5, smooth / 2, classes, *rest)


def jaccard(
    logits: Float[Array, "b h w c"],
    labels: Integer[Array, "b h w"] | Float[Array, "b h w c"],
    *,
    smooth: float | Float[Array, ""] = 0.0,
    classes: Classes = "present",
    ignore_label: int = -1,
    class_weights: Float[Array, " c"] | None = None,
    pixel_weights: Float[Array, "b h w"] | None = None,
) -> Float[Array, " b"]:
    """Soft Jaccard loss: 1 - (TP + s) / (TP + FP + FN + s), the mean over classes.

    One minus the intersection over union where the probabilities are 0 or 1 (Rahman and Wang, ISVC
    2016). `lovasz` is another continuation of the same measure.

    Args:
        logits: as for `dice`.
        labels: as for `dice`.
        smooth: s, 0 or more, in pixels (of weight 1).
        classes: in the mean, see the module: "present" or "all".
        ignore_label: as for `dice`.
        class_weights: in the mean over classes, 0 or more; 1 if None.
        pixel_weights: 0 or more; 1 if None.

    Returns:
        0..1; 0 where nothing counts.

    Raises:
        ValueError: the shapes of labels and logits disagree; `classes` is something else.
    """
    rest = (ignore_label, class_weights, pixel_weights)
    return _tversky(logits, labels, 1.0, 1.0, smooth, classes, *rest)


def tversky(
    logits: Float[Array, "b h w c"],
    labels: Integer[Array, "b h w"] | Float[Array, "b h w c"],
    *,
    alpha: float | Float[Array, ""] = 0.3,
    beta: float | Float[Array, ""] = 0.7,
    smooth: float | Float[Array, ""] = 0.0,
    classes: Classes = "present",
    ignore_label: int = -1,
    class_weights: Float[Array, " c"] | None = None,
    pixel_weights: Float[Array, "b h w"] | None = None,
) -> Float[Array, " b"]:
    """Tversky loss: 1 - (TP + s) / (TP + α·FP + β·FN + s), the mean over classes.

    Salehi et al., MLMI 2017, whose best pair for small lesions is the default: what is missed costs
    more than what is invented. α = β = 1 is `jaccard`, α = β = 1/2 `dice` of twice the `smooth`.

    Args:
        logits: as for `dice`.
        labels: as for `dice`.
        alpha: α, the cost of false positives, above 0.
        beta: β, the cost of false negatives, above 0.
        smooth: s, 0 or more, in pixels (of weight 1).
        classes: in the mean, see the module: "present" or "all".
        ignore_label: as for `dice`.
        class_weights: in the mean over classes, 0 or more; 1 if None.
        pixel_weights: 0 or more; 1 if None.

    Returns:
        0..1; 0 where nothing counts.

    Raises:
        ValueError: the shapes of labels and logits disagree; `classes` is something else.
    """
    rest = (ignore_label, class_weights, pixel_weights)
    return _tversky(logits, labels, alpha, beta, smooth, classes, *rest)


def _tversky(logits, labels, alpha, beta, smooth, classes, *rest):
    x = _pixels(logits, labels, *rest)
    alpha, beta, smooth = (jnp.asarray(v, x.logits.dtype) for v in (alpha, beta, smooth))
    q, w = jax.nn.softmax(x.logits, axis=-1), x.weights[..., None]
    hit = jnp.sum(w * q * x.target, axis=(1, 2))
    invented = jnp.sum(w * q * (1 - x.target), axis=(1, 2))
    missed = jnp.sum(w * (1 - q) * x.target, axis=(1, 2))
    whole = hit + alpha * invented + beta * missed + smooth
    some = whole > _NOTHING
    # One quotient, as one minus the index would lose the digits of a good prediction.
    losses = jnp.where(
        some, (alpha * invented + beta * missed) / jnp.where(some, whole, 1), jnp.zeros_like(whole)
    )
    mass = jnp.sum(w * x.target, axis=(1, 2))
    return _class_mean(losses, mass, x.class_weights, classes)
