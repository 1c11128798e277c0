"""The losses of Mask R-CNN: of drawn candidates, of their boxes, and of masks inside of boxes.

Each divides by a number of candidates, and which one it is differs (He et al., ICCV 2017; Ren et
al., NIPS 2015). What is divided by stands with each loss. All give one value per example, where
the implementations that circulate mean over all candidates of a batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxseg.losses._pixels import _ratio
from jaxseg.ops.color import at_least_float32


def sampled_binary_cross_entropy(
    logits: Float[Array, "b s"],
    labels: Int[Array, "b s"],
    *,
    num_samples: int | None = None,
) -> Float[Array, " b"]:
    """Σ of the binary cross-entropy over the candidates that were drawn, divided by their number.

    Args:
        logits: of an object being there.
        labels: 1 an object, 0 none; a candidate of another label does not count, whatever its
            logit is.
        num_samples: what is divided by; None: how many of the example's candidates count. The
            region proposal network divides by how many it would draw, 256, even if there are less.

    Returns:
        In nats; 0 where nothing counts.

    Raises:
        ValueError: the shapes disagree, or `num_samples` is below 1.
    """
    if labels.shape != logits.shape:
        raise ValueError(f"labels of shape {labels.shape}: expected {logits.shape}")
    counts = (labels == 0) | (labels == 1)
    logits = jnp.where(counts, at_least_float32(logits), 0)
    surprise = _surprise(logits, (labels == 1).astype(logits.dtype))
    return _over(jnp.where(counts, surprise, 0), counts, num_samples)


def box_regression(
    deltas: Float[Array, "b s 4"],
    targets: Float[Array, "b s 4"],
    labels: Int[Array, "b s"],
    *,
    num_samples: int | None = None,
    beta: float | Float[Array, ""] = 0.0,
) -> Float[Array, " b"]:
    """Σ |δ - δ*| over the candidates that stand for an object, divided by how many were drawn.

    The sum is over all four numbers; background has no box, but is among those that were drawn.

    With `beta` above 0 the absolute value is smooth (Girshick, ICCV 2015, where it is 1): d²/(2β)
    below β, |d| - β/2 from there on. Detectron2 has 0.

    Args:
        deltas: as in `ops.boxes.encode_boxes`.
        targets: what they should be.
        labels: 1 an object, 0 background, another one of what was not drawn. Only what is told of
            objects matters.
        num_samples: what is divided by; None: how many of the example's labels are 0 or 1. See
            `sampled_binary_cross_entropy`.
        beta: 0 or more.

    Returns:
        0 where there is no object.

    Raises:
        ValueError: the shapes disagree, `num_samples` is below 1, or `beta` below 0.
    """
    if not deltas.shape == targets.shape == (*labels.shape, 4):
        raise ValueError(
            f"deltas {deltas.shape}, targets {targets.shape}, labels {labels.shape}: expected "
            "[B, S, 4] twice, and [B, S]"
        )
    if isinstance(beta, int | float) and not beta >= 0:
        raise ValueError(f"beta={beta}: expected 0 or more")
    positive = (labels == 1)[:, :, None]
    off = at_least_float32(deltas) - at_least_float32(targets)
    size = jnp.abs(jnp.where(positive, off, 0))
    width = jnp.asarray(beta, size.dtype)
    near = size < width
    parabola = jnp.square(jnp.where(near, size, 0)) / (2 * jnp.where(width > 0, width, 1))
    distance = jnp.where(near, parabola, size - width / 2)
    distance = jnp.where(positive, distance, 0)
    return _over(jnp.sum(distance, axis=-1), (labels == 0) | (labels == 1), num_samples)


def mask_binary_cross_entropy(
    logits: Float[Array, "b r m m"], targets: Float[Array, "b r m m"], valid: Bool[Array, "b r"]
) -> Float[Array, " b"]:
    """The mean of the binary cross-entropy over the cells of the masks that count.

    Args:
        logits: of the mask of each box's class.
        targets: how much of each cell the object covers, 0..1; or 0 and 1.
        valid: which masks count, those of boxes that stand for an object; others do not, whatever
            they are.

    Returns:
        In nats; 0 where nothing counts. With targets inside of 0..1 it does not reach 0.

    Raises:
        ValueError: the shapes disagree.
    """
    if logits.shape != targets.shape or logits.shape[:2] != valid.shape:
        raise ValueError(
            f"logits {logits.shape}, targets {targets.shape}, valid {valid.shape}: expected "
            "[B, R, M, M] twice, and [B, R]"
        )
    there = valid[:, :, None, None]
    logits = jnp.where(there, at_least_float32(logits), 0)
    targets = jnp.where(there, targets.astype(logits.dtype), 0)
    cells = jnp.mean(_surprise(logits, targets), axis=(2, 3))
    return _over(jnp.where(valid, cells, 0), valid, None)


def _surprise(logits: Float[Array, "..."], targets: Float[Array, "..."]) -> Float[Array, "..."]:
    """-t·log σ(x) - (1 - t)·log(1 - σ(x))."""
    return jax.nn.softplus(logits) - targets * logits


def _over(
    terms: Float[Array, "b s"], counts: Bool[Array, "b s"], number: int | None
) -> Float[Array, " b"]:
    if number is not None and number < 1:
        raise ValueError(f"num_samples={number}: expected 1 or more")
    total = jnp.sum(terms, axis=1)
    if number is not None:
        return total / number
    return _ratio(total, jnp.sum(counts, axis=1).astype(total.dtype))
