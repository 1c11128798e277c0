import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage
from skimage.color import rgb2lab

from jaxseg.methods import ssn
from jaxseg.models import ssn as networks
from jaxseg.ops.slic import grid_shape, hard_labels
from jaxseg.train import init_state, make_train_step


def batch(size=4, height=32, width=40, seed=0):
    """Pictures of coloured rectangles with noise, and the rectangles as labels."""
    rng = np.random.default_rng(seed)
    rows, cols = (
        np.sort(rng.integers(4, height - 4, (size, 1))),
        np.sort(rng.integers(4, width - 4, (size, 2))),
    )
    label = np.zeros((size, height, width), np.int32)
    for i in range(size):
        label[i] += (np.arange(height) >= rows[i, 0])[:, None] * 3
        label[i] += (np.arange(width)[None, :, None] >= cols[i]).sum(-1)
    colors = rng.integers(40, 216, (size, 6, 3))
    image = np.take_along_axis(colors, label.reshape(size, -1, 1), 1).reshape(
        size, height, width, 3
    )
    image = np.clip(image + rng.normal(0, 20, image.shape), 0, 255).astype(np.uint8)
    return {
        "image": image,
        "label": label,
        "index": np.arange(size, dtype=np.int32),
        "weight": np.ones(size, np.float32),
        "size": np.tile(np.array([[height, width]], np.int32), (size, 1)),
    }


def test_inputs_are_position_then_lab():
    data = batch()
    image = data["image"] / np.float32(255)
    grid = (3, 4)
    got = ssn.input_features(jnp.asarray(image), grid)
    scale = 2.5 * max(3 / 32, 4 / 40)
    rows, cols = np.mgrid[:32, :40]
    expected = np.concatenate(
        [scale * rows[..., None], scale * cols[..., None], 0.26 * rgb2lab(image[1])], -1
    )
    np.testing.assert_allclose(got[1], expected, atol=1e-3)


def test_training_lowers_the_loss_and_predicts_connected_regions():
    method = ssn.method(networks.deep(width=8, num_features=10), num_superpixels=12)
    data, optimizer = batch(), optax.adam(3e-3)
    state = init_state(jax.random.key(0), method, data, optimizer)
    step = jax.jit(make_train_step(method.loss, optimizer), donate_argnums=0)
    losses = []
    for _ in range(30):
        state, metrics = step(state, data)
        losses.append(float(metrics["reconstruction"]))
    assert losses[-1] < 0.8 * losses[0]
    prediction = jax.device_get(jax.jit(method.predict)(state.params, state.model_state, data))
    finished = method.finish(prediction, data)["superpixels"]
    for labels in finished:
        ids = np.unique(labels)
        np.testing.assert_array_equal(ids, np.arange(len(ids)))
        assert all(ndimage.label(labels == i)[1] == 1 for i in ids)


def test_superpixels_of_one_image_equal_the_methods():
    data = batch()
    network = networks.linear(num_features=8)
    method = ssn.method(network, num_superpixels=12, num_iters=3)
    params, state = method.init(jax.random.key(0), data)
    grid = grid_shape(32, 40, 12)
    whole = method.predict(params, state, jax.tree.map(jnp.asarray, data))["superpixels"]
    image = jnp.asarray(data["image"][2] / np.float32(255))
    soft = ssn.superpixels(params, state, image, network, num_superpixels=12, num_iters=3)
    assert np.mean(np.asarray(hard_labels(soft.affinity, grid)) == whole[2]) > 0.999
    chex.assert_shape(soft.centers, (*grid, 8))


def test_options_reach_the_loss():
    data = batch()

    def value(**options):
        method = ssn.method(num_superpixels=12, **options)
        return np.asarray(
            method.loss({}, {}, jax.tree.map(jnp.asarray, data), jax.random.key(0))[0]
        )

    base = value()
    for options in (
        {"compactness": 1e-2},
        {"position_scale": 5.0},
        {"color_scale": 0.1},
        {"train_iters": 1},
        {"num_labels": 3},
    ):
        assert np.all(value(**options) != base), options
    np.testing.assert_array_equal(value(num_iters=2), base)


def test_another_property_of_pixels_can_be_learned():
    data = batch()
    flow = np.stack([data["label"] * 2.0, -data["label"]], -1).astype(np.float32)
    method = ssn.method(num_superpixels=12, compactness=0.0)
    good = {**data, "target": flow}
    bad = {**data, "target": np.random.default_rng(0).permuted(flow, axis=1)}
    values = [
        method.loss({}, {}, jax.tree.map(jnp.asarray, d), jax.random.key(0))[0] for d in (good, bad)
    ]
    assert np.all(values[0] < 0.5 * values[1])


def test_a_number_that_does_not_fit_is_refused():
    data = jax.tree.map(jnp.asarray, batch())
    with pytest.raises(ValueError, match="num_superpixels=0"):
        ssn.method(num_superpixels=0).predict({}, {}, data)
