import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.color import rgb2lab

from jaxseg.ops.color import at_least_float32, rgb_to_lab, to_float

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@pytest.fixture(scope="module")
def colors():
    cube = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    corners = np.array(np.meshgrid(*[[0, 10, 11, 255]] * 3), np.uint8).reshape(3, -1).T
    cube[0, : len(corners)] = corners
    return cube


@pytest.mark.parametrize(
    "wrap", [lambda f: f, jax.jit, lambda f: lambda x: jax.vmap(f)(x[None])[0]]
)
def test_lab_is_that_of_scikit_image(colors, wrap):
    lab = wrap(rgb_to_lab)(to_float(jnp.asarray(colors)))
    assert lab.dtype == jnp.float32
    np.testing.assert_allclose(lab, rgb2lab(colors), atol=1e-3)


def test_lab_in_float64(colors, x64):
    lab = rgb_to_lab(jnp.asarray(colors / 255.0))
    assert lab.dtype == jnp.float64
    np.testing.assert_allclose(lab, rgb2lab(colors), atol=1e-9)


def test_lab_gradient_is_that_of_differences(colors, x64):
    # Away from the two joints of the curves, where the one-sided slopes differ a little.
    image = jnp.asarray(colors[1:3, :4] / 255.0)
    jax.test_util.check_grads(jax.jit(rgb_to_lab), (image,), order=1, modes=["rev"])


def test_lab_gradient_is_finite_everywhere(colors):
    image = to_float(jnp.asarray(colors))
    for x in (image, jnp.zeros_like(image), jnp.ones_like(image)):
        gradient = jax.jit(jax.grad(lambda x: rgb_to_lab(x).sum()))(x)
        assert jnp.isfinite(gradient).all()
    assert (jax.grad(lambda x: rgb_to_lab(x)[..., 0].sum())(jnp.zeros((1, 1, 3))) > 0).all()


def test_to_float():
    image = jnp.array([[[0, 51, 255]]], jnp.uint8)
    np.testing.assert_allclose(to_float(image), [[[0, 0.2, 1]]], rtol=1e-6)
    assert to_float(image).dtype == jnp.float32
    half = jnp.ones((1, 1, 3), jnp.bfloat16)
    assert to_float(half) is half
    assert at_least_float32(half).dtype == rgb_to_lab(half).dtype == jnp.float32
    with pytest.raises(ValueError, match="int32"):
        to_float(jnp.zeros((1, 1, 3), jnp.int32))
