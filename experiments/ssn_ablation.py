"""What makes SSN better: its network, the k features, the v iterations; at equal steps.

    python experiments/ssn_ablation.py --data BSDS500 -o DIR [--steps 300]

SSN without a network, with a linear one and with the deep one, for every k and v (Jampani et al.,
ECCV 2018, section 5). All train with 5 iterations, as published; v is that of prediction. The
numbers of the training are those of the variant `small` of ssn_bsds500.py, on train; scored is val,
since an ablation is there to choose by.

DIR holds a run for each network and k (as of `jaxseg train`), rows.jsonl and ablation.md. The same
command after a kill trains and measures what is missing.
"""

import dataclasses
import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import superpixel_curves as curves
import tyro

from jaxseg.commands.train import train
from jaxseg.data.files import write_text
from jaxseg.predictor import Predictor, load
from jaxseg.recipes.superpixels import Config, build
from jaxseg.train.run_folder import load_experiment, open_run
from jaxseg.types import InputError

EXPERIMENT = Path(__file__).with_name("ssn_bsds500.py")
NETWORKS: tuple[Literal["pix", "linear", "deep"], ...] = ("pix", "linear", "deep")


@dataclasses.dataclass(frozen=True)
class Ablation:
    """Options."""

    data: Path
    """A folder of segmentations with the splits train and the one to score."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The folder of the runs and the table."""
    steps: int = 300
    """Of every training."""
    features: tuple[int, ...] = (10, 20)
    """k: the features, the five inputs included."""
    iterations: tuple[int, ...] = (5, 10)
    """v when predicting."""
    seed: int = 0
    """Of every training."""
    split: str = "val"
    """What is scored; not what it was trained on."""
    requested: tuple[int, ...] = (50, 100, 200, 300, 500)
    """Numbers of superpixels that are asked for."""
    at: tuple[int, ...] = (100, 200, 400)
    """Numbers of regions produced at which accuracy is read."""
    limit: int = 0
    """The first images alone, for a quick check; 0: all."""


class Setting(NamedTuple):
    """A row of the ablation."""

    network: str
    k: int
    """0 without a network."""
    v: int

    def __str__(self) -> str:
        k = f", k = {self.k}" if self.k else ""
        return f"SSN_{self.network}{k}, v = {self.v}"


Scores = Mapping[Setting, Sequence[float]]
"""Accuracy at the numbers of regions that are asked for, NaN where the curve does not reach."""


def main(argv: Sequence[str] | None = None) -> int:
    """Trains and measures what is missing, prints the table; returns the exit status."""
    options = tyro.cli(Ablation, args=argv, description=__doc__)
    try:
        return ablate(options, load_experiment(EXPERIMENT).VARIANTS["small"])
    except InputError as error:
        print(f"ssn_ablation: {error}", file=sys.stderr)
        return 2


def ablate(options: Ablation, base: Config) -> int:
    """The work of `main`.

    Args:
        options: as given.
        base: the numbers of the training that are not varied.

    Returns:
        The exit status; 128 + n where training was stopped by signal n.

    Raises:
        InputError: an option or a file cannot be used.
    """
    for name in ("features", "iterations", "requested", "at"):
        curves.check_counts(f"--{name}", getattr(options, name))
    base = dataclasses.replace(
        base,
        steps=options.steps,
        # A short training keeps most of its steps for the full rate.
        warmup=min(base.warmup, options.steps // 4),
        seed=options.seed,
        train_split="train",
        validation_split="",
    )
    pairs = curves.open_pairs(options.data, options.split, options.limit)
    runs = {
        (network, k): options.out / f"{network}_k{k}"
        for network in NETWORKS[1:]
        for k in sorted(set(options.features))
    }
    for (network, k), run in runs.items():
        config = dataclasses.replace(base, network=network, num_features=k)
        if status := train(EXPERIMENT, config, options.data, run):
            return status
    rows = curves.Rows(options.out / "rows.jsonl")
    measured: dict[Setting, list[curves.Row]] = {}
    for v in sorted(set(options.iterations)):
        plain = build(dataclasses.replace(base, network="pix", steps=0, num_iters=v))
        predictors = {("pix", 0): Predictor(plain, {}, {})}
        predictors |= {key: _at_iterations(run, v, options.steps) for key, run in runs.items()}
        for key, predictor in predictors.items():
            setting = Setting(*key, v)
            segmenter = curves.predicting(str(setting), predictor)
            measured[setting] = [
                rows.measured(pairs, segmenter, number) for number in sorted(set(options.requested))
            ]
    measured = dict(sorted(measured.items(), key=lambda item: _place(item[0])))
    about = curves.about(pairs, next(iter(measured.values()))[0])
    trained = (
        f"Trained on train, each {base.steps} steps of {base.batch_size} crops of "
        f"{base.crop_size} pixels, width {base.width}, warm-up {base.warmup}, seed {base.seed}, "
        f"v = {base.train_iters}."
    )
    text = f"{about} {trained}\n\n{report(measured, options.at)}\n"
    print(f"\n{text}")
    write_text(options.out / "ablation.md", text)
    print(f"written to {options.out}")
    return 0


def _at_iterations(run: Path, v: int, steps: int) -> Predictor:
    """A run as it predicts with v iterations."""
    file, config = open_run(run)
    trained = load(run, step="latest")
    if trained.step != steps:
        raise InputError(f"{run}: is at step {trained.step}, not {steps}; choose another -o")
    experiment = file.build(dataclasses.replace(config, num_iters=v))
    return Predictor(experiment, trained.params, trained.model_state, trained.step)


def _place(setting: Setting) -> tuple[int, int, int]:
    return NETWORKS.index(setting.network), setting.k, setting.v


def report(measured: Mapping[Setting, Sequence[curves.Row]], at: Sequence[int]) -> str:
    """The table, what rises, and the rows as measured; in markdown."""
    scores = {}
    for setting, rows in measured.items():
        points = curves.curve(rows)
        scores[setting] = [curves.read(points, "asa", n) for n in at]
    lines = [
        [f"SSN_{s.network}", str(s.k or "-"), str(s.v), *map(curves.cell, score)]
        for s, score in scores.items()
    ]
    listed = [
        [str(setting), ", ".join(f"{r.figures['regions']:.0f} / {_asa(r)}" for r in rows)]
        for setting, rows in measured.items()
    ]
    return "\n\n".join(
        [
            "Achievable segmentation accuracy at equal numbers of regions produced:",
            curves.markdown(["", "k", "v", *map(str, at)], lines),
            "\n".join(f"- {line}" for line in verdicts(scores)),
            "As measured, regions produced / accuracy:",
            "\n".join(f"- {name}: {points}" for name, points in listed),
        ]
    )


def _asa(row: curves.Row) -> str:
    return curves.cell(row.figures["asa"])


def verdicts(scores: Scores) -> list[str]:
    """Whether accuracy rises with depth, k and v: a line for each step, counted from the rows."""
    return [verdict(title, list(_gains(scores, steps))) for title, steps in _steps(scores).items()]


def verdict(title: str, gains: Sequence[float]) -> str:
    """What the gains of one step say, each at one setting and number of regions."""
    if not gains:
        return f"{title}: nothing to compare."
    risen = sum(gain > 0 for gain in gains)
    if risen == len(gains):
        says = "rises"
    elif np.mean(gains) > 0:
        says = "rises in the mean, not everywhere"
    else:
        says = "does not rise"
    numbers = (f"{g:+.4f}".replace("0.", ".", 1) for g in (np.mean(gains), min(gains), max(gains)))
    mean, least, most = numbers
    return (
        f"{title}: {says} ({risen} of {len(gains)} comparisons; mean {mean}, least {least}, "
        f"most {most})."
    )


def _steps(scores: Scores) -> dict[str, list[tuple[Setting, Setting]]]:
    """Title -> settings that differ in one thing alone, the lesser one first."""
    steps: dict[str, list[tuple[Setting, Setting]]] = {
        f"Depth, SSN_{low} to SSN_{high}": [
            (Setting(low, s.k if low != "pix" else 0, s.v), s) for s in scores if s.network == high
        ]
        for low, high in itertools.pairwise(NETWORKS)
    }
    for field in ("k", "v"):
        values = sorted({getattr(s, field) for s in scores} - {0})
        for low, high in itertools.pairwise(values):
            steps[f"{field}, {low} to {high}"] = [
                (s._replace(**{field: low}), s) for s in scores if getattr(s, field) == high
            ]
    return steps


def _gains(scores: Scores, steps: Sequence[tuple[Setting, Setting]]) -> Iterator[float]:
    for low, high in steps:
        if low in scores:
            for before, after in zip(scores[low], scores[high], strict=True):
                if not math.isnan(after - before):
                    yield after - before


if __name__ == "__main__":
    sys.exit(main())
