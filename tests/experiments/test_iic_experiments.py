"""The experiments of IIC, small, on data that the test writes; two of them by the command."""

import dataclasses
import functools
import json
import pathlib

import iic_camvid
import iic_cifar
import iic_coco_stuff
import iic_loveda
import iic_mnist
import iic_potsdam
import iic_stl10
import jax
import numpy as np
import pytest
import tifffile
from command_line import Jaxseg
from PIL import Image

from jaxseg import data, load
from jaxseg.data import camvid
from jaxseg.data.potsdam import LABELLED_TILES, UNLABELLED_TILES, PotsdamSource
from jaxseg.recipes import iic_images, iic_pixels
from jaxseg.train.log import read_metrics

EXPERIMENTS = pathlib.Path(iic_mnist.__file__).parent
IMAGES = (iic_mnist, iic_cifar, iic_stl10)
PIXELS = (iic_camvid, iic_loveda, iic_coco_stuff, iic_potsdam)


def options(**values):
    """As the command takes them."""
    found = []
    for name, value in values.items():
        texts = value if isinstance(value, tuple) else (value,)
        found += [f"--{name.replace('_', '-')}", *map(str, texts)]
    return found


@pytest.fixture
def jaxseg(capsys):
    return Jaxseg(capsys)


@pytest.mark.parametrize(
    ("module", "variant"),
    [
        pytest.param(module, name, id=f"{module.__name__}-{name}")
        for module in (*IMAGES, *PIXELS)
        for name in module.VARIANTS
    ],
)
def test_variants_can_be_built(module, variant):
    config = module.VARIANTS[variant]
    experiment = module.build(config)  # Its check traces the network.
    assert experiment.schedule.steps == config.steps
    side = config.crop if module in PIXELS else (config.size, config.size)
    assert experiment.example["image"].shape == (1, *side, config.channels)
    recipe = iic_pixels if module in PIXELS else iic_images
    assert type(config) is recipe.Config
    method = recipe.make_method(config)
    _, state = jax.eval_shape(lambda: method.init(jax.random.key(0), experiment.example))
    heads = {name: len(x.shape) and x.shape[0] for name, x in state["information"].items()}
    assert heads == {
        name: config.sub_heads for name in (("main", "over") if config.over_clusters else ("main",))
    }


# Digits, by the command.


def write_digits(folder, seed):
    folder.mkdir()
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (40, 28, 28)).astype(np.uint8)
    labels = np.random.default_rng(seed).permutation(np.arange(40) % 10)
    np.savez(
        folder / "mnist.npz",
        **{"x_train": images[:32], "y_train": labels[:32]},
        **{"x_test": images[32:], "y_test": labels[32:]},
    )
    return folder


TINY_DIGITS = options(
    widths=(4, 4),
    over_clusters=12,
    lamb=1.0,
    lamb_from=0,
    sub_heads=2,
    size=8,
    batch_size=8,
    repeats=1,
    warmup=0,
    decay="constant",
    watched=16,
    log_every=1,
    save_every=1,
    evaluate_every=1,
)


def train_digits(folder, run, *more):
    command = ("train", EXPERIMENTS / "iic_mnist.py", "--data", folder, "--workdir", run)
    return (*command, *TINY_DIGITS, *more)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Two folders that differ in labels alone, and a run on the first; not to be written to."""
    from jaxseg.cli import main

    root = tmp_path_factory.mktemp("digits")
    folders = [write_digits(root / name, seed) for seed, name in enumerate(("one", "two"))]
    command = train_digits(folders[0], root / "run", "--steps", 4, "--select", "information")
    assert main([str(a) for a in command]) == 0
    return (*folders, root / "run")


def figures_of(run, name):
    """By step."""
    return {row["step"]: row[name] for row in read_metrics(run) if name in row}


def test_digits_are_evaluated_at_the_step_of_most_information(digits, jaxseg, tmp_path):
    folder, _, run = digits
    losses = figures_of(run, "unlabelled/loss")
    assert list(losses) == [1, 2, 3, 4] and len(set(losses.values())) > 1
    # Labels were not looked at.
    assert not any(name.startswith("labelled/") for row in read_metrics(run) for name in row)
    status, out, err = jaxseg("evaluate", run, "--data", folder, "--split", "train+test")
    assert status == 0 and "labelled" in out and "accuracy" in out
    # Four steps are too few.
    assert err.startswith("warning: ")
    record = json.loads((run / "evaluation_train_test.json").read_text())
    assert record["step"] == min(losses, key=losses.get)
    figures = record["figures"]
    assert figures["unlabelled/counted"] == 16
    assert figures["unlabelled/loss"] == pytest.approx(losses[record["step"]], rel=1e-2)
    assert 0.1 <= figures["labelled/accuracy"] <= figures["labelled/accuracy_by_labels"] <= 1
    # Images of files have three channels.
    digit = np.load(folder / "mnist.npz")["x_test"][0]
    Image.fromarray(digit).save(tmp_path / "digit.png")
    status, _, err = jaxseg("predict", run, tmp_path / "digit.png", "-o", tmp_path / "out")
    assert status == 0, err
    told = json.loads((tmp_path / "out" / "digit_cluster.json").read_text())
    expected = load(run).predict({"image": digit[None, ..., None]})
    assert told["cluster"] == expected["clusters"][0]
    np.testing.assert_allclose(told["probabilities"], expected["probabilities"][0], atol=1e-6)


def test_labels_choose_a_step_but_never_change_training(digits, jaxseg, tmp_path):
    """Other labels, a training that was cut in two, and another choice: the same parameters."""
    _, folder, whole = digits
    run = tmp_path / "run"
    for steps in (2, 4):
        more = ("--steps", steps, "--select", "labels")
        status, _, err = jaxseg(*train_digits(folder, run, *more))
        assert status == 0 and err.startswith("warning: The outputs are still uniform")
    assert [*figures_of(run, "over/loss")] == [1, 3] and [*figures_of(run, "main/loss")] == [2, 4]
    assert figures_of(run, "unlabelled/loss") == figures_of(whole, "unlabelled/loss")
    for name in ("params", "model_state"):
        pair = [getattr(load(r, step="latest"), name) for r in (whole, run)]
        assert jax.tree.all(jax.tree.map(np.array_equal, *pair))
    accuracies = figures_of(run, "labelled/accuracy_by_labels")
    step = load(run).step
    assert list(accuracies) == [1, 2, 3, 4] and accuracies[step] == max(accuracies.values())


# Pixels, by the command.


def write_street(folder, size=(26, 36)):
    """As CamVid prepared by hand: eight images in three splits."""
    rng = np.random.default_rng(0)
    classes = list(camvid.CLASSES)
    info = {"kind": "classes", "layout": "folders", "classes": classes, "ignore": camvid.VOID}
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps(info))
    for split, count in {"train": 4, "val": 2, "test": 2}.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
            label = rng.integers(0, len(classes) + 1, size).astype(np.uint8)
            data.write_image(folder / "images" / split / f"{split}{i}.png", image)
            Image.fromarray(label).save(folder / "labels" / split / f"{split}{i}.png")
    return folder


def test_streets(jaxseg, tmp_path):
    folder, run = write_street(tmp_path / "street"), tmp_path / "run"
    more = options(
        variant="small",
        width=2,
        over_clusters=0,
        displacement=1,
        size=(26, 36),
        crop=(24, 24),
        batch_size=8,
        steps=2,
        watched=4,
        evaluate_every=2,
        log_every=1,
    )
    train = ("train", EXPERIMENTS / "iic_camvid.py", "--data", folder, "--workdir", run)
    status, out, err = jaxseg(*train, *more)
    assert status == 0 and "trained to step 2" in out and err.startswith("warning: ")
    assert [p.name for p in (run / "pictures").iterdir()] == ["unlabelled_0000002.png"]
    status, out, _ = jaxseg("evaluate", run, "--data", folder, "--split", "test")
    assert status == 0
    figures = json.loads((run / "evaluation_test.json").read_text())["figures"]
    assert {f"labelled/iou_{name}" for name in ("sky", "standing", "ground")} < set(figures)
    assert figures["unlabelled/counted"] == 2 * 24 * 24
    assert figures["labelled/accuracy"] >= 1 / 3
    image = folder / "images" / "test" / "test0.png"
    jaxseg.succeeds("predict", run, image, "-o", tmp_path / "out")
    found = np.asarray(Image.open(tmp_path / "out" / "test0_classes.png"))
    assert found.shape == (26, 36) and set(np.unique(found)) <= {0, 1, 2}
    np.testing.assert_array_equal(found, load(run)(data.read_image(image))["classes"])


@pytest.mark.parametrize(("module", "other"), [("iic_mnist", "street"), ("iic_camvid", "digits")])
def test_data_of_another_kind_is_refused(jaxseg, tmp_path, module, other):
    if other == "street":
        folder, says = write_street(tmp_path / other), "give data with one class an image"
    else:
        folder, says = write_digits(tmp_path / other, 0), "give data with classes of pixels"
    split = options(train_split="train")
    command = ("train", EXPERIMENTS / f"{module}.py", "--data", folder, *split)
    jaxseg.refuses(*command, "--workdir", tmp_path / "run", says=[folder, says])
    assert not (tmp_path / "run").exists()


# The downloads.


def labels_of(experiment, folder, split):
    """Those that are counted, of images of one size."""
    batches = experiment.evaluations(folder, split)["labelled"].data
    return np.concatenate([b["label"][b["weight"] > 0] for b in batches])


def check_traced(method, batch):
    """A step and a prediction, not run: networks of the same form are run above."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(method.init, key, batch)
    value, out = jax.eval_shape(method.loss, *variables, batch, key)
    assert value.shape == () and out.model_state["information"]["over"].shape == (1,)
    found = jax.eval_shape(method.predict, *variables, batch)
    assert found["classes"].shape == batch["image"].shape[:3]


TINY = {"width": 1, "over_clusters": 4, "displacement": 0, "batch_size": 2, "watched": 2}


def test_coco_stuff_from_the_download(tmp_path):
    """Two images that are chosen, and one that is not: too little of it is sky, plant or ground."""
    rng = np.random.default_rng(0)
    sky, tree, gravel, person = 156, 168, 124, 0
    for split, name, values in (
        ("train", "000000000009", (sky, tree, gravel, 255)),
        ("train", "000000000025", (person, person, person, tree)),
        ("val", "000000000139", (tree, gravel, sky, person)),
    ):
        for kind, end in (("images", "jpg"), ("annotations", "png")):
            path = tmp_path / kind / f"{split}2017" / f"{name}.{end}"
            path.parent.mkdir(parents=True, exist_ok=True)
            label = np.repeat(np.array(values, np.uint8), 90)[:, None].repeat(364, axis=1)
            pixels = rng.integers(0, 256, (360, 364, 3)).astype(np.uint8)
            Image.fromarray(pixels if end == "jpg" else label).save(path)
    config = dataclasses.replace(iic_coco_stuff.VARIANTS["coco3"], crop=(24, 24), scale=0.1, **TINY)
    experiment = iic_coco_stuff.build(config)
    phase = experiment.phases(tmp_path)[0]
    batch = next(iter(phase.data))
    assert batch["image"].shape == (2, 24, 24, 3)
    check_traced(phase.method, batch)
    # At a tenth of their size; a quarter of each is of no class.
    for label in labels_of(experiment, tmp_path, "train+val"):
        assert label.shape == (36, 36)
        assert np.bincount(label.ravel() + 1).tolist() == [9 * 36] * 4
    # Where there is no label a pixel is not counted without labels either.
    row = experiment.evaluations(tmp_path, "train+val")["unlabelled"]
    assert "label" in row.inputs
    assert sorted(p.name for p in tmp_path.glob("*.txt")) == [
        f"curated_{split}_stuff3_0.75_360.txt" for split in ("train", "val")
    ]


def test_coco_stuff_in_15_classes(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(data, "CocoStuffSource", lambda *a, **k: given.append(k["classes"]))
    for name in iic_coco_stuff.VARIANTS:
        with pytest.raises(AttributeError):  # There is no source.
            iic_coco_stuff.build(iic_coco_stuff.VARIANTS[name]).phases(tmp_path)
    assert given == [3, 15]


@pytest.mark.parametrize("variant", ["potsdam3", "potsdam6"])
def test_potsdam_from_the_release(tmp_path, monkeypatch, variant):
    """Every tile, of 40 pixels in place of 6000."""
    rng = np.random.default_rng(0)
    colors = np.array(list(data.potsdam_tiles.CLASSES.values()), np.uint8)
    for kind in ("4_Ortho_RGBIR", "5_Labels_for_participants"):
        (tmp_path / kind).mkdir()
    for tile in (*LABELLED_TILES, *UNLABELLED_TILES):
        bands = rng.integers(0, 256, (40, 40, 4)).astype(np.uint8)
        path = tmp_path / "4_Ortho_RGBIR" / f"top_potsdam_{tile}_RGBIR.tif"
        tifffile.imwrite(path, bands, photometric="rgb", extrasamples=[0])
        if tile in LABELLED_TILES:
            path = tmp_path / "5_Labels_for_participants" / f"top_potsdam_{tile}_label.tif"
            Image.fromarray(colors[rng.integers(0, 6, (40, 40))]).save(path)
    small = functools.partial(PotsdamSource, tile_size=40, patch_size=20)
    monkeypatch.setattr(data, "PotsdamSource", small)
    config = dataclasses.replace(iic_potsdam.VARIANTS[variant], crop=(20, 20), **TINY)
    experiment = iic_potsdam.build(config)
    classes = config.num_clusters
    phase = experiment.phases(tmp_path)[0]
    assert next(iter(phase.data))["image"].shape == (2, 20, 20, 4)
    labels = labels_of(experiment, tmp_path, "train+test")
    assert labels.shape == (24, 20, 20) and set(np.unique(labels)) == set(range(classes))
    (row, *_) = experiment.evaluations(tmp_path, "train+test")["unlabelled"].data
    check_traced(phase.method, row)


def test_loveda_is_cut_and_grouped(tmp_path):
    """All splits are trained on; tiles of 200 pixels come at half their size."""
    rng = np.random.default_rng(0)
    names = ["background", "building", "road", "water", "barren", "forest", "agriculture"]
    info = {"kind": "classes", "layout": "flat", "classes": names, "ignore": 255}
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    for kind, size in (("images", (430, 410, 3)), ("labels", (430, 410))):
        (tmp_path / kind).mkdir()
        high = 256 if kind == "images" else 7
        array = rng.integers(0, high, size).astype(np.uint8)
        Image.fromarray(array).save(tmp_path / kind / "a.png")
    experiment = iic_loveda.build(iic_loveda.VARIANTS["small"])
    batch = next(iter(experiment.phases(tmp_path)[0].data))
    assert batch["image"].shape == (15, 100, 100, 3)
    (row,) = experiment.evaluations(tmp_path, "all")["labelled"].data
    assert row["weight"].sum() == 4
    whole = np.asarray(Image.open(tmp_path / "labels" / "a.png"))
    # Of a tile at half its size, the pixels at odd places; -1 is barren.
    table = np.array([0, 0, 0, 1, -1, 2, 2])
    tile = whole[200:400, 200:400]
    np.testing.assert_array_equal(row["label"][3], table[tile[1::2, 1::2]])
