"""Sintel's public layout, written here with a few tiny scenes."""

import numpy as np
import pytest

from jaxseg.data import write_image
from jaxseg.data.flow import write_flow
from jaxseg.data.sintel import TEST_SCENES, SintelSource
from jaxseg.types import InputError

SIZE = (12, 20)
SCENES = {"alley_1": 3, "bamboo_2": 2, "market_6": 4}
HELD_OUT = ("market_6",)


def write_release(root, scenes=SCENES, size=SIZE):
    """Frames whose colour and flow tell scene and frame; one frame more than flows."""
    for s, (scene, frames) in enumerate(scenes.items()):
        for kind in ("clean", "final", "flow"):
            (root / "training" / kind / scene).mkdir(parents=True)
        for k in range(1, frames + 1):
            for p, kind in enumerate(("clean", "final")):
                image = np.full((*size, 3), 100 * p + 10 * s + k, np.uint8)
                write_image(root / "training" / kind / scene / f"frame_{k:04d}.png", image)
            if k < frames:
                flow = np.full((*size, 2), (s, k), np.float32)
                write_flow(root / "training" / "flow" / scene / f"frame_{k:04d}.flo", flow)
    return root


@pytest.fixture
def release(tmp_path):
    return write_release(tmp_path / "MPI-Sintel")


def test_splits_by_scene(release):
    train = SintelSource(release, "train", test_scenes=HELD_OUT)
    assert train.ids == (
        "clean/alley_1/frame_0001",
        "clean/alley_1/frame_0002",
        "clean/bamboo_2/frame_0001",
    )
    test = SintelSource(release / "training", "test", test_scenes=HELD_OUT)
    assert len(test) == 3 and all("/market_6/" in name for name in test.ids)
    both = SintelSource(release, "train+test", test_scenes=HELD_OUT)
    assert both.ids == SintelSource(release, test_scenes=HELD_OUT).ids == (*train.ids, *test.ids)


def test_images_and_flow_belong_together(release):
    source = SintelSource(release, passes=("clean", "final"), test_scenes=HELD_OUT, cache_bytes=999)
    assert len(source) == len(set(source.ids)) == 12
    for i, name in enumerate(source.ids):
        kind, scene, frame = name.split("/")
        s, k = list(SCENES).index(scene), int(frame[-4:])
        example = source[i]
        assert example["id"] == name
        np.testing.assert_array_equal(
            example["image"], np.full((*SIZE, 3), 100 * (kind == "final") + 10 * s + k)
        )
        np.testing.assert_array_equal(example["target"], np.full((*SIZE, 2), (s, k)))
        assert example["target"].dtype == np.float32
        assert source.extent(i) == (*SIZE, 0)


def test_the_default_holds_out_five_scenes(tmp_path):
    source = SintelSource(write_release(tmp_path, dict.fromkeys((*TEST_SCENES, "alley_1"), 2)))
    assert source.ids[0] == "clean/alley_1/frame_0001"
    assert [name.split("/")[1] for name in source.ids[1:]] == sorted(TEST_SCENES)
    assert len(TEST_SCENES) == 5


def test_what_is_missing(release, tmp_path):
    cases = [
        ({"path": tmp_path}, "no training/flow in it"),
        ({"split": "val"}, "no split 'val'; there are train and test"),
        ({"test_scenes": ("cave_4",)}, "no scene 'cave_4'"),
        ({"passes": ("albedo",)}, "passes is albedo"),
        ({"passes": ()}, "passes is empty"),
    ]
    for change, says in cases:
        options = {"path": release, "test_scenes": HELD_OUT, **change}
        with pytest.raises(InputError, match=says):
            SintelSource(options.pop("path"), options.pop("split", None), **options)
    (release / "training/final/alley_1/frame_0002.png").unlink()
    assert len(SintelSource(release, test_scenes=HELD_OUT)) == 6
    with pytest.raises(InputError, match=r"final/alley_1/frame_0002\.png: no such image"):
        SintelSource(release, passes=("final",), test_scenes=HELD_OUT)
    (release / "training/flow/empty_1").mkdir()
    with pytest.raises(InputError, match=r"empty_1: no \.flo"):
        SintelSource(release, test_scenes=HELD_OUT)


def test_a_flow_of_another_size(release):
    path = release / "training/flow/alley_1/frame_0001.flo"
    write_flow(path, np.zeros((5, 6, 2), np.float32))
    source = SintelSource(release, "train", test_scenes=HELD_OUT)
    with pytest.raises(InputError, match=r"frame_0001\.flo: 5x6, its image is 12x20"):
        source[0]
