"""COCO's matching and precision on boxes, held against pycocotools."""

import contextlib
import io

import numpy as np
import pytest

from jaxseg.metrics._average_precision import join, match, precision_recall

RANGES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])[..., None]


def random_boxes(rng, count, near=None):
    """x, y, width, height; half of them near others."""
    boxes = np.concatenate([rng.uniform(0, 200, (count, 2)), rng.uniform(8, 130, (count, 2))], 1)
    if near is not None and len(near):
        chosen = near[rng.integers(0, len(near), count)]
        close = chosen * rng.uniform(0.9, 1.1, (count, 4))
        boxes = np.where(rng.random((count, 1)) < 0.7, close, boxes)
    return boxes


@pytest.mark.parametrize("seed", range(4))
def test_boxes_equal_pycocotools(seed):
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(seed)
    truth, told, parts = [], [], []
    for image in range(10):
        boxes = random_boxes(rng, rng.integers(0, 7))
        crowd = rng.random(len(boxes)) < 0.2
        found = random_boxes(rng, rng.integers(0, 12), boxes)
        found = np.concatenate([found, found[:2]])  # of the same overlap
        scores = np.round(rng.random(len(found)), 1)
        for box, group in zip(boxes.tolist(), crowd.tolist(), strict=True):
            entry = {"id": len(truth) + 1, "image_id": image, "category_id": 1, "bbox": box}
            truth.append({**entry, "area": box[2] * box[3], "iscrowd": int(group)})
        for box, score in zip(found.tolist(), scores.tolist(), strict=True):
            told.append({"image_id": image, "category_id": 1, "bbox": box, "score": score})
        order = np.argsort(-scores, kind="stable")
        found, scores = found[order], scores[order]
        overlaps = np.zeros((len(found), len(boxes)))
        if overlaps.size:
            overlaps[:] = mask.iou(found, boxes, crowd.astype(np.uint8))
        area, extent = boxes[:, 2] * boxes[:, 3], found[:, 2] * found[:, 3]
        parts.append(
            match(
                scores,
                overlaps,
                ignored=crowd | (area < RANGES[:, 0]) | (area > RANGES[:, 1]),
                crowd=crowd,
                outside=(extent < RANGES[:, 0]) | (extent > RANGES[:, 1]),
            )
        )
    with contextlib.redirect_stdout(io.StringIO()):
        data = coco.COCO()
        data.dataset = {
            "images": [{"id": i} for i in range(10)],
            "categories": [{"id": 1}],
            "annotations": truth,
        }
        data.createIndex()
        run = evaluation.COCOeval(data, data.loadRes(told), "bbox")
        run.evaluate()
        run.accumulate()
    precision, recall = precision_recall(join(parts))
    assert 0.05 < precision[0].mean() < 0.9
    theirs = run.eval["precision"][:, :, 0, :, -1].transpose(2, 0, 1)
    np.testing.assert_allclose(np.nan_to_num(precision, nan=-1.0), theirs, atol=1e-12)
    theirs = run.eval["recall"][:, 0, :, -1].T
    np.testing.assert_allclose(np.nan_to_num(recall, nan=-1.0), theirs, atol=1e-12)


def test_rising_scores_are_refused():
    options = {"ignored": np.zeros((1, 3), bool), "crowd": np.zeros(3, bool)}
    with pytest.raises(ValueError, match="scores rise"):
        match(np.array([0.1, 0.2]), np.zeros((2, 3)), outside=np.zeros((1, 2), bool), **options)
