"""Trained weights as files: those that come with jaxseg, and those that you pack.

A file of weights is one safetensors file: float32 tensors named by their path in the variables
("params/conv1/kernel", "batch_stats/conv1_norm/mean") and, in its header, a `Card` that says what
network they are of. Reading one executes nothing of it, unlike opening a run, which executes the
run's copy of its experiment.
"""

from jaxseg.weights._bundled import bundled, find
from jaxseg.weights._card import TO_FILL_IN, Card, model_card
from jaxseg.weights._constructors import CONSTRUCTORS, Constructor, constructor_of
from jaxseg.weights._file import read_card, read_weights, write_weights
from jaxseg.weights._open import OpenWeights, open_weights
from jaxseg.weights._releases import RELEASES, Release, convert
from jaxseg.weights._tensors import check_finite, check_tensors, name_tensors

__all__ = [
    "CONSTRUCTORS",
    "RELEASES",
    "TO_FILL_IN",
    "Card",
    "Constructor",
    "OpenWeights",
    "Release",
    "bundled",
    "check_finite",
    "check_tensors",
    "constructor_of",
    "convert",
    "find",
    "model_card",
    "name_tensors",
    "open_weights",
    "read_card",
    "read_weights",
    "write_weights",
]
