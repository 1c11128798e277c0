"""COCO by semi-convolutional Mask R-CNN, by the schedule of the paper's VOC experiment.

    jaxseg train experiments/semiconv_coco.py --data COCO --workdir RUN \
        --encoder resnet101.pth [--variant NAME]
    jaxseg evaluate RUN --data COCO --split val

COCO holds `annotations/instances_{train,val}2017.json` and `{train,val}2017/`. Novotny et al. (ECCV
2018) report no experiment on COCO; the stages, the rate and its fall after half of the steps are
those of `semiconv_voc.py`, the steps those of detectron2's "1x" schedule at a batch of 16, and the
rate is eightfold for it. `fine_tuned` begins with a run of `mask_rcnn`, by `--initial RUN`. No
figure of this file has been measured: it wants GPUs and the data.

Batch norm is frozen: all variants want `--encoder FILE`, torchvision's ResNet-101 of ImageNet or a
whole Mask R-CNN of the depth of `--depth`, or `--initial RUN`.
"""

import dataclasses
from pathlib import Path

from jaxseg.data.instances_coco import CocoInstancesSource
from jaxseg.models.mask_rcnn_weights import MEAN, STD
from jaxseg.recipes import instances
from jaxseg.recipes.instances import Config
from jaxseg.train import Experiment

__all__ = ["VARIANTS", "Config", "build"]

_PAPER = Config(
    method="semiconv",
    num_classes=80,
    width=64,
    depth=101,
    batch_norm="frozen",
    dtype="bfloat16",
    mean=MEAN,
    std=STD,
    min_score=0.5,
    crop=(800, 800),
    scale_std=0.25,
    scale_range=(0.8, 2.0),
    batch_size=16,
    steps=180_000,
    first_steps=90_000,
    optimizer="sgd",
    learning_rate=0.02,
    decay="steps",
    falls=(0.5,),
    warmup=1000,
    clip=35.0,
    pad=128,
    log_every=100,
    save_every=5000,
)

VARIANTS = {
    "semiconv": _PAPER,
    "mask_rcnn": dataclasses.replace(_PAPER, method="mask_rcnn", steps=90_000, first_steps=0),
    "fine_tuned": dataclasses.replace(_PAPER, steps=90_000, first_steps=0),
}


def build(config: Config) -> Experiment:
    """The experiment of a config; see `recipes.instances.build`."""
    return instances.build(config, open_coco)


def open_coco(folder: Path, split: str) -> CocoInstancesSource:
    """Images to train on have an object; those to be measured are all."""
    return CocoInstancesSource(folder, split, empty=split != "train")
