"""Training semantic segmentation on any folder of class labels; the experiments choose numbers."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from jaxseg import data, losses, metrics, viz
from jaxseg.data.resized import ResizedSource
from jaxseg.methods import semantic
from jaxseg.recipes._semantic_config import Config as Config
from jaxseg.recipes._semantic_config import check
from jaxseg.recipes._semantic_initial import initial_variables
from jaxseg.recipes._semantic_network import build_network
from jaxseg.train import Evaluation, Experiment, Phase, Schedule
from jaxseg.train.optimizers import cosine, exponential, polynomial
from jaxseg.train.phases import DataSource
from jaxseg.types import Batch, InputError, Method, Metric, Prediction, PyTree

CACHE_BYTES = 1 << 30

LOSSES: Mapping[str, Callable] = {
    "cross_entropy": losses.cross_entropy,
    "focal": losses.focal,
    "ohem_cross_entropy": losses.ohem_cross_entropy,
    "dice": losses.dice,
    "jaccard": losses.jaccard,
    "lovasz": losses.lovasz,
    "tversky": losses.tversky,
}


def build(config: Config) -> Experiment:
    """The experiment of a config.

    With a `size` it is measured twice: "180x240/miou" against labels of the size that it was
    trained at, which chooses the best, and "full/miou" against labels as they are.

    Raises:
        InputError: if a number cannot be used.
    """

    def train(weights: Sequence[float] | None, batches: DataSource) -> Sequence[Phase]:
        method = make_method(config, class_weights=weights)
        return [Phase("", method, make_optimizer(config), 1, batches)]

    return assemble(config, functools.partial(make_method, config), train, initial_variables)


def assemble(
    config: Config,
    make_method: Callable[..., Method],
    make_phases: Callable[[Sequence[float] | None, DataSource], Sequence[Phase]],
    fill: Callable[[Config, PyTree, PyTree], tuple[PyTree, PyTree]],
    details: Sequence[Metric] = (),
) -> Experiment:
    """The experiment of a config whose method is another one; see `build`.

    Args:
        config: its numbers.
        make_method: the method to predict with; takes the options of `make_method` but
            `class_weights`.
        make_phases: weights of the classes and batches -> what to train.
        fill: puts `config.encoder` or `config.initial` into random variables.
        details: what an evaluation measures beside the classes, against labels as they are; not
            validation.

    Raises:
        InputError: if a number cannot be used.
    """
    check(config)
    _try_network(config, make_method)
    name = f"{config.size[0]}x{config.size[1]}" if any(config.size) else "full"

    def phases(folder: Path) -> Sequence[Phase]:
        source, _ = _labelled(folder, config.train_split, config, config.size)
        batches = data.train_batches(
            source, batch_size=config.batch_size, seed=config.seed, transform=_augment(config)
        )
        return make_phases(find_class_weights(config, source, folder), batches)

    def evaluation(folder: Path, split: str, size: tuple[int, int], *more: Metric) -> Evaluation:
        source, names = _labelled(folder, split, config, size)
        batches = data.eval_batches(source, batch_size=config.batch_size)
        metric = metrics.confusion(config.num_classes, names=names)
        metric = metrics.together(metric, *more) if more else metric
        return Evaluation(make_method(), metric, batches)

    def evaluations(folder: Path, split: str) -> Mapping[str, Evaluation]:
        full = {"full": evaluation(folder, split, (0, 0), *details)}
        return full if name == "full" else {name: evaluation(folder, split, config.size)} | full

    def validation(folder: Path) -> Mapping[str, Evaluation]:
        return {name: evaluation(folder, config.validation_split, config.size)}

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
        method=make_method,
        example={"image": np.zeros((1, *config.crop, 3), np.uint8)},
        phases=phases,
        evaluations=evaluations,
        validation=validation if config.validation_split else None,
        picture=functools.partial(picture, colors=config.class_colors),
        initial=functools.partial(fill, config) if config.encoder or config.initial else None,
        class_names=config.class_names,
        class_colors=config.class_colors,
        tiles=not any(config.size),
    )


def make_method(
    config: Config,
    *,
    class_weights: Sequence[float] | None = None,
    size: tuple[int, int] | None = None,
    scale: float = 1.0,
    probabilities: bool = False,
) -> Method:
    """The method of a config; see `methods.semantic.method`.

    Args:
        config: as a whole.
        class_weights: of the loss.
        size: that prediction works at, (0, 0) for that of the image; None: `config.size`.
        scale: factor on that size.
        probabilities: whether the prediction holds that of every class.
    """
    at = config.size if size is None else size
    network, stride, dropout = build_network(config)
    return semantic.method(
        network,
        num_classes=config.num_classes,
        stride=stride,
        loss=LOSSES[config.loss],
        class_weights=class_weights,
        mean=config.mean,
        std=config.std,
        guide=semantic.superpixel_guide(config.superpixels) if config.superpixels else None,
        dropout=dropout,
        size=at if any(at) else None,
        scale=scale,
        probabilities=probabilities,
    )


def _try_network(config: Config, make_method: Callable[..., Method]) -> None:
    try:
        method = make_method()
        example = {"image": np.zeros((1, *config.crop, 3), np.uint8)}
        jax.eval_shape(lambda: method.init(jax.random.key(0), example))
    except ValueError as error:
        raise InputError(f"the network cannot be built: {error}") from error


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """The optimizer of a config, with its schedule."""
    return with_rate(_optimizer(config), lambda keys: "encoder" in keys, config.encoder_rate)


def with_rate(
    optimizer: optax.GradientTransformation,
    chosen: Callable[[tuple[str, ...]], bool],
    factor: float,
) -> optax.GradientTransformation:
    """The optimizer with another rate for parameters whose keys, from the root, are chosen."""
    if factor == 1:
        return optimizer

    def inside(params: Any) -> Any:
        def choose(path: Any, _: Any) -> bool:
            return chosen(keys_of(path))

        return jax.tree_util.tree_map_with_path(choose, params)

    # After the optimizer: Adam would undo a factor on the gradient.
    return optax.chain(optimizer, optax.masked(optax.scale(factor), inside))


def keys_of(path: Any) -> tuple[str, ...]:
    """The keys of a leaf of variables, from the root on."""
    return tuple(jax.tree_util.keystr(path, simple=True, separator="/").split("/"))


def _optimizer(config: Config) -> optax.GradientTransformation:
    rate = _rate(config)

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    if config.optimizer == "adamw":
        return optax.adamw(rate, weight_decay=config.weight_decay, mask=kernels)
    # Here the decay joins the gradient, as in the published recipes.
    decay = optax.add_decayed_weights(config.weight_decay, mask=kernels)
    if config.optimizer == "sgd":
        return optax.chain(decay, optax.sgd(rate, momentum=0.9))
    return optax.chain(decay, optax.rmsprop(rate, decay=0.9, eps=1e-6))


def _rate(config: Config) -> optax.Schedule:
    peak, steps, warmup = config.learning_rate, config.steps, config.warmup
    if config.decay == "cosine":
        return cosine(peak, steps, warmup=warmup)
    if config.decay == "poly":
        return polynomial(peak, steps, warmup=warmup)
    end = 1.0 if config.decay == "constant" else config.decay_to
    return exponential(peak, steps, warmup=warmup, end=end)


def _labelled(
    folder: Path, split: str, config: Config, size: tuple[int, int]
) -> tuple[data.Source, tuple[str, ...]]:
    """The examples at a size, (0, 0) for their own, and the names of the classes."""
    source: Any = data.open_data(
        folder, split, channels="rgb", cache_bytes=0 if any(size) else CACHE_BYTES
    )
    info = source.info
    if info.kind != "classes":
        raise InputError(f"{folder}: holds {info.kind} images; give data with classes")
    if info.num_classes != config.num_classes:
        raise InputError(
            f"{folder}: has {info.num_classes} classes; set num_classes, which is "
            f"{config.num_classes}, to that"
        )
    if config.class_names and config.class_names != info.classes:
        raise InputError(
            f"{folder}: has the classes {', '.join(info.classes)}; set class_names to them"
        )
    if any(size):
        source = ResizedSource(source, size, cache_bytes=CACHE_BYTES)
    return source, info.classes


def find_class_weights(config: Config, source: data.Source, folder: Path) -> list[float] | None:
    """Those of `config.class_weights`, from the labels of a source; None: all are 1.

    Raises:
        InputError: no pixel is labelled.
    """
    if config.class_weights == "none":
        return None
    counts, pixels = count_labels(source, config.num_classes)
    if not counts.any():
        raise InputError(f"{folder}: no labelled pixel in {config.train_split}")
    if config.class_weights == "median":
        return losses.median_frequency_weights(counts, image_pixels=pixels).tolist()
    if config.class_weights == "inverse_log":
        return losses.inverse_log_weights(counts).tolist()
    # Of images: pixels are too many, and too alike, for samples.
    return losses.effective_number_weights((counts > 0).astype(np.int64)).tolist()


def count_labels(source: data.Source, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each class in each label map, int64 `[N, C]`, and of each image, `[N]`."""
    counts = np.zeros((len(source), num_classes), np.int64)
    pixels = np.zeros(len(source), np.int64)
    for i in range(len(source)):
        label = source[i]["label"]
        counts[i] = np.bincount(label[label >= 0], minlength=num_classes)
        pixels[i] = label.size
    return counts, pixels


def picture(
    prediction: Prediction, batch: Batch, *, colors: Sequence[tuple[int, int, int]] = ()
) -> np.ndarray:
    """The first image of the batch, its predicted classes, and its labels."""
    maps = [np.asarray(prediction["classes"])[0]]
    if "label" in batch:
        maps.append(np.asarray(batch["label"])[0])
    table = np.array(colors, np.uint8) if colors else None
    panels = [viz.colorize(m, colors=table) for m in maps]
    # Of an image with infrared the colours alone.
    return np.concatenate([np.asarray(batch["image"][0])[..., :3], *panels], axis=1)


def _augment(config: Config) -> data.Transform:
    return functools.partial(
        data.random_crop_flip_scale,
        crop_size=config.crop,
        scale_std=config.scale_std,
        scale_range=config.scale_range,
    )
