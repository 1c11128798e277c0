import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.upsampling import ConvTranspose2x2, upsample_bilinear_2x

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
