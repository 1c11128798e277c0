"""`jaxseg predict`: applies a trained run to images."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxseg.commands.options import find_images, for_each_image, parse
from jaxseg.types import InputError


@dataclasses.dataclass(frozen=True)
class Predict:
    """Applies a trained run to images: label maps as 16-bit PNG, and pictures of them."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Images, or folders of images."""
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
    options.out.mkdir(parents=True, exist_ok=True)

    def work(path: Path) -> None:
        image = data.read_image(path)
        try:
            prediction = predictor(image)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error
        for kind, labels in prediction.items():
            if labels.shape == image.shape[:2]:
                data.write_labels(options.out / f"{path.stem}_{kind}.png", labels)
                drawn = viz.overlay_boundaries(image, labels)
                data.write_image(options.out / f"{path.stem}_{kind}_overlay.png", drawn)

    status = for_each_image(images, work)
    print(f"written to {options.out}")
    return status
