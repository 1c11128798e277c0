"""Maps that are moved: against SciPy, and what is exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxseg.ops.augment import warp_affine

pytestmark = pytest.mark.usefixtures("strict_dtypes")
H, W, C = 6, 7, 3
SAME = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
warp = jax.jit(warp_affine)


@functools.cache
def maps():
    return np.random.default_rng(0).normal(size=(H, W, C)).astype(np.float32)


def by_scipy(values, affine):
    height, width = values.shape[:2]
    rows, cols = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    col, row = np.einsum("ij,jhw->ihw", affine, np.stack([cols, rows, np.ones_like(rows)]))
    places = (row + 1) / 2 * (height - 1), (col + 1) / 2 * (width - 1)
    planes = np.moveaxis(values.astype(float), -1, 0)
    each = [ndimage.map_coordinates(p, places, order=1, mode="grid-constant") for p in planes]
    return np.stack(each, axis=-1)


@pytest.mark.parametrize("seed", range(4))
def test_any_affine_map_equals_scipy(seed):
    """With PyTorch's coordinates: (column, row) from -1 to 1."""
    affine = np.random.default_rng(seed).normal(size=(2, 3)).astype(np.float32)
    np.testing.assert_allclose(warp(maps(), affine), by_scipy(maps(), affine), atol=1e-5)


@pytest.mark.parametrize(
    ("signs", "expected"),
    [
        ((1, 1), maps()),
        ((-1, 1), maps()[:, ::-1]),
        ((1, -1), maps()[::-1]),
        ((-1, -1), maps()[::-1, ::-1]),
    ],
    ids=["same", "columns", "rows", "both"],
)
def test_flips_are_exact(signs, expected):
    affine = SAME * np.array(signs, np.float32)[:, None]
    np.testing.assert_array_equal(warp(maps(), affine), expected)


def test_a_shift_by_pixels_leaves_zeros():
    shifted = SAME.copy()
    shifted[0, 2] = 2 * 2 / (W - 1)
    expected = np.zeros_like(maps())
    expected[:, :-2] = maps()[:, 2:]
    np.testing.assert_allclose(warp(maps(), shifted), expected, atol=1e-5)
    shifted[0, 2] = 5
    assert not np.any(warp(maps(), shifted))


def test_weights_of_the_samples_add_to_one_inside():
    """A magnified middle: every sample lies inside."""
    ones = np.ones((H, W, C), np.float32)
    np.testing.assert_allclose(warp(ones, SAME * np.float32(0.6)), 1, atol=1e-6)


def test_half_precision_is_widened():
    half = jnp.asarray(maps(), jnp.bfloat16)
    moved = warp(half, SAME)
    assert moved.dtype == jnp.float32
    np.testing.assert_array_equal(moved, half.astype(jnp.float32))
