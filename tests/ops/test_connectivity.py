import collections

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxseg.ops import connectivity
from jaxseg.types import InputError

MAPS = hnp.arrays(
    np.int32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.integers(0, 3),
)


def search(labels, min_size, max_size):
    """The rule as SSN's specification has it, pixel by pixel."""
    height, width = labels.shape
    result = np.full(labels.shape, -1)
    new = 0
    for seed in np.ndindex(labels.shape):
        if result[seed] >= 0:
            continue
        adjacent = 0
        result[seed] = new
        queue, found = collections.deque([seed]), [seed]
        while queue and len(found) < max_size:
            y, x = queue.popleft()
            for other in ((y, x + 1), (y, x - 1), (y + 1, x), (y - 1, x)):
                if not (0 <= other[0] < height and 0 <= other[1] < width):
                    continue
                if result[other] < 0 and labels[other] == labels[seed]:
                    result[other] = new
                    queue.append(other)
                    found.append(other)
                    if len(found) >= max_size:
                        break
                elif result[other] >= 0 and result[other] != new:
                    adjacent = result[other]
        if len(found) < min_size:
            for pixel in found:
                result[pixel] = adjacent
        else:
            new += 1
    return result


def assert_regions(regions, count):
    """Exactly `count` regions, each 4-connected, numbered by their first pixels."""
    ids, first = np.unique(regions, return_index=True)
    np.testing.assert_array_equal(ids, np.arange(count))
    assert np.all(np.diff(first) > 0)
    for region in range(count):
        assert ndimage.label(regions == region)[1] == 1


@hypothesis.given(MAPS, st.integers(0, 9), st.integers(1, 40))
@hypothesis.settings(max_examples=150, deadline=None)
def test_equals_a_search_in_python(labels, min_size, max_size):
    max_size = max(min_size, max_size)
    got = connectivity.enforce_connectivity(labels, min_size=min_size, max_size=max_size)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, search(labels, min_size, max_size))


@pytest.mark.parametrize("shape", [(1, 50), (50, 1), (37, 61), (64, 40)])
@pytest.mark.parametrize("num_superpixels", [1, 20, 400])
def test_equals_a_search_with_official_sizes(shape, num_superpixels):
    rng = np.random.default_rng(0)
    num_superpixels = min(num_superpixels, shape[0] * shape[1])
    low, high = connectivity.official_sizes(shape, num_superpixels)
    blobs = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    labels = np.digitize(blobs, np.quantile(blobs, [0.3, 0.6, 0.8])).astype(np.int32)
    got = connectivity.enforce_connectivity(labels, min_size=low, max_size=high)
    np.testing.assert_array_equal(got, search(labels, low, high))


def test_official_sizes():
    assert connectivity.official_sizes((321, 481), 100) == (92, 4632)
    assert connectivity.official_sizes((8, 8), 64) == (0, 3)
    with pytest.raises(InputError, match=r"65 regions.*64 pixels"):
        connectivity.official_sizes((8, 8), 65)
    with pytest.raises(InputError, match="0 regions"):
        connectivity.official_sizes((8, 8), 0)


@hypothesis.given(MAPS, st.data())
@hypothesis.settings(max_examples=100, deadline=None)
def test_exact_count(labels, data):
    count = data.draw(st.integers(1, labels.size))
    features = data.draw(
        hnp.arrays(np.float64, (*labels.shape, 2), elements=st.floats(-5, 5, width=16))
    )
    got = connectivity.enforce_connectivity(
        labels, min_size=2, max_size=30, exact=True, num_regions=count, features=features
    )
    assert got.dtype == np.int32
    assert_regions(got, count)


def ward_merges(regions, features, count):
    """The least growth of the squared error over all pairs of neighbours, again and again."""

    def error(mask):
        return np.sum((features[mask] - features[mask].mean(0)) ** 2)

    regions = regions.copy()
    while len(np.unique(regions)) > count:
        best = None
        for a in np.unique(regions):
            for b in np.unique(regions[ndimage.binary_dilation(regions == a) & (regions > a)]):
                both = (regions == a) | (regions == b)
                growth = error(both) - error(regions == a) - error(regions == b)
                if best is None or growth < best[0]:
                    best = growth, a, b
        regions[regions == best[2]] = best[1]
    return regions


def test_merges_the_most_alike():
    rng = np.random.default_rng(1)
    regions = np.kron(np.arange(20).reshape(4, 5), np.ones((3, 3), int))
    features = rng.normal(size=(12, 15, 3)) + rng.normal(size=(20, 3))[regions]
    for count in (15, 7, 2):
        got = connectivity.set_region_count(regions, count, features)
        slow = ward_merges(regions, features, count)
        assert len(np.unique(got * 100 + slow)) == count


def test_exact_leaves_the_right_number_alone():
    labels = np.kron(np.arange(6).reshape(2, 3), np.ones((4, 4), int))
    got = connectivity.set_region_count(labels, 6, np.zeros((8, 12, 1)))
    np.testing.assert_array_equal(got, labels)


@pytest.mark.parametrize("count", [1, 2, 7, 30, 599, 600])
def test_constant_image_gives_even_parts(count):
    features = np.full((20, 30, 3), 0.1)
    split = connectivity.set_region_count(np.zeros((20, 30), np.int32), count, features)
    merged = connectivity.set_region_count(np.arange(600).reshape(20, 30), count, features)
    for regions in (split, merged):
        assert_regions(regions, count)
        assert np.bincount(regions.ravel()).max() <= 4 * 600 / count


def test_equal_colors_merge_evenly():
    """Rounding in the means of blocks of several sizes must not decide."""
    ends = np.cumsum(np.random.default_rng(0).integers(1, 4, 48))
    block = np.searchsorted(ends, np.arange(48), side="right")
    features = np.full((48, 48, 3), 0.1)
    regions = connectivity.set_region_count(block[:, None] * 48 + block, 64, features)
    assert_regions(regions, 64)
    assert np.bincount(regions.ravel()).max() <= 2 * 48 * 48 / 64


def test_splits_a_ring():
    ring = np.zeros((9, 9), np.int32)
    ring[1:-1, 1:-1] = 1
    ring[3:-3, 3:-3] = 0
    got = connectivity.set_region_count(ring, 40, np.zeros((9, 9, 1)))
    assert_regions(got, 40)
    assert len(np.unique(got * 2 + ring)) == 40


def test_bad_arguments():
    labels = np.zeros((4, 4), np.int32)
    features = np.zeros((4, 4, 1))
    with pytest.raises(ValueError, match="min_size=3, max_size=2"):
        connectivity.enforce_connectivity(labels, min_size=3, max_size=2)
    with pytest.raises(ValueError, match="label -1"):
        connectivity.enforce_connectivity(labels - 1, min_size=0, max_size=2)
    with pytest.raises(ValueError, match="label -1"):
        connectivity.set_region_count(labels - 1, 2, features)
    with pytest.raises(ValueError, match="exact=True needs"):
        connectivity.enforce_connectivity(labels, min_size=0, max_size=9, exact=True)
    with pytest.raises(ValueError, match="exact=True alone"):
        connectivity.enforce_connectivity(labels, min_size=0, max_size=9, num_regions=3)
    for count in (0, 17):
        with pytest.raises(InputError, match=rf"{count} regions.*16 pixels"):
            connectivity.set_region_count(labels, count, features)
    with pytest.raises(ValueError, match="connectivity=6"):
        connectivity.connected_components(jnp.asarray(labels == 0), connectivity=6)


def spiral(size):
    """A corridor one pixel wide, wound from the corner to the middle."""
    mask = np.zeros((size + 4, size + 4), bool)
    mask[[0, -1]] = mask[:, [0, -1]] = True
    y, x, dy, dx = 2, 2, 0, 1
    mask[y, x] = True
    for _ in range(2 * size):
        while not mask[y + 2 * dy, x + 2 * dx]:
            y, x = y + dy, x + dx
            mask[y, x] = True
        dy, dx = dx, -dy
        if mask[y + 2 * dy, x + 2 * dx]:
            break
    return mask[2:-2, 2:-2]


def masks():
    rng = np.random.default_rng(0)
    shape = (40, 33)
    yield np.zeros(shape, bool)
    yield np.ones(shape, bool)
    yield from (rng.random(shape) < density for density in (0.1, 0.4, 0.59, 0.8))
    yield np.indices(shape).sum(0) % 2 == 0
    for turned in (spiral(41), spiral(41)[::-1], spiral(41).T[:, ::-1]):
        yield turned[:40, :33]
    comb = np.zeros(shape, bool)
    comb[:, ::2] = comb[-1] = True
    yield comb


@pytest.mark.parametrize("connectivity_", [4, 8])
def test_components_equal_scipy(connectivity_, strict_dtypes):
    structure = np.ones((3, 3)) if connectivity_ == 8 else None
    stack = np.stack(list(masks()))

    def components(mask):
        return connectivity.connected_components(mask, connectivity=connectivity_)

    expected = np.stack([ndimage.label(mask, structure)[0] for mask in stack])
    batched = jax.jit(jax.vmap(components))(jnp.asarray(stack))
    assert batched.dtype == np.int32
    np.testing.assert_array_equal(batched, expected)
    single = jax.jit(components)
    for mask, labels in zip(stack, expected, strict=True):
        np.testing.assert_array_equal(single(mask), labels)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_components_of_thin_images(shape, x64):
    mask = np.random.default_rng(2).random(shape) < 0.6
    got = connectivity.connected_components(jnp.asarray(mask))
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, ndimage.label(mask)[0])


def test_components_take_few_rounds(monkeypatch):
    rounds = 0

    def while_loop(condition, body, state):
        nonlocal rounds
        while condition(state):
            state = body(state)
            rounds += 1
        return state

    monkeypatch.setattr(jax.lax, "while_loop", while_loop)
    corridor = spiral(129)
    assert corridor.sum() > 8000
    got = connectivity.connected_components(jnp.asarray(corridor))
    np.testing.assert_array_equal(got, corridor)
    assert rounds <= 12
