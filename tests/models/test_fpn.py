import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models import resnet
from jaxseg.models.fpn import doubled, fpn, pyramid_settings
from jaxseg.models.resize import resize_nearest

SMALL = {"depth": 10, "width": 2, "features": 4}


def drawn(net, x, seed=0):
    """Variables without a compiled initialisation; variances and scales are positive."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        spread = np.sqrt(2 / np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.1
        return jnp.asarray(rng.normal(0, spread, leaf.shape), jnp.float32)

    like = jax.eval_shape(net.init, jax.random.key(0), x)
    return jax.tree_util.tree_map_with_path(draw, like)


def image(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    ("depth", "size", "channels"), [(10, (64, 96), 3), (10, (45, 70), 1), (50, (33, 129), 4)]
)
def test_sides_are_divided_and_rounded_up(depth, size, channels):
    net = fpn(depth=depth, width=2, features=4, dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((2, *size, channels), jnp.float32)
    found = jax.eval_shape(net.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    maps, _ = jax.eval_shape(net.apply, found, x)
    assert [m.shape for m in maps] == [
        (2, -(-size[0] // s), -(-size[1] // s), 4) for s in (4, 8, 16, 32, 64)
    ]
    assert {m.dtype for m in maps} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("size", [(6, 10), (5, 9), (6, 9), (1, 2)])
def test_doubling_is_the_nearest(size):
    x = image(2, -(-size[0] // 2), -(-size[1] // 2), 3)
    np.testing.assert_array_equal(doubled(x, size), resize_nearest(x, size))


def test_it_equals_the_sum_of_doubled_stages():
    """The pyramid written with NumPy over the encoder's own maps."""
    net = fpn(**SMALL, batch_norm="running")
    x = image(1, 40, 52, 3)
    found = drawn(net, x)
    own = {name: tree["pyramid"]["encoder"] for name, tree in found.items()}
    stages = jax.jit(resnet.resnet(10, width=2).apply)(own, x)[0][1:]
    params = jax.tree.map(np.asarray, found["params"]["pyramid"])
    above, wanted = None, []
    for level in (5, 4, 3, 2):
        layer = params[f"lateral{level}"]
        y = np.asarray(stages[level - 2]) @ layer["kernel"][0, 0] + layer["bias"]
        if above is not None:
            rows, cols = (np.arange(n) // 2 for n in y.shape[1:3])
            y = y + above[:, rows][:, :, cols]
        above = y
        kernel = params[f"output{level}"]["kernel"]
        padded = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
        height, width = y.shape[1:3]
        wanted.insert(
            0,
            sum(
                padded[:, i : i + height, j : j + width] @ kernel[i, j]
                for i in range(3)
                for j in range(3)
            )
            + params[f"output{level}"]["bias"],
        )
    wanted.append(wanted[-1][:, ::2, ::2])
    maps, _ = jax.jit(net.apply)(found, x)
    for got, want in zip(maps, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


def paths(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(x) for p, x in leaves}


@pytest.mark.parametrize("stages", [0, 1, 2, 5, None])
def test_what_is_frozen(stages):
    """That it has no gradient is in test_mask_rcnn_networks.py."""
    _, frozen = pyramid_settings("frozen", stages, 0.9, None, depth=50)
    _, never = pyramid_settings("running", None, 0.9, None, depth=50)
    held = 2 if stages is None else stages
    kernels = ["conv1", *(f"layer{i}/0/conv2" for i in range(1, 5))]
    for prefix in ("pyramid/", "network/pyramid/"):
        for i, layer in enumerate(kernels):
            assert frozen(f"{prefix}encoder/{layer}/kernel") == (i < held)
        for norm in ("bn1", "layer1/2/bn3", "layer4/0/downsample/1"):
            assert frozen(f"{prefix}encoder/{norm}/scale") and frozen(
                f"{prefix}encoder/{norm}/bias"
            )
            assert not never(f"{prefix}encoder/{norm}/bias")
        for head in ("pyramid/lateral2/bias", "segment/conv1/kernel", "segment/conv1/bias"):
            assert not frozen(prefix + head)


def test_frozen_it_is_trained_as_it_is_evaluated():
    x = image(2, 32, 32, 3)
    found = drawn(fpn(**SMALL), x)

    def program(kind, train):
        net = fpn(**SMALL, batch_norm=kind)
        return jax.jit(lambda v, x: net.apply(v, x, train=train)[0]).lower(found, x).as_text()

    assert program("frozen", True) == program("running", False)
    assert program("batch", False) != program("running", False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 20}, "depth=20: expected one of"),
        ({"features": 0}, "features=0: expected more than 0"),
        ({"frozen_stages": 6}, "frozen_stages=6: expected 0 to 5"),
        ({"batch_norm": "running", "frozen_stages": 1}, "frozen_stages=1: expected 0 to 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        fpn(**options)
