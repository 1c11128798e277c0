import jax.numpy as jnp
import numpy as np

from jaxseg.models.pooling import max_pool_2x2, max_pool_ceil


def test_max_pool_2x2_equals_a_loop():
    x = np.random.default_rng(3).normal(size=(2, 6, 4, 3)).astype(np.float32)
    got = max_pool_2x2(jnp.asarray(x))
    for i, j in np.ndindex(3, 2):
        window = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        np.testing.assert_array_equal(got[:, i, j], window.max((1, 2)))


def test_max_pool_ceil_equals_a_loop():
    x = np.random.default_rng(5).normal(size=(1, 5, 6, 2)).astype(np.float32)
    got = max_pool_ceil(jnp.asarray(x))
    assert got.shape == (1, 3, 3, 2)
    for i, j in np.ndindex(3, 3):
        window = x[:, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2]
        np.testing.assert_array_equal(got[:, i, j], window.max((1, 2)))
