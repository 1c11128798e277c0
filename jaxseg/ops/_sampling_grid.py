"""What all parts of the warp share: grids of nodes, their checks, the corners of their cells.

Coordinates are (row, column) in [0, 1], align-corners: pixel i of n stands at i / (n - 1), and so
does node i of n of a grid that is uniform.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

Grid = tuple[int, int]


def check_grid(grid: tuple[int, ...]) -> None:
    """Refuses a grid that cannot have a node on each of its four sides."""
    if len(grid) != 2 or min(grid) < 2:
        raise ValueError(f"grid {grid}: expected (rows, columns) of nodes, each at least 2")


def check_coords(coords: Float[Array, "h w 2"]) -> None:
    """Refuses coordinates of a grid that is too small."""
    if min(coords.shape[:2]) < 2:
        raise ValueError(
            f"coordinates of {coords.shape[0]}x{coords.shape[1]} nodes: expected at least 2x2"
        )


def check_image(shape: tuple[int, ...]) -> None:
    """Refuses an image on which [0, 1] means nothing."""
    if len(shape) != 2 or min(shape) < 2:
        raise ValueError(f"an image of {shape} pixels: expected (height, width), each at least 2")


def uniform_sampling(grid: Grid) -> Float32[np.ndarray, "h w 2"]:
    """Gives the coordinates that sample an image evenly (host): (i / (h - 1), j / (w - 1)).

    It depends on nothing that is traced, so compiled code holds it as a constant.

    Args:
        grid: (h, w) nodes, each at least 2.

    Raises:
        ValueError: a side of the grid is below 2.
    """
    check_grid(grid)
    return np.stack(
        np.meshgrid(*(np.linspace(0, 1, n) for n in grid), indexing="ij"), axis=-1
    ).astype(np.float32)


def uniform(grid: Grid, dtype: np.dtype) -> Float[Array, "h w 2"]:
    """The same on the device, in `dtype`."""
    axes = (jnp.asarray(np.linspace(0, 1, n), dtype) for n in grid)
    return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)


def corners(x: Float[Array, "h w c"]) -> tuple[Float[Array, "rows cols c"], ...]:
    """The values at the upper left, upper right, lower left and lower right node of each cell."""
    return x[:-1, :-1], x[:-1, 1:], x[1:, :-1], x[1:, 1:]


def cross(a: Float[Array, "*n 2"], b: Float[Array, "*n 2"]) -> Float[Array, "*n"]:
    """a₀ b₁ - a₁ b₀: positive if a turns into b as the row axis turns into the column axis."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
