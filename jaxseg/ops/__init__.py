"""Pure functions on the arrays of one example; `vmap` them over batches."""

from jaxseg.ops import affinity as affinity
from jaxseg.ops import collective as collective
from jaxseg.ops import color as color
from jaxseg.ops import connectivity as connectivity
from jaxseg.ops import filters as filters
from jaxseg.ops import gradient as gradient
from jaxseg.ops import heatmap as heatmap
from jaxseg.ops import regions as regions
from jaxseg.ops import slic as slic
