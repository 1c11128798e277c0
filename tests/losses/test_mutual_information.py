"""Mutual information of classifications: the original's outputs, float64, and what must hold."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxseg import losses
from jaxseg.losses import _mutual_information
from jaxseg.ops import collective

pytestmark = pytest.mark.usefixtures("strict_dtypes")
# Outputs of xu-ji/IIC's losses with PyTorch; of the maps' gradients those of the first image.
GOLDENS = np.load(pathlib.Path(__file__).parent.parent / "goldens" / "iic_original.npz")
B, C = 16, 5
loss = jax.jit(losses.mutual_information)


def softmax(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def draw(seed, scale=2.0, classes=C):
    """Two views that agree in part."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(B, classes))
    logits = [scale * (common + rng.normal(size=common.shape)) for _ in range(2)]
    return [softmax(x).astype(np.float32) for x in logits]


def information(x, y, weight=None):
    """I and H of the symmetrised joint in float64, by their definitions."""
    x, y = (np.asarray(z, np.float64) for z in (x, y))
    weight = np.ones(len(x)) if weight is None else weight.astype(np.float64)
    joint = np.einsum("b,bc,bd->cd", weight, x, y) / weight.sum()
    joint = (joint + joint.T) / 2
    p = joint.sum(0)
    some = joint > 0
    value = np.sum(joint[some] * np.log(joint[some] / np.outer(p, p)[some]))
    return value, -np.sum(p[p > 0] * np.log(p[p > 0]))


def plain(a, b):
    """The loss as one would write it first, of logits."""
    x, y = jax.nn.softmax(a), jax.nn.softmax(b)
    joint = jnp.matmul(x.T, y, precision="highest") / len(x)
    joint = (joint + joint.T) / 2
    log = jnp.log(jnp.sum(joint, 0))
    return -jnp.sum(joint * (jnp.log(joint) - log[:, None] - log[None]))


def of_logits(a, b):
    return losses.mutual_information(jax.nn.softmax(a), jax.nn.softmax(b))


def exact(a, b):
    with jax.enable_x64(True):
        pair = [jnp.asarray(z, jnp.float64) for z in (a, b)]
        value, gradient = jax.jit(jax.value_and_grad(plain))(*pair)
        return float(value), np.asarray(gradient)


@pytest.mark.parametrize("name", ["mid", "sharp"])
def test_original(name):
    golden = {k: GOLDENS[f"classification/{name}/{k}"] for k in ("loss", "grad_logits_x")}
    pair = [jnp.asarray(GOLDENS[f"classification/{name}/logits_{k}"]) for k in "xy"]
    value, gradient = jax.jit(jax.value_and_grad(of_logits))(*pair)
    np.testing.assert_allclose(value, golden["loss"], rtol=0, atol=1e-6)
    expected = golden["grad_logits_x"]
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-4 * abs(expected).max())


def test_no_digits_are_lost_near_the_start():
    """Where I is 7e-9; the plain form in float32 has not even the sign of it."""
    pair = [jnp.asarray(GOLDENS[f"classification/init/logits_{k}"]) for k in "xy"]
    expected, slope = exact(*pair)
    assert -1e-8 < expected < -1e-9
    value, gradient = jax.jit(jax.value_and_grad(of_logits))(*pair)
    np.testing.assert_allclose(value, expected, rtol=2e-6)
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-5 * abs(slope).max())
    wrong = jax.jit(plain)(*pair)
    assert abs(wrong - expected) > abs(expected)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), scale=st.sampled_from([0.01, 1.0, 5.0, 40.0]))
def test_properties(seed, scale):
    x, y = draw(seed, scale)
    rng = np.random.default_rng(seed)
    weight = rng.integers(0, 3, B).astype(np.float32)
    weight[0] = 1
    value, entropy = information(x, y)
    bound = 1e-6 + 1e-5 * value
    assert abs(-loss(x, y) - value) <= bound
    assert -1e-6 <= -loss(x, y) <= np.log(C) + 1e-6
    assert abs(loss(x, y) - loss(y, x)) <= bound
    order = rng.permutation(C)
    assert abs(loss(x, y) - loss(x[:, order], y[:, order])) <= bound
    # The identity of λ.
    for lamb in (0.5, 1.5):
        wanted = value + 2 * (lamb - 1) * entropy
        assert abs(-loss(x, y, lamb=jnp.float32(lamb)) - wanted) <= bound + 1e-6
    # Weights are counts; examples without weight could be any.
    few = information(x, y, weight)[0]
    assert abs(-loss(x, y, weight=weight) - few) <= 1e-6 + 1e-5 * few
    other = np.where(weight[:, None] > 0, x, np.float32(1 / C))
    np.testing.assert_allclose(loss(other, y, weight=weight), loss(x, y, weight=weight), atol=1e-6)


def test_limits():
    same = np.eye(C, dtype=np.float32)[np.arange(3 * C) % C]
    np.testing.assert_allclose(loss(same, same), -np.log(C), rtol=1e-6)
    np.testing.assert_allclose(loss(same, same, lamb=1.5), -2 * np.log(C), rtol=1e-6)
    uniform = np.full_like(same, 1 / C)
    assert abs(loss(uniform, uniform)) < 1e-12
    one = np.tile(same[:1], (7, 1))  # every example in one class: the others are dead
    assert loss(one, one) == 0
    assert loss(same, same, weight=np.zeros(len(same), np.float32)) == 0
    gradient = jax.jit(jax.grad(losses.mutual_information))
    for x in (same, uniform, one):
        assert np.isfinite(gradient(x, x)).all()
    assert np.all(gradient(same, same, weight=np.zeros(len(same), np.float32)) == 0)


def test_divergence_and_its_derivatives(x64):
    """All sizes of r, from both sides, beside the logarithm in NumPy's long double."""
    r = np.concatenate([-np.logspace(-9, -1e-3, 60), np.logspace(-9, 4, 90), [-1.0]])
    m = np.full(r.shape, 0.3)
    long = r.astype(np.longdouble)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.where(r > -1, (1 + long) * np.log1p(long) - long, 1)
    # Below 1e-4 even a long double loses digits.
    small = abs(r) < 1e-4
    near = long[small]
    expected[small] = near**2 * (0.5 - near / 6 + near**2 / 12 - near**3 / 20)
    for dtype, tolerance in ((np.float64, 1e-14), (np.float32, 2e-6)):
        arguments = [jnp.asarray(z, dtype) for z in (r * m, m)]
        value, slopes = jax.jvp(
            _mutual_information._divergence, arguments, [jnp.ones_like(m, dtype)] * 2
        )
        keep = r > -0.9 if dtype == np.float32 else r >= -1
        np.testing.assert_allclose(value[keep] / 0.3, expected[keep].astype(float), rtol=tolerance)
        inner = keep & (r > -1)
        wanted = 2 * np.log1p(r[inner]) - r[inner]
        np.testing.assert_allclose(slopes[inner], wanted, rtol=1e3 * tolerance, atol=tolerance)
        assert np.isfinite(slopes).all()


def test_half_precision_is_widened():
    x, y = (jnp.asarray(z, jnp.bfloat16) for z in draw(0))
    value, gradient = jax.jit(jax.value_and_grad(losses.mutual_information))(x, y)
    assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, loss(x.astype(jnp.float32), y), rtol=1e-6)


def test_bad_arguments():
    x = jnp.full((4, 2), 0.5)
    with pytest.raises(ValueError, match=r"expected equal \[B, C\]"):
        losses.mutual_information.__wrapped__(x, x[:3])


# On eight devices.

WEIGHT = np.array([1, 0, 2, 0.5] * 4, np.float32)


def whole(x, y, weight):
    return losses.mutual_information(x, y, weight=weight, lamb=1.2)


def share(x, y, weight):
    value = losses.mutual_information(x, y, weight=weight, lamb=1.2, axis_name="data")
    return value / collective.axis_size("data"), value


@pytest.mark.parametrize("how", ["pmap", "checked", "unchecked", "jit"])
def test_eight_devices_equal_one(how):
    data = [*map(jnp.asarray, draw(3)), jnp.asarray(WEIGHT)]
    expected, slopes = jax.jit(jax.value_and_grad(whole, (0, 1)))(*data)
    run = jax.value_and_grad(share, (0, 1), has_aux=True)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    if how == "pmap":
        parts = [z.reshape(8, -1, *z.shape[1:]) for z in data]
        (_, value), got = jax.pmap(run, axis_name="data")(*parts)
        got = [z.reshape(B, C) for z in got]
    elif how == "jit":
        placed = [jax.device_put(z, NamedSharding(mesh, P("data"))) for z in data]
        value, got = jax.jit(jax.value_and_grad(whole, (0, 1)))(*placed)
    else:

        def cut(x, y, weight):
            (_, value), got = run(x, y, weight)
            return value[None], got

        each = P("data")
        mapped = jax.shard_map(
            cut, mesh=mesh, in_specs=each, out_specs=each, check_vma=how == "checked"
        )
        value, got = jax.jit(mapped)(*data)
    np.testing.assert_allclose(value, np.broadcast_to(expected, value.shape), rtol=1e-5)
    for a, b in zip(got, slopes, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * abs(b).max())
