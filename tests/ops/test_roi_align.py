import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops.roi_align import box_levels, roi_align

pytestmark = pytest.mark.usefixtures("strict_dtypes")
IMPLEMENTATIONS = ("gather", "separable")
STRIDES, SHAPES, CHANNELS = (4, 8), ((9, 11), (5, 6)), 3
BINS = 3


def bilinear(shape, y, x):
    """(row, column, weight) of a sample; as the kernels of torchvision, in pixels of the map."""
    height, width = shape
    if y < -1 or y > height or x < -1 or x > width:
        return
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    low, right = min(top + 1, height - 1), min(left + 1, width - 1)
    y, x = (top if top == height - 1 else y), (left if left == width - 1 else x)
    yield top, left, (1 - (y - top)) * (1 - (x - left))
    yield top, right, (1 - (y - top)) * (x - left)
    yield low, left, (y - top) * (1 - (x - left))
    yield low, right, (y - top) * (x - left)


def loop(pyramid, boxes, levels, ratio, slope=None):
    """In float64, sample by sample; with `slope` also what comes back to the pyramid."""
    pooled = np.zeros((len(boxes), BINS, BINS, CHANNELS))
    back = [np.zeros(level.shape) for level in pyramid]
    for n, (box, level) in enumerate(zip(boxes.astype(float), levels, strict=True)):
        start, stop = box[:2] / STRIDES[level] - 0.5, box[2:] / STRIDES[level] - 0.5
        size = (stop - start) / BINS
        for p, q, a, b in itertools.product(*[range(BINS)] * 2, *[range(ratio)] * 2):
            y, x = start + size * (np.array([p, q]) + (np.array([a, b]) + 0.5) / ratio)
            for i, j, weight in bilinear(pyramid[level].shape[:2], y, x):
                weight /= ratio**2
                pooled[n, p, q] += weight * pyramid[level][i, j]
                if slope is not None:
                    back[level][i, j] += weight * slope[n, p, q]
    return pooled, back


def example(seed=0):
    """Boxes inside, across every border, wholly outside, reversed, empty, and on whole cells."""
    rng = np.random.default_rng(seed)
    pyramid = [rng.standard_normal((*shape, CHANNELS)).astype(np.float32) for shape in SHAPES]
    low = rng.uniform(-30, 45, (14, 2))
    boxes = np.concatenate([low, low + rng.uniform(-5, 40, (14, 2))], axis=1)
    fixed = [[0, 0, 36, 44], [-99, -99, -60, -70], [400, 0, 440, 40], [8, 8, 8, 8], [30, 30, 2, 4]]
    boxes = np.concatenate([boxes, fixed, [[4, 8, 28, 32]]]).astype(np.float32)
    return pyramid, boxes, (np.arange(len(boxes)) % 2).astype(np.int32)


def pool_of(implementation, ratio=2, **options):
    options = {"strides": STRIDES, "sampling_ratio": ratio, **options}
    options |= {"output_size": BINS, "implementation": implementation}
    return lambda pyramid, boxes, levels: roi_align(pyramid, boxes, levels=levels, **options)


@pytest.mark.parametrize(("ratio", "chunk_size"), [(2, 64), (1, 7)])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_values_and_gradients_are_those_of_a_loop(implementation, ratio, chunk_size):
    pyramid, boxes, levels = example()
    slope = np.random.default_rng(1).standard_normal((len(boxes), BINS, BINS, CHANNELS))
    pool = pool_of(implementation, ratio, chunk_size=chunk_size)
    expected, back = loop(pyramid, boxes, levels, ratio, slope)

    @jax.jit
    def both(pyramid, boxes, levels, slope):
        pooled, pull = jax.vjp(lambda x: pool(x, boxes, levels), pyramid)
        return pooled, pull(slope)[0]

    pooled, gradient = both(pyramid, boxes, levels, slope.astype(np.float32))
    np.testing.assert_allclose(pooled, expected, atol=1e-5)
    assert not np.asarray(pooled)[15].any() and not np.asarray(pooled)[16].any()
    for x, y in zip(gradient, back, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradients_of_boxes_are_differences_of_a_loop(x64, implementation):
    """On one level; moved by so little that no sample crosses a kink."""
    pyramid, boxes, levels = example(2)
    pyramid, boxes = [x.astype(float) for x in pyramid], boxes[[2, 5, 8, 18]].astype(float)
    levels = jnp.asarray(levels[:4])
    slope = np.random.default_rng(1).standard_normal((len(boxes), BINS, BINS, CHANNELS))
    pool = pool_of(implementation, chunk_size=3)
    gradient = jax.jit(jax.grad(lambda b, x: jnp.sum(pool(x, b, levels) * slope)))(boxes, pyramid)
    step = 1e-6
    for k in range(4):
        move = step * np.eye(4)[k]
        up, down = (loop(pyramid, boxes + s * move, levels, 2)[0] for s in (1, -1))
        expected = np.sum((up - down) * slope, axis=(1, 2, 3)) / (2 * step)
        np.testing.assert_allclose(gradient[:, k], expected, atol=1e-7)


def test_a_batch_takes_its_levels_from_the_areas():
    """A chunk at a time, whose last one is not full."""
    examples = [example(seed) for seed in (3, 4)]
    boxes = np.stack([8 * boxes for _, boxes, _ in examples])
    pyramid = [np.stack(maps) for maps in zip(*(p for p, _, _ in examples), strict=True)]
    pool = functools.partial(roi_align, output_size=BINS, strides=STRIDES, chunk_size=6)
    pooled = jax.jit(jax.vmap(pool))(pyramid, boxes)
    for n in range(2):
        area = np.prod(np.maximum(boxes[n, :, 2:] - boxes[n, :, :2], 0), axis=1)
        levels = (area >= 112**2).astype(int)
        assert 0 < levels.sum() < len(levels)
        expected, _ = loop([x[n] for x in pyramid], boxes[n], levels, 2)
        np.testing.assert_allclose(pooled[n], expected, atol=1e-5)


def test_implementations_agree_in_half_precision():
    pyramid, boxes, levels = example()
    half = [jnp.asarray(x, jnp.bfloat16) for x in pyramid]
    expected, _ = loop([np.asarray(x, np.float64) for x in half], boxes, levels, 2)
    for implementation in IMPLEMENTATIONS:
        pooled = jax.jit(pool_of(implementation))(half, boxes, levels)
        assert pooled.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(pooled, np.float64), expected, atol=0.03)


def test_a_box_that_is_not_finite_hurts_no_other():
    pyramid, boxes, levels = example()
    broken = boxes.copy()
    broken[3] = np.nan
    for implementation in IMPLEMENTATIONS:
        pool = jax.jit(pool_of(implementation))
        got, expected = pool(pyramid, broken, levels), pool(pyramid, boxes, levels)
        others = np.arange(len(boxes)) != 3
        np.testing.assert_array_equal(got[others], expected[others])


def test_levels_follow_the_area():
    sides = np.array([0, 1, 111.9, 112, 200, 223.9, 224, 447.9, 448, 5000], np.float32)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], 1)
    got = jax.jit(functools.partial(box_levels, strides=(4, 8, 16, 32)))(boxes)
    k = [math.floor(4 + math.log2(side / 224 + 1e-8)) for side in sides.tolist()]
    np.testing.assert_array_equal(got, np.clip(k, 2, 5) - 2)
    np.testing.assert_array_equal(got, [0, 0, 0, 1, 1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_memory_of_a_mask_rcnn(implementation):
    """512 boxes of 7 x 7 bins from 256 channels of a 512 x 512 image, with the gradient.

    All the values that their samples take would be 411 MB.
    """
    strides = (4, 8, 16, 32)
    shapes = [(512 // s, 512 // s, 256) for s in strides]
    pyramid = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    boxes = jax.ShapeDtypeStruct((512, 4), jnp.float32)
    options = {"output_size": 7, "strides": strides, "implementation": implementation}

    def pool(pyramid, boxes):
        return roi_align(pyramid, boxes, **options)

    function = jax.value_and_grad(lambda *x: jnp.sum(pool(*x) ** 2))
    compiled = jax.jit(function).lower(pyramid, boxes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 500e6


GOOD = {"output_size": 2, "strides": (4, 8)}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strides": (4,)}, r"strides=\(4,\): expected one for each of 2 levels"),
        ({"strides": (4, 16)}, r"strides=\(4, 16\): expected powers of 2"),
        ({"strides": (3, 6)}, r"strides=\(3, 6\): expected powers of 2"),
        ({"output_size": 0}, "output_size=0"),
        ({"sampling_ratio": 0}, "sampling_ratio=0"),
        ({"chunk_size": 0}, "chunk_size=0"),
    ],
)
def test_bad_options(wrong, message):
    pyramid = [jnp.zeros((4, 4, 1)), jnp.zeros((2, 2, 1))]
    with pytest.raises(ValueError, match=message):
        roi_align(pyramid, jnp.zeros((1, 4)), **GOOD | wrong)


def test_bad_pyramids():
    unchecked = roi_align.__wrapped__
    boxes = jnp.zeros((1, 4))
    with pytest.raises(ValueError, match="expected one type and one number of channels"):
        unchecked([jnp.zeros((4, 4, 1)), jnp.zeros((2, 2, 3))], boxes, **GOOD)
    with pytest.raises(ValueError, match="implementation='other'"):
        unchecked(jnp.zeros((4, 4, 1)), boxes, output_size=2, strides=(4,), implementation="other")
