import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.pooling import max_pool_with_places, max_unpool
from jaxseg.models.upsampling import (
    ConvTranspose2x2,
    SubPixelConv,
    equal_pixels,
    upsample_bilinear_2x,
)

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 5, 4)), jnp.float32)


@pytest.mark.parametrize("use_bias", [True, False])
def test_transposed_convolution_is_linens(use_bias):
    ours = ConvTranspose2x2(6, use_bias=use_bias)
    theirs = nn.ConvTranspose(6, (2, 2), strides=(2, 2), use_bias=use_bias)
    key = jax.random.key(1)
    params = ours.init(key, X)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(theirs.init(key, X)), strict=True):
        np.testing.assert_array_equal(a, b)
    params = jax.tree.map(lambda p: p + 0.1, params)  # Biases begin at 0.
    functions = [lambda p, x, m=m: jnp.sum(jnp.sin(m.apply(p, x))) for m in (ours, theirs)]
    values = [jax.value_and_grad(f, argnums=(0, 1))(params, X) for f in functions]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *values)
    np.testing.assert_allclose(ours.apply(params, X), theirs.apply(params, X), atol=1e-6)


def test_transposed_convolution_is_native_off_the_cpu():
    module = ConvTranspose2x2(6)
    params = module.init(jax.random.key(0), X)
    exported = {
        platform: jax.export.export(jax.jit(module.apply), platforms=[platform])(params, X)
        for platform in ("cpu", "cuda")
    }
    convolved = {name: "stablehlo.convolution" in e.mlir_module() for name, e in exported.items()}
    assert convolved == {"cpu": False, "cuda": True}


def test_transposed_convolution_in_bfloat16():
    module = ConvTranspose2x2(6, dtype=jnp.bfloat16)
    params = module.init(jax.random.key(0), X)
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert module.apply(params, X).dtype == jnp.bfloat16


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (5, 3)])
def test_bilinear_is_that_of_jax_image(shape):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, *shape, 3)), jnp.float32)
    size = (2, 2 * shape[0], 2 * shape[1], 3)
    np.testing.assert_allclose(
        upsample_bilinear_2x(x), jax.image.resize(x, size, "bilinear"), atol=1e-6
    )


def test_sub_pixel_convolution_begins_with_equal_pixels():
    module = SubPixelConv(2, factor=3, dtype=jnp.bfloat16)
    params = module.init(jax.random.key(0), X)
    assert params["params"]["conv"]["kernel"].shape == (3, 3, 4, 18)
    assert module.apply(params, X).dtype == jnp.bfloat16
    exact = SubPixelConv(2, factor=3)
    y = np.asarray(exact.apply(params, X))
    assert y.shape == (2, 9, 15, 2)
    one = nn.Conv(2, (3, 3)).init(jax.random.key(0), X)
    one = {"params": {**one["params"], "kernel": params["params"]["conv"]["kernel"][..., ::9]}}
    expected = np.repeat(np.repeat(nn.Conv(2, (3, 3)).apply(one, X), 3, axis=1), 3, axis=2)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    # A pixel's own kernel moves that pixel alone: row 1, column 2 of channel 1.
    kernel = params["params"]["conv"]["kernel"].at[..., 9 + 3 + 2].add(1)
    moved = exact.apply({"params": {"conv": {**params["params"]["conv"], "kernel": kernel}}}, X) - y
    assert np.all(np.any(np.abs(moved[:, 1::3, 2::3, 1]) > 0.1, axis=(1, 2)))
    rest = np.asarray(moved).copy()
    rest[:, 1::3, 2::3, 1] = 0
    np.testing.assert_allclose(rest, 0, atol=1e-6)


def test_equal_pixels_begin_as_a_convolution_of_one_pixel():
    up = ConvTranspose2x2(5, kernel_init=equal_pixels(nn.initializers.he_normal()))
    x = jnp.asarray(np.random.default_rng(0).random((2, 3, 4, 6), np.float32))
    variables = up.init(jax.random.key(0), x)
    kernel = np.asarray(variables["params"]["kernel"])
    assert kernel.shape == (2, 2, 6, 5)
    expected = np.repeat(np.repeat(x @ kernel[0, 0], 2, axis=1), 2, axis=2)
    np.testing.assert_allclose(up.apply(variables, x), expected, atol=1e-5)
    # As wide as that of the one pixel, whose every output has six terms.
    many = equal_pixels(nn.initializers.he_normal())(jax.random.key(1), (2, 2, 400, 50))
    assert float(jnp.std(many)) == pytest.approx((2 / 400) ** 0.5, rel=0.05)


def test_max_unpooling_is_torchs():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(3).normal(size=(2, 4, 6, 3)).astype(np.float32)
    pooled = max_pool_with_places(jnp.asarray(x))
    nchw = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    values, indices = torch.nn.functional.max_pool2d(nchw, 2, return_indices=True)
    back = torch.nn.functional.max_unpool2d(values * 3, indices, 2)
    np.testing.assert_array_equal(pooled.values, values.permute(0, 2, 3, 1))
    found = max_unpool(pooled.values * 3, pooled.places)
    np.testing.assert_array_equal(found, back.permute(0, 2, 3, 1))
