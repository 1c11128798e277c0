import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate

from jaxseg.tiles import predict_bands, sliding_window

CLASSES = 3
RNG = np.random.default_rng(0)
KERNEL = 6 * RNG.standard_normal((2, CLASSES)).astype(np.float32)
NEAR = RNG.uniform(0, 1, (3, 3, 2, CLASSES)).astype(np.float32)


@jax.jit
def pointwise(images):
    """A 1×1 convolution and softmax."""
    return jax.nn.softmax(jnp.einsum("bhwc,cn->bhwn", images, KERNEL, precision="highest"))


@jax.jit
def neighbours(images):
    """A 3×3 convolution with zeros beyond the borders; linear, and lopsided."""
    return jax.lax.conv_general_dilated(
        images, NEAR, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.jit
def tile_mean(images):
    """What no window can hide: each tile says one thing of all its pixels."""
    return jnp.broadcast_to(jnp.mean(images, axis=(1, 2), keepdims=True), images.shape)


def numpy_pointwise(image):
    exponentials = np.exp(image.astype(np.float64) @ KERNEL)
    return exponentials / exponentials.sum(-1, keepdims=True)


def numpy_neighbours(image):
    """As `neighbours`, of one image, from SciPy."""
    planes = [
        sum(correlate(image[..., c], NEAR[..., c, n], mode="constant") for c in range(2))
        for n in range(CLASSES)
    ]
    return np.stack(planes, axis=-1)


def numpy_resize(image, size):
    """Bilinear between half-pixel centres, averaging where it shrinks, with plain loops."""
    for axis, after in enumerate(size):
        before = image.shape[axis]
        step = before / after
        matrix = np.zeros((after, before))
        for i in range(after):
            for j in range(before):
                matrix[i, j] = max(0, 1 - abs((i + 0.5) * step - 0.5 - j) / max(1, step))
            matrix[i] /= matrix[i].sum()
        image = np.moveaxis(np.tensordot(matrix, image, (1, axis)), 0, axis)
    return image


def with_scales(network, image, scales):
    """The whole image at each scale, resized back, averaged."""
    height, width = image.shape[:2]
    parts = []
    for scale in scales:
        size = max(round(scale * height), 1), max(round(scale * width), 1)
        parts.append(numpy_resize(network(numpy_resize(image, size)), (height, width)))
    return np.mean(parts, axis=0)


def picture(height, width, channels=2, seed=0):
    values = np.random.default_rng(seed).uniform(0, 1, (height, width, channels))
    return values.astype(np.float32)


def whole(bands, height):
    """The bands as one array; they follow each other without a gap."""
    parts, top = [], 0
    for band in bands:
        assert band.top == top
        top += len(band.probabilities)
        parts.append(band.probabilities)
    assert top == height
    return np.concatenate(parts)


lengths, sides = st.integers(1, 97), st.integers(1, 120)


def tiles_along(length, side, overlap):
    return 1 if length <= side else (length - side) / max(side * (1 - overlap), 1)


@settings(max_examples=30, deadline=None)
@given(lengths, lengths, sides, sides, st.floats(0, 0.9), st.integers(1, 3), st.booleans())
def test_pointwise_networks_see_no_tiles(height, width, down, across, overlap, batch_size, bytes_):
    assume(tiles_along(height, down, overlap) * tiles_along(width, across, overlap) < 150)
    image = picture(height, width)
    given_image = image
    if bytes_:
        given_image = np.round(image * 255).astype(np.uint8)
        image = given_image / np.float32(255)
    options = dict(tile=(down, across), overlap=overlap, flips=True, batch_size=batch_size)
    found = whole(predict_bands(pointwise, given_image, **options), height)
    np.testing.assert_allclose(found, numpy_pointwise(image), atol=2e-6)


@settings(max_examples=12, deadline=None)
@given(
    *(lengths, lengths, st.integers(25, 100), st.integers(25, 100), st.floats(0, 0.8)),
    *(st.floats(0.3, 2.5), st.booleans()),
)
def test_scales_are_those_of_the_whole_image(height, width, down, across, overlap, scale, flips):
    image = picture(height, width)
    scales = (1.0, scale)
    options = dict(tile=(down, across), overlap=overlap, scales=scales, flips=flips)
    found = whole(predict_bands(pointwise, image, **options), height)
    np.testing.assert_allclose(found, with_scales(numpy_pointwise, image, scales), atol=1e-5)


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.75, 1.25, 1.5, 2.0])
def test_usual_scales_resize_as_jax_does(scale):
    image = picture(61, 90)
    size = round(scale * 61), round(scale * 90)
    small = jax.image.resize(image, (*size, 2), "bilinear", precision="highest")
    expected = jax.image.resize(
        numpy_pointwise(np.asarray(small)).astype(np.float32), (61, 90, CLASSES), "bilinear"
    )
    found = whole(predict_bands(pointwise, image, tile=(33, 40), scales=(scale,)), 61)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("size", [(40, 56), (41, 57), (13, 90), (20, 9)])
@pytest.mark.parametrize("overlap", [0.0, 0.3])
def test_what_a_network_sees_within_the_margin_is_exact(size, overlap):
    image = picture(*size)
    expected = numpy_neighbours(image) + numpy_neighbours(image[:, ::-1])[:, ::-1]
    options = dict(tile=(16, 20), overlap=overlap, margin=1, flips=True)
    found = whole(predict_bands(neighbours, image, **options), size[0])
    np.testing.assert_allclose(found, expected / 2, atol=1e-5)


def test_a_margin_serves_resized_networks_too():
    # One pixel of the image at half size is two of it.
    image = picture(90, 75)
    expected = with_scales(numpy_neighbours, image, (0.5, 1.5))
    options = dict(tile=(37, 41), overlap=0.0, margin=2, scales=(0.5, 1.5))
    found = whole(predict_bands(neighbours, image, **options), 90)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_without_margin_only_the_seams_differ():
    # Tiles begin at rows 0, 12, 24 and columns 0, 15, 30, and share 4 and 5 pixels.
    image = picture(40, 50)
    found = whole(predict_bands(neighbours, image, tile=(16, 20), overlap=0.25), 40)
    wrong = np.abs(found - numpy_neighbours(image)).max(-1) > 1e-4
    rows, cols = (12, 15, 24, 27), (15, 19, 30, 34)
    seam = np.isin(np.arange(40), rows)[:, None] | np.isin(np.arange(50), cols)[None]
    assert not wrong[~seam].any()
    assert wrong[seam].mean() > 0.9


def test_the_image_is_flipped_and_not_its_padding():
    @jax.jit
    def padded(images):
        """Needs sides of multiples of 8, as networks do that halve their maps."""
        height, width = images.shape[1:3]
        edges = ((0, 0), (0, -height % 8), (0, -width % 8), (0, 0))
        return neighbours(jnp.pad(images, edges))[:, :height, :width]

    image = picture(13, 11)
    expected = (numpy_neighbours(image) + numpy_neighbours(image[:, ::-1])[:, ::-1]) / 2
    found = whole(predict_bands(padded, image, flips=True), 13)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_window_is_a_linear_ramp_over_the_overlap():
    image = np.zeros((8, 26, 1), np.float32)
    image[:, 13:] = 1
    found = whole(predict_bands(tile_mean, image, tile=(8, 16), overlap=0.375), 8)
    # The left tile is of 13 zeros and 3 ones; the two share columns 10 to 15.
    left, right = 3 / 16, 13 / 16
    ramp = np.linspace(left, right, 8)[1:-1]
    expected = np.concatenate([np.full(10, left), ramp, np.full(10, right)])
    np.testing.assert_allclose(found[..., 0], np.tile(expected, (8, 1)), atol=1e-6)


def test_classes_and_confidence_are_those_of_the_bands():
    image = picture(70, 40)
    options = dict(tile=(32, 24), flips=True, scales=(1.0, 0.5))
    probabilities = whole(predict_bands(pointwise, image, **options), 70)
    classes, confidence = sliding_window(pointwise, image, **options)
    assert classes.dtype == np.int32
    np.testing.assert_array_equal(classes, probabilities.argmax(-1))
    np.testing.assert_array_equal(confidence, probabilities.max(-1))


def test_memory_does_not_grow_with_the_height():
    classes = 8 * CLASSES

    @jax.jit
    def many_classes(images):
        return jnp.repeat(pointwise(images), 8, axis=-1) / 8

    def peak(height):
        image = picture(height, 128)
        rows = 0
        tracemalloc.start()
        for _, band in predict_bands(many_classes, image, tile=(32, 32), flips=True):
            rows += len(band)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert rows == height
        return most

    peak(64)  # Compiles.
    row_of_tiles = 32 * 128 * classes * 4
    small, large = peak(128), peak(2048)
    # All of it would be 64 rows of tiles.
    assert small < 3 * row_of_tiles
    assert large - small < row_of_tiles


def test_bands_come_while_tiles_go_in():
    taken, lists = [], []

    def progress(tiles, name):
        lists.append((name, len(tiles)))
        for place in tiles:
            taken.append(place)
            yield place

    bands = predict_bands(
        pointwise, picture(320, 128), tile=(32, 32), overlap=0.0, batch_size=3, progress=progress
    )
    assert next(bands).top == 0
    assert lists == [("tiles", 40)]
    # The row of four, and two batches.
    assert len(taken) <= 4 + 2 * 3
    assert len(list(bands)) == 9 and len(taken) == 40


def test_images_larger_than_a_tile_share_a_program():
    traces = []

    @jax.jit
    def network(images):
        traces.append(images.shape)
        return pointwise(images)

    for size in ((40, 41), (57, 49), (100, 70)):
        options = dict(tile=(32, 36), scales=(0.75, 1.0), flips=True)
        sliding_window(network, picture(*size), **options)
    assert traces == [(1, 24, 27, 2), (1, 32, 36, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(overlap=1.0), "overlap=1.0: expected at least 0 and less than 1"),
        (dict(overlap=-0.1), "overlap=-0.1"),
        (dict(overlap=float("nan")), "overlap=nan"),
        (dict(tile=(0, 8)), r"tile=\(0, 8\): expected 1 or more"),
        (dict(tile=(7, 7), scales=(0.25,)), r"tile=\(7, 7\): expected 19 or more"),
        (dict(tile=(7, 7), margin=4), r"tile=\(7, 7\): expected 9 or more"),
        (dict(margin=-1), "margin=-1: expected 0 or more"),
        (dict(scales=()), r"scales=\(\): expected positive finite numbers"),
        (dict(scales=(1.0, 0.0)), r"scales=\(1.0, 0.0\)"),
        (dict(scales=(float("inf"),)), r"scales=\(inf,\)"),
        (dict(scales=(float("nan"),)), r"scales=\(nan,\)"),
        (dict(batch_size=0), "batch_size=0: expected 1 or more"),
    ],
)
def test_wrong_options_are_named_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        predict_bands(pointwise, picture(8, 8), **options)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (picture(8, 8)[:0], r"image of shape \(0, 8, 2\): expected"),
        (picture(8, 8).astype(np.int32), "image of type int32: expected uint8 or a float"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        sliding_window(pointwise, image)


def test_a_network_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"probabilities of shape \(1, 4, 8, 3\): expected \(1, 8"):
        sliding_window(lambda images: pointwise(images)[:, ::2], picture(8, 8))


def test_a_tile_as_large_as_the_image_needs_no_margin():
    image = picture(6, 60)
    found = whole(predict_bands(pointwise, image, tile=(6, 19), scales=(0.25,)), 6)
    np.testing.assert_allclose(found, with_scales(numpy_pointwise, image, (0.25,)), atol=1e-5)


def test_the_least_tile_suffices():
    image = picture(60, 50)
    with pytest.raises(ValueError, match="expected 19"):
        predict_bands(pointwise, image, tile=(18, 18), scales=(0.25,))
    found = whole(predict_bands(pointwise, image, tile=(19, 19), scales=(0.25,)), 60)
    np.testing.assert_allclose(found, with_scales(numpy_pointwise, image, (0.25,)), atol=1e-5)
