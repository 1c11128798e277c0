"""COCO's score of keypoints, held against pycocotools on random people."""

import contextlib
import io
import json
import math

import numpy as np
import pytest

from jaxseg.data.coco_people import People, read_people
from jaxseg.metrics import keypoint_oks

NAMES = (
    *("ap", "ap_50", "ap_75", "ap_medium", "ap_large"),
    *("ar", "ar_50", "ar_75", "ar_medium", "ar_large"),
)
SIGMAS = np.array(
    [
        *(0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72),
        *(0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89),
    ]
)


def random_truth(rng, images=12, most=4, sizes=(12, 220)):
    """Annotations as the public file has them: crowds, people without keypoints, empty images."""
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    for i in rng.permutation(images):
        image_id = int(7 * i + 3)
        content["images"].append(
            {"id": image_id, "file_name": f"{image_id:012d}.jpg", "height": 480, "width": 640}
        )
        for _ in range(rng.integers(0, most + 1)):
            side = float(np.exp(rng.uniform(*np.log(sizes))))
            x, y = rng.uniform(0, 300, 2)
            table = np.zeros((17, 3), int)
            kind = rng.choice(["person", "person", "person", "person", "none", "crowd", "group"])
            if kind in ("person", "group"):
                table[:, :2] = rng.uniform((x, y), (x + side, y + side), (17, 2))
                table[:, 2] = rng.integers(0, 3, 17)
                table[rng.integers(17), 2] = 2
                table[table[:, 2] == 0] = 0
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "iscrowd": int(kind in ("crowd", "group")),
                    "bbox": [x, y, side, side],
                    "area": side * side * rng.uniform(0.4, 0.9),
                    "keypoints": table.ravel().tolist(),
                    "num_keypoints": int((table[:, 2] > 0).sum()),
                }
            )
    return content


def random_found(rng, content, coarse, more=0):
    """Points in pixels of random crops, about the people and elsewhere, and the truth's images."""
    found = []
    for a in content["annotations"]:
        table = np.array(a["keypoints"], float).reshape(17, 3)
        size = np.sqrt(a["area"])
        base = np.where(table[:, 2:] > 0, table[:, 1::-1], np.array(a["bbox"][1::-1]) + size / 2)
        for _ in range(rng.integers(0, 3)):
            noise = rng.normal(size=(17, 2)) * size * rng.choice([0.01, 0.05, 0.12, 0.3])
            found.append((a["image_id"], base + noise))
    for _ in range(4):
        image_id = content["images"][rng.integers(len(content["images"]))]["id"]
        found.append((image_id, rng.uniform(0, 400, (17, 2))))
    for _ in range(more):
        found.append((content["images"][0]["id"], found[0][1] + rng.normal(size=(17, 2))))
    found = [found[i] for i in rng.permutation(len(found))]
    crop = rng.normal(size=(len(found), 2, 3)).astype(np.float32) * [1, 1, 50]
    crop = crop.astype(np.float32)
    inverse = np.linalg.inv(crop[..., :2])
    points = np.array([p for _, p in found]) - crop[:, None, :, 2]
    return {
        "image_id": np.array([i for i, _ in found], np.int32),
        "points": np.einsum("bij,bpj->bpi", inverse, points).astype(np.float32),
        "crop": crop,
        "score": np.round(rng.random(len(found)), 1 if coarse else 6).astype(np.float32),
    }


def as_batch(found, sure=None, kinds=None, weight=None):
    """The prediction and the batch of these detections."""
    count = len(found["score"])
    sure = np.ones((count, 17), np.float32) if sure is None else sure
    kinds = np.tile(np.arange(17, dtype=np.int32), (count, 1)) if kinds is None else kinds
    batch = {k: found[k] for k in ("image_id", "crop", "score")}
    batch["size"] = np.tile(np.array([256, 192], np.int32), (count, 1))
    batch["weight"] = np.ones(count, np.float32) if weight is None else weight
    return {"points": found["points"], "kinds": kinds, "scores": sure}, batch


def in_image(found):
    affine = found["crop"].astype(np.float64)
    turned = np.einsum("bij,bpj->bpi", affine[..., :2], found["points"].astype(np.float64))
    return turned + affine[:, None, :, 2]


def official(content, image_id, points, score):
    """The ten figures of pycocotools."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = json.loads(json.dumps(content))
        truth.createIndex()
        table = np.concatenate([points[..., ::-1], np.ones((*points.shape[:2], 1))], axis=-1)
        results = [
            {"image_id": int(i), "category_id": 1, "keypoints": t.ravel().tolist(), "score": s}
            for i, t, s in zip(image_id, table, score.tolist(), strict=True)
        ]
        run = evaluation.COCOeval(truth, truth.loadRes(results), "keypoints")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats


def people_of(content, tmp_path):
    path = tmp_path / "person_keypoints_val2017.json"
    path.write_text(json.dumps(content))
    return read_people(path)[1]


def assert_equal(figures, stats):
    got = np.nan_to_num([figures[name] for name in NAMES], nan=-1.0)
    np.testing.assert_allclose(got, stats, atol=1e-6)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_equals_pycocotools(seed, coarse, tmp_path):
    rng = np.random.default_rng(seed)
    content = random_truth(rng)
    found = random_found(rng, content, coarse, more=25)
    metric = keypoint_oks(people_of(content, tmp_path), nms_threshold=None)
    # Batches of uneven size, the last with padding; merged in two orders of bracketing.
    parts = []
    for start, end in ((0, 5), (5, 6), (6, len(found["score"]))):
        part = {k: v[start:end] for k, v in found.items()}
        weight = np.ones(end - start + 1, np.float32)
        weight[-1] = 0
        padded = {k: np.concatenate([v, v[:1]]) for k, v in part.items()}
        padded["image_id"][-1] = 0  # of no image
        parts.append(metric.measure(*as_batch(padded, weight=weight)))
    a, b, c = parts
    left, right = metric.merge(metric.merge(a, b), c), metric.merge(a, metric.merge(b, c))
    figures = metric.compute(left)
    assert figures == metric.compute(right)
    stats = official(content, found["image_id"], in_image(found), found["score"])
    assert_equal(figures, stats)
    assert 0.02 < figures["ap"] < figures["ap_50"] < 1 and figures["ar"] > 0.1
    counted = [a for a in content["annotations"] if a["num_keypoints"] and not a["iscrowd"]]
    assert figures["people"] == len(counted)


def test_no_person_of_a_size_and_none_at_all(tmp_path):
    rng = np.random.default_rng(3)
    content = random_truth(rng, images=6, sizes=(130, 220))
    found = random_found(rng, content, coarse=False)
    stats = official(content, found["image_id"], in_image(found), found["score"])
    assert stats[3] == -1 and stats[4] > 0
    metric = keypoint_oks(people_of(content, tmp_path), nms_threshold=None)
    figures = metric.compute(metric.measure(*as_batch(found)))
    assert_equal(figures, stats)
    assert math.isnan(figures["ap_medium"])
    nothing = metric.compute(metric.measure(*as_batch({k: v[:0] for k, v in found.items()})))
    assert nothing["ap"] == nothing["ar"] == 0 and math.isnan(nothing["ar_medium"])


def test_the_best_point_of_a_kind_counts_and_a_missing_one_is_at_the_origin(tmp_path):
    rng = np.random.default_rng(5)
    content = random_truth(rng)
    found = random_found(rng, content, coarse=False)
    count = len(found["score"])
    sure = rng.random((count, 20)).astype(np.float32)
    kinds = rng.integers(-1, 17, (count, 20)).astype(np.int32)
    points = np.take_along_axis(found["points"], np.maximum(kinds, 0)[..., None], axis=1)
    points = points + rng.normal(size=points.shape).astype(np.float32)
    places = in_image({**found, "points": points})
    expected = np.zeros((count, 17, 2))
    scores = np.zeros(count)
    for i in range(count):
        best = np.zeros(17)
        for place, kind, s in zip(places[i], kinds[i], sure[i].astype(np.float64), strict=True):
            if kind >= 0 and s > best[kind]:
                best[kind], expected[i, kind] = s, place
        good = best[best > 0.4]
        scores[i] = found["score"][i] * (good.mean() if len(good) else 0)
    assert (expected == 0).all(axis=-1).any()
    metric = keypoint_oks(
        people_of(content, tmp_path), nms_threshold=None, score_threshold=0.4, max_detections=20
    )
    sums = metric.measure(*as_batch({**found, "points": points}, sure, kinds))
    np.testing.assert_allclose(sums["points"], expected, atol=1e-9)
    np.testing.assert_allclose(sums["score"], scores, rtol=1e-12)
    stats = official(content, found["image_id"], expected, sums["score"])
    assert_equal(metric.compute(sums), stats)


def slow_suppression(image_id, points, score, window, threshold):
    """Indices that stay, pair by pair."""
    kept = []
    for i in np.argsort(-score, kind="stable"):
        for j in kept:
            if image_id[i] == image_id[j]:
                squared = ((points[i] - points[j]) ** 2).sum(axis=-1)
                area = (window[i] + window[j]) / 2
                if np.exp(-squared / (2 * area * (SIGMAS / 5) ** 2)).mean() > threshold:
                    break
        else:
            kept.append(i)
    return np.sort(kept)


@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_similar_detections_are_dropped(threshold, tmp_path):
    rng = np.random.default_rng(8)
    content = random_truth(rng)
    found = random_found(rng, content, coarse=False, more=25)
    window = np.abs(np.linalg.det(found["crop"][..., :2].astype(np.float64))) * 256 * 192
    places = in_image(found)
    kept = slow_suppression(found["image_id"], places, found["score"], window, threshold)
    assert 10 < len(kept) < len(found["score"]) - 10
    metric = keypoint_oks(people_of(content, tmp_path), nms_threshold=threshold)
    figures = metric.compute(metric.measure(*as_batch(found)))
    stats = official(content, found["image_id"][kept], places[kept], found["score"][kept])
    assert_equal(figures, stats)


def test_an_exact_answer_scores_one():
    points = np.random.default_rng(0).uniform(0, 90, (2, 17, 2))
    people = People(
        images=np.array([4, 9]),
        ids=np.array([1, 2]),
        image_id=np.array([9, 4]),
        points=points,
        labelled=np.ones((2, 17), bool),
        num_keypoints=np.array([17, 17]),
        box=np.array([[0.0, 0.0, 90.0, 90.0]] * 2),
        area=np.array([5000.0, 9500.0]),
        crowd=np.zeros(2, bool),
    )
    crop = np.tile(np.eye(2, 3, dtype=np.float32), (2, 1, 1))
    found = {"points": points, "crop": crop, "image_id": people.image_id, "score": np.ones(2)}
    metric = keypoint_oks(people)
    figures = metric.compute(metric.measure(*as_batch(found)))
    assert figures == {**dict.fromkeys(NAMES, pytest.approx(1)), "people": 2}
    # A wide deviation takes what a narrow one refuses.
    found["points"] = points + 12
    far = metric.measure(*as_batch(found))
    assert metric.compute(far)["ar"] < 0.5
    assert keypoint_oks(people, sigmas=(0.9,) * 17).compute(far)["ar"] == 1


def test_what_is_wrong_is_named(tmp_path):
    content = random_truth(np.random.default_rng(0))
    people = people_of(content, tmp_path)
    for options, says in [
        ({"sigmas": (0.1,) * 5}, r"sigmas=.*expected 17 numbers"),
        ({"sigmas": (0.0,) * 17}, "above 0"),
        ({"nms_threshold": 1.5}, r"nms_threshold=1.5: expected 0..1 or None"),
        ({"max_detections": 0}, "max_detections=0"),
    ]:
        with pytest.raises(ValueError, match=says):
            keypoint_oks(people, **options)
    metric = keypoint_oks(people)
    found = random_found(np.random.default_rng(0), content, coarse=False)
    wrong = np.full((len(found["score"]), 17), 17, np.int32)
    with pytest.raises(ValueError, match=r"kinds up to 17: expected -1..16"):
        metric.measure(*as_batch(found, kinds=wrong))
    found["image_id"] = np.full_like(found["image_id"], 1)
    with pytest.raises(ValueError, match="image 1 is none of those"):
        metric.compute(metric.measure(*as_batch(found)))
