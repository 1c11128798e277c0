"""IIC on COCO-Stuff-3 and -15 (Ji, Henriques, Vedaldi, ICCV 2019).

    jaxseg train experiments/iic_coco_stuff.py --data COCO --workdir RUN --variant coco3
    jaxseg evaluate RUN --data COCO --split train+val

The data is the public download, see `data.CocoStuffSource`; images are chosen by the paper's rule.
The numbers are those of the released commands, for a GPU; the published accuracies are 72.3 and
27.7 per cent. Which pixels count in the loss is taken from the labels, as there (`masked`).
Measured are whole images, where the paper measures a crop of 128×128 about the middle.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from jaxseg import data
from jaxseg.recipes import iic_pixels
from jaxseg.recipes.iic_pixels import Config
from jaxseg.train import Experiment
from jaxseg.types import InputError

__all__ = ["VARIANTS", "Config", "build"]

_COCO3 = Config(
    num_clusters=3,
    over_clusters=15,
    lamb=1.5,
    masked=True,
    scale=0.33,
    crop=(128, 128),
    batch_size=120,
    main_steps=306,
    over_steps=306,
    steps=30_000,
    learning_rate=1e-4,
    decay="constant",
    warmup=0,
    train_split="train+val",
    evaluate_every=612,
    eval_batch=1,
)

VARIANTS = {
    "coco3": _COCO3,
    "coco15": dataclasses.replace(
        _COCO3,
        num_clusters=15,
        over_clusters=45,
        lamb=1.0,
        batch_size=60,
        main_steps=864,
        over_steps=864,
        evaluate_every=1728,
    ),
}


def build(config: Config) -> Experiment:
    """The experiment of a config, whose `num_clusters` are the classes of the data.

    Raises:
        InputError: if a number cannot be used.
    """
    if config.num_clusters not in (3, 15):
        raise InputError(f"num_clusters is {config.num_clusters}; give 3 or 15")
    return iic_pixels.build(config, functools.partial(_open, config.num_clusters))


def _open(classes: int, folder: Path, split: str) -> Any:
    return data.CocoStuffSource(folder, split, classes=classes)
