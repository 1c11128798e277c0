"""From a sampling grid back to the pixels: where in the grid each pixel of the image lies."""

import functools
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from jaxseg.ops import _cells
from jaxseg.ops._cell_search import scan, walk
from jaxseg.ops._cells import Vector
from jaxseg.ops._folds import jacobians
from jaxseg.ops._sampling_grid import check_coords, check_image, uniform
from jaxseg.ops.color import at_least_float32

TOLERANCE = 0.01
"""Pixels from which on a pixel counts as not found."""
_STRIDES = (16, 4)
_SMALL = 2**13
"""Pixels up to which no coarser lattice is worth its compilation."""
_CHUNK = 2**16
"""Pixels that are searched for together."""
_GIVE_UP = 24
"""Steps of the walk in a grid with folds."""


class InverseSampling(NamedTuple):
    """Where each pixel lies in the grid of nodes."""

    coords: Float[Array, "H W 2"]
    """(row, column) in [0, 1], align-corners: node (i, j) is at (i / (h - 1), j / (w - 1))."""
    residual: Float[Array, "H W"]
    """Distance in pixels from the pixel to what the grid has at these coordinates. No gradient."""

    @property
    def unconverged(self) -> Int32[Array, ""]:
        """How many pixels were not found: their residual is above 0.01 pixel."""
        return jnp.sum(self.residual > TOLERANCE, dtype=jnp.int32)


def invert_sampling(
    coords: Float[Array, "h w 2"],
    output_shape: tuple[int, int],
    *,
    method: Literal["newton", "patches"] = "newton",
) -> InverseSampling:
    """Inverts the piecewise bilinear map from the grid to the image, at every pixel.

    "newton" finds the cell of each pixel by a walk: while the pixel lies beyond a side of the cell,
    go to the neighbour there. In a grid without folds the cells are convex and tile the image, and
    such a walk ends if it chooses at random between two sides (Devillers, Pion and Teillaud, 2002);
    here every other step is such a choice, by a hash, and the others go diagonally. In large
    images it begins on a lattice 16 pixels wide and goes on from there on one of 4 and on all
    pixels, by chunks of rows.
    Within the cell the quadratic of a bilinear patch has a closed form, and two Newton steps
    follow, kept if they are nearer. "patches" holds each pixel against all cells in turn, with
    neither gather nor scatter: for TPUs, and for the few cells of a sampler's own tensor; the work
    is pixels times cells. Nodes that were resized from such a tensor lie on its patches; where the
    sizes do not divide, the finer grid's own cells cut a corner that the patches do not.

    Deviation: Marin et al. (ICCV 2019) rasterise triangles with Bresenham's lines, whose number
    of pixels depends on data; here all shapes are static, and cells are bilinear.

    Gradients with respect to `coords` are those of the implicit function, dU = -J⁻¹ dφ(U); 0 for
    pixels that were not found.

    Args:
        coords: in [0, 1], with the covering constraints; see `project_covering`. Without folds all
            pixels are found, see `make_fold_free`; where there are folds, a pixel may lie in
            several cells, of which one is taken, or be given up: see `residual`.
        output_shape: (H, W) of the image, static, each at least 2.
        method: "newton" or "patches", static.

    Raises:
        ValueError: a side of the grid or of the image is below 2, or `method` is unknown.
    """
    check_coords(coords)
    check_image(output_shape)
    if method not in ("newton", "patches"):
        raise ValueError(f"method={method!r}: expected 'newton' or 'patches'")
    with jax.named_scope("invert_sampling"):
        return InverseSampling(*_invert(at_least_float32(coords), tuple(output_shape), method))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _invert(
    coords: Float[Array, "h w 2"], shape: tuple[int, int], method: str
) -> tuple[Float[Array, "H W 2"], Float[Array, "H W"]]:
    points = coords * _scale(shape, coords.dtype)[None, None]
    grid = points.shape[0] - 1, points.shape[1] - 1
    cells = _cells.table(points)

    def search(lattice: tuple[int, int], guess: Array) -> tuple[Array, Array]:
        """All places of a lattice, by chunks of rows."""
        rows = max(1, min(lattice[0], _CHUNK // lattice[1]))
        chunks = math.ceil(lattice[0] / rows)
        row = jnp.minimum(jnp.arange(chunks * rows, dtype=jnp.int32), lattice[0] - 1)

        def chunk(row: Int32[Array, " rows"]) -> tuple[Array, Array]:
            # Or the compiler works out itself, slowly, whatever depends on the lattice alone.
            row = jax.lax.optimization_barrier(row)
            x = _places(shape, lattice, row, coords.dtype)
            if method == "newton":
                cell = walk(cells, grid, x, _start(guess, grid, row, lattice), steps)
                corner = jnp.take(cells, cell, axis=0, mode="clip")
            else:
                cell, corner = scan(cells, x)
            return _finish(cell, _cells.quads(corner), grid, x)

        found = jax.lax.map(chunk, row.reshape(chunks, rows))
        inverse, residual = (x.reshape(chunks * rows, *x.shape[2:])[: lattice[0]] for x in found)
        return inverse, residual

    guess = uniform((2, 2), points.dtype)
    if method == "newton":
        # Where cells overlap a walk may go round for ever.
        overlap = jnp.any(jacobians(points) < 0)
        steps = jnp.where(overlap, _GIVE_UP, 2 * sum(grid) + 32).astype(jnp.int32)
        for stride in _STRIDES if shape[0] * shape[1] > _SMALL else ():
            lattice = tuple(max(math.ceil((n - 1) / stride) + 1, 2) for n in shape)
            guess, _ = search((lattice[0], lattice[1]), guess)
    return search(shape, guess)


@_invert.defjvp
def _invert_jvp(
    shape: tuple[int, int], method: str, primals: tuple[Array], tangents: tuple[Array]
) -> tuple:
    (coords,), (change,) = primals, tangents
    inverse, residual = _invert(coords, shape, method)
    grid = coords.shape[0] - 1, coords.shape[1] - 1
    scale = _scale(shape, coords.dtype)[None, None]
    cell, part = split(inverse, grid)
    place = Vector(part[..., 0], part[..., 1])
    quad, change_of_quad = (
        _cells.quads(jnp.take(_cells.table(x * scale), cell, axis=0, mode="clip"))
        for x in (coords, change)
    )
    solved = _cells.newton(quad, place, _cells.at(change_of_quad, place))
    moved = jnp.stack([-solved.row / grid[0], -solved.col / grid[1]], axis=-1)
    moved = jnp.where((residual <= TOLERANCE)[..., None], moved, jnp.zeros((), coords.dtype))
    return (inverse, residual), (moved, jnp.zeros_like(residual))


def split(
    inverse: Float[Array, "H W 2"], grid: tuple[int, int]
) -> tuple[Int32[Array, "H W"], Float[Array, "H W 2"]]:
    """The cell, row · columns + column, and the parameters within it."""
    cells = jnp.asarray(grid, inverse.dtype)[None, None]
    position = inverse * cells
    corner = jnp.clip(jnp.floor(position), 0, cells - 1)
    index = corner.astype(jnp.int32)
    return index[..., 0] * grid[1] + index[..., 1], position - corner


def _scale(shape: tuple[int, int], dtype: np.dtype) -> Float[Array, "2"]:
    return jnp.asarray([shape[0] - 1, shape[1] - 1], dtype)


def _places(
    shape: tuple[int, int], lattice: tuple[int, int], row: Int32[Array, " h"], dtype: np.dtype
) -> Vector:
    """Some rows of a lattice of even places over the image, from corner to corner, in pixels."""
    down, across = (
        jnp.asarray(np.linspace(0, n - 1, m), dtype) for n, m in zip(shape, lattice, strict=True)
    )
    each = (len(row), lattice[1])
    return Vector(jnp.broadcast_to(down[row][:, None], each), jnp.broadcast_to(across[None], each))


def _start(
    guess: Float[Array, "rows cols 2"],
    grid: tuple[int, int],
    row: Int32[Array, " h"],
    lattice: tuple[int, int],
) -> Int32[Array, "h w"]:
    """The cells to begin with in some rows of a lattice: between those of a coarser one."""
    for axis, n in enumerate(lattice):
        m = guess.shape[axis]
        place = np.linspace(0, m - 1, n)
        low = jnp.asarray(np.minimum(place.astype(np.int32), m - 2))
        part = jnp.asarray(place, guess.dtype) - low.astype(guess.dtype)
        if axis == 0:
            low, part = low[row], part[row]
        part = jnp.expand_dims(part, (1, 2) if axis == 0 else (0, 2))
        before, after = (jnp.take(guess, low + k, axis=axis, mode="clip") for k in (0, 1))
        guess = before + part * (after - before)
    return split(guess, grid)[0]


def _finish(
    cell: Int32[Array, "h w"], quad: _cells.Quads, grid: tuple[int, int], x: Vector
) -> tuple[Float[Array, "h w 2"], Float[Array, "h w"]]:
    """Coordinates in [0, 1] and the residual of what they were rounded to."""
    part = _cells.locate(quad, x)
    row, col = ((cell // grid[1]).astype(part.row.dtype), (cell % grid[1]).astype(part.col.dtype))
    inverse = Vector((row + part.row) / grid[0], (col + part.col) / grid[1])
    rounded = Vector(inverse.row * grid[0] - row, inverse.col * grid[1] - col)
    missed = _cells.at(quad, rounded) - x
    return jnp.stack([inverse.row, inverse.col], axis=-1), jnp.sqrt(missed.dot(missed))
