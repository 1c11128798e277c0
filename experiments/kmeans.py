"""k-means on the host: k-means++, Lloyd's iterations, the best of several starts.

Rows are read in blocks that stay in the processor's cache. Products are float32, of rows about
their mean; sums over blocks are float64.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

BLOCK = 2**18
"""Numbers in a block, about."""


class Clusters(NamedTuple):
    """A partition of rows."""

    centers: np.ndarray
    """float32 `[K, D]`."""
    labels: np.ndarray
    """int32 `[N]`: the nearest center of each row."""
    inertia: float
    """The sum over rows of the squared distance to it."""
    iterations: int
    """How often the centers were moved."""


def kmeans(
    x: np.ndarray,
    clusters: int,
    *,
    starts: int = 10,
    seed: int = 0,
    iterations: int = 300,
    tolerance: float = 0.0,
) -> Clusters:
    """The partition of least inertia among several starts, each by `plus_plus` and `lloyd`.

    Args:
        x: `[N, D]`, read as float32; of pixels, colours and places scaled as they are to count.
        clusters: K, at most N.
        starts: how many.
        seed: of the draws. More starts begin with those of fewer.
        iterations: at most, of a start.
        tolerance: see `lloyd`.

    Raises:
        ValueError: an argument is out of range.
    """
    x = np.asarray(x, np.float32)
    if x.ndim != 2 or not 1 <= clusters <= len(x):
        raise ValueError(f"{clusters} clusters of {x.shape}: expected 1 to N clusters of [N, D]")
    if starts < 1:
        raise ValueError(f"starts={starts}: expected 1 or more")
    rng = np.random.default_rng(seed)
    found = (
        lloyd(x, plus_plus(rng, x, clusters), iterations=iterations, tolerance=tolerance)
        for _ in range(starts)
    )
    return min(found, key=lambda one: one.inertia)


def plus_plus(rng: np.random.Generator, x: np.ndarray, clusters: int) -> np.ndarray:
    """Rows to begin with, `[K, D]` (Arthur and Vassilvitskii, SODA 2007).

    Each is drawn with a chance in proportion to its squared distance from the nearest before it;
    where all distances are 0, evenly.
    """
    centers = [x[rng.integers(len(x))]]
    nearest = np.full(len(x), np.inf)
    while len(centers) < clusters:
        for part in _blocks(*x.shape):
            # Of differences: equal rows are at a distance of exactly 0.
            apart = x[part] - centers[-1][None]
            squares = np.einsum("nd,nd->n", apart, apart)
            nearest[part] = np.minimum(nearest[part], squares)
        total = np.cumsum(nearest)
        if total[-1] > 0:
            # The first row whose sum is above the draw: never one that adds 0.
            place = np.searchsorted(total, rng.random() * total[-1], side="right")
        else:
            place = rng.integers(len(x))
        centers.append(x[place])
    return np.stack(centers)


def lloyd(
    x: np.ndarray, centers: np.ndarray, *, iterations: int = 300, tolerance: float = 0.0
) -> Clusters:
    """Moves centers to the means of their rows until no row changes its center.

    A center without rows stays where it is.

    Args:
        x: float32 `[N, D]`.
        centers: `[K, D]`, where they begin.
        iterations: after so many it stops in any case.
        tolerance: it stops too when the inertia fell by no more than this part of itself.
    """
    mean = x.mean(axis=0, dtype=np.float64)
    offset = mean.astype(np.float32)[None]
    moved = centers.astype(np.float64) - mean
    labels, inertia, done = np.zeros(0, np.int32), np.inf, 0
    while True:
        new, new_inertia, sums, counts = _assign(x, offset, moved.astype(np.float32))
        same = np.array_equal(new, labels) or inertia - new_inertia <= tolerance * new_inertia
        labels, inertia = new, new_inertia
        if same or done == iterations:
            break
        means = sums / np.maximum(counts, 1)[:, None]
        moved = np.where(counts[:, None] > 0, means, moved)
        done += 1
    return Clusters((moved + mean).astype(np.float32), labels, float(inertia), done)


def _assign(
    x: np.ndarray, offset: np.ndarray, centers: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
    """Labels, inertia, and of each center the sum and number of its rows about the offset."""
    labels = np.empty(len(x), np.int32)
    sums = np.zeros(centers.shape, np.float64)
    inertia = 0.0
    norms = np.einsum("kd,kd->k", centers, centers)
    numbers = np.arange(len(centers))
    for part in _blocks(len(x), max(centers.shape)):
        block = x[part] - offset
        # |x - c|² without |x|², which all centers share.
        rest = norms[None] - 2 * (block @ centers.T)
        own = rest.argmin(axis=1)
        labels[part] = own
        squares = np.einsum("nd,nd->n", block, block) + rest[np.arange(len(own)), own]
        inertia += float(np.maximum(squares, 0).sum(dtype=np.float64))
        sums += (own[None] == numbers[:, None]).astype(np.float32) @ block
    return labels, inertia, sums, np.bincount(labels, minlength=len(centers))


def _blocks(rows: int, width: int) -> Iterator[slice]:
    step = max(1, BLOCK // width)
    return (slice(i, i + step) for i in range(0, rows, step))
