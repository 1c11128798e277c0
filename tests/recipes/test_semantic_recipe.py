import dataclasses
import importlib.util
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from jaxseg import data
from jaxseg.data.resized import ResizedSource
from jaxseg.recipes import semantic
from jaxseg.recipes.semantic import Config, build
from jaxseg.types import InputError

ROOT = pathlib.Path(__file__).parents[2]
CLASSES = ("sky", "road", "car")
SMALL = Config(num_classes=3, width=2, depth=1, crop=(8, 8), batch_size=2, steps=2, decay="cosine")


@pytest.fixture
def folder(tmp_path):
    """Two training images and one for validation, 12×16 pixels, with an ignored row."""
    rng = np.random.default_rng(0)
    info = {"kind": "classes", "layout": "folders", "classes": list(CLASSES), "ignore": 9}
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    for split, names in {"train": "ab", "val": "c"}.items():
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        for name in names:
            image = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
            label = rng.integers(0, 3, (12, 16)).astype(np.uint8)
            label[0] = 9
            data.write_image(tmp_path / "images" / split / f"{name}.png", image)
            Image.fromarray(label).save(tmp_path / "labels" / split / f"{name}.png")
    return tmp_path


def test_training_batches_are_crops(folder):
    (phase,) = build(SMALL).phases(folder)
    batch = next(iter(phase.data))
    assert batch["image"].shape == (2, 8, 8, 3)
    assert batch["label"].shape == (2, 8, 8)
    assert set(np.unique(batch["label"])) <= {-1, 0, 1, 2}


def test_class_weights_come_from_the_training_labels(folder, monkeypatch):
    given = []
    make = semantic.semantic.method
    monkeypatch.setattr(
        semantic.semantic,
        "method",
        lambda *a, class_weights, **k: given.append(class_weights) or make(*a, **k),
    )
    build(SMALL).phases(folder)
    labels = np.stack([np.array(Image.open(folder / "labels/train" / f"{n}.png")) for n in "ab"])
    frequency = np.array([np.mean(labels == c) for c in range(3)])
    np.testing.assert_allclose(given[-1], np.median(frequency) / frequency)
    build(dataclasses.replace(SMALL, class_weights="none")).phases(folder)
    assert given[-1] is None


@pytest.mark.parametrize(("size", "name"), [((0, 0), "full"), ((6, 8), "6x8")])
def test_it_is_measured_at_its_size(folder, size, name):
    experiment = build(dataclasses.replace(SMALL, size=size, validation_split="val"))
    assert experiment.schedule.best == f"{name}/miou"
    for rows in (experiment.evaluations(folder, "val"), experiment.validation(folder)):
        batch = next(iter(rows[name].data))
        assert batch["label"].shape[1:] == ((12, 16) if name == "full" else size)
    prediction = {"classes": np.maximum(batch["label"], 0)}
    metric = rows[name].metric
    figures = metric.compute(metric.measure(prediction, batch))
    assert figures["miou"] == 1
    assert [c for c in figures if c.startswith("iou_")] == [f"iou_{c}" for c in CLASSES]
    drawn = experiment.picture(prediction, batch)
    assert drawn.shape == (batch["image"].shape[1], 3 * batch["image"].shape[2], 3)


def test_data_that_do_not_fit(folder):
    with pytest.raises(InputError, match="has 3 classes; set num_classes, which is 4"):
        build(dataclasses.replace(SMALL, num_classes=4)).phases(folder)
    with pytest.raises(InputError, match="holds instances images; give data with classes"):
        build(SMALL).phases(data.samples_path())


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"learning_rate": -1.0},
        {"ema_decay": 1.0},
        {"size": (10, 0)},
        {"crop": (0, 8)},
        {"scale_range": (2.0, 1.0)},
        {"seed": -1},
        {"weight_decay": float("nan")},
        {"superpixels": 999},
        {"superpixels": 4, "superpixel_level": 3},
    ],
)
def test_numbers_that_cannot_be_used(change):
    with pytest.raises(InputError, match=next(reversed(change)).split("_")[0]):
        build(dataclasses.replace(SMALL, **change))


@pytest.mark.parametrize("field", ["network", "decay", "class_weights", "upsampling"])
def test_a_word_that_a_config_file_misspells(field):
    config = dataclasses.replace(SMALL)
    object.__setattr__(config, field, "wide")  # past the annotation, as JSON is
    with pytest.raises(InputError, match=f"{field} is 'wide'"):
        build(config)


class TestResizedSource:
    def source(self, size, **options):
        rng = np.random.default_rng(1)
        example = {
            "image": np.kron(rng.integers(0, 256, (4, 6, 3)), np.ones((2, 2, 1))).astype(np.uint8),
            "label": np.kron(rng.integers(-1, 300, (4, 6)), np.ones((2, 2))).astype(np.int32),
            "id": "a",
        }
        return ResizedSource(data.MemorySource([example]), size, **options), example

    @pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
    def test_labels_are_those_under_the_new_centres(self, cache_bytes):
        source, example = self.source((5, 9), cache_bytes=cache_bytes)
        for _ in range(2):
            got = source[0]["label"]
            assert got.dtype == np.int32
            for y, x in np.ndindex(5, 9):
                old = example["label"][int((y + 0.5) * 8 / 5), int((x + 0.5) * 12 / 9)]
                assert got[y, x] == old
        assert (source.ids, source[0]["id"], len(source)) == (("a",), "a", 1)
        assert source.extent(0) == (5, 9, 0)

    def test_images_are_averaged(self):
        source, example = self.source((4, 6))
        got = source[0]["image"]
        assert got.shape == (4, 6, 3) and got.dtype == np.uint8
        # Halving with a triangle that reaches two pixels to each side.
        weights = np.array([1, 3, 3, 1]) / 8
        around = example["image"][1:5, 1:5].astype(float)
        expected = np.einsum("i,j,ijc->c", weights, weights, around)
        np.testing.assert_allclose(got[1, 1], expected, atol=1)

    def test_bad_size(self):
        with pytest.raises(ValueError, match=r"size is \(0, 4\)"):
            self.source((0, 4))


def experiment_file(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["camvid", "ssn_layer"])
def test_variants_can_be_built(name):
    for config in experiment_file(name).VARIANTS.values():
        build(config)


def test_the_table_of_runs(tmp_path):
    module = experiment_file("ssn_layer")
    figures = {("without", 0): 0.30, ("with", 0): 0.35, ("without", 1): 0.32, ("with", 1): 0.33}
    runs = []
    for (variant, seed), miou in figures.items():
        config = dataclasses.replace(module.VARIANTS[variant], seed=seed, steps=50, log_every=7)
        run = tmp_path / f"{variant}{seed}"
        run.mkdir()
        (run / "config.json").write_text(json.dumps({"config": dataclasses.asdict(config)}))
        found = {"figures": {"120x160/miou": miou, "120x160/pixel_accuracy": 0.8}}
        (run / "evaluation_test.json").write_text(json.dumps(found))
        runs.append(run)
    lines = [line.split() for line in module.table(tuple(runs), "test").splitlines()[1:]]
    assert lines == [
        ["without", "50", "0,1", "31.00", "30.00", "-", "32.00", "80.00"],
        ["with", "50", "0,1", "34.00", "33.00", "-", "35.00", "80.00"],
    ]
    with pytest.raises(InputError, match=r"evaluation_val\.json: missing; train and evaluate"):
        module.table(tuple(runs), "val")
