import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseg.ops.nms as module
from jaxseg.ops.nms import nms

pytestmark = pytest.mark.usefixtures("strict_dtypes")
THRESHOLDS = (0.3, 0.5, 0.7)


def overlaps(boxes):
    """IoU of all pairs; products of such small integers are exact, so that ties are ties."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    start = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    stop = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.prod(np.maximum(stop - start, 0), axis=2)
    areas = np.prod(sides, axis=1)
    union = areas[:, None] + areas[None] - shared
    return shared / np.where(union > 0, union, 1)


def greedy(iou, scores, threshold, valid, groups):
    """Places of the boxes that stay; one by one."""
    drops = (iou > np.float32(threshold)) & (groups[:, None] == groups[None])
    left, kept = valid.copy(), []
    for i in np.argsort(-scores, kind="stable"):
        if left[i]:
            kept.append(i)
            left &= ~drops[i]
    return kept


def random_boxes(rng, count):
    points = rng.integers(0, 24, (count, 2))
    return np.concatenate([points, points + rng.integers(0, 12, (count, 2))], 1)


def clusters(rng, count):
    """Many that are nearly the same, some exactly."""
    points = rng.integers(0, 60, (3, 2))[rng.integers(0, 3, count)]
    points = points + rng.integers(-2, 3, (count, 2))
    return np.concatenate([points, points + rng.integers(9, 12, (count, 2))], 1)


def chain(rng, count):
    """Each overlaps the next one above every threshold, and the one after it above none or some."""
    place = np.arange(count) * rng.choice([1, 2, 3, 5])
    zero = np.zeros(count, int)
    return np.stack([place, zero, place + rng.choice([11, 16, 20]), zero + 9], 1)


def nested(rng, count):
    half = rng.permutation(count) // 2 + 1
    return np.stack([60 - half, 60 - half, 60 + half, 60 + half], 1)


def cases(count, number):
    kinds = (random_boxes, clusters, chain, nested)
    for seed in range(number):
        rng = np.random.default_rng(seed)
        kind = kinds[seed % 4]
        boxes = kind(rng, count).astype(np.float32)
        # By index, or of few values (ties), or all equal.
        steps = (count, 5, 1)[rng.integers(3)]
        scores = -np.sort(rng.integers(0, steps, count)).astype(np.float32)
        if rng.random() < 0.5:
            shuffle = rng.permutation(count)
            boxes, scores = boxes[shuffle], scores[shuffle]
        valid = rng.random(count) < rng.choice([0.1, 0.6, 1.0])
        groups = rng.integers(0, rng.choice([1, 3]), count).astype(np.int32)
        yield boxes, scores, valid, groups


def run_of(max_outputs):
    """Compiled once; the rest varies by value."""
    return jax.jit(
        lambda boxes, scores, threshold, valid, groups: nms(
            boxes,
            scores,
            iou_threshold=threshold,
            max_outputs=max_outputs,
            valid=valid,
            groups=groups,
        )
    )


def count_and_check(run, case, thresholds, max_outputs):
    """How many boxes stay at each threshold, all being those of the greedy algorithm."""
    boxes, scores, valid, groups = case
    iou, counts = overlaps(boxes), []
    for threshold in thresholds:
        expected = greedy(iou, scores, threshold, valid, groups)[:max_outputs]
        indices, stays = map(np.asarray, run(boxes, scores, np.float32(threshold), valid, groups))
        np.testing.assert_array_equal(stays, np.arange(max_outputs) < len(expected))
        np.testing.assert_array_equal(indices, expected + [0] * (max_outputs - len(expected)))
        counts.append(len(expected))
    return counts


def test_thousands_of_cases_equal_the_greedy_algorithm(monkeypatch):
    """By tiles of eight, so that few boxes make many."""
    monkeypatch.setattr(module, "_TILE", 8)
    runs = {size: run_of(size) for size in (43, 6)}
    counts = []
    for number, case in enumerate(cases(43, 700)):
        size = 43 if number % 5 else 6
        counts += count_and_check(runs[size], case, THRESHOLDS, size)
    assert len(counts) == 2100 and min(counts) < 3 and max(counts) == 43


def test_whole_tiles_equal_the_greedy_algorithm():
    run = run_of(600)
    for case in cases(600, 12):
        count_and_check(run, case, THRESHOLDS, 600)


def test_a_chain_through_all_tiles():
    """Where the box before last decides on the last: every second one stays, of 2,000."""
    place = 3 * np.arange(2000, dtype=np.float32)
    boxes = np.stack([place, 0 * place, place + 10, 0 * place + 10], 1)
    scores = -place
    kept = jax.jit(lambda *x: nms(*x, iou_threshold=0.5, max_outputs=2000))(boxes, scores)
    np.testing.assert_array_equal(kept.indices[kept.valid], np.arange(0, 2000, 2))


def test_boxes_that_are_not_finite_do_not_exist():
    boxes = np.array([[0, 0, 4, 4]] * 6, np.float32)
    boxes[0, 1], boxes[1, 2] = np.nan, np.inf
    scores = np.array([9, 8, np.nan, np.inf, 1, 2], np.float32)
    kept = jax.jit(lambda *x: nms(*x, iou_threshold=0.5, max_outputs=3))(boxes, scores)
    np.testing.assert_array_equal(kept.indices, [5, 0, 0])
    np.testing.assert_array_equal(kept.valid, [True, False, False])


def test_no_boxes():
    run = jax.jit(lambda *x: nms(*x, iou_threshold=0.5, max_outputs=3))
    kept = run(jnp.zeros((0, 4)), jnp.zeros(0))
    assert kept.indices.shape == (3,) and not np.asarray(kept.valid).any()


def test_memory_is_linear_in_boxes():
    n = 50_000
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((n, 4), (n,))]
    function = jax.jit(lambda *x: nms(*x, iou_threshold=0.5, max_outputs=n))
    temporary = function.lower(*shapes).compile().memory_analysis().temp_size_in_bytes
    assert temporary < 100 * n + 8 * 256**2


@pytest.mark.parametrize("wrong", [{"max_outputs": 0}, {"iou_threshold": 1.5}])
def test_bad_options(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        nms(jnp.zeros((2, 4)), jnp.zeros(2), **{"max_outputs": 1, "iou_threshold": 0.5, **wrong})
