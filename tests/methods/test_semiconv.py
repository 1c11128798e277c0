import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detector_toys import FEATURES, MASK, OPTIONS, STRIDES, batch, toy

from jaxseg.methods import semiconv
from jaxseg.methods._detector_options import Options
from jaxseg.methods._mask_rcnn import Truth
from jaxseg.methods._mask_rcnn_parts import pool
from jaxseg.methods.semiconv import _image_loss, _located, _shrunk
from jaxseg.ops.affinity import add_coordinates

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
FAR = 1e6


def evaluation(stage):
    def loss(params, data):
        value, out = stage.loss(params, {}, data, KEY)
        return jnp.sum(value), (value, out)

    compiled = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def evaluate(params, data):
        (_, aux), gradient = compiled(params, data)
        return *aux, gradient

    return evaluate


@pytest.fixture(scope="module")
def runs():
    """Both stages over one tree; and the second one with a σ that is far too large to matter."""
    data = batch(2, counts=[1, 3])
    stages = semiconv.stages(toy(), **OPTIONS)
    trees = [jax.jit(stage.init)(KEY, data) for stage in stages]
    jax.tree.map(np.testing.assert_array_equal, *trees)
    params = trees[0][0]
    wide = {**params, "semiconv": {"sigma": jnp.float32(FAR)}}
    first, second = map(evaluation, stages)
    return first(params, data), second(params, data), second(wide, data)


def test_sigma_begins_where_it_is_told():
    for sigma in (0.01, 1.0, 50.0):
        stage = semiconv.stages(toy(), sigma=sigma, **OPTIONS).semiconv
        raw = stage.init(KEY, batch(2))[0]["semiconv"]["sigma"]
        np.testing.assert_allclose(jax.nn.softplus(raw) + 1e-3, sigma, rtol=1e-5)


def test_the_first_stage_leaves_the_embedding_alone(runs):
    (_, out, gradient), (_, second, other), _ = runs
    assert not np.any(gradient["embed"]) and gradient["semiconv"]["sigma"] == 0
    assert np.any(other["embed"]) and other["semiconv"]["sigma"] != 0
    assert set(second.metrics) - set(out.metrics) == {"embedding_loss", "kernel_loss", "sigma"}


def test_the_second_stage_adds_to_the_loss(runs):
    (first, out, _), (value, second, _), (_, flat, _) = runs
    for name in set(out.metrics) - {"mask_loss"}:
        np.testing.assert_allclose(out.metrics[name], second.metrics[name], rtol=1e-5)
    parts = ("embedding_loss", "kernel_loss")
    want = first - out.metrics["mask_loss"] + second.metrics["mask_loss"]
    want += sum(second.metrics[name] for name in parts)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    assert all(np.all(second.metrics[name] > 0) for name in parts)
    # A kernel of 1 everywhere lets masks be.
    np.testing.assert_allclose(flat.metrics["mask_loss"], out.metrics["mask_loss"], rtol=1e-3)
    assert np.all(second.metrics["mask_loss"] > 1.01 * out.metrics["mask_loss"])


def test_the_gradient_into_the_pyramid_is_scaled(monkeypatch):
    """That of each level that is embedded; `ops.gradient` has its own tests."""
    seen = []

    def record(x, factor):
        seen.append((x.shape[1:3], factor))
        return x

    monkeypatch.setattr(semiconv, "scale_gradient", record)
    stage, data = semiconv.stages(toy(), **OPTIONS).semiconv, batch(2)
    variables = jax.eval_shape(stage.init, KEY, data)
    jax.eval_shape(stage.loss, *variables, data, KEY)
    assert seen == [((8, 10), 0.1), ((4, 5), 0.1)]


def test_places_are_those_of_what_is_pooled():
    """Pooling a map of coordinates gives the same wherever the border is far."""
    stride, scale = 4, 7.0
    zeros = jnp.zeros((1, 20, 24, 3))
    coordinates = add_coordinates(zeros[0], scale=scale, stride=stride)[None]
    boxes = jnp.array([[[5.0, 8, 40, 60.5], [20.25, 10, 60, 30]]])
    pooling = jax.jit(lambda x: pool((x,), boxes, (stride,), MASK, Options(canonical_size=48.0)))
    pooled = [pooling(x) for x in (coordinates, zeros)]
    located = jax.vmap(lambda x, box: _located(x, box, scale))(pooled[1][0], boxes[0])
    np.testing.assert_allclose(located, pooled[0][0], atol=1e-5)


def test_the_loss_of_the_image():
    masks = np.zeros((1, 2, 32, 32), bool)
    masks[0, 0, 2:18, 4:20], masks[0, 1, 20:30, 8:31] = True, True
    masks[0, 0, 0:1, 0:30] = True
    maps = tuple(
        jnp.asarray(RNG.normal(size=(1, 32 // s, 32 // s, 3)).astype(np.float32)) for s in STRIDES
    )
    truth = Truth(None, None, jnp.asarray(masks), jnp.array([[True, True]]))
    want = []
    for stride, level in zip(STRIDES, maps, strict=True):
        size, parts = 32 // stride, []
        small = np.zeros((2, size, size), bool)
        for n, i, j in np.ndindex(2, size, size):
            part = masks[0, n, i * stride : (i + 1) * stride, j * stride : (j + 1) * stride]
            small[n, i, j] = part.mean() >= 0.5
        np.testing.assert_array_equal(_shrunk(jnp.asarray(masks), stride)[0], small)
        for mask in small:
            own = [
                np.asarray(level[0, i, j]) + np.array([*((np.array([i, j]) + 0.5) * stride), 0]) / 5
                for i, j in np.argwhere(mask & (small.sum(0) == 1))
            ]
            if own:
                parts.append(np.linalg.norm(own - np.mean(own, 0), axis=1).mean())
        want.append(np.mean(parts))
    got = jax.jit(lambda maps: _image_loss(maps, truth, STRIDES, 5.0))(maps)
    np.testing.assert_allclose(got, [np.mean(want)], rtol=1e-5)


def test_an_embedding_parts_what_a_box_holds_together():
    """Two halves of a box, embedded as two points: of the mask only the seed's half remains."""
    networks = toy()
    features = np.zeros((1, 8, 8, FEATURES), np.float32)

    def pyramid(variables, image, **options):
        return (jnp.asarray(features), *(jnp.zeros((1, n, n, FEATURES)) for n in (4, 2))), {}

    def embed(variables, maps, **options):
        """Brings each half of the 32 columns to its middle."""
        places = (jnp.arange(8) + 0.5) * 4
        middle = jnp.where(places < 16, 8.0, 24.0)
        rows = jnp.broadcast_to((16 - places)[:, None], (8, 8))
        cols = jnp.broadcast_to((middle - places)[None], (8, 8))
        fine = jnp.stack([rows, cols, jnp.zeros((8, 8))], -1)[None]
        return (fine, jnp.zeros((1, 4, 4, 3))), {}

    def propose(variables, maps, **options):
        """The whole image, from the last anchor."""
        number = 3 * (64 + 16 + 4)
        logits = jnp.full((1, number), -9.0).at[0, 1].set(9)
        target, anchor = jnp.array([16.0, 16, 32, 32]), jnp.array([0.0, 0, 10, 10])
        deltas = jnp.concatenate(
            [(target[:2] - anchor[:2]) / anchor[2:], jnp.log(target[2:] / anchor[2:])]
        )
        return (logits, jnp.broadcast_to(deltas, (1, number, 4))), {}

    def classify(variables, crops, **options):
        logits = jnp.broadcast_to(jnp.array([0.0, 9, 0]), (*crops.shape[:2], 3))
        return (logits, jnp.zeros((*crops.shape[:2], 2, 4))), {}

    def segment(variables, crops, **options):
        logits = jnp.full((MASK, MASK, 2), 2.0).at[2, 4].set(2.5)
        return jnp.broadcast_to(logits, (*crops.shape[:2], MASK, MASK, 2)), {}

    parts = {
        "pyramid": pyramid,
        "propose": propose,
        "classify": classify,
        "segment": segment,
        "embed": embed,
    }
    networks = networks._replace(
        **{name: getattr(networks, name)._replace(apply=f) for name, f in parts.items()}
    )
    options = {**OPTIONS, "canonical_size": 1000.0, "proposals": 1, "max_detections": 1}
    stages = semiconv.stages(networks, scale=1.0, sigma=2.0, **options)
    data = {"image": jnp.zeros((1, 32, 32, 3))}
    params, state = stages.semiconv.init(KEY, data)
    whole = np.asarray(jax.jit(stages.mask_rcnn.predict)(params, state, data)["masks"])[0, 0]
    half = np.asarray(jax.jit(stages.semiconv.predict)(params, state, data)["masks"])[0, 0]
    # A pasted mask fades out near its box.
    whole, half = whole[3:-3, 3:-3], half[3:-3, 3:-3]
    assert whole.all()
    np.testing.assert_array_equal(half, np.broadcast_to(np.arange(3, 29) >= 16, half.shape))


def test_refused():
    for options, words in (
        ({"scale": 0.0}, "scale=0"),
        ({"sigma": 0.0}, "sigma=0"),
        ({"kernel_weight": -1.0}, "kernel_weight=-1"),
        ({"rois": 0}, "rois=0"),
    ):
        with pytest.raises(ValueError, match=words):
            semiconv.stages(toy(), **options)
    with pytest.raises(ValueError, match="no embedding"):
        semiconv.stages(toy(embedding=0))
    stage = semiconv.stages(toy(embedding=1), **OPTIONS).semiconv
    with pytest.raises(ValueError, match="1 channels"):
        jax.eval_shape(stage.loss, *stage.init(KEY, batch(2)), batch(2), KEY)
