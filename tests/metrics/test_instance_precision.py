"""COCO's measures of instances against pycocotools, the others against slow loops."""

import contextlib
import io
import itertools
import math

import numpy as np
import pytest

from jaxseg import metrics

SIZE = (150, 170)


def blob(rng, near=None):
    """An ellipse, a bent strip, or one near another."""
    rows, columns = np.indices(SIZE)
    y, x = rng.uniform(0, SIZE[0]), rng.uniform(0, SIZE[1])
    a, b = np.exp(rng.uniform(np.log(3), np.log(90), 2))
    if near is not None:
        shifted = np.roll(near, rng.integers(-2, 3, 2), (0, 1))
        return shifted & (rng.random(SIZE) < 0.97)
    return ((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1


def random_pair(rng, classes, images=6, most=5):
    """A prediction and a batch, padded; some images are empty, some have no prediction."""
    places, found = most, 2 * most + 2
    batch = {
        "masks": np.zeros((images, places, *SIZE), bool),
        "valid": np.zeros((images, places), bool),
        "kinds": np.full((images, places), -1, np.int32),
        "crowd": np.zeros((images, places), bool),
        "size": np.stack([[SIZE[0] - i, SIZE[1] - 3 * i] for i in range(images)]),
        "weight": np.ones(images, np.float32),
    }
    told = {
        "masks": np.zeros((images, found, *SIZE), bool),
        "scores": np.zeros((images, found), np.float32),
        "kinds": np.full((images, found), -1, np.int32),
        "boxes": np.zeros((images, found, 4), np.float32),
    }
    for i in range(images):
        h, w = batch["size"][i]
        for n in range(rng.integers(0, most + 1) if i else 0):
            mask = blob(rng)
            if mask[:h, :w].any():
                batch["masks"][i, n], batch["valid"][i, n] = mask, True
                batch["kinds"][i, n] = rng.integers(classes)
                batch["crowd"][i, n] = rng.random() < 0.2
        there = np.flatnonzero(batch["valid"][i])
        for d in range(rng.integers(0, found + 1) if i != 1 else 0):
            n = rng.choice(there) if len(there) and rng.random() < 0.7 else None
            mask = blob(rng, None if n is None else batch["masks"][i, n])
            kind = rng.integers(classes)
            if n is not None and rng.random() < 0.8:
                kind = batch["kinds"][i, n]
            told["masks"][i, d, :h, :w] = mask[:h, :w]
            told["scores"][i, d] = np.round(rng.random(), 1)
            told["kinds"][i, d] = kind
            rows, columns = (np.flatnonzero(told["masks"][i, d].any(axis=a)) for a in (1, 0))
            box = [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1] if len(rows) else [0] * 4
            told["boxes"][i, d] = box + rng.uniform(-2, 2, 4)
    return told, batch


def pycocotools_figures(told, batch, classes, max_detections):
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    codec = pytest.importorskip("pycocotools.mask")
    truth, results = [], {"segm": [], "bbox": []}
    for i, (h, w) in enumerate(batch["size"].tolist()):
        for n in np.flatnonzero(batch["valid"][i]):
            rle = codec.encode(np.asfortranarray(batch["masks"][i, n, :h, :w].astype(np.uint8)))
            entry = {"id": len(truth) + 1, "image_id": i, "category_id": int(batch["kinds"][i, n])}
            entry |= {"iscrowd": int(batch["crowd"][i, n]), "segmentation": rle}
            truth.append({**entry, "area": codec.area(rle), "bbox": codec.toBbox(rle).tolist()})
        for d in np.flatnonzero(told["kinds"][i] >= 0):
            entry = {"image_id": i, "category_id": int(told["kinds"][i, d])}
            entry["score"] = float(told["scores"][i, d])
            mask = told["masks"][i, d, :h, :w].astype(np.uint8)
            rle = codec.encode(np.asfortranarray(mask))
            results["segm"].append({**entry, "segmentation": rle})
            y0, x0, y1, x1 = told["boxes"][i, d].astype(float).tolist()
            results["bbox"].append({**entry, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    figures = {}
    with contextlib.redirect_stdout(io.StringIO()):
        data = coco.COCO()
        data.dataset = {
            "images": [
                {"id": i, "height": h, "width": w}
                for i, (h, w) in enumerate(batch["size"].tolist())
            ],
            "categories": [{"id": k} for k in range(classes)],
            "annotations": truth,
        }
        data.createIndex()
        for kind, start in (("segm", ""), ("bbox", "box_")):
            run = evaluation.COCOeval(data, data.loadRes(results[kind]), kind)
            run.params.maxDets = [1, 2, max_detections]
            run.evaluate()
            run.accumulate()
            precision, recall = run.eval["precision"][..., -1], run.eval["recall"][..., -1]
            rows = {
                **{"ap": precision[..., 0], "ap_50": precision[0, ..., 0]},
                **{"ap_75": precision[5, ..., 0], "ap_small": precision[..., 1]},
                **{"ap_medium": precision[..., 2], "ap_large": precision[..., 3]},
                "ar": recall[..., 0],
            }
            for name, values in rows.items():
                known = values[values > -1]
                figures[start + name] = known.mean() if known.size else math.nan
    return figures


@pytest.mark.parametrize(("seed", "classes", "most"), [(0, 1, 100), (1, 3, 100), (2, 2, 3)])
def test_equals_pycocotools(seed, classes, most):
    told, batch = random_pair(np.random.default_rng(seed), classes)
    theirs = pycocotools_figures(told, batch, classes, most)
    metric = metrics.instances(num_classes=classes, max_detections=most)
    ours = metric.compute(metric.measure(told, batch))
    assert len(theirs) == 14
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name
    assert 0 < ours["ap"] < ours["ap_50"] < 0.95


def part(arrays, rows):
    return {name: values[rows] for name, values in arrays.items()}


def test_sums_add_and_padding_changes_nothing():
    rng = np.random.default_rng(5)
    told, batch = random_pair(rng, 2)
    metric = metrics.together(
        metrics.instances(num_classes=2, names=("a", "b")),
        metrics.panoptic_quality(num_classes=2, names=("a", "b")),
        metrics.mask_average_precision(num_classes=2, names=("a", "b")),
    )
    whole = metric.compute(metric.measure(told, batch))
    assert {"ap_a", "box_ap_b", "ap_dsb_50", "pq_a", "rq", "ap_r_70_b"} <= whole.keys()
    sums = [metric.measure(part(told, r), part(batch, r)) for r in (slice(0, 2), [2], [3, 4, 5])]
    joined = metric.merge(metric.merge(sums[0], sums[1]), sums[2])
    assert metric.compute(joined) == pytest.approx(whole, nan_ok=True)
    joined = metric.merge(sums[0], metric.merge(sums[1], sums[2]))
    assert metric.compute(joined) == pytest.approx(whole, nan_ok=True)
    # An image of weight 0, and what lies beyond the size or in no valid place.
    more = {k: np.concatenate([v, v[:2]]) for k, v in batch.items()}
    more["weight"][-2:] = 0
    more["masks"] = more["masks"].copy()
    more["masks"][~more["valid"]] = True
    other = {k: np.concatenate([v, v[2:4]]) for k, v in told.items()}
    other["masks"][other["kinds"] < 0] = True
    for i, (h, w) in enumerate(more["size"]):
        for masks in (more["masks"], other["masks"]):
            masks[i, :, h:], masks[i, :, :, w:] = True, True
    assert metric.compute(metric.measure(other, more)) == pytest.approx(whole, nan_ok=True)


def test_perfect_absent_and_empty():
    told, batch = random_pair(np.random.default_rng(3), 1)
    batch["crowd"][:] = False
    metric = metrics.together(metrics.instances(), metrics.panoptic_quality())
    perfect = {"masks": batch["masks"], "scores": batch["valid"] * 0.9, "kinds": batch["kinds"]}
    figures = metric.compute(metric.measure(perfect, batch))
    for name in ("ap", "ap_small", "box_ap", "ap_dsb", "f1_50", "pq", "sq", "ar"):
        assert figures[name] == pytest.approx(1), name
    none = {**told, "kinds": np.full_like(told["kinds"], -1)}
    figures = metric.compute(metric.measure(none, batch))
    assert figures["ap"] == figures["box_ap"] == figures["pq"] == figures["f1_50"] == 0
    figures = metric.compute(metric.measure(none, {**batch, "valid": batch["valid"] & False}))
    assert math.isnan(figures["ap"]) and math.isnan(figures["pq"]) and figures["ap_dsb"] == 1


def slow_counts(told, batch, i, threshold, score):
    """Overlaps of the pairs of a best assignment, found by trying all; objects of both kinds."""
    h, w = batch["size"][i]
    ours = [
        told["masks"][i, d, :h, :w]
        for d in range(len(told["kinds"][i]))
        if told["kinds"][i, d] >= 0 and told["scores"][i, d] > score
    ]
    ours = [mask for mask in ours if mask.any()]
    theirs = [batch["masks"][i, n, :h, :w] for n in np.flatnonzero(batch["valid"][i])]
    iou = np.array([[(a & b).sum() / (a | b).sum() for b in theirs] for a in ours])
    best: list = []
    if iou.size:
        able = [[None, *np.flatnonzero(row > threshold)] for row in iou]
        for choice in itertools.product(*able):
            used = [g for g in choice if g is not None]
            if len(set(used)) == len(used):
                found = [iou[d, g] for d, g in enumerate(choice) if g is not None]
                best = max(best, found, key=lambda f: (len(f), sum(f)))
    return best, len(ours), len(theirs)


@pytest.mark.parametrize("seed", range(3))
def test_overlapping_objects_equal_the_best_assignment(seed):
    rng = np.random.default_rng(seed)
    told, batch = random_pair(rng, 1, images=5, most=4)
    batch["crowd"][:] = False
    limits = (0.5, 0.7, 0.8)
    metric = metrics.dsb_average_precision(
        overlapping=True, thresholds=limits, score_threshold=0.35
    )
    figures = metric.compute(metric.measure(told, batch))
    scores, hits, both = [], 0, 0
    for i, limit in itertools.product(range(5), limits):
        found, n, m = slow_counts(told, batch, i, limit, 0.35)
        scores.append(len(found) / (n + m - len(found)) if n + m else 1.0)
        if limit == 0.5:
            hits, both = hits + len(found), both + n + m
    assert figures["ap_dsb"] == pytest.approx(np.mean(scores))
    assert figures["f1_50"] == pytest.approx(2 * hits / both) and hits
    counts = [slow_counts(told, batch, i, 0.5, 0.35) for i in range(5)]
    metric = metrics.panoptic_quality(score_threshold=0.35)
    figures = metric.compute(metric.measure(told, batch))
    total = sum(sum(found) for found, _, _ in counts)
    assert figures["sq"] == pytest.approx(total / hits)
    assert figures["pq"] == pytest.approx(total / (both / 2))


def test_maps_and_their_masks_score_the_same():
    rng = np.random.default_rng(7)
    label, told = (np.kron(rng.integers(0, 9, (2, 4, 5)), np.ones((1, 6, 6), int)) for _ in "ab")
    told = np.where(rng.random(told.shape) < 0.7, label, told)
    label[rng.random(label.shape) < 0.05] = -1
    batch = {"label": label, "weight": np.ones(2), "size": np.array([[24, 30], [20, 30]])}
    masks = label[:, None] == np.arange(1, 9)[:, None, None]
    both = {**batch, "masks": masks, "valid": masks.any(axis=(2, 3))}
    maps = metrics.dsb_average_precision()
    expected = maps.compute(maps.measure({"instances": told}, batch))
    over = metrics.dsb_average_precision(overlapping=True)
    assert over.compute(over.measure({"instances": told}, both)) == pytest.approx(expected)
    stacked = told[:, None] == np.arange(1, 9)[:, None, None]
    given = {"masks": stacked, "scores": np.ones((2, 8))}
    assert over.compute(over.measure(given, both)) == pytest.approx(expected)
    assert 0.1 < expected["ap_dsb"] < 0.9


def test_what_lies_in_a_crowd_counts_nowhere():
    masks = np.zeros((1, 3, 40, 40), bool)
    masks[0, 0, :10, :10], masks[0, 1, 20:, 20:] = True, True
    batch = {
        "masks": masks,
        "valid": np.array([[True, True, False]]),
        "crowd": np.array([[False, True, False]]),
        "size": np.array([[40, 40]]),
        "weight": np.ones(1),
    }
    found = masks.copy()
    found[0, 1], found[0, 2] = False, False
    found[0, 1, 22:30, 22:30], found[0, 2, 30:38, 22:39] = True, True
    told = {"masks": found, "scores": np.array([[0.9, 0.95, 0.8]])}
    metric = metrics.together(
        metrics.instances(),
        metrics.panoptic_quality(),
        metrics.mask_average_precision(num_classes=1),
    )
    figures = metric.compute(metric.measure(told, batch))
    for name in ("ap", "box_ap", "ap_dsb", "pq"):
        assert figures[name] == pytest.approx(1), name
    # A part of the crowd is no hit of it by VOC's rule, where overlap is of both.
    told["masks"][0, 2] = False
    figures = metric.compute(metric.measure(told, {**batch, "crowd": batch["valid"] & False}))
    assert figures["f1_50"] == pytest.approx(2 / 4)


def slow_voc(told, batch, threshold):
    """VOC's average precision of one class, detection by detection."""
    order = sorted(
        ((-told["scores"][i, d], i, d) for i, d in np.argwhere(told["kinds"] == 0)),
        key=lambda entry: entry[:2],
    )
    taken, curve, hits = set(), [], 0
    for count, (_, i, d) in enumerate(order, 1):
        h, w = batch["size"][i]
        mask, best, at = told["masks"][i, d, :h, :w], -1.0, None
        for n in np.flatnonzero(batch["valid"][i] & (batch["kinds"][i] == 0)):
            true = batch["masks"][i, n, :h, :w]
            iou = (mask & true).sum() / (mask | true).sum()
            if iou > best:
                best, at = iou, (i, n)
        if best >= threshold and at not in taken:
            taken.add(at)
            hits += 1
        curve.append((hits, hits / count))
    total = int((batch["valid"] & (batch["kinds"] == 0)).sum())
    return sum(max((p for h, p in curve if h >= k), default=0) for k in range(1, total + 1)) / total


@pytest.mark.parametrize("seed", range(3))
def test_mask_average_precision_equals_a_loop(seed):
    told, batch = random_pair(np.random.default_rng(seed), 2)
    batch["crowd"][:] = False
    told["scores"] += np.random.default_rng(9).uniform(0, 0.05, told["scores"].shape).astype("f4")
    metric = metrics.mask_average_precision(num_classes=2, names=("first", "second"))
    figures = metric.compute(metric.measure(told, batch))
    for threshold in (50, 70):
        expected = slow_voc(told, batch, threshold / 100)
        assert figures[f"ap_r_{threshold}_first"] == pytest.approx(expected)
    assert 0 < figures["ap_r_70"] <= figures["ap_r_50"] < 1


def test_bad_input():
    told, batch = random_pair(np.random.default_rng(0), 2, images=3)
    for make, message in (
        (lambda: metrics.instances(num_classes=0), "num_classes=0"),
        (lambda: metrics.instances(num_classes=2, names=("a",)), "1 names for 2"),
        (lambda: metrics.mask_average_precision(num_classes=1, thresholds=()), r"thresholds=\(\)"),
        (lambda: metrics.panoptic_quality(num_classes=0), "num_classes=0"),
        (lambda: metrics.instances().measure(told, batch), r"kinds .\.\.1: expected 0\.\.0"),
        (
            lambda: metrics.instances().measure({**told, "masks": told["masks"][..., 1:]}, batch),
            "differ in size",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
