import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.densenet import fc_densenet, fc_densenet56, fc_densenet67, fc_densenet103

IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 6, 2)), jnp.float32)


def count(tree):
    return sum(np.prod(x.shape) for x in jax.tree.leaves(tree))


# Counts of the authors' code; with the statistics, those that Lasagne counts.
@pytest.mark.parametrize(
    ("make", "trainable", "all_numbers"),
    [
        (fc_densenet56, 1_376_795, 1_397_963),
        (fc_densenet67, 3_463_243, 3_502_923),
        (fc_densenet103, 9_322_091, 9_425_163),
    ],
)
def test_parameter_counts(make, trainable, all_numbers):
    found = jax.eval_shape(make(11).init, jax.random.key(0), IMAGE)
    assert count(found["params"]) == trainable
    assert count(found) == all_numbers


def small(**options):
    return fc_densenet(3, growth=2, layers=(1, 2, 1), width=4, **options)


def test_sizes():
    net = small(dtype=jnp.bfloat16)
    for size in ((2, 2), (5, 6), (9, 3)):
        image = jax.ShapeDtypeStruct((2, *size, 1), jnp.float32)
        found = jax.eval_shape(net.init, jax.random.key(0), image)
        logits, _ = jax.eval_shape(net.apply, found, image)
        assert logits.shape == (2, *size, 3) and logits.dtype == jnp.bfloat16
        assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    with pytest.raises(ValueError, match="1×9 pixels: expected 2 or more"):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 1, 9, 3)))


def test_training_and_both_ways_of_evaluation():
    running, batch = small(), small(batch_norm="batch")
    found = jax.jit(running.init)(jax.random.key(0), X)
    keys = jax.random.split(jax.random.key(1), len(X))

    @jax.jit
    def everything(found):
        def loss(params):
            y, stats = running.apply({**found, "params": params}, X, train=True)
            return jnp.mean(y**2), (y, stats)

        gradient, (trained, stats) = jax.grad(loss, has_aux=True)(found["params"])
        evaluated = [net.apply(found, X) for net in (running, batch)]
        dropped, _ = running.apply(found, X, keys, train=True)
        return gradient, trained, stats, evaluated, dropped

    gradient, trained, stats, (by_running, by_batch), dropped = everything(found)
    # Biases before a batch norm have none.
    reached = [np.any(np.asarray(g)) for g in jax.tree.leaves(gradient)]
    assert np.mean(reached) > 0.8
    moved = jax.tree.map(lambda a, b: np.any(np.asarray(a != b)), stats, found["batch_stats"])
    assert all(jax.tree.leaves(moved))
    np.testing.assert_allclose(by_batch[0], trained, atol=1e-5)
    assert np.max(np.abs(by_running[0] - trained)) > 1e-2
    assert np.max(np.abs(dropped - trained)) > 1e-2
    for after in (by_running[1], by_batch[1]):
        jax.tree.map(np.testing.assert_array_equal, after, found["batch_stats"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"growth": 0, "layers": (1,)}, "growth=0"),
        ({"growth": 2, "layers": (1, 2)}, "an odd number of blocks"),
        ({"growth": 2, "layers": (1,), "dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        fc_densenet(3, **options)
