"""Training IIC on pixels; the experiments choose numbers."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg import data
from jaxseg.data.resized import ResizedSource
from jaxseg.methods import iic
from jaxseg.methods.iic import Inputs
from jaxseg.models.iic import net10a
from jaxseg.recipes import _iic
from jaxseg.recipes.semantic import picture
from jaxseg.train import Evaluation, Experiment, Phase
from jaxseg.types import InputError, Method

CACHE_BYTES = 1 << 30

OpenSource = Callable[[Path, str], Any]
"""(the data folder, split) -> a source of classes of pixels, before `Config.groups`."""


@dataclasses.dataclass(frozen=True)
class Config(_iic.Config):
    """The numbers of a training on pixels, beside those of `_iic.Config`.

    Attributes:
        width: channels of net10a's first convolution.
        channels: of the images: 3 (RGB) or 4 (and infrared).
        faithful: whether the network pads as the released code.
        class_colors: of the clusters in pictures, one each; none: distinct ones.
        standardise: whether each image is brought to the same mean and deviation of its channels,
            so that clusters cannot be of exposure.
        displacement: T, of the pairs of pixels.
        collapsed: whether all displacements have one joint.
        masked: whether pixels without a label are left out of the loss, as published for COCO.
        groups: labels put together, each "name: class, class, ..."; none: those of the data.
        tile: side of the tiles that images are cut into; 0: they are whole.
        size: height and width that images are brought to; zeros leave them.
        scale: factor on the height and width of all images, where `size` is not given.
        crop: height and width of a training crop.
        flip_probability: of mirroring a view.
        jitter: of its brightness, contrast, saturation and hue.
        rotation: its largest angle in degrees.
        scale_range: smallest and largest factor of a view.
        translation: largest shift, as a part of the sides.
        shear: largest angle of shear in degrees.
        eval_batch: images in a batch of an evaluation.
    """

    num_clusters: int = 3
    sub_heads: int = 1
    repeats: int = 1
    inputs: Inputs = "image+sobel"
    standardise: bool = False
    class_colors: tuple[tuple[int, int, int], ...] = ()
    width: int = 64
    channels: int = 3
    faithful: bool = False
    displacement: int = 10
    collapsed: bool = False
    masked: bool = False
    groups: tuple[str, ...] = ()
    tile: int = 0
    size: tuple[int, int] = (0, 0)
    scale: float = 1.0
    crop: tuple[int, int] = (128, 128)
    flip_probability: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.125)
    rotation: float = 0.0
    scale_range: tuple[float, float] = (1.0, 1.0)
    translation: float = 0.0
    shear: float = 0.0
    eval_batch: int = 8


def build(config: Config, open_source: OpenSource | None = None) -> Experiment:
    """The experiment of a config.

    Its rows: "labelled", clusters against labels, and "unlabelled", what can be said without, of
    `config.watched` images and views that are always the same.

    Args:
        config: its numbers.
        open_source: gives the data; None: `data.open_data`.

    Raises:
        InputError: if a number cannot be used.
    """
    _check(config)
    method = functools.partial(make_method, config)
    enough = len(config.class_colors) == _iic.heads(config)[config.predicts]
    colors = config.class_colors if enough else ()
    opened = functools.partial(_source, config, open_source or _open)

    def phases(folder: Path) -> tuple[Phase, ...]:
        batches = data.train_batches(
            opened(folder, config.train_split),
            batch_size=config.batch_size,
            seed=config.seed,
            transform=_views(config),
        )
        return _iic.phases(config, method, batches)

    def labelled(folder: Path, split: str) -> dict[str, Evaluation]:
        source = opened(folder, split)
        classes = config.class_names or source.info.classes
        batches = data.eval_batches(source, batch_size=config.eval_batch)
        row = Evaluation(method(details=True), _iic.labelled(config, classes), batches)
        return {"labelled": row}

    def unlabelled(folder: Path, split: str) -> dict[str, Evaluation]:
        views = data.ViewsSource(opened(folder, split), _views(config), seed=config.seed)
        part = _iic.First(views, config.watched)
        batches = data.eval_batches(part, batch_size=min(config.eval_batch, len(part)))
        masked = ("label",) if config.masked else ()
        inputs = ("image", "index", "weight", "size", "views", "affine", *masked)
        row = Evaluation(method(details=True), _iic.unlabelled(config), batches, inputs)
        return {"unlabelled": row}

    def evaluations(folder: Path, split: str) -> Mapping[str, Evaluation]:
        return {**labelled(folder, split), **unlabelled(folder, split)}

    def validation(folder: Path) -> Mapping[str, Evaluation]:
        split = config.train_split
        return _iic.watched(config, unlabelled(folder, split), lambda: labelled(folder, split))

    return Experiment(
        schedule=_iic.schedule(config),
        method=method,
        example={"image": np.zeros((1, *config.crop, config.channels), np.uint8)},
        phases=phases,
        evaluations=evaluations,
        validation=validation,
        picture=functools.partial(picture, colors=colors),
        # No names: which cluster is which group only labels tell.
        class_colors=colors,
    )


def make_method(
    config: Config,
    *,
    head: str = "main",
    lamb: float = 1.0,
    details: bool = False,
    probabilities: bool = False,
    size: tuple[int, int] | None = None,
    scale: float = 1.0,
) -> Method:
    """The method of a config; see `methods.iic.segmentation`.

    Args:
        config: as a whole.
        head: that is trained.
        lamb: weight of the entropy.
        details: whether the prediction holds what the figures need, of images that are at the
            config's size already.
        probabilities: whether it holds those of every cluster.
        size: that prediction works at, (0, 0) for that of the image; None: the config's.
        scale: factor on that size.
    """
    network = net10a(
        _iic.heads(config),
        sub_heads=config.sub_heads,
        width=config.width,
        faithful=config.faithful,
        batch_norm=config.batch_norm,
    )
    at = config.size if size is None else size
    if size is None and not any(at):
        scale *= config.scale
    return iic.segmentation(
        network,
        head=head,
        predicts=config.predicts,
        lamb=lamb,
        displacement=config.displacement,
        collapsed=config.collapsed,
        inputs=config.inputs,
        standardise=config.standardise,
        masked=config.masked,
        faithful=config.faithful,
        details=details,
        probabilities=probabilities,
        size=at if any(at) and not details else None,
        scale=1.0 if details else scale,
    )


def groups_of(config: Config) -> dict[str, tuple[str, ...]]:
    """The groups of a config by name.

    Raises:
        InputError: one is not written as it should be, or a name is there twice.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in config.groups:
        name, colon, rest = text.partition(":")
        classes = tuple(part.strip() for part in rest.split(",") if part.strip())
        if not (colon and name.strip() and classes) or name.strip() in found:
            raise InputError(f'groups has {text!r}; give "name: class, class", each name once')
        found[name.strip()] = classes
    return found


def _check(config: Config) -> None:
    _iic.check(config)
    groups_of(config)
    if config.channels not in (3, 4):
        raise InputError(f"channels is {config.channels}; give 3, or 4 with infrared")
    if min(config.crop) <= config.displacement or config.displacement < 0:
        raise InputError(
            f"displacement is {config.displacement}; give 0 or more, less than the crop's sides "
            f"of {config.crop[0]} and {config.crop[1]}"
        )
    for name, smallest in (("eval_batch", 1), ("width", 1), ("tile", 0)):
        if getattr(config, name) < smallest:
            raise InputError(f"{name} is {getattr(config, name)}; give {smallest} or more")
    if not 0 < config.scale <= 8:
        raise InputError(f"scale is {config.scale}; give a factor above 0, up to 8")
    if min(config.size) < 0 or (any(config.size) and not all(config.size)):
        raise InputError(f"size is {config.size}; give a height and a width, or two zeros")
    try:
        method = make_method(config)
        example = {"image": np.zeros((1, *config.crop, config.channels), np.uint8)}
        jax.eval_shape(lambda: method.init(jax.random.key(0), example))
    except ValueError as error:
        raise InputError(f"the network cannot be built: {error}") from error
    image = np.zeros((*config.crop, config.channels), np.uint8)
    label = np.zeros(config.crop, np.int32)
    try:
        _views(config)({"image": image, "label": label, "id": ""}, np.random.default_rng(0))
    except ValueError as error:
        raise InputError(f"the views cannot be made: {error}") from error


def _views(config: Config) -> data.Transform:
    return functools.partial(
        data.pixel_views,
        crop_size=config.crop,
        repeats=config.repeats,
        flip_probability=config.flip_probability,
        jitter=config.jitter,
        rotation=config.rotation,
        scale_range=config.scale_range,
        translation=config.translation,
        shear=config.shear,
    )


def _open(folder: Path, split: str) -> Any:
    return data.open_data(folder, split, channels="rgb", cache_bytes=CACHE_BYTES)


def _source(config: Config, open_source: OpenSource, folder: Path, split: str) -> Any:
    source = open_source(folder, split)
    if source.info.kind != "classes":
        raise InputError(f"{folder}: holds {source.info.kind}; give data with classes of pixels")
    bands = source[0]["image"].shape[-1]
    if bands != config.channels:
        raise InputError(
            f"{folder}: images of {bands} channels; set channels, which is {config.channels}"
        )
    if config.groups:
        source = data.GroupedSource(source, groups_of(config))
    if config.tile:
        source = data.TiledSource(source, config.tile)
    if any(config.size):
        return ResizedSource(source, config.size, cache_bytes=CACHE_BYTES)
    if config.scale != 1:
        return ResizedSource(source, config.scale, cache_bytes=CACHE_BYTES)
    return source
