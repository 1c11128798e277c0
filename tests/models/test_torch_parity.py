"""Beside PyTorch: the same weights give the same maps, and its files are read."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models import weights
from jaxseg.models.deeplab import deeplab_mobilenetv2
from jaxseg.models.resnet import resnet
from jaxseg.types import InputError

torch = pytest.importorskip("torch")
PEERS = pathlib.Path(__file__).parents[2] / "experiments" / "benchmarks" / "torch_networks.py"


@pytest.fixture(scope="module")
def peers():
    spec = importlib.util.spec_from_file_location("torch_networks", PEERS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def randomised(module):
    """With drawn statistics, scales and biases, which begin at 0 and 1."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.bias, 0, 0.3)
    return module.eval()


def both(net, module, x):
    """What the two give, as lists of NHWC arrays."""
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    found = weights.to_variables(state, shapes)
    ours = jax.tree.leaves(jax.jit(net.apply)(found, x)[0])
    with torch.inference_mode():
        theirs = module(torch.tensor(np.asarray(x)).permute(0, 3, 1, 2))
    theirs = theirs if isinstance(theirs, list) else [theirs]
    return ours, [t.permute(0, 2, 3, 1).numpy() for t in theirs]


@pytest.mark.parametrize("output_stride", [32, 8])
def test_resnet50_equals_torchs_in_every_stage(peers, output_stride):
    module = randomised(peers.ResNet50(output_stride=output_stride))
    assert {"layer1.0.downsample.0.weight", "layer4.2.bn3.running_var"} <= set(module.state_dict())
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 45, 64, 3)), jnp.float32)
    ours, theirs = both(resnet(50, output_stride=output_stride), module, x)
    assert len(ours) == len(theirs) == 5
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_mobilenetv2_deeplab_equals_torchs(peers):
    module = randomised(peers.deeplab_mobilenetv2(5))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 50, 65, 3)), jnp.float32)
    (ours,), (theirs,) = both(deeplab_mobilenetv2(5), module, x)
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


class Planted:
    """Would make a folder when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return pathlib.Path.mkdir, (self.place,)


def test_files_of_torch_save(tmp_path):
    layer = torch.nn.BatchNorm2d(4)
    torch.nn.init.normal_(layer.weight)
    plain = {f"bn1.{name}": value for name, value in layer.state_dict().items()}
    parallel = {f"module.{name}": value for name, value in plain.items()}
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in plain.items()}
    leaf = jax.ShapeDtypeStruct((4,), jnp.float32)
    shapes = {
        "params": {"bn1": {"scale": leaf, "bias": leaf}},
        "batch_stats": {"bn1": {"mean": leaf, "var": leaf}},
    }
    contents = (
        ("plain.pth", plain, 0),
        ("nested.pt", {"state_dict": parallel, "epoch": 3}, 0),
        ("parallel.pth", parallel, 0),
        ("half.pth", half, 0.01),
    )
    for name, content, error in contents:
        torch.save(content, tmp_path / name)
        got = weights.read(tmp_path / name, shapes)
        scale = got["params"]["bn1"]["scale"]
        np.testing.assert_allclose(scale, layer.weight.detach(), rtol=error)
        np.testing.assert_array_equal(got["batch_stats"]["bn1"]["var"], np.ones(4))


def test_a_file_that_is_more_than_weights_is_refused_and_not_run(tmp_path):
    path, planted = tmp_path / "net.pth", tmp_path / "planted"
    torch.save({"state_dict": {"a": torch.zeros(2)}, "extra": Planted(planted)}, path)
    with pytest.raises(InputError, match="more than weights") as caught:
        weights.read_tensors(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not planted.exists()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="damaged"):
        weights.read_tensors(path)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="no state_dict"):
        weights.read_tensors(path)
