"""jaxseg: learning to segment images in JAX."""

from jaxseg import losses as losses
from jaxseg import methods as methods
from jaxseg import metrics as metrics
from jaxseg import models as models
from jaxseg import ops as ops
from jaxseg import train as train
from jaxseg.predictor import Predictor as Predictor
from jaxseg.predictor import load as load
from jaxseg.types import Batch as Batch
from jaxseg.types import InputError as InputError
from jaxseg.types import Method as Method
from jaxseg.types import Metric as Metric
from jaxseg.types import Network as Network
from jaxseg.types import Prediction as Prediction

__version__ = "0.7.0"
