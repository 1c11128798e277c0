"""From a file of weights to what a `Predictor` holds."""

from pathlib import Path
from typing import NamedTuple

import jax

from jaxseg.train.experiment import Experiment
from jaxseg.train.run_folder import config_from_dict
from jaxseg.types import InputError, PyTree
from jaxseg.weights._card import Card
from jaxseg.weights._constructors import CONSTRUCTORS
from jaxseg.weights._file import read_weights
from jaxseg.weights._tensors import check_finite, check_tensors, name_tensors


class OpenWeights(NamedTuple):
    """The arguments of `Predictor`."""

    experiment: Experiment
    params: PyTree
    """On the default device."""
    model_state: PyTree
    step: int


def open_weights(path: Path) -> OpenWeights:
    """Reads a file of weights and checks it against the network that its card describes.

    Raises:
        InputError: if the file is damaged, or the card and the tensors do not fit this version of
            jaxseg.
    """
    card, tensors = read_weights(path)
    experiment, like = _network_of(card, path)
    expected = name_tensors(*like)
    check_tensors(expected, tensors, path)
    check_finite(tensors, path)
    leaves = jax.device_put([tensors[name] for name in expected], jax.devices()[0])
    params, model_state = jax.tree.unflatten(jax.tree.structure(like), leaves)
    return OpenWeights(experiment, params, model_state, card.step)


def _network_of(card: Card, path: Path) -> tuple[Experiment, tuple[PyTree, PyTree]]:
    """The experiment, and the shapes of its `(params, model_state)`."""
    constructor = CONSTRUCTORS.get(card.constructor)
    if constructor is None:
        raise InputError(
            f"{path}: of a {card.constructor!r}, packed by jaxseg {card.jaxseg}; this version "
            f"knows {', '.join(CONSTRUCTORS)}; use another version"
        )
    # Whatever the header holds: a number too large, a word for a number, a name of yesterday.
    try:
        config = config_from_dict(constructor.Config, dict(card.config), path)
        experiment = constructor.build(config)
        like = jax.eval_shape(experiment.method().init, jax.random.key(0), experiment.example)
    except Exception as error:
        reason = " ".join(str(error).removeprefix(f"{path}: ").split())[:200]
        raise InputError(
            f"{path}: its config, packed by jaxseg {card.jaxseg}, cannot be built ({reason}); "
            "use that version, or pack it anew"
        ) from error
    return experiment, like
