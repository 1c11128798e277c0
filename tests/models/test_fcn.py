import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.fcn import fcn, fcn_alexnet, local_response_norm
from jaxseg.models.upsampling import fixed_bilinear

SMALL = {"width": 2, "hidden": 3}


def variables(net, *shape):
    return jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def draw(net, *shape):
    """Random kernels, those of the scores too, which begin at 0."""
    rng = np.random.default_rng(0)

    def one(p):
        fan_in = np.prod(p.shape[:-1])
        p = rng.normal(0, np.sqrt(2 / fan_in), p.shape) if p.ndim == 4 else np.zeros(p.shape)
        return jnp.asarray(p, jnp.float32)

    return jax.tree.map(one, variables(net, *shape))


@pytest.mark.parametrize(
    ("classes", "counts"),
    [
        (21, (134_346_581, 134_357_354, 134_362_751)),
        (11, (134_305_611, 134_311_254, 134_314_081)),
    ],
)
def test_parameter_counts(classes, counts):
    for stride, wanted in zip((32, 16, 8), counts, strict=True):
        found = variables(fcn(classes, stride=stride), 1, 32, 32, 3)["params"]
        assert sum(np.prod(x.shape) for x in jax.tree.leaves(found)) == wanted


def test_parameter_count_on_alexnet():
    """The paper's 57 million: Caffe's AlexNet, whose fc6 sees 6×6 nodes, and 21 scores."""
    kernels = ((11 * 11 * 3, 96), (25 * 48, 256), (9 * 256, 384), (9 * 192, 384), (9 * 192, 256))
    kernels += ((36 * 256, 4096), (4096, 4096), (4096, 21))
    found = variables(fcn_alexnet(21), 1, 32, 32, 3)["params"]
    total = sum(np.prod(x.shape) for x in jax.tree.leaves(found))
    assert total == sum((n + 1) * k for n, k in kernels) == 56_954_261


NETWORKS = {
    **{f"{s}s": lambda s=s, **options: fcn(2, stride=s, **options) for s in (32, 16, 8)},
    "same": lambda **options: fcn(2, stride=8, padding="same", **options),
    "alexnet": lambda **options: fcn_alexnet(2, **options),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_any_size(name):
    net = NETWORKS[name](dtype=jnp.bfloat16, **SMALL)
    found = variables(net, 1, 32, 32, 4)
    assert {p.dtype for p in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    for size in ((1, 1), (33, 70), (64, 47)):
        x = jax.ShapeDtypeStruct((2, *size, 4), jnp.float32)
        logits, _ = jax.eval_shape(net.apply, found, x)
        assert (logits.shape, logits.dtype) == ((2, *size, 2), jnp.bfloat16)


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_lie_over_the_pixels_that_they_saw(name):
    """With symmetric kernels, a mirrored image has mirrored scores; a shift of crops breaks it.

    At these sizes the windows of all layers lie symmetrically over the image and its padding.
    """
    size = {"alexnet": (27, 59), "same": (32, 64)}.get(name, (26, 58))
    net = NETWORKS[name](**SMALL)
    found = draw(net, 1, *size, 2)

    def symmetric(p):
        return (p + p[::-1] + p[:, ::-1] + p[::-1, ::-1]) / 2 if p.ndim == 4 else p

    found = jax.tree.map(symmetric, found)
    x = np.zeros((1, *size, 2), np.float32)
    x[:, : size[0] // 2, : size[1] // 2] = np.random.default_rng(1).normal(size=2)
    apply = jax.jit(lambda x: net.apply(found, x)[0])
    logits, back = (np.asarray(apply(jnp.asarray(x))) for x in (x, x[:, ::-1, ::-1]))
    # The scores are no mirror images of themselves, but for a part that is far above rounding; a
    # pixel's shift would change this part by a hundredth at least.
    uneven = np.abs(logits - logits[:, ::-1, ::-1]).max()
    assert uneven > 1e-2 * np.abs(logits).max()
    np.testing.assert_allclose(back[:, ::-1, ::-1], logits, rtol=0, atol=1e-3 * uneven)


def test_training_and_dropout():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 8, 8, 3)), jnp.float32)
    net = fcn(2, at_once=True, padding="same", width=2, hidden=16)
    found = draw(net, *x.shape)
    zeros = jax.jit(net.init)(jax.random.key(0), x)
    assert not np.any(np.asarray(zeros["params"]["score_pool3"]["kernel"]))

    @jax.jit
    def step(x, keys):
        def loss(params):
            y, _ = net.apply({**found, "params": params}, x, keys, train=True)
            return jnp.sum(y**2), y

        return jax.grad(loss, has_aux=True)(found["params"])

    keys = jax.random.split(jax.random.key(1), 2)
    gradient, whole = step(x, keys)
    assert all(np.any(np.asarray(g)) for g in jax.tree.leaves(gradient))
    # Each example's draws are its own: they do not depend on the batch that it comes in.
    largest = float(jnp.max(jnp.abs(whole)))
    for i in range(2):
        twice = jnp.array([i, i])
        _, again = step(x[twice], keys[twice])
        np.testing.assert_allclose(again[0], whole[i], rtol=0, atol=1e-4 * largest)
    _, others = step(x, keys[::-1])
    assert np.any(np.abs(np.asarray(others - whole)) > 1e-2 * largest)


def test_training_all_at_once_scales_the_skips():
    x = jnp.asarray(np.random.default_rng(3).normal(size=(1, 8, 8, 3)), jnp.float32)
    nets = [fcn(2, at_once=at_once, **SMALL) for at_once in (False, True)]
    found = draw(nets[0], *x.shape)
    scaled = dict(found["params"])
    for name, factor in (("score_pool4", 1e-2), ("score_pool3", 1e-4)):
        scaled[name] = {**scaled[name], "kernel": factor * scaled[name]["kernel"]}
    expected = jax.jit(nets[0].apply)({**found, "params": scaled}, x)[0]
    np.testing.assert_allclose(jax.jit(nets[1].apply)(found, x)[0], expected, rtol=1e-4)


@pytest.mark.parametrize(("kernel_size", "stride"), [(4, 2), (16, 8), (63, 32), (3, 2)])
def test_fixed_bilinear_equals_a_loop(kernel_size, stride):
    x = np.random.default_rng(4).normal(size=(1, 2, 3, 2)).astype(np.float32)
    # The filter as the released code has it.
    factor = (kernel_size + 1) // 2
    center = factor - 1 if kernel_size % 2 else factor - 0.5
    line = 1 - np.abs(np.arange(kernel_size) - center) / factor
    shape = [stride * (n - 1) + kernel_size for n in (2, 3)]
    expected = np.zeros((1, *shape, 2))
    for i, j in np.ndindex(2, 3):
        rows, cols = (slice(stride * n, stride * n + kernel_size) for n in (i, j))
        expected[:, rows, cols] += np.outer(line, line)[..., None] * x[:, i, j]
    got = fixed_bilinear(jnp.asarray(x), kernel_size, stride)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    with pytest.raises(ValueError, match=f"kernel_size={2 * stride + 1}: expected {stride}"):
        fixed_bilinear(jnp.asarray(x), 2 * stride + 1, stride)


def test_local_response_norm_equals_a_loop():
    x = np.random.default_rng(5).normal(size=(1, 2, 2, 7)).astype(np.float32) * 100
    expected = np.zeros_like(x)
    for c in range(7):
        near = x[..., max(c - 2, 0) : c + 3]
        expected[..., c] = x[..., c] / (1 + 1e-4 / 5 * (near**2).sum(-1)) ** 0.75
    np.testing.assert_allclose(local_response_norm(jnp.asarray(x)), expected, rtol=1e-5)


@pytest.mark.parametrize("options", [{"width": 0}, {"hidden": 0}])
def test_bad_options(options):
    for make in (fcn, fcn_alexnet):
        with pytest.raises(ValueError, match="=0: expected more than 0"):
            make(2, **options)
        with pytest.raises(ValueError, match="num_classes=0"):
            make(0)
    with pytest.raises(ValueError, match="width=3: two groups"):
        fcn_alexnet(2, width=3)
