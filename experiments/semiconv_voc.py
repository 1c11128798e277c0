"""Pascal VOC 2012 by semi-convolutional Mask R-CNN: the paper's experiment.

    jaxseg train experiments/semiconv_voc.py --data VOC2012 --workdir RUN \
        --encoder resnet101.pth [--variant mask_rcnn]
    jaxseg evaluate RUN --data VOC2012 --split val

Novotny et al. (ECCV 2018): trained on train, measured on val, by mAP^r at 0.5 and 0.7 and by COCO's
measures; ResNet-101 on a feature pyramid, 24 epochs of SGD from a rate of 0.0025, a tenth of it
after 12. They are read here as those of the second stage, after a first one of the same length,
since the paper says of the first that it goes to convergence and no more. It does not give the
batch, which is 2 here as in common recipes of that rate, nor the size of images: training takes
crops of 512×512, prediction images as they are (up to 500 a side). No figure of this file has been
measured: it wants a GPU and the data.

Batch norm is frozen: all variants want `--encoder FILE`, torchvision's ResNet-101 of ImageNet or a
whole Mask R-CNN of the depth of `--depth`, or `--initial RUN`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from jaxseg import metrics
from jaxseg.data.instances_voc import CLASSES, VocInstancesSource
from jaxseg.models.mask_rcnn_weights import MEAN, STD
from jaxseg.recipes import instances
from jaxseg.recipes.instances import CACHE_BYTES, Config, instances_metric
from jaxseg.train import Experiment
from jaxseg.types import Metric

__all__ = ["VARIANTS", "Config", "build"]

EPOCH = 732
"""Steps: half of the 1464 training images."""

_PAPER = Config(
    method="semiconv",
    num_classes=len(CLASSES),
    class_names=CLASSES,
    width=64,
    depth=101,
    batch_norm="frozen",
    dtype="bfloat16",
    mean=MEAN,
    std=STD,
    min_score=0.5,
    crop=(512, 512),
    scale_std=0.25,
    scale_range=(0.75, 1.5),
    batch_size=2,
    steps=48 * EPOCH,
    first_steps=24 * EPOCH,
    optimizer="sgd",
    learning_rate=0.0025,
    decay="steps",
    falls=(0.5,),
    warmup=500,
    clip=35.0,
    pad=128,
    save_every=2000,
)

VARIANTS = {
    "semiconv": _PAPER,
    "mask_rcnn": dataclasses.replace(_PAPER, method="mask_rcnn", first_steps=0),
}


def build(config: Config) -> Experiment:
    """The experiment of a config; see `recipes.instances.build`."""
    return instances.build(config, open_voc, make_metrics=voc_metrics)


def open_voc(folder: Path, split: str) -> VocInstancesSource:
    """The images of a split."""
    return VocInstancesSource(folder, split, cache_bytes=CACHE_BYTES)


def voc_metrics(config: Config) -> Sequence[Metric]:
    """mAP^r beside what is measured anyway."""
    return (
        metrics.mask_average_precision(num_classes=config.num_classes),
        *instances_metric(config),
    )
