"""`jaxseg superpixels`: cuts images into superpixels."""

import contextlib
import csv
import dataclasses
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from jaxseg.commands.options import Images, Results, Tally, find_images, parse
from jaxseg.data.files import write_text
from jaxseg.types import InputError

if TYPE_CHECKING:
    from jaxseg.commands.segmenter import Segmenter


@dataclasses.dataclass(frozen=True)
class Superpixels:
    """Cuts images into superpixels: label maps as 16-bit PNG, overlays, statistics of regions."""

    images: Images
    number: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 400
    """Of superpixels in an image; kept within a quarter."""
    exact: tyro.conf.FlagCreatePairsOff[bool] = False
    """Give exactly that number."""
    weights: str = "ssn-bsds500"
    """A run's folder, a file, or a name of `jaxseg weights list`; "pix" needs none."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("superpixels")
    """Where the results go."""
    statistics: Literal["json", "csv", "none"] = "json"
    """How area, centroid, mean colour and neighbours of each region are written."""


def run(argv: Sequence[str]) -> int:
    """Parses, segments, writes `ID.png`, `ID_overlay.png` and `ID.json`."""
    from jaxseg import data, viz
    from jaxseg.commands.segment_files import segment_images

    options = parse(Superpixels, argv, "superpixels")
    if options.number < 1:
        raise InputError(f"-n {options.number}: ask for 1 superpixel or more")
    images = find_images(options.images)
    segmenter = make_segmenter(options.weights)
    results = Results(options.out, images)
    endings = [".png", "_overlay.png"]
    if options.statistics != "none":
        endings.append(f".{options.statistics}")
    targets: dict[Path, list[Path]] = {}

    def write(path: Path, image: np.ndarray, labels: np.ndarray) -> None:
        data.write_labels(targets[path][0], labels)
        data.write_image(targets[path][1], viz.overlay_boundaries(image, labels))
        for target in targets[path][2:]:
            write_text(target, _statistics(options.statistics, labels, image))

    start = time.perf_counter()
    with Tally(len(images)) as tally:
        for path in images:
            try:
                targets[path] = results.claim(path, *endings)
            except InputError as error:
                tally.add(error)
        segmented = segment_images(targets, segmenter, options.number, options.exact, write)
        with contextlib.closing(segmented):
            for what in segmented:
                tally.add(what)
    status = tally.tell(options.out)
    if tally.done:
        seconds = time.perf_counter() - start
        print(
            f"{_count(tally.done, 'image')} in {seconds:.1f} s, "
            f"{tally.done / seconds:.3g} images/s, {_count(segmenter.programs, 'program')} compiled"
        )
    return status


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def make_segmenter(weights: str) -> "Segmenter":
    """Makes `(image uint8 [H, W, 3], number, exact) -> labels int32 [H, W]`.

    Raises:
        InputError: if `weights` is neither "pix", nor weights by name or file, nor a run; when
            called, if they are not of SSN.
            The function itself raises ValueError where the number does not fit the image.
    """
    from jaxseg.commands.segmenter import Segmenter
    from jaxseg.predictor import Predictor, load
    from jaxseg.recipes.superpixels import Config, build

    if weights == "pix":
        return Segmenter(Predictor(build(Config(network="pix")), {}, {}), weights)
    return Segmenter(load(weights), weights)


def _statistics(kind: str, labels: np.ndarray, image: np.ndarray) -> str:
    from jaxseg.ops.regions import region_records, region_statistics

    records = region_records(region_statistics(labels, image))
    if kind == "csv":
        return _as_csv(records)
    # One region in a line.
    regions = ",\n".join(json.dumps(record) for record in records)
    height, width = labels.shape
    return f'{{"height": {height}, "width": {width}, "regions": [\n{regions}\n]}}\n'


def _as_csv(records: list[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        [
            "label",
            "area",
            "row",
            "column",
            "y0",
            "x0",
            "y1",
            "x1",
            "red",
            "green",
            "blue",
            "neighbors",
        ]
    )
    for r in records:
        writer.writerow(
            [
                r["label"],
                r["area"],
                *(f"{x:.3f}" for x in r["centroid"]),
                *r["bounding_box"],
                *(f"{x:.3f}" for x in r["mean_color"]),
                " ".join(map(str, r["neighbors"])),
            ]
        )
    return buffer.getvalue()
