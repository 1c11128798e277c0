"""Superpixels at equal numbers of regions: evaluated runs beside SLIC, on the same pairs.

    python experiments/compare_superpixels.py --data BSDS500 --runs RUN [RUN ...] [-o FILE.png]

A run must have been evaluated (`jaxseg evaluate RUN --data BSDS500 --split test`). Accuracy is
interpolated linearly in the logarithm of the mean number of regions produced. All are made
connected by the rule of SSN's authors; scikit-image's SLIC also by its own, which is its default.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro

from jaxseg import data, metrics, viz
from jaxseg.ops.connectivity import enforce_connectivity, official_sizes
from jaxseg.ops.slic import slic

Curve = dict[str, list[float]]


@dataclasses.dataclass(frozen=True)
class Compare:
    """Options."""

    data: Path
    """A folder of segmentations."""
    runs: tuple[Path, ...] = ()
    """Folders of evaluated runs."""
    split: str = "test"
    """Which part of the data."""
    at: tuple[int, ...] = (100, 200, 400)
    """Numbers of regions at which the curves are read."""
    requested: tuple[int, ...] = (50, 100, 150, 300, 600)
    """Numbers that SLIC is asked for."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("superpixels.png")
    """The picture of the curves."""


def main() -> None:
    """Measures SLIC, reads the runs, prints the table, draws the curves."""
    options = tyro.cli(Compare)
    curves = {run.name: _read(run, options.split) for run in options.runs}
    source = data.open_data(
        options.data, options.split, annotations="all", as_partition=True, cache_bytes=1 << 30
    )
    peers: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
        "jaxseg slic": _ours,
        "scikit-image slic": _theirs,
        "scikit-image default": _theirs_by_default,
    }
    for name, segment in peers.items():
        curves[name] = _measure(source, segment, options.requested)
    print(
        f"{'':<20}" + "".join(f"{f'ASA at {n}':>12}" for n in options.at) + "   produced / ASA / CO"
    )
    for name, curve in curves.items():
        read = np.interp(np.log(options.at), np.log(curve["regions"]), curve["asa"])
        outside = [not curve["regions"][0] <= n <= curve["regions"][-1] for n in options.at]
        cells = ["-" if out else f"{asa:.4f}" for asa, out in zip(read, outside, strict=True)]
        points = zip(curve["regions"], curve["asa"], curve["co"], strict=True)
        measured = ", ".join(f"{n:.0f} / {asa:.4f} / {co:.2f}" for n, asa, co in points)
        print(f"{name:<20}" + "".join(f"{c:>12}" for c in cells) + f"   {measured}")
    picture = viz.curve_plot(
        {name: (curve["regions"], curve["asa"]) for name, curve in curves.items()},
        xlabel="regions produced",
        ylabel="achievable segmentation accuracy",
        title=f"{options.data.name}, {options.split}",
    )
    data.write_image(options.out, picture)
    print(f"curves: {options.out}")


def _read(run: Path, split: str) -> Curve:
    figures = json.loads((run / f"evaluation_{split}.json").read_text())["figures"]
    rows = sorted({name.split("/")[0] for name in figures}, key=lambda n: figures[f"{n}/regions"])
    return {c: [figures[f"{row}/{c}"] for row in rows] for c in ("regions", "asa", "co")}


def _measure(source, segment, requested) -> Curve:
    metric = metrics.superpixel()
    curve: Curve = {"regions": [], "asa": [], "co": []}
    for number in requested:
        sums = None
        for batch in data.eval_batches(source, batch_size=1):
            labels = segment(np.asarray(batch["image"][0]), number)
            new = metric.measure({"superpixels": labels[None]}, batch)
            sums = new if sums is None else metric.merge(sums, new)
        figures = metric.compute(sums)
        for name in curve:
            curve[name].append(figures[name])
    return curve


_slic = jax.jit(slic, static_argnums=1)


def _connected(labels: np.ndarray, number: int) -> np.ndarray:
    smallest, largest = official_sizes(labels.shape, number)
    return enforce_connectivity(labels, min_size=smallest, max_size=largest)


def _ours(image: np.ndarray, number: int) -> np.ndarray:
    return _connected(np.asarray(_slic(image / np.float32(255), number)), number)


def _theirs(image: np.ndarray, number: int) -> np.ndarray:
    from skimage.segmentation import slic as skimage_slic

    labels = skimage_slic(image, n_segments=number, start_label=0, enforce_connectivity=False)
    return _connected(labels.astype(np.int32), number)


def _theirs_by_default(image: np.ndarray, number: int) -> np.ndarray:
    """With its own rule, which merges whatever is below half the mean size."""
    from skimage.segmentation import slic as skimage_slic

    return skimage_slic(image, n_segments=number, start_label=0)


if __name__ == "__main__":
    main()
