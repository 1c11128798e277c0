import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import losses
from jaxseg.methods import semantic
from jaxseg.models.layers import BatchNorm
from jaxseg.models.network import network
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
    ):
        with pytest.raises(ValueError, match=message):
            semantic.method(pointwise(), **options)
    method = semantic.method(pointwise(), num_classes=CLASSES + 1)
    params, state = method.init(jax.random.key(0), data)
    with pytest.raises(ValueError, match=r"the network gives \(4, 11, 14, 3\)"):
        method.predict(params, state, data)
