"""Adaptive downsampling (Marin et al., ICCV 2019): an image is read where its classes meet.

A sampler sees the whole image made small and says where to read it more densely: near the
boundaries of classes. The segmentation network sees what is read there, and its logits are
interpolated back to the pixels. The two are trained one after the other, the sampler on
`ops.warp.sampling_targets` of the labels and the network on images and labels that the sampler has
sampled; or in the end together.

Source: "Efficient Segmentation: Learning Downsampling Near Semantic Boundaries" (arXiv:1907.07156).
Deviations: see `AdaptiveDownsampler` and `ops.warp.unwarp`. The image is by default read bilinearly
instead of at the nearest pixel. What is folded is unfolded, in training as in prediction. An image
whose labels have no boundary does not count for the sampler; the paper does not say.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import losses
from jaxseg.methods._adaptive_prediction import AdaptiveDownsampler as AdaptiveDownsampler
from jaxseg.methods._adaptive_sampling import Mode as Mode
from jaxseg.methods._adaptive_sampling import Targets
from jaxseg.methods._adaptive_sampling import mean_sampling as mean_sampling
from jaxseg.methods.tasks import classes
from jaxseg.types import Batch, LossOutput, Method, Network, Prediction, PyTree


class Stages(NamedTuple):
    """Methods over one tree of variables, to be trained one after the other."""

    sampler: Method
    """Where to read, from labels; the network's variables stay as they are."""
    segmentation: Method
    """What is there; the sampler's variables stay as they are."""
    joint: Method
    """Both, with the gradient of the segmentation's loss through what was read."""


def stages(
    sampler: Network,
    network: Network,
    *,
    num_classes: int,
    size: tuple[int, int],
    grid: tuple[int, int],
    input_size: tuple[int, int],
    smoothness: float = 1.0,
    target_classes: tuple[int, ...] | None = None,
    mode: Mode = "learned",
    coords: Any = None,
    order: Literal[0, 1] = 1,
    antialias: bool = False,
    fold_free: bool = True,
    stride: int = 1,
    dropout: bool = False,
    loss: Callable[..., Array] = losses.cross_entropy,
    class_weights: Sequence[float] | None = None,
    auxiliary_weight: float = 0.4,
    sampling_weight: float = 100.0,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
    confidence: bool = True,
    probabilities: bool = False,
    chunk: int = 1 << 24,
) -> Stages:
    """The stages of a sampler and a network.

    Batches need `image` `[B, H, W, C]`, as it is, and for the loss `label` `[B, H, W]`; where they
    hold `pixel_weight`, it is sampled with the labels; where they hold `size` `[B, 2]`, what is
    beyond that is padding, whose edge draws no nodes. All three stages predict alike: {"classes":
    `[B, H, W]` int32, "confidence": `[B, H, W]`, the probability of that class, and
    "probabilities" `[B, H, W, num_classes]` on request, "coords": `[B, h, w, 2]`, where the nodes
    were}. In mode "oracle" prediction needs `label` too.

    The loss's metrics: `folded`, the part of the cells that were folded before they were mended;
    of the sampler's loss `node_error`, how far its nodes are off, the root mean square in cells of
    the grid; of the others `accuracy`, the part of the labelled nodes that are right.

    The sampler is trained by the squared distance of its nodes in [0, 1]², the mean over them.
    Examples whose labels have no boundary have weight 0 there, as have those that are ignored as a
    whole. The gradient of what stays as it is, is 0; weight decay must leave it out, too.

    Args:
        sampler: see `AdaptiveDownsampler`.
        network: see `AdaptiveDownsampler`; gives `num_classes` channels.
        num_classes: labels are 0 .. num_classes - 1; others are ignored.
        size: see `AdaptiveDownsampler`, likewise all that is not named here.
        grid: see there.
        input_size: see there.
        smoothness: see there.
        target_classes: see there.
        mode: see there; it concerns all but the first stage. The third wants "learned".
        coords: see there.
        order: see there; the third stage wants 1.
        antialias: see there.
        fold_free: see there.
        stride: see there.
        dropout: whether the network takes a random key of each example `[B]` as its last input in
            training.
        loss: `(logits, labels, *, class_weights) -> [B]`, such as those of `jaxseg.losses`, over
            the nodes.
        class_weights: one per class; None: all 1.
        auxiliary_weight: of the loss of an auxiliary head.
        sampling_weight: of the sampler's loss in the third stage.
        mean: see there.
        std: see there.
        confidence: whether the prediction holds the confidence; without it and `probabilities` no
            more than a few rows of logits exist at the size of the image.
        probabilities: whether it holds the probability of every class.
        chunk: see there.

    Raises:
        ValueError: an option is out of range; when traced: a network's output has another shape, an
            image is below 2×2, or the third stage cannot be trained by the mode or the order.
    """
    downsampler = AdaptiveDownsampler(
        sampler=sampler,
        network=network,
        size=size,
        grid=grid,
        input_size=input_size,
        mode=mode,
        coords=coords,
        smoothness=smoothness,
        target_classes=target_classes,
        order=order,
        antialias=antialias,
        fold_free=fold_free,
        stride=stride,
        mean=mean,
        std=std,
        chunk=chunk,
    )
    task = classes(num_classes, loss=loss, class_weights=class_weights)
    for name, value in (
        ("auxiliary_weight", auxiliary_weight),
        ("sampling_weight", sampling_weight),
    ):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={value}: expected 0 or more")

    def init(key: Array, batch: Batch, /) -> tuple[PyTree, PyTree]:
        variables = downsampler.init(key, jnp.zeros(batch["image"].shape, jnp.float32))
        return variables["params"], variables["batch_stats"]

    def sampler_loss(
        params: PyTree,
        model_state: PyTree,
        batch: Batch,
        key: Array,
        /,
        *,
        axis_name: str | None = None,
    ) -> tuple[Array, LossOutput]:
        weight = batch["weight"]
        nodes, stats = downsampler.predicted(
            {"params": params, "batch_stats": model_state},
            batch["image"],
            train=True,
            mask=weight > 0,
            axis_name=axis_name,
        )
        wanted = downsampler.targets(batch["label"], extent=batch.get("size"))
        value, error = _off(nodes, wanted)
        metrics = {"node_error": error, "folded": downsampler.at_nodes(nodes).folded}
        state = {**model_state, "sampler": stats}
        return value, LossOutput(state, weight * wanted.found, metrics)

    def segmented(
        variables: Mapping[str, PyTree],
        batch: Batch,
        nodes: Float[Array, "b rows cols 2"],
        key: Array,
        axis_name: str | None,
    ) -> tuple[Array, Mapping[str, Array], PyTree]:
        """The task's loss over the nodes, its metrics, and the network's statistics."""
        keys = (jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"]),) if dropout else ()
        maps, stats = downsampler.outputs(
            variables,
            downsampler.small(batch["image"], nodes),
            *keys,
            train=True,
            mask=batch["weight"] > 0,
            axis_name=axis_name,
        )
        _check_classes(maps, num_classes)
        # Labels have no gradient, however their places move.
        places = jax.lax.stop_gradient(nodes)
        given = {
            name: downsampler.small_labels(batch[name], places)
            for name in ("label", "pixel_weight")
            if name in batch
        }
        with jax.named_scope("loss"):
            value, measured = task.loss(maps[0], given)
            for auxiliary in maps[1:]:
                value += auxiliary_weight * task.loss(auxiliary, given)[0]
        return value, measured, stats

    def segmentation_loss(
        params: PyTree,
        model_state: PyTree,
        batch: Batch,
        key: Array,
        /,
        *,
        axis_name: str | None = None,
    ) -> tuple[Array, LossOutput]:
        variables = {"params": params, "batch_stats": model_state}
        weight = batch["weight"]
        nodes, folded = downsampler.sampling(
            jax.lax.stop_gradient(variables),
            batch["image"],
            batch["label"] if mode == "oracle" else None,
            mask=weight > 0,
            extent=batch.get("size"),
        )
        value, measured, stats = segmented(variables, batch, nodes, key, axis_name)
        state = {**model_state, "network": stats}
        return value, LossOutput(state, weight, {**measured, "folded": folded})

    def joint_loss(
        params: PyTree,
        model_state: PyTree,
        batch: Batch,
        key: Array,
        /,
        *,
        axis_name: str | None = None,
    ) -> tuple[Array, LossOutput]:
        if mode != "learned" or order != 1:
            raise ValueError(
                f"mode={mode!r}, order={order}: the joint stage wants 'learned' and 1, or no "
                "gradient reaches the sampler"
            )
        variables = {"params": params, "batch_stats": model_state}
        weight = batch["weight"]
        predicted, sampler_stats = downsampler.predicted(
            variables, batch["image"], train=True, mask=weight > 0, axis_name=axis_name
        )
        wanted = downsampler.targets(batch["label"], extent=batch.get("size"))
        off, error = _off(predicted, wanted)
        nodes, folded = downsampler.at_nodes(predicted)
        value, measured, stats = segmented(variables, batch, nodes, key, axis_name)
        metrics = {**measured, "node_error": error * wanted.found, "folded": folded}
        state = {**model_state, "sampler": sampler_stats, "network": stats}
        value += sampling_weight * off
        return value, LossOutput(state, weight, metrics)

    def predict(params: PyTree, model_state: PyTree, batch: Batch, /) -> Prediction:
        variables = {"params": params, "batch_stats": model_state}
        image = batch["image"]
        mask = batch["weight"] > 0 if "weight" in batch else None
        nodes = downsampler.sampling(
            variables, image, batch.get("label"), mask=mask, extent=batch.get("size")
        ).coords
        maps, _ = downsampler.outputs(variables, downsampler.small(image, nodes), mask=mask)
        _check_classes(maps, num_classes)
        found = downsampler.classes(
            maps[0],
            nodes,
            (image.shape[1], image.shape[2]),
            confidence=confidence,
            probabilities=probabilities,
        )
        return {**found, "coords": nodes}

    return Stages(
        Method(init, sampler_loss, predict),
        Method(init, segmentation_loss, predict),
        Method(init, joint_loss, predict),
    )


def _off(
    nodes: Float[Array, "b rows cols 2"], wanted: Targets
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """The sampler's loss, 0 where nothing was found, and the root mean square in cells."""
    off = nodes - wanted.coords
    cells = jnp.asarray(nodes.shape[1:3], off.dtype) - 1
    value = jnp.mean(jnp.sum(off**2, axis=-1), axis=(1, 2)) * wanted.found
    in_cells = jax.lax.stop_gradient(off) * cells[None, None, None]
    return value, jnp.sqrt(jnp.mean(jnp.sum(in_cells**2, axis=-1), axis=(1, 2)))


def _check_classes(maps: tuple[Array, ...], num_classes: int) -> None:
    for logits in maps:
        if logits.shape[-1] != num_classes:
            raise ValueError(f"the network gives {logits.shape}: expected {num_classes} channels")
