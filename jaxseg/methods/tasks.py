"""What a network's map is trained for and says: the part of a method that a task exchanges."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxseg import losses
from jaxseg.types import Batch, Prediction

_AT_ONCE = 1 << 26
"""Numbers of logits that a prediction may hold at the size of the image."""


class Task(NamedTuple):
    """A dense task: maps of `channels` channels, at the size of the image that batches hold."""

    channels: int
    """Of the network's output."""
    loss: Callable[[Float[Array, "b h w c"], Batch], tuple[Float[Array, " b"], Mapping[str, Array]]]
    """(the output, the batch) -> one value per example, and metrics `[B]` each."""
    predict: Callable[[Float[Array, "b h w c"], tuple[int, int]], Prediction]
    """(the output of any size, height and width of the image) -> what it says of the image."""


def classes(
    num_classes: int,
    *,
    loss: Callable[..., Array] = losses.cross_entropy,
    class_weights: Sequence[float] | None = None,
    probabilities: bool = False,
) -> Task:
    """A class for every pixel, from `label` `[B, H, W]`, and `pixel_weight` where batches hold it.

    The metrics hold `accuracy`, the part of each example's labelled pixels that are right. The
    prediction is that of `classes_at`.

    Args:
        num_classes: labels are 0 .. num_classes - 1; others are ignored.
        loss: `(logits, labels, *, class_weights) -> [B]`, such as those of `jaxseg.losses`; also
            takes `pixel_weights` where batches hold them.
        class_weights: one per class; None: all 1.
        probabilities: whether the prediction holds the probability of every class.

    Raises:
        ValueError: an option is out of range.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: expected 1 or more")
    if class_weights is not None and len(class_weights) != num_classes:
        raise ValueError(f"{len(class_weights)} class_weights for {num_classes} classes")

    def evaluate(
        logits: Float[Array, "b h w c"], batch: Batch
    ) -> tuple[Float[Array, " b"], Mapping[str, Array]]:
        label = batch["label"]
        options: dict[str, Any] = {"class_weights": None}
        if class_weights is not None:
            options["class_weights"] = jnp.asarray(class_weights, jnp.float32)
        if "pixel_weight" in batch:
            options["pixel_weights"] = batch["pixel_weight"]
        counts = (label >= 0) & (label < num_classes)
        right = counts & (jnp.argmax(logits, axis=-1) == label)
        labelled = jnp.maximum(jnp.sum(counts, axis=(1, 2)), 1)
        accuracy = jnp.sum(right, axis=(1, 2)) / labelled
        return loss(logits, label, **options), {"accuracy": accuracy}

    def predict(logits: Float[Array, "b h w c"], size: tuple[int, int]) -> Prediction:
        return classes_at(logits, size, probabilities=probabilities)

    return Task(num_classes, evaluate, predict)


def classes_at(
    logits: Float[Array, "b h w c"], size: tuple[int, int], *, probabilities: bool = False
) -> dict[str, Array]:
    """The most probable classes at a size, to which the logits are brought bilinearly.

    {"classes": `[B, height, width]` int32, "confidence": the probability of each, float32}, and
    "probabilities" `[B, height, width, C]` on request. Large maps of classes are made by bands of
    rows, so that the logits never exist at the size as a whole.

    Args:
        logits: of any size.
        size: height and width.
        probabilities: see above.
    """
    large = size[0] > logits.shape[1] and math.prod(size) * logits.shape[-1] > _AT_ONCE
    if large and not probabilities:
        return _by_bands(logits, size)
    logits = resized(logits, size)
    prediction = _most_probable(logits)
    if probabilities:
        prediction["probabilities"] = jax.nn.softmax(logits, axis=-1)
    return prediction


def working_size(
    image: tuple[int, int], area: tuple[int, int], scale: float = 1.0
) -> tuple[int, int]:
    """Height and width in the proportions of the image, of scale² times the pixels of `area`."""
    if area is image and scale == 1:
        # Sides may be symbols here, in a program that is exported for any size.
        return image
    factor = scale * math.sqrt(area[0] * area[1] / (image[0] * image[1]))
    return max(round(image[0] * factor), 1), max(round(image[1] * factor), 1)


def resized(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b oh ow c"]:
    """Bilinear, averaged over the pixels that fall into one where it shrinks."""
    if x.shape[1:3] == size:
        return x
    shape = (x.shape[0], *size, x.shape[-1])
    return jax.image.resize(x, shape, "linear", precision=jax.lax.Precision.HIGHEST)


def _most_probable(logits: Float[Array, "b h w c"]) -> dict[str, Array]:
    return {
        "classes": jnp.argmax(logits, axis=-1).astype(jnp.int32),
        "confidence": jnp.exp(jnp.max(jax.nn.log_softmax(logits, axis=-1), axis=-1)),
    }


def _by_bands(logits: Float[Array, "b h w c"], size: tuple[int, int]) -> dict[str, Array]:
    """`_most_probable` of larger logits, which never exist as a whole."""
    batch, rows, _, classes = logits.shape
    wide = resized(logits, (rows, size[1]))
    band = max(_AT_ONCE // (8 * size[1] * classes), 1)
    count = -(-size[0] // band)
    place = np.clip((np.arange(count * band) + 0.5) * rows / size[0] - 0.5, 0, rows - 1)
    above = np.minimum(place.astype(np.int32), max(rows - 2, 0))
    share = (place - above).astype(np.float32)

    def one(of_band: tuple[Array, Array]) -> dict[str, Array]:
        first, between = of_band
        upper = jnp.take(wide, first, axis=1)
        lower = jnp.take(wide, jnp.minimum(first + 1, rows - 1), axis=1)
        between = between.astype(wide.dtype)[None, :, None, None]
        return _most_probable(upper + (lower - upper) * between)

    parts = jax.lax.map(one, (above.reshape(count, band), share.reshape(count, band)))
    return {
        name: jnp.moveaxis(x, 0, 1).reshape(batch, count * band, size[1])[:, : size[0]]
        for name, x in parts.items()
    }
