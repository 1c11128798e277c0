"""What superpixels inside a segmentation network bring: a narrow U-Net with and without the layer.

    jaxseg train experiments/ssn_layer.py --data CAMVID --workdir RUN --variant with --seed 0
    jaxseg evaluate RUN --data CAMVID --split test
    python experiments/ssn_layer.py --runs RUN [RUN ...]

The variants "without", "with" and "learned" differ in nothing but the layer (the paper's section
4.2, see `jaxseg.models.superpixel_pool`) and get equal steps and batches; nothing is chosen on the
validation images. The last command prints the mean over the seeds of each variant and their spread.
"""

import dataclasses
from pathlib import Path

from jaxseg.recipes.semantic import Config, build
from jaxseg.recipes.semantic_table import table
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


def main() -> None:
    """Prints the table."""
    import sys

    import tyro

    options = tyro.cli(Compare)
    try:
        print(table(options.runs, options.split, VARIANTS))
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
