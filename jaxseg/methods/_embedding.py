"""Objects from embeddings alone, without boxes: the loss, and what is decoded."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxseg import losses
from jaxseg.methods._decoded import decoded
from jaxseg.methods._padding import inside
from jaxseg.methods.tasks import resized
from jaxseg.ops._instance_means import InstanceMeans, instance_means
from jaxseg.ops.affinity import add_coordinates, log_steered_kernel
from jaxseg.ops.cluster import grow_instances
from jaxseg.ops.color import at_least_float32, to_float
from jaxseg.types import Batch, LossOutput, Method, Network, Prediction, PyTree

Decoder = Callable[[Float[Array, "p d"], Float[Array, " p"], Bool[Array, " p"]], Any]
"""(embedding, seed scores, foreground) of an image's pixels -> a result of `ops.cluster`."""


def embedding(
    network: Network,
    *,
    coordinates: Literal["semi", "none"] = "semi",
    scale: float = 32.0,
    stride: int = 1,
    radius: float = 0.25,
    embedding_weight: float = 1.0,
    foreground_weight: float = 1.0,
    seed_weight: float = 1.0,
    kernel_weight: float = 0.0,
    repulsion: float = 0.0,
    margin: float = 1.0,
    max_instances: int = 64,
    min_score: float = 0.5,
    min_size: int = 1,
    threshold: float = 0.5,
    decoder: Decoder | None = None,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
    details: bool = False,
) -> Method:
    """Instances by semi-convolutional embeddings (Novotny et al., ECCV 2018), without boxes.

    Batches need `image`; the loss also `masks` `[B, N, H, W]`, which may overlap, and `valid`. With
    `crowd` `[B, N]` the pixels of crowds do not count, nor do those of `label` -1 where there is a
    map, nor what lies beyond `size`. The network's last two channels are logits: of the foreground,
    and of seeds; those before are the embedding Φ, of which Ψ is made by `ops.affinity`. The loss
    is the sum, each with its weight, of

        the embedding   eq. 5 of the paper, `losses.instance_embedding`;
        the foreground  the binary cross-entropy of being in any object, the mean over pixels;
        seeds           the squared error of the seed's probability against K(mean of the object, u)
                        = ½^(‖Ψ_u - mean‖ / radius), 0 on the background: the mean over the pixels
                        of objects plus that over the background. It has no gradient by Ψ;
        the kernel      the cross-entropy of that K against the mask of the mean's object, over all
                        pixels of objects, its own and the others' with equal weight. It pushes
                        pixels off the other objects' means.

    The paper's loss of embeddings is the first; the last is the one that it adds to Mask R-CNN,
    there from a seed in a box. Metrics are the parts, `embedding_loss`, `foreground_loss`,
    `seed_loss` and, where it is not off, `kernel_loss`, and `separation`, the mean over objects of
    the distance of their mean to the nearest other one, over the mean distance of pixels to theirs
    (0 of fewer than two objects). A low loss says little without it: an embedding that is the same
    everywhere has the lowest.

    The prediction is {"masks", "scores", "kinds", "boxes", "instances"}, see `types.Prediction`, at
    the size of the image, with `max_instances` places by falling score. Masks do not overlap: each
    pixel of the foreground goes to the nearest centre that the decoder found. A score is that of
    the seed times the mean probability of the foreground; kinds are 0. Images are of any size: they
    are continued by their mirror image to a multiple of `stride`.

    Args:
        network: normalised image -> `[B, h, w, D + 2]`, of the image's size or of a smaller one;
            it is brought to it bilinearly.
        coordinates: "none": Ψ is Φ, the convolutional embedding that fails where objects are alike.
        scale: pixels in a unit of the embedding.
        stride: what the network needs the sides to be multiples of.
        radius: of an object, in units of the embedding; where K falls to a half.
        embedding_weight: of the loss.
        foreground_weight: of the loss.
        seed_weight: of the loss.
        kernel_weight: of the loss.
        repulsion: see `losses.instance_embedding`.
        margin: see `losses.instance_embedding`.
        max_instances: N of the prediction.
        min_score: of a seed, see `ops.cluster.grow_instances`.
        min_size: pixels of an object; smaller ones are dropped.
        threshold: a pixel above this probability is foreground.
        decoder: in place of `ops.cluster.grow_instances`.
        mean: the network sees (image - mean) / std, of an image in [0, 1]; one number, or one for
            each channel.
        std: see `mean`.
        details: whether the prediction also holds "embedding" `[B, H, W, D]`, "displacement"
            `[B, H, W, 2]` in pixels, from a pixel to its object's point, and the probabilities
            "foreground" and "seeds" `[B, H, W]`.

    Raises:
        ValueError: an option is out of range; when traced: the network's output has another shape.
    """
    if coordinates not in ("semi", "none"):
        raise ValueError(f'coordinates={coordinates!r}: expected "semi" or "none"')
    for name, count in (("stride", stride), ("max_instances", max_instances)):
        if count < 1:
            raise ValueError(f"{name}={count}: expected 1 or more")
    for name, size in (("scale", scale), ("radius", radius)):
        if not 0 < size < math.inf:
            raise ValueError(f"{name}={size}: expected a positive finite number")
    if decoder is None:
        decoder = _grower(radius, max_instances, min_score)
    sigma = radius / math.log(2)

    def inputs(image: Array) -> Array:
        height, width = image.shape[1:3]
        rest = [(0, -height % stride), (0, -width % stride)]
        image = jnp.pad(image, ((0, 0), *rest, (0, 0)), mode="symmetric")
        shift, spread = (
            jnp.broadcast_to(jnp.asarray(x, image.dtype), image.shape[-1:]) for x in (mean, std)
        )
        return (image - shift[None, None, None]) / spread[None, None, None]

    def maps(variables: Any, image: Array, **options: Any) -> tuple[Array, Array, Array, PyTree]:
        """Φ, and the logits of foreground and seeds, at the size of the image."""
        given = inputs(image)
        with jax.named_scope("network"):
            out, model_state = network.apply(variables, given, **options)
        if out.ndim != 4 or len(out) != len(image) or out.shape[-1] < 3 + (coordinates == "semi"):
            least = 3 + (coordinates == "semi")
            raise ValueError(f"the network gives {out.shape}: expected [B, h, w, {least} or more]")
        out = resized(at_least_float32(out), (given.shape[1], given.shape[2]))
        out = out[:, : image.shape[1], : image.shape[2]]
        return out[..., :-2], out[..., -2], out[..., -1], model_state

    def steered(features: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        if coordinates == "none":
            return features
        return jax.vmap(functools.partial(add_coordinates, scale=scale))(features)

    def init(key: Array, batch: Batch, /) -> tuple[PyTree, PyTree]:
        # The values must not matter, and constants cost nothing.
        variables = network.init(key, inputs(jnp.zeros(batch["image"].shape, jnp.float32)))
        return variables["params"], variables["batch_stats"]

    def loss(
        params: PyTree,
        model_state: PyTree,
        batch: Batch,
        key: Array,
        /,
        *,
        axis_name: str | None = None,
    ) -> tuple[Array, LossOutput]:
        features, foreground, seeds, model_state = maps(
            {"params": params, "batch_stats": model_state},
            jax.vmap(to_float)(batch["image"]),
            train=True,
            mask=batch["weight"] > 0,
            axis_name=axis_name,
        )
        psi = steered(features)
        counts, masks, valid = _objects(batch)
        found = jax.vmap(instance_means)(psi, masks, valid)
        values = {
            "embedding_loss": losses.instance_embedding(
                psi, masks, valid, repulsion=repulsion, margin=margin
            ),
            "foreground_loss": _foreground_loss(foreground, jnp.any(masks, axis=1), counts),
            "seed_loss": _seed_loss(seeds, found, masks, counts, sigma),
        }
        weights = [embedding_weight, foreground_weight, seed_weight]
        if kernel_weight:
            values["kernel_loss"] = _kernel_loss(psi, found, sigma)
            weights.append(kernel_weight)
        value = sum(w * x for w, x in zip(weights, values.values(), strict=True) if w)
        metrics = {**values, "separation": jax.vmap(_separation)(found)}
        metrics = jax.lax.stop_gradient(metrics)
        return jnp.asarray(value) + jnp.zeros_like(foreground[:, 0, 0]), LossOutput(
            model_state, batch["weight"], metrics
        )

    def predict(params: PyTree, model_state: PyTree, batch: Batch, /) -> Prediction:
        image = jax.vmap(to_float)(batch["image"])
        features, foreground, seeds, _ = maps(
            {"params": params, "batch_stats": model_state},
            image,
            mask=batch["weight"] > 0 if "weight" in batch else None,
        )
        psi = steered(features)
        foreground, seeds = jax.nn.sigmoid(foreground), jax.nn.sigmoid(seeds)
        counts = foreground > threshold
        if "size" in batch:
            counts &= inside(batch["size"], (counts.shape[1], counts.shape[2]))
        with jax.named_scope("decoder"):
            decode = functools.partial(decoded, decoder, min_size=min_size)
            prediction = jax.vmap(decode)(psi, seeds, foreground, counts)
        if details:
            prediction |= {"embedding": psi, "foreground": foreground, "seeds": seeds}
            prediction["displacement"] = scale * features[..., :2]
        return prediction

    return Method(init, loss, predict)


def _grower(radius: float, max_instances: int, min_score: float) -> Decoder:
    def grow(points: Array, scores: Array, mask: Array) -> Any:
        return grow_instances(
            points,
            scores,
            radius=radius,
            max_instances=max_instances,
            min_score=min_score,
            mask=mask,
        )

    return grow


def _objects(batch: Batch) -> tuple[Array, Array, Array]:
    """Pixels that count, objects cut to them, and which of them are objects."""
    masks, valid = batch["masks"].astype(bool), batch["valid"].astype(bool)
    counts = inside(batch["size"], (masks.shape[2], masks.shape[3]))
    if "crowd" in batch:
        crowd = batch["crowd"].astype(bool) & valid
        counts &= ~jnp.any(masks & crowd[..., None, None], axis=1)
        valid &= ~crowd
    if "label" in batch and batch["label"].ndim == 3:
        counts &= batch["label"] >= 0
    return counts, masks & counts[:, None] & valid[..., None, None], valid


def _mean(values: Float[Array, "b h w"], counts: Bool[Array, "b h w"]) -> Float[Array, " b"]:
    """Over the pixels that count, whatever the others are; 0 without any."""
    total = jnp.sum(jnp.where(counts, values, 0), axis=(1, 2))
    return total / jnp.maximum(jnp.sum(counts, axis=(1, 2)), 1).astype(values.dtype)


def _foreground_loss(logits: Array, objects: Array, counts: Array) -> Float[Array, " b"]:
    logits = jnp.where(counts, logits, 0)
    return _mean(jax.nn.softplus(logits) - jnp.where(objects, logits, 0), counts)


def _seed_loss(
    logits: Array, found: InstanceMeans, masks: Array, counts: Array, sigma: float
) -> Float[Array, " b"]:
    kernel = jnp.exp(-jax.lax.stop_gradient(found.distance) / sigma)
    own = jnp.any(found.own, axis=1)
    background = counts & ~jnp.any(masks, axis=1)
    told = jax.nn.sigmoid(jnp.where(counts, logits, 0))
    return _mean(jnp.square(told - kernel), own) + _mean(jnp.square(told), background)


def _kernel_loss(
    psi: Float[Array, "b h w d"], found: InstanceMeans, sigma: float
) -> Float[Array, " b"]:
    anyone = jnp.any(found.own, axis=1)
    # What lies outside of all objects must not matter, whatever it is.
    psi = jnp.where(anyone[..., None], psi, 0)

    def of_object(given: tuple[Array, Array]) -> tuple[Array, Array]:
        """The sum of the means over its own pixels and over the others', and how many they are."""
        own, mean = given
        there = jnp.any(own, axis=(1, 2))
        parts = [x.astype(psi.dtype) for x in (own, anyone & ~own & there[:, None, None])]
        pixels = [jnp.sum(x, axis=(1, 2)) for x in parts]
        weights = sum(
            x / jnp.maximum(n, 1)[:, None, None] for x, n in zip(parts, pixels, strict=True)
        )
        log_kernel = log_steered_kernel(psi, mean[:, None, None], sigma)
        value = losses.binary_cross_entropy_from_log(log_kernel, own, weights=jnp.asarray(weights))
        number = sum((n > 0).astype(psi.dtype) for n in pixels)
        return value * number, jnp.asarray(number)

    # One object after the other, computed again for the gradient: all at once would take memory of
    # objects times pixels times channels.
    by_object = (jnp.swapaxes(found.own, 0, 1), jnp.swapaxes(found.means, 0, 1))
    values, numbers = jax.lax.map(jax.checkpoint(of_object, prevent_cse=False), by_object)
    return jnp.sum(values, axis=0) / jnp.maximum(jnp.sum(numbers, axis=0), 1)


def _separation(found: InstanceMeans) -> Float[Array, ""]:
    """How far the nearest other mean is, in mean distances of pixels from theirs."""
    there = found.pixels > 0
    apart = found.means[:, None] - found.means[None]
    squares = jnp.sum(apart * apart, axis=-1)
    other = there[:, None] & there[None] & ~jnp.eye(len(there), dtype=bool)
    nearest = jnp.sqrt(jnp.min(jnp.where(other, squares, jnp.inf), axis=1, initial=jnp.inf))
    paired = jnp.any(other, axis=1)
    inter = jnp.sum(jnp.where(paired, nearest, 0)) / jnp.maximum(jnp.sum(paired), 1)
    total = jnp.sum(found.own * found.distance[None], axis=(1, 2))
    intra = jnp.sum(total / jnp.maximum(found.pixels, 1)) / jnp.maximum(jnp.sum(there), 1)
    return inter / jnp.maximum(intra, 1e-6)
