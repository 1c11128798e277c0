"""Cells of a sampling grid that are folded over, and the least that mends them.

A cell is the bilinear patch between four nodes. It is one-to-one if and only if its Jacobian is
positive at its four corners, for the determinant is affine in each of the patch's parameters and
its least value lies at a corner.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.ops._sampling_grid import check_coords, corners, cross, uniform
from jaxseg.ops.color import at_least_float32

_SLOPES = tuple(0.5**k for k in range(8))
"""By how much the blend may change from a node to the next, where it may differ."""


def fold_fraction(coords: Float[Array, "h w 2"]) -> Float[Array, ""]:
    """The part of the cells that are folded or flat: not one-to-one.

    Args:
        coords: any units, the same along both axes or not.

    Returns:
        0 to 1; 0 says that the grid can be inverted. No gradient.

    Raises:
        ValueError: a side of the grid is below 2.
    """
    check_coords(coords)
    coords = jax.lax.stop_gradient(at_least_float32(coords))
    folded = jnp.any(jacobians(coords) <= 0, axis=0)
    return jnp.mean(folded, dtype=coords.dtype)


def make_fold_free(
    coords: Float[Array, "h w 2"], *, margin: float = 0.01, per_region: bool = False
) -> Float[Array, "h w 2"]:
    """Blends a grid with the uniform one, as little as it takes to unfold every cell.

    φ_t = u + t (φ - u). At a corner of a cell the Jacobian of φ_t is a quadratic in t that is the
    cell's area at t = 0; the first t at which it falls to `margin` of that has a closed form, and
    the least of them, or 1, is the blend that is taken everywhere.

    With `per_region` each cell's own t holds around it alone: t at a node is the least of t_c +
    s d_c over the cells c, d_c being the steps to the cell along the grid. A blend that varies
    bends the grid itself, so what it gives is blended once more as above. That is done for s = 0
    (as without `per_region`) and 1, 1/2, ... 1/128, and the one with the greatest mean t is taken.

    Args:
        coords: in [0, 1]. Covering constraints that hold go on to hold.
        margin: least Jacobian at a corner, as a part of that of the uniform grid, in (0, 1). Keeps
            cells from becoming so thin that rounding folds them.
        per_region: whether the blend may differ over the grid.

    Returns:
        Coordinates without a fold; the very same where no corner is below `margin`. Gradients flow
        into the coordinates, and take t for a constant.

    Raises:
        ValueError: a side of the grid is below 2, or `margin` is not in (0, 1).
    """
    check_coords(coords)
    if not 0 < margin < 1:
        raise ValueError(f"margin={margin}: expected a number between 0 and 1")
    coords = at_least_float32(coords)
    even = uniform((coords.shape[0], coords.shape[1]), coords.dtype)
    shift = coords - even
    # The one worst cell would else rule the gradient of the whole grid.
    fixed = jax.lax.stop_gradient(shift)
    blend = _largest_blend(fixed, margin)
    everywhere = jnp.min(blend)
    if not per_region:
        return jnp.where(everywhere >= 1, coords, even + everywhere * shift)

    def regional(slope: Float[Array, ""]) -> Float[Array, "h w"]:
        blends = _spread(blend, slope)
        return blends * jnp.min(_largest_blend(blends[..., None] * fixed, margin))

    slopes = jnp.asarray(_SLOPES, coords.dtype)
    blends = jnp.concatenate(
        [jnp.broadcast_to(everywhere, (1, *coords.shape[:2])), jax.lax.map(regional, slopes)]
    )
    best = blends[jnp.argmax(jnp.mean(blends, axis=(1, 2)))][..., None]
    return jnp.where(everywhere >= 1, coords, even + best * shift)


def _edges(x: Float[Array, "h w 2"]) -> tuple[Float[Array, "4 rows cols 2"], ...]:
    """At the four corners of each cell, the steps to its neighbours along rows and columns."""
    a, b, c, d = corners(x)
    return jnp.stack([c - a, d - b, c - a, d - b]), jnp.stack([b - a, b - a, d - c, d - c])


def jacobians(x: Float[Array, "h w 2"]) -> Float[Array, "4 rows cols"]:
    """Of every cell at its four corners, in units of the coordinates per cell."""
    return cross(*_edges(x))


def _largest_blend(shift: Float[Array, "h w 2"], margin: float) -> Float[Array, "rows cols"]:
    """The first t in (0, 1], for each cell, at which a corner of u + t shift is at the margin."""
    rows, cols = shift.shape[0] - 1, shift.shape[1] - 1
    down, across = _edges(shift)
    # In cells of the uniform grid: J(t) = (1 + t p)(1 + t q) - t² r s.
    p, q = down[..., 0] * rows, across[..., 1] * cols
    linear, square = p + q, cross(down, across) * rows * cols
    one = jnp.ones((), shift.dtype)
    constant = one - jnp.asarray(margin, shift.dtype)
    discriminant = linear * linear - 4 * square * constant
    real = discriminant > 0
    root = jnp.sqrt(jnp.where(real, discriminant, one))
    below = root - linear
    crossed = real & (below > 0)
    first = 2 * constant / jnp.where(crossed, below, one)
    return jnp.min(jnp.where(crossed, jnp.minimum(first, one), one), axis=0)


def _spread(blend: Float[Array, "rows cols"], slope: Float[Array, ""]) -> Float[Array, "h w"]:
    """At each node the least of t_c + slope · d_c, d_c = 0 at the four nodes of cell c."""
    padded = jnp.pad(blend, 1, constant_values=1)
    nodes = jnp.minimum(
        jnp.minimum(padded[:-1, :-1], padded[:-1, 1:]), jnp.minimum(padded[1:, :-1], padded[1:, 1:])
    )
    for axis in (0, 1):
        shape = [1, 1]
        shape[axis] = -1
        ramp = jnp.arange(nodes.shape[axis], dtype=nodes.dtype).reshape(shape) * slope
        ramp = jnp.broadcast_to(ramp, nodes.shape)
        before = jax.lax.cummin(nodes - ramp, axis=axis) + ramp
        after = jax.lax.cummin(nodes + ramp, axis=axis, reverse=True) - ramp
        nodes = jnp.minimum(before, after)
    return nodes
