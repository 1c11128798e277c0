import dataclasses
import itertools
from pathlib import Path

import jax
import numpy as np
import pytest
import semiconv_dots
from semiconv_dots import VARIANTS, Config, adjusted_rand, build

from jaxseg.types import InputError

TINY = Config(grid=(2, 2), pitch=12, radius=4.0, width=2, depth=1, images=2, dimensions=3, steps=2)


def test_the_index_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    for a, b in ((rng.integers(0, 4, 30), rng.integers(0, 5, 30)) for _ in range(5)):
        same = [(a[i] == a[j], b[i] == b[j]) for i, j in itertools.combinations(range(len(a)), 2)]
        both, first, second = (
            sum(x) for x in zip(*((x and y, x, y) for x, y in same), strict=True)
        )
        chance = first * second / len(same)
        want = (both - chance) / ((first + second) / 2 - chance)
        np.testing.assert_allclose(adjusted_rand(a, b), want)
        assert adjusted_rand(a, 7 - a) == 1


def test_figures_of_a_perfect_and_of_a_collapsed_embedding():
    row = build(TINY).evaluations(Path(), "test")["dots"]
    (batch,) = row.data
    masks = batch["masks"][0]
    centers = np.stack([np.argwhere(m).mean(axis=0) for m in masks])
    inside = masks.any(axis=0)
    own = np.where(inside, masks.argmax(axis=0), -1)
    psi = np.where(inside[..., None], centers[own], 99)[None]
    perfect = {"embedding": psi, "instances": own[None] + 1}
    figures = row.metric.compute(row.metric.measure(perfect, batch))
    assert figures["ari"] == 1 and figures["loss"] < 1e-9
    np.testing.assert_allclose(figures["distance"], 12)
    noise = np.random.default_rng(0).integers(1, 5, (1, *inside.shape))
    collapsed = {"embedding": np.zeros_like(psi), "instances": noise}
    figures = row.metric.compute(row.metric.measure(collapsed, batch))
    assert abs(figures["ari"]) < 0.1 and figures["loss"] == figures["ratio"] == 0


def test_a_step_and_a_prediction():
    experiment = build(TINY)
    (phase,) = experiment.phases(Path())
    batch = next(iter(phase.data))
    params, state = jax.jit(phase.method.init)(jax.random.key(0), batch)
    value, _ = jax.jit(phase.method.loss)(params, state, batch, jax.random.key(0))
    assert value.shape == (2,) and np.isfinite(value).all()
    got = jax.jit(experiment.method().predict)(params, state, {"image": batch["image"]})
    assert got["masks"].shape == (2, 4, 24, 24) and got["instances"].max() <= 4


def test_the_variants_differ_in_coordinates_alone():
    for one, other in (("semi", "conv"), ("paper", "paper_conv")):
        changed = dataclasses.replace(VARIANTS[one], coordinates="none")
        assert changed == VARIANTS[other] and VARIANTS[one].coordinates == "semi"


def test_the_papers_network_is_cut():
    """To the weights of ResNet-50 up to res2c, and those of the head."""
    config = dataclasses.replace(TINY, network="resnet50")
    method = semiconv_dots.method(config)
    image = {"image": np.zeros((1, 24, 24, 3), np.uint8)}
    params, state = jax.eval_shape(method.init, jax.random.key(0), image)
    assert {*params["trunk"]} == {"conv1", *state} == {"conv1", "bn1", "layer1"}
    stem = 7 * 7 * 3 * 64 + 2 * 64
    block = 9 * 64 * 64 + 64 * 256 + 2 * (64 + 64 + 256)  # but for its first convolution
    first = 64 * 64 + block + 64 * 256 + 2 * 256  # the shortcut too
    count = sum(x.size for x in jax.tree.leaves(params["trunk"]))
    assert count == stem + first + 2 * (256 * 64 + block) == 225_344
    assert sum(x.size for x in jax.tree.leaves(params["head"])) == 257 * 5
    got = jax.eval_shape(method.predict, params, state, image)
    assert got["masks"].shape == (1, 4, 24, 24)


def test_the_papers_network_sees_what_its_weights_want(monkeypatch):
    given = []
    monkeypatch.setattr(
        semiconv_dots, "embedding", lambda network, **options: given.append(options)
    )
    semiconv_dots.method(dataclasses.replace(TINY, network="resnet50"))
    semiconv_dots.method(TINY)
    assert given[0]["mean"] == (0.485, 0.456, 0.406) and given[0]["std"] == (0.229, 0.224, 0.225)
    assert not {"mean", "std"} & given[1].keys()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 2, "batch_size": 0}, "batch_size is 0"),
        ({"scale": 0.0}, "scale is 0"),
        ({"encoder": "x.pth"}, "choose --network resnet50"),
        ({"radius": 6.0}, "half of the pitch"),
    ],
)
def test_bad_numbers(wrong, message):
    with pytest.raises(InputError, match=message):
        build(dataclasses.replace(TINY, **wrong))
