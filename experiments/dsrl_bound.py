"""What a coarse output allows: the labels themselves, brought to its grid and back.

    python experiments/dsrl_bound.py --data CAMVID [--factors 2 4 8]

Of each class the part of every cell of N×N pixels that it covers, enlarged bilinearly, as a network
enlarges its scores; the largest is the class. What a network that knows every cell by heart would
have, and so what a finer output could bring at most, where DSRL's base is short of it.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Int

from jaxseg import data, metrics
from jaxseg.models.pooling import adaptive_average_pool
from jaxseg.models.resize import resize_bilinear
from jaxseg.types import InputError, Metric

RADII = (2, 8)


@dataclasses.dataclass(frozen=True)
class Bound:
    """Options."""

    data: Path
    """A folder of label maps."""
    split: str = "test"
    """Which part of it."""
    factors: tuple[int, ...] = (2, 4, 8)
    """N: sides of the cells, in pixels of the labels."""


def coarsened(label: Int[Array, "h w"], num_classes: int, factor: int) -> Int[Array, "h w"]:
    """The class at each pixel of labels that were brought to a coarse grid.

    Pixels of label -1 are part of no class.
    """
    height, width = label.shape
    parts = jax.nn.one_hot(label, num_classes)[None]
    cells = (-(-height // factor), -(-width // factor))
    scores = resize_bilinear(adaptive_average_pool(parts, cells), (height, width))[0]
    return jnp.argmax(scores, axis=-1)


def measure(options: Bound) -> dict[int, dict[str, float]]:
    """Figures of `metrics.confusion` and, with "trimap_", of `metrics.trimap`, by factor.

    Raises:
        InputError: an option or the data cannot be used.
    """
    if not options.factors or min(options.factors) < 1:
        raise InputError(f"factors is {options.factors}; give 1 or more each")
    source = data.open_data(options.data, options.split, channels="rgb")
    info = source.info
    if info.kind != "classes":
        raise InputError(f"{options.data}: holds {info.kind}; give data with classes")
    near = metrics.prefixed("trimap_", metrics.trimap(info.num_classes, RADII))
    metric: Metric = metrics.together(metrics.confusion(info.num_classes), near)
    bring = jax.jit(coarsened, static_argnums=(1, 2))
    sums = dict.fromkeys(options.factors)
    for i in range(len(source)):
        label = np.asarray(source[i]["label"])
        batch = {
            "label": label[None],
            "size": np.array([label.shape], np.int32),
            "weight": np.ones(1, np.float32),
        }
        for factor in options.factors:
            classes = bring(label, info.num_classes, factor)
            new = jax.device_get(metric.measure({"classes": np.asarray(classes)[None]}, batch))
            before = sums[factor]
            sums[factor] = new if before is None else metric.merge(before, new)
    return {factor: metric.compute(found) for factor, found in sums.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = tyro.cli(Bound, args=argv, description=__doc__)
    try:
        found = measure(options)
    except InputError as error:
        print(f"dsrl_bound: {error}", file=sys.stderr)
        return 2
    print(f"| cells | mIoU | {' | '.join(f'within {r} of a border' for r in RADII)} |")
    print("| --- | ---: |" + " ---: |" * len(RADII))
    for factor, figures in found.items():
        values = [figures["miou"], *(figures[f"trimap_miou_{r}"] for r in RADII)]
        print(f"| {factor}×{factor} | {' | '.join(f'{100 * v:.2f}' for v in values)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
