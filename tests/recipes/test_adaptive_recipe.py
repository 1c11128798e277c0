"""Training with adaptive downsampling on a folder of classes that the test writes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import data
from jaxseg.ops.warp import (
    project_covering,
    resize_sampling,
    sampling_targets,
    uniform_sampling,
)
from jaxseg.recipes import _adaptive_measures as measures
from jaxseg.recipes import adaptive
from jaxseg.recipes.adaptive import Config, augment, build, make_method
from jaxseg.train import init_state
from jaxseg.train.cost import cost
from jaxseg.train.evaluate import evaluate
from jaxseg.train.phases import make_phase_steps, optimizers
from jaxseg.train.sharding import data_mesh, replicated
from jaxseg.types import InputError

SIZE = (30, 40)
SMALL = Config(
    num_classes=3,
    class_names=("ground", "disc", "box"),
    target_classes=(1,),
    nodes=(8, 8),
    width=2,
    depth=1,
    crop=SIZE,
    scale_std=0.0,
    scale_range=(1.0, 1.0),
    class_weights="none",
    sampler_size=(16, 16),
    sampler_grid=(4, 4),
    sampler_features=8,
    sampler_steps=2,
    batch_size=2,
    steps=1,
    seed=3,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images with a disc in the upper left part and a box anywhere; the last has no disc."""
    folder = tmp_path_factory.mktemp("scenes")
    info = {"kind": "classes", "layout": "folders", "classes": ["ground", "disc", "box"]}
    (folder / "dataset.json").write_text(json.dumps(info | {"ignore": 9}))
    rng = np.random.default_rng(0)
    rows, columns = np.indices(SIZE)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            label = np.zeros(SIZE, np.int32)
            y, x = rng.integers(10, 20), rng.integers(20, 30)
            label[y : y + 8, x : x + 6] = 2
            y, x = rng.integers(5, 12, 2)
            if i < count - 1:
                label[(rows - y) ** 2 + (columns - x) ** 2 < 16] = 1
            image = np.stack([80 * label + 20 * c for c in range(3)], axis=-1)
            image += rng.integers(0, 20, image.shape)
            data.write_image(folder / "images" / split / f"{i}.png", image.astype(np.uint8))
            label[0, :9] = 9
            data.write_labels(folder / "labels" / split / f"{i}.png", label)
    return folder


def train(experiment, folder, steps):
    """The states before and after each phase, for so many steps of each."""
    phases = experiment.phases(folder)
    batches = iter(phases[0].data)
    batch = jax.tree.map(np.asarray, next(batches))
    state = init_state(jax.random.key(0), phases[0].method, batch, optimizers(phases))
    states, measured = [state], []
    for step in map(jax.jit, make_phase_steps(phases)):
        for _ in range(steps):
            state, metrics = step(state, batch)
            batch = next(batches)
        assert bool(metrics["ok"])
        measured.append(metrics)
        states.append(state)
    return phases, states, measured


def figures_of(experiment, state, folder, split="val"):
    mesh = data_mesh(jax.devices()[:1])
    given = jax.device_put((state.params, state.model_state), replicated(mesh))
    return evaluate(experiment.evaluations(folder, split), *given, mesh)


def same(a, b):
    return all(
        bool(jnp.array_equal(x, y)) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )


def test_two_stages_and_what_is_measured(folder):
    experiment = build(SMALL)
    assert experiment.schedule.steps == 3
    phases, states, measured = train(experiment, folder, 2)
    assert [(p.name, p.steps) for p in phases] == [("sampler", 2), ("segmentation", 1)]
    assert "node_error" in measured[0] and "accuracy" in measured[1]
    for part, stays in ((0, "network"), (1, "sampler")):
        before, after = states[part : part + 2]
        for tree in ("params", "model_state"):
            moved = {
                k: not same(v, getattr(after, tree)[k]) for k, v in getattr(before, tree).items()
            }
            assert moved == {"sampler": stays == "network", "network": stays == "sampler"}, tree
    figures = figures_of(experiment, states[-1], folder)
    labels = [data.open_folder(folder, "val")[i]["label"] for i in range(2)]
    assert figures["full/pixels"] == sum((label >= 0).sum() for label in labels)
    assert figures["full/target_miou"] == pytest.approx(figures["full/iou_disc"])
    for name in ("miou", "trimap_miou_4", "trimap_accuracy_64", "recall", "objects_3"):
        assert f"full/{name}" in figures
    assert figures["full/objects"] == 1
    # One image has no disc. Before much is learned the nodes are nearly even.
    assert figures["sampler/images"] == 1 and figures["sampler/folded"] == 0
    assert figures["sampler/rms"] == pytest.approx(figures["sampler/rms_uniform"], rel=0.5)


def test_the_costs_of_sampler_and_network(folder):
    def macs(config, row):
        experiment = build(config)
        found = experiment.evaluations(folder, "val")
        variables = jax.eval_shape(
            lambda: experiment.method().init(jax.random.key(0), experiment.example)
        )
        image = {"image": jax.ShapeDtypeStruct((1, *SIZE, 3), np.uint8)}
        return cost(found[row].method.predict, *variables, image).macs

    uniform = macs(dataclasses.replace(SMALL, mode="uniform"), "full")
    whole, sampler = macs(SMALL, "full"), macs(SMALL, "sampler")
    assert sampler > 0 and whole == uniform + sampler
    fixed = dataclasses.replace(SMALL, mode="fixed")
    assert macs(fixed, "sampler") == 0 and macs(fixed, "full") == uniform


@pytest.mark.parametrize("mode", ["uniform", "oracle"])
def test_modes_without_a_sampler(folder, mode):
    config = dataclasses.replace(SMALL, mode=mode, validation_split="val")
    experiment = build(config)
    assert experiment.schedule.steps == 1 and experiment.schedule.best == "full/target_miou"
    assert [phase.name for phase in experiment.phases(folder)] == ["segmentation"]
    rows = experiment.evaluations(folder, "val")
    assert list(rows) == ["full"] and ("label" in rows["full"].inputs) == (mode == "oracle")
    [name] = experiment.validation(folder)
    assert name == "full"
    if mode == "uniform":
        _, states, _ = train(experiment, folder, 1)
        assert np.isfinite(figures_of(experiment, states[-1], folder)["full/target_miou"])


def test_a_fixed_sampler_learns_the_mean(folder):
    """All training images are whole and not mirrored, so that the mean is known."""
    config = dataclasses.replace(
        SMALL, mode="fixed", flip_probability=0.0, batch_size=4, sampler_rate=0.02, weight_decay=0.0
    )
    # A long decay: every step is at the peak, nearly.
    phase = build(dataclasses.replace(config, sampler_steps=1000)).phases(folder)[0]
    source = data.open_folder(folder, "train")
    wanted = []
    for i in range(4):
        label = jnp.asarray(source[i]["label"])
        if (label == 1).any():
            wanted.append(sampling_targets(label, (4, 4), target_classes=(1,)))
    batch = next(iter(phase.data))
    state = init_state(jax.random.key(0), phase.method, batch, optimizers([phase]))
    [step] = map(jax.jit, make_phase_steps([phase]))
    for _ in range(150):
        state, _ = step(state, batch)
    found = uniform_sampling((4, 4)) + state.params["sampler"]["mean"]
    # What is learned is not constrained: the sides are, afterwards.
    np.testing.assert_allclose(found, np.mean(wanted, axis=0), atol=0.01)


def test_the_network_sees_the_same_crops_in_every_mode(folder):
    config = dataclasses.replace(SMALL, scale_std=0.2, scale_range=(1.0, 1.5), brightness=0.2)
    config = dataclasses.replace(config, joint_steps=1, order=1)
    phases = {phase.name: phase for phase in build(config).phases(folder)}
    alone = dataclasses.replace(config, mode="uniform", joint_steps=0)
    [even] = build(alone).phases(folder)
    assert phases["joint"].data is phases["segmentation"].data
    own, seen, wanted = (
        [next(batches)["image"] for _ in range(3)]
        for batches in map(iter, (phases["sampler"].data, phases["segmentation"].data, even.data))
    )
    np.testing.assert_array_equal(seen, wanted)
    assert (np.stack(own) != np.stack(seen)).mean() > 0.5
    last = dataclasses.replace(SMALL, seed=2**31 - 1)
    assert len(build(last).phases(folder)) == 2


def test_weight_decay_leaves_the_mean_out():
    """Of gradients that are zero only the decay is left."""
    ones = np.ones((3, 3, 2), np.float32)
    params = {
        "sampler": {"mean": ones, "shift": {"mean": ones, "conv": {"kernel": ones}}},
        "network": {"conv": {"kernel": ones}},
    }
    nothing = jax.tree.map(np.zeros_like, params)
    for optimizer in ("adamw", "sgd"):
        config = dataclasses.replace(SMALL, weight_decay=0.1, optimizer=optimizer)
        for learns in (("sampler",), ("sampler", "network")):
            found = adaptive._optimizer(config, "joint", 10, learns)
            state = found.init(params)
            updates, _ = found.update(nothing, state, params)
            assert not updates["sampler"]["mean"].any()
            assert not updates["sampler"]["shift"]["mean"].any()
            assert (updates["sampler"]["shift"]["conv"]["kernel"] < 0).all()
            assert (updates["network"]["conv"]["kernel"] < 0).all() == ("network" in learns)


def test_the_light_sampler_has_a_mean_if_asked():
    image = jnp.zeros((1, 16, 16, 3))
    for mean in (False, True):
        config = dataclasses.replace(
            SMALL, sampler="mobilenet", sampler_features=256, sampler_mean=mean
        )
        sampler = adaptive.make_sampler(config)
        tree = jax.eval_shape(lambda sampler=sampler: sampler.init(jax.random.key(0), image))
        assert ("mean" in tree["params"]["shift"]) == mean


def test_augmentation():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    label = rng.integers(-1, 3, SIZE).astype(np.int32)
    example = {"image": image, "label": label, "id": "a"}
    config = dataclasses.replace(SMALL, flip_probability=0.0)
    plain = augment(example, np.random.default_rng(1), config=config)
    np.testing.assert_array_equal(plain["image"], image)
    mirrored = augment(
        example, np.random.default_rng(1), config=dataclasses.replace(config, flip_probability=1.0)
    )
    np.testing.assert_array_equal(mirrored["label"], label[:, ::-1])
    changed = dataclasses.replace(config, brightness=0.2, contrast=0.5, tint=0.2)
    seen = [augment(example, np.random.default_rng(i), config=changed) for i in range(8)]
    for one in seen:
        np.testing.assert_array_equal(one["label"], label)
        # Each channel is a rising function of what it was, the same at every pixel.
        for c in range(3):
            order = np.argsort(image[..., c], axis=None)
            assert (np.diff(one["image"][..., c].ravel()[order].astype(int)) >= 0).all()
    assert np.std([one["image"].mean() for one in seen]) > 8
    assert np.std([one["image"].std() for one in seen]) > 8


def test_how_far_nodes_are_off():
    """Against nodes from the labels themselves, and even ones."""
    label = np.zeros((1, *SIZE), np.int32)
    label[0, 4:12, 3:13] = 1
    batch = {"label": label, "size": np.array([SIZE]), "weight": np.ones(1)}
    metric = measures.sampling((4, 4), smoothness=1.0, target_classes=(1,))
    targets = sampling_targets(jnp.asarray(label[0]), (4, 4), target_classes=(1,))
    # At more nodes than the sampler's, every second of which is one of its own.
    asked = np.asarray(project_covering(resize_sampling(targets, (7, 7))))
    np.testing.assert_allclose(asked[3, 3], targets[1:3, 1:3].mean(axis=(0, 1)), atol=1e-6)
    even = uniform_sampling((7, 7))
    rms = float(np.sqrt(np.mean(np.sum((asked - even) ** 2, axis=-1))))
    for coords, expected in ((asked, 0.0), (even, rms)):
        got = metric.compute(metric.measure({"coords": coords[None]}, batch))
        assert got["rms"] == pytest.approx(expected, abs=1e-6)
        assert got["rms_uniform"] == pytest.approx(rms) and rms > 0.02
    nothing = metric.measure({"coords": even[None]}, {**batch, "label": 0 * label})
    assert metric.compute(nothing)["images"] == 0
    both = metric.merge(nothing, metric.measure({"coords": even[None]}, batch))
    assert metric.compute(both)["rms"] == pytest.approx(rms)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target_classes": (3,)}, "target_classes is"),
        ({"target_classes": (1, 1)}, "target_classes is"),
        ({"nodes": (1, 8)}, "nodes is"),
        ({"antialias": True}, "antialias is of order 1"),
        ({"joint_steps": 1, "mode": "uniform"}, "joint_steps is of mode learned"),
        ({"joint_steps": 1}, "joint_steps wants order 1"),
        ({"smoothness": -1.0}, "smoothness is"),
        ({"size": (16, 16)}, "crop is"),
        ({"superpixels": 4}, "superpixels is"),
        ({"initial": "runs/a"}, "initial is of semantic segmentation"),
        ({"crop": (1, 480)}, "crop is"),
        ({"size": (1, 480), "crop": (1, 480)}, "crop is"),
        ({"sampler": "mobilenet"}, "sampler_features is 8, of double_unet alone"),
        ({"depth": 9}, "cannot be built"),
    ],
)
def test_numbers_that_cannot_be_used(changes, words):
    with pytest.raises(InputError, match=words):
        build(dataclasses.replace(SMALL, **changes))


def test_other_data_is_refused(folder):
    for changes, words in (
        ({"num_classes": 4, "class_names": ()}, "holds classes with 3 classes"),
        ({"class_names": ("a", "b", "c")}, "has the classes ground, disc, box"),
    ):
        experiment = build(dataclasses.replace(SMALL, **changes))
        with pytest.raises(InputError, match=words):
            experiment.phases(folder)


def test_prediction_takes_the_options_of_a_predictor(folder):
    method = make_method(SMALL, probabilities=True, scale=1.5)
    example = {"image": np.zeros((1, *SIZE, 3), np.uint8)}
    variables = jax.eval_shape(lambda: method.init(jax.random.key(0), example))
    found = jax.eval_shape(method.predict, *variables, example)
    assert found["probabilities"].shape == (1, *SIZE, 3)
    assert found["coords"].shape == (1, 12, 12, 2)
    assert adaptive.make_stages(SMALL).joint.init is not None
    # Prediction by tiles asks for a size.
    with pytest.raises(InputError, match="whole image, at 8x8 nodes"):
        make_method(SMALL, size=(0, 0), probabilities=True)
