"""Training SSN on any folder of segmentations; the experiments choose the numbers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import optax

from jaxseg import data, metrics, viz
from jaxseg.methods import ssn
from jaxseg.models import ssn as networks
from jaxseg.recipes._superpixel_config import check
from jaxseg.train import Evaluation, Experiment, Phase, Schedule
from jaxseg.train.optimizers import cosine
from jaxseg.types import Batch, InputError, Method, Metric, Network, Prediction


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
        position_offset: pixels by which the positions of a training crop may be moved.
        crop_size: side of a training crop in pixels.
        scale_mean: mean of the random scale before it is clipped.
        batch_size: crops in a step.
        steps: in all; a run that goes on to another number stretches its decay.
        learning_rate: of Adam; its peak where it decays.
        decay: "constant", or "cosine" to a hundredth over `steps`.
        warmup: steps over which the rate rises from 0 where it decays.
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
    position_offset: float = 0.0
    crop_size: int = 201
    scale_mean: float = 1.0
    batch_size: int = 8
    steps: int = 500_000
    learning_rate: float = 1e-4
    decay: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
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


class Task(NamedTuple):
    """What superpixels are to keep of the pixels, and how it is measured."""

    open_train: Callable[[Path, str], Any]
    """(the data folder, split) -> the source of training examples."""
    open_test: Callable[[Path, str], Any]
    """(the data folder, split) -> the source of the examples that are measured."""
    transform: Callable[[Config], data.Transform]
    """The config -> what makes a training crop with `label` or `target` of an example."""
    metric: Metric
    """Of {"superpixels"}."""
    best: str = "asa"
    """The figure of `metric` by which the best checkpoint is chosen."""
    lowest: bool = False
    """Whether a smaller one is better."""
    num_labels: Callable[[Config, Any], int] = lambda config, source: config.num_labels
    """(the config, the training source) -> labels that count in a crop."""


def build(config: Config, task: Task | None = None) -> Experiment:
    """The experiment of a config.

    Args:
        config: its numbers.
        task: None: `segments()`; others are in `superpixel_tasks`.

    Raises:
        InputError: if a number cannot be used.
    """
    check(config)
    task = segments() if task is None else task
    network = _network(config)

    def train_method(num_superpixels: int, num_labels: int) -> Method:
        return ssn.method(
            network,
            num_superpixels=num_superpixels,
            num_iters=config.num_iters,
            train_iters=config.train_iters,
            compactness=config.compactness,
            position_scale=config.position_scale,
            position_offset=config.position_offset,
            num_labels=num_labels,
        )

    def method(*, num_superpixels: int = config.num_superpixels) -> Method:
        return train_method(num_superpixels, config.num_labels)

    def phases(folder: Path) -> Sequence[Phase]:
        source = task.open_train(folder, config.train_split)
        num_labels = task.num_labels(config, source)
        batches = data.train_batches(
            source,
            batch_size=config.batch_size,
            seed=config.seed,
            transform=task.transform(config),
        )
        optimizer = optax.adam(
            config.learning_rate
            if config.decay == "constant"
            else cosine(config.learning_rate, config.steps, warmup=config.warmup, end=0.01)
        )
        return [
            Phase(f"k{k}", train_method(k, num_labels), optimizer, 1, batches)
            for k in config.train_superpixels
        ]

    def rows(folder: Path, split: str, counts: Sequence[int]) -> Mapping[str, Evaluation]:
        source = task.open_test(folder, split)
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
            str(k): Evaluation(method(num_superpixels=k), task.metric, batches) for k in fitting
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
            best=f"{config.validation_superpixels[0]}/{task.best}"
            if config.validation_split
            else "",
            lowest=task.lowest,
        ),
        method=method,
        example={"image": np.zeros((1, 32, 32, 3), np.uint8)},
        phases=phases,
        evaluations=lambda folder, split: rows(folder, split, config.evaluation_superpixels),
        validation=validation if config.validation_split else None,
        picture=picture,
    )


def segments() -> Task:
    """The segments of human segmentations, each annotation an example of its own: the paper's."""
    return Task(
        open_labelled,
        lambda folder, split: open_labelled(folder, split, annotations="all"),
        _augment,
        metrics.superpixel(),
    )


def open_labelled(folder: Path, split: str, **options: Any) -> Any:
    """Opens RGB images with one label map each, instances as segments; decoded files are kept.

    Raises:
        InputError: if there are no labels, or the data cannot be used.
    """
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
