"""Prediction by sliding window, with flips and scales, in bounded memory."""

from jaxseg.tiles._window import Band as Band
from jaxseg.tiles._window import Probabilities as Probabilities
from jaxseg.tiles._window import Progress as Progress
from jaxseg.tiles._window import SlidingWindow as SlidingWindow
from jaxseg.tiles._window import predict_bands as predict_bands
from jaxseg.tiles._window import sliding_window as sliding_window
