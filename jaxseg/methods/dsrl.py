"""Dual super-resolution learning (Wang et al., CVPR 2020): fine maps from a coarse image.

A network sees the image at half its height and width, and is trained for maps of the whole size.
Beside its loss, a second branch reconstructs the image (SISR), and the likeness of pixels in the
main branch's features learns from that in the second one's (FA, `losses.feature_affinity`):

    loss = task + w1 · mean squared error of the image + w2 · feature affinity

Only the main branch predicts.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxseg import losses
from jaxseg.methods._padding import inside
from jaxseg.methods.tasks import Task, resized, working_size
from jaxseg.models.dsrl import Dual
from jaxseg.models.dsrl import Stages as Networks
from jaxseg.ops.color import to_float
from jaxseg.types import Batch, LossOutput, Method, Network, Prediction, PyTree


class Stages(NamedTuple):
    """Methods over one tree of variables, the rows of the paper's ablation."""

    sssr: Method
    """The task's loss alone."""
    sisr: Method
    """And the image's."""
    affinity: Method
    """And that of the features: the whole method."""


def stages(networks: Networks, task: Task, **options: Any) -> Stages:
    """The stages of a network of `models.dsrl.dsrl`, to be trained alone or one after the other.

    Args:
        networks: all over one tree.
        task: what the maps are for, such as `methods.tasks.classes(11)`.
        options: those of `method`.

    Raises:
        ValueError: as `method`.
    """
    return Stages(*(method(network, task, **options) for network in networks))


def method(
    network: Network,
    task: Task,
    *,
    stride: int = 1,
    image_weight: float = 0.1,
    affinity_weight: float = 1.0,
    order: Literal[1, 2] = 1,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
    dropout: bool = False,
    halve: bool = True,
    size: tuple[int, int] | None = None,
    scale: float = 1.0,
) -> Method:
    """One network as a `Method`: a stage of DSRL, or `models.dsrl.enlarged` for the comparison.

    Batches need `image` `[B, H, W, C]`, and for the loss what the task needs, at that size. The
    network sees the image halved, each pixel a weighted mean of those that it covers. The loss's
    metrics are the task's, `image_loss` and `affinity_loss`, before their weights, where they are.
    Padding beyond an example's `size` counts in neither.

    The prediction is the task's, at the size of the image. Images are of any size: they are
    continued by their mirror image, below and on the right, to a multiple of 2·`stride`.

    Args:
        network: normalised image -> map `[B, 2H, 2W, task.channels]`; in training a
            `models.dsrl.Dual`.
        task: what the map is for.
        stride: what the network needs the sides of its input to be multiples of.
        image_weight: w1, of the mean over pixels of the squared distance of colours, in the units
            that the network sees.
        affinity_weight: w2.
        order: of the differences of affinities, see `losses.feature_affinity`.
        mean: the network sees (image - mean) / std, of an image in [0, 1]; one number, or one for
            each channel.
        std: see `mean`.
        dropout: whether the network takes a random key of each example `[B]` in training.
        halve: whether the image is halved when it predicts; False: it is low-resolution itself,
            and the prediction has twice its size.
        size: height and width whose area the whole image has when it predicts: an image is resized
            to it before it is halved, its proportions kept, and the map back; None: the image's.
        scale: factor on that height and width.

    Raises:
        ValueError: an option is out of range; when traced: the network's output has another shape.
    """
    if stride < 1:
        raise ValueError(f"stride={stride}: expected 1 or more")
    if size is not None and min(size) < 1:
        raise ValueError(f"size={size}: expected 1 or more each")
    for name, value in (("image_weight", image_weight), ("affinity_weight", affinity_weight)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={value}: expected 0 or more")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale={scale}: expected a positive finite number")

    def normal(image: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        shift, spread = (
            jnp.broadcast_to(jnp.asarray(x, image.dtype), image.shape[-1:]) for x in (mean, std)
        )
        return (image - shift[None, None, None]) / spread[None, None, None]

    def evaluate(
        variables: Any, image: Float[Array, "b h w c"], *keys: Array, **options: Any
    ) -> tuple[Any, PyTree]:
        """The network's outputs for a small image; the map is checked."""
        with jax.named_scope("network"):
            found, model_state = network.apply(variables, image, *keys, **options)
        outputs = found.outputs if isinstance(found, Dual) else found
        expected = (image.shape[0], 2 * image.shape[1], 2 * image.shape[2], task.channels)
        if outputs.shape != expected:
            raise ValueError(f"the network gives {outputs.shape}: expected {expected}")
        return found, model_state

    def init(key: Array, batch: Batch, /) -> tuple[PyTree, PyTree]:
        # The values must not matter, and constants cost nothing.
        shape = jax.eval_shape(
            lambda: _halved(_padded(jnp.zeros(batch["image"].shape, jnp.float32), 2 * stride))
        )
        variables = network.init(key, jnp.zeros(shape.shape, shape.dtype))
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
        image = normal(jax.vmap(to_float)(batch["image"]))
        height, width = image.shape[1:3]
        small = _halved(_padded(image, 2 * stride))
        found, model_state = evaluate(
            {"params": params, "batch_stats": model_state},
            small,
            *keys,
            train=True,
            mask=weight > 0,
            axis_name=axis_name,
        )
        with jax.named_scope("task_loss"):
            value, measured = task.loss(found.outputs[:, :height, :width], batch)
        measured = dict(measured)
        if found.image is not None:
            with jax.named_scope("image_loss"):
                off = found.image[:, :height, :width].astype(image.dtype) - image
                there = inside(batch["size"], (height, width))
                squares = jnp.sum(off**2, axis=-1, where=there[..., None])
                measured["image_loss"] = jnp.sum(squares, axis=(1, 2)) / _count(there)
            value += image_weight * measured["image_loss"]
        if found.features is not None:
            with jax.named_scope("affinity_loss"):
                grid = (found.features[0].shape[1], found.features[0].shape[2])
                whole = (2 * small.shape[1], 2 * small.shape[2])
                there = inside(batch["size"], whole, grid)
                # Zeros are alike in both maps, so that the pairs of padding add nothing.
                ours, theirs = (f.astype(image.dtype) * there[..., None] for f in found.features)
                mean = losses.feature_affinity(ours, theirs, order=order)
                measured["affinity_loss"] = mean * (math.prod(grid) / _count(there)) ** 2
            value += affinity_weight * measured["affinity_loss"]
        return value, LossOutput(model_state, weight, measured)

    def predict(params: PyTree, model_state: PyTree, batch: Batch, /) -> Prediction:
        image = jax.vmap(to_float)(batch["image"])
        own = (image.shape[1], image.shape[2])
        # `size` is the whole image's, of which a small one has half.
        part = scale if halve or size is None else scale / 2
        at = working_size(own, own if size is None else size, part)
        small = normal(resized(image, at))
        small = _halved(_padded(small, 2 * stride)) if halve else _padded(small, stride)
        outputs, _ = evaluate(
            {"params": params, "batch_stats": model_state},
            small,
            mask=batch["weight"] > 0 if "weight" in batch else None,
        )
        factor = 1 if halve else 2
        outputs = outputs[:, : factor * at[0], : factor * at[1]].astype(image.dtype)
        return task.predict(outputs, (factor * own[0], factor * own[1]))

    return Method(init, evaluate_loss, predict)


def _count(there: Bool[Array, "b h w"]) -> Float[Array, " b"]:
    return jnp.maximum(jnp.sum(there, axis=(1, 2), dtype=jnp.float32), 1)


def _padded(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b oh ow c"]:
    rest = [(0, -n % factor) for n in x.shape[1:3]]
    return jnp.pad(x, ((0, 0), *rest, (0, 0)), mode="symmetric")


def _halved(x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow c"]:
    return resized(x, (x.shape[1] // 2, x.shape[2] // 2))
