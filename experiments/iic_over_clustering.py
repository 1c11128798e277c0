"""Over-clustering with few labels: which class each cluster is, learned from a share of the images.

    jaxseg train experiments/iic_mnist.py --data MNIST --workdir RUN --variant semi
    python experiments/iic_over_clustering.py --runs RUN [RUN ...] --data MNIST
    python experiments/iic_over_clustering.py --runs RUN [RUN ...] --data MNIST --curves curves.png

The runs are of `predicts="over"`, of several `over_clusters` and seeds. Each cluster is taken for
the class that most of it is of, among labelled images of the mapping split; clusters are then
measured on the other split (Ji et al., ICCV 2019: the semi-supervised setting, figure 6 and IID+).
Of a share s of N labelled images round(s N) are drawn, at least one, without looking at their
classes; a smaller share is part of a larger one. A cluster that none of them is in has the first
class, as in IIC's released code.

Prints tables in Markdown of the accuracy in per cent, and of how many clusters have no label. It is
that of the sub-head of largest information; of several sub-heads their mean follows. Values are
means over draws and over runs that differ by their seed alone, ± the sample standard deviation over
all of these.
"""

import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from iic_runs import Run, open_iic, predictions

from jaxseg import data, metrics, viz
from jaxseg.train import Evaluation
from jaxseg.types import InputError

ASIDE = {"over_clusters", "seed", "log_every", "save_every", "evaluate_every"}
"""Fields in which runs of one table may differ."""


@dataclasses.dataclass(frozen=True)
class OverClustering:
    """Options."""

    runs: tuple[Path, ...]
    """Folders of trained runs that predict by the head "over"."""
    data: Path
    """The folder of the data."""
    map: str = "train"
    """The split whose labels say what each cluster is."""
    score: str = "test"
    """The split that is measured."""
    shares: tuple[float, ...] = (1.0, 0.5, 0.25, 0.1, 0.01)
    """Of the labelled images of the mapping split."""
    draws: int = 5
    """How often each share below 1 is drawn."""
    seed: int = 0
    """Of the draws."""
    curves: Path | None = None
    """Where to draw the accuracy over clusters and over shares (.png)."""


class Counts(NamedTuple):
    """What of each image is in each cluster and class: the entries that are not 0."""

    image: np.ndarray
    """int64 `[n]`, 0 and up among the images that have a label."""
    sub_head: np.ndarray
    """int64 `[n]`; -1 for the one that was chosen."""
    cluster: np.ndarray
    """int64 `[n]`."""
    label: np.ndarray
    """int64 `[n]`."""
    number: np.ndarray
    """int64 `[n]`, of pixels, or 1."""
    images: int
    """With a label."""
    shape: tuple[int, int, int]
    """Sub-heads and one, clusters, classes."""

    def tables(self, chosen: np.ndarray | None = None) -> np.ndarray:
        """Counts `[1 + sub-heads, clusters, classes]` of some images, bool `[images]`, or of all.

        The first table is that of the chosen sub-head.
        """
        kept = slice(None) if chosen is None else chosen[self.image]
        table = np.zeros(self.shape, np.int64)
        place = (self.sub_head[kept] + 1, self.cluster[kept], self.label[kept])
        np.add.at(table, place, self.number[kept])
        return table


def counts_of(run: Run, row: Evaluation) -> Counts:
    """Predicts the clusters of a split, once."""
    found: list[np.ndarray] = []
    images, shape = 0, (0, 0, 0)
    for batch, prediction in predictions(run, row):
        for i in np.flatnonzero(batch["weight"] > 0):
            one = slice(i, i + 1)
            sums = row.metric.measure(
                {name: prediction[name][one] for name in ("clusters", "sub_heads")},
                {name: batch[name][one] for name in ("label", "weight", "size")},
            )
            tables = np.concatenate([sums["table"][None], sums["sub_heads"]])
            places = np.nonzero(tables)
            shape = tables.shape
            if len(places[0]):
                entries = np.stack([*places, tables[places]])
                found.append(np.concatenate([np.full((1, entries.shape[1]), images), entries]))
                images += 1
    if not images:
        raise InputError(f"{run.folder}: no image of this data has a label; give other --data")
    image, sub_head, cluster, label, number = np.concatenate(found, axis=1)
    return Counts(image, sub_head - 1, cluster, label, number, images, shape)


class Cell(NamedTuple):
    """What one run comes to with one draw of labelled images."""

    share: float
    accuracy: float
    """Of the chosen sub-head, in per cent."""
    mean: float
    """Over the sub-heads."""
    without: float
    """Clusters of the chosen sub-head that no labelled image is in."""


def cells_of(mapping: Counts, score: Counts, options: OverClustering) -> list[Cell]:
    """What one run comes to with each share and draw."""
    cells = []
    measured = score.tables()
    for draw in range(options.draws):
        # The same images for every run.
        order = np.random.default_rng((options.seed, draw)).permutation(mapping.images)
        for share in options.shares:
            if share == 1 and draw:
                continue
            chosen = np.zeros(mapping.images, bool)
            chosen[order[: max(1, round(share * mapping.images))]] = True
            learned = mapping.tables(chosen)
            accuracies = [
                100 * accuracy(table, metrics.match(known, "many_to_one"))
                for table, known in zip(measured, learned, strict=True)
            ]
            without = float(np.sum(learned[0].sum(axis=1) == 0))
            cells.append(Cell(share, accuracies[0], statistics.mean(accuracies[1:]), without))
    return cells


def accuracy(table: np.ndarray, taken: np.ndarray) -> float:
    """The part of the counts `[clusters, classes]` that are of the class of their cluster."""
    return float(table[np.arange(len(table)), taken].sum() / table.sum())


Results = Mapping[int, Sequence[Cell]]
"""By the number of clusters: the cells of all runs."""


def results_of(options: OverClustering) -> tuple[Results, int]:
    """Predicts with every run; also says how many sub-heads they have.

    Raises:
        InputError: a run predicts by another head, or differs from the first in more than clusters
            and seed, or is given twice.
    """
    found: dict[int, list[Cell]] = {}
    seen: dict[str, Path] = {}
    first: dict[str, Any] = {}
    sub_heads = 0
    for folder in options.runs:
        run = open_iic(folder)
        if run.config.predicts != "over":
            raise InputError(f'{folder}: predicts by "main"; give runs of the variant "semi"')
        config = json.loads(json.dumps(dataclasses.asdict(run.config)))
        key = f"{run.config.over_clusters}, {run.config.seed}"
        if key in seen:
            raise InputError(f"{folder}: of the clusters and seed of {seen[key]}; give one of them")
        seen[key] = folder
        common = {name: value for name, value in config.items() if name not in ASIDE}
        first = first or common
        differs = [name for name in common if common[name] != first[name]]
        if differs:
            raise InputError(
                f"{folder}: differs from {options.runs[0]} in {', '.join(differs)}; give runs that "
                "differ in over_clusters and seed"
            )
        sub_heads = run.config.sub_heads
        mapping, score = (
            run.rows(options.data, split)["labelled"] for split in (options.map, options.score)
        )
        # One method for both: it is compiled once.
        counts = (counts_of(run, row._replace(method=mapping.method)) for row in (mapping, score))
        found.setdefault(run.clusters, []).extend(cells_of(next(counts), next(counts), options))
    return dict(sorted(found.items())), sub_heads


def values_of(
    results: Results, clusters: int, share: float, value: Callable[[Cell], float]
) -> list[float]:
    """A value of each run and draw."""
    return [value(cell) for cell in results[clusters] if cell.share == share]


def table(results: Results, shares: Sequence[float], value: Callable[[Cell], float]) -> str:
    """A value over clusters and shares, in Markdown."""
    head = ["clusters", *(f"{100 * share:g} %" for share in shares)]
    lines = [
        [str(k), *(_spread(values_of(results, k, share, value)) for share in shares)]
        for k in results
    ]
    rule = ["---:"] * len(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def _spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation, of one value the value alone."""
    mean = f"{statistics.mean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2f}"


def draw_curves(results: Results, shares: Sequence[float]) -> np.ndarray:
    """Draws the mean accuracy over clusters and over shares."""

    def mean(k: int, share: float) -> float:
        return statistics.mean(values_of(results, k, share, lambda cell: cell.accuracy))

    rising = sorted(shares)
    over_clusters = {
        f"{100 * share:g} % labelled": (list(results), [mean(k, share) for k in results])
        for share in shares
    }
    over_shares = {
        f"{k} clusters": ([100 * s for s in rising], [mean(k, s) for s in rising]) for k in results
    }
    label = "accuracy, per cent"
    return viz.curve_panels(
        [
            viz.Panel(over_clusters, "clusters", label),
            viz.Panel(over_shares, "labelled images, per cent", label, log_x=True),
        ]
    )


def run(options: OverClustering) -> None:
    """Prints the tables, and draws the curves.

    Raises:
        InputError: an option, a run or the data cannot be used.
    """
    if not options.runs:
        raise InputError("--runs is empty; give one or more folders")
    if not options.shares or not all(0 < share <= 1 for share in options.shares):
        given = " ".join(f"{share:g}" for share in options.shares) or "empty"
        raise InputError(f"--shares is {given}; give numbers above 0, up to 1")
    for name, least in (("seed", 0), ("draws", 1)):
        if getattr(options, name) < least:
            raise InputError(f"--{name} is {getattr(options, name)}; give {least} or more")
    shares = list(dict.fromkeys(options.shares))
    options = dataclasses.replace(options, shares=tuple(shares))
    results, sub_heads = results_of(options)
    print(f"Accuracy on {options.score}, labels of {options.map}:\n")
    print(table(results, shares, lambda cell: cell.accuracy))
    if sub_heads > 1:
        print(f"\nMean accuracy of the {sub_heads} sub-heads:\n")
        print(table(results, shares, lambda cell: cell.mean))
    print("\nClusters without a label:\n")
    print(table(results, shares, lambda cell: cell.without))
    if options.curves is not None:
        data.write_image(options.curves, draw_curves(results, shares))
        print(f"\nwritten to {options.curves}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = tyro.cli(OverClustering, args=argv, description=__doc__)
    try:
        run(options)
    except InputError as error:
        print(f"iic_over_clustering: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
