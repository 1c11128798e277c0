"""Training IIC on whole images, digits or photographs; the experiments choose numbers."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxseg import data
from jaxseg.methods import iic
from jaxseg.models.iic import net5g, net6c
from jaxseg.recipes import _iic
from jaxseg.train import Evaluation, Experiment, Phase
from jaxseg.types import InputError, Method, Network


@dataclasses.dataclass(frozen=True)
class Config(_iic.Config):
    """The numbers of a training on images, beside those of `_iic.Config`.

    Attributes:
        network: "net6c" (MNIST) or "net5g" (a ResNet-34).
        widths: channels of net6c's convolutions, or the one of net5g's first stage.
        kernel_size: of net6c.
        channels: of the images: 1 (grey) or 3.
        size: of the side of the views.
        side: in pixels of the image, of the window that the first view and prediction take.
        sides: of the windows of the other views, one drawn for each.
        image_side: of the images, whose middle window of `side` predicts.
        centre_probability: of a first view in the middle, not at a random place.
        rotation: largest angle of the other views, in degrees.
        rotation_probability: of turning one at all.
        flip_probability: of mirroring one.
        jitter: of their brightness, contrast, saturation and hue.
        label: of the prepared TFDS data: "coarse_label" for the 20 classes of CIFAR-100.
    """

    network: Literal["net6c", "net5g"] = "net6c"
    widths: tuple[int, ...] = (64, 128, 256, 512)
    kernel_size: int = 5
    channels: Literal[1, 3] = 1
    size: int = 24
    side: int = 20
    sides: tuple[int, ...] = (16, 20, 24)
    image_side: int = 28
    centre_probability: float = 0.5
    rotation: float = 25.0
    rotation_probability: float = 0.5
    flip_probability: float = 0.0
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.0, 0.0)
    label: str = ""


def build(config: Config) -> Experiment:
    """The experiment of a config.

    Its rows: "labelled", clusters against labels, and "unlabelled", what can be said without, of
    `config.watched` images and views that are always the same.

    Raises:
        InputError: if a number cannot be used.
    """
    _check(config)
    method = functools.partial(make_method, config)
    shape = (config.size, config.size, config.channels)

    def phases(folder: Path) -> tuple[Phase, ...]:
        source = _source(config, folder, config.train_split)
        batches = data.train_batches(
            source, batch_size=config.batch_size, seed=config.seed, transform=_views(config)
        )
        return _iic.phases(config, method, batches)

    def labelled(folder: Path, split: str) -> dict[str, Evaluation]:
        source = _source(config, folder, split)
        classes = config.class_names or source.info.classes
        batches = data.eval_batches(source, batch_size=500)
        return {"labelled": Evaluation(method(), _iic.labelled(config, classes), batches)}

    def unlabelled(folder: Path, split: str) -> dict[str, Evaluation]:
        views = data.ViewsSource(_source(config, folder, split), _views(config), seed=config.seed)
        part = _iic.First(views, config.watched)
        batches = data.eval_batches(part, batch_size=min(100, len(part)))
        inputs = ("image", "index", "weight", "size", "views")
        return {"unlabelled": Evaluation(method(), _iic.unlabelled(config), batches, inputs)}

    def evaluations(folder: Path, split: str) -> Mapping[str, Evaluation]:
        return {**labelled(folder, split), **unlabelled(folder, split)}

    def validation(folder: Path) -> Mapping[str, Evaluation]:
        split = config.train_split
        return _iic.watched(config, unlabelled(folder, split), lambda: labelled(folder, split))

    return Experiment(
        schedule=_iic.schedule(config),
        method=method,
        example={"image": np.zeros((1, *shape), np.uint8)},
        phases=phases,
        evaluations=evaluations,
        validation=validation,
    )


def make_method(config: Config, *, head: str = "main", lamb: float = 1.0) -> Method:
    """The method of a config; see `methods.iic.clustering`.

    Args:
        config: as a whole.
        head: that is trained.
        lamb: weight of the entropy.
    """
    # An image to be predicted may come in colour.
    grey = config.channels == 1 and config.inputs == "image"
    return iic.clustering(
        make_network(config),
        head=head,
        predicts=config.predicts,
        lamb=lamb,
        inputs="grey" if grey else config.inputs,
        size=(config.size, config.size),
        centre=config.side / config.image_side,
    )


def make_network(config: Config) -> Network:
    """The network of a config."""
    options: Any = {"sub_heads": config.sub_heads, "batch_norm": config.batch_norm}
    if config.network == "net5g":
        return net5g(_iic.heads(config), width=config.widths[0], **options)
    return net6c(
        _iic.heads(config), widths=config.widths, kernel_size=config.kernel_size, **options
    )


def _check(config: Config) -> None:
    _iic.check(config)
    if not config.widths:
        raise InputError("widths is empty; give the channels of one convolution or more")
    if config.network == "net5g" and len(config.widths) > 1:
        raise InputError(f"widths is {config.widths}; net5g has one, of its first stage")
    largest = max((config.side, *config.sides))
    if not config.sides or min(config.side, *config.sides) < 1 or largest > config.image_side:
        raise InputError(
            f"side is {config.side} and sides are {config.sides}; give 1 to {config.image_side}, "
            "which is image_side"
        )
    try:
        method = make_method(config)
        example = {"image": np.zeros((1, config.size, config.size, config.channels), np.uint8)}
        jax.eval_shape(lambda: method.init(jax.random.key(0), example))
    except ValueError as error:
        raise InputError(f"the network cannot be built: {error}") from error
    try:
        _views(config)
    except ValueError as error:
        raise InputError(f"the views cannot be made: {error}") from error


def _views(config: Config) -> data.Transform:
    window = data.RandomCrop(
        config.size,
        config.sides,
        rotation=config.rotation,
        rotation_probability=config.rotation_probability,
        flip_probability=config.flip_probability,
    )
    return functools.partial(
        data.image_views,
        first=data.digit_first(
            config.size, config.side, centre_probability=config.centre_probability
        ),
        second=data.Compose((window, data.ColorJitter(*config.jitter))),
        repeats=config.repeats,
    )


def _source(config: Config, folder: Path, split: str) -> Any:
    options = {"label": config.label} if config.label else {}
    source: Any = data.open_data(
        folder, split, channels="grey" if config.channels == 1 else "rgb", **options
    )
    if source.info.kind != "image_classes":
        raise InputError(
            f"{folder}: holds {source.info.kind}; give data with one class an image, such as MNIST"
        )
    height, width, _ = source.extent(0)
    if (height, width) != (config.image_side, config.image_side):
        raise InputError(
            f"{folder}: images of {height}x{width}; set image_side, which is {config.image_side}, "
            "to the side of square ones"
        )
    return source
