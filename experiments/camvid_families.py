"""Every family of networks on CamVid, narrow and on small images, with equal steps and batches.

    jaxseg train experiments/camvid_families.py --data CAMVID --workdir RUN --variant fcn8
    jaxseg evaluate RUN --data CAMVID --split test
    python experiments/camvid_families.py --runs RUN [RUN ...] [--curves PICTURE]

What two CPU cores can tell: what skips bring to FCN, how fast a plain and a residual U-Net
converge, what a context module brings, what class weights do. The variants differ in nothing but
that, and FCN and the dilated nets, which have no batch norm, in a lower rate; the validation images
choose the step that is kept. The last command prints a table, and draws the validation mIoU over
the steps.
"""

import dataclasses
import json
from pathlib import Path

from jaxseg.recipes.semantic import Config, build
from jaxseg.recipes.semantic_table import table, validation_curve, variant_of
from jaxseg.train.run_folder import open_run
from jaxseg.types import InputError

__all__ = ["VARIANTS", "Config", "build"]

_SMALL = Config(
    size=(120, 160),
    crop=(96, 128),
    scale_range=(0.8, 1.6),
    class_weights="none",
    batch_size=4,
    steps=600,
    learning_rate=3e-3,
    decay="cosine",
    warmup=30,
    ema_decay=0.97,
    validation_split="val",
    save_every=300,
    evaluate_every=100,
)
_FCN = dataclasses.replace(
    _SMALL, network="fcn", width=16, hidden=256, padding="same", learning_rate=1e-3
)
_DILATED = dataclasses.replace(
    _SMALL, network="dilated", width=16, hidden=256, padding="same", learning_rate=1e-3
)
VARIANTS = {
    "unet": dataclasses.replace(_SMALL, width=16),
    "unet_weighted": dataclasses.replace(_SMALL, width=16, class_weights="median"),
    "resunet": dataclasses.replace(_SMALL, network="resunet", width=16, residual_depths=(2, 3, 2)),
    **{f"fcn{stride}": dataclasses.replace(_FCN, fcn_stride=stride) for stride in (32, 16, 8)},
    "fc_densenet": dataclasses.replace(
        _SMALL, network="fc_densenet", width=24, growth=8, layers=(3,) * 9
    ),
    "dilated_frontend": dataclasses.replace(_DILATED, context="none"),
    "dilated": _DILATED,
    "pspnet": dataclasses.replace(_SMALL, network="pspnet", width=16),
    "deeplab_resnet": dataclasses.replace(_SMALL, network="deeplab_resnet", width=16, features=64),
    "deeplab_mobilenetv2": dataclasses.replace(
        _SMALL, network="deeplab_mobilenetv2", scale=0.5, features=64
    ),
    "deeplab_xception": dataclasses.replace(
        _SMALL, network="deeplab_xception", scale=0.25, features=64
    ),
    "espnetv2": dataclasses.replace(_SMALL, network="espnetv2", scale=0.5),
}


@dataclasses.dataclass(frozen=True)
class Compare:
    """Options."""

    runs: tuple[Path, ...]
    """Folders of evaluated runs."""
    split: str = "test"
    """Which part of the data they were evaluated on."""
    curves: Path | None = None
    """Where to draw the validation mIoU over the steps (.png)."""


def draw(runs: tuple[Path, ...], picture: Path) -> None:
    """Draws the validation mIoU of each run over the steps.

    Raises:
        InputError: a folder is no run, or the picture cannot be written.
    """
    from jaxseg import data, viz

    curves = {}
    for run in runs:
        _, config = open_run(run)
        name = variant_of(json.loads(json.dumps(dataclasses.asdict(config))), VARIANTS)
        steps, values = validation_curve(run)
        curves[name] = (steps, [100 * value for value in values])
    data.write_image(
        picture, viz.curve_plot(curves, xlabel="step", ylabel="validation mIoU, per cent")
    )


def main() -> None:
    """Prints the table, draws the curves."""
    import sys

    import tyro

    options = tyro.cli(Compare)
    try:
        print(table(options.runs, options.split, VARIANTS))
        if options.curves:
            draw(options.runs, options.curves)
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
