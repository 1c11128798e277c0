"""RoIAlign (He et al., ICCV 2017): what a pyramid of features holds inside of boxes.

Each box is cut into bins, and each bin has `sampling_ratio²` samples, bilinear between the values
around them, whose mean it is. Both the mean and the interpolation separate into rows and columns,
so that along an axis a bin takes 2 · sampling_ratio values with a weight each (`_taps`). Two
implementations take the same values:

- "gather" fetches them from all levels at once: what it costs depends on the boxes alone.
- "separable" multiplies every level by the weights of rows and then of columns. That is far more
  arithmetic, but nothing else: no scattered reads, and no scattered additions in its gradient, on
  which a TPU would wait.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Int32

from jaxseg.ops.boxes import box_area
from jaxseg.ops.color import at_least_float32

_HIGHEST = jax.lax.Precision.HIGHEST


def box_levels(
    boxes: Float[Array, "n 4"],
    *,
    strides: tuple[int, ...],
    canonical_size: float = 224.0,
    canonical_level: int = 4,
) -> Int32[Array, " n"]:
    """Chooses the level of the pyramid for each box: k = ⌊k₀ + log₂(√area / 224)⌋.

    Equation 1 of Lin et al., CVPR 2017; a level of 2^k pixels per cell has the number k. It is
    clipped to the levels there are.

    Args:
        boxes: `[y0, x0, y1, x1]` in pixels.
        strides: pixels per cell of each level: a power of 2, and each twice the one before.
        canonical_size: side in pixels of the square
        canonical_level: that belongs to this k.

    Returns:
        Places in `strides`.

    Raises:
        ValueError: other strides.
    """
    first = round(math.log2(strides[0])) if strides and strides[0] > 0 else 0
    if not strides or list(strides) != [2 ** (first + i) for i in range(len(strides))]:
        raise ValueError(
            f"strides={strides}: expected powers of 2, each twice the one before; for others give "
            "the levels"
        )
    # Counted, not by a logarithm: that may round an integer down.
    above = [2.0 ** (first + i - canonical_level) for i in range(1, len(strides))]
    least = jnp.square(canonical_size * jnp.asarray(above, jnp.float32))
    areas = box_area(jax.lax.stop_gradient(boxes))
    return jnp.sum(areas[:, None] >= least.astype(areas.dtype)[None], axis=1, dtype=jnp.int32)


def roi_align(
    pyramid: Sequence[Float[Array, "_ _ c"]] | Float[Array, "_ _ c"],
    boxes: Float[Array, "n 4"],
    *,
    output_size: int,
    strides: tuple[int, ...],
    sampling_ratio: int = 2,
    implementation: Literal["gather", "separable"] = "gather",
    levels: Int[Array, " n"] | None = None,
    chunk_size: int = 64,
) -> Float[Array, "n {output_size} {output_size} c"]:
    """Pools the features inside of each box into a square of bins.

    As torchvision's and detectron2's with `aligned=True`: cell (i, j) has its value at
    `stride · (i + ½, j + ½)`; a sample more than one cell outside of the outermost values is 0, a
    nearer one takes the value at the border; boxes need not be longer than a cell, and a box with
    its ends exchanged gives its bins in the other order. One deviation: the samples of a bin are
    always `sampling_ratio²`, where these two may let the box decide.

    Boxes have a gradient, too; where none is wanted, `stop_gradient` them and it costs nothing.

    Args:
        pyramid: maps `[H_l, W_l, C]`, the finest first; a single map is a pyramid of one level.
        boxes: `[y0, x0, y1, x1]` in pixels of the image, also partly or wholly outside.
        output_size: P, bins along each side.
        strides: pixels of the image per cell of each level.
        sampling_ratio: samples along each side of a bin.
        implementation: one of those above.
        levels: the level that each box is pooled from; by default `box_levels`.
        chunk_size: boxes that are worked on at once: the rest waits, and needs no memory but for
            the result. With "gather", where a gradient is taken, each box of a chunk holds
            4 · (P · sampling_ratio)² · C values; with "separable" P · W · C.

    Returns:
        `[N, P, P, C]` of the pyramid's type; computed in float32 at least.

    Raises:
        ValueError: not as many strides as levels, levels of different types or channels, a size
            or ratio below 1, another implementation, or strides that `box_levels` cannot use.
    """
    maps = (pyramid,) if isinstance(pyramid, jax.Array) else tuple(pyramid)
    if len(maps) != len(strides) or not maps:
        raise ValueError(f"strides={strides}: expected one for each of {len(maps)} levels")
    if len({(level.dtype, level.shape[2]) for level in maps}) > 1:
        kinds = [f"{level.dtype}{list(level.shape)}" for level in maps]
        raise ValueError(f"levels {kinds}: expected one type and one number of channels")
    for name, value in {
        "output_size": output_size,
        "sampling_ratio": sampling_ratio,
        "chunk_size": chunk_size,
    }.items():
        if value < 1:
            raise ValueError(f"{name}={value}: expected 1 or more")
    if implementation not in ("gather", "separable"):
        raise ValueError(f"implementation={implementation!r}: expected 'gather' or 'separable'")
    if levels is None:
        one = len(maps) == 1
        levels = jnp.zeros(len(boxes), jnp.int32) if one else box_levels(boxes, strides=strides)
    pool = _gather if implementation == "gather" else _separable
    taps = functools.partial(_taps, count=output_size, ratio=sampling_ratio)
    dtype = at_least_float32(maps[0]).dtype
    boxes = boxes.astype(jnp.promote_types(dtype, boxes.dtype))
    pooled = _in_chunks(pool(maps, strides, taps, dtype), (boxes, levels), chunk_size)
    return pooled.astype(maps[0].dtype)


def _in_chunks(function: Callable, arrays: tuple[Array, ...], size: int) -> Array:
    """`function` of rows, of `size` of them at a time; its gradient makes each chunk anew."""
    count = len(arrays[0])
    if count <= size:
        return function(*arrays)
    chunks = -(-count // size)
    padded = [
        jnp.pad(x, [(0, chunks * size - count)] + [(0, 0)] * (x.ndim - 1)).reshape(
            chunks, size, *x.shape[1:]
        )
        for x in arrays
    ]
    results = jax.lax.map(lambda rows: jax.checkpoint(function)(*rows), tuple(padded))
    return results.reshape(-1, *results.shape[2:])[:count]


def _taps(
    start: Float[Array, " n"],
    stop: Float[Array, " n"],
    size: Float[Array, " n"],
    *,
    count: int,
    ratio: int,
) -> tuple[Int32[Array, "n {count} 2*{ratio}"], Float[Array, "n {count} 2*{ratio}"]]:
    """Where the values stand that each bin takes along one axis, and their weights.

    Args:
        start: of the boxes, in cells of their level.
        stop: their ends.
        size: cells of the level.
        count: bins.
        ratio: samples of a bin.
    """
    at = jnp.asarray((np.arange(count * ratio) + 0.5) / (count * ratio), start.dtype)
    place = start[:, None] + (stop - start)[:, None] * at[None] - 0.5
    inside = (place >= -1) & (place <= size[:, None])
    place = jnp.clip(place, 0, size[:, None] - 1)
    low = jnp.floor(jax.lax.stop_gradient(place))
    part = place - low
    weights = jnp.where(inside[..., None], jnp.stack([1 - part, part], axis=-1) / ratio, 0)
    places = jnp.stack([low, jnp.minimum(low + 1, size[:, None] - 1)], axis=-1)
    shape = (len(start), count, 2 * ratio)
    return places.astype(jnp.int32).reshape(shape), weights.reshape(shape)


def _separable(
    maps: tuple[Array, ...], strides: tuple[int, ...], taps: Callable, dtype: jnp.dtype
) -> Callable:
    # Half precision stays so in the product that counts; its sums never do.
    product = functools.partial(jnp.einsum, precision=_HIGHEST, preferred_element_type=dtype)

    def pool(boxes: Array, levels: Array) -> Array:
        pooled = jnp.zeros((), dtype)
        for number, (values, stride) in enumerate(zip(maps, strides, strict=True)):
            cells = boxes / stride
            matrices = []
            for axis in (0, 1):
                size = jnp.full(len(boxes), values.shape[axis], boxes.dtype)
                places, weights = taps(cells[:, axis], cells[:, axis + 2], size)
                index = jnp.arange(values.shape[axis], dtype=jnp.int32)[None, None, None]
                each = jnp.where(places[..., None] == index, weights[..., None], 0)
                matrices.append(jnp.sum(each, axis=2))
            rows = jnp.where((levels == number)[:, None, None], matrices[0], 0)
            along = product("npy,yxc->npxc", rows.astype(values.dtype), values)
            pooled = pooled + product("npxc,nqx->npqc", along, matrices[1].astype(dtype))
        return pooled

    return pool


def _gather(
    maps: tuple[Array, ...], strides: tuple[int, ...], taps: Callable, dtype: jnp.dtype
) -> Callable:
    values = jnp.concatenate([level.reshape(-1, level.shape[2]) for level in maps])
    areas = [level.shape[0] * level.shape[1] for level in maps]
    first = np.cumsum([0, *areas[:-1]])

    def pool(boxes: Array, levels: Array) -> Array:
        def of_level(numbers: Sequence[int] | np.ndarray, kind: DTypeLike = boxes.dtype) -> Array:
            return jnp.asarray(numbers, kind)[levels]

        cells = boxes / of_level(strides)[:, None]
        heights, widths = ([level.shape[axis] for level in maps] for axis in (0, 1))
        rows, row_weights = taps(cells[:, 0], cells[:, 2], of_level(heights))
        cols, col_weights = taps(cells[:, 1], cells[:, 3], of_level(widths))
        start, step = (of_level(x, jnp.int32)[:, None, None] for x in (first, widths))
        weights = row_weights.astype(dtype), col_weights.astype(dtype)
        return _weighted(values, start + rows * step, cols, *weights)

    return pool


def _fetch(values: Array, places: Array, dtype: jnp.dtype) -> Array:
    # A box that is not finite may ask for any place.
    found = values.at[places].get(mode="clip", wrap_negative_indices=False)
    return found.astype(dtype)


@jax.custom_jvp
def _weighted(
    values: Float[Array, "v c"],
    rows: Int32[Array, "n p t"],
    cols: Int32[Array, "n q t"],
    row_weights: Float[Array, "n p t"],
    col_weights: Float[Array, "n q t"],
) -> Float[Array, "n p q c"]:
    """Σ_ab row_weights_a · col_weights_b · values[rows_a + cols_b].

    Written out, the sum is one loop for the compiler, which holds none of the values it fetches.
    """
    total = jnp.zeros((), row_weights.dtype)
    for a, b in itertools.product(range(rows.shape[2]), range(cols.shape[2])):
        places = rows[:, :, None, a] + cols[:, None, :, b]
        weight = row_weights[:, :, None, a] * col_weights[:, None, :, b]
        total = total + _fetch(values, places, weight.dtype) * weight[..., None]
    return total


def _weighted_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """All values at once: transposed, that is one scattered sum instead of one for each tap."""
    values, rows, cols, row_weights, col_weights = primals
    places = rows[:, :, :, None, None] + cols[:, None, None]
    dtype = row_weights.dtype
    product = functools.partial(jnp.einsum, "npaqbc,npa,nqb->npqc", precision=_HIGHEST)
    slope = jnp.zeros((*rows.shape[:2], cols.shape[1], values.shape[1]), dtype)
    d_values, d_rows, d_cols = tangents[0], tangents[3], tangents[4]
    known = [not isinstance(x, jax.custom_derivatives.SymbolicZero) for x in tangents]
    if known[0]:
        slope += product(_fetch(d_values, places, dtype), row_weights, col_weights)
    if known[3] or known[4]:
        fetched = _fetch(values, places, dtype)
        if known[3]:
            slope += product(fetched, d_rows, col_weights)
        if known[4]:
            slope += product(fetched, row_weights, d_cols)
    return _weighted(*primals), slope


_weighted.defjvp(_weighted_jvp, symbolic_zeros=True)
