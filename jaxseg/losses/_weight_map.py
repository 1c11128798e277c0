"""U-Net's weights of pixels, which make it learn the gaps between touching objects; on the host."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float32, Integer

_REACH = 6.0
"""In σ: beyond, exp(-(d1 + d2)² / 2σ²) < 2e-8 is less than float32 shows next to 1."""


def unet_weight_map(
    labels: Integer[np.ndarray, "h w"] | Bool[np.ndarray, "n h w"],
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    class_weights: tuple[float, float] | None = None,
    everywhere: bool = False,
) -> Float32[np.ndarray, "h w"]:
    """Weighs pixels by class frequency, and more between objects that nearly touch (host).

    w(x) = w_c(x) + w0·exp(-(d1 + d2)² / 2σ²), d1 and d2 the distances to the nearest and the
    second nearest object (Ronneberger et al., MICCAI 2015, eq. 2; there "to the border" of a cell).
    For `pixel_weights` of the losses, with background and object as classes.

    The second term is added to background pixels only, and is 0 with fewer than two objects. It
    needs background between the objects, which the paper inserts by morphology: of two objects
    that share an edge, take away the pixels at it first.

    Distances are Euclidean, between centres of pixels. Each object is measured within 6σ of its
    bounding box, so the time is that of the objects' area, not of their number times the image's;
    what is left out is below 2e-8·w0.

    Args:
        labels: the object at each pixel, 0 for background, less than 0 for ignored; or a mask of
            each object where objects overlap.
        w0: the greatest value of the second term, 0 or more.
        sigma: σ, in pixels, above 0.
        class_weights: w_c of background and of objects, such as weights from the frequencies in the
            whole training set; None: from those in this map, pixels / (2 · pixels of the class),
            1 where one class is alone.
        everywhere: whether to add the second term inside objects too, where d1 is 0.

    Returns:
        The weights; 0 at ignored pixels.

    Raises:
        ValueError: `w0` or `sigma` is out of range.
    """
    if not (w0 >= 0 and sigma > 0):
        raise ValueError(f"w0={w0}, sigma={sigma}: expected w0 >= 0 and sigma > 0")
    masks = labels.dtype == np.bool_
    inside = np.logical_or.reduce(labels, axis=0) if masks else labels > 0
    counts = np.ones_like(inside) if masks else labels >= 0
    background = counts & ~inside
    weights = np.zeros(inside.shape, np.float32)
    for where, weight in zip(
        (background, inside), class_weights or _balance(background, inside), strict=True
    ):
        weights[where] = weight
    first, second = np.full((2, *inside.shape), np.inf, np.float32)
    _two_nearest(_objects(labels), first, second, margin=int(np.ceil(_REACH * sigma)))
    near = counts & np.isfinite(second) & (everywhere | background)
    distance = (first[near] + second[near]) / sigma
    weights[near] += w0 * np.exp(-(distance**2) / 2)
    return weights


def _balance(background: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    a, b = int(background.sum()), int(inside.sum())
    return ((a + b) / (2 * a), (a + b) / (2 * b)) if a and b else (1.0, 1.0)


def _objects(labels: np.ndarray) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """The bounding box of each object, and its mask in there."""
    from scipy.ndimage import find_objects

    if labels.dtype == np.bool_:
        for mask in labels:
            for box in find_objects(mask.astype(np.uint8)):
                yield box, mask[box]
        return
    # Ids may be large and far apart: the boxes are listed up to the greatest.
    ids, dense = np.unique(np.maximum(labels, 0), return_inverse=True)
    dense = dense.reshape(labels.shape) + int(ids[0] > 0)
    for i, box in enumerate(find_objects(dense)):
        yield box, dense[box] == i + 1


def _two_nearest(objects, first: np.ndarray, second: np.ndarray, *, margin: int) -> None:
    """Writes the distances to the nearest and second nearest object within the margin."""
    from scipy.ndimage import distance_transform_edt

    height, width = first.shape
    for (rows, cols), mask in objects:
        top, left = max(rows.start - margin, 0), max(cols.start - margin, 0)
        bottom, right = min(rows.stop + margin, height), min(cols.stop + margin, width)
        around = (rows.start - top, bottom - rows.stop), (cols.start - left, right - cols.stop)
        distance = distance_transform_edt(np.pad(~mask, around, constant_values=True))
        distance = distance.astype(np.float32)
        a, b = first[top:bottom, left:right], second[top:bottom, left:right]
        np.minimum(b, np.maximum(a, distance), out=b)
        np.minimum(a, distance, out=a)
