"""IIC of whole images."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import losses
from jaxseg.methods._iic_views import (
    Inputs,
    flat,
    head_of,
    initial,
    logits_of,
    shares,
    told,
)
from jaxseg.methods.tasks import resized
from jaxseg.ops.color import to_float
from jaxseg.types import Batch, LossOutput, Method, Network, Prediction, PyTree


def clustering(
    network: Network,
    *,
    head: str = "main",
    predicts: str = "main",
    lamb: float = 1.0,
    inputs: Inputs = "image",
    size: tuple[int, int] | None = None,
    centre: float = 1.0,
) -> Method:
    """Classes of whole images, by one head of a network of `models.iic`.

    The loss needs `image` `[B, H, W, C]`, the first view, and `views` `[B, R, H, W, C]`, others of
    the same images: each is paired with the first, which goes through the network once. Its value
    is the mean over the sub-heads, a scalar that couples the batch. Its metrics, scalars:
    `information` and `entropy`, means over the sub-heads in nats; `best_information`, of the
    largest; `smallest` and `largest`, the parts of the images in the smallest and the largest
    cluster of that sub-head.

    The prediction is {"clusters": `[B]` int32, of the sub-head of largest running information;
    "sub_heads": `[B, S]`, of each; "probabilities": `[B, S, K]`}, and, where the batch has `views`,
    "view_probabilities" `[B, R, S, K]`.

    Args:
        network: gives {name: logits `[B, S, K]`}.
        head: that is trained.
        predicts: the head that predicts, whichever is trained.
        lamb: weight of the entropy, see `losses.mutual_information`.
        inputs: what the network is given, see `network_inputs`.
        size: height and width that the network is trained at; images are resized to it to be
            predicted. None: they are left.
        centre: part of each side that is kept before that, about the middle. Both concern whole
            images: a batch with `views` holds views alone, which are taken as they are.

    Raises:
        ValueError: an option is out of range; when traced: the network has no such head.
    """
    if not 0 < centre <= 1:
        raise ValueError(f"centre={centre}: expected above 0, up to 1")
    if not 0 <= lamb < math.inf:
        raise ValueError(f"lamb={lamb}: expected 0 or more")

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
        mask = weight > 0
        repeats = batch["views"].shape[1]
        stats = model_state["batch_stats"]
        found = []
        # One after the other: batch norm has statistics of each.
        for images, of in (
            (batch["image"], mask),
            (flat(batch["views"]), jnp.repeat(mask, repeats)),
        ):
            logits, stats = logits_of(
                network,
                {"params": params, "batch_stats": stats},
                images,
                inputs,
                train=True,
                mask=of,
                axis_name=axis_name,
            )
            found.append(jax.nn.softmax(head_of(logits, head), axis=-1))
        x, y = found
        # The joint is linear in each of its sides.
        y = jnp.mean(y.reshape(-1, repeats, *y.shape[1:]), axis=1)
        x, y = jnp.swapaxes(x, 0, 1), jnp.swapaxes(y, 0, 1)

        def of_sub_head(x: Array, y: Array) -> Array:
            return losses.mutual_information(x, y, lamb=lamb, weight=weight, axis_name=axis_name)

        with jax.named_scope("mutual_information"):
            values = jax.vmap(of_sub_head)(x, y)
        marginal, sizes = shares(x, y, weight[None, :], axis_name)
        new_state, metrics = told(model_state, head, stats, values, lamb, marginal, sizes)
        return jnp.mean(values), LossOutput(new_state, None, metrics)

    def predict(params: PyTree, model_state: PyTree, batch: Batch, /) -> Prediction:
        variables = {"params": params, "batch_stats": model_state["batch_stats"]}

        mask = batch["weight"] > 0 if "weight" in batch else None

        def of(images: Array, mask: Array | None) -> Array:
            logits, _ = logits_of(network, variables, images, inputs, mask=mask)
            return jax.nn.softmax(head_of(logits, predicts), axis=-1)

        image = batch["image"]
        if "views" not in batch:
            image = _at_size(jax.vmap(to_float)(image), size, centre)
        chances = of(image, mask)
        each = jnp.argmax(chances, axis=-1).astype(jnp.int32)
        best = jnp.argmax(model_state["information"][predicts])
        prediction = {
            "clusters": jnp.take(each, best, axis=1),
            "sub_heads": each,
            "probabilities": chances,
        }
        if "views" in batch:
            views = batch["views"]
            seen = of(flat(views), None if mask is None else jnp.repeat(mask, views.shape[1]))
            prediction["view_probabilities"] = seen.reshape(*views.shape[:2], *seen.shape[1:])
        return prediction

    return Method(initial(network, inputs, size), loss, predict)


def _at_size(
    images: Float[Array, "b h w c"], size: tuple[int, int] | None, centre: float
) -> Float[Array, "b oh ow c"]:
    if size is None:
        return images
    kept = [max(round(n * centre), 1) for n in images.shape[1:3]]
    first = [(n - k) // 2 for n, k in zip(images.shape[1:3], kept, strict=True)]
    middle = images[:, first[0] : first[0] + kept[0], first[1] : first[1] + kept[1]]
    return resized(middle, size)
