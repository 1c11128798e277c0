"""Pure functions on the arrays of one example; `vmap` them over batches."""

from jaxseg.ops import affinity as affinity
from jaxseg.ops import augment as augment
from jaxseg.ops import boundary as boundary
from jaxseg.ops import boxes as boxes
from jaxseg.ops import cluster as cluster
from jaxseg.ops import collective as collective
from jaxseg.ops import color as color
from jaxseg.ops import connectivity as connectivity
from jaxseg.ops import filters as filters
from jaxseg.ops import gradient as gradient
from jaxseg.ops import heatmap as heatmap
from jaxseg.ops import nms as nms
from jaxseg.ops import paste as paste
from jaxseg.ops import regions as regions
from jaxseg.ops import roi_align as roi_align
from jaxseg.ops import slic as slic
from jaxseg.ops import warp as warp
