import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg

from jaxseg.ops import boundary, warp

solve = jax.jit(warp.solve_sampling)
sampling_targets = jax.jit(
    warp.sampling_targets, static_argnums=1, static_argnames=("smoothness", "target_classes")
)


def targets(h, w, seed=0):
    return np.random.default_rng(seed).random((h, w, 2))


def normal_equations(h, w, axis, smoothness):
    """The energy's matrix over all nodes, from its list of edges, and what fixed nodes are at."""
    number = np.arange(h * w).reshape(h, w)
    pairs = np.concatenate(
        [
            np.stack([number[1:].ravel(), number[:-1].ravel()], 1),
            np.stack([number[:, 1:].ravel(), number[:, :-1].ravel()], 1),
        ]
    )
    count = np.arange(len(pairs))
    steps = sp.csr_matrix(
        (np.repeat([1.0, -1.0], len(pairs)), (np.tile(count, 2), pairs.T.ravel())),
        (len(pairs), h * w),
    )
    matrix = sp.identity(h * w) + smoothness * (steps.T @ steps)
    fixed = np.full((h, w), np.nan)
    first, last = (fixed[0], fixed[-1]) if axis == 0 else (fixed[:, 0], fixed[:, -1])
    first[:], last[:] = 0, 1
    return matrix.tocsr(), fixed.ravel()


def direct(b, smoothness):
    """The minimiser by SciPy's sparse LU."""
    h, w, _ = b.shape
    result = np.empty(b.shape)
    for axis in (0, 1):
        matrix, fixed = normal_equations(h, w, axis, smoothness)
        x, free = fixed.copy(), np.isnan(fixed)
        right = b[..., axis].ravel()[free] - matrix[free][:, ~free] @ x[~free]
        x[free] = scipy.sparse.linalg.spsolve(matrix[free][:, free].tocsc(), right)
        result[..., axis] = x.reshape(h, w)
    return result


@pytest.mark.parametrize("shape", [(8, 8), (5, 16), (33, 20), (64, 48)], ids=str)
@pytest.mark.parametrize("smoothness", [0.1, 1.0, 30.0, 1000.0])
def test_equals_a_sparse_direct_solve(shape, smoothness, x64):
    b = targets(*shape)
    wanted = direct(b, smoothness)
    np.testing.assert_allclose(solve(b, smoothness=smoothness), wanted, rtol=0, atol=1e-12)
    single = solve(b.astype(np.float32), smoothness=np.float32(smoothness))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 2), (2, 9), (7, 2), (3, 3)], ids=str)
def test_grids_with_few_inner_nodes(shape, x64):
    b = targets(*shape)
    if min(shape) == 2:  # no free rows or no free columns
        got = np.asarray(solve(b, smoothness=1.0))
        ends = np.arange(2.0)
        if shape[0] == 2:
            np.testing.assert_array_equal(got[..., 0], np.tile(ends[:, None], shape[1]))
        if shape[1] == 2:
            np.testing.assert_array_equal(got[..., 1], np.tile(ends, (shape[0], 1)))
    if shape[0] > 2 and shape[1] > 2:
        np.testing.assert_allclose(solve(b, smoothness=1.0), direct(b, 1.0), atol=1e-13)


@pytest.mark.parametrize("shape", [(512, 384)], ids=str)
def test_large_grids_satisfy_the_normal_equations(shape, x64):
    # Eigenvalues are 1 or more, so the error is at most the residual.
    b = targets(*shape)
    double, single = (solve(b.astype(t), smoothness=t(10)) for t in (np.float64, np.float32))
    for axis in (0, 1):
        matrix, fixed = normal_equations(*shape, axis, 10.0)
        free = np.isnan(fixed)
        x = np.asarray(double)[..., axis].ravel()
        np.testing.assert_array_equal(x[~free], fixed[~free])
        missed = (matrix @ x - b[..., axis].ravel())[free]
        assert np.linalg.norm(missed) < 1e-10 and np.abs(missed).max() < 1e-12
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-6)


@pytest.mark.parametrize("smoothness", [0.0, 1e-3, 1.0, 1e4])
def test_stays_in_the_image_without_clipping(smoothness, x64):
    b = np.round(targets(12, 9))  # all at corners
    got = np.asarray(solve(b, smoothness=smoothness))
    assert got.min() > -1e-15 and got.max() < 1 + 1e-15
    single = np.asarray(solve(b.astype(np.float32), smoothness=np.float32(smoothness)))
    assert single.min() > -1e-6 and single.max() < 1 + 1e-6


def test_limits_of_smoothness(x64):
    b = targets(9, 12)
    inner = np.asarray(solve(b, smoothness=0.0))[1:-1, 1:-1]
    np.testing.assert_allclose(inner, b[1:-1, 1:-1], atol=1e-14)
    uniform = np.stack(np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 12), indexing="ij"), -1)
    np.testing.assert_allclose(solve(b, smoothness=1e12), uniform, atol=1e-10)
    far = [np.abs(solve(b, smoothness=s) - uniform).mean() for s in (0.0, 0.1, 1.0, 10.0, 1e3)]
    assert np.all(np.diff(far) < 0)


def test_commutes_with_flips_and_transposition(x64):
    b = targets(9, 12)
    got = np.asarray(solve(b, smoothness=2.0))
    for axis in (0, 1):
        mirror = np.where(np.arange(2) == axis, -1, 1), np.where(np.arange(2) == axis, 1, 0)
        flipped = solve(np.flip(b, axis) * mirror[0] + mirror[1], smoothness=2.0)
        wanted = np.flip(got, axis) * mirror[0] + mirror[1]
        np.testing.assert_allclose(flipped, wanted, atol=1e-14)
    turned = np.asarray(solve(b.transpose(1, 0, 2)[..., ::-1], smoothness=2.0))
    np.testing.assert_allclose(turned.transpose(1, 0, 2)[..., ::-1], got, atol=1e-14)


def test_targets_are_boundaries_smoothed():
    labels = np.zeros((40, 60), np.int32)
    labels[10:20, 30:45], labels[33, 7] = 1, 2
    got = sampling_targets(jnp.asarray(labels), (8, 6), smoothness=0.5, target_classes=(1,))
    mask = jnp.asarray(labels == 1) & boundary.boundary_map(jnp.asarray(labels))
    points, _ = jax.jit(boundary.nearest_boundary, static_argnums=1)(mask, (8, 6))
    np.testing.assert_allclose(got, direct(np.asarray(points, np.float64), 0.5), atol=1e-6)
    inside = labels[tuple(np.rint(np.asarray(got) * [39, 59]).astype(int).reshape(-1, 2).T)] == 1
    even = labels[
        tuple(np.rint(warp.uniform_sampling((8, 6)) * [39, 59]).astype(int).reshape(-1, 2).T)
    ]
    assert inside.sum() > (even == 1).sum()


@pytest.mark.parametrize(
    "labels", [np.full((9, 13), 3, np.int32), np.full((9, 13), -1, np.int32)], ids=["one", "none"]
)
def test_without_a_boundary_the_grid_is_uniform(labels):
    grid = 16, 40  # larger than the image
    other = np.array(labels)
    other[4:, 2:] = 1
    for x in (labels, other):  # no class at all, and none of the target's
        got = sampling_targets(jnp.asarray(x), grid, target_classes=(7,))
        np.testing.assert_allclose(got, warp.uniform_sampling(grid), atol=1e-6)
    got = jax.jit(warp.sampling_targets, static_argnums=1)(jnp.asarray(labels), grid)
    np.testing.assert_allclose(got, warp.uniform_sampling(grid), atol=1e-6)


def test_grids_larger_than_the_image():
    labels = jnp.asarray(np.eye(5, 7, dtype=np.int32))
    got = sampling_targets(labels, (16, 40), smoothness=9.0)
    assert got.shape == (16, 40, 2) and np.all(np.diff(got[..., 0], axis=0) >= -1e-6)


def test_resized_grids_equal_interpolation_per_node():
    coords = targets(5, 4).astype(np.float32)
    got = np.asarray(warp.resize_sampling(jnp.asarray(coords), (13, 6)))
    for i, j in np.ndindex(13, 6):
        y, x = i * 4 / 12, j * 3 / 5
        row, col = min(int(y), 3), min(int(x), 2)
        s, t = y - row, x - col
        a, b, c, d = (coords[row + k, col + m] for k in (0, 1) for m in (0, 1))
        wanted = (1 - s) * ((1 - t) * a + t * b) + s * ((1 - t) * c + t * d)
        np.testing.assert_allclose(got[i, j], wanted, atol=1e-6)
    same = warp.resize_sampling(jnp.asarray(coords), (5, 4))
    np.testing.assert_allclose(same, coords, atol=1e-6)


def test_covering_is_the_nearest_that_covers():
    coords = 1.4 * targets(6, 5).astype(np.float32) - 0.2
    got = np.asarray(warp.project_covering(jnp.asarray(coords)))
    wanted = np.clip(coords, 0, 1)
    wanted[0, :, 0], wanted[-1, :, 0], wanted[:, 0, 1], wanted[:, -1, 1] = 0, 1, 0, 1
    np.testing.assert_array_equal(got, wanted)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"smoothness=-1\.0"):
        warp.solve_sampling(jnp.zeros((3, 3, 2)), smoothness=-1.0)
    for function in (warp.project_covering, warp.fold_fraction, warp.make_fold_free):
        with pytest.raises(ValueError, match="1x3 nodes"):
            function(jnp.zeros((1, 3, 2)))
    with pytest.raises(ValueError, match="each at least 2"):
        warp.resize_sampling(jnp.zeros((3, 3, 2)), (3, 1))
    with pytest.raises(ValueError, match="each at least 2"):
        warp.sampling_targets(jnp.zeros((1, 5), jnp.int32), (3, 3))
