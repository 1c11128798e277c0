"""A training that begins with given weights instead of random ones."""

from pathlib import Path
from typing import Any

import jax

from jaxseg.models import weights
from jaxseg.recipes._semantic_config import Config
from jaxseg.recipes._semantic_network import encoder_weights
from jaxseg.types import InputError, PyTree


def initial_variables(config: Config, params: PyTree, model_state: PyTree) -> tuple[PyTree, PyTree]:
    """The random variables, filled from `config.encoder` or `config.initial`.

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
    found = _leaves(jax.device_get((given.params, given.model_state)))
    own = _leaves((params, model_state))
    strange = [n for n, leaf in found.items() if n not in own or own[n].shape != leaf.shape]
    if strange or not found:
        raise InputError(
            f"{config.initial}: of another network ({', '.join(strange[:4])}); give the fields of "
            "the config that it was trained with, or train without initial"
        )
    leaves = [found.get(name, leaf) for name, leaf in own.items()]
    return jax.tree.unflatten(jax.tree.structure((params, model_state)), leaves)


def _leaves(tree: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
