r"""DSRL on Cityscapes (Wang et al., CVPR 2020): 256×512 pixels in, 512×1024 out; and twice that.

    jaxseg data prepare cityscapes --source DOWNLOAD --data DATA   # optional: records, with TFDS
    jaxseg train experiments/dsrl_cityscapes.py --data DATA --workdir RUN \
        --variant espnetv2_256_affinity
    jaxseg evaluate RUN --data DATA --split val

DATA is the download (`leftImg8bit/`, `gtFine/`), or records of TFDS's or this package's builder.
The rows of the paper's ablation for ESPNetv2 of scale 2 and DeepLabv3+ on ResNet-101, by the height
of the input. "full/miou" is the official measure over all of "val": 19 classes, logits brought to
1024×2048. Published, of ESPNetv2 from 256×512: 54.5 alone, 55.7, 56.9 and 59.5 with each part (as
remembered), or 54.83 alone and 60.61 with all (the authors' repository).

A stage of the ablation begins with an encoder (`--encoder`), as the base does. No figure of this
file has been measured: it wants a GPU and the data.
"""

import dataclasses
from typing import Any

from jaxseg.data.cityscapes import CLASSES
from jaxseg.recipes.dsrl import Config, Stage, build

__all__ = ["VARIANTS", "Config", "build"]

STAGES: tuple[Stage, ...] = ("base", "sssr", "sisr", "affinity")

# SGD with the "poly" rate of 0.01, weight decay of 5e-4, flips and scales of 0.5 to 2: the paper's
# schedule, as far as it is known. There is no validation split beside the one that is published on,
# so that the last step is measured.
_CITYSCAPES = Config(
    num_classes=len(CLASSES),
    class_names=tuple(CLASSES),
    class_colors=tuple(CLASSES.values()),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    scale_std=0.4,
    scale_range=(0.5, 2.0),
    class_weights="none",
    optimizer="sgd",
    learning_rate=1e-2,
    weight_decay=5e-4,
    batch_size=16,
    steps=60_000,
    log_every=100,
    save_every=2000,
)
_NETWORKS: dict[str, dict[str, Any]] = {
    # The decoder of EdgeNets' recipe weighs rare classes up, as ENet does.
    "espnetv2": {"network": "espnetv2", "scale": 2.0, "class_weights": "inverse_log"},
    "deeplab": {"network": "deeplab_resnet", "depth": 101},
}
# The whole output; crops of three quarters of its sides where that is the image itself.
_SIZES: dict[int, dict[str, Any]] = {
    256: {"size": (512, 1024), "crop": (512, 1024)},
    512: {"size": (1024, 2048), "crop": (768, 1536), "batch_size": 8},
}

VARIANTS = {
    f"{name}_{height}_{stage}": dataclasses.replace(
        _CITYSCAPES, stage=stage, **_NETWORKS[name], **_SIZES[height]
    )
    for name in _NETWORKS
    for height in _SIZES
    for stage in STAGES
}
