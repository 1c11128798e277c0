import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.convolution import ConvTranspose, DepthwiseConv, GroupedConv

# Made by torch 2.13 on a CPU: NCHW, kernels [in, out, k, k].
GOLDENS = np.load(pathlib.Path(__file__).parent.parent / "goldens" / "torch_ops.npz")
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 6, 24)), jnp.float32)


def agree(ours, theirs, x=X):
    """Parameters, values and gradients are the same."""
    key = jax.random.key(1)
    shapes = [jax.eval_shape(module.init, key, x) for module in (ours, theirs)]
    assert shapes[0] == shapes[1]
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), shapes[0])

    @jax.jit
    def both(params, x):
        def value(module, params, x):
            y = module.apply(params, x)
            return jnp.mean(jnp.sin(y)), y

        gradient = jax.value_and_grad(value, argnums=(1, 2), has_aux=True)
        return [gradient(module, params, x) for module in (ours, theirs)]

    found, expected = both(params, x)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected
    )


@pytest.mark.parametrize(
    ("features", "size", "options"),
    [
        (24, (3, 3), {}),
        (24, (3, 3), {"strides": 2, "padding": 1, "use_bias": False}),
        (48, (3, 5), {"kernel_dilation": 2}),
        (24, (2, 3), {"padding": "VALID", "strides": (2, 1)}),
        (24, (3, 3), {"padding": ((0, 2), (3, 1)), "strides": (3, 2), "kernel_dilation": (1, 2)}),
    ],
)
def test_depthwise_is_linens(features, size, options):
    ours = DepthwiseConv(features, size, **options)
    agree(ours, nn.Conv(features, size, feature_group_count=24, **options))


@pytest.mark.parametrize(
    ("features", "size", "groups", "options"),
    [
        (12, (3, 3), 4, {}),  # A sum over six channels of a group.
        (8, (3, 3), 8, {"strides": 2, "padding": 1}),
        (8, (1, 1), 2, {"use_bias": False}),  # A product for each group.
        (8, (1, 1), 2, {"strides": 2}),
        (4, (3, 3), 2, {"kernel_dilation": 2, "padding": 2}),  # A convolution for each group.
        (24, (1, 1), 12, {}),  # One product, 0 between groups.
        (5, (3, 3), 1, {}),
    ],
)
def test_grouped_is_linens(features, size, groups, options):
    ours = GroupedConv(features, size, groups, **options)
    agree(ours, nn.Conv(features, size, feature_group_count=groups, **options))


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((2, 2), {"strides": 2}),
        ((3, 3), {"strides": 2, "padding": "VALID"}),
        ((4, 3), {"strides": (2, 3)}),
        ((2, 3), {"strides": (3, 1)}),
        ((2, 2), {"strides": 4, "padding": "VALID", "use_bias": False}),
        ((3, 3), {"strides": 2, "padding": ((1, 2), (3, 0))}),
    ],
)
def test_transposed_is_linens(size, options):
    flags = {**options, "strides": np.broadcast_to(options["strides"], 2).tolist()}
    agree(ConvTranspose(5, size, **options), nn.ConvTranspose(5, size, **flags), X[..., :3])


@pytest.mark.parametrize(("size", "padding", "more"), [(2, 0, 0), (3, 1, 1), (4, 1, 0), (3, 0, 0)])
def test_transposed_equals_torch(size, padding, more):
    x = jnp.asarray(GOLDENS["x"].transpose(0, 2, 3, 1))
    kernel = GOLDENS[f"conv_transpose_kernel_{size}{padding}"].transpose(2, 3, 0, 1)[::-1, ::-1]
    pads = ((size - 1 - padding, size - 1 - padding + more),) * 2
    module = ConvTranspose(5, (size, size), strides=2, padding=pads, use_bias=False)
    got = module.apply({"params": {"kernel": jnp.asarray(kernel)}}, x)
    expected = GOLDENS[f"conv_transpose_{size}{padding}"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


MODULES = [DepthwiseConv(24, (3, 3)), GroupedConv(8, (1, 1), 2), GroupedConv(12, (3, 3), 4)]
MODULES += [ConvTranspose(6, (3, 3), 2)]


@pytest.mark.parametrize("module", MODULES)
def test_native_off_the_cpu(module):
    params = jax.eval_shape(module.init, jax.random.key(0), X)
    step = jax.jit(jax.grad(lambda p, x: jnp.sum(module.apply(p, x) ** 2)))
    texts = {
        platform: jax.export.export(step, platforms=[platform])(params, X).mlir_module()
        for platform in ("cpu", "cuda", "tpu")
    }

    def native(text):
        transposed = isinstance(module, ConvTranspose) and "lhs_dilate = [2, 2]" in text
        return transposed or f"feature_group_count = {getattr(module, 'groups', 24)} " in text

    assert {k: native(v) for k, v in texts.items()} == {"cpu": False, "cuda": True, "tpu": True}


@pytest.mark.parametrize("module", MODULES)
def test_bfloat16(module):
    params = jax.jit(module.init)(jax.random.key(0), X)
    half = module.clone(dtype=jnp.bfloat16)
    got = jax.jit(half.apply)(params, X)
    assert got.dtype == jnp.bfloat16
    exact = jax.jit(module.apply)(params, X)
    np.testing.assert_allclose(got.astype(jnp.float32), exact, atol=0.1)


def test_depthwise_under_vmap():
    module = DepthwiseConv(None, (3, 3))
    params = module.init(jax.random.key(0), X)
    step = jax.grad(lambda p, x: jnp.sum(module.apply(p, x) ** 2))
    mapped = jax.vmap(step, (None, 0))(params, X[:, None])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a.sum(0), b, rtol=1e-4, atol=1e-4),
        mapped,
        step(params, X),
    )


def test_bad_options():
    with pytest.raises(ValueError, match="padding='CIRCULAR': expected 'SAME', 'VALID'"):
        GroupedConv(12, (3, 3), padding="CIRCULAR").init(jax.random.key(0), X)
    for features, groups in ((12, 5), (10, 4)):
        with pytest.raises(ValueError, match=f"{features} channels in {groups} groups"):
            GroupedConv(features, (3, 3), groups).init(jax.random.key(0), X)
