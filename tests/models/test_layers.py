import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.models.layers import BatchNorm, max_pool_3x3, upsample


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


class TestBatchNorm:
    x = normal(0, (6, 5, 4, 3)) * 3 + 50

    def init(self, **options):
        module = BatchNorm(**options)
        return module, module.init(jax.random.key(0), self.x)

    def test_normalises_over_the_examples_that_count(self):
        module, variables = self.init(momentum=0.8)
        mask = jnp.array([1, 1, 0, 1, 0, 1]) > 0
        y, changed = module.apply(variables, self.x, train=True, mask=mask, mutable=["batch_stats"])
        kept = np.asarray(self.x)[np.asarray(mask)].astype(np.float64)
        mean, var = kept.mean((0, 1, 2)), kept.var((0, 1, 2))
        expected = (np.asarray(self.x) - mean) / np.sqrt(var + 1e-5)
        np.testing.assert_allclose(y, expected, atol=2e-5)
        np.testing.assert_allclose(changed["batch_stats"]["mean"], 0.2 * mean, rtol=1e-5)
        np.testing.assert_allclose(changed["batch_stats"]["var"], 0.8 + 0.2 * var, rtol=1e-5)

    def test_running_statistics_serve_evaluation(self):
        module, variables = self.init()
        stats = {"mean": jnp.array([1.0, 2, 3]), "var": jnp.array([4.0, 9, 16])}
        y = module.apply({**variables, "batch_stats": stats}, self.x)
        expected = (self.x - stats["mean"].reshape(1, 1, 1, 3)) / jnp.sqrt(
            stats["var"].reshape(1, 1, 1, 3) + 1e-5
        )
        np.testing.assert_allclose(y, expected, rtol=1e-5)

    def test_affine(self):
        module, variables = self.init()
        assert set(variables["params"]) == {"scale", "bias"}
        params = {"scale": jnp.array([2.0, 1, 1]), "bias": jnp.array([0.0, 5, 0])}
        plain = module.apply(variables, self.x)
        y = module.apply({**variables, "params": params}, self.x)
        factor, shift = (params[k].reshape(1, 1, 1, 3) for k in ("scale", "bias"))
        np.testing.assert_allclose(y, plain * factor + shift, rtol=1e-5)
        _, variables = self.init(affine=False)
        assert "params" not in variables

    def test_nothing_counts(self):
        module, variables = self.init()
        y, _ = module.apply(
            variables, self.x, train=True, mask=jnp.zeros(6), mutable=["batch_stats"]
        )
        assert np.all(np.isfinite(y))

    def test_bfloat16(self):
        module, variables = self.init(dtype=jnp.bfloat16)
        y, changed = module.apply(variables, self.x, train=True, mutable=["batch_stats"])
        assert y.dtype == jnp.bfloat16
        chex.assert_tree_all_finite(changed)
        assert {v.dtype for v in jax.tree.leaves(changed)} == {jnp.dtype("float32")}


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 9), st.integers(1, 9))
def test_max_pool_equals_a_loop(height, width):
    x = np.asarray(normal(height * 10 + width, (2, height, width, 3)))
    got = max_pool_3x3(jnp.asarray(x))
    rows, cols = height // 2 + 1, width // 2 + 1
    assert got.shape == (2, rows, cols, 3)
    for i in range(rows):
        for j in range(cols):
            window = x[:, max(0, 2 * i - 1) : 2 * i + 2, max(0, 2 * j - 1) : 2 * j + 2]
            expected = window.max((1, 2)) if window.size else np.full((2, 3), -np.inf)
            np.testing.assert_array_equal(got[:, i, j], expected)


def test_max_pool_gradient_is_that_of_the_maximum():
    x = normal(3, (1, 7, 6, 2))
    weights = normal(4, max_pool_3x3(x).shape)

    def slow(x):
        return jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 2), (0, 0))
        )

    gradients = [jax.grad(lambda x, f=f: jnp.sum(f(x) * weights))(x) for f in (max_pool_3x3, slow)]
    np.testing.assert_allclose(*gradients, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 4])
def test_upsample_interpolates_between_nodes(factor):
    x = normal(5, (2, 5, 4, 3))
    size = (factor * 4 + 1, factor * 3 - 1)
    got = upsample(x, factor, size)
    nodes = [np.arange(n) * factor for n in x.shape[1:3]]
    for channel in range(3):
        from scipy.interpolate import RegularGridInterpolator

        exact = RegularGridInterpolator(nodes, np.asarray(x[1, ..., channel], np.float64))
        points = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1)
        np.testing.assert_allclose(got[1, ..., channel], exact(points), atol=1e-5)
    with pytest.raises(ValueError, match="at most"):
        upsample(x, factor, (factor * 4 + 2, 3))
