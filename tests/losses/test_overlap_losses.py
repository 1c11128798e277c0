"""Values of the losses of overlap against sums in NumPy, and against counts of decisions."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses

B, H, W, C = 3, 6, 5, 4
RNG = np.random.default_rng(1)
LOGITS = 2 * RNG.standard_normal((B, H, W, C))
LABELS = RNG.integers(-1, 3, (B, H, W)).astype(np.int32)  # The last class is absent.
LABELS[2] = np.where(LABELS[2] == 1, 3, LABELS[2])
SOFT = RNG.dirichlet(np.ones(C), (B, H, W))
CLASS_WEIGHTS = np.array([0.5, 2.0, 1.0, 0.7])
PIXEL_WEIGHTS = RNG.random((B, H, W))


def slow(index, labels, classes, class_weights, pixel_weights):
    """The mean over classes of 1 - index(w, q, t), the arrays of the pixels that count."""
    values = []
    for b in range(B):
        q = np.exp(LOGITS[b])
        q /= q.sum(-1, keepdims=True)
        counts = np.ones((H, W), bool) if labels.ndim == 4 else labels[b] >= 0
        w = np.ones((H, W)) if pixel_weights is None else pixel_weights[b]
        part = whole = 0.0
        for c in range(C):
            t = labels[b, ..., c] if labels.ndim == 4 else (labels[b] == c).astype(float)
            if classes == "present" and not np.any(t[counts] > 0):
                continue
            weight = 1.0 if class_weights is None else class_weights[c]
            part += weight * (1 - index(w[counts], q[..., c][counts], t[counts]))
            whole += weight
        values.append(part / whole)
    return values


def dice_index(w, q, t, s):
    return (2 * np.sum(w * q * t) + s) / (np.sum(w * q) + np.sum(w * t) + s)


def jaccard_index(w, q, t, s):
    both = np.sum(w * q * t)
    return (both + s) / (np.sum(w * q) + np.sum(w * t) - both + s)


def tversky_index(w, q, t, s):
    both = np.sum(w * q * t)
    return (both + s) / (both + 0.2 * np.sum(w * q * (1 - t)) + 0.9 * np.sum(w * (1 - q) * t) + s)


INDICES = {
    "dice": (losses.dice, {}, dice_index),
    "jaccard": (losses.jaccard, {}, jaccard_index),
    "tversky": (losses.tversky, {"alpha": 0.2, "beta": 0.9}, tversky_index),
}


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("name", INDICES)
def test_losses_equal_sums_over_the_pixels(x64, name, labels):
    loss, options, index = INDICES[name]
    weights = {"class_weights": CLASS_WEIGHTS, "pixel_weights": PIXEL_WEIGHTS}
    cases = list(
        itertools.product(("present", "all"), (0.0, 1.0), ([], weights, ["pixel_weights"]))
    )

    @jax.jit
    def run(logits, labels, weights):
        return [
            loss(logits, labels, smooth=s, classes=c, **{n: weights[n] for n in names}, **options)
            for c, s, names in cases
        ]

    arrays = jnp.asarray(LOGITS), jnp.asarray(labels), jax.tree.map(jnp.asarray, weights)
    for (classes, smooth, names), got in zip(cases, run(*arrays), strict=True):
        given = [weights[n] if n in names else None for n in weights]
        with_smooth = functools.partial(index, s=smooth)
        np.testing.assert_allclose(got, slow(with_smooth, labels, classes, *given))


def test_decisions_give_the_scores_of_decisions():
    """Where probabilities are 0 or 1, one minus F1 and one minus intersection over union."""
    guess = RNG.integers(0, 3, (B, H, W))
    logits = jnp.asarray(1e3 * (guess[..., None] == np.arange(C)), jnp.float32)
    f1, iou = [], []
    for b in range(B):
        counts = LABELS[b] >= 0
        right = [np.sum((guess[b] == c) & (LABELS[b] == c)) for c in range(C)]
        mine = [np.sum((guess[b] == c) & counts) for c in range(C)]
        true = [np.sum(LABELS[b] == c) for c in range(C)]
        found = [c for c in range(C) if true[c]]
        f1.append(np.mean([1 - 2 * right[c] / (mine[c] + true[c]) for c in found]))
        iou.append(np.mean([1 - right[c] / (mine[c] + true[c] - right[c]) for c in found]))
    functions = losses.dice, losses.jaccard, losses.lovasz
    got = jax.jit(lambda *arrays: [f(*arrays) for f in functions])(logits, jnp.asarray(LABELS))
    np.testing.assert_allclose(got, [f1, iou, iou], rtol=1e-6)


def test_dice_of_drozdzal_is_an_option():
    """-(2 Σ q·t + 1) / (Σ q + Σ t + 1) of the foreground, plus 1; an absent one shrinks."""
    logits = jnp.asarray(LOGITS[..., :2], jnp.float32)
    labels = np.array(LABELS > 0).astype(np.int32)
    labels[0] = 0

    @jax.jit
    def run(logits):
        weights = jnp.array([0.0, 1.0])
        dice = functools.partial(losses.dice, smooth=1.0, classes="all", class_weights=weights)
        value, pull = jax.vjp(lambda x: dice(x, jnp.asarray(labels)), logits)
        return value, pull(jnp.ones_like(value))[0]

    value, gradient = run(logits)
    q = 1 / (1 + np.exp(LOGITS[..., 0] - LOGITS[..., 1]))
    both, sums = np.sum(q * labels, (1, 2)), np.sum(q + labels, (1, 2))
    np.testing.assert_allclose(value, 1 - (2 * both + 1) / (sums + 1), rtol=1e-5)
    assert np.all(gradient[0, ..., 1] > 0)


def test_tversky_spans_dice_and_jaccard():
    @jax.jit
    def run(*arrays):
        options = {"alpha": 0.5, "beta": 0.5, "smooth": 0.5}
        half = losses.tversky(*arrays, **options), losses.dice(*arrays, smooth=1.0)
        options = {"alpha": 1.0, "beta": 1.0, "smooth": 2.0}
        return half, (losses.tversky(*arrays, **options), losses.jaccard(*arrays, smooth=2.0))

    for got, expected in run(jnp.asarray(LOGITS, jnp.float32), jnp.asarray(LABELS)):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_other_classes_than_two_choices():
    with pytest.raises(Exception, match="classes"):
        losses.dice(jnp.asarray(LOGITS, jnp.float32), jnp.asarray(LABELS), classes="some")
