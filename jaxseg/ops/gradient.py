"""Changes of the gradient that leave the value as it is."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_jvp, nondiff_argnums=())
def _scale(x: Array, factor: Array) -> Array:
    return x


@_scale.defjvp
def _scale_jvp(primals, tangents):
    x, factor = primals
    return x, factor * tangents[0]


def scale_gradient(x: Float[Array, "..."], factor: float | Float[Array, ""]) -> Float[Array, "..."]:
    """Returns `x`; its gradient is multiplied by `factor`.

    Args:
        x: any shape.
        factor: a scalar, may be traced; 0 stops the gradient, -1 reverses it. It gets none itself.
    """
    return _scale(x, jax.lax.stop_gradient(jnp.asarray(factor, x.dtype)))
