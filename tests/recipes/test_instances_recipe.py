"""Training of instances: its phases and optimizers, and a run from files to predictions."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from command_line import Jaxseg
from PIL import Image

from jaxseg import data
from jaxseg.data.rle import decode_rle
from jaxseg.recipes import instances
from jaxseg.recipes._instances_method import without_unlikely
from jaxseg.recipes.instances import Config, build
from jaxseg.types import InputError

SIZE = (24, 30)
TINY = Config(
    class_names=("rod",),
    input="binary",
    width=2,
    depth=1,
    reduce=2,
    embedding=3,
    scale=8.0,
    max_detections=6,
    crop=(16, 16),
    turns=True,
    hold_out=2,
    batch_size=2,
    steps=2,
    best="ap_dsb",
)
DETECTOR = dataclasses.replace(
    TINY,
    method="mask_rcnn",
    reduce=1,
    width=2,
    depth=10,
    embedding=4,
    features=4,
    hidden=4,
    anchor_sizes=(4.0, 8.0, 16.0, 32.0, 64.0),
    proposals=8,
    pre_nms=8,
    rois=8,
    crop=(32, 32),
    turns=False,
)
EXPERIMENT = """
from jaxseg.recipes.instances import Config, build

VARIANTS = {"tiny": Config(**%r)}
"""


def rods(seed):
    """Bars that cross."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((4, *SIZE), bool)
    for k, mask in enumerate(masks):
        start = rng.integers(0, 20)
        place = np.s_[start : start + 4, 2:26] if k % 2 else np.s_[2:22, start : start + 4]
        mask[place] = True
    return masks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("rods")
    info = {"kind": "instances", "layout": "lists", "channels": "grey", "stacked_masks": "masks"}
    (root / "dataset.json").write_text(json.dumps(info))
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for split, seeds in {"train": range(5), "test": (8, 9)}.items():
        (root / f"{split}.txt").write_text("".join(f"r{seed}\n" for seed in seeds))
        for seed in seeds:
            masks = rods(seed)
            image = np.where(masks.any(axis=0), 200, 30).astype(np.uint8)
            data.write_image(root / "images" / f"r{seed}.png", image[..., None])
            stacked = Image.fromarray(masks.reshape(-1, SIZE[1]))
            stacked.save(root / "masks" / f"r{seed}.png")
    return root


def test_training_sees_neither_what_is_held_out_nor_the_test_half(folder):
    experiment = build(dataclasses.replace(TINY, crop=SIZE, turns=False, scale_range=(1.0, 1.0)))
    (phase,) = experiment.phases(folder)
    (row,) = experiment.validation(folder).values()
    held = [batch["image"][0] for batch in row.data]
    (test,) = experiment.evaluations(folder, "test").values()
    unseen = [*held, *(batch["image"][0] for batch in test.data)]
    assert (len(held), len(unseen)) == (2, 4)
    iterator, seen = iter(phase.data), set()
    for _ in range(12):
        batch = next(iterator)
        np.testing.assert_array_equal(batch["image"][..., 0] == 255, batch["masks"].any(axis=1))
        for image in batch["image"]:
            seen |= {image.tobytes(), image[:, ::-1].tobytes()}
    assert seen and not seen & {image.tobytes() for image in unseen}
    assert experiment.schedule.best == "full/ap_dsb"


def test_more_objects_than_places_are_an_error(folder):
    (phase,) = build(dataclasses.replace(TINY, max_instances=1)).phases(folder)
    with pytest.raises(InputError, match=r"r\d: \d instances; give max_instances"):
        for batch, _ in zip(phase.data, range(20), strict=False):
            del batch
    (phase,) = build(dataclasses.replace(TINY, max_instances=1, overflow="largest")).phases(folder)
    for batch, _ in zip(phase.data, range(20), strict=False):
        assert batch["masks"].shape[:2] == (2, 1)


def test_unlikely_objects_become_padding():
    masks = np.zeros((1, 3, 4, 4), bool)
    masks[0, 0, :2], masks[0, 1, 2:] = True, True
    prediction = {
        "masks": masks,
        "scores": np.array([[0.9, 0.3, 0.0]], np.float32),
        "kinds": np.array([[0, 0, -1]], np.int32),
        "boxes": np.ones((1, 3, 4), np.float32),
        "instances": np.where(masks[:, 0], 1, 2),
    }
    found = without_unlikely(prediction, 0.5)
    np.testing.assert_array_equal(found["kinds"], [[0, -1, -1]])
    np.testing.assert_array_equal(found["scores"][0, 1:], 0)
    np.testing.assert_array_equal(found["instances"] > 0, masks[:, 0])
    assert not found["masks"][0, 1:].any() and found["masks"][0, 0].any()
    assert without_unlikely(prediction, 0.0) is prediction


def tree(config):
    experiment = build(config)
    return jax.eval_shape(experiment.method().init, jax.random.key(0), experiment.example)


def test_stages_of_mask_rcnn(folder):
    """Traced, not run."""
    semi = dataclasses.replace(DETECTOR, method="semiconv", steps=7, first_steps=3)
    phases = build(semi).phases(folder)
    assert [(p.name, p.steps) for p in phases] == [("mask_rcnn", 3), ("semiconv", 4)]
    assert phases[0].optimizer is not phases[1].optimizer and phases[0].data is phases[1].data
    alone = build(dataclasses.replace(semi, first_steps=0)).phases(folder)
    assert [(p.name, p.steps) for p in alone] == [("semiconv", 7)]
    (only,) = build(DETECTOR).phases(folder)
    assert (only.name, only.steps) == ("mask_rcnn", 2)
    params, state = tree(semi)
    plain, _ = tree(DETECTOR)
    assert set(params) - set(plain) == {"embed", "semiconv"}
    batch = {k: np.asarray(v) for k, v in next(iter(phases[0].data)).items()}
    for phase in phases:
        loss, output = jax.eval_shape(phase.method.loss, params, state, batch, jax.random.key(0))
        assert loss.shape == (2,) and ("kernel_loss" in output.metrics) == (
            phase.name == "semiconv"
        )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_a_stage_does_not_learn_rests(folder, optimizer):
    """Weight decay would move it."""
    config = dataclasses.replace(
        DETECTOR,
        method="semiconv",
        optimizer=optimizer,
        batch_norm="frozen",
        encoder="weights.pth",
        weight_decay=0.5,
        clip=1.0,
        first_steps=1,
    )
    names = (
        *("pyramid/encoder/conv1", "pyramid/encoder/layer1", "pyramid/encoder/layer2"),
        *("classify/fc6", "embed", "semiconv"),
    )
    # Names of the network's own tree, with a kernel in the place of each part.
    params = {f"{name}/kernel": np.ones((2, 2), np.float32) for name in names}
    experiment = build(config)
    shapes, _ = jax.eval_shape(experiment.method().init, jax.random.key(0), experiment.example)
    own = jax.tree_util.tree_leaves_with_path(shapes)
    own = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in own]
    assert all(any(path.startswith(f"{name}/") for path in own) for name in names)
    moved = {}
    for phase in experiment.phases(folder):
        zeros = jax.tree.map(np.zeros_like, params)
        updates, _ = phase.optimizer.update(zeros, phase.optimizer.init(params), params)
        moved[phase.name] = {
            path.removesuffix("/kernel") for path, x in updates.items() if np.any(np.asarray(x))
        }
    assert moved["mask_rcnn"] == {"pyramid/encoder/layer2", "classify/fc6"}
    assert moved["semiconv"] == moved["mask_rcnn"] | {"embed", "semiconv"}


def test_rates_fall_by_stage():
    from jaxseg.recipes._instances_method import _rate

    config = dataclasses.replace(DETECTOR, decay="steps", falls=(0.5, 0.75), warmup=10)
    rate = _rate(config, 100)
    expected = {0: 0.1, 9: 1.0, 49: 1.0, 51: 0.1, 99: 0.01}
    for step, factor in expected.items():
        assert float(rate(step)) == pytest.approx(factor * config.learning_rate, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rois": 4}, "rois=4 is of mask_rcnn and semiconv, not embedding"),
        ({"num_classes": 2, "class_names": ()}, "method embedding knows one class"),
        ({"crop": (16, 20)}, "crop is .16, 20.; give a square one"),
        ({"falls": (0.5,)}, "falls are of steps"),
        ({"validation_split": "val"}, "validation_split and hold_out are both given"),
        ({"hold_out": 1}, "hold_out is 1"),
        ({"radius": 0.0}, "radius is 0.0; give more than 0"),
        ({"class_names": ("a", "b")}, "class_names has 2 entries; give 1"),
        ({"steps": 0}, "steps is 0; give 1 or more"),
        ({"embedding": 1}, "cannot be built: the network gives"),
        ({"best": "app"}, "best is 'app'; there are ap, ap_50, .*, pq, "),
        ({"best": "app", "hold_out": 0}, "best is 'app'; there are "),
    ],
)
def test_numbers_that_cannot_be_used(change, says):
    with pytest.raises(InputError, match=says) as found:
        build(dataclasses.replace(TINY, **change))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "semiconv", "first_steps": 2}, "first_steps is 2, steps 2; give fewer"),
        ({"batch_norm": "frozen"}, "give --encoder FILE or --batch-norm running"),
        ({"anchor_sizes": (8.0, 16.0, 32.0)}, "cannot be built: "),
        ({"method": "semiconv", "embedding": 1}, "cannot be built: "),
    ],
)
def test_numbers_of_detectors_that_cannot_be_used(change, says):
    with pytest.raises(InputError, match=says) as found:
        build(dataclasses.replace(DETECTOR, **change))
    assert "\n" not in str(found.value)


def test_what_is_held_out_names_the_folder(folder):
    experiment = build(dataclasses.replace(TINY, hold_out=9))
    for made in (experiment.phases, experiment.validation):
        with pytest.raises(InputError, match=r"'train' has 5 examples, .* --hold-out 5") as found:
            made(folder)
        assert str(folder) in str(found.value)


def test_data_without_instances_are_told(tmp_path):
    data.write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="holds unlabelled; give a folder"):
        instances.open_instances(tmp_path, "all")


def test_from_training_to_predictions(folder, tmp_path, capsys):
    jaxseg = Jaxseg(capsys)
    file, run, out = tmp_path / "rods.py", tmp_path / "run", tmp_path / "out"
    fields = dataclasses.asdict(
        dataclasses.replace(TINY, seed_score=0.0, max_detections=3, batch_size=8)
    )
    file.write_text(EXPERIMENT % fields)
    status, _, err = jaxseg("train", file, "--data", folder, "--workdir", run)
    assert status == 0, err
    jaxseg.succeeds("evaluate", run, "--data", folder, "--split", "test")
    figures = json.loads((run / "evaluation_test.json").read_text())["figures"]
    assert figures["full/images"] == 2 and 0 <= figures["full/pq"] <= 1
    assert {"full/ap", "full/box_ap_75", "full/ap_dsb_50", "full/rq"} <= figures.keys()
    image = folder / "images" / "r8.png"
    jaxseg.succeeds("predict", run, image, "-o", out)
    listed = json.loads((out / "r8_instances.json").read_text())
    labels = data.read_labels(out / "r8_instances.png")
    assert data.image_size(out / "r8_instances_overlay.png") == SIZE == labels.shape
    assert listed and [entry["id"] for entry in listed] == list(range(1, labels.max() + 1))
    for entry in listed:
        mask = decode_rle(entry["segmentation"]["counts"], SIZE)
        np.testing.assert_array_equal(mask, labels == entry["id"])
        x, y, width, height = entry["bbox"]
        rows, columns = np.nonzero(mask)
        assert (x, y) == (columns.min(), rows.min()) and entry["area"] == mask.sum()
        assert (width, height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert entry["category"] == "rod"
    jaxseg.succeeds("predict", run, image, "-o", out, "--min-score", "1.0")
    assert json.loads((out / "r8_instances.json").read_text()) == []
    assert not data.read_labels(out / "r8_instances.png").any()
