"""Supervised semantic segmentation: a network, a loss over its logits, a class for every pixel."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import losses
from jaxseg.methods.ssn import input_features
from jaxseg.methods.tasks import classes, classes_at, resized, working_size
from jaxseg.models.pspnet import WithAuxiliary
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
    if stride < 1:
        raise ValueError(f"stride={stride}: expected 1 or more")
    task = classes(num_classes, loss=loss, class_weights=class_weights)
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
        weight = batch["weight"]
        keys = (jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"]),) if dropout else ()
        maps, model_state = logits_of(
            {"params": params, "batch_stats": model_state},
            jax.vmap(to_float)(batch["image"]),
            *keys,
            train=True,
            mask=weight > 0,
            axis_name=axis_name,
        )
        with jax.named_scope("loss"):
            value, measured = task.loss(maps[0], batch)
            for auxiliary in maps[1:]:
                value += auxiliary_weight * task.loss(auxiliary, batch)[0]
        return value, LossOutput(model_state, weight, measured)

    def predict(params: PyTree, model_state: PyTree, batch: Batch, /) -> Prediction:
        image = jax.vmap(to_float)(batch["image"])
        own = (image.shape[1], image.shape[2])
        at = working_size(own, own if size is None else size, scale)
        (logits,), _ = logits_of(
            {"params": params, "batch_stats": model_state},
            resized(image, at),
            mask=batch["weight"] > 0 if "weight" in batch else None,
        )
        return classes_at(logits.astype(image.dtype), own, probabilities=probabilities)

    return Method(init, evaluate_loss, predict)


def superpixel_guide(num_superpixels: int) -> Guide:
    """Scaled position and CIE Lab colour, as SSN clusters them at this number of superpixels."""

    def guide(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 5"]:
        grid = grid_shape(image.shape[1], image.shape[2], num_superpixels)
        return input_features(image, grid)

    return guide
