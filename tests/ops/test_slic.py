import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from skimage.color import rgb2lab

from jaxseg.ops.slic import grid_shape, hard_labels, pool, slic, soft_slic, unpool

pytestmark = pytest.mark.usefixtures("strict_dtypes")
GOLDEN = pathlib.Path(__file__).parent.parent / "goldens" / "ssn_pytorch_port.npz"


@pytest.fixture(scope="module")
def golden():
    """perrying/ssn-pytorch, with plain means of the cells as initial centres."""
    with np.load(GOLDEN) as file:
        return dict(file)


def cell_map(length, cells, ties):
    # Twice the distance to each cell's centre, in units of 1 / cells.
    away = abs(2 * np.arange(length)[:, None] * cells - (2 * np.arange(cells) + 1) * length)
    if ties == "lower":
        return away.argmin(1)
    return cells - 1 - away[:, ::-1].argmin(1)


def reference(x, grid, num_iters, mask=None, ties="floor", hard=False):
    """One pixel at a time, in float64: (affinity [H, W, 9], centers, labels)."""
    (h, w, c), (rows, cols) = x.shape, grid
    cell_y, cell_x = cell_map(h, rows, ties), cell_map(w, cols, ties)
    mask = np.ones((h, w), bool) if mask is None else mask
    own = np.array(
        [[mask & (cell_y[:, None] == r) & (cell_x == k) for k in range(cols)] for r in range(rows)]
    )
    alive = own.any((2, 3))
    s = np.array([[x[o].mean(0) if o.any() else np.zeros(c) for o in row] for row in own])
    for _ in range(num_iters):
        q = np.zeros((h, w, rows, cols))
        for i, j in np.ndindex(h, w):
            r, k = cell_y[i], cell_x[j]
            near = np.zeros(grid, bool)
            near[max(r - 1, 0) : r + 2, max(k - 1, 0) : k + 2] = True
            if (near & alive).any():
                near &= alive
            else:
                near[:] = False
                near[r, k] = True
            d = np.where(near, ((x[i, j] - s) ** 2).sum(-1), np.inf)
            q[i, j] = (d == d.min()) if hard else np.exp(d.min() - d)
            q[i, j] /= q[i, j].sum()
        mass = np.einsum("hwrk,hw->rk", q, mask * 1.0)[..., None]
        total = np.einsum("hwrk,hwc,hw->rkc", q, x, mask * 1.0)
        s = np.where(mass >= 1e-3, total / np.maximum(mass, 1e-3), s if hard else 0)
    nine = np.zeros((h, w, 9))
    for i, j in np.ndindex(h, w):
        for n in range(9):
            r, k = cell_y[i] + n // 3 - 1, cell_x[j] + n % 3 - 1
            if 0 <= r < rows and 0 <= k < cols:
                nine[i, j, n] = q[i, j, r, k]
    return nine, s, q.reshape(h, w, -1).argmax(-1)


def smooth_noise(shape, seed=0, scale=2.0):
    return np.random.default_rng(seed).normal(size=shape) * scale


def test_equals_the_golden_forward(golden):
    run = jax.jit(functools.partial(soft_slic, grid=(8, 12), num_iters=10))
    affinity, centers = run(jnp.asarray(golden["features"]))
    assert (hard_labels(affinity, (8, 12)) == golden["labels"]).all()
    np.testing.assert_allclose(centers.reshape(96, -1), golden["centers"][:96], atol=2e-4)


def test_equals_the_golden_gradient(golden, x64):
    weights = jnp.asarray(golden["grad_weights"])

    def functional(features):
        centers = soft_slic(features, (4, 6), num_iters=5).centers.reshape(24, -1)
        return (centers * weights).sum(), centers

    features = jnp.asarray(golden["grad_features"], jnp.float64)
    gradient, centers = jax.jit(jax.grad(functional, has_aux=True))(features)
    np.testing.assert_allclose(centers, golden["grad_centers"], atol=1e-10)
    np.testing.assert_allclose(gradient, golden["grad"], atol=1e-10)


CASES = [
    # height, width, grid, iterations, mask, ties
    (7, 11, (2, 3), 3, None, "floor"),
    (13, 5, (4, 1), 2, None, "floor"),
    (6, 6, (1, 1), 2, None, "floor"),
    (3, 9, (3, 3), 1, None, "floor"),
    (8, 12, (2, 3), 3, None, "lower"),
    (4, 6, (4, 3), 2, None, "lower"),
    (9, 10, (3, 4), 4, "random", "floor"),
    (9, 12, (3, 4), 3, "half", "floor"),
    (9, 9, (3, 3), 2, "nothing", "floor"),
]


@pytest.mark.parametrize("h, w, grid, num_iters, kind, ties", CASES)
def test_equals_a_loop_over_pixels(h, w, grid, num_iters, kind, ties, x64):
    x = smooth_noise((h, w, 3), scale=1.0) + 50
    mask = {
        None: None,
        "random": np.random.default_rng(1).random((h, w)) < 0.5,
        "half": np.broadcast_to(np.arange(w) < 3, (h, w)),
        "nothing": np.zeros((h, w), bool),
    }[kind]
    affinity, centers, labels = reference(x, grid, num_iters, mask, ties)
    values = smooth_noise((h, w, 2), 3)

    @jax.jit
    def everything(x, values, mask):
        out = soft_slic(x, grid, num_iters=num_iters, mask=mask, ties=ties)
        labels = hard_labels(out.affinity, grid, ties=ties)
        pooled = pool(values, out.affinity, grid, ties=ties)
        soft = unpool(pooled, out.affinity, grid, ties=ties)
        return out, labels, pooled, soft, unpool(pooled, out.affinity, grid, hard=True, ties=ties)

    got, chosen, pooled, soft, hard = everything(*map(jnp.asarray, (x, values)), mask)
    np.testing.assert_allclose(got.affinity, affinity, atol=1e-10)
    np.testing.assert_allclose(got.centers, centers, atol=1e-10)
    assert chosen.dtype == jnp.int32
    assert (np.asarray(chosen) == labels).all()
    # Means and decoded means, by the dense assignment matrix.
    dense = np.zeros((h, w, grid[0] * grid[1]))
    cell_y, cell_x = cell_map(h, grid[0], ties), cell_map(w, grid[1], ties)
    for i, j, n in np.argwhere(affinity > 0):
        dense[i, j, (cell_y[i] + n // 3 - 1) * grid[1] + cell_x[j] + n % 3 - 1] = affinity[i, j, n]
    total, mass = np.einsum("hwk,hwc->kc", dense, values), dense.sum((0, 1))[:, None]
    means = np.where(mass >= 1e-3, total / np.maximum(mass, 1e-3), 0).reshape(*grid, 2)
    np.testing.assert_allclose(pooled, means, atol=1e-9)
    np.testing.assert_allclose(soft, dense @ means.reshape(-1, 2), atol=1e-9)
    np.testing.assert_allclose(hard, means.reshape(-1, 2)[labels], atol=1e-9)


@pytest.mark.parametrize("grid", [(1, 1), (1, 3), (2, 3)])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_differences(grid, masked, x64):
    x = jnp.asarray(smooth_noise((5, 8, 2), scale=0.7))
    mask = jnp.asarray(np.random.default_rng(4).random((5, 8)) < 0.6) if masked else None
    weights = jnp.asarray(smooth_noise((5, 8, 9), 5))
    values = jnp.asarray(smooth_noise((5, 8, 3), 6))

    def both(x):
        affinity, centers = soft_slic(x, grid, num_iters=3, mask=mask)
        return (affinity * weights).sum() + jnp.sin(centers).sum()

    check_grads(jax.jit(both), (x,), order=1, modes=["rev"])
    affinity = jax.jit(functools.partial(soft_slic, grid=grid, num_iters=1))(x).affinity

    def there_and_back(values, affinity):
        means = pool(values, affinity, grid, mask=mask)
        return unpool(means, affinity, grid), unpool(means, affinity, grid, hard=True)

    check_grads(jax.jit(there_and_back), (values, affinity), order=1, modes=["rev"])


def test_outside_the_mask_nothing_counts():
    x = jnp.asarray(smooth_noise((12, 12, 3)), jnp.float32)
    mask = jnp.arange(12)[:, None] + jnp.arange(12)[None] < 14
    run = jax.jit(lambda x: soft_slic(x, (3, 3), num_iters=4, mask=mask))
    clean, broken = run(x), run(jnp.where(mask[..., None], x, 1e4))
    np.testing.assert_array_equal(clean.centers, broken.centers)
    np.testing.assert_array_equal(clean.affinity[mask], broken.affinity[mask])
    np.testing.assert_allclose(clean.affinity.sum(-1), 1, rtol=1e-5)
    gradient = jax.grad(lambda x: (run(x).centers ** 2).sum())(x)
    assert (gradient[~mask] == 0).all()
    assert (gradient[mask] != 0).any()
    pooled = jax.jit(lambda x: pool(x, clean.affinity, (3, 3), mask=mask))(x)
    np.testing.assert_allclose(pooled, clean.centers, atol=1e-5)


@pytest.fixture(scope="module")
def run():
    return jax.jit(functools.partial(soft_slic, grid=(4, 6), num_iters=3))


@functools.cache
def after(num_iters):
    return jax.jit(functools.partial(soft_slic, grid=(4, 6), num_iters=num_iters))


@settings(max_examples=15, deadline=None)
@example(1925, 30.0)  # has such a superpixel
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 1.0, 30.0]))
def test_invariants(run, seed, scale):
    # In float64: at a large scale, near ties magnify what rounding leaves.
    with jax.enable_x64(True):
        grid = (4, 6)
        x = jnp.asarray(smooth_noise((24, 36, 4), seed, scale), jnp.float64)
        affinity, centers = run(x)
        labels = np.asarray(hard_labels(affinity, grid))
        # One that loses its pixels goes on from zero, as in the paper's code: then it matters.
        lost = any((after(n)(x).centers == 0).all(-1).any() for n in (1, 2))
        # Never off the grid, nor beyond the neighbouring cells.
        np.testing.assert_allclose(affinity.sum(-1), 1, rtol=1e-12)
        assert (affinity[:6, :, :3] == 0).all() and (affinity[-6:, :, 6:] == 0).all()
        assert (affinity[:, :6, ::3] == 0).all() and (affinity[:, -6:, 2::3] == 0).all()
        assert (abs(labels // 6 - np.arange(24)[:, None] // 6) <= 1).all()
        assert (abs(labels % 6 - np.arange(36)[None] // 6) <= 1).all()
        # The order of the channels, and where zero is, mean nothing.
        order = np.random.default_rng(seed).permutation(4)
        permuted = run(x[..., order])
        np.testing.assert_allclose(permuted.affinity, affinity, atol=1e-8)
        np.testing.assert_allclose(permuted.centers, centers[..., order], atol=1e-8 * scale)
        if not lost:
            moved = run(x + 8)
            np.testing.assert_allclose(moved.affinity, affinity, atol=1e-8)
            np.testing.assert_allclose(moved.centers, centers + 8, atol=1e-8 * max(scale, 1))
        # A mirrored image has mirrored superpixels.
        mirrored = run(x[:, ::-1])
        flipped = mirrored.affinity[:, ::-1].reshape(24, 36, 3, 3)[..., ::-1]
        np.testing.assert_allclose(flipped.reshape(24, 36, 9), affinity, atol=1e-8)
        np.testing.assert_allclose(mirrored.centers[:, ::-1], centers, atol=1e-8 * scale)


def test_float32_bears_large_offsets(x64):
    x = smooth_noise((24, 36, 4)) + 4096.0
    x = jnp.asarray(x.astype(np.float32))
    run = jax.jit(functools.partial(soft_slic, grid=(3, 4), num_iters=3))
    np.testing.assert_allclose(run(x).affinity, run(x.astype(jnp.float64)).affinity, atol=1e-3)
    assert run(x).affinity.dtype == jnp.float32
    assert run(x.astype(jnp.bfloat16)).centers.dtype == jnp.float32


def test_eager_vmap_and_pmap_agree():
    x = jnp.asarray(smooth_noise((2, 10, 15, 3)), jnp.float32)
    image = jax.nn.sigmoid(x)

    def everything(x, image):
        out = soft_slic(x, (2, 3), num_iters=2)
        means = pool(image, out.affinity, (2, 3))
        return (
            out,
            hard_labels(out.affinity, (2, 3)),
            unpool(means, out.affinity, (2, 3)),
            unpool(means, out.affinity, (2, 3), hard=True),
            slic(image, 6, num_iters=2),
            jax.grad(lambda x: (soft_slic(x, (2, 3), num_iters=2).centers ** 2).sum())(x),
        )

    want = everything(x[1], image[1])
    for batched in (jax.jit(jax.vmap(everything)), jax.pmap(everything)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a[1], b, atol=1e-5), batched(x, image), want
        )


def test_backward_needs_no_scatter_and_no_affinities():
    x = jnp.zeros((64, 96, 4))

    def loss(x, num_iters):
        affinity, centers = soft_slic(x, (4, 6), num_iters=num_iters)
        means = pool(x, affinity, (4, 6))
        return (unpool(means, affinity, (4, 6)) ** 2).sum() + centers.sum()

    assert "scatter" not in str(jax.make_jaxpr(jax.grad(functools.partial(loss, num_iters=4)))(x))

    def temporary(num_iters):
        run = jax.jit(jax.grad(functools.partial(loss, num_iters=num_iters)))
        return run.lower(x).compile().memory_analysis().temp_size_in_bytes

    one_affinity = 64 * 96 * 9 * 4
    assert temporary(13) - temporary(3) < one_affinity


def reference_slic_features(image, grid, compactness):
    h, w = image.shape[:2]
    y, x = np.mgrid[:h, :w]
    scale = compactness / np.sqrt(h * w / (grid[0] * grid[1]))
    return np.concatenate([rgb2lab(image), np.stack([y, x], -1) * scale], -1)


@pytest.mark.parametrize("size, k, compactness", [((15, 22), 12, 10.0), ((20, 9), 4, 40.0)])
def test_slic_equals_a_loop_over_pixels(size, k, compactness, x64):
    image = np.random.default_rng(0).random((*size, 3))
    grid = grid_shape(*size, k)
    features = reference_slic_features(image, grid, compactness)
    _, _, labels = reference(features, grid, 4, hard=True)
    run = jax.jit(slic, static_argnames=("num_superpixels", "num_iters"))
    got = run(jnp.asarray(image), k, compactness=compactness, num_iters=4)
    assert got.dtype == jnp.int32
    assert (np.asarray(got) == labels).all()


def test_slic_follows_edges_and_compactness():
    image = np.zeros((40, 40, 3), np.float32)
    image[:, 17:] = 1
    run = jax.jit(slic, static_argnums=1)
    labels = run(jnp.asarray(image), 16)
    assert not set(np.unique(labels[:, :17])) & set(np.unique(labels[:, 17:]))
    square = run(jnp.asarray(image), 16, compactness=1e4)
    cells = np.arange(40) // 10
    assert (np.asarray(square) == cells[:, None] * 4 + cells).mean() > 0.95


@given(st.integers(1, 600), st.integers(1, 600), st.data())
def test_grid_shape_is_near_and_inside(height, width, data):
    k = data.draw(st.integers(1, max(1, height * width // 4)))
    rows, cols = grid_shape(height, width, k)
    assert 1 <= rows <= height and 1 <= cols <= width
    if rows > 1 and cols > 1:
        assert rows * cols <= k
        assert rows**2 * width <= k * height < (rows + 1) ** 2 * width
        assert cols**2 * height <= k * width < (cols + 1) ** 2 * height


def test_grid_shape_of_the_authors():
    sizes = {50: (5, 8), 100: (8, 12), 200: (11, 17), 300: (14, 21), 500: (18, 27), 1000: (25, 38)}
    assert {k: grid_shape(321, 481, k) for k in sizes} == sizes
    assert grid_shape(700, 700, 49 * 49) == (49, 49)
    assert grid_shape(1, 900, 1) == (1, 30)
    assert grid_shape(1, 1, 1) == (1, 1)


def test_refuses_bad_arguments():
    x = jnp.zeros((4, 6, 3))
    for bad in (0, 7, -1):
        with pytest.raises(ValueError, match=f"num_superpixels={bad}: expected 1 to 6"):
            grid_shape(4, 6, bad)
    with pytest.raises(ValueError, match="0x6"):
        grid_shape(0, 6, 1)
    for grid in ((5, 2), (0, 2), (2, 7)):
        with pytest.raises(ValueError, match="does not fit an image of 4x6"):
            soft_slic(x, grid, num_iters=1)
    with pytest.raises(ValueError, match="num_iters=0"):
        soft_slic(x, (2, 2), num_iters=0)
    with pytest.raises(ValueError, match="num_iters=0"):
        slic(x, 4, num_iters=0)
    with pytest.raises(ValueError, match="expected \\(2, 2\\)"):
        unpool(jnp.zeros((2, 3, 1)), jnp.zeros((4, 6, 9)), (2, 2))
