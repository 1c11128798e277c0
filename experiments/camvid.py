"""CamVid: eleven classes of street scenes, 367 / 101 / 233 images (Brostow et al., ECCV 2008).

    jaxseg train experiments/camvid.py --data CAMVID --workdir RUN [--variant unet_small]
    jaxseg evaluate RUN --data CAMVID --split test

CAMVID is a folder as the README describes, of the split and the 360×480 images of SegNet, or what
`jaxseg data prepare camvid` makes of the public download. The validation images choose the step
that is kept; they are easier than the test images.

`unet_small` and `espnetv2_small` are for two CPU cores; the others are the published networks for
an accelerator, with crops, losses and schedules after their papers where those tell them for
CamVid, and with AdamW or the "poly" rate where not. Those that end in `_finetuned` go on from a run
on crops with the full images: give `--initial RUN`.
"""

import dataclasses
from typing import Any

from jaxseg.data.camvid import CLASSES
from jaxseg.recipes.semantic import Config, build

__all__ = ["VARIANTS", "Config", "build"]

_CAMVID = Config(
    class_names=tuple(CLASSES), class_colors=tuple(CLASSES.values()), validation_split="val"
)
# What encoders with ImageNet's weights saw.
_IMAGENET = dataclasses.replace(_CAMVID, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

_SMALL = dataclasses.replace(
    _CAMVID,
    size=(180, 240),
    crop=(144, 192),
    scale_range=(0.75, 1.75),
    class_weights="inverse_log",
    steps=2400,
    learning_rate=3e-3,
    decay="cosine",
    warmup=50,
    ema_decay=0.98,
    save_every=200,
    evaluate_every=200,
)

# 224×224 crops and flips, RMSprop, a rate that falls by 0.5 % an epoch of 122 steps, for up to 750
# epochs; no class weights; normalised by the statistics of the batch (Jégou et al., 2017).
_TIRAMISU = dataclasses.replace(
    _CAMVID,
    network="fc_densenet",
    batch_norm="batch",
    crop=(224, 224),
    scale_std=0.0,
    scale_range=(1.0, 1.0),
    class_weights="none",
    batch_size=3,
    steps=91_500,
    optimizer="rmsprop",
    decay="exponential",
    decay_to=0.995**750,
    evaluate_every=1222,
)
_DENSE_LAYERS = {56: (4,) * 11, 67: (5,) * 11, 103: (4, 5, 7, 10, 12, 15, 12, 10, 7, 5, 4)}
_DENSE = {
    f"fc_densenet{n}": dataclasses.replace(
        _TIRAMISU, growth=12 if n == 56 else 16, layers=_DENSE_LAYERS[n]
    )
    for n in _DENSE_LAYERS
}
_FINETUNING: dict[str, Any] = {
    "crop": (360, 480),
    "learning_rate": 1e-4,
    "decay": "constant",
    "decay_to": Config.decay_to,
    "steps": 12_000,
}

# SGD with the "poly" rate, random scales and flips, after the released code of PSPNet.
_POLY = dataclasses.replace(
    _IMAGENET,
    crop=(353, 473),
    class_weights="none",
    batch_size=8,
    steps=20_000,
    optimizer="sgd",
    learning_rate=1e-2,
    evaluate_every=1000,
)

# Without ImageNet's weights these learn little: give `--encoder vgg16.pth` (not for AlexNet). The
# papers train FCN-16s and 8s, and the context module, in stages: `--initial` the run before.
_VGG = dataclasses.replace(
    _IMAGENET, crop=(352, 480), class_weights="none", learning_rate=1e-4, evaluate_every=1000
)

VARIANTS = {
    # A narrow U-Net at half the size; measured at that size and at the full one.
    "unet_small": dataclasses.replace(_SMALL, width=16),
    "espnetv2_small": dataclasses.replace(_SMALL, network="espnetv2", scale=1.0, steps=1200),
    # The full network on crops of the full images.
    "unet": dataclasses.replace(
        _CAMVID, crop=(352, 480), steps=20_000, ema_decay=0.999, warmup=500, evaluate_every=1000
    ),
    # RMSprop and dice, after the paper's code for two classes (Drozdzal et al., 2016).
    "resunet": dataclasses.replace(
        _CAMVID,
        network="resunet",
        crop=(320, 448),
        batch_size=4,
        steps=40_000,
        loss="dice",
        class_weights="none",
        optimizer="rmsprop",
        evaluate_every=1000,
    ),
    **_DENSE,
    **{f"{name}_finetuned": dataclasses.replace(c, **_FINETUNING) for name, c in _DENSE.items()},
    **{
        f"fcn{stride}": dataclasses.replace(_VGG, network="fcn", fcn_stride=stride)
        for stride in (32, 16, 8)
    },
    "fcn_alexnet": dataclasses.replace(_VGG, network="fcn_alexnet"),
    "dilated_frontend": dataclasses.replace(_VGG, network="dilated", context="none"),
    "dilated": dataclasses.replace(_VGG, network="dilated"),
    "pspnet50": dataclasses.replace(_POLY, network="pspnet"),
    "pspnet101": dataclasses.replace(_POLY, network="pspnet", depth=101),
    "deeplab_resnet50": dataclasses.replace(_POLY, network="deeplab_resnet"),
    "deeplab_resnet101": dataclasses.replace(_POLY, network="deeplab_resnet", depth=101),
    "deeplab_xception": dataclasses.replace(_POLY, network="deeplab_xception"),
    "deeplab_mobilenetv2": dataclasses.replace(_POLY, network="deeplab_mobilenetv2"),
    "espnetv2": dataclasses.replace(
        _IMAGENET,
        network="espnetv2",
        scale=2.0,
        crop=(352, 480),
        steps=40_000,
        learning_rate=5e-4,
        class_weights="inverse_log",
        evaluate_every=1000,
    ),
}
