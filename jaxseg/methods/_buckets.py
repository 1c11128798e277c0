"""Images of many sizes in few shapes, for the superpixels of `methods.ssn` (host).

A bucket is one shape of image and one regular grid of cells, large enough for each of its images.
Images are padded at the right and at the bottom; index maps carry the rows and columns of each
image's own cells into the cells of the bucket, and what is left over is masked. So one program
serves the bucket, and an image gets the superpixels that it gets alone.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, Shaped

from jaxseg.ops.slic import grid_shape

PROGRAM = 1 << 20
"""Pixels of `Bucket.work` that cost as much as compiling another program; see `plan_buckets`.

On a CPU a program took 2.5 s of processor time and an image of 321×481 pixels (work 315,777)
0.6 s with the deep network (0.05 s with none: there a program is worth ten times this).
"""
_GROWTH = 4
_MOST_GROUPS = 256


class Bucket(NamedTuple):
    """Images that share a program."""

    shape: tuple[int, int]
    """Height and width of the padded image."""
    grid: tuple[int, int]
    """Rows and columns of cells."""
    cell: tuple[int, int]
    """Height and width of a cell."""
    members: tuple[int, ...]
    """The images, by their places in the list that was planned."""
    padded: bool
    """Whether their sizes differ, so that index maps and masks are needed."""

    @property
    def work(self) -> int:
        """Pixels that the network and the clustering see for each image."""
        return int(_work(np.array([*self.shape, *self.grid, *self.cell])))


def plan_buckets(
    sizes: Sequence[tuple[int, int]], num_superpixels: int, *, max_buckets: int = 4
) -> list[Bucket]:
    """Groups images by size, with as little padding as so few programs allow.

    From one bucket for every size, the two whose union adds the least work are joined until
    `max_buckets` are left, and then as long as a union adds less than `PROGRAM` pixels in all.
    Portrait and landscape come apart by themselves, and one size is never padded.

    The memory of a program grows with its bucket, so that one of more than 4 times the work of the
    largest image is made only where nothing else is left; if it is, the range of aspect ratios is
    cut in `max_buckets` equal parts if that makes less. Then height times width is at most
    r^(1 / (2 max_buckets)) that of the largest image, r being the ratio of the extreme aspect
    ratios: 3.2 for images from 100:1 to 1:100 in 4 buckets.

    Args:
        sizes: height and width of each image.
        num_superpixels: K; every image must bear it, see `ops.slic.grid_shape`.
        max_buckets: 1 or more.

    Raises:
        ValueError: `max_buckets` or K is out of range.
    """
    if max_buckets < 1:
        raise ValueError(f"max_buckets={max_buckets}: expected 1 or more")
    if not sizes:
        return []
    distinct, which = np.unique(np.asarray(sizes, np.int64), axis=0, return_inverse=True)
    which = which.reshape(-1)
    needs = np.array([_needs(int(h), int(w), num_superpixels) for h, w in distinct], np.int64)
    counts = np.bincount(which)
    groups = _join(needs, counts, _coarse(distinct), max_buckets)
    limit = _GROWTH * _work(needs).max()
    if _peak(needs, groups) > limit:
        slices = _by_aspect(distinct, max_buckets)
        if _peak(needs, slices) < _peak(needs, groups):
            groups = slices
    buckets = []
    for group in groups:
        h, w, rows, cols, cell_h, cell_w = needs[group].max(0).tolist()
        members = tuple(np.flatnonzero(np.isin(which, group)).tolist())
        buckets.append(Bucket((h, w), (rows, cols), (cell_h, cell_w), members, len(group) > 1))
    return sorted(buckets, key=lambda bucket: bucket.members)


def bucket_batch(
    bucket: Bucket,
    images: Sequence[Shaped[np.ndarray, "_ _ 3"]],
    num_superpixels: int,
    *,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """The `types.Batch` of some of a bucket's images.

    Args:
        bucket: of `plan_buckets`.
        images: one or more of one type; each of a size that the bucket was planned for.
        num_superpixels: as given to `plan_buckets`.
        batch_size: the last image is repeated, with weight 0, up to this; None: as many as given.

    Returns:
        `image`, `index`, `weight`, `size`, and in a padded bucket the maps `cell_rows`
        `[B, rows, cell height]` and `cell_cols` `[B, cols, cell width]`: the row or column of the
        image in each slot of each cell, -1 where there is none.

    Raises:
        ValueError: an image does not fit.
    """
    total = len(images) if batch_size is None else batch_size
    if not 1 <= len(images) <= total:
        raise ValueError(f"{len(images)} images: expected 1 to {total}")
    chosen = [*images, *[images[-1]] * (total - len(images))]
    sizes = [image.shape[:2] for image in chosen]
    batch: dict[str, Any] = {
        "image": np.zeros((total, *bucket.shape, 3), images[0].dtype),
        "index": np.arange(total, dtype=np.int32),
        "weight": (np.arange(total) < len(images)).astype(np.float32),
        "size": np.array(sizes, np.int32),
    }
    maps = []
    for i, (image, (height, width)) in enumerate(zip(chosen, sizes, strict=True)):
        *_, rows, cols, cell_h, cell_w = needs = _needs(height, width, num_superpixels)
        fits = np.less_equal(needs, (*bucket.shape, *bucket.grid, *bucket.cell)).all()
        if not fits or not (bucket.padded or (height, width) == bucket.shape):
            raise ValueError(f"image of {height}x{width} pixels: does not fit {bucket[:3]}")
        batch["image"][i, :height, :width] = image
        maps.append((_cells(height, rows, cell_h), _cells(width, cols, cell_w)))
    if bucket.padded:
        for axis, name in enumerate(("cell_rows", "cell_cols")):
            shape = bucket.grid[axis], bucket.cell[axis]
            batch[name] = np.stack([_pad(pair[axis], shape) for pair in maps])
    return batch


def _needs(height: int, width: int, num_superpixels: int) -> tuple[int, int, int, int, int, int]:
    """(height, width, rows, cols, and of the largest cell height and width)."""
    rows, cols = grid_shape(height, width, num_superpixels)
    return height, width, rows, cols, -(-height // rows), -(-width // cols)


def _cells(length: int, cells: int, slots: int) -> Int32[np.ndarray, "cells slots"]:
    """The pixels of each cell, where pixel i is of cell floor(i · cells / length)."""
    edges = -(-np.arange(cells + 1, dtype=np.int64) * length // cells)
    pixel = edges[:-1, None] + np.arange(slots)
    return np.where(pixel < edges[1:, None], pixel, -1).astype(np.int32)


def _pad(cells: Int32[np.ndarray, "_ _"], shape: tuple[int, int]) -> Int32[np.ndarray, "_ _"]:
    missing = [(0, whole - part) for whole, part in zip(shape, cells.shape, strict=True)]
    return np.pad(cells, missing, constant_values=-1)


def _work(needs: Int64[np.ndarray, "*n 6"]) -> Any:
    return needs[..., 0] * needs[..., 1] + needs[..., 2:].prod(-1)


def _peak(needs: Int64[np.ndarray, "n 6"], groups: Sequence[np.ndarray]) -> int:
    return max(int(_work(needs[group].max(0))) for group in groups)


def _coarse(sizes: Int64[np.ndarray, "n 2"]) -> list[np.ndarray]:
    """Places of the sizes, those that are nearly equal together: few enough for all pairs."""
    step = 1
    while True:
        keys, which = np.unique(-(-sizes // step), axis=0, return_inverse=True)
        if len(keys) <= _MOST_GROUPS:
            return [np.flatnonzero(which.reshape(-1) == k) for k in range(len(keys))]
        step *= 2


def _join(
    needs: Int64[np.ndarray, "n 6"],
    counts: Int64[np.ndarray, " n"],
    groups: list[np.ndarray],
    most: int,
) -> list[np.ndarray]:
    """Joins groups in pairs, each time the two whose union adds the least work."""
    union = np.array([needs[group].max(0) for group in groups])
    number = np.array([counts[group].sum() for group in groups])
    forbidden = 1e30

    def added(i: int) -> np.ndarray:
        """What joining i with each group would add."""
        together = _work(np.maximum(union[i], union)).astype(np.float64)
        more = together * (number[i] + number) - _work(union) * number - total[i]
        # A bucket too large for the memory is made only where nothing else is left.
        more += np.where(together > limit, forbidden / 2, 0.0)
        more[i] = forbidden
        return more

    limit = _GROWTH * float(_work(needs).max())
    total = _work(union).astype(np.float64) * number
    pairs = np.array([added(i) for i in range(len(groups))])
    while len(groups) > 1:
        i, j = sorted(divmod(int(np.argmin(pairs)), len(groups)))
        if len(groups) <= most and pairs[i, j] >= PROGRAM:
            break
        union[i] = np.maximum(union[i], union[j])
        number[i] += number[j]
        groups[i] = np.concatenate([groups[i], groups.pop(j)])
        union, number = np.delete(union, j, 0), np.delete(number, j)
        total = _work(union).astype(np.float64) * number
        pairs = np.delete(np.delete(pairs, j, 0), j, 1)
        pairs[i] = pairs[:, i] = added(i)
    return groups


def _by_aspect(sizes: Int64[np.ndarray, "n 2"], most: int) -> list[np.ndarray]:
    """Cuts the range of aspect ratios into `most` equal parts, on a logarithmic scale."""
    aspect = np.log(sizes[:, 0] / sizes[:, 1])
    edges = np.linspace(aspect.min(), aspect.max(), most + 1)[1:-1]
    part = np.searchsorted(edges, aspect)
    return [np.flatnonzero(part == p) for p in np.unique(part)]
