import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.methods._embedding import embedding
from jaxseg.models.network import network
from jaxseg.testing import check_method
from jaxseg.types import Network

BATCH, SHAPE, DIMS = 16, (7, 10), 3
RNG = np.random.default_rng(0)


class _Pixels(nn.Module):
    """Each pixel alone: what compiles fast."""

    @nn.compact
    def __call__(self, x, *, train=False, mask=None, axis_name=None):
        return nn.Dense(DIMS + 2)(nn.tanh(x))


def batch(size=BATCH, number=3, valid=None):
    masks = np.zeros((size, number, *SHAPE), bool)
    masks[:, 0, 1:5, 0:4], masks[:, 1, 2:6, 3:9], masks[:, 2:, 4:7, 7:9] = True, True, True
    valid = RNG.random((size, number)) < 0.8 if valid is None else np.array(valid)
    image = masks.any(axis=1)[..., None] * 150 + RNG.integers(0, 100, (size, *SHAPE, 3))
    return {
        "image": image.astype(np.uint8),
        "masks": masks & valid[..., None, None],
        "valid": valid,
        "index": np.arange(size, dtype=np.int32),
        "weight": np.ones(size, np.float32),
        "size": np.tile(np.array([SHAPE], np.int32), (size, 1)),
    }


def test_contract():
    method = embedding(
        network(_Pixels()),
        scale=4.0,
        stride=2,
        max_instances=3,
        min_score=0.0,
        threshold=0.4,
    )
    check_method(method, batch(number=2), unequal_labels=0.01)


def fixed(outputs):
    """A network of one parameter that gives what it is told."""

    def apply(variables, x, train=False, mask=None, axis_name=None):
        return outputs * variables["params"]["scale"], {}

    return Network(lambda key, x: {"params": {"scale": jnp.ones(())}, "batch_stats": {}}, apply)


def run(outputs, data, **options):
    """The loss of each example, its metrics, and the gradient of the outputs."""
    device = jax.tree.map(jnp.asarray, data)

    @jax.jit
    def both(outputs):
        method = embedding(fixed(outputs), **options)
        value, out = method.loss({"scale": jnp.ones(())}, {}, device, jax.random.key(0))
        return jnp.sum(value), (value, out)

    (_, (value, out)), gradient = jax.value_and_grad(both, has_aux=True)(jnp.asarray(outputs))
    return value, out.metrics, gradient


def test_the_loss_is_its_parts():
    data = batch(3, valid=[[True, True, False], [True, True, True], [False] * 3])
    data["size"] = np.array([[7, 10], [7, 8], [7, 10]], np.int32)
    out = RNG.normal(size=(3, *SHAPE, DIMS + 2)).astype(np.float32)
    options = {"scale": 2.0, "radius": 0.5, "kernel_weight": 0.3, "seed_weight": 0.6}
    value, metrics, _ = run(out, data, **options)
    for i in range(3):
        height, width = data["size"][i]
        masks = data["masks"][i][data["valid"][i]][:, :height, :width]
        rows, cols = np.indices((height, width)) + 0.5
        psi = out[i, :height, :width, :DIMS].astype(float)
        psi[..., 0] += rows / 2
        psi[..., 1] += cols / 2
        logits, seeds = (
            1 / (1 + np.exp(-out[i, :height, :width, c].astype(float))) for c in (3, 4)
        )
        any_ = masks.any(axis=0)
        want = -np.where(any_, np.log(logits), np.log(1 - logits)).mean()
        np.testing.assert_allclose(metrics["foreground_loss"][i], want, rtol=1e-5)
        alone = masks.sum(axis=0) == 1
        background = np.mean(seeds[~any_] ** 2)
        if not len(masks):
            np.testing.assert_allclose(metrics["seed_loss"][i], background, rtol=1e-5)
            assert metrics["embedding_loss"][i] == metrics["separation"][i] == 0
            assert metrics["kernel_loss"][i] == 0
            continue
        own = [psi[mask & alone] for mask in masks]
        means = np.stack([x.mean(axis=0) for x in own])
        off = [np.linalg.norm(x - m, axis=1) for x, m in zip(own, means, strict=True)]
        np.testing.assert_allclose(
            metrics["embedding_loss"][i], np.mean([x.mean() for x in off]), rtol=1e-5
        )
        told = [
            np.sum((seeds[mask & alone] - 0.5 ** (x / 0.5)) ** 2)
            for mask, x in zip(masks, off, strict=True)
        ]
        want = sum(told) / alone.sum() + background
        np.testing.assert_allclose(metrics["seed_loss"][i], want, rtol=1e-5)
        apart = np.linalg.norm(means[:, None] - means, axis=-1) + 1e9 * np.eye(len(means))
        ratio = apart.min(axis=1).mean() / np.mean([x.mean() for x in off])
        np.testing.assert_allclose(metrics["separation"][i], ratio, rtol=1e-4)
        kernels = 0.5 ** (np.linalg.norm(psi[None] - means[:, None, None], axis=-1) / 0.5)
        parts = []
        for kernel, mask in zip(kernels, masks, strict=True):
            others = alone & ~mask
            parts += [-np.log(kernel[mask & alone]).mean(), -np.log(1 - kernel[others]).mean()]
        np.testing.assert_allclose(metrics["kernel_loss"][i], np.mean(parts), rtol=1e-4)
    total = metrics["embedding_loss"] + metrics["foreground_loss"] + 0.6 * metrics["seed_loss"]
    np.testing.assert_allclose(value, total + 0.3 * metrics["kernel_loss"], rtol=1e-5)


def test_what_does_not_count_changes_nothing():
    """Beyond the size, in a crowd, at labels of -1: neither the value nor the gradient."""
    data = batch(3, valid=[[True] * 3] * 3)
    data["size"] = np.array([[7, 10], [5, 8], [7, 10]], np.int32)
    data["crowd"] = np.zeros((3, 3), bool)
    data["crowd"][2, 1] = True
    data["label"] = np.zeros((3, *SHAPE), np.int32)
    data["label"][0, 0] = -1
    out = RNG.normal(size=(3, *SHAPE, DIMS + 2)).astype(np.float32)
    other, changed = out.copy(), {**data, "masks": data["masks"].copy()}
    hidden = np.zeros((3, *SHAPE), bool)
    hidden[0, 0], hidden[1, 5:], hidden[1, :, 8:] = True, True, True
    hidden[2] = data["masks"][2, 1]
    other[hidden] = 50
    changed["masks"][1, 0] |= hidden[1]
    changed["masks"][0, 2, 0] = True
    before, after = run(out, data, kernel_weight=1.0), run(other, changed, kernel_weight=1.0)
    np.testing.assert_allclose(after[0], before[0], rtol=1e-5)
    for name, x in before[1].items():
        np.testing.assert_allclose(after[1][name], x, rtol=1e-5)
    gradient = np.asarray(after[2])
    assert not gradient[hidden].any()
    np.testing.assert_allclose(gradient[~hidden], np.asarray(before[2])[~hidden], atol=1e-7)


def drawn(height=30, width=44, scale=8.0):
    """Three objects, two of them touching, one small; outputs that know all."""
    masks = np.zeros((3, height, width), bool)
    masks[0, 3:12, 4:20], masks[1, 12:25, 4:12], masks[2, 20:22, 30:32] = True, True, True
    out = np.full((1, height, width, 4), -4, np.float32)
    for mask, seed in zip(masks, (2.0, 5.0, 3.0), strict=True):
        place = np.argwhere(mask)
        out[0, ..., :2][mask] = (place.mean(axis=0) - place) / scale
        out[0, ..., 2][mask] = 4
        out[0, ..., 3][mask] = seed
    return masks, out


def test_objects_are_found_and_ordered():
    masks, out = drawn()
    image = jnp.zeros((1, *masks.shape[1:], 3))
    options = {"scale": 8.0, "max_instances": 5}
    method = embedding(fixed(jnp.asarray(out)), details=True, **options)
    got = jax.tree.map(
        np.asarray, jax.jit(method.predict)({"scale": jnp.ones(())}, {}, {"image": image})
    )
    order = [1, 2, 0]  # by falling seed
    np.testing.assert_array_equal(got["masks"][0, :3], masks[order])
    assert not got["masks"][0, 3:].any() and got["masks"].dtype == bool
    chance = 1 / (1 + np.exp(-np.array([5.0, 3, 2]))) / (1 + np.exp(-4))
    np.testing.assert_allclose(got["scores"][0], [*chance, 0, 0], rtol=1e-5)
    np.testing.assert_array_equal(got["kinds"][0], [0, 0, 0, -1, -1])
    boxes = [[12, 4, 25, 12], [20, 30, 22, 32], [3, 4, 12, 20]]
    np.testing.assert_array_equal(got["boxes"][0], [*boxes, [0] * 4, [0] * 4])
    flat = sum((k + 1) * masks[i].astype(int) for k, i in enumerate(order))
    np.testing.assert_array_equal(got["instances"][0], flat)
    np.testing.assert_allclose(got["displacement"], 8 * out[..., :2])
    np.testing.assert_allclose(got["embedding"][0, 2, 3], out[0, 2, 3, :2] + [2.5 / 8, 3.5 / 8])

    method = embedding(fixed(jnp.asarray(out)), min_size=5, min_score=0.9, **options)
    batch = {"image": image, "size": jnp.array([[30, 10]], jnp.int32)}
    got = jax.jit(method.predict)({"scale": jnp.ones(())}, {}, batch)
    np.testing.assert_array_equal(got["kinds"][0], [0, -1, -1, -1, -1])
    # The seed of the object above scores too little: its pixels go to the nearest centre.
    merged = masks[:2].any(axis=0) & (np.arange(44) < 10)
    np.testing.assert_array_equal(got["masks"][0, 0], merged)


def test_a_smaller_map_is_brought_to_the_image():
    """A map at half the size that points to one place does so at every pixel, but at the rim."""
    place, scale = np.array([13.0, 20.0]), 8.0
    cells = np.stack(np.meshgrid(2 * np.arange(15) + 1, 2 * np.arange(22) + 1, indexing="ij"), -1)
    logits = np.full((15, 22, 2), 3.0)
    coarse = np.concatenate([(place - cells) / scale, logits], axis=-1)[None].astype(np.float32)
    method = embedding(fixed(jnp.asarray(coarse)), scale=scale, max_instances=2, details=True)
    image = jnp.zeros((1, 30, 44, 3))
    got = jax.jit(method.predict)({"scale": jnp.ones(())}, {}, {"image": image})
    inner = np.asarray(got["embedding"])[0, 1:-1, 1:-1]
    np.testing.assert_allclose(inner, np.broadcast_to(place / scale, inner.shape), atol=1e-5)
    assert np.asarray(got["masks"])[0].all(axis=(1, 2)).tolist() == [True, False]


@pytest.mark.parametrize(
    "wrong",
    [{"scale": 0.0}, {"radius": -1.0}, {"stride": 0}, {"max_instances": 0}, {"coordinates": "all"}],
)
def test_bad_options(wrong):
    # beartype is before us where the type alone is wrong.
    with pytest.raises(Exception, match=next(iter(wrong))):
        embedding(fixed(jnp.zeros(())), **wrong)


def test_another_number_of_maps():
    method = embedding(fixed(jnp.zeros((1, 4, 4, 3))))
    with pytest.raises(ValueError, match=r"expected \[B, h, w, 4 or more\]"):
        method.predict({"scale": jnp.ones(())}, {}, {"image": jnp.zeros((1, 4, 4, 3))})
