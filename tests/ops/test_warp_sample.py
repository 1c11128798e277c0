import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from jaxseg.ops import warp

RNG = np.random.default_rng(0)
sample = jax.jit(warp.sample, static_argnames=("order", "antialias"))
IMAGE = RNG.random((9, 12, 3), np.float32)
COORDS = RNG.random((5, 4, 2), np.float32)
COORDS[0, 0], COORDS[0, 1], COORDS[-1, -1] = (0, 0), (0.5, 1), (1, 1)
PIXELS = np.moveaxis(COORDS * [8, 11], -1, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bilinear_equals_scipy(dtype, x64):
    got = sample(jnp.asarray(IMAGE, dtype), jnp.asarray(COORDS, dtype))
    assert got.dtype == dtype
    wanted = [map_coordinates(IMAGE[..., k], PIXELS, order=1) for k in range(3)]
    np.testing.assert_allclose(got, np.stack(wanted, -1), atol=3e-6)
    grey = sample(jnp.asarray(IMAGE[..., 0], dtype), jnp.asarray(COORDS, dtype))
    np.testing.assert_allclose(grey, got[..., 0], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float32, bool])
def test_nearest_keeps_values_and_type(dtype):
    image = (RNG.integers(0, 2, (9, 12)) + 3 * (dtype is not bool)).astype(dtype)
    got = sample(jnp.asarray(image), jnp.asarray(COORDS), order=0)
    assert got.dtype == dtype
    rows, cols = np.rint(PIXELS.astype(np.float32)).astype(int)
    np.testing.assert_array_equal(got, image[rows, cols])


def test_nearest_of_labels_keeps_ignored_ones():
    labels = np.full((4, 4), -1, np.int32)
    np.testing.assert_array_equal(
        sample(jnp.asarray(labels), jnp.asarray(COORDS), order=0), np.full((5, 4), -1)
    )


def test_outside_is_clipped():
    coords = jnp.asarray([[[-0.3, 0.0], [1.7, 2.0]]], jnp.float32)
    for order in (0, 1):
        got = sample(jnp.asarray(IMAGE), coords, order=order)
        np.testing.assert_array_equal(got, [[IMAGE[0, 0], IMAGE[-1, -1]]])


def test_a_uniform_grid_of_the_image_s_size_is_the_image():
    coords = jnp.asarray(warp.uniform_sampling((9, 12)))
    for options in ({"order": 0}, {}, {"antialias": True}):
        got = sample(jnp.asarray(IMAGE), coords, **options)
        np.testing.assert_allclose(got, IMAGE, atol=1e-5)


@pytest.mark.parametrize("spacing", [2, 4])
def test_antialiasing_averages_over_the_spacing(spacing):
    # Nodes 2^k pixels apart read level k, whose values are means of 2^k x 2^k pixels.
    nodes = 8 // spacing + 1
    image = RNG.random((9, 9, 1), np.float32)
    got = np.asarray(
        sample(
            jnp.asarray(image), jnp.asarray(warp.uniform_sampling((nodes, nodes))), antialias=True
        )
    )
    padded = np.pad(image[..., 0], (0, -9 % spacing), "edge")
    blocks = padded.reshape(len(padded) // spacing, spacing, -1, spacing).mean((1, 3))
    place = (np.arange(nodes) * spacing + 0.5) / spacing - 0.5
    place = np.stack(np.meshgrid(place, place, indexing="ij")).clip(0, len(blocks) - 1)
    wanted = map_coordinates(blocks, place, order=1)
    if spacing < 4:  # at 4 the padding of two levels in turn counts other pixels twice
        np.testing.assert_allclose(got[..., 0], wanted, atol=1e-5)
    else:
        np.testing.assert_allclose(got[:2, :2, 0], wanted[:2, :2], atol=1e-5)


def test_antialiasing_removes_what_is_finer_than_the_grid():
    stripes = np.tile(np.float32([0, 1]), 32)[None].repeat(64, 0)[..., None]
    coords = jnp.asarray(warp.uniform_sampling((8, 8)))
    plain, smooth = (sample(jnp.asarray(stripes), coords, antialias=a) for a in (False, True))
    assert np.ptp(plain) == 1
    np.testing.assert_allclose(smooth, 0.5, atol=1e-6)


def test_the_filter_follows_the_local_spacing():
    stripes = np.tile(np.float32([0, 1]), 64)[None].repeat(16, 0)[..., None]
    # Dense on the left: one pixel apart; sparse on the right.
    cols = np.concatenate([np.arange(16) / 127, np.linspace(0.3, 1, 5)])
    coords = np.stack(np.meshgrid(np.arange(16) / 15, cols, indexing="ij"), -1).astype(np.float32)
    got = np.asarray(sample(jnp.asarray(stripes), jnp.asarray(coords), antialias=True))
    np.testing.assert_allclose(
        got[:, :15, 0], np.tile([0, 1], 8)[None, :15].repeat(16, 0), atol=1e-3
    )
    np.testing.assert_allclose(got[:, 17:, 0], 0.5, atol=0.02)


@pytest.mark.parametrize("antialias", [False, True])
def test_coinciding_nodes_have_finite_gradients(antialias):
    @jax.jit
    @jax.grad
    def slope(coords):
        return jnp.sum(warp.sample(jnp.asarray(IMAGE[:4, :3]), coords, antialias=antialias))

    for coords in (jnp.full((3, 3, 2), 0.3), jnp.zeros((3, 3, 2))):
        assert np.isfinite(slope(coords)).all()


@pytest.mark.parametrize(
    ("message", "image", "options"),
    [
        ("order=2", IMAGE, {"order": 2}),
        ("expected floats", IMAGE.astype(np.int32), {}),
        ("expected order=1", IMAGE, {"order": 0, "antialias": True}),
        ("at least 2", IMAGE[:1], {}),
    ],
)
def test_wrong_arguments_are_refused(message, image, options):
    with pytest.raises(ValueError, match=message):
        warp.sample.__wrapped__(jnp.asarray(image), jnp.asarray(COORDS), **options)
