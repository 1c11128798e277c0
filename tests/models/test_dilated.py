import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.dilated import context_module, dilated, identity


def shapes(net, *shape):
    return jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def count(tree):
    return sum(np.prod(x.shape) for x in jax.tree.leaves(tree))


FRONT_END = 134_305_611


@pytest.mark.parametrize(
    ("classes", "context", "total"),
    [(11, "basic", 7_832), (21, "basic", 28_392), (21, "large", 6_803_139)],
)
def test_parameter_counts_of_the_context(classes, context, total):
    net = context_module(classes, context=context)
    assert count(shapes(net, 1, 8, 8, classes)) == total


def test_parameter_counts_of_the_whole():
    assert count(shapes(dilated(11, context="none"), 1, 8, 8, 3)) == FRONT_END
    assert count(shapes(dilated(11), 1, 8, 8, 3)) == FRONT_END + 7_832


def test_ten_levels_reach_farther():
    rates = {8: 1 + 2 * (1 + 1 + 2 + 4 + 8 + 16 + 1), 10: 1 + 2 * (1 + 1 + 2 + 4 + 8 + 16 + 96 + 1)}
    for levels, reach in rates.items():
        net = context_module(1, levels=levels)
        variables = jax.tree.map(lambda p: np.ones(p.shape, p.dtype), shapes(net, 1, 1, 300, 1))
        line = np.zeros((1, 1, 300, 1), np.float32)
        line[0, 0, 150] = 1
        seen, blank = (
            np.asarray(net.apply(variables, jnp.asarray(x))[0]) for x in (line, 0 * line)
        )
        assert np.count_nonzero(np.abs(seen - blank) > 1e-6 * np.abs(blank)) == reach


@pytest.mark.parametrize("widths", [(3, 3, 3, 3), (3, 6, 12, 6, 3)])
def test_the_context_begins_as_the_identity(widths):
    x = np.random.default_rng(0).random((7, 3))
    y = x
    for before, after in itertools.pairwise(widths):
        kernel = identity(3, noise=0.0)(jax.random.key(0), (3, 3, before, after))
        assert np.count_nonzero(kernel) == np.count_nonzero(kernel[1, 1])
        y = y @ np.asarray(kernel[1, 1])
    np.testing.assert_allclose(y, x, atol=1e-6)
    noisy = identity(3)(jax.random.key(0), (3, 3, 30, 30))
    assert 0.008 < np.std(noisy[0, 0]) < 0.012


@pytest.mark.parametrize("size", [(1, 1), (8, 16), (13, 9)])
def test_the_output_has_the_images_size(size):
    net = dilated(3, width=1, hidden=2, dtype=jnp.bfloat16)
    image = jax.ShapeDtypeStruct((1, *size, 2), jnp.float32)
    logits, _ = jax.eval_shape(net.apply, shapes(net, *image.shape), image)
    assert logits.shape == (1, *size, 3) and logits.dtype == jnp.bfloat16


def test_without_the_margin_nothing_shifts():
    """With kernels that are their own mirror images, a mirrored image has mirrored scores."""
    image = jnp.asarray(np.random.default_rng(0).random((1, 24, 32, 2), np.float32))
    trees = {}
    for padding in ("margin", "same"):
        net = dilated(2, context="none", width=1, hidden=1, padding=padding)
        variables = jax.jit(net.init)(jax.random.key(0), image)
        trees[padding] = jax.tree.map(jnp.shape, variables)
        even = jax.tree.map(lambda p: jnp.full_like(p, 0.1), variables)
        apply = jax.jit(lambda image, net=net, even=even: net.apply(even, image)[0])
        got, mirrored = apply(image), apply(image[:, ::-1, ::-1])
        assert got.shape == (1, 24, 32, 2) and np.ptp(got) > 1e-3
        np.testing.assert_allclose(mirrored[:, ::-1, ::-1], got, rtol=1e-4)
        assert net.apply(even, image[:, :9, :13])[0].shape == (1, 9, 13, 2)
    assert trees["margin"] == trees["same"]


def test_gradients_reach_every_parameter():
    x = jnp.asarray(np.random.default_rng(1).random((1, 4, 4, 1)), jnp.float32)
    net = dilated(2, width=1, hidden=16, levels=4)
    # Positive weights keep the narrow network's units alive.
    found = jax.tree.map(lambda p: np.full(p.shape, 0.1, p.dtype), shapes(net, *x.shape))

    @jax.jit
    def gradient(params, keys):
        def loss(params):
            return jnp.sum(net.apply({**found, "params": params}, x, keys)[0])

        return jax.grad(loss)(params)

    one, other = (gradient(found["params"], jax.random.split(jax.random.key(i), 1)) for i in (0, 1))
    assert all(np.any(np.asarray(g)) for g in jax.tree.leaves(one))
    # Dropout: other units were seen.
    assert np.any(np.asarray(one["fc7"]["kernel"] != other["fc7"]["kernel"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width=0"),
        ({"levels": 3}, "levels=3"),
        ({"context": "none", "levels": 10}, "levels=10"),
        ({"context": "large", "levels": 10}, "levels=10"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        dilated(2, **options)
    if "context" not in options:
        with pytest.raises(ValueError, match="nothing to compute"):
            context_module(2, context="none")
