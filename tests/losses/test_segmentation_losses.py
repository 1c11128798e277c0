"""What all losses of semantic segmentation promise; the values of those of single pixels."""

import functools

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

LOSSES = {
    "cross_entropy": losses.cross_entropy,
    "focal": losses.focal,
    "focal_half": functools.partial(losses.focal, gamma=0.5),
    "ohem_cross_entropy": functools.partial(losses.ohem_cross_entropy, min_kept=0.3),
    "dice": losses.dice,
    "dice_smooth": functools.partial(losses.dice, smooth=1.0, classes="all"),
    "jaccard": losses.jaccard,
    "jaccard_all": functools.partial(losses.jaccard, classes="all"),
    "tversky": losses.tversky,
    "lovasz": losses.lovasz,
    "lovasz_all": functools.partial(losses.lovasz, classes="all"),
}


@functools.cache
def with_gradients(name):
    """(logits, labels, class_weights, pixel_weights) -> the sum of a loss and its gradients."""

    def total(logits, labels, class_weights, pixel_weights):
        weights = {"class_weights": class_weights, "pixel_weights": pixel_weights}
        return jnp.sum(LOSSES[name](logits, labels, **weights))

    return jax.jit(jax.value_and_grad(total, argnums=(0, 2, 3)))


def narrow(*arrays):
    return [
        jnp.asarray(x, jnp.float32 if np.issubdtype(x.dtype, float) else x.dtype) for x in arrays
    ]


HARD_AND_SOFT = [(n, False) for n in LOSSES] + [(n, True) for n in LOSSES if "lovasz" not in n]


@pytest.mark.parametrize(("name", "soft"), HARD_AND_SOFT)
def test_ignored_pixels_change_neither_loss_nor_gradient(name, soft):
    ignored, target = LABELS < 0, LABELS
    if soft:
        target = np.where(ignored[..., None], 0, SOFT)
        target[0][ignored[0]] = np.nan
    function = with_gradients(name)
    _, target, classes, _ = narrow(LOGITS, target, CLASS_WEIGHTS, PIXEL_WEIGHTS)

    def run(logits, weights):
        logits, weights = narrow(logits, weights)
        return function(logits, target, classes, weights)

    expected = run(LOGITS, PIXEL_WEIGHTS)
    for wild in (np.nan, np.inf, -np.inf, 1e30):
        other = np.where(ignored[..., None], wild, LOGITS), np.where(ignored, wild, PIXEL_WEIGHTS)
        jax.tree.map(np.testing.assert_array_equal, run(*other), expected)
    gradients = np.asarray(expected[1][0])
    assert np.all(gradients[ignored] == 0) and np.any(gradients[~ignored] != 0)
    assert np.all(np.asarray(expected[1][2])[ignored] == 0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_pixel_of_weight_0_is_ignored(name):
    hidden = np.random.default_rng(1).random((B, H, W)) < 0.3
    function = with_gradients(name)
    weights = np.where(hidden, 0.0, PIXEL_WEIGHTS)
    logits, labels, classes, weights = narrow(LOGITS, LABELS, CLASS_WEIGHTS, weights)
    expected = function(logits, jnp.where(hidden, -1, labels), classes, weights)
    for wild in (np.nan, -np.inf):
        (other,) = narrow(np.where(hidden[..., None], wild, LOGITS))
        jax.tree.map(
            np.testing.assert_array_equal, function(other, labels, classes, weights), expected
        )


@pytest.mark.parametrize("name", LOSSES)
def test_absent_classes_are_finite(name):
    function = with_gradients(name)
    extreme = LOGITS.copy()
    extreme[0, :3], extreme[1, :, :2, 1] = 200 * LOGITS[0, :3], -1e4
    logits, classes, pixels = narrow(extreme, CLASS_WEIGHTS, PIXEL_WEIGHTS)
    for fill in (-1, 0, 1, 3):
        labels = jnp.full((B, H, W), fill, jnp.int32)
        loss, gradients = function(logits, labels, classes, pixels)
        assert np.isfinite(loss)
        assert all(np.all(np.isfinite(g)) for g in gradients)
        if fill == -1:
            assert loss == 0 and not any(np.any(g) for g in gradients)
    no_class = function(logits, jnp.asarray(LABELS), jnp.zeros(C), pixels)
    no_pixel = function(logits, jnp.asarray(LABELS), classes, jnp.zeros((B, H, W)))
    for loss, gradients in (no_class, no_pixel):
        assert loss == 0 and not np.any(gradients[0])
        assert all(np.all(np.isfinite(g)) for g in gradients)


@pytest.mark.parametrize("name", LOSSES)
def test_types_and_ids_of_labels_do_not_matter(name):
    """What is no class is ignored, and `ignore_label` too; logits are widened."""
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    alike = [np.where(LABELS < 0, x, LABELS) for x in (-1, C, -7)]
    alike += [alike[1].astype(np.uint8), alike[2].astype(np.int8)]
    fewer = np.where(LABELS == 2, -1, LABELS)

    @jax.jit
    def run(half):
        loss, logits = LOSSES[name], half.astype(jnp.float32)
        same = [loss(logits, jnp.asarray(x)) for x in alike]
        less = [loss(logits, jnp.asarray(alike[2]), ignore_label=2)]
        less.append(loss(logits, jnp.asarray(fewer)))
        return same, less, loss(half, jnp.asarray(LABELS))

    same, less, of_half = run(half)
    assert of_half.dtype == jnp.float32
    for got in (*same, of_half):
        np.testing.assert_allclose(got, same[0], rtol=1e-6)
    np.testing.assert_allclose(*less, rtol=1e-6)
    assert np.all(less[0] != same[0])


@pytest.mark.parametrize("name", LOSSES)
def test_shapes_that_disagree(name):
    logits = jnp.asarray(LOGITS, jnp.float32)
    with pytest.raises(Exception, match=r"labels|probabilities"):
        LOSSES[name](logits, jnp.zeros((B, H, W + 1), jnp.int32))
    with pytest.raises(Exception, match=r"labels|probabilities"):
        LOSSES[name](logits, jnp.zeros((B, H, W, C + 1), jnp.float32))


def slow_terms(logits, labels, gamma):
    """Of every pixel and class: the loss without weights, [B, H, W, C], and the target."""
    terms, targets = np.zeros(logits.shape), np.zeros(logits.shape)
    for b, y, x, c in np.ndindex(*logits.shape):
        target = labels[b, y, x, c] if labels.ndim == 4 else float(labels[b, y, x] == c)
        q = np.exp(logits[b, y, x])
        q = q[c] / q.sum()
        targets[b, y, x, c] = target
        terms[b, y, x, c] = -((1 - q) ** gamma) * np.log(q)
    return terms, targets


def slow_mean(terms, targets, class_weights, pixel_weights, kept=1):
    share = targets * (1 if class_weights is None else class_weights)
    share = share * (1 if pixel_weights is None else pixel_weights[..., None]) * kept
    return [np.sum(t * s) / np.sum(s) for t, s in zip(terms, share, strict=True)]


EACH_LABEL = pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["hard", "soft"])
EACH_WEIGHT = pytest.mark.parametrize(
    ("classes", "pixels"),
    [(None, None), (CLASS_WEIGHTS, None), (None, PIXEL_WEIGHTS), (CLASS_WEIGHTS, PIXEL_WEIGHTS)],
    ids=["", "class_weights", "pixel_weights", "both"],
)


def run64(loss, labels, classes=None, pixels=None, **options):
    weights = {"class_weights": classes, "pixel_weights": pixels}
    weights = {name: None if x is None else jnp.asarray(x) for name, x in weights.items()}

    @jax.jit
    def run(logits, labels, weights):
        return loss(logits, labels, **weights, **options)

    return run(jnp.asarray(LOGITS), jnp.asarray(labels), weights)


@EACH_LABEL
@EACH_WEIGHT
def test_cross_entropy_equals_a_loop(x64, labels, classes, pixels):
    got = run64(losses.cross_entropy, labels, classes, pixels)
    np.testing.assert_allclose(got, slow_mean(*slow_terms(LOGITS, labels, 0), classes, pixels))


@EACH_LABEL
@EACH_WEIGHT
def test_focal_equals_a_loop(x64, labels, classes, pixels):
    def three(*arrays, **weights):
        return [losses.focal(*arrays, gamma=g, **weights) for g in (0.0, 0.5, 2.0)]

    for gamma, got in zip((0.0, 0.5, 2.0), run64(three, labels, classes, pixels), strict=True):
        expected = slow_mean(*slow_terms(LOGITS, labels, gamma), classes, pixels)
        np.testing.assert_allclose(got, expected)


def test_focal_without_focus_has_the_gradient_of_cross_entropy():
    logits, labels = narrow(LOGITS, LABELS)

    @jax.jit
    def gradients(logits):
        pair = functools.partial(losses.focal, gamma=0.0), losses.cross_entropy
        return [jax.grad(lambda x, f=f: f(x, labels).sum())(logits) for f in pair]

    np.testing.assert_allclose(*gradients(logits), rtol=1e-5, atol=1e-7)


def test_focal_of_certain_pixels_is_finite():
    """Where 1 - q is 0 in float32, a power below 1 has an infinite derivative."""
    logits = jnp.asarray([[[[0.0, 0, 0], [30, 0, 0], [0, 1e4, 0], [-1e4, 0, 0]]]])
    labels = jnp.asarray([[[0, 0, 1, 0]]])

    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def value(logits, gamma):
        return jnp.sum(losses.focal(logits, labels, gamma=gamma))

    value = jax.jit(value)
    for gamma in (0.0, 0.3, 1.0, 2.0, 5.0):
        loss, gradients = value(logits, jnp.float32(gamma))
        surprise = (2 / 3) ** gamma * np.log(3) + 1e4 + np.log(2)
        np.testing.assert_allclose(loss, surprise / 4, rtol=1e-6)
        assert all(np.all(np.isfinite(g)) for g in gradients)
        assert not np.any(gradients[0][0, 0, 1:3])


def slow_kept(terms, targets, classes, pixels, threshold, min_kept):
    """Which pixels online hard example mining keeps, example by example, by sorting."""
    kept = np.zeros(terms.shape[:3])
    for b in range(B):
        share = targets[b] * (1 if classes is None else classes)
        share = share * (1 if pixels is None else pixels[b][..., None])
        hard = [
            (np.sum((terms * targets)[b, y, x]), y, x)
            for y, x in np.ndindex(H, W)
            if share[y, x].sum() > 0
        ]
        for place, (loss, y, x) in enumerate(sorted(hard, reverse=True)):
            kept[b, y, x] = np.exp(-loss) < threshold or place < np.ceil(min_kept * len(hard))
    return kept


@EACH_LABEL
@EACH_WEIGHT
@pytest.mark.parametrize(("threshold", "min_kept"), [(0.0, 0.25), (0.2, 0.0), (0.05, 0.4)])
def test_ohem_keeps_the_hardest_pixels(x64, labels, classes, pixels, threshold, min_kept):
    options = {"threshold": threshold, "min_kept": min_kept}
    got = run64(losses.ohem_cross_entropy, labels, classes, pixels, **options)
    terms = slow_terms(LOGITS, labels, 0)
    kept = slow_kept(*terms, classes, pixels, **options)
    assert 0 < kept.mean() < 1
    np.testing.assert_allclose(got, slow_mean(*terms, classes, pixels, kept[..., None]))


def test_ohem_of_all_pixels_is_cross_entropy():
    logits, labels, pixels = narrow(LOGITS, LABELS, PIXEL_WEIGHTS)

    @jax.jit
    def run(pixels):
        options = {"min_kept": 1.0}, {"threshold": 1.0, "min_kept": 0.0}
        ohem = losses.ohem_cross_entropy
        got = [ohem(logits, labels, pixel_weights=pixels, **each) for each in options]
        return *got, losses.cross_entropy(logits, labels, pixel_weights=pixels)

    *got, expected = run(pixels)
    np.testing.assert_allclose(got, [expected] * 2, rtol=1e-6)


def test_ohem_keeps_the_number_that_was_asked_for():
    """A fraction of a round number of pixels in float32, and no pixel too few by a last bit."""
    side = 40
    logits = jnp.asarray(RNG.standard_normal((1, side, side, 3)), jnp.float32)
    labels = jnp.asarray(RNG.integers(0, 3, (1, side, side)))
    options = {"threshold": 0.0}

    @jax.jit
    def kept(fraction):
        gradient = jax.grad(
            lambda x: losses.ohem_cross_entropy(x, labels, min_kept=fraction, **options).sum()
        )(logits)
        return jnp.sum(jnp.any(gradient != 0, axis=-1))

    for fraction in np.arange(0.05, 1, 0.05, np.float32):
        assert kept(fraction) == round(float(fraction) * side * side)


def test_ohem_refuses_what_is_no_fraction():
    logits, labels = narrow(LOGITS, LABELS)
    for options in ({"threshold": 1.5}, {"min_kept": -0.1}):
        with pytest.raises(ValueError, match="expected 0 to 1"):
            losses.ohem_cross_entropy(logits, labels, **options)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "dice_smooth"])
def test_a_class_can_be_ruled_out(name):
    logits = jnp.asarray(LOGITS, jnp.float32).at[..., 3].set(-jnp.inf)
    labels = jnp.asarray(np.minimum(LABELS, 2))
    run = jax.jit(jax.value_and_grad(lambda x: jnp.sum(LOSSES[name](x, labels))))
    (loss, gradient), (expected, _) = run(logits), run(logits[..., :3])
    share = 3 / 4 if name == "dice_smooth" else 1  # The mean is over the fourth class too.
    np.testing.assert_allclose(loss, expected * share, rtol=1e-6)
    assert np.all(np.isfinite(gradient)) and not np.any(gradient[..., 3])
