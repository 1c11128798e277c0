"""The closed table of what a file of weights may be of."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxseg.recipes import semantic, superpixels
from jaxseg.train.experiment import Experiment, ExperimentFile


class Constructor(NamedTuple):
    """How an experiment is made of a card's config."""

    Config: type
    build: Callable[[Any], Experiment]


CONSTRUCTORS = {
    "superpixels": Constructor(superpixels.Config, superpixels.build),
    "semantic": Constructor(semantic.Config, semantic.build),
}


def constructor_of(file: ExperimentFile) -> str | None:
    """The key of what an experiment builds; None: a network of its own, which no card can name."""
    for key, constructor in CONSTRUCTORS.items():
        if (file.Config, file.build) == (constructor.Config, constructor.build):
            return key
    return None
