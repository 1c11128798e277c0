import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.sampler import double_unet, mobilenet_sampler
from jaxseg.train.cost import cost


def shapes(net, size, batch=1):
    x = jax.ShapeDtypeStruct((batch, *size, 3), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), x), x


def macs(net, size):
    variables, x = shapes(net, size)
    return cost(lambda v, x: net.apply(v, x)[0], variables, x).macs


@pytest.mark.parametrize("make", [double_unet, mobilenet_sampler])
def test_any_grid_from_any_input(make):
    for grid, size in (((8, 8), (64, 64)), ((2, 3), (30, 45)), ((16, 12), (8, 9))):
        net = make(grid, input_size=size, features=8, dtype=jnp.bfloat16)
        variables, x = shapes(net, size, 2)
        found, stats = jax.eval_shape(
            lambda v, x, net=net: net.apply(v, x, train=True), variables, x
        )
        assert (found.shape, found.dtype) == ((2, *grid, 2), jnp.float32)
        assert jax.tree.structure(stats) == jax.tree.structure(variables["batch_stats"])


@pytest.mark.parametrize(
    "net",
    [
        double_unet((3, 4), features=4, width=2, input_size=8, second_depth=1, mean=True),
        mobilenet_sampler((3, 4), width=0.1, input_size=24, features=4),
    ],
    ids=["double_unet", "mobilenet"],
)
def test_nothing_moves_at_first_and_the_last_layer_learns(net):
    x = jax.random.normal(jax.random.key(1), (2, 24, 24, 3))

    @jax.jit
    def find(key):
        variables = net.init(key, x)

        def loss(last):
            params = {**variables["params"], "shift": last}
            shift, _ = net.apply({**variables, "params": params}, x)
            return jnp.sum((shift - 1) ** 2), shift

        gradient, shift = jax.grad(loss, has_aux=True)(variables["params"]["shift"])
        return shift, gradient

    shift, gradient = find(jax.random.key(0))
    assert shift.shape == (2, 3, 4, 2) and not np.any(shift)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    assert gradient["mean"].shape == (3, 4, 2)


def test_costs():
    """Convolutions counted by hand, and the figures that stand in the documentation."""
    net = double_unet((8, 8), features=16, width=8, input_size=32)
    # (pixels of a side, channels before, channels after), down to 4 pixels and up to the grid.
    first = [(32, 3, 8), (16, 8, 16), (8, 16, 16), (4, 16, 16), (8, 32, 16)]
    second = [(8, 16, 16), (4, 16, 16), (2, 16, 16), (4, 32, 16), (8, 32, 16)]
    expected = sum(9 * n * n * a * b for n, a, b in first + second) + 64 * 16 * 2
    assert macs(net, (32, 32)) == expected
    assert round(macs(double_unet(), (64, 64)) / 1e6) == 289
    assert round(macs(double_unet(features=16), (64, 64)) / 1e5) == 37
    assert round(macs(double_unet((16, 16), features=16), (64, 64)) / 1e5) == 66
    # A shift of each node is free; MobileNetV2 sees more pixels in the same maps where they allow.
    assert macs(double_unet(features=16, mean=True), (64, 64)) == macs(
        double_unet(features=16), (64, 64)
    )
    light, larger = (macs(mobilenet_sampler(input_size=n), (n, n)) for n in (64, 128))
    assert light < larger < 2 * light < 2 * 13e6


def test_refused():
    for options, words in (
        ({"grid": (1, 8)}, "grid="),
        ({"features": 0}, "features=0"),
        ({"width": 32, "features": 16}, "width=32"),
        ({"input_size": 0}, "input_size=0"),
        ({"second_depth": 0}, "second_depth=0"),
        ({"momentum": 0.5, "batch_norm": "running", "features": -1}, "features=-1"),
    ):
        with pytest.raises(ValueError, match=words):
            double_unet(**options)
    with pytest.raises(ValueError, match="width="):
        mobilenet_sampler(width=0.0)
