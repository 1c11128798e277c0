"""The Lovász-softmax loss against the definition of the extension, set by set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import losses

B, H, W, C = 2, 5, 4, 3
RNG = np.random.default_rng(2)
PIXEL_WEIGHTS = 0.1 + RNG.random((B, H, W))
CLASS_WEIGHTS = np.array([0.5, 2.0, 1.0])


def set_function(wrong, own, weights):
    """One minus the weighted IoU of a class where the pixels `wrong` are wrong."""
    left, union = np.sum(weights[own & ~wrong]), np.sum(weights[own | wrong])
    return 1 - left / union if union > 0 else 0.0


def slow_class(errors, own, weights):
    """Σ m_i·(Δ(first i pixels) - Δ(first i - 1 pixels)) by falling error (eq. 8 and 9)."""
    total, wrong = 0.0, np.zeros(len(errors), bool)
    for i in np.argsort(-errors):
        before = set_function(wrong, own, weights)
        wrong[i] = True
        total += errors[i] * (set_function(wrong, own, weights) - before)
    return total


def slow(logits, labels, classes="present", class_weights=None, pixel_weights=None):
    values = []
    for b in range(len(labels)):
        q = np.exp(logits[b])
        q /= q.sum(-1, keepdims=True)
        counts = labels[b] >= 0
        weights = np.ones(labels[b].shape) if pixel_weights is None else pixel_weights[b]
        part = whole = 0.0
        for c in range(C):
            own = labels[b][counts] == c
            if classes == "present" and not own.any():
                continue
            errors = np.abs(own - q[..., c][counts])
            weight = 1.0 if class_weights is None else class_weights[c]
            part += weight * slow_class(errors, own, weights[counts])
            whole += weight
        values.append(part / whole if whole else 0.0)
    return values


@jax.jit
def each(logits, labels, class_weights, pixel_weights):
    """With all combinations of options, in one compiled program."""
    weights = {"class_weights": class_weights, "pixel_weights": pixel_weights}
    return {
        (classes, *names): losses.lovasz(
            logits, labels, classes=classes, **{name: weights[name] for name in names}
        )
        for classes in ("present", "all")
        for names in ((), ("class_weights",), ("pixel_weights",), tuple(weights))
    }


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(-1, C - 1), st.booleans())
def test_equals_the_definition(seed, fewest, ties):
    """With absent classes, ignored pixels and equal errors, the order of which must not matter."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((B, H, W, C))
    logits = np.round(logits) if ties else logits
    labels = rng.integers(fewest, C, (B, H, W)).astype(np.int32)
    weights = {"class_weights": CLASS_WEIGHTS, "pixel_weights": PIXEL_WEIGHTS}
    with jax.enable_x64(True):
        arrays = [jnp.asarray(x) for x in (logits, labels, CLASS_WEIGHTS, PIXEL_WEIGHTS)]
        for (classes, *names), got in each(*arrays).items():
            expected = slow(logits, labels, classes, **{name: weights[name] for name in names})
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_a_common_factor_of_the_weights_changes_nothing():
    logits = jnp.asarray(2 * RNG.standard_normal((B, H, W, C)), jnp.float32)
    labels = jnp.asarray(RNG.integers(-1, C, (B, H, W)))
    run = jax.jit(jax.value_and_grad(lambda x, w: losses.lovasz(x, labels, pixel_weights=w).sum()))
    weights = jnp.asarray(PIXEL_WEIGHTS, jnp.float32)
    expected = run(logits, weights)
    for factor in (1e-30, 1e30):
        for a, b in zip(run(logits, weights * factor), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_gradients_of_many_pixels_keep_their_digits(x64):
    """By differences of neighbours, float32 is off by more than 0.1 % at most of 90 000 pixels."""
    size, classes = 300, 2
    logits = RNG.standard_normal((1, size, size, classes))
    labels = jnp.asarray(RNG.integers(0, classes, (1, size, size)))
    gradient = jax.jit(jax.grad(lambda x: losses.lovasz(x, labels).sum()))
    exact = np.asarray(gradient(jnp.asarray(logits)))
    got = np.asarray(gradient(jnp.asarray(logits, jnp.float32)))
    # Pixels that rounding has put in another order differ; they are few.
    wrong = np.abs(got - exact) > 1e-3 * np.abs(exact)
    assert wrong.mean() < 1e-3


def test_soft_labels_are_refused():
    logits = jnp.zeros((B, H, W, C))
    with pytest.raises(Exception, match="labels"):
        losses.lovasz(logits, jax.nn.softmax(logits))
