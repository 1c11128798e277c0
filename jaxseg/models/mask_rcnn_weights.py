"""Weights of torchvision's Mask R-CNN and ResNets into the networks of `models.mask_rcnn`.

What differs beside names: torchvision's boxes are (x, y, width, height), its box and mask heads
have outputs for the background that nothing reads, and its first fully connected layer sees
channels, rows, columns in this order. Its networks take RGB in [0, 1] less `MEAN`, by `STD`.

Two differences are not of the weights: its RoIAlign is not the aligned one, so that boxes have to
be moved by half a cell for the same crops, and its anchors' sides are rounded to even pixels.
"""

from collections.abc import Mapping

import numpy as np

from jaxseg.models.weights import CLASSIFIERS, Naming, to_variables
from jaxseg.types import PyTree

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

NAMING: Naming = (
    (r"^backbone\.body\.", "pyramid.encoder."),
    *(
        (rf"^backbone\.fpn\.{theirs}_blocks\.{i}\.(0\.)?", f"pyramid.{ours}{i + 2}.")
        for theirs, ours in (("inner", "lateral"), ("layer", "output"))
        for i in range(4)
    ),
    (r"^rpn\.head\.conv\.(0\.0\.)?", "propose.conv."),
    (r"^rpn\.head\.cls_logits\.", "propose.score."),
    (r"^rpn\.head\.bbox_pred\.", "propose.deltas."),
    (r"^roi_heads\.box_head\.", "classify."),
    (r"^roi_heads\.box_predictor\.cls_score\.", "classify.score."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "classify.deltas."),
    *(
        (rf"^roi_heads\.mask_head\.({i}\.0|mask_fcn{i + 1})\.", f"segment.conv{i + 1}.")
        for i in range(4)
    ),
    (r"^roi_heads\.mask_predictor\.conv5_mask\.", "segment.rise."),
    (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "segment.score."),
)
"""torchvision's names, those of its released files and those of newer versions."""

_PREDICTORS = (
    r"^roi_heads\.box_predictor\.",
    r"^roi_heads\.mask_predictor\.mask_fcn_logits\.",
)
_OWN_PREDICTORS = r"^params/(classify|segment)/(score|deltas)/"
_ADDED = r"^params/(embed|semiconv)/"
_EPSILON = 1e-5


def from_torchvision(
    tensors: Mapping[str, np.ndarray],
    variables: PyTree,
    *,
    predictors: bool = True,
    epsilon: float = _EPSILON,
    source: object = "weights",
) -> PyTree:
    """The state dict of torchvision's `maskrcnn_resnet50_fpn`, or of another depth, as variables.

    Args:
        tensors: by name, such as of `weights.read_tensors`.
        variables: of the networks; arrays where something of them stays. An embedding head does.
        predictors: whether the layers that give classes, their boxes and masks are read: K is
            torchvision's `num_classes` less 1 (90 of COCO_V1, classes k at k + 1). Otherwise these
            stay as they are, for other classes.
        epsilon: which the encoder's batch normalisation was trained with: torchvision sets 0 for
            its COCO_V1 weights. Ours is 1e-5; the difference is put into the variances.
        source: what a message begins with, such as the file.

    Returns:
        The tree of `variables` with NumPy arrays.

    Raises:
        MismatchError: tensors are missing, unexpected, or of another shape.
    """
    ours = {name: _rearranged(name, value, epsilon) for name, value in tensors.items()}
    return to_variables(
        ours,
        variables,
        naming=NAMING,
        leave_out=() if predictors else _PREDICTORS,
        keep=(_ADDED,) if predictors else (_ADDED, _OWN_PREDICTORS),
        source=source,
    )


def encoder_from_torchvision(
    tensors: Mapping[str, np.ndarray], variables: PyTree, *, source: object = "weights"
) -> PyTree:
    """The state dict of torchvision's ResNet, trained on ImageNet, as the pyramid's encoder.

    Args:
        tensors: by name; those of the classifier are left out.
        variables: of the networks, arrays; all else stays as it is.
        source: what a message begins with, such as the file.

    Returns:
        The tree of `variables` with NumPy arrays in the encoder.

    Raises:
        MismatchError: tensors are missing, unexpected, or of another shape.
    """
    return to_variables(
        tensors,
        variables,
        naming=((r"^", "pyramid.encoder."),),
        leave_out=CLASSIFIERS,
        keep=(r"^params/(?!pyramid/encoder/)",),
        source=source,
    )


def _rearranged(name: str, value: np.ndarray, epsilon: float) -> np.ndarray:
    if name.endswith(".running_var"):
        return value + np.asarray(epsilon - _EPSILON, value.dtype)
    if ".bbox_pred." in name and len(value) % 4 == 0:
        boxes = value.reshape(-1, 4, *value.shape[1:])[:, [1, 0, 3, 2]]
        boxes = boxes if name.startswith("rpn.") else boxes[1:]
        return boxes.reshape(-1, *value.shape[1:])
    if ".mask_fcn_logits." in name:
        return value[1:]
    if name.endswith(".conv5_mask.weight") and value.ndim == 4:
        # It is [in, out, h, w]; and `ConvTranspose2x2` reads its kernel backwards.
        return value.swapaxes(0, 1)[:, :, ::-1, ::-1]
    return value
