import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models import ssn


def inputs(height=21, width=18, batch=2):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(batch, height, width, 5)), jnp.float32)


def count(params):
    return sum(x.size for x in jax.tree.leaves(params))


def test_the_papers_network_has_its_parameters():
    variables = jax.eval_shape(ssn.deep().init, jax.random.key(0), inputs())
    # 5->64, five times 64->64, 197->15, all 3x3 with bias; batch norm without scale and shift.
    expected = (5 * 64 + 5 * 64 * 64 + 197 * 15) * 9 + 6 * 64 + 15
    assert count(variables["params"]) == expected
    assert count(variables["batch_stats"]) == 6 * 2 * 64
    # A PyTorch port has 214,578: affine norms, which add 2 · 64 each, for these biases.
    assert count(variables["params"]) == 214_578 - 6 * 64


@pytest.mark.parametrize(
    "network", [ssn.deep(width=4, num_features=9), ssn.linear(num_features=9), ssn.pix()]
)
@pytest.mark.parametrize("size", [(21, 18), (4, 5), (1, 1), (33, 2)])
def test_inputs_come_first_at_any_size(network, size):
    x = inputs(*size)
    variables = jax.jit(network.init)(jax.random.key(0), x)
    y, state = jax.jit(lambda v, x: network.apply(v, x, train=True))(variables, x)
    assert y.shape == (*x.shape[:3], y.shape[-1])
    np.testing.assert_array_equal(y[..., :5], x)
    assert jax.tree.structure(state) == jax.tree.structure(variables["batch_stats"])
    assert np.all(np.isfinite(y))


def test_deep_starts_near_pix_and_learned_features_are_not_negative():
    x = inputs()
    y, _ = (net := ssn.deep(width=8)).apply(net.init(jax.random.key(1), x), x, train=True)
    assert y.shape[-1] == 20
    assert np.all(y[..., 5:] >= 0)
    assert 0 < np.max(y[..., 5:]) < 0.1


def test_deep_sees_its_surroundings_and_not_the_other_images():
    x = inputs(64, 16)
    net = ssn.deep(width=4)
    variables = net.init(jax.random.key(0), x)
    changed = x.at[0, 32, 8].add(5.0)
    apply = jax.jit(net.apply)
    before, after = (apply(variables, v)[0] for v in (x, changed))
    moved = np.any(before != after, axis=-1)
    assert not moved[1].any()
    rows = np.flatnonzero(moved[0].any(1))
    # 2 pixels of conv1 and 2, 1 + 4 of the half, 2 + 8 of the quarter, up to 3 of its
    # interpolation, 1 of conv7.
    assert 32 - 23 <= rows.min() < 32 - 15
    assert 32 + 15 < rows.max() <= 32 + 23


def test_bfloat16_leaves_the_inputs_exact():
    x = inputs()
    net = ssn.deep(width=8, dtype=jnp.bfloat16)
    variables = net.init(jax.random.key(0), x)
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    y, _ = net.apply(variables, x, train=True)
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y[..., :5], x)


@pytest.mark.parametrize("make", [ssn.deep, ssn.linear])
def test_too_few_features(make):
    with pytest.raises(ValueError, match="num_features=5"):
        make(num_features=5)
