"""What the weight map brings to touching nuclei: runs of unet_dsb2018.py side by side.

    python experiments/compare_nuclei.py --data DSB2018 --runs RUN [RUN ...] -o nuclei.png

For each variant, over its seeds: the mean and the range of `ap_dsb`, and how many pairs of touching
nuclei end in one object. The picture shows where most nuclei touch: the image, the truth, and what
one run of each variant finds.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from unet_dsb2018 import open_instances

from jaxseg import data, metrics, predictor, viz
from jaxseg.types import InputError


@dataclasses.dataclass(frozen=True)
class Compare:
    """Options."""

    data: Path
    """The folder of instances."""
    runs: tuple[Path, ...]
    """Folders of trained runs; the first of each variant is drawn."""
    split: str = "test"
    """Which part of the data."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The picture, a .png; without it, none is drawn."""
    rows: int = 4
    """Of the picture."""


class Measured(NamedTuple):
    """A run on all images of a split."""

    variant: str
    seed: int
    figures: dict[str, float]
    joined: int
    """Pairs of touching nuclei that ended in one object."""
    instances: list[np.ndarray]


def touching(label: np.ndarray) -> np.ndarray:
    """The pairs of objects that share an edge of two pixels; `[n, 2]`, the smaller id first."""
    found = []
    for one, other in ((label[:-1], label[1:]), (label[:, :-1], label[:, 1:])):
        meet = (one != other) & (one > 0) & (other > 0)
        found.append(np.stack([one[meet], other[meet]], axis=1))
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def count_joined(label: np.ndarray, instances: np.ndarray) -> int:
    """How many touching pairs share the predicted object that covers most of each.

    A nucleus of which the larger part was not found is in no object.
    """
    overlap = np.zeros((label.max() + 1, instances.max() + 1), np.int64)
    np.add.at(overlap, (np.maximum(label, 0), instances), 1)
    own = overlap.argmax(axis=1)
    return sum(own[a] == own[b] > 0 for a, b in touching(label))


def measure(run: Path, source: data.Source) -> Measured:
    """Predicts every image of a source.

    Raises:
        InputError: the folder is no run of unet_dsb2018.py.
    """
    model = predictor.load(run)
    config = json.loads((run / "config.json").read_text())["config"]
    if "border_weight" not in config:
        raise InputError(f"{run}: is no run of unet_dsb2018.py; give others")
    metric = metrics.dsb_average_precision()
    sums: Any = None
    joined, found = 0, []
    for batch in data.eval_batches(source, batch_size=1):
        # Batches come by size of image, not in the source's order.
        prediction = model.finish(model.predict(batch), batch)
        new = metric.measure(prediction, batch)
        sums = new if sums is None else metric.merge(sums, new)
        joined += count_joined(batch["label"][0], prediction["instances"][0])
        found.append((int(batch["example"][0]), prediction["instances"][0]))
    variant = "weighted" if config["border_weight"] else "plain"
    if config["class_weights"] != "none":
        variant += "_balanced"
    instances = [one for _, one in sorted(found, key=lambda pair: pair[0])]
    return Measured(variant, config["seed"], metric.compute(sums), joined, instances)


def table(measured: Sequence[Measured], pairs: int) -> str:
    """Means over the seeds of each variant, in Markdown."""
    lines = [
        "| | seeds | AP_dsb | range | AP at .5 | AP at .75 | F1 at .5 | objects "
        f"| joined of {pairs} |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for variant in dict.fromkeys(m.variant for m in measured):
        own = sorted((m for m in measured if m.variant == variant), key=lambda m: m.seed)
        ap = [m.figures["ap_dsb"] for m in own]
        cells = [
            variant,
            ", ".join(str(m.seed) for m in own),
            f"{np.mean(ap):.4f}",
            f"{min(ap):.4f} - {max(ap):.4f}",
            *(
                f"{np.mean([m.figures[name] for m in own]):.4f}"
                for name in ("ap_dsb_50", "ap_dsb_75", "f1_50")
            ),
            f"{np.mean([m.figures['predicted'] for m in own]):.1f}",
            f"{np.mean([m.joined for m in own]):.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(source: data.Source, measured: Sequence[Measured], rows: int) -> np.ndarray:
    """Windows around the most touching pairs of an image, for the first run of each variant."""
    shown = {m.variant: m for m in reversed(measured)}
    variants = sorted(shown)
    labels = [source[i]["label"] for i in range(len(source))]
    most = sorted(range(len(labels)), key=lambda i: -len(touching(labels[i])))[:rows]
    sheet, captions = [], []
    for i in most:
        window = _window(labels[i])
        image = source[i]["image"][window].astype(np.float32)
        image = np.clip(image / np.percentile(image, 99.5), 0, 1)
        maps = [labels[i][window], *(shown[v].instances[i][window] for v in variants)]
        sheet.append([image, *(_paint(one) for one in maps)])
        counts = [f"{len(np.unique(one[one > 0]))} objects" for one in maps]
        captions.append([source.ids[i], *counts])
    return viz.comparison_sheet(sheet, ["image", "truth", *variants], captions=captions)


def _paint(instances: np.ndarray) -> np.ndarray:
    return viz.overlay_boundaries(
        viz.colorize(np.where(instances > 0, instances, -1)), instances, color=(0, 0, 0)
    )


def _window(label: np.ndarray, side: int = 128) -> tuple[slice, slice]:
    """The window of this side (or the image's, if smaller) that holds most edges of two objects."""
    edges = np.zeros(label.shape, np.int64)
    for one, other in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        edges[one] += (label[one] != label[other]) & (label[one] > 0) & (label[other] > 0)
    height, width = (min(side, n) for n in label.shape)
    total = np.pad(edges.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = total[height:, width:] + total[:-height, :-width]
    inside = inside - total[height:, :-width] - total[:-height, width:]
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    return slice(y, y + height), slice(x, x + width)


def main() -> None:
    """Prints the table and writes the picture."""
    import sys

    options = tyro.cli(Compare)
    try:
        source = open_instances(options.data, options.split)
        measured = [measure(run, source) for run in options.runs]
        pairs = sum(len(touching(source[i]["label"])) for i in range(len(source)))
        print(table(measured, pairs))
        if options.out is not None:
            data.write_image(options.out, draw(source, measured, options.rows))
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
