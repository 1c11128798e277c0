import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models import resnet as resnet_module
from jaxseg.models import xception as xception_module
from jaxseg.models.deeplab import deeplab_mobilenetv2, deeplab_resnet, deeplab_xception

SMALL = {"features": 16}
MAKERS = {
    "resnet": lambda **options: deeplab_resnet(3, width=4, **SMALL, **options),
    "xception": lambda **options: deeplab_xception(3, width=0.02, **SMALL, **options),
    "mobilenetv2": lambda **options: deeplab_mobilenetv2(3, width=0.1, **SMALL, **options),
}


@pytest.fixture
def short(monkeypatch):
    """Few blocks, for what needs no more."""
    monkeypatch.setitem(resnet_module.BLOCKS, 50, (1, 1, 1, 3))
    monkeypatch.setattr(xception_module, "MIDDLE_BLOCKS", 1)


def variables(net, *shape):
    return jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def count(tree):
    return sum(np.prod(x.shape) for x in jax.tree.leaves(tree))


def test_parameter_counts():
    params = variables(deeplab_resnet(19, depth=101), 1, 64, 64, 3)["params"]
    parts = {"encoder": 42_500_160, "aspp": 15_535_104, "decoder": 1_308_531}
    assert {name: count(part) for name, part in params.items()} == parts
    assert count(variables(deeplab_xception(19), 1, 64, 64, 3)["params"]) == 54_704_803
    assert count(variables(deeplab_mobilenetv2(19), 1, 64, 64, 3)["params"]) == 5_815_539


@pytest.mark.parametrize("name", MAKERS)
def test_any_size(short, name):
    found = variables(MAKERS[name](), 1, 33, 33, 2)
    for output_stride, size in ((16, (1, 1)), (16, (65, 50)), (8, (31, 64))):
        net = MAKERS[name](output_stride=output_stride, dtype=jnp.bfloat16)
        x = jax.ShapeDtypeStruct((2, *size, 2), jnp.float32)
        logits, _ = jax.eval_shape(net.apply, found, x)
        assert (logits.shape, logits.dtype) == ((2, *size, 3), jnp.bfloat16)


def dilations(net, *shape):
    """How often each dilation is used by convolutions that the native form computes."""
    found = variables(net, *shape)
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    program = jax.make_jaxpr(lambda v, x: net.apply(v, x)[0])(found, x)
    convolutions = [e for e in program.eqns if e.primitive.name == "conv_general_dilated"]
    used = [e.params["rhs_dilation"][0] for e in convolutions]
    return {d: used.count(d) for d in set(used) if d > 1}


def test_dilations(short):
    """The pyramid's and the last stage's multi-grid, twice as large at half the output stride."""
    assert dilations(MAKERS["resnet"](), 1, 64, 64, 3) == {2: 1, 4: 1, 8: 1, 6: 1, 12: 1, 18: 1}
    wide = {2: 1, 4: 1, 8: 1, 16: 1, 12: 1, 24: 1, 36: 1}
    assert dilations(MAKERS["resnet"](output_stride=8), 1, 64, 64, 3) == wide


def test_training(short):
    """The other encoders' gradients are in test_encoders.py."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 33, 33, 3)), jnp.float32)
    net = MAKERS["resnet"]()
    found = jax.jit(net.init)(jax.random.key(0), x)
    score = found["params"]["decoder"]["score"]["kernel"]
    # Of the number of inputs: by that of three classes they would begin several times as large.
    assert 0.5 < np.std(score) * np.sqrt(score.shape[2]) < 1.5
    keys = jax.random.split(jax.random.key(1), 4)

    @jax.jit
    def step(params, keys):
        def loss(params):
            y, stats = net.apply({**found, "params": params}, x, keys, train=True)
            return jnp.sum(jnp.sin(y)), (y, stats)

        return jax.grad(loss, has_aux=True)(params)

    gradient, (logits, stats) = step(found["params"], keys)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.any(np.asarray(leaf)) and np.all(np.isfinite(np.asarray(leaf))), path
    moved = jax.tree.map(lambda a, b: np.any(np.asarray(a != b)), stats, found["batch_stats"])
    assert all(jax.tree.leaves(moved))
    others = step(found["params"], keys[::-1])[1][0]
    assert np.any(np.abs(np.asarray(others - logits)) > 1e-3)


def test_batch_statistics_at_evaluation(short):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 33, 33, 3)), jnp.float32)
    net, plain = MAKERS["resnet"](batch_norm="batch"), MAKERS["resnet"]()
    found = jax.jit(net.init)(jax.random.key(0), x)
    logits, stats = jax.jit(net.apply)(found, x)
    trained, _ = jax.jit(lambda v: plain.apply(v, x, train=True))(found)
    np.testing.assert_allclose(logits, trained, atol=1e-3 * float(jnp.abs(trained).max()))
    jax.tree.map(np.testing.assert_array_equal, stats, found["batch_stats"])


@pytest.mark.parametrize("make", [deeplab_resnet, deeplab_xception, deeplab_mobilenetv2])
def test_bad_options(make):
    for name, value in (("output_stride", 32), ("output_stride", 4), ("features", 0)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            make(3, **{name: value})
    with pytest.raises(ValueError, match="num_classes=0"):
        make(0)
