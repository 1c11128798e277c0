"""The numbers of a training of semantic segmentation, and which of them can be used."""

import dataclasses
import math
from typing import Any, Literal, get_args, get_type_hints

from jaxseg.types import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    """The numbers of a training; a 0 stands for the published number where that is said.

    Attributes:
        network: which family.
        num_classes: of the data.
        class_names: for legends; none: their numbers.
        class_colors: for pictures, RGB 0..255; none: distinct ones.
        width: channels of the first block, of FCN, U-Net, residual U-Net, FC-DenseNet, dilated
            nets, and the ResNets; 0: as published.
        scale: factor on the channels of ESPNetv2, MobileNetV2 and Xception.
        depth: how often U-Net halves the map (0: 4), or the layers of the ResNet (0: 50).
        upsampling: of U-Net: "transposed" convolution or "bilinear".
        fcn_stride: of the finest map that FCN scores: 32, 16 or 8.
        at_once: whether FCN-16s and 8s scale their pools so that all scores can be trained at once;
            otherwise train them in stages, each with `initial` the coarser one's run.
        padding: of FCN and dilated nets: "margin": 100 or 186 pixels around the image, as
            released; "same": none, for small images.
        hidden: channels of fc6 and fc7, of FCN and dilated nets; 0: 4096.
        context: of dilated nets: "none", the front end alone; "basic" or "large".
        output_stride: of DeepLabv3+: 8 or 16.
        features: channels of DeepLabv3+'s pyramid and decoder.
        growth: of FC-DenseNet.
        layers: of every dense block.
        residual_depths: blocks in every stage of the residual U-Net.
        batch_norm: what evaluation normalises with: "running" statistics, or those of the "batch".
        dtype: of the network's computation.
        superpixels: in an image, for a superpixel layer in U-Net's decoder; 0: no such layer.
        superpixel_iters: associations of its clustering.
        superpixel_learned: channels of features that are clustered beside position and colour.
        superpixel_level: it works at 1 / 2^level of the image's size.
        mean: the network sees (image - mean) / std, of an image in [0, 1].
        std: see `mean`.
        encoder: file of torchvision's weights that the encoder begins with (.pth or .safetensors),
            for ESPNetv2 of a network of EdgeNets; "": random ones.
        initial: a run's folder, or weights of `jaxseg weights`, that training begins with, of the
            same network or of one that this one adds to (FCN-32s for 16s, the dilated front end for
            the context module); "": random weights.
        size: height and width that all images are brought to for training; prediction works at
            that area too. Two zeros leave them as they are.
        crop: height and width of a training crop.
        scale_std: standard deviation of the random scale, whose mean is 1.
        scale_range: smallest and largest random scale.
        loss: of `jaxseg.losses`.
        class_weights: of the loss, from the training labels: by "median" frequency, "inverse_log"
            (ENet), "effective" number of images, or "none".
        batch_size: crops in a step.
        steps: in all; a run that goes on to another number stretches its decay.
        optimizer: "adamw", "sgd" (momentum 0.9), or "rmsprop".
        learning_rate: its peak.
        encoder_rate: factor on the rate of the encoder, such as 0.1 where it begins with given
            weights and the decoder does not.
        decay: "poly", (1 - t / steps)^0.9; "cosine", to 0; "exponential", to `decay_to`; or
            "constant".
        decay_to: part of the rate that an exponential decay ends with.
        warmup: steps over which the rate rises from 0.
        weight_decay: of all but biases and batch norm; decoupled from the gradient in "adamw",
            added to it otherwise.
        ema_decay: of the moving average of the weights, which then predicts; 0: none.
        train_split: such as "train+val".
        validation_split: evaluated during training, and chooses the best; "": none, the last is it.
        seed: of weights and data.
        log_every: steps.
        save_every: steps.
        evaluate_every: steps; 0: only at the end.
    """

    network: Literal[
        "unet",
        "resunet",
        "fcn",
        "fcn_alexnet",
        "fc_densenet",
        "dilated",
        "pspnet",
        "deeplab_resnet",
        "deeplab_xception",
        "deeplab_mobilenetv2",
        "espnetv2",
    ] = "unet"
    num_classes: int = 11
    class_names: tuple[str, ...] = ()
    class_colors: tuple[tuple[int, int, int], ...] = ()
    width: int = 0
    scale: float = 1.0
    depth: int = 0
    upsampling: Literal["transposed", "bilinear"] = "transposed"
    fcn_stride: Literal[8, 16, 32] = 8
    at_once: bool = False
    padding: Literal["margin", "same"] = "margin"
    hidden: int = 0
    context: Literal["none", "basic", "large"] = "basic"
    output_stride: Literal[8, 16] = 16
    features: int = 256
    growth: int = 16
    layers: tuple[int, ...] = (5,) * 11
    residual_depths: tuple[int, ...] = (3, 8, 10, 3, 10, 8, 3)
    batch_norm: Literal["running", "batch"] = "running"
    dtype: Literal["float32", "bfloat16"] = "float32"
    superpixels: int = 0
    superpixel_iters: int = 5
    superpixel_learned: int = 0
    superpixel_level: int = 0
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    encoder: str = ""
    initial: str = ""
    size: tuple[int, int] = (0, 0)
    crop: tuple[int, int] = (224, 224)
    scale_std: float = 0.25
    scale_range: tuple[float, float] = (0.5, 2.0)
    loss: Literal[
        "cross_entropy", "focal", "ohem_cross_entropy", "dice", "jaccard", "lovasz", "tversky"
    ] = "cross_entropy"
    class_weights: Literal["median", "inverse_log", "effective", "none"] = "median"
    batch_size: int = 8
    steps: int = 40_000
    optimizer: Literal["adamw", "sgd", "rmsprop"] = "adamw"
    learning_rate: float = 1e-3
    encoder_rate: float = 1.0
    decay: Literal["poly", "cosine", "exponential", "constant"] = "poly"
    decay_to: float = 0.02
    warmup: int = 0
    weight_decay: float = 1e-4
    ema_decay: float = 0.0
    train_split: str = "train"
    validation_split: str = ""
    seed: int = 0
    log_every: int = 50
    save_every: int = 1000
    evaluate_every: int = 0


_LEAST = {
    "num_classes": 1,
    "features": 1,
    "growth": 1,
    "batch_size": 1,
    "superpixel_iters": 1,
    "log_every": 1,
    "save_every": 1,
    "width": 0,
    "depth": 0,
    "hidden": 0,
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


def check(config: Config) -> None:
    """Raises `InputError` for the first field that cannot be used, whatever the network."""
    for name, kind in get_type_hints(type(config)).items():
        if (words := get_args(kind)) and not isinstance(kind, type(tuple[int])):
            value = getattr(config, name)
            if value not in words:
                listed = ", ".join(map(str, words[:-1])) + f" or {words[-1]}"
                raise InputError(f"{name} is {value!r}; choose {listed}")
    for name, least in _LEAST.items():
        value = getattr(config, name)
        if not (math.isfinite(value) and value >= least):
            raise InputError(f"{name} is {value}; give {least} or more")
    for name in ("learning_rate", "encoder_rate", "decay_to", "scale"):
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}; give more than 0")
    if config.decay != "exponential" and config.decay_to != Config.decay_to:
        raise InputError(f"decay_to is of an exponential decay, and decay is {config.decay}")
    if config.ema_decay >= 1:
        raise InputError(f"ema_decay is {config.ema_decay}; give less than 1")
    if config.seed >= 2**31:
        raise InputError(f"seed is {config.seed}; give 0 to 2^31 - 1")
    _check_tuples(config)


def _check_tuples(config: Config) -> None:
    for name in ("class_names", "class_colors"):
        given: tuple[Any, ...] = getattr(config, name)
        if given and len(given) != config.num_classes:
            raise InputError(
                f"{name} has {len(given)} entries; give {config.num_classes}, one for each class"
            )
    for color in config.class_colors:
        if len(color) != 3 or not all(0 <= channel <= 255 for channel in color):
            raise InputError(f"class_colors has {color}; give red, green and blue, 0 to 255")
    for name, least in (("size", 0), ("crop", 1)):
        pair = getattr(config, name)
        if min(pair) < least or (any(pair) and not all(pair)):
            raise InputError(f"{name} is {pair}; give a height and a width")
    if config.encoder and config.initial:
        raise InputError("encoder and initial are both given; choose one")
    low, high = config.scale_range
    if not 0 < low <= high < math.inf:
        raise InputError(f"scale_range is {config.scale_range}; give 0 < smallest <= largest")
    if not all(math.isfinite(m) for m in config.mean):
        raise InputError(f"mean is {config.mean}; give finite numbers")
    if not all(0 < s < math.inf for s in config.std):
        raise InputError(f"std is {config.std}; give more than 0")
