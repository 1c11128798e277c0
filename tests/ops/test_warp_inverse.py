import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops import _inverse_warp, warp

SHAPE, NODES = (48, 80), (9, 12)
invert = jax.jit(warp.invert_sampling, static_argnums=1, static_argnames="method")
mend = jax.jit(warp.make_fold_free, static_argnames=("margin", "per_region"))
METHODS = ["newton", "patches"]


def even(nodes=NODES):
    axes = (np.linspace(0, 1, n) for n in nodes)
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def swirl(angle):
    """Turns the middle, by less towards the sides."""
    u = even()
    y, x = u[..., 0] - 0.5, u[..., 1] - 0.5
    a = angle * (16 * u.prod(-1) * (1 - u).prod(-1)) ** 2
    return np.stack([0.5 + y * np.cos(a) - x * np.sin(a), 0.5 + y * np.sin(a) + x * np.cos(a)], -1)


def noise(size, seed=0):
    u = even()
    return u + size * np.random.default_rng(seed).standard_normal(u.shape)


def boundaries(smoothness):
    labels = np.zeros(SHAPE, np.int32)
    labels[5:15, 50:70] = labels[30:34, 8:12] = 1
    return jax.jit(warp.sampling_targets, static_argnums=1)(
        jnp.asarray(labels), NODES, smoothness=smoothness
    )


GRIDS = {
    "uniform": even(),
    "boundaries": boundaries(1.0),
    "sharp boundaries": mend(boundaries(0.1), margin=0.02),
    "powers": np.stack([even()[..., 0] ** 3, even()[..., 1] ** 0.4], -1),
    "swirl": swirl(1.2),
    "noise, mended": mend(warp.project_covering(jnp.asarray(noise(0.3), jnp.float32)), margin=1e-3),
    "one thin column": np.stack(
        [even()[..., 0], np.tile(np.append(np.arange(11) * 1e-3, 1.0), (9, 1))], -1
    ),
}
GRIDS = {name: np.asarray(x, np.float32) for name, x in GRIDS.items()}


def forward(coords, inverse):
    """The piecewise bilinear map at the inverse's coordinates, in pixels, in float64."""
    h, w, _ = coords.shape
    place = np.asarray(inverse, np.float64) * [h - 1, w - 1]
    row, col = (np.clip(np.floor(place[..., k]).astype(int), 0, n - 2) for k, n in ((0, h), (1, w)))
    s, t = (place - np.stack([row, col], -1))[..., None, :].transpose(3, 0, 1, 2)
    a, b, c, d = (coords[row + k, col + m].astype(np.float64) for k in (0, 1) for m in (0, 1))
    return ((1 - s) * ((1 - t) * a + t * b) + s * ((1 - t) * c + t * d)) * [
        SHAPE[0] - 1,
        SHAPE[1] - 1,
    ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", GRIDS)
def test_every_pixel_is_found(name, method):
    coords = GRIDS[name]
    assert warp.fold_fraction(jnp.asarray(coords)) == 0
    inverse = invert(jnp.asarray(coords), SHAPE, method=method)
    assert inverse.unconverged == 0
    pixels = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    missed = np.linalg.norm(forward(coords, inverse.coords) - pixels, axis=-1)
    assert missed.max() < 1e-3
    np.testing.assert_allclose(inverse.residual, missed, atol=1e-3)
    assert np.min(inverse.coords) >= 0 and np.max(inverse.coords) <= 1


def test_coarse_to_fine_changes_nothing(monkeypatch):
    coords = [jnp.asarray(GRIDS[name]) for name in ("powers", "sharp boundaries")]
    expected = [invert(x, SHAPE).coords for x in coords]
    monkeypatch.setattr(_inverse_warp, "_SMALL", 0)
    monkeypatch.setattr(_inverse_warp, "_CHUNK", 7 * SHAPE[1])  # 48 rows are no multiple of 7
    fresh = jax.jit(lambda x: warp.invert_sampling(x, SHAPE))
    for x, wanted in zip(coords, expected, strict=True):
        inverse = fresh(x)
        assert inverse.unconverged == 0
        np.testing.assert_allclose(inverse.coords, wanted, atol=1e-4)


@pytest.mark.parametrize("name", ["boundaries", "swirl", "noise, mended"])
def test_both_ways_agree(name):
    newton, patches = (invert(jnp.asarray(GRIDS[name]), SHAPE, method=m).coords for m in METHODS)
    np.testing.assert_allclose(newton, patches, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_uniform_grid_is_its_own_inverse(method):
    inverse = invert(jnp.asarray(GRIDS["uniform"]), SHAPE, method=method)
    np.testing.assert_allclose(inverse.coords, warp.uniform_sampling(SHAPE), atol=1e-6)


def test_nodes_of_a_resized_tensor_lie_on_its_patches():
    # 8 steps into 16: the finer cells do not straddle, so both grids are the same map.
    coarse = jnp.asarray(GRIDS["swirl"])
    fine = jax.jit(warp.resize_sampling, static_argnums=1)(coarse, (17, 23))
    by_patches = invert(coarse, SHAPE, method="patches").coords
    np.testing.assert_allclose(invert(fine, SHAPE).coords, by_patches, atol=2e-4)


def test_pixels_of_a_folded_grid_are_found_or_reported():
    coords = warp.project_covering(jnp.asarray(noise(0.08), jnp.float32))
    assert warp.fold_fraction(coords) > 0
    for method in METHODS:
        inverse = invert(coords, SHAPE, method=method)
        pixels = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
        missed = np.linalg.norm(forward(np.asarray(coords), inverse.coords) - pixels, axis=-1)
        np.testing.assert_allclose(inverse.residual, missed, atol=1e-3)
        assert 0 < inverse.unconverged < 0.6 * missed.size
        assert inverse.unconverged == np.sum(np.asarray(inverse.residual) > 0.01)


def test_what_the_grid_does_not_cover_is_reported():
    inverse = invert(jnp.asarray(0.5 * GRIDS["uniform"]), SHAPE)
    pixels = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    outside = np.any(pixels > (np.array(SHAPE) - 1) / 2, axis=-1)
    np.testing.assert_array_equal(np.asarray(inverse.residual) > 0.01, outside)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["boundaries", "swirl"])
def test_gradients_are_those_of_the_implicit_function(name, method, x64):
    rng = np.random.default_rng(0)
    shape = (13, 17)  # pixels that lie on no line of the grid but at the sides
    coords = np.asarray(GRIDS[name], np.float64)
    weights = rng.standard_normal((*shape, 2))
    weights[[0, -1]], weights[:, [0, -1]] = 0, 0
    direction = rng.standard_normal(coords.shape)
    direction[[0, -1], :, 0] = direction[:, [0, -1], 1] = 0

    @jax.jit
    @jax.value_and_grad
    def functional(coords):
        return jnp.sum(weights * warp.invert_sampling(coords, shape, method=method).coords)

    slope = np.sum(np.asarray(functional(coords)[1]) * direction)
    up, down = (functional(coords + s * 1e-6 * direction)[0] for s in (1, -1))
    np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=1e-5)


def test_pixels_that_are_not_found_have_no_gradient():
    coords = jnp.asarray(0.5 * GRIDS["uniform"])
    inverse, tangents = jax.jit(
        lambda x: jax.jvp(lambda y: warp.invert_sampling(y, SHAPE), (x,), (x,))
    )(coords)
    moved = np.any(np.asarray(tangents.coords) != 0, axis=-1)
    assert moved.any() and not moved[np.asarray(inverse.residual) > 0.01].any()
    assert np.all(np.asarray(tangents.residual) == 0)


def slow_folds(coords):
    """Cells in which the determinant is not positive somewhere on a fine lattice."""
    folded = 0
    lattice = np.linspace(0, 1, 21)
    s, t = np.meshgrid(lattice, lattice, indexing="ij")
    for i, j in np.ndindex(coords.shape[0] - 1, coords.shape[1] - 1):
        a, b, c, d = (coords[i + k, j + m].astype(np.float64) for k in (0, 1) for m in (0, 1))
        down = (1 - t)[..., None] * (c - a) + t[..., None] * (d - b)
        across = (1 - s)[..., None] * (b - a) + s[..., None] * (d - c)
        folded += np.any(down[..., 0] * across[..., 1] - down[..., 1] * across[..., 0] <= 0)
    return folded


@pytest.mark.parametrize("size", [0.01, 0.04, 0.1])
def test_fold_fraction_and_its_mending(size):
    for seed in range(3):
        coords = warp.project_covering(jnp.asarray(noise(size, seed), jnp.float32))
        count = slow_folds(np.asarray(coords))
        np.testing.assert_allclose(warp.fold_fraction(coords), count / 88, rtol=1e-6)
        shifts = []
        for per_region in (False, True):
            mended = mend(coords, per_region=per_region)
            assert slow_folds(np.asarray(mended)) == 0 and warp.fold_fraction(mended) == 0
            np.testing.assert_array_equal(warp.project_covering(mended), mended)
            shifts.append(np.abs(np.asarray(mended) - even()).mean())
        assert shifts[1] >= shifts[0] - 1e-6
        if not count:
            np.testing.assert_allclose(mended, coords)


def test_the_blend_is_the_largest():
    coords = noise(0.1).astype(np.float32)
    mended = np.asarray(mend(jnp.asarray(coords), margin=1e-3), np.float64)
    shift = coords - even()
    blends = (mended - even())[np.abs(shift) > 0.05] / shift[np.abs(shift) > 0.05]
    blend = blends.mean()
    np.testing.assert_allclose(blends, blend, rtol=1e-4)
    assert slow_folds(even() + blend * shift) == 0
    assert slow_folds(even() + (1.01 * blend + 2e-3) * shift) > 0


def test_one_fold_leaves_the_rest_of_the_grid():
    coords = np.array(swirl(0.6), np.float32)
    coords[1, 1] = 0.5
    everywhere, region = (
        np.asarray(mend(jnp.asarray(coords), per_region=r)) for r in (False, True)
    )
    far = np.s_[4:, 5:]
    kept = np.abs(region - even())[far].sum() / np.abs(coords - even())[far].sum()
    lost = np.abs(everywhere - even())[far].sum() / np.abs(coords - even())[far].sum()
    assert slow_folds(region) == 0
    assert lost < 0.5 and kept > 1.5 * lost


def test_a_grid_without_folds_stays_as_it_is():
    for name in ("uniform", "boundaries", "swirl"):
        for per_region in (False, True):
            mended = mend(jnp.asarray(GRIDS[name]), per_region=per_region)
            np.testing.assert_array_equal(mended, GRIDS[name])


def test_boundaries_at_the_published_smoothness_do_not_fold():
    rng = np.random.default_rng(0)
    targets = jax.jit(warp.sampling_targets, static_argnums=1)
    for _ in range(5):
        labels = np.zeros((64, 64), np.int32)
        for _ in range(4):
            y, x = rng.integers(0, 56, 2)
            labels[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = rng.integers(1, 4)
        assert warp.fold_fraction(targets(jnp.asarray(labels), (8, 8))) == 0


def test_wrong_arguments_are_refused():
    coords = jnp.asarray(GRIDS["uniform"])
    with pytest.raises(ValueError, match="method='raster'"):
        warp.invert_sampling.__wrapped__(coords, SHAPE, method="raster")
    with pytest.raises(ValueError, match="at least 2"):
        warp.invert_sampling(coords, (1, 5))
    with pytest.raises(ValueError, match="2x1 nodes"):
        warp.invert_sampling(coords[:2, :1], SHAPE)
    for margin in (0, 1):
        with pytest.raises(ValueError, match="margin"):
            warp.make_fold_free.__wrapped__(coords, margin=margin)
