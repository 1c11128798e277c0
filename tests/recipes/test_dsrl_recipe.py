import dataclasses
import json
import pathlib
import re

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import jaxseg
from jaxseg import data
from jaxseg.cli import main
from jaxseg.recipes import dsrl
from jaxseg.recipes.dsrl import Config, build
from jaxseg.types import InputError

SMALL = Config(
    num_classes=3,
    width=2,
    depth=1,
    reconstruction_width=4,
    affinity_stride=2,
    crop=(8, 12),
    batch_size=2,
    steps=3,
    log_every=1,
    decay="cosine",
)
EXPERIMENT = """
import dataclasses
from jaxseg.recipes.dsrl import Config, build

VARIANTS = {"small": Config(**%r)}
"""
WEIGHTS = pathlib.Path(__file__).parents[1] / "goldens/espnetv2_s_0.5_city_512x256.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two images for training and one for tests, 12×18 pixels, with an ignored row."""
    folder = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    info = {"kind": "classes", "layout": "folders", "classes": list("abc"), "ignore": 9}
    (folder / "dataset.json").write_text(json.dumps(info))
    for split, names in {"train": "ab", "test": "c"}.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for name in names:
            image = rng.integers(0, 256, (12, 18, 3)).astype(np.uint8)
            label = rng.integers(0, 3, (12, 18)).astype(np.uint8)
            label[0] = 9
            data.write_image(folder / "images" / split / f"{name}.png", image)
            Image.fromarray(label).save(folder / "labels" / split / f"{name}.png")
    return folder


def variables(config):
    experiment = build(config)
    return jax.eval_shape(experiment.method().init, jax.random.key(0), experiment.example)


def test_stages_are_methods_over_one_tree(folder):
    trees = {
        stage: variables(dataclasses.replace(SMALL, stage=stage))
        for stage in ("base", "sssr", "sisr", "affinity", "phases")
    }
    assert set(trees["base"][0]) != {"trunk", "heads"}
    for stage in ("sisr", "affinity", "phases"):
        assert trees[stage] == trees["sssr"]
    for config, names, steps in (
        (dataclasses.replace(SMALL, stage="sisr"), [""], [1]),
        (dataclasses.replace(SMALL, stage="phases"), ["sssr", "sisr", "affinity"], [1, 1, 1]),
        (
            dataclasses.replace(SMALL, stage="phases", steps=7),
            ["sssr", "sisr", "affinity"],
            [3, 3, 3],
        ),
    ):
        phases = build(config).phases(folder)
        assert [p.name for p in phases] == names and [p.steps for p in phases] == steps
        assert len({id(p.optimizer) for p in phases}) == len(phases)
        assert len({id(p.data) for p in phases}) == 1


def test_what_a_phase_does_not_train_rests(folder):
    """Weight decay would move it."""
    config = dataclasses.replace(SMALL, stage="phases", weight_decay=0.5, learning_rate=0.1)
    shapes, _ = variables(config)
    ones = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes)
    moved = {}
    for phase in build(config).phases(folder):
        zeros = jax.tree.map(np.zeros_like, ones)
        updates, _ = phase.optimizer.update(zeros, phase.optimizer.init(ones), ones)
        heads = updates["heads"]
        moved[phase.name] = {
            name: any(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(heads[name]))
            for name in ("tail", "reconstruction", "transform")
        }
    assert moved == {
        "sssr": {"tail": True, "reconstruction": False, "transform": False},
        "sisr": {"tail": True, "reconstruction": True, "transform": False},
        "affinity": {"tail": True, "reconstruction": True, "transform": True},
    }


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("stage", ["affinity", "base"])
def test_what_predicts_may_learn_fast(folder, stage, residual):
    """SGD without decay moves each part by its own multiple of the gradient."""
    plain = dataclasses.replace(
        SMALL,
        stage=stage,
        residual=residual,
        optimizer="sgd",
        weight_decay=0.0,
        decay="constant",
    )
    shapes, _ = variables(plain)
    grads = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes)
    moved = []
    for rate in (1.0, 10.0):
        (phase,) = build(dataclasses.replace(plain, heads_rate=rate)).phases(folder)
        updates, _ = phase.optimizer.update(grads, phase.optimizer.init(grads), grads)
        moved.append(updates)
    ratio = jax.tree.map(lambda a, b: float(np.mean(b / a)), *moved)
    fast = [ratio.pop("head")] if stage == "base" else [ratio.pop("heads")]
    if stage != "base" and residual:
        fast.append(ratio["trunk"].pop("head"))
    np.testing.assert_allclose(jax.tree.leaves(fast), 10, rtol=1e-4)
    np.testing.assert_allclose(jax.tree.leaves(ratio), 1, rtol=1e-4)


# The other two encoders of DeepLabv3+ differ in nothing that matters here, and take long to trace.
@pytest.mark.parametrize("network", ["unet", "pspnet", "espnetv2", "deeplab_mobilenetv2"])
def test_every_network_trains_as_base_and_in_full(network):
    """Traced, not run."""
    small = {
        "unet": {},
        "pspnet": {"width": 1, "depth": 0},
        "espnetv2": {"scale": 0.5, "width": 0, "depth": 0},
        "deeplab_mobilenetv2": {"scale": 0.1, "features": 4, "width": 0, "depth": 0},
    }[network]
    batch = {
        "image": jax.ShapeDtypeStruct((2, 32, 40, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((2, 32, 40), np.int32),
        "index": jax.ShapeDtypeStruct((2,), np.int32),
        "weight": jax.ShapeDtypeStruct((2,), np.float32),
        "size": jax.ShapeDtypeStruct((2, 2), np.int32),
    }
    for stage in ("base", "affinity"):
        config = dataclasses.replace(SMALL, network=network, stage=stage, **small)
        method = dsrl.make_method(config)
        key = jax.eval_shape(lambda: jax.random.key(0))
        params, state = jax.eval_shape(method.init, key, batch)
        value, out = jax.eval_shape(method.loss, params, state, batch, key)
        assert value.shape == (2,)
        assert ("affinity_loss" in out.metrics) == (stage == "affinity")
        assert jax.eval_shape(method.predict, params, state, batch)["classes"].shape == (2, 32, 40)


def test_options_reach_the_method(monkeypatch):
    given = {}
    network, method = dsrl.dsrl_network, dsrl.dsrl.method
    monkeypatch.setattr(
        dsrl, "dsrl_network", lambda *a, **k: given.update(network=k) or network(*a, **k)
    )
    monkeypatch.setattr(
        dsrl.dsrl, "method", lambda *a, **k: given.update(method=k) or method(*a, **k)
    )
    config = dataclasses.replace(
        SMALL,
        tail_widths=(5,),
        subsample="nearest",
        order=2,
        image_weight=0.5,
        affinity_weight=2.0,
        mean=(0.1, 0.2, 0.3),
        size=(8, 12),
        batch_norm="batch",
    )
    dsrl.make_method(config, scale=2.0, halve=False)
    assert given["network"] == {
        **{"tail_widths": (5,), "width": 4, "affinity_stride": 2, "subsample": "nearest"},
        **{"batch_norm": "batch", "dtype": None},
    }
    assert given["method"] == {
        **{"stride": 2, "image_weight": 0.5, "affinity_weight": 2.0, "order": 2},
        **{"mean": (0.1, 0.2, 0.3), "std": (0.25, 0.25, 0.25), "dropout": False},
        **{"halve": False, "size": (8, 12), "scale": 2.0},
    }


@pytest.mark.parametrize("base", [True, False])
def test_an_encoder_goes_into_the_trunk(base):
    stage = "base" if base else "affinity"
    config = dataclasses.replace(
        SMALL, stage=stage, network="espnetv2", scale=0.5, width=0, depth=0, encoder=str(WEIGHTS)
    )
    experiment = build(config)
    drawn = jax.jit(experiment.method().init)(jax.random.key(0), experiment.example)
    params, state = experiment.initial(*jax.device_get(drawn))
    assert jax.tree.structure((params, state)) == jax.tree.structure(drawn)
    trunk, before = (params, drawn[0]) if base else (params["trunk"], drawn[0]["trunk"])
    changed = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != b)), trunk, before)
    kernels = [k for k, v in jax.tree_util.tree_leaves_with_path(changed["encoder"]) if v]
    assert len(kernels) > 50
    assert not any(jax.tree.leaves(changed["decoder"]))
    if not base:
        heads = jax.tree.map(
            lambda a, b: bool(np.any(np.asarray(a) != b)), params["heads"], drawn[0]["heads"]
        )
        assert not any(jax.tree.leaves(heads))


def test_wrong_numbers_are_refused(tmp_path):
    for changes, words in (
        ({"superpixels": 9}, "superpixels"),
        ({"network": "fcn", "depth": 0}, "fcn gives no features"),
        ({"affinity_stride": 0}, "affinity_stride is 0"),
        ({"reconstruction_width": 0}, "reconstruction_width is 0"),
        ({"heads_rate": 0.0}, r"heads_rate is 0\.0"),
        ({"stage": "base", "network": "fcn", "heads_rate": 10.0}, "no place in fcn"),
        ({"size": (8, 8)}, "give --crop as well"),
        ({"tail_widths": (3, 3)}, "tail_widths"),
        ({"image_weight": -1.0}, "image_weight"),
    ):
        with pytest.raises(InputError, match=words):
            build(dataclasses.replace(SMALL, **changes))
    # The command line's types refuse these before; a program's, only here.
    config = dataclasses.replace(SMALL)
    object.__setattr__(config, "stage", "sissr")
    with pytest.raises(InputError, match="stage is 'sissr'"):
        build(config)
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="no released weights for unet"):
        experiment = build(dataclasses.replace(SMALL, encoder=str(tmp_path / "w.safetensors")))
        experiment.initial(*({"trunk": {}, "heads": {}},) * 2)


def test_from_end_to_end(folder, tmp_path, capsys):
    """Three phases, interrupted by nothing; evaluated, loaded and used on an image."""
    config = dataclasses.replace(SMALL, stage="phases", batch_size=jax.device_count())
    changed = dataclasses.asdict(config)
    (tmp_path / "small.py").write_text(EXPERIMENT % changed)
    run = tmp_path / "run"
    train = ["train", str(tmp_path / "small.py"), "--data", str(folder), "--workdir", str(run)]
    assert main(train) == 0
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told = [{n for n in ("image_loss", "affinity_loss") if n in str(row)} for row in logged]
    assert [t for row, t in zip(logged, told, strict=True) if "accuracy" in str(row)][:3] == [
        set(),
        {"image_loss"},
        {"image_loss", "affinity_loss"},
    ]
    assert main(["evaluate", str(run), "--data", str(folder), "--split", "test"]) == 0
    record = json.loads((run / "evaluation_test.json").read_text())
    assert record["figures"]["full/pixels"] == 11 * 18  # The ignored row does not count.
    near = [record["figures"][f"full/trimap_pixels_{r}"] for r in dsrl.RADII]
    assert near[0] > 0 and near == sorted(near) and near[-1] == 11 * 18
    assert not any("trimap" in name for row in logged for name in row)
    image = np.random.default_rng(1).integers(0, 256, (12, 18, 3), np.uint8)
    predictor = jaxseg.load(run)
    assert predictor(image)["classes"].shape == (12, 18)
    # What is deployed is the trunk and the tail with its scores.
    heads = predictor.params["heads"]
    used = [predictor.params["trunk"], heads["tail"], heads["score"]]
    deployed = sum(leaf.size for leaf in jax.tree.leaves(used))
    assert record["costs"]["full"]["parameters"] == deployed
    file = tmp_path / "dsrl.jaxexport"
    assert main(["export", str(run), "-o", str(file), "--size", "12", "18"]) == 0
    exported = jax.export.deserialize(bytearray(file.read_bytes()))
    got = exported.call(image[None])["classes"][0]
    np.testing.assert_array_equal(got, predictor.classes(image).classes)
    constants = exported.mlir_module()
    assert _constants_like(constants, heads["score"])
    assert not _constants_like(constants, heads["reconstruction"]["conv1"])
    capsys.readouterr()


def _constants_like(module, part):
    """Whether the program holds a constant of the kernel's shape."""
    shape = "x".join(map(str, part["kernel"].shape))
    return re.search(rf"stablehlo\.constant .*tensor<{shape}xf32>", module) is not None


@pytest.mark.parametrize("residual", [False, True])
def test_a_base_run_fills_the_trunk(folder, tmp_path, capsys, residual):
    (tmp_path / "small.py").write_text(
        EXPERIMENT
        % dataclasses.asdict(
            dataclasses.replace(SMALL, stage="base", steps=1, batch_size=jax.device_count())
        )
    )
    run = tmp_path / "run"
    train = ["train", str(tmp_path / "small.py"), "--data", str(folder), "--workdir", str(run)]
    assert main(train) == 0
    given = jaxseg.load(run)
    config = dataclasses.replace(SMALL, initial=str(run), residual=residual)
    experiment = build(config)
    drawn = jax.jit(experiment.method().init)(jax.random.key(0), experiment.example)
    params, state = experiment.initial(*jax.device_get(drawn))
    left_out = {k: v for k, v in given.params.items() if k not in params["trunk"]}
    assert set(left_out) == (set() if residual else {"head"})
    for name, leaf in params["trunk"].items():
        assert jax.tree.all(jax.tree.map(np.array_equal, leaf, given.params[name]))
    assert jax.tree.all(jax.tree.map(np.array_equal, state["trunk"], given.model_state))
    assert jax.tree.all(jax.tree.map(np.array_equal, params["heads"], drawn[0]["heads"]))
    # With the plain network's scores it begins as that run.
    image = np.random.default_rng(1).integers(0, 256, (1, 12, 18, 3), np.uint8)
    base = dsrl.make_method(dataclasses.replace(config, stage="base"), probabilities=True)
    ours = dsrl.make_method(config, probabilities=True).predict(params, state, {"image": image})
    theirs = base.predict(given.params, given.model_state, {"image": image})
    off = np.abs(np.asarray(ours["probabilities"]) - np.asarray(theirs["probabilities"])).max()
    assert (off < 1e-5) == residual
    # A trunk that the run does not fill.
    other = build(dataclasses.replace(SMALL, initial=str(run), depth=2, crop=(8, 16)))
    with pytest.raises(InputError, match="of another network"):
        shapes = jax.eval_shape(other.method().init, jax.random.key(0), other.example)
        other.initial(*jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes))
    capsys.readouterr()
