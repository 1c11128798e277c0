"""Several trained superpixels on the data of one experiment, at equal numbers of regions."""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg.predictor import load
from jaxseg.train import Evaluation, Experiment
from jaxseg.train.evaluate import evaluate
from jaxseg.train.sharding import data_mesh, replicated
from jaxseg.types import InputError

Curve = dict[str, list[float]]
"""Figures by name, "regions" among them, by rising numbers of regions."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Measures trained runs on this experiment's data, at equal numbers of regions."""

    data: Path
    """The folder of the data."""
    runs: tuple[str, ...]
    """Folders of runs, or names of weights, trained on whatever it was."""
    variant: str = ""
    """Whose data and numbers of superpixels are taken; by default the first."""
    split: str = "test"
    """Which part of the data."""
    at: tuple[int, ...] = (100, 200, 400)
    """Numbers of regions at which the curves are read."""
    requested: tuple[int, ...] = ()
    """Numbers that are asked for; by default those of the variant."""
    limit: int = 0
    """Only so many images, for a quick look; 0: all."""


def main(
    variants: Mapping[str, Any],
    build: Callable[[Any], Experiment],
    *,
    figures: Sequence[str],
    argv: Sequence[str] | None = None,
) -> None:
    """The command of an experiment file: parses, measures each run, prints a markdown table.

    Args:
        variants: of the experiment file.
        build: of the experiment file.
        figures: of its metric, to be printed; the first is read at equal numbers of regions.
        argv: None: of the process.
    """
    import tyro

    options = tyro.cli(Table, args=argv)
    try:
        _print(options, variants, build, figures)
    except InputError as error:
        sys.exit(f"{' '.join(str(error).split())}")


def _print(options: Table, variants: Mapping[str, Any], build: Any, figures: Sequence[str]):
    variant = options.variant or next(iter(variants))
    if variant not in variants:
        raise InputError(f"no variant {variant!r}; there are {', '.join(variants)}")
    if not options.data.is_dir():
        raise InputError(f"{options.data}: no such data folder; check --data")
    config = variants[variant]
    if options.requested:
        config = dataclasses.replace(config, evaluation_superpixels=options.requested)
    rows = build(config).evaluations(options.data, options.split)
    first = figures[0]
    if options.limit:
        print(f"a subset: {options.limit} images\n")
    names = [f"{first} at {n}" for n in options.at]
    print(f"| {options.split} | " + " | ".join(names) + f" | regions / {' / '.join(figures)} |")
    print("|---" * (len(names) + 2) + "|")
    for run in options.runs:
        curve = measure(run, rows, limit=options.limit)
        read = read_at(curve["regions"], curve[first], options.at)
        cells = ["-" if np.isnan(value) else f"{value:.4f}" for value in read]
        points = zip(curve["regions"], *(curve[name] for name in figures), strict=True)
        measured = ", ".join(
            " / ".join([f"{n:.0f}", *(f"{value:.4f}" for value in values)]) for n, *values in points
        )
        print(f"| {Path(run).name} | " + " | ".join(cells) + f" | {measured} |", flush=True)


def measure(run: str, rows: Mapping[str, Evaluation], *, limit: int = 0) -> Curve:
    """The figures of a run on the rows of another experiment.

    Args:
        run: a run's folder or the name of weights; see `jaxseg.load`.
        rows: called by the number of superpixels that is asked for.
        limit: batches of a row that are measured; 0: all.

    Raises:
        InputError: if it is no such run, or one that does not make superpixels.
    """
    from tqdm import tqdm

    predictor = load(run)

    def shown(batches: Iterable, name: str) -> Iterable:
        some = itertools.islice(batches, limit or None)
        label = f"{Path(run).name} {name}"
        return tqdm(some, desc=label, unit="batch", disable=not sys.stderr.isatty())

    try:
        own = {
            name: row._replace(method=predictor.experiment.method(num_superpixels=int(name)))
            for name, row in rows.items()
        }
    except TypeError:
        raise InputError(f"{run}: is no run of superpixels; give one") from None
    mesh = data_mesh()
    params, model_state = jax.device_put(
        (predictor.params, predictor.model_state), replicated(mesh)
    )
    found = evaluate(own, params, model_state, mesh, progress=shown)
    order = sorted(own, key=lambda name: found[f"{name}/regions"])
    figures = dict.fromkeys(key.partition("/")[2] for key in found)
    return {figure: [found[f"{name}/{figure}"] for name in order] for figure in figures}


def read_at(regions: Sequence[float], values: Sequence[float], at: Sequence[int]) -> np.ndarray:
    """Reads a curve at numbers of regions, linearly in their logarithm; NaN outside of it.

    Args:
        regions: the mean numbers produced, rising.
        values: the figure at each.
        at: where to read.
    """
    return np.interp(np.log(at), np.log(regions), values, left=np.nan, right=np.nan)
