r"""Adaptive downsampling on Cityscapes (Marin et al., ICCV 2019): 1024×2048 read at 64² to 256².

    jaxseg data prepare cityscapes --source DOWNLOAD --data DATA   # optional: records, with TFDS
    jaxseg train experiments/adaptive_cityscapes.py --data DATA --workdir RUN \
        --variant pspnet_64_learned
    jaxseg evaluate RUN --data DATA --split val

DATA is the download (`leftImg8bit/`, `gtFine/`), or records. The rows of the paper's Table 3, for
PSPNet at 64, 128 and 256 nodes a side and DeepLabv3+ on Xception at 160, 192 and 224: published are
mIoU of 32 / 29, 43 / 40, 54 / 54 and 58 / 54, 62 / 61, 65 / 62 with adaptive and uniform sampling.
The paper measures the largest square in the middle of each image, here it is the whole image;
training crops are square, so that in training nodes have another aspect than there. The target
classes are those of the authors' later code: persons, riders and vehicles. PSPNet's backbone and
the schedule are ours. No figure of this file has been measured: it wants a GPU and the data.
"""

import dataclasses
from typing import Any

from jaxseg.data.cityscapes import CLASSES
from jaxseg.recipes.adaptive import MODES, Config, build

__all__ = ["TARGETS", "VARIANTS", "Config", "build"]

TARGETS = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")

_CITYSCAPES = Config(
    num_classes=len(CLASSES),
    class_names=tuple(CLASSES),
    class_colors=tuple(CLASSES.values()),
    target_classes=tuple(list(CLASSES).index(name) for name in TARGETS),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    crop=(1024, 1024),
    scale_std=0.0,
    scale_range=(1.0, 1.0),
    brightness=0.1,
    contrast=0.2,
    class_weights="none",
    optimizer="sgd",
    learning_rate=7e-3,
    weight_decay=4e-5,
    batch_size=16,
    steps=90_000,
    sampler_steps=30_000,
    sampler_rate=7e-3,
    log_every=100,
    save_every=5000,
)
_NETWORKS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "pspnet": ((64, 128, 256), {"network": "pspnet", "depth": 101}),
    "deeplab": ((160, 192, 224), {"network": "deeplab_xception"}),
}

VARIANTS = {
    f"{name}_{nodes}_{mode}": dataclasses.replace(
        _CITYSCAPES, nodes=(nodes, nodes), mode=mode, **network
    )
    for name, (sizes, network) in _NETWORKS.items()
    for nodes in sizes
    for mode in MODES
}
