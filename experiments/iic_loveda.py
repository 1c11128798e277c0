"""IIC on three LoveDA tiles in three groups: built-up land, water, plants, without labels.

    jaxseg train experiments/iic_loveda.py --data AERIAL/loveda --workdir RUN
    jaxseg evaluate RUN --data AERIAL/loveda --split all

Images of 1024×1024 pixels, cut into tiles of 200×200 as the paper's Potsdam (Ji, Henriques,
Vedaldi, ICCV 2019). Background, building and road; water; forest and agriculture. With so few
images it shows that it can be done, not how well it generalises. "small" is for two CPU cores,
"paper" has the numbers of the released command for Potsdam-3, with colours and Sobel maps.
"""

import dataclasses
from pathlib import Path
from typing import Any

from jaxseg import data
from jaxseg.recipes import iic_pixels
from jaxseg.recipes.iic_pixels import Config
from jaxseg.train import Experiment

__all__ = ["VARIANTS", "Config", "build"]

_PAPER = Config(
    num_clusters=3,
    over_clusters=24,
    groups=(
        "built: background, building, road",
        "water: water",
        "plants: forest, agriculture",
    ),
    class_colors=((200, 90, 80), (60, 110, 200), (80, 160, 70)),
    lamb=1.5,
    tile=200,
    crop=(200, 200),
    batch_size=75,
    jitter=(0.1, 0.1, 0.1, 0.1),
    steps=5_000,
    main_steps=100,
    over_steps=100,
    learning_rate=1e-5,
    decay="constant",
    warmup=0,
    watched=75,
    train_split="all",
    evaluate_every=500,
)
_SMALL = dataclasses.replace(
    _PAPER,
    width=8,
    over_clusters=12,
    displacement=5,
    size=(100, 100),
    crop=(100, 100),
    batch_size=15,
    steps=200,
    main_steps=1,
    over_steps=1,
    learning_rate=2e-3,
    decay="cosine",
    warmup=30,
    evaluate_every=100,
)

VARIANTS = {"small": _SMALL, "paper": _PAPER}


def build(config: Config) -> Experiment:
    """The experiment of a config; "all" is every image.

    Raises:
        InputError: if a number cannot be used.
    """
    return iic_pixels.build(config, _open)


def _open(folder: Path, split: str) -> Any:
    part = None if split == "all" else split
    return data.open_data(folder, part, channels="rgb", cache_bytes=iic_pixels.CACHE_BYTES)
