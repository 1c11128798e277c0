"""Affinities of the pixels of two feature maps, and how far they are from each other."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxseg.ops.color import at_least_float32

_EPSILON = 1e-12
"""Least squared length that a row is divided by: gradients grow by 1e6 at most."""
_ALIGNED = 16
"""Rows of a tile are a multiple of it where they can be: a processor's vectors are then full."""


def affinity_distance(
    a: Float[Array, "n ca"],
    b: Float[Array, "n cb"],
    *,
    order: Literal[1, 2] = 1,
    normalize: bool = False,
    tile: int = 512,
) -> Float[Array, ""]:
    """1/n² Σ_ij |a_i·a_j - b_i·b_j|^order: how differently two sets of features relate n pixels.

    It is 0 where one is the other rotated. The n x n affinities are never held. D = AAᵀ - BBᵀ is
    taken as ½ (ΔPᵀ + PΔᵀ) with Δ = A - B and P = A + B, which loses nothing where A is near B:

    - order 1 goes through the upper half of D in tiles. With a derivative asked for, the same pass
      yields it, for three times the products; without, it does none of that work. What is within
      rounding of 0 has the derivative 0 there, as |x| is given at 0.
    - order 2 is a trace of (ca + cb) x (ca + cb) matrices.

    Both modes of differentiation work. A second derivative of order 1 by reverse mode over reverse
    mode stores n² values: take forward over reverse.

    Args:
        a: a row for each pixel. Half precision is widened to float32.
        b: the same pixels; its width may be another, and so may its type: the wider one counts.
        order: 1 for absolute differences, 2 for squares. Rounding may take a square of nearly 0
            below 0, by about 1e-7 of the mean squared affinity.
        normalize: whether rows are brought to length 1 first, so that affinities are cosines.
            A row of 0 stays 0 and gets no gradient; rows below a length of 1e-6 become shorter
            than 1.
        tile: rows of a tile, at most, for order 1: 3 tile² values are held for each example.

    Raises:
        ValueError: no or unequal numbers of rows, another order, or a tile below 1.
    """
    if len(a) != len(b) or len(a) < 1:
        raise ValueError(
            f"rows of {len(a)} and {len(b)} pixels: expected as many of both, 1 or more"
        )
    if order not in (1, 2):
        raise ValueError(f"order={order!r}: expected 1 or 2")
    if tile < 1:
        raise ValueError(f"tile={tile}: expected 1 or more")
    a, b = at_least_float32(a).T, at_least_float32(b).T
    dtype = max(a.dtype, b.dtype, key=lambda kind: jnp.finfo(kind).bits)
    # The sign of D does not matter: let `a` have the channels that are left over.
    a, b = sorted((a.astype(dtype), b.astype(dtype)), key=len, reverse=True)
    factor, shared = (_unit_factor if normalize else _factor)(a, b), len(b)
    total = _absolute_sum(factor, shared, tile) if order == 1 else _square_sum(factor, shared)
    return total / a.shape[1] ** 2


def _factor(a: Float[Array, "ca n"], b: Float[Array, "cb n"]) -> Float[Array, "ca+cb n"]:
    """Y = (P, Δ, the rest of A), so that D = Yᵀ swap(Y)."""
    return jnp.concatenate([a[: len(b)] + b, a[: len(b)] - b, a[len(b) :]])


def _unit_factor(a: Float[Array, "ca n"], b: Float[Array, "cb n"]) -> Float[Array, "ca+cb n"]:
    """The same of A and B with every pixel brought to length 1."""
    # At 0 the direction is unknown, and its derivative would be 1 / sqrt(_EPSILON).
    a, b = (
        jnp.where(jnp.any(x != 0, 0, keepdims=True), x, jax.lax.stop_gradient(x)) for x in (a, b)
    )
    total, difference, rest = jnp.split(_factor(a, b), (len(b), 2 * len(b)))
    squares = [jnp.sum(x * x, axis=0, keepdims=True) for x in (a, b)]
    size_a, size_b = (jnp.maximum(x, _EPSILON) for x in squares)
    scale_a, scale_b = jax.lax.rsqrt(size_a), jax.lax.rsqrt(size_b)
    # Δ = (A - B) / |B| + A (1/|A| - 1/|B|), where no two nearly equal results are subtracted; with
    # A and B exchanged in it if A is the longer one, whose rounding would grow.
    above = jnp.sum(total * difference, axis=0, keepdims=True)
    above = above + jnp.sum(rest * rest, axis=0, keepdims=True)
    above = jnp.where((squares[0] > _EPSILON) & (squares[1] > _EPSILON), above, size_a - size_b)
    both = scale_a * scale_b
    change = -(above * both) * (both / (scale_a + scale_b))
    longer = size_a > size_b
    shared = a[: len(b)]
    turned = (
        difference * jnp.where(longer, scale_a, scale_b) + jnp.where(longer, b, shared) * change
    )
    return jnp.concatenate([shared * scale_a + b * scale_b, turned, rest * scale_a])


def _swap(y: Float[Array, "k n"], shared: int) -> Float[Array, "k n"]:
    """½ (Δ, P) for (P, Δ); the rest as it is."""
    return jnp.concatenate([y[shared : 2 * shared] / 2, y[:shared] / 2, y[2 * shared :]])


def _product(x: Array, y: Array, axes: tuple[int, int]) -> Array:
    """Sums over axis axes[0] of x and axes[1] of y."""
    contracted = (axes[:1], axes[1:]), ((), ())
    return jax.lax.dot_general(x, y, contracted, precision=jax.lax.Precision.HIGHEST)


def _square_sum(y: Float[Array, "k n"], shared: int) -> Float[Array, ""]:
    """Σ D², which is <YYᵀ, XXᵀ> for D = YᵀX."""
    gram = _product(y, y, (1, 1))
    return jnp.sum(gram * _swap(_swap(gram, shared).T, shared))


def _tiles(
    y: Float[Array, "k n"], shared: int, tile: int
) -> tuple[Float[Array, "k padded"], Float[Array, "k padded"], int, Int[Array, "pairs 2"]]:
    """Y and X padded with zeros to whole tiles, the tiles' rows, and where each of them starts.

    Pixels are the minor axis throughout: products of tiles take half the time so, on a CPU.
    """
    n = y.shape[1]
    rows = -(-n // -(-n // tile))
    rows = min(n, tile, -(-rows // _ALIGNED) * _ALIGNED)
    starts = np.arange(0, n, rows, dtype=np.int32)
    y = jnp.pad(y, ((0, 0), (0, len(starts) * rows - n)))
    pairs = np.stack(np.triu_indices(len(starts)), axis=-1)
    return y, _swap(y, shared), rows, jnp.asarray(starts[pairs])


def _weight(pair: Int[Array, "2"], dtype: jnp.dtype) -> Float[Array, ""]:
    """A tile off the diagonal stands for its mirror image too."""
    return jnp.where(pair[0] == pair[1], 1, 2).astype(dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _absolute_sum(y: Float[Array, "k n"], shared: int, tile: int) -> Float[Array, ""]:
    """Σ |D|, tile by tile."""
    y, x, rows, pairs = _tiles(y, shared, tile)
    cut = functools.partial(jax.lax.dynamic_slice_in_dim, slice_size=rows, axis=1)

    def step(total, pair):
        d = _product(cut(y, pair[0]), cut(x, pair[1]), (0, 0))
        return total + _weight(pair, y.dtype) * jnp.sum(jnp.abs(d), axis=0), None

    total, _ = jax.lax.scan(step, jnp.zeros_like(y[0, :rows]), pairs)
    return jnp.sum(total)


@_absolute_sum.defjvp
def _absolute_sum_jvp(shared, tile, primals, tangents):
    (primal,), (tangent,) = primals, tangents
    y, x, rows, pairs = _tiles(primal, shared, tile)
    cut = functools.partial(jax.lax.dynamic_slice_in_dim, slice_size=rows, axis=1)
    parts = y[:shared], y[shared : 2 * shared], y[2 * shared :]
    lengths = jnp.stack([jnp.sqrt(jnp.sum(part * part, axis=0)) for part in parts])
    swapped = _swap(lengths, 1) * jnp.finfo(y.dtype).eps

    def step(gradient, pair):
        i, j = pair
        weight = _weight(pair, y.dtype)
        d = _product(cut(y, i), cut(x, j), (0, 0))
        # What rounding leaves of equal affinities, as of two that are 0, is no difference.
        least = _product(cut(lengths, i), cut(swapped, j), (0, 0))
        sign = jnp.where(d > least, 1, jnp.where(d < -least, -1, jnp.zeros_like(d)))
        # On the diagonal both are the same and each counts once; elsewhere each counts twice.
        for start, other, axis in ((i, j, 1), (j, i, 0)):
            part = cut(gradient, start) + weight * _product(cut(x, other), sign, (1, axis))
            gradient = jax.lax.dynamic_update_slice_in_dim(gradient, part, start, axis=1)
        return gradient, None

    gradient, _ = jax.lax.scan(step, jnp.zeros_like(y), pairs)
    gradient = gradient[:, : primal.shape[1]]
    # Σ |D| is of degree two in y: by Euler's theorem its gradient tells the value.
    return jnp.sum(primal * gradient) / 2, jnp.sum(tangent * gradient)
