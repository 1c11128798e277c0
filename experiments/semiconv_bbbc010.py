"""Worms that cross: BBBC010 by semi-convolutional embeddings and by Mask R-CNN.

    jaxseg train experiments/semiconv_bbbc010.py --data BBBC010 --workdir RUN [--variant NAME]
    jaxseg evaluate RUN --data BBBC010 --split test
    python experiments/instance_baselines.py --data BBBC010

As in Novotny et al. (ECCV 2018) the input is binary, the union of the worms' masks, and the images
are the published halves, which the set lists in train.txt and test.txt (wells A01 to C02, and C03
to E04). Every tenth training image is held out and chooses the checkpoint; the test half chooses
nothing. Scored against the masks of all worms at full size, overlaps kept, by COCO's measures,
AP_dsb and panoptic quality.

- `embedding`: no boxes; a U-Net gives each pixel an embedding to which its place is added. Sized
  for two CPU cores.
- `mask_rcnn_small`, `semiconv_small`: Mask R-CNN with a narrow ResNet-18, and with the embedding
  in a second stage, which wants a Mask R-CNN that has converged. For CPUs.
- `paper`: ResNet-101 on a feature pyramid, two stages; it wants `--encoder FILE`, torchvision's
  weights, whose batch norm stays frozen. The paper gives no schedule for this set,
  nor learning rates; those of its VOC experiment are taken. `paper_mask_rcnn` is its baseline, of
  as many steps.
- `brightfield`: as `embedding`, on the images themselves.

The paper's table has .559 AP for Mask R-CNN and .569 for the method, as remembered: no copy was at
hand. Results are in experiments/results/semiconv.md.
"""

import dataclasses

from jaxseg.models.mask_rcnn_weights import MEAN, STD
from jaxseg.recipes.instances import Config, build

__all__ = ["VARIANTS", "Config", "build"]

_COMMON = Config(
    class_names=("worm",),
    input="binary",
    turns=True,
    hold_out=10,
    # A training image holds 15 worms at most, the smallest of 605 pixels.
    max_detections=40,
)

EMBEDDING = dataclasses.replace(
    _COMMON,
    method="embedding",
    width=16,
    depth=4,
    scale=32.0,
    radius=0.5,
    min_size=150,
    crop=(256, 256),
    scale_std=0.1,
    scale_range=(0.8, 1.25),
    batch_size=4,
    steps=1200,
    learning_rate=2e-3,
    warmup=100,
    clip=1.0,
    ema_decay=0.99,
    evaluate_every=400,
    best="ap_dsb_50",
)

SMALL = dataclasses.replace(
    _COMMON,
    method="mask_rcnn",
    width=16,
    depth=18,
    features=64,
    hidden=128,
    anchor_sizes=(16.0, 32.0, 64.0, 128.0, 256.0),
    # Thin objects from finer levels.
    canonical_size=448.0,
    proposals=200,
    pre_nms=400,
    rois=64,
    min_score=0.5,
    crop=(256, 256),
    scale_std=0.1,
    scale_range=(0.8, 1.25),
    batch_size=2,
    steps=4000,
    learning_rate=1e-3,
    warmup=200,
    clip=5.0,
    evaluate_every=1000,
)

PAPER = dataclasses.replace(
    _COMMON,
    method="semiconv",
    width=64,
    depth=101,
    batch_norm="frozen",
    mean=MEAN,
    std=STD,
    dtype="bfloat16",
    anchor_sizes=(16.0, 32.0, 64.0, 128.0, 256.0),
    max_detections=100,
    min_score=0.5,
    crop=(512, 512),
    scale_std=0.1,
    scale_range=(0.8, 1.25),
    batch_size=2,
    steps=24_000,
    first_steps=12_000,
    optimizer="sgd",
    learning_rate=0.0025,
    decay="steps",
    falls=(0.5,),
    warmup=500,
    clip=10.0,
    evaluate_every=2000,
)

VARIANTS = {
    "embedding": EMBEDDING,
    "mask_rcnn_small": SMALL,
    "semiconv_small": dataclasses.replace(SMALL, method="semiconv", steps=6000, first_steps=4000),
    "paper": PAPER,
    "paper_mask_rcnn": dataclasses.replace(PAPER, method="mask_rcnn", first_steps=0),
    "brightfield": dataclasses.replace(
        # Mean and deviation of the training images.
        EMBEDDING,
        input="image",
        mean=(0.204, 0.204, 0.204),
        std=(0.219, 0.219, 0.219),
    ),
}
