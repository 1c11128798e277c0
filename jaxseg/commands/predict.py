"""`jaxseg predict`: applies a trained run to images."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxseg.commands.options import Images, Results, Run, find_images, for_each_image, parse
from jaxseg.types import InputError


@dataclasses.dataclass(frozen=True)
class Predict:
    """Applies a trained run to images: label maps as 16-bit PNG, and pictures of them."""

    run: Run
    images: Images
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("predictions")
    """Where the results go."""
    checkpoint: Literal["best", "latest"] = "best"
    """By the experiment's figure on its validation data, or the last."""


def run(argv: Sequence[str]) -> int:
    """Parses, predicts, writes `ID_KIND.png` and `ID_KIND_overlay.png`."""
    from jaxseg import data, viz
    from jaxseg.predictor import load

    options = parse(Predict, argv, "predict")
    images = find_images(options.images)
    predictor = load(options.run, step=options.checkpoint)
    results = Results(options.out, images)

    def work(path: Path) -> None:
        image = data.read_image(path)
        try:
            prediction = predictor(image)
        except ValueError as error:
            raise InputError(f"{path}: {error}; this run needs larger images") from error
        for kind, labels in prediction.items():
            if labels.shape == image.shape[:2]:
                targets = results.claim(path, f"_{kind}.png", f"_{kind}_overlay.png")
                data.write_labels(targets[0], labels)
                data.write_image(targets[1], viz.overlay_boundaries(image, labels))

    return for_each_image(images, options.out, work)
