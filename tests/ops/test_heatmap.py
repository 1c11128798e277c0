import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.ops.heatmap import gaussian_heatmaps, heatmap_argmax, heatmap_peaks

pytestmark = pytest.mark.usefixtures("strict_dtypes")
draw = jax.jit(gaussian_heatmaps, static_argnames=("shape", "num_kinds"))
peaks_of = jax.jit(heatmap_peaks, static_argnames=("max_points", "window"))


def test_the_maps_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    points = rng.uniform(-3, 14, (9, 2)).astype(np.float32)
    kinds = np.array([0, 1, 1, -1, 2, 1, 3, 7, 0], np.int32)
    points[3] = np.nan  # of a place without a point
    expected = np.zeros((11, 13, 4))
    for point, kind in zip(points.astype(float), kinds, strict=True):
        for y, x in np.ndindex(11, 13):
            if 0 <= kind < 4:
                value = np.exp(-((y - point[0]) ** 2 + (x - point[1]) ** 2) / (2 * 1.7**2))
                expected[y, x, kind] = max(expected[y, x, kind], value)
    drawn = {"shape": (11, 13), "num_kinds": 4, "sigma": 1.7}
    got = draw(jnp.asarray(points), jnp.asarray(kinds), **drawn)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    slope = jax.grad(lambda p: jnp.sum(draw(p, jnp.asarray(kinds), **drawn)))(jnp.asarray(points))
    assert np.isfinite(np.asarray(slope)).all() and not np.asarray(slope)[3].any()


def slow_peaks(heatmaps, window, threshold):
    """(height, row, column, kind) by falling height, pixel by pixel."""
    reach, found = window // 2, []
    for y, x, k in np.ndindex(*heatmaps.shape):
        height = heatmaps[y, x, k]
        others = [
            (heatmaps[v, u, k], (v, u) < (y, x))
            for v in range(max(y - reach, 0), min(y + reach + 1, heatmaps.shape[0]))
            for u in range(max(x - reach, 0), min(x + reach + 1, heatmaps.shape[1]))
            if (v, u) != (y, x)
        ]
        if height > threshold and all(height > o if first else height >= o for o, first in others):
            found.append((-height, y, x, k))
    return [(-h, y, x, k) for h, y, x, k in sorted(found)]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from([3, 5, 7]), st.sampled_from([0.0, 0.35]))
def test_peaks_are_those_of_a_loop(seed, window, threshold):
    """Of few heights, so that there are plateaus."""
    maps = np.random.default_rng(seed).integers(-1, 6, (9, 8, 2)).astype(np.float32) / 5
    expected = slow_peaks(maps, window, threshold)
    got = peaks_of(jnp.asarray(maps), max_points=30, window=window, threshold=threshold)
    count = min(len(expected), 30)
    np.testing.assert_allclose(got.scores, [p[0] for p in expected][:count] + [0] * (30 - count))
    points, kinds = np.asarray(got.points), np.asarray(got.kinds)
    for point, kind, (_, *where) in zip(points, kinds, expected, strict=False):
        assert kind == where[2] and np.abs(point - where[:2]).max() <= 0.5
    assert (kinds[count:] == -1).all() and not points[count:].any()


@settings(deadline=None, max_examples=30)
@given(st.floats(1, 13), st.floats(1, 17), st.sampled_from([0.8, 1.5, 3.0]))
def test_a_gaussian_is_found_between_pixels(y, x, sigma):
    point = np.array([[y, x]], np.float32)
    drawn = draw(
        jnp.asarray(point), jnp.zeros(1, jnp.int32), shape=(15, 19), num_kinds=1, sigma=sigma
    )
    peaks = peaks_of(drawn, max_points=3)
    np.testing.assert_allclose(peaks.points[:1], point, atol=1e-3)
    np.testing.assert_array_equal(peaks.kinds, [0, -1, -1])
    np.testing.assert_allclose(jax.jit(heatmap_argmax)(drawn)[0], point, atol=1e-3)


def test_points_come_back_with_their_kinds_in_order_of_height():
    rng = np.random.default_rng(0)
    cells = rng.permutation(30)[:12]
    points = np.stack([cells // 6 * 10 + 5, cells % 6 * 10 + 5], 1) + rng.uniform(-3, 3, (12, 2))
    kinds = rng.integers(0, 3, 12)
    heights = rng.uniform(0.2, 1, 12)
    maps = np.zeros((50, 60, 3), np.float32)
    for point, kind, height in zip(points, kinds, heights, strict=True):
        one = draw(
            jnp.asarray(point[None], jnp.float32),
            jnp.asarray([kind], jnp.int32),
            shape=(50, 60),
            num_kinds=3,
            sigma=1.5,
        )
        maps = np.maximum(maps, height * np.asarray(one))
    peaks = peaks_of(jnp.asarray(maps), max_points=20)
    order = np.argsort(-np.asarray(peaks.scores[:12]))
    np.testing.assert_array_equal(order, np.arange(12))
    # The height is the pixel's, the point between pixels: matched by place.
    distance = np.linalg.norm(points[:, None] - np.asarray(peaks.points)[None, :12], axis=-1)
    match = distance.argmin(axis=1)
    assert sorted(match) == list(range(12)) and distance.min(axis=1).max() < 0.02
    np.testing.assert_array_equal(np.asarray(peaks.kinds)[match], kinds)
    np.testing.assert_array_equal(peaks.kinds[12:], -1)
    few = peaks_of(jnp.asarray(maps), max_points=5)
    np.testing.assert_array_equal(few.points, peaks.points[:5])


def test_argmax_of_maps_that_are_negative_or_peak_at_the_border():
    maps = -np.ones((4, 5, 3), np.float32)
    maps[2, 3, 0], maps[0, 4, 1], maps[1, 2, 2] = -0.5, 0.7, 0.9
    points, scores = jax.jit(heatmap_argmax)(jnp.asarray(maps))
    np.testing.assert_allclose(points, [[2, 3], [0, 4], [1, 2]])
    np.testing.assert_allclose(scores, [-0.5, 0.7, 0.9])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_points": 0}, "max_points=0"),
        ({"max_points": 61}, "max_points=61: expected 1 to 60"),
        ({"max_points": 3, "window": 4}, "window=4"),
        ({"max_points": 3, "window": 1}, "window=1"),
        ({"max_points": 3, "threshold": -0.1}, "threshold=-0.1"),
    ],
)
def test_bad_options_of_peaks(options, named):
    with pytest.raises(ValueError, match=named):
        heatmap_peaks(jnp.zeros((4, 5, 3)), **options)


@pytest.mark.parametrize("wrong", [{"shape": (0, 3)}, {"num_kinds": 0}, {"sigma": 0.0}])
def test_bad_options_of_gaussians(wrong):
    options = {"shape": (4, 3), "num_kinds": 1, "sigma": 1.0, **wrong}
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        gaussian_heatmaps(jnp.zeros((2, 2)), jnp.zeros(2, jnp.int32), **options)
