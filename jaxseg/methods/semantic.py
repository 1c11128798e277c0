"""Supervised semantic segmentation: a network, a loss over its logits, a class for every pixel."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxseg import losses
from jaxseg.methods.ssn import input_features
from jaxseg.models.pspnet import WithAuxiliary
from jaxseg.ops.color import to_float
from jaxseg.ops.slic import grid_shape
from jaxseg.types import Batch, LossOutput, Method, Network, Prediction, PyTree

_AT_ONCE = 1 << 26
"""Numbers of logits that a prediction may hold at the size of the image."""

Guide = Callable[[Array], Array]
"""RGB `[B, H, W, 3]` in [0, 1] -> what a network with superpixels clusters, `[B, H, W, K]`."""


def method(
    network: Network,
    *,
    num_classes: int,
    stride: int = 1,
    loss: Callable[..., Array] = losses.cross_entropy,
    class_weights: Sequence[float] | None = None,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
    guide: Guide | None = None,
    dropout: bool = False,
    auxiliary_weight: float = 0.4,
    size: tuple[int, int] | None = None,
    scale: float = 1.0,
    probabilities: bool = False,
) -> Method:
    """Supervised semantic segmentation as a `Method`.

    Batches need `image`; the loss also `label` `[B, H, W]`, and takes `pixel_weight` `[B, H, W]`
    where there is one. The loss's metrics hold `accuracy`, the part of each example's labelled
    pixels that are right.

    The prediction is {"classes": `[B, H, W]` int32, "confidence": `[B, H, W]` float32, the
    probability of that class}, and "probabilities" `[B, H, W, num_classes]` on request. Images are
    of any size: they are continued by their mirror image, below and on the right, to a multiple of
    `stride`, and the logits are cropped back.

    Args:
        network: normalised image -> logits `[B, H, W, num_classes]` of the image's size; in
            training also `models.pspnet.WithAuxiliary`.
        num_classes: labels are 0 .. num_classes - 1; others are ignored.
        stride: what the network needs the sides to be multiples of.
        loss: `(logits, labels, *, class_weights) -> [B]`, such as those of `jaxseg.losses`; also
            takes `pixel_weights` where batches hold them.
        class_weights: one per class; None: all 1.
        mean: the network sees (image - mean) / std, of an image in [0, 1]; one number, or one for
            each channel.
        std: see `mean`.
        guide: for a network with superpixels: makes its second input, see `superpixel_guide`.
        dropout: whether the network takes a random key of each example `[B]` as its last input in
            training.
        auxiliary_weight: of the loss of an auxiliary head (0.4 in PSPNet).
        size: height and width whose area the network works at when it predicts: an image is
            resized to it, its proportions kept, and the logits back; None: the image's own.
        scale: factor on the height and width that the network works at when it predicts.
        probabilities: whether the prediction holds the probability of every class.

    Raises:
        ValueError: an option is out of range; when traced: the network's output has another shape.
    """
    if num_classes < 1 or stride < 1:
        raise ValueError(f"num_classes={num_classes}, stride={stride}: expected 1 or more")
    if class_weights is not None and len(class_weights) != num_classes:
        raise ValueError(f"{len(class_weights)} class_weights for {num_classes} classes")
    if size is not None and min(size) < 1:
        raise ValueError(f"size={size}: expected 1 or more each")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale={scale}: expected a positive finite number")

    def inputs(image: Array) -> tuple[Array, ...]:
        height, width = image.shape[1:3]
        rest = [(0, -height % stride), (0, -width % stride)]
        image = jnp.pad(image, ((0, 0), *rest, (0, 0)), mode="symmetric")
        shift, scale = (
            jnp.broadcast_to(jnp.asarray(x, image.dtype), image.shape[-1:]) for x in (mean, std)
        )
        normal = (image - shift[None, None, None]) / scale[None, None, None]
        return (normal,) if guide is None else (normal, guide(image))

    def logits_of(
        variables: Any, image: Array, *keys: Array, **options: Any
    ) -> tuple[tuple[Array, ...], PyTree]:
        """The logits, and those of an auxiliary head."""
        with jax.named_scope("network"):
            given = inputs(image)
            outputs, model_state = network.apply(variables, *given, *keys, **options)
        maps = tuple(outputs) if isinstance(outputs, WithAuxiliary) else (outputs,)
        expected = (*given[0].shape[:3], num_classes)
        for logits in maps:
            if logits.shape != expected:
                raise ValueError(f"the network gives {logits.shape}: expected {expected}")
        return tuple(m[:, : image.shape[1], : image.shape[2]] for m in maps), model_state

    def init(key: Array, batch: Batch, /) -> tuple[PyTree, PyTree]:
        # The values must not matter, and constants cost nothing.
        image = jnp.zeros(batch["image"].shape, jnp.float32)
        # Without keys: dropout has no variables.
        variables = network.init(key, *inputs(image))
        return variables["params"], variables["batch_stats"]

    def evaluate_loss(
        params: PyTree,
        model_state: PyTree,
        batch: Batch,
        key: Array,
        /,
        *,
        axis_name: str | None = None,
    ) -> tuple[Array, LossOutput]:
        weight, label = batch["weight"], batch["label"]
        keys = (jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"]),) if dropout else ()
        maps, model_state = logits_of(
            {"params": params, "batch_stats": model_state},
            jax.vmap(to_float)(batch["image"]),
            *keys,
            train=True,
            mask=weight > 0,
            axis_name=axis_name,
        )
        options: dict[str, Any] = {"class_weights": None}
        if class_weights is not None:
            options["class_weights"] = jnp.asarray(class_weights, jnp.float32)
        if "pixel_weight" in batch:
            options["pixel_weights"] = batch["pixel_weight"]
        with jax.named_scope("loss"):
            value = loss(maps[0], label, **options)
            for auxiliary in maps[1:]:
                value += auxiliary_weight * loss(auxiliary, label, **options)
        counts = (label >= 0) & (label < num_classes)
        right = counts & (jnp.argmax(maps[0], axis=-1) == label)
        labelled = jnp.maximum(jnp.sum(counts, axis=(1, 2)), 1)
        accuracy = jnp.sum(right, axis=(1, 2)) / labelled
        return value, LossOutput(model_state, weight, {"accuracy": accuracy})

    def predict(params: PyTree, model_state: PyTree, batch: Batch, /) -> Prediction:
        image = jax.vmap(to_float)(batch["image"])
        own = (image.shape[1], image.shape[2])
        at = working_size(own, own if size is None else size, scale)
        (logits,), _ = logits_of(
            {"params": params, "batch_stats": model_state},
            _resized(image, at),
            mask=batch["weight"] > 0 if "weight" in batch else None,
        )
        logits = logits.astype(image.dtype)
        if not probabilities and own[0] > at[0] and math.prod(own) * num_classes > _AT_ONCE:
            return _by_bands(logits, own)
        logits = _resized(logits, own)
        prediction = _most_probable(logits)
        if probabilities:
            prediction["probabilities"] = jax.nn.softmax(logits, axis=-1)
        return prediction

    return Method(init, evaluate_loss, predict)


def working_size(
    image: tuple[int, int], area: tuple[int, int], scale: float = 1.0
) -> tuple[int, int]:
    """Height and width in the proportions of the image, of scale² times the pixels of `area`."""
    factor = scale * math.sqrt(area[0] * area[1] / (image[0] * image[1]))
    return max(round(image[0] * factor), 1), max(round(image[1] * factor), 1)


def _resized(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b oh ow c"]:
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
    wide = _resized(logits, (rows, size[1]))
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


def superpixel_guide(num_superpixels: int) -> Guide:
    """Scaled position and CIE Lab colour, as SSN clusters them at this number of superpixels."""

    def guide(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 5"]:
        grid = grid_shape(image.shape[1], image.shape[2], num_superpixels)
        return input_features(image, grid)

    return guide
