"""Class maps of trained runs side by side: photograph, labels, and what each run says.

    python experiments/compare_classes.py --data CAMVID --runs RUN [RUN ...] -o sheet.png

The images are spread evenly over the split.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

import jaxseg
from jaxseg import data, viz
from jaxseg.types import InputError


@dataclasses.dataclass(frozen=True)
class Compare:
    """Options."""

    data: Path
    """A folder of classes."""
    runs: tuple[Path, ...]
    """Folders of runs, or files of weights, over the same classes."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The picture, a .png."""
    titles: tuple[str, ...] = ()
    """Of the runs; their folders' names if none are given."""
    split: str = "test"
    """Which part of the data."""
    images: int = 4
    """How many."""
    alpha: float = 0.55
    """How much the classes cover the photograph, 0 to 1."""


def draw(options: Compare) -> np.ndarray:
    """The sheet, with a legend below.

    Raises:
        InputError: an option or a file cannot be used.
    """
    titles = options.titles or tuple(run.stem for run in options.runs)
    if len(titles) != len(options.runs):
        raise InputError(f"--titles: {len(titles)} for {len(options.runs)} runs; give one each")
    source = data.open_data(options.data, options.split, channels="rgb")
    predictors = [jaxseg.load(run) for run in options.runs]
    names = source.info.classes
    colors = np.array(source.info.colors, np.uint8) if source.info.colors else None
    rows = []
    for i in np.linspace(0, len(source) - 1, options.images).round().astype(int):
        example = source[i]
        image = np.asarray(example["image"])
        maps = [example["label"], *(predict(image)["classes"] for predict in predictors)]
        if max(found.max() for found in maps) >= len(names):
            raise InputError(f"{options.data}: has {len(names)} classes; give runs of the same")
        rows.append(
            [
                image,
                *(
                    viz.overlay_classes(image, found, colors=colors, alpha=options.alpha)
                    for found in maps
                ),
            ]
        )
    sheet = viz.comparison_sheet(rows, ["photograph", "labels", *titles])
    key = viz.legend(names, colors, width=sheet.shape[1], text_size=18.0)
    whole = np.full((sheet.shape[0] + key.shape[0], max(sheet.shape[1], key.shape[1]), 3), 255)
    whole[: sheet.shape[0], : sheet.shape[1]] = sheet
    whole[sheet.shape[0] :, : key.shape[1]] = key
    return whole.astype(np.uint8)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = tyro.cli(Compare, args=argv, description=__doc__)
    try:
        data.write_image(options.out, draw(options))
    except InputError as error:
        print(f"compare_classes: {error}", file=sys.stderr)
        return 2
    print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
