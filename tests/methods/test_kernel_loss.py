"""The kernel's loss object by object beside all objects at once, and the memory of both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses
from jaxseg.methods._embedding import _kernel_loss
from jaxseg.ops._instance_means import instance_means
from jaxseg.ops.affinity import log_steered_kernel

SIGMA = 0.7


def at_once(psi, found, sigma):
    own = found.own
    anyone = jnp.any(own, axis=1, keepdims=True)
    others = anyone & ~own & (found.pixels > 0)[..., None, None]
    psi = jnp.where(anyone[:, 0, ..., None], psi, 0)
    weights = sum(
        part / jnp.maximum(jnp.sum(part, axis=(2, 3), keepdims=True), 1)
        for part in (own.astype(psi.dtype), others.astype(psi.dtype))
    )
    log_kernel = log_steered_kernel(psi[:, None], found.means[:, :, None, None], sigma)
    return losses.binary_cross_entropy_from_log(log_kernel, own, weights=weights)


def both(loss):
    def value(psi, masks, valid):
        each = loss(psi, jax.vmap(instance_means)(psi, masks, valid), SIGMA)
        return jnp.sum(each * jnp.arange(1, len(each) + 1, dtype=each.dtype)), each

    return jax.jit(jax.grad(value, has_aux=True))


def objects(batch, number, height, width, dims):
    """Squares that may overlap; where there is room, some of one pixel."""
    rng = np.random.default_rng(0)
    masks = np.zeros((batch, number, height, width), bool)
    for mask in masks.reshape(-1, height, width):
        y, x, side = rng.integers(height), rng.integers(width), rng.integers(1, 6)
        mask[y : y + side, x : x + side] = True
    valid = rng.random((batch, number)) < 0.8
    psi = rng.normal(size=(batch, height, width, dims)).astype(np.float32)
    return jnp.asarray(psi), jnp.asarray(masks), jnp.asarray(valid)


@pytest.mark.parametrize("kind", ["several", "one", "none", "alike", "outside"])
def test_values_and_gradients_are_those_of_all_at_once(kind):
    psi, masks, valid = objects(3, 5, 9, 12, 4)
    if kind == "one":
        valid = jnp.zeros_like(valid).at[:, 2].set(True)
    if kind == "none":
        valid = valid.at[1].set(False)
    if kind == "alike":  # Distances of 0, where a root has no derivative.
        psi = jnp.zeros_like(psi)
    if kind == "outside":
        psi = jnp.where(jnp.any(masks & valid[..., None, None], axis=1)[..., None], psi, jnp.nan)
    got, want = (both(loss)(psi, masks, valid) for loss in (_kernel_loss, at_once))
    assert np.isfinite(want[1]).all() and (kind == "alike" or np.any(np.asarray(want[0])))
    np.testing.assert_allclose(got[1], want[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=1e-6)


def test_memory_does_not_grow_with_objects_times_channels():
    shapes = jax.eval_shape(lambda: objects(1, 40, 32, 32, 8))
    needs = [
        both(loss).lower(*shapes).compile().memory_analysis().temp_size_in_bytes
        for loss in (_kernel_loss, at_once)
    ]
    assert needs[0] < needs[1] / 2
