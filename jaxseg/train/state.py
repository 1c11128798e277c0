"""What training carries from step to step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxseg.types import Batch, Method, PyTree


class TrainState(NamedTuple):
    """Everything that a checkpoint keeps, but for the place in the data."""

    step: Array
    """int32 scalar: the number of steps taken."""
    key: Array
    """Typed key; the step folds its number into it, so it never changes."""
    params: PyTree
    model_state: PyTree
    """Batch statistics; {} if the method has none."""
    opt_state: PyTree
    ema: PyTree
    """{"params", "model_state"}: moving averages, or None if they are off."""


def init_state(
    key: Array,
    method: Method,
    batch: Batch,
    optimizer: optax.GradientTransformation | tuple[optax.GradientTransformation, ...],
    *,
    ema: bool = False,
) -> TrainState:
    """Makes the state of step 0; pure, so that it can run under `jit` with output shardings.

    Args:
        key: typed key.
        method: any of the Methods that share the variables.
        batch: of which `method.init` reads the shapes.
        optimizer: one, or a tuple: then `opt_state` is the tuple of their states.
        ema: whether moving averages are kept, begun as copies.
    """
    init_key, step_key = jax.random.split(key)
    params, model_state = method.init(init_key, batch)
    if isinstance(optimizer, optax.GradientTransformation):
        opt_state = optimizer.init(params)
    else:
        opt_state = tuple(o.init(params) for o in optimizer)
    variables = {"params": params, "model_state": model_state}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=step_key,
        params=params,
        model_state=model_state,
        opt_state=opt_state,
        # A copy: a donated buffer may not stand twice in the state.
        ema=jax.tree.map(jnp.copy, variables) if ema else None,
    )


def evaluation_variables(state: TrainState) -> tuple[PyTree, PyTree]:
    """The `(params, model_state)` to predict with: the moving averages where they are kept."""
    if state.ema is None:
        return state.params, state.model_state
    return state.ema["params"], state.ema["model_state"]
