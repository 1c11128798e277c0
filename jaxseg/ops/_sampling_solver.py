"""Where to sample: the exact minimiser of the energy of Marin et al., and its way to a finer grid.

Source: "Efficient Segmentation: Learning Downsampling Near Semantic Boundaries", ICCV 2019
(arXiv:1907.07156), equations 2 and 3.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxseg.ops._sampling_grid import Grid, check_coords, check_grid, uniform
from jaxseg.ops.boundary import boundary_map, nearest_boundary
from jaxseg.ops.color import at_least_float32

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
_BLOCK = 64
"""Terms that are summed in a row: sums of more lose digits in float32."""


def solve_sampling(
    targets: Float[Array, "h w 2"], *, smoothness: float | Float[Array, ""]
) -> Float[Array, "h w 2"]:
    """Finds the coordinates that are near their targets and whose neighbours are near each other.

    The minimum over φ of Σ |φ_ij - b_ij|² + λ Σ |φ_ij - φ_kl|² (eq. 2), the second sum over the
    edges of the 4-connected grid, each counted once, under the covering constraints (eq. 3): φ⁰ is
    0 in the first row and 1 in the last, φ¹ likewise in the columns; along its side a node is free.
    It is unique, and a convex combination of targets and constraints: in [0, 1] without clipping,
    up to rounding. It tends to the targets for λ → 0 (but for what is constrained) and to the
    uniform grid for λ → ∞.

    φ⁰ minus the uniform rows solves a Poisson equation with fixed values in the rows and free ends
    in the columns, which a sine transform (DST-I) and a cosine transform (DCT-II) diagonalise; φ¹
    the same, transposed. Four products of matrices each; linear in the targets.

    λ belongs to its grid: it smooths over √λ cells, so that λ on n nodes a side acts as
    λ ((m - 1) / (n - 1))² does on m. Published is λ = 1 on 8x8 nodes. From about one cell on
    (λ ≥ 1) grids seldom fold; see `fold_fraction`.

    Args:
        targets: b, in [0, 1]; see `sampling_targets`. Computed in float32, or float64 if given so.
        smoothness: λ, 0 or more.

    Raises:
        ValueError: a side of the grid is below 2, or a Python `smoothness` is negative.
    """
    check_coords(targets)
    _check_smoothness(smoothness)
    targets = at_least_float32(targets)
    smoothness = jnp.asarray(smoothness, targets.dtype)
    with jax.named_scope("solve_sampling"):
        rows = _solve_rows(targets[..., 0], smoothness)
        cols = _solve_rows(targets[..., 1].T, smoothness).T
    return jnp.stack([rows, cols], axis=-1)


def sampling_targets(
    labels: Int[Array, "h w"],
    grid: Grid,
    *,
    smoothness: float | Float[Array, ""] = 1.0,
    target_classes: tuple[int, ...] | None = None,
) -> Float[Array, "rows cols 2"]:
    """The coordinates that a sampler learns to give: near the boundaries of the labels, and smooth.

    `boundary_map`, then `nearest_boundary` at the nodes, then `solve_sampling`. Labels without a
    boundary (one class, none of the target classes, all ignored) give the uniform grid;
    `nearest_boundary` says `found`, for a weight in a loss.

    Args:
        labels: classes; -1 is ignored. At least 2x2.
        grid: (rows, cols) of nodes, static, each at least 2; may be larger than the image.
        smoothness: λ of `solve_sampling`, on this grid.
        target_classes: those whose outlines count, static; all if None.

    Returns:
        Float32, or the type of a traced `smoothness` that is wider.

    Raises:
        ValueError: a side of the grid or of the labels is below 2, a Python `smoothness` is
            negative, or `target_classes` is empty or holds a negative number.
    """
    points, _ = nearest_boundary(boundary_map(labels, target_classes=target_classes), grid)
    if isinstance(smoothness, jax.Array | np.ndarray | np.generic):
        points = points.astype(at_least_float32(jnp.asarray(smoothness)).dtype)
    return solve_sampling(points, smoothness=smoothness)


def resize_sampling(coords: Float[Array, "h w 2"], grid: Grid) -> Float[Array, "rows cols 2"]:
    """Brings coordinates to another number of nodes: bilinear, align-corners.

    The corners stay and so, up to rounding, do the covering constraints; `project_covering` makes
    them exact. More nodes never fold a grid that is not folded, where a cell of the new grid lies
    within one of the old.

    Args:
        coords: in [0, 1].
        grid: (rows, cols) of nodes, static, each at least 2.

    Raises:
        ValueError: a side of either grid is below 2.
    """
    check_coords(coords)
    check_grid(grid)
    coords = at_least_float32(coords)
    down, across = (
        jnp.asarray(_interpolation(n, m), coords.dtype)
        for n, m in zip(coords.shape[:2], grid, strict=True)
    )
    # The first axis of a stack of matrices is not broadcast implicitly.
    planes = jnp.moveaxis(coords, -1, 0)
    return jnp.stack([matmul(matmul(down, plane), across.T) for plane in planes], axis=-1)


def project_covering(coords: Float[Array, "h w 2"]) -> Float[Array, "h w 2"]:
    """The nearest coordinates that cover the image: clipped to [0, 1], the sides on its sides.

    The rows of the first and of the last row of nodes become 0 and 1, and likewise the columns
    (eq. 3); what is overwritten has no gradient.

    Raises:
        ValueError: a side of the grid is below 2.
    """
    check_coords(coords)
    coords = jnp.clip(coords, 0, 1)
    rows = coords[..., 0].at[0].set(0).at[-1].set(1)
    cols = coords[..., 1].at[:, 0].set(0).at[:, -1].set(1)
    return jnp.stack([rows, cols], axis=-1)


def _check_smoothness(smoothness: float | Float[Array, ""]) -> None:
    if isinstance(smoothness, int | float) and not smoothness >= 0:
        raise ValueError(f"smoothness={smoothness}: expected 0 or more")


def _solve_rows(targets: Float[Array, "h w"], smoothness: Float[Array, ""]) -> Float[Array, "h w"]:
    """The coordinate that is 0 in the first and 1 in the last row."""
    height, width = targets.shape
    even = uniform((height, 2), targets.dtype)[:, :1, 0]
    even = jnp.broadcast_to(even, (height, width))
    # Eigenvectors are symmetric or antisymmetric: four problems of half the size, half the work.
    shifts = [
        [_solve_part(part, *row, *col, smoothness) for part, col in zip(parts, cols, strict=True)]
        for parts, row, cols in zip(
            [_fold(half.T) for half in _fold((targets - even)[1:-1])],
            _halves(*_fixed_ends(height)),
            [_halves(*_free_ends(width))] * 2,
            strict=True,
        )
    ]
    shift = _unfold(*(_unfold(*(part.T for part in parts)).T for parts in shifts))
    return even + jnp.pad(shift, ((1, 1), (0, 0)))


def _solve_part(
    targets: Float[Array, "w h"],
    rows: np.ndarray,
    mu: np.ndarray,
    cols: np.ndarray,
    nu: np.ndarray,
    smoothness: Float[Array, ""],
) -> Float[Array, "h w"]:
    """Solves where the columns of `rows` and `cols` diagonalise the second differences."""
    down, across, bent = (
        jnp.asarray(x, targets.dtype) for x in (rows, cols, mu[:, None] + nu[None])
    )
    spectrum = _product(_product(down.T, targets.T), across) / (1 + smoothness * bent)
    return _product(_product(down, spectrum), across.T)


def _fold(x: Float[Array, "n m"]) -> tuple[Float[Array, "a m"], Float[Array, "b m"]]:
    """The symmetric and the antisymmetric part along the first axis, orthonormally."""
    n = x.shape[0]
    first, last = x[: n // 2], x[(n + 1) // 2 :][::-1]
    middle = x[n // 2 : (n + 1) // 2]
    half = jnp.asarray(np.sqrt(0.5), x.dtype)
    return jnp.concatenate([half * (first + last), middle]), half * (first - last)


def _unfold(a: Float[Array, "a m"], b: Float[Array, "b m"]) -> Float[Array, "n m"]:
    """The inverse of `_fold`."""
    half = jnp.asarray(np.sqrt(0.5), a.dtype)
    pairs = a[: b.shape[0]]
    return jnp.concatenate([half * (pairs + b), a[b.shape[0] :], half * (pairs - b)[::-1]])


def _product(a: Float[Array, "n k"], b: Float[Array, "k m"]) -> Float[Array, "n m"]:
    blocks = range(0, a.shape[1], _BLOCK)
    parts = [matmul(a[:, k : k + _BLOCK], b[k : k + _BLOCK]) for k in blocks]
    return functools.reduce(jnp.add, parts) if parts else matmul(a, b)


def _halves(vectors: np.ndarray, values: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Eigenvectors of either parity, folded as their arguments are, with their eigenvalues."""
    n = len(values)
    first, last = vectors[: n // 2], vectors[(n + 1) // 2 :][::-1]
    middle = vectors[n // 2 : (n + 1) // 2]
    even = np.concatenate([np.sqrt(0.5) * (first + last), middle])[:, ::2]
    odd = np.sqrt(0.5) * (first - last)[:, 1::2]
    return [(even, values[::2]), (odd, values[1::2])]


@functools.lru_cache(maxsize=32)
def _fixed_ends(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvectors and -values of the path's second difference between two fixed ends (DST-I)."""
    k = np.arange(1, n - 1)
    # Reduced to one period as integers: n² π would lose digits.
    vectors = np.sqrt(2 / (n - 1)) * np.sin(np.pi * (np.outer(k, k) % (2 * (n - 1))) / (n - 1))
    return vectors, 4 * np.sin(np.pi * k / (2 * (n - 1))) ** 2


@functools.lru_cache(maxsize=32)
def _free_ends(n: int) -> tuple[np.ndarray, np.ndarray]:
    """The same of a path whose ends are free (DCT-II)."""
    k = np.arange(n)
    angle = np.pi * (np.outer(2 * k + 1, k) % (4 * n)) / (2 * n)
    vectors = np.sqrt(np.where(k == 0, 1, 2) / n) * np.cos(angle)
    return vectors, 4 * np.sin(np.pi * k / (2 * n)) ** 2


@functools.lru_cache(maxsize=32)
def _interpolation(n: int, m: int) -> np.ndarray:
    """The matrix `[m, n]` that interpolates n values at m even places, ends included."""
    scaled = np.arange(m) * (n - 1)
    cell = np.minimum(scaled // (m - 1), n - 2)
    part = (scaled - cell * (m - 1)) / (m - 1)
    matrix = np.zeros((m, n))
    matrix[np.arange(m), cell] = 1 - part
    matrix[np.arange(m), cell + 1] = part
    return matrix
