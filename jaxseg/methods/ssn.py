"""Superpixel Sampling Networks: superpixels learned through a differentiable SLIC.

Jampani, Sun, Liu, Yang, Kautz: "Superpixel Sampling Networks", ECCV 2018 (arXiv:1807.10174);
constants from the released Caffe code. A pixel is described by its scaled position and colour and
by learned features (`models.ssn`); soft k-means on them gives affinities, which are trained to
keep the labels of a segmentation, or any other property of pixels, recoverable.

Deviations:
    - the position scale in training follows the paper's formula; the released training script has
      twice that (0.25 at 201×201 pixels and 100 superpixels). `position_scale` multiplies both.
    - a label beyond the `num_labels`-th is ignored; the released code takes it for the first one.
    - `position_offset` (off by default) moves the positions that a training crop reports, as though
      it were cut from a larger image: the network sees positions, and those of a whole image lie
      far outside what crops would teach it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from jaxseg import losses
from jaxseg.methods._buckets import Bucket, bucket_batch, plan_buckets
from jaxseg.models import ssn as networks
from jaxseg.ops.color import rgb_to_lab, to_float
from jaxseg.ops.connectivity import enforce_connectivity, official_sizes
from jaxseg.ops.slic import SoftAssignment, grid_shape, hard_labels, soft_slic
from jaxseg.types import Batch, LossOutput, Method, Network, Prediction, PyTree

__all__ = [
    "COLOR_SCALE",
    "POSITION_SCALE",
    "Bucket",
    "bucket_batch",
    "input_features",
    "method",
    "plan_buckets",
    "superpixels",
]

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
    position_offset: float = 0.0,
    num_labels: int = 50,
) -> Method:
    """SSN as a `Method`.

    Batches need `image`; the loss also `label` `[B, H, W]` or, to learn another property of
    pixels, a float32 `target` `[B, H, W, C]`. The prediction is {"superpixels": `[B, H, W]`}; its
    `finish` makes the regions of each image, of its `size`, 4-connected by the official rule and
    numbers them from 0; beyond the image, and in examples of weight 0, it gives -1.

    Images of several sizes are predicted in one padded batch, each as though alone, if the batch
    has the maps `cell_rows` and `cell_cols` of `bucket_batch` beside `image` and `size`. Without
    them every image fills its array.

    Args:
        network: of `models.ssn`; None: SSN_pix.
        num_superpixels: K wanted in an image of the batch's size.
        num_iters: v of the paper when predicting.
        train_iters: v when training.
        compactness: weight λ of the compactness loss, a sum over pixels in scaled units.
        position_scale: η; positions are scaled by γ_p = η · max(rows / H, cols / W).
        color_scale: γ_c, of CIE Lab.
        position_offset: in training, positions start at a random place up to this many pixels
            down and right, drawn for each example; 0 starts all at the origin.
        num_labels: the most segments that count in one label map.
    """
    network = networks.pix() if network is None else network

    def assign(variables: Any, batch: Batch, iters: int, origin: Any = None, **options: Any):
        image = jax.vmap(to_float)(batch["image"])
        grid = grid_shape(image.shape[1], image.shape[2], num_superpixels)
        inputs = input_features(
            image, grid, position_scale=position_scale, color_scale=color_scale, origin=origin
        )
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
        origin = None
        if position_offset:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])
            draw = functools.partial(jax.random.uniform, shape=(2,), maxval=position_offset)
            origin = jax.vmap(draw)(keys)
        soft, grid, model_state = assign(
            variables,
            batch,
            train_iters,
            origin,
            train=True,
            mask=weight > 0,
            axis_name=axis_name,
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
        if "cell_rows" in batch:
            return {"superpixels": predict_padded(variables, batch)}
        soft, grid, _ = assign(variables, batch, num_iters)
        return {"superpixels": jax.vmap(lambda q: hard_labels(q, grid))(soft.affinity)}

    def predict_padded(variables: Any, batch: Batch) -> Array:
        image, size = jax.vmap(to_float)(batch["image"]), batch["size"]
        cells = batch["cell_rows"], batch["cell_cols"]
        counts = jnp.stack([jnp.any(cell >= 0, axis=2).sum(axis=1) for cell in cells], axis=1)
        scale = position_scale * jnp.max(counts / size, axis=1)
        y, x = (jnp.arange(side, dtype=size.dtype)[None] for side in image.shape[1:3])
        mask = (y < size[:, :1])[:, :, None] & (x < size[:, 1:])[:, None, :]
        inputs = _position_and_color(image, scale, color_scale)
        with jax.named_scope("network"):
            features, _ = network.apply(variables, inputs, mask=mask)
        cluster = functools.partial(_cluster_cells, num_iters=num_iters)
        return jnp.where(mask, jax.vmap(cluster)(features, *cells, counts[:, 1]), -1)

    def finish(prediction: Prediction, batch: Batch, /) -> Prediction:
        labels = np.asarray(prediction["superpixels"])
        connected = np.full(labels.shape, -1, np.int32)
        for i in np.flatnonzero(np.asarray(batch["weight"]) > 0):
            height, width = (int(side) for side in np.asarray(batch["size"])[i])
            smallest, largest = official_sizes((height, width), num_superpixels)
            connected[i, :height, :width] = enforce_connectivity(
                labels[i, :height, :width], min_size=smallest, max_size=largest
            )
        return {**prediction, "superpixels": connected}

    return Method(init, loss, predict, finish)


def input_features(
    image: Float[Array, "b h w 3"],
    grid: tuple[int, int],
    *,
    position_scale: float = POSITION_SCALE,
    color_scale: float = COLOR_SCALE,
    origin: Float[Array, "b 2"] | None = None,
) -> Float[Array, "b h w 5"]:
    """The network's inputs: γ_p·y, γ_p·x, γ_c·L, γ_c·a, γ_c·b; y and x in pixels.

    Args:
        image: RGB in [0, 1].
        grid: rows and columns of superpixels, which set γ_p.
        position_scale: η of `method`.
        color_scale: γ_c.
        origin: y and x of the first pixel; 0 if None.
    """
    scale = _pixel_scale(image.shape[1:3], grid, position_scale)
    return _position_and_color(image, jnp.asarray([scale]), color_scale, origin)


def _position_and_color(
    image: Float[Array, "b h w 3"],
    scale: Float[Array, "#b"],
    color_scale: float,
    origin: Float[Array, "b 2"] | None = None,
) -> Float[Array, "b h w 5"]:
    lab = color_scale * jax.vmap(rgb_to_lab)(image)
    scale = scale.astype(lab.dtype).reshape(-1, 1, 1, 1)
    rows, cols = (jnp.arange(side, dtype=lab.dtype) for side in image.shape[1:3])
    position = scale * jnp.stack(jnp.meshgrid(rows, cols, indexing="ij"), axis=-1)[None]
    if origin is not None:
        position = position + scale * origin[:, None, None].astype(lab.dtype)
    position = jnp.broadcast_to(position, (*image.shape[:3], 2))
    return jnp.concatenate([position, lab], axis=-1)


def _cluster_cells(
    features: Float[Array, "h w c"],
    cell_rows: Int[Array, "rows slots_y"],
    cell_cols: Int[Array, "cols slots_x"],
    num_cols: Int[Array, ""],
    *,
    num_iters: int,
) -> Int[Array, "h w"]:
    """Superpixels of an image whose cells differ from the static grid's; see `bucket_batch`.

    The cells are laid out side by side at the size of the static ones, the image's own in the upper
    left part of the grid. A cell, or a part of one, that the image does not fill is masked.
    """
    grid = cell_rows.shape[0], cell_cols.shape[0]
    rows, cols = cell_rows.reshape(-1), cell_cols.reshape(-1)
    with jax.named_scope("soft_slic"):
        laid_out = _take(_take(features, rows, 0), cols, 1)
        filled = (rows >= 0)[:, None] & (cols >= 0)[None, :]
        soft = soft_slic(laid_out, grid, num_iters=num_iters, mask=filled)
        labels = hard_labels(soft.affinity, grid)
    labels = labels // grid[1] * num_cols + labels % grid[1]
    back = (_inverse(of, side) for of, side in zip((rows, cols), features.shape, strict=False))
    return _take(_take(labels, next(back), 0), next(back), 1)


def _take(x: Num[Array, "h w *c"], index: Int[Array, " n"], axis: int) -> Num[Array, "_ _ *c"]:
    return jnp.take(x, index, axis=axis, mode="clip")


def _inverse(index: Int[Array, " n"], length: int) -> Int[Array, " length"]:
    """The place of 0, 1, ... in `index`; 0 for what is not there."""
    target = jnp.where(index >= 0, index, length)  # -1 would be the last
    places = jnp.arange(len(index), dtype=index.dtype)
    return jnp.zeros(length, index.dtype).at[target].set(places, mode="drop")


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
