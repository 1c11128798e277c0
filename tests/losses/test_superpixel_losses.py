import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses
from jaxseg.ops.slic import hard_labels, soft_slic

H, W, GRID = 14, 19, (3, 4)


def affinities(batch=2, dtype=np.float64, seed=0):
    features = np.random.default_rng(seed).normal(size=(batch, H, W, 4)).astype(dtype)
    return jax.vmap(lambda f: soft_slic(f, GRID, num_iters=2).affinity)(jnp.asarray(features))


def dense(affinity):
    """Q as [pixels, superpixels], from the nine candidates, in a loop."""
    q = np.zeros((H, W, GRID[0] * GRID[1]))
    for y in range(H):
        for x in range(W):
            r, c = y * GRID[0] // H, x * GRID[1] // W
            for k in range(9):
                i, j = r + k // 3 - 1, c + k % 3 - 1
                if 0 <= i < GRID[0] and 0 <= j < GRID[1]:
                    q[y, x, i * GRID[1] + j] = affinity[y, x, k]
                else:
                    assert affinity[y, x, k] == 0
    return q.reshape(H * W, -1)


def labels(seed=0, low=-1):
    return np.random.default_rng(seed).integers(low, 6, (2, H, W)).astype(np.int32)


@pytest.mark.parametrize("low", [0, -1])
def test_labels_equal_a_dense_product(x64, low):
    q, label = affinities(), labels(low=low)
    got = losses.reconstruction(q, jnp.asarray(label), GRID, num_labels=6)
    for b in range(2):
        kept = label[b].ravel() >= 0
        full = dense(np.asarray(q[b]))[kept]
        r = np.eye(6)[label[b].ravel()[kept]]
        means = (full / full.sum(0)).T @ r
        told = np.sum((full @ means) * r, 1)
        np.testing.assert_allclose(got[b], -np.mean(np.log(told + 1e-10)), rtol=1e-9)


def test_a_map_equals_a_dense_product(x64):
    q = affinities()
    target = np.random.default_rng(1).normal(size=(2, H, W, 3))
    target[0, 3:5, 2] = np.nan
    got = losses.reconstruction(q, jnp.asarray(target), GRID)
    for b in range(2):
        flat = target[b].reshape(-1, 3)
        kept = ~np.isnan(flat[:, 0])
        full = dense(np.asarray(q[b]))[kept]
        told = full @ ((full / full.sum(0)).T @ flat[kept])
        np.testing.assert_allclose(got[b], np.abs(told - flat[kept]).sum(1).mean(), rtol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_compactness_equals_a_loop(x64, scale):
    q = affinities()
    got = losses.compactness(q, GRID, position_scale=scale)
    position = scale * np.stack(np.mgrid[:H, :W], -1).reshape(-1, 2)
    for b in range(2):
        full = dense(np.asarray(q[b]))
        centers = (full / full.sum(0)).T @ position
        own = np.asarray(hard_labels(q[b], GRID)).ravel()
        expected = 0.5 * np.sum((position - centers[own]) ** 2)
        np.testing.assert_allclose(got[b], expected, rtol=1e-9)


def test_a_perfect_assignment_costs_nothing():
    cell = np.arange(H)[:, None] * GRID[0] // H * GRID[1] + np.arange(W) * GRID[1] // W
    q = np.zeros((1, H, W, 9), np.float32)
    q[..., 4] = 1
    loss = losses.reconstruction(jnp.asarray(q), jnp.asarray(cell[None], jnp.int32), GRID)
    assert abs(float(loss[0])) < 1e-6


def test_what_is_ignored_changes_nothing():
    q, label = affinities(dtype=np.float32), labels()
    ignored = jnp.asarray(label < 0)[..., None]

    def value(q, label, **options):
        return jnp.sum(losses.reconstruction(q, jnp.asarray(label), GRID, **options))

    other = jnp.where(ignored, jnp.roll(q, 1, 1), q)
    gradient = jax.grad(value)(q, label, num_labels=6)
    assert np.all(np.asarray(gradient)[label < 0] == 0)
    np.testing.assert_allclose(value(q, label), value(other, label), rtol=1e-6)
    renamed = np.where(label < 0, 77, label)
    np.testing.assert_allclose(
        value(q, label, num_labels=6), value(q, renamed, num_labels=90, ignore_label=77), rtol=1e-6
    )
    # A label without a channel is ignored like one that says so.
    few = np.where(label >= 4, -1, label)
    np.testing.assert_allclose(
        value(q, label, num_labels=4), value(q, few, num_labels=4), rtol=1e-6
    )


@pytest.mark.parametrize("fill", [-1, 3])
def test_one_label_or_none_is_finite(fill):
    q = affinities(dtype=np.float32)
    label = jnp.full((2, H, W), fill, jnp.int32)
    value, gradient = jax.value_and_grad(lambda q: losses.reconstruction(q, label, GRID).sum())(q)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))
    if fill < 0:
        assert value == 0 and not np.any(gradient)


def test_number_types_of_labels_do_not_matter():
    q, label = affinities(dtype=np.float32), labels(low=0)
    one, two = (
        losses.reconstruction(q, jnp.asarray(label.astype(t)), GRID) for t in (np.uint8, np.int32)
    )
    np.testing.assert_array_equal(one, two)
