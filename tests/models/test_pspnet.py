import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models import resnet as resnet_module
from jaxseg.models.pspnet import WithAuxiliary, _Pyramid, pspnet
from jaxseg.models.resize import resize_bilinear
from jaxseg.models.settings import Layers, Settings


@pytest.fixture
def short(monkeypatch):
    """One block a stage, for what needs no more."""
    monkeypatch.setitem(resnet_module.BLOCKS, 50, (1, 1, 1, 1))


def variables(net, *shape):
    return jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def count(tree):
    return sum(np.prod(x.shape) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(("depth", "total"), [(50, 49_080_038), (101, 68_072_166)])
def test_parameter_counts(depth, total):
    params = variables(pspnet(19, depth=depth), 1, 33, 33, 3)["params"]
    assert count(params) == total
    parts = {"pyramid": 4_198_400, "head": 18_885_139, "auxiliary": 2_364_691}
    assert {name: count(params[name]) for name in parts} == parts


def test_any_size(short):
    net = pspnet(3, width=4, dtype=jnp.bfloat16)
    found = variables(net, 1, 33, 33, 2)
    assert {p.dtype for p in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    for size in ((1, 1), (41, 65), (48, 30)):
        x = jax.ShapeDtypeStruct((2, *size, 2), jnp.float32)
        logits, _ = jax.eval_shape(net.apply, found, x)
        assert (logits.shape, logits.dtype) == ((2, *size, 3), jnp.bfloat16)


def test_training(short):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 17, 25, 3)), jnp.float32)
    net = pspnet(3, width=4)
    found = jax.jit(net.init)(jax.random.key(0), x)
    for head in ("head", "auxiliary"):
        score = found["params"][head]["score"]["kernel"]
        assert 0.5 < np.std(score) * np.sqrt(score.shape[2]) < 1.5
    keys = jax.random.split(jax.random.key(1), 2)

    @jax.jit
    def step(params, keys):
        def loss(params):
            y, stats = net.apply({**found, "params": params}, x, keys, train=True)
            return sum(jnp.sum(jnp.sin(z)) for z in y), (y, stats)

        return jax.grad(loss, has_aux=True)(params)

    gradient, (outputs, stats) = step(found["params"], keys)
    assert isinstance(outputs, WithAuxiliary)
    assert outputs.logits.shape == outputs.auxiliary.shape == (2, 17, 25, 3)
    assert all(np.any(np.asarray(g)) for g in jax.tree.leaves(gradient))
    moved = jax.tree.map(lambda a, b: np.any(np.asarray(a != b)), stats, found["batch_stats"])
    assert all(jax.tree.leaves(moved))
    others = step(found["params"], keys[::-1])[1][0]
    for a, b in zip(outputs, others, strict=True):
        assert np.any(np.abs(np.asarray(a - b)) > 1e-4 * np.abs(np.asarray(a)).max())


def test_the_auxiliary_head_is_of_training_alone(short):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 17, 17, 3)), jnp.float32)
    net, batch = pspnet(3, width=4), pspnet(3, width=4, batch_norm="batch")
    found = jax.jit(net.init)(jax.random.key(0), x)
    without = variables(pspnet(3, width=4, auxiliary=False), *x.shape)
    assert set(found["params"]) - set(without["params"]) == {"auxiliary"}
    trained, _ = jax.jit(lambda v: net.apply(v, x, train=True))(found)
    logits, stats = jax.jit(batch.apply)(found, x)
    np.testing.assert_allclose(logits, trained.logits, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, stats, found["batch_stats"])


def test_the_pyramid_equals_a_loop():
    x = np.random.default_rng(2).normal(size=(1, 7, 5, 4)).astype(np.float32)
    module = _Pyramid((1, 3))
    layers = Layers(Settings(), False, None, None)
    found = module.init(jax.random.key(0), jnp.asarray(x), layers)
    got = module.apply(found, jnp.asarray(x), layers)
    assert got.shape == (1, 7, 5, 8)
    np.testing.assert_array_equal(got[..., :4], x)
    for start, bins in ((4, 1), (6, 3)):
        means = np.zeros((1, bins, bins, 4))
        for i, j in np.ndindex(bins, bins):
            rows = slice(i * 7 // bins, -(-(i + 1) * 7 // bins))
            cols = slice(j * 5 // bins, -(-(j + 1) * 5 // bins))
            means[:, i, j] = x[:, rows, cols].mean((1, 2))
        y = means @ np.asarray(found["params"][f"conv{bins}"]["kernel"])[0, 0]
        y = jnp.asarray(np.maximum(y / np.sqrt(1 + 1e-5), 0), jnp.float32)
        expected = resize_bilinear(y, (7, 5), align_corners=True)
        np.testing.assert_allclose(got[..., start : start + 2], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width=0"),
        ({"bins": ()}, "bins="),
        ({"bins": (1, 0)}, "bins="),
        ({"width": 1, "bins": (1, 2, 3)}, "a divisor"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        pspnet(3, **options)
