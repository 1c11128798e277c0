import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg.methods import _adaptive_sampling, adaptive
from jaxseg.models.layers import BatchNorm
from jaxseg.models.network import network
from jaxseg.models.sampler import double_unet
from jaxseg.models.unet import unet
from jaxseg.ops import warp
from jaxseg.ops.boundary import boundary_map
from jaxseg.train import init_state, make_train_step
from jaxseg.train.cost import cost
from jaxseg.train.sharding import data_mesh, replicated, spread
from jaxseg.types import Network

CLASSES = 3
SIZE, GRID, INPUT = (6, 8), (4, 5), (8, 12)


class _Scores(nn.Module):
    """What compiles fast and has statistics of its batch."""

    @nn.compact
    def __call__(self, x, *, train=False, mask=None, axis_name=None):
        y = BatchNorm()(nn.Dense(6)(x), train=train, mask=mask, axis_name=axis_name)
        return nn.Dense(CLASSES)(nn.relu(y))


class _Shifts(nn.Module):
    """A sampler that moves nodes from the beginning."""

    @nn.compact
    def __call__(self, x, *, train=False, mask=None, axis_name=None):
        y = nn.Dense(4)(x[:, ::2, ::2][:, : GRID[0], : GRID[1]])
        y = BatchNorm()(y, train=train, mask=mask, axis_name=axis_name)
        return 0.08 * jnp.tanh(nn.Dense(2)(y))


def batch(size=4, height=20, width=28, seed=0):
    """Rectangles of classes with a colour each, and noise."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, (size, -(-height // 8), -(-width // 8)))
    label = label.repeat(8, 1).repeat(8, 2)[:, :height, :width].astype(np.int32)
    colors = np.array([[200, 40, 40], [40, 200, 40], [60, 60, 220]])
    image = np.clip(colors[label] + rng.normal(0, 30, (*label.shape, 3)), 0, 255)
    label[rng.random(label.shape) < 0.02] = -1
    return {
        "image": image.astype(np.uint8),
        "label": label,
        "index": np.arange(size, dtype=np.int32),
        "weight": np.ones(size, np.float32),
        "size": np.tile(np.array([[height, width]], np.int32), (size, 1)),
    }


def stages(sampler=None, scores=None, **options):
    if options.get("mode") == "fixed":
        options.setdefault("coords", bent((5, 5)))
    return adaptive.stages(
        sampler or network(_Shifts()),
        scores or network(_Scores()),
        **{
            "num_classes": CLASSES,
            "size": SIZE,
            "grid": GRID,
            "input_size": INPUT,
            **options,
        },
    )


def bent(grid):
    """A fixed grid without folds, denser in the middle."""
    even = warp.uniform_sampling(grid)
    return (even + 0.06 * np.sin(2 * np.pi * even)).astype(np.float32)


def test_eight_devices_are_one():
    """Of the stage that does what the others do: the step itself, uneven weights and padding."""
    data = batch(8)
    data["weight"] = np.array([1, 0.5, 1.5, 0, 2, 1, 0.25, 1], np.float32)
    method, optimizer = stages(fold_free=False).joint, optax.sgd(0.1)
    state = init_state(jax.random.key(0), method, data, optimizer)
    step = jax.jit(make_train_step(method.loss, optimizer))
    one, measured = step(state, data)
    mesh = data_mesh(jax.local_devices())
    assert mesh.size == 8
    eight, again = step(jax.device_put(state, replicated(mesh)), jax.device_put(data, spread(mesh)))
    for got, want, before in zip(
        *map(jax.tree.leaves, ((eight.params, eight.model_state), (one.params, one.model_state))),
        jax.tree.leaves((state.params, state.model_state)),
        strict=True,
    ):
        np.testing.assert_allclose(got - before, want - before, rtol=1e-3, atol=1e-6)
    for name, value in measured.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-4, err_msg=name)
    # What has no weight, no label or no boundary leaves everything finite.
    empty = {**data, "label": np.full_like(data["label"], -1)}
    assert step(state, empty)[1]["ok"]
    empty["weight"] = np.zeros_like(data["weight"])
    after, measured = step(state, empty)
    assert measured["ok"] and measured["grad_norm"] == 0
    same = jax.tree.map(np.array_equal, after.model_state, state.model_state)
    assert all(jax.tree.leaves(same))


def given(shift=None):
    """A sampler that gives its only parameter."""
    zero = jnp.zeros((*GRID, 2)) if shift is None else jnp.asarray(shift)

    def apply(variables, x, *, train=False, mask=None, axis_name=None):
        shift = variables["params"]["shift"]
        return jnp.broadcast_to(shift[None], (len(x), *shift.shape)), {}

    return Network(lambda key, *x: {"params": {"shift": zero}, "batch_stats": {}}, apply)


def echo(factor=8.0):
    """The image that it sees, as logits."""

    def apply(variables, x, *, train=False, mask=None, axis_name=None):
        return x * variables["params"]["factor"], {}

    first = jnp.full((), factor)
    return Network(lambda key, *x: {"params": {"factor": first}, "batch_stats": {}}, apply)


def echoing(**options):
    """Whatever is read comes back; nothing is normalised."""
    return stages(given(), echo(), mean=0.0, std=1.0, **options)


@functools.cache
def compiled(stage="segmentation", what="predict", **options):
    return jax.jit(getattr(getattr(echoing(**options), stage), what))


def params(shift=None):
    shift = np.zeros((*GRID, 2), np.float32) if shift is None else shift
    return {"sampler": {"shift": jnp.asarray(shift)}, "network": {"factor": jnp.full((), 8.0)}}


STATE: dict[str, dict] = {"sampler": {}, "network": {}}


def predicted(data, shift=None, **options):
    found = compiled(**options)(params(shift), STATE, data)
    return {name: np.asarray(x) for name, x in found.items()}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def reference(image, coords):
    """Probabilities at every pixel by SciPy's interpolation, for separable coordinates."""
    interpolate = pytest.importorskip("scipy.interpolate").RegularGridInterpolator
    height, width = image.shape[:2]
    pixels = coords.astype(np.float64) * [height - 1, width - 1]
    whole = interpolate((np.arange(height), np.arange(width)), image / 255.0)
    logits = 8 * whole(np.clip(pixels, 0, [height - 1, width - 1]))
    back = interpolate((pixels[:, 0, 0], pixels[0, :, 1]), logits, "linear", False, None)
    rows, columns = np.indices((height, width))
    return softmax(back(np.stack([rows, columns], -1)))


def test_nothing_is_moved_at_first_and_pixels_come_back():
    data = batch(2)
    got = predicted(data)
    even = warp.uniform_sampling(SIZE)
    np.testing.assert_allclose(got["coords"], np.stack([even] * 2), atol=1e-6)
    for i in range(2):
        want = reference(data["image"][i], even)
        np.testing.assert_allclose(got["confidence"][i], want.max(-1), atol=1e-4)
        assert np.mean(got["classes"][i] == want.argmax(-1)) > 0.99
    assert got["classes"].dtype == np.int32
    # The paper's even sampling reads the nearest pixel.
    nearest = predicted(data, mode="uniform")
    rows, columns = (np.round(even[..., a] * (n - 1)).astype(int) for a, n in ((0, 20), (1, 28)))
    want = softmax(data["image"][:, rows, columns] * (8 / 255))
    there = nearest["confidence"][:, [0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_allclose(there, want.max(-1)[:, [0, 0, -1, -1], [0, -1, 0, -1]], atol=1e-5)


def test_what_the_sampler_says_is_where_it_is_read():
    """Its shift is the same as fixed coordinates, the grid brought to the network's size."""
    data = batch(2)
    shift = bent(GRID) - warp.uniform_sampling(GRID)
    learned = predicted(data, shift)
    fixed_method = echoing(mode="fixed", coords=bent(GRID), fold_free=False).segmentation
    fixed = jax.jit(fixed_method.predict)(params(), STATE, data)
    coords = np.asarray(warp.resize_sampling(jnp.asarray(bent(GRID)), SIZE))
    np.testing.assert_allclose(learned["coords"][0], coords, atol=1e-6)
    for i in range(2):
        want = reference(data["image"][i], coords)
        np.testing.assert_allclose(learned["confidence"][i], want.max(-1), atol=1e-3)
        np.testing.assert_allclose(fixed["confidence"][i], want.max(-1), atol=1e-3)


def test_folds_are_mended_and_counted():
    data = batch(2)
    rng = np.random.default_rng(0)
    wild = rng.normal(0, 0.2, (*GRID, 2)).astype(np.float32)
    coords = predicted(data, wild)["coords"][0]
    assert warp.fold_fraction(jnp.asarray(coords)) == 0
    assert np.abs(coords - warp.uniform_sampling(SIZE)).max() > 0.01
    assert (coords[0, :, 0] == 0).all() and (coords[-1, :, 0] == 1).all()
    assert (coords[:, 0, 1] == 0).all() and (coords[:, -1, 1] == 1).all()
    even = jnp.asarray(warp.uniform_sampling(GRID))
    there = warp.project_covering(warp.resize_sampling(even + wild, SIZE))
    _, out = compiled("sampler", "loss")(params(wild), STATE, data, jax.random.key(0))
    assert out.metrics["folded"][0] == warp.fold_fraction(there) > 0


def targets(inside, smoothness):
    """The sampling targets of a map of one class, all labelled, by search and a dense solve."""
    height, width = inside.shape
    padded = np.pad(inside, 1, mode="edge")
    around = [padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1]]
    edge = np.argwhere(inside & ~np.all(around, axis=0))
    edge = edge[np.lexsort((edge[:, 0], edge[:, 1]))]
    coords = np.zeros((*GRID, 2))
    sides = np.array([height - 1, width - 1])
    for i, j in np.ndindex(*GRID):
        node = np.array([i * sides[0] // (GRID[0] - 1), j * sides[1] // (GRID[1] - 1)])
        coords[i, j] = edge[np.argmin(((edge - node) ** 2).sum(-1))] / sides
    number = np.arange(np.prod(GRID)).reshape(GRID)
    pairs = [*zip(number[1:].flat, number[:-1].flat, strict=True)]
    pairs += zip(number[:, 1:].flat, number[:, :-1].flat, strict=True)
    for axis in (0, 1):
        system, right = np.eye(number.size), coords[..., axis].ravel().copy()
        for a, b in pairs:
            for x, y in ((a, b), (b, a)):
                system[x, x] += smoothness
                system[x, y] -= smoothness
        for side, value in ((0, 0.0), (-1, 1.0)):
            for node in np.take(number, side, axis):
                system[node], right[node] = np.eye(number.size)[node], value
        coords[..., axis] = np.linalg.solve(system, right).reshape(GRID)
    return coords


def test_the_samplers_loss():
    """Its value in NumPy; images without a boundary of a target class do not count."""
    data = batch(6)
    data["label"] = np.maximum(data["label"], 0)
    data["label"][1] = -1
    data["label"][2] = 0
    data["label"][3] = np.where(data["label"][3] == 1, 0, data["label"][3])
    data["label"][4] = 0
    data["label"][4, 7, 9] = 1  # One pixel is enough.
    shift = np.random.default_rng(0).normal(0, 0.02, (*GRID, 2)).astype(np.float32)
    loss = compiled("sampler", "loss", target_classes=(1,), smoothness=0.5)
    value, out = loss(params(shift), STATE, data, jax.random.key(0))
    np.testing.assert_array_equal(out.weight, [1, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(np.asarray(value)[1:4], 0)
    wanted = {i: targets(data["label"][i] == 1, 0.5) for i in (0, 4, 5)}
    for i, each in wanted.items():
        off = warp.uniform_sampling(GRID) + shift - each
        np.testing.assert_allclose(value[i], (off**2).sum(-1).mean(), rtol=1e-4)
        cells = ((off * [GRID[0] - 1, GRID[1] - 1]) ** 2).sum(-1).mean() ** 0.5
        np.testing.assert_allclose(out.metrics["node_error"][i], cells, rtol=1e-4)
    labels = data["label"]
    mean = adaptive.mean_sampling(labels, GRID, smoothness=0.5, target_classes=(1,))
    np.testing.assert_allclose(mean, np.mean(list(wanted.values()), axis=0), atol=1e-5)
    with pytest.raises(ValueError, match="no labels with a boundary"):
        adaptive.mean_sampling(labels[1:3], GRID, smoothness=0.5, target_classes=(1,))


def test_the_edge_of_the_padding_is_no_boundary():
    """Marks are those of the part that is no padding, by itself."""
    data = batch(4)
    data["size"] = np.array([[20, 28], [13, 28], [20, 9], [11, 17]], np.int32)
    for label, (height, width) in zip(data["label"], data["size"], strict=True):
        label[height:], label[:, width:] = -1, -1
    # Ignored pixels that are no padding still count, beside a label.
    mark = jax.jit(jax.vmap(functools.partial(_adaptive_sampling._boundary, target_classes=(1,))))
    marked = mark(data["label"], data["size"])
    for got, label, (height, width) in zip(marked, data["label"], data["size"], strict=True):
        alone = boundary_map(jnp.asarray(label[:height, :width]), target_classes=(1,))
        want = np.pad(alone, ((0, 20 - height), (0, 28 - width)))
        assert want.any()
        np.testing.assert_array_equal(got, want)
    # One class and padding: nothing to aim at. Without a size its edge would be one.
    data = batch(6)
    data["label"] = np.full_like(data["label"], -1)
    data["label"][:, :11, :17] = 1
    data["label"][1, :3] = 0
    data["size"][:] = 11, 17
    loss = compiled("sampler", "loss", target_classes=(1,), smoothness=0.5)
    _, out = loss(params(), STATE, data, jax.random.key(0))
    np.testing.assert_array_equal(out.weight, [0, 1, 0, 0, 0, 0])
    found = jax.jit(lambda x: adaptive_targets(x).found)(data["label"])
    np.testing.assert_array_equal(found, np.ones(6))


def adaptive_targets(labels):
    return _adaptive_sampling.targets(labels, GRID, smoothness=0.5, target_classes=(1,))


def test_the_area_filter_and_the_small_view():
    """Against the antialiased resize; a view of a large image goes by blocks first."""
    rows, columns = np.indices((37, 50))
    ramp = np.stack([5 * rows, 4 * columns, rows + columns], -1).astype(np.uint8)[None]
    for image, size in ((ramp, (6, 8)), (ramp[:, :5, :4], (6, 8))):
        floats = image / np.float32(255)
        shrink = jax.jit(lambda x, size=size: _adaptive_sampling.shrunk(x, size))
        got = shrink(image)
        want = jax.image.resize(floats, (1, *size, 3), "linear")
        np.testing.assert_allclose(got, want, atol=0.02 if len(image[0]) > 6 else 1e-6)
        np.testing.assert_allclose(shrink(floats), got, atol=1e-5)
    data = batch(2)
    got = predicted(data, mode="area")
    small = jax.image.resize(data["image"] / np.float32(255), (2, *SIZE, 3), "linear")
    want = jax.nn.softmax(jax.image.resize(8 * small, data["image"].shape, "linear"))
    np.testing.assert_allclose(got["confidence"], want.max(-1), atol=1e-4)
    centres = [(np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(SIZE, (20, 28), strict=True)]
    np.testing.assert_allclose(got["coords"][0, :, 0, 0] * 19, centres[0], atol=1e-4)
    np.testing.assert_allclose(got["coords"][0, 0, :, 1] * 27, centres[1], atol=1e-4)


def test_the_oracle_brings_back_more_of_small_objects():
    """Labels as colours, sampled and brought back, where objects are few and near each other."""
    size = (97, 129)
    rows, columns = np.indices(size)
    label = np.zeros((2, *size), np.int32)
    for i, (y, x) in enumerate(((30, 40), (60, 85))):
        label[i, (rows - y) ** 2 + (columns - x) ** 2 < 36] = 1
        label[i, (rows - y - 12) ** 2 + (columns - x - 8) ** 2 < 25] = 2
    data = {"image": np.eye(CLASSES, dtype=np.float32)[label], "label": label}
    found = {}
    for mode in ("oracle", "uniform"):
        options = {"grid": (12, 12), "size": (16, 16), "confidence": False, "smoothness": 1.0}
        method = adaptive.stages(
            given(),
            echo(),
            num_classes=CLASSES,
            input_size=INPUT,
            mode=mode,
            order=0,
            mean=0.0,
            std=1.0,
            fold_free=False,
            **options,
        )
        got = np.asarray(jax.jit(method.joint.predict)(params(), STATE, data)["classes"])
        hits = [
            ((got == c) & (label == c)).sum() / ((got == c) | (label == c)).sum() for c in (1, 2)
        ]
        found[mode] = np.mean(hits)
    assert found["oracle"] > found["uniform"] + 0.1, found


def test_all_ways_to_predict_agree():
    data = batch(2)
    whole = predicted(data, mode="uniform", probabilities=True)
    np.testing.assert_allclose(whole["probabilities"].sum(-1), 1, rtol=1e-5)
    bands = predicted(data, mode="uniform", chunk=1)
    alone = predicted(data, mode="uniform", confidence=False)
    assert set(alone) == {"classes", "coords"}
    np.testing.assert_array_equal(bands["classes"], whole["classes"])
    np.testing.assert_array_equal(alone["classes"], whole["classes"])
    np.testing.assert_allclose(bands["confidence"], whole["probabilities"].max(-1), rtol=1e-5)
    padded = predicted(data, mode="uniform", stride=5)
    np.testing.assert_array_equal(padded["classes"], whole["classes"])


def test_gradients_go_where_they_should():
    """Through what is read to the sampler, in the joint stage alone; what rests has its state."""
    data = jax.tree.map(jnp.asarray, batch(2))
    methods = stages(fold_free=False, sampling_weight=0.0)
    values, state = jax.jit(methods.joint.init)(jax.random.key(0), data)

    @jax.jit
    def gradients(values):
        found = []
        for method in methods:

            def loss(values, method=method):
                value, out = method.loss(values, state, data, jax.random.key(0))
                return jnp.sum(value), out.model_state

            found.append(jax.grad(loss, has_aux=True)(values))
        return found

    def moved(before, after):
        return not all(jax.tree.leaves(jax.tree.map(np.array_equal, before, after)))

    for name, (gradient, after) in zip(methods._fields, gradients(values), strict=True):
        nothing = jax.tree.map(jnp.zeros_like, gradient)
        learns = {part: moved(nothing[part], gradient[part]) for part in gradient}
        trained = {"sampler": name != "segmentation", "network": name != "sampler"}
        assert learns == trained, name
        assert {part: moved(state[part], after[part]) for part in state} == trained, name


def test_the_sampler_learns():
    rng = np.random.default_rng(0)
    label = np.zeros((2, 32, 32), np.int32)
    label[0, 4:14, 6:14] = 1
    label[1, 18:27, 17:28] = 1
    image = np.clip(60 + 120 * label[..., None] + rng.normal(0, 10, (2, 32, 32, 3)), 0, 255)
    data = {
        "image": image.astype(np.uint8),
        "label": label,
        "index": np.arange(2, dtype=np.int32),
        "weight": np.ones(2, np.float32),
        "size": np.full((2, 2), 32, np.int32),
    }
    sampler = double_unet((4, 4), features=8, width=4, input_size=8, second_depth=1)
    method = stages(sampler, echo(), grid=(4, 4), input_size=(8, 8)).sampler
    optimizer = optax.adam(1e-2)
    state = init_state(jax.random.key(0), method, data, optimizer)
    step = jax.jit(make_train_step(method.loss, optimizer), donate_argnums=0)
    found = []
    for _ in range(60):
        state, metrics = step(state, data)
        found.append(float(metrics["loss"]))
    assert found[-1] < found[0] / 3, (found[0], found[-1])


def test_what_it_costs():
    """The sampler and the network, and in the other modes the network alone."""
    scores = unet(CLASSES, width=2, depth=1)
    sampler = double_unet(GRID, features=8, input_size=INPUT)
    image = {"image": jax.ShapeDtypeStruct((1, 40, 60, 3), jnp.uint8)}
    macs = {}
    for mode in ("learned", "uniform", "area"):
        method = stages(sampler, scores, mode=mode).segmentation
        variables = jax.eval_shape(method.init, jax.random.key(0), image)
        macs[mode] = cost(method.predict, *variables, image).macs

    def alone(net, size):
        x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
        variables = jax.eval_shape(net.init, jax.random.key(0), x)
        return cost(lambda v, x: net.apply(v, x)[0], variables, x).macs

    assert macs["uniform"] == macs["area"] == alone(scores, SIZE)
    assert macs["learned"] - macs["uniform"] == alone(sampler, INPUT)


def test_refused():
    for options, words in (
        ({"size": (1, 8)}, "size="),
        ({"grid": (4, 1)}, "grid="),
        ({"input_size": (0, 4)}, "input_size="),
        ({"mode": "learned", "coords": bent(GRID)}, "coords if and only if"),
        ({"mode": "fixed", "coords": np.zeros((4, 4), np.float32)}, "coords of shape"),
        ({"smoothness": -1.0}, "smoothness=-1"),
        ({"target_classes": ()}, "target_classes="),
        ({"order": 0, "antialias": True}, "antialias=True"),
        ({"stride": 0}, "stride=0"),
        ({"sampling_weight": -1.0}, "sampling_weight=-1"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"class_weights": (1.0,)}, "class_weights"),
    ):
        with pytest.raises(ValueError, match=words):
            stages(**options)
    data = jax.tree.map(jnp.asarray, batch(2))

    def shape_of(method, what="predict", data=data):
        given = (params(), STATE, data) + ((jax.random.key(0),) if what == "loss" else ())
        return jax.eval_shape(getattr(method, what), *given)

    only = {"image": data["image"]}
    with pytest.raises(ValueError, match="expected labels"):
        shape_of(echoing(mode="oracle").joint, data=only)
    with pytest.raises(ValueError, match="joint stage wants"):
        shape_of(echoing(order=0).joint, "loss")
    with pytest.raises(ValueError, match="joint stage wants"):
        shape_of(echoing(mode="uniform").joint, "loss")
    with pytest.raises(ValueError, match="expected 5 channels"):
        shape_of(echoing(num_classes=5, mode="uniform").segmentation, data=only)
    with pytest.raises(ValueError, match="the sampler gives"):
        shape_of(echoing(grid=(5, 5)).segmentation, data=only)
    with pytest.raises(ValueError, match="at least 2x2"):
        shape_of(echoing().segmentation, data={"image": data["image"][:, :1]})
