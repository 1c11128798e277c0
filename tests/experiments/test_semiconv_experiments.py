"""The experiments on instances: their variants, the baseline, and data of the public layouts."""

import dataclasses
import json

import instance_baselines
import numpy as np
import pytest
import semiconv_bbbc010
import semiconv_coco
import semiconv_dsb2018
import semiconv_voc
from PIL import Image

from jaxseg import data
from jaxseg.types import InputError

SIZE = (40, 48)


@pytest.mark.parametrize(
    "experiment", [semiconv_bbbc010, semiconv_dsb2018, semiconv_voc, semiconv_coco]
)
def test_variants_are_built(experiment):
    for config in experiment.VARIANTS.values():
        narrow = {"width": 2} if config.method == "embedding" else {"width": 2, "depth": 10}
        wide = {} if config.method == "embedding" else {"features": 4, "hidden": 4}
        if config.batch_norm == "frozen":
            with pytest.raises(InputError, match="give --encoder FILE"):
                experiment.build(config)
            wide["encoder"] = "weights.pth"  # Read where training begins.
        experiment.build(dataclasses.replace(config, **narrow, **wide))


def test_the_schedule_of_the_paper():
    config = semiconv_voc.VARIANTS["semiconv"]
    steps = config.steps - config.first_steps
    assert steps * config.batch_size == 24 * 1464
    assert (config.optimizer, config.learning_rate, config.falls) == ("sgd", 0.0025, (0.5,))
    assert config.depth == 101 and config.embedding == 8


def test_components():
    foreground = np.zeros((6, 8), bool)
    foreground[0, 0], foreground[1, 1], foreground[3:6, 3:6], foreground[0, 7] = True, True, True, 1
    found = instance_baselines.components(foreground)
    np.testing.assert_array_equal(found[foreground], [1, 2, 1, *[3] * 9])
    large = instance_baselines.components(foreground, min_size=2)
    np.testing.assert_array_equal(np.unique(large), [0, 1, 2])
    assert large[0, 7] == 0


def test_what_components_come_to():
    """Two bars that cross are one component, which hits none; a third one is found."""
    masks = np.zeros((3, *SIZE), bool)
    masks[0, 10:14, 2:40], masks[1, 2:38, 20:24], masks[2, 30:39, 30:46] = True, True, True
    image = np.zeros((*SIZE, 3), np.uint8)
    figures = instance_baselines.measure(data.MemorySource([{"image": image, "masks": masks}]))
    union = masks[:2].any(axis=0).sum()
    first = masks[0].sum() / union  # Above a half: the larger of the two is hit.
    assert first > 0.5 and figures["ap_dsb_50"] == pytest.approx(2 / 3)
    assert figures["ap_dsb_75"] == pytest.approx(1 / 4)
    assert figures["sq"] == pytest.approx((1 + first) / 2)
    assert (figures["objects"], figures["predicted"]) == (3, 2)


def test_the_baseline_counts_as_many_as_there_are(tmp_path, monkeypatch):
    """Above COCO's 100; what holds no instances is told in one line."""
    masks = np.zeros((144, *SIZE), bool)
    places = [(3 * i, 4 * j) for i in range(12) for j in range(12)]
    for mask, (y, x) in zip(masks, places, strict=True):
        mask[y : y + 2, x : x + 2] = True
    source = data.MemorySource([{"image": np.zeros((*SIZE, 3), np.uint8), "masks": masks}])
    assert instance_baselines.measure(source)["ap"] == pytest.approx(1)
    assert instance_baselines.measure(source, max_detections=100)["ap"] < 0.8
    data.write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    monkeypatch.setattr("sys.argv", ["x", "--data", str(tmp_path), "--split", "all"])
    with pytest.raises(InputError, match="holds unlabelled; give a folder"):
        instance_baselines.main()


def test_coco_in_small(tmp_path):
    box = [4.0, 6.0, 30.0, 6.0, 30.0, 28.0, 4.0, 28.0]
    content = {
        "images": [{"id": 5, "file_name": "5.png", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": k, "name": str(k)} for k in range(1, 81)],
        "annotations": [{"id": 1, "image_id": 5, "category_id": 3, "segmentation": [box]}],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    data.write_image(tmp_path / "val2017" / "5.png", np.zeros((*SIZE, 3), np.uint8))
    measure(semiconv_coco, tmp_path, kinds=[2])


def test_voc_in_small(tmp_path):
    for name in ("JPEGImages", "SegmentationObject", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("a\n")
    objects = np.zeros(SIZE, np.uint8)
    objects[5:20, 5:20] = 1
    Image.fromarray(objects).save(tmp_path / "SegmentationObject/a.png")
    Image.fromarray(objects * 7).save(tmp_path / "SegmentationClass/a.png")
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "JPEGImages/a.jpg")
    figures = measure(semiconv_voc, tmp_path, kinds=[6])
    assert figures["ap_r_50"] == figures["ap_r_70"] == 1 and figures["ap_car"] > 0.999


def measure(experiment, folder, kinds):
    """The figures of the truth, taken for a prediction, by what the experiment measures."""
    config = next(iter(experiment.VARIANTS.values()))
    small = {"width": 2, "depth": 10, "features": 4, "hidden": 4}
    config = dataclasses.replace(config, **small, batch_norm="running")
    (row,) = experiment.build(config).evaluations(folder, "val").values()
    (batch,) = row.data
    np.testing.assert_array_equal(batch["kinds"], [kinds])
    told = {"masks": batch["masks"], "scores": np.ones((1, 1)), "kinds": batch["kinds"]}
    figures = row.metric.compute(row.metric.measure(told, batch))
    for name in ("ap", "box_ap", "ap_dsb", "pq"):
        assert figures[name] == pytest.approx(1), name
    return figures
