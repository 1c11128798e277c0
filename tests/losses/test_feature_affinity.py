import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses

B, H, W = 3, 5, 7
LOSS = {k: jax.jit(functools.partial(losses.feature_affinity, order=k)) for k in (1, 2)}


def maps(ca, cb, dtype=np.float32, seed=0):
    """Features behind a ReLU: some are 0, as vectors."""
    rng = np.random.default_rng(seed)
    a, b = (3 * np.maximum(rng.normal(size=(B, H, W, c)), 0) for c in (ca, cb))
    a[0, 1, 2] = b[1, 0, 3] = a[2, 2] = b[2, 2, :4] = 0
    return a.astype(dtype), b.astype(dtype)


def reference(a, b, order):
    """Value of each example and its gradients in float64, pixel by pixel."""
    values, gradients = [], (np.zeros(a.shape), np.zeros(b.shape))
    for example in range(len(a)):
        raw = [np.asarray(x[example], np.float64).reshape(H * W, -1) for x in (a, b)]
        size = [np.linalg.norm(x, axis=1, keepdims=True) for x in raw]
        unit = [
            np.divide(x, s, out=np.zeros_like(x), where=s > 0)
            for x, s in zip(raw, size, strict=True)
        ]
        d = unit[0] @ unit[0].T - unit[1] @ unit[1].T
        values.append(np.mean(np.abs(d) ** order))
        slope = np.sign(d) if order == 1 else 2 * d
        for k, sign in enumerate((1, -1)):
            for i in range(H * W):
                if size[k][i] == 0:
                    continue
                g, u = 2 * sign * slope[i] @ unit[k] / d.size, unit[k][i]
                g = (g - u * (u @ g)) / size[k][i]  # what turns the vector
                gradients[k][example].reshape(H * W, -1)[i] = g
    return np.array(values), gradients


def run(a, b, order):
    def total(a, b):
        value = losses.feature_affinity(a, b, order=order)
        return jnp.sum(value), value

    (_, value), gradients = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(a, b)
    return value, gradients


def assert_equal(got, expected, tolerance):
    np.testing.assert_allclose(got[0], expected[0], rtol=tolerance)
    for x, y in zip(got[1], expected[1], strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * np.abs(y).max())


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("widths", [(4, 4), (3, 6), (6, 3)])
def test_value_and_gradient_equal_a_loop(strict_dtypes, order, widths):
    a, b = maps(*widths)
    got = run(a, b, order)
    assert got[0].shape == (B,) and got[0].dtype == jnp.float32
    assert_equal(got, reference(a, b, order), 1e-5)
    for x, gradient in zip((a, b), got[1], strict=True):
        assert np.all(np.asarray(gradient)[np.all(x == 0, axis=-1)] == 0)


@pytest.mark.parametrize("order", [1, 2])
def test_float64_is_kept(x64, order):
    a, b = maps(3, 4, np.float64)
    got = run(a, b, order)
    assert got[0].dtype == jnp.float64
    assert_equal(got, reference(a, b, order), 1e-12)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("distance", [1e-2, 1e-4])
@pytest.mark.parametrize("extra", [0, 2])
def test_near_features_lose_no_digits(order, distance, extra):
    """In float32, where the normalised features alone are rounded by 1e-3 of their difference."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(B, H, W, 4)).astype(np.float32)
    b = np.concatenate([a, np.zeros((B, H, W, extra))], axis=-1)
    b = (b + distance * rng.normal(size=b.shape)).astype(np.float32)
    assert_equal(run(a, b, order), reference(a, b, order), 1e-5)


def test_lengths_do_not_matter():
    a, b = maps(3, 4)
    lengths = np.random.default_rng(1).uniform(1e-4, 1e4, (B, H, W, 1)).astype(np.float32)
    for order in (1, 2):
        value = LOSS[order](a, b)
        assert np.all((value > 0.01) & (value < 2**order))
        np.testing.assert_allclose(LOSS[order](a * lengths, b), value, rtol=1e-5)


def test_maps_that_tell_the_same_cost_nothing():
    a, _ = maps(4, 4)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0].astype(np.float32)
    for order in (1, 2):
        value, gradients = run(a, a, order)
        assert np.all(value == 0) and all(np.all(g == 0) for g in gradients)
        turned = LOSS[order](a, 5 * a @ rotation)
        assert np.all(np.abs(turned) < 1e-6)


def test_opposite_features_are_farthest():
    """One map tells two halves apart, the other does not: half of the pairs differ by 2."""
    a = np.ones((1, 4, 4, 2), np.float32)
    b = a.copy()
    b[:, :2] *= -1
    np.testing.assert_allclose(LOSS[1](a, b), 1.0, rtol=1e-6)
    np.testing.assert_allclose(LOSS[2](a, b), 2.0, rtol=1e-6)


def test_small_features_have_finite_gradients():
    a, b = maps(3, 4)
    for size in (1e-5, 1e-12, 1e-25, 1e-38):
        value, gradients = run(a * np.float32(size), b, 1)
        assert np.all(np.isfinite(value))
        assert all(np.all(np.isfinite(g)) for g in gradients)


def test_half_precision_is_widened():
    a, b = (jnp.asarray(x, jnp.bfloat16) for x in maps(3, 4))
    value, gradients = run(a, b, 1)
    assert value.dtype == jnp.float32 and gradients[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(value, reference(a, b, 1)[0], rtol=1e-5)


@pytest.mark.parametrize("order", [1, 2])
def test_batches_of_several_tiles(order):
    """Above four examples the tiles are smaller; both sizes leave a padded last tile here."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(5, 25, 24, c)).astype(np.float32) for c in (3, 2))
    expected = []
    for x, y in zip(a, b, strict=True):
        u, v = (z.reshape(600, -1).astype(np.float64) for z in (x, y))
        u, v = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (u, v))
        expected.append(np.mean(np.abs(u @ u.T - v @ v.T) ** order))
    np.testing.assert_allclose(LOSS[order](a, b), expected, rtol=1e-5)
    np.testing.assert_allclose(LOSS[order](a[:2], b[:2]), expected[:2], rtol=1e-5)


def test_bad_arguments():
    a, b = map(jnp.asarray, maps(3, 4))
    unchecked = losses.feature_affinity.__wrapped__
    with pytest.raises(ValueError, match=r"expected equal \[B, h, w\]"):
        unchecked(a, b[:, :4])
    with pytest.raises(ValueError, match="1 or more"):
        losses.feature_affinity(a[:, :0], b[:, :0])
