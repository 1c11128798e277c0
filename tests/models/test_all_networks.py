"""What holds for every network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import models
from jaxseg.models.pspnet import WithAuxiliary

SMALL = {"width": 2, "hidden": 3}
# Constructors that take classes, with few channels, and whether a second input turns on dropout.
SEMANTIC = {
    "unet": (lambda n, **o: models.unet.unet(n, width=2, depth=2, **o), False),
    "fcn": (lambda n, **o: models.fcn.fcn(n, **SMALL, **o), True),
    "fcn_alexnet": (lambda n, **o: models.fcn.fcn_alexnet(n, **SMALL, **o), True),
    "resunet": (lambda n, **o: models.resunet.resunet(n, width=2, depths=(1, 1, 1), **o), True),
    "fc_densenet": (
        lambda n, **o: models.densenet.fc_densenet(n, growth=2, layers=(1, 2, 1), width=3, **o),
        True,
    ),
    "dilated": (lambda n, **o: models.dilated.dilated(n, **SMALL, **o), True),
    "pspnet": (lambda n, **o: models.pspnet.pspnet(n, width=1, **o), True),
    "deeplab_resnet": (
        lambda n, **o: models.deeplab.deeplab_resnet(n, width=2, features=4, **o),
        True,
    ),
    "deeplab_xception": (
        lambda n, **o: models.deeplab.deeplab_xception(n, width=0.02, features=4, **o),
        True,
    ),
    "deeplab_mobilenetv2": (
        lambda n, **o: models.deeplab.deeplab_mobilenetv2(n, width=0.1, features=4, **o),
        True,
    ),
    "hrnet": (
        lambda n, **o: models.hrnet.hrnet(
            n, width=2, stem=2, modules=(1, 1, 1), blocks=1, full_size=True, **o
        ),
        False,
    ),
    "espnetv2": (lambda n, **o: models.espnet.espnetv2(n, scale=0.5, **o), False),
}


@pytest.mark.parametrize("name", SEMANTIC)
def test_any_channels_and_classes_in_bfloat16(name):
    make, dropout = SEMANTIC[name]
    for channels, classes in ((1, 1), (5, 4)):
        net = make(classes, dtype=jnp.bfloat16)
        x = jax.ShapeDtypeStruct((2, 64, 64, channels), jnp.float32)
        found = jax.eval_shape(net.init, jax.random.key(0), x)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
        keys = [jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))] * dropout
        outputs, stats = jax.eval_shape(
            lambda v, *x, net=net: net.apply(v, *x, train=True), found, x, *keys
        )
        assert jax.tree.map(lambda s: s.dtype, stats) == jax.tree.map(
            lambda s: s.dtype, found["batch_stats"]
        )
        for logits in outputs if isinstance(outputs, WithAuxiliary) else [outputs]:
            assert (logits.shape, logits.dtype) == ((2, 64, 64, classes), jnp.bfloat16)


def test_bfloat16_is_near_float32():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    wide, narrow = (
        models.resunet.resunet(3, width=4, depths=(1, 1, 1), pooled=1, dtype=dtype)
        for dtype in (None, jnp.bfloat16)
    )
    found = jax.jit(wide.init)(jax.random.key(0), x)
    exact, got = jax.jit(lambda v: [n.apply(v, x, train=True)[0] for n in (wide, narrow)])(found)
    error = np.abs(np.asarray(got, np.float32) - np.asarray(exact))
    assert 0 < error.max() < 0.2 * np.abs(exact).max()
