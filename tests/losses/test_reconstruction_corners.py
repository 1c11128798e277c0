"""Labels that never count, and superpixels of nearly no mass."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.losses import reconstruction
from jaxseg.ops.slic import pool, unpool

RNG = np.random.default_rng(0)
GRID = (2, 2)
LABEL = RNG.integers(0, 4, (2, 8, 6)).astype(np.int32)


def affinities():
    return jax.nn.softmax(jnp.asarray(RNG.standard_normal((*LABEL.shape, 9)), jnp.float32))


def test_every_negative_label_is_ignored():
    affinity = affinities()
    hidden = RNG.random(LABEL.shape) < 0.3
    run = jax.jit(reconstruction, static_argnums=2, static_argnames="ignore_label")
    for other in (-1, 2):
        expected = run(affinity, jnp.where(hidden, -1, LABEL), GRID, ignore_label=other)
        got = run(affinity, jnp.where(hidden, -7, LABEL), GRID, ignore_label=other)
        np.testing.assert_array_equal(got, expected)
        alone = run(affinity, jnp.where(hidden | (other == LABEL), 9, LABEL), GRID, ignore_label=9)
        np.testing.assert_allclose(got, alone, rtol=1e-6)


def test_a_superpixel_of_little_mass_has_its_mean():
    """Equal to `pool` and `unpool` of the one-hot code where one pixel is all that is left."""
    affinity = np.array(affinities()[0])
    affinity[4:, 3:, 4] = affinity[4:, :3, 5] = affinity[:4, 3:, 7] = affinity[:4, :3, 8] = 0
    affinity[6, 4] = 0
    affinity[6, 4, 4] = 0.02
    affinity, one_hot = jnp.asarray(affinity), jax.nn.one_hot(LABEL[0], 4)
    told = jnp.sum(unpool(pool(one_hot, affinity, GRID), affinity, GRID) * one_hot, axis=-1)
    np.testing.assert_allclose(told[6, 4], 0.02, rtol=1e-5)
    got = reconstruction(affinity[None], jnp.asarray(LABEL[:1]), GRID)
    np.testing.assert_allclose(got[0], -jnp.mean(jnp.log(told)), rtol=1e-5)
