"""Facts about the regions of a label map, on the host: areas, centroids, colours, neighbours.

Label maps are `[H, W]` integers; -1 is no region. Coordinates are (row, column) in pixels, the
centre of the top left pixel being (0, 0).
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num


class RegionStatistics(NamedTuple):
    """One row per region, by ascending label."""

    label: Int[np.ndarray, " regions"]
    """The id in the map."""
    area: Int[np.ndarray, " regions"]
    """Pixels."""
    centroid: Float[np.ndarray, "regions 2"]
    """Mean (row, column), float64."""
    bounding_box: Int[np.ndarray, "regions 4"]
    """`[y0, x0, y1, x1]` in pixels; y1 and x1 are one past the last row and column."""
    mean_color: Float[np.ndarray, "regions channels"] | None
    """Mean of the image, in its own units; None without an image."""
    neighbors: list[np.ndarray]
    """Labels of the regions that share a pixel edge (4-neighbours), ascending."""


def region_adjacency(
    labels: Int[np.ndarray, "h w"],
) -> tuple[Int[np.ndarray, "pairs 2"], Int[np.ndarray, " pairs"]]:
    """Finds the pairs of regions that touch (host).

    Args:
        labels: region ids; pixels of -1 touch nothing.

    Returns:
        The pairs of labels that share a pixel edge, the smaller first, in lexicographic order, and
        the number of edges that each pair shares.
    """
    smaller, larger = [], []
    for a, b in ((labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])):
        touch = (a != b) & (a >= 0) & (b >= 0)
        a, b = a[touch].astype(np.int64), b[touch].astype(np.int64)
        smaller.append(np.minimum(a, b))
        larger.append(np.maximum(a, b))
    low, high = np.concatenate(smaller), np.concatenate(larger)
    base = int(labels.max(initial=0)) + 1
    keys, lengths = np.unique(low * base + high, return_counts=True)
    return np.stack([keys // base, keys % base], axis=1), lengths


def region_means(
    values: Num[np.ndarray, "h w c"], index: Int[np.ndarray, "h w"], num_regions: int
) -> Float[np.ndarray, "regions c"]:
    """Averages `values` over regions (host).

    Args:
        values: what to average.
        index: regions 0..num_regions - 1, each with a pixel or more.
        num_regions: how many.

    Returns:
        float64 means.
    """
    flat = index.ravel()
    sums = [np.bincount(flat, values[..., c].ravel(), num_regions) for c in range(values.shape[2])]
    area = np.bincount(flat, minlength=num_regions)
    return np.stack(sums, axis=1) / area[:, None]


def region_statistics(
    labels: Int[np.ndarray, "h w"],
    image: Num[np.ndarray, "h w"] | Num[np.ndarray, "h w c"] | None = None,
) -> RegionStatistics:
    """Measures every region of a map (host).

    Args:
        labels: region ids, not necessarily without gaps or connected; pixels of -1 are left out.
        image: grey or with channels, any units.

    Returns:
        Statistics of each label that occurs.
    """
    rows, cols = np.nonzero(labels >= 0)
    ids, index = np.unique(labels[rows, cols], return_inverse=True)
    count = len(ids)
    area = np.bincount(index, minlength=count)
    points = np.stack([rows, cols], axis=1)
    low = np.full((count, 2), max(labels.shape))
    high = np.zeros((count, 2), low.dtype)
    np.minimum.at(low, index, points)
    np.maximum.at(high, index, points + 1)
    color = None
    if image is not None:
        values = image.reshape(*labels.shape, -1)[rows, cols]
        color = region_means(values[None], index[None], count)
    pairs, _ = region_adjacency(labels)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    neighbors = np.split(both[:, 1], np.searchsorted(both[:, 0], ids[1:])) if count else []
    return RegionStatistics(
        label=ids,
        area=area,
        centroid=region_means(points[None], index[None], count),
        bounding_box=np.concatenate([low, high], axis=1),
        mean_color=color,
        neighbors=neighbors,
    )


def region_records(statistics: RegionStatistics) -> list[dict[str, Any]]:
    """Turns statistics into one dict per region that `json` can write (host).

    The keys are the fields of `RegionStatistics`; `mean_color` is left out where there is none.
    """
    return [
        {
            name: np.asarray(column[row]).tolist()
            for name, column in statistics._asdict().items()
            if column is not None
        }
        for row in range(len(statistics.label))
    ]
