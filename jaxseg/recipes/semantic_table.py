"""Evaluated runs of a semantic experiment side by side."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.recipes.semantic import Config
from jaxseg.train.run_folder import RESUMABLE
from jaxseg.types import InputError

_ASIDE = ("seed", *RESUMABLE)


def table(runs: Sequence[Path], split: str, variants: Mapping[str, Config]) -> str:
    """Mean and range of mIoU and pixel accuracy over the seeds, for each variant and steps.

    The figures are those of an evaluation's first row.

    Args:
        runs: folders of runs, each evaluated on the split.
        split: such as "test".
        variants: of the experiment, by name.

    Raises:
        InputError: a folder is no evaluated run.
    """
    found: dict[tuple[str, int], list[tuple[int, float, float]]] = {}
    for run in runs:
        config = _json(run, "config.json")["config"]
        figures = _json(run, f"evaluation_{split}.json")["figures"]
        try:
            row = next(iter(figures)).partition("/")[0]
            cells = config["seed"], figures[f"{row}/miou"], figures[f"{row}/pixel_accuracy"]
            key = variant_of(config, variants), config["steps"]
        except (KeyError, StopIteration) as error:
            raise InputError(f"{run}: no run of semantic segmentation ({error})") from error
        found.setdefault(key, []).append(cells)
    width = max(10, *(len(name) + 2 for name, _ in found))
    lines = [f"{'':<{width}}{'steps':>7}{'seeds':>9}{'mIoU':>8}{'range':>16}{'accuracy':>10}"]
    for (name, steps), seen in found.items():
        seeds = ",".join(str(seed) for seed, _, _ in sorted(seen))
        miou, accuracy = 100 * np.array([[m, a] for _, m, a in seen]).T
        spread = f"{miou.min():.2f} - {miou.max():.2f}"
        lines.append(
            f"{name:<{width}}{steps:>7}{seeds:>9}{miou.mean():>8.2f}{spread:>16}"
            f"{accuracy.mean():>10.2f}"
        )
    return "\n".join(lines)


def variant_of(config: Mapping[str, Any], variants: Mapping[str, Config]) -> str:
    """The variant that a run's config was made of, seed and numbers of steps aside; or "other".

    Fields that the run's jaxseg did not have yet count as the present default.
    """
    fresh = _plain(Config())
    told = fresh | dict(config) | dict.fromkeys(_ASIDE)
    for name, variant in variants.items():
        if _plain(variant) | dict.fromkeys(_ASIDE) == told:
            return name
    return "other"


def validation_curve(run: Path, figure: str = "miou") -> tuple[list[int], list[float]]:
    """Steps and values of a figure that was measured during a training.

    Raises:
        InputError: the folder is no run.
    """
    path = run / "metrics.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give the folder of a run") from error
    points = [
        (line["step"], value)
        for line in lines
        for name, value in line.items()
        if name.rpartition("/")[2] == figure and "/" in name
    ]
    return [step for step, _ in points], [value for _, value in points]


def _plain(config: Config) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _json(run: Path, name: str) -> dict[str, Any]:
    try:
        return json.loads((run / name).read_text())
    except FileNotFoundError:
        raise InputError(f"{run / name}: missing; train and evaluate {run} first") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{run / name}: damaged ({error}); evaluate {run} again") from error
