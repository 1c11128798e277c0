import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from detector_toys import OPTIONS, batch, toy

from jaxseg.methods import mask_rcnn
from jaxseg.models.mask_rcnn import mask_rcnn as networks
from jaxseg.train import init_state, make_train_step

KEY = jax.random.key(0)
PARTS = ("objectness_loss", "anchor_loss", "class_loss", "box_loss", "mask_loss")


@pytest.fixture(scope="module")
def trained():
    """A method with variables, and its loss and gradient, compiled for four images."""
    method = mask_rcnn.method(toy(embedding=0), **OPTIONS)
    params, state = method.init(KEY, batch(4))

    def of_first(params, data):
        value, out = method.loss(params, state, data, KEY)
        return jnp.sum(value), (value, out)

    loss = jax.jit(jax.value_and_grad(of_first, has_aux=True))
    return method, params, state, lambda data: loss(params, data)


def test_the_loss_is_its_parts_and_finite_for_any_number_of_objects(trained):
    *_, loss = trained
    (_, (value, out)), gradient = loss(batch(4, counts=[0, 1, 2, 3]))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((value, out, gradient)))
    np.testing.assert_allclose(value, sum(out.metrics[name] for name in PARTS), rtol=1e-6)
    assert set(out.metrics) == {*PARTS, "positive_rois"}
    assert np.all(out.metrics["objectness_loss"] > 0) and np.all(out.metrics["class_loss"] > 0)
    for name in ("anchor_loss", "box_loss", "mask_loss", "positive_rois"):
        assert out.metrics[name][0] == 0 and np.all(out.metrics[name][1:] > 0), name


def test_padding_does_not_count(trained):
    """Neither in the places of instances, nor in the image beyond its size."""
    *_, loss = trained
    data = batch(4, counts=[0, 1, 2, 2])
    # Images of 24 x 28 in a frame of 32 x 40.
    data["size"][:] = 24, 28
    data["masks"][:, :, 24:] = data["masks"][..., 28:] = False
    (_, (value, _)), gradient = loss(data)
    strange = {name: x.copy() for name, x in data.items()}
    rng = np.random.default_rng(1)
    beyond = np.ones((32, 40), bool)
    beyond[:24, :28] = False
    strange["image"][:, beyond] = rng.integers(0, 256, (4, beyond.sum(), 3))
    strange["masks"][:, :, beyond] = True
    strange["masks"][~data["valid"]] = rng.random((32, 40)) < 0.5
    strange["kinds"][~data["valid"]] = 1
    (_, (again, _)), other = loss(strange)
    np.testing.assert_allclose(value, again, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient, other
    )


def test_more_places_for_instances_change_nothing(trained):
    method, params, state, loss = trained
    data = batch(4, counts=[0, 1, 2, 3])
    (_, (value, _)), _ = loss(data)
    wide = {
        name: np.concatenate([x, np.zeros_like(x[:, :2])], 1) if name in SLOTS else x
        for name, x in data.items()
    }
    assert wide["masks"].shape[1] == 5
    again, _ = jax.jit(method.loss)(params, state, wide, KEY)
    np.testing.assert_allclose(value, again, rtol=1e-6)


SLOTS = ("masks", "valid", "kinds")


def test_draws_follow_the_index(trained):
    *_, loss = trained
    data = batch(4)
    (_, (value, _)), _ = loss(data)
    order = np.array([2, 0, 3, 1])
    (_, (permuted, _)), _ = loss({name: x[order] for name, x in data.items()})
    np.testing.assert_allclose(permuted, value[order], rtol=1e-5)


def test_prediction(trained):
    method, params, state, _ = trained
    data = batch(2)
    data["size"][1] = 20, 30
    predict = jax.jit(method.predict)
    found = predict(params, state, {name: data[name] for name in ("image", "size")})
    found = jax.tree.map(np.asarray, found)
    shapes = {"masks": (2, 5, 32, 40), "boxes": (2, 5, 4), "scores": (2, 5), "kinds": (2, 5)}
    assert {name: x.shape for name, x in found.items()} == shapes
    assert found["masks"].dtype == bool and found["kinds"].dtype == np.int32
    assert np.all(np.diff(found["scores"], axis=1) <= 0)
    there = found["kinds"] >= 0
    np.testing.assert_array_equal(there, found["scores"] > 0)
    assert there.any() and not found["masks"][~there].any()
    assert not found["masks"][1, :, 20:].any()
    assert not found["masks"][1, :, :, 30:].any()
    assert np.all(found["boxes"][1] <= np.array([20, 30, 20, 30]))


def test_refused():
    for options, words in (
        ({"rois": 0}, "rois=0"),
        ({"rois": 3}, "roi_fraction=0.25"),
        ({"nms_threshold": 1.5}, "nms_threshold=1.5"),
        ({"anchor_iou": (0.7, 0.3)}, "anchor_iou="),
        ({"mask_targets": "hard"}, "mask_targets='hard'"),
        ({"anchor_sizes": (0.0,)}, "anchor_sizes="),
        ({"beta": -1.0}, "beta=-1"),
    ):
        with pytest.raises(ValueError, match=words):
            mask_rcnn.method(toy(), **options)
    with pytest.raises(TypeError, match="other"):
        mask_rcnn.method(toy(), other=1)
    method = mask_rcnn.method(toy(), **{**OPTIONS, "anchor_ratios": (1.0,)})
    with pytest.raises(ValueError, match="anchors of the network"):
        jax.eval_shape(method.loss, *method.init(KEY, batch(2)), batch(2), KEY)


def test_it_learns_two_images():
    """The real networks, small: masks of what was shown are found again."""
    data = batch(2, 64, 64, counts=[2, 3])
    assert data["masks"].sum(1).max() == 1
    method = mask_rcnn.method(
        networks(2, depth=10, width=8, features=16, hidden=32, batch_norm="running"),
        **{**OPTIONS, "anchor_sizes": (12.0, 20.0, 32.0, 48.0, 64.0), "proposal_nms": 0.8},
    )
    optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, 200))
    state = jax.jit(lambda: init_state(KEY, method, data, optimizer))()
    step = jax.jit(make_train_step(method.loss, optimizer), donate_argnums=0)
    for _ in range(200):
        state, metrics = step(state, data)
    assert metrics["ok"]
    found = jax.jit(method.predict)(state.params, state.model_state, data)
    for i, number in enumerate((2, 3)):
        for j in range(number):
            truth = data["masks"][i, j]
            alike = np.asarray(found["kinds"][i]) == data["kinds"][i, j]
            masks = np.asarray(found["masks"][i])[alike & (np.asarray(found["scores"][i]) > 0.5)]
            both, either = (masks & truth).sum((1, 2)), (masks | truth).sum((1, 2))
            assert np.max(both / either, initial=0) > 0.8, (i, j)
