"""Measures of predictions as `jaxseg.types.Metric`: sums that add, means taken last."""

from jaxseg.metrics._confusion import confusion
from jaxseg.metrics._flow import reconstruction_error
from jaxseg.metrics._superpixel import superpixel

__all__ = ["confusion", "reconstruction_error", "superpixel"]
