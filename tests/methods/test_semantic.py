import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import losses
from jaxseg.methods import semantic, tasks
from jaxseg.models.layers import BatchNorm
from jaxseg.models.network import network
from jaxseg.models.pspnet import WithAuxiliary
from jaxseg.testing import check_method
from jaxseg.train import init_state, make_train_step
from jaxseg.types import Network

CLASSES = 3


def batch(size=4, height=11, width=14, seed=0):
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


def pointwise(stride=1, seen=None):
    """A 1×1 convolution; `seen` collects the inputs' shapes."""

    def apply(variables, x, *guide, train=False, mask=None, axis_name=None):
        if seen is not None:
            seen.append([y.shape for y in (x, *guide)])
        assert all(side % stride == 0 for side in x.shape[1:3])
        params = variables["params"]
        return x @ params["kernel"] + params["bias"][None, None, None], {}

    def init(key, x, *guide):
        kernel = jax.random.normal(key, (x.shape[-1], CLASSES))
        return {"params": {"kernel": kernel, "bias": jnp.zeros(CLASSES)}, "batch_stats": {}}

    return Network(init, apply)


class _Normed(nn.Module):
    """What compiles fast and has statistics of its batch."""

    @nn.compact
    def __call__(self, x, *, train=False, mask=None, axis_name=None):
        x = BatchNorm()(nn.Dense(4)(x), train=train, mask=mask, axis_name=axis_name)
        return nn.Dense(CLASSES)(nn.relu(x))


def test_contract():
    method = semantic.method(network(_Normed()), num_classes=CLASSES, stride=4)
    # With batch norm, micro-batches differ; two equal logits may be ordered either way.
    check_method(method, batch(16, 7, 6), accumulation_exact=False, unequal_labels=0.01)


def test_training_learns_the_classes():
    data, optimizer = batch(), optax.adam(3e-2)
    method = semantic.method(network(_Normed()), num_classes=CLASSES)
    state = init_state(jax.random.key(0), method, data, optimizer)
    step = jax.jit(make_train_step(method.loss, optimizer), donate_argnums=0)
    for _ in range(25):
        state, metrics = step(state, data)
    assert metrics["accuracy"] > 0.95
    classes = jax.jit(method.predict)(state.params, state.model_state, data)["classes"]
    assert classes.dtype == jnp.int32
    counts = data["label"] >= 0
    assert np.mean(np.asarray(classes)[counts] == data["label"][counts]) > 0.8


@pytest.mark.parametrize("stride", [1, 4, 8])
def test_padding_to_the_stride_is_cropped_back(stride):
    data = jax.tree.map(jnp.asarray, batch())
    seen = []
    method = semantic.method(pointwise(stride, seen), num_classes=CLASSES, stride=stride)
    params, state = method.init(jax.random.key(0), data)
    classes = method.predict(params, state, {"image": data["image"]})["classes"]
    sides = tuple(-(-n // stride) * stride for n in (11, 14))
    assert seen == [[(4, *sides, 3)]]
    normal = (np.asarray(data["image"]) / 255 - 0.5) / 0.25
    np.testing.assert_array_equal(classes, np.argmax(normal @ np.asarray(params["kernel"]), -1))


def test_options_reach_the_loss():
    data = jax.tree.map(jnp.asarray, batch())
    weights = (0.5, 2.0, 0.0)

    def value(**options):
        method = semantic.method(pointwise(), num_classes=CLASSES, **options)
        params, _ = method.init(jax.random.key(0), data)
        return method.loss(params, {}, data, jax.random.key(0)), params

    (got, out), params = value(class_weights=weights, mean=(0.1, 0.2, 0.3), std=0.5)
    shift = jnp.array([0.1, 0.2, 0.3])[None, None, None]
    logits = (data["image"] / 255 - shift) / 0.5 @ params["kernel"]
    expected = losses.cross_entropy(logits, data["label"], class_weights=jnp.array(weights))
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    counts = np.asarray(data["label"]) >= 0
    right = (np.argmax(logits, -1) == np.asarray(data["label"])) & counts
    accuracy = right.sum((1, 2)) / counts.sum((1, 2))
    np.testing.assert_allclose(out.metrics["accuracy"], accuracy, rtol=1e-6)

    def own(logits, labels, *, class_weights):
        assert class_weights is None
        return jnp.arange(4.0)

    np.testing.assert_array_equal(value(loss=own)[0][0], np.arange(4))


def test_what_a_prediction_holds():
    data = jax.tree.map(jnp.asarray, batch())
    params, state = semantic.method(pointwise(), num_classes=CLASSES).init(jax.random.key(0), data)
    normal = (np.asarray(data["image"], np.float64) / 255 - 0.5) / 0.25
    powers = np.exp(normal @ np.asarray(params["kernel"], np.float64))
    expected = powers / powers.sum(-1, keepdims=True)
    for probabilities in (False, True):
        method = semantic.method(pointwise(), num_classes=CLASSES, probabilities=probabilities)
        got = jax.jit(method.predict)(params, state, {"image": data["image"]})
        assert set(got) == {"classes", "confidence", "probabilities"} - (
            set() if probabilities else {"probabilities"}
        )
        np.testing.assert_array_equal(got["classes"], expected.argmax(-1))
        np.testing.assert_allclose(got["confidence"], expected.max(-1), rtol=1e-4)
    np.testing.assert_allclose(got["probabilities"], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "sides"),
    [
        ({"size": (22, 28)}, (22, 28)),
        ({"size": (28, 22)}, (22, 28)),  # the area alone counts
        ({"size": (11, 14)}, (11, 14)),
        ({"scale": 0.5}, (6, 7)),
        ({"size": (22, 28), "scale": 0.5}, (11, 14)),
    ],
)
def test_prediction_works_at_a_size(options, sides):
    image = np.random.default_rng(0).random((2, 11, 14, 3), np.float32)
    seen = []
    method = semantic.method(
        pointwise(seen=seen), num_classes=CLASSES, probabilities=True, mean=0.0, std=1.0, **options
    )
    kernel = np.random.default_rng(1).normal(size=(3, CLASSES)).astype(np.float32)
    params = {"kernel": kernel, "bias": np.zeros(CLASSES, np.float32)}
    got = method.predict(params, {}, {"image": jnp.asarray(image)})["probabilities"]
    assert seen == [[(2, *sides, 3)]]
    powers = np.exp(_bilinear(_bilinear(image, sides) @ kernel, (11, 14)))
    np.testing.assert_allclose(got, powers / powers.sum(-1, keepdims=True), rtol=1e-4)


@pytest.mark.parametrize("at_once", [0, 200, 2000])
def test_large_images_are_upsampled_by_bands(at_once, monkeypatch):
    image = jnp.asarray(np.random.default_rng(0).random((2, 23, 17, 3), np.float32))
    params = pointwise().init(jax.random.key(0), image)["params"]
    method = semantic.method(pointwise(), num_classes=CLASSES, size=(8, 6))
    whole = method.predict(params, {}, {"image": image})
    monkeypatch.setattr(tasks, "_AT_ONCE", at_once)
    bands = jax.jit(lambda image: method.predict(params, {}, {"image": image}))(image)
    np.testing.assert_allclose(bands["confidence"], whole["confidence"], atol=1e-5)
    assert np.mean(np.asarray(bands["classes"]) == whole["classes"]) > 0.99


def _bilinear(x, size):
    """Sums with the weights of a triangle about each pixel's centre, wider where it shrinks."""
    for axis, new in zip((1, 2), size, strict=True):
        old = x.shape[axis]
        radius = max(1, old / new)
        at = (np.arange(new)[:, None] + 0.5) * old / new - 0.5
        weights = np.maximum(1 - np.abs(at - np.arange(old)) / radius, 0)
        weights /= weights.sum(1, keepdims=True)
        x = np.moveaxis(np.tensordot(weights, x, (1, axis)), 0, axis)
    return x


def test_dropout_is_drawn_by_the_key_of_each_example():
    seen = []

    def apply(variables, x, *keys, train=False, mask=None, axis_name=None):
        seen.append(keys)
        return x @ variables["params"]["kernel"], {}

    data = jax.tree.map(jnp.asarray, batch(3))
    data["index"] = jnp.array([5, 2, 9])
    plain = Network(pointwise().init, apply)
    method = semantic.method(plain, num_classes=CLASSES, dropout=True)
    params, state = method.init(jax.random.key(0), data)
    method.loss(params, state, data, jax.random.key(7))
    method.predict(params, state, data)
    (trained,), predicted = seen
    assert predicted == ()
    for own, index in zip(trained, (5, 2, 9), strict=True):
        assert own == jax.random.fold_in(jax.random.key(7), index)


@pytest.mark.parametrize("weight", [0.4, 0.0, 2.0])
def test_an_auxiliary_head_has_a_loss_of_its_own(weight):
    data = jax.tree.map(jnp.asarray, batch())

    def apply(variables, x, *, train=False, mask=None, axis_name=None):
        logits = x @ variables["params"]["kernel"]
        return (WithAuxiliary(logits, -2 * logits) if train else logits), {}

    method = semantic.method(
        Network(pointwise().init, apply), num_classes=CLASSES, auxiliary_weight=weight
    )
    params, state = method.init(jax.random.key(0), data)
    got, out = method.loss(params, state, data, jax.random.key(0))
    logits = (data["image"] / 255 - 0.5) / 0.25 @ params["kernel"]
    own, other = (losses.cross_entropy(m, data["label"]) for m in (logits, -2 * logits))
    np.testing.assert_allclose(got, own + weight * other, rtol=1e-5)
    right = (jnp.argmax(logits, -1) == data["label"]).sum((1, 2)) / (data["label"] >= 0).sum((1, 2))
    np.testing.assert_allclose(out.metrics["accuracy"], right, rtol=1e-6)
    assert method.predict(params, state, data)["classes"].shape == data["label"].shape


def test_weights_of_pixels_reach_the_loss():
    data = jax.tree.map(jnp.asarray, batch())
    method = semantic.method(pointwise(), num_classes=CLASSES)
    params, state = method.init(jax.random.key(0), data)
    data["pixel_weight"] = jnp.asarray(np.random.default_rng(2).random((4, 11, 14), np.float32))
    got, _ = method.loss(params, state, data, jax.random.key(0))
    logits = (data["image"] / 255 - 0.5) / 0.25 @ params["kernel"]
    expected = losses.cross_entropy(logits, data["label"], pixel_weights=data["pixel_weight"])
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_padding_is_left_out_of_the_statistics_of_a_batch():
    seen = []

    def apply(variables, x, *, train=False, mask=None, axis_name=None):
        seen.append(mask)
        return x @ variables["params"]["kernel"], {}

    data = jax.tree.map(jnp.asarray, batch())
    data["weight"] = jnp.array([1.0, 0.5, 0.0, 0.0])
    method = semantic.method(Network(pointwise().init, apply), num_classes=CLASSES)
    params, state = method.init(jax.random.key(0), data)
    method.predict(params, state, data)
    np.testing.assert_array_equal(seen[0], [True, True, False, False])


def test_the_guide_sees_the_padded_image():
    data = jax.tree.map(jnp.asarray, batch())
    seen = []
    method = semantic.method(
        pointwise(4, seen), num_classes=CLASSES, stride=4, guide=semantic.superpixel_guide(6)
    )
    params, state = method.init(jax.random.key(0), data)
    method.predict(params, state, data)
    assert seen == [[(4, 12, 16, 3), (4, 12, 16, 5)]]


def test_bad_options():
    data = jax.tree.map(jnp.asarray, batch())
    for options, message in (
        ({"num_classes": 0}, "num_classes=0"),
        ({"num_classes": 3, "stride": 0}, "stride=0"),
        ({"num_classes": 3, "class_weights": (1.0,)}, "1 class_weights for 3"),
        ({"num_classes": 3, "size": (0, 4)}, r"size=\(0, 4\)"),
        ({"num_classes": 3, "scale": float("nan")}, "scale=nan"),
    ):
        with pytest.raises(ValueError, match=message):
            semantic.method(pointwise(), **options)
    method = semantic.method(pointwise(), num_classes=CLASSES + 1)
    params, state = method.init(jax.random.key(0), data)
    with pytest.raises(ValueError, match=r"the network gives \(4, 11, 14, 3\)"):
        method.predict(params, state, data)
