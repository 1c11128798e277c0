"""Sums over devices: values and gradients agree under pmap and shard_map, checked or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxseg.ops import collective

NUM = 8
EACH = P("data")
WAYS = ["pmap", "checked", "unchecked"]
DATA = np.random.default_rng(0).random((NUM, 3), np.float32)


def spread(function, how, out=EACH):
    """`function` of [3] on eight devices, as a function of [8, 3]."""
    if how == "pmap":
        return jax.pmap(function, axis_name="data")
    mesh = jax.make_mesh((NUM,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def cut(x):
        result = function(x[0])
        return jax.tree.map(lambda y: y[None] if out == EACH else y, result)

    return jax.jit(
        jax.shard_map(cut, mesh=mesh, in_specs=P("data"), out_specs=out, check_vma=how == "checked")
    )


def test_without_an_axis_nothing_happens():
    tree = {"a": DATA, "b": 3}
    assert collective.axis_size(None) == 1
    assert collective.vary(tree, None) is tree
    assert collective.psum(tree, None) is tree
    assert collective.total(tree, None) is tree


@pytest.mark.parametrize("how", WAYS)
def test_axis_size(how):
    sizes = spread(lambda x: x[0] * 0 + collective.axis_size("data"), how)(DATA)
    np.testing.assert_array_equal(sizes, NUM)


@pytest.mark.parametrize("how", WAYS)
def test_psum_sums_every_leaf(how):
    got = spread(lambda x: collective.psum({"x": x, "one": jnp.ones(())}, "data"), how)(DATA)
    np.testing.assert_allclose(got["x"], np.tile(DATA.sum(0), (NUM, 1)), rtol=1e-6)
    np.testing.assert_array_equal(got["one"], NUM)


@pytest.mark.parametrize("how", WAYS)
def test_total_is_replicated(how):
    out = EACH if how == "pmap" else P()
    got = spread(lambda x: collective.total({"x": x, "one": jnp.ones(())}, "data"), how, out)(DATA)
    got = jax.tree.map(lambda x: x[-1], got) if how == "pmap" else got
    np.testing.assert_allclose(got["x"], DATA.sum(0), rtol=1e-6)
    np.testing.assert_array_equal(got["one"], NUM)


@pytest.mark.parametrize("how", WAYS)
def test_vary_keeps_values_and_may_be_repeated(how):
    def twice(x):
        return collective.vary(collective.vary(x, "data"), "data")

    np.testing.assert_array_equal(spread(twice, how)(DATA), DATA)


@pytest.mark.parametrize("how", WAYS)
def test_the_gradient_through_vary_is_the_own_share(how):
    def gradient(x):
        marked = collective.vary(jnp.ones(3), "data")  # without, `check_vma` sums the shares
        return jax.grad(lambda w: jnp.sum(w * x))(marked)

    np.testing.assert_allclose(spread(gradient, how)(DATA), DATA)


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("how", WAYS)
def test_gradients_of_shares_sum_to_the_gradient(how, marked):
    """The rule of the module: differentiate each device's addition, then sum the gradients."""
    weights = jnp.asarray([0.5, -1.0, 2.0])

    def whole(w):
        return jnp.log(1 + jnp.sum(jnp.tanh(DATA * w[None]), 0) ** 2).sum()

    def gradient(x):
        def share(w):
            joint = collective.psum(jnp.tanh(x * w), "data")
            value = jnp.log(1 + joint**2).sum() / collective.axis_size("data")
            return collective.vary(value, "data") if marked else value

        return collective.total(jax.grad(share)(collective.vary(weights, "data")), "data")

    out = EACH if how == "pmap" else P()
    got = spread(gradient, how, out)(DATA)
    got = got[0] if how == "pmap" else got
    np.testing.assert_allclose(got, jax.grad(whole)(weights), rtol=1e-5)
