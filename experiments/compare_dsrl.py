"""DSRL beside its base: runs of dsrl_camvid.py and its like in tables, curves and pictures.

    jaxseg train experiments/dsrl_camvid.py --data CAMVID --workdir RUN --variant espnetv2_sssr
    jaxseg evaluate RUN --data CAMVID --split test
    python experiments/compare_dsrl.py --runs RUN [RUN ...]
    python experiments/compare_dsrl.py --runs RUN [RUN ...] --curves curves.png
    python experiments/compare_dsrl.py --runs AFFINITY [BASE] --data CAMVID --pictures sheet.png

The first prints the ablation in Markdown. The second takes runs of several sizes of the input,
draws mIoU over multiply-accumulates, and prints what part of these DSRL saves at equal mIoU. The
third needs no evaluation, see `dsrl_pictures`.
"""

import dataclasses
import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import dsrl_pictures
import numpy as np
import tyro
from dsrl_runs import STAGES, Run, grouped, key_of, read_config, read_runs, titles_of, without_size

from jaxseg import data, viz
from jaxseg.types import InputError

FLAT = 0.5
"""Per cent of mIoU; a base that gains less in the last fifth of its steps has converged."""
CLAIM = "Wang et al. say 30 %"


@dataclasses.dataclass(frozen=True)
class Compare:
    """Options."""

    runs: tuple[Path, ...]
    """Folders of runs, for tables and curves evaluated ones."""
    split: str = "test"
    """Which part of the data."""
    curves: Path | None = None
    """Where to draw mIoU over multiply-accumulates (.png)."""
    pictures: Path | None = None
    """Where to draw what a run of the stage "affinity" sees (.png)."""
    data: Path | None = None
    """The folder of the data, for the pictures."""
    images: int = 3
    """How many to draw, spread evenly over the split."""


def tables(runs: Sequence[Run]) -> str:
    """The ablation of each network, the IoU of each class, and whether each base had converged.

    Values are mean ± sample standard deviation over the seeds. A difference from the base is taken
    seed by seed; behind it stands the number of seeds that both have.
    """
    networks = grouped(runs, lambda run: key_of(run.common))
    titles = titles_of(networks, with_size=True)
    classes = [name for name in runs[0].figures if name.startswith("iou_")]
    radii = radii_of(runs)
    ablation, by_class, near, notes = [], [], [], []
    for key, of_network in networks.items():
        base = {run.seed: run.figures["miou"] for run in of_network if run.stage == "base"}
        order = list(STAGES)
        of_network.sort(key=lambda run: (order.index(run.stage), run.row, run.seed))
        for row, own in grouped(of_network, lambda run: run.row).items():
            mine = [run.figures["miou"] for run in own]
            pairs = [run for run in own if run.seed in base and run.stage != "base"]
            gains = [run.figures["miou"] - base[run.seed] for run in pairs]
            ablation.append(
                [
                    titles[key],
                    row,
                    ", ".join(str(run.seed) for run in own),
                    _spread(mine),
                    f"{_spread(gains, '+')} ({len(gains)})" if gains else "-",
                    _range([run.macs / 1e9 for run in own]),
                    _range([run.parameters / 1e6 for run in own]),
                ]
            )
            ious = ([run.figures.get(name, math.nan) for run in own] for name in classes)
            by_class.append([titles[key], row, *map(_mean, ious)])
            bands = ([run.figures[f"trimap_miou_{r}"] for run in own] for r in radii)
            far = [accuracy_beyond(run, radii[-1]) for run in own] if radii else []
            near.append([titles[key], row, *map(_mean, bands), _mean(far)])
        notes += [_converged(titles[key], run) for run in of_network if run.stage == "base"]
    head = ["mIoU", "over base", "G multiply-accumulates", "M parameters"]
    parts = [
        _markdown(["network", "stage", "seeds", *head], ablation, left=3),
        _markdown(["network", "stage", *(c.removeprefix("iou_") for c in classes)], by_class),
        "\n".join(notes),
    ]
    if radii:
        head = ["network", "stage", *(f"R = {r}" for r in radii), f"accuracy beyond {radii[-1]}"]
        text = "mIoU within R pixels of a border of the labels, and pixel accuracy beyond\n\n"
        parts.insert(2, text + _markdown(head, near))
    return "\n\n".join(part for part in parts if part)


def radii_of(runs: Sequence[Run]) -> list[int]:
    """The radii that all runs were measured at near the borders; an older evaluation has none."""
    prefix = "trimap_miou_"
    found = [{k for k in run.figures if k.startswith(prefix)} for run in runs]
    return sorted(int(name.removeprefix(prefix)) for name in set.intersection(*found))


def accuracy_beyond(run: Run, radius: int) -> float:
    """Per cent of the pixels farther than `radius` from a border that are right."""
    inner = run.figures[f"trimap_pixels_{radius}"]
    right = run.figures[f"trimap_accuracy_{radius}"] * inner
    outer = run.figures["pixels"] - inner
    return 100 * (run.figures["pixel_accuracy"] * run.figures["pixels"] - right) / outer


def late_gain(run: Run) -> float:
    """What the best validation mIoU gained in the last fifth of the steps; NaN if not known."""
    steps, values = (np.array(x, float) for x in run.curve)
    early = steps <= 0.8 * run.common["steps"]
    if not early.any() or early.all():
        return math.nan
    return max(0.0, float(values[~early].max() - values[early].max()))


class Curve(NamedTuple):
    """mIoU over multiply-accumulates."""

    macs: np.ndarray
    """Rising."""
    miou: np.ndarray
    """Per cent."""


def curves_of(runs: Sequence[Run]) -> dict[str, dict[str, Curve]]:
    """By network and by stage, over the sizes of the input; means over the seeds."""
    networks = grouped(runs, lambda run: key_of(without_size(run.common)))
    titles = titles_of(networks, with_size=False)
    found: dict[str, dict[str, Curve]] = {}
    for key, of_network in networks.items():
        stages = found.setdefault(titles[key], {})
        for row, own in grouped(of_network, lambda run: run.row).items():
            points = grouped(own, lambda run: str(run.macs))
            macs = np.array(sorted(int(n) for n in points), float)
            miou = [statistics.mean(r.figures["miou"] for r in points[f"{n:.0f}"]) for n in macs]
            stages[row] = Curve(macs, np.array(miou))
    return found


def macs_at(curve: Curve, miou: float) -> float:
    """The fewest multiply-accumulates at which a curve, linear in their logarithm, has an mIoU.

    The mIoU must lie between that of the first point and the largest.
    """
    i = int(np.argmax(curve.miou >= miou))
    if i == 0:
        return float(curve.macs[0])
    (y0, y1), (x0, x1) = curve.miou[i - 1 : i + 1], np.log(curve.macs[i - 1 : i + 1])
    return math.exp(x0 + (x1 - x0) * (miou - y0) / (y1 - y0))


def savings(base: Curve, other: Curve) -> tuple[float, dict[float, tuple[float, float]]] | None:
    """The part of multiply-accumulates that `other` saves at equal mIoU.

    Returns:
        1 - the geometric mean of their ratio over all mIoU that both reach; and by the mIoU of each
        point in that range the multiply-accumulates of base and other. None: there is no such mIoU.
    """
    low = max(base.miou[0], other.miou[0])
    high = min(base.miou.max(), other.miou.max())
    if low > high:
        return None
    between = np.linspace(low, high, 1001)
    ratios = [macs_at(other, y) / macs_at(base, y) for y in between]
    levels = sorted({float(y) for y in (*base.miou, *other.miou) if low <= y <= high})
    at = {y: (macs_at(base, y), macs_at(other, y)) for y in levels}
    return 1 - float(np.exp(np.mean(np.log(ratios)))), at


def savings_text(curves: Mapping[str, Mapping[str, Curve]]) -> str:
    """What every stage saves, in lines."""
    lines = []
    for title, stages in curves.items():
        if "base" not in stages:
            lines.append(f"{title}: no run of stage base to compare with")
            continue
        base = stages["base"]
        for row, curve in stages.items():
            if row == "base":
                continue
            found = savings(base, curve)
            if found is None:
                ranges = [f"{c.miou.min():.2f} to {c.miou.max():.2f}" for c in (base, curve)]
                lines.append(
                    f"{title}, {row}: the curves do not overlap, mIoU of base {ranges[0]}, "
                    f"of {row} {ranges[1]}"
                )
                continue
            mean, levels = found
            lines.append(
                f"{title}, {row}: {100 * mean:.1f} % of multiply-accumulates saved at equal mIoU, "
                f"the mean over {min(levels):.2f} to {max(levels):.2f} ({CLAIM})"
            )
            lines += [
                f"  at mIoU {y:.2f}: {theirs / 1e9:.4g} G in place of {ours / 1e9:.4g} G, "
                f"{100 * (1 - theirs / ours):.1f} %"
                for y, (ours, theirs) in levels.items()
            ]
    return "\n".join(lines)


def draw_curves(curves: Mapping[str, Mapping[str, Curve]]) -> np.ndarray:
    """Draws mIoU over multiply-accumulates, on a logarithmic axis."""
    series = {
        f"{title}, {row}": (curve.macs / 1e9, curve.miou)
        for title, stages in curves.items()
        for row, curve in stages.items()
    }
    label = "G multiply-accumulates for an image"
    return viz.curve_panels([viz.Panel(series, label, "mIoU, per cent", log_x=True)])


def _converged(title: str, run: Run) -> str:
    gain = late_gain(run)
    says = f"{title}, base, seed {run.seed}: "
    if math.isnan(gain):
        return says + "no validation figures of before and in the last fifth of its steps"
    words = "converged" if gain < FLAT else "not converged"
    return says + f"+{gain:.2f} validation mIoU in the last fifth of its steps, {words}"


def _spread(values: Sequence[float], sign: str = "") -> str:
    """Mean ± sample standard deviation, of one value the value alone."""
    mean = f"{statistics.mean(values):{sign}.2f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2f}"


def _range(values: Sequence[float]) -> str:
    """The one number that all runs should share, or the range."""
    return " - ".join(dict.fromkeys(f"{n:.4g}" for n in (min(values), max(values))))


def _mean(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    return f"{statistics.mean(known):.2f}" if known else "-"


def _markdown(head: Sequence[str], lines: Iterable[Sequence[str]], *, left: int = 2) -> str:
    rule = [*["---"] * left, *["---:"] * (len(head) - left)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def run(options: Compare) -> None:
    """Does what is asked for.

    Raises:
        InputError: an option or a file cannot be used.
    """
    if options.pictures is not None:
        if options.data is None:
            raise InputError("--pictures wants --data, the folder of the images; give it")
        stages = {folder: read_config(folder)["stage"] for folder in options.runs}
        sheet = dsrl_pictures.draw(stages, options.data, options.split, options.images)
        data.write_image(options.pictures, sheet)
        print(f"written to {options.pictures}")
    if options.curves is not None:
        curves = curves_of(read_runs(options.runs, options.split))
        print(savings_text(curves))
        data.write_image(options.curves, draw_curves(curves))
        print(f"written to {options.curves}")
    if options.pictures is None and options.curves is None:
        print(tables(read_runs(options.runs, options.split)))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = tyro.cli(Compare, args=argv, description=__doc__)
    try:
        run(options)
    except InputError as error:
        print(f"compare_dsrl: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
