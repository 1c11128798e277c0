"""Networks, built from sizes alone, as pairs of pure functions (`types.Network`).

A network is made by a function of the module of its family: `models.unet.unet(11)`,
`models.deeplab.deeplab_resnet(19, depth=101)`.
"""

from jaxseg.models import deeplab as deeplab
from jaxseg.models import densenet as densenet
from jaxseg.models import dilated as dilated
from jaxseg.models import dsrl as dsrl
from jaxseg.models import espnet as espnet
from jaxseg.models import fcn as fcn
from jaxseg.models import fpn as fpn
from jaxseg.models import hrnet as hrnet
from jaxseg.models import iic as iic
from jaxseg.models import mask_rcnn as mask_rcnn
from jaxseg.models import mobilenet as mobilenet
from jaxseg.models import pspnet as pspnet
from jaxseg.models import resnet as resnet
from jaxseg.models import resunet as resunet
from jaxseg.models import sampler as sampler
from jaxseg.models import ssn as ssn
from jaxseg.models import unet as unet
from jaxseg.models import vgg as vgg
from jaxseg.models import weights as weights
from jaxseg.models import xception as xception
from jaxseg.models.network import network as network
