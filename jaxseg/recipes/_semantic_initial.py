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
    if config.initial:
        return from_run(given_variables(config), (params, model_state), config.initial)
    places = encoder_weights(config)
    filled = weights.read(
        Path(config.encoder),
        {"params": params, "batch_stats": model_state},
        naming=places.naming,
        leave_out=places.leave_out,
        keep=places.keep,
    )
    return filled["params"], filled["batch_stats"]


def given_variables(config: Config) -> tuple[PyTree, PyTree]:
    """The parameters and the model state of `config.initial`, on the host.

    Raises:
        InputError: it cannot be loaded.
    """
    from jaxseg.predictor import load

    given = load(config.initial)
    return jax.device_get((given.params, given.model_state))


def from_run(
    given: tuple[PyTree, PyTree],
    variables: tuple[PyTree, PyTree],
    source: str,
    *,
    part: bool = False,
) -> tuple[PyTree, PyTree]:
    """Variables where those that were given stand in place of random ones.

    Args:
        given: parameters and model state.
        variables: the same of this network, which may hold more than was given.
        source: what an error names.
        part: this network is a part of the one that was given, and may hold less instead.

    Raises:
        InputError: they are of another network.
    """
    found, own = _leaves(given), _leaves(variables)
    strange = [n for n in found.keys() & own.keys() if own[n].shape != found[n].shape]
    strange += sorted((own.keys() - found.keys()) if part else (found.keys() - own.keys()))
    if strange or not found:
        raise InputError(
            f"{source}: of another network ({', '.join(strange[:4])}); give the fields of "
            "the config that it was trained with, or train without initial"
        )
    leaves = [found.get(name, leaf) for name, leaf in own.items()]
    return jax.tree.unflatten(jax.tree.structure(variables), leaves)


def _leaves(tree: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
