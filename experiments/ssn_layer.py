"""What superpixels inside a segmentation network bring: a narrow U-Net with and without the layer.

    jaxseg train experiments/ssn_layer.py --data CAMVID --workdir RUN --variant with --seed 0
    jaxseg evaluate RUN --data CAMVID --split test
    python experiments/ssn_layer.py --runs RUN [RUN ...]

The variants "without", "with" and "learned" differ in nothing but the layer (the paper's section
4.2, see `jaxseg.models.superpixel_pool`) and get equal steps and batches; nothing is chosen on the
validation images. The last command prints the mean over the seeds of each variant and their spread.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

from jaxseg.recipes.semantic import Config, build
from jaxseg.train.run_folder import RESUMABLE
from jaxseg.types import InputError

__all__ = ["VARIANTS", "Config", "build"]

_WITHOUT = Config(
    width=16,
    size=(120, 160),
    crop=(112, 144),
    scale_range=(0.8, 1.6),
    batch_size=4,
    steps=600,
    learning_rate=3e-3,
    decay="cosine",
    warmup=30,
    ema_decay=0.97,
    save_every=300,
)
VARIANTS = {
    "without": _WITHOUT,
    # Cells of about 11 pixels; position and colour alone are clustered.
    "with": dataclasses.replace(_WITHOUT, superpixels=150),
    # The network's own features are clustered too.
    "learned": dataclasses.replace(_WITHOUT, superpixels=150, superpixel_learned=8),
}


@dataclasses.dataclass(frozen=True)
class Compare:
    """Options."""

    runs: tuple[Path, ...]
    """Folders of evaluated runs."""
    split: str = "test"
    """Which part of the data they were evaluated on."""


def kind(config: dict) -> str:
    """The name of the variant that a run's config was made of, seed and numbers of steps aside."""
    aside = dict.fromkeys(("seed", *RESUMABLE))
    for name, variant in VARIANTS.items():
        own = json.loads(json.dumps(dataclasses.asdict(variant)))
        if own | aside == config | aside:
            return name
    return "other"


def table(runs: tuple[Path, ...], split: str) -> str:
    """Mean and range of mIoU and pixel accuracy over the seeds, for each variant and steps.

    Raises:
        InputError: a folder is no evaluated run.
    """
    found: dict[tuple[str, int], list[tuple[int, float, float]]] = {}
    for run in runs:
        try:
            config = json.loads((run / "config.json").read_text())["config"]
            figures = json.loads((run / f"evaluation_{split}.json").read_text())["figures"]
        except FileNotFoundError as error:
            raise InputError(f"{error.filename}: missing; train and evaluate {run} first") from None
        row = next(iter(figures)).partition("/")[0]
        cells = config["seed"], figures[f"{row}/miou"], figures[f"{row}/pixel_accuracy"]
        found.setdefault((kind(config), config["steps"]), []).append(cells)
    lines = [f"{'':<10}{'steps':>7}{'seeds':>9}{'mIoU':>8}{'range':>16}{'accuracy':>10}"]
    for (name, steps), seen in found.items():
        seeds = ",".join(str(seed) for seed, _, _ in sorted(seen))
        miou, accuracy = 100 * np.array([[m, a] for _, m, a in seen]).T
        spread = f"{miou.min():.2f} - {miou.max():.2f}"
        lines.append(
            f"{name:<10}{steps:>7}{seeds:>9}{miou.mean():>8.2f}{spread:>16}{accuracy.mean():>10.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    import sys

    import tyro

    options = tyro.cli(Compare)
    try:
        print(table(options.runs, options.split))
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
