import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses

pytestmark = pytest.mark.usefixtures("strict_dtypes")
RNG = np.random.default_rng(0)


def surprise(x, t):
    p = 1 / (1 + np.exp(-np.float64(x)))
    return -(t * np.log(p) + (1 - t) * np.log(1 - p))


@pytest.mark.parametrize("num_samples", [None, 7])
def test_binary_cross_entropy_of_what_was_drawn(num_samples):
    logits = RNG.normal(0, 3, (3, 8)).astype(np.float32)
    labels = RNG.integers(-1, 2, (3, 8)).astype(np.int32)
    labels[2] = -1
    want = []
    for x, t in zip(logits, labels, strict=True):
        terms = [surprise(a, b) for a, b in zip(x, t, strict=True) if b >= 0]
        want.append(sum(terms) / (num_samples or max(len(terms), 1)))
    logits[labels < 0] = np.inf
    got, gradient = jax.value_and_grad(
        lambda x: jnp.sum(
            losses.sampled_binary_cross_entropy(x, jnp.asarray(labels), num_samples=num_samples)
        )
    )(jnp.asarray(logits))
    np.testing.assert_allclose(got, sum(want), rtol=1e-5)
    assert np.all(np.isfinite(gradient)) and np.all(gradient[labels < 0] == 0)


@pytest.mark.parametrize("beta", [0.0, 1.0, 0.3])
def test_box_regression(beta):
    deltas, targets = RNG.normal(0, 1, (2, 3, 5, 4)).astype(np.float32)
    labels = RNG.integers(-1, 2, (3, 5)).astype(np.int32)
    labels[0, 0], labels[1], labels[2] = 1, 0, -1
    want = np.zeros(3)
    for i in range(3):
        for d in (np.float64(deltas[i]) - targets[i])[labels[i] == 1].ravel():
            d = abs(d)
            want[i] += d * d / 2 / beta if d < beta else d - beta / 2
    assert want[0] > 0
    deltas[labels != 1] = np.nan
    given = jnp.asarray(deltas), jnp.asarray(targets), jnp.asarray(labels)
    number = np.maximum((labels >= 0).sum(1), 1)
    for options, expected in (({"num_samples": 6}, want / 6), ({}, want / number)):
        got = losses.box_regression(*given, beta=beta, **options)
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    gradient = jax.grad(lambda d: jnp.sum(losses.box_regression(d, *given[1:], beta=beta)))(
        given[0]
    )
    assert np.all(np.isfinite(gradient)) and np.all(gradient[labels != 1] == 0)


def test_masks():
    logits = RNG.normal(0, 2, (3, 4, 5, 5)).astype(np.float32)
    targets = RNG.random((3, 4, 5, 5)).astype(np.float32)
    valid = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], bool)
    want = [
        surprise(x[v], t[v]).mean() if v.any() else 0
        for x, t, v in zip(logits, targets, valid, strict=True)
    ]
    logits[~valid] = np.nan
    got = losses.mask_binary_cross_entropy(*map(jnp.asarray, (logits, targets, valid)))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_large_logits_stay_finite():
    x = jnp.array([[1e4, -1e4, 1e4, -1e4]])
    got = losses.sampled_binary_cross_entropy(x, jnp.array([[1, 0, 0, 1]], jnp.int32))
    np.testing.assert_allclose(got, [5e3])


def test_refused():
    x, labels = jnp.zeros((2, 3)), jnp.zeros((2, 3), jnp.int32)
    with pytest.raises(ValueError, match="num_samples=0"):
        losses.sampled_binary_cross_entropy(x, labels, num_samples=0)
    deltas = jnp.zeros((2, 3, 4))
    with pytest.raises(ValueError, match="num_samples=-1"):
        losses.box_regression(deltas, deltas, labels, num_samples=-1)
    with pytest.raises(ValueError, match="beta=-1"):
        losses.box_regression(deltas, deltas, labels, beta=-1.0)
