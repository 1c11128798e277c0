"""`jaxseg predict`: applies a trained run to images."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxseg.commands.instance_files import write_instances
from jaxseg.commands.options import (
    Images,
    Results,
    Run,
    find_images,
    for_each_image,
    parse,
    progress,
)
from jaxseg.data.files import write_text
from jaxseg.types import InputError

if TYPE_CHECKING:
    import numpy as np

    from jaxseg.predictor import Predictor

_WHOLE = 1 << 23
"""Pixels of an image that goes through the network as a whole, unless its run works at a size."""
_TILE = (1024, 1024)


@dataclasses.dataclass(frozen=True)
class Predict:
    """Applies a trained run to images: label maps as 16-bit PNG, and pictures of them.

    Classes come with a legend and with a picture of the confidence, violet 0 to yellow 1. Of the
    cluster of a whole image `ID_cluster.json` tells the number, from 0, and the probabilities that
    each sub-head gives. Objects are listed with scores, boxes and masks (COCO's run lengths) in
    `ID_instances.json`; where none overlap `ID_instances.png` is a label map, else `ID_masks.png`
    holds one mask below the other.
    """

    run: Run
    images: Images
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("predictions")
    """Where the results go."""
    checkpoint: Literal["best", "latest"] = "best"
    """By the experiment's figure on its validation data, or the last."""
    tile: tuple[int, int] = (0, 0)
    """Classes: height and width of the overlapping tiles by which an image goes through the
    network, at its own resolution; 0 0: as a whole, but by tiles of 1024 where it has more than 8
    million pixels."""
    overlap: float = 0.25
    """Part of a tile's side that neighbours share."""
    flips: bool = False
    """Classes: average with the prediction of the mirror image."""
    scales: tuple[float, ...] = (1.0,)
    """Classes: average over the image at these scales."""
    min_score: float | None = None
    """Objects: those of a lower score are left out; by default as the experiment says."""


def run(argv: Sequence[str]) -> int:
    """Parses, predicts, writes `ID_KIND.png` and pictures."""
    from jaxseg import data
    from jaxseg.predictor import load

    options = parse(Predict, argv, "predict")
    _check(options)
    images = find_images(options.images)
    predictor = load(options.run, step=options.checkpoint)
    results = Results(options.out, images)

    def work(path: Path) -> None:
        image = data.read_image(path)
        try:
            prediction = _predict(predictor, image, options)
        except ValueError as error:
            raise InputError(f"{path}: {error}; choose other options, or larger images") from error
        if objects := {"masks", "scores", "kinds", "boxes"} <= prediction.keys():
            write_instances(results, path, image, prediction, predictor.experiment.class_names)
        for kind, labels in prediction.items():
            if objects and kind == "instances":
                continue
            if labels.shape == image.shape[:2] and kind != "confidence":
                targets = results.claim(path, f"_{kind}.png", f"_{kind}_overlay.png")
                data.write_labels(targets[0], labels)
                data.write_image(targets[1], _overlay(predictor, image, kind, labels))
        if "clusters" in prediction and prediction["clusters"].ndim == 0:
            (target,) = results.claim(path, "_cluster.json")
            write_text(target, _cluster(prediction))
        if "confidence" in prediction:
            from jaxseg import viz

            (target,) = results.claim(path, "_confidence.png")
            data.write_image(target, viz.show_confidence(prediction["confidence"]))

    return for_each_image(images, options.out, work)


def _check(options: Predict) -> None:
    if min(options.tile) < 0 or (any(options.tile) and not all(options.tile)):
        raise InputError(f"--tile {options.tile}: give a height and a width")
    if not 0 <= options.overlap < 1:
        raise InputError(f"--overlap {options.overlap}: give 0 or more, less than 1")
    if not options.scales or not all(0 < scale <= 8 for scale in options.scales):
        raise InputError(f"--scales {options.scales}: give numbers above 0, up to 8")
    if options.min_score is not None and not 0 <= options.min_score <= 1:
        raise InputError(f"--min-score {options.min_score}: give 0 to 1")


def _predict(predictor: "Predictor", image: "np.ndarray", options: Predict) -> dict[str, Any]:
    tile = options.tile if any(options.tile) else None
    height, width = image.shape[:2]
    if tile is None and height * width > _WHOLE and predictor.experiment.tiles:
        tile = _TILE
    if tile is None and options.scales == (1.0,) and not options.flips:
        chosen = {} if options.min_score is None else {"min_score": options.min_score}
        try:
            return predictor(image, **chosen)
        except TypeError as error:
            if not chosen or "min_score" not in str(error):
                raise
            raise InputError("--min-score is of objects, which this run does not find") from None
    found = predictor.classes(
        image,
        tile=tile,
        overlap=options.overlap,
        flips=options.flips,
        scales=options.scales,
        progress=functools.partial(progress, unit="pass" if tile is None else "tile"),
    )
    return found._asdict()


def _cluster(prediction: "dict[str, Any]") -> str:
    """The cluster of a whole image, and the chances that each sub-head gives."""
    chances = prediction["probabilities"].tolist()
    found = {"cluster": int(prediction["clusters"]), "probabilities": chances}
    return json.dumps(found) + "\n"


def _overlay(
    predictor: "Predictor", image: "np.ndarray", kind: str, labels: "np.ndarray"
) -> "np.ndarray":
    import numpy as np

    from jaxseg import viz

    if kind != "classes":
        return viz.overlay_boundaries(image, labels)
    experiment = predictor.experiment
    names = experiment.class_names or tuple(f"class {i}" for i in range(int(labels.max()) + 1))
    colors = np.array(experiment.class_colors, np.uint8) if experiment.class_colors else None
    return viz.overlay_classes(image, labels, colors=colors, names=names)
