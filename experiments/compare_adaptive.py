"""Adaptive downsampling beside even sampling: tables, curves of cost and quality, pictures.

    jaxseg train experiments/adaptive_camvid.py --data CAMVID --workdir RUN --variant ...
    jaxseg evaluate RUN --data CAMVID --split test
    python experiments/compare_adaptive.py --runs RUN [RUN ...]
    python experiments/compare_adaptive.py --runs RUN [RUN ...] --curves curves.png
    python experiments/compare_adaptive.py --runs RUN [RUN ...] --data CAMVID --pictures sheet.png
    python experiments/compare_adaptive.py --runs RUN --data CAMVID --smoothness sheet.png

The first prints mean IoU over target and over all classes and what that costs, mean IoU near
borders, and recall by size. The second draws mean IoU of the targets over multiply-accumulates, the
sampler's included, over the seeds that all modes have, and says what each mode gains at equal cost,
over the seeds that it and the base have. The third draws where runs read an image and what they say
of it. The fourth needs nothing of a run but its config, so the run need not be trained to its end:
it draws the nodes that labels ask for at a small, a middle and a large smoothness, and the labels
that come back. The last two need no evaluation.
"""

import dataclasses
import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import adaptive_pictures
import numpy as np
import tyro
from adaptive_runs import Run, grouped, key_of, read_runs, rows_of, titles_of

from jaxseg import data, viz
from jaxseg.types import InputError

BASE = "uniform"


@dataclasses.dataclass(frozen=True)
class Compare:
    """Options."""

    runs: tuple[Path, ...]
    """Folders of runs, for tables and curves evaluated ones."""
    split: str = "test"
    """Which part of the data."""
    curves: Path | None = None
    """Where to draw mean IoU over multiply-accumulates (.png)."""
    pictures: Path | None = None
    """Where to draw what runs read and say (.png)."""
    smoothness: Path | None = None
    """Where to draw nodes by smoothness (.png)."""
    values: tuple[float, ...] = (0.1, 1.0, 30.0)
    """Of the smoothness."""
    data: Path | None = None
    """The folder of the data, for pictures."""
    images: int = 3
    """How many to draw, spread evenly over the split."""


def tables(runs: Sequence[Run]) -> str:
    """What each mode reaches and costs, and where it gains.

    Values are mean ± sample standard deviation over the seeds. A difference from the uniform mode
    is taken seed by seed; behind it stands the number of seeds that both have.
    """
    titles = titles_of(runs)
    reached, near, sizes = [], [], []
    radii = _numbers(runs, "trimap_miou_")
    bins = [k for k in _numbers(runs, "recall_") if runs[0].figures[f"objects_{k}"]]
    groups = grouped(runs, lambda run: (key_of(run.common), run.nodes))
    for (key, nodes), own in sorted(groups.items()):
        head = [titles[key], f"{nodes[0]}×{nodes[1]}"]
        base = {run.seed: run.figures for run in own if run.mode == BASE}
        for row, mine in rows_of(own).items():
            cells = [*head, row]
            reached.append(
                [
                    *cells,
                    ", ".join(str(run.seed) for run in mine),
                    *(
                        text
                        for name in ("target_miou", "miou")
                        for text in (_spread(_of(mine, name)), _gain(mine, base, name))
                    ),
                    _range([run.macs / 1e9 for run in mine]),
                    _range([run.sampler_macs / 1e9 for run in mine]),
                    _mean(_of(mine, "sampler/rms"), 4),
                ]
            )
            near.append([*cells, *(_mean(_of(mine, f"trimap_miou_{r}")) for r in radii)])
            sizes.append([*cells, *(_mean(_of(mine, f"recall_{k}")) for k in bins)])
    first = ["network", "nodes", "mode"]
    over = f"over {BASE}"
    head = [*first, "seeds", "target mIoU", over, "mIoU", over, "G MACs", "of sampler", "rms"]
    parts = [
        _markdown(head, reached, left=4),
        "mIoU within R pixels of a border\n\n"
        + _markdown([*first, *(f"R = {r}" for r in radii)], near, left=3),
        "recall of target objects of a size from 2^-K of the image's side\n\n"
        + _markdown([*first, *(f"K = {k}" for k in bins)], sizes, left=3),
    ]
    return "\n\n".join(parts)


Curve = tuple[np.ndarray, np.ndarray]
"""Multiply-accumulates, rising, and mean IoU over targets in per cent."""


def curves_of(runs: Sequence[Run]) -> dict[str, dict[str, Curve]]:
    """By network and by row, over the number of nodes; means over the seeds that all rows have.

    Where no seed is common to all rows, each is over its own.
    """
    return {
        title: {row: _curve(mine, _shared(rows.values())) for row, mine in rows.items()}
        for title, rows in _rows(runs).items()
    }


def gains_of(runs: Sequence[Run]) -> str:
    """What every row gains at equal cost, in lines, each over the seeds that it and the base have.

    A seed counts where it was trained at all numbers of nodes that a row has.
    """
    lines = []
    for title, rows in _rows(runs).items():
        if BASE not in rows:
            lines.append(gains_text({title: {}}))
        for row, mine in rows.items():
            if row == BASE or BASE not in rows:
                continue
            seeds = _shared([rows[BASE], mine])
            if not seeds:
                lines.append(f"{title}, {row}: no seed in common with {BASE}")
                continue
            curves = {BASE: _curve(rows[BASE], seeds), row: _curve(mine, seeds)}
            told = ", ".join(map(str, sorted(seeds)))
            lines.append(f"{gains_text({title: curves})}; seeds {told}")
    return "\n".join(lines)


def _rows(runs: Sequence[Run]) -> dict[str, dict[str, list[Run]]]:
    """By the title of what runs have in common, and by row."""
    titles = titles_of(runs)
    groups = grouped(runs, lambda run: key_of(run.common))
    return {titles[key]: rows_of(own) for key, own in groups.items()}


def _shared(rows: Iterable[Sequence[Run]]) -> set[int]:
    """The seeds that all rows have, each at every number of nodes that it has."""
    parts = [part for row in rows for part in grouped(row, lambda run: run.nodes).values()]
    return set.intersection(*({run.seed for run in part} for part in parts))


def _curve(runs: Sequence[Run], seeds: set[int]) -> Curve:
    mine = [run for run in runs if run.seed in seeds or not seeds]
    points = sorted(grouped(mine, lambda run: run.macs).items())
    macs = np.array([macs for macs, _ in points], float)
    return macs, np.array([np.mean(_of(part, "target_miou")) for _, part in points])


def at_equal_cost(base: Curve, other: Curve) -> list[tuple[float, float]]:
    """What `other` gains over `base` at its own points: (multiply-accumulates, points of mIoU).

    The base is linear between its points over the logarithm of cost; a point of `other` beyond its
    ends is left out.
    """
    inside = (other[0] >= base[0][0]) & (other[0] <= base[0][-1])
    between = np.interp(np.log(other[0]), np.log(base[0]), base[1])
    gains = other[1] - between
    return [(float(c), float(g)) for c, g, yes in zip(other[0], gains, inside, strict=True) if yes]


def gains_text(curves: Mapping[str, Mapping[str, Curve]]) -> str:
    """What every row gains at equal cost, in lines."""
    lines = []
    for title, rows in curves.items():
        if BASE not in rows:
            lines.append(f"{title}: no run of mode {BASE} to compare with")
            continue
        for row, curve in rows.items():
            if row != BASE:
                found = at_equal_cost(rows[BASE], curve)
                told = [f"{gain:+.2f} at {macs / 1e9:.4g} G" for macs, gain in found]
                words = ", ".join(told) or f"no cost within that of the runs of {BASE}"
                lines.append(f"{title}, {row}, over {BASE} at equal cost: {words}")
    return "\n".join(lines)


def draw_curves(curves: Mapping[str, Mapping[str, Curve]]) -> np.ndarray:
    """Draws a panel for each network, cost on a logarithmic axis."""
    label = "G multiply-accumulates for an image"
    return viz.curve_panels(
        [
            viz.Panel(
                {row: (macs / 1e9, miou) for row, (macs, miou) in rows.items()},
                label,
                f"{title}: target mIoU, per cent",
                log_x=True,
            )
            for title, rows in curves.items()
        ]
    )


def _of(runs: Iterable[Run], name: str) -> list[float]:
    return [run.figures.get(name, math.nan) for run in runs]


def _numbers(runs: Sequence[Run], prefix: str) -> list[int]:
    names = (n.removeprefix(prefix) for n in runs[0].figures if n.startswith(prefix))
    return sorted(int(n) for n in names if n.isdigit())


def _gain(runs: Sequence[Run], base: Mapping[int, Mapping[str, float]], name: str) -> str:
    gains = [
        run.figures[name] - base[run.seed][name]
        for run in runs
        if run.seed in base and run.mode != BASE
    ]
    return f"{_spread(gains, '+')} ({len(gains)})" if gains else "-"


def _spread(values: Sequence[float], sign: str = "") -> str:
    """Mean ± sample standard deviation, of one value the value alone."""
    mean = f"{statistics.mean(values):{sign}.2f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2f}"


def _range(values: Sequence[float]) -> str:
    """The one number that all runs should share, or the range."""
    return " - ".join(dict.fromkeys(f"{n:.4g}" for n in (min(values), max(values))))


def _mean(values: Sequence[float], digits: int = 2) -> str:
    known = [value for value in values if not math.isnan(value)]
    return f"{statistics.mean(known):.{digits}f}" if known else "-"


def _markdown(head: Sequence[str], lines: Iterable[Sequence[str]], *, left: int) -> str:
    rule = [*["---"] * left, *["---:"] * (len(head) - left)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def run(options: Compare) -> None:
    """Does what is asked for.

    Raises:
        InputError: an option or a file cannot be used.
    """
    for name in ("pictures", "smoothness"):
        path = getattr(options, name)
        if path is None:
            continue
        if options.data is None:
            raise InputError(f"--{name} wants --data, the folder of the images; give it")
        where = (options.data, options.split, options.images)
        if name == "pictures":
            sheet = adaptive_pictures.draw_runs(options.runs, *where)
        else:
            sheet = adaptive_pictures.draw_smoothness(options.runs, *where, options.values)
        data.write_image(path, sheet)
        print(f"written to {path}")
    if options.curves is not None:
        runs = read_runs(options.runs, options.split)
        print(gains_of(runs))
        data.write_image(options.curves, draw_curves(curves_of(runs)))
        print(f"written to {options.curves}")
    if options.pictures is options.smoothness is options.curves is None:
        print(tables(read_runs(options.runs, options.split)))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = tyro.cli(Compare, args=argv, description=__doc__)
    try:
        run(options)
    except InputError as error:
        print(f"compare_adaptive: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
