import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import LinearNDInterpolator, RegularGridInterpolator
from scipy.spatial import Delaunay

from jaxseg.ops import _unwarp, warp

SHAPE, NODES = (40, 56), (8, 9)
MODES = ["bilinear", "triangles"]
RNG = np.random.default_rng(0)
VALUES = RNG.standard_normal((*NODES, 5)).astype(np.float32)
mend = jax.jit(warp.make_fold_free, static_argnames="margin")
invert = jax.jit(warp.invert_sampling, static_argnums=1)
unwarp = jax.jit(warp.unwarp, static_argnums=2, static_argnames=("mode", "argmax"))


def bent(size, seed=0):
    coords = warp.uniform_sampling(NODES)
    coords = coords + size * np.random.default_rng(seed).standard_normal(coords.shape)
    coords = warp.project_covering(jnp.asarray(coords, jnp.float32))
    return mend(coords, margin=0.05)


def in_pixels(coords):
    return np.asarray(coords, np.float64) * (np.array(SHAPE) - 1)


def pixels():
    return np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [0.01, 0.05, 0.3])
def test_affine_functions_are_reproduced(mode, size):
    coords = bent(size)
    slopes, offset = RNG.standard_normal((2, 5)), RNG.standard_normal(5)
    values = jnp.asarray(np.asarray(coords) @ slopes + offset, jnp.float32)
    got = unwarp(values, coords, SHAPE, mode=mode)
    wanted = pixels() / (np.array(SHAPE) - 1) @ slopes + offset
    np.testing.assert_allclose(got, wanted, atol=2e-5)


@pytest.mark.parametrize("size", [0.005, 0.03])
def test_triangles_equal_delaunay_where_the_meshes_agree(size):
    coords = bent(size, seed=1)
    triangulation = Delaunay(in_pixels(coords).reshape(-1, 2))
    wanted = LinearNDInterpolator(triangulation, VALUES.reshape(-1, 5))(pixels())
    got = np.asarray(unwarp(jnp.asarray(VALUES), coords, SHAPE, mode="triangles"))
    # A triangle of Delaunay's whose nodes are within one cell.
    node = np.stack(np.divmod(triangulation.simplices, NODES[1]), -1)
    within = np.all(np.ptp(node, axis=1) == 1, axis=-1)
    simplex = triangulation.find_simplex(pixels())
    same = within[simplex] & (simplex >= 0)
    assert same.mean() > 0.85
    np.testing.assert_allclose(got[same], wanted[same], atol=1e-5)


def test_bilinear_on_a_uniform_grid_equals_scipy():
    axes = [np.linspace(0, s - 1, n) for s, n in zip(SHAPE, NODES, strict=True)]
    wanted = RegularGridInterpolator(axes, VALUES)(pixels())
    got = unwarp(jnp.asarray(VALUES), jnp.asarray(warp.uniform_sampling(NODES)), SHAPE)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_nodes_on_pixels_keep_their_values(mode):
    rows = np.array([0, 3, 5, 6, 14, 22, 30, 39]) / 39
    cols = np.array([0, 2, 9, 11, 12, 30, 41, 48, 55]) / 55
    coords = jnp.asarray(np.stack(np.meshgrid(rows, cols, indexing="ij"), -1), jnp.float32)
    got = np.asarray(unwarp(jnp.asarray(VALUES), coords, SHAPE, mode=mode))
    at = np.rint(in_pixels(coords)).astype(int)
    np.testing.assert_allclose(got[at[..., 0], at[..., 1]], VALUES, atol=1e-4)
    assert got.min() >= VALUES.min() - 1e-5 and got.max() <= VALUES.max() + 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_chunks_and_argmax_change_nothing(mode, monkeypatch):
    coords, values = bent(0.04), jnp.asarray(VALUES)
    whole = unwarp(values, coords, SHAPE, mode=mode)
    inverse = invert(coords, SHAPE).coords
    monkeypatch.setattr(_unwarp, "_rows_of_chunk", lambda *_: 7)  # 40 is no multiple of it
    fresh = jax.jit(lambda v, x, y: warp.unwarp(v, x, SHAPE, mode=mode, inverse=y))
    np.testing.assert_allclose(fresh(values, coords, inverse), whole, atol=1e-6)
    fused = jax.jit(lambda v, x, y: warp.unwarp(v, x, SHAPE, mode=mode, inverse=y, argmax=True))
    labels = fused(values, coords, inverse)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, np.argmax(whole, -1))


def test_rows_of_a_chunk(monkeypatch):
    for height in (1, 7, 40, 1021, 1024):
        for most in (1, 3, 53, 2000):
            monkeypatch.setattr(_unwarp, "_CHUNK", most * 8)
            rows = _unwarp._rows_of_chunk(height, 8)
            assert 1 <= rows <= min(most, height) and 4 * rows >= min(most, height)


def test_memory_is_that_of_a_chunk():
    shape, channels = (512, 512), 19
    output = 4 * shape[0] * shape[1] * channels
    values = jax.ShapeDtypeStruct((16, 16, channels), np.float32)
    coords = jax.ShapeDtypeStruct((16, 16, 2), np.float32)
    inverse = jax.ShapeDtypeStruct((*shape, 2), np.float32)

    def labels(values, coords, inverse):
        return warp.unwarp(values, coords, shape, argmax=True, inverse=inverse)

    compiled = jax.jit(labels).lower(values, coords, inverse).compile()
    # Two chunks of 8 MB and the coordinates; all values would take 20 MB, and four nodes' 80 MB.
    assert compiled.memory_analysis().temp_size_in_bytes < output


@pytest.mark.parametrize("mode", MODES)
def test_gradients(mode, x64):
    rng = np.random.default_rng(0)
    coords, values = np.asarray(bent(0.03), np.float64), VALUES.astype(np.float64)
    shape = (14, 19)
    weights = rng.standard_normal((*shape, 5))
    # A pixel on a side is on the line of a cell: it has no derivative there.
    weights[[0, -1]], weights[:, [0, -1]] = 0, 0
    moves = rng.standard_normal(values.shape), rng.standard_normal(coords.shape)
    moves[1][[0, -1], :, 0] = moves[1][:, [0, -1], 1] = 0

    # The weights of triangles depend on the inverse by its cell alone.
    fixed = invert(jnp.asarray(coords), shape).coords if mode == "triangles" else None

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def functional(values, coords):
        return jnp.sum(weights * warp.unwarp(values, coords, shape, mode=mode, inverse=fixed))

    slopes = functional(values, coords)[1]
    for k in range(2):
        up, down = (
            functional(values + (k == 0) * s * moves[0], coords + (k == 1) * s * moves[1])[0]
            for s in (1e-6, -1e-6)
        )
        np.testing.assert_allclose(np.sum(slopes[k] * moves[k]), (up - down) / 2e-6, rtol=1e-5)


def test_sampling_and_unwarping_a_smooth_image_nearly_returns_it():
    y, x = (pixels() / (np.array(SHAPE) - 1)).transpose(2, 0, 1)
    image = np.stack([np.sin(3 * y + x), y * x, y, x, y * y], -1).astype(np.float32)
    coords = bent(0.02)
    values = jax.jit(warp.sample)(jnp.asarray(image), coords)
    for mode in MODES:
        np.testing.assert_allclose(unwarp(values, coords, SHAPE, mode=mode), image, atol=0.1)


def test_half_precision_gives_float32():
    half = jnp.asarray(VALUES, jnp.bfloat16)
    got = jax.eval_shape(lambda v, x: warp.unwarp(v, x, SHAPE), half, bent(0.02))
    assert got.dtype == np.float32


def test_wrong_arguments_are_refused():
    coords, values = bent(0.02), jnp.asarray(VALUES)
    call = functools.partial(warp.unwarp.__wrapped__, values, coords)
    with pytest.raises(ValueError, match="mode='nearest'"):
        call(SHAPE, mode="nearest")
    with pytest.raises(ValueError, match="at least 2"):
        call((40, 1))
    with pytest.raises(ValueError, match="inverse of shape"):
        call(SHAPE, inverse=jnp.zeros((3, 4, 2)))
    with pytest.raises(ValueError, match="values of shape"):
        warp.unwarp.__wrapped__(values[1:], coords, SHAPE)
