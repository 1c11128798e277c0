"""What functions cost: beside sums of ones, PyTorch's modules, gradients, and published figures."""

import importlib.util
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxseg.methods import semantic, ssn
from jaxseg.models import ssn as ssn_networks
from jaxseg.models.convolution import ConvTranspose, DepthwiseConv, GroupedConv
from jaxseg.models.deeplab import deeplab_resnet
from jaxseg.models.espnet import espnetv2
from jaxseg.models.resize import resize_bilinear
from jaxseg.models.unet import unet
from jaxseg.models.upsampling import ConvTranspose2x2
from jaxseg.train.cost import cost, live

PEERS = pathlib.Path(__file__).parents[2] / "experiments" / "benchmarks" / "torch_networks.py"
MATRIX = jax.ShapeDtypeStruct((3, 3), jnp.float32)


# Products of ones: the sum of what comes is the number of multiply-accumulates.


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_convolutions(strides, dilation, groups):
    def module(padding):
        return GroupedConv(
            12,
            (3, 2),
            groups=groups,
            strides=strides,
            kernel_dilation=dilation,
            padding=padding,
            kernel_init=jax.nn.initializers.ones,
        )

    pads = ((2, 1), (3, 4))
    padded = jnp.ones((2, 10 + 3, 9 + 7, 6))
    params = module("VALID").init(jax.random.key(0), padded)
    expected = module("VALID").apply(params, padded).sum()
    found = cost(module(pads).apply, params, jax.ShapeDtypeStruct((2, 10, 9, 6), jnp.float32))
    assert found == (3 * 2 * 6 // groups * 12 + 12, expected, ())


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (DepthwiseConv, {"kernel_size": (3, 3), "padding": "VALID"}),
        (ConvTranspose, {"kernel_size": (3, 4), "strides": (2, 3), "padding": "VALID"}),
        (ConvTranspose2x2, {}),
    ],
)
def test_layers_with_a_form_for_the_cpu(module, options):
    x = jnp.ones((1, 8, 7, 4))
    net = module(features=4, kernel_init=jax.nn.initializers.ones, **options)
    params = net.init(jax.random.key(0), x)
    expected = net.apply(params, x).sum()
    assert cost(net.apply, params, x).macs == expected


@pytest.mark.parametrize("formula", ["ij,jk->ik", "bij,bkj->bik", "ijk,jk->i", "i,j->ij"])
def test_products(formula):
    sizes = dict(zip("bijk", (2, 3, 4, 5), strict=True))
    operands = formula.split("->")[0].split(",")
    a, b = (jnp.ones([sizes[axis] for axis in names]) for names in operands)
    assert (
        cost(lambda a, b: jnp.einsum(formula, a, b), a, b).macs == jnp.einsum(formula, a, b).sum()
    )


# Programs inside programs. A product of 3x3 matrices is 27.


def power(p, x, times):
    return lax.fori_loop(0, times, lambda _, y: y @ p, x)


@jax.custom_vjp
def forward_only(p, x):
    return p @ x


forward_only.defvjp(lambda p, x: (p @ x, None), lambda _, g: (g @ g @ g, g))


@pytest.mark.parametrize(
    ("function", "macs"),
    [
        (lambda p, x: jax.jit(jnp.matmul)(p, x) @ x, 2),
        (lambda p, x: jax.checkpoint(lambda y: jnp.sin(p @ y))(x), 1),
        (lambda p, x: jax.nn.relu(p @ x), 1),
        (forward_only, 1),
        (lambda p, x: power(p, x, 7), 7),
        (lambda p, x: power(p, power(p, x, 2), 5), 7),
        (lambda p, x: lax.fori_loop(0, 3, lambda _, y: power(p, y, 4), x), 12),
        (lambda p, x: lax.map(lambda row: p @ row, x), 1),
        (lambda p, x: jax.vmap(lambda row: p @ row)(x), 1),
        (lambda p, x: lax.cond(x[0, 0] > 0, lambda: p @ x @ x, lambda: p @ x), 2),
        (lambda p, x: lax.platform_dependent(cpu=lambda: p @ x @ x, default=lambda: p @ x), 1),
        (lambda p, x: lax.platform_dependent(cpu=lambda: p @ x @ x, tpu=lambda: p @ x), 2),
        (lambda p, x: jax.grad(lambda p: ((p @ x) ** 2).sum())(p), 2),
    ],
)
def test_programs_inside_programs(function, macs):
    assert cost(function, MATRIX, MATRIX) == (9, 27 * macs, ())


@pytest.mark.parametrize(
    "function",
    [
        lambda p, x: (p @ x @ x, p @ x)[1],
        lambda p, x: jax.jit(lambda: (p @ x @ x, p @ x))()[1],
        lambda p, x: lax.fori_loop(0, 1, lambda _, c: (c[0] @ x, c[1] @ p), (x, x))[1],
        lambda p, x: lax.cond(x[0, 0] > 0, lambda: (x @ x, p @ x), lambda: (x, x))[1],
    ],
)
def test_what_the_result_does_not_need_is_not_counted(function):
    assert cost(function, MATRIX, MATRIX).macs == 27


@pytest.mark.parametrize(
    "function",
    [
        lambda p, x: np.ones((3, 3), np.float32) @ (p + x),
        lambda p, x: (jnp.arange(9.0).reshape(3, 3) * 2) @ (p + x),
        lambda p, x: jax.jit(lambda a, b: a @ b)(jnp.ones((3, 3)), p + x),
        lambda p, x: lax.fori_loop(0, 4, lambda _, c: (c[0] + 1, c[0] @ c[1]), (jnp.eye(3), p + x))[
            1
        ],
        lambda p, x: resize_bilinear((p + x)[None, :, :, None], (64, 61)),
        lambda p, x: jax.image.resize(p + x, (7, 8), "linear"),
        lambda p, x: jnp.mean(p * x) + lax.reduce_window(x, 0.0, lax.add, (2, 2), (1, 1), "SAME"),
    ],
)
def test_fixed_arrays_and_what_is_no_product_cost_nothing(function):
    assert cost(function, MATRIX, MATRIX) == (9, 0, ())


def test_a_carry_that_varies_later_is_counted():
    # The first product is of two fixed arrays, the others are not; the loop's body is one.
    def function(p, x):
        start = (jnp.eye(3), jnp.eye(3))
        return lax.fori_loop(0, 4, lambda _, c: (c[0] @ c[1], c[1] @ p), start)[0]

    assert cost(function, MATRIX, MATRIX).macs == 27 * 4 * 1 + 27 * 4


def test_what_cannot_be_counted_is_named():
    def unknown_length(p, x):
        return lax.while_loop(lambda y: y.sum() < 9, lambda y: p @ y, x)

    def harmless(p, x):
        return lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, p @ x)

    def solved(p, x):
        return lax.custom_linear_solve(lambda v: p @ v, x, lambda f, b: f(b), symmetric=True)

    def called(p, x):
        return jax.pure_callback(lambda y: y, MATRIX, p @ x)

    assert cost(unknown_length, MATRIX, MATRIX) == (9, 27, ("while",))
    assert cost(harmless, MATRIX, MATRIX) == (9, 27, ())
    assert cost(solved, MATRIX, MATRIX) == (9, 0, ("custom_linear_solve",))
    assert cost(called, MATRIX, MATRIX) == (9, 27, ("pure_callback",))


# Parameters that count.


def chain(p, x):
    """What comes depends on `b` only by way of `a`, in the second turn."""
    start = (x, p["a"], p["b"], p["c"])
    return lax.fori_loop(0, 3, lambda _, s: (s[0] * s[1], s[2], s[2], s[3] + s[2]), start)[0]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda p, x: p["a"] * x, "a"),
        (lambda p, x: (p["a"] * x, p["b"] * x)[0], "a"),
        (lambda p, x: jax.jit(lambda a, b, c: (a * x, b * c))(*p.values())[1], "bc"),
        (lambda p, x: jax.checkpoint(lambda p: (p["a"] * x, p["b"]))(p)[0], "a"),
        (chain, "ab"),
        (lambda p, x: lax.scan(lambda s, y: (s + p["b"], y * p["a"]), x, p["c"][None])[1], "ac"),
        (lambda p, x: lax.cond(x > 0, lambda: (p["a"], p["c"]), lambda: (p["b"], x))[0], "ab"),
        (lambda p, x: jax.nn.relu(x) + 0 * jax.nn.relu(p["c"]), "c"),
        (
            lambda p, x: lax.while_loop(
                lambda s: s[0] < 9, lambda s: (s[0] * 2, s[1]), (x, p["a"])
            ),
            "a",
        ),
    ],
)
def test_parameters_that_the_result_depends_on(function, expected):
    params = {name: jnp.float32(i + 2) for i, name in enumerate("abc")}
    found = live(function, params, jnp.float32(1))
    assert {name for name, used in found.items() if used} == set(expected)
    assert cost(function, params, jnp.float32(1)).parameters == len(expected)
    # Whatever does not count may be anything.
    spoilt = {name: value if found[name] else jnp.nan for name, value in params.items()}
    results = (jax.tree.leaves(function(p, jnp.float32(1))) for p in (params, spoilt))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


# Networks.


def predicting(network, size, *, num_classes=5, stride=1):
    method = semantic.method(network, num_classes=num_classes, stride=stride)
    batch = {"image": jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)}
    variables = jax.eval_shape(method.init, jax.random.key(0), batch)
    return cost(method.predict, *variables, batch)


def counted_by_torch(module, size):
    """Multiply-accumulates of the convolutions that run, and parameters of the modules that do."""
    torch = pytest.importorskip("torch")
    macs, used = [], set()

    def count(part, inputs, output):
        used.update(part.parameters(recurse=False))
        if isinstance(part, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            transposed = isinstance(part, torch.nn.ConvTranspose2d)
            positions = math.prod((inputs[0] if transposed else output).shape[2:])
            macs.append(positions * part.weight.numel())

    for part in module.modules():
        part.register_forward_hook(count)
    # On the device "meta" nothing is computed.
    module.to("meta").eval()(torch.empty((1, 3, *size), device="meta"))
    return sum(p.numel() for p in used), sum(macs)


@pytest.fixture(scope="module")
def peers():
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("torch_networks", PEERS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("ours", "theirs", "size"),
    [
        (lambda: unet(5, width=8), lambda peers: peers.UNet(5, width=8), (48, 64)),
        (lambda: deeplab_resnet(5, depth=50), lambda peers: peers.deeplab_resnet50(5), (193, 161)),
    ],
)
def test_networks_as_torch_counts_them(peers, ours, theirs, size):
    found = predicting(ours(), size)
    assert (*found[:2], found.uncounted) == (*counted_by_torch(theirs(peers), size), ())
    assert found.flops == 2 * found.macs


def test_espnetv2_as_torch_counts_it_and_as_published(peers):
    found = predicting(espnetv2(20, scale=2.0), (256, 512), num_classes=20, stride=16)
    assert (*found[:2], found.uncounted) == (
        *counted_by_torch(peers.ESPNetv2(20, 2.0), (256, 512)),
        (),
    )
    # The official table of Wang et al., CVPR 2020: 0.79 M and 674.78 M.
    assert found.macs == pytest.approx(674.78e6, rel=1e-3)
    assert found.parameters == pytest.approx(0.79e6, rel=0.01)


def test_superpixels_count_the_clustering():
    image = {"image": jax.ShapeDtypeStruct((1, 24, 36, 3), jnp.uint8)}
    found = {}
    for iters in (4, 6):
        method = ssn.method(ssn_networks.linear(), num_superpixels=6, num_iters=iters)
        params, state = jax.eval_shape(method.init, jax.random.key(0), image)
        found[iters] = cost(method.predict, params, state, image)
        assert found[iters].uncounted == ()
    assert found[4].parameters == 5 * 15 + 15
    # Each association takes 20 features and a weight to nine distances, and back to nine sums.
    once = 24 * 36 * 9 * (20 + 1) * 2
    assert found[6].macs - found[4].macs == 2 * once
    # The sums of the last are of no pixel's label.
    assert found[4].macs == 24 * 36 * 5 * 15 + 3.5 * once
