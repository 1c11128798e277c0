import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.unet import Superpixels, unet, valid_input_size

PLAIN = {"batch_norm": False}


def variables(net, *shapes):
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.eval_shape(net.init, jax.random.key(0), *inputs)


# Counts of the paper's network and of the padded one with batch norm that PyTorch users know.
@pytest.mark.parametrize(
    ("channels", "classes", "options", "count"),
    [
        (1, 2, {"padding": "valid", **PLAIN}, 31_030_658),
        (3, 2, PLAIN, 31_031_810),
        (3, 11, PLAIN, 31_032_395),
        (3, 21, PLAIN, 31_033_045),
        (3, 2, {}, 31_037_698),
        (3, 11, {}, 31_038_283),
        (3, 2, {"upsampling": "bilinear"}, 17_263_042),
        (3, 11, {"upsampling": "bilinear"}, 17_263_627),
    ],
)
def test_parameter_counts(channels, classes, options, count):
    side = 572 if "padding" in options else 64
    found = variables(unet(classes, **options), (1, side, side, channels))["params"]
    assert sum(np.prod(x.shape) for x in jax.tree.leaves(found)) == count


def output_shape(net, *shape):
    found = variables(net, shape)
    out, _ = jax.eval_shape(net.apply, found, jax.ShapeDtypeStruct(shape, jnp.float32))
    return out.shape


def test_sizes():
    valid = unet(2, width=2, padding="valid")
    assert output_shape(valid, 1, 572, 188, 1) == (1, 388, 4, 2)
    for size in (140, 172, 570, 573):
        with pytest.raises(ValueError, match=f"side of {size} pixels"):
            output_shape(valid, 1, size, 572, 1)
    with pytest.raises(ValueError, match="side of 24 pixels: expected a multiple of 16"):
        output_shape(unet(2, width=2), 1, 32, 24, 3)
    mirror = unet(2, width=2, depth=2, padding="mirror")
    for size in ((1, 1), (1, 9), (37, 51)):
        assert output_shape(mirror, 2, *size, 3) == (2, *size, 2)
    bilinear = unet(2, width=2, upsampling="bilinear")
    assert output_shape(bilinear, 2, 32, 16, 3) == (2, 32, 16, 2)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_the_valid_size_is_the_smallest_that_works(depth):
    def output(side):
        """Through the network, level by level; None where a side is odd or gone."""
        for _ in range(depth):
            side = side - 4
            if side % 2:
                return None
            side //= 2
        side -= 4
        for _ in range(depth):
            if side < 1:
                return None
            side = 2 * side - 4
        return side if side > 0 else None

    works = {side: output(side) for side in range(1, 700)}
    for size in (1, 5, 100, 388):
        enough = [side for side, out in works.items() if out is not None and out >= size]
        assert valid_input_size(size, depth) == enough[0]


def test_the_forms_of_padding_are_one_function():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 24, 24, 2)), jnp.float32)
    options = {"width": 2, "depth": 1, "batch_norm": False}
    same, valid, mirror = (unet(3, padding=p, **options) for p in ("same", "valid", "mirror"))
    params = jax.jit(same.init)(jax.random.key(0), x)
    # 20 pixels give 4, 8 in from each side; cut so that the windows of the pooling agree.
    inner = jax.jit(valid.apply)(params, x[:, 2:22, 2:22])[0]
    whole = jax.jit(same.apply)(params, x)[0]
    np.testing.assert_allclose(inner, whole[:, 10:14, 10:14], atol=1e-5)
    small = x[:, :4, :3]
    continued = np.pad(small, ((0, 0), (8, 8), (8, 9), (0, 0)), mode="reflect")
    expected = jax.jit(valid.apply)(params, jnp.asarray(continued))[0][:, :, :3]
    np.testing.assert_allclose(jax.jit(mirror.apply)(params, small)[0], expected, atol=1e-5)


def test_gradients_reach_every_parameter():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 8, 3)), jnp.float32)
    net = unet(3, width=4, depth=1)
    found = jax.jit(net.init)(jax.random.key(0), x)

    def loss(params):
        y, stats = net.apply({**found, "params": params}, x, train=True)
        return jnp.sum(y**2), stats

    gradient, stats = jax.jit(jax.grad(loss, has_aux=True))(found["params"])
    assert all(np.any(np.asarray(g)) for g in jax.tree.leaves(gradient))
    moved = jax.tree.map(lambda a, b: np.any(np.asarray(a != b)), stats, found["batch_stats"])
    assert all(jax.tree.leaves(moved))


def test_batch_statistics_at_evaluation():
    x = jnp.asarray(np.random.default_rng(4).normal(size=(2, 8, 8, 3)), jnp.float32)
    options = {"width": 2, "depth": 1}
    net, plain = unet(3, batch_norm="batch", **options), unet(3, **options)
    found = jax.jit(net.init)(jax.random.key(0), x)

    @jax.jit
    def both(found):
        return net.apply(found, x), plain.apply(found, x, train=True), plain.apply(found, x)

    (logits, stats), (trained, moved), (running, _) = both(found)
    np.testing.assert_allclose(logits, trained, atol=1e-5)
    assert np.any(np.abs(logits - running) > 1e-2)
    jax.tree.map(np.testing.assert_array_equal, stats, found["batch_stats"])
    assert any(np.any(m != s) for m, s in zip(*map(jax.tree.leaves, (moved, stats)), strict=True))


def test_bfloat16_keeps_float32_parameters():
    net = unet(3, width=4, depth=1, dtype=jnp.bfloat16)
    shape = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    found = variables(net, shape.shape)
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    assert jax.eval_shape(net.apply, found, shape)[0].dtype == jnp.bfloat16


def test_superpixels_change_nothing_at_step_0():
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(1, 8, 8, 3)), jnp.float32)
    guide = jnp.asarray(rng.normal(size=(1, 8, 8, 5)), jnp.float32)
    options = {"width": 4, "depth": 1}
    plain = unet(3, **options)
    found = jax.jit(plain.init)(jax.random.key(0), x)
    layered = unet(3, superpixels=Superpixels(4, 2, num_learned=2), **options)
    more = jax.jit(layered.init)(jax.random.key(0), x, guide)
    apply = jax.jit(layered.apply)
    added = set(more["params"]) - set(found["params"])
    assert added == {"superpixels"}
    params = {**found["params"], "superpixels": more["params"]["superpixels"]}
    expected = jax.jit(plain.apply)(found, x)[0]
    np.testing.assert_allclose(apply({**found, "params": params}, x, guide)[0], expected, atol=1e-6)
    mix = params["superpixels"]["mix"]["kernel"]
    params["superpixels"] = {
        **params["superpixels"],
        "mix": {"kernel": mix + jnp.eye(*mix.shape[2:])[None, None]},
    }
    assert np.any(np.abs(apply({**found, "params": params}, x, guide)[0] - expected) > 1e-3)
    with pytest.raises(ValueError, match="a guide if and only if"):
        layered.apply({**found, "params": params}, x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width=0"),
        ({"depth": 0}, "depth=0"),
        ({"width": 3, "upsampling": "bilinear"}, "width=3"),
        ({"superpixels": Superpixels(9), "padding": "valid"}, "expected 'same'"),
        ({"superpixels": Superpixels(9, level=4)}, "level=4: expected 0 to 3"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        unet(2, **options)
