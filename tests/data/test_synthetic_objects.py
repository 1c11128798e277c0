"""Made-up scenes: the same for the same numbers, and as they are said to be."""

import numpy as np
import pytest

from jaxseg.data import Source, eval_batches
from jaxseg.data.synthetic_objects import (
    CLASSES,
    Scenes,
    SyntheticObjectsSource,
    _shape,
    synthetic_objects,
)
from jaxseg.types import InputError

SMALL = Scenes(size=(96, 128), radius=(0.05, 0.1))


def test_a_scene_depends_on_seed_split_and_number_alone():
    first, again = (SyntheticObjectsSource("train", count=3, scenes=SMALL) for _ in range(2))
    assert isinstance(first, Source) and first.ids == ("train_00000", "train_00001", "train_00002")
    for i in (2, 0, 1, 2):
        a, b = first[i], again[i]
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["label"], b["label"])
        assert a["image"].dtype == np.uint8 and a["label"].dtype == np.int32
    others = [
        first[1],
        SyntheticObjectsSource("val", count=1, scenes=SMALL)[0],
        SyntheticObjectsSource("train", count=1, seed=1, scenes=SMALL)[0],
    ]
    for other in others:
        assert (other["image"] != first[0]["image"]).mean() > 0.5
    kept = SyntheticObjectsSource("train", count=9, scenes=SMALL, cache_bytes=1 << 20)
    np.testing.assert_array_equal(kept[1]["image"], kept[1]["image"])
    np.testing.assert_array_equal(kept[1]["image"], first[1]["image"])
    [batch] = eval_batches(SyntheticObjectsSource("test", count=2, scenes=SMALL), batch_size=2)
    assert batch["image"].shape == (2, 96, 128, 3) and batch["label"].shape == (2, 96, 128)


def test_objects_are_few_small_and_in_clumps():
    """Over 40 scenes: the part of objects, their spread, and that all classes occur."""
    scenes = Scenes(size=(128, 128), clumps=(1, 1), objects=(6, 6), spread=0.05)
    source = SyntheticObjectsSource("train", count=40, scenes=scenes)
    labels = np.stack([source[i]["label"] for i in range(40)])
    part = (labels > 0).mean()
    # Six objects of about pi r², r between 0.008 and 0.03 of the side.
    assert 6 * 2 * 0.008**2 < part < 6 * 4 * 0.03**2
    assert set(np.unique(labels)) == set(range(len(CLASSES)))
    spreads = []
    for label in labels:
        points = np.argwhere(label > 0)
        spreads.append(np.sqrt(points.var(axis=0).mean()) / 128)
    assert 0.02 < np.nanmean(spreads) < 0.08


def test_one_object_of_each_kind_has_its_area():
    """At one radius, without others that cover it."""
    areas: dict[int, list[float]] = {1: [], 2: [], 3: []}
    scenes = Scenes((200, 200), (1, 1), (1, 1), 0.0, (0.1, 0.1), 0)
    for i in range(30):
        _, label = synthetic_objects(np.random.default_rng(i), scenes)
        rows, columns = np.nonzero(label)
        inside = rows.min() > 0 and columns.min() > 0 and max(rows.max(), columns.max()) < 199
        if inside:
            areas[int(label.max())].append((label > 0).sum() / 20**2)
    # A star's ten triangles have an area of 1.6 x 0.65 x sin(36 degrees) / 2 each.
    expected = {1: np.pi, 2: 3.6 * 0.9, 3: 5 * 1.6 * 0.65 * np.sin(np.pi / 5)}
    for kind, found in areas.items():
        assert found and np.mean(found) == pytest.approx(expected[kind], rel=0.03)


@pytest.mark.parametrize("kind", range(4))
def test_shapes_beyond_each_side_are_empty(kind):
    size, radius = (40, 60), 3.0
    for y, x in ((-30, 20), (-8.5, 20), (90, 20), (20, -30), (20, -8.5), (20, 99), (-30, -30)):
        window, mask = _shape(np.random.default_rng(0), kind, np.array([y, x]), radius, size)
        assert all(0 <= s.start <= s.stop <= n for s, n in zip(window, size, strict=True))
        assert np.zeros(size)[window].shape == mask.shape and not mask.any()
    for y, x in ((0, 20), (40, 20), (20, 0), (20, 60)):
        window, mask = _shape(np.random.default_rng(0), kind, np.array([y, x]), radius, size)
        assert np.zeros(size)[window].shape == mask.shape and mask.any()


def test_a_clump_beyond_the_sides():
    scenes = Scenes((32, 32), (2, 2), (8, 8), 2.0, (0.05, 0.1))
    for i in range(4):
        image, label = synthetic_objects(np.random.default_rng(i), scenes)
        assert image.shape == (32, 32, 3) and label.shape == (32, 32)
    assert SyntheticObjectsSource("val", count=30)[4]["label"].any()


def test_what_is_drawn_differs_from_the_ground():
    image, label = synthetic_objects(np.random.default_rng(3), Scenes(size=(256, 256)))
    ground = image[label == 0].mean(axis=0)
    off = np.abs(image[label > 0].astype(float) - ground).mean()
    assert off > 2 * np.abs(image[label == 0].astype(float) - ground).mean()


def test_empty_scenes_and_bad_numbers():
    _, label = synthetic_objects(np.random.default_rng(0), Scenes((64, 64), (0, 0)))
    assert not label.any()
    for make, words in (
        (lambda: Scenes(size=(4, 64)), "size is"),
        (lambda: Scenes(clumps=(3, 1)), "clumps is"),
        (lambda: Scenes(radius=(0.1, 0.6)), "radius is"),
        (lambda: Scenes(spread=-1.0), "spread is -1.0"),
        (lambda: SyntheticObjectsSource("train", count=0), "count is 0"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    with pytest.raises(InputError, match="no split 'all'"):
        SyntheticObjectsSource("all")
