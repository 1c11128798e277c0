"""Touching nuclei: DSB2018 by semi-convolutional embeddings and by Mask R-CNN.

    jaxseg train experiments/semiconv_dsb2018.py --data DSB2018 --workdir RUN [--variant NAME]
    jaxseg evaluate RUN --data DSB2018 --split test

Any folder of instances will do, such as the nuclei that come with jaxseg
(`jaxseg.data.samples_path()`). Every tenth training image is held out and chooses the checkpoint.
The variants are those of `semiconv_bbbc010.py`, on grey images; `conv` has the embedding without
coordinates, which nuclei that look alike defeat.
"""

import dataclasses

from jaxseg.recipes.instances import Config, build

__all__ = ["VARIANTS", "Config", "build"]

_COMMON = Config(
    class_names=("nucleus",),
    # Fluorescence is dark: these are mean and deviation of all training pixels.
    mean=(0.051, 0.051, 0.051),
    std=(0.070, 0.070, 0.070),
    turns=True,
    hold_out=10,
    # The most that an image holds is 375.
    max_detections=400,
    # A crop holds far fewer: 60 at most in 360 crops of the 30 densest training images. Of more,
    # the largest are learned.
    max_instances=64,
    overflow="largest",
    crop=(128, 128),
    scale_std=0.2,
    scale_range=(0.7, 1.5),
)

EMBEDDING = dataclasses.replace(
    _COMMON,
    method="embedding",
    width=16,
    depth=3,
    scale=16.0,
    radius=0.5,
    min_size=20,
    batch_size=6,
    steps=2000,
    learning_rate=2e-3,
    warmup=100,
    clip=1.0,
    ema_decay=0.99,
    evaluate_every=500,
    best="ap_dsb_50",
)

SMALL = dataclasses.replace(
    _COMMON,
    method="mask_rcnn",
    width=16,
    depth=18,
    features=64,
    hidden=128,
    anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0),
    canonical_size=448.0,
    proposals=500,
    pre_nms=500,
    rois=128,
    min_score=0.5,
    batch_size=2,
    steps=4000,
    learning_rate=1e-3,
    warmup=200,
    clip=5.0,
    evaluate_every=1000,
)

VARIANTS = {
    "embedding": EMBEDDING,
    "conv": dataclasses.replace(EMBEDDING, coordinates="none"),
    "mask_rcnn_small": SMALL,
    "semiconv_small": dataclasses.replace(SMALL, method="semiconv", scale=16.0, first_steps=2000),
}
