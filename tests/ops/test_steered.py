import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops.affinity import (
    add_coordinates,
    log_bilateral_kernel,
    log_steered_kernel,
    seed_embedding,
    steer_scores,
)

pytestmark = pytest.mark.usefixtures("strict_dtypes")
RNG = np.random.default_rng(0)
STEPS, SEGMENTS = 16, 5


def floats(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def wave(u):
    """Triangles of height 1 about 1, 3, 5, ...: the paper's, from its first trough on."""
    return 1 - np.abs((u % 2) - 1)


def test_the_triangular_wave():
    """Φ_u = u + (1 - x_u) x'_u is the centre on every segment; alone, Φ is the same on all."""
    u = (np.arange(STEPS * SEGMENTS) + 0.5) * 2 / STEPS
    x = jnp.asarray(wave(u), jnp.float32)
    slope = jnp.sign(jnp.roll(x, -1) - jnp.roll(x, 1))  # local, and the same everywhere
    shift = (1 - x) * slope
    features = jnp.stack([jnp.zeros_like(x), shift], axis=-1)[None]
    psi = add_coordinates(features, scale=STEPS / 2)[0, :, 1]
    centers = 2 * np.arange(SEGMENTS) + 1
    np.testing.assert_allclose(psi.reshape(SEGMENTS, STEPS), centers[:, None] + np.zeros(STEPS))
    segments = np.asarray(shift).reshape(SEGMENTS, STEPS)
    np.testing.assert_allclose(segments, segments[:1] + np.zeros_like(segments), atol=1e-6)


def test_a_convolution_is_the_same_on_every_segment():
    """Whatever its weights are: the dilemma. With coordinates, it differs by the period."""
    y = jnp.asarray(wave((np.arange(STEPS * SEGMENTS) + 0.5) * 2 / STEPS), jnp.float32)[:, None]
    for width in (8, 8, 3):
        taps = floats(7, y.shape[1], width) / 3
        shifted = jnp.stack([jnp.roll(y, i - 3, axis=0) for i in range(7)])
        y = jnp.tanh(jnp.einsum("tpc,tcd->pd", shifted, taps))
    conv = np.asarray(y).reshape(SEGMENTS, STEPS, 3)
    assert conv.std(axis=1).min() > 0.01
    np.testing.assert_allclose(conv, np.broadcast_to(conv[:1], conv.shape), atol=1e-5)
    semi = add_coordinates(y[None], scale=STEPS / 2)[0].reshape(SEGMENTS, STEPS, 3)
    apart = np.diff(semi, axis=0)
    np.testing.assert_allclose(apart[..., 1], 2, atol=1e-5)
    np.testing.assert_allclose(apart[..., [0, 2]], 0, atol=1e-5)


def test_propose_and_verify_is_shift_invariant():
    """[x_u = 1] finds each centre, and nothing else."""
    x = wave(np.arange(STEPS * SEGMENTS) * 2 / STEPS)
    np.testing.assert_array_equal(np.flatnonzero(x == 1) * 2 / STEPS, 2 * np.arange(SEGMENTS) + 1)


def test_coordinates_are_those_of_the_image():
    fine = add_coordinates(jnp.zeros((8, 12, 3)), scale=4.0)
    coarse = add_coordinates(jnp.zeros((2, 3, 3)), scale=4.0, stride=4)
    np.testing.assert_array_equal(fine[3, 5], np.float32([3.5 / 4, 5.5 / 4, 0]))
    blocks = np.asarray(fine).reshape(2, 4, 3, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(coarse, blocks, rtol=1e-6)
    half = add_coordinates(jnp.full((300, 2, 2), 1, jnp.bfloat16))
    assert half.dtype == jnp.float32 and half[299, 0, 0] == 300.5


def test_any_mixing():
    features = floats(4, 5, 1)
    got = add_coordinates(features, scale=2.0, mixing=lambda x, u: jnp.concatenate([u, x], -1))
    np.testing.assert_array_equal(got[..., 2:], features)
    np.testing.assert_array_equal(got[2, 3, :2], np.float32([1.25, 1.75]))


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_kernels_are_those_of_the_equations(sigma):
    a, b = floats(4, 3, 5), floats(3, 5)
    distance = np.linalg.norm(np.asarray(a, float) - np.asarray(b, float), axis=-1)
    got = log_steered_kernel(a, b, sigma)
    np.testing.assert_allclose(got, -distance / sigma, rtol=1e-5)
    got = log_steered_kernel(a, b, jnp.float32(sigma), kind="gaussian")
    np.testing.assert_allclose(got, -(distance**2) / (2 * sigma**2), rtol=1e-5)


def test_the_gaussian_factorises():
    """Into geometry and looks (eq. 7); without displacement it is the bilateral kernel (eq. 8)."""
    features = floats(5, 6, 4)
    psi = add_coordinates(features)
    seed = psi[2, 3]
    whole = log_steered_kernel(psi, seed, 1.0, kind="gaussian")
    geometry = log_steered_kernel(psi[..., :2], seed[:2], 1.0, kind="gaussian")
    looks = log_steered_kernel(psi[..., 2:], seed[2:], 1.0, kind="gaussian")
    np.testing.assert_allclose(whole, geometry + looks, rtol=1e-5)
    still = add_coordinates(features.at[..., :2].set(0))
    plain = log_steered_kernel(still, still[2, 3], 1.0, kind="gaussian")
    rows, cols = np.indices((5, 6))
    coords = jnp.asarray(np.stack([rows, cols], -1), jnp.float32)
    bilateral = log_bilateral_kernel(
        features[..., 2:], features[2, 3, 2:], coords, coords[2, 3], 1.0, 1.0
    )
    np.testing.assert_allclose(plain, bilateral, rtol=1e-5, atol=1e-5)
    assert np.abs(np.asarray(whole - plain)).max() > 0.1
    squares = (rows - 2) ** 2 + (cols - 3) ** 2
    looks = np.sum((np.asarray(features) - np.asarray(features[2, 3]))[..., 2:] ** 2, axis=-1)
    scaled = log_bilateral_kernel(
        features[..., 2:], features[2, 3, 2:], coords, coords[2, 3], 0.5, 3.0
    )
    np.testing.assert_allclose(scaled, -looks / 0.5 - squares / 18, rtol=1e-4, atol=1e-5)


def test_the_laplacian_is_positive_definite():
    x = floats(40, 3)
    kernel = jnp.exp(log_steered_kernel(x[:, None], x[None], 0.7))
    assert np.linalg.eigvalsh(np.asarray(kernel, float)).min() > 0


@pytest.mark.parametrize("kind", ["laplacian", "gaussian"])
def test_the_gradient_is_finite_where_two_are_equal(kind):
    a = floats(3, 4)
    b = a.at[0].add(1.0)

    def total(a, sigma):
        return jnp.sum(log_steered_kernel(a, b, sigma, kind=kind))

    by_a, by_sigma = jax.jit(jax.grad(total, (0, 1)))(a, jnp.float32(0.5))
    np.testing.assert_array_equal(by_a[1:], 0)
    assert np.all(np.asarray(by_a[0]) > 0) and by_sigma > 0


def test_far_pixels_do_not_underflow():
    log_kernel = log_steered_kernel(jnp.full((1, 2), 1e3), jnp.zeros(2), 0.5)
    assert log_kernel[0] < -2000 and jnp.exp(log_kernel[0]) == 0


def test_the_seed_is_an_expectation():
    scores, psi = floats(4, 5), floats(4, 5, 3)
    mask = RNG.random((4, 5)) < 0.5
    chances = np.exp(np.asarray(scores, float)) * mask
    want = np.einsum("hw,hwd->d", chances / chances.sum(), psi)
    # Whatever is behind the mask.
    hidden = jnp.where(mask[..., None], psi, jnp.nan), jnp.where(mask, scores, jnp.inf)
    got = seed_embedding(hidden[1], hidden[0], mask=jnp.asarray(mask))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    best = np.argmax(np.where(mask, scores, -np.inf))
    got = seed_embedding(hidden[1], hidden[0], mask=jnp.asarray(mask), hard=True)
    np.testing.assert_array_equal(got, psi.reshape(-1, 3)[best])
    sure = seed_embedding(100 * scores, psi)
    np.testing.assert_allclose(sure, psi.reshape(-1, 3)[jnp.argmax(scores)], rtol=1e-4)
    for hard in (False, True):
        nothing = seed_embedding(scores, psi, mask=jnp.zeros((4, 5), bool), hard=hard)
        np.testing.assert_array_equal(nothing, 0)


def test_steered_scores_fall_with_the_distance():
    scores, psi = floats(4, 5), floats(4, 5, 3)
    got = np.asarray(steer_scores(scores, psi, psi[1, 2], 0.5))
    assert got[1, 2] == scores[1, 2]
    lost = np.linalg.norm(np.asarray(psi) - np.asarray(psi[1, 2]), axis=-1) / 0.5
    np.testing.assert_allclose(scores - got, lost, rtol=1e-4, atol=1e-5)


def test_bad_arguments():
    with pytest.raises(ValueError, match="1 channels: expected 2 or more"):
        add_coordinates(jnp.zeros((2, 2, 1)))
    with pytest.raises(ValueError, match="stride=0"):
        add_coordinates(jnp.zeros((2, 2, 2)), stride=0)
    with pytest.raises(ValueError, match="of 2 and 3 channels"):
        log_steered_kernel(jnp.zeros((2, 2)), jnp.zeros((2, 3)), 1.0)
