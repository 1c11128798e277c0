import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jaxseg.losses import binary_cross_entropy_from_log, instance_embedding
from jaxseg.ops.affinity import log_steered_kernel

pytestmark = pytest.mark.usefixtures("strict_dtypes")
RNG = np.random.default_rng(0)
PSI = RNG.normal(size=(4, 5, 6, 3)).astype(np.float32)
MASKS = RNG.random((4, 4, 5, 6)) < 0.4
VALID = np.array([[True] * 4, [True, False, True, False], [False] * 4, [True] * 4])
MASKS[3, 1] |= MASKS[3, 0]  # nothing of object 0 is its own


def expected(psi, masks, valid, repulsion=0.0, margin=1.0):
    """Pixel by pixel, in float64."""
    count = masks[valid].sum(axis=0)
    off, means = [], []
    for mask in masks[valid]:
        pixels = [
            psi[u].astype(float)
            for u in np.argwhere(mask & (count == 1)).tolist()
            for u in [tuple(u)]
        ]
        if not pixels:
            continue
        means.append(sum(pixels) / len(pixels))
        off.append(sum(np.sqrt(((x - means[-1]) ** 2).sum()) for x in pixels) / len(pixels))
    value = sum(off) / len(off) if off else 0.0
    pairs = [(a, b) for i, a in enumerate(means) for j, b in enumerate(means) if i != j]
    push = [max(0, margin - np.sqrt(((a - b) ** 2).sum())) ** 2 for a, b in pairs]
    return value + repulsion * (sum(push) / len(push) if push else 0.0)


plain = jax.jit(instance_embedding)
pushed = jax.jit(lambda *x: instance_embedding(*x, repulsion=0.7, margin=1.5))


def test_the_loss_is_that_of_a_loop():
    want = [expected(*example) for example in zip(PSI, MASKS, VALID, strict=True)]
    np.testing.assert_allclose(plain(PSI, MASKS, VALID), want, rtol=1e-5)
    assert want[2] == 0 and min(want[0], want[1], want[3]) > 0.5
    pushing = [expected(*example, 0.7, 1.5) for example in zip(PSI, MASKS, VALID, strict=True)]
    np.testing.assert_allclose(pushed(PSI, MASKS, VALID), pushing, rtol=1e-5)
    assert pushing[0] > want[0] + 0.1 and pushing[2] == 0


def test_neither_padding_nor_what_is_in_no_object_counts():
    """Values and gradients, whatever is there: more places, background, pixels of several."""
    masks = np.concatenate([MASKS, RNG.random((4, 3, 5, 6)) < 0.5], axis=1)
    valid = np.concatenate([VALID, np.zeros((4, 3), bool)], axis=1)
    broken = PSI.copy()
    broken[(MASKS & VALID[..., None, None]).sum(axis=1) != 1] = np.nan

    def total(psi, masks, valid):
        return jnp.sum(instance_embedding(psi, masks, valid, repulsion=0.5, margin=2.0))

    both = jax.jit(jax.value_and_grad(total))
    for a, b in zip(both(PSI, MASKS, VALID), both(broken, masks, valid), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_gradients_are_finite_at_collapse():
    """All pixels alike: every distance, and that of every two means, is 0."""
    grad = jax.jit(jax.grad(lambda x: jnp.sum(pushed(x, MASKS, VALID))))
    np.testing.assert_array_equal(grad(np.zeros_like(PSI)), 0)
    # Where a mean is rounded, distances are not 0, but no pixel is pulled by more than its share.
    for near in (np.ones_like(PSI), (1 + 1e-6 * PSI).astype(np.float32)):
        got = np.asarray(grad(near))
        assert np.isfinite(got).all() and np.abs(got).max() < 3


def test_a_constant_shift_costs_nothing_and_a_scale_scales():
    far = plain((PSI + np.float32(100)).astype(np.float32), MASKS, VALID)
    np.testing.assert_allclose(far, plain(PSI, MASKS, VALID), rtol=1e-4)
    twice = plain(2 * PSI, MASKS, VALID)
    np.testing.assert_allclose(twice, 2 * plain(PSI, MASKS, VALID), rtol=1e-5)


def test_half_precision_is_widened():
    narrow = jax.ShapeDtypeStruct(PSI.shape, jnp.bfloat16)
    assert jax.eval_shape(lambda x: plain(x, MASKS, VALID), narrow).dtype == jnp.float32


def test_masks_of_another_size():
    with pytest.raises((ValueError, TypeCheckError), match="masks"):
        instance_embedding(jnp.asarray(PSI), jnp.zeros((4, 2, 5, 5), bool), jnp.ones((4, 2), bool))


LOGS = -np.geomspace(2e-6, 80, 40).astype(np.float32)


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_cross_entropy_keeps_its_digits(target):
    """Against float64, from p = 1 - 2e-6 to p = 1e-35; the derivative too."""
    x = LOGS.astype(np.float64)
    other = np.where(x > -1, np.log(-np.expm1(x)), np.log1p(-np.exp(x)))
    want = -target * x - (1 - target) * other
    slope = -target + (1 - target) * np.exp(x) / -np.expm1(x)

    def loss(x):
        return binary_cross_entropy_from_log(x[:, None], jnp.full((len(x), 1), target, jnp.float32))

    np.testing.assert_allclose(jax.jit(loss)(LOGS), want, rtol=2e-6)
    got = jax.jit(jax.grad(lambda x: jnp.sum(loss(x))))(LOGS)
    np.testing.assert_allclose(got, slope, rtol=1e-4, atol=1e-9)


def test_cross_entropy_is_bounded_where_it_would_be_infinite():
    log_p = jnp.array([[0.0], [-1e-9], [0.0], [-1e4]])
    target = jnp.array([[False], [False], [True], [True]])
    both = jax.jit(jax.value_and_grad(lambda x: jnp.sum(binary_cross_entropy_from_log(x, target))))
    np.testing.assert_allclose(
        binary_cross_entropy_from_log(log_p, target), [13.8155, 13.8155, 0, 1e4], rtol=1e-4
    )
    np.testing.assert_array_equal(both(log_p)[1], [[0.0], [0.0], [-1.0], [-1.0]])


def test_cross_entropy_is_the_weighted_mean():
    log_p = -np.abs(RNG.normal(size=(3, 4, 5))).astype(np.float32) - np.float32(0.01)
    target = jnp.asarray(RNG.random((3, 4, 5)) < 0.5)
    weights = RNG.random((3, 4)).astype(np.float32)
    weights[1], weights[2, 1] = 0, 0
    hidden = np.where(weights[..., None] > 0, log_p, np.float32(np.nan))
    p = np.exp(log_p.astype(float))
    each = -np.where(target, np.log(p), np.log(1 - p)).mean(axis=2)
    want = (each * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-9)
    weigh = jax.jit(
        lambda x: binary_cross_entropy_from_log(x, target, weights=jnp.asarray(weights))
    )
    np.testing.assert_allclose(weigh(hidden), want, rtol=1e-5)
    assert np.isfinite(jax.jit(jax.grad(lambda x: jnp.sum(weigh(x))))(hidden)).all()
    with pytest.raises(ValueError, match="expected a beginning of"):
        binary_cross_entropy_from_log(jnp.asarray(log_p), target, weights=jnp.ones((3, 5)))


def test_of_a_kernel_it_is_finite_at_collapse():
    """All pixels at the seed, of which half are another object's."""
    target = jnp.arange(6)[None] < 3

    def loss(psi):
        log_kernel = log_steered_kernel(psi, psi[:, :1], 0.5)
        return jnp.sum(binary_cross_entropy_from_log(log_kernel, target))

    assert np.isfinite(jax.jit(jax.grad(loss))(jnp.ones((1, 6, 2)))).all()
