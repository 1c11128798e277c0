"""One bilinear cell and one point: beyond which sides the point lies, and where it is inside.

The corners are a, b, c, d: upper left, upper right, lower left, lower right. The point of
parameters (s, t) in [0, 1]² is (1-s)(1-t) a + (1-s) t b + s (1-t) c + s t d. All functions work
elementwise, on rows and columns apart: arrays with a last axis of two compile and run slowly.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.ops._sampling_grid import corners


@dataclasses.dataclass(frozen=True)
class Vector:
    """Points or steps, by coordinates."""

    row: Float[Array, "..."]
    col: Float[Array, "..."]

    def __add__(self, other: "Vector") -> "Vector":
        return Vector(self.row + other.row, self.col + other.col)

    def __sub__(self, other: "Vector") -> "Vector":
        return Vector(self.row - other.row, self.col - other.col)

    def __mul__(self, factor: Float[Array, "..."]) -> "Vector":
        return Vector(self.row * factor, self.col * factor)

    def dot(self, other: "Vector") -> Float[Array, "..."]:
        """The inner product."""
        return self.row * other.row + self.col * other.col

    def cross(self, other: "Vector") -> Float[Array, "..."]:
        """Positive if this turns into the other as the row axis turns into the column axis."""
        return self.row * other.col - self.col * other.row

    def clip(self) -> "Vector":
        """Both coordinates brought to [0, 1]."""
        return Vector(jnp.clip(self.row, 0, 1), jnp.clip(self.col, 0, 1))


class Quads(NamedTuple):
    """Corners of cells, in pixels."""

    a: Vector
    b: Vector
    c: Vector
    d: Vector


class Sides(NamedTuple):
    """Squared distance to each side's line, less rounding; positive if the point is beyond it."""

    top: Float[Array, "..."]
    bottom: Float[Array, "..."]
    left: Float[Array, "..."]
    right: Float[Array, "..."]


def table(points: Float[Array, "h w 2"]) -> Float[Array, "cells 8"]:
    """The corners of all cells, row by row, so that one gather finds the four of a cell."""
    return jnp.concatenate(corners(points), axis=-1).reshape(-1, 8)


def quads(rows: Float[Array, "... 8"]) -> Quads:
    """The corners out of rows of the table."""
    a, b, c, d = (Vector(rows[..., k], rows[..., k + 1]) for k in (0, 2, 4, 6))
    return Quads(a, b, c, d)


def outside(quad: Quads, x: Vector) -> Sides:
    """The sides of positively oriented convex cells beyond which the point lies."""
    a, b, c, d = quad
    return Sides(
        _beyond(b - a, x - a),
        _beyond(c - d, x - d),
        _beyond(a - c, x - c),
        _beyond(d - b, x - b),
    )


def _beyond(edge: Vector, point: Vector) -> Float[Array, "..."]:
    area, length = edge.cross(point), edge.dot(edge)
    # What rounding may put on either side of an edge belongs to both its cells.
    rounding = 32 * float(jnp.finfo(area.dtype).eps) ** 2
    slack = rounding * (length + point.dot(point))
    # A side of no length has no line; nothing is beyond it.
    return area * jnp.abs(area) / jnp.where(length > 0, length, 1) - slack


def locate(quad: Quads, x: Vector) -> Vector:
    """The (s, t) of a point of the cell; of another point, one nearby, clipped to the cell.

    s solves a quadratic: the line from (1-s) a + s c to (1-s) b + s d goes through the point.
    Inside a convex cell it changes its sign once between 0 and 1. Two Newton steps, of which the
    better point stays, take away the rounding of thin cells.
    """
    a, b, c, d = quad
    start, end = (x - a).cross(b - a), (x - c).cross(d - c)
    square = (c - a).cross((c - a) - (d - b))
    linear = end - start - square
    # The first root after 0 in the form that does not cancel, as in `_folds`.
    below = jnp.sqrt(jnp.maximum(linear * linear - 4 * square * start, 0)) - linear
    s = jnp.clip(2 * start / jnp.where(below > 0, below, 1), 0, 1)
    left, right = a + (c - a) * s, b + (d - b) * s
    across = right - left
    width = across.dot(across)
    t = jnp.clip(across.dot(x - left) / jnp.where(width > 0, width, 1), 0, 1)

    def refine(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        best = Vector(*state)
        missed = x - at(quad, best)
        step = (best + newton(quad, best, missed)).clip()
        then = x - at(quad, step)
        better = select(then.dot(then) < missed.dot(missed), step, best)
        return better.row, better.col

    # A loop, not two copies: fused into one expression they repeat each other five times over.
    return Vector(*jax.lax.fori_loop(0, 2, refine, (s, t)))


def select(condition: Array, one: Vector, other: Vector) -> Vector:
    """The one where the condition holds, else the other."""
    return Vector(
        jnp.where(condition, one.row, other.row), jnp.where(condition, one.col, other.col)
    )


def at(quad: Quads, part: Vector) -> Vector:
    """The point of parameters (s, t)."""
    a, b, c, d = quad
    upper = a + (b - a) * part.col
    return upper + (c + (d - c) * part.col - upper) * part.row


def newton(quad: Quads, part: Vector, shift: Vector) -> Vector:
    """The change of (s, t) that moves the point by `shift`, to first order; 0 if none does."""
    a, b, c, d = quad
    down = (c - a) + ((d - b) - (c - a)) * part.col
    across = (b - a) + ((d - c) - (b - a)) * part.row
    jacobian = down.cross(across)
    regular = jacobian > 0
    scale = jnp.where(regular, 1 / jnp.where(regular, jacobian, 1), 0)
    return Vector(shift.cross(across), down.cross(shift)) * scale
