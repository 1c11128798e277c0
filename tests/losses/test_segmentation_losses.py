import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses

B, H, W, C = 3, 6, 5, 4
RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.standard_normal((B, H, W, C))
LABELS = RNG.integers(-1, C, (B, H, W)).astype(np.int32)
SOFT = RNG.dirichlet(np.ones(C), (B, H, W))
CLASS_WEIGHTS = np.array([0.5, 2.0, 1.0, 0.0])
PIXEL_WEIGHTS = RNG.random((B, H, W))


def slow_cross_entropy(logits, labels, class_weights=None, pixel_weights=None):
    """Per example, in a loop over pixels and classes."""
    class_weights = np.ones(C) if class_weights is None else class_weights
    pixel_weights = np.ones((B, H, W)) if pixel_weights is None else pixel_weights
    soft = labels.ndim == 4
    losses = []
    for b in range(B):
        part = whole = 0.0
        for y, x in np.ndindex(H, W):
            p = np.exp(logits[b, y, x])
            for c in range(C):
                target = labels[b, y, x, c] if soft else float(labels[b, y, x] == c)
                share = target * class_weights[c] * pixel_weights[b, y, x]
                part -= share * np.log(p[c] / p.sum())
                whole += share
        losses.append(part / whole)
    return losses


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("classes", [None, CLASS_WEIGHTS], ids=["", "class_weights"])
@pytest.mark.parametrize("pixels", [None, PIXEL_WEIGHTS], ids=["", "pixel_weights"])
def test_cross_entropy_equals_a_loop(x64, labels, classes, pixels):
    options = {"class_weights": classes, "pixel_weights": pixels}
    traced = {name: None if x is None else jnp.asarray(x) for name, x in options.items()}
    got = losses.cross_entropy(jnp.asarray(LOGITS), jnp.asarray(labels), **traced)
    np.testing.assert_allclose(got, slow_cross_entropy(LOGITS, labels, *options.values()))


@pytest.mark.parametrize("wild", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("soft", [False, True])
def test_ignored_pixels_change_neither_loss_nor_gradient(wild, soft):
    ignored = LABELS < 0
    target = LABELS
    if soft:
        target = np.where(ignored[..., None], 0, SOFT).astype(np.float32)
        target[0][ignored[0]] = np.nan

    @jax.jit
    def value(logits, pixel_weights):
        loss = losses.cross_entropy(logits, jnp.asarray(target), pixel_weights=pixel_weights)
        return jnp.sum(loss)

    logits, weights = LOGITS.astype(np.float32), PIXEL_WEIGHTS.astype(np.float32)
    function = jax.value_and_grad(value, argnums=(0, 1))
    expected = function(logits, weights)
    other = np.where(ignored[..., None], wild, logits).astype(np.float32)
    got = function(other, np.where(ignored, wild, weights).astype(np.float32))
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert np.all(np.asarray(expected[1][0])[ignored] == 0)
    assert np.all(np.asarray(expected[1][0])[~ignored] != 0)


def test_labels_that_are_no_class_are_ignored():
    logits = jnp.asarray(LOGITS, jnp.float32)
    expected = losses.cross_entropy(logits, jnp.asarray(LABELS))
    for other in (C, 255, -7):
        strange = jnp.asarray(np.where(LABELS < 0, other, LABELS))
        np.testing.assert_array_equal(losses.cross_entropy(logits, strange), expected)
    one_more = losses.cross_entropy(logits, jnp.asarray(LABELS), ignore_label=2)
    fewer = np.where(LABELS == 2, -1, LABELS)
    np.testing.assert_allclose(one_more, losses.cross_entropy(logits, jnp.asarray(fewer)))
    assert np.all(one_more != expected)


@pytest.mark.parametrize("fill", [-1, 0, 3])
def test_absent_classes_are_finite(fill):
    labels = jnp.full((B, H, W), fill, jnp.int32)
    weights = jnp.asarray(CLASS_WEIGHTS, jnp.float32)

    def value(logits, weights):
        return jnp.sum(losses.cross_entropy(logits, labels, class_weights=weights))

    loss, gradients = jax.value_and_grad(value, argnums=(0, 1))(
        jnp.asarray(LOGITS, jnp.float32), weights
    )
    assert np.isfinite(loss)
    assert all(np.all(np.isfinite(g)) for g in gradients)
    if fill != 0:  # Nothing counts: no label, or a class of weight 0.
        assert loss == 0 and not np.any(gradients[0])


def test_a_class_can_be_ruled_out():
    logits = jnp.asarray(LOGITS, jnp.float32).at[..., 3].set(-jnp.inf)
    labels = jnp.asarray(np.minimum(LABELS, 2))

    def value(logits):
        return jnp.sum(losses.cross_entropy(logits, labels))

    loss, gradient = jax.value_and_grad(value)(logits)
    expected = losses.cross_entropy(logits[..., :3], labels).sum()
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert np.all(np.isfinite(gradient)) and not np.any(gradient[..., 3])


def test_bfloat16_is_widened():
    narrow = jnp.asarray(LOGITS, jnp.bfloat16)
    got = losses.cross_entropy(narrow, jnp.asarray(LABELS))
    assert got.dtype == jnp.float32
    wide = narrow.astype(jnp.float32)
    np.testing.assert_array_equal(got, losses.cross_entropy(wide, jnp.asarray(LABELS)))


def test_shapes_that_disagree():
    logits = jnp.asarray(LOGITS, jnp.float32)
    with pytest.raises(Exception, match=r"labels|probabilities"):
        losses.cross_entropy(logits, jnp.zeros((B, H, W + 1), jnp.int32))
    with pytest.raises(Exception, match=r"labels|probabilities"):
        losses.cross_entropy(logits, jnp.zeros((B, H, W, C + 1), jnp.float32))


class TestMedianFrequencyWeights:
    def test_equals_a_loop_over_maps(self):
        maps = [RNG.integers(-1, 3, (5, 7)) for _ in range(4)]
        maps[1][maps[1] == 2] = 0
        maps[3][:] = 1
        counts = np.stack([[np.sum(m == c) for c in range(4)] for m in maps])
        for everything in (False, True):
            frequency = []
            for c in range(3):
                holds = [m for m in maps if np.any(m == c)]
                around = sum(m.size if everything else np.sum(m >= 0) for m in holds)
                frequency.append(sum(np.sum(m == c) for m in holds) / around)
            pixels = np.full(4, 35) if everything else None
            got = losses.median_frequency_weights(counts, image_pixels=pixels)
            np.testing.assert_allclose(got[:3], np.median(frequency) / np.array(frequency))
            assert got[3] == 0

    def test_bad_counts(self):
        for counts, message in (
            (np.zeros((2, 3), int), "all 0"),
            (np.array([[1, -2]]), "hold -2"),
        ):
            with pytest.raises(ValueError, match=message):
                losses.median_frequency_weights(counts)
        with pytest.raises(ValueError, match="image 1 of 3 pixels has 4"):
            losses.median_frequency_weights(
                np.array([[1, 2], [2, 2]]), image_pixels=np.array([9, 3])
            )
