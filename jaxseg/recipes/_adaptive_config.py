"""The numbers of a training with adaptive downsampling, and which of them can be used."""

import dataclasses
import math
from typing import Literal, get_args

from jaxseg.recipes import semantic
from jaxseg.recipes._semantic_config import check as check_semantic
from jaxseg.types import InputError

Mode = Literal["learned", "fixed", "uniform", "area", "oracle"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclasses.dataclass(frozen=True)
class Config(semantic.Config):
    """The numbers of a training; what is not here is of the network that segments.

    `size` is that of the images before they are cropped and of those that are measured, zeros
    leave them as they are; `crop` is what is sampled, as large as the images where nothing is to be
    cropped. `steps` are those of the network that segments, the same in all modes; a sampler's
    come on top, on crops of its own, so that the network sees the same ones in all modes.
    `initial` is not taken.

    Attributes:
        mode: "learned": the sampler learns where the boundaries are, then the network learns on
            images that it sampled; "fixed": likewise, with a sampler that gives every image the
            same nodes and so learns the mean over the data; "uniform": an even grid of nearest
            pixels, the paper's baseline; "area": the image shrunk by an area filter and the logits
            enlarged bilinearly, the honest one; "oracle": nodes from the labels, in training and in
            evaluation too.
        nodes: height and width that the network works at: how many nodes an image is read at.
        order: 1: nodes read an image bilinearly, 0: its nearest pixel, as published.
        antialias: whether a node averages over what it stands for.
        target_classes: numbers of the classes whose boundaries are sampled, and whose mean IoU is
            measured apart; none: all.
        sampler: "double_unet", the paper's, or "mobilenet", light.
        sampler_size: height and width of what the sampler sees.
        sampler_grid: rows and columns of its nodes; 8×8 in the paper.
        sampler_features: channels of "double_unet"; 256 in the paper. Of no other sampler.
        sampler_mean: whether each of its nodes learns a shift of its own beside, for all images.
        smoothness: λ of the nodes that it learns, in units of its own grid.
        fold_free: whether cells that a sampler folds over are unfolded.
        sampler_steps: of the sampler alone, before the network's.
        sampler_rate: peak of the sampler's learning rate, which falls to 0 by a cosine.
        joint_steps: of both together, after the network's, with the gradient through what is
            sampled. Deviation: published are none.
        joint_rate: peak of the learning rate in these.
        flip_probability: of mirroring left and right.
        brightness: what all channels of a crop are shifted by, at most, either way; of 1.
        contrast: its differences from its mean are multiplied by e to the power of at most this,
            either way.
        tint: what each channel is multiplied by, likewise.
    """

    mode: Mode = "learned"
    nodes: tuple[int, int] = (64, 64)
    order: Literal[0, 1] = 0
    antialias: bool = False
    target_classes: tuple[int, ...] = ()
    sampler: Literal["double_unet", "mobilenet"] = "double_unet"
    sampler_size: tuple[int, int] = (64, 64)
    sampler_grid: tuple[int, int] = (8, 8)
    sampler_features: int = 256
    sampler_mean: bool = False
    smoothness: float = 1.0
    fold_free: bool = True
    sampler_steps: int = 1000
    sampler_rate: float = 1e-3
    joint_steps: int = 0
    joint_rate: float = 1e-4
    flip_probability: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0
    tint: float = 0.0

    @property
    def learns(self) -> bool:
        """Whether there is a sampler that learns."""
        return self.mode in ("learned", "fixed")


def check(config: Config) -> None:
    """Raises `InputError` for the first field that cannot be used, whatever the network."""
    check_semantic(config)
    if config.superpixels:
        raise InputError("superpixels is of semantic segmentation; leave it 0")
    if config.initial:
        raise InputError("initial is of semantic segmentation; leave it out, or give --encoder")
    for name, least in (("nodes", 2), ("crop", 2), ("sampler_grid", 2), ("sampler_size", 1)):
        pair = getattr(config, name)
        if min(pair) < least:
            raise InputError(f"{name} is {pair}; give a height and a width of {least} or more")
    for name, least in (("sampler_features", 1), ("sampler_steps", 0), ("joint_steps", 0)):
        if getattr(config, name) < least:
            raise InputError(f"{name} is {getattr(config, name)}; give {least} or more")
    for name in ("smoothness", "brightness", "contrast", "tint"):
        if not 0 <= getattr(config, name) < math.inf:
            raise InputError(f"{name} is {getattr(config, name)}; give 0 or more")
    for name in ("sampler_rate", "joint_rate"):
        if not 0 < getattr(config, name) < math.inf:
            raise InputError(f"{name} is {getattr(config, name)}; give more than 0")
    if not 0 <= config.flip_probability <= 1:
        raise InputError(f"flip_probability is {config.flip_probability}; give 0 to 1")
    if config.antialias and config.order == 0:
        raise InputError("antialias is of order 1, the nearest pixel has no filter; give --order 1")
    if any(config.size) and min(config.size) < 2:
        raise InputError(f"size is {config.size}; give a height and a width of 2 or more")
    light = config.mode == "learned" and config.sampler == "mobilenet"
    if light and config.sampler_features != Config.sampler_features:
        raise InputError(
            f"sampler_features is {config.sampler_features}, of double_unet alone; give "
            f"--sampler-features {Config.sampler_features} with mobilenet"
        )
    if config.joint_steps and config.mode != "learned":
        raise InputError(f"joint_steps is of mode learned, not {config.mode}; leave it 0")
    if config.joint_steps and config.order == 0:
        raise InputError("joint_steps wants order 1: nearest pixels have no gradient")
    targets = config.target_classes
    known = all(0 <= target < config.num_classes for target in targets)
    if not known or len(set(targets)) < len(targets):
        raise InputError(
            f"target_classes is {targets}; give different numbers, 0 to {config.num_classes - 1}"
        )
    if any(config.size) and any(c > s for c, s in zip(config.crop, config.size, strict=True)):
        raise InputError(f"crop is {config.crop}, larger than size, {config.size}; give --crop too")
