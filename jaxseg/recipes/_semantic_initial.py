"""A training that begins with given weights instead of random ones."""

from pathlib import Path

import jax
import jax.numpy as jnp
from jax import Array

from jaxseg.models import weights
from jaxseg.recipes._semantic_config import Config
from jaxseg.recipes._semantic_network import encoder_weights
from jaxseg.types import Batch, InputError, Method, PyTree


def begin_with(method: Method, config: Config) -> Method:
    """The method whose `init` takes what it can from `config.encoder` or `config.initial`.

    Raises:
        InputError: the file is missing, or not of this network.
    """
    if config.encoder:
        places = encoder_weights(config)
        tensors = weights.read_tensors(Path(config.encoder))

        def from_encoder(key: Array, batch: Batch, /) -> tuple[PyTree, PyTree]:
            params, model_state = method.init(key, batch)
            filled = weights.to_variables(
                tensors,
                {"params": params, "batch_stats": model_state},
                naming=places.naming,
                leave_out=places.leave_out,
                keep=places.keep,
                source=config.encoder,
            )
            filled = jax.tree.map(jnp.asarray, filled)
            return filled["params"], filled["batch_stats"]

        return method._replace(init=from_encoder)
    from jaxseg.predictor import load

    given = load(config.initial)

    def from_run(key: Array, batch: Batch, /) -> tuple[PyTree, PyTree]:
        own = method.init(key, batch)
        found = (given.params, given.model_state)
        shapes = [
            {jax.tree_util.keystr(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(t)}
            for t in (own, found)
        ]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"{config.initial}: of another network; give the fields of the config that it was "
                "trained with, or train without initial"
            )
        # Copies: the state of a training is donated.
        return jax.tree.map(jnp.copy, found)

    return method._replace(init=from_run)
