"""`jaxseg superpixels`: cuts images into superpixels."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from jaxseg.commands.options import Images, Results, find_images, for_each_image, parse
from jaxseg.data.files import write_text
from jaxseg.types import InputError

TOLERANCE = 0.25
"""Of the number asked for: what the official connectivity rule leaves beyond is merged or split."""


@dataclasses.dataclass(frozen=True)
class Superpixels:
    """Cuts images into superpixels: label maps as 16-bit PNG, overlays, statistics of regions."""

    images: Images
    number: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 400
    """Of superpixels in an image; kept within a quarter."""
    exact: tyro.conf.FlagCreatePairsOff[bool] = False
    """Give exactly that number."""
    weights: str = "pix"
    """The folder of a trained SSN run; "pix" needs none."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("superpixels")
    """Where the results go."""
    statistics: Literal["json", "csv", "none"] = "json"
    """How area, centroid, mean colour and neighbours of each region are written."""


def run(argv: Sequence[str]) -> int:
    """Parses, segments, writes `ID.png`, `ID_overlay.png` and `ID.json`."""
    from jaxseg import data, viz

    options = parse(Superpixels, argv, "superpixels")
    if options.number < 1:
        raise InputError(f"-n {options.number}: ask for 1 superpixel or more")
    images = find_images(options.images)
    segment = make_segmenter(options.weights)
    results = Results(options.out, images)
    endings = [".png", "_overlay.png"]
    if options.statistics != "none":
        endings.append(f".{options.statistics}")

    def work(path: Path) -> None:
        targets = results.claim(path, *endings)
        image = data.read_image(path)
        try:
            labels = segment(image, options.number, options.exact)
        except ValueError as error:
            raise InputError(f"{path}: {error}; choose another -n") from error
        data.write_labels(targets[0], labels)
        data.write_image(targets[1], viz.overlay_boundaries(image, labels))
        for target in targets[2:]:
            write_text(target, _statistics(options.statistics, labels, image))

    return for_each_image(images, options.out, work)


def make_segmenter(weights: str) -> Callable[[np.ndarray, int, bool], np.ndarray]:
    """Makes `(image uint8 [H, W, 3], number, exact) -> labels int32 [H, W]`.

    Raises:
        InputError: if `weights` is neither "pix" nor a run of SSN. The function itself raises
            ValueError where the number does not fit the image.
    """
    import jax.numpy as jnp

    from jaxseg.methods import ssn
    from jaxseg.ops.connectivity import set_region_count
    from jaxseg.ops.slic import grid_shape
    from jaxseg.predictor import Predictor, load
    from jaxseg.recipes.superpixels import Config, build

    if weights == "pix":
        predictor = Predictor(build(Config(network="pix")), {}, {})
    else:
        predictor = load(weights)

    def segment(image: np.ndarray, number: int, exact: bool = False) -> np.ndarray:
        height, width, _ = image.shape
        grid = grid_shape(height, width, number)
        try:
            labels = predictor(image, num_superpixels=number)["superpixels"]
        except (TypeError, KeyError) as error:
            raise InputError(f"{weights}: is no run that makes superpixels ({error})") from error
        count = int(labels.max()) + 1
        most = math.floor(number * (1 + TOLERANCE))
        least = math.ceil(number * (1 - TOLERANCE))
        wanted = number if exact else min(max(count, least), most)
        if count == wanted:
            return labels
        scaled = jnp.asarray(image[None] / np.float32(255))
        features = np.asarray(ssn.input_features(scaled, grid)[0])
        return set_region_count(labels, wanted, features)

    return segment


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
