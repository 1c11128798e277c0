import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.deeplab import deeplab_mobilenetv2, deeplab_resnet, deeplab_xception
from jaxseg.models.dsrl import Dual, dsrl, enlarged
from jaxseg.models.espnet import espnetv2
from jaxseg.models.hrnet import hrnet
from jaxseg.models.pspnet import pspnet
from jaxseg.models.resize import resize_bilinear
from jaxseg.models.trunk import Trunk
from jaxseg.models.unet import unet

TRUNKS = {
    "unet": (lambda **o: unet(5, width=4, depth=2, **o), 4, 3),
    "espnetv2": (lambda **o: espnetv2(5, scale=0.5, **o), 32, 4),
    "pspnet": (lambda **o: pspnet(5, width=1, **o), 8, 5),
    "hrnet": (
        lambda **o: hrnet(5, width=2, stem=2, modules=(1, 1, 1), blocks=1, full_size=True, **o),
        2,
        4,
    ),
    "deeplab_resnet": (lambda **o: deeplab_resnet(5, width=2, features=6, **o), 6, 5),
    "deeplab_xception": (lambda **o: deeplab_xception(5, width=0.02, features=6, **o), 6, 5),
    "deeplab_mobilenetv2": (lambda **o: deeplab_mobilenetv2(5, width=0.1, features=6, **o), 6, 5),
}
STRIDES = {"unet": 1, "espnetv2": 2, "pspnet": 8}


def shapes(tree):
    return jax.tree.map(lambda leaf: leaf.shape, tree)


@pytest.mark.parametrize("name", TRUNKS)
def test_every_family_is_a_trunk(name):
    make, channels, maps = TRUNKS[name]
    net, plain = make(trunk=True), make()
    image = jax.ShapeDtypeStruct((2, 32, 64, 3), jnp.float32)
    found = jax.eval_shape(net.init, jax.random.key(0), image)
    for train in (False, True):
        got, _ = jax.eval_shape(lambda v, x, t=train: net.apply(v, x, train=t), found, image)
        assert isinstance(got, Trunk)
        stride = STRIDES.get(name, 4)
        assert got.features.shape == (2, 32 // stride, 64 // stride, channels)
        assert len(got.encoded) == maps
        assert [m.shape[1] for m in got.encoded] == sorted(m.shape[1] for m in got.encoded)[::-1]
    # The rest is the plain network's, but for its prediction.
    whole = shapes(jax.eval_shape(plain.init, jax.random.key(0), image))
    names = dict(jax.tree_util.tree_leaves_with_path(shapes(found), is_leaf=_is_shape))
    plain_names = dict(jax.tree_util.tree_leaves_with_path(whole, is_leaf=_is_shape))
    assert names.items() <= plain_names.items()
    missing = {jax.tree_util.keystr(path) for path in plain_names.keys() - names.keys()}
    prediction = ("score", "head", "auxiliary", "final_layer", "pyramid4")
    assert all(any(word in n for word in prediction) for n in missing)
    assert missing
    # With its scores it has the prediction, too.
    scored = make(trunk="scored")
    found = jax.eval_shape(scored.init, jax.random.key(0), image)
    names = dict(jax.tree_util.tree_leaves_with_path(shapes(found), is_leaf=_is_shape))
    missing = {jax.tree_util.keystr(path) for path in plain_names.keys() - names.keys()}
    assert names.items() <= plain_names.items() and all("auxiliary" in n for n in missing)
    got, _ = jax.eval_shape(lambda v, x: scored.apply(v, x, train=True), found, image)
    assert got.scores.shape == (2, 32, 64, 5)


@pytest.mark.parametrize("make", [unet, espnetv2, pspnet, hrnet])
def test_no_other_trunk(make):
    """Without the tests' own check of types."""
    with pytest.raises(ValueError, match="trunk='scores': expected one of"):
        inspect.unwrap(make)(5, trunk="scores")


def _is_shape(x):
    return isinstance(x, tuple)


@pytest.mark.parametrize("name", ["unet", "hrnet", "deeplab_mobilenetv2"])
def test_the_features_are_those_that_the_prediction_reads(name):
    make = TRUNKS[name][0]
    scored = make(trunk="scored")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 32, 32, 3)), jnp.float32)
    plain, trunk = make(), make(trunk=True)
    variables = jax.jit(plain.init)(jax.random.key(0), x)
    logits = jax.jit(lambda v, x: plain.apply(v, x)[0])(variables, x)
    features = jax.jit(lambda v, x: trunk.apply(v, x)[0].features)(variables, x)
    params = variables["params"]
    places = {"unet": ("head",), "hrnet": ("final_layer",)}
    head = params
    for key in places.get(name, ("decoder", "score")):
        head = head[key]
    scores = np.asarray(features) @ np.asarray(head["kernel"])[0, 0] + np.asarray(head["bias"])
    want = resize_bilinear(jnp.asarray(scores), (32, 32), align_corners="deeplab" in name)
    np.testing.assert_allclose(want, logits, atol=1e-4)
    both = jax.jit(lambda v, x: scored.apply(v, x)[0])(variables, x)
    np.testing.assert_allclose(both.scores, logits, atol=1e-5)
    np.testing.assert_allclose(both.features, features, atol=1e-5)


SIZE = (2, 12, 20, 3)


def image():
    return jnp.asarray(np.random.default_rng(0).normal(size=SIZE), jnp.float32)


@pytest.fixture(scope="module")
def made():
    stages = dsrl(unet(5, width=4, depth=2, trunk=True), 7, width=6)
    return stages, jax.jit(stages.sssr.init)(jax.random.key(0), image())


def test_each_stage_adds_a_branch_over_one_tree(made):
    stages, variables = made
    for network in stages:
        other = jax.eval_shape(network.init, jax.random.key(0), image())
        assert shapes(other) == shapes(variables)
    outputs = {}
    for name, network in stages._asdict().items():
        apply = jax.jit(lambda v, x, n=network: n.apply(v, x, train=True))
        found, state = apply(variables, image())
        assert isinstance(found, Dual)
        assert jax.tree.structure(state) == jax.tree.structure(variables["batch_stats"])
        assert found.outputs.shape == (2, 24, 40, 7)
        outputs[name] = found
        changed = jax.tree.map(
            lambda a, b: bool(np.any(np.asarray(a) != b)), state, variables["batch_stats"]
        )
        heads = changed["heads"]
        assert all(jax.tree.leaves(changed["trunk"])) and all(jax.tree.leaves(heads["tail"]))
        assert any(jax.tree.leaves(heads["reconstruction"])) == (name != "sssr")
        assert any(jax.tree.leaves(heads["transform_bn"])) == (name == "affinity")
        np.testing.assert_allclose(found.outputs, outputs["sssr"].outputs, atol=1e-5)
    assert outputs["sssr"].image is None and outputs["sisr"].features is None
    assert outputs["sisr"].image.shape == (2, 24, 40, 3)
    ours, theirs = outputs["affinity"].features
    assert ours.shape == theirs.shape == (2, 3, 5, 6)


@pytest.mark.parametrize("name", ["unet", "espnetv2"])
def test_on_a_trunk_with_scores_it_begins_as_the_plain_network(name):
    make = TRUNKS[name][0]
    plain, net = enlarged(make()), dsrl(make(trunk="scored"), 5, width=6).affinity
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 32, 48, 3)), jnp.float32)
    variables = jax.jit(net.init)(jax.random.key(0), x)
    below = jax.jit(plain.init)(jax.random.key(0), x)
    for part, tree in below.items():
        jax.tree.map(np.testing.assert_array_equal, variables[part]["trunk"], tree)
    for train in (False, True):
        want, want_stats = jax.jit(lambda v, x, t=train: plain.apply(v, x, train=t))(below, x)
        got, stats = jax.jit(lambda v, x, t=train: net.apply(v, x, train=t))(variables, x)
        both = (got.outputs, want.outputs) if train else (got, want)
        np.testing.assert_allclose(*both, atol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), stats["trunk"], want_stats
        )
    # Then what the tail says is added.
    score = variables["params"]["heads"]["score"]
    score["kernel"] = jnp.full_like(score["kernel"], 0.1)
    more, _ = jax.jit(net.apply)(variables, x)
    assert float(jnp.max(jnp.abs(more - both[1]))) > 0.1
    bias = {"kernel": jnp.zeros_like(score["kernel"]), "bias": jnp.arange(5.0)}
    variables["params"]["heads"]["score"] = bias
    more, _ = jax.jit(net.apply)(variables, x)
    want, _ = jax.jit(plain.apply)(below, x)
    np.testing.assert_allclose(more - want, np.broadcast_to(np.arange(5.0), want.shape), atol=1e-5)


def test_prediction_reads_the_main_branch_alone(made):
    stages, variables = made
    want, _ = stages.affinity.apply(variables, image())
    assert want.shape == (2, 24, 40, 7)
    for network in stages:
        np.testing.assert_array_equal(network.apply(variables, image())[0], want)
    heads = variables["params"]["heads"]
    broken = {
        name: jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), part)
        if name.startswith(("reconstruction", "transform"))
        else part
        for name, part in heads.items()
    }
    params = {"trunk": variables["params"]["trunk"], "heads": broken}
    got, _ = stages.affinity.apply({**variables, "params": params}, image())
    np.testing.assert_array_equal(got, want)


def test_the_affinity_reaches_the_trunk_by_both_branches(made):
    stages, variables = made

    def loss(params, which):
        found, _ = stages.affinity.apply({**variables, "params": params}, image(), train=True)
        return jnp.sum(found.features[which] ** 2)

    for which, silent in ((0, "reconstruction"), (1, "transform")):
        grads = jax.jit(jax.grad(loss), static_argnums=1)(variables["params"], which)
        assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads["trunk"])) > 0
        assert not any(jnp.any(g) for g in jax.tree.leaves(grads["heads"][silent]))
        assert not any(jnp.any(g) for g in jax.tree.leaves(grads["heads"]["score"]))


@pytest.mark.parametrize(
    ("size", "options"),
    [((13, 21), {}), ((16, 16), {"subsample": "nearest", "affinity_stride": 4})],
)
def test_sizes_and_options(size, options):
    trunk = deeplab_mobilenetv2(5, width=0.1, features=6, trunk=True)
    net = dsrl(trunk, 3, width=4, batch_norm="batch", dtype=jnp.bfloat16, **options).affinity
    x = jax.ShapeDtypeStruct((2, *size, 1), jnp.float32)
    found = jax.eval_shape(net.init, jax.random.key(0), x)
    assert found["params"]["heads"]["tail"]["rise3"]["kernel"].shape[-1] == 16
    got, _ = jax.eval_shape(lambda v, x: net.apply(v, x, train=True), found, x)
    height, width = (2 * n for n in size)
    assert got.outputs.shape == (2, height, width, 3) and got.outputs.dtype == jnp.bfloat16
    assert got.image.shape == (2, height, width, 1)
    step = options.get("affinity_stride", 8)
    assert (
        got.features[0].shape
        == got.features[1].shape
        == (2, -(-height // step), -(-width // step), 4)
    )


def test_widths_of_the_tail():
    trunk = espnetv2(5, scale=0.5, trunk=True)
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    kernels = jax.eval_shape(dsrl(trunk, 5, tail_widths=(9, 8)).sssr.init, jax.random.key(0), x)
    tail = kernels["params"]["heads"]["tail"]
    assert [tail[f"rise{i}"]["kernel"].shape[-2:] for i in (1, 2)] == [(32, 9), (9, 8)]
    for make, widths in (
        (espnetv2(5, scale=0.5, trunk=True), (16, 16)),
        (deeplab_mobilenetv2(5, width=0.1, features=96, trunk=True), (48, 32, 16)),
        (pspnet(5, width=8, trunk=True), (32, 32, 32, 16)),
        (unet(5, width=4, depth=2, trunk=True), (16,)),
    ):
        kernels = jax.eval_shape(dsrl(make, 5).sssr.init, jax.random.key(0), x)
        tail = kernels["params"]["heads"]["tail"]
        found = [tail[f"rise{i}"]["kernel"].shape[-1] for i in range(1, len(widths) + 1)]
        assert tuple(found) == widths and len(tail) == 2 * len(widths)
    with pytest.raises(ValueError, match=r"tail_widths=\(9,\): expected 2"):
        jax.eval_shape(dsrl(trunk, 5, tail_widths=(9,)).sssr.init, jax.random.key(0), x)


def test_enlarged_is_bilinear():
    torch = pytest.importorskip("torch")
    plain = unet(5, width=2, depth=2)
    variables = jax.jit(plain.init)(jax.random.key(0), image())
    small, _ = plain.apply(variables, image())
    want = torch.nn.functional.interpolate(
        torch.from_numpy(np.array(small)).permute(0, 3, 1, 2), scale_factor=2, mode="bilinear"
    )
    net = enlarged(plain)
    np.testing.assert_allclose(
        net.apply(variables, image())[0], want.permute(0, 2, 3, 1).numpy(), atol=1e-5
    )
    found, _ = net.apply(variables, image(), train=True)
    assert (
        isinstance(found, Dual)
        and found.image is None
        and found.outputs.shape == want.permute(0, 2, 3, 1).shape
    )


def test_refused():
    trunk = unet(5, width=2, depth=2, trunk=True)
    for options, words in (
        ({"width": 0}, "width=0"),
        ({"affinity_stride": 0}, "affinity_stride=0"),
        ({"tail_widths": (4, 0)}, r"tail_widths\[1\]=0"),
    ):
        with pytest.raises(ValueError, match=words):
            dsrl(trunk, 5, **options)
    with pytest.raises(ValueError, match="trunk=True"):
        jax.eval_shape(dsrl(unet(5, width=2, depth=2), 5).sssr.init, jax.random.key(0), image())
    for other, words in (
        (unet(4, width=2, depth=2, trunk="scored"), r"\(2, 12, 20, 4\): expected \(2, 12, 20, 5\)"),
        (hrnet(5, width=2, stem=2, modules=(1, 1, 1), blocks=1, trunk="scored"), "expected"),
    ):
        net = dsrl(other, 5).sssr
        found = jax.eval_shape(net.init, jax.random.key(0), image())
        with pytest.raises(ValueError, match=f"the trunk's scores are .*{words}"):
            jax.eval_shape(net.apply, found, image())
    with pytest.raises(ValueError, match="of a trunk"):
        unet(5, padding="valid", trunk=True)
