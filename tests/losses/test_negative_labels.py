"""A negative label never counts, whichever label is ignored beside."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.losses import reconstruction

RNG = np.random.default_rng(0)
GRID = (2, 2)


def test_reconstruction_ignores_every_negative_label():
    affinity = jax.nn.softmax(jnp.asarray(RNG.standard_normal((2, 8, 6, 9)), jnp.float32))
    label = RNG.integers(0, 4, (2, 8, 6)).astype(np.int32)
    hidden = RNG.random(label.shape) < 0.3
    run = jax.jit(reconstruction, static_argnums=2, static_argnames="ignore_label")
    for other in (-1, 2):
        expected = run(affinity, jnp.where(hidden, -1, label), GRID, ignore_label=other)
        got = run(affinity, jnp.where(hidden, -7, label), GRID, ignore_label=other)
        np.testing.assert_array_equal(got, expected)
        alone = run(affinity, jnp.where(hidden | (label == other), 9, label), GRID, ignore_label=9)
        np.testing.assert_allclose(got, alone, rtol=1e-6)
