"""A superpixel whose affinities sum to less than 1e-3 has no mean; one above has."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops.slic import pool, soft_slic

GRID = (1, 3)


@pytest.mark.parametrize("mass, alive", [(2e-2, True), (2e-3, True), (5e-4, False)])
def test_soft_slic(mass, alive, x64):
    """The middle cell is half like its left and half like its right neighbour, so it loses all."""
    pixels = 24
    distance = 2 * np.sqrt(np.log(pixels / mass))
    x = jnp.asarray(np.repeat([0.0, distance], 6) * np.ones((2, 1)))[..., None]
    run = jax.jit(functools.partial(soft_slic, grid=GRID, num_iters=1))
    affinity, centers = run(x)
    # The second and third candidate of a row of cells are 4 (its own) and 5, 3 to its left.
    middle = affinity[:, :4, 5].sum() + affinity[:, 4:8, 4].sum() + affinity[:, 8:, 3].sum()
    np.testing.assert_allclose(middle, mass, rtol=0.02)
    np.testing.assert_allclose(centers[0, 1, 0], distance / 2 if alive else 0, atol=1e-9)
    gradient = jax.jit(jax.grad(lambda x: run(x).centers[0, 1, 0]))(x)
    assert (np.abs(gradient).sum() > 0) == alive


@pytest.mark.parametrize("mass, alive", [(2e-2, True), (2e-3, True), (5e-4, False)])
def test_pool(mass, alive):
    affinity = np.zeros((2, 12, 9), np.float32)
    affinity[..., 4] = 1
    affinity[:, 4:8, 4] = mass / 8
    values = jnp.full((2, 12, 1), 3.0)
    pooled = jax.jit(pool, static_argnums=2)(values, jnp.asarray(affinity), GRID)
    np.testing.assert_allclose(pooled[0, :, 0], [3, 3 if alive else 0, 3], rtol=1e-5)
