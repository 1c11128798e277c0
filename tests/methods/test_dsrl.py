import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import losses
from jaxseg.methods import dsrl
from jaxseg.methods.tasks import Task, classes
from jaxseg.models.dsrl import Dual, enlarged
from jaxseg.models.dsrl import dsrl as dsrl_network
from jaxseg.models.layers import BatchNorm
from jaxseg.models.network import network
from jaxseg.models.trunk import Trunk
from jaxseg.models.unet import unet
from jaxseg.testing import check_method
from jaxseg.train import init_state, make_train_step
from jaxseg.train.cost import cost
from jaxseg.types import Network

CLASSES = 3


class _Trunk(nn.Module):
    """What compiles fast and has statistics of its batch."""

    scored: bool = False

    @nn.compact
    def __call__(self, x, *, train=False, mask=None, axis_name=None):
        fine = BatchNorm()(nn.Dense(6)(x), train=train, mask=mask, axis_name=axis_name)
        coarse = nn.relu(nn.Dense(5)(fine[:, ::2, ::2]))
        scores = nn.Dense(CLASSES)(fine) if self.scored else None
        return Trunk(nn.relu(fine), (fine, coarse), scores)


def batch(size=4, height=20, width=28, seed=0):
    """Rectangles of classes with a colour each, and noise."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, (size, -(-height // 4), -(-width // 4)))
    label = label.repeat(4, 1).repeat(4, 2)[:, :height, :width].astype(np.int32)
    colors = np.array([[200, 40, 40], [40, 200, 40], [60, 60, 220]])
    image = np.clip(colors[label] + rng.normal(0, 30, (*label.shape, 3)), 0, 255)
    label[rng.random(label.shape) < 0.1] = -1
    return {
        "image": image.astype(np.uint8),
        "label": label,
        "index": np.arange(size, dtype=np.int32),
        "weight": np.ones(size, np.float32),
        "size": np.tile(np.array([[height, width]], np.int32), (size, 1)),
    }


def stages(*, scored=False, **options):
    networks = dsrl_network(network(_Trunk(scored)), CLASSES, width=4, affinity_stride=4)
    return dsrl.stages(networks, classes(CLASSES), **options)


# The stages before do less of the same.
@pytest.mark.parametrize("stage", ["affinity", "scored", "base"])
def test_contract(stage):
    if stage == "base":

        class Scores(nn.Module):
            @nn.compact
            def __call__(self, x, *, train=False, mask=None, axis_name=None):
                y = _Trunk()(x, train=train, mask=mask, axis_name=axis_name).features
                return nn.Dense(CLASSES)(y)

        method = dsrl.method(enlarged(network(Scores())), classes(CLASSES), stride=2)
    else:
        method = stages(stride=2, scored=stage == "scored").affinity
    # With batch norm, micro-batches differ; two equal logits may be ordered either way.
    check_method(method, batch(16, 14, 11), accumulation_exact=False, unequal_labels=0.01)


def fixed(outputs, image=None, features=None, seen=None):
    """A network of one parameter that gives what it is told."""

    def apply(variables, x, *keys, train=False, mask=None, axis_name=None):
        if seen is not None:
            seen.append((x, keys, train, mask))
        scale = variables["params"]["scale"]
        found = Dual(outputs * scale, image, features)
        return found if train else found.outputs, {}

    return Network(lambda key, *x: {"params": {"scale": jnp.ones(())}, "batch_stats": {}}, apply)


def halved(image):
    """Antialiased: a triangle over four pixels, cut and renormalised at the border."""
    for axis in (1, 2):
        taps = [np.array([1, 3, 3, 1]) / 8] * (image.shape[axis] // 2)
        out = []
        for i, tap in enumerate(taps):
            places = np.arange(2 * i - 1, 2 * i + 3)
            inside = (places >= 0) & (places < image.shape[axis])
            part = np.take(image, places[inside], axis=axis)
            weight = (tap[inside] / tap[inside].sum()).reshape(
                [-1 if a == axis else 1 for a in range(4)]
            )
            out.append((part * weight).sum(axis, keepdims=True))
        image = np.concatenate(out, axis)
    return image


def test_the_loss_is_its_parts():
    rng = np.random.default_rng(0)
    data = batch(2, 8, 12)
    logits = rng.normal(size=(2, 8, 12, CLASSES)).astype(np.float32)
    image = rng.normal(size=(2, 8, 12, 3)).astype(np.float32)
    features = tuple(rng.normal(size=(2, 2, 3, c)).astype(np.float32) for c in (4, 4))
    mean, std = (0.3, 0.4, 0.5), (0.2, 0.3, 0.4)
    normal = (data["image"] / 255 - np.array(mean)) / np.array(std)
    seen = []
    given = fixed(
        jnp.asarray(logits), jnp.asarray(image), jax.tree.map(jnp.asarray, features), seen
    )
    device = jax.tree.map(jnp.asarray, data)
    for order in (1, 2):
        method = dsrl.method(
            given,
            classes(CLASSES, class_weights=(1.0, 2.0, 0.5)),
            image_weight=0.3,
            affinity_weight=0.7,
            order=order,
            mean=mean,
            std=std,
            dropout=True,
        )
        params, _ = method.init(jax.random.key(0), data)
        got, out = method.loss(params, {}, device, jax.random.key(1))
        task = losses.cross_entropy(
            jnp.asarray(logits), device["label"], class_weights=jnp.array([1, 2, 0.5])
        )
        mse = ((image - normal) ** 2).sum(-1).mean((1, 2))
        a, b = (f.reshape(2, 6, -1).astype(np.float64) for f in features)
        a, b = (f / np.linalg.norm(f, axis=-1, keepdims=True) for f in (a, b))
        off = np.einsum("nic,njc->nij", a, a) - np.einsum("nic,njc->nij", b, b)
        fa = (np.abs(off) ** order).mean((1, 2))
        np.testing.assert_allclose(out.metrics["image_loss"], mse, rtol=1e-5)
        np.testing.assert_allclose(out.metrics["affinity_loss"], fa, rtol=1e-5)
        np.testing.assert_allclose(got, task + 0.3 * mse + 0.7 * fa, rtol=1e-5)
        assert set(out.metrics) == {"accuracy", "image_loss", "affinity_loss"}
    small, keys, train, mask = seen[-1]
    np.testing.assert_allclose(small, halved(normal), atol=1e-4)
    assert train and mask.all() and keys[0].shape == (2,)


def test_what_a_network_leaves_out_is_not_in_the_loss():
    data = jax.tree.map(jnp.asarray, batch(2, 8, 12))
    logits = jnp.zeros((2, 8, 12, CLASSES))
    method = dsrl.method(fixed(logits), classes(CLASSES))
    value, out = method.loss({"scale": jnp.ones(())}, {}, data, jax.random.key(0))
    np.testing.assert_allclose(value, losses.cross_entropy(logits, data["label"]), rtol=1e-6)
    assert set(out.metrics) == {"accuracy"}


def test_padding_does_not_count():
    """What lies beyond an example's size changes nothing, and the means are over the rest."""
    rng = np.random.default_rng(1)
    data = batch(2, 16, 24)
    data["size"] = np.array([[16, 24], [8, 16]], np.int32)
    data["label"][1, 8:] = -1
    data["label"][1, :, 16:] = -1
    image = rng.normal(size=(2, 16, 24, 3)).astype(np.float32)
    features = [rng.normal(size=(2, 2, 3, 4)).astype(np.float32) for _ in range(2)]
    logits = jnp.zeros((2, 16, 24, CLASSES))

    def metrics(data, image, features):
        given = fixed(logits, jnp.asarray(image), tuple(map(jnp.asarray, features)))
        method = dsrl.method(given, classes(CLASSES))
        device = jax.tree.map(jnp.asarray, data)
        return method.loss({"scale": jnp.ones(())}, {}, device, jax.random.key(0))[1].metrics

    before = metrics(data, image, features)
    other = {**data, "image": data["image"].copy()}
    other["image"][1, 8:] = 0
    moved, strange = image.copy(), [f.copy() for f in features]
    moved[1, :, 16:] += 3
    for f in strange:
        f[1, 1:] *= -2
        f[1, :, 2:] += 1
    after = metrics(other, moved, strange)
    for name in ("image_loss", "affinity_loss"):
        np.testing.assert_allclose(after[name], before[name], rtol=1e-5)
    normal = (data["image"][1, :8, :16] / 255 - 0.5) / 0.25
    want = ((image[1, :8, :16] - normal) ** 2).sum(-1).mean()
    np.testing.assert_allclose(before["image_loss"][1], want, rtol=1e-5)
    a, b = (f[1, :1, :2].reshape(2, 4).astype(np.float64) for f in features)
    a, b = (f / np.linalg.norm(f, axis=-1, keepdims=True) for f in (a, b))
    np.testing.assert_allclose(
        before["affinity_loss"][1], np.abs(a @ a.T - b @ b.T).mean(), rtol=1e-5
    )


def test_any_task():
    """Regression of the image's first channel, say."""
    data = jax.tree.map(jnp.asarray, batch(2, 8, 12))

    def loss(outputs, batch):
        return jnp.mean((outputs[..., 0] - batch["image"][..., 0] / 255) ** 2, (1, 2)), {}

    task = Task(1, loss, lambda outputs, size: {"value": outputs[..., 0]})
    method = dsrl.method(fixed(jnp.full((2, 8, 12, 1), 0.5)), task)
    params, _ = method.init(jax.random.key(0), data)
    value, _ = method.loss(params, {}, data, jax.random.key(0))
    np.testing.assert_allclose(
        value, ((0.5 - np.asarray(data["image"])[..., 0] / 255) ** 2).mean((1, 2)), rtol=1e-5
    )
    assert np.all(np.asarray(method.predict(params, {}, data)["value"]) == 0.5)


def echo(stride=1, seen=None):
    """Repeats every pixel of the input."""

    def apply(variables, x, *keys, train=False, mask=None, axis_name=None):
        if seen is not None:
            seen.append(x.shape[1:3])
        assert all(n % stride == 0 for n in x.shape[1:3])
        fine = x.repeat(2, 1).repeat(2, 2)
        return Dual(fine) if train else fine, {}

    return Network(lambda key, *x: {"params": {}, "batch_stats": {}}, apply)


def test_prediction_at_any_size():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 13, 18, 3), np.uint8)
    for options, inner, outer in (
        ({}, (7, 9), (13, 18)),
        ({"stride": 4}, (8, 12), (13, 18)),
        ({"halve": False}, (13, 18), (26, 36)),
        ({"halve": False, "stride": 4}, (16, 20), (26, 36)),
        ({"size": (26, 36)}, (13, 18), (13, 18)),
        ({"halve": False, "size": (26, 36)}, (13, 18), (26, 36)),
        ({"halve": False, "size": (52, 72)}, (26, 36), (26, 36)),
        ({"scale": 2.0}, (13, 18), (13, 18)),
    ):
        seen = []
        stride = options.get("stride", 1)
        method = dsrl.method(echo(stride, seen), classes(3), **options)
        got = jax.jit(method.predict)({}, {}, {"image": image})
        assert seen == [inner], options
        assert got["classes"].shape == got["confidence"].shape == (2, *outer)


def test_a_small_image_is_not_halved():
    image = np.random.default_rng(0).integers(0, 256, (1, 6, 8, 3), np.uint8)
    method = dsrl.method(echo(), classes(3, probabilities=True), halve=False)
    got = method.predict({}, {}, {"image": jnp.asarray(image)})
    normal = (image / 255 - 0.5) / 0.25
    want = np.exp(normal) / np.exp(normal).sum(-1, keepdims=True)
    np.testing.assert_allclose(
        got["probabilities"], want.repeat(2, 1).repeat(2, 2), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_array_equal(got["classes"], normal.argmax(-1).repeat(2, 1).repeat(2, 2))


def test_training_learns_the_classes_and_the_image():
    data, optimizer = batch(), optax.adam(2e-2)
    method = stages().affinity
    state = init_state(jax.random.key(0), method, data, optimizer)
    step = jax.jit(make_train_step(method.loss, optimizer), donate_argnums=0)
    first = None
    for _ in range(60):
        state, metrics = step(state, data)
        first = metrics if first is None else first
    assert metrics["accuracy"] > 0.9
    assert metrics["image_loss"] < 0.3 * first["image_loss"]
    assert metrics["affinity_loss"] < first["affinity_loss"]
    got = jax.jit(method.predict)(state.params, state.model_state, data)["classes"]
    counts = data["label"] >= 0
    assert np.mean(np.asarray(got)[counts] == data["label"][counts]) > 0.8


def test_refused():
    task = classes(CLASSES)
    for options, words in (
        ({"stride": 0}, "stride=0"),
        ({"size": (0, 4)}, "size="),
        ({"scale": 0.0}, "scale="),
        ({"image_weight": -1.0}, "image_weight=-1"),
        ({"affinity_weight": float("nan")}, "affinity_weight=nan"),
    ):
        with pytest.raises(ValueError, match=words):
            dsrl.method(echo(), task, **options)
    other = functools.partial(dsrl.method, fixed(jnp.zeros((2, 8, 8, CLASSES))), task)
    with pytest.raises(ValueError, match="expected"):
        other().predict({"scale": jnp.ones(())}, {}, {"image": jnp.zeros((2, 8, 12, 3))})


@pytest.mark.parametrize("trunk", [True, "scored"])
def test_what_is_deployed_costs_the_plain_network_and_the_tail(trunk):
    """Of the image's branch and the transform nothing is left."""
    height, width, channels, kinds = 32, 48, 4, 5
    plain = unet(kinds, width=channels, depth=2)
    networks = dsrl_network(unet(kinds, width=channels, depth=2, trunk=trunk), kinds, width=16)
    image = jax.ShapeDtypeStruct((1, 2 * height, 2 * width, 3), jnp.uint8)
    found = []
    for deployed in (enlarged(plain), networks.affinity):
        method = dsrl.method(deployed, classes(kinds), stride=4)
        variables = jax.eval_shape(method.init, jax.random.key(0), {"image": image})
        found.append(cost(method.predict, *variables, {"image": image}))
    pixels = height * width
    own = 16
    tail, score = 4 * pixels * channels * own, 4 * pixels * own * kinds
    # The plain network's scores stay, or the branch's come in their place.
    gone = 0 if trunk == "scored" else 1
    assert found[1].macs - found[0].macs == tail + score - gone * pixels * channels * kinds
    # A kernel, batch norm's scale and shift, and scores with a bias each.
    added = 4 * channels * own + 2 * own + (own + 1) * kinds - gone * (channels + 1) * kinds
    assert found[1].parameters - found[0].parameters == added
