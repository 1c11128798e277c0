"""Tips of drawn worms, whose ends are known, and a folder of them."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxseg.data import eval_batches, train_batches
from jaxseg.data.sources import Source
from jaxseg.data.worm_tips import WormTipsSource, worm_tips
from jaxseg.types import InputError

SHAPE = (90, 110)


def worm(curve, radius=4.0, shape=SHAPE):
    """The mask of the pixels at most this far from a curve `[N, 2]`, thinner towards its ends."""
    pixels = np.stack(np.mgrid[: shape[0], : shape[1]], axis=-1).reshape(-1, 1, 2)
    place = np.linspace(0, 1, len(curve))
    width = radius * np.minimum(1, 0.4 + 4 * np.minimum(place, 1 - place))
    return (np.linalg.norm(pixels - curve, axis=-1) <= width).any(axis=1).reshape(shape)


def sine(phase, tilt=0.3):
    t = np.linspace(0, 1, 120)
    return np.stack([40 + 12 * np.sin(5 * t + phase) + tilt * 30 * (t - 0.5), 15 + 80 * t], axis=1)


def arc(turn, radius=22.0):
    angle = np.linspace(0.4, 0.4 + turn, 150)
    return np.stack([45 + radius * np.sin(angle), 55 + radius * np.cos(angle)], axis=1)


def apart(found, true):
    """The largest distance between tips and true ends, paired."""
    distance = np.linalg.norm(found[:, None] - np.asarray(true)[None], axis=-1)
    assert distance.shape == (2, 2)
    return min(max(distance[0, 0], distance[1, 1]), max(distance[0, 1], distance[1, 0]))


@pytest.mark.parametrize(
    "curve", [sine(0.0), sine(1.3), sine(2.6, -0.7), arc(3.0), arc(5.2), sine(0.5)[:40]]
)
def test_tips_are_the_ends_of_the_curve(curve):
    """1.6 pixels of mask are beyond the curve."""
    mask = worm(curve)
    tips = worm_tips(mask)
    assert apart(tips, curve[[0, -1]]) < 2.7
    assert all(mask[tuple(np.round(tip).astype(int))] for tip in tips)
    for turned, back in (
        (mask[::-1], lambda t: [SHAPE[0] - 1, 0] + t * [-1, 1]),
        (mask.T, lambda t: t[:, ::-1]),
        (np.pad(mask, ((7, 0), (3, 9))), lambda t: t - [7, 3]),
    ):
        assert apart(back(worm_tips(turned)), tips) < 2.5
    # From a file of 1 bit a pixel, true may be another byte than 1.
    np.testing.assert_array_equal(worm_tips((mask * np.uint8(255)).view(bool)), tips)


def test_strays_and_side_branches_count_for_nothing():
    mask = worm(sine(0.0))
    tips = worm_tips(mask)
    strays = mask.copy()
    strays[80:84, 100:104] = strays[2, 2] = True
    np.testing.assert_array_equal(worm_tips(strays), tips)
    branch = worm(sine(0.0)[60] + np.linspace([0, 0], [14, 2], 30), 2.5)
    assert apart(worm_tips(mask | branch), tips) < 1


def test_loops_have_the_tips_that_can_be_seen():
    ring = worm(arc(2 * np.pi), 4.0)
    assert worm_tips(ring).shape == (0, 2)
    tail = np.linspace(arc(6.0)[0], arc(6.0)[0] + [5, 28], 40)
    found = worm_tips(ring | worm(tail))
    assert found.shape == (1, 2) and np.linalg.norm(found[0] - tail[-1]) < 2.7
    crossing = [tail[-1], tail[-1] + [20, -4]]
    second = np.linspace(arc(6.0)[20], crossing[1], 40)
    assert apart(worm_tips(ring | worm(tail) | worm(second)), crossing) < 2.7


def test_cut_ends_and_empty_masks():
    curve = np.linspace([45.0, -8.0], [50.0, 60.0], 90)
    found = worm_tips(worm(curve))
    assert found.shape == (1, 2) and np.linalg.norm(found[0] - curve[-1]) < 2.7
    assert worm_tips(np.zeros(SHAPE, bool)).shape == (0, 2)
    dot = np.zeros(SHAPE, bool)
    dot[40, 40] = True
    assert worm_tips(dot).shape == (0, 2)


CURVES = {"A01": [sine(0.0), arc(5.2)], "A02": [sine(1.3)], "C03": [arc(3.0), sine(2.6), sine(0.5)]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("worms")
    for name in ("images", "masks"):
        (root / name).mkdir()
    told = {"kind": "instances", "layout": "lists", "channels": "grey", "stacked_masks": "masks"}
    (root / "dataset.json").write_text(json.dumps(told))
    (root / "train.txt").write_text("A01\nA02\n")
    (root / "test.txt").write_text("C03\n")
    rng = np.random.default_rng(0)
    for name, curves in CURVES.items():
        Image.fromarray(rng.integers(0, 192, SHAPE).astype(np.uint8)).save(
            root / "images" / f"{name}.png"
        )
        masks = np.concatenate([worm(curve) for curve in curves])
        Image.fromarray(masks).save(root / "masks" / f"{name}.png")
    return root


def test_a_folder_of_worms(folder):
    source = WormTipsSource(folder, "train")
    assert isinstance(source, Source) and source.ids == ("A01", "A02") and len(source) == 2
    first, second = source
    assert set(first) == {"image", "id", "points", "kinds"} and first["image"].shape == (*SHAPE, 3)
    assert (first["points"].dtype, first["kinds"].dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(first["kinds"], [0] * 4)
    np.testing.assert_array_equal(second["kinds"], [0, 0, -1, -1])
    assert not second["points"][2:].any()
    for i, curve in enumerate(CURVES["A01"]):
        assert apart(first["points"][2 * i : 2 * i + 2], curve[[0, -1]]) < 2.7
    np.testing.assert_array_equal(source[-1]["points"], second["points"])
    assert source.extent(0) == (*SHAPE, 0)
    assert len(WormTipsSource(folder)) == 3


def test_batches_of_worms(folder):
    source = WormTipsSource(folder, "train+test", max_points=8)
    for batch in (
        next(iter(train_batches(source, batch_size=2, seed=0, num_threads=0))),
        next(iter(eval_batches(source, batch_size=4))),
    ):
        rows = len(batch["weight"])
        assert batch["points"].shape == (rows, 8, 2) and batch["kinds"].shape == (rows, 8)


def test_what_a_user_gives_wrongly(folder, tmp_path):
    with pytest.raises(InputError, match="C03: 6 tips; give max_points=6 or more"):
        WormTipsSource(folder, "test", max_points=5)[0]
    with pytest.raises(ValueError, match="max_points=0"):
        WormTipsSource(folder, max_points=0)
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "images" / "a.png")
    with pytest.raises(InputError, match=r'holds unlabelled, no instances; .* "kind": "instances"'):
        WormTipsSource(tmp_path)
