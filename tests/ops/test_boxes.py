import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops.boxes import (
    box_area,
    box_iou,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    match_boxes,
    pyramid_anchors,
    sample_matches,
)

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def grid_boxes(rng, count, reach=12):
    """On a coarse grid, so that there are ties; some are empty or reversed."""
    points = rng.integers(0, reach, (count, 2))
    sides = rng.integers(-1, reach // 2, (count, 2))
    return np.concatenate([points, points + sides], axis=1).astype(np.float32)


def slow_iou(a, b):
    a, b = a.astype(float), b.astype(float)
    height = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    width = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [max(x[2] - x[0], 0) * max(x[3] - x[1], 0) for x in (a, b)]
    union = sum(areas) - height * width
    return height * width / union if union else 0.0


def test_overlaps_and_areas_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    a, b = grid_boxes(rng, 40), grid_boxes(rng, 30)
    expected = [[slow_iou(x, y) for y in b] for x in a]
    assert np.max(expected) == 1 and np.min(expected) == 0
    np.testing.assert_allclose(jax.jit(box_iou)(a, b), expected, rtol=1e-6)
    cells = [
        [x[0] <= i < x[2] and x[1] <= j < x[3] for i, j in np.ndindex(20, 20)]  # whole pixels
        for x in a
    ]
    np.testing.assert_array_equal(jax.jit(box_area)(a), np.sum(cells, axis=1))


def test_clipped_boxes_end_at_the_image():
    boxes = jnp.array([[-3, -2, 50, 60], [1, 2, 3, 4], [40, 40, 50, 50]], jnp.float32)
    expected = [[0, 0, 10, 20], [1, 2, 3, 4], [10, 20, 10, 20]]
    for size in ((10, 20), jnp.array([10, 20], jnp.int32)):
        np.testing.assert_array_equal(clip_boxes(boxes, size), expected)


CODE = {"weights": (10.0, 10.0, 5.0, 5.0)}
encode, decode = (jax.jit(lambda a, b, f=f: f(a, b, **CODE)) for f in (encode_boxes, decode_boxes))


def test_the_code_is_that_of_the_paper_and_inverts():
    rng = np.random.default_rng(0)
    low = rng.uniform(-9, 99, (2, 50, 2))
    boxes, anchors = np.concatenate([low, low + rng.uniform(1, 70, low.shape)], -1)
    expected = []
    for box, anchor in zip(boxes, anchors, strict=True):
        shift, scale = [], []
        for k in (0, 1):
            side, length = box[k + 2] - box[k], anchor[k + 2] - anchor[k]
            middle, origin = box[k] + side / 2, anchor[k] + length / 2
            shift.append(10 * (middle - origin) / length)
            scale.append(5 * math.log(side / length))
        expected.append(shift + scale)
    boxes, anchors = boxes.astype(np.float32), anchors.astype(np.float32)
    deltas = encode(boxes, anchors)
    np.testing.assert_allclose(deltas, expected, atol=1e-3)
    np.testing.assert_allclose(decode(deltas, anchors), boxes, atol=2e-4)


def test_wild_and_empty_boxes_stay_finite():
    anchors = jnp.array([[0, 0, 16, 16], [4, 4, 4, 4]], jnp.float32)
    wild = decode(jnp.full((2, 4), 1e4), anchors)
    np.testing.assert_allclose(wild[0, 2:] - wild[0, :2], 1000, rtol=1e-4)
    np.testing.assert_array_equal(wild[1], 4)
    empty = jnp.array([[5, 5, 5, 9], [0, 0, 8, 8]], jnp.float32)
    slope = jax.jit(jax.grad(lambda a, b: encode(a, b).sum(), (0, 1)))(empty, anchors)
    assert not np.asarray(encode(empty, anchors)).any()
    assert not np.asarray(slope).any()


def test_anchors_are_those_of_a_loop():
    """And as many as detectron2 has at 512², with its default of three ratios."""
    shapes = ((3, 4), (2, 2))
    options = {"feature_shapes": shapes, "strides": (4, 8), "ratios": (0.5, 2.0), "offset": 0.5}
    expected, levels = [], []
    for level, (rows, cols) in enumerate(shapes):
        for i, j in np.ndindex(rows, cols):
            for ratio in (0.5, 2.0):
                y, x = ((k + 0.5) * (4, 8)[level] for k in (i, j))
                width = math.sqrt((10, 20)[level] ** 2 / ratio)
                height = width * ratio
                expected.append([y - height / 2, x - width / 2, y + height / 2, x + width / 2])
                levels.append(level)
    anchors = jax.jit(lambda: pyramid_anchors((10, 20), **options))()
    np.testing.assert_allclose(anchors.boxes, expected, atol=1e-5)
    np.testing.assert_array_equal(anchors.levels, levels)
    strides = (4, 8, 16, 32, 64)
    five = jax.eval_shape(
        lambda: pyramid_anchors(
            [32, 64, 128, 256, 512],
            feature_shapes=tuple((512 // s, 512 // s) for s in strides),
            strides=strides,
        )
    )
    assert five.boxes.shape == (65472, 4)


def slow_match(candidates, boxes, valid, positive, negative, low_quality):
    labels, indices = [], []
    table = np.array(
        [
            [slow_iou(b, c) if v else 0.0 for c in candidates]
            for b, v in zip(boxes, valid, strict=True)
        ]
    )
    for column in table.T:
        best = column.max()
        labels.append(1 if best >= positive else 0 if best < negative else -1)
        indices.append(column.argmax())
    if low_quality:
        for row in table:
            for place in np.flatnonzero((row == row.max()) & (row > 0)):
                labels[place] = 1
    return labels, indices, table.max(0)


@pytest.mark.parametrize("low_quality", [False, True])
def test_matches_are_those_of_a_loop(low_quality):
    run = jax.jit(
        lambda *x: match_boxes(
            *x[:3], positive_iou=x[3], negative_iou=x[4], low_quality=low_quality
        )
    )
    seen = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        candidates, boxes = grid_boxes(rng, 25), grid_boxes(rng, 4)
        valid = rng.random(4) < (0.8 if seed else 0)
        limits = ((0.7, 0.3), (0.5, 0.5), (0.5, 0.25))[seed % 3]
        expected = slow_match(candidates, boxes, valid, *limits, low_quality)
        got = run(candidates, boxes, valid, *np.float32(limits))
        for x, y in zip(got, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6)
        seen |= set(np.asarray(got.labels).tolist())
    assert seen == {-1, 0, 1}


def test_an_image_without_room_for_objects_is_background():
    limits = {"positive_iou": 0.7, "negative_iou": 0.3, "low_quality": True}
    run = jax.jit(lambda *x: match_boxes(*x, **limits))
    got = run(jnp.ones((3, 4)), jnp.zeros((0, 4)), jnp.zeros(0, bool))
    assert not np.asarray(got.labels).any()


draw = jax.jit(
    jax.vmap(
        lambda key, index, labels: sample_matches(
            jax.random.fold_in(key, index), labels, num_samples=8, positive_fraction=0.25
        ),
        (None, 0, 0),
    )
)
COUNTS = ((9, 30), (1, 30), (0, 30), (9, 3), (9, 0), (0, 0))
"""Positive and background candidates out of 40."""


def test_samples_fill_their_places_and_no_candidate_comes_twice(key):
    labels = np.full((len(COUNTS), 40), -1, np.int32)
    for row, (positive, negative) in zip(labels, COUNTS, strict=True):
        row[:positive], row[positive : positive + negative] = 1, 0
    np.random.default_rng(0).permuted(labels, axis=1, out=labels)
    got = draw(key, np.arange(len(COUNTS)), labels)
    for row, indices, signs, (positive, negative) in zip(labels, *got, COUNTS, strict=True):
        there = np.asarray(signs) >= 0
        chosen = np.asarray(indices)[there]
        first = min(positive, 2)
        assert (np.asarray(signs) == 1).sum() == first and (signs[:first] == 1).all()
        assert (np.asarray(signs) == 0).sum() == min(negative, 8 - first)
        assert len(set(chosen.tolist())) == len(chosen)
        np.testing.assert_array_equal(row[chosen], np.asarray(signs)[there])
        assert not np.asarray(indices)[~there].any()


def test_samples_do_not_depend_on_the_batch_and_are_fair(key):
    labels = np.broadcast_to(np.repeat(np.int32([1, 0, -1]), (10, 20, 10)), (3000, 40))
    got = draw(key, np.arange(3000), labels)
    part = draw(key, np.arange(3000)[7:9], labels[7:9])
    for x, y in zip(part, got, strict=True):
        np.testing.assert_array_equal(x, y[7:9])
    counts = np.bincount(np.asarray(got.indices).ravel(), minlength=40)
    # Binomial: means 600 and 900, standard deviations 22 and 25.
    assert np.abs(counts[:10] - 600).max() < 110 and np.abs(counts[10:30] - 900).max() < 125
    assert not counts[30:].any()


def test_few_candidates_and_any_share():
    for labels, fraction, expected in (([1, 0], 1.0, [1, 0]), ([1, 0], 0.0, [0]), ([1], 0.9, [1])):
        options = {"num_samples": 5, "positive_fraction": fraction}
        got = jax.jit(lambda *x, o=options: sample_matches(*x, **o))(
            jax.random.key(0), np.array(labels, np.int32)
        )
        np.testing.assert_array_equal(got.labels, expected + [-1] * (5 - len(expected)))


def test_bad_arguments(key):
    labels = jnp.zeros(3, jnp.int32)
    with pytest.raises(ValueError, match="num_samples=0"):
        sample_matches(key, labels, num_samples=0, positive_fraction=0.5)
    with pytest.raises(ValueError, match=r"positive_fraction=1\.5"):
        sample_matches(key, labels, num_samples=2, positive_fraction=1.5)
    with pytest.raises(ValueError, match="1 sizes, 2 feature_shapes, 2 strides"):
        pyramid_anchors((8,), feature_shapes=((1, 1), (1, 1)), strides=(4, 8))
    boxes = jnp.zeros((2, 4))
    with pytest.raises(ValueError, match=r"negative_iou=0\.7, positive_iou=0\.5"):
        match_boxes(boxes, boxes, jnp.ones(2, bool), positive_iou=0.5, negative_iou=0.7)
