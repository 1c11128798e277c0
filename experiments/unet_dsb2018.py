"""Touching nuclei: a narrow U-Net with and without the weight map of its paper.

    jaxseg train experiments/unet_dsb2018.py --data DSB2018 --workdir RUN [--variant plain]
    jaxseg evaluate RUN --data DSB2018 --split test
    python experiments/compare_nuclei.py --data DSB2018 --runs RUN [RUN ...] -o nuclei.png

Ronneberger, Fischer, Brox, MICCAI 2015, section 3: two classes are learned, and background between
near nuclei weighs up to `border_weight` more in the cross-entropy. The variants "weighted" and
"plain" differ in that term alone: steps, crops and seeds are equal. The paper also weighs the
classes by their frequency, which the variants "..._balanced" do. The last step is measured.

Objects are the 4-connected components of the predicted foreground, scored by `ap_dsb`. Annotated
nuclei touch, and the paper learns a ridge of background between them; here the pixels with a
4-neighbour in another nucleus are background for training, a seam of two pixels, and each component
gets its side of a seam back when objects are made.

DSB2018 is a folder of instances, such as the data that come with jaxseg
(`jaxseg.data.samples_path()`). Results are in experiments/results/unet_dsb2018.md.
"""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax

from jaxseg import data, losses, metrics
from jaxseg.methods import semantic
from jaxseg.models.unet import unet
from jaxseg.train import Evaluation, Experiment, Phase, Schedule
from jaxseg.train.optimizers import cosine
from jaxseg.types import Batch, InputError, Method, Prediction

__all__ = ["VARIANTS", "Config", "build"]

CACHE_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class Config:
    """The numbers of a training.

    Attributes:
        border_weight: of background that touches two nuclei, w0 of the paper; 0: no such term.
        border_sigma: how fast it falls with the distance to both, in pixels.
        class_weights: of the loss, by "median" frequency in the training labels, or "none".
        min_size: pixels of the smallest component that is an object.
        width: channels of the first block.
        depth: how often the network halves the map.
        crop: height and width of a training crop.
        scale_std: standard deviation of the random scale, whose mean is 1.
        scale_range: smallest and largest random scale.
        batch_size: crops in a step.
        steps: in all; a run that goes on to another number stretches its decay.
        learning_rate: of Adam; its peak, from which it falls to 0 as half a cosine.
        warmup: steps over which the rate rises from 0.
        weight_decay: decoupled, of all but biases and batch norm.
        ema_decay: of the moving average of the weights, which then predicts.
        train_split: what is trained on.
        seed: of weights and data.
        log_every: steps.
        save_every: steps.
    """

    border_weight: float = 10.0
    border_sigma: float = 5.0
    class_weights: Literal["median", "none"] = "none"
    min_size: int = 20
    width: int = 16
    depth: int = 3
    crop: tuple[int, int] = (128, 128)
    scale_std: float = 0.2
    scale_range: tuple[float, float] = (0.7, 1.5)
    batch_size: int = 6
    steps: int = 600
    learning_rate: float = 3e-3
    warmup: int = 50
    weight_decay: float = 1e-4
    ema_decay: float = 0.98
    train_split: str = "train"
    seed: int = 0
    log_every: int = 50
    save_every: int = 200


VARIANTS = {
    "weighted": Config(),
    "plain": Config(border_weight=0.0),
    "weighted_balanced": Config(class_weights="median"),
    "plain_balanced": Config(border_weight=0.0, class_weights="median"),
}


def build(config: Config) -> Experiment:
    """The experiment of a config.

    Raises:
        InputError: if a number cannot be used.
    """
    _check(config)

    def phases(folder: Path) -> list[Phase]:
        source = open_instances(folder, config.train_split)
        weigh = functools.partial(
            targets,
            class_weights=balance(source) if config.class_weights == "median" else (1.0, 1.0),
            border_weight=config.border_weight,
            border_sigma=config.border_sigma,
        )
        augment = functools.partial(
            data.random_crop_flip_scale,
            crop_size=config.crop,
            scale_std=config.scale_std,
            scale_range=config.scale_range,
        )
        batches = data.train_batches(
            data.WeightedSource(source, weigh, cache_bytes=CACHE_BYTES),
            batch_size=config.batch_size,
            seed=config.seed,
            transform=augment,
        )
        return [Phase("", method(config), _optimizer(config), 1, batches)]

    def evaluations(folder: Path, split: str) -> dict[str, Evaluation]:
        batches = data.eval_batches(open_instances(folder, split), batch_size=1)
        metric = metrics.dsb_average_precision()
        return {"components": Evaluation(method(config), metric, batches)}

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
        class_names=("background", "nucleus"),
    )


def _optimizer(config: Config) -> optax.GradientTransformation:
    rate = cosine(config.learning_rate, config.steps, warmup=config.warmup)

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    return optax.adamw(rate, weight_decay=config.weight_decay, mask=kernels)


_LEAST = {
    "border_weight": 0,
    "min_size": 1,
    "width": 1,
    "depth": 1,
    "scale_std": 0,
    "batch_size": 1,
    "steps": 0,
    "warmup": 0,
    "weight_decay": 0,
    "ema_decay": 0,
    "seed": 0,
    "log_every": 1,
    "save_every": 1,
}


def _check(config: Config) -> None:
    for name, least in _LEAST.items():
        value = getattr(config, name)
        if not (math.isfinite(value) and value >= least):
            raise InputError(f"{name} is {value}; give {least} or more")
    if config.class_weights not in ("median", "none"):
        raise InputError(f"class_weights is {config.class_weights!r}; choose median or none")
    for name in ("learning_rate", "border_sigma"):
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}; give more than 0")
    if config.ema_decay >= 1:
        raise InputError(f"ema_decay is {config.ema_decay}; give less than 1")
    if config.seed >= 2**31:
        raise InputError(f"seed is {config.seed}; give 0 to 2^31 - 1")
    if min(config.crop) < 1:
        raise InputError(f"crop is {config.crop}; give a height and a width")
    low, high = config.scale_range
    if not 0 < low <= high < math.inf:
        raise InputError(f"scale_range is {config.scale_range}; give 0 < smallest <= largest")


def method(config: Config) -> Method:
    """Foreground and background by a U-Net; `finish` adds `instances` `[B, H, W]` int32."""
    network = unet(2, width=config.width, depth=config.depth)
    # Fluorescence is dark: these are mean and deviation of all training pixels.
    pixels = semantic.method(network, num_classes=2, stride=2**config.depth, mean=0.051, std=0.070)

    def finish(prediction: Prediction, batch: Batch) -> Prediction:
        foreground = np.asarray(prediction["classes"]) == 1
        found = [components(mask, min_size=config.min_size) for mask in foreground]
        return {**prediction, "instances": np.stack(found)}

    return pixels._replace(finish=finish)


def open_instances(folder: Path, split: str) -> data.FolderSource:
    """The examples of a folder of instances, `label` 0 for background.

    Raises:
        InputError: the folder holds something else.
    """
    info = data.read_info(folder)
    if info.kind != "instances" or info.background != 0:
        raise InputError(
            f"{folder}: holds {info.kind}, background {info.background}; give instances, "
            "background 0"
        )
    return data.open_folder(
        folder, split, as_partition=True, channels="rgb", cache_bytes=CACHE_BYTES
    )


def seam(label: np.ndarray) -> np.ndarray:
    """Marks the pixels of objects that have a 4-neighbour in another object; bool `[H, W]`."""
    marked = np.zeros(label.shape, bool)
    for one, other in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        meet = (label[one] != label[other]) & (label[one] > 0) & (label[other] > 0)
        marked[one] |= meet
        marked[other] |= meet
    return marked


def balance(source: data.Source) -> tuple[float, float]:
    """Weights of background and foreground by median frequency, the seams being background."""
    counts = np.zeros((len(source), 2), np.int64)
    for i in range(len(source)):
        label = source[i]["label"]
        foreground = np.count_nonzero((label > 0) & ~seam(label))
        counts[i] = np.count_nonzero(label >= 0) - foreground, foreground
    if not counts.any(axis=0).all():
        raise InputError("the training labels hold no object or no background; give other data")
    background, foreground = losses.median_frequency_weights(counts)
    return float(background), float(foreground)


def targets(
    label: np.ndarray,
    *,
    class_weights: tuple[float, float],
    border_weight: float,
    border_sigma: float,
) -> data.WeightedLabel:
    """Foreground without seams, and the weight of each pixel: its class's and the border term."""
    apart = np.where(seam(label), 0, label)
    weight = losses.unet_weight_map(
        apart, class_weights=class_weights, w0=border_weight, sigma=border_sigma
    )
    return data.WeightedLabel(np.minimum(apart, 1), weight)


def components(foreground: np.ndarray, *, min_size: int) -> np.ndarray:
    """Objects of a mask: its 4-connected components of `min_size` pixels or more.

    Where two are one or two pixels apart along a row or a column, the gap is shared out between
    them: the seam that training took away.

    Returns:
        int32 `[H, W]`: 0 for background, objects 1, 2, ...
    """
    from scipy import ndimage

    found, _ = ndimage.label(foreground)
    small = np.bincount(found.ravel()) < min_size
    small[0] = True
    numbers = np.where(small, 0, np.cumsum(~small)).astype(np.int32)
    objects = numbers[found]
    closed = objects.copy()
    for old, new in ((objects, closed), (objects.T, closed.T)):
        for gap in (1, 2):
            end = len(old) - gap - 1
            above, below = old[: max(end, 0)], old[gap + 1 :]
            meet = (above > 0) & (below > 0) & (above != below)
            for i in range(1, gap + 1):
                meet &= old[i : i + len(above)] == 0
            for i in range(1, gap + 1):
                new[i : i + len(above)][meet] = (above if i == 1 else below)[meet]
    return closed
