import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.superpixel_pool import SuperpixelPool, superpixel_smooth
from jaxseg.ops.slic import grid_shape, soft_slic

H, W, GRID = 8, 10, (2, 3)
RNG = np.random.default_rng(0)
FEATURES = jnp.asarray(RNG.normal(size=(2, H, W, 4)), jnp.float32)
GUIDE = jnp.asarray(2 * RNG.random((2, H, W, 5)), jnp.float32)
smooth = jax.jit(superpixel_smooth, static_argnames=("grid", "num_iters"))


def dense(affinity):
    """Q as [pixels, superpixels], from the nine candidates, in a loop."""
    q = np.zeros((H, W, *GRID))
    for y, x, k in np.ndindex(H, W, 9):
        i, j = y * GRID[0] // H + k // 3 - 1, x * GRID[1] // W + k % 3 - 1
        if 0 <= i < GRID[0] and 0 <= j < GRID[1]:
            q[y, x, i, j] = affinity[y, x, k]
    return q.reshape(H * W, -1)


def test_smoothing_equals_dense_products():
    got = smooth(FEATURES, GUIDE, grid=GRID, num_iters=3)
    for b in range(2):
        q = dense(
            jax.jit(soft_slic, static_argnames=("grid", "num_iters"))(
                GUIDE[b], grid=GRID, num_iters=3
            ).affinity
        )
        flat = np.asarray(FEATURES[b], np.float64).reshape(H * W, -1)
        expected = q @ (q.T @ flat / q.sum(0)[:, None])
        np.testing.assert_allclose(got[b].reshape(H * W, -1), expected, atol=1e-5)


def test_regions_of_one_colour_become_flat():
    """Two far colours: what is learned from them does not cross their border."""
    side = jnp.asarray(np.arange(W) >= 4)
    guide = jnp.broadcast_to(100.0 * side[None, None, :, None], (1, H, W, 1))
    got = smooth(FEATURES[:1], guide, grid=(1, 2), num_iters=4)[0]
    for part in (slice(0, 4), slice(4, W)):
        mean = FEATURES[0, :, part].mean((0, 1))
        np.testing.assert_allclose(
            got[:, part], np.broadcast_to(mean, got[:, part].shape), atol=1e-5
        )


def layer(**options):
    module = SuperpixelPool(6, num_iters=2, **options)
    return module, jax.jit(module.init)(jax.random.key(0), FEATURES, GUIDE)


def with_mix(params, kernel):
    return {"params": {**params["params"], "mix": {"kernel": kernel[None, None]}}}


def test_the_mix_goes_from_nothing_to_the_means():
    module, params = layer()
    np.testing.assert_array_equal(jax.jit(module.apply)(params, FEATURES, GUIDE), FEATURES)
    means = smooth(FEATURES, GUIDE, grid=grid_shape(H, W, 6), num_iters=2)
    full = jax.jit(module.apply)(with_mix(params, jnp.eye(4)), FEATURES, GUIDE)
    np.testing.assert_allclose(full, means, atol=1e-5)


def test_gradients_reach_guide_features_and_parameters():
    module, params = layer(num_learned=3)
    assert params["params"]["guide"]["kernel"].shape == (1, 1, 4, 3)

    @jax.jit
    @jax.grad
    def gradient(arguments):
        return jnp.sum(jnp.sin(module.apply(*arguments)))

    at_start = gradient((params, FEATURES, GUIDE))
    assert np.any(np.asarray(at_start[0]["params"]["mix"]["kernel"]))
    later = gradient((with_mix(params, 0.5 * jnp.eye(4)), FEATURES, GUIDE))
    chex.assert_tree_all_finite(later)
    assert all(np.any(np.asarray(g)) for g in jax.tree.leaves(later))


def test_each_example_alone_under_vmap():
    module, params = layer(num_learned=2)
    params = with_mix(params, 0.3 * jnp.eye(4))
    together = jax.jit(module.apply)(params, FEATURES, GUIDE)
    alone = jax.jit(jax.vmap(lambda f, g: module.apply(params, f[None], g[None])[0]))(
        FEATURES, GUIDE
    )
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_finer_guide_is_averaged():
    module, params = layer()
    params = with_mix(params, jnp.eye(4))
    fine = jnp.repeat(jnp.repeat(GUIDE, 2, 1), 2, 2)
    noise = jnp.asarray(np.tile([[1.0, -1.0], [-1.0, 1.0]], (H, W)), jnp.float32)
    got = jax.jit(module.apply)(params, FEATURES, fine + noise[None, :, :, None])
    expected = jax.jit(module.apply)(params, FEATURES, GUIDE)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    with pytest.raises(ValueError, match="guide of 12x10 pixels"):
        module.apply(params, FEATURES, jnp.zeros((2, 12, 10, 5)))


def test_bfloat16_features_stay_narrow():
    module, params = layer(dtype=jnp.bfloat16)
    narrow = FEATURES.astype(jnp.bfloat16)
    assert jax.eval_shape(module.apply, params, narrow, GUIDE).dtype == jnp.bfloat16
