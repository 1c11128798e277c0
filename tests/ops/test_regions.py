import json

import numpy as np
import pytest
from skimage.measure import regionprops

from jaxseg.ops import regions

LABELS = np.array([[0, 0, 3, 3], [0, 7, 7, 3], [-1, -1, 7, 9]], np.int32)


def random_map(seed=0, shape=(13, 17)):
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(-1, 9, (5, 6)), np.ones((3, 3), int))
    return labels[: shape[0], : shape[1]].astype(np.int32), rng


def test_adjacency_of_a_small_map():
    pairs, lengths = regions.region_adjacency(LABELS)
    np.testing.assert_array_equal(pairs, [[0, 3], [0, 7], [3, 7], [3, 9], [7, 9]])
    np.testing.assert_array_equal(lengths, [1, 2, 2, 1, 1])


def test_adjacency_equals_a_loop():
    labels, _ = random_map()
    found = {}
    for y, x in np.ndindex(labels.shape):
        for v, u in ((y + 1, x), (y, x + 1)):
            if v < labels.shape[0] and u < labels.shape[1]:
                pair = tuple(sorted((int(labels[y, x]), int(labels[v, u]))))
                if pair[0] >= 0 and pair[0] != pair[1]:
                    found[pair] = found.get(pair, 0) + 1
    pairs, lengths = regions.region_adjacency(labels)
    assert list(map(tuple, pairs.tolist())) == sorted(found)
    assert lengths.tolist() == [found[pair] for pair in sorted(found)]


def test_statistics_equal_scikit_image():
    labels, rng = random_map(3)
    image = rng.integers(0, 256, (*labels.shape, 3)).astype(np.uint8)
    got = regions.region_statistics(labels, image)
    properties = regionprops(labels + 1, intensity_image=image)
    np.testing.assert_array_equal(got.label, [p.label - 1 for p in properties])
    np.testing.assert_array_equal(got.area, [p.area for p in properties])
    np.testing.assert_allclose(got.centroid, [p.centroid for p in properties])
    np.testing.assert_array_equal(got.bounding_box, [p.bbox for p in properties])
    np.testing.assert_allclose(got.mean_color, [p.intensity_mean for p in properties])


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_records_are_json(channels):
    shape = LABELS.shape if channels is None else (*LABELS.shape, channels)
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    statistics = regions.region_statistics(LABELS, image)
    records = json.loads(json.dumps(regions.region_records(statistics)))
    assert [record["label"] for record in records] == [0, 3, 7, 9]
    assert [record["neighbors"] for record in records] == [[3, 7], [0, 7, 9], [0, 3, 9], [3, 7]]
    assert records[2]["area"] == 3
    assert records[2]["bounding_box"] == [1, 1, 3, 3]
    np.testing.assert_allclose(records[2]["centroid"], [4 / 3, 5 / 3])
    mean = image.reshape(12, -1)[[5, 6, 10]].mean(0)
    np.testing.assert_allclose(records[2]["mean_color"], mean)


def test_without_an_image_or_a_region():
    records = regions.region_records(regions.region_statistics(LABELS))
    assert "mean_color" not in records[0]
    assert records[3] == {
        "label": 9,
        "area": 1,
        "centroid": [2.0, 3.0],
        "bounding_box": [2, 3, 3, 4],
        "neighbors": [3, 7],
    }
    nothing = regions.region_statistics(np.full((2, 3), -1))
    assert regions.region_records(nothing) == []
    alone = regions.region_statistics(np.zeros((2, 3), np.int32))
    assert alone.neighbors[0].tolist() == []
