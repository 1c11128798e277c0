"""Superpixel Sampling Networks: superpixels learned through a differentiable SLIC.

Jampani, Sun, Liu, Yang, Kautz: "Superpixel Sampling Networks", ECCV 2018 (arXiv:1807.10174);
constants from the released Caffe code. A pixel is described by its scaled position and colour and
by learned features (`models.ssn`); soft k-means on them gives affinities, which are trained to
keep the labels of a segmentation, or any other property of pixels, recoverable.

Deviations:
    - the position scale in training follows the paper's formula; the released training script has
      twice that (0.25 at 201×201 pixels and 100 superpixels). `position_scale` multiplies both.
    - a label beyond the `num_labels`-th is ignored; the released code takes it for the first one.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxseg import losses
from jaxseg.models import ssn as networks
from jaxseg.ops.color import rgb_to_lab, to_float
from jaxseg.ops.connectivity import enforce_connectivity, official_sizes
from jaxseg.ops.slic import SoftAssignment, grid_shape, hard_labels, soft_slic
from jaxseg.types import Batch, LossOutput, Method, Network, Prediction, PyTree

COLOR_SCALE = 0.26
POSITION_SCALE = 2.5


def method(
    network: Network | None = None,
    *,
    num_superpixels: int = 100,
    num_iters: int = 10,
    train_iters: int = 5,
    compactness: float = 1e-5,
    position_scale: float = POSITION_SCALE,
    color_scale: float = COLOR_SCALE,
    num_labels: int = 50,
) -> Method:
    """SSN as a `Method`.

    Batches need `image`; the loss also `label` `[B, H, W]` or, to learn another property of
    pixels, a float32 `target` `[B, H, W, C]`. The prediction is {"superpixels": `[B, H, W]`}; its
    `finish` makes the regions 4-connected by the official rule and numbers them from 0.

    Args:
        network: of `models.ssn`; None: SSN_pix.
        num_superpixels: K wanted in an image of the batch's size.
        num_iters: v of the paper when predicting.
        train_iters: v when training.
        compactness: weight λ of the compactness loss, a sum over pixels in scaled units.
        position_scale: η; positions are scaled by γ_p = η · max(rows / H, cols / W).
        color_scale: γ_c, of CIE Lab.
        num_labels: the most segments that count in one label map.
    """
    network = networks.pix() if network is None else network

    def assign(variables: Any, batch: Batch, iters: int, **options: Any):
        image = jax.vmap(to_float)(batch["image"])
        grid = grid_shape(image.shape[1], image.shape[2], num_superpixels)
        inputs = input_features(image, grid, position_scale=position_scale, color_scale=color_scale)
        with jax.named_scope("network"):
            features, model_state = network.apply(variables, inputs, **options)
        with jax.named_scope("soft_slic"):
            soft = jax.vmap(lambda f: soft_slic(f, grid, num_iters=iters))(features)
        return soft, grid, model_state

    def init(key: Array, batch: Batch, /) -> tuple[PyTree, PyTree]:
        image = batch["image"]
        inputs = jnp.zeros((*image.shape[:3], networks.NUM_INPUTS))
        variables = network.init(key, inputs)
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
        variables = {"params": params, "batch_stats": model_state}
        weight = batch["weight"]
        soft, grid, model_state = assign(
            variables, batch, train_iters, train=True, mask=weight > 0, axis_name=axis_name
        )
        target = batch["target"] if "target" in batch else batch["label"]
        with jax.named_scope("reconstruction"):
            recon = losses.reconstruction(soft.affinity, target, grid, num_labels=num_labels)
        with jax.named_scope("compactness"):
            scale = _pixel_scale(batch["image"].shape[1:3], grid, position_scale)
            compact = losses.compactness(soft.affinity, grid, position_scale=scale)
        metrics = {"reconstruction": recon, "compactness": compact}
        return recon + compactness * compact, LossOutput(model_state, weight, metrics)

    def predict(params: PyTree, model_state: PyTree, batch: Batch, /) -> Prediction:
        variables = {"params": params, "batch_stats": model_state}
        soft, grid, _ = assign(variables, batch, num_iters)
        return {"superpixels": jax.vmap(lambda q: hard_labels(q, grid))(soft.affinity)}

    def finish(prediction: Prediction, batch: Batch, /) -> Prediction:
        labels = np.asarray(prediction["superpixels"])
        smallest, largest = official_sizes(labels.shape[1:], num_superpixels)
        connected = [
            enforce_connectivity(one, min_size=smallest, max_size=largest) for one in labels
        ]
        return {**prediction, "superpixels": np.stack(connected)}

    return Method(init, loss, predict, finish)


def input_features(
    image: Float[Array, "b h w 3"],
    grid: tuple[int, int],
    *,
    position_scale: float = POSITION_SCALE,
    color_scale: float = COLOR_SCALE,
) -> Float[Array, "b h w 5"]:
    """The network's inputs: γ_p·y, γ_p·x, γ_c·L, γ_c·a, γ_c·b; y and x in pixels from 0.

    Args:
        image: RGB in [0, 1].
        grid: rows and columns of superpixels, which set γ_p.
        position_scale: η of `method`.
        color_scale: γ_c.
    """
    batch, height, width, _ = image.shape
    scale = _pixel_scale((height, width), grid, position_scale)
    lab = color_scale * jax.vmap(rgb_to_lab)(image)
    rows, cols = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    position = (scale * jnp.stack([rows, cols], axis=-1)).astype(lab.dtype)
    position = jnp.broadcast_to(position[None], (batch, height, width, 2))
    return jnp.concatenate([position, lab], axis=-1)


def superpixels(
    params: PyTree,
    model_state: PyTree,
    image: Float[Array, "h w 3"],
    network: Network | None = None,
    *,
    num_superpixels: int = 100,
    num_iters: int = 10,
    position_scale: float = POSITION_SCALE,
    color_scale: float = COLOR_SCALE,
) -> SoftAssignment:
    """The soft superpixels of one image, for use in one's own code: affinities and centres.

    Args:
        params: of `method(network).init`.
        model_state: likewise.
        image: RGB in [0, 1].
        network: None: SSN_pix, with {} for `params` and `model_state`.
        num_superpixels: see `method`, as the other options.
        num_iters: v.
        position_scale: η.
        color_scale: γ_c.
    """
    network = networks.pix() if network is None else network
    grid = grid_shape(image.shape[0], image.shape[1], num_superpixels)
    inputs = input_features(
        image[None], grid, position_scale=position_scale, color_scale=color_scale
    )
    features, _ = network.apply({"params": params, "batch_stats": model_state}, inputs)
    return soft_slic(features[0], grid, num_iters=num_iters)


def _pixel_scale(size: tuple[int, ...], grid: tuple[int, int], position_scale: float) -> float:
    return position_scale * max(grid[0] / size[0], grid[1] / size[1])
