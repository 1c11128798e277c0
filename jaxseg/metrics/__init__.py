"""Measures of predictions as `jaxseg.types.Metric`: sums that add, means taken last."""

from jaxseg.metrics._superpixel import superpixel

__all__ = ["superpixel"]
