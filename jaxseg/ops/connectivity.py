"""Connected regions: the rule that ends every superpixel method, exact counts, components.

`connected_components` is compiled; the other functions run on the host and use scikit-image.
"""

import heapq

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Int32, Num

from jaxseg.ops.regions import region_adjacency, region_means
from jaxseg.types import InputError


def official_sizes(shape: tuple[int, int], num_superpixels: int) -> tuple[int, int]:
    """Gives the sizes with which SSN calls `enforce_connectivity` (host).

    Args:
        shape: height and width of the image.
        num_superpixels: the number asked for (not the number of grid cells), 1..H·W.

    Returns:
        `(min_size, max_size)`: 0.06 and 3 times the mean area H·W / K, rounded down
        (`compute_ssn_spixels.py` of Jampani et al., ECCV 2018).

    Raises:
        InputError: `num_superpixels` is less than 1 or more than the pixels.
    """
    pixels = shape[0] * shape[1]
    _check_count(num_superpixels, pixels)
    mean = pixels / num_superpixels
    return int(0.06 * mean), int(3.0 * mean)


def enforce_connectivity(
    labels: Int[np.ndarray, "h w"],
    *,
    min_size: int,
    max_size: int,
    exact: bool = False,
    num_regions: int | None = None,
    features: Num[np.ndarray, "h w c"] | None = None,
) -> Int32[np.ndarray, "h w"]:
    """Makes every region 4-connected and of reasonable size (host).

    Pixels are visited row by row; from each one not yet reached a breadth-first search collects
    the connected pixels of its label. It stops at `max_size` pixels, and what is left becomes
    another region. Fewer than `min_size` pixels go to the region that the search met last.
    This is the post-processing of SLIC and SSN, computed by the private routine behind
    `skimage.segmentation.slic` (`_slic._enforce_label_connectivity_cython`, as of scikit-image
    0.26); what is relied on: volumes `[1, H, W]` of intp, `start_label=0`.

    Args:
        labels: region ids, 0 or more.
        min_size: pixels of the smallest region that stays, 0 or more; see `official_sizes`.
        max_size: pixels of the largest, at least `min_size` and 1.
        exact: whether to go on with `set_region_count`, which ends with exactly `num_regions`;
            the sizes then bound only the regions before it.
        num_regions: for `exact`, 1..H·W.
        features: for `exact`, what makes regions alike; Lab colours, say.

    Returns:
        Regions 0, 1, ... in the order of their first pixels.

    Raises:
        ValueError: a negative label, contradictory sizes, `exact` without its two companions or
            these without it.
        InputError: `num_regions` is out of range.
    """
    from skimage.segmentation._slic import _enforce_label_connectivity_cython

    _check_labels(labels)
    if not 0 <= min_size <= max_size or max_size < 1:
        raise ValueError(
            f"min_size={min_size}, max_size={max_size}: expected 0 <= min_size <= max_size and "
            "max_size >= 1"
        )
    # The routine allocates max_size coordinates; more than all pixels changes nothing.
    sizes = min(min_size, labels.size), min(max_size, labels.size)
    volume = np.ascontiguousarray(labels[None], dtype=np.intp)
    regions = np.asarray(_enforce_label_connectivity_cython(volume, *sizes, start_label=0))[0]
    if not exact:
        if num_regions is not None or features is not None:
            raise ValueError("num_regions and features are used with exact=True alone")
        return regions.astype(np.int32)
    if num_regions is None or features is None:
        raise ValueError("exact=True needs num_regions= and features=")
    return set_region_count(regions, num_regions, features)


def set_region_count(
    labels: Int[np.ndarray, "h w"], num_regions: int, features: Num[np.ndarray, "h w c"]
) -> Int32[np.ndarray, "h w"]:
    """Merges or splits regions until there are exactly `num_regions`, each 4-connected (host).

    Regions are first divided into their 4-connected components. While there are too many, the
    two neighbours a, b with the least n_a·n_b / (n_a + n_b) · ||m_a - m_b||² are merged (Ward,
    1963: the least growth of the squared error; n pixels, m mean feature); among equals, the
    smallest. While there are too few, the largest is cut into two connected parts of about equal
    area, by a breadth-first search from one of its ends.

    Args:
        labels: region ids, 0 or more.
        num_regions: 1..H·W.
        features: what makes regions alike, Lab colours say; scaled coordinates among them favour
            compact regions.

    Returns:
        Regions 0..num_regions - 1 in the order of their first pixels.

    Raises:
        InputError: `num_regions` is out of range.
        ValueError: a negative label.
    """
    from skimage.measure import label

    _check_count(num_regions, labels.size)
    _check_labels(labels)
    regions = label(labels, background=-1, connectivity=1).astype(np.int64) - 1
    count = int(regions.max()) + 1
    if count > num_regions:
        regions = _merge(regions, count, num_regions, features)
    elif count < num_regions:
        regions = _split(regions, count, num_regions)
    _, first, index = np.unique(regions, return_index=True, return_inverse=True)
    rank = np.empty(num_regions, np.int32)
    rank[np.argsort(first)] = np.arange(num_regions, dtype=np.int32)
    return rank[index].reshape(labels.shape)


def _merge(regions: np.ndarray, count: int, target: int, features: np.ndarray) -> np.ndarray:
    """Merges neighbours in Ward's order until `target` regions are left."""
    values = np.asarray(features, np.float64)
    # Means of equal colours differ by rounding; they must tie at 0 for the smallest to go first.
    noise = 1e-24 * float(np.sum(values**2))
    means = region_means(values, regions, count)
    areas = np.bincount(regions.ravel(), minlength=count).astype(np.float64)

    def ward(a, b):
        distance = np.sum((means[a] - means[b]) ** 2, axis=-1)
        cost = areas[a] * areas[b] / (areas[a] + areas[b]) * distance
        return np.where(cost <= noise, 0.0, cost).tolist(), (areas[a] + areas[b]).tolist()

    pairs, _ = region_adjacency(regions)
    heap = list(zip(*ward(pairs[:, 0], pairs[:, 1]), *pairs.T.tolist(), strict=True))
    heapq.heapify(heap)
    neighbors: list[set[int]] = [set() for _ in range(count)]
    for a, b in pairs.tolist():
        neighbors[a].add(b)
        neighbors[b].add(a)
    parent = np.arange(count)
    while count > target:
        _, area, a, b = heapq.heappop(heap)
        # Areas only grow, so the sum tells whether either region has changed since or is gone (0).
        if not areas[a] or not areas[b] or areas[a] + areas[b] != area:
            continue
        if len(neighbors[a]) < len(neighbors[b]):
            a, b = b, a
        means[a] += areas[b] / area * (means[b] - means[a])
        areas[a], areas[b], parent[b] = area, 0.0, a
        for other in neighbors[b]:
            neighbors[other].discard(b)
            if other != a:
                neighbors[other].add(a)
                neighbors[a].add(other)
        neighbors[b] = set()
        count -= 1
        if neighbors[a]:
            around = np.fromiter(neighbors[a], np.int64, len(neighbors[a]))
            costs, sums = ward(around, a)
            for cost, total, other in zip(costs, sums, around.tolist(), strict=True):
                heapq.heappush(heap, (cost, total, min(a, other), max(a, other)))
    while not np.array_equal(parent, parent[parent]):
        parent = parent[parent]
    return parent[regions]


def _split(regions: np.ndarray, count: int, target: int) -> np.ndarray:
    """Halves the largest region until there are `target`."""
    flat = regions.flatten()
    areas = np.bincount(flat, minlength=count)
    pixels = np.split(np.argsort(flat, kind="stable"), np.cumsum(areas)[:-1])
    heap = [(-int(area), region) for region, area in enumerate(areas)]
    heapq.heapify(heap)
    while count < target:
        _, region = heapq.heappop(heap)
        kept, cut = _halve(pixels[region], regions.shape[1])
        flat[cut] = count
        pixels[region] = kept
        pixels.append(cut)
        heapq.heappush(heap, (-len(kept), region))
        heapq.heappush(heap, (-len(cut), count))
        count += 1
    return flat.reshape(regions.shape)


def _halve(pixels: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a connected region of two pixels or more, given as ascending flat indices, in two.

    The first part is what a breadth-first search reaches first; what that leaves may be several
    pieces, of which the largest is the second part and the others join the first.
    """
    from scipy.ndimage import label

    rows, cols = pixels // width, pixels % width
    rows, cols = rows - rows[0], cols - cols.min()
    inside = np.pad(np.zeros((rows[-1] + 1, cols.max() + 1), bool), 1)
    inside[rows + 1, cols + 1] = True
    stride = inside.shape[1]
    flat = (rows + 1) * stride + cols + 1
    left = set(flat.tolist())
    start = flat[0] if inside.shape[0] >= inside.shape[1] else flat[np.argmin(cols)]
    order = [int(start)]
    left.remove(order[0])
    for pixel in order:
        for other in (pixel - stride, pixel - 1, pixel + 1, pixel + stride):
            if other in left and len(order) < len(pixels) // 2:
                left.remove(other)
                order.append(other)
        if len(order) == len(pixels) // 2:
            break
    inside.ravel()[order] = False
    pieces, _ = label(inside)
    piece = pieces.ravel()[flat]
    largest = 1 + int(np.argmax(np.bincount(piece)[1:]))
    return pixels[piece != largest], pixels[piece == largest]


def _check_count(count: int, pixels: int) -> None:
    if not 1 <= count <= pixels:
        raise InputError(
            f"{count} regions cannot be made of {pixels} pixels: expected a number from 1 to "
            f"{pixels}"
        )


def _check_labels(labels: np.ndarray) -> None:
    if labels.size and labels.min() < 0:
        raise ValueError(f"label {labels.min()} is negative: expected region ids of 0 or more")


def connected_components(mask: Bool[Array, "h w"], *, connectivity: int = 4) -> Int32[Array, "h w"]:
    """Numbers the connected components of a mask; compiled, equals `scipy.ndimage.label`.

    Every pixel points to a pixel of its component, at first to itself. Each round points it, and
    the pixel that it pointed to, at the least index that its neighbours point to, and then halves
    the ways to the roots (Shiloach and Vishkin, J. Algorithms 1982, with the hooking of Zhang,
    Azad and Hu, SIAM PP 2020). The rounds grow with the logarithm of a component's length: about
    ten for a spiral that fills 512×512.

    Args:
        mask: true in the foreground.
        connectivity: 4 (shared edges) or 8 (corners too); static.

    Returns:
        0 in the background, 1..n in the order of the components' first pixels.

    Raises:
        ValueError: another connectivity.
    """
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity={connectivity}: expected 4 or 8")
    height, width = mask.shape
    size = height * width
    foreground = mask.reshape(size)
    # Index `size` stands for the background and for what lies outside.
    start = jnp.where(foreground, jnp.arange(size, dtype=jnp.int32), size)

    def nearby(pointers):
        grid = jnp.pad(pointers.reshape(mask.shape), 1, constant_values=size)
        rows = jnp.minimum(jnp.minimum(grid[:-2], grid[2:]), grid[1:-1])
        if connectivity == 8:
            least = jnp.minimum(jnp.minimum(rows[:, :-2], rows[:, 2:]), rows[:, 1:-1])
        else:
            middle = grid[1:-1]
            least = jnp.minimum(jnp.minimum(middle[:, :-2], middle[:, 2:]), rows[:, 1:-1])
        return jnp.where(foreground, least.reshape(size), size)

    def jump(pointers):
        return jnp.append(pointers, jnp.int32(size))[pointers]

    def body(state):
        pointers, _ = state
        least = nearby(pointers)
        hooked = pointers.at[pointers].min(least, mode="drop")
        hooked = jump(jump(jnp.minimum(hooked, least)))
        return hooked, jnp.any(hooked != pointers)

    pointers, _ = jax.lax.while_loop(lambda state: state[1], body, (start, jnp.bool_(True)))
    roots = foreground & (pointers == jnp.arange(size, dtype=jnp.int32))
    numbers = jnp.cumsum(roots, dtype=jnp.int32)
    numbered = jnp.where(foreground, numbers[jnp.minimum(pointers, size - 1)], 0)
    return numbered.reshape(mask.shape)
