"""Mutual information of maps: the original's outputs, loops in float64, and what must hold."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import ndimage

from jaxseg import losses
from jaxseg.ops import collective

pytestmark = pytest.mark.usefixtures("strict_dtypes")
GOLDENS = np.load(pathlib.Path(__file__).parent.parent / "goldens" / "iic_original.npz")
B, H, W, C, T = 8, 6, 7, 3, 2
METHODS = ["fft", "conv", "scan"]
FLIP = np.tile(np.array([[-1, 0, 0], [0, 1, 0]], np.float32), (B, 1, 1))


@functools.partial(jax.jit, static_argnames=("displacement", "collapsed", "method"))
def loss(x, y, displacement=T, **options):
    return losses.mutual_information_2d(x, y, displacement=displacement, **options)


def softmax(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return (p / p.sum(-1, keepdims=True)).astype(np.float32)


def draw(seed, scale=2.0):
    """Logits of two views that agree in part, and a mask."""
    rng = np.random.default_rng(seed)
    common = ndimage.uniform_filter(rng.normal(size=(B, H, W, C)), (0, 3, 3, 0))
    logits = [scale * (common + 0.5 * rng.normal(size=common.shape)) for _ in range(2)]
    return *(z.astype(np.float32) for z in logits), rng.random((B, H, W)) < 0.8


def plain(x, y, counts, displacement, lamb, collapsed):
    """The loss by its definition; `counts` weighs the pixels of y, those of x count where not 0."""
    x, y = x * (counts > 0).astype(x.dtype)[..., None], y * counts[..., None]
    joints = []
    for i in range(-displacement, displacement + 1):
        for j in range(-displacement, displacement + 1):
            a = x[:, max(0, i) : H + min(0, i), max(0, j) : W + min(0, j)]
            b = y[:, max(0, -i) : H + min(0, -i), max(0, -j) : W + min(0, -j)]
            joints.append(jnp.einsum("bhwc,bhwd->cd", a, b, precision="highest"))
    joint = jnp.stack([sum(joints)] if collapsed else joints)
    joint = joint / jnp.sum(joint, (1, 2), keepdims=True)
    joint = (joint + joint.mT) / 2
    log = jnp.log(jnp.sum(joint, 1))
    each = joint * (jnp.log(joint) - lamb * log[:, :, None] - lamb * log[:, None])
    return -jnp.mean(jnp.sum(each, (1, 2)))


@functools.partial(jax.jit, static_argnums=4)
@functools.partial(jax.value_and_grad, argnums=(0, 1))
def plain_of_logits(a, b, counts, lamb, collapsed):
    return plain(jax.nn.softmax(a), jax.nn.softmax(b), counts, T, lamb, collapsed)


def exact(a, b, counts, lamb=1.0, collapsed=False):
    """The loss and its gradients with respect to logits in float64."""
    with jax.enable_x64(True):
        data = [jnp.asarray(z, jnp.float64) for z in (a, b, counts, lamb)]
        value, slopes = plain_of_logits(*data, collapsed)
        return float(value), [np.asarray(z) for z in slopes]


def of_logits(a, b, **options):
    x, y = jax.nn.softmax(a), jax.nn.softmax(b)
    return losses.mutual_information_2d(x, y, **options)


@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize("case", ["flip", "lam", "aff"])
def test_original(case, collapsed):
    golden = {
        k.split("/", 2)[2]: GOLDENS[k] for k in GOLDENS if k.startswith(f"segmentation/{case}/")
    }
    prefix = "collapsed/" if collapsed else "uncollapsed/"
    options = {
        "mask": jnp.asarray(golden["mask_x"] > 0),
        "affine": jnp.asarray(golden["affine_y_to_x"]),
        "displacement": int(golden["half_displacement"]),
        "lamb": float(golden["lamb"]),
        "collapsed": collapsed,
    }
    pair = [jnp.asarray(golden[f"logits_{k}"].transpose(0, 2, 3, 1)) for k in "xy"]
    run = jax.value_and_grad(functools.partial(of_logits, **options), (0, 1))
    value, slopes = jax.jit(run)(*pair)
    np.testing.assert_allclose(value, golden[f"{prefix}loss"], rtol=0, atol=1e-6)
    for k, slope in zip("xy", slopes, strict=True):
        # At λ = 1 the original's collapsed loss, 2e-6, is rounding by a tenth.
        if f"{prefix}grad_logits_{k}" in golden:
            expected = golden[f"{prefix}grad_logits_{k}"].transpose(0, 2, 3, 1)
            bound = 1e-4 * abs(expected).max()
            np.testing.assert_allclose(slope[: len(expected)], expected, rtol=0, atol=bound)


@functools.partial(jax.jit, static_argnums=(4, 5))
@functools.partial(jax.value_and_grad, argnums=(0, 1))
def slopes_of_logits(a, b, mask, weight, collapsed, method):
    options = {"displacement": T, "collapsed": collapsed, "method": method}
    return of_logits(a, b, mask=mask, weight=weight, **options)


@pytest.mark.parametrize("scale", [0.02, 2.0])
@pytest.mark.parametrize("collapsed", [False, True])
def test_float64(scale, collapsed):
    """Also near the start, where I is 1e-7."""
    a, b, mask = draw(0, scale)
    weight = np.array([1, 0, 2, 0.5] * 2, np.float32)
    counts = mask * weight[:, None, None]
    expected, slopes = exact(a, b, counts, collapsed=collapsed)
    assert -expected < (1e-5 if scale < 1 else 1) and expected < 0
    for method in METHODS[:1] if collapsed else METHODS:
        value, got = slopes_of_logits(a, b, mask, weight, collapsed, method)
        np.testing.assert_allclose(value, expected, rtol=2e-6)
        for x, y in zip(got, slopes, strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=2e-5 * abs(y).max())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), scale=st.sampled_from([0.1, 2.0, 20.0]))
def test_properties(seed, scale):
    a, b, mask = draw(seed, scale)
    x, y = softmax(a), softmax(b)
    values = [loss(x, y, mask=mask, method=m) for m in METHODS]
    np.testing.assert_allclose(values[0], values[1:], rtol=1e-5, atol=1e-6)
    value = values[0]
    bound = {"rtol": 1e-5, "atol": 1e-6}
    assert -1e-6 <= -value <= np.log(C) + 1e-6
    # P_-t(x, y) = P_t(y, x)ᵀ: all of them together are symmetric.
    np.testing.assert_allclose(loss(y, x, mask=mask), value, **bound)
    order = np.random.default_rng(seed).permutation(C)
    np.testing.assert_allclose(loss(x[..., order], y[..., order], mask=mask), value, **bound)
    np.testing.assert_allclose(loss(x[:, ::-1], y[:, ::-1], mask=mask[:, ::-1]), value, **bound)
    # What is behind the mask could be anything.
    other = np.where(mask[..., None], x, np.float32(1 / C))
    np.testing.assert_allclose(loss(other, y, mask=mask), value, **bound)
    # A flip and its inverse cancel.
    flipped = loss(x, y[:, :, ::-1], mask=mask, affine=FLIP)
    np.testing.assert_allclose(flipped, value, **bound)
    # Without displacement it is that of the pixels.
    pixels = jax.jit(losses.mutual_information)(x.reshape(-1, C), y.reshape(-1, C))
    for collapsed in (False, True):
        np.testing.assert_allclose(loss(x, y, displacement=0, collapsed=collapsed), pixels, **bound)


def test_lamb_adds_the_entropy():
    """-loss(λ) = I + 2 (λ - 1) H, with H from joints in float64."""
    a, b, mask = draw(1)
    for lamb in (0.5, 1.5):
        for collapsed in (False, True):
            expected, _ = exact(a, b, mask, lamb, collapsed)
            value = loss(softmax(a), softmax(b), mask=mask, collapsed=collapsed, lamb=lamb)
            np.testing.assert_allclose(value, expected, rtol=1e-5)
    value, more = (loss(softmax(a), softmax(b), lamb=k) for k in (1.0, 2.0))
    half = loss(softmax(a), softmax(b), lamb=1.5)
    np.testing.assert_allclose(half, (value + more) / 2, rtol=1e-6)
    assert 0 < value - more <= 2 * np.log(C)


def test_limits():
    """Maps of one class each: every displacement tells all."""
    same = np.zeros((B, H, W, C), np.float32)
    for k in range(B):
        same[k, ..., k % C] = 1
    p = np.bincount(np.arange(B) % C) / B
    entropy = -np.sum(p * np.log(p))
    for method in METHODS:
        np.testing.assert_allclose(loss(same, same, method=method), -entropy, rtol=1e-5)
    balanced = same[:6]
    np.testing.assert_allclose(loss(balanced, balanced), -np.log(C), rtol=1e-5)
    none = np.zeros((B, H, W), bool)
    gradient = jax.jit(jax.grad(losses.mutual_information_2d), static_argnames="displacement")
    assert loss(same, same, mask=none) == 0
    assert np.all(gradient(same, same, mask=none, displacement=T) == 0)
    # One row of pixels: most displacements have no pairs, the others tell all.
    row = none.copy()
    row[:, 3] = True
    for method in METHODS:
        np.testing.assert_allclose(loss(same, same, mask=row, method=method), -entropy, rtol=1e-4)
    for mask in (None, row):
        assert np.isfinite(gradient(same, same, mask=mask, displacement=T)).all()


def test_half_precision_is_widened():
    a, b, _ = draw(0)
    x, y = (jnp.asarray(softmax(z), jnp.bfloat16) for z in (a, b))
    run = jax.value_and_grad(functools.partial(losses.mutual_information_2d, displacement=1))
    value, slope = jax.jit(run)(x, y)
    assert value.dtype == jnp.float32 and slope.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, loss(x.astype(jnp.float32), y, displacement=1), rtol=1e-6)


def test_bad_arguments():
    x = jnp.full((1, 4, 5, 2), 0.5)
    with pytest.raises(ValueError, match=r"expected equal \[B, H, W, C\]"):
        losses.mutual_information_2d.__wrapped__(x, x[:, :3])
    for displacement in (-1, 4, 10):
        with pytest.raises(ValueError, match=f"displacement={displacement}: expected from 0"):
            losses.mutual_information_2d(x, x, displacement=displacement)
    with pytest.raises(ValueError, match="method='dct': expected"):
        losses.mutual_information_2d.__wrapped__(x, x, displacement=1, method="dct")


# On eight devices.

OPTIONS = {"displacement": T, "lamb": 1.2}


def share(x, y, mask, weight, **options):
    options = {**OPTIONS, "axis_name": "data", "mask": mask, "weight": weight, **options}
    value = losses.mutual_information_2d(x, y, **options)
    return value / collective.axis_size("data"), value


def devices():
    a, b, mask = draw(2)
    weight = jnp.asarray([1, 0, 2, 0.5] * 2, jnp.float32)
    return [jnp.asarray(softmax(a)), jnp.asarray(softmax(b)), jnp.asarray(mask), weight]


@functools.cache
def alone(collapsed):
    def run(x, y, mask, weight):
        options = {**OPTIONS, "mask": mask, "weight": weight, "collapsed": collapsed}
        return losses.mutual_information_2d(x, y, **options)

    return jax.jit(jax.value_and_grad(run, (0, 1)))


@pytest.mark.parametrize(
    ("how", "method"),
    [("pmap", "fft"), ("jit", "fft"), ("jit", "collapsed"), ("checked", "collapsed")]
    + [(how, method) for how in ("checked", "unchecked") for method in METHODS],
)
def test_eight_devices_equal_one(how, method):
    data, collapsed = devices(), method == "collapsed"
    method = None if collapsed else method
    expected, slopes = alone(collapsed)(*data)
    both = jax.value_and_grad(
        functools.partial(share, method=method, collapsed=collapsed), (0, 1), has_aux=True
    )
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    if how == "pmap":
        (_, value), got = jax.pmap(both, axis_name="data")(*(z[:, None] for z in data))
        got = [z[:, 0] for z in got]
    elif how == "jit":
        placed = [jax.device_put(z, NamedSharding(mesh, P("data"))) for z in data]
        compiled = alone(collapsed).lower(*placed).compile()
        # Of a map nothing is sent, but sums.
        assert not re.search("all-(gather|to-all)|collective-permute", compiled.as_text())
        value, got = compiled(*placed)
    else:

        def cut(*parts):
            (_, value), got = both(*parts)
            return value[None], got

        each = P("data")
        mapped = jax.shard_map(
            cut, mesh=mesh, in_specs=each, out_specs=each, check_vma=how == "checked"
        )
        value, got = jax.jit(mapped)(*data)
    np.testing.assert_allclose(value, np.broadcast_to(expected, value.shape), rtol=1e-5)
    for a, b in zip(got, slopes, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * abs(b).max())
