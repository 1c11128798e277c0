"""Labels for a network of IIC."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import losses
from jaxseg.methods._iic_views import Inputs, head_of, initial, logits_of
from jaxseg.methods._padding import inside
from jaxseg.models.iic import upsample_probabilities
from jaxseg.types import Batch, LossOutput, Method, Network, Prediction, PyTree


def fine_tuning(
    network: Network,
    *,
    head: str = "labels",
    inputs: Inputs = "image",
    class_weights: Sequence[float] | None = None,
    faithful: bool = False,
) -> Method:
    """Supervised training of one head, over the tree of `clustering` or `segmentation`.

    The loss is the cross-entropy with `label`, `[B]` of images or `[B, H, W]` of pixels, -1 for
    none, averaged over the sub-heads; its metric `accuracy`, of their mean probability. The
    prediction, from that mean too: {"clusters": `[B]`, "probabilities": `[B, 1, K]`} of images,
    {"classes", "confidence": `[B, H, W]`} of pixels.

    Args:
        network: of `models.iic`, such as one with the heads {"main": 10, "labels": 10}.
        head: that is trained and predicts.
        inputs: what the network is given, see `network_inputs`.
        class_weights: of the loss; None: all 1.
        faithful: as `net10a`'s.

    Raises:
        ValueError: when traced: the network has no such head.
    """

    def mean_chances(
        variables: Any, images: Array, **options: Any
    ) -> tuple[Float[Array, "b h w k"], PyTree]:
        """Of images as of maps of one pixel."""
        logits, stats = logits_of(network, variables, images, inputs, **options)
        chances = jax.nn.softmax(head_of(logits, head), axis=-1)
        if chances.ndim == 3:
            return jnp.mean(chances, axis=1)[:, None, None], stats
        whole = upsample_probabilities(
            chances, (images.shape[1], images.shape[2]), faithful=faithful
        )
        return jnp.mean(whole, axis=3), stats

    def loss(
        params: PyTree,
        model_state: PyTree,
        batch: Batch,
        key: Array,
        /,
        *,
        axis_name: str | None = None,
    ) -> tuple[Array, LossOutput]:
        weight = batch["weight"]
        chances, stats = mean_chances(
            {"params": params, "batch_stats": model_state["batch_stats"]},
            batch["image"],
            train=True,
            mask=weight > 0,
            axis_name=axis_name,
        )
        label = batch["label"].reshape(chances.shape[:3])
        if label.shape[1:3] != (1, 1):
            label = jnp.where(inside(batch["size"], label.shape[1:3]), label, -1)
        # Logarithms of probabilities are logits of these.
        logits = jnp.log(jnp.maximum(chances, jnp.finfo(chances.dtype).tiny))
        weights = None if class_weights is None else jnp.asarray(class_weights, logits.dtype)
        value = losses.cross_entropy(logits, label, class_weights=weights)
        known = label >= 0
        right = jnp.sum((jnp.argmax(chances, axis=-1) == label) & known, axis=(1, 2))
        metrics = {"accuracy": right / jnp.maximum(jnp.sum(known, axis=(1, 2)), 1)}
        return value, LossOutput({**model_state, "batch_stats": stats}, weight, metrics)

    def predict(params: PyTree, model_state: PyTree, batch: Batch, /) -> Prediction:
        variables = {"params": params, "batch_stats": model_state["batch_stats"]}
        mask = batch["weight"] > 0 if "weight" in batch else None
        chances, _ = mean_chances(variables, batch["image"], mask=mask)
        found = jnp.argmax(chances, axis=-1).astype(jnp.int32)
        if chances.shape[1:3] == (1, 1):
            return {"clusters": found[:, 0, 0], "probabilities": chances[:, 0]}
        return {"classes": found, "confidence": jnp.max(chances, axis=-1)}

    return Method(initial(network, inputs, None), loss, predict)
