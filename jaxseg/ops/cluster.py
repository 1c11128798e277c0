"""From embeddings to objects: the names of clustering.

All take points `[P, D]` with a mask, so that the pixels of an image can be given as they are, and
give as many places for clusters as they are told, of which some may stay empty: shapes are static.

- `grow_instances` takes seeds that a network points at; it finds how many objects there are.
- `mean_shift` needs no seeds; it finds how many there are too, given their radius.
- `kmeans` is told how many.
"""

from jaxseg.ops._lloyd import Clusters, kmeans
from jaxseg.ops._mean_shift import Modes, mean_shift
from jaxseg.ops._seed_growing import GrownInstances, grow_instances

_PUBLIC = (Clusters, GrownInstances, Modes, grow_instances, kmeans, mean_shift)
# This is where they are found, by readers of a traceback and by tests that look for public names.
for _thing in _PUBLIC:
    _thing.__module__ = __name__

__all__ = [_thing.__name__ for _thing in _PUBLIC]
