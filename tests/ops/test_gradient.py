"""`scale_gradient` leaves the value and multiplies the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops.gradient import scale_gradient

X = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)


def through(x, factor):
    return jnp.sum(jnp.sin(scale_gradient(x, factor)))


@pytest.mark.parametrize("factor", [-1.0, 0.0, 0.3, 1.0, jnp.float32(-2.5)])
def test_gradient_is_multiplied(factor, strict_dtypes):
    value, gradient = jax.value_and_grad(through)(jnp.asarray(X), factor)
    np.testing.assert_allclose(value, np.sin(X).sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient, factor * np.cos(X), rtol=1e-6)


def test_gradients_of_factors_multiply_and_forward_mode_agrees():
    def twice(x):
        return jnp.sin(scale_gradient(scale_gradient(x, 0.5), -3.0))

    x, t = jnp.asarray(X), jnp.ones_like(X)
    _, tangent = jax.jvp(twice, (x,), (t,))
    np.testing.assert_allclose(tangent, -1.5 * np.cos(X), rtol=1e-6)


def test_the_factor_gets_no_gradient():
    assert jax.grad(through, argnums=1)(jnp.asarray(X), jnp.float32(0.3)) == 0
