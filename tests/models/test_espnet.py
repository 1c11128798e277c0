import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models import weights
from jaxseg.models.espnet import espnetv2
from jaxseg.models.espnet_layers import dilations

GOLDENS = pathlib.Path(__file__).parent.parent / "goldens"
ORIGINALS = os.environ.get("JAXSEG_GOLDENS")


def shapes(net, *size):
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), image)


# The counts of EdgeNets' networks.
@pytest.mark.parametrize(
    ("classes", "scale", "count"),
    [
        (20, 0.5, 80_342),
        (20, 1.0, 234_010),
        (20, 1.25, 343_106),
        (20, 1.5, 468_362),
        (20, 2.0, 789_242),
        (19, 2.0, 787_968),
        (11, 2.0, 782_868),
        (21, 2.0, 789_253),
    ],
)
def test_parameter_counts(classes, scale, count):
    found = shapes(espnetv2(classes, scale=scale), 32, 32)["params"]
    assert sum(np.prod(x.shape) for x in jax.tree.leaves(found)) == count


def outputs(golden, file, scale):
    """What the released network gave, and what ours gives with its weights.

    Made by sacmehta/EdgeNets (MIT) with its released Cityscapes weights `file`, on noise.
    """
    net = espnetv2(20, scale=scale)
    found = weights.read(file, shapes(net, 32, 32), naming=weights.ESPNETV2)
    data = np.load(golden)
    logits, _ = jax.jit(net.apply)(found, jnp.asarray(data["x"])[None])
    return data["logits"], logits[0]


def test_released_weights_reproduce_the_original():
    name = GOLDENS / "espnetv2_s0.5_cityscapes.npz"
    expected, got = outputs(name, GOLDENS / "espnetv2_s_0.5_city_512x256.safetensors", 0.5)
    # Every eighth pixel of the original's output is kept.
    np.testing.assert_allclose(got[::8, ::8], expected, rtol=0, atol=1e-4)


@pytest.mark.skipif(ORIGINALS is None, reason="JAXSEG_GOLDENS names no folder with the outputs")
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_released_weights_reproduce_all_of_the_original(scale):
    folder = pathlib.Path(ORIGINALS)
    expected, got = outputs(
        folder / f"espnetv2_s{scale}_cityscapes.npz",
        folder / "weights" / f"espnetv2_s_{scale}_city_512x256.safetensors",
        scale,
    )
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("size", "dtype"), [((64, 48), None), ((37, 50), None), ((1, 1), None)])
def test_any_size_and_number_of_channels(size, dtype):
    net = espnetv2(3, scale=0.5, decoder_width=4)
    image = jax.ShapeDtypeStruct((2, *size, 5), jnp.float32)
    found = jax.eval_shape(net.init, jax.random.key(0), image)
    logits, _ = jax.eval_shape(net.apply, found, image)
    assert logits.shape == (2, *size, 3)


def test_bfloat16_keeps_float32_parameters():
    net = espnetv2(3, scale=0.5, dtype=jnp.bfloat16)
    found = shapes(net, 32, 32)
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    assert jax.eval_shape(net.apply, found, image)[0].dtype == jnp.bfloat16


def test_dilations_stay_in_the_receptive_field():
    assert [dilations(n) for n in (13, 9, 7, 5)] == [[1, 2, 3, 4]] * 2 + [
        [1, 1, 2, 3],
        [1, 1, 1, 2],
    ]


def test_bad_options():
    with pytest.raises(ValueError, match=r"scale=0.7: expected one of \(0.5, 1.0"):
        espnetv2(3, scale=0.7)
    with pytest.raises(ValueError, match="decoder_width=0"):
        espnetv2(3, decoder_width=0)
