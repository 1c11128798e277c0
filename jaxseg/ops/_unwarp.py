"""Values at the nodes of a sampling grid, brought back to the pixels of the image."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from jaxseg.ops import _cells
from jaxseg.ops._cells import Vector, select
from jaxseg.ops._inverse_warp import invert_sampling, split
from jaxseg.ops._sampling_grid import check_coords, check_image, corners, cross
from jaxseg.ops.color import at_least_float32

_CHUNK = 2**21
"""Values of the output that are computed together: 8 MB."""


def unwarp(
    values: Float[Array, "h w c"],
    coords: Float[Array, "h w 2"],
    output_shape: tuple[int, int],
    *,
    mode: Literal["bilinear", "triangles"] = "bilinear",
    argmax: bool = False,
    inverse: Float[Array, "height width 2"] | None = None,
) -> Float[Array, "height width c"] | Int32[Array, "height width"]:
    """Interpolates at every pixel what is known at the nodes.

    Both modes give each pixel a convex combination of the nodes of its cell and reproduce functions
    that are affine in the position. "bilinear" weighs the four nodes by the pixel's place in the
    cell (`invert_sampling`); "triangles" halves each cell along the diagonal that is Delaunay's
    for its four nodes, in pixels, and weighs the three nodes of a half.

    Deviation: Marin et al. interpolate on the Delaunay triangulation of the nodes. Where all its
    triangles lie within cells, "triangles" is the same; where the grid is stretched, Delaunay's
    joins nodes that are not neighbours. "bilinear" is the default: it has no seams along diagonals
    and nothing to choose. Gradients flow into the values, and into the coordinates through the
    weights.

    Args:
        values: at the nodes; logits, say. Computed in float32, or float64 if given so.
        coords: of the nodes, in [0, 1], as they were sampled; see `invert_sampling` for what they
            must be.
        output_shape: (H, W), static, each at least 2.
        mode: static.
        argmax: give the index of the greatest value instead, the first of equals; only a few
            rows of the interpolated values then exist at a time.
        inverse: `invert_sampling(coords, output_shape).coords`, where many images share one grid;
            computed if None.

    Returns:
        `[H, W, C]`, or int32 `[H, W]` with `argmax`.

    Raises:
        ValueError: a side is below 2, `inverse` is of another shape, or `mode` is unknown.
    """
    check_coords(coords)
    check_image(output_shape)
    if values.shape[:2] != coords.shape[:2]:
        raise ValueError(f"values of shape {values.shape}: expected {coords.shape[:2]} first")
    if mode not in ("bilinear", "triangles"):
        raise ValueError(f"mode={mode!r}: expected 'bilinear' or 'triangles'")
    height, width = output_shape
    if inverse is None:
        inverse = invert_sampling(coords, output_shape).coords
    elif inverse.shape[:2] != (height, width):
        raise ValueError(f"inverse of shape {inverse.shape}: expected {(height, width)} first")
    values, coords = at_least_float32(values), at_least_float32(coords)
    flat = values.reshape(-1, values.shape[-1])
    columns = coords.shape[1]
    rows = _rows_of_chunk(height, width * values.shape[-1])
    chunks = math.ceil(height / rows)
    row = jnp.minimum(jnp.arange(chunks * rows, dtype=jnp.int32), height - 1)
    if mode == "triangles":
        scale = jnp.asarray([height - 1, width - 1], coords.dtype)
        points = coords * scale[None, None]
        halves, table = _delaunay(points), _cells.table(points)
    grid = coords.shape[0] - 1, columns - 1

    # Without this the gradient keeps the four nodes of every pixel: four times the whole output.
    @jax.checkpoint
    def chunk(row: Int32[Array, " rows"], place: Float[Array, "rows w 2"]) -> Array:
        cell, part = split(place, grid)
        if mode == "triangles":
            across = jnp.arange(width, dtype=coords.dtype)
            x = Vector(row.astype(coords.dtype)[:, None], across[None])
            quad = _cells.quads(jnp.take(table, cell, axis=0, mode="clip"))
            weights = _barycentric(quad, halves[cell], x)
        else:
            weights = _bilinear(part)
        node = cell // grid[1] * columns + cell % grid[1]
        offsets = (0, 1, columns, columns + 1)
        parts = [
            weight.astype(values.dtype)[..., None] * jnp.take(flat, node + k, axis=0, mode="clip")
            for weight, k in zip(weights, offsets, strict=True)
        ]
        result = (parts[0] + parts[1]) + (parts[2] + parts[3])
        return jnp.argmax(result, axis=-1).astype(jnp.int32) if argmax else result

    with jax.named_scope("unwarp"):
        places = inverse[row].reshape(chunks, rows, width, 2)
        result = jax.lax.map(lambda xs: chunk(*xs), (row.reshape(chunks, rows), places))
    return result.reshape(chunks * rows, *result.shape[2:])[:height]


def _rows_of_chunk(height: int, row: int) -> int:
    """How many rows to compute together: if possible a divisor of all, so that nothing is cut."""
    most = max(1, min(height, _CHUNK // row))
    even = max(n for n in range(1, most + 1) if height % n == 0)
    return even if even * 4 >= most else most


Weights = tuple[
    Float[Array, "rows w"], Float[Array, "rows w"], Float[Array, "rows w"], Float[Array, "rows w"]
]


def _bilinear(part: Float[Array, "rows w 2"]) -> Weights:
    s, t = part[..., 0], part[..., 1]
    return (1 - s) * (1 - t), (1 - s) * t, s * (1 - t), s * t


def _delaunay(points: Float[Array, "h w 2"]) -> Bool[Array, " cells"]:
    """Whether a cell is halved from its upper left to its lower right node.

    That is Delaunay's choice if the angles at the two other nodes sum to at most half a turn.
    """
    a, b, c, d = corners(jax.lax.stop_gradient(points))
    sine_b, cosine_b = jnp.abs(cross(a - b, d - b)), jnp.sum((a - b) * (d - b), axis=-1)
    sine_c, cosine_c = jnp.abs(cross(a - c, d - c)), jnp.sum((a - c) * (d - c), axis=-1)
    return (sine_b * cosine_c + cosine_b * sine_c >= 0).reshape(-1)


def _barycentric(quad: _cells.Quads, main: Bool[Array, "rows w"], x: Vector) -> Weights:
    """The weights of the corners, one of them 0."""
    first, last = select(main, quad.a, quad.b), select(main, quad.d, quad.c)
    beyond = (last - first).cross(x - first) > 0
    third = select(beyond, select(main, quad.b, quad.d), select(main, quad.c, quad.a))
    area = (third - first).cross(last - first)
    area = jnp.where(area == 0, 1, area)
    w_third = (x - first).cross(last - first) / area
    w_last = (third - first).cross(x - first) / area
    w_first = 1 - w_third - w_last
    zero = jnp.zeros_like(w_first)
    return (
        jnp.where(main, w_first, jnp.where(beyond, zero, w_third)),
        jnp.where(main, jnp.where(beyond, w_third, zero), w_first),
        jnp.where(main, jnp.where(beyond, zero, w_third), w_last),
        jnp.where(main, w_last, jnp.where(beyond, w_third, zero)),
    )
