"""DSRL around another task: the tips of worms by heatmaps of twice the input's size.

    jaxseg train experiments/dsrl_keypoints.py --data BBBC010 --workdir RUN [--variant base]
    jaxseg evaluate RUN --data BBBC010 --split test

Wang et al. (CVPR 2020) put the same method around pose estimation. Here the two ends of every worm
in BBBC010 are one heatmap, for a head is not told from a tail; the network sees 260×348 pixels of
520×696 and gives the map at the whole size. A narrow U-Net by default, or a narrow HRNet. Measured
by the percentage of correct keypoints: predicted and true tips paired one to one within 3, 5 or 10
pixels (`metrics.keypoint_pck`). The last step is measured; test images choose nothing.

BBBC010 is a folder of instance masks with `train.txt` and `test.txt`, see `data.WormTipsSource`.
"""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import jax
import numpy as np
import optax

from jaxseg import data, metrics
from jaxseg.data import WormTipsSource
from jaxseg.methods import dsrl, heatmaps
from jaxseg.models.dsrl import dsrl as dsrl_network
from jaxseg.models.dsrl import enlarged
from jaxseg.models.hrnet import hrnet
from jaxseg.models.trunk import TrunkOption
from jaxseg.models.unet import unet
from jaxseg.train import Evaluation, Experiment, Phase, Schedule
from jaxseg.train.optimizers import cosine
from jaxseg.types import Batch, InputError, Method, Prediction

__all__ = ["VARIANTS", "Config", "build"]

THRESHOLDS = (3.0, 5.0, 10.0)
CACHE_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class Config:
    """The numbers of a training.

    Attributes:
        stage: "base": the plain network, its map enlarged bilinearly; "sssr", "sisr", "affinity":
            the stages of DSRL.
        residual: whether DSRL's main branch adds to the plain network's maps, enlarged, and begins
            with them; otherwise it takes the place of the layers that predict.
        network: "unet" or "hrnet".
        width: channels of U-Net's first block, or of HRNet's finest branch.
        sigma: of the heatmaps' Gaussians, in pixels of the whole image.
        foreground: how much more than 1 a pixel on a tip weighs in the loss.
        image_weight: of the image's loss.
        affinity_weight: of feature affinity.
        max_points: tips that a prediction holds at most.
        threshold: lowest score of a tip.
        crop: height and width of a training crop of the whole image.
        batch_size: crops in a step.
        steps: in all.
        learning_rate: of Adam; its peak, from which it falls to 0 as half a cosine.
        warmup: steps over which the rate rises from 0.
        weight_decay: decoupled, of all but biases and batch norm.
        ema_decay: of the moving average of the weights, which then predicts.
        train_split: what is trained on.
        seed: of weights and data.
        log_every: steps.
        save_every: steps.
    """

    stage: Literal["base", "sssr", "sisr", "affinity"] = "affinity"
    residual: bool = True
    network: Literal["unet", "hrnet"] = "unet"
    width: int = 12
    sigma: float = 3.0
    foreground: float = 20.0
    # A fiftieth of the paper's: that part of a cross-entropy is the loss of heatmaps.
    image_weight: float = 0.002
    affinity_weight: float = 0.02
    max_points: int = 60
    threshold: float = 0.3
    crop: tuple[int, int] = (256, 256)
    batch_size: int = 6
    steps: int = 400
    learning_rate: float = 3e-3
    warmup: int = 30
    weight_decay: float = 1e-4
    ema_decay: float = 0.98
    train_split: str = "train"
    seed: int = 0
    log_every: int = 50
    save_every: int = 100


VARIANTS = {
    "affinity": Config(),
    "sisr": Config(stage="sisr"),
    "sssr": Config(stage="sssr"),
    "base": Config(stage="base"),
    "hrnet_affinity": Config(network="hrnet", width=8),
    "hrnet_base": Config(network="hrnet", width=8, stage="base"),
}


def build(config: Config) -> Experiment:
    """The experiment of a config.

    Raises:
        InputError: if a number cannot be used.
    """
    _check(config)

    def phases(folder: Path) -> list[Phase]:
        augment = functools.partial(
            data.random_crop_flip_scale,
            crop_size=config.crop,
            scale_std=0.1,
            scale_range=(0.8, 1.25),
        )
        batches = data.train_batches(
            WormTipsSource(folder, config.train_split, cache_bytes=CACHE_BYTES),
            batch_size=config.batch_size,
            seed=config.seed,
            transform=augment,
        )
        return [Phase("", method(config), _optimizer(config), 1, batches)]

    def evaluations(folder: Path, split: str) -> dict[str, Evaluation]:
        batches = data.eval_batches(WormTipsSource(folder, split), batch_size=1)
        metric = metrics.keypoint_pck(thresholds=THRESHOLDS)
        return {"tips": Evaluation(method(config), metric, batches)}

    return Experiment(
        schedule=Schedule(
            steps=config.steps,
            seed=config.seed,
            ema_decay=config.ema_decay,
            log_every=config.log_every,
            save_every=config.save_every,
        ),
        method=functools.partial(method, config),
        example={"image": np.zeros((1, *config.crop, 3), np.uint8)},
        phases=phases,
        evaluations=evaluations,
        picture=picture,
    )


def method(config: Config, *, halve: bool = True) -> Method:
    """The method of a config; `halve`: whether an image that is predicted is halved first."""
    trunk: TrunkOption = config.stage != "base"
    if trunk and config.residual:
        trunk = "scored"
    if config.network == "unet":
        network, stride = unet(1, width=config.width, depth=3, trunk=trunk), 8
    else:
        network = hrnet(
            1,
            width=config.width,
            stem=4 * config.width,
            modules=(1, 1, 1),
            blocks=2,
            full_size=True,
            trunk=trunk,
        )
        stride = 32
    network = getattr(dsrl_network(network, 1), config.stage) if trunk else enlarged(network)
    task = heatmaps.task(
        1,
        sigma=config.sigma,
        max_points=config.max_points,
        # One tip is one peak: no other within twice the Gaussians' deviation.
        window=2 * max(round(2 * config.sigma), 1) + 1,
        threshold=config.threshold,
        foreground=config.foreground,
    )
    return dsrl.method(
        network,
        task,
        stride=stride,
        image_weight=config.image_weight,
        affinity_weight=config.affinity_weight,
        # Of the training images, whose dark files have a black border around the wells.
        mean=0.22,
        std=0.23,
        halve=halve,
    )


def picture(prediction: Prediction, batch: Batch) -> np.ndarray:
    """The first image of the batch: true tips as green rings, predicted ones as red crosses."""
    image = np.asarray(batch["image"][0])
    bright = np.clip(image.astype(np.float32) * 1.3, 0, 255)
    rows, cols = np.indices(image.shape[:2])

    def draw(points: np.ndarray, color: tuple[int, int, int], near: str) -> None:
        for y, x in points:
            dy, dx = np.abs(rows - y), np.abs(cols - x)
            ring = np.abs(np.hypot(dy, dx) - 6) < 0.8
            cross = (np.minimum(dy, dx) < 0.8) & (np.maximum(dy, dx) < 4)
            bright[ring if near == "ring" else cross] = color

    if "points" in batch:
        there = np.asarray(batch["kinds"][0]) >= 0
        draw(np.asarray(batch["points"][0])[there], (40, 220, 40), "ring")
    found = np.asarray(prediction["kinds"][0]) >= 0
    draw(np.asarray(prediction["points"][0])[found], (255, 40, 40), "cross")
    return bright.astype(np.uint8)


def _optimizer(config: Config) -> optax.GradientTransformation:
    rate = cosine(config.learning_rate, config.steps, warmup=config.warmup)

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    return optax.adamw(rate, weight_decay=config.weight_decay, mask=kernels)


def _check(config: Config) -> None:
    for name in ("stage", "network"):
        known = get_args(get_type_hints(Config)[name])
        if getattr(config, name) not in known:
            raise InputError(f"{name} is {getattr(config, name)!r}; choose {', '.join(known)}")
    for name in ("width", "max_points", "batch_size", "log_every", "save_every"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} is {getattr(config, name)}; give 1 or more")
    for name in (
        "foreground",
        "image_weight",
        "affinity_weight",
        "weight_decay",
        "warmup",
        "steps",
        "seed",
    ):
        value = getattr(config, name)
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} is {value}; give 0 or more")
    for name in ("sigma", "threshold", "learning_rate"):
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}; give more than 0")
    if min(config.crop) < 1:
        raise InputError(f"crop is {config.crop}; give a height and a width")
    if not 0 <= config.ema_decay < 1:
        raise InputError(f"ema_decay is {config.ema_decay}; give 0 to less than 1")
    try:
        made = method(config)
        example = {"image": np.zeros((1, *config.crop, 3), np.uint8)}
        variables = jax.eval_shape(made.init, jax.random.key(0), example)
        jax.eval_shape(made.predict, *variables, example)
    except ValueError as error:
        raise InputError(f"the network cannot be built: {error}") from error
