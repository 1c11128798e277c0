import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxseg.models import weights
from jaxseg.models.dilated import dilated
from jaxseg.models.fcn import fcn
from jaxseg.models.mobilenet import mobilenetv2
from jaxseg.models.resnet import resnet
from jaxseg.models.vgg import vgg16
from jaxseg.types import InputError

LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
# A small network's worth of every kind of parameter.
TREE = {
    "params": {
        "layer1": {"0": {"conv1": {"kernel": np.zeros((3, 5, 2, 4), np.float32)}}},
        "bn1": {"scale": np.zeros(4, np.float32), "bias": np.zeros(4, np.float32)},
        "act": {"negative_slope": np.zeros(4, np.float32)},
        "fc": {"kernel": np.zeros((4, 7), np.float32), "bias": np.zeros(7, np.float32)},
        "fc6": {"kernel": np.zeros((2, 3, 4, 7), np.float32)},
    },
    "batch_stats": {"bn1": {"mean": np.zeros(4, np.float32), "var": np.zeros(4, np.float32)}},
}


def state_dict():
    rng = np.random.default_rng(0)
    shapes = {
        "layer1.0.conv1.weight": (4, 2, 3, 5),
        "bn1.weight": (4,),
        "bn1.bias": (4,),
        "bn1.running_mean": (4,),
        "bn1.running_var": (4,),
        "act.weight": (4,),
        "fc.weight": (7, 4),
        "fc.bias": (7,),
        "fc6.weight": (7, 4 * 2 * 3),
    }
    state = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return {**state, "bn1.num_batches_tracked": np.array(3)}


def test_every_kind_of_tensor():
    state = state_dict()
    got = weights.to_variables(state, TREE)
    conv = got["params"]["layer1"]["0"]["conv1"]["kernel"]
    for i, j, c, k in np.ndindex(conv.shape):
        assert conv[i, j, c, k] == state["layer1.0.conv1.weight"][k, c, i, j]
    np.testing.assert_array_equal(got["params"]["fc"]["kernel"], state["fc.weight"].T)
    np.testing.assert_array_equal(got["params"]["fc"]["bias"], state["fc.bias"])
    np.testing.assert_array_equal(got["params"]["bn1"]["scale"], state["bn1.weight"])
    np.testing.assert_array_equal(got["params"]["act"]["negative_slope"], state["act.weight"])
    np.testing.assert_array_equal(got["batch_stats"]["bn1"]["mean"], state["bn1.running_mean"])
    np.testing.assert_array_equal(got["batch_stats"]["bn1"]["var"], state["bn1.running_var"])
    # A linear layer over a flattened [C, H, W], as PyTorch flattens it, is this convolution.
    x = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    expected = state["fc6.weight"] @ x.transpose(2, 0, 1).reshape(-1)
    found = np.einsum("hwc,hwck->k", x, got["params"]["fc6"]["kernel"])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_of_many_faults_the_line_names_the_first():
    names = [f"extra{i:02}" for i in range(30)]
    state = state_dict() | {name: np.zeros(1, np.float32) for name in names}
    with pytest.raises(weights.MismatchError) as caught:
        weights.to_variables(state, TREE, source="a.pth")
    assert caught.value.faults == {"unexpected": names}
    assert "extra07 and 22 more); give" in str(caught.value)


def test_all_faults_are_in_one_line():
    state = state_dict()
    del state["bn1.running_mean"], state["fc.bias"]
    state["layer2.0.conv1.weight"] = state["fc.weight"]
    state["act.weight"] = np.zeros(1, np.float32)
    state["fc6.weight"] = np.zeros((7, 25), np.float32)
    with pytest.raises(InputError) as caught:
        weights.to_variables(state, TREE, source="a.pth")
    message = str(caught.value)
    assert message.startswith("a.pth: not of this network (") and "\n" not in message
    for part in (
        "missing: batch_stats/bn1/mean, params/fc/bias;",
        "unexpected: layer2.0.conv1.weight;",
        "act.weight is [1], for params/act/negative_slope [4]",
        "fc6.weight is [7, 25], for params/fc6/kernel [2, 3, 4, 7]",
    ):
        assert part in message, part


def test_leaving_out_and_keeping():
    state = {k: v for k, v in state_dict().items() if not k.startswith("fc6")}
    state["head.weight"] = np.zeros((2, 2), np.float32)
    got = weights.to_variables(state, TREE, leave_out=[r"^head\."], keep=["^params/fc6/"])
    np.testing.assert_array_equal(got["params"]["fc6"]["kernel"], 0)
    assert np.any(got["params"]["fc"]["bias"])


def test_own_names():
    own = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf + 1
        for path, leaf in jax.tree_util.tree_flatten_with_path(TREE)[0]
    }
    got = weights.to_variables(own, TREE)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b + 1), got, TREE)


def renamed(tree):
    """Names and shapes that PyTorch gives to our variables."""
    names = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        _, *place, last = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        shape = leaf.shape
        if last == "kernel":
            shape = (shape[3], shape[2], shape[0], shape[1])
        names[".".join((*place, LEAVES.get(last, last)))] = shape
    return names


# torchvision's names and shapes.
@pytest.mark.parametrize(
    ("net", "known"),
    [
        (
            resnet(50),
            {
                "conv1.weight": (64, 3, 7, 7),
                "layer1.0.conv3.weight": (256, 64, 1, 1),
                "layer1.0.downsample.0.weight": (256, 64, 1, 1),
                "layer1.0.downsample.1.running_var": (256,),
                "layer4.2.bn3.bias": (2048,),
            },
        ),
        (
            resnet(18),
            {"layer2.0.downsample.1.weight": (128,), "layer4.1.conv2.weight": (512,) * 2 + (3, 3)},
        ),
        (vgg16(), {"features.0.weight": (64, 3, 3, 3), "features.28.bias": (512,)}),
        (
            mobilenetv2(),
            {
                "features.0.0.weight": (32, 3, 3, 3),
                "features.1.conv.0.0.weight": (32, 1, 3, 3),
                "features.1.conv.2.running_mean": (16,),
                "features.17.conv.1.1.bias": (960,),
                "features.18.0.weight": (1280, 320, 1, 1),
            },
        ),
    ],
)
def test_encoders_have_torchvisions_names(net, known):
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    found = jax.eval_shape(net.init, jax.random.key(0), image)
    names = renamed(found)
    assert {name: names.get(name) for name in known} == known
    state = {name: np.broadcast_to(np.float32(1), shape) for name, shape in names.items()}
    state["fc.weight"] = state["classifier.1.bias"] = np.zeros((3, 3), np.float32)
    got = weights.to_variables(state, found, leave_out=weights.CLASSIFIERS)
    assert jax.tree.map(np.shape, got) == jax.tree.map(np.shape, found)


@pytest.mark.parametrize(
    ("net", "naming", "keep"),
    [
        (fcn(3, width=2, hidden=4), weights.FCN_VGG16, ["score"]),
        (dilated(3, width=2, hidden=4), weights.DILATED_VGG16, ["final", "context"]),
    ],
)
def test_vgg16_with_its_classifier_becomes_convolutions(net, naming, keep):
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    found = jax.eval_shape(net.init, jax.random.key(0), image)
    trunk = jax.eval_shape(vgg16(width=2).init, jax.random.key(0), image)
    state = {k: np.broadcast_to(np.float32(1), shape) for k, shape in renamed(trunk).items()}
    state["classifier.0.weight"] = np.ones((4, 7 * 7 * 16), np.float32)
    state["classifier.3.weight"] = np.ones((4, 4), np.float32)
    state["classifier.0.bias"] = state["classifier.3.bias"] = np.ones(4, np.float32)
    state["classifier.6.bias"] = np.ones(1000, np.float32)
    got = weights.to_variables(
        state, found, naming=naming, leave_out=[r"^classifier\.6\."], keep=keep
    )
    kept = [x for x in jax.tree.leaves(got) if isinstance(x, jax.ShapeDtypeStruct)]
    total = sum(np.prod(x.shape) for x in jax.tree.leaves(got))
    assert sum(np.prod(x.shape) for x in kept) == total - sum(v.size for v in state.values()) + 1000


def test_reading_files(tmp_path):
    state = state_dict()
    path = tmp_path / "net.safetensors"
    save_file({f"module.{name}": value for name, value in state.items()}, path)
    got = weights.read(path, TREE)
    np.testing.assert_array_equal(got["params"]["fc"]["bias"], state["fc.bias"])
    path.write_bytes(path.read_bytes()[:40])
    for bad, message in (
        (path, "damaged, or no"),
        (tmp_path / "none.safetensors", "cannot be read"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            weights.read_tensors(bad)
        assert str(bad) in str(caught.value) and "\n" not in str(caught.value)


def test_pytorchs_own_files(tmp_path, monkeypatch):
    import builtins

    real = builtins.__import__

    def without_torch(name, *rest):
        if name == "torch":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(InputError, match="install torch, or convert it to safetensors"):
        weights.read_tensors(tmp_path / "net.pth")


def test_released_espnet_names_are_all_known():
    from jaxseg.models.espnet import espnetv2

    folder = pathlib.Path(__file__).parent.parent / "goldens"
    tensors = weights.read_tensors(folder / "espnetv2_s_0.5_city_512x256.safetensors")
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    expected = jax.eval_shape(espnetv2(20, scale=0.5).init, jax.random.key(0), image)
    got = weights.to_variables(tensors, expected, naming=weights.ESPNETV2)
    parameters = {k: v for k, v in tensors.items() if "num_batches" not in k}
    assert len(jax.tree.leaves(got)) == len(parameters)
    total, original = (
        sum(float(np.sum(x)) for x in xs) for xs in (jax.tree.leaves(got), parameters.values())
    )
    np.testing.assert_allclose(total, original, rtol=1e-6)
