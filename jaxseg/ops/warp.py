"""Sampling an image unevenly, and the way back: the names of the warp.

A grid is an array `[h, w, 2]` of (row, column) in [0, 1], align-corners: where in the image each
node reads. `sampling_targets` or a network makes one; `project_covering` makes it cover the image
and `make_fold_free` invertible; `sample` reads the image there, and `unwarp` brings what was
computed at the nodes back to the pixels.

Source: Marin et al., "Efficient Segmentation: Learning Downsampling Near Semantic Boundaries",
ICCV 2019 (arXiv:1907.07156).
"""

from jaxseg.ops._folds import fold_fraction, make_fold_free
from jaxseg.ops._inverse_warp import InverseSampling, invert_sampling
from jaxseg.ops._resample import sample
from jaxseg.ops._sampling_grid import uniform_sampling
from jaxseg.ops._sampling_solver import (
    project_covering,
    resize_sampling,
    sampling_targets,
    solve_sampling,
)
from jaxseg.ops._unwarp import unwarp

_PUBLIC = (
    *(InverseSampling, fold_fraction, invert_sampling, make_fold_free, project_covering),
    *(resize_sampling, sample, sampling_targets, solve_sampling, uniform_sampling, unwarp),
)
# This is where they are found, by readers of a traceback and by tests that look for public names.
for _thing in _PUBLIC:
    _thing.__module__ = __name__

__all__ = [_thing.__name__ for _thing in _PUBLIC]
