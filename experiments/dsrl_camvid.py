"""DSRL on CamVid (Wang et al., CVPR 2020): 180×240 pixels in, 360×480 out.

    jaxseg train experiments/dsrl_camvid.py --data CAMVID --workdir RUN --variant espnetv2_affinity
    jaxseg evaluate RUN --data CAMVID --split test

The rows of the paper's ablation, for ESPNetv2 and DeepLabv3+: `_base`, the plain network at
180×240, its logits enlarged bilinearly; `_sssr`, `_sisr` and `_affinity`, each with one part more.
All of a network begin with the same encoder (give `--encoder`, a file of released weights), and
train the same number of steps on the same crops. Those that end in `_continued` go on from a
trained base (give `--initial`, its run), the base too, so that what a part adds is not hidden by
how fast a new part learns; the layers that predict learn at ten times the rate in all of them.
Those that end in `_full` are for a GPU, the others for two CPU cores.
Other sizes of the input: `--size 180 240 --crop 144 192` is 90×120 in and 180×240 out.
"""

import dataclasses
from typing import Any

from jaxseg.data.camvid import CLASSES
from jaxseg.recipes.dsrl import Config, Stage, build

__all__ = ["VARIANTS", "Config", "build"]

STAGES: tuple[Stage, ...] = ("base", "sssr", "sisr", "affinity")

_CAMVID = Config(
    class_names=tuple(CLASSES),
    class_colors=tuple(CLASSES.values()),
    validation_split="val",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
_SMALL = dataclasses.replace(
    _CAMVID,
    crop=(288, 384),
    scale_range=(0.75, 1.75),
    class_weights="inverse_log",
    batch_size=8,
    steps=600,
    learning_rate=3e-3,
    decay="cosine",
    warmup=30,
    ema_decay=0.98,
    save_every=120,
    evaluate_every=120,
)
_CONTINUED = dataclasses.replace(
    _SMALL,
    crop=(192, 256),
    steps=800,
    learning_rate=2e-3,
    heads_rate=10.0,
    warmup=20,
    ema_decay=0.95,
    evaluate_every=160,
)
# The "poly" rate of 0.01, SGD, weight decay of 5e-4, random flips and scales, as far as the paper's
# schedule is known.
_FULL = dataclasses.replace(
    _CAMVID,
    crop=(352, 480),
    class_weights="none",
    batch_size=16,
    steps=20_000,
    optimizer="sgd",
    learning_rate=1e-2,
    weight_decay=5e-4,
    evaluate_every=1000,
)
_NETWORKS: dict[str, dict[str, Any]] = {
    "espnetv2": {"network": "espnetv2", "scale": 2.0},
    "deeplab": {"network": "deeplab_mobilenetv2"},
}
_FULL_NETWORKS: dict[str, dict[str, Any]] = {
    "espnetv2": {"network": "espnetv2", "scale": 2.0},
    "deeplab": {"network": "deeplab_resnet", "depth": 101},
}

_RECIPES = (
    (_SMALL, "", _NETWORKS),
    (_CONTINUED, "_continued", _NETWORKS),
    (_FULL, "_full", _FULL_NETWORKS),
)

VARIANTS = {
    f"{name}_{stage}{ending}": dataclasses.replace(config, stage=stage, **networks[name])
    for config, ending, networks in _RECIPES
    for name in networks
    for stage in STAGES
}
