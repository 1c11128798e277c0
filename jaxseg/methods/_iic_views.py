"""What the methods of IIC share: the network's inputs and outputs, and what is told of clusters."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxseg.ops import collective
from jaxseg.ops.color import at_least_float32, to_float
from jaxseg.ops.filters import sobel
from jaxseg.types import Batch, InitFn, Network, PyTree

Inputs = Literal["image", "grey", "sobel", "image+sobel"]

_RUNNING = 0.99
"""Decay of the running information."""
_FAINT = 1e-4
"""Variance below which an image is taken for one colour: noise would be made its content."""


def network_inputs(
    image: Float[Array, "b h w c"], kind: Inputs = "image"
) -> Float[Array, "b h w d"]:
    """What a network is given of images in [0, 1] of 1 (grey), 3 (RGB) or 4 channels (infrared).

    Args:
        image: a batch.
        kind: "image": the channels as they are; "grey": luma (ITU-R 601), one channel; "sobel":
            the differences of luma along both axes, two; "image+sobel": all channels, and these.

    Raises:
        ValueError: another kind.
    """
    if kind not in get_args(Inputs):
        raise ValueError(f"kind={kind!r}: expected one of {get_args(Inputs)}")
    if kind == "image":
        return image
    grey = image[..., :1]
    if image.shape[-1] >= 3:
        luma = jnp.asarray([0.299, 0.587, 0.114], image.dtype)
        grey = jnp.sum(image[..., :3] * luma[None, None, None], axis=-1, keepdims=True)
    if kind == "grey":
        return grey
    differences = jax.vmap(sobel)(grey)
    return differences if kind == "sobel" else jnp.concatenate([image, differences], axis=-1)


def standardised(
    image: Float[Array, "b h w c"], pixels: Bool[Array, "b h w"] | None = None
) -> Float[Array, "b h w c"]:
    """Each channel of each image brought to mean 1/2 and deviation 1/4, so that exposure is gone.

    Args:
        image: in [0, 1].
        pixels: those that count for the mean and the deviation; None: all.
    """
    counts = jnp.ones(image.shape[:3], bool) if pixels is None else pixels
    weight = counts[..., None].astype(image.dtype)
    number = jnp.maximum(jnp.sum(weight, axis=(1, 2), keepdims=True), 1)
    mean = jnp.sum(image * weight, axis=(1, 2), keepdims=True) / number
    centred = image - mean
    var = jnp.sum(centred * centred * weight, axis=(1, 2), keepdims=True) / number
    return 0.5 + 0.25 * centred * jax.lax.rsqrt(var + _FAINT)


def initial(network: Network, inputs: Inputs, size: tuple[int, int] | None) -> InitFn:
    """`Method.init`, of images of `size` or of their own."""

    def init(key: Array, batch: Batch, /) -> tuple[PyTree, PyTree]:
        shape = batch["image"].shape
        # The values must not matter, and constants cost nothing.
        image = jnp.zeros((*shape[:1], *(size or shape[1:3]), *shape[3:]), jnp.float32)
        variables = network.init(key, network_inputs(image, inputs))
        logits = jax.eval_shape(lambda: network.apply(variables, network_inputs(image, inputs))[0])
        information = {name: jnp.zeros(x.shape[-2]) for name, x in logits.items()}
        state = {"batch_stats": variables["batch_stats"], "information": information}
        return variables["params"], state

    return init


def logits_of(
    network: Network, variables: Any, images: Array, inputs: Inputs, **options: Any
) -> tuple[Mapping[str, Array], PyTree]:
    """The logits of all heads, and batch statistics."""
    with jax.named_scope("network"):
        given = network_inputs(jax.vmap(to_float)(images), inputs)
        return network.apply(variables, given, **options)


def head_of(logits: Mapping[str, Array], name: str) -> Array:
    """The logits of one head, at least float32.

    Raises:
        ValueError: there is no such head.
    """
    if name not in logits:
        raise ValueError(f"the network has no head {name!r}: expected one of {sorted(logits)}")
    return at_least_float32(logits[name])


def shares(
    x: Float[Array, "s *n k"],
    y: Float[Array, "s *n k"],
    weight: Float[Array, "1 *n"],
    axis_name: str | None,
) -> tuple[Float[Array, "s k"], Float[Array, "s k"]]:
    """Of each sub-head: the mean probabilities, and the part of the examples in each cluster."""
    x, y = jax.lax.stop_gradient((x, y))
    hard = jax.nn.one_hot(jnp.argmax(x, axis=-1), x.shape[-1], dtype=x.dtype)
    axes = tuple(range(1, x.ndim - 1))
    wide = weight[..., None]
    sums = [jnp.sum(m * wide, axis=axes) for m in ((x + y) / 2, hard)]
    soft, sizes, count = collective.psum((*sums, jnp.sum(weight)), axis_name)
    count = jnp.where(count > 0, count, jnp.ones_like(count))
    return soft / count, sizes / count


def told(
    model_state: PyTree,
    head: str,
    stats: PyTree,
    values: Float[Array, " s"],
    lamb: float,
    marginal: Float[Array, "s k"],
    sizes: Float[Array, "s k"],
) -> tuple[PyTree, dict[str, Array]]:
    """The new model state and the metrics, from the losses of the sub-heads and their `shares`."""
    values = jax.lax.stop_gradient(values)
    tiny = jnp.finfo(marginal.dtype).tiny
    entropy = -jnp.sum(marginal * jnp.log(jnp.maximum(marginal, tiny)), axis=-1)
    # Where both are equal but for rounding, the difference may be just below 0.
    information = jnp.maximum(-values - 2 * (lamb - 1) * entropy, 0)
    running = model_state["information"]
    mean = _RUNNING * running[head] + (1 - _RUNNING) * information
    best = jnp.argmax(mean)
    chosen = jnp.take(sizes, best, axis=0)
    metrics = {
        "information": jnp.mean(information),
        "entropy": jnp.mean(entropy),
        "best_information": jnp.take(information, best),
        "smallest": jnp.min(chosen),
        "largest": jnp.max(chosen),
    }
    return {"batch_stats": stats, "information": {**running, head: mean}}, metrics


def flat(x: Array) -> Array:
    """Views as examples."""
    return x.reshape(-1, *x.shape[2:])
