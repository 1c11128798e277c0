import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from jaxseg.ops.filters import sobel

pytestmark = pytest.mark.usefixtures("strict_dtypes")
filtered = jax.jit(sobel)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.sampled_from([(6, 9, 1), (5, 4, 3), (1, 3, 1)]))
def test_equals_scipys_with_its_sign_turned(seed, shape):
    image = np.random.default_rng(seed).random(shape, np.float32)
    expected = [
        -ndimage.sobel(channel.astype(np.float64), axis, mode="constant")
        for axis in (1, 0)
        for channel in np.moveaxis(image, -1, 0)
    ]
    np.testing.assert_allclose(filtered(image), np.stack(expected, -1), atol=2e-6)


def test_equals_the_correlation_with_iics_kernels():
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).random((7, 8), np.float32)
    dx = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], np.float32)
    kernels = torch.tensor(np.stack([dx, dx.T])[:, None])
    expected = torch.nn.functional.conv2d(torch.tensor(image)[None, None], kernels, padding=1)
    got = filtered(image[..., None])
    np.testing.assert_allclose(got, expected[0].permute(1, 2, 0).numpy(), atol=2e-6)


def test_steps_of_brightness_have_a_sign_and_narrow_floats_are_widened():
    image = np.zeros((5, 6, 1), np.float16)
    image[:, 3:] = 1
    got = np.asarray(filtered(image))
    assert got.dtype == np.float32
    # Brighter at the right is negative; beyond the border is dark.
    np.testing.assert_array_equal(got[2, :, 0], [0, 0, -4, -4, 0, 4])
    np.testing.assert_array_equal(got[:, 1, 1], 0)
    turned = filtered(jnp.swapaxes(jnp.asarray(image), 0, 1))
    np.testing.assert_array_equal(turned[..., 1].T, got[..., 0])
