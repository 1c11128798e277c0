"""Supervised semantic segmentation: a network, a loss over its logits, a class for every pixel."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import losses
from jaxseg.methods.ssn import input_features
from jaxseg.ops.color import to_float
from jaxseg.ops.slic import grid_shape
from jaxseg.types import Batch, LossOutput, Method, Network, Prediction, PyTree

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
) -> Method:
    """Supervised semantic segmentation as a `Method`.

    Batches need `image`; the loss also `label` `[B, H, W]`. The prediction is
    {"classes": `[B, H, W]` int32}. Images of any size: they are continued by their mirror image,
    below and on the right, to a multiple of `stride`, and the logits are cropped back. The loss's
    metrics hold `accuracy`, the part of each example's labelled pixels that are right.

    Args:
        network: normalised image -> logits `[B, H, W, num_classes]` of the image's size.
        num_classes: labels are 0 .. num_classes - 1; others are ignored.
        stride: what the network needs the sides to be multiples of.
        loss: `(logits, labels, *, class_weights) -> [B]`, such as those of `jaxseg.losses`.
        class_weights: one per class; None: all 1.
        mean: the network sees (image - mean) / std, of an image in [0, 1]; one number, or one for
            each channel.
        std: see `mean`.
        guide: for a network with superpixels: makes its second input, see `superpixel_guide`.

    Raises:
        ValueError: an option is out of range; when traced: the network's output has another shape.
    """
    if num_classes < 1 or stride < 1:
        raise ValueError(f"num_classes={num_classes}, stride={stride}: expected 1 or more")
    if class_weights is not None and len(class_weights) != num_classes:
        raise ValueError(f"{len(class_weights)} class_weights for {num_classes} classes")

    def inputs(image: Array) -> tuple[Array, ...]:
        image = jax.vmap(to_float)(image)
        height, width = image.shape[1:3]
        rest = [(0, -height % stride), (0, -width % stride)]
        image = jnp.pad(image, ((0, 0), *rest, (0, 0)), mode="symmetric")
        shift, scale = (
            jnp.broadcast_to(jnp.asarray(x, image.dtype), image.shape[-1:]) for x in (mean, std)
        )
        normal = (image - shift[None, None, None]) / scale[None, None, None]
        return (normal,) if guide is None else (normal, guide(image))

    def logits_of(variables: Any, image: Array, **options: Any) -> tuple[Array, PyTree]:
        with jax.named_scope("network"):
            given = inputs(image)
            logits, model_state = network.apply(variables, *given, **options)
        expected = (*given[0].shape[:3], num_classes)
        if logits.shape != expected:
            raise ValueError(f"the network gives {logits.shape}: expected {expected}")
        return logits[:, : image.shape[1], : image.shape[2]], model_state

    def init(key: Array, batch: Batch, /) -> tuple[PyTree, PyTree]:
        # The values must not matter, and constants cost nothing.
        image = jnp.zeros(batch["image"].shape, jnp.float32)
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
        logits, model_state = logits_of(
            {"params": params, "batch_stats": model_state},
            batch["image"],
            train=True,
            mask=weight > 0,
            axis_name=axis_name,
        )
        weights = None if class_weights is None else jnp.asarray(class_weights, jnp.float32)
        with jax.named_scope("loss"):
            value = loss(logits, label, class_weights=weights)
        counts = (label >= 0) & (label < num_classes)
        right = counts & (jnp.argmax(logits, axis=-1) == label)
        labelled = jnp.maximum(jnp.sum(counts, axis=(1, 2)), 1)
        accuracy = jnp.sum(right, axis=(1, 2)) / labelled
        return value, LossOutput(model_state, weight, {"accuracy": accuracy})

    def predict(params: PyTree, model_state: PyTree, batch: Batch, /) -> Prediction:
        variables = {"params": params, "batch_stats": model_state}
        logits, _ = logits_of(variables, batch["image"])
        return {"classes": jnp.argmax(logits, axis=-1).astype(jnp.int32)}

    return Method(init, evaluate_loss, predict)


def superpixel_guide(num_superpixels: int) -> Guide:
    """Scaled position and CIE Lab colour, as SSN clusters them at this number of superpixels."""

    def guide(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 5"]:
        grid = grid_shape(image.shape[1], image.shape[2], num_superpixels)
        return input_features(image, grid)

    return guide
