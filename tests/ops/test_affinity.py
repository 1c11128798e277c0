import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.ops.affinity import affinity_distance

WIDTHS = [(4, 4), (3, 5), (5, 2)]


def features(n, *widths, seed=0):
    """Rows of about unit length, exact in float32."""
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(n, c)) / np.sqrt(c)).astype(np.float32) for c in widths]


def dense(a, b, order):
    """Value and gradients of the textbook form, with the whole matrix, in float64."""
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    d = a @ a.T - b @ b.T
    slope = np.sign(d) if order == 1 else 2 * d
    # Every row stands in the matrix twice.
    gradients = 2 * slope @ a / d.size, -2 * slope @ b / d.size
    return np.mean(np.abs(d) ** order), gradients


def run(a, b, **options):
    both = jax.value_and_grad(lambda a, b: affinity_distance(a, b, **options), (0, 1))
    return jax.jit(both)(a, b)


def assert_equal(got, expected, tolerance=1e-5):
    np.testing.assert_allclose(got[0], expected[0], rtol=tolerance)
    for x, y in zip(got[1], expected[1], strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * np.abs(y).max())


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize(("n", "tile"), [(37, 8), (48, 16), (50, 20), (1, 4)])
def test_value_and_gradient_equal_a_dense_reference(order, widths, n, tile):
    a, b = features(n, *widths)
    assert_equal(run(a, b, order=order, tile=tile), dense(a, b, order))
    value = jax.jit(lambda a, b: affinity_distance(a, b, order=order, tile=tile))(a, b)
    np.testing.assert_allclose(value, dense(a, b, order)[0], rtol=1e-5)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("distance", [1e-2, 1e-4, 1e-6])
def test_near_features_lose_no_digits(order, distance):
    a, noise = features(61, 6, 6)
    b = a + np.float32(distance) * noise
    expected = dense(a, b, order)
    assert_equal(run(a, b, order=order, tile=16), expected)
    if distance == 1e-6:  # the textbook form in float32 does
        d = a @ a.T - b @ b.T
        slope = np.sign(d) if order == 1 else 2 * d
        error = 2 * slope @ a / d.size - expected[1][0]
        assert np.abs(error).max() > 1e-2 * np.abs(expected[1][0]).max()


@pytest.mark.parametrize("order", [1, 2])
def test_equal_features_are_at_no_distance(order):
    (a,) = features(20, 4)
    wider = np.concatenate([a, np.zeros((20, 2), np.float32)], axis=1)
    for b in (a, wider):
        value, gradients = run(a, b, order=order, tile=8)
        assert value == 0
        assert all(np.all(g == 0) for g in gradients)


DISTANCE = {k: jax.jit(functools.partial(affinity_distance, order=k, tile=16)) for k in (1, 2)}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.sampled_from([1, 2]))
def test_order_of_pixels_of_arguments_and_rotations_do_not_matter(seed, order):
    a, b = features(30, 5, 3, seed=seed)
    rng = np.random.default_rng(seed)
    places = rng.permutation(30)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0].astype(np.float32)
    value = DISTANCE[order](a, b)
    for x, y in ((a[places], b[places]), (b, a), (a @ rotation, b)):
        np.testing.assert_allclose(DISTANCE[order](x, y), value, rtol=2e-5)


@pytest.mark.parametrize("order", [1, 2])
def test_large_maps_need_no_matrix(order):
    n = 4096
    shapes = [jax.ShapeDtypeStruct((n, c), jnp.float32) for c in (5, 7)]
    both = jax.value_and_grad(lambda a, b: affinity_distance(a, b, order=order, tile=256), (0, 1))
    compiled = jax.jit(both).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * n * n / 32


def test_without_a_derivative_none_is_made():
    a, b = features(40, 3, 4)

    def products(function):
        return str(jax.make_jaxpr(function)(a, b)).count("dot_general[")

    assert products(lambda a, b: affinity_distance(a, b, tile=16)) == 1
    assert products(jax.grad(lambda a, b: affinity_distance(a, b, tile=16))) == 4
    pairs = [
        x.shape for x in jax.make_jaxpr(lambda a, b: affinity_distance(a, b, tile=16))(a, b).consts
    ]
    assert pairs == [(6, 2)]  # of the nine tiles, those above the diagonal and on it


@pytest.mark.parametrize("order", [1, 2])
def test_forward_mode_and_second_derivatives(x64, order):
    a, b, da, db = (x.astype(np.float64) for x in features(21, 3, 4, 3, 4))

    def distance(a, b):
        return affinity_distance(a, b, order=order, tile=8)

    gradient = jax.grad(distance, (0, 1))
    slope = jax.jit(lambda *x: jax.jvp(distance, x[:2], x[2:]))(a, b, da, db)[1]
    expected = dense(a, b, order)[1]
    np.testing.assert_allclose(slope, np.sum(expected[0] * da) + np.sum(expected[1] * db))
    step = 1e-7
    up, down = (dense(a + s * da, b + s * db, order)[1] for s in (step, -step))
    curvature = [(u - d) / (2 * step) for u, d in zip(up, down, strict=True)]

    def along(a, b):
        return sum(jnp.sum(g * d) for g, d in zip(gradient(a, b), (da, db), strict=True))

    forward = jax.jit(lambda a, b: jax.jvp(gradient, (a, b), (da, db))[1])(a, b)
    reverse = jax.jit(jax.grad(along, (0, 1)))(a, b)
    for got in (forward, reverse):
        for x, y in zip(got, curvature, strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-6 * np.abs(y).max())


@pytest.mark.parametrize("order", [1, 2])
def test_devices_work_on_their_own_examples(order):
    a, b = (x.reshape(8, 30, -1) for x in features(240, 3, 4))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    each = jax.sharding.PartitionSpec("data")

    def batch(a, b):
        one = lambda a, b: affinity_distance(a, b, order=order, tile=16)  # noqa: E731
        return jax.vmap(jax.value_and_grad(one, (0, 1)))(a, b)

    placed = jax.device_put((a, b), jax.sharding.NamedSharding(mesh, each))
    compiled = jax.jit(batch).lower(*placed).compile()
    assert not re.search("all-(gather|reduce|to-all)|collective", compiled.as_text())
    results = [compiled(*placed)]
    for check in (True, False):
        mapped = jax.shard_map(batch, mesh=mesh, in_specs=each, out_specs=each, check_vma=check)
        results.append(jax.jit(mapped)(a, b))
    for values, gradients in results:
        for i in range(8):
            expected = dense(a[i], b[i], order)
            assert_equal((values[i], [g[i] for g in gradients]), expected)


def test_types(strict_dtypes):
    a, b = features(9, 3, 4)
    half = jnp.asarray(a, jnp.bfloat16)
    value = affinity_distance(half, jnp.asarray(b))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, dense(half, b, 1)[0], rtol=1e-5)
    with jax.enable_x64(True):
        value = affinity_distance(jnp.asarray(a), jnp.asarray(b, jnp.float64))
        assert value.dtype == jnp.float64
        np.testing.assert_allclose(value, dense(a, b, 1)[0], rtol=1e-12)


def test_bad_arguments():
    a, b = map(jnp.asarray, features(4, 3, 2))
    with pytest.raises(ValueError, match="rows of 0 and 0 pixels"):
        affinity_distance(a[:0], b[:0])
    with pytest.raises(ValueError, match="tile=0: expected 1 or more"):
        affinity_distance(a, b, tile=0)
    unchecked = affinity_distance.__wrapped__
    with pytest.raises(ValueError, match="rows of 4 and 3 pixels"):
        unchecked(a, b[:3])
    with pytest.raises(ValueError, match="order=3: expected 1 or 2"):
        unchecked(a, b, order=3)
