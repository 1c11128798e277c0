import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from jaxseg.models import mobilenet as mobilenet_module
from jaxseg.models import resnet as resnet_module
from jaxseg.models import xception as xception_module
from jaxseg.models.mobilenet import mobilenetv2, round_to_8
from jaxseg.models.resnet import resnet
from jaxseg.models.vgg import vgg16
from jaxseg.models.xception import xception

CHANNELS = {
    "resnet18": (64, 64, 128, 256, 512),
    "resnet101": (64, 256, 512, 1024, 2048),
    "deep": (128, 256, 512, 1024, 2048),
    "vgg16": (64, 128, 256, 512, 512),
    "mobilenetv2": (16, 24, 32, 96, 1280),
    "xception": (64, 128, 256, 728, 2048),
}
MAKERS = {
    "resnet18": lambda **options: resnet(18, **options),
    "resnet101": lambda **options: resnet(101, **options),
    "deep": lambda **options: resnet(50, deep_stem=True, **options),
    "vgg16": vgg16,
    "mobilenetv2": mobilenetv2,
    "xception": xception,
}


@pytest.fixture
def short(monkeypatch):
    """Few blocks, for what needs no more."""
    monkeypatch.setitem(resnet_module.BLOCKS, 101, (1, 1, 1, 1))
    monkeypatch.setitem(resnet_module.BLOCKS, 18, (1, 2, 1, 1))
    monkeypatch.setitem(resnet_module.BLOCKS, 50, (2, 1, 1, 1))
    monkeypatch.setattr(xception_module, "MIDDLE_BLOCKS", 1)
    stages = tuple((*s[:2], 2 if s[1] in (64, 160) else 1, s[3]) for s in mobilenet_module.STAGES)
    monkeypatch.setattr(mobilenet_module, "STAGES", stages)


def variables(net, *shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), x), x


def count(net):
    found, _ = variables(net, 1, 64, 64, 3)
    return sum(np.prod(x.shape) for x in jax.tree.leaves(found["params"]))


def test_parameter_counts():
    resnets = {18: 11_176_512, 34: 21_284_672, 50: 23_508_032, 101: 42_500_160}
    assert {depth: count(resnet(depth)) for depth in resnets} == resnets
    assert count(vgg16()) == 14_714_688
    assert count(mobilenetv2()) == 2_223_872


@pytest.mark.parametrize("name", MAKERS)
def test_maps_at_every_output_stride(short, name):
    found, _ = variables(MAKERS[name](dtype=jnp.bfloat16), 1, 32, 32, 4)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    for output_stride, size in ((32, (65, 97)), (16, (64, 50)), (8, (33, 71))):
        net = MAKERS[name](output_stride=output_stride, dtype=jnp.bfloat16)
        x = jax.ShapeDtypeStruct((2, *size, 4), jnp.float32)
        maps, _ = jax.eval_shape(net.apply, found, x)
        strides = [min(s, output_stride) for s in (2, 4, 8, 16, 32)]
        assert [m.shape for m in maps] == [
            (2, -(-size[0] // s), -(-size[1] // s), c)
            for s, c in zip(strides, CHANNELS[name], strict=True)
        ]
        assert {m.dtype for m in maps} == {jnp.dtype("bfloat16")}


def torch_names(tree, path=()):
    """The names a torch state dict has for the leaves, those of running statistics left out."""
    if not isinstance(tree, dict):
        leaf = {"kernel": "weight", "scale": "weight", "bias": "bias"}[path[-1]]
        return {".".join((*path[:-1], leaf))}
    return set().union(*(torch_names(value, (*path, key)) for key, value in tree.items()))


@pytest.mark.parametrize(("depth", "blocks", "convs"), [(18, 2, 2), (50, 3, 3)])
def test_resnets_have_torchvisions_names(depth, blocks, convs):
    names = torch_names(variables(resnet(depth), 1, 32, 32, 3)[0]["params"])
    norms = {"bn1"} | {f"layer1.{b}.bn{i + 1}" for b in range(blocks) for i in range(convs)}
    first = {"conv1.weight", *(f"{n.replace('bn', 'conv')}.weight" for n in norms)}
    first |= {f"{n}.{leaf}" for n in norms for leaf in ("weight", "bias")}
    if depth == 50:
        first |= {f"layer1.0.downsample.{n}" for n in ("0.weight", "1.weight", "1.bias")}
    assert {n for n in names if not n.startswith(("layer2", "layer3", "layer4"))} == first
    assert {n for n in names if "downsample.0" in n} >= {
        f"layer{i}.0.downsample.0.weight" for i in (2, 3, 4)
    }


def test_vgg_and_mobilenet_have_torchvisions_names():
    names = torch_names(variables(vgg16(), 1, 32, 32, 3)[0]["params"])
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    assert names == {f"features.{i}.{leaf}" for i in places for leaf in ("weight", "bias")}
    shapes = variables(mobilenetv2(), 1, 32, 32, 3)[0]["params"]["features"]
    assert set(shapes) == {str(i) for i in range(19)}
    assert torch_names(shapes["1"]) == {
        *("conv.0.0.weight", "conv.0.1.weight", "conv.0.1.bias"),
        *("conv.1.weight", "conv.2.weight", "conv.2.bias"),
    }
    assert shapes["2"]["conv"]["0"]["0"]["kernel"].shape == (1, 1, 16, 96)
    assert shapes["2"]["conv"]["1"]["0"]["kernel"].shape == (3, 3, 1, 96)
    assert shapes["2"]["conv"]["2"]["kernel"].shape == (1, 1, 96, 24)
    assert set(shapes["2"]["conv"]["3"]) == {"scale", "bias"}
    assert shapes["18"]["0"]["kernel"].shape == (1, 1, 320, 1280)


def random_variables(net, x, seed=0):
    """All leaves random, so that none is hidden by its start; variances and scales are positive."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        if name in ("bias", "mean"):
            return jnp.asarray(rng.normal(0, 0.1, leaf.shape), jnp.float32)
        fan_in = np.prod(leaf.shape[:-1])
        return jnp.asarray(rng.normal(0, np.sqrt(2 / fan_in), leaf.shape), jnp.float32)

    like = jax.eval_shape(net.init, jax.random.key(0), x)
    return jax.tree_util.tree_map_with_path(draw, like)


def numpy_resnet(found, x, blocks, strides, dilations):
    """The trunk as torchvision writes it, with SciPy's correlation; x is `[H, W, C]`."""
    params, stats = found["params"], found["batch_stats"]

    def conv(x, kernel, stride, dilation):
        size = kernel.shape[0]
        wide = np.zeros((dilation * (size - 1) + 1,) * 2 + kernel.shape[2:])
        wide[::dilation, ::dilation] = kernel
        pad = dilation * (size // 2)
        x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
        y = [correlate(x, wide[..., k], "valid")[..., 0] for k in range(kernel.shape[3])]
        return np.stack(y, -1)[::stride, ::stride]

    def layer(x, scope, n, stride=1, dilation=1, conv_name="conv", norm_name="bn"):
        p, s = params, stats
        for name in scope:
            p, s = p[name], s[name]
        x = conv(x, np.asarray(p[f"{conv_name}{n}"]["kernel"], float), stride, dilation)
        norm, running = p[f"{norm_name}{n}"], s[f"{norm_name}{n}"]
        x = (x - np.asarray(running["mean"])) / np.sqrt(np.asarray(running["var"]) + 1e-5)
        return x * np.asarray(norm["scale"]) + np.asarray(norm["bias"])

    def relu(x):
        return np.maximum(x, 0)

    maps = [relu(layer(x, (), 1, 2))]
    padded = np.pad(maps[0], ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    taps = [padded[i : i - 2 or None, j : j - 2 or None] for i in range(3) for j in range(3)]
    x = np.max(taps, axis=0)[::2, ::2]
    for i, number in enumerate(blocks):
        for b in range(number):
            scope, stride, dilation = (f"layer{i + 1}", str(b)), strides[i], dilations[i]
            stride = stride if b == 0 else 1
            if "conv3" in params[scope[0]][scope[1]]:
                y = relu(layer(x, scope, 1))
                y = layer(relu(layer(y, scope, 2, stride, dilation)), scope, 3)
            else:
                y = layer(relu(layer(x, scope, 1, stride, dilation)), scope, 2, 1, dilation)
            if "downsample" in params[scope[0]][scope[1]]:
                p, s = params[scope[0]][scope[1]], stats[scope[0]][scope[1]]
                params["both"] = {"c0": p["downsample"]["0"], "n0": p["downsample"]["1"]}
                stats["both"] = {"n0": s["downsample"]["1"]}
                x = layer(x, ("both",), 0, stride, 1, "c", "n")
            x = relu(x + y)
        maps.append(x)
    return maps


@pytest.mark.parametrize(
    ("depth", "output_stride", "strides", "dilations"),
    [(18, 32, (1, 2, 2, 2), (1, 1, 1, 1)), (50, 8, (1, 2, 1, 1), (1, 1, 2, 4))],
)
def test_resnet_equals_a_loop(short, depth, output_stride, strides, dilations):
    x = np.random.default_rng(1).normal(size=(1, 29, 34, 2)).astype(np.float32)
    net = resnet(depth, width=2, output_stride=output_stride)
    found = random_variables(net, x)
    maps, _ = jax.jit(net.apply)(found, x)
    blocks = resnet_module.BLOCKS[depth]
    copy = jax.tree.map(np.asarray, found)
    for got, wanted in zip(maps, numpy_resnet(copy, x[0], blocks, strides, dilations), strict=True):
        np.testing.assert_allclose(got[0], wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("name", ["mobilenetv2", "xception"])
def test_dilated_maps_contain_the_undilated(short, name):
    x = jnp.asarray(np.random.default_rng(2).normal(size=(1, 65, 48, 3)), jnp.float32)
    width = {"mobilenetv2": 0.1, "xception": 0.02}[name]
    whole = MAKERS[name](width=width)
    found = random_variables(whole, x)
    expected = jax.jit(whole.apply)(found, x)[0]
    maps = jax.jit(MAKERS[name](width=width, output_stride=8).apply)(found, x)[0]
    for i, step in enumerate((1, 1, 1, 2, 4)):
        wanted = np.asarray(expected[i])
        np.testing.assert_allclose(
            maps[i][:, ::step, ::step], wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max()
        )


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2", "xception"])
def test_training_moves_every_parameter_and_statistic(short, name):
    x = jnp.asarray(np.random.default_rng(3).normal(size=(2, 40, 40, 3)), jnp.float32)
    net = MAKERS[name](width={"resnet18": 4, "mobilenetv2": 0.1, "xception": 0.02}[name])
    found = random_variables(net, x)

    def loss(params):
        maps, stats = net.apply({**found, "params": params}, x, train=True)
        return sum(jnp.sum(jnp.sin(m)) for m in maps), stats

    gradient, stats = jax.jit(jax.grad(loss, has_aux=True))(found["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.any(np.asarray(leaf)) and np.all(np.isfinite(np.asarray(leaf))), path
    moved = jax.tree.map(lambda a, b: np.any(np.asarray(a != b)), stats, found["batch_stats"])
    assert all(jax.tree.leaves(moved))


def test_batch_statistics_at_evaluation(short):
    x = jnp.asarray(np.random.default_rng(4).normal(size=(3, 33, 33, 2)), jnp.float32)
    net, plain = resnet(18, width=2, batch_norm="batch"), resnet(18, width=2)
    found = random_variables(net, x)
    mask = jnp.array([True, True, False])
    maps, stats = jax.jit(net.apply)(found, x, mask=mask)
    trained, moved = jax.jit(lambda v: plain.apply(v, x, train=True, mask=mask))(found)
    for a, b in zip(maps, trained, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, stats, found["batch_stats"])
    changed = jax.jit(lambda v: net.apply(v, x, train=True, mask=mask))(found)[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), changed, moved)


def test_round_to_8():
    assert [round_to_8(c) for c in (3.2, 16.0, 19.0, 22.4, 27.9, 320.0)] == [8, 16, 24, 24, 32, 320]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: resnet(20), "depth=20: expected one of"),
        (lambda: resnet(18, output_stride=4), "output_stride=4"),
        (lambda: resnet(18, width=0), "width=0: expected more than 0"),
        (lambda: vgg16(width=0), "width=0"),
        (lambda: vgg16(output_stride=2), "output_stride=2"),
        (lambda: mobilenetv2(output_stride=64), "output_stride=64"),
        (lambda: xception(width=-1.0), "width=-1.0"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()
