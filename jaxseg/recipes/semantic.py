"""Training semantic segmentation on any folder of class labels; the experiments choose numbers."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax

from jaxseg import data, losses, metrics, viz
from jaxseg.data.resized import ResizedSource
from jaxseg.methods import semantic
from jaxseg.models.unet import Superpixels, unet
from jaxseg.train import Evaluation, Experiment, Phase, Schedule
from jaxseg.train.optimizers import cosine, polynomial
from jaxseg.types import Batch, InputError, Method, Prediction

CACHE_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class Config:
    """The numbers of a training.

    Attributes:
        network: "unet".
        num_classes: of the data.
        width: channels of the first block.
        depth: how often the network halves the map.
        upsampling: "transposed" convolution or "bilinear".
        superpixels: in an image, for a superpixel layer in the decoder; 0: no such layer.
        superpixel_iters: associations of its clustering.
        superpixel_learned: channels of features that are clustered beside position and colour.
        superpixel_level: it works at 1 / 2^level of the image's size.
        size: height and width that all images are brought to, for training and for measuring; two
            zeros leave them as they are.
        crop: height and width of a training crop.
        scale_std: standard deviation of the random scale, whose mean is 1.
        scale_range: smallest and largest random scale.
        class_weights: of the loss, by "median" frequency in the training labels, or "none".
        batch_size: crops in a step.
        steps: in all; a run that goes on to another number stretches its decay.
        learning_rate: of Adam; its peak.
        decay: "poly", (1 - t / steps)^0.9, or "cosine", to 0 over `steps`.
        warmup: steps over which the rate rises from 0.
        weight_decay: decoupled, of all but biases and batch norm.
        ema_decay: of the moving average of the weights, which then predicts; 0: none.
        train_split: such as "train+val".
        validation_split: evaluated during training, and chooses the best; "": none, the last is it.
        seed: of weights and data.
        log_every: steps.
        save_every: steps.
        evaluate_every: steps; 0: only at the end.
    """

    network: Literal["unet"] = "unet"
    num_classes: int = 11
    width: int = 64
    depth: int = 4
    upsampling: Literal["transposed", "bilinear"] = "transposed"
    superpixels: int = 0
    superpixel_iters: int = 5
    superpixel_learned: int = 0
    superpixel_level: int = 0
    size: tuple[int, int] = (0, 0)
    crop: tuple[int, int] = (224, 224)
    scale_std: float = 0.25
    scale_range: tuple[float, float] = (0.5, 2.0)
    class_weights: Literal["median", "none"] = "median"
    batch_size: int = 8
    steps: int = 40_000
    learning_rate: float = 1e-3
    decay: Literal["poly", "cosine"] = "poly"
    warmup: int = 0
    weight_decay: float = 1e-4
    ema_decay: float = 0.0
    train_split: str = "train"
    validation_split: str = ""
    seed: int = 0
    log_every: int = 50
    save_every: int = 1000
    evaluate_every: int = 0


def build(config: Config) -> Experiment:
    """The experiment of a config.

    It is measured at the size that it was trained at, labels included; figures are called after
    that size, such as "180x240/miou", or "full/miou".

    Raises:
        InputError: if a number cannot be used.
    """
    _check(config)
    name = f"{config.size[0]}x{config.size[1]}" if any(config.size) else "full"

    def method(*, class_weights: Sequence[float] | None = None) -> Method:
        return _method(config, class_weights)

    def phases(folder: Path) -> Sequence[Phase]:
        source, _ = _labelled(folder, config.train_split, config)
        batches = data.train_batches(
            source, batch_size=config.batch_size, seed=config.seed, transform=_augment(config)
        )
        weights = None
        if config.class_weights == "median":
            counts, pixels = count_labels(source, config.num_classes)
            if not counts.any():
                raise InputError(f"{folder}: no labelled pixel in {config.train_split}")
            weights = losses.median_frequency_weights(counts, image_pixels=pixels).tolist()
        return [Phase("", method(class_weights=weights), _optimizer(config), 1, batches)]

    def evaluations(folder: Path, split: str) -> Mapping[str, Evaluation]:
        source, names = _labelled(folder, split, config)
        batches = data.eval_batches(source, batch_size=config.batch_size)
        metric = metrics.confusion(config.num_classes, names=names)
        return {name: Evaluation(method(), metric, batches)}

    return Experiment(
        schedule=Schedule(
            steps=config.steps,
            seed=config.seed,
            ema_decay=config.ema_decay or None,
            log_every=config.log_every,
            save_every=config.save_every,
            evaluate_every=config.evaluate_every,
            best=f"{name}/miou" if config.validation_split else "",
        ),
        method=method,
        example={"image": np.zeros((1, *config.crop, 3), np.uint8)},
        phases=phases,
        evaluations=evaluations,
        validation=(lambda folder: evaluations(folder, config.validation_split))
        if config.validation_split
        else None,
        picture=picture,
    )


def _method(config: Config, class_weights: Sequence[float] | None) -> Method:
    superpixels = None
    if config.superpixels:
        superpixels = Superpixels(
            config.superpixels,
            num_iters=config.superpixel_iters,
            num_learned=config.superpixel_learned,
            level=config.superpixel_level,
        )
    network = unet(
        config.num_classes,
        width=config.width,
        depth=config.depth,
        upsampling=config.upsampling,
        superpixels=superpixels,
    )
    return semantic.method(
        network,
        num_classes=config.num_classes,
        stride=2**config.depth,
        class_weights=class_weights,
        guide=semantic.superpixel_guide(config.superpixels) if config.superpixels else None,
    )


def _optimizer(config: Config) -> optax.GradientTransformation:
    schedule = cosine if config.decay == "cosine" else polynomial
    rate = schedule(config.learning_rate, config.steps, warmup=config.warmup)

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    return optax.adamw(rate, weight_decay=config.weight_decay, mask=kernels)


def _labelled(folder: Path, split: str, config: Config) -> tuple[data.Source, tuple[str, ...]]:
    """The examples at the config's size, and the names of the classes."""
    whole = not any(config.size)
    source: Any = data.open_data(
        folder, split, channels="rgb", cache_bytes=CACHE_BYTES if whole else 0
    )
    info = source.info
    if info.kind != "classes":
        raise InputError(f"{folder}: holds {info.kind} images; give data with classes")
    if info.num_classes != config.num_classes:
        raise InputError(
            f"{folder}: has {info.num_classes} classes; set num_classes, which is "
            f"{config.num_classes}, to that"
        )
    if not whole:
        source = ResizedSource(source, config.size, cache_bytes=CACHE_BYTES)
    return source, info.classes


def count_labels(source: data.Source, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each class in each label map, int64 `[N, C]`, and of each image, `[N]`."""
    counts = np.zeros((len(source), num_classes), np.int64)
    pixels = np.zeros(len(source), np.int64)
    for i in range(len(source)):
        label = source[i]["label"]
        counts[i] = np.bincount(label[label >= 0], minlength=num_classes)
        pixels[i] = label.size
    return counts, pixels


def picture(prediction: Prediction, batch: Batch) -> np.ndarray:
    """The first image of the batch, its predicted classes, and its labels."""
    classes = np.asarray(prediction["classes"])[0]
    panels = [np.asarray(batch["image"][0]), viz.colorize(classes)]
    if "label" in batch:
        panels.append(viz.colorize(np.asarray(batch["label"])[0]))
    return np.concatenate(panels, axis=1)


def _augment(config: Config) -> data.Transform:
    return functools.partial(
        data.random_crop_flip_scale,
        crop_size=config.crop,
        scale_std=config.scale_std,
        scale_range=config.scale_range,
    )


_LEAST = {
    "num_classes": 1,
    "width": 1,
    "depth": 1,
    "batch_size": 1,
    "superpixel_iters": 1,
    "log_every": 1,
    "save_every": 1,
    "superpixels": 0,
    "superpixel_learned": 0,
    "superpixel_level": 0,
    "scale_std": 0,
    "weight_decay": 0,
    "ema_decay": 0,
    "warmup": 0,
    "steps": 0,
    "seed": 0,
    "evaluate_every": 0,
}
_WORDS = {
    "network": ("unet",),
    "upsampling": ("transposed", "bilinear"),
    "class_weights": ("median", "none"),
    "decay": ("poly", "cosine"),
}


def _check(config: Config) -> None:
    for name, words in _WORDS.items():
        if getattr(config, name) not in words:
            raise InputError(f"{name} is {getattr(config, name)!r}; choose {' or '.join(words)}")
    for name, least in _LEAST.items():
        value = getattr(config, name)
        if not (math.isfinite(value) and value >= least):
            raise InputError(f"{name} is {value}; give {least} or more")
    if not (math.isfinite(config.learning_rate) and config.learning_rate > 0):
        raise InputError(f"learning_rate is {config.learning_rate}; give more than 0")
    if config.ema_decay >= 1:
        raise InputError(f"ema_decay is {config.ema_decay}; give less than 1")
    if config.seed >= 2**31:
        raise InputError(f"seed is {config.seed}; give 0 to 2^31 - 1")
    for name, least in (("size", 0), ("crop", 1)):
        pair = getattr(config, name)
        if min(pair) < least or (any(pair) and not all(pair)):
            raise InputError(f"{name} is {pair}; give a height and a width")
    low, high = config.scale_range
    if not 0 < low <= high < math.inf:
        raise InputError(f"scale_range is {config.scale_range}; give 0 < smallest <= largest")
    try:
        method = _method(config, None)
        example = {"image": np.zeros((1, *config.crop, 3), np.uint8)}
        jax.eval_shape(lambda: method.init(jax.random.key(0), example))
    except ValueError as error:
        raise InputError(f"the network cannot be built: {error}") from error
