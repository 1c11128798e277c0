"""IIC on Potsdam-3 and -6 (Ji, Henriques, Vedaldi, ICCV 2019): aerial images with infrared.

    jaxseg train experiments/iic_potsdam.py --data POTSDAM --workdir RUN --variant potsdam3
    jaxseg evaluate RUN --data POTSDAM --split train+test

The data is ISPRS's download, see `data.PotsdamSource`. The numbers are those of the released
commands, for a GPU; the published accuracies are 65.1 and 45.4 per cent.
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

_POTSDAM3 = Config(
    num_clusters=3,
    over_clusters=24,
    lamb=1.5,
    channels=4,
    inputs="image",
    crop=(200, 200),
    batch_size=75,
    jitter=(0.1, 0.1, 0.1, 0.1),
    main_steps=114,
    over_steps=114,
    steps=6_000,
    learning_rate=1e-5,
    decay="constant",
    warmup=0,
    train_split="train+test+unlabelled",
    evaluate_every=228,
)

VARIANTS = {
    "potsdam3": _POTSDAM3,
    "potsdam6": dataclasses.replace(
        _POTSDAM3,
        num_clusters=6,
        over_clusters=36,
        lamb=1.0,
        batch_size=60,
        displacement=5,
        main_steps=143,
        over_steps=143,
        evaluate_every=286,
        learning_rate=1e-6,
    ),
}


def build(config: Config) -> Experiment:
    """The experiment of a config, whose `num_clusters` are the classes of the data.

    Raises:
        InputError: if a number cannot be used.
    """
    if config.num_clusters not in (3, 6):
        raise InputError(f"num_clusters is {config.num_clusters}; give 3 or 6")
    return iic_pixels.build(config, functools.partial(_open, config.num_clusters))


def _open(classes: int, folder: Path, split: str) -> Any:
    return data.PotsdamSource(folder, split, classes=classes)
