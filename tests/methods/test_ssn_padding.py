"""Images of many sizes in one padded shape: each as though alone, and few shapes in all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from jaxseg.methods import _buckets, ssn
from jaxseg.models import ssn as networks
from jaxseg.models.layers import BatchNorm
from jaxseg.ops.slic import grid_shape

# Every remainder by 4, the pooling's stride, in both directions.
SIZES = [(32, 45), (33, 44), (42, 35), (43, 34)]


def picture(size, seed=0):
    coarse = np.random.default_rng(seed).normal(size=(6, 7, 3))
    zoomed = ndimage.zoom(
        coarse, (size[0] / 6, size[1] / 7, 1), order=1, grid_mode=True, mode="nearest"
    )
    noise = np.random.default_rng(seed + 1).normal(0, 0.1, zoomed.shape)
    return np.clip(128 + 60 * (zoomed + noise), 0, 255).astype(np.uint8)


def randomized(network, x):
    """Variables of order 1, so that what leaks in from beyond the border shows."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)

    def draw(path, leaf):
        if "var" in jax.tree_util.keystr(path):
            return rng.uniform(0.5, 2, leaf.shape).astype(np.float32)
        fan_in = np.prod(leaf.shape[:-1])
        return (rng.normal(size=leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def padded(arrays, size=(45, 46)):
    """The arrays in the corner of noise, and where they are."""
    rng = np.random.default_rng(7)
    whole = rng.normal(size=(len(arrays), *size, arrays[0].shape[-1])).astype(np.float32)
    mask = np.zeros(whole.shape[:3], bool)
    for i, x in enumerate(arrays):
        whole[i, : x.shape[0], : x.shape[1]] = x
        mask[i, : x.shape[0], : x.shape[1]] = True
    return whole, mask


@pytest.mark.parametrize(
    "network",
    [networks.deep(width=4, num_features=8), networks.linear(num_features=8, kernel_size=3)],
    ids=["deep", "linear"],
)
def test_features_of_a_padded_image_are_its_own(network):
    rng = np.random.default_rng(1)
    images = [rng.normal(size=(*size, 5)).astype(np.float32) for size in SIZES]
    variables = randomized(network, jnp.asarray(images[0])[None])
    apply = jax.jit(lambda variables, x, mask: network.apply(variables, x, mask=mask)[0])
    whole, mask = padded(images)
    got, unmasked = apply(variables, whole, mask), apply(variables, whole, None)
    for i, x in enumerate(images):
        inside = i, slice(x.shape[0]), slice(x.shape[1])
        expected = apply(variables, x[None], None)[0]
        np.testing.assert_allclose(got[inside], expected, atol=1e-5)
        assert np.abs(unmasked[inside] - expected).max() > 0.01


def test_training_statistics_count_the_pixels_of_the_images():
    network = networks.deep(width=4, num_features=8)
    x = np.random.default_rng(2).normal(size=(2, 33, 42, 5)).astype(np.float32)
    variables = randomized(network, jnp.asarray(x))
    apply = jax.jit(lambda x, mask: network.apply(variables, x, train=True, mask=mask))
    whole, mask = padded([*x, x[0]])
    mask[2] = False
    expected, expected_state = apply(x, None)
    got, state = apply(whole, mask)
    np.testing.assert_allclose(got[:2, :33, :42], expected, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), state, expected_state)


def test_batch_norm_over_the_pixels_that_count():
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(5, 3, size=(3, 4, 5, 2)), jnp.float32)
    mask = rng.random((3, 4, 5)) < 0.4
    module = BatchNorm(momentum=0.0)
    variables = module.init(jax.random.key(0), x)
    y, changed = module.apply(
        variables, x, train=True, mask=jnp.asarray(mask), mutable=["batch_stats"]
    )
    kept = np.asarray(x, np.float64)[mask]
    np.testing.assert_allclose(changed["batch_stats"]["mean"], kept.mean(0), rtol=1e-5)
    np.testing.assert_allclose(changed["batch_stats"]["var"], kept.var(0), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(y)[mask].mean(0), 0, atol=1e-5)


# Grids of 3x4, 4x3 and, for the first, cells of 2 to 41 rows; beside images much smaller.
MIXED = [(41, 60), (60, 41), (44, 47), (16, 19), (13, 61)]


@pytest.mark.parametrize(
    "network, same", [(networks.pix(), 1.0), (networks.deep(width=4, num_features=8), 0.999)]
)
def test_superpixels_of_a_padded_image_are_its_own(network, same):
    number = 14
    method = ssn.method(network, num_superpixels=number, num_iters=4)
    variables = randomized(network, jnp.zeros((1, 8, 8, 5)))
    arguments = variables["params"], variables["batch_stats"]
    predict = jax.jit(method.predict)
    images = [picture(size, seed) for seed, size in enumerate(MIXED)]
    (bucket,) = ssn.plan_buckets(MIXED, number, max_buckets=1)
    batch = ssn.bucket_batch(bucket, images, number, batch_size=6)
    prediction = jax.device_get(predict(*arguments, batch))
    finished = method.finish(prediction, batch)["superpixels"]
    chosen = range(len(MIXED)) if same == 1 else (1, 4)
    for i in chosen:
        height, width = MIXED[i]
        (own,) = ssn.plan_buckets([MIXED[i]], number)
        alone = ssn.bucket_batch(own, [images[i]], number)
        expected = jax.device_get(predict(*arguments, alone))
        inside = i, slice(height), slice(width)
        equal = prediction["superpixels"][inside] == expected["superpixels"][0]
        assert np.mean(equal) >= same, MIXED[i]
        assert len(np.unique(expected["superpixels"])) > 6
        if same == 1:
            connected = method.finish(expected, alone)["superpixels"][0]
            np.testing.assert_array_equal(finished[inside], connected)
        for labels in (prediction["superpixels"][i], finished[i]):
            assert np.all(labels[height:] == -1) and np.all(labels[:, width:] == -1)
    assert np.all(finished[5] == -1)  # the filler, of weight 0


def needs(size, number):
    rows, cols = grid_shape(*size, number)
    return *size, rows, cols, -(-size[0] // rows), -(-size[1] // cols)


sides = st.integers(4, 300)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(sides, sides), min_size=1, max_size=40),
    st.integers(1, 4),
    st.integers(1, 60),
)
def test_a_plan_holds_every_image_in_few_buckets(sizes, number, most):
    buckets = ssn.plan_buckets(sizes, number, max_buckets=most)
    assert 1 <= len(buckets) <= most
    assert sorted(i for b in buckets for i in b.members) == list(range(len(sizes)))
    for bucket in buckets:
        held = np.array([needs(sizes[i], number) for i in bucket.members])
        room = *bucket.shape, *bucket.grid, *bucket.cell
        np.testing.assert_array_equal(held.max(0), room)
        assert bucket.padded == (len({sizes[i] for i in bucket.members}) > 1)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=5), st.integers(1, 4))
def test_maps_name_each_row_and_column_once_in_its_cell(sizes, number):
    (bucket,) = ssn.plan_buckets(sizes, number, max_buckets=1)
    images = [np.full((*size, 3), i + 1, np.uint8) for i, size in enumerate(sizes)]
    batch = ssn.bucket_batch(bucket, images, number)
    assert ("cell_rows" in batch) == (len(set(sizes)) > 1)
    for i, size in enumerate(sizes):
        assert (
            np.sum(batch["image"][i] == i + 1)
            == 3 * size[0] * size[1]
            == np.sum(batch["image"][i] > 0)
        )
        for name, side, cells in zip(
            ("cell_rows", "cell_cols"), size, grid_shape(*size, number), strict=True
        ):
            if name not in batch:
                continue
            cell, slot = np.nonzero(batch[name][i] >= 0)
            pixels = batch[name][i][cell, slot]
            np.testing.assert_array_equal(pixels, np.arange(side))
            np.testing.assert_array_equal(cell, pixels * cells // side)


def camera_folder(count=200):
    """Sizes as of a few cameras and some crops, turned at random."""
    rng = np.random.default_rng(0)
    sizes = []
    for _ in range(count):
        long = int(rng.choice([480, 512, 640, 800]))
        short = int(long * rng.choice([2 / 3, 3 / 4, 9 / 16]))
        if rng.random() < 0.3:
            long, short = (
                long - int(rng.integers(long // 8)),
                short - int(rng.integers(short // 12)),
            )
        sizes.append((long, short) if rng.random() < 0.4 else (short, long))
    return sizes


def test_two_hundred_images_have_four_signatures_and_little_padding():
    sizes, number = camera_folder(), 50
    assert len(set(sizes)) > 60
    buckets = ssn.plan_buckets(sizes, number)
    signatures = set()
    for bucket in buckets:
        assert len({sizes[i][0] > sizes[i][1] for i in bucket.members}) == 1  # one orientation
        for k in range(0, len(bucket.members), 8):
            images = [np.zeros((*sizes[i], 3), np.uint8) for i in bucket.members[k : k + 8]]
            batch = ssn.bucket_batch(bucket, images, number, batch_size=8)
            signatures.add(tuple((name, x.shape, str(x.dtype)) for name, x in batch.items()))
    assert len(signatures) == len(buckets) <= 4
    own = sum(ssn.plan_buckets([size], number)[0].work for size in sizes)
    (single,) = ssn.plan_buckets(sizes, number, max_buckets=1)
    assert sum(bucket.work * len(bucket.members) for bucket in buckets) < 1.6 * own
    assert single.work * len(sizes) > 2.5 * own


def test_one_size_is_not_padded_and_two_orientations_come_apart():
    (bucket,) = ssn.plan_buckets([(321, 481)] * 9, 100)
    assert (bucket.shape, bucket.grid, bucket.cell) == ((321, 481), (8, 12), (41, 41))
    assert not bucket.padded
    both = ssn.plan_buckets([(321, 481), (481, 321)] * 10, 100)
    assert [b.shape for b in both] == [(321, 481), (481, 321)]
    assert not any(b.padded for b in both)


def test_a_program_is_worth_some_padding():
    """Nearly equal sizes share a program even where there may be more."""
    (bucket,) = ssn.plan_buckets([(320, 480), (321, 481), (319, 480)], 100)
    assert bucket.shape == (321, 481)


@pytest.mark.parametrize(
    "sizes, most",
    [
        ([(100, 100), (4000, 4000), (120, 100), (3900, 4000), (90, 80)], 1.2),
        ([(1000, 1000), (100, 10000), (10000, 100), (500, 2000), (2000, 500), (2500, 400)], 4),
        ([(10 * k, 10**6 // k) for k in range(10, 1000, 9)], 4),
    ],
    ids=["small and large", "panoramas", "every aspect"],
)
def test_the_largest_program_is_bounded(sizes, most):
    number = 100
    buckets = ssn.plan_buckets(sizes, number)
    assert len(buckets) <= 4
    largest = max(ssn.plan_buckets([size], number)[0].work for size in sizes)
    assert max(bucket.work for bucket in buckets) <= most * largest


def test_thousands_of_sizes_are_planned_at_once():
    rng = np.random.default_rng(0)
    sizes = [tuple(map(int, rng.integers(50, 3000, 2))) for _ in range(5000)]
    assert len(ssn.plan_buckets(sizes, 100)) == 4


def test_what_does_not_fit_is_refused():
    (bucket,) = ssn.plan_buckets([(30, 40), (32, 38)], 12)
    image = np.zeros((33, 38, 3), np.uint8)
    with pytest.raises(ValueError, match="33x38 pixels: does not fit"):
        ssn.bucket_batch(bucket, [image], 12)
    with pytest.raises(ValueError, match="2 images: expected 1 to 1"):
        ssn.bucket_batch(bucket, [image, image], 12, batch_size=1)
    with pytest.raises(ValueError, match="max_buckets=0"):
        ssn.plan_buckets([(30, 40)], 12, max_buckets=0)
    with pytest.raises(ValueError, match="num_superpixels=9"):
        ssn.plan_buckets([(4, 8)], 9)
    assert ssn.plan_buckets([], 9) == []
    assert _buckets.PROGRAM > 0
