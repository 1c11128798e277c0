"""Joints at small displacements: three ways and their gradients beside loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops import _joint

pytestmark = pytest.mark.usefixtures("strict_dtypes")
METHODS = ["fft", "conv", "scan"]
# Even and odd, wide and high, no displacement, and one that leaves a single pixel.
SHAPES = [((2, 7, 6), 2), ((1, 4, 5), 3), ((3, 5, 8), 0), ((2, 6, 6), 1)]


def maps(batch, height, width, channels=(3, 2)):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(batch, height, width, c)) for c in channels]


def pairs(shape, t):
    """Slices of x and y that lie over each other at displacement `t`."""
    ranges = [
        (max(0, s), min(n, n + s), max(0, -s), min(n, n - s)) for n, s in zip(shape, t, strict=True)
    ]
    x, y = ([slice(r[i], r[i + 1]) for r in ranges] for i in (0, 2))
    return (slice(None), *x), (slice(None), *y)


def loop(x, y, displacement, slope=None):
    """J, or the gradients of Σ slope · J."""
    side = 2 * displacement + 1
    joint = np.zeros((side, side, x.shape[-1], y.shape[-1]))
    gradients = np.zeros(x.shape), np.zeros(y.shape)
    for i, j in np.ndindex(side, side):
        a, b = pairs(x.shape[1:3], (i - displacement, j - displacement))
        joint[i, j] = np.einsum("bhwc,bhwd->cd", x[a], y[b])
        if slope is not None:
            gradients[0][a] += y[b] @ slope[i, j].T
            gradients[1][b] += x[a] @ slope[i, j]
    return joint if slope is None else gradients


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("shape", "displacement"), SHAPES)
def test_values_and_gradients_equal_loops(method, shape, displacement):
    x, y = maps(*shape)
    expected = loop(x, y, displacement)
    slope = np.random.default_rng(1).normal(size=expected.shape)

    @jax.jit
    def run(x, y, slope):
        joint, pull = jax.vjp(
            lambda x, y: _joint.displaced_joints(x, y, displacement, method), x, y
        )
        return joint, *pull(slope)

    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-12)):
        with jax.enable_x64(dtype == np.float64):
            got = run(*(jnp.asarray(z, dtype) for z in (x, y, slope)))
        for a, b in zip(got, (expected, *loop(x, y, displacement, slope)), strict=True):
            assert a.dtype == dtype
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * abs(b).max())


@pytest.mark.parametrize(("shape", "displacement"), SHAPES)
def test_collapsed_is_the_sum(shape, displacement):
    x, y = maps(*shape)
    got = _joint.collapsed_joint(jnp.asarray(x, "f4"), jnp.asarray(y, "f4"), displacement)
    np.testing.assert_allclose(got, loop(x, y, displacement).sum((0, 1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_keeps_the_maps_alone(method):
    x, y = (jnp.asarray(z, jnp.float32) for z in maps(2, 7, 6))
    pull = jax.vjp(lambda x, y: _joint.displaced_joints(x, y, 2, method), x, y)[1]
    assert sum(leaf.size for leaf in jax.tree.leaves(pull)) == x.size + y.size
