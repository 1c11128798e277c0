"""How alike pixels are: the names of affinities.

`affinity_distance` tells how differently two feature maps relate their pixels (DSRL). The others
are the operators of instances: `add_coordinates` makes features know where they are,
`log_steered_kernel` says how alike two of them are, and from a seed that `seed_embedding` takes
out of a box, `steer_scores` brings a box's scores to those of the seed's object.

Source of these: Novotny, Albanie, Larlus, Vedaldi, "Semi-convolutional Operators for Instance
Segmentation", ECCV 2018 (arXiv:1807.10712).
"""

from jaxseg.ops._affinity_distance import affinity_distance
from jaxseg.ops._steered import (
    add_coordinates,
    log_bilateral_kernel,
    log_steered_kernel,
    seed_embedding,
    steer_scores,
)

_PUBLIC = (
    *(add_coordinates, affinity_distance, log_bilateral_kernel, log_steered_kernel),
    *(seed_embedding, steer_scores),
)
# This is where they are found, by readers of a traceback and by tests that look for public names.
for _thing in _PUBLIC:
    _thing.__module__ = __name__

__all__ = [_thing.__name__ for _thing in _PUBLIC]
