"""Mask R-CNN (He, Gkioxari, Dollár, Girshick, ICCV 2017): objects, each with a box and a mask.

A first stage proposes boxes (Ren et al., NIPS 2015, on a feature pyramid: Lin et al., CVPR 2017).
A second one classifies, corrects and segments what is inside of each. All shapes are static: there
are as many proposals, boxes to learn from and detections in every image, and what there are fewer
of is padded and does not count.
"""

from typing import Any

from jaxseg.methods._detector_options import Options, checked
from jaxseg.methods._mask_rcnn import build
from jaxseg.models.mask_rcnn import MaskRCNN
from jaxseg.types import Method

__all__ = ["Options", "method"]


def method(networks: MaskRCNN, **options: Any) -> Method:
    """Mask R-CNN as a `Method`.

    Batches need `image`; the loss also `masks` `[B, N, H, W]` and `valid` `[B, N]`, and takes
    `kinds` `[B, N]`, classes from 0 on (without them all are of class 0), and `crowd` `[B, N]`. N
    is the greatest number of objects; boxes are made of the masks. Objects that stand for many
    (`crowd`) are not learned: candidates of which half or more is inside of their box are no
    background either. What lies beyond an example's `size` is blackened, never proposed, and never
    learned from.

        loss = objectness + anchors' boxes + class + box + mask

    The five are also its metrics, as `objectness_loss`, `anchor_loss`, `class_loss`, `box_loss` and
    `mask_loss`; the number of boxes that learned a mask is `positive_rois`. An image without an
    object has the first and the third alone.

    The prediction is {"boxes", "scores", "kinds", "masks"} of `types.Prediction`, with N =
    `max_detections`; masks have the size of the image.

    Deviations from detectron2, whose numbers are the defaults:

    - Masks learn the part of each cell that is covered. With cells that are either full or empty,
      28 x 28 of them bound the average precision on the worms of BBBC010 to .888.
    - RoIAlign takes 2 x 2 samples of each bin, not as many as its size suggests.
    - Means are over each example's boxes and then over examples, not over the boxes of a batch.
    - Anchors with their centre in padding do not learn that they are background.

    As there, `label` is not read: pixels of -1, such as VOC's borders, are outside of all objects.

    Args:
        networks: of `models.mask_rcnn.mask_rcnn`.
        options: those of `Options`, by name.

    Raises:
        TypeError: an option of another name.
        ValueError: an option is out of range; when traced: the networks' outputs have another
            shape.
    """
    return build(networks, checked(Options(**options)))
