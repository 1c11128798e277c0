"""One module per paper; each fills `types.Method`. `tasks`, `heatmaps`: what `dsrl` learns."""

from jaxseg.methods import adaptive as adaptive
from jaxseg.methods import dsrl as dsrl
from jaxseg.methods import heatmaps as heatmaps
from jaxseg.methods import iic as iic
from jaxseg.methods import mask_rcnn as mask_rcnn
from jaxseg.methods import semantic as semantic
from jaxseg.methods import semiconv as semiconv
from jaxseg.methods import ssn as ssn
from jaxseg.methods import tasks as tasks
