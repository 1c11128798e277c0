import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.cluster.vq import kmeans2

from jaxseg.ops.cluster import grow_instances, kmeans, mean_shift

pytestmark = pytest.mark.usefixtures("strict_dtypes")
POINTS, NUMBER = 120, 5
CENTERS = np.array([[0, 0], [4, 0], [0, 5], [6, 6], [-5, 3]], np.float32)


def blobs(seed, spread=0.3):
    """Points about five centres, the last quarter of them broken and out of the mask."""
    rng = np.random.default_rng(seed)
    own = rng.integers(0, NUMBER, POINTS)
    own[:NUMBER] = np.arange(NUMBER)
    points = (CENTERS[own] + rng.normal(0, spread, (POINTS, 2))).astype(np.float32)
    mask = np.arange(POINTS) < 3 * POINTS // 4
    points[~mask] = np.nan
    return points, mask, own


def same_partition(a, b):
    return np.array_equal(a[:, None] == a[None], b[:, None] == b[None])


run_kmeans = jax.jit(
    lambda seed, points, mask: kmeans(
        jax.random.key(seed), points, NUMBER, mask=mask, num_starts=4, num_iters=60
    )
)


@pytest.mark.parametrize("seed", range(3))
def test_kmeans_rests_where_scipy_does(seed):
    """Overlapping blobs: a fixed point of Lloyd's iterations, and as good as SciPy's best start."""
    points, mask, _ = blobs(seed, spread=1.5)
    got = jax.tree.map(np.asarray, run_kmeans(seed, points, mask))
    inside = points[mask].astype(np.float64)
    centers, labels = kmeans2(inside, got.centers.astype(np.float64), iter=1, minit="matrix")
    np.testing.assert_array_equal(got.labels[mask], labels)
    np.testing.assert_allclose(got.centers, centers, atol=1e-4)
    assert (got.labels[~mask] == -1).all() and got.valid.all()
    inertia = np.sum((inside - centers[labels]) ** 2)
    np.testing.assert_allclose(got.inertia, inertia, rtol=1e-4)
    rng = np.random.default_rng(seed)
    others = [kmeans2(inside, NUMBER, iter=60, minit="++", rng=rng) for _ in range(4)]
    least = min(np.sum((inside - c[i]) ** 2) for c, i in others)
    assert inertia < 1.1 * least


def test_kmeans_finds_what_is_apart():
    points, mask, own = blobs(7)
    got = jax.tree.map(np.asarray, run_kmeans(0, points, mask))
    assert same_partition(got.labels[mask], own[mask])
    # Far from 0 too, where squares of the coordinates have lost the digits.
    got = jax.tree.map(np.asarray, run_kmeans(0, points + np.float32(4096), mask))
    assert same_partition(got.labels[mask], own[mask])


def test_kmeans_of_too_few_points():
    equal = np.zeros((POINTS, 2), np.float32)
    got = jax.tree.map(np.asarray, run_kmeans(0, equal, np.arange(POINTS) < 3))
    assert np.isfinite(got.centers).all() and got.inertia == 0 and got.valid.sum() == 1
    got = jax.tree.map(np.asarray, run_kmeans(0, equal, np.zeros(POINTS, bool)))
    assert np.isfinite(got.centers).all() and not got.valid.any() and (got.labels == -1).all()


def grown(points, scores, mask, radius, most, min_score, min_pixels, min_new, assign):
    """`grow_instances` as it is described, with loops."""
    free, centers, seeds = mask.copy(), [], []
    for _ in range(4 * most):
        if len(centers) == most or not (free & (scores >= min_score)).any():
            break
        seed = int(np.argmax(np.where(free, scores, -np.inf)))
        center = points[mask & (np.linalg.norm(points - points[seed], axis=1) <= radius)].mean(0)
        taken = mask & (np.linalg.norm(points - center, axis=1) <= radius)
        new = (taken & free).sum()
        if new >= max(min_pixels, 1) and new >= min_new * taken.sum():
            centers.append(center)
            seeds.append(scores[seed])
        free &= ~taken
        free[seed] = False
    labels = np.full(len(points), -1)
    for i in np.flatnonzero(mask) if centers else ():
        distance = np.linalg.norm(points[i] - np.array(centers), axis=1)
        if assign == "nearest" or distance.min() <= radius:
            labels[i] = distance.argmin()
    return labels, np.array(centers).reshape(-1, 2), seeds


@functools.cache
def grow(assign):
    def one(points, scores, mask, numbers):
        return grow_instances(
            points,
            scores,
            radius=numbers[0],
            max_instances=6,
            min_score=numbers[1],
            min_pixels=numbers[2].astype(jnp.int32),
            min_new=numbers[3],
            assign=assign,
            mask=mask,
        )

    return jax.jit(jax.vmap(one))


@pytest.mark.parametrize("assign", ["nearest", "radius"])
def test_growing_is_the_loop(assign):
    """Tight blobs and loose ones, that seeds and places are too few for."""
    numbers = np.float32([[1.5, 0.3, 1, 0.5], [0.8, -1, 3, 0.6], [0.4, 0.5, 2, 0.9], [9, 2, 1, 0]])
    data = [blobs(i, spread) for i, spread in enumerate((0.3, 1.0, 2.0, 1.0))]
    points, mask, _ = (np.stack(x) for x in zip(*data, strict=True))
    scores = np.random.default_rng(0).random(mask.shape).astype(np.float32)
    got = jax.tree.map(np.asarray, grow(assign)(points, scores, mask, numbers))
    counts = []
    for i in range(len(data)):
        labels, centers, seeds = grown(points[i], scores[i], mask[i], *_options(numbers[i], assign))
        counts.append(len(seeds))
        np.testing.assert_array_equal(got.labels[i], labels)
        np.testing.assert_allclose(got.centers[i, : len(seeds)], centers, atol=1e-5)
        np.testing.assert_array_equal(got.scores[i], [*seeds, *[0] * (6 - len(seeds))])
        np.testing.assert_array_equal(got.valid[i], np.arange(6) < len(seeds))
    assert counts == [NUMBER, 6, 4, 0]


def _options(numbers, assign):
    radius, min_score, min_pixels, min_new = numbers
    return radius, 6, min_score, min_pixels, min_new, assign


run_mean_shift = jax.jit(functools.partial(mean_shift, max_clusters=8, num_seeds=24, num_iters=12))


def shifted(points, bandwidth, seeds, iters):
    """Mean shift with loops: centres by falling number of points."""
    places = [points[i] for i in seeds]
    for k in range(len(places)):
        for _ in range(iters):
            near = np.linalg.norm(points - places[k], axis=1) <= bandwidth
            places[k] = points[near].mean(axis=0)
    sizes = [int((np.linalg.norm(points - c, axis=1) <= bandwidth).sum()) for c in places]
    kept = []
    for k in np.argsort([-s for s in sizes], kind="stable"):
        if all(np.linalg.norm(places[k] - places[j]) > bandwidth for j in kept):
            kept.append(k)
    return np.array([places[k] for k in kept]), [sizes[k] for k in kept]


@pytest.mark.parametrize(("seed", "spread"), [(0, 0.3), (1, 1.2), (2, 1.2)])
def test_mean_shift_is_the_loop(seed, spread):
    points, mask, own = blobs(seed, spread)
    got = jax.tree.map(np.asarray, run_mean_shift(points, bandwidth=1.4, mask=mask))
    inside = points[mask].astype(np.float64)
    seeds = np.arange(24) * len(inside) // 24
    centers, sizes = shifted(inside, 1.4, seeds, 12)
    count = min(len(centers), 8)
    assert got.valid.sum() == count
    np.testing.assert_allclose(got.centers[:count], centers[:count], atol=1e-4)
    np.testing.assert_array_equal(got.sizes[:count], sizes[:count])
    nearest = np.linalg.norm(inside[:, None] - centers[None, :8], axis=-1).argmin(axis=1)
    np.testing.assert_array_equal(got.labels[mask], nearest)
    assert (got.labels[~mask] == -1).all()
    if spread < 1:
        assert count == NUMBER and same_partition(got.labels[mask], own[mask])


def test_mean_shift_of_few_points():
    """Fewer than seeds: a seed more often is no mode more; and of none, none."""
    points, mask = np.float32(CENTERS[np.arange(POINTS) % NUMBER]), np.arange(POINTS) < NUMBER
    got = jax.tree.map(np.asarray, run_mean_shift(points, bandwidth=1.4, mask=mask))
    assert got.valid.sum() == NUMBER and got.sizes.tolist() == [1] * NUMBER + [0] * 3
    got = jax.tree.map(np.asarray, run_mean_shift(points, bandwidth=1.4, mask=mask & False))
    assert not got.valid.any() and not got.sizes.any() and (got.labels == -1).all()


def test_bad_arguments():
    points = jnp.zeros((4, 2))
    with pytest.raises(ValueError, match="num_starts=0"):
        kmeans(jax.random.key(0), points, 2, num_starts=0)
    with pytest.raises(ValueError, match="num_seeds=0"):
        mean_shift(points, bandwidth=1.0, max_clusters=2, num_seeds=0)
    with pytest.raises(ValueError, match="max_instances=0"):
        grow_instances(points, points[:, 0], radius=1.0, max_instances=0)
