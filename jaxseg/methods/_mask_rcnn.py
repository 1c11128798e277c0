"""The two passes of Mask R-CNN, in training and in prediction, with a place for what steers masks.

`methods.mask_rcnn` and `methods.semiconv` are made of it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32

from jaxseg import losses
from jaxseg.methods._detector_options import Options
from jaxseg.methods._mask_rcnn_parts import (
    anchor_losses,
    box_losses,
    padded,
    pasted,
    pool,
)
from jaxseg.methods._padding import inside
from jaxseg.methods._proposals import Proposals, centres_inside, detect, propose
from jaxseg.methods._targets import Objects, crop_masks, draw_anchors, draw_rois, objects_of
from jaxseg.models.mask_rcnn import MaskRCNN
from jaxseg.ops.boxes import Anchors, pyramid_anchors
from jaxseg.ops.color import at_least_float32, to_float
from jaxseg.types import Batch, LossOutput, Method, Network, Prediction, PyTree

Pyramid = tuple[Array, ...]


class Evaluation:
    """Networks over one tree that are called one after the other; keeps the tree's statistics."""

    def __init__(self, params: PyTree, model_state: PyTree, **options: Any):
        self.params, self.model_state, self.options = params, model_state, options

    def __call__(self, network: Network, *inputs: Any) -> Any:
        """The network's outputs; its new statistics are kept."""
        variables = {"params": self.params, "batch_stats": self.model_state}
        outputs, self.model_state = network.apply(variables, *inputs, **self.options)
        return outputs


class Boxes(NamedTuple):
    """Boxes of every example, and the logits of the masks inside of them."""

    boxes: Float[Array, "b r 4"]
    logits: Float[Array, "b r m m"]


class Truth(NamedTuple):
    """What the masks of drawn boxes should be, and where they come from."""

    targets: Float[Array, "b r m m"]
    counts: Bool[Array, "b r"]
    """Which boxes stand for an object."""
    masks: Bool[Array, "b n h w"]
    """The whole masks, at the size of the network's input."""
    valid: Bool[Array, "b n"]


class Steering(NamedTuple):
    """What changes the logits of masks before they are judged; the rest of the method stays."""

    train: Callable[
        [Evaluation, PyTree, Pyramid, Boxes, Truth],
        tuple[Array, Float[Array, " b"], Mapping[str, Array]],
    ]
    """New logits, losses to be added, and metrics."""
    predict: Callable[[Evaluation, PyTree, Pyramid, Boxes], Array]
    """New logits."""


def build(
    networks: MaskRCNN,
    options: Options,
    *,
    steering: Steering | None = None,
    parameters: Mapping[str, PyTree] | None = None,
) -> Method:
    """Mask R-CNN as a `Method`.

    Args:
        networks: over one tree.
        options: of the method.
        steering: see there; None: masks stay as they are.
        parameters: by name, what the tree holds beside the networks' and begins with.
    """
    beside = dict(parameters or {})
    classes, mask_size = networks.num_classes, networks.mask_size
    box_size, crop_size = networks.crop_sizes
    positive_rois = int(options.rois * options.roi_fraction)

    def split(params: PyTree) -> tuple[PyTree, PyTree]:
        """The networks' parameters and the others."""
        own = {name: x for name, x in params.items() if name not in beside}
        return own, {name: params[name] for name in beside}

    def inputs(image: Array, size: Int[Array, "b 2"]) -> Float[Array, "b h w c"]:
        image = jax.vmap(to_float)(image)
        shift, spread = (
            jnp.broadcast_to(jnp.asarray(x, image.dtype), image.shape[-1:])
            for x in (options.mean, options.std)
        )
        normal = (image - shift[None, None, None]) / spread[None, None, None]
        there = inside(size, (image.shape[1], image.shape[2]))
        return padded(jnp.where(there[..., None], normal, 0), networks.strides[-2], (1, 2))

    def anchors_of(pyramid: Pyramid) -> tuple[Anchors, tuple[int, ...]]:
        shapes = tuple((level.shape[1], level.shape[2]) for level in pyramid)
        anchors = pyramid_anchors(
            options.anchor_sizes,
            feature_shapes=shapes,
            strides=networks.strides,
            ratios=options.anchor_ratios,
        )
        return anchors, tuple(h * w * len(options.anchor_ratios) for h, w in shapes)

    def proposed(
        logits: Array, deltas: Array, pyramid: Pyramid, size: Array, pre_nms: int
    ) -> tuple[Anchors, Proposals]:
        anchors, counts = anchors_of(pyramid)
        if logits.shape[1:] != anchors.boxes.shape[:1]:
            raise ValueError(
                f"{logits.shape[1]} anchors of the network: expected {len(anchors.boxes)}, "
                f"{len(options.anchor_ratios)} a cell"
            )

        def one(logits: Array, deltas: Array, size: Array) -> Proposals:
            return propose(
                at_least_float32(logits),
                at_least_float32(deltas),
                anchors,
                size,
                counts=counts,
                pre_nms=pre_nms,
                num_proposals=options.proposals,
                iou_threshold=options.proposal_nms,
            )

        with jax.named_scope("proposals"):
            return anchors, jax.vmap(one)(logits, deltas, size)

    def pooled(pyramid: Pyramid, boxes: Float[Array, "b r 4"], size: int) -> Array:
        return pool(pyramid[:-1], boxes, networks.strides[:-1], size, options)

    def masks_of(
        evaluate: Evaluation, pyramid: Pyramid, boxes: Array, kinds: Int32[Array, "b r"]
    ) -> Boxes:
        """The logits of each box's class."""
        with jax.named_scope("masks"):
            logits = evaluate(networks.segment, pooled(pyramid, boxes, crop_size))
        expected = (*boxes.shape[:2], mask_size, mask_size, classes)
        if logits.shape != expected:
            raise ValueError(f"the network gives masks {logits.shape}: expected {expected}")
        own = jnp.maximum(kinds, 0)[:, :, None, None, None]
        return Boxes(boxes, jnp.take_along_axis(at_least_float32(logits), own, axis=-1)[..., 0])

    def init(key: Array, batch: Batch, /) -> tuple[PyTree, PyTree]:
        size = jax.ShapeDtypeStruct((len(batch["image"]), 2), jnp.int32)
        shape = jax.eval_shape(inputs, batch["image"], size)
        # The values must not matter, and constants cost nothing.
        variables = networks.pyramid.init(key, jnp.zeros(shape.shape, shape.dtype))
        clash = set(beside) & set(variables["params"])
        if clash:
            raise ValueError(f"the networks have parameters named {sorted(clash)} of their own")
        held = jax.tree.map(jnp.asarray, beside)
        return {**variables["params"], **held}, variables["batch_stats"]

    def evaluate_loss(
        params: PyTree,
        model_state: PyTree,
        batch: Batch,
        key: Array,
        /,
        *,
        axis_name: str | None = None,
    ) -> tuple[Array, LossOutput]:
        weight, size = batch["weight"], batch["size"]
        own, others = split(params)
        evaluate = Evaluation(own, model_state, train=True, mask=weight > 0, axis_name=axis_name)
        image = inputs(batch["image"], size)
        masks = padded(batch["masks"], networks.strides[-2], (2, 3))
        masks &= inside(size, (masks.shape[2], masks.shape[3]))[:, None]
        with jax.named_scope("network"):
            pyramid = evaluate(networks.pyramid, image)
            logits, deltas = evaluate(networks.propose, pyramid)
        anchors, proposals = proposed(logits, deltas, pyramid, size, options.pre_nms)
        with jax.named_scope("targets"):
            objects = _objects(masks, batch, classes)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])
            keys = jax.vmap(jax.random.split)(keys)
            of_anchors = jax.vmap(
                lambda key, size, objects: draw_anchors(
                    key,
                    anchors.boxes,
                    centres_inside(anchors.boxes, size),
                    objects,
                    num_samples=options.anchor_samples,
                    positive_fraction=options.anchor_fraction,
                    negative_iou=options.anchor_iou[0],
                    positive_iou=options.anchor_iou[1],
                )
            )(keys[:, 0], size, objects)
            rois, of_rois = jax.vmap(
                lambda key, proposals, objects: draw_rois(
                    key,
                    proposals,
                    objects,
                    num_samples=options.rois,
                    positive_fraction=options.roi_fraction,
                    positive_iou=options.roi_iou,
                    weights=options.box_weights,
                )
            )(keys[:, 1], proposals, objects)
            kinds = jnp.take_along_axis(objects.kinds, of_rois.objects, axis=1)
        measured = anchor_losses(logits, deltas, of_anchors, options)
        with jax.named_scope("boxes"):
            scores, moves = evaluate(networks.classify, pooled(pyramid, rois, box_size))
        measured |= box_losses(scores, moves, of_rois, kinds, options)

        # Boxes that stand for an object come first.
        first = slice(0, positive_rois)
        counts = of_rois.labels[:, first] == 1
        found = masks_of(evaluate, pyramid, rois[:, first], kinds[:, first])
        cropped = jax.vmap(
            lambda masks, boxes, objects: crop_masks(
                masks, boxes, objects, size=mask_size, kind=options.mask_targets
            )
        )(masks, found.boxes, of_rois.objects[:, first])
        added = jnp.zeros_like(measured["class_loss"])
        mask_logits = found.logits
        extra: Mapping[str, Array] = {}
        if steering is not None:
            truth = Truth(cropped, counts, masks, objects.valid)
            mask_logits, added, extra = steering.train(evaluate, others, pyramid, found, truth)
        measured["mask_loss"] = losses.mask_binary_cross_entropy(mask_logits, cropped, counts)
        value = sum(measured.values(), start=added)
        measured["positive_rois"] = jnp.sum(counts, axis=1).astype(value.dtype)
        return value, LossOutput(evaluate.model_state, weight, {**measured, **extra})

    def predict(params: PyTree, model_state: PyTree, batch: Batch, /) -> Prediction:
        image = batch["image"]
        shape = (image.shape[1], image.shape[2])
        size = jnp.broadcast_to(jnp.asarray(shape, jnp.int32), (len(image), 2))
        size = batch.get("size", size)
        own, others = split(params)
        mask = batch["weight"] > 0 if "weight" in batch else None
        evaluate = Evaluation(own, model_state, mask=mask)
        with jax.named_scope("network"):
            pyramid = evaluate(networks.pyramid, inputs(image, size))
            logits, deltas = evaluate(networks.propose, pyramid)
        _, proposals = proposed(logits, deltas, pyramid, size, options.test_pre_nms)
        with jax.named_scope("boxes"):
            crops = pooled(pyramid, proposals.boxes, box_size)
            scores, moves = map(at_least_float32, evaluate(networks.classify, crops))
        found = jax.vmap(
            lambda scores, moves, proposals, size: detect(
                scores,
                moves,
                proposals,
                size,
                weights=options.box_weights,
                score_threshold=options.score_threshold,
                iou_threshold=options.nms_threshold,
                max_detections=options.max_detections,
            )
        )(scores, moves, proposals, size)
        drawn = masks_of(evaluate, pyramid, found.boxes, found.kinds)
        mask_logits = drawn.logits
        if steering is not None:
            mask_logits = steering.predict(evaluate, others, pyramid, drawn)
        with jax.named_scope("paste"):
            masks = jax.vmap(lambda masks, boxes: pasted(masks, boxes, shape))(
                jax.nn.sigmoid(mask_logits), found.boxes
            )
        masks &= inside(size, shape)[:, None]
        return {**found._asdict(), "masks": masks}

    return Method(init, evaluate_loss, predict)


def _objects(masks: Bool[Array, "b n h w"], batch: Batch, num_classes: int) -> Objects:
    kinds, crowd = batch.get("kinds"), batch.get("crowd")
    return jax.vmap(
        lambda masks, valid, kinds, crowd: objects_of(
            masks, valid, kinds, crowd, num_classes=num_classes
        )
    )(masks, batch["valid"], kinds, crowd)
