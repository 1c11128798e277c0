"""Which cell of a grid a point lies in: by walking there, or by trying all.

Source of the walk: Devillers, Pion and Teillaud, "Walking in a triangulation", International
Journal of Foundations of Computer Science 2002.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from jaxseg.ops import _cells
from jaxseg.ops._cells import Vector


def walk(
    cells: Float[Array, "cells 8"],
    grid: tuple[int, int],
    x: Vector,
    start: Int32[Array, "h w"],
    steps: Int32[Array, ""],
) -> Int32[Array, "h w"]:
    """The cell of each point; of a point that is not found, the one it came nearest to."""
    height, width = start.shape
    number = jax.lax.iota(jnp.uint32, height * width).reshape(height, width)

    def body(state: tuple[Array, ...]) -> tuple[Array, ...]:
        step, cell, active, best, distance = state
        sides = _cells.outside(_cells.quads(jnp.take(cells, cell, axis=0, mode="clip")), x)
        row, col = cell // grid[1], cell % grid[1]
        vertical, horizontal = jnp.maximum(*sides[:2]), jnp.maximum(*sides[2:])
        far = jnp.maximum(vertical, horizontal)
        nearer = active & (far < distance)
        best, distance = jnp.where(nearer, cell, best), jnp.where(nearer, far, distance)
        down = jnp.where(vertical > 0, jnp.where(sides.bottom > sides.top, 1, -1), 0)
        right = jnp.where(horizontal > 0, jnp.where(sides.right > sides.left, 1, -1), 0)
        # Knuth's multiplicative hash: its high bits change with every number.
        chance = ((number + step.astype(jnp.uint32)) * jnp.uint32(2654435761)) >> jnp.uint32(31)
        single = (step % 2 == 1) & (down != 0) & (right != 0)
        down = jnp.where(single & (chance == 0), 0, down)
        right = jnp.where(single & (chance == 1), 0, right)
        row = jnp.clip(row + down, 0, grid[0] - 1)
        col = jnp.clip(col + right, 0, grid[1] - 1)
        moved = jnp.where(active, row * grid[1] + col, cell)
        # Beyond the outermost cell there is nothing to go to, but perhaps along the other axis.
        active &= (far > 0) & ((moved != cell) | single)
        return step + 1, moved, active, best, distance

    def proceed(state: tuple[Array, ...]) -> Bool[Array, ""]:
        return (state[0] < steps) & jnp.any(state[2])

    everywhere = jnp.ones((height, width), bool)
    unknown = jnp.full((height, width), jnp.inf, cells.dtype)
    state: tuple[Array, ...] = (jnp.int32(0), start, everywhere, start, unknown)
    return jax.lax.while_loop(proceed, body, state)[3]


def scan(
    cells: Float[Array, "cells 8"], x: Vector
) -> tuple[Int32[Array, "h w"], Float[Array, "h w 8"]]:
    """The same by trying all cells, and the corners of the cell."""
    shape = x.row.shape

    def body(k: Int32[Array, ""], state: tuple[Array, ...]) -> tuple[Array, ...]:
        cell, distance, *corner = state
        row = jax.lax.dynamic_index_in_dim(cells, k, keepdims=False)
        sides = _cells.outside(_cells.quads(row[None, None]), x)
        far = jnp.maximum(jnp.maximum(*sides[:2]), jnp.maximum(*sides[2:]))
        nearer = far < distance
        corner = [jnp.where(nearer, new, old) for new, old in zip(row, corner, strict=True)]
        return jnp.where(nearer, k, cell), jnp.where(nearer, far, distance), *corner

    state = (
        jnp.zeros(shape, jnp.int32),
        jnp.full(shape, jnp.inf, cells.dtype),
        *(jnp.zeros(shape, cells.dtype) for _ in range(8)),
    )
    cell, _, *corner = jax.lax.fori_loop(jnp.int32(0), jnp.int32(len(cells)), body, state)
    return cell, jnp.stack(corner, axis=-1)
