"""Measures of predictions as `jaxseg.types.Metric`: sums that add, means taken last."""

from jaxseg.metrics._boundary_f import boundary_f
from jaxseg.metrics._cluster_heads import cluster_heads
from jaxseg.metrics._clustering import clustering, match
from jaxseg.metrics._confusion import confusion
from jaxseg.metrics._flow import reconstruction_error
from jaxseg.metrics._instance_precision import instances
from jaxseg.metrics._instances import dsb_average_precision
from jaxseg.metrics._keypoints_oks import keypoint_oks
from jaxseg.metrics._keypoints_pck import keypoint_pck
from jaxseg.metrics._mask_precision import mask_average_precision
from jaxseg.metrics._panoptic import panoptic_quality
from jaxseg.metrics._size_recall import size_recall
from jaxseg.metrics._sums import prefixed, together
from jaxseg.metrics._superpixel import superpixel
from jaxseg.metrics._trimap import trimap
from jaxseg.metrics._view_information import complaints, view_information

__all__ = [
    "boundary_f",
    "cluster_heads",
    "clustering",
    "complaints",
    "confusion",
    "dsb_average_precision",
    "instances",
    "keypoint_oks",
    "keypoint_pck",
    "mask_average_precision",
    "match",
    "panoptic_quality",
    "prefixed",
    "reconstruction_error",
    "size_recall",
    "superpixel",
    "together",
    "trimap",
    "view_information",
]
