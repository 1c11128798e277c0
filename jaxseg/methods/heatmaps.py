"""Keypoints by heatmaps: what a network's maps are compared with, and which points they show."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.methods.tasks import Task
from jaxseg.ops.color import at_least_float32
from jaxseg.ops.heatmap import gaussian_heatmaps, heatmap_argmax, heatmap_peaks
from jaxseg.types import Batch, Prediction


def task(
    num_kinds: int,
    *,
    sigma: float,
    max_points: int | None = None,
    window: int = 3,
    threshold: float = 0.1,
    foreground: float = 0.0,
    ignore_absent: bool = False,
) -> Task:
    """Keypoints as a task: one map for every kind of point, high where there is one.

    Batches hold `points` `[B, P, 2]` (row, column) in pixels of the image and `kinds` `[B, P]`
    int32, the map of each, -1 where there is no point. What the network gives is compared as it is,
    without a sigmoid, with `ops.heatmap.gaussian_heatmaps`:

        loss = Σ w · (output - target)² / Σ w,    w = 1 + foreground · target,

    over the pixels and kinds of an example, those beyond its `size` left out. With `foreground` 0
    that is the mean squared error of Tompson et al. (NIPS 2014) and of HRNet (Sun et al., CVPR
    2019), which train at a quarter of the image's size. Where points are few and small in a large
    image, nearly all of that mean is background; a `foreground` of 10 or more weighs them up, as
    the weighted loss map of adaptive wing loss does (Wang, Bo, Fuxin, ICCV 2019; there by a
    dilated mask).

    The loss's metrics hold `at_points`, the output at the pixels nearest to the points, the mean
    over each example's points inside the image (0 without any): about 1 once it has been learned.

    The prediction is {"points" `[B, P, 2]` in pixels of the image, "kinds" `[B, P]`, "scores"
    `[B, P]`}; a place without a point has kind -1 and score 0. Points are found in the output as it
    is, and scaled to the image.

    Args:
        num_kinds: K, the channels of the output.
        sigma: of the Gaussians, in pixels of the image.
        max_points: P of the prediction, by falling score (`ops.heatmap.heatmap_peaks`); None: the
            highest pixel of each kind, P = K, unless it is 0 or less.
        window: see `heatmap_peaks`; in pixels of the output.
        threshold: see `heatmap_peaks`.
        foreground: how much more than 1 a pixel on a point weighs.
        ignore_absent: whether a kind of which an example has no point does not count in its loss
            (a joint that was not labelled), or else is background (an object that is not there).

    Raises:
        ValueError: an option is out of range; in `loss` and `predict`: another number of channels.
    """
    for name, value in (("num_kinds", num_kinds), ("max_points", max_points)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: expected 1 or more")
    if window < 3 or window % 2 == 0:
        raise ValueError(f"window={window}: expected an odd number from 3 on")
    if not threshold >= 0:
        raise ValueError(f"threshold={threshold}: expected 0 or more")
    if not 0 < sigma < math.inf or not 0 <= foreground < math.inf:
        raise ValueError(
            f"sigma={sigma}, foreground={foreground}: expected a positive finite number, and 0 or "
            "more"
        )

    def check(output: Array) -> None:
        if output.shape[-1] != num_kinds:
            raise ValueError(f"{output.shape[-1]} maps: expected {num_kinds}, one for each kind")

    def one_loss(
        output: Float[Array, "h w k"], points: Array, kinds: Array, size: Array
    ) -> tuple[Array, Array]:
        shape = output.shape[0], output.shape[1]
        target = gaussian_heatmaps(points, kinds, shape=shape, num_kinds=num_kinds, sigma=sigma)
        target = target.astype(output.dtype)
        rows, cols = (jnp.arange(n, dtype=size.dtype) < size[i] for i, n in enumerate(shape))
        counts = (rows[:, None] & cols[None])[..., None]
        if ignore_absent:
            known = kinds[:, None] == jnp.arange(num_kinds, dtype=kinds.dtype)[None]
            counts &= jnp.any(known, axis=0)[None, None]
        weight = jnp.where(counts, 1 + foreground * target, jnp.zeros_like(target))
        weight = jnp.broadcast_to(weight, output.shape)
        total = jnp.sum(weight)
        # 0 rather than NaN where nothing counts, even times an output that is not finite.
        error = jnp.where(counts, output - target, jnp.zeros_like(output))
        loss = jnp.sum(weight * jnp.square(error)) / jnp.where(total > 0, total, 1)
        return loss, _at_points(output, points, kinds, size)

    def loss(
        output: Float[Array, "b h w c"], batch: Batch
    ) -> tuple[Float[Array, " b"], Mapping[str, Array]]:
        check(output)
        values, at_points = jax.vmap(one_loss)(
            at_least_float32(output), batch["points"], batch["kinds"], batch["size"]
        )
        return values, {"at_points": at_points}

    def one_prediction(output: Float[Array, "h w k"], scale: Float[Array, " 2"]) -> Prediction:
        if max_points is not None:
            points, kinds, scores = heatmap_peaks(
                output, max_points=max_points, window=window, threshold=threshold
            )
        else:
            points, scores = heatmap_argmax(output)
            kinds = jnp.where(scores > 0, jnp.arange(num_kinds, dtype=jnp.int32), -1)
        found = kinds >= 0
        # The borders of the map are those of the image, not the centres of its pixels.
        points = (points + 0.5) * scale[None] - 0.5
        nothing = jnp.zeros((), output.dtype)
        return {
            "points": jnp.where(found[:, None], points, nothing),
            "kinds": kinds,
            "scores": jnp.where(found, scores, nothing),
        }

    def predict(output: Float[Array, "b h w c"], size: tuple[int, int]) -> Prediction:
        check(output)
        output = at_least_float32(output)
        scale = [after / before for after, before in zip(size, output.shape[1:3], strict=True)]
        return jax.vmap(one_prediction, (0, None))(output, jnp.array(scale, output.dtype))

    return Task(num_kinds, loss, predict)


def _at_points(
    output: Float[Array, "h w k"], points: Array, kinds: Array, size: Array
) -> Float[Array, ""]:
    """The mean of the output at the pixels of the points, without a gradient."""
    output = jax.lax.stop_gradient(output)
    pixels = jnp.round(points)
    inside = (pixels >= 0) & (pixels < size[None].astype(points.dtype))
    counts = jnp.all(inside, axis=1) & (kinds >= 0) & (kinds < output.shape[-1])
    rows, cols = (jnp.where(counts, pixels[:, i], 0).astype(jnp.int32) for i in (0, 1))
    values = jnp.where(counts, output[rows, cols, jnp.where(counts, kinds, 0)], 0)
    return jnp.sum(values) / jnp.maximum(jnp.sum(counts), 1)
