"""Superpixels for classes and for flow: crops, experiments, and the table of several runs."""

import dataclasses
import json
import pathlib
import pickle

import jax
import numpy as np
import pytest
from command_line import TINY, Jaxseg

from jaxseg.data import MemorySource, samples_path, write_image, write_labels
from jaxseg.data.flow import keep_values, rescale_flow, write_flow
from jaxseg.data.sintel import TEST_SCENES
from jaxseg.recipes import superpixel_table
from jaxseg.recipes.superpixel_tasks import CropTarget, classes, dense
from jaxseg.recipes.superpixels import Config, build
from jaxseg.train.run_folder import load_experiment
from jaxseg.types import InputError

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"
SMALL = Config(
    network="pix",
    crop_size=24,
    batch_size=2,
    train_superpixels=(4,),
    train_iters=2,
    train_split="train",
    evaluation_superpixels=(6,),
)


def reconstruction(phase, batch):
    """The loss on a host batch, without what it has of compactness: [B]."""
    batch = jax.device_put(batch)
    params, state = phase.method.init(jax.random.key(0), batch)
    _, output = jax.jit(phase.method.loss)(params, state, batch, jax.random.key(0))
    return np.asarray(output.metrics["reconstruction"])


def blocks(rng, shape=(40, 60), side=10):
    grid = rng.integers(0, 256, (shape[0] // side, shape[1] // side, 3))
    return np.kron(grid, np.ones((side, side, 1), int)).astype(np.uint8)


@pytest.mark.parametrize("seed", range(6))
def test_target_stays_with_the_image(seed):
    rng = np.random.default_rng(seed)
    image = blocks(rng)
    example = {"id": "a", "image": image, "target": image.astype(np.float32)}
    crop = CropTarget(dataclasses.replace(SMALL, crop_size=50), keep_values)(example, rng)
    assert crop["image"].shape == crop["target"].shape == (50, 50, 3)
    assert "label" not in crop and crop["target"].dtype == np.float32
    height, width = crop["size"]
    outside = np.ones((50, 50), bool)
    outside[:height, :width] = False
    np.testing.assert_array_equal(np.isnan(crop["target"]).all(axis=-1), outside)
    # The image is interpolated at the borders of its blocks, the target nowhere.
    same = np.abs(crop["target"] - crop["image"])[:height, :width].max(axis=-1) <= 1
    assert same.mean() > 0.6
    colors = {tuple(color) for color in image.reshape(-1, 3)}
    inside = crop["target"][:height, :width].reshape(-1, 3)
    assert {tuple(color) for color in inside.astype(int)} <= colors


def test_flow_is_scaled_and_mirrored_as_pixels_are():
    rng = np.random.default_rng(0)
    y, x = np.indices((40, 60))
    flow = np.stack([np.full_like(x, 3.0, float), np.full_like(x, -2.0, float)], axis=-1)
    flow = flow.astype(np.float32)
    places = np.stack([x, y], axis=-1).astype(np.float32)
    example = {"id": "a", "image": blocks(rng)}
    config = dataclasses.replace(SMALL, crop_size=28)
    mirrored = set()
    for seed in range(12):
        moved = CropTarget(config, rescale_flow)(
            {**example, "target": flow}, np.random.default_rng(seed)
        )["target"]
        came = CropTarget(config, keep_values)(
            {**example, "target": places}, np.random.default_rng(seed)
        )["target"]
        # Pixels of the image that a pixel of the crop spans, by how far its ends lie apart.
        step = (came[-1, -1] - came[0, 0]) / 27
        np.testing.assert_allclose(moved[3, 4] * step, flow[0, 0], atol=0.25)
        assert (moved == moved[0, 0]).all()
        mirrored.add(bool(step[0] < 0))
    assert mirrored == {False, True}


def test_workers_can_unpickle_the_crop():
    crop = pickle.loads(pickle.dumps(CropTarget(SMALL, rescale_flow)))
    assert (crop.crop_size, crop.change) == (24, rescale_flow)


def test_depth_has_one_channel():
    rng = np.random.default_rng(1)
    examples = [
        {"image": blocks(rng), "target": rng.random((40, 60, 1), np.float32)} for _ in range(3)
    ]
    task = dense(lambda folder, split: MemorySource(examples), keep_values)
    experiment = build(SMALL, task)
    (phase,) = experiment.phases(samples_path())
    batch = next(iter(phase.data))
    assert batch["target"].shape == (2, 24, 24, 1) and "label" not in batch
    loss = reconstruction(phase, batch)
    assert np.isfinite(loss).all() and (loss > 0).all()


def write_classes(folder, names):
    """Three images a split whose labels are the last classes of many; 255 is ignored."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(3):
            label = blocks(rng)[..., 0] % 3 + len(names) - 3
            label[:5] = 255
            write_image(folder / "images" / split / f"{i}.png", blocks(rng))
            write_labels(folder / "labels" / split / f"{i}.png", label)
    info = {"kind": "classes", "layout": "folders", "classes": names, "ignore": 255}
    (folder / "dataset.json").write_text(json.dumps(info))
    return folder


def test_any_number_of_classes(tmp_path):
    folder = write_classes(tmp_path, [f"class{i}" for i in range(70)])
    file = load_experiment(EXPERIMENTS / "ssn_semantic.py")
    experiment = file.build(SMALL)
    (phase,) = experiment.phases(folder)
    batch = next(iter(phase.data))
    assert set(np.unique(batch["label"])) <= {-1, 67, 68, 69}
    assert (reconstruction(phase, batch) > 0.01).all()  # 0 if classes beyond 50 were dropped
    rows = experiment.evaluations(folder, "test")
    tested = next(iter(rows["6"].data))
    perfect = rows["6"].metric.measure({"superpixels": tested["label"] + 1}, tested)
    assert rows["6"].metric.compute(perfect)["asa"] == 1


def test_segments_are_no_classes():
    with pytest.raises(InputError, match="holds partition images, not classes"):
        build(SMALL, classes()).phases(samples_path())


def test_the_numbers_of_the_experiments():
    for name in ("ssn_semantic", "ssn_flow"):
        file = load_experiment(EXPERIMENTS / f"{name}.py")
        assert file.VARIANTS["small"].width == 32 and file.VARIANTS["small"].steps == 300
        for config in file.VARIANTS.values():
            file.build(config)
    assert file.VARIANTS["sintel"].test_scenes == TEST_SCENES
    for change in ({"flow": "kitti"}, {"flow_seed": -1}):
        config = dataclasses.replace(file.VARIANTS["synthetic"], **change)
        with pytest.raises(InputError, match=f"{next(iter(change))} is"):
            file.build(config)


def write_sintel(folder):
    rng = np.random.default_rng(0)
    for scene in (*TEST_SCENES, "alley_1", "bamboo_1"):
        for kind in ("clean", "flow"):
            (folder / "training" / kind / scene).mkdir(parents=True)
        for k in (1, 2):
            write_image(folder / f"training/clean/{scene}/frame_{k:04d}.png", blocks(rng))
        flow = blocks(rng)[..., :2].astype(np.float32) / 32
        write_flow(folder / f"training/flow/{scene}/frame_0001.flo", flow)
    return folder


def test_flow_from_training_to_the_table(tmp_path, capsys):
    folder, run = write_sintel(tmp_path / "sintel"), tmp_path / "run"
    jaxseg = Jaxseg(capsys)
    experiment = EXPERIMENTS / "ssn_flow.py"
    options = [*TINY, "--variant", "sintel", "--num-iters", "2", "--evaluation-superpixels", "6"]
    options += ["--steps", "2", "--train-iters", "1"]
    jaxseg.succeeds("train", experiment, "--data", folder, "--workdir", run, *options)
    record = json.loads((run / "config.json").read_text())["config"]
    assert record["flow"] == "sintel" and record["test_scenes"] == list(TEST_SCENES)
    jaxseg.succeeds("evaluate", run, "--data", folder, "--split", "test")
    figures = json.loads((run / "evaluation_test.json").read_text())["figures"]
    assert figures["6/images"] == 5 and figures["6/epe"] > 0

    file = load_experiment(experiment)
    variants = {"sintel": dataclasses.replace(file.VARIANTS["sintel"], evaluation_superpixels=(6,))}
    rows = file.build(variants["sintel"]).evaluations(folder, "test")
    curve = superpixel_table.measure(str(run), rows)
    assert curve == {name: [figures[f"6/{name}"]] for name in ("epe", "regions", "images")}
    at = str(round(figures["6/regions"]))
    argv = ["--data", str(folder), "--runs", str(run), "--limit", "1", "--at", at, "9999"]
    superpixel_table.main(variants, file.build, figures=("epe",), argv=argv)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "a subset: 1 images" and printed[2].startswith(f"| test | epe at {at} |")
    assert printed[-1].startswith("| run |") and printed[-1].split("|")[3].strip() == "-"
    for wrong, says in (
        (["--variant", "small"], "no variant 'small'; there are sintel"),
        (["--data", str(tmp_path / "no")], "no such data folder"),
        (["--runs", str(folder)], "sintel"),
    ):
        with pytest.raises(SystemExit, match=says):
            superpixel_table.main(variants, file.build, figures=("epe",), argv=[*argv, *wrong])


def test_curves_are_read_in_the_logarithm():
    read = superpixel_table.read_at([10.0, 1000.0], [0.0, 2.0], (5, 10, 100, 1000, 1001))
    np.testing.assert_allclose(read, [np.nan, 0.0, 1.0, 2.0, np.nan], atol=1e-12)
