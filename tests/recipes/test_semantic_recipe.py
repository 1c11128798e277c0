import dataclasses
import importlib.util
import json
import pathlib
import typing

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from jaxseg import data, losses, weights
from jaxseg.data.resized import ResizedSource
from jaxseg.recipes import semantic
from jaxseg.recipes.semantic import Config, build
from jaxseg.recipes.semantic_table import table, validation_curve, variant_of
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
    counts = np.stack([np.bincount(n[n < 9], minlength=3) for n in labels])
    for name, expected in (
        ("inverse_log", losses.inverse_log_weights(counts)),
        ("effective", losses.effective_number_weights((counts > 0).astype(np.int64))),
    ):
        build(dataclasses.replace(SMALL, class_weights=name)).phases(folder)
        np.testing.assert_allclose(given[-1], expected)
    build(dataclasses.replace(SMALL, class_weights="none")).phases(folder)
    assert given[-1] is None


@pytest.mark.parametrize(("size", "name"), [((0, 0), "full"), ((6, 8), "6x8")])
def test_it_is_measured_at_its_size(folder, size, name):
    experiment = build(dataclasses.replace(SMALL, size=size, validation_split="val"))
    assert experiment.schedule.best == f"{name}/miou"
    measured = experiment.evaluations(folder, "val")
    assert list(measured) == [name, "full"][: 1 + (name != "full")]
    assert next(iter(measured["full"].data))["label"].shape[1:] == (12, 16)
    assert list(experiment.validation(folder)) == [name]
    for rows in (measured, experiment.validation(folder)):
        batch = next(iter(rows[name].data))
        assert batch["label"].shape[1:] == ((12, 16) if name == "full" else size)
    prediction = {"classes": np.maximum(batch["label"], 0)}
    metric = rows[name].metric
    figures = metric.compute(metric.measure(prediction, batch))
    assert figures["miou"] == 1
    assert [c for c in figures if c.startswith("iou_")] == [f"iou_{c}" for c in CLASSES]
    drawn = experiment.picture(prediction, batch)
    assert drawn.shape == (batch["image"].shape[1], 3 * batch["image"].shape[2], 3)


NETWORKS = {
    "unet": {"width": 2, "depth": 1},
    "resunet": {"width": 2, "residual_depths": (1, 1, 1)},
    "fcn": {"width": 1, "hidden": 2, "fcn_stride": 16, "padding": "same"},
    "fcn_alexnet": {"width": 2, "hidden": 2},
    "fc_densenet": {"width": 2, "growth": 1, "layers": (1, 1, 1)},
    "dilated": {"width": 1, "hidden": 2},
    "pspnet": {"width": 2},
    "deeplab_resnet": {"width": 1, "features": 4},
    "deeplab_xception": {"scale": 0.1, "features": 4},
    "deeplab_mobilenetv2": {"scale": 0.1, "features": 4},
    "espnetv2": {"scale": 0.5},
}


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_is_reached_by_its_word(network):
    assert set(NETWORKS) == set(typing.get_args(typing.get_type_hints(Config)["network"]))
    config = Config(network=network, num_classes=3, crop=(40, 48), size=(40, 48))
    config = dataclasses.replace(config, **NETWORKS[network])
    method = build(config).method()
    example = {
        "image": jax.ShapeDtypeStruct((2, 40, 48, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((2, 40, 48), np.int32),
        "index": jax.ShapeDtypeStruct((2,), np.int32),
        "weight": jax.ShapeDtypeStruct((2,), np.float32),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(method.init, key, example)
    assert bool(state) == (network not in ("fcn", "fcn_alexnet", "dilated"))
    loss, output = jax.eval_shape(method.loss, params, state, example, key)
    assert loss.shape == (2,)
    assert jax.tree.structure(output.model_state) == jax.tree.structure(state)
    got = jax.eval_shape(method.predict, params, state, example)
    assert got["classes"].shape == got["confidence"].shape == (2, 40, 48)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("poly", [0.5 / 4, 0.5, 0.5 * (1 - 40 / 80) ** 0.9, 0.0]),
        ("cosine", [0.5 / 4, 0.5, 0.25, 0.0]),
        ("exponential", [0.5 / 4, 0.5, 0.5 * 0.01**0.5, 0.005]),
        ("constant", [0.5 / 4, 0.5, 0.5, 0.5]),
    ],
)
def test_learning_rates(decay, expected):
    config = dataclasses.replace(SMALL, learning_rate=0.5, steps=84, warmup=4, decay=decay)
    rate = semantic._rate(dataclasses.replace(config, decay_to=0.01))
    np.testing.assert_allclose([rate(t) for t in (0, 4, 44, 84)], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop"])
def test_kernels_alone_decay(optimizer):
    config = dataclasses.replace(SMALL, optimizer=optimizer, weight_decay=0.1)
    made = semantic._optimizer(config)
    params = {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    zero = jax.tree.map(np.zeros_like, params)
    updates, _ = made.update(zero, made.init(params), params)
    assert np.all(updates["kernel"] < 0) and not np.any(updates["bias"])


class TestInitialWeights:
    def state_dict(self, tree, prefix=""):
        """Random tensors under torchvision's names, {name: value}, of an encoder's variables."""
        rng = np.random.default_rng(0)
        ends = {"kernel": "weight", "scale": "weight", "mean": "running_mean"}
        ends |= {"var": "running_var", "bias": "bias"}
        told = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            _, name = jax.tree_util.keystr(path, simple=True, separator=".").split(".", 1)
            stem, _, last = name.rpartition(".")
            shape = [leaf.shape[i] for i in (3, 2, 0, 1)] if leaf.ndim == 4 else leaf.shape
            told[f"{prefix}{stem}.{ends[last]}"] = rng.random(shape, np.float32)
        return told

    def test_of_vgg(self, tmp_path):
        config = dataclasses.replace(SMALL, **{**NETWORKS["fcn"], "depth": 0}, network="fcn")
        example = {"image": np.zeros((1, 32, 32, 3), np.uint8)}
        params, _ = jax.jit(build(config).method().init)(jax.random.key(0), example)
        tensors = self.state_dict({"params": params["encoder"]})
        rng = np.random.default_rng(1)
        for name, shape in (("0", (2, 8 * 7 * 7)), ("3", (2, 2)), ("6", (5, 2))):
            tensors[f"classifier.{name}.weight"] = rng.random(shape, np.float32)
            tensors[f"classifier.{name}.bias"] = rng.random(shape[:1], np.float32)
        save_file(tensors, tmp_path / "vgg.safetensors")
        given = dataclasses.replace(config, encoder=str(tmp_path / "vgg.safetensors"))
        begun, _ = build(given).initial(params, {})
        kernel = begun["encoder"]["features"]["5"]["kernel"]
        np.testing.assert_array_equal(kernel, tensors["features.5.weight"].transpose(2, 3, 1, 0))
        np.testing.assert_array_equal(begun["fc"]["fc7"]["bias"], tensors["classifier.3.bias"])
        changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), params, begun)
        assert all(jax.tree.leaves(changed["encoder"])) and changed["fc"]["fc6"]["kernel"]
        assert not changed["fc"]["score"]["kernel"]

    @pytest.mark.parametrize("network", ["deeplab_resnet", "deeplab_mobilenetv2", "dilated"])
    def test_all_names_of_an_encoder_have_their_place(self, tmp_path, network):
        own = NETWORKS[network]
        config = dataclasses.replace(SMALL, **{"width": 0, **own, "depth": 0}, network=network)
        example = {"image": np.zeros((1, 16, 16, 3), np.uint8)}
        init = build(config).method().init
        params, state = jax.eval_shape(init, jax.random.key(0), example)
        if network == "dilated":
            tensors = self.state_dict({"params": {"features": params["features"]}})
            tensors["classifier.0.weight"] = np.zeros((2, 8 * 7 * 7), np.float32)
            tensors["classifier.3.weight"] = np.zeros((2, 2), np.float32)
            tensors |= {f"classifier.{n}.bias": np.zeros(2, np.float32) for n in (0, 3)}
        else:
            tree = {"params": params["encoder"], "batch_stats": state["encoder"]}
            tensors = self.state_dict(tree)
            last = "fc" if network == "deeplab_resnet" else "classifier.1"
            tensors |= {f"{last}.weight": np.zeros((5, 8), np.float32)}
        save_file(tensors, tmp_path / "a.safetensors")
        given = dataclasses.replace(config, encoder=str(tmp_path / "a.safetensors"))
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), (params, state))
        begun = build(given).initial(*zeros)
        assert jax.tree.structure(begun) == jax.tree.structure(zeros)
        tensors.popitem()
        tensors["another"] = np.zeros(1, np.float32)
        save_file(tensors, tmp_path / "a.safetensors")
        with pytest.raises(InputError, match="another"):
            build(given).initial(*zeros)

    def test_of_a_network_that_torchvision_lacks(self, tmp_path):
        save_file({"a": np.zeros(1, np.float32)}, tmp_path / "a.safetensors")
        config = dataclasses.replace(SMALL, encoder=str(tmp_path / "a.safetensors"))
        with pytest.raises(InputError, match="no released weights for unet"):
            build(config).initial({}, {})

    def test_of_packed_weights(self, tmp_path):
        example = {"image": np.zeros((1, 8, 8, 3), np.uint8)}
        experiment = build(SMALL)
        variables = jax.jit(experiment.method().init)(jax.random.key(5), example)
        tensors = weights.name_tensors(*jax.device_get(variables))
        plain = json.loads(json.dumps(dataclasses.asdict(SMALL)))
        card = weights.Card("a", "", "semantic", plain, 3, "0", "", "")
        weights.write_weights(tmp_path / "a.safetensors", card, tensors)
        path = str(tmp_path / "a.safetensors")
        begun = build(dataclasses.replace(SMALL, initial=path)).initial(*variables)
        jax.tree.map(np.testing.assert_array_equal, begun, variables)
        larger = ({**variables[0], "more": np.ones(2, np.float32)}, variables[1])
        begun = build(dataclasses.replace(SMALL, initial=path)).initial(*larger)
        jax.tree.map(np.testing.assert_array_equal, begun, larger)
        wider = build(dataclasses.replace(SMALL, initial=path, width=4))
        with pytest.raises(InputError, match=r"a\.safetensors: of another network"):
            wider.initial(*jax.jit(wider.method().init)(jax.random.key(0), example))


def test_data_that_do_not_fit(folder):
    with pytest.raises(InputError, match="has 3 classes; set num_classes, which is 4"):
        build(dataclasses.replace(SMALL, num_classes=4)).phases(folder)
    named = dataclasses.replace(SMALL, class_names=("car", "sky", "road"))
    with pytest.raises(InputError, match="has the classes sky, road, car; set class_names to them"):
        build(named).phases(folder)
    with pytest.raises(InputError, match="holds instances images; give data with classes"):
        build(SMALL).phases(data.samples_path())


@pytest.mark.parametrize(
    "change",
    [
        {"width": -1},
        {"scale": 0.5},  # a U-Net has a width instead
        {"hidden": 8},
        {"depth": 0, "network": "fcn", "batch_norm": "batch"},
        {"depth": 0, "width": 0, "network": "espnetv2", "scale": 0.7},
        {"depth": 0, "network": "resunet", "residual_depths": (2, 2)},
        {"class_names": ("a", "b")},
        {"class_colors": ((0, 0, 0),)},
        {"class_colors": ((0, 0, 300),) * 3},
        {"growth": 4},
        {"layers": (3, 3, 3)},
        {"context": "none"},
        {"features": 8},
        {"superpixel_level": 1},
        {"decay_to": 0.5},
        {"depth": 9},
        {"std": (1.0, 0.0, 1.0)},
        {"encoder": "a.pth", "initial": "b"},
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
    word = {"residual_depths": "depths"}.get(next(reversed(change)), next(reversed(change)))
    with pytest.raises(InputError, match=word.split("_")[0]):
        build(dataclasses.replace(SMALL, **change))


@pytest.mark.parametrize(
    "field", ["network", "decay", "class_weights", "upsampling", "loss", "optimizer", "dtype"]
)
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


@pytest.mark.parametrize("name", ["camvid", "camvid_families", "ssn_layer"])
def test_variants_can_be_built(name):
    for variant, config in experiment_file(name).VARIANTS.items():
        assert build(config).schedule.steps == config.steps, variant


def write_run(folder, config, miou):
    """What evaluating a run leaves."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"config": dataclasses.asdict(config)}))
    found = {"figures": {"120x160/miou": miou, "120x160/pixel_accuracy": 0.8, "full/miou": 0.0}}
    (folder / "evaluation_test.json").write_text(json.dumps(found))
    lines = [{"step": 5, "loss": 1.0}, {"step": 10, "120x160/miou": miou / 2}, {"step": 15}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_table_of_runs(tmp_path):
    variants = experiment_file("ssn_layer").VARIANTS
    figures = {("without", 0): 0.30, ("with", 0): 0.35, ("without", 1): 0.32, ("with", 1): 0.33}
    runs = []
    for (variant, seed), miou in figures.items():
        config = dataclasses.replace(variants[variant], seed=seed, steps=50, log_every=7)
        runs.append(write_run(tmp_path / f"{variant}{seed}", config, miou))
    lines = [line.split() for line in table(runs, "test", variants).splitlines()[1:]]
    assert lines == [
        ["without", "50", "0,1", "31.00", "30.00", "-", "32.00", "80.00"],
        ["with", "50", "0,1", "34.00", "33.00", "-", "35.00", "80.00"],
    ]
    with pytest.raises(InputError, match=r"evaluation_val\.json: missing; train and evaluate"):
        table(runs, "val", variants)
    assert validation_curve(runs[0]) == ([10], [0.15])
    with pytest.raises(InputError, match=r"metrics\.jsonl: cannot be read"):
        validation_curve(tmp_path)
    (runs[0] / "evaluation_test.json").write_text('{"figures": {"12/asa": 1}}')
    with pytest.raises(InputError, match="without0: no run of semantic segmentation"):
        table(runs, "test", variants)
    (runs[0] / "evaluation_test.json").write_text("{")
    with pytest.raises(InputError, match=r"evaluation_test\.json: damaged"):
        table(runs, "test", variants)


def test_a_run_of_before_a_field_existed(tmp_path):
    variants = experiment_file("camvid_families").VARIANTS
    config = json.loads(json.dumps(dataclasses.asdict(variants["unet"])))
    assert variant_of(config, variants) == "unet"
    del config["dtype"]
    assert variant_of(config, variants) == "unet"
    assert variant_of(config | {"width": 3}, variants) == "other"


def test_the_encoder_may_learn_slowly():
    """SGD without decay moves each part by its own multiple of the gradient."""
    changes = {"network": "pspnet", "width": 2, "depth": 0, "optimizer": "sgd", "weight_decay": 0.0}
    moved = {}
    for rate in (1.0, 0.1):
        config = dataclasses.replace(SMALL, **changes, encoder_rate=rate)
        experiment = build(config)
        params, _ = jax.eval_shape(experiment.method().init, jax.random.key(0), experiment.example)
        grads = jax.tree.map(lambda p: np.ones(p.shape, p.dtype), params)
        optimizer = semantic.make_optimizer(config)
        moved[rate], _ = optimizer.update(grads, optimizer.init(grads), grads)
    ratio = jax.tree.map(lambda a, b: float(np.mean(b / a)), moved[1.0], moved[0.1])
    encoder = ratio.pop("encoder")
    np.testing.assert_allclose(jax.tree.leaves(encoder), 0.1, rtol=1e-4)
    np.testing.assert_allclose(jax.tree.leaves(ratio), 1, rtol=1e-4)
    with pytest.raises(InputError, match=r"encoder_rate=0\.5 is of"):
        build(dataclasses.replace(SMALL, encoder_rate=0.5))
    with pytest.raises(InputError, match=r"encoder_rate is 0\.0"):
        build(dataclasses.replace(SMALL, encoder_rate=0.0))
