"""What the recipes of IIC make of a config: heads in turn, figures, views, and refusals."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from jaxseg import data
from jaxseg.recipes import _iic, iic_images, iic_pixels
from jaxseg.train import init_state, make_train_step
from jaxseg.types import InputError

IMAGES = iic_images.Config(
    widths=(2, 3),
    kernel_size=3,
    num_clusters=10,
    over_clusters=4,
    sub_heads=2,
    size=8,
    batch_size=8,
    repeats=2,
    steps=7,
    watched=5,
    train_split="train",
)
PIXELS = iic_pixels.Config(
    width=1, displacement=1, crop=(8, 8), batch_size=8, watched=3, train_split="train", eval_batch=2
)


def write_digits(folder, seed=0):
    folder.mkdir(exist_ok=True)
    images = np.random.default_rng(1).integers(0, 256, (40, 28, 28)).astype(np.uint8)
    labels = np.random.default_rng(seed).permutation(np.arange(40) % 10)
    np.savez(
        folder / "mnist.npz",
        **{"x_train": images[:30], "y_train": labels[:30]},
        **{"x_test": images[30:], "y_test": labels[30:]},
    )
    return folder


def write_pixels(folder, seed=0):
    """Eight images for training and three for tests, with ignored pixels; classes by `seed`."""
    rng, order = np.random.default_rng(1), np.random.default_rng(seed).permutation(3)
    info = {"kind": "classes", "layout": "folders", "classes": list("abc"), "ignore": 9}
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(info))
    for split, count in {"train": 8, "test": 3}.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 256, (16, 20, 3)).astype(np.uint8)
            label = np.append(order, 9)[rng.integers(0, 4, (16, 20))].astype(np.uint8)
            data.write_image(folder / "images" / split / f"{i}.png", image)
            Image.fromarray(label).save(folder / "labels" / split / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_pixels(tmp_path_factory.mktemp("scenes"))


def changed(config, **changes):
    return dataclasses.replace(config, **changes)


def test_heads_have_their_turns(digits):
    config = changed(IMAGES, main_steps=3, over_steps=2)
    phases = iic_images.build(config).phases(digits)
    assert [(p.name, p.steps) for p in phases] == [("over", 2), ("main", 3)]
    # Moments of both heads and one order of the images.
    assert phases[0].optimizer is phases[1].optimizer and phases[0].data is phases[1].data
    (alone,) = iic_images.build(changed(config, over_clusters=0)).phases(digits)
    assert (alone.name, alone.steps) == ("main", 3)


def test_a_single_head_may_begin_without_the_entropy():
    given = []
    config = changed(IMAGES, over_clusters=0, lamb=2.0, lamb_from=3)
    phases = _iic.phases(config, lambda **options: given.append(options), iter(()))
    assert [(p.name, p.steps) for p in phases] == [("free", 3), ("main", 4)]
    assert sorted(g["lamb"] for g in given) == [1.0, 2.0]
    assert phases[0].optimizer is phases[1].optimizer


def test_each_head_has_its_own_lamb():
    given = []
    config = changed(IMAGES, lamb=1.5, over_lamb=1.25)
    _iic.phases(config, lambda **options: given.append(options), iter(()))
    assert {g["head"]: g["lamb"] for g in given} == {"main": 1.5, "over": 1.25}


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({"decay": "constant", "warmup": 0}, [0.5, 0.5, 0.5]),
        ({"decay": "constant", "warmup": 2}, [0.0, 0.25, 0.5]),
        ({"decay": "cosine", "warmup": 0, "steps": 4}, [0.5, 0.25 * (1 + 2**-0.5), 0.25]),
        ({"decay": "cosine", "warmup": 1, "steps": 3}, [0.0, 0.5, 0.25]),
        ({"decay": "cosine", "warmup": 1, "steps": 4, "decay_from": 0.5}, [0.0, 0.5, 0.5, 0.25]),
    ],
)
def test_the_rate_rises_and_falls(changes, rates):
    """Adam of a constant gradient moves by its rate."""
    config = changed(IMAGES, learning_rate=0.5, **changes)
    (phase, _) = _iic.phases(config, lambda **options: None, iter(()))
    state = phase.optimizer.init(np.float32(0))
    for rate in rates:
        update, state = phase.optimizer.update(np.float32(1), state)
        np.testing.assert_allclose(-update, rate, atol=1e-5)


def test_what_selects(digits):
    for select, best, lowest, rows in (
        ("last", "", False, ["unlabelled"]),
        ("information", "unlabelled/loss", True, ["unlabelled"]),
        ("labels", "labelled/accuracy_by_labels", False, ["unlabelled", "labelled"]),
    ):
        experiment = iic_images.build(
            changed(IMAGES, select=select, ema_decay=0.5, evaluate_every=2)
        )
        schedule = experiment.schedule
        assert (schedule.best, schedule.lowest, schedule.ema_decay) == (best, lowest, 0.5)
        assert list(experiment.validation(digits)) == rows
    assert iic_images.build(IMAGES).schedule.ema_decay is None


def test_images_and_their_views(digits):
    batch = next(iter(iic_images.build(IMAGES).phases(digits)[0].data))
    assert batch["image"].shape == (8, 8, 8, 1) and batch["views"].shape == (8, 2, 8, 8, 1)
    rows = iic_images.build(IMAGES).evaluations(digits, "train+test")
    (watched,) = rows["unlabelled"].data
    (again,) = iic_images.build(IMAGES).evaluations(digits, "train+test")["unlabelled"].data
    np.testing.assert_array_equal(watched["views"], again["views"])
    assert watched["weight"].sum() == IMAGES.watched
    (whole,) = rows["labelled"].data
    assert whole["image"].shape[1:] == (28, 28, 1) and whole["weight"].sum() == 40
    # The device gets no label.
    assert "label" not in {*rows["unlabelled"].inputs, *rows["labelled"].inputs}


def test_pixels_and_their_views(scenes):
    config = changed(PIXELS, groups=("first: a", "others: b, c"), size=(10, 12))
    experiment = iic_pixels.build(config)
    (phase,) = experiment.phases(scenes)
    batch = next(iter(phase.data))
    assert batch["views"].shape == (8, 1, 8, 8, 3) and batch["affine"].shape == (8, 1, 2, 3)
    rows = experiment.evaluations(scenes, "test")
    seen = [*rows["unlabelled"].data]
    assert seen[0]["views"].shape == (2, 1, 8, 8, 3)
    assert sum(b["weight"].sum() for b in seen) == 3
    labels = np.concatenate([b["label"][b["weight"] > 0] for b in rows["labelled"].data])
    assert labels.shape == (3, 10, 12) and set(np.unique(labels)) == {-1, 0, 1}
    assert "label" not in rows["unlabelled"].inputs
    masked = iic_pixels.build(changed(config, masked=True)).evaluations(scenes, "test")
    assert "label" in masked["unlabelled"].inputs


@pytest.mark.parametrize(
    ("changes", "shape", "count"),
    [({"scale": 0.5}, (8, 10), 3), ({"tile": 8}, (8, 8), 12), ({}, (16, 20), 3)],
)
def test_sizes_of_what_is_evaluated(scenes, changes, shape, count):
    rows = iic_pixels.build(changed(PIXELS, **changes)).evaluations(scenes, "test")
    batches = [*rows["labelled"].data]
    assert {b["image"].shape[1:3] for b in batches} == {shape}
    assert sum(b["weight"].sum() for b in batches) == count


@pytest.mark.parametrize("recipe", ["images", "pixels"])
def test_the_loss_is_traced_without_labels(digits, scenes, recipe):
    """What is not there cannot be read."""
    build, config, folder = {
        "images": (iic_images.build, IMAGES, digits),
        "pixels": (iic_pixels.build, changed(PIXELS, over_clusters=4), scenes),
    }[recipe]
    for phase in build(config).phases(folder):
        batch = dict(next(iter(phase.data)))
        del batch["label"]
        key = jax.eval_shape(lambda: jax.random.key(0))
        variables = jax.eval_shape(phase.method.init, key, batch)
        value, _ = jax.eval_shape(phase.method.loss, *variables, batch, key)
        assert value.shape == ()


def test_of_masked_labels_only_where_they_are_matters(scenes, tmp_path):
    """Other classes leave the parameters as they are, bit for bit."""
    folders = (scenes, write_pixels(tmp_path, seed=1))
    experiment = iic_pixels.build(changed(PIXELS, masked=True))
    phases = [experiment.phases(folder)[0] for folder in folders]
    step = jax.jit(make_train_step(phases[0].method.loss, phases[0].optimizer))
    batches = [next(iter(p.data)) for p in phases]
    known = [b["label"] >= 0 for b in batches]
    assert np.array_equal(*known) and not known[0].all()
    assert np.mean(batches[0]["label"] != batches[1]["label"]) > 0.3
    batches.append({**batches[0], "label": np.zeros_like(batches[0]["label"])})
    found = []
    for batch in batches:
        state = init_state(jax.random.key(0), phases[0].method, batch, phases[0].optimizer)
        # At the first step of a warmup the rate is 0.
        for _ in range(2):
            state, _ = step(state, batch)
        found.append(jax.device_get(state.params))
    assert jax.tree.all(jax.tree.map(np.array_equal, *found[:2]))
    assert not jax.tree.all(jax.tree.map(np.array_equal, *found[1:]))


def sums_of(chances):
    """Of images whose view has the same probabilities."""
    metric = _iic.unlabelled(changed(IMAGES, num_clusters=chances.shape[-1]))
    prediction = {"probabilities": chances, "view_probabilities": chances[:, None]}
    return metric, metric.measure(prediction, {"weight": np.ones(len(chances))})


def test_what_looks_wrong_is_told(capsys):
    metric, sums = sums_of(np.full((6, 2, 3), 1 / 3, np.float32))
    assert metric.compute(sums)["entropy"] == pytest.approx(np.log(3))
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("warning: The outputs are still uniform")
    assert err.count("\n") == 1
    metric, sums = sums_of(np.eye(3, dtype=np.float32)[np.arange(6) % 3][:, None].repeat(2, 1))
    assert metric.compute(sums)["information"] == pytest.approx(np.log(3))
    assert capsys.readouterr() == ("", "")


def test_the_head_that_predicts_is_measured():
    config = changed(IMAGES, predicts="over", lamb=1.0, over_lamb=2.0)
    chances = np.eye(4, dtype=np.float32)[:, None].repeat(2, 1)
    sums = {"probabilities": chances, "view_probabilities": chances[:, None]}
    metric = _iic.unlabelled(config)
    figures = metric.compute(metric.measure(sums, {"weight": np.ones(4)}))
    assert figures["loss"] == pytest.approx(-3 * np.log(4))  # -(I + 2 (2 - 1) H)
    # Four clusters of two classes: many to one.
    prediction = {"clusters": np.arange(4), "sub_heads": np.arange(4)[:, None].repeat(2, 1)}
    labelled = _iic.labelled(config, ("a", "b"))
    batch = {"label": np.array([0, 0, 1, 1]), "weight": np.ones(4)}
    assert labelled.compute(labelled.measure(prediction, batch))["accuracy"] == 1
    three = {"class_names": ("a", "b", "c"), "class_colors": ((1, 2, 3), (4, 5, 6), (7, 8, 9))}
    classes = np.arange(4).reshape(1, 2, 2)
    for more, colors in (({}, 3), ({"over_clusters": 4, "predicts": "over"}, 0)):
        experiment = iic_pixels.build(changed(PIXELS, **three, **more))
        # Clusters have no names; colours only where there is one for each.
        assert experiment.class_names == () and len(experiment.class_colors) == colors
        image = np.zeros((1, 2, 2, 4), np.uint8)
        drawn = experiment.picture({"classes": classes % (colors or 4)}, {"image": image})
        assert drawn.shape == (2, 4, 3)


def test_data_of_another_form_is_refused(digits, scenes):
    with pytest.raises(InputError, match="images of 28x28; set image_side, which is 32"):
        iic_images.build(changed(IMAGES, image_side=32)).phases(digits)
    with pytest.raises(InputError, match="images of 3 channels; set channels, which is 4"):
        iic_pixels.build(changed(PIXELS, channels=4)).phases(scenes)


def test_first_examples(scenes):
    source = data.open_data(scenes, "train")
    for count, expected in ((3, 3), (100, 8)):
        part = _iic.First(source, count)
        assert len(part) == len(part.ids) == expected and part.ids == source.ids[:expected]
        np.testing.assert_array_equal(part[2]["image"], source[2]["image"])
        assert part.extent(2) == source.extent(2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_clusters": 0}, "num_clusters is 0; give 1 or more"),
        ({"sub_heads": 0}, "sub_heads is 0"),
        ({"main_steps": 0}, "main_steps is 0"),
        ({"repeats": 0}, "repeats is 0"),
        ({"watched": 0}, "watched is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"over_clusters": -1}, "over_clusters is -1; give 0 or more"),
        ({"warmup": -1}, "warmup is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"lamb": float("nan")}, "lamb is nan"),
        ({"over_lamb": float("inf")}, "over_lamb is inf"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0"),
        ({"decay_from": 1.0}, r"decay_from is 1\.0"),
        ({"lamb_from": -1, "over_clusters": 0}, "lamb_from is -1; give less than steps"),
        ({"select": "labels"}, 'select is "labels", but evaluate_every is 0'),
        ({"lamb_from": 9, "steps": 9, "over_clusters": 0}, "lamb_from is 9"),
        (
            {"lamb_from": 1, "over_clusters": 4},
            "lamb_from is 1 and over_clusters 4; give 0",
        ),
        ({"ema_decay": 1.0}, r"ema_decay is 1\.0"),
        ({"over_clusters": 0, "predicts": "over"}, 'predicts is "over", but over_clusters is 0'),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
@pytest.mark.parametrize("recipe", [iic_images, iic_pixels])
def test_numbers_of_both_are_checked(recipe, changes, words):
    with pytest.raises(InputError, match=words):
        recipe.build(recipe.Config(**changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"widths": ()}, "widths is empty"),
        ({"widths": (0,)}, "the network cannot be built: .*0"),
        ({"network": "net5g"}, "net5g has one"),
        ({"side": 29}, "side is 29 and sides are .*; give 1 to 28"),
        ({"sides": (0, 20)}, "side is 20 and sides are"),
        ({"sides": ()}, "side is 20 and sides are"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"size": 0}, "size"),
        ({"rotation": -1.0}, "rotation"),
        ({"rotation_probability": 2.0}, "rotation_probability"),
        ({"flip_probability": -0.5}, "flip_probability"),
        ({"centre_probability": 1.5}, "centre_probability"),
        ({"jitter": (-1.0, 0.0, 0.0, 0.0)}, "brightness|jitter"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_numbers_of_images_are_checked(changes, words):
    with pytest.raises(InputError, match=words):
        iic_images.build(changed(IMAGES, **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": 1}, "channels is 1; give 3, or 4"),
        ({"displacement": 8}, "displacement is 8; .* crop's sides of 8 and 8"),
        ({"displacement": -1}, "displacement is -1"),
        ({"crop": (0, 8)}, "crop|displacement is 1"),
        ({"eval_batch": 0}, "eval_batch is 0"),
        ({"width": 0}, "width is 0"),
        ({"tile": -1}, "tile is -1"),
        ({"scale": 0.0}, r"scale is 0\.0"),
        ({"size": (8, 0)}, r"size is \(8, 0\)"),
        ({"groups": ("a b",)}, "groups has 'a b'; give"),
        ({"groups": ("x: a", "x: b")}, "each name once"),
        ({"groups": ("x: ",)}, "groups has 'x: '"),
        ({"flip_probability": 2.0}, r"flip_probability is 2\.0"),
        ({"rotation": 200.0}, r"200\.0"),
        ({"shear": 90.0}, r"90\.0"),
        ({"translation": -0.1}, r"-0\.1"),
        ({"scale_range": (2.0, 1.0)}, r"scale_range is \(2\.0, 1\.0\)"),
        ({"jitter": (0.4, 0.4, 0.4, 0.9)}, "hue|jitter"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_numbers_of_pixels_are_checked(changes, words):
    with pytest.raises(InputError, match=words):
        iic_pixels.build(changed(PIXELS, **changes))


def test_groups():
    config = changed(PIXELS, groups=("one: a , b", "two:c"))
    assert iic_pixels.groups_of(config) == {"one": ("a", "b"), "two": ("c",)}


def test_groups_of_other_classes(scenes):
    experiment = iic_pixels.build(changed(PIXELS, groups=("one: sky",)))
    with pytest.raises(InputError, match="no class 'sky'; the classes are a, b, c"):
        experiment.phases(scenes)


@pytest.mark.parametrize("wanted", ["phases", "evaluations", "validation"])
def test_data_of_another_kind(digits, scenes, wanted):
    rest = ("test",) if wanted == "evaluations" else ()
    for experiment, folder, words in (
        (iic_images.build(IMAGES), scenes, "holds classes; give data with one class an image"),
        (iic_pixels.build(PIXELS), digits, "holds image_classes; give data with classes of pixels"),
    ):
        with pytest.raises(InputError, match=words) as error:
            getattr(experiment, wanted)(folder, *rest)
        assert str(folder) in str(error.value) and "\n" not in str(error.value)
