"""IIC as methods: against the contract, plain NumPy, and what must change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg.methods import iic
from jaxseg.methods._iic_views import standardised
from jaxseg.models.iic import net6c, net10a
from jaxseg.testing import check_method
from jaxseg.train import make_train_step
from jaxseg.train.phases import Phase, make_phase_steps, optimizers
from jaxseg.train.state import init_state

FLIP = np.array([[-1, 0, 0], [0, 1, 0]], np.float32)
SAME = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
HEADS = {"main": 3, "over": 5}


def images(rng, *shape):
    """Smooth, so that no two classes are equal but for rounding."""
    return rng.random(shape, np.float32)


def digits(size=16, side=8, repeats=2):
    rng = np.random.default_rng(0)
    return {
        "image": images(rng, size, side, side, 1),
        "views": images(rng, size, repeats, side, side, 1),
        "label": rng.integers(-1, 3, size).astype(np.int32),
        "index": np.arange(size, dtype=np.int32),
        "weight": np.ones(size, np.float32),
        "size": np.full((size, 2), side, np.int32),
    }


def scenes(size=16, side=10, channels=3):
    rng = np.random.default_rng(1)
    return {
        "image": images(rng, size, side, side, channels),
        "views": images(rng, size, 1, side, side, channels),
        "affine": np.stack([FLIP if i % 2 else SAME for i in range(size)])[:, None],
        "label": rng.integers(-1, 3, (size, side, side)).astype(np.int32),
        "index": np.arange(size, dtype=np.int32),
        "weight": np.ones(size, np.float32),
        "size": np.full((size, 2), side, np.int32),
    }


def small(**options):
    return net6c(HEADS, sub_heads=2, widths=(4, 6), kernel_size=3, **options)


def pixels(**options):
    return net10a(HEADS, width=2, **options)


def variables_of(method, batch, seed=0):
    return method.init(jax.random.key(seed), batch)


def loss_of(method, batch, variables):
    value, out = jax.jit(method.loss)(*variables, batch, jax.random.key(1))
    return float(value), out


def predict(method, variables, batch):
    return {k: np.asarray(v) for k, v in jax.jit(method.predict)(*variables, batch).items()}


def decided(method):
    """Begins with heads that tell clusters apart: the largest of equal numbers is any of them."""

    def init(key, batch):
        params, state = method.init(key, batch)
        heads = {k: jax.tree.map(lambda x: 100 * x, v) for k, v in params.items() if "head" in k}
        return {**params, **heads}, state

    return method._replace(init=init)


@pytest.mark.parametrize(
    ("method", "batch"),
    [
        (iic.clustering(small(), inputs="sobel", lamb=1.5), digits()),
        (
            iic.segmentation(pixels(), displacement=1, masked=True, details=True, standardise=True),
            scenes(),
        ),
        (iic.fine_tuning(small(), head="main"), digits()),
        (iic.fine_tuning(pixels(), head="main"), scenes()),
    ],
    ids=["clustering", "segmentation", "fine_tuning", "fine_tuning_pixels"],
)
def test_contract(method, batch):
    # Six convolutions of two channels, each normalised: rounding grows through them.
    tolerance = 1e-3 if batch["image"].shape[-1] == 3 else 1e-4
    check_method(
        decided(method),
        batch,
        tolerance=tolerance,
        accumulation_exact=False,
        unequal_labels=0.02,
    )


def information(x, y, weight):
    """I of the symmetrised joint, as it is written in the paper."""
    joint = np.einsum("n,ni,nj->ij", weight, x, y)
    joint = (joint + joint.T) / (2 * weight.sum())
    each = joint.sum(1)
    return np.sum(joint * (np.log(joint) - np.log(each)[:, None] - np.log(each)[None]))


def test_every_view_is_paired_with_the_first():
    method, network, batch = iic.clustering(small(), head="over"), small(), digits(side=6)
    batch["weight"] = np.linspace(0, 2, 16, dtype=np.float32)
    params, state = variables_of(method, batch)
    params["head_over"]["kernel"] = 3 * np.random.default_rng(2).standard_normal(
        params["head_over"]["kernel"].shape, np.float32
    )
    value, out = loss_of(method, batch, (params, state))
    variables = {"params": params, "batch_stats": state["batch_stats"]}
    mask = jnp.asarray(batch["weight"] > 0)
    x, _ = network.apply(variables, jnp.asarray(batch["image"]), train=True, mask=mask)
    views = batch["views"].reshape(-1, 6, 6, 1)
    y, _ = network.apply(variables, jnp.asarray(views), train=True, mask=jnp.repeat(mask, 2))
    x, y = (np.asarray(jax.nn.softmax(z["over"]), np.float64) for z in (x, y))
    x, weight = np.repeat(x, 2, axis=0), np.repeat(batch["weight"], 2).astype(np.float64)
    each = [information(x[:, s], y[:, s], weight) for s in range(2)]
    assert value == pytest.approx(-np.mean(each), rel=1e-4)
    assert float(out.metrics["information"]) == pytest.approx(np.mean(each), rel=1e-4)
    counts = np.stack(
        [
            np.bincount(x[::2, s].argmax(-1), batch["weight"], 5) / batch["weight"].sum()
            for s in range(2)
        ]
    )
    chosen = counts[int(np.argmax(each))]
    assert float(out.metrics["smallest"]) == pytest.approx(chosen.min(), abs=1e-6)
    assert float(out.metrics["largest"]) == pytest.approx(chosen.max(), abs=1e-6)


@pytest.mark.parametrize("lamb", [1.0, 1.5])
def test_metrics_say_what_the_loss_is_made_of(lamb):
    method, batch = iic.clustering(small(), lamb=lamb), digits()
    value, out = loss_of(method, batch, variables_of(method, batch))
    told = {name: float(x) for name, x in out.metrics.items()}
    assert value == pytest.approx(
        -(told["information"] + 2 * (lamb - 1) * told["entropy"]), abs=2e-6
    )
    assert 0 <= told["information"] <= told["best_information"] <= np.log(3)
    assert 0 < told["entropy"] <= np.log(3) + 1e-6


def test_the_sub_head_is_chosen_by_running_information():
    method, batch = iic.clustering(small()), digits()
    params, state = variables_of(method, batch)
    for best in range(2):
        running = {**state["information"], "main": jnp.eye(2)[best]}
        found = predict(method, (params, {**state, "information": running}), batch)
        assert np.array_equal(found["clusters"], found["sub_heads"][:, best])
    _, out = loss_of(method, batch, (params, state))
    kept = out.model_state["information"]
    assert np.all(np.asarray(kept["main"]) > 0)
    assert np.all(np.asarray(kept["over"]) == 0)  # it was not trained


def test_labels_are_never_read():
    method, batch = iic.clustering(small()), digits()
    variables = variables_of(method, batch)
    other = {**batch, "label": (batch["label"] + 1) % 3}
    assert loss_of(method, batch, variables)[0] == loss_of(method, other, variables)[0]


def test_heads_take_turns_over_one_tree():
    batch = digits()
    methods = {name: iic.clustering(small(), head=name) for name in HEADS}
    trees = [jax.tree.structure(m.init(jax.random.key(0), batch)) for m in methods.values()]
    assert trees[0] == trees[1]
    optimizer = optax.sgd(0.1)
    phases = [Phase(name, m, optimizer, 1, [batch]) for name, m in methods.items()]
    state = init_state(jax.random.key(0), methods["main"], batch, optimizers(phases))
    for step, name in zip(map(jax.jit, make_phase_steps(phases)), HEADS, strict=True):
        new, _ = step(state, batch)
        moved = {
            head: not np.array_equal(
                state.params[f"head_{head}"]["kernel"], new.params[f"head_{head}"]["kernel"]
            )
            for head in HEADS
        }
        assert moved == {head: head == name for head in HEADS}
        state = new


def test_images_of_another_size_are_cut_and_resized():
    method, plain = iic.clustering(small(), size=(8, 8), centre=0.5), iic.clustering(small())
    batch = digits()
    variables = variables_of(method, batch)
    large = np.random.default_rng(3).random((16, 16, 16, 1), np.float32)
    large[:, 4:12, 4:12] = batch["image"]  # the middle has the right size already
    expected = predict(plain, variables, {"image": batch["image"]})["probabilities"]
    told = predict(method, variables, {"image": large})["probabilities"]
    assert np.allclose(told, expected, atol=1e-6)
    # An image of the right size is cut all the same, views are not.
    same = {"image": batch["image"]}
    assert not np.allclose(predict(method, variables, same)["probabilities"], expected, atol=1e-3)
    views = {**same, "views": batch["views"]}
    assert np.allclose(predict(method, variables, views)["probabilities"], expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["image", "grey", "sobel", "image+sobel"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_inputs(kind, channels):
    image = np.random.default_rng(4).random((2, 5, 6, channels), np.float32)
    told = np.asarray(iic.network_inputs(jnp.asarray(image), kind))
    grey = image[..., 0] if channels == 1 else image[..., :3] @ [0.299, 0.587, 0.114]
    padded = np.pad(grey, ((0, 0), (1, 1), (1, 1)))
    across = padded[:, :, :-2] - padded[:, :, 2:]
    down = padded[:, :-2] - padded[:, 2:]
    dx = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    dy = down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]
    differences = np.stack([dx, dy], axis=-1)
    expected = {
        "image": image,
        "grey": grey[..., None],
        "sobel": differences,
        "image+sobel": np.concatenate([image, differences], axis=-1),
    }[kind]
    assert np.allclose(told, expected, atol=1e-5)


def test_a_flipped_view_is_turned_back():
    """Of a network whose kernels are symmetric, a flip that is undone changes nothing."""
    batch = scenes(size=4)
    method = iic.segmentation(pixels(), displacement=2, inputs="image", details=True)
    params, state = variables_of(method, batch)
    straight = {**batch, "affine": np.stack([SAME] * 4)[:, None]}
    flipped = {
        **straight,
        "views": batch["views"][:, :, :, ::-1],
        "affine": np.stack([FLIP] * 4)[:, None],
    }
    for name in list(params["trunk"]):
        if name.startswith("conv"):
            kernel = params["trunk"][name]["kernel"]
            params["trunk"][name]["kernel"] = (kernel + kernel[:, ::-1]) / 2
    values = [loss_of(method, b, (params, state))[0] for b in (straight, flipped)]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    joints = [predict(method, (params, state), b)["joint"] for b in (straight, flipped)]
    assert np.allclose(*joints, atol=1e-3)
    wrong = {**flipped, "affine": straight["affine"]}
    assert abs(loss_of(method, wrong, (params, state))[0] - values[0]) > 1e-4 * abs(values[0])


def test_pixels_that_do_not_count():
    batch = scenes(size=2)
    batch["size"] = np.array([[10, 7], [10, 10]], np.int32)
    batch["label"][1, :4] = -1
    method = iic.segmentation(pixels(batch_norm="running"), displacement=1, masked=True)
    variables = variables_of(method, batch)
    value, _ = loss_of(method, batch, variables)
    # The classes themselves are not read.
    other = {**batch, "label": np.where(batch["label"] < 0, -1, 2).astype(np.int32)}
    assert loss_of(method, other, variables)[0] == value
    for changed in (
        {**batch, "size": np.array([[10, 10], [10, 10]], np.int32)},
        {**batch, "label": np.zeros_like(batch["label"])},
    ):
        assert loss_of(method, changed, variables)[0] != value
    unmasked = iic.segmentation(pixels(), displacement=1)
    every = {**batch, "label": np.full_like(batch["label"], -1)}
    assert loss_of(unmasked, batch, variables)[0] == loss_of(unmasked, every, variables)[0]


def test_details_of_pixels():
    batch = scenes(size=2)
    method = iic.segmentation(pixels(), displacement=1, details=True, probabilities=True)
    told = predict(method, variables_of(method, batch), batch)
    counts = np.stack([np.bincount(c.ravel(), minlength=3) for c in told["classes"]])
    assert np.array_equal(told["counts"][:, 0], counts)
    assert np.array_equal(told["sub_heads"][:, 0], told["classes"])
    assert np.allclose(told["joint"].sum((2, 3)), 100, rtol=1e-4)
    assert np.allclose(told["certainty"][:, 0], told["confidence"].sum((1, 2)), rtol=1e-5)
    assert np.allclose(told["probabilities"].max(-1), told["confidence"])


def test_pixels_are_predicted_at_the_size_of_training():
    batch = scenes(size=1, side=20)
    small_one = jax.image.resize(batch["image"], (1, 10, 10, 3), "linear")
    plain = iic.segmentation(pixels(), displacement=1, probabilities=True)
    variables = variables_of(plain, batch)
    low = predict(plain, variables, {"image": np.asarray(small_one)})["probabilities"]
    expected = jax.image.resize(low, (1, 20, 20, 3), "linear")
    for options in ({"size": (10, 10)}, {"size": (5, 20)}, {"scale": 0.5}):
        method = iic.segmentation(pixels(), displacement=1, probabilities=True, **options)
        told = predict(method, variables, {"image": batch["image"]})["probabilities"]
        np.testing.assert_allclose(told, expected, atol=1e-5)


def test_exposure_changes_nothing_once_it_is_taken_out():
    batch = scenes(size=2, side=12)
    dark = {**batch, "image": 0.1 + np.array([0.5, 0.3, 0.2], np.float32) * batch["image"]}
    shares = []
    for standardise in (True, False):
        method = iic.segmentation(pixels(), displacement=1, inputs="image", standardise=standardise)
        variables = decided(method).init(jax.random.key(0), batch)
        told = [predict(method, variables, each)["classes"] for each in (batch, dark)]
        shares.append(np.mean(told[0] == told[1]))
    assert shares[0] > 0.97 > 0.9 > shares[1]


def test_padding_is_not_in_the_mean_of_an_image():
    image = scenes(size=2, side=12)["image"]
    wide = np.pad(image, ((0, 0), (0, 12), (0, 0), (0, 0)), constant_values=1.0)
    there = np.zeros((2, 24, 12), bool)
    there[:, :12] = True
    told = standardised(jnp.asarray(wide), jnp.asarray(there))[:, :12]
    np.testing.assert_allclose(told, standardised(jnp.asarray(image)), atol=1e-5)
    np.testing.assert_allclose(told.mean((1, 2)), 0.5, atol=1e-5)
    np.testing.assert_allclose(told.std((1, 2)), 0.25, rtol=1e-3)


def test_padding_is_not_in_the_statistics_of_a_batch():
    batch = digits(size=4)
    padded = {k: np.concatenate([v, np.zeros_like(v)]) for k, v in batch.items()}
    method = iic.clustering(small(batch_norm="batch"))
    variables = variables_of(method, batch)
    told = [predict(method, variables, b) for b in (batch, padded)]
    for name in ("probabilities", "view_probabilities"):
        np.testing.assert_allclose(told[0][name], told[1][name][:4], atol=1e-6)


def test_faithful_maps_have_the_images_size():
    batch = scenes(size=2, side=12)
    method = iic.segmentation(pixels(faithful=True), displacement=1, faithful=True)
    told = predict(method, variables_of(method, batch), batch)
    assert told["classes"].shape == (2, 12, 12)


def test_training_finds_two_kinds_of_images():
    """Bright and dark images, noise between the views: the information comes near ln 2."""
    rng = np.random.default_rng(5)
    kind = np.arange(32) % 2
    level = (kind * 0.6)[:, None, None, None] + 0.2
    batch = digits(size=32, side=4)
    batch["image"] = (level + 0.1 * rng.random((32, 4, 4, 1))).astype(np.float32)
    batch["views"] = (level[:, None] + 0.1 * rng.random((32, 2, 4, 4, 1))).astype(np.float32)
    network = net6c({"main": 2}, sub_heads=2, widths=(4,), kernel_size=3)
    method = iic.clustering(network)
    optimizer = optax.adam(1e-2)
    state = init_state(jax.random.key(0), method, batch, optimizer)
    step = jax.jit(make_train_step(method.loss, optimizer))
    for _ in range(60):
        state, told = step(state, batch)
    assert float(told["best_information"]) > 0.6  # ln 2 = .693
    found = predict(method, (state.params, state.model_state), batch)["clusters"]
    assert np.array_equal(found, found[0] ^ kind) or np.array_equal(found, 1 - (found[0] ^ kind))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: iic.clustering(small(), centre=0.0), "centre=0"),
        (lambda: iic.clustering(small(), lamb=-1.0), "lamb=-1"),
        (lambda: iic.segmentation(pixels(), displacement=-1), "displacement=-1"),
        (lambda: iic.segmentation(pixels(), lamb=float("nan")), "lamb=nan"),
        (
            lambda: predict(
                iic.clustering(small(), predicts="none"),
                variables_of(iic.clustering(small()), digits()),
                digits(),
            ),
            "no head 'none'",
        ),
    ],
)
def test_bad_options(make, says):
    with pytest.raises(ValueError, match=says):
        make()
