import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.mask_rcnn import MaskRCNN, mask_rcnn
from jaxseg.ops.boxes import pyramid_anchors

FEATURES, HIDDEN = 16, 32
SMALL = {"depth": 10, "width": 2, "features": FEATURES, "hidden": HIDDEN}
BATCH, ROIS = 2, 3


def struct(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def shapes(tree):
    return jax.tree.map(lambda leaf: leaf.shape, tree)


def entries(networks: MaskRCNN):
    return {name: getattr(networks, name) for name in MaskRCNN._fields[:5]}


def drawn(networks, x, seed=0):
    """Variables without a compiled initialisation; variances and scales are positive."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        spread = np.sqrt(2 / np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.1
        return jnp.asarray(rng.normal(0, spread, leaf.shape), jnp.float32)

    like = jax.eval_shape(networks.pyramid.init, jax.random.key(0), x)
    return jax.tree_util.tree_map_with_path(draw, like)


@pytest.fixture(scope="module")
def made():
    networks = mask_rcnn(5, **SMALL, embedding=3)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, 45, 70, 3)), jnp.float32)
    variables = drawn(networks, x)
    maps, _ = jax.jit(networks.pyramid.apply)(variables, x)
    return networks, variables, x, maps


@pytest.mark.parametrize(("mask_size", "dtype"), [(28, jnp.bfloat16), (56, None)])
def test_shapes_of_every_network(made, mask_size, dtype):
    networks = mask_rcnn(5, **SMALL, embedding=3, mask_size=mask_size, dtype=dtype)
    _, variables, x, maps = made
    size = x.shape[1:3]
    if dtype is not None:
        maps, _ = jax.eval_shape(networks.pyramid.apply, variables, x)
    assert {m.dtype for m in maps} == {jnp.dtype(dtype or "float32")}
    cells = [m.shape[1:3] for m in maps]
    assert networks.strides == (4, 8, 16, 32, 64)
    assert cells == [tuple(-(-n // s) for n in size) for s in networks.strides]
    anchors = pyramid_anchors(
        (32, 64, 128, 256, 512), feature_shapes=tuple(cells), strides=networks.strides
    )
    assert networks.crop_sizes == (7, mask_size // 2)
    crops = [
        struct(BATCH, ROIS, n, n, FEATURES, dtype=dtype or jnp.float32) for n in networks.crop_sizes
    ]
    found = {
        "propose": jax.eval_shape(networks.propose.apply, variables, maps)[0],
        "classify": jax.eval_shape(networks.classify.apply, variables, crops[0])[0],
        "segment": jax.eval_shape(networks.segment.apply, variables, crops[1])[0],
        "embed": jax.eval_shape(networks.embed.apply, variables, maps[:4])[0],
    }
    count = len(anchors.boxes)
    assert shapes(found) == {
        "propose": ((BATCH, count), (BATCH, count, 4)),
        "classify": ((BATCH, ROIS, 6), (BATCH, ROIS, 5, 4)),
        "segment": (BATCH, ROIS, mask_size, mask_size, 5),
        "embed": tuple((BATCH, *n, 3) for n in cells[:4]),
    }
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}


def test_parameters_are_as_many_as_torchvisions():
    """torchvision counts 44,401,393 for 91 outputs, that of the background among them.

    It has no parameters in batch normalisation (53,120 of ResNet-50 are buffers), and for the
    background corrections of boxes (4 · 1025) and a mask (257), which are left out here.
    """
    networks = mask_rcnn(90)
    variables = jax.eval_shape(networks.pyramid.init, jax.random.key(0), struct(1, 64, 64, 3))
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert count == 44_401_393 + 53_120 - 4 * 1025 - 257
    assert set(variables["params"]) == {"pyramid", "propose", "classify", "segment"}
    assert networks.embed is None


def test_all_networks_are_over_one_tree(made):
    networks, variables, x, _ = made
    for network in (networks.classify, networks.embed):
        other = jax.eval_shape(network.init, jax.random.key(0), x)
        assert shapes(other) == shapes(variables)
    assert set(variables["params"]) == set(entries(networks))
    without = mask_rcnn(5, **SMALL)
    other = jax.eval_shape(without.pyramid.init, jax.random.key(0), x)
    assert set(other["params"]) == set(variables["params"]) - {"embed"}


def inputs(networks, maps):
    rng = np.random.default_rng(1)
    crops = [
        jnp.asarray(rng.normal(size=(BATCH, ROIS, n, n, FEATURES)), jnp.float32)
        for n in networks.crop_sizes
    ]
    return {"propose": maps, "classify": crops[0], "segment": crops[1], "embed": maps[:4]}


def test_each_network_reads_its_own_part(made):
    networks, variables, x, maps = made
    given = {"pyramid": x, **inputs(networks, maps)}
    for name, network in entries(networks).items():
        own = {**variables, "params": {name: variables["params"][name]}}
        found, _ = jax.eval_shape(network.apply, own, given[name])
        whole, _ = jax.eval_shape(network.apply, variables, given[name])
        assert shapes(found) == shapes(whole)


def test_what_is_frozen_has_no_gradient_and_keeps_its_statistics(made):
    networks, variables, x, _ = made

    def loss(params):
        maps, stats = networks.pyramid.apply({**variables, "params": params}, x, train=True)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in maps), stats

    gradient, stats = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        own = jax.tree_util.keystr(path, simple=True, separator="/")
        trained = own.startswith("pyramid/") and not networks.frozen(own)
        assert np.all(np.isfinite(leaf)) and np.any(np.asarray(leaf)) == trained, own
    assert networks.frozen("network/pyramid/encoder/layer1/0/conv1/kernel")
    assert networks.frozen("pyramid/encoder/layer4/0/bn1/bias")
    for path in ("pyramid/encoder/layer2/0/conv1/kernel", "pyramid/lateral2/bias", "embed/conv1"):
        assert not networks.frozen(path)


def test_the_statistics_come_back_whole_from_every_network(made):
    _, variables, x, maps = made
    learning = mask_rcnn(5, **SMALL, embedding=3, batch_norm="running")
    given = {"pyramid": x, **inputs(learning, maps)}
    for name, network in entries(learning).items():
        _, stats = jax.eval_shape(
            lambda v, y, n=network: n.apply(v, y, train=True), variables, given[name]
        )
        assert shapes(stats) == shapes(variables["batch_stats"])
    _, stats = learning.classify.apply(variables, given["classify"], train=True)
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])
    stats = jax.jit(lambda v: learning.pyramid.apply(v, x, train=True)[1])(variables)
    moved = jax.tree.map(lambda a, b: np.any(a != b), stats, variables["batch_stats"])
    assert all(jax.tree.leaves(moved))


def test_proposals_stand_in_the_order_of_the_anchors(made):
    """Level, row, column, ratio: each cell's scores and corrections computed alone."""
    networks, variables, _, maps = made
    logits, deltas = networks.propose.apply(variables, maps)[0]
    params = jax.tree.map(np.asarray, variables["params"]["propose"])
    near = {"rtol": 1e-4, "atol": 1e-5 * np.abs(deltas).max()}
    place = 0
    for x in map(np.asarray, maps):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                window = padded[:, i : i + 3, j : j + 3].reshape(BATCH, -1)
                y = window @ params["conv"]["kernel"].reshape(-1, FEATURES)
                y = np.maximum(y + params["conv"]["bias"], 0)
                want = y @ params["score"]["kernel"][0, 0] + params["score"]["bias"]
                np.testing.assert_allclose(logits[:, place : place + 3], want, **near)
                want = y @ params["deltas"]["kernel"][0, 0] + params["deltas"]["bias"]
                want = want.reshape(BATCH, 3, 4)
                np.testing.assert_allclose(deltas[:, place : place + 3], want, **near)
                place += 3
    assert place == logits.shape[1]


def test_initial_values_are_those_of_the_configurations(made):
    networks, _, x, _ = made

    @jax.jit
    def start(key):
        params = networks.pyramid.init(key, x)["params"]
        del params["pyramid"]["encoder"]
        return params

    params = start(jax.random.key(0))
    wanted = {
        ("propose", "conv"): 0.01,
        ("propose", "score"): 0.01,
        ("propose", "deltas"): 0.01,
        ("classify", "fc6"): (49 * FEATURES) ** -0.5,
        ("classify", "fc7"): HIDDEN**-0.5,
        ("classify", "score"): 0.01,
        ("classify", "deltas"): 0.001,
        ("segment", "conv1"): (2 / (9 * FEATURES)) ** 0.5,
        ("segment", "rise"): (2 / (4 * FEATURES)) ** 0.5,
        ("segment", "score"): 0.001,
        ("embed", "conv2"): 0.001,
        ("pyramid", "output2"): (9 * FEATURES) ** -0.5,
    }
    for (part, layer), deviation in wanted.items():
        leaf = params[part][layer]
        assert np.std(leaf["kernel"]) == pytest.approx(deviation, rel=0.3), (part, layer)
        assert not np.any(np.asarray(leaf["bias"]))


def test_bfloat16_is_near_float32(made):
    wide, variables, x, maps = made
    narrow = mask_rcnn(5, **SMALL, embedding=3, dtype=jnp.bfloat16)
    given = {"pyramid": x, **inputs(wide, maps)}

    def outputs(networks, names):
        parts = {name: entries(networks)[name] for name in names}
        run = jax.jit(lambda v: {name: n.apply(v, given[name])[0] for name, n in parts.items()})
        return run(variables)

    exact = {"pyramid": maps, **outputs(wide, given.keys() - {"pyramid"})}
    got = outputs(narrow, given)
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(got), strict=True):
        error = np.abs(np.asarray(a) - np.asarray(b, np.float32))
        assert 0 < error.max() < 0.05 * np.abs(a).max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_size": 14}, "mask_size=14: expected one of"),
        ({"embedding": -1}, "embedding=-1: expected 0 or more"),
        ({"hidden": 0}, "hidden=0: expected more than 0"),
        ({"anchors_per_cell": 0}, "anchors_per_cell=0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        mask_rcnn(5, **options)


def test_crops_of_another_size_are_refused(made):
    networks, variables, _, _ = made
    for network, size, wanted in ((networks.classify, 14, 7), (networks.segment, 7, 14)):
        with pytest.raises(ValueError, match=f"crops of {size}×{size}: expected {wanted}×{wanted}"):
            jax.eval_shape(network.apply, variables, struct(BATCH, ROIS, size, size, FEATURES))
