"""IIC of pixels."""

import math
from typing import Any

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
    standardised,
    told,
)
from jaxseg.methods._padding import inside
from jaxseg.methods.tasks import resized, working_size
from jaxseg.models.iic import upsample_probabilities
from jaxseg.ops.augment import warp_affine
from jaxseg.ops.color import to_float
from jaxseg.types import Batch, LossOutput, Method, Network, Prediction, PyTree


def segmentation(
    network: Network,
    *,
    head: str = "main",
    predicts: str = "main",
    lamb: float = 1.0,
    displacement: int = 10,
    collapsed: bool = False,
    inputs: Inputs = "image+sobel",
    standardise: bool = False,
    masked: bool = False,
    faithful: bool = False,
    details: bool = False,
    probabilities: bool = False,
    size: tuple[int, int] | None = None,
    scale: float = 1.0,
) -> Method:
    """Classes of pixels, by one head of `models.iic.net10a`.

    The loss needs `image` `[B, H, W, C]`, `views` `[B, R, H, W, C]` and `affine` `[B, R, 2, 3]`,
    which brings the maps of a view back into the image's frame, as `losses.mutual_information_2d`
    takes it; without `affine` the views are in that frame. Padding beyond `size` does not count.
    Value and metrics are those of `clustering`, of pixels; entropy and clusters are those of the
    image, without its views, so that for λ other than 1 `information` is approximate.

    The prediction is {"classes": `[B, H, W]` int32, of the sub-head of largest running information,
    "confidence": `[B, H, W]`, its probability} for images of any size.

    Args:
        network: gives {name: logits `[B, H / 2, W / 2, S, K]`}.
        head: that is trained.
        predicts: the head that predicts, whichever is trained.
        lamb: weight of the entropy.
        displacement: T, of the pairs of pixels; at most the sides less 1.
        collapsed: whether all displacements have one joint.
        inputs: what the network is given, see `network_inputs`.
        standardise: whether each channel of each image and view is first brought to the same mean
            and deviation, see `standardised`; of a view all pixels count, those from beyond the
            image, too. Where exposure differs from image to image, clusters else tell dark images
            from bright ones. Deviation: the paper has only colour jitter.
        masked: whether pixels of `label` -1 do not count, as in the paper on COCO-Stuff: the
            classes are not seen, but which pixels have one is.
        faithful: as the network's.
        details: whether the prediction also holds "clusters", which are the classes, "sub_heads"
            `[B, S, H, W]` and, where the batch has `views`, "joint" `[B, S, K, K]`, the sum over
            pixels of the products of the probabilities in the image and in its views, warped back,
            "counts" `[B, S, K]`, pixels of each cluster, and "certainty" `[B, S]`, the sum of the
            largest probabilities.
        probabilities: whether it also holds "probabilities" `[B, H, W, K]`.
        size: height and width whose area the network works at when it predicts: an image is
            resized to it, its proportions kept, and the probabilities back; None: the image's own.
            Not with `details`.
        scale: factor on that height and width. Not with `details`.

    Raises:
        ValueError: an option is out of range; when traced: the network has no such head.
    """
    if displacement < 0:
        raise ValueError(f"displacement={displacement}: expected 0 or more")
    if not 0 <= lamb < math.inf:
        raise ValueError(f"lamb={lamb}: expected 0 or more")

    if details and (size is not None or scale != 1):
        raise ValueError(f"size={size}, scale={scale}: expected None and 1 with details")
    if size is not None and min(size) < 1:
        raise ValueError(f"size={size}: expected 1 or more each")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale={scale}: expected a positive finite number")

    def maps(
        variables: Any, images: Array, name: str, pixels: Array | None = None, **options: Any
    ) -> tuple[Float[Array, "b h w s k"], PyTree]:
        if standardise:
            images = standardised(jax.vmap(to_float)(images), pixels)
        logits, stats = logits_of(network, variables, images, inputs, **options)
        chances = jax.nn.softmax(head_of(logits, name), axis=-1)
        return upsample_probabilities(
            chances, (images.shape[1], images.shape[2]), faithful=faithful
        ), stats

    def own(batch: Batch) -> Array:
        return inside(batch["size"], batch["image"].shape[1:3])

    def counted(batch: Batch) -> Array:
        pixels = own(batch)
        return pixels & (batch["label"] >= 0) if masked else pixels

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
        repeats = batch["views"].shape[1]
        options: dict[str, Any] = {"train": True, "axis_name": axis_name}
        stats = model_state["batch_stats"]
        mask = weight > 0
        x, stats = maps(
            {"params": params, "batch_stats": stats},
            batch["image"],
            head,
            own(batch),
            mask=mask,
            **options,
        )
        mask = jnp.repeat(mask, repeats)
        y, stats = maps(
            {"params": params, "batch_stats": stats},
            flat(batch["views"]),
            head,
            mask=mask,
            **options,
        )
        pixels = jnp.repeat(counted(batch), repeats, axis=0)
        x, weights = jnp.repeat(x, repeats, axis=0), jnp.repeat(weight, repeats)
        x, y = jnp.moveaxis(x, -2, 0), jnp.moveaxis(y, -2, 0)
        affine = flat(batch["affine"]) if "affine" in batch else None

        def of_sub_head(pair: tuple[Array, Array]) -> Array:
            return losses.mutual_information_2d(
                *pair,
                mask=pixels,
                affine=affine,
                displacement=displacement,
                lamb=lamb,
                collapsed=collapsed,
                weight=weights,
                axis_name=axis_name,
            )

        with jax.named_scope("mutual_information"):
            values = jnp.stack([of_sub_head((x[s], y[s])) for s in range(x.shape[0])])
        each = (pixels * weights[:, None, None])[None]
        marginal, sizes = shares(x, x, each, axis_name)
        new_state, metrics = told(model_state, head, stats, values, lamb, marginal, sizes)
        return jnp.mean(values), LossOutput(new_state, None, metrics)

    def predict(params: PyTree, model_state: PyTree, batch: Batch, /) -> Prediction:
        variables = {"params": params, "batch_stats": model_state["batch_stats"]}
        mask = batch["weight"] > 0 if "weight" in batch else None
        image = jax.vmap(to_float)(batch["image"])
        whole = (image.shape[1], image.shape[2])
        work = working_size(whole, whole if size is None else size, scale)
        there = inside(batch["size"], whole, work) if "size" in batch else None
        chances, _ = maps(variables, resized(image, work), predicts, there, mask=mask)
        if work != whole:
            heads = chances.shape[3:]
            flat_chances = chances.reshape(*chances.shape[:3], -1)
            chances = resized(flat_chances, whole).reshape(-1, *whole, *heads)
        best = jnp.argmax(model_state["information"][predicts])
        chosen = jnp.take(chances, best, axis=3)
        classes = jnp.argmax(chosen, axis=-1).astype(jnp.int32)
        prediction = {"classes": classes, "confidence": jnp.max(chosen, axis=-1)}
        if probabilities:
            prediction["probabilities"] = chosen
        if not details:
            return prediction
        each = jnp.argmax(chances, axis=-1).astype(jnp.int32)
        prediction |= {"clusters": classes, "sub_heads": jnp.moveaxis(each, 3, 1)}
        if "views" not in batch:
            return prediction
        views = batch["views"]
        repeated = None if mask is None else jnp.repeat(mask, views.shape[1])
        seen, _ = maps(variables, flat(views), predicts, mask=repeated)
        if "affine" in batch:
            channels = seen.reshape(*seen.shape[:3], -1)
            affine = flat(batch["affine"])
            seen = jax.vmap(warp_affine)(channels, affine).reshape(seen.shape)
        pixels = counted(batch)[..., None, None]
        y = jnp.mean(seen.reshape(*views.shape[:2], *seen.shape[1:]), axis=1)
        joint = jnp.einsum("bhwsi,bhwsj->bsij", chances * pixels, y, precision="highest")
        hard = jax.nn.one_hot(each, chances.shape[-1]) * pixels
        certainty = jnp.sum(jnp.max(chances, axis=-1) * pixels[..., 0], axis=(1, 2))
        return prediction | {
            "joint": joint,
            "counts": jnp.sum(hard, axis=(1, 2)),
            "certainty": certainty,
        }

    return Method(initial(network, inputs, None), loss, predict)
