"""Training SSN on any folder of segmentations; the experiments choose the numbers."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optax

from jaxseg import data, metrics, viz
from jaxseg.methods import ssn
from jaxseg.models import ssn as networks
from jaxseg.ops.slic import grid_shape
from jaxseg.train import Evaluation, Experiment, Phase, Schedule
from jaxseg.train.optimizers import cosine
from jaxseg.types import Batch, InputError, Method, Network, Prediction


@dataclasses.dataclass(frozen=True)
class Config:
    """The numbers of an SSN training; the defaults are the paper's (section 5).

    Attributes:
        network: "deep", "linear", or "pix", which has nothing to train.
        num_features: k of the paper, the five inputs included.
        width: channels of the deep network.
        train_superpixels: numbers of superpixels in a crop; of several, training cycles.
        train_iters: v when training.
        num_superpixels: asked for by `jaxseg predict`.
        num_iters: v when predicting.
        num_labels: segments of a crop that count; those beyond are ignored.
        compactness: weight of the compactness loss.
        position_scale: η of the position features.
        crop_size: side of a training crop in pixels.
        scale_mean: mean of the random scale before it is clipped.
        batch_size: crops in a step.
        steps: in all; a run that goes on to another number stretches its decay.
        learning_rate: of Adam; its peak where it decays.
        decay: "constant", or "cosine" to a hundredth over `steps`.
        ema_decay: of the moving average of the weights, which then predicts; 0: none.
        train_split: such as "train+val".
        validation_split: evaluated during training; "": none.
        validation_superpixels: numbers asked for during training; the first chooses the best.
        evaluation_superpixels: numbers asked for by `jaxseg evaluate`; those that the smallest
            image cannot hold are left out, of `validation_superpixels` too.
        seed: of weights and data.
        log_every: steps.
        save_every: steps.
        evaluate_every: steps; 0: only at the end.
    """

    network: Literal["deep", "linear", "pix"] = "deep"
    num_features: int = 20
    width: int = 64
    train_superpixels: tuple[int, ...] = (100,)
    train_iters: int = 5
    num_superpixels: int = 100
    num_iters: int = 10
    num_labels: int = 50
    compactness: float = 1e-5
    position_scale: float = ssn.POSITION_SCALE
    crop_size: int = 201
    scale_mean: float = 1.0
    batch_size: int = 8
    steps: int = 500_000
    learning_rate: float = 1e-4
    decay: Literal["constant", "cosine"] = "constant"
    ema_decay: float = 0.0
    train_split: str = "train+val"
    validation_split: str = ""
    validation_superpixels: tuple[int, ...] = (100, 400)
    evaluation_superpixels: tuple[int, ...] = (50, 100, 200, 300, 500, 900)
    seed: int = 0
    log_every: int = 50
    save_every: int = 1000
    evaluate_every: int = 0


CACHE_BYTES = 1 << 30


def build(config: Config) -> Experiment:
    """The experiment of a config.

    Raises:
        InputError: if a number cannot be used.
    """
    _check(config)
    network = _network(config)

    def method(*, num_superpixels: int = config.num_superpixels) -> Method:
        return ssn.method(
            network,
            num_superpixels=num_superpixels,
            num_iters=config.num_iters,
            train_iters=config.train_iters,
            compactness=config.compactness,
            position_scale=config.position_scale,
            num_labels=config.num_labels,
        )

    def phases(folder: Path) -> Sequence[Phase]:
        source = _labelled(folder, config.train_split)
        batches = data.train_batches(
            source, batch_size=config.batch_size, seed=config.seed, transform=_augment(config)
        )
        optimizer = optax.adam(
            config.learning_rate
            if config.decay == "constant"
            else cosine(config.learning_rate, config.steps, end=0.01)
        )
        return [
            Phase(f"k{k}", method(num_superpixels=k), optimizer, 1, batches)
            for k in config.train_superpixels
        ]

    def rows(folder: Path, split: str, counts: Sequence[int]) -> Mapping[str, Evaluation]:
        source = _labelled(folder, split, annotations="all")
        extents = [source.extent(i) for i in range(len(source))]
        least = min(range(len(source)), key=lambda i: extents[i].height * extents[i].width)
        height, width, _ = extents[least]
        fitting = [k for k in counts if k <= max(1, height * width // 4)]
        if not fitting:
            raise InputError(
                f"{folder}: {source.ids[least]} ({height}x{width}) is too small for "
                f"{min(counts)} superpixels; lower the numbers to evaluate at"
            )
        batches = data.eval_batches(source, batch_size=1)
        return {
            str(k): Evaluation(method(num_superpixels=k), metrics.superpixel(), batches)
            for k in fitting
        }

    def validation(folder: Path) -> Mapping[str, Evaluation]:
        found = rows(folder, config.validation_split, config.validation_superpixels)
        first = config.validation_superpixels[0]
        if str(first) not in found:
            raise InputError(
                f"{folder}: its smallest image cannot hold {first} superpixels, which is to choose "
                "the best; put a smaller number first in validation_superpixels"
            )
        return found

    return Experiment(
        schedule=Schedule(
            steps=config.steps,
            seed=config.seed,
            ema_decay=config.ema_decay or None,
            log_every=config.log_every,
            save_every=config.save_every,
            evaluate_every=config.evaluate_every,
            best=f"{config.validation_superpixels[0]}/asa" if config.validation_split else "",
        ),
        method=method,
        example={"image": np.zeros((1, 32, 32, 3), np.uint8)},
        phases=phases,
        evaluations=lambda folder, split: rows(folder, split, config.evaluation_superpixels),
        validation=validation if config.validation_split else None,
        picture=picture,
    )


def _labelled(folder: Path, split: str, **options: Any) -> Any:
    source = data.open_data(
        folder, split, as_partition=True, channels="rgb", cache_bytes=CACHE_BYTES, **options
    )
    if source.info.kind not in ("partition", "classes"):
        raise InputError(
            f"{folder}: holds {source.info.kind} images; give data with labels, see dataset.json"
        )
    return source


def picture(prediction: Prediction, batch: Batch) -> np.ndarray:
    """The first image of the batch with its superpixels, and in their mean colours."""
    image, labels = batch["image"][0], np.asarray(prediction["superpixels"])[0]
    panels = [viz.overlay_boundaries(image, labels), viz.mean_color(image, labels)]
    return np.concatenate(panels, axis=1)


def compact_labels(label: np.ndarray) -> np.ndarray:
    """Numbers the segments that a crop still holds from 0; -1 stays.

    The loss has a channel for each number, so that gaps would waste channels.
    """
    found, compact = np.unique(label, return_inverse=True)
    return (compact.reshape(label.shape) - np.sum(found < 0)).astype(np.int32)


class _augment:
    """The random crop of the recipe; a class, because worker processes must unpickle it."""

    def __init__(self, config: Config):
        self.crop_size, self.scale_mean = config.crop_size, config.scale_mean

    def __call__(self, example: Any, rng: np.random.Generator) -> dict[str, Any]:
        crop = data.random_crop_flip_scale(
            example, rng, crop_size=self.crop_size, scale_mean=self.scale_mean
        )
        return {**crop, "label": compact_labels(crop["label"])}


def _network(config: Config) -> Network:
    if config.network == "deep":
        return networks.deep(num_features=config.num_features, width=config.width)
    if config.network == "linear":
        return networks.linear(num_features=config.num_features)
    return networks.pix()


_LEAST = {
    "crop_size": 1,
    "batch_size": 1,
    "width": 1,
    "train_iters": 1,
    "num_iters": 1,
    "num_superpixels": 1,
    "num_labels": 1,
    "log_every": 1,
    "save_every": 1,
    "steps": 0,
    "seed": 0,
    "evaluate_every": 0,
    "compactness": 0,
    "scale_mean": 0,
    "ema_decay": 0,
}


def _check(config: Config) -> None:
    if config.network not in ("deep", "linear", "pix"):
        raise InputError(f"network is {config.network!r}; choose deep, linear or pix")
    if config.decay not in ("constant", "cosine"):
        raise InputError(f"decay is {config.decay!r}; choose constant or cosine")
    for name in ("train_superpixels", "validation_superpixels", "evaluation_superpixels"):
        if not getattr(config, name):
            raise InputError(f"{name} is empty; give at least one number")
    for name, least in _LEAST.items():
        value = getattr(config, name)
        if not (math.isfinite(value) and value >= least):
            raise InputError(f"{name} is {value}; give {least} or more")
    for name in ("learning_rate", "position_scale"):
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}; give more than 0")
    if config.ema_decay >= 1:
        raise InputError(f"ema_decay is {config.ema_decay}; give less than 1")
    if not 0 <= config.seed < 2**31:
        raise InputError(f"seed is {config.seed}; give 0 to 2^31 - 1")
    if config.num_features <= networks.NUM_INPUTS:
        raise InputError(f"num_features is {config.num_features}; give more than 5")
    for k in config.train_superpixels:
        try:
            grid_shape(config.crop_size, config.crop_size, k)
        except ValueError as error:
            raise InputError(f"train_superpixels: {error}") from error
    for name in ("validation_superpixels", "evaluation_superpixels"):
        if min(getattr(config, name)) < 1:
            raise InputError(f"{name} has {min(getattr(config, name))}; give 1 or more")
