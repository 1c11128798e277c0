"""What a detector proposes, keeps and should say, against loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.methods import _proposals, _targets
from jaxseg.ops.boxes import Anchors

RNG = np.random.default_rng(0)
SIZE = np.array([30, 44], np.int32)


def boxes(count, reach=40.0, least=3.0):
    start = RNG.uniform(-4, reach, (count, 2))
    return np.concatenate([start, start + RNG.uniform(least, 16, (count, 2))], 1).astype(np.float32)


def area(a):
    return max(a[2] - a[0], 0) * max(a[3] - a[1], 0)


def shared(a, b):
    return area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])


def iou(a, b):
    both = shared(a, b)
    return both / max(area(a) + area(b) - both, 1e-30)


def encode(box, anchor, weights=(1, 1, 1, 1)):
    sides, own = np.subtract(box[2:], box[:2]), np.subtract(anchor[2:], anchor[:2])
    centre, origin = np.add(box[:2], box[2:]) / 2, np.add(anchor[:2], anchor[2:]) / 2
    return np.concatenate([(centre - origin) / own, np.log(sides / own)]) * weights


def decode(deltas, anchor, size):
    own, origin = np.subtract(anchor[2:], anchor[:2]), np.add(anchor[:2], anchor[2:]) / 2
    centre, sides = origin + deltas[:2] * own, own * np.exp(deltas[2:])
    return np.clip(np.concatenate([centre - sides / 2, centre + sides / 2]), 0, np.tile(size, 2))


def greedy(found, scores, threshold, groups):
    """Places that stay, the best first."""
    stay = []
    for i in np.argsort(-scores, kind="stable"):
        if all(groups[i] != groups[j] or iou(found[i], found[j]) <= threshold for j in stay):
            stay.append(i)
    return stay


def inside(box):
    centre = np.add(box[:2], box[2:]) / 2
    return bool(np.all(centre >= 0) and np.all(centre < SIZE))


def objects(count=4, crowd=None, valid=None):
    found = boxes(count, 24.0, 6.0)
    found = np.clip(found, 0, np.tile(SIZE, 2)).astype(np.float32)
    valid = np.ones(count, bool) if valid is None else np.array(valid)
    kinds = RNG.integers(0, 3, count).astype(np.int32)
    return jax.tree.map(jnp.asarray, _targets.Objects(found, valid, kinds, crowd))


def test_boxes_of_masks():
    masks = RNG.random((5, 9, 11)) < 0.05
    masks[1] = False
    masks[2] = True
    want = np.zeros((5, 4))
    for i, mask in enumerate(masks):
        places = np.argwhere(mask)
        if len(places):
            want[i] = [*places.min(0), *(places.max(0) + 1)]
    np.testing.assert_array_equal(_targets.mask_boxes(jnp.asarray(masks)), want)
    kinds, crowd = jnp.array([0, 1, 2, 7, -1]), jnp.array([True] + 4 * [False])
    valid = jnp.array([True, True, True, True, True])
    found = _targets.objects_of(jnp.asarray(masks), valid, kinds, crowd, num_classes=3)
    np.testing.assert_array_equal(found.valid, [False, False, True, False, False])
    np.testing.assert_array_equal(found.crowd, [masks[0].any(), *4 * [False]])


@pytest.mark.parametrize("crowded", [False, True])
def test_anchors(crowded):
    anchors = boxes(60)
    crowd = jnp.array([False, False, False, True]) if crowded else None
    truth = objects(crowd=crowd, valid=[True, True, False, not crowded])
    there = np.array([inside(a) for a in anchors])
    draw = functools.partial(
        _targets.draw_anchors,
        num_samples=80,
        positive_fraction=0.5,
        positive_iou=0.5,
        negative_iou=0.3,
    )
    got = jax.jit(draw)(jax.random.key(0), jnp.asarray(anchors), jnp.asarray(there), truth)
    valid = np.flatnonzero(truth.valid)
    table = np.array([[iou(a, truth.boxes[j]) for j in valid] for a in anchors])
    table[~there] = 0
    best = table.max(0)
    want = {}
    for i in np.flatnonzero(there):
        label = 1 if table[i].max() >= 0.5 else 0 if table[i].max() < 0.3 else -1
        if np.any((table[i] == best) & (best > 0)):
            label = 1
        if crowded and label == 0 and shared(anchors[i], truth.boxes[3]) >= area(anchors[i]) / 2:
            label = -1
        if label >= 0:
            want[i] = label
    drawn = np.asarray(got.labels) >= 0
    assert dict(zip(np.asarray(got.indices)[drawn], got.labels[drawn], strict=True)) == want
    assert 1 in want.values() and len(want) < there.sum()
    for i, label, which, deltas in zip(*map(np.asarray, got), strict=True):
        if label == 1:
            assert which == valid[table[i].argmax()]
            np.testing.assert_allclose(
                deltas, encode(truth.boxes[which], anchors[i]), rtol=1e-4, atol=1e-5
            )
        else:
            assert np.all(deltas == 0)


def test_boxes_to_learn_from():
    proposals = np.clip(boxes(50, 30.0), 0, np.tile(SIZE, 2)).astype(np.float32)
    there = RNG.random(50) < 0.8
    truth = objects(5, valid=[True, True, True, False, False])
    given = _proposals.Proposals(jnp.asarray(proposals), jnp.asarray(there))
    draw = jax.jit(
        functools.partial(
            _targets.draw_rois,
            num_samples=20,
            positive_fraction=0.25,
            positive_iou=0.4,
            weights=(10.0, 10.0, 5.0, 5.0),
        )
    )
    rois, got = draw(jax.random.key(1), given, truth)
    labels = np.asarray(got.labels)
    # As many positive ones as may be, first; the objects' own boxes make that certain.
    np.testing.assert_array_equal(labels, [1] * (labels == 1).sum() + [0] * (labels == 0).sum())
    assert 3 <= (labels == 1).sum() <= 5 and len(labels) == 20
    everything = np.concatenate([proposals, truth.boxes])
    may = np.concatenate([there, truth.valid])
    assert len(set(np.asarray(got.indices))) == 20
    for roi, i, label, which, deltas in zip(rois, *map(np.asarray, got), strict=True):
        np.testing.assert_array_equal(roi, everything[i])
        overlaps = [iou(everything[i], b) * v for b, v in zip(*truth[:2], strict=True)]
        assert may[i] and label == (max(overlaps) >= 0.4)
        if label:
            assert which == np.argmax(overlaps)
            want = encode(truth.boxes[which], everything[i], (10, 10, 5, 5))
            np.testing.assert_allclose(deltas, want, rtol=1e-4, atol=1e-4)
    # Places that only pad change nothing.
    more = jax.tree.map(lambda x: jnp.concatenate([x, x[:2]]), truth._replace(crowd=None))
    more = more._replace(valid=more.valid.at[-2:].set(False))
    again, _ = draw(jax.random.key(1), given, more)
    np.testing.assert_array_equal(rois, again)


def test_without_objects_all_is_background():
    nothing = _targets.objects_of(
        jnp.zeros((0, 8, 8), bool), jnp.zeros(0, bool), None, None, num_classes=1
    )
    given = _proposals.Proposals(jnp.asarray(boxes(6)), jnp.arange(6) < 4)
    options = {"num_samples": 8, "positive_fraction": 0.25, "positive_iou": 0.5}
    rois, got = _targets.draw_rois(jax.random.key(0), given, nothing, weights=(1.0,) * 4, **options)
    np.testing.assert_array_equal(got.labels, [0] * 4 + [-1] * 4)
    assert np.all(rois[4:] == 0) and np.all(got.deltas == 0)
    crops = _targets.crop_masks(jnp.zeros((0, 8, 8), bool), rois, got.objects, size=2)
    assert crops.shape == (8, 2, 2) and not crops.any()


def test_cropped_masks():
    masks = RNG.random((3, 12, 15)) < 0.5
    cuts = np.array([[1, 2, 9, 11], [-2.5, 3.25, 4.75, 19.5], [3, 3, 3, 8], [2.2, 1.1, 3.7, 2.3]])
    which = np.array([0, 2, 1, 1], np.int32)
    given = masks, cuts.astype(np.float32), which
    crop = jax.jit(_targets.crop_masks, static_argnames=("size", "kind"))
    want = np.zeros((4, 5, 5))
    for n, (box, j) in enumerate(zip(cuts, which, strict=True)):
        steps = (box[2:] - box[:2]) / 5
        for a, b in np.ndindex(5, 5):
            corner = box[:2] + steps * (a, b)
            cell = [*corner, *(corner + steps)]
            for y, x in np.argwhere(masks[j]):
                want[n, a, b] += shared(cell, [y, x, y + 1, x + 1]) / max(area(cell), 1e-30)
    got = crop(*given, size=5)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.all(want[2] == 0)
    binary = np.asarray(crop(*given, size=5, kind="binary"))
    sure = abs(want - 0.5) > 1e-4
    np.testing.assert_array_equal(binary[sure], (want >= 0.5)[sure])
    # A whole cell at a time: halves count.
    half = jnp.asarray(np.arange(4)[None, :, None] % 2 == np.zeros((1, 4, 4)))
    box = jnp.array([[0.0, 0, 4, 4]])
    got = crop(half, box, jnp.zeros(1, jnp.int32), size=2, kind="binary")
    assert np.all(np.asarray(got) == 1)


def test_proposals():
    counts, anchors = (40, 12), boxes(52)
    levels = np.repeat(np.arange(2), counts).astype(np.int32)
    logits = RNG.normal(size=52).astype(np.float32)
    deltas = RNG.normal(0, 0.2, (52, 4)).astype(np.float32)
    logits[3], deltas[41, 1] = np.inf, np.nan
    propose = functools.partial(
        _proposals.propose, counts=counts, pre_nms=15, num_proposals=12, iou_threshold=0.4
    )
    got = jax.jit(propose)(logits, deltas, Anchors(anchors, levels), SIZE)
    may = np.array([inside(a) for a in anchors])
    may[3] = False
    chosen = []
    for level in (0, 1):
        mine = [i for i in np.argsort(-logits) if levels[i] == level and may[i]]
        chosen += mine[:15]
    found = [decode(deltas[i], anchors[i], SIZE) for i in chosen]
    # The box that is not finite takes one of the places of its level, but is none.
    keep = [n for n, b in enumerate(found) if np.all(np.isfinite(b)) and area(b) > 0]
    chosen, found = [chosen[n] for n in keep], [found[n] for n in keep]
    stay = greedy(found, logits[chosen], 0.4, levels[chosen])
    assert 41 not in chosen and len(stay) > 12
    assert np.all(got.valid)
    np.testing.assert_allclose(got.boxes, [found[n] for n in stay[:12]], rtol=1e-4, atol=1e-4)


def test_detections():
    count, classes = 20, 3
    found = np.clip(boxes(count, 30.0), 0, np.tile(SIZE, 2)).astype(np.float32)
    there = np.arange(count) < 17
    logits = RNG.normal(0, 2, (count, classes + 1)).astype(np.float32)
    deltas = RNG.normal(0, 0.3, (count, classes, 4)).astype(np.float32)
    detect = functools.partial(
        _proposals.detect,
        weights=(1.0, 1.0, 0.5, 0.5),
        score_threshold=0.2,
        iou_threshold=0.3,
        max_detections=30,
    )
    got = jax.jit(detect)(logits, deltas, _proposals.Proposals(found, there), SIZE)
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rows = [
        (scores[i, k + 1], k, decode(deltas[i, k] / (1, 1, 0.5, 0.5), found[i], SIZE))
        for i in np.flatnonzero(there)
        for k in range(classes)
        if scores[i, k + 1] > 0.2
    ]
    values, kinds = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    stay = greedy([r[2] for r in rows], values, 0.3, kinds)
    number = len(stay)
    assert 5 < number < 30 and number < len(rows)
    np.testing.assert_array_equal(got.kinds[:number], kinds[stay])
    assert np.all(got.kinds[number:] == -1)
    np.testing.assert_allclose(got.scores[:number], values[stay], rtol=1e-5)
    assert np.all(got.scores[number:] == 0) and np.all(got.boxes[number:] == 0)
    np.testing.assert_allclose(got.boxes[:number], [rows[n][2] for n in stay], rtol=1e-4, atol=1e-4)
