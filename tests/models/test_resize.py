import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models import resize
from jaxseg.models.pooling import (
    adaptive_average_pool,
    average_pool_3x3,
    max_pool_with_places,
    max_unpool,
)
from jaxseg.models.resize import resize_bilinear, resize_nearest, sub_pixel

# Made by torch 2.13 on a CPU, NCHW.
GOLDENS = np.load(pathlib.Path(__file__).parent.parent / "goldens" / "torch_ops.npz")


def nhwc(name):
    return GOLDENS[name].transpose(0, 2, 3, 1)


@pytest.mark.parametrize("size", [(13, 21), (5, 4)])
@pytest.mark.parametrize("kind", ["align_corners", "half_pixel"])
@pytest.mark.parametrize("limit", [0, 24, 1000])
def test_bilinear_equals_torch(size, kind, limit, monkeypatch):
    monkeypatch.setattr(resize, "_MAX_SLICES", limit)
    got = resize_bilinear(jnp.asarray(nhwc("x")), size, align_corners=kind == "align_corners")
    expected = nhwc(f"resize_{kind}_{size[0]}x{size[1]}")
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_adaptive_average_pool_equals_torch():
    got = adaptive_average_pool(jnp.asarray(nhwc("x")), (3, 6))
    np.testing.assert_allclose(got, nhwc("adaptive_avg_pool_3x6"), rtol=0, atol=1e-5)


def interpolate(row, after, align_corners):
    before = len(row)
    i = np.arange(after)
    corners, centers = i * (before - 1) / max(after - 1, 1), (i + 0.5) * before / after - 0.5
    at = corners if align_corners else centers
    return np.interp(at, np.arange(before), row)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("before", "after"), [(1, 4), (4, 1), (6, 6), (6, 12), (6, 9), (12, 8), (12, 4), (9, 3), (5, 7)]
)
def test_bilinear_equals_numpy(before, after, align_corners):
    x = np.random.default_rng(before).normal(size=(2, before, 4, 3)).astype(np.float32)
    got = resize_bilinear(jnp.asarray(x), (after, 4), align_corners=align_corners)
    expected = np.apply_along_axis(interpolate, 1, x, after, align_corners)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    turned = resize_bilinear(jnp.asarray(x.swapaxes(1, 2)), (4, after), align_corners=align_corners)
    np.testing.assert_allclose(turned, expected.swapaxes(1, 2), atol=1e-5)


@pytest.mark.parametrize(("before", "after"), [(4, 8), (6, 9), (9, 3), (5, 7), (7, 5)])
def test_nearest_and_average_equal_loops(before, after):
    x = np.random.default_rng(after).normal(size=(1, before, 2, 3)).astype(np.float32)
    near, mean = (np.zeros((1, after, 2, 3)) for _ in range(2))
    for i in range(after):
        near[:, i] = x[:, int(np.floor(i * before / after))]
        first, end = int(np.floor(i * before / after)), int(np.ceil((i + 1) * before / after))
        mean[:, i] = x[:, first:end].mean(1)
    np.testing.assert_array_equal(resize_nearest(jnp.asarray(x), (after, 2)), near)
    got = adaptive_average_pool(jnp.asarray(x), (after, 2))
    np.testing.assert_allclose(got, mean, atol=1e-6)


def test_gradient_is_the_transposed_matrix():
    """Resizing is linear: <y, R x> = <Rᵀ y, x>, and no gather or scatter is in either."""
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((1, 6, 8, 2), (1, 12, 12, 2)))

    def f(x):
        return resize_bilinear(x, (12, 12), align_corners=True)

    back = jax.vjp(f, x)[1](y)[0]
    np.testing.assert_allclose(jnp.sum(y * f(x)), jnp.sum(back * x), rtol=1e-5)
    text = str(jax.make_jaxpr(lambda x, y: jax.vjp(f, x)[1](y))(x, y))
    assert "gather" not in text and "scatter" not in text


def test_bfloat16_stays():
    x = jnp.ones((1, 4, 5, 1), jnp.bfloat16)
    for y in (resize_bilinear(x, (8, 7)), adaptive_average_pool(x, (2, 3))):
        assert y.dtype == jnp.bfloat16
        np.testing.assert_array_equal(y.astype(jnp.float32), 1)


def test_bad_sizes():
    x = jnp.zeros((1, 4, 4, 6))
    for function in (resize_bilinear, resize_nearest, adaptive_average_pool):
        with pytest.raises(ValueError, match=r"size=\(0, 4\)"):
            function(x, (0, 4))
    with pytest.raises(ValueError, match="6 channels: expected a multiple of 2²"):
        sub_pixel(x, 2)


def test_sub_pixel_equals_a_loop():
    x = np.arange(2 * 3 * 2 * 18).reshape(2, 3, 2, 18).astype(np.float32)
    got = sub_pixel(jnp.asarray(x), 3)
    assert got.shape == (2, 9, 6, 2)
    for h, w, c in np.ndindex(9, 6, 2):
        np.testing.assert_array_equal(
            got[:, h, w, c], x[:, h // 3, w // 3, c * 9 + h % 3 * 3 + w % 3]
        )


@pytest.mark.parametrize("shape", [(1, 1), (4, 6), (5, 7)])
def test_average_pool_counts_the_padding(shape):
    x = np.random.default_rng(1).normal(size=(2, *shape, 3)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 2), (1, 2), (0, 0)))
    got = average_pool_3x3(jnp.asarray(x))
    assert got.shape[1:3] == tuple(-(-n // 2) for n in shape)
    for i, j in np.ndindex(*got.shape[1:3]):
        window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        np.testing.assert_allclose(got[:, i, j], window.sum((1, 2)) / 9, atol=1e-6)


def test_max_unpool_puts_maxima_back():
    x = np.random.default_rng(2).integers(0, 4, (2, 6, 9, 3)).astype(np.float32)  # With ties.
    pooled = max_pool_with_places(jnp.asarray(x), 3)
    back = max_unpool(pooled.values * 2, pooled.places, 3)
    expected, maxima = np.zeros_like(x), np.zeros((2, 2, 3, 3))
    for b, i, j, c in np.ndindex(2, 2, 3, 3):
        window = x[b, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3, c]
        row, col = np.unravel_index(window.argmax(), window.shape)
        maxima[b, i, j, c] = window.max()
        expected[b, 3 * i + row, 3 * j + col, c] = 2 * window.max()
    np.testing.assert_array_equal(pooled.values, maxima)
    np.testing.assert_array_equal(back, expected)
    gradient = jax.grad(lambda x: jnp.sum(max_pool_with_places(x, 3).values ** 2))(jnp.asarray(x))
    np.testing.assert_array_equal(gradient, expected)
