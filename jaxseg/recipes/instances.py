"""Training to find instances on any folder of their masks; the experiments choose numbers."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg import data, metrics, viz
from jaxseg.data.padded import PaddedSource
from jaxseg.recipes._instances_config import Config as Config
from jaxseg.recipes._instances_config import check
from jaxseg.recipes._instances_method import (
    build_stages,
    initial_variables,
    make_method,
    make_optimizer,
)
from jaxseg.train import Evaluation, Experiment, Phase, Schedule
from jaxseg.types import Batch, InputError, Metric, Prediction

CACHE_BYTES = 1 << 30

OpenSource = Callable[[Path, str], data.Source]
"""(the data folder, split) -> examples with `masks`."""
MakeMetrics = Callable[[Config], Sequence[Metric]]


def build(
    config: Config,
    open_source: OpenSource | None = None,
    *,
    make_metrics: MakeMetrics | None = None,
) -> Experiment:
    """The experiment of a config.

    "semiconv" has two phases, Mask R-CNN alone for `first_steps` and then the whole; such a run
    cannot go on to another number of steps. Figures are of images at their own size, "full/ap" and
    so on.

    Args:
        config: its numbers.
        open_source: None: `open_instances`.
        make_metrics: what is measured; None: `instances_metric`.

    Raises:
        InputError: if a number cannot be used.
    """
    check(config)
    validated = bool(config.validation_split or config.hold_out)
    metric = metrics.together(*(make_metrics or instances_metric)(config))
    if validated or config.best != Config.best:
        _check_best(config, metric)
    _try_method(config)
    opened = functools.partial(_opened, config, open_source or open_instances)

    def phases(folder: Path) -> list[Phase]:
        source = opened(folder, config.train_split)
        if config.hold_out:
            source = _hold_out(config, source, folder)[0]
        batches = data.train_batches(
            source,
            batch_size=config.batch_size,
            seed=config.seed,
            transform=_augment(config),
            max_instances=config.max_instances or None,
            overflow=config.overflow,
        )
        stages = build_stages(config)
        lengths = [config.first_steps, config.steps - config.first_steps]
        return [
            Phase(name, method, make_optimizer(config, name, max(steps, 1)), max(steps, 1), batches)
            for (name, method), steps in zip(stages.items(), lengths[-len(stages) :], strict=True)
            if steps or len(stages) == 1
        ]

    def evaluation(source: data.Source) -> Evaluation:
        if config.pad:
            source = PaddedSource(source, config.pad)
        # One at a time: images of a batch have as many places for objects as the fullest.
        batches = data.eval_batches(source, batch_size=1)
        return Evaluation(make_method(config, min_score=0.0), metric, batches)

    def evaluations(folder: Path, split: str) -> Mapping[str, Evaluation]:
        return {"full": evaluation(opened(folder, split))}

    def validation(folder: Path) -> Mapping[str, Evaluation]:
        source = opened(folder, config.validation_split or config.train_split)
        if config.hold_out:
            source = _hold_out(config, source, folder)[1]
        return {"full": evaluation(source)}

    return Experiment(
        schedule=Schedule(
            steps=config.steps,
            seed=config.seed,
            accumulate=config.accumulate,
            ema_decay=config.ema_decay or None,
            log_every=config.log_every,
            save_every=config.save_every,
            evaluate_every=config.evaluate_every,
            best=f"full/{config.best}" if validated else "",
        ),
        method=functools.partial(make_method, config),
        example={"image": np.zeros((1, *config.crop, 3), np.uint8)},
        phases=phases,
        evaluations=evaluations,
        validation=validation if validated else None,
        picture=picture,
        initial=functools.partial(initial_variables, config)
        if config.encoder or config.initial
        else None,
        class_names=config.class_names,
    )


def instances_metric(config: Config | None = None) -> tuple[Metric, ...]:
    """COCO's measures, AP_dsb and panoptic quality."""
    config = config or Config()
    # Of one class the means say all.
    names = config.class_names if config.num_classes > 1 else ()
    known: dict[str, Any] = {"num_classes": config.num_classes, "names": names}
    coco = metrics.instances(
        **known, max_detections=config.max_detections, score_threshold=config.min_score
    )
    return coco, metrics.panoptic_quality(**known, score_threshold=config.min_score)


def open_instances(folder: Path, split: str) -> data.Source:
    """The examples of a folder of instances.

    Raises:
        InputError: the folder holds something else.
    """
    source: Any = data.open_data(folder, split, channels="rgb", cache_bytes=CACHE_BYTES)
    if source.info.kind != "instances":
        raise InputError(
            f"{folder}: holds {source.info.kind}; give a folder whose dataset.json has "
            '"kind": "instances"'
        )
    return source


def _opened(config: Config, open_source: OpenSource, folder: Path, split: str) -> data.Source:
    source = open_source(folder, split)
    return data.BinaryInputSource(source) if config.input == "binary" else source


def _hold_out(config: Config, source: data.Source, folder: Path) -> tuple[data.Source, data.Source]:
    try:
        return data.hold_out(source, config.hold_out)
    except InputError as error:
        most = len(source)
        mend = f"--hold-out {most} or less" if most > 1 else "more images, or --hold-out 0"
        raise InputError(
            f"{folder}: split {config.train_split!r} has {error}; give {mend}"
        ) from None


@functools.lru_cache(maxsize=64)
def _try_method(config: Config) -> None:
    """Traces what training and prediction compute, without computing it."""
    try:
        method = make_method(config)
        batch = _nothing(config)
        params, state = jax.eval_shape(method.init, jax.random.key(0), batch)
        jax.eval_shape(method.loss, params, state, batch, jax.random.key(0))
        jax.eval_shape(method.predict, params, state, {"image": batch["image"]})
    except ValueError as error:
        # One line, whatever it says.
        raise InputError(f"the network cannot be built: {' '.join(str(error).split())}") from error


def _check_best(config: Config, metric: Metric) -> None:
    empty = np.zeros((1, 0, *config.crop), bool)
    told = {"masks": empty, "scores": np.zeros((1, 0), np.float32)}
    told |= {"kinds": np.zeros((1, 0), np.int32), "boxes": np.zeros((1, 0, 4), np.float32)}
    names = metric.compute(metric.measure(told, _nothing(config)))
    if config.best not in names:
        raise InputError(f"best is {config.best!r}; there are {', '.join(sorted(names))}")


def _nothing(config: Config) -> dict[str, np.ndarray]:
    """A batch of one black crop with a place for an object, and none there."""
    return {
        "image": np.zeros((1, *config.crop, 3), np.uint8),
        "masks": np.zeros((1, 1, *config.crop), bool),
        "valid": np.zeros((1, 1), bool),
        "kinds": np.full((1, 1), -1, np.int32),
        "size": np.array([config.crop], np.int32),
        "index": np.zeros(1, np.int32),
        "weight": np.ones(1, np.float32),
    }


def _augment(config: Config) -> data.Transform:
    crop = functools.partial(
        data.random_crop_flip_scale,
        crop_size=config.crop,
        scale_std=config.scale_std,
        scale_range=config.scale_range,
    )
    # Turned first: the padding of a crop stays at the right and below.
    return data.in_turn(data.random_turn, crop) if config.turns else crop


def picture(prediction: Prediction, batch: Batch) -> np.ndarray:
    """The first image of the batch with the predicted masks, and with the true ones."""
    image = np.asarray(batch["image"])[0]
    panels = [viz.overlay_masks(image, np.asarray(prediction["masks"])[0])]
    if "masks" in batch:
        panels.append(viz.overlay_masks(image, np.asarray(batch["masks"])[0]))
    return np.concatenate(panels, axis=1)
