import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from jaxseg.ops import boundary
from jaxseg.ops.warp import uniform_sampling

boundary_map = jax.jit(boundary.boundary_map, static_argnames="target_classes")
nearest_boundary = jax.jit(boundary.nearest_boundary, static_argnums=1)
LABELS = np.array(
    [
        [0, 0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1, 1],
        [0, 0, 2, 2, 1, 1],
        [0, 0, 2, -1, -1, 1],
        [3, 0, 0, -1, 1, 1],
    ],
    np.int32,
)


def slow_map(labels, target_classes):
    marked = np.zeros(labels.shape, bool)
    for y, x in np.ndindex(labels.shape):
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            there = 0 <= y + dy < labels.shape[0] and 0 <= x + dx < labels.shape[1]
            if there and labels[y + dy, x + dx] != labels[y, x]:
                marked[y, x] = labels[y, x] >= 0
    return marked if target_classes is None else marked & np.isin(labels, target_classes)


@pytest.mark.parametrize("target_classes", [None, (1,), (0, 2), (7,)])
def test_equals_a_loop_over_neighbors(target_classes):
    for labels in (LABELS, np.full(LABELS.shape, -1, np.int32), LABELS[:1], LABELS[:, 1:2]):
        got = boundary_map(jnp.asarray(labels), target_classes=target_classes)
        np.testing.assert_array_equal(got, slow_map(labels, target_classes))


def test_one_pixel_is_its_own_boundary():
    labels = np.zeros((5, 7), np.int32)
    labels[2, 3] = 4
    got = np.asarray(boundary_map(jnp.asarray(labels), target_classes=(4,)))
    np.testing.assert_array_equal(np.argwhere(got), [[2, 3]])
    points, found = nearest_boundary(jnp.asarray(got), (3, 3))
    assert found
    np.testing.assert_array_equal(points, np.broadcast_to(np.float32([0.5, 0.5]), (3, 3, 2)))


def test_unknown_targets_are_refused():
    for classes in ((), (1, -1)):
        with pytest.raises(ValueError, match="target_classes"):
            boundary.boundary_map(jnp.asarray(LABELS), target_classes=classes)


def assert_nearest(mask, grid):
    """Distances and indices of SciPy's exact transform, read at the nodes' pixels."""
    found = nearest_boundary(jnp.asarray(mask), grid)
    assert bool(found.found)
    size = np.array(mask.shape)
    got = np.asarray(found.points, np.float64) * (size - 1)
    pixels = np.rint(got).astype(np.int64)
    np.testing.assert_allclose(got, pixels, atol=1e-3)
    _, indices = distance_transform_edt(~mask, return_indices=True)
    rows, cols = (np.arange(n) * (s - 1) // (n - 1) for n, s in zip(grid, size, strict=True))
    wanted = np.moveaxis(indices[:, rows[:, None], cols], 0, -1)
    nodes = np.stack(np.meshgrid(rows, cols, indexing="ij"), -1)
    np.testing.assert_array_equal(((pixels - nodes) ** 2).sum(-1), ((wanted - nodes) ** 2).sum(-1))
    np.testing.assert_array_equal(pixels, wanted)


@pytest.mark.parametrize("density", [0.003, 0.05, 0.6])
@pytest.mark.parametrize(("shape", "grid"), [((37, 61), (8, 5)), ((64, 48), (80, 2))], ids=str)
def test_equals_scipys_distance_transform(shape, grid, density):
    rng = np.random.default_rng(int(1000 * density))
    mask = rng.random(shape) < density
    mask[rng.integers(shape[0]), rng.integers(shape[1])] = True
    assert_nearest(mask, grid)


def test_equals_scipy_on_a_large_image():
    rng = np.random.default_rng(0)
    mask = np.zeros((2710, 2710), bool)
    mask[rng.integers(900, 2710, 40), rng.integers(0, 1300, 40)] = True
    assert_nearest(mask, (8, 8))


def test_distances_up_to_the_largest_side_do_not_overflow():
    mask = np.zeros((2, boundary.MAX_SIDE), bool)
    mask[1, 0] = True
    points, _ = nearest_boundary(jnp.asarray(mask), (2, 2))
    np.testing.assert_array_equal(points, np.broadcast_to(np.float32([1, 0]), (2, 2, 2)))
    with pytest.raises(ValueError, match="32768"):
        boundary.nearest_boundary(jnp.zeros((2, boundary.MAX_SIDE + 1), bool), (2, 2))


def test_no_boundary_gives_the_uniform_grid_and_says_so():
    points, found = nearest_boundary(jnp.zeros((9, 14), bool), (4, 3))
    assert not found
    np.testing.assert_array_equal(points, uniform_sampling((4, 3)))


@pytest.mark.parametrize(("shape", "grid"), [((1, 9), (3, 3)), ((9, 1), (3, 3)), ((9, 9), (1, 3))])
def test_what_has_no_two_ends_is_refused(shape, grid):
    with pytest.raises(ValueError, match="at least 2"):
        boundary.nearest_boundary(jnp.ones(shape, bool), grid)
