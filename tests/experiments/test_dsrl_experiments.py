"""The experiments around DSRL, small, on data that the test writes."""

import dataclasses
import json
import pathlib
import re

import dsrl_camvid
import dsrl_cityscapes
import dsrl_coco_pose
import dsrl_keypoints
import jax
import numpy as np
import pytest
from PIL import Image

from jaxseg.data import write_image
from jaxseg.data.cityscapes import CLASSES, LABEL_IDS
from jaxseg.models import weights
from jaxseg.train import init_state, make_train_step
from jaxseg.train.evaluate import evaluate
from jaxseg.train.sharding import data_mesh, replicated
from jaxseg.types import InputError


def step_and_figures(experiment, folder, split):
    """One step, and an evaluation with what it gave."""
    (phase,) = experiment.phases(folder)
    batch = jax.tree.map(np.asarray, next(iter(phase.data)))
    state = init_state(jax.random.key(0), phase.method, batch, phase.optimizer)
    state, metrics = jax.jit(make_train_step(phase.method.loss, phase.optimizer))(state, batch)
    assert np.isfinite(metrics["loss"]) and bool(metrics["ok"])
    mesh = data_mesh(jax.devices()[:1])
    given = jax.device_put((state.params, state.model_state), replicated(mesh))
    return metrics, evaluate(experiment.evaluations(folder, split), *given, mesh)


@pytest.mark.parametrize("experiment", [dsrl_camvid, dsrl_cityscapes])
def test_variants_are_the_rows_of_the_ablation(experiment):
    rows = {}
    for name, config in experiment.VARIANTS.items():
        bare = name.removesuffix("_full").removesuffix("_continued")
        assert config.stage == bare.split("_")[-1]
        rows.setdefault(name.replace(f"_{config.stage}", ""), []).append(config)
        if config.stage in ("base", "affinity"):
            experiment.build(config)
    for row in rows.values():
        assert [c.stage for c in row] == ["base", "sssr", "sisr", "affinity"]
        # They differ in nothing else.
        assert len({dataclasses.replace(c, stage="base") for c in row}) == 1


def test_cityscapes_from_the_download(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        folders = [tmp_path / kind / split / "ulm" for kind in ("leftImg8bit", "gtFine")]
        for folder in folders:
            folder.mkdir(parents=True)
        for i in range(2):
            name = f"ulm_{i:06}_000019"
            image = rng.integers(0, 256, (32, 64, 3), np.uint8)
            label = rng.choice(np.array([0, *LABEL_IDS], np.uint8), (32, 64))
            write_image(folders[0] / f"{name}_leftImg8bit.png", image)
            Image.fromarray(label).save(folders[1] / f"{name}_gtFine_labelIds.png")
    config = dataclasses.replace(
        dsrl_cityscapes.VARIANTS["espnetv2_256_affinity"],
        network="unet",
        scale=1.0,
        width=4,
        depth=2,
        size=(16, 32),
        crop=(16, 32),
        batch_size=2,
        steps=1,
    )
    experiment = dsrl_cityscapes.build(config)
    metrics, figures = step_and_figures(experiment, tmp_path, "val")
    assert {"affinity_loss", "image_loss"} < set(metrics)
    labelled = sum(
        np.isin(np.asarray(Image.open(path)), LABEL_IDS).sum()
        for path in (tmp_path / "gtFine/val").rglob("*.png")
    )
    assert figures["full/pixels"] == labelled
    assert [f for f in figures if f.startswith("full/iou_")] == [f"full/iou_{c}" for c in CLASSES]


def worms(folder):
    """Two images with two strokes each, as stacked masks."""
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    info = {
        "name": "strokes",
        "kind": "instances",
        "layout": "lists",
        "channels": "grey",
        "background": 0,
        "stacked_masks": "masks",
    }
    (folder / "dataset.json").write_text(json.dumps(info))
    for split, name in (("train", "a"), ("test", "b")):
        masks = np.zeros((2, 40, 56), bool)
        masks[0, 8:12, 6:30] = True
        masks[1, 16:36, 40:44] = True
        grey = (masks.any(0) * 150 + 20).astype(np.uint8)
        Image.fromarray(grey).save(folder / "images" / f"{name}.png")
        Image.fromarray(masks.reshape(-1, 56)).save(folder / "masks" / f"{name}.png")
        (folder / f"{split}.txt").write_text(f"{name}\n")
    return folder


SMALL_WORMS = dsrl_keypoints.Config(
    width=4, crop=(32, 48), batch_size=2, steps=1, max_points=6, threshold=1e-6
)


@pytest.mark.parametrize("network", ["unet", "hrnet"])
def test_keypoints_of_worms(tmp_path, network):
    stage = "affinity" if network == "unet" else "base"
    config = dataclasses.replace(SMALL_WORMS, network=network, stage=stage)
    experiment = dsrl_keypoints.build(config)
    _, figures = step_and_figures(experiment, worms(tmp_path), "test")
    assert figures["tips/points"] == 4
    row = experiment.evaluations(tmp_path, "test")["tips"]
    batch = next(iter(row.data))
    shown = {k: batch[k] for k in ("points", "kinds")}
    right = {**shown, "scores": np.ones(batch["kinds"].shape, np.float32)}
    best = row.metric.compute(row.metric.measure(right, batch))
    assert best["pck_3"] == best["precision_3"] == 1
    moved = {**right, "points": right["points"] + 4}
    far = row.metric.compute(row.metric.measure(moved, batch))
    assert far["pck_5"] == 0 and far["pck_10"] == 1
    drawn = experiment.picture(shown, batch)
    assert drawn.shape == (40, 56, 3) and drawn.dtype == np.uint8
    y, x = np.round(batch["points"][0, 0]).astype(int)
    assert tuple(drawn[y, x]) == (255, 40, 40)


def test_numbers_of_the_keypoints_are_checked():
    for changes, words in (
        ({"width": 0}, "width is 0"),
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"warmup": -5}, "warmup is -5"),
        ({"max_points": 10**6}, "max_points"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"image_weight": -0.1}, "image_weight is -0.1"),
        ({"crop": (0, 8)}, "crop is"),
    ):
        with pytest.raises(InputError, match=words):
            dsrl_keypoints.build(dataclasses.replace(SMALL_WORMS, **changes))


def coco(folder):
    """A photo with one person, for training and evaluation."""
    points = np.zeros((17, 3))
    points[0], points[5] = (20, 12, 2), (26, 20, 1)
    person = {
        **{"id": 1, "image_id": 3, "category_id": 1, "iscrowd": 0, "bbox": [10, 4, 20, 30]},
        **{"area": 300.0, "keypoints": points.ravel().tolist(), "num_keypoints": 2},
    }
    image = {"id": 3, "file_name": "3.png", "height": 40, "width": 60}
    (folder / "annotations").mkdir()
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        content = {"images": [image], "annotations": [person], "categories": [{"id": 1}]}
        path = folder / "annotations" / f"person_keypoints_{split}2017.json"
        path.write_text(json.dumps(content))
        (folder / f"{split}2017").mkdir()
        write_image(folder / f"{split}2017/3.png", rng.integers(0, 256, (40, 60, 3), np.uint8))
    return folder


SMALL_POSE = dsrl_coco_pose.Config(
    width=2, stem=2, modules=(1, 1, 1), blocks=1, crop=(64, 64), sigma=2.0, batch_size=2, steps=1
)


def test_poses_of_coco(tmp_path):
    experiment = dsrl_coco_pose.build(SMALL_POSE)
    metrics, figures = step_and_figures(experiment, coco(tmp_path), "val")
    assert "affinity_loss" in metrics
    assert figures["people/people"] == 1
    row = experiment.evaluations(tmp_path, "val")["people"]
    batch = next(iter(row.data))
    right = {
        "points": batch["points"],
        "kinds": batch["kinds"],
        "scores": np.ones(batch["kinds"].shape, np.float32),
    }
    assert row.metric.compute(row.metric.measure(right, batch))["ap"] == pytest.approx(1)


def test_numbers_of_the_poses_are_checked():
    for changes, words in (
        ({"modules": (1, 0, 1)}, "modules is"),
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"blocks": 0}, "blocks is 0"),
    ):
        with pytest.raises(InputError, match=words):
            dsrl_coco_pose.build(dataclasses.replace(SMALL_POSE, **changes))


def test_poses_begin_with_published_weights(monkeypatch):
    """`read` itself is tested with the authors' names in tests/models/test_hrnet.py."""
    given = {}

    def read(path, variables, *, naming, leave_out, keep):
        given.update(path=path, naming=naming)
        assert not any(re.search(p, "params/stage2_0/branch0/0/conv1/kernel") for p in keep)
        return jax.tree.map(lambda x: np.asarray(x) + 1, variables)

    monkeypatch.setattr(weights, "read", read)
    for stage in ("base", "affinity"):
        config = dataclasses.replace(SMALL_POSE, stage=stage, encoder="hrnet.pth")
        experiment = dsrl_coco_pose.build(config)
        shapes = jax.eval_shape(experiment.method().init, jax.random.key(0), experiment.example)
        before = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
        for old, new in zip(before, experiment.initial(*before), strict=True):
            assert jax.tree.structure(old) == jax.tree.structure(new)
            trunk, rest = (new, {}) if stage == "base" else (new["trunk"], new["heads"])
            assert all(np.all(leaf == 1) for leaf in jax.tree.leaves(trunk))
            assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(rest))
    assert given == {"path": pathlib.Path("hrnet.pth"), "naming": weights.HRNET}
