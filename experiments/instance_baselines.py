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
from jaxseg.recipes.instances import instances_metric
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


def measure(source: data.Source, *, min_size: int = 1) -> dict[str, float]:
    """The figures of the components of the union of the masks."""
    metric = metrics.together(*instances_metric())
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
    options = parser.parse_args()
    source = data.open_data(options.data, options.split)
    print(f"components of the true foreground, {options.split}")
    print(table({f"/{k}": v for k, v in measure(source, min_size=options.min_size).items()}))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        print(f"instance_baselines: {error}", file=sys.stderr)
        sys.exit(2)
