"""Training: one step, one loop, for every method."""

from jaxseg.train.experiment import Evaluation as Evaluation
from jaxseg.train.experiment import Experiment as Experiment
from jaxseg.train.experiment import Schedule as Schedule
from jaxseg.train.loop import FitResult as FitResult
from jaxseg.train.loop import NotFiniteError as NotFiniteError
from jaxseg.train.loop import fit as fit
from jaxseg.train.phases import Phase as Phase
from jaxseg.train.state import TrainState as TrainState
from jaxseg.train.state import evaluation_variables as evaluation_variables
from jaxseg.train.state import init_state as init_state
from jaxseg.train.step import make_train_step as make_train_step
