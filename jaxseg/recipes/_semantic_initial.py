"""A training that begins with given weights instead of random ones."""

from pathlib import Path

import jax
import numpy as np

from jaxseg.models import weights
from jaxseg.recipes._semantic_config import Config
from jaxseg.recipes._semantic_network import encoder_weights
from jaxseg.types import InputError, PyTree


def initial_variables(config: Config, params: PyTree, model_state: PyTree) -> tuple[PyTree, PyTree]:
    """The random variables, filled from `config.encoder`, or those of `config.initial`.

    Raises:
        InputError: the file is missing, or not of this network.
    """
    if config.encoder:
        places = encoder_weights(config)
        filled = weights.read(
            Path(config.encoder),
            {"params": params, "batch_stats": model_state},
            naming=places.naming,
            leave_out=places.leave_out,
            keep=places.keep,
        )
        return filled["params"], filled["batch_stats"]
    from jaxseg.predictor import load

    given = load(config.initial)
    found = jax.device_get((given.params, given.model_state))
    if _shapes((params, model_state)) != _shapes(found):
        raise InputError(
            f"{config.initial}: of another network; give the fields of the config that it was "
            "trained with, or train without initial"
        )
    return found


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}
