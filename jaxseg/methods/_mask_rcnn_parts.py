"""What the passes of Mask R-CNN are made of: pooling, losses of what was drawn, pasting."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from jaxseg import losses
from jaxseg.methods._detector_options import Options
from jaxseg.methods._targets import Drawn
from jaxseg.ops.paste import paste_masks
from jaxseg.ops.roi_align import box_levels, roi_align

_PASTED_AT_ONCE = 8
"""Masks that are held as floats at the image's size."""


def pool(
    pyramid: tuple[Array, ...],
    boxes: Float[Array, "b r 4"],
    strides: tuple[int, ...],
    size: int,
    options: Options,
) -> Float[Array, "b r {size} {size} f"]:
    """RoIAlign over a batch; boxes get no gradient."""
    boxes = jax.lax.stop_gradient(boxes)
    with jax.named_scope("roi_align"):
        return jax.vmap(
            lambda maps, boxes: roi_align(
                maps,
                boxes,
                output_size=size,
                strides=strides,
                sampling_ratio=options.sampling_ratio,
                implementation=options.pooling,
                levels=box_levels(boxes, strides=strides, canonical_size=options.canonical_size),
                chunk_size=options.pooled_at_once,
            )
        )(pyramid, boxes)


def anchor_losses(logits: Array, deltas: Array, drawn: Drawn, options: Options) -> dict[str, Array]:
    """Of the region proposal network, both divided by how many anchors would be drawn."""
    deltas = jnp.take_along_axis(deltas, drawn.indices[:, :, None], axis=1)
    return {
        "objectness_loss": losses.sampled_binary_cross_entropy(
            jnp.take_along_axis(logits, drawn.indices, axis=1),
            drawn.labels,
            num_samples=options.anchor_samples,
        ),
        "anchor_loss": losses.box_regression(
            deltas,
            drawn.deltas,
            drawn.labels,
            num_samples=options.anchor_samples,
            beta=options.beta,
        ),
    }


def box_losses(
    scores: Array, moves: Array, drawn: Drawn, kinds: Int32[Array, "b s"], options: Options
) -> dict[str, Array]:
    """Of the box head, both divided by how many boxes were drawn."""
    labels = jnp.where(drawn.labels == 1, kinds + 1, drawn.labels)
    own = jnp.take_along_axis(moves, kinds[:, :, None, None], axis=2)[:, :, 0]
    return {
        "class_loss": losses.cross_entropy(scores[:, None], labels[:, None]),
        "box_loss": losses.box_regression(own, drawn.deltas, drawn.labels, beta=options.beta),
    }


def pasted(
    masks: Float[Array, "n m m"], boxes: Float[Array, "n 4"], shape: tuple[int, int]
) -> Bool[Array, "n {shape[0]} {shape[1]}"]:
    """Where the masks are at least a half, at the image's size."""

    def one(pair: tuple[Array, Array]) -> Array:
        mask, box = pair
        return paste_masks(mask[None], box[None], shape=shape)[0] >= 0.5

    return jax.lax.map(one, (masks, boxes), batch_size=_PASTED_AT_ONCE)


def padded(x: Array, factor: int, axes: tuple[int, int]) -> Array:
    """Continued by zeros along two axes to a multiple of `factor`."""
    rest = [(0, -n % factor if i in axes else 0) for i, n in enumerate(x.shape)]
    return jnp.pad(x, rest)
