"""What is measured of a training with adaptive downsampling, beside its classes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import metrics
from jaxseg.ops.warp import (
    fold_fraction,
    project_covering,
    resize_sampling,
    sampling_targets,
    uniform_sampling,
)
from jaxseg.types import Batch, Metric, Prediction

RADII = (1, 2, 4, 8, 16, 32, 64)
"""Pixels, of trimaps; those of Marin et al. are not known."""
BINS = 8
"""Of the sizes of objects."""


def classes(
    num_classes: int, names: tuple[str, ...], targets: tuple[int, ...], *, details: bool
) -> Metric:
    """Mean IoU over all and over target classes; in detail also near borders and by object size."""
    plain = metrics.confusion(num_classes, names=names, target_classes=targets)
    if not details:
        return plain
    return metrics.together(
        plain,
        metrics.prefixed("trimap_", metrics.trimap(num_classes, RADII)),
        metrics.size_recall(num_classes, BINS, target_classes=targets),
    )


def sampling(
    grid: tuple[int, int], *, smoothness: float, target_classes: tuple[int, ...] | None
) -> Metric:
    """How far a sampler's nodes are from those that the labels ask for; it runs on the host.

    - `rms`: root mean square of the distance over all nodes, as a part of the image's sides, of
      images that have a boundary of a target.
    - `rms_uniform`: the same of an even grid: what it is before anything is learned.
    - `folded`: the part of the cells that are still folded.
    - `images`: with such a boundary.

    `measure` needs `coords` `[B, h, w, 2]` of the prediction, `label`, `size` and `weight`.

    Args:
        grid: of the sampler.
        smoothness: on this grid.
        target_classes: see `ops.warp.sampling_targets`.
    """

    @functools.partial(jax.jit, static_argnames="nodes")
    def compare(label: Any, coords: Any, nodes: tuple[int, int]) -> Any:
        asked = sampling_targets(label, grid, smoothness=smoothness, target_classes=target_classes)
        found = jnp.any(asked != jnp.asarray(uniform_sampling(grid)))
        asked = project_covering(resize_sampling(asked, nodes))
        even = jnp.asarray(uniform_sampling(nodes))
        off = [jnp.mean(jnp.sum((x - asked) ** 2, axis=-1)) for x in (coords, even)]
        return found, *off, fold_fraction(coords)

    def measure(prediction: Prediction, batch: Batch) -> dict[str, Any]:
        label, size = np.asarray(batch["label"]), np.asarray(batch["size"])
        sums = {"squares": 0.0, "even": 0.0, "folded": 0.0, "found": 0, "images": 0}
        for i in np.flatnonzero(np.asarray(batch["weight"]) > 0):
            coords = jnp.asarray(prediction["coords"][i])
            part = jnp.asarray(label[i, : size[i, 0], : size[i, 1]])
            nodes = (coords.shape[0], coords.shape[1])
            found, squares, even, folded = compare(part, coords, nodes)
            sums["folded"] += float(folded)
            sums["images"] += 1
            if found:
                sums["squares"] += float(squares)
                sums["even"] += float(even)
                sums["found"] += 1
        return sums

    def merge(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        return {name: a[name] + b[name] for name in a}

    def compute(sums: dict[str, Any]) -> dict[str, float]:
        def mean(part: str, whole: str) -> float:
            return sums[part] / sums[whole] if sums[whole] else float("nan")

        return {
            "rms": mean("squares", "found") ** 0.5,
            "rms_uniform": mean("even", "found") ** 0.5,
            "folded": mean("folded", "images"),
            "images": float(sums["found"]),
        }

    return Metric(measure, merge, compute)
