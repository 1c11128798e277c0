"""HRNet beside an interpreter of the authors' names, written here with PyTorch's operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models import weights
from jaxseg.models.hrnet import hrnet
from jaxseg.models.trunk import Trunk

SMALL = {"width": 4, "stem": 4, "modules": (1, 1, 2), "blocks": 1}


def authors_shapes(outputs, width, stem, modules, blocks):
    """Names and shapes of the released networks for poses, as their layers are described."""
    found = {}

    def conv(name, inputs, features, size, bias=False):
        found[f"{name}.weight"] = (features, inputs, size, size)
        if bias:
            found[f"{name}.bias"] = (features,)

    def norm(name, features):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.{leaf}"] = (features,)
        found[f"{name}.num_batches_tracked"] = ()

    def pair(name, inputs, features, size):
        conv(f"{name}.0", inputs, features, size)
        norm(f"{name}.1", features)

    def block(name, inputs, features, sizes, last):
        for i, size in enumerate(sizes, 1):
            out = last if i == len(sizes) else features
            conv(f"{name}.conv{i}", inputs, out, size)
            norm(f"{name}.bn{i}", out)
            inputs = out

    for i, inputs in ((1, 3), (2, stem)):
        conv(f"conv{i}", inputs, stem, 3)
        norm(f"bn{i}", stem)
    for i in range(blocks):
        block(f"layer1.{i}", stem if i == 0 else 4 * stem, stem, (1, 3, 1), 4 * stem)
    pair("layer1.0.downsample", stem, 4 * stem, 1)
    channels = [width * 2**i for i in range(4)]
    pair("transition1.0", 4 * stem, channels[0], 3)
    for stage in (2, 3, 4):
        before = 4 * stem if stage == 2 else channels[stage - 2]
        pair(f"transition{stage - 1}.{stage - 1}.0", before, channels[stage - 1], 3)
        for m in range(modules[stage - 2]):
            name = f"stage{stage}.{m}"
            for i in range(stage):
                for b in range(blocks):
                    block(f"{name}.branches.{i}.{b}", channels[i], channels[i], (3, 3), channels[i])
            last = stage == 4 and m == modules[2] - 1
            for i in range(1 if last else stage):
                for j in range(stage):
                    to = f"{name}.fuse_layers.{i}.{j}"
                    if j > i:
                        pair(to, channels[j], channels[i], 1)
                    for k in range(i - j):
                        out = channels[i if k == i - j - 1 else j]
                        pair(f"{to}.{k}", channels[j], out, 3)
    conv("final_layer", width, outputs, 1, bias=True)
    return found


def of_torch(torch, state, x, modules, blocks):
    """The network's output, and the branches of its last exchange, from the tensors alone."""
    relu, functional = torch.relu, torch.nn.functional

    def conv(x, name, stride=1):
        kernel = state[f"{name}.weight"]
        bias = state.get(f"{name}.bias")
        return functional.conv2d(x, kernel, bias, stride, kernel.shape[-1] // 2)

    def norm(x, name):
        leaves = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(state[f"{name}.{leaf}"] for leaf in leaves))

    def pair(x, name, stride=1):
        return norm(conv(x, f"{name}.0", stride), f"{name}.1")

    def block(x, name, convolutions):
        y = x
        for i in range(1, convolutions + 1):
            y = norm(conv(y if i == 1 else relu(y), f"{name}.conv{i}"), f"{name}.bn{i}")
        shortcut = f"{name}.downsample"
        return relu(y + (pair(x, shortcut) if f"{shortcut}.0.weight" in state else x))

    for i in (1, 2):
        x = relu(norm(conv(x, f"conv{i}", 2), f"bn{i}"))
    for b in range(blocks):
        x = block(x, f"layer1.{b}", 3)
    maps = [relu(pair(x, "transition1.0"))]
    for stage in (2, 3, 4):
        new = x if stage == 2 else maps[-1]
        maps.append(relu(pair(new, f"transition{stage - 1}.{stage - 1}.0", 2)))
        for m in range(modules[stage - 2]):
            branches = []
            for i, y in enumerate(maps):
                for b in range(blocks):
                    y = block(y, f"stage{stage}.{m}.branches.{i}.{b}", 2)
                branches.append(y)
            maps = []
            for i in range(1 if stage == 4 and m == modules[2] - 1 else stage):
                total = branches[i]
                for j, y in enumerate(branches):
                    name = f"stage{stage}.{m}.fuse_layers.{i}.{j}"
                    if j > i:
                        y = functional.interpolate(pair(y, name), scale_factor=2 ** (j - i))
                    for k in range(i - j):
                        y = pair(y, f"{name}.{k}", 2)
                        y = relu(y) if k < i - j - 1 else y
                    total = total + y if j != i else total
                maps.append(relu(total))
    return conv(maps[0], "final_layer"), branches


def variables(net, *shape):
    return jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def test_names_and_numbers_are_the_authors():
    """28.5 and 63.6 million, as Sun et al. say."""
    for width, millions in ((32, 28.5), (48, 63.6)):
        shapes = authors_shapes(17, width, 64, (1, 4, 3), 4)
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        count = sum(np.prod(s) for name, s in shapes.items() if not name.endswith(statistics))
        assert round(count / 1e6, 1) == millions
        found = variables(hrnet(17, width=width), 1, 64, 64, 3)
        assert sum(np.prod(x.shape) for x in jax.tree.leaves(found["params"])) == count
        zero = np.zeros((), np.float32)
        state = {name: np.broadcast_to(zero, shape) for name, shape in shapes.items()}
        weights.to_variables(state, found, naming=weights.HRNET)  # or it names what does not fit


@pytest.fixture(scope="module")
def drawn():
    """A small network's tensors under the authors' names."""
    rng = np.random.default_rng(0)
    state = {}
    for name, shape in authors_shapes(5, **SMALL).items():
        if name.endswith(("running_var", "weight")) and len(shape) == 1:
            state[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) == 4 else 0.3
            state[name] = np.asarray(scale * rng.normal(size=shape), np.float32)
    return state


def test_maps_are_torchs(drawn):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(1).normal(size=(2, 64, 32, 3)).astype(np.float32)
    net, trunk = (hrnet(5, trunk=trunk, **SMALL) for trunk in (False, True))
    found = weights.to_variables(drawn, variables(net, *x.shape), naming=weights.HRNET)
    with torch.inference_mode():
        state = {name: torch.tensor(value) for name, value in drawn.items()}
        image = torch.tensor(x).permute(0, 3, 1, 2)
        output, branches = of_torch(torch, state, image, SMALL["modules"], SMALL["blocks"])
    ours = jax.jit(net.apply)(found, x)[0]
    del found["params"]["final_layer"]
    features, encoded = jax.jit(trunk.apply)(found, x)[0]
    assert features.shape == (2, 16, 8, 4) and ours.shape == (2, 16, 8, 5)
    assert [m.shape[1:] for m in encoded] == [(16, 8, 4), (8, 4, 8), (4, 2, 16), (2, 1, 32)]
    for a, b in zip((ours, *encoded), (output, *branches), strict=True):
        b = b.permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_any_size():
    found = variables(hrnet(3, **SMALL), 1, 64, 64, 2)
    for size in ((1, 1), (37, 50), (64, 33)):
        x = jax.ShapeDtypeStruct((2, *size, 2), jnp.float32)
        quarter = tuple(-(-side // 4) for side in size)
        for full, wanted in ((False, quarter), (True, size)):
            net = hrnet(3, full_size=full, dtype=jnp.bfloat16, **SMALL)
            y, _ = jax.eval_shape(net.apply, found, x)
            assert (y.shape, y.dtype) == ((2, *wanted, 3), jnp.bfloat16)
    trunk = variables(hrnet(3, trunk=True, **SMALL), 1, 64, 64, 2)
    assert set(found["params"]) - set(trunk["params"]) == {"final_layer"}


def test_training_reaches_every_layer():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 32, 3)), jnp.float32)
    net = hrnet(3, trunk=True, **SMALL | {"modules": (1, 1, 1)})
    found = jax.jit(net.init)(jax.random.key(0), x)

    @jax.jit
    def step(params):
        def loss(params):
            trunk, stats = net.apply({**found, "params": params}, x, train=True)
            assert isinstance(trunk, Trunk)
            return sum(jnp.sum(jnp.sin(y)) for y in jax.tree.leaves(trunk)), stats

        return jax.grad(loss, has_aux=True)(params)

    gradient, stats = step(found["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.any(np.asarray(leaf)) and np.all(np.isfinite(np.asarray(leaf))), path
    moved = jax.tree.map(lambda a, b: np.any(np.asarray(a != b)), stats, found["batch_stats"])
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"stem": 0}, {"blocks": 0}, {"modules": (1, 0, 2)}]
)
def test_bad_options(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        hrnet(3, **wrong)
    with pytest.raises(ValueError, match="num_outputs"):
        hrnet(0)
