"""From the words and numbers of a config to a network."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxseg.models.deeplab import deeplab_mobilenetv2, deeplab_resnet, deeplab_xception
from jaxseg.models.densenet import fc_densenet
from jaxseg.models.dilated import dilated
from jaxseg.models.espnet import espnetv2
from jaxseg.models.fcn import fcn, fcn_alexnet
from jaxseg.models.pspnet import pspnet
from jaxseg.models.resunet import resunet
from jaxseg.models.trunk import TrunkOption
from jaxseg.models.unet import Superpixels, unet
from jaxseg.models.weights import CLASSIFIERS, DILATED_VGG16, ESPNETV2, FCN_VGG16, Naming
from jaxseg.recipes._semantic_config import Config
from jaxseg.types import InputError, Network


class Built(NamedTuple):
    """A network, and what the method has to know of it."""

    network: Network
    stride: int
    """What the sides must be multiples of."""
    dropout: bool
    """Whether it takes the examples' keys in training."""


TRUNKS = ("unet", "pspnet", "deeplab_resnet", "deeplab_xception", "deeplab_mobilenetv2", "espnetv2")
"""Networks that give their features on request."""


class EncoderWeights(NamedTuple):
    """Where released weights go in a network's variables."""

    naming: Naming
    leave_out: tuple[str, ...]
    """Patterns of the file's tensors that the network has no place for."""
    keep: tuple[str, ...]
    """Patterns of the network's variables that the file does not hold."""


def build_network(config: Config, *, trunk: TrunkOption = False, auxiliary: bool = True) -> Built:
    """The network that a config describes.

    Args:
        config: its numbers.
        trunk: whether it gives a `models.trunk.Trunk`; "scored": one with the scores.
        auxiliary: whether PSPNet has its auxiliary head.

    Raises:
        ValueError: a number is out of the network's range, or belongs to another network; or it
            has no trunk.
    """
    _check_fields(config)
    if trunk and config.network not in TRUNKS:
        raise ValueError(f"{config.network} gives no features; choose {', '.join(TRUNKS)}")
    classes, dtype = config.num_classes, jnp.dtype(config.dtype)
    common: dict[str, Any] = {"dtype": None if dtype == jnp.float32 else dtype}
    normed = common | {"batch_norm": config.batch_norm}
    if trunk:
        normed["trunk"] = trunk
    width: dict[str, Any] = {"width": config.width} if config.width else {}
    hidden: dict[str, Any] = {"hidden": config.hidden} if config.hidden else {}
    match config.network:
        case "unet":
            depth = config.depth or 4
            made = unet(
                classes,
                depth=depth,
                upsampling=config.upsampling,
                superpixels=_superpixels(config),
                **width,
                **normed,
            )
            return Built(made, 2**depth, dropout=False)
        case "resunet":
            depths = config.residual_depths
            made = resunet(classes, depths=depths, **width, **normed)
            return Built(made, 2 ** (2 + len(depths) // 2 + 1), dropout=True)
        case "fcn":
            made = fcn(
                classes,
                stride=config.fcn_stride,
                at_once=config.at_once,
                padding=config.padding,
                **width,
                **hidden,
                **common,
            )
            return Built(made, 32 if config.padding == "same" else 1, dropout=True)
        case "fcn_alexnet":
            return Built(fcn_alexnet(classes, **width, **hidden, **common), 1, dropout=True)
        case "fc_densenet":
            made = fc_densenet(
                classes, growth=config.growth, layers=config.layers, **width, **normed
            )
            return Built(made, 1, dropout=True)
        case "dilated":
            made = dilated(
                classes,
                context=config.context,
                padding=config.padding,
                **width,
                **hidden,
                **common,
            )
            return Built(made, 1, dropout=True)
        case "pspnet":
            depth = _resnet_depth(config)
            made = pspnet(classes, depth=depth, auxiliary=auxiliary, **width, **normed)
            return Built(made, 1, dropout=True)
        case "espnetv2":
            return Built(espnetv2(classes, scale=config.scale, **normed), 16, dropout=False)
    options = normed | {"output_stride": config.output_stride, "features": config.features}
    if config.network == "deeplab_resnet":
        made = deeplab_resnet(classes, depth=_resnet_depth(config), **width, **options)
    elif config.network == "deeplab_xception":
        made = deeplab_xception(classes, width=config.scale, **options)
    else:
        made = deeplab_mobilenetv2(classes, width=config.scale, **options)
    return Built(made, 1, dropout=True)


def encoder_weights(config: Config) -> EncoderWeights:
    """Where weights of a released encoder go.

    Raises:
        InputError: there is none for the network.
    """
    match config.network:
        case "espnetv2":
            decoder = r"^(bu_dec|bu_br|merge_enc_dec)_l\d\."
            return EncoderWeights(ESPNETV2, (decoder,), (r"/decoder/",))
        case "deeplab_resnet" | "deeplab_mobilenetv2":
            last = r"^features\.18\."  # MobileNetV2's, which DeepLabv3+ leaves out.
            into = ((r"^", "encoder."),)
            return EncoderWeights(into, (*CLASSIFIERS, last), (r"/(aspp|decoder)/",))
        case "fcn":
            return EncoderWeights(FCN_VGG16, (r"^classifier\.6\.",), (r"/score", r"/fc/score"))
        case "dilated":
            return EncoderWeights(DILATED_VGG16, (r"^classifier\.6\.",), (r"/final/", r"/context/"))
    raise InputError(
        f"encoder: there are no released weights for {config.network}; "
        "choose deeplab_resnet, deeplab_mobilenetv2, fcn, dilated or espnetv2"
    )


_DEEPLAB = ("deeplab_resnet", "deeplab_xception", "deeplab_mobilenetv2")
_OWN_FIELDS = {
    "scale": ("espnetv2", "deeplab_mobilenetv2", "deeplab_xception"),
    "depth": ("unet", "pspnet", "deeplab_resnet"),
    "width": (
        *("unet", "resunet", "fcn", "fcn_alexnet", "fc_densenet", "dilated"),
        *("pspnet", "deeplab_resnet"),
    ),
    "hidden": ("fcn", "fcn_alexnet", "dilated"),
    "encoder_rate": ("fcn", "fcn_alexnet", "pspnet", "espnetv2", *_DEEPLAB),
    "fcn_stride": ("fcn",),
    "at_once": ("fcn",),
    "padding": ("fcn", "dilated"),
    "context": ("dilated",),
    "upsampling": ("unet",),
    "output_stride": _DEEPLAB,
    "features": _DEEPLAB,
    "growth": ("fc_densenet",),
    "layers": ("fc_densenet",),
    "residual_depths": ("resunet",),
    "superpixels": ("unet",),
}
_DEEPEST = 8


def _check_fields(config: Config) -> None:
    """A number that would silently do nothing is a mistake."""
    fresh = Config()
    for name, networks in _OWN_FIELDS.items():
        value = getattr(config, name)
        if value != getattr(fresh, name) and config.network not in networks:
            raise ValueError(f"{name}={value} is of {', '.join(networks)}, not {config.network}")
    for name in ("superpixel_iters", "superpixel_learned", "superpixel_level"):
        if not config.superpixels and getattr(config, name) != getattr(fresh, name):
            raise ValueError(f"{name}={getattr(config, name)} wants superpixels, which is 0")
    if config.network == "unet" and config.depth > _DEEPEST:
        raise ValueError(f"depth={config.depth}: U-Net halves the map at most {_DEEPEST} times")
    without = ("fcn", "fcn_alexnet", "dilated")
    if config.batch_norm == "batch" and config.network in without:
        raise ValueError(f"batch_norm='batch': {config.network} has no batch norm")


def _resnet_depth(config: Config) -> Any:
    return config.depth or 50


def _superpixels(config: Config) -> Superpixels | None:
    if not config.superpixels:
        return None
    return Superpixels(
        config.superpixels,
        num_iters=config.superpixel_iters,
        num_learned=config.superpixel_learned,
        level=config.superpixel_level,
    )
