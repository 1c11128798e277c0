"""COCO's public layout, written here with a few small photos."""

import functools
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from jaxseg.data import Source, eval_batches, train_batches, write_image
from jaxseg.data.coco_keypoints import CocoKeypointSource
from jaxseg.data.coco_people import KEYPOINTS, read_people
from jaxseg.data.person_crops import SWAPPED, crop_person, random_crop_person, to_image
from jaxseg.metrics import keypoint_oks
from jaxseg.types import InputError

PHOTOS = {21: ("000000000021.png", 40, 60), 5: ("000000000005.png", 50, 30)}
SIZE = (32, 24)


def person(number, image_id, box, points, **changes):
    """An annotation; `points` as {kind: (row, column, v)}, box as COCO's x, y, width, height."""
    table = np.zeros((17, 3))
    for kind, (row, column, v) in points.items():
        table[kind] = (column, row, v)
    return {
        **{"id": number, "image_id": image_id, "category_id": 1, "iscrowd": 0, "bbox": box},
        **{"area": 0.5 * box[2] * box[3], "keypoints": table.ravel().tolist()},
        "num_keypoints": int((table[:, 2] > 0).sum()),
        **changes,
    }


ANNOTATIONS = [
    person(
        7, 21, [10, 4, 20, 30], {0: (8, 20, 2), 5: (12, 26, 1), 6: (12, 14, 2), 16: (39, 59, 2)}
    ),
    person(8, 21, [40, 10, 12, 10], {}),
    person(9, 5, [-5, 10, 20, 60], {9: (20.5, 3.25, 2), 10: (20, 12, 0)}),
    person(10, 5, [0, 0, 30, 50], {0: (3, 4, 2)}, iscrowd=1),
    person(11, 5, [5, 5, 10, 10], {0: (8, 9, 2)}, category_id=18),
    person(12, 5, [5, 5, 0, 10], {0: (8, 9, 2)}),
    person(13, 21, [-9, 2, 5, 5], {0: (8, 9, 2)}),
]


def photo(image_id):
    """Red tells the row, green the column; blue has texture."""
    rows, columns = np.indices(PHOTOS.get(image_id, PHOTOS[5])[1:])
    return np.stack([5 * rows, 4 * columns, (rows * columns) % 251], axis=-1).astype(np.uint8)


def write_release(root, annotations=ANNOTATIONS, split="val", photos=PHOTOS):
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / f"{split}2017").mkdir()
    for image_id, (name, _, _) in photos.items():
        write_image(root / f"{split}2017" / name, photo(image_id))
    images = [
        {"id": i, "file_name": name, "height": height, "width": width}
        for i, (name, height, width) in photos.items()
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1}]}
    path = root / "annotations" / f"person_keypoints_{split}2017.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def release(tmp_path):
    write_release(tmp_path / "coco")
    return tmp_path / "coco"


def test_people_as_the_file_has_them(release):
    path = release / "annotations/person_keypoints_val2017.json"
    photos, people = read_people(path)
    assert photos == PHOTOS
    rows = [a for a in json.loads(path.read_text())["annotations"] if a["category_id"] == 1]
    assert people.images.tolist() == [5, 21] and len(rows) == 6
    assert people.ids.tolist() == [a["id"] for a in rows]
    assert people.image_id.tolist() == [a["image_id"] for a in rows]
    assert people.crowd.tolist() == [bool(a["iscrowd"]) for a in rows]
    assert people.num_keypoints.tolist() == [a["num_keypoints"] for a in rows]
    for i, a in enumerate(rows):
        x, y, width, height = a["bbox"]
        assert people.box[i].tolist() == [y, x, y + height, x + width]
        for k in range(17):
            x, y, v = a["keypoints"][3 * k : 3 * k + 3]
            assert people.labelled[i, k] == (v > 0)
            assert people.points[i, k].tolist() == ([y, x] if v > 0 else [0, 0])


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_one_example_per_person_with_keypoints(release, cache_bytes):
    source = CocoKeypointSource(release, "val", size=None, cache_bytes=cache_bytes)
    assert isinstance(source, Source)
    assert source.ids == ("000000000021/7", "000000000005/9")
    assert len(source.people.ids) == 6
    for _ in range(2):
        first, second = source[0], source[-1]
        np.testing.assert_array_equal(first["image"], photo(21))
        assert first["kinds"].tolist() == [0, *[-1] * 4, 5, 6, *[-1] * 9, 16]
        assert first["points"][[0, 5, 16]].tolist() == [[8, 20], [12, 26], [39, 59]]
        assert first["box"].tolist() == [4, 10, 34, 30] and first["area"] == 300
        assert first["score"] == 1 and first["image_id"] == 21 and first["image_id"].dtype == "i4"
        assert second["box"].tolist() == [10, 0, 50, 15] and second["id"] == "000000000005/9"
        assert source.extent(1) == (50, 30, 0)
    crops = CocoKeypointSource(release, size=SIZE)
    assert crops.ids == source.ids and crops.extent(0) == (*SIZE, 0)
    for i in range(2):
        whole, cut = source[i], crops[i]
        assert cut["image"].shape == (*SIZE, 3) and cut["size"].tolist() == list(SIZE)
        expected = crop_person(whole, size=SIZE)
        for key in expected:
            np.testing.assert_array_equal(cut[key], expected[key])


def test_window_of_the_published_protocol():
    """The box grown to the crop's proportions, then by a quarter, about the same middle."""
    example = {
        "image": photo(21),
        "points": np.zeros((17, 2)),
        "kinds": np.full(17, -1),
    }
    corners = np.array([[-0.5, -0.5], [31.5, 23.5]])
    for box, window in [
        ([4, 10, 34, 30], (37.5, 28.125)),  # 30 high, 20 wide: as high
        ([10, 5, 20, 35], (50, 37.5)),  # 10 high, 30 wide: as wide
    ]:
        cut = crop_person({**example, "box": np.array(box, np.float32)}, size=SIZE)
        (top, left), (bottom, right) = to_image(corners, cut["crop"]) + 0.5
        assert (bottom - top, right - left) == pytest.approx(window)
        assert (top + bottom, left + right) == pytest.approx((box[0] + box[2], box[1] + box[3]))
        larger = crop_person(
            {**example, "box": np.array(box, np.float32)}, size=SIZE, padding=1.0, scale=2.0
        )
        (top, left), (bottom, right) = to_image(corners, larger["crop"])
        assert (bottom - top, right - left) == pytest.approx(np.multiply(window, 1.6))


options = {
    "scale": st.floats(0.5, 2.0),
    "rotation": st.floats(-180, 180),
    "flip": st.booleans(),
    "seed": st.integers(0, 1000),
}


@settings(max_examples=40, deadline=None)
@given(**options)
def test_pixels_and_points_follow_the_same_affine(scale, rotation, flip, seed):
    rng = np.random.default_rng(seed)
    image = photo(21)
    points = rng.uniform(0, 40, (17, 2)).astype(np.float32)
    kinds = np.where(rng.random(17) < 0.7, np.arange(17), -1).astype(np.int32)
    box = np.array([3, 8, 30, 44], np.float32)
    cut = crop_person(
        {"image": image, "points": points, "kinds": kinds, "box": box, "id": "a"},
        **{"size": SIZE, "scale": scale, "rotation": rotation, "flip": flip},
    )
    assert cut["crop"].dtype == cut["points"].dtype == np.float32 and cut["id"] == "a"
    # Every pixel is the image at the place that `crop` says; Pillow repeats the outermost half.
    places = to_image(
        np.moveaxis(np.indices(SIZE), 0, -1).reshape(-1, 2).astype(float), cut["crop"]
    )
    known = ((places > 0.01) & (places < np.array([38.99, 58.99]))).all(axis=1)
    beyond = ((places < -0.51) | (places > np.array([39.51, 59.51]))).any(axis=1)
    pixels = cut["image"].reshape(-1, 3)
    for c in range(3):
        expected = map_coordinates(image[..., c].astype(np.float64), places.T, order=1)
        assert np.abs(pixels[known, c] - expected[known]).max(initial=0) <= 1.01
    assert not pixels[beyond].any() and known.any()
    # Every point is where the image has it, under its name in a mirror.
    back = to_image(cut["points"], cut["crop"])
    for k in range(17):
        name = mirrored(KEYPOINTS[k]) if flip else KEYPOINTS[k]
        old = KEYPOINTS.index(name)
        if cut["kinds"][k] >= 0:
            assert cut["kinds"][k] == k and kinds[old] >= 0
            np.testing.assert_allclose(back[k], points[old], atol=1e-3)
            assert (cut["points"][k] > -0.51).all() and (cut["points"][k] < [31.51, 23.51]).all()
        else:
            assert cut["points"][k].tolist() == [0, 0]
            gone = np.linalg.solve(cut["crop"][:, :2], points[old] - cut["crop"][:, 2])
            assert kinds[old] < 0 or (gone < -0.49).any() or (gone > [31.49, 23.49]).any()


def test_a_quarter_turn_is_clockwise():
    """What was above is at the right."""
    points = np.zeros((17, 2), np.float32)
    points[:2] = [(10, 20), (20, 20)]
    kinds = np.array([0, 1, *[-1] * 15], np.int32)
    example = {"image": photo(21), "box": np.array([4, 10, 34, 30]), "points": points}
    cut = crop_person({**example, "kinds": kinds}, size=SIZE, rotation=90.0)
    above, below = cut["points"][:2]
    assert above[0] == pytest.approx(below[0], abs=1e-3) and above[1] > below[1] + 5


def mirrored(name):
    swap = {"left": "right", "right": "left"}
    return "_".join(swap.get(word, word) for word in name.split("_"))


def test_mirrored_names():
    assert [KEYPOINTS[k] for k in SWAPPED] == [mirrored(name) for name in KEYPOINTS]
    assert sum(k == swapped for k, swapped in enumerate(SWAPPED)) == 1


def test_random_crops_stay_in_their_ranges(release):
    example = CocoKeypointSource(release, "val", size=None)[0]
    scales, angles, flips = [], [], []
    for seed in range(300):
        cut = random_crop_person(example, np.random.default_rng(seed), size=SIZE)
        turn = cut["crop"][:, :2].astype(np.float64)
        sign = np.sign(np.linalg.det(turn))
        scales.append(np.sqrt(abs(np.linalg.det(turn))) * 32 / 37.5)
        angles.append(np.rad2deg(np.arctan2(turn[1, 0], turn[0, 0])))
        flips.append(sign < 0)
    angles = np.array(angles)
    turned = np.abs(angles) > 1e-4
    assert 0.65 - 1e-5 <= min(scales) < 0.7 and 1.3 < max(scales) <= 1.35 + 1e-5
    assert np.abs(angles).max() <= 45 and angles.min() < -40 and angles.max() > 40
    assert 0.5 < turned.mean() < 0.7 and 0.4 < np.mean(flips) < 0.6
    still = random_crop_person(
        example,
        np.random.default_rng(0),
        **{"size": SIZE, "scale": 0.0, "rotation_probability": 0.0, "flip_probability": 0.0},
    )
    np.testing.assert_array_equal(still["image"], crop_person(example, size=SIZE)["image"])
    a, b = np.random.default_rng(1), np.random.default_rng(1)
    random_crop_person(example, a, size=SIZE)
    random_crop_person(example, b, size=SIZE, rotation_probability=0.0, flip_probability=0.0)
    assert a.random() == b.random()


def test_batches(release):
    (batch,) = eval_batches(CocoKeypointSource(release, "val", size=SIZE), batch_size=3)
    assert batch["image"].shape == (3, *SIZE, 3) and batch["weight"].tolist() == [1, 1, 0]
    assert batch["points"].shape == (3, 17, 2) and batch["points"].dtype == np.float32
    assert batch["kinds"].shape == (3, 17) and batch["kinds"].dtype == np.int32
    assert batch["crop"].shape == (3, 2, 3) and batch["image_id"].tolist() == [21, 5, 0]
    assert batch["size"][0].tolist() == list(SIZE)
    whole = CocoKeypointSource(release, "val", size=None)
    transform = functools.partial(random_crop_person, size=SIZE)
    stream = [
        next(iter(train_batches(whole, batch_size=4, seed=3, transform=transform, num_threads=n)))
        for n in (0, 2)
    ]
    for key in stream[0]:
        np.testing.assert_array_equal(stream[0][key], stream[1][key])
    assert stream[0]["image"].shape == (4, *SIZE, 3) and (stream[0]["weight"] == 1).all()


def test_true_points_of_the_crops_are_found(release):
    """From the crops back into the photos, where the annotations are."""
    source = CocoKeypointSource(release, "val", size=SIZE)
    metric = keypoint_oks(source.people)
    (batch,) = eval_batches(source, batch_size=3)
    scores = np.ones((3, 17), np.float32)
    prediction = {"points": batch["points"], "kinds": batch["kinds"], "scores": scores}
    figures = metric.compute(metric.measure(prediction, batch))
    # Two have an empty box, of the four people with keypoints.
    assert figures["people"] == 4 and figures["ar_50"] == 0.5
    assert figures["ap_50"] == pytest.approx(51 / 101)
    shifted = {**prediction, "points": batch["points"] + 10}
    assert metric.compute(metric.measure(shifted, batch))["ar_50"] == 0


def test_detected_boxes(release, tmp_path):
    results = [
        {"image_id": 5, "category_id": 1, "bbox": [2, 3, 10, 20], "score": 0.75},
        {"image_id": 21, "category_id": 2, "bbox": [2, 3, 10, 20], "score": 0.9},
        {"image_id": 21, "category_id": 1, "bbox": [50, 3, 30, 10], "score": 0.25},
        {"image_id": 21, "category_id": 1, "bbox": [70, 3, 30, 10], "score": 0.9},
    ]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(results))
    source = CocoKeypointSource(release, "val", size=SIZE, boxes=path)
    assert source.ids == ("000000000005/0", "000000000021/1")
    assert [source[i]["box"].tolist() for i in (0, 1)] == [[3, 2, 23, 12], [3, 50, 13, 60]]
    assert [float(source[i]["score"]) for i in (0, 1)] == [0.75, 0.25]
    assert [float(source[i]["area"]) for i in (0, 1)] == [200, 100]
    assert (source[0]["kinds"] == -1).all() and source[0]["image"].shape == (*SIZE, 3)
    assert len(CocoKeypointSource(release, "val", boxes=path, min_score=0.5)) == 1
    with pytest.raises(
        InputError, match=r"boxes.json: no box in an image has a score of 0.99 or more; lower"
    ):
        CocoKeypointSource(release, "val", boxes=path, min_score=0.99)
    for content, says in [
        ([], "no boxes of people"),
        ({"a": 1}, "its results are no list of objects"),
        ([{**results[0], "image_id": 6}], "a box of image 6, which the annotations do not list"),
        ([{**results[0], "bbox": [1, 2, 3]}], r"result 5 has bbox '\[1, 2, 3\]'; copy"),
        ([{**results[0], "score": None}], "result 5 has score 'None'; copy"),
    ]:
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=says) as error:
            CocoKeypointSource(release, "val", boxes=path)
        assert "boxes.json" in str(error.value) and "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(InputError, match=r"boxes.json: not readable"):
        CocoKeypointSource(release, "val", boxes=path)


def test_splits_and_folders(tmp_path):
    write_release(tmp_path, split="val")
    with pytest.raises(InputError, match=r"person_keypoints_train2017.json: no such file; give"):
        CocoKeypointSource(tmp_path, "train")
    (tmp_path / "images").mkdir()
    (tmp_path / "val2017").rename(tmp_path / "images/val2017")
    assert len(CocoKeypointSource(tmp_path)) == 2
    other = {33: ("000000000033.png", 50, 30)}
    annotations = [person(40, 33, [1, 2, 20, 20], {3: (9, 9, 2)})]
    write_release(tmp_path, annotations, "train", other)
    source = CocoKeypointSource(tmp_path)
    assert source.ids == ("000000000033/40", "000000000021/7", "000000000005/9")
    assert CocoKeypointSource(tmp_path, "val+train").ids == (*source.ids[1:], source.ids[0])
    assert sorted(source.people.images.tolist()) == [5, 21, 33]
    with pytest.raises(InputError, match="no split 'test'; there are train and val"):
        CocoKeypointSource(tmp_path, "test")
    shutil.rmtree(tmp_path / "train2017")
    write_release(tmp_path, annotations, "train", {**other, 5: ("5.png", 50, 30)})
    with pytest.raises(InputError, match="image 5 is in another split too"):
        CocoKeypointSource(tmp_path)
    with pytest.raises(InputError, match=r"person_keypoints_train2017\.json: no such file"):
        CocoKeypointSource(tmp_path / "nowhere")


def test_photos_that_cannot_be_used(release):
    folder = release / "val2017"
    write_image(folder / PHOTOS[21][0], photo(5))
    (folder / PHOTOS[5][0]).unlink()
    source = CocoKeypointSource(release, "val")
    with pytest.raises(InputError, match=r"021.png: 50x30, its annotations are of 40x60"):
        source[0]
    with pytest.raises(InputError, match=r"005.png: no such file"):
        source[1]
    (folder / PHOTOS[21][0]).unlink()
    folder.rmdir()
    with pytest.raises(InputError, match=r"no folder val2017 of images; unpack val2017.zip"):
        CocoKeypointSource(release, "val")


def without(name):
    return {k: v for k, v in ANNOTATIONS[0].items() if k != name}


@pytest.mark.parametrize(
    ("annotations", "says"),
    [
        ([without("keypoints")], "no keypoints in it; give COCO's person_keypoints"),
        ([], "no keypoints in it"),
        ([ANNOTATIONS[0], without("keypoints")], "annotation 7 has keypoints 'None'; copy"),
        ([{**ANNOTATIONS[0], "keypoints": [1, 2, 3]}], r"annotation 7 has keypoints '\[1, 2, 3\]'"),
        ([{**ANNOTATIONS[0], "bbox": [1, 2, float("nan"), 3]}], "annotation 7 has bbox"),
        ([{**ANNOTATIONS[0], "area": "wide"}], "annotation 7 has area 'wide'"),
        ([{**ANNOTATIONS[0], "image_id": 6}], "annotation 7 is of image 6, which is not listed"),
        ([{**ANNOTATIONS[0], "image_id": 2**31}], "annotation 7 has image_id '2147483648'"),
        ("text", "its annotations are no list of objects"),
        (ANNOTATIONS[1:2], "no person has a keypoint; choose another split"),
    ],
)
def test_annotations_that_cannot_be_used(tmp_path, annotations, says):
    write_release(tmp_path, annotations)
    with pytest.raises(InputError, match=says) as error:
        CocoKeypointSource(tmp_path, "val")
    assert "person_keypoints_val2017.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"images": [', r"no JSON \(Expecting value.*\); copy the file again"),
        ("[1, 2]", "no images and annotations in it"),
        ('{"images": [{"id": 1}], "annotations": []}', "image 1 has file_name 'None'"),
    ],
)
def test_files_that_cannot_be_used(release, content, says):
    (release / "annotations/person_keypoints_val2017.json").write_text(content)
    with pytest.raises(InputError, match=says) as error:
        CocoKeypointSource(release, "val")
    assert "person_keypoints_val2017.json" in str(error.value) and "\n" not in str(error.value)


def test_options_out_of_range(release):
    example = CocoKeypointSource(release, "val", size=None)[0]
    for options, says in [
        ({"size": (0, 4)}, r"size is \(0, 4\)"),
        ({"padding": 0.0}, "padding is 0.0"),
    ]:
        with pytest.raises(ValueError, match=says):
            CocoKeypointSource(release, "val", **options)
        with pytest.raises(ValueError, match=says):
            crop_person(example, **options)
    with pytest.raises(ValueError, match="expected y0 < y1"):
        crop_person({**example, "box": np.array([3, 4, 3, 9])})
    for options, says in [
        ({"scale": 1.0}, "scale is 1.0"),
        ({"rotation": -1.0}, "rotation is -1.0"),
        ({"rotation_probability": 2.0}, "rotation_probability is 2.0"),
        ({"flip_probability": -0.5}, "flip_probability is -0.5"),
    ]:
        with pytest.raises(ValueError, match=says):
            random_crop_person(example, np.random.default_rng(0), **options)
