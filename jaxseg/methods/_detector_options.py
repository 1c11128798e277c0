"""The numbers of Mask R-CNN; the defaults are those of detectron2's configurations."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from jaxseg.methods._targets import MaskTargets


class Options(NamedTuple):
    """What `methods.mask_rcnn.method` and `methods.semiconv.stages` take by name.

    All lengths are in pixels of the image that the batch holds.
    """

    mean: float | Sequence[float] = 0.5
    """The network sees (image - mean) / std, of an image in [0, 1]; one number, or one for each
    channel."""
    std: float | Sequence[float] = 0.25
    """See `mean`."""
    anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    """Side of the boxes that the cells of each level begin with."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height / width of those boxes; as many as the network has anchors in a cell."""
    anchor_samples: int = 256
    """Anchors of an image that are learned from,"""
    anchor_fraction: float = 0.5
    """and the greatest share of those that stand for an object."""
    anchor_iou: tuple[float, float] = (0.3, 0.7)
    """Anchors that overlap each object less are background; from the second one on they stand for
    one; so does the best anchor of each object."""
    pre_nms: int = 2000
    """Boxes that each level proposes, before they are thinned out, in training,"""
    test_pre_nms: int = 1000
    """and in prediction."""
    proposal_nms: float = 0.7
    """Of two boxes of a level that overlap more, the less likely one is dropped."""
    proposals: int = 1000
    """Boxes of an image that remain, of all levels."""
    rois: int = 512
    """Boxes of an image that classes and masks are learned from,"""
    roi_fraction: float = 0.25
    """and the greatest share of those that stand for an object; so many get a mask."""
    roi_iou: float = 0.5
    """A box that overlaps an object so much stands for it; else it is background."""
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    """Of the box head's corrections, see `ops.boxes.encode_boxes`."""
    beta: float = 0.0
    """Of both losses of boxes, see `losses.box_regression`."""
    mask_targets: MaskTargets = "soft"
    """What masks learn: the part of each cell that the object covers, or whether it is a half or
    more ("binary", as in detectron2)."""
    sampling_ratio: int = 2
    """See `ops.roi_align.roi_align`."""
    canonical_size: float = 224.0
    """Square boxes of this side are pooled from the level of stride 16, of half of it from that of
    stride 8: see `ops.roi_align.box_levels`. A greater one pools from finer levels, which keeps
    thin objects."""
    pooling: Literal["gather", "separable"] = "gather"
    """How features are pooled; "separable" for TPUs."""
    pooled_at_once: int = 64
    """Boxes of an image that are pooled together: the more, the more memory."""
    score_threshold: float = 0.05
    """Least probability of a detection."""
    nms_threshold: float = 0.5
    """Of two detections of a class that overlap more, the less likely one is dropped."""
    max_detections: int = 100
    """N of the prediction."""


def checked(options: Options) -> Options:
    """The options, if they make sense.

    Raises:
        ValueError: one is out of range.
    """
    counts = ("anchor_samples", "pre_nms", "test_pre_nms", "proposals", "rois", "sampling_ratio")
    for name in (*counts, "pooled_at_once", "max_detections"):
        value = getattr(options, name)
        if value < 1:
            raise ValueError(f"{name}={value}: expected 1 or more")
    fractions = ("anchor_fraction", "proposal_nms", "roi_fraction", "roi_iou", "score_threshold")
    for name in (*fractions, "nms_threshold"):
        value = getattr(options, name)
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value}: expected 0 to 1")
    if not 0 <= options.anchor_iou[0] <= options.anchor_iou[1] <= 1:
        raise ValueError(f"anchor_iou={options.anchor_iou}: expected two numbers, rising, of 0..1")
    if options.mask_targets not in ("soft", "binary"):
        raise ValueError(f'mask_targets={options.mask_targets!r}: expected "soft" or "binary"')
    for name in ("beta", "canonical_size"):
        value = getattr(options, name)
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={value}: expected a finite number, 0 or more")
    for name in ("anchor_sizes", "anchor_ratios", "box_weights"):
        values = getattr(options, name)
        if not values or not all(0 < x < math.inf for x in values):
            raise ValueError(f"{name}={values}: expected positive finite numbers")
    if int(options.rois * options.roi_fraction) < 1:
        raise ValueError(
            f"rois={options.rois}, roi_fraction={options.roi_fraction}: expected at least one box "
            "that stands for an object"
        )
    return options
