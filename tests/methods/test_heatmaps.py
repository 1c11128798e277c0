import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.methods import heatmaps
from jaxseg.ops.heatmap import gaussian_heatmaps

RNG = np.random.default_rng(0)
SHAPE, KINDS = (9, 11), 3
OUTPUT = RNG.normal(size=(4, *SHAPE, KINDS)).astype(np.float32)
BATCH = {
    "points": RNG.uniform(0, 9, (4, 5, 2)).astype(np.float32),
    "kinds": np.array([[0, 1, 1, 2, -1], [0, 0, -1, -1, -1], [-1] * 5, [2, 1, 0, 0, 0]], np.int32),
    "size": np.array([[9, 11], [7, 10], [9, 11], [0, 0]], np.int32),
}


def expected(output, points, kinds, size, sigma, foreground, ignore_absent):
    """The loss of one example, pixel by pixel in float64."""
    error = total = 0.0
    for k in range(KINDS):
        own = points[kinds == k].astype(float)
        if ignore_absent and not len(own):
            continue
        for y, x in np.ndindex(*size):
            squares = ((own - [y, x]) ** 2).sum(axis=1)
            target = np.exp(-squares.min() / (2 * sigma**2)) if len(own) else 0.0
            weight = 1 + foreground * target
            error += weight * (float(output[y, x, k]) - target) ** 2
            total += weight
    return error / total if total else 0.0


@pytest.mark.parametrize("ignore_absent", [False, True])
@pytest.mark.parametrize("foreground", [0.0, 20.0])
def test_the_loss_is_that_of_a_loop(foreground, ignore_absent):
    task = heatmaps.task(KINDS, sigma=1.2, foreground=foreground, ignore_absent=ignore_absent)
    assert task.channels == KINDS
    values, metrics = jax.jit(task.loss)(OUTPUT, BATCH)
    wanted = [
        expected(*example, 1.2, foreground, ignore_absent)
        for example in zip(OUTPUT, BATCH["points"], BATCH["kinds"], BATCH["size"], strict=True)
    ]
    np.testing.assert_allclose(values, wanted, rtol=1e-5)
    assert wanted[3] == 0 and (wanted[2] == 0) == ignore_absent
    for i, told in enumerate(metrics["at_points"]):
        seen = [
            OUTPUT[i, y, x, k]
            for (y, x), k in zip(
                np.round(BATCH["points"][i]).astype(int), BATCH["kinds"][i], strict=True
            )
            if k >= 0 and y < BATCH["size"][i, 0] and x < BATCH["size"][i, 1]
        ]
        np.testing.assert_allclose(told, np.mean(seen) if seen else 0, rtol=1e-5, atol=1e-7)


def test_padding_and_absent_kinds_change_nothing():
    """Whatever the output holds there, for values and gradients."""
    task = heatmaps.task(KINDS, sigma=1.2, foreground=5.0, ignore_absent=True)
    broken = OUTPUT.copy()
    broken[1, 7:], broken[1, :, 10:], broken[1, ..., 1:], broken[2:] = np.nan, np.inf, 7e7, np.nan

    @jax.jit
    def both(output):
        return jax.value_and_grad(lambda o: jnp.sum(task.loss(o, BATCH)[0]))(output)

    for a, b in zip(both(OUTPUT), both(broken), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_perfect_output_costs_nothing_and_gives_its_points():
    task = heatmaps.task(KINDS, sigma=1.2, max_points=8)
    points = np.array([[[2.3, 2.6], [6.4, 7.8], [2.2, 8.1], [0, 0]]], np.float32)
    kinds = np.array([[1, 1, 2, -1]], np.int32)
    drawn = {"shape": SHAPE, "num_kinds": KINDS, "sigma": 1.2}
    output = jax.jit(jax.vmap(lambda p, k: gaussian_heatmaps(p, k, **drawn)))(points, kinds)
    batch = {"points": points, "kinds": kinds, "size": np.array([SHAPE], np.int32)}
    loss, metrics = jax.jit(task.loss)(output, batch)
    assert loss[0] < 1e-12 and metrics["at_points"][0] > 0.8
    got = jax.jit(task.predict, static_argnums=1)(output, SHAPE)
    assert got["points"].shape == (1, 8, 2) and got["kinds"].shape == got["scores"].shape == (1, 8)
    found = sorted(
        (k, *np.round(p, 2))
        for p, k in zip(got["points"][0], np.asarray(got["kinds"][0]), strict=True)
    )
    wanted = [(-1, 0, 0)] * 5 + [(1, 2.3, 2.6), (1, 6.4, 7.8), (2, 2.2, 8.1)]
    np.testing.assert_allclose(found, wanted, atol=0.02)
    assert (np.asarray(got["scores"][0])[np.asarray(got["kinds"][0]) < 0] == 0).all()


def test_one_point_a_kind():
    output = np.full((2, *SHAPE, KINDS), -1, np.float32)
    output[0, 3, 4, 0], output[0, 5, 6, 2], output[1, 8, 10, 1] = 0.5, 0.02, 0.9
    predict = jax.jit(heatmaps.task(KINDS, sigma=1.0).predict, static_argnums=1)
    got = predict(output, SHAPE)
    np.testing.assert_array_equal(got["kinds"], [[0, -1, 2], [-1, 1, -1]])
    np.testing.assert_allclose(got["scores"], [[0.5, 0, 0.02], [0, 0.9, 0]])
    np.testing.assert_allclose(got["points"][0], [[3, 4], [0, 0], [5, 6]], atol=1e-5)
    np.testing.assert_allclose(got["points"][1], [[0, 0], [8, 10], [0, 0]], atol=1e-5)


@pytest.mark.parametrize("max_points", [None, 3])
def test_points_of_a_smaller_map_are_those_of_the_image(max_points):
    """A map of which each pixel is a block of the image: the blob's centre is the image's."""
    pixel = np.array([3.0, 4.0])
    output = np.zeros((1, *SHAPE, 1), np.float32)
    output[0, 3, 4] = 1
    predict = heatmaps.task(1, sigma=1.0, max_points=max_points).predict
    size = (4 * SHAPE[0], 3 * SHAPE[1])
    blocks = np.argwhere(output[0, ..., 0].repeat(4, axis=0).repeat(3, axis=1))
    got = jax.jit(predict, static_argnums=1)(output, size)
    np.testing.assert_allclose(got["points"][0, 0], blocks.mean(axis=0), atol=1e-4)
    assert np.any(blocks.mean(axis=0) != pixel * [4, 3])
    np.testing.assert_array_equal(np.asarray(got["points"])[0, 1:], 0)


def test_half_precision_is_widened():
    task = heatmaps.task(KINDS, sigma=1.2, max_points=2)
    narrow = jnp.asarray(OUTPUT, jnp.bfloat16)
    loss, _ = jax.eval_shape(lambda x: task.loss(x, BATCH), narrow)
    points = jax.eval_shape(lambda x: task.predict(x, SHAPE), narrow)["points"]
    assert loss.dtype == points.dtype == jnp.float32


@pytest.mark.parametrize(
    "wrong",
    [{"num_kinds": 0}, {"max_points": 0}, {"sigma": 0.0}, {"foreground": -1.0}, {"sigma": np.inf}],
)
def test_bad_options(wrong):
    options = {"num_kinds": 2, "sigma": 1.0, **wrong}
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        heatmaps.task(options.pop("num_kinds"), **options)


def test_another_number_of_maps():
    task = heatmaps.task(2, sigma=1.0)
    with pytest.raises(ValueError, match="3 maps: expected 2"):
        task.loss(jnp.asarray(OUTPUT), BATCH)
    with pytest.raises(ValueError, match="3 maps: expected 2"):
        task.predict(jnp.asarray(OUTPUT), SHAPE)
