"""Semi-convolutional embeddings for instances (Novotny, Albanie, Larlus, Vedaldi, ECCV 2018).

A convolution cannot tell two equal objects apart; one whose output is added to the place of its
pixel can (`ops.affinity.add_coordinates`). `stages` lets such an embedding correct the masks of
Mask R-CNN; `embedding` finds objects without any boxes.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxseg import losses
from jaxseg.methods._detector_options import Options, checked
from jaxseg.methods._embedding import embedding
from jaxseg.methods._mask_rcnn import Boxes, Evaluation, Pyramid, Steering, Truth, build
from jaxseg.methods._mask_rcnn_parts import pool
from jaxseg.models.mask_rcnn import MaskRCNN
from jaxseg.ops.affinity import add_coordinates, log_steered_kernel, seed_embedding
from jaxseg.ops.gradient import scale_gradient
from jaxseg.types import Method, PyTree

__all__ = ["Stages", "embedding", "stages"]

_LEAST_SIGMA = 1e-3


class Stages(NamedTuple):
    """Methods over one tree of variables, trained one after the other."""

    mask_rcnn: Method
    """Mask R-CNN alone: neither the embedding nor σ gets a gradient."""
    semiconv: Method
    """The whole method."""


def stages(
    networks: MaskRCNN,
    *,
    scale: float = 32.0,
    sigma: float = 1.0,
    kind: Literal["laplacian", "gaussian"] = "laplacian",
    embedding_weight: float = 1.0,
    kernel_weight: float = 1.0,
    gradient_scale: float = 0.1,
    **options: Any,
) -> Stages:
    """Mask R-CNN, and with masks that a semi-convolutional embedding corrects (section 3.2).

    Batches and predictions are those of `methods.mask_rcnn.method`. Inside of each box, Φ is pooled
    at the cells of the mask, and the places of the cells' centres are added: Ψ = û + Φ, in the
    coordinates of the whole image. From the mask's logits s a seed is taken, and

        ŝ(u) = s(u) + log K_σ(u_s, u)

    are the logits that the mask is made of. While training, the seed's Ψ is the expectation under
    softmax(s), and s is that of the object's class; else the seed is the pixel of the highest s,
    and the class is the predicted one. The loss is Mask R-CNN's, with ŝ for s, and

        + embedding_weight · `losses.instance_embedding` of the image, the mean over the levels
        + kernel_weight · binary cross-entropy of K_σ(u_s, ·) against the object's mask,

    the metrics `embedding_loss` and `kernel_loss`; `sigma` is a metric too. σ = softplus(p) + 0.001
    is learned, as params["semiconv"]["sigma"].

    The paper trains Mask R-CNN to convergence first, then all (two `train.Phase`s).

    What the paper leaves open is chosen here: the weights, the unit of the coordinates, where σ
    begins, that Φ is pooled from the level that the box is pooled from, at the mask's cells, and
    that a level's cell is of an object that covers half of it or more. The gradient through both
    terms of ŝ and through the seed is whole; that of the embedding's head into the pyramid is
    scaled, as the paper says.

    Args:
        networks: of `models.mask_rcnn.mask_rcnn`, with an embedding.
        scale: pixels of the image in a unit of the coordinates.
        sigma: σ at the beginning, in the same unit. Where it is far smaller than objects are, K is
            0 nearly everywhere before the embedding is learned, and no mask remains.
        kind: of the kernel, see `ops.affinity.log_steered_kernel`.
        embedding_weight: see above.
        kernel_weight: see above.
        gradient_scale: of the gradient of the embedding's head into the pyramid.
        options: those of `methods.mask_rcnn.Options`, by name.

    Raises:
        TypeError: an option of another name.
        ValueError: the networks have no embedding, or an option is out of range; when traced: an
            embedding of less than two channels.
    """
    if networks.embed is None:
        raise ValueError("the networks have no embedding: expected mask_rcnn(..., embedding=8)")
    embed, strides = networks.embed, networks.strides[:-1]
    if not 0 < scale < math.inf:
        raise ValueError(f"scale={scale}: expected a positive finite number")
    if not _LEAST_SIGMA < sigma < math.inf:
        raise ValueError(f"sigma={sigma}: expected a finite number above {_LEAST_SIGMA}")
    if kind not in ("laplacian", "gaussian"):
        raise ValueError(f'kind={kind!r}: expected "laplacian" or "gaussian"')
    for name, value in (
        ("embedding_weight", embedding_weight),
        ("kernel_weight", kernel_weight),
        ("gradient_scale", gradient_scale),
    ):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={value}: expected a finite number, 0 or more")
    settings = checked(Options(**options))

    def maps_of(evaluate: Evaluation, pyramid: Pyramid) -> Pyramid:
        """Φ at each level."""
        with jax.named_scope("embedding"):
            return evaluate(embed, tuple(scale_gradient(x, gradient_scale) for x in pyramid[:-1]))

    def log_kernels(
        maps: Pyramid, found: Boxes, others: PyTree, *, hard: bool
    ) -> tuple[Float[Array, "b r m m"], Float[Array, ""]]:
        """Of the seed and each cell of the same box; and σ."""
        size = found.logits.shape[-1]
        looks = pool(maps, found.boxes, strides, size, settings)
        psi = jax.vmap(jax.vmap(lambda x, box: _located(x, box, scale)))(looks, found.boxes)
        seed = jax.vmap(jax.vmap(lambda s, x: seed_embedding(s, x, hard=hard)))(found.logits, psi)
        width = jax.nn.softplus(others["semiconv"]["sigma"]) + _LEAST_SIGMA
        return log_steered_kernel(psi, seed[:, :, None, None], width, kind=kind), width

    def train(
        evaluate: Evaluation, others: PyTree, pyramid: Pyramid, found: Boxes, truth: Truth
    ) -> tuple[Array, Float[Array, " b"], Mapping[str, Array]]:
        maps = maps_of(evaluate, pyramid)
        log_kernel, width = log_kernels(maps, found, others, hard=False)
        with jax.named_scope("kernel_loss"):
            kernel = losses.binary_cross_entropy_from_log(
                log_kernel, truth.targets, weights=truth.counts.astype(log_kernel.dtype)
            )
        with jax.named_scope("embedding_loss"):
            image = _image_loss(maps, truth, strides, scale)
        metrics = {
            "embedding_loss": image,
            "kernel_loss": kernel,
            "sigma": jnp.broadcast_to(width, image.shape),
        }
        added = embedding_weight * image + kernel_weight * kernel
        return found.logits + log_kernel, added, metrics

    def predict(evaluate: Evaluation, others: PyTree, pyramid: Pyramid, found: Boxes) -> Array:
        log_kernel, _ = log_kernels(maps_of(evaluate, pyramid), found, others, hard=True)
        return found.logits + log_kernel

    # Beside the network's parameters in both stages, so that they share a tree.
    raw = math.log(math.expm1(sigma - _LEAST_SIGMA)) if sigma < 30 else sigma - _LEAST_SIGMA
    parameters = {"semiconv": {"sigma": jnp.asarray(raw, jnp.float32)}}
    return Stages(
        build(networks, settings, parameters=parameters),
        build(networks, settings, steering=Steering(train, predict), parameters=parameters),
    )


def _located(
    features: Float[Array, "m m d"], box: Float[Array, "4"], scale: float
) -> Float[Array, "m m d"]:
    """Ψ = û + Φ at the centres of a box's cells.

    Pooled, coordinates would be clamped at the border of a level; added, they are exact.
    """
    size, channels = features.shape[1:]
    if channels < 2:
        raise ValueError(f"{channels} channels: expected 2 or more, for row and column")
    features = features.astype(box.dtype)
    at = (jnp.arange(size, dtype=box.dtype) + 0.5) / size
    rows, cols = ((box[i] + (box[i + 2] - box[i]) * at) / scale for i in (0, 1))
    place = jnp.stack(jnp.meshgrid(rows, cols, indexing="ij"), axis=-1)
    return features + jnp.pad(place, ((0, 0), (0, 0), (0, channels - 2)))


def _image_loss(
    maps: Pyramid, truth: Truth, strides: tuple[int, ...], scale: float
) -> Float[Array, " b"]:
    """The mean over the levels of how far embeddings lie from the means of their objects."""
    total = jnp.zeros(truth.valid.shape[:1], jnp.float32)
    for stride, level in zip(strides, maps, strict=True):
        psi = jax.vmap(lambda x, stride=stride: add_coordinates(x, scale=scale, stride=stride))(
            level
        )
        total += losses.instance_embedding(psi, _shrunk(truth.masks, stride), truth.valid)
    return total / len(maps)


def _shrunk(masks: Bool[Array, "b n h w"], stride: int) -> Bool[Array, "b n oh ow"]:
    """Which cells a mask covers by half or more."""
    batch, count, height, width = masks.shape
    cells = masks.reshape(batch, count, height // stride, stride, width // stride, stride)
    covered = jnp.sum(cells, axis=(3, 5), dtype=jnp.int32)
    return 2 * covered >= stride * stride
