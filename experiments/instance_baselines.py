"""What needs no learning: the connected components of the foreground, taken as instances.

    python experiments/instance_baselines.py --data BBBC010 [--split test]

The foreground is the union of the true masks, as in `semiconv_bbbc010.py`: what remains to be
learned there is to tell objects apart that touch and cross. Prints the measures that those runs
print, with all scores 1.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32

from jaxseg import data, metrics
from jaxseg.commands.options import table
from jaxseg.recipes.instances import Config, instances_metric, open_instances
from jaxseg.types import InputError


def components(
    foreground: Bool[np.ndarray, "h w"], *, min_size: int = 1
) -> Int32[np.ndarray, "h w"]:
    """The 8-connected pieces of `min_size` pixels or more, numbered from 1; 0 for background."""
    from scipy import ndimage

    found, _ = ndimage.label(foreground, np.ones((3, 3)))
    small = np.bincount(found.ravel()) < min_size
    small[0] = True
    return np.where(small, 0, np.cumsum(~small)).astype(np.int32)[found]


def measure(
    source: data.Source, *, min_size: int = 1, max_detections: int | None = None
) -> dict[str, float]:
    """The figures of the components of the union of the masks.

    Args:
        source: of examples with `masks`.
        min_size: pixels of the smallest component.
        max_detections: of an image, for COCO's measures; None: the most objects that one holds.
    """
    if max_detections is None:
        max_detections = max((source.extent(i).maps for i in range(len(source))), default=1)
    config = Config(max_detections=max(max_detections, 1))
    metric = metrics.together(*instances_metric(config))
    sums: Any = None
    for batch in data.eval_batches(source, batch_size=1):
        foreground = np.asarray(np.any(batch["masks"], axis=1))
        found = np.stack([components(mask, min_size=min_size) for mask in foreground])
        new = metric.measure({"instances": found}, batch)
        sums = new if sums is None else metric.merge(sums, new)
    return metric.compute(sums)


def main() -> int:
    """Measures a split."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of instances")
    parser.add_argument("--split", default="test")
    parser.add_argument("--min-size", type=int, default=1, help="pixels of the smallest component")
    parser.add_argument(
        "--max-detections",
        type=int,
        help="components of an image that COCO's measures count; by default the most objects",
    )
    options = parser.parse_args()
    if options.max_detections is not None and options.max_detections < 1:
        raise InputError(f"--max-detections is {options.max_detections}; give 1 or more")
    source = open_instances(options.data, options.split)
    figures = measure(source, min_size=options.min_size, max_detections=options.max_detections)
    print(f"components of the true foreground, {options.split}")
    print(table({f"/{k}": v for k, v in figures.items()}))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        print(f"instance_baselines: {error}", file=sys.stderr)
        sys.exit(2)
