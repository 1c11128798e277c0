import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.resunet import resunet

SMALL = {"width": 4, "depths": (1, 2, 1), "pooled": 1}


def variables(net, *shape):
    return jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


@pytest.mark.parametrize(
    ("channels", "classes", "count"), [(1, 1, 11_470_369), (3, 11, 11_471_275)]
)
def test_parameter_counts(channels, classes, count):
    """What the authors' code has; the paper says 11 million."""
    found = variables(resunet(classes), 1, 64, 64, channels)["params"]
    assert sum(np.prod(x.shape) for x in jax.tree.leaves(found)) == count


def test_sizes():
    net = resunet(3, dtype=jnp.bfloat16, **SMALL)
    found = variables(net, 1, 8, 8, 2)
    assert {p.dtype for p in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    x = jax.ShapeDtypeStruct((2, 24, 40, 2), jnp.float32)
    logits, _ = jax.eval_shape(net.apply, found, x)
    assert (logits.shape, logits.dtype) == ((2, 24, 40, 3), jnp.bfloat16)
    for depths, total in (((3, 8, 10, 3, 10, 8, 3), 64), ((1, 1, 1), 16)):
        with pytest.raises(ValueError, match=f"side of 72 pixels: expected a multiple of {total}"):
            variables(resunet(3, depths=depths), 1, 2 * total, 72, 3)


def test_training_moves_every_parameter_and_statistic():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 2)), jnp.float32)
    net = resunet(3, **SMALL)
    found = jax.jit(net.init)(jax.random.key(0), x)
    keys = jax.random.split(jax.random.key(1), 2)

    @jax.jit
    def step(params, keys):
        def loss(params):
            y, stats = net.apply({**found, "params": params}, x, keys, train=True)
            return jnp.sum(jnp.sin(y)), (y, stats)

        return jax.grad(loss, has_aux=True)(params)

    gradient, (logits, stats) = step(found["params"], keys)
    # A bias before batch norm alone changes nothing, but for the rounding.
    assert all(np.any(np.asarray(g)) for g in jax.tree.leaves(gradient))
    moved = jax.tree.map(lambda a, b: np.any(np.asarray(a != b)), stats, found["batch_stats"])
    assert all(jax.tree.leaves(moved))
    others = step(found["params"], keys[::-1])[1][0]
    assert np.any(np.abs(np.asarray(others - logits)) > 1e-3)


def test_batch_statistics_at_evaluation():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 8, 1)), jnp.float32)
    options = {**SMALL, "depths": (1,), "pooled": 1}
    net, plain = resunet(2, batch_norm="batch", **options), resunet(2, **options)
    found = jax.jit(net.init)(jax.random.key(0), x)
    logits, stats = jax.jit(net.apply)(found, x)
    trained, _ = jax.jit(lambda v: plain.apply(v, x, train=True))(found)
    np.testing.assert_allclose(logits, trained, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, stats, found["batch_stats"])


def test_skips_are_sums():
    """Without the way across, the top skip alone carries the stem to the head."""
    x = jnp.asarray(np.random.default_rng(2).normal(size=(1, 4, 8, 2)), jnp.float32)
    net = resunet(3, width=4, depths=(1,), pooled=0)
    found = jax.jit(net.init)(jax.random.key(0), x)
    params = dict(found["params"])
    silent = jax.tree.map(jnp.zeros_like, params["across_0"])
    adapter = jax.tree.map(jnp.zeros_like, params["top_skip"])
    params |= {"across_0": silent, "top_skip": adapter}
    got = jax.jit(net.apply)({**found, "params": params}, x)[0]

    def conv(x, p):
        return jax.lax.conv_general_dilated(
            x, p["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    stem = conv(x, params["stem"])
    top = conv(jnp.maximum(stem / np.sqrt(1 + 1e-5), 0), params["top"])
    np.testing.assert_allclose(got, conv(top, params["head"]), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (1, 2)}, "depths="),
        ({"depths": (1, 0, 1)}, "depths="),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"width": 0}, "width=0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        resunet(2, **options)
