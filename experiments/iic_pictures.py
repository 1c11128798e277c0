"""What IIC found, as a sheet of pictures: segments beside labels, or examples of each cluster.

    python experiments/iic_pictures.py --run RUN --data CAMVID --split test -o sheet.png
    python experiments/iic_pictures.py --run RUN --data MNIST --split train+test -o digits.png

Of a run on pixels: images spread evenly over the split, the clusters in the colours of the groups
that they are taken for, by the assignment over the whole split, and the labels. Pixels that are in
no group, or in a cluster that is taken for none, are left as they are. If there are more clusters
than groups, they are also shown in colours of their own.

Of a run on whole images: the first examples of each cluster, not chosen in any way, and the joint
matrix P of the sub-head that predicts, over `watched` images and their other views, its clusters in
the order of what they are taken for. A good P has its mass on the diagonal, evenly.
"""

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from iic_runs import Run, class_names, open_iic, predictions

from jaxseg import data, viz
from jaxseg.recipes import iic_pixels
from jaxseg.train import Evaluation
from jaxseg.types import InputError

CELL = 320
"""Width of a picture of a scene."""
STRIP = 440
"""Of the examples of one cluster."""
TALL = 10
"""Clusters below each other."""
ALPHA = 0.6
PER_LINE = 4
"""Maps beside each other, without photographs."""


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Options."""

    run: Path
    """The folder of a trained run."""
    data: Path
    """The folder of its data."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Where to draw (.png)."""
    split: str = "test"
    """Which part of the data."""
    images: int = 0
    """How many; of whole images, of each cluster. 4 and 12 if it is not given."""
    maps_only: bool = False
    """Of pixels: draws the groups alone, without photographs and labels, which data may forbid to
    pass on."""


def scenes(run: Run, row: Evaluation, count: int, *, maps_only: bool = False) -> np.ndarray:
    """The sheet of a run on pixels.

    Args:
        run: which predicts.
        row: of the whole split; it is read twice.
        count: of images.
        maps_only: whether it holds the groups alone, `PER_LINE` images in a line.
    """
    sums, total = None, 0
    for batch, prediction in predictions(run, row):
        new = row.metric.measure(prediction, batch)
        sums = new if sums is None else row.metric.merge(sums, new)
        total += int(np.sum(batch["weight"] > 0))
    assert sums is not None, "data are never empty"
    names = class_names(row.metric.compute(sums))
    taken = run.match(sums["table"])
    given = getattr(run.config, "class_colors", ())
    colors = np.array(given, np.uint8) if len(given) == len(names) else None
    chosen = set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist())
    titles = ["photograph", "clusters as groups", "labels"]
    own = run.clusters > len(names)
    if own:
        titles.insert(1, f"{run.clusters} clusters")
    rows: list[list[np.ndarray]] = []
    captions: list[list[str]] = []
    place = 0
    source: Any = row.data
    for batch, prediction in predictions(run, row):
        for i in range(int(np.sum(batch["weight"] > 0))):
            if place in chosen:
                height, width = batch["size"][i]
                image, label, clusters = (
                    np.asarray(x)[i, :height, :width]
                    for x in (batch["image"][..., :3], batch["label"], prediction["clusters"])
                )
                groups = taken[clusters].astype(np.int32)
                if maps_only:
                    blank = np.full_like(image, 255)
                    flat = viz.overlay_classes(blank, groups, colors=colors, alpha=1.0)
                    if len(rows) == 0 or len(rows[-1]) == PER_LINE:
                        rows.append([])
                        captions.append([])
                    rows[-1].append(flat)
                    says = f"{source.ids(batch)[i]}, {right(groups, label)}"
                    captions[-1].append(says)
                    place += 1
                    continue
                maps = [
                    viz.overlay_classes(image, m, colors=colors, alpha=ALPHA)
                    for m in (groups, label)
                ]
                if own:
                    maps.insert(0, viz.overlay_classes(image, clusters, alpha=ALPHA))
                rows.append([image, *maps])
                captions.append([source.ids(batch)[i], *[""] * own, right(groups, label), ""])
            place += 1
    if maps_only:
        missing = PER_LINE - len(rows[-1])
        rows[-1] += [np.full_like(rows[-1][0], 255)] * missing
        captions[-1] += [""] * missing
        titles = [""] * PER_LINE
    sheet = viz.comparison_sheet(rows, titles, captions=captions, cell_size=CELL)
    key = viz.legend(names, colors, width=sheet.shape[1], text_size=16.0)
    return np.concatenate([sheet, key[:, : sheet.shape[1]]])


def right(found: np.ndarray, label: np.ndarray) -> str:
    """The part of the labelled pixels whose group is found, in words."""
    known = label >= 0
    if not known.any():
        return "no label"
    return f"{100 * np.mean(found[known] == label[known]):.1f} % right"


def examples(run: Run, row: Evaluation, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images of each cluster, and the order of the clusters in the sheet.

    Args:
        run: which predicts.
        row: of the whole split, read once.
        count: of images of a cluster.

    Returns:
        The sheet, and the clusters by the class that they are taken for; those of none, and empty
        ones, come last.
    """
    sums: Any = None
    first: list[list[np.ndarray]] = [[] for _ in range(run.clusters)]
    for batch, prediction in predictions(run, row):
        new = row.metric.measure(prediction, batch)
        sums = new if sums is None else row.metric.merge(sums, new)
        for i in np.flatnonzero(batch["weight"] > 0):
            own = first[prediction["clusters"][i]]
            if len(own) < count:
                own.append(np.asarray(batch["image"][i]))
    names, table = class_names(row.metric.compute(sums)), sums["table"]
    taken = run.match(table)
    nothing = (taken < 0) | (table.sum(axis=1) == 0)
    order = np.lexsort((np.arange(len(taken)), np.where(nothing, len(names), taken)))
    size = max((image.shape for own in first for image in own), default=(1, 1, 3))
    columns = math.ceil(run.clusters / TALL)
    cells = [(strip(first[k], count, size), told(k, taken[k], table[k], names)) for k in order]
    cells += [(strip([], count, size), "")] * (-len(cells) % columns)
    lines = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    sheet = viz.comparison_sheet(
        [[picture for picture, _ in line] for line in lines],
        [f"the first {count} of each cluster", *[""] * (columns - 1)],
        captions=[[text for _, text in line] for line in lines],
        cell_size=STRIP,
    )
    return sheet, order


def strip(images: Sequence[np.ndarray], count: int, size: tuple[int, ...]) -> np.ndarray:
    """Images side by side on white, in the place of `count` of a size `(h, w, C)`."""
    height, width, channels = size
    sheet = np.full((height, count * (width + 2) - 2, channels), 255, np.uint8)
    for i, image in enumerate(images):
        sheet[: image.shape[0], i * (width + 2) :][:, : image.shape[1]] = image
    return sheet


def told(cluster: int, taken: int, counts: np.ndarray, names: Sequence[str]) -> str:
    """What a cluster is taken for, and how much of it is that."""
    total = int(counts.sum())
    if not total:
        return f"cluster {cluster}: empty"
    if taken < 0:
        return f"cluster {cluster}: taken for none, {total:,}"
    part = 100 * counts[taken] / total
    return f"cluster {cluster}: taken for {names[taken]}, {part:.1f} % of {total:,}"


def joint_of(run: Run, row: Evaluation) -> np.ndarray:
    """P `[K, K]` of the sub-head that predicts: symmetric, of sum 1."""
    sums: Any = None
    for batch, prediction in predictions(run, row):
        new = row.metric.measure(prediction, batch)
        sums = new if sums is None else row.metric.merge(sums, new)
    joint = sums["joint"][run.chosen]
    return (joint + joint.T) / (2 * joint.sum())


def heat_map(joint: np.ndarray, *, size: int) -> np.ndarray:
    """P by colour, from violet for 0 to yellow for its largest entry, and its information."""
    p = joint.sum(axis=1)
    met = joint > 0
    ratio = np.where(met, joint, 1) / np.where(met, np.outer(p, p), 1)
    information = float(np.sum(joint * np.log(ratio)))
    number = len(joint)
    painted = viz.show_confidence(joint / joint.max())
    # Repeated, for a small picture would be blurred when it is made larger.
    large = np.kron(painted, np.ones((math.ceil(size / number),) * 2 + (1,), np.uint8))
    says = f"I = {information:.3f} of at most {math.log(number):.3f} nats"
    title = f"joint of two views, yellow is {joint.max():.3g}"
    return viz.comparison_sheet([[large]], [title], captions=[[says]], cell_size=size)


def beside(*pictures: np.ndarray) -> np.ndarray:
    """Pictures in a row on white, from the top."""
    height = max(picture.shape[0] for picture in pictures)
    wide = [
        np.pad(x, ((0, height - x.shape[0]), (0, 0), (0, 0)), constant_values=255) for x in pictures
    ]
    return np.concatenate(wide, axis=1)


def draw(options: Pictures) -> np.ndarray:
    """The sheet.

    Raises:
        InputError: an option, the run or the data cannot be used.
    """
    if options.images < 0:
        raise InputError(f"--images is {options.images}; give 1 or more")
    run = open_iic(options.run)
    rows = run.rows(options.data, options.split)
    if isinstance(run.config, iic_pixels.Config):
        count, maps_only = options.images or 4, options.maps_only
        return scenes(run, rows["labelled"], count, maps_only=maps_only)
    sheet, order = examples(run, rows["labelled"], options.images or 12)
    joint = joint_of(run, rows["unlabelled"])[np.ix_(order, order)]
    return beside(sheet, heat_map(joint, size=STRIP))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = tyro.cli(Pictures, args=argv, description=__doc__)
    try:
        data.write_image(options.output, draw(options))
    except InputError as error:
        print(f"iic_pictures: {error}", file=sys.stderr)
        return 2
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
